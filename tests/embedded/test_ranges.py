"""Reads people ask for, of an embedded log: the same as of a cluster, by every flavour of it."""

import asyncio
import threading

from loghouse.embedded.asynchronous import AsyncEmbeddedLog
from loghouse.embedded.reader import EmbeddedReader
from loghouse.errors import DamageError, InvalidRequestError, OffsetOutOfRangeError
from tests.embedded.case import PATH, EmbeddedTestCase

COUNT = 12
# Where to begin, options, and the offsets of what is read then.
READS = (
    ("earliest", {"limit": 4}, [0, 1, 2, 3]),
    (5, {"until": 8}, [5, 6, 7]),
    (5, {"until": 8, "limit": 2}, [5, 6]),
    ("latest", {"limit": 1}, []),
    ("earliest", {"reverse": True, "limit": 3}, [11, 10, 9]),
    (5, {"reverse": True, "until": 8}, [7, 6, 5]),
    ("latest", {"reverse": True}, []),
    ("earliest", {"key": b"odd"}, [1, 3, 5, 7, 9, 11]),
    (4, {"key": b"odd", "limit": 2}, [5, 7]),
    ("earliest", {"key": b"odd", "limit": 2, "reverse": True}, [11, 9]),
    ("earliest", {"key_prefix": b"o", "until": 4}, [1, 3]),
    ("earliest", {"key": b"no"}, []),
    ("earliest", {"headers": {"n": b"6"}}, [6]),
    (10, {"consistency": "local"}, [10, 11]),
)


class RangeCase(EmbeddedTestCase):
    """A log of twelve records, every other one with a key."""

    def filled(self):
        log = self.open()
        self.addCleanup(log.close)
        for number in range(COUNT):
            self.append(log, number)
        return log

    def append(self, log, number):
        headers = {"n": b"%d" % number} if number % 3 == 0 else ()
        log.append(b"%d" % number, key=b"odd" if number % 2 else None, headers=headers)


class ReadTests(RangeCase):
    """What is read, and in which order."""

    def check(self, log):
        for from_, options, offsets in READS:
            self.assertEqual([one.offset for one in log.read(from_, **options)], offsets, (from_, options))
            batches = [[one.offset for one in batch] for batch in log.read_batches(from_, **options)]
            again = [one for some in batches for one in (some[::-1] if options.get("reverse") else some)]
            self.assertEqual(again, offsets)
        self.assertEqual([one.offset for one in log.newest(2, key=b"odd")], [9, 11])
        self.assertEqual(log.bounds(consistency="local"), (0, COUNT))
        page = log.read_page(4, key=b"odd", limit=2)
        self.assertEqual(([one.offset for one in page.records], page.next_offset), ([5, 7], 8))
        self.assertEqual((page.bounds, page.is_confirmed), ((0, COUNT), True))
        page = log.read_page(reverse=True, limit=2)
        self.assertEqual(([one.offset for one in page.records], page.next_offset), ([11, 10], 10))
        self.assertRaises(InvalidRequestError, log.read_page, follow=True)

    def test_writer(self):
        """The program that writes the log."""
        self.check(self.filled())

    def test_reader(self):
        """Another one that reads the directory."""
        self.filled()
        self.check(EmbeddedReader(self.disk, PATH))

    def test_asyncio(self):
        """The same as coroutines."""
        log = AsyncEmbeddedLog(self.filled())

        async def check():
            for from_, options, offsets in READS:
                found = [one.offset async for one in log.read(from_, **options)]
                self.assertEqual(found, offsets, (from_, options))
            self.assertEqual([one.offset for one in await log.newest(2, key=b"odd")], [9, 11])
            self.assertEqual(await log.bounds(consistency="local"), (0, COUNT))
            page = await log.read_page(reverse=True, limit=2)
            self.assertEqual(([one.offset for one in page.records], page.next_offset), ([11, 10], 10))
            await log.close()

        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        loop.run_until_complete(check())

    def test_follow(self):
        """What is followed by key comes as it is appended."""
        log = self.filled()
        found = []

        def follow():
            found.extend(record.offset for record in log.read(10, follow=True, key=b"odd", limit=2))

        thread = threading.Thread(target=follow)
        thread.start()
        self.append(log, 12)
        self.append(log, 13)
        thread.join(20)
        self.assertEqual(found, [11, 13])
        self.assertEqual([one.offset for one in log.read(10, follow=True, until=12)], [10, 11])

    def test_trimmed(self):
        """Below the lowest offset is an error, either way."""
        log = self.filled()
        log.trim(6)
        for options in ({}, {"reverse": True}, {"key": b"odd"}):
            self.assertEqual(min(one.offset for one in log.read(**options)), 7 if "key" in options else 6)
            with self.assertRaises(OffsetOutOfRangeError):
                [*log.read(2, **options)]
        with self.assertRaises(OffsetOutOfRangeError):
            [*log.read(99, reverse=True)]

    def test_damage(self):
        """What the disk does not give back is told, not passed over, also by a read of one key."""
        log = self.filled()
        path = next(name for name in self.disk.list_directory(f"{PATH}/logs/1") if name.endswith(".store"))
        frames, _ = log.fetch(0)
        self.disk.flip(f"{PATH}/logs/1/{path}", (4096 + len(frames) // 2) * 8)
        for options in ({"reverse": True}, {"key": b"odd"}):
            with self.assertRaises(DamageError):
                [*log.read(**options)]
