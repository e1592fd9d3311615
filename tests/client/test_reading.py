"""Readers: each record once, whatever happens to the servers they read from."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import islice

from loghouse.client import connect_blocking, reading
from loghouse.client import log as log_module
from loghouse.errors import (
    DeadlineError,
    InvalidRequestError,
    NotSupportedError,
    OffsetOutOfRangeError,
    UnavailableError,
)
from loghouse.limits import KIB, MIB
from loghouse.protocol.log_state import decode_log_state
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import BROKEN, HANG
from tests.fakes.tasks import asynchronous, until


class UnconfirmedTests(FakeCase):
    """Reading from an offset on while nobody can tell where the log ends: no majority is there."""

    def setUp(self):
        super().setUp()
        self.patch(log_module, "CONFIRM_SECONDS", 0.3)
        self.patch(reading, "DRY_SECONDS", 0.3)

    def cut_off(self, cluster):
        cluster.leader = None
        for node in cluster.nodes:
            node.faults["Bounds"] = [UnavailableError("no leader is known")] * 10_000

    @asynchronous
    async def test_what_is_here(self):
        """All that is committed is read, and a warning says that the end is not confirmed."""
        cluster = await self.cluster()
        for number in range(20):
            cluster.add_values(*[b"%d" % number] * 50)
        self.cut_off(cluster)
        for node in cluster.nodes[1:]:
            await node.stop()
        log = self.connect(cluster.target)
        with self.assertLogs("loghouse.client", "WARNING") as logged:
            offsets = [record.offset async for record in log.read(300)]
        self.assertEqual(offsets, list(range(300, 1000)))
        self.assertIn("to offset 999", logged.output[0])
        self.assertEqual(await log.find_range(300), (300, None))

    @asynchronous
    async def test_the_server_that_has_more(self):
        """A server that has nothing more is not the last word while another one can be reached."""
        cluster, log = await self.connected(2)
        cluster.add_values(b"a", b"b")
        self.cut_off(cluster)
        cluster.nodes[0].is_mute = True
        for _ in range(2):  # whichever comes first
            with self.assertLogs("loghouse.client", "WARNING"):
                self.assertEqual([record.offset async for record in log.read(0)], [0, 1])

    @asynchronous
    async def test_nobody_is_there(self):
        """When no server can be reached it fails, as ever."""
        cluster, log = await self.connected(1, timeout_seconds=1.0)
        await log.bounds()
        await cluster.nodes[0].stop()
        await self.raises(DeadlineError, anext(log.read(0)))
        await self.raises(DeadlineError, anext(log.read("earliest")))


class ReadingCase(FakeCase):
    """A cluster that holds a few records: values are their offsets."""

    async def filled(self, count=10, nodes=3):
        cluster, log = await self.connected(nodes)
        self.add(cluster, count)
        return cluster, log

    def add(self, cluster, count):
        for _ in range(count):
            cluster.add_values(str(cluster.next_offset).encode())

    def check(self, records, offsets):
        self.assertEqual([record.offset for record in records], list(offsets))
        self.assertEqual([int(record.value) for record in records], list(offsets))

    def readers(self, cluster):
        """The nodes that are read from now."""
        return [node for node in cluster.nodes if node.is_followed]


class RangeTests(ReadingCase):
    """Where reading begins and ends."""

    @asynchronous
    async def test_starts(self):
        """From an offset, either end, or a time, up to where the log ends at the beginning."""
        cluster, log = await self.filled()
        cluster.lowest = 2
        for start, first in (
            ("earliest", 2),
            ("latest", 10),
            (7, 7),
            (10, 10),
            (datetime.fromtimestamp(1_700_000_000, UTC), 0),
        ):
            if first < 2:
                await self.raises(OffsetOutOfRangeError, anext(log.read(start)))
            else:
                self.check([record async for record in log.read(start)], range(first, 10))
        late = datetime(2023, 11, 14, 22, 13, 20, 6, tzinfo=UTC)
        self.check([record async for record in log.read(late)], range(6, 10))
        self.assertEqual(await log.find_offset(1_700_000_000_000_003), 3)

    @asynchronous
    async def test_out_of_range(self):
        """Below the lowest offset, or beyond the next one without following, is an error with the bounds."""
        cluster, log = await self.filled()
        cluster.lowest = 4
        for offset in (3, 11):
            error = await self.raises(OffsetOutOfRangeError, anext(log.read(offset)))
            self.assertEqual((error.offset, error.lowest, error.next_offset), (offset, 4, 10))

    @asynchronous
    async def test_nonsense(self):
        """What is no start is refused, and the text quotes it."""
        log = self.connect((await self.cluster(1)).target)
        for start in (-1, 2**64, "first", 1.5, True, None):
            error = await self.raises(InvalidRequestError, anext(log.read(start)))
            self.assertIn(repr(start), str(error))

    @asynchronous
    async def test_batches(self):
        """Batches begin at the asked offset, too."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b", b"c")
        cluster.add_values(b"d", b"e")
        batches = [(batch.offset, batch.values()) async for batch in log.read_batches(1)]
        self.assertEqual(batches, [(1, [b"b", b"c"]), (3, [b"d", b"e"])])

    @asynchronous
    async def test_follow(self):
        """A follower of the tail gets what is appended later, as soon as it is."""
        cluster, log = await self.filled(2)
        async with aclosing(log.read("latest", follow=True)) as records:
            reading_next = asyncio.ensure_future(anext(records))
            await until(lambda: self.readers(cluster))
            self.add(cluster, 3)
            found = [await reading_next, await anext(records), await anext(records)]
            self.check(found, range(2, 5))
        await until(lambda: not self.readers(cluster))

    @asynchronous
    async def test_followers_in_turn(self):
        """Each reader goes to the next follower, none to the leader."""
        cluster, log = await self.filled()
        for _ in range(4):
            self.check([record async for record in log.read(0)], range(10))
        self.assertEqual([node.count("FetchStream") > 0 for node in cluster.nodes], [False, True, True])


class FailoverTests(ReadingCase):
    """A reader goes on elsewhere."""

    @asynchronous
    async def test_broken_streams(self):
        """When a stream breaks after each answer, another server goes on, and nothing comes twice."""
        cluster, log = await self.connected()
        for _ in range(8):
            cluster.append(*self.large(cluster))
        for node in cluster.nodes:
            node.faults["FetchStream"] = [None, BROKEN] * 20
        found = [batch.offset async for batch in log.read_batches(0)]
        self.assertEqual(found, list(range(8)))

    def large(self, cluster):
        from loghouse.client.batching import encode_batch_of

        return encode_batch_of([bytes(256 * KIB)])

    @asynchronous
    async def test_stopped_servers(self):
        """Servers stop one after the other while a reader follows the tail."""
        cluster, log = await self.filled(3)
        async with aclosing(log.read(0, follow=True)) as records:
            found = [await anext(records) for _ in range(3)]
            for _ in range(2):
                await self.readers(cluster)[0].stop()
                self.add(cluster, 2)
                found += [await anext(records) for _ in range(2)]
        self.check(found, range(7))

    @asynchronous
    async def test_silent_servers(self):
        """A server that is out of touch with the leader, or keeps back what it has, is left."""
        self.patch(reading, "QUIET_SECONDS", 0.1)
        self.patch(reading, "ANSWER_SECONDS", 0.3)
        for fault in (None, HANG):
            cluster, log = await self.filled(3)
            async with aclosing(log.read(0, follow=True)) as records:
                found = [await anext(records) for _ in range(3)]
                silent = self.readers(cluster)[0]
                silent.is_mute = True
                silent.faults["Bounds"] = [fault] * 10
                self.add(cluster, 1)
                found.append(await anext(records))
            self.check(found, range(4))

    @asynchronous
    async def test_quiet_log(self):
        """A log to which nothing is appended is no reason to leave its server."""
        self.patch(reading, "QUIET_SECONDS", 0.05)
        cluster, log = await self.filled(1)
        async with aclosing(log.read(0, follow=True)) as records:
            await anext(records)
            last = asyncio.ensure_future(anext(records))
            server = self.readers(cluster)[0]
            await until(lambda: server.count("Bounds") >= 4)
            self.add(cluster, 1)
            self.assertEqual((await last).offset, 1)
        self.assertEqual(sum(node.count("FetchStream") for node in cluster.nodes), 2 + 1)

    @asynchronous
    async def test_nobody_there(self):
        """A reader fails when nobody answered for as long as it may take."""
        cluster, log = await self.filled(1, nodes=1)
        await log.bounds()
        async with aclosing(log.read(0, follow=True, timeout_seconds=0.4)) as records:
            await anext(records)
            await cluster.stop()
            error = await self.raises(DeadlineError, anext(records))
        self.assertIn("offset 1", str(error))

    @asynchronous
    async def test_trimmed_meanwhile(self):
        """A reader whose next record is gone is told, and does not skip it."""
        cluster, log = await self.filled(3)
        async with aclosing(log.read(0, follow=True)) as records:
            self.check([await anext(records) for _ in range(3)], range(3))
            cluster.lowest = 6
            self.add(cluster, 5)
            error = await self.raises(OffsetOutOfRangeError, anext(records))
        self.assertEqual(error.lowest, 6)


class EndTests(ReadingCase):
    """Readers end, and nothing of them stays."""

    @asynchronous
    async def test_left(self):
        """A loop that is left, a cancelled task and a closed client end their streams at the server."""
        cluster, log = await self.filled(5)
        async for record in log.read(0, follow=True):
            if record.offset == 2:
                break
        await until(lambda: not self.readers(cluster))

        waiting = asyncio.ensure_future(anext(log.read("latest", follow=True)))
        await until(lambda: self.readers(cluster))
        waiting.cancel()
        await self.raises(asyncio.CancelledError, waiting)
        await until(lambda: not self.readers(cluster))

        waiting = asyncio.ensure_future(anext(log.read("latest", follow=True)))
        await until(lambda: self.readers(cluster))
        await log.close()
        await self.raises(Exception, waiting)
        await until(lambda: not self.readers(cluster))

    @asynchronous
    async def test_slow_reader(self):
        """A reader that does not read holds its server back: what is under way is bounded."""
        cluster, log = await self.connected(1)
        from loghouse.client.batching import encode_batch_of

        payload = encode_batch_of([bytes(256 * KIB)])
        for _ in range(160):  # 40 MiB
            cluster.append(*payload)
        server = cluster.nodes[0]
        async with aclosing(log.read_batches(0)) as batches:
            await anext(batches)
            before = -1
            while before != server.sent_size:
                before = server.sent_size
                for _ in range(200):
                    await asyncio.sleep(0.001)
            self.assertLess(server.sent_size, 24 * MIB)
            count = 1 + len([batch async for batch in batches])
        self.assertEqual(count, 160)
        self.assertGreater(server.sent_size, 160 * 256 * KIB)


class BlockingTests(ReadingCase):
    """The same without a loop of one's own."""

    @asynchronous
    async def test_blocking(self):
        """A blocking client reads in any thread, and stops when its loop is left."""
        cluster, _ = await self.filled(10)

        def work():
            with connect_blocking(cluster.target, timeout_seconds=20.0) as log:
                whole = list(log.read())
                part = list(islice(log.read(3, follow=True), 4))
                batches = [batch.offset for batch in log.read_batches(8)]
                return whole, part, batches

        whole, part, batches = await asyncio.to_thread(work)
        self.check(whole, range(10))
        self.check(part, range(3, 7))
        self.assertEqual(batches, [8, 9])
        await until(lambda: not self.readers(cluster))


RangeGrpcTests = over_grpc(RangeTests)
FailoverGrpcTests = over_grpc(FailoverTests)
EndGrpcTests = over_grpc(EndTests)


class BackupReadingTests(FakeCase):
    """What a backup reads: entries as they are stored, and the log's state."""

    @asynchronous
    async def test_entries(self):
        """Whole entries come from the one that holds the offset on, each checked, whichever server fails."""
        cluster, log = await self.connected(2)
        for number in range(20):
            cluster.add_values(*[b"%d" % number] * 5)
        cluster.nodes[0].faults["FetchStream"] = [BROKEN] * 3
        async with aclosing(log.read_entries(7, 100)) as answers:
            entries = [entry async for answer in answers for entry in answer]
        self.assertEqual([entry.base_offset for entry in entries], list(range(5, 100, 5)))
        self.assertEqual([entry.frame for entry in entries], [one.frame for one in cluster.entries[1:]])

    @asynchronous
    async def test_state(self):
        """The state comes over the binary protocol, and gRPC says that it has none."""
        cluster, log = await self.connected(1)
        cluster.add_values(b"a", b"b")
        cluster.add_values(b"c")
        self.assertEqual(decode_log_state(await log.read_state(2)).next_offset, 2)
        over = self.connect(cluster.target, transport="grpc")
        with self.assertRaisesRegex(NotSupportedError, "binary protocol"):
            await over.read_state(2)
