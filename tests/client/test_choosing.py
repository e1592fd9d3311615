"""Reads people ask for, by the asyncio client: limits, bounds, backwards, by key and header, local."""

from datetime import UTC, datetime, timedelta

from loghouse.api.v1.log_pb2 import Header, Record
from loghouse.client.choice import choice_of
from loghouse.errors import (
    DeadlineError,
    InvalidRequestError,
    NotSupportedError,
    OffsetOutOfRangeError,
    UnavailableError,
)
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import FIRST_TIMESTAMP
from tests.fakes.tasks import asynchronous

COUNT = 12


class ChoosingCase(FakeCase):
    """Three nodes with twelve records in batches of three, every other one with a key."""

    async def filled(self, **options):
        cluster, log = await self.connected(**options)
        self.fill(cluster)
        return cluster, log

    def fill(self, cluster, count=COUNT):
        for first in range(0, count, 3):
            cluster.add_records(*map(self.record, range(first, first + 3)))

    def record(self, number):
        headers = [Header(key="n", value=b"%d" % number)] if number % 3 == 0 else []
        return Record(value=b"%d" % number, key=b"odd" if number % 2 else None, headers=headers)

    async def offsets(self, log, *from_, **options):
        """The offsets of what is read, also batch by batch."""
        found = [record async for record in log.read(*from_, **options)]
        for record in found:
            self.assertEqual(record.value, b"%d" % record.offset)
            self.assertEqual(record.key, b"odd" if record.offset % 2 else None)
        batches = [[one.offset for one in batch] async for batch in log.read_batches(*from_, **options)]
        offsets = [record.offset for record in found]
        again = [one for batch in batches for one in (batch[::-1] if options.get("reverse") else batch)]
        self.assertEqual(again, offsets)
        return offsets


class ReadTests(ChoosingCase):
    """Each option, alone and with others."""

    @asynchronous
    async def test_plain(self):
        """Limits and bounds of all records."""
        _, log = await self.filled()
        for from_, options, found in (
            ("earliest", {"limit": 4}, range(4)),
            (5, {"limit": 2}, range(5, 7)),
            (5, {"limit": 99}, range(5, 12)),
            (5, {"until": 8}, range(5, 8)),
            (5, {"until": 8, "limit": 2}, range(5, 7)),
            (5, {"until": 5}, ()),
            (5, {"until": 2}, ()),
            (5, {"until": 99}, range(5, 12)),
            ("latest", {"limit": 1}, ()),
        ):
            self.assertEqual(await self.offsets(log, from_, **options), [*found], (from_, options))

    @asynchronous
    async def test_reverse(self):
        """The same records, the last one first; a limit counts from there."""
        _, log = await self.filled()
        for from_, options, found in (
            ("earliest", {}, range(12)),
            ("earliest", {"limit": 4}, range(8, 12)),
            (5, {}, range(5, 12)),
            (5, {"until": 8}, range(5, 8)),
            (0, {"until": 8, "limit": 2}, range(6, 8)),
            (5, {"until": 2}, ()),
            (5, {"until": 99}, range(5, 12)),
            ("latest", {}, ()),
        ):
            offsets = await self.offsets(log, from_, reverse=True, **options)
            self.assertEqual(offsets, [*found][::-1], (from_, options))
        with self.assertRaises(OffsetOutOfRangeError):
            await self.offsets(log, 13, reverse=True)

    @asynchronous
    async def test_filters(self):
        """By key, by its beginning, by headers, either way, with bounds and limits."""
        _, log = await self.filled()
        odd = [1, 3, 5, 7, 9, 11]
        for options, found in (
            ({"key": b"odd"}, odd),
            ({"key": [b"no", bytearray(b"odd")]}, odd),
            ({"key": b"no"}, []),
            ({"key_prefix": b"o"}, odd),
            ({"key_prefix": b""}, odd),
            ({"headers": {"n": b"6"}}, [6]),
            ({"headers": [("n", b"9")], "key": b"odd"}, [9]),
            ({"headers": [("n", b"6")], "key": b"odd"}, []),
            ({"key": b"odd", "limit": 2}, [1, 3]),
            ({"key": b"odd", "until": 4}, [1, 3]),
        ):
            self.assertEqual(await self.offsets(log, **options), found, options)
            backwards = await self.offsets(log, reverse=True, **options)
            expected = odd[:3:-1] if "limit" in options else found[::-1]
            self.assertEqual(backwards, expected, options)
        self.assertEqual(await self.offsets(log, 4, key=b"odd"), odd[2:])

    @asynchronous
    async def test_times(self):
        """Moments are bounds, too: what was appended then or later, up to what was before."""
        _, log = await self.filled()
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=FIRST_TIMESTAMP + 2)
        for options, found in (
            ({"until": moment}, range(6)),
            ({"until": moment, "limit": 2}, range(2)),
            ({"until": moment, "key": b"odd"}, (1, 3, 5)),
        ):
            self.assertEqual(await self.offsets(log, **options), [*found])
        self.assertEqual(await self.offsets(log, until=moment, reverse=True, limit=2), [5, 4])
        self.assertEqual(await self.offsets(log, moment, reverse=True, limit=2), [11, 10])
        self.assertEqual(await self.offsets(log, moment, key=b"odd"), [7, 9, 11])

    @asynchronous
    async def test_newest(self):
        """The last ones in the order of the log, fewer when there are no more."""
        cluster, log = await self.filled()
        self.assertEqual([record.offset for record in await log.newest(4)], [8, 9, 10, 11])
        self.assertEqual([record.offset for record in await log.newest(2, key=b"odd")], [9, 11])
        self.assertEqual(len(await log.newest(99)), COUNT)
        cluster.forget(6)
        self.assertEqual([record.offset for record in await log.newest(99, key=b"odd")], [7, 9, 11])
        self.assertEqual([record.offset for record in await log.newest(99)], [*range(6, 12)])

    @asynchronous
    async def test_empty(self):
        """An empty log has none, whatever is asked for."""
        _, log = await self.connected()
        self.assertEqual(await log.newest(3), [])
        for options in ({}, {"reverse": True}, {"key": b"k"}, {"consistency": "local"}, {"limit": 1}):
            self.assertEqual([record async for record in log.read(**options)], [], options)

    @asynchronous
    async def test_follow(self):
        """What is followed by key ends behind so many, and comes as it is appended."""
        cluster, log = await self.filled()
        found = []
        async for record in log.read(follow=True, key=b"odd", limit=8):
            found.append(record.offset)
            if record.offset == 11:
                self.fill_more(cluster)
        self.assertEqual(found, [1, 3, 5, 7, 9, 11, 13, 15])
        self.assertEqual(
            [record.offset async for record in log.read(10, follow=True, until=14, key=b"odd")], [11, 13]
        )
        self.assertEqual([record.offset async for record in log.read(10, follow=True, limit=3)], [10, 11, 12])

    def fill_more(self, cluster):
        for first in (12, 15):
            cluster.add_records(*map(self.record, range(first, first + 3)))

    @asynchronous
    async def test_trimmed(self):
        """What is trimmed is an error, either way; nothing is skipped in silence."""
        cluster, log = await self.filled()
        cluster.forget(6)
        for options in ({}, {"reverse": True}, {"key": b"odd"}, {"key": b"odd", "reverse": True}):
            with self.assertRaises(OffsetOutOfRangeError):
                await self.offsets(log, 2, **options)
        self.assertEqual(await self.offsets(log, reverse=True), [*range(11, 5, -1)])
        self.assertEqual(await self.offsets(log, key=b"odd"), [7, 9, 11])

    @asynchronous
    async def test_refused(self):
        """What cannot be meant is named, before anybody is asked."""
        for options, field in (
            ({"limit": 0}, "limit"),
            ({"limit": True}, "limit"),
            ({"until": -1}, "until"),
            ({"until": "noon"}, "until"),
            ({"until": datetime(2026, 1, 1)}, "until"),
            ({"until": datetime(2026, 1, 1, tzinfo=UTC), "follow": True}, "until"),
            ({"reverse": 1}, "reverse"),
            ({"reverse": True, "follow": True}, "follow"),
            ({"key": "text"}, "key"),
            ({"key": []}, "key"),
            ({"key": [b"a", "b"]}, "key"),
            ({"key_prefix": 7}, "key_prefix"),
            ({"headers": [("a", "b")]}, "headers"),
            ({"key": [b"k"] * 17}, "filter"),
            ({"consistency": "eventual"}, "consistency"),
            ({"consistency": None}, "consistency"),
            ({"timeout_seconds": 0}, "timeout_seconds"),
        ):
            error = self.assertRaises(InvalidRequestError, choice_of, **options)
            self.assertEqual(error.field, field, options)
        self.assertRaises(TypeError, choice_of, limits=3)


class PageTests(ChoosingCase):
    """One answer at a time, for those who keep their place themselves."""

    @asynchronous
    async def test_pages(self):
        """A page says where to go on, and what the replica that answered knows."""
        cluster, log = await self.filled()
        cluster.forget(3)
        page = await log.read_page(4, limit=3)
        self.assertEqual([record.offset for record in page.records], [4, 5, 6])
        self.assertEqual((page.next_offset, page.bounds, page.is_confirmed), (7, (3, 12), False))
        page = await log.read_page(reverse=True, limit=2, key=b"odd")
        self.assertEqual([record.offset for record in page.records], [11, 9])
        self.assertEqual((page.next_offset, page.is_confirmed), (9, True))
        page = await log.read_page(3, reverse=True, until=9, limit=2, key=b"odd")
        self.assertEqual(([record.offset for record in page.records], page.next_offset), ([7, 5], 5))
        for from_ in (12, "latest"):
            page = await log.read_page(from_)
            self.assertEqual((page.records, page.next_offset, page.is_confirmed), ([], 12, True))
        self.assertEqual((await log.read_page(12, until=99)).next_offset, 12)
        page = await log.read_page(key=b"no")
        self.assertEqual((page.batches, page.next_offset), ([], 12))
        with self.assertRaises(InvalidRequestError):
            await log.read_page(follow=True)


class LocalTests(ChoosingCase):
    """Without a majority: what the replica that is read knows."""

    @asynchronous
    async def test_without_a_majority(self):
        """Nobody confirms anything, and a local read, page or look at the bounds is answered at once."""
        cluster, log = await self.filled(timeout_seconds=2.0)
        for node in cluster.nodes:
            node.faults["Bounds"] = [UnavailableError("no majority")] * 99
        self.assertEqual(await self.offsets(log, consistency="local"), [*range(12)])
        self.assertEqual(await self.offsets(log, 10, consistency="local", key=b"odd"), [11])
        self.assertEqual(await self.offsets(log, consistency="local", reverse=True, limit=1), [11])
        self.assertEqual([one.offset for one in await log.newest(1, consistency="local")], [11])
        self.assertEqual(await log.bounds(consistency="local"), (0, 12))
        page = await log.read_page("latest", consistency="local")
        self.assertEqual((page.next_offset, page.bounds, page.is_confirmed), (12, (0, 12), False))
        with self.assertRaises(DeadlineError):
            await log.bounds()

    @asynchronous
    async def test_unconfirmed(self):
        """By key from an offset on: when nobody confirms the end, what is known is read, and that is said."""
        cluster, log = await self.filled(timeout_seconds=2.0)
        for node in cluster.nodes:
            node.faults["Bounds"] = [UnavailableError("no majority")] * 99
        with self.assertLogs("loghouse.client") as logged:
            self.assertEqual([one.offset async for one in log.read(8, key=b"odd")], [9, 11])
        self.assertIn("to offset 11: more may have been appended", logged.output[0])


class OldNodeTests(ChoosingCase):
    """Nodes of a version without these reads."""

    @asynchronous
    async def test_not_supported(self):
        """They say that they cannot; what they can goes on."""
        cluster, log = await self.filled()
        for node in cluster.nodes:
            node.faults["Read"] = [NotSupportedError("of a later version")] * 9
        with self.assertRaises(NotSupportedError):
            await log.newest(1)
        self.assertEqual(await self.offsets(log, limit=2, until=9), [0, 1])


ReadGrpcTests = over_grpc(ReadTests)
PageGrpcTests = over_grpc(PageTests)
LocalGrpcTests = over_grpc(LocalTests)
