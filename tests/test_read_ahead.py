"""Catching up from a cold disk: other threads read, the core asks again, and what is held is bounded."""

import contextlib
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError
from loghouse.limits import KIB, READ_AHEAD_MAX
from loghouse.raft.ready import EntriesPendingError
from loghouse.replica import read_ahead as read_ahead_module
from loghouse.replica.read_ahead import ReadAhead
from loghouse.shares import Pace
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.log import Log
from loghouse.testing.disk import SimDisk
from tests.driver.queue import ManualQueue
from tests.driver.town import TownTestCase
from tests.storage.entries import CLUSTER, Writer
from tests.test_driver import DriverTestCase

COUNT = 60


class ReadAheadTests(SynchronousTestCase):
    """A log of several segments, and a queue that reads when it is told to."""

    def setUp(self):
        directory = DataDirectory.lock(SimDisk(), "/data", segment_size=16 * KIB, reserve_size=0)
        directory.create(
            DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n")
        )
        self.log = directory.open_log(1)
        writer = Writer(seed=self.log.seed)
        self.written = [writer.records(1, 1000) for _ in range(COUNT)]
        for entry in self.written:
            self.log.append([entry])
            self.log.sync(entry.index)
        self.queue = ManualQueue()
        self.clock = Clock()
        self.failures = []
        self.wakes = 0
        self.ahead = ReadAhead(self.log, self.queue, self.failures.append, scheduler=self.clock)
        self.ahead.wake = self.count_wake
        self.patch(read_ahead_module, "READ_AHEAD_SIZE", 8 * KIB)

    def count_wake(self):
        self.wakes += 1

    def frames(self, entries):
        return [entry.frame for entry in entries]

    def take(self, low, size_max=1 << 20):
        """Ask until the entries are there, as the core does."""
        try:
            return self.ahead.entries(low, COUNT + 1, size_max)
        except EntriesPendingError:
            while self.queue.settle():
                self.clock.advance(1)
            return self.ahead.entries(low, COUNT + 1, size_max)

    def test_everything_in_order(self):
        """Asked for from the first to the last, every entry comes once, none read on the asker's thread."""
        found = []
        while len(found) < COUNT:
            low = len(found) + 1
            if self.log.is_active(low):
                found += self.ahead.entries(low, COUNT + 1, 1 << 20)
                continue
            try:
                with patch.object(Log, "entries", side_effect=AssertionError("read on the reactor")):
                    found += self.ahead.entries(low, COUNT + 1, 3000)
            except EntriesPendingError:
                self.queue.settle()
                self.clock.advance(1)
        self.assertEqual(self.frames(found), self.frames(self.written))
        self.assertGreater(self.wakes, 5)

    def test_rate(self):
        """Pieces come as fast as they are read until that is more than the rate; then they wait."""
        self.ahead._pace = Pace(8 * KIB)  # a piece a second
        self.take(1)  # the first comes at once, and what is behind it is read
        begin = self.clock.seconds()
        low = 8
        while self.clock.seconds() < begin + 3:
            with contextlib.suppress(EntriesPendingError):
                low = self.ahead.entries(low, COUNT + 1, 1 << 20)[-1].index + 1
            self.queue.settle()
            self.clock.advance(0.05)
        size = sum(entry.size for entry in self.written[: low - 1])
        self.assertTrue(3 * 8 * KIB <= size <= 6 * 8 * KIB, size)

    def test_forgotten_while_waiting(self):
        """What waits for its time is dropped with the rest, and leaves no timer behind."""
        self.ahead._pace = Pace(KIB)
        self.take(1)
        self.queue.settle()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        wakes = self.wakes
        self.ahead.forget()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(100)
        self.assertEqual(self.wakes, wakes)

    def test_asked_for_again(self):
        """What was taken and could not be sent is still there when asked for again."""
        first = self.take(1, 1)
        self.assertEqual(len(first), 1)
        self.assertEqual(self.frames(self.ahead.entries(1, COUNT + 1, 1)), self.frames(first))
        self.take(2, 1)
        self.assertRaises(EntriesPendingError, self.ahead.entries, 1, COUNT + 1, 1)

    def test_the_next_is_read_meanwhile(self):
        """When a piece is used up, the one behind it is already being read."""
        first = self.take(1)
        self.assertEqual(len(self.queue.waiting), 1)
        self.queue.settle()
        following = first[-1].index + 1
        self.assertEqual(self.ahead.entries(following, COUNT + 1, 1 << 20)[0].index, following)

    def test_limits(self):
        """At least one entry, never more than asked for in count or bytes; the rest is not read again."""
        self.assertEqual([entry.index for entry in self.take(1, 1)], [1])
        self.assertEqual([entry.index for entry in self.ahead.entries(2, 4, 1 << 20)], [2, 3])
        self.assertEqual([entry.index for entry in self.ahead.entries(4, COUNT, 2500)], [4, 5])
        self.assertEqual(len(self.queue.waiting), 0)

    def test_asked_twice(self):
        """Two askers of the same place cost one read."""
        for _ in range(3):
            self.assertRaises(EntriesPendingError, self.ahead.entries, 1, COUNT, 1 << 20)
        self.assertEqual(len(self.queue.waiting), 1)

    def test_bounded(self):
        """However many places are asked for, few pieces are read at once and few are kept."""
        for low in range(1, 40):
            self.assertRaises(EntriesPendingError, self.ahead.entries, low, COUNT, 1 << 20)
        self.assertEqual(len(self.queue.waiting), READ_AHEAD_MAX)
        for low in range(1, 40):
            self.assertRaises(EntriesPendingError, self.ahead.entries, 40 - low, COUNT, 1 << 20)
            self.queue.settle()
            self.clock.advance(1)
            self.assertLessEqual(len(self.ahead._pieces), READ_AHEAD_MAX)
        self.assertEqual(len(self.ahead._pieces), READ_AHEAD_MAX)

    def test_forget(self):
        """What was read in another role does not count, not even when it arrives later."""
        self.assertRaises(EntriesPendingError, self.ahead.entries, 1, COUNT, 1 << 20)
        self.ahead.forget()
        while self.queue.settle():
            pass
        self.assertEqual((self.wakes, self.ahead._pieces), (0, {}))
        self.assertEqual(self.take(1)[0].index, 1)

    def test_trimmed(self):
        """What is trimmed, before or while it is read, is a LookupError, and no failure."""
        self.assertRaises(EntriesPendingError, self.ahead.entries, 1, COUNT, 1 << 20)
        self.log.trim_prefix(40)
        self.assertGreater(self.log.first_index, 1)
        while self.queue.settle():
            pass
        self.assertRaises(LookupError, self.ahead.entries, 1, COUNT, 1 << 20)
        self.assertEqual(self.failures, [])

    def test_a_failed_read(self):
        """A failure is told, nothing is served, and the next asker has it read again."""
        with patch.object(Log, "entries", side_effect=DamageError("f", 1, "x", remedy="y")):
            self.assertRaises(EntriesPendingError, self.ahead.entries, 1, COUNT, 1 << 20)
            self.queue.settle()
        self.assertEqual(len(self.failures), 1)
        self.assertRaises(EntriesPendingError, self.ahead.entries, 1, COUNT, 1 << 20)
        self.queue.settle()
        self.assertEqual(self.ahead.entries(1, COUNT, 1)[0].index, 1)


class CatchUpTests(TownTestCase):
    """A node that was away for several segments."""

    def test_from_sealed_segments(self):
        """It gets everything, read by the leader's reader threads."""
        town, leader, *_ = self.led()
        away = next(one for one in town.running if one is not leader)
        away.crash()
        self.patch(read_ahead_module, "READ_AHEAD_SIZE", 32 * KIB)
        # As after a restart of the leader: nothing of it is in memory.
        leader.driver.raft._log._cache_size_max = 0
        for _ in range(40):
            self.result(town, leader.propose(10_000))
        self.assertGreater(len(leader.store.sealed_segments()), 4)
        reads = []
        submit = leader.queues["loghouse-reader"].submit
        leader.queues["loghouse-reader"].submit = lambda work, *told: (
            reads.append(work),
            submit(work, *told),
        )
        away.start()
        town.until(lambda: away.driver and away.driver.readable_offset == 40, 60)
        self.assertGreater(len(reads), 8)
        frames = [[entry.frame for entry in one.store.entries(1, 30, 1 << 30)] for one in (leader, away)]
        self.assertEqual(*frames)


class Forgetter:
    """Stands for a `ReadAhead` and counts."""

    count = 0

    def forget(self):
        self.count += 1


class RoleTests(DriverTestCase):
    """What was read for a leader's followers does not outlive its leadership."""

    def test_forgotten_with_the_role(self):
        """Cold entries read ahead are dropped when the role changes: the log may be cut now."""
        forgetter = self.leader.replica._read_ahead = Forgetter()
        self.group.elect(2)
        self.assertGreater(forgetter.count, 0)
