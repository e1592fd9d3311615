"""Cursors of an embedded log: the client's methods, on the directory's own state."""

import random

from twisted.trial.unittest import TestCase

from loghouse.client import Advance
from loghouse.embedded.asynchronous import AsyncEmbeddedLog
from loghouse.errors import (
    ClosedError,
    CursorFencedError,
    CursorHeldError,
    CursorRewindError,
    DiskFullError,
    UnknownCursorError,
)
from tests.embedded.case import EmbeddedTestCase
from tests.fakes.tasks import asynchronous


class CursorTests(EmbeddedTestCase):
    """A log in this process."""

    def test_each(self):
        """Every operation works, and what is done is durable when it returns."""
        log = self.open()
        cursors = log.cursors()
        mine = cursors.acquire("billing", lease_seconds=5)
        self.assertEqual((mine.position, mine.holder, mine.lease_seconds), (0, cursors.holder, 5.0))
        self.assertEqual(cursors.advance("billing", mine.epoch, 4).position, 4)
        self.assertEqual(cursors.renew("billing", mine.epoch), cursors.get("billing"))
        self.assertEqual(cursors.set("other", 7).position, 7)
        cursors.acquire("gone")
        cursors.delete("gone")
        self.disk.crash(random.Random(1), keep=0.0)
        with self.open() as again:
            cursors = again.cursors()
            self.assertEqual(
                [(one.name, one.position) for one in cursors.list()], [("billing", 4), ("other", 7)]
            )
            self.assertEqual(cursors.get("billing").epoch, mine.epoch)
            self.assertRaises(UnknownCursorError, cursors.get, "gone")
            free = cursors.release("billing", mine.epoch)
            self.assertEqual((free.holder, free.position), ("", 4))

    def test_holders(self):
        """A holder of another process is waited for as long as its lease; then it is fenced."""
        with self.open() as log:
            first, second = log.cursors(), log.cursors()
            mine = first.acquire("billing", lease_seconds=5)
            self.monotonic += 4.9
            self.assertRaises(CursorHeldError, second.acquire, "billing")
            self.monotonic += 0.2
            theirs = second.acquire("billing")
            self.assertRaises(CursorFencedError, first.advance, "billing", mine.epoch, 1)
            second.advance("billing", theirs.epoch, 2)
            self.assertRaises(CursorRewindError, second.advance, "billing", theirs.epoch, 1)
            self.assertEqual(second.advance("billing", theirs.epoch, 1, rewind=True).position, 1)

    def test_batch(self):
        """Records and an advance are done together, once, also after a restart."""
        log = self.open()
        epoch = log.cursors().acquire("importer").epoch
        for _ in range(2):
            self.assertEqual(log.append_batch([b"a", b"b"], cursor=Advance("importer", epoch, 100)), range(2))
        self.disk.crash(random.Random(1), keep=0.0)
        with self.open() as again:
            self.assertEqual(
                again.append_batch([b"a", b"b"], cursor=Advance("importer", epoch, 100)), range(2)
            )
            packed = again.append_batch(
                [b"c" * 90] * 9, compression="zstd", cursor=Advance("importer", epoch, 101)
            )
            self.assertEqual(packed, range(2, 11))
            wrong = Advance("importer", epoch, 100)
            self.assertRaises(CursorRewindError, again.append_batch, [b"z"], cursor=wrong)
            self.assertEqual(again.cursors().get("importer").position, 101)
            self.assertEqual(self.values(again), [b"a", b"b", *[b"c" * 90] * 9])

    def test_full_disk(self):
        """Without room nothing is done, and what is there stays readable."""
        with self.open() as log:
            cursors = log.cursors()
            epoch = cursors.acquire("billing").epoch
            self.disk.capacity = self.disk.used_size()
            position = 0
            with self.assertRaises(DiskFullError):
                while position < 10_000:
                    position = cursors.advance("billing", epoch, position + 1).position
            self.assertEqual(cursors.get("billing").position, position)

    def test_closed(self):
        """A closed log has no cursors any more."""
        log = self.open()
        cursors = log.cursors()
        log.close()
        self.assertRaises(ClosedError, cursors.acquire, "billing")


class AsyncCursorTests(TestCase, EmbeddedTestCase):
    """The same for asyncio."""

    def setUp(self):
        EmbeddedTestCase.setUp(self)
        self.closers = []

    @asynchronous
    async def test_asyncio(self):
        """Operations and batches wait off the loop."""
        async with AsyncEmbeddedLog(self.open()) as log:
            cursors = log.cursors()
            mine = await cursors.acquire("billing", timeout_seconds=5)
            advance = Advance("billing", mine.epoch, 4)
            self.assertEqual(await log.append_batch([b"a"], cursor=advance), range(1))
            self.assertEqual(await log.append_batch([b"a"], cursor=advance), range(1))
            self.assertEqual([one.position for one in await cursors.list()], [4])
