"""Reads of what is far behind the end give way to appends, and are never starved."""

from types import SimpleNamespace

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DiskFullError
from loghouse.limits import (
    COLD_READ_RATE_DEFAULT,
    COLD_READ_SECONDS_MAX,
    COLD_READ_SIZE,
    FETCH_SIZE_DEFAULT,
    KIB,
    MIB,
)
from loghouse.metrics import ReadTally
from loghouse.node.reads import LogReads
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import RecordRange
from loghouse.replica import cold_reads as cold_reads_module
from loghouse.replica.cold_reads import EARNED_SIZE_KEPT, QUIET_SECONDS, ColdReads, WatchedWrites
from loghouse.replica.group_write import GroupWrite
from tests.driver.alone import EdgeCase
from tests.driver.queue import ManualQueue
from tests.storage.entries import Writer
from tests.test_node import NodeTestCase


def at_rate(size: int) -> float:
    """How long the rate takes for so many bytes."""
    return size / COLD_READ_RATE_DEFAULT


class PaceTests(SynchronousTestCase):
    """The pace by itself, at times that the test names."""

    def setUp(self):
        self.cold = ColdReads()

    def ask(self, size, now):
        """What a read of so many bytes may take at once, and how long it waits for that."""
        size = self.cold.size_max(size, now)
        return size, self.cold.wait_seconds(size, now)

    def read_for(self, seconds, *, entry_size=0):
        """Read on for a time, as one reader that asks as soon as it was given; return how many bytes."""
        now, total = 100.0, 0
        while now < 100.0 + seconds:
            size, wait = self.ask(FETCH_SIZE_DEFAULT, now)
            now += max(wait, 1e-5)
            read = max(size, entry_size)
            self.cold.more_read(read - size, now)
            total += read
        return total

    def test_no_appends(self):
        """While nothing is appended reads are as large as they like, and wait for nothing."""
        for now in (0.0, 0.0, 5.0):
            self.assertEqual(self.ask(8 * MIB, now), (8 * MIB, 0.0))

    def test_appends_under_way(self):
        """While entries are with the disk, and a little longer, reads are small and come at the rate."""
        self.cold.write_began()
        for _ in range(2):
            waits = [self.ask(FETCH_SIZE_DEFAULT, 1000.0) for _ in range(3)]
            expected = [(COLD_READ_SIZE, number * at_rate(COLD_READ_SIZE)) for number in range(3)]
            self.assertEqual([size for size, _ in waits], [size for size, _ in expected])
            for (_, wait), (_, due) in zip(waits, expected, strict=True):
                self.assertApproximates(wait, due, 1e-6)
            self.cold = ColdReads()
            self.cold.write_began()
            self.cold.write_ended(0, 1000.0 - QUIET_SECONDS * 0.99)
        self.cold = ColdReads()
        self.cold.write_began()
        self.cold.write_ended(0, 1000.0)
        self.assertEqual(
            self.ask(FETCH_SIZE_DEFAULT, 1000.0 + QUIET_SECONDS * 1.01), (FETCH_SIZE_DEFAULT, 0.0)
        )

    def test_several_logs(self):
        """Appends of any log count until the last of them is durable."""
        for _ in range(2):
            self.cold.write_began()
        self.cold.write_ended(0, 1.0)
        self.assertTrue(self.cold.must_give_way(50.0))
        self.cold.write_ended(0, 50.0)
        self.assertFalse(self.cold.must_give_way(50.0 + 2 * QUIET_SECONDS))

    def test_floor(self):
        """However long appends go on, readers together get the rate: a reader of large entries, too."""
        for entry_size in (0, 256 * KIB):
            self.cold = ColdReads()
            self.cold.write_began()
            share = self.read_for(10.0, entry_size=entry_size) / (10 * COLD_READ_RATE_DEFAULT)
            self.assertTrue(0.98 < share < 1.02, share)

    def test_many_readers(self):
        """No read waits longer than the bound, and when most readers are gone the rest are soon served."""
        self.cold.write_began()
        waits = [self.ask(COLD_READ_SIZE, 7.0)[1] for _ in range(100_000)]
        self.assertEqual(max(waits), COLD_READ_SECONDS_MAX)
        self.assertEqual(waits, sorted(waits))
        self.assertLess(self.ask(COLD_READ_SIZE, 7.0 + 2 * COLD_READ_SECONDS_MAX)[1], 0.01)

    def test_appended_faster(self):
        """A reader gets what is appended, at once, and the rate: it comes nearer, however fast that is."""
        appended = total = 0
        now = 100.0
        while now < 101.0:
            self.cold.write_began()
            self.cold.write_ended(MIB, now)
            appended += MIB
            until = now + 0.004
            while now < until:
                size, wait = self.ask(FETCH_SIZE_DEFAULT, now)
                now += max(wait, 0.0005)
                total += size
        self.assertGreater(appended, 5 * COLD_READ_RATE_DEFAULT)
        self.assertTrue(0.9 < (total - appended) / COLD_READ_RATE_DEFAULT < 1.2, total - appended)

    def test_other_rate(self):
        """Another rate counts from the next read on; with none, no read gives way to appends."""
        self.cold.write_began()
        self.cold.change(2 * COLD_READ_RATE_DEFAULT)
        share = self.read_for(10.0) / (20 * COLD_READ_RATE_DEFAULT)
        self.assertTrue(0.98 < share < 1.02, share)
        for cold in (self.cold, ColdReads(0)):
            cold.change(0)
            self.assertEqual(
                (cold.size_max(8 * MIB, 110.0), cold.wait_seconds(8 * MIB, 110.0)), (8 * MIB, 0.0)
            )
            cold.more_read(8 * MIB, 110.0)
        self.cold.change(COLD_READ_RATE_DEFAULT)
        self.assertEqual(self.cold.size_max(8 * MIB, 120.0), COLD_READ_SIZE)

    def test_earned_before(self):
        """Whoever begins to read after hours of appends has not earned hours of reading."""
        for _ in range(100):
            self.cold.write_began()
            self.cold.write_ended(EARNED_SIZE_KEPT, 5.0)
        at_once = 0
        while not (asked := self.ask(FETCH_SIZE_DEFAULT, 5.0))[1]:
            at_once += asked[0]
        self.assertLessEqual(at_once, 2 * EARNED_SIZE_KEPT + 2 * COLD_READ_SIZE)


class LogOfThree:
    """Records 0 to 299 in three segments of a hundred; what it gives is as large as what is asked for."""

    def __init__(self):
        self.sizes = []  # that were read
        self.entry_size = 0  # of the smallest entry

    def is_hot(self, offset):
        return offset >= 200

    def is_near(self, offset):
        return offset >= 100

    def read(self, offset, size_max, high_index):
        self.sizes.append(size_max)
        return bytes(max(size_max, self.entry_size)), offset + 1

    def read_before(self, offset, size_max, high_index, low):
        self.sizes.append(size_max)
        return bytes(size_max), offset - 1


class ReadsCase(SynchronousTestCase):
    """Reads of such a log, while appends are under way."""

    def setUp(self):
        self.clock, self.readers, self.log, self.cold = Clock(), ManualQueue(), LogOfThree(), ColdReads()
        self.tally = ReadTally()
        driver = SimpleNamespace(lowest_offset=0, readable_offset=300, readable_index=300)
        self.reads = LogReads(
            self.readers,
            self.log,
            member=lambda: driver,
            is_damaged=lambda: False,
            read_failed=lambda error: error,
            cold_reads=self.cold,
            scheduler=self.clock,
            tally=self.tally,
        )
        self.cold.write_began()

    def wait_seconds(self, done):
        """Let time pass until a read is done; return how long that took."""
        begin = self.clock.seconds()
        ended = []
        done.addBoth(lambda outcome: ended.append(True) or outcome)
        self.readers.drain()
        while not ended:
            self.assertLess(self.clock.seconds(), begin + 60)
            self.clock.advance(0.0001)
            self.readers.drain()
        return self.clock.seconds() - begin


class FetchTests(ReadsCase):
    """Entry frames."""

    def fetch(self, offset, size_max=FETCH_SIZE_DEFAULT):
        return self.reads.fetch(offset, size_max)

    def test_far_behind(self):
        """What is far behind comes in small pieces, at the rate; as it is asked for once appends are over."""
        for number in range(4):
            done = self.fetch(number)
            wait = self.wait_seconds(done)
            self.assertEqual(len(self.successResultOf(done).frames), COLD_READ_SIZE)
            self.assertApproximates(wait, at_rate(COLD_READ_SIZE) if number else 0.0, 0.00011)
        self.assertApproximates(self.tally.held_seconds, 3 * at_rate(COLD_READ_SIZE), 0.0005)
        self.cold.write_ended(0, self.clock.seconds())
        self.clock.advance(2 * QUIET_SECONDS)
        for offset in (4, 5):
            done = self.fetch(offset)
            self.assertEqual(self.wait_seconds(done), 0.0)
            self.assertEqual(len(self.successResultOf(done).frames), FETCH_SIZE_DEFAULT)

    def test_near_the_end(self):
        """Who reads the last two segments waits for nothing, and gets what it asks for."""
        for offset in (100, 199, 200, 299) * 3:
            done = self.fetch(offset)
            self.assertEqual(self.wait_seconds(done), 0.0)
            self.assertEqual(len(self.successResultOf(done).frames), FETCH_SIZE_DEFAULT)
        self.assertEqual(self.wait_seconds(self.fetch(0)), 0.0, "they count for nobody else")

    def test_large_entries(self):
        """An entry that is larger than a piece comes whole, and the next one waits as long as that takes."""
        self.log.entry_size = MIB
        self.wait_seconds(self.fetch(0))
        self.assertApproximates(self.wait_seconds(self.fetch(1)), at_rate(MIB), 0.00011)

    def test_small_reads(self):
        """Who asks for less gets less, and waits for less."""
        for offset in (0, 1):
            done = self.fetch(offset, KIB)
        self.assertApproximates(self.wait_seconds(done), at_rate(KIB), 0.00011)
        self.assertEqual(self.log.sizes, [KIB, KIB])

    def test_cancelled(self):
        """Who gives up while it waits leaves nothing behind."""
        self.fetch(0)
        done = self.fetch(1)
        self.readers.drain()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual((self.clock.getDelayedCalls(), len(self.log.sizes)), ([], 1))


class RangeTests(ReadsCase):
    """Ranges."""

    def read(self, **fields):
        return self.reads.read_range(RecordRange(**fields))

    def test_far_behind(self):
        """A range is read in small pieces and at the rate, forwards and backwards, while it is far behind."""
        for fields in ({"first": 3, "end": 50}, {"first": 3, "end": 50, "is_reverse": True}):
            self.wait_seconds(self.read(**fields))
            self.log.sizes.clear()
            self.assertApproximates(self.wait_seconds(self.read(**fields)), at_rate(COLD_READ_SIZE), 0.00011)
            self.assertEqual(self.log.sizes, [COLD_READ_SIZE])
            self.clock.advance(1)

    def test_near_the_end(self):
        """A range of the last two segments is not held up: one that is read backwards begins at its end."""
        for fields in ({"first": 100}, {"first": 0, "end": 101, "is_reverse": True}) * 3:
            self.assertEqual(self.wait_seconds(self.read(**fields)), 0.0)
            self.assertEqual(self.log.sizes.pop(), FETCH_SIZE_DEFAULT)

    def test_filtered(self):
        """What is looked through counts, whatever is found in it: each step waits for its turn."""
        entry = Writer().records(1, 3 * MIB).frame
        steps = [entry, b""]
        self.log.read = lambda *_: (steps.pop(0), 1)
        wait = self.wait_seconds(self.read(first=0, end=100, filter=RecordFilter(keys=(b"k",))))
        self.assertEqual(steps, [])
        self.assertApproximates(wait, at_rate(len(entry)), 0.0002)


class WatchedWritesTests(EdgeCase):
    """The queue that writes a log."""

    def setUp(self):
        super().setUp()
        self.cold = ColdReads()
        self.queue = WatchedWrites(self.disk, self.cold, self.clock.seconds)
        self.clock.advance(10)

    def submit(self, work):
        self.queue.submit(work, self.told.append, self.told.append)

    def gives_way(self):
        return self.cold.must_give_way(self.clock.seconds())

    def test_entries(self):
        """Entries count from when they are given to the disk until a little after they are durable."""
        self.submit(GroupWrite(self.log, [self.ready(entries=(Writer().records(1, KIB),))]))
        self.clock.advance(60)
        self.assertTrue(self.gives_way())
        self.disk.drain()
        self.assertEqual((self.told, self.gives_way()), ([None], True))
        self.assertGreater(self.cold.size_max(MIB, self.clock.seconds()), COLD_READ_SIZE - 1)
        self.clock.advance(2 * QUIET_SECONDS)
        self.assertFalse(self.gives_way())

    def test_no_room(self):
        """A disk that takes no entries has none of them, and earns nobody anything."""
        self.log.error = DiskFullError("/data")
        self.submit(GroupWrite(self.log, [self.ready(entries=(Writer().records(1, MIB),))]))
        self.disk.drain()
        self.assertEqual(self.told, [self.log.error])
        self.assertEqual(self.cold.size_max(MIB, self.clock.seconds()), COLD_READ_SIZE)
        self.clock.advance(2 * QUIET_SECONDS)
        self.assertFalse(self.gives_way())

    def test_other_work(self):
        """What writes no entries holds nobody up: terms and votes, and whatever else the queue does."""
        self.submit(GroupWrite(self.log, [self.ready()]))
        self.submit(lambda: 5)
        self.assertFalse(self.gives_way())
        self.disk.drain()
        self.assertEqual((self.told, self.gives_way()), ([None, 5], False))

    def test_stop(self):
        """To stop it stops what it passes work on to."""
        self.submit(lambda: 5)
        self.queue.stop()
        self.assertEqual(self.told, [5])


class NodeTests(NodeTestCase):
    """A node whose log has several segments."""

    def fetched(self, node, offset):
        done = node.log("").fetch(offset, MIB)
        self.readers.drain()
        return done

    def test_appends_and_reads(self):
        """Its appends slow reads of its oldest records down, not those of the newest, and not for long."""
        self.patch(cold_reads_module, "EARNED_SIZE_KEPT", 0)
        node = self.start()
        log = node.log("").replica.log
        while len(log.sealed_segments()) < 3:
            self.append(node, 1, 30_000)
        newest = log.next_offset - 1
        self.successResultOf(self.fetched(node, 0))
        done = self.fetched(node, 0)
        self.assertNoResult(done)
        self.successResultOf(self.fetched(node, newest))
        self.clock.advance(1)
        self.readers.drain()
        for one in (done, self.fetched(node, 0), self.fetched(node, 0)):
            self.successResultOf(one)
