"""Bounds of a replica's parts that no larger test comes to: each row is a place and what happens there."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import NotLeaderError, OffsetOutOfRangeError, UnavailableError
from loghouse.limits import FETCH_SIZE_MAX, KIB
from loghouse.node.reads import LogReads
from loghouse.raft.ready import EntriesPendingError
from loghouse.replica import read_ahead
from loghouse.replica.coalescing import Coalescer
from loghouse.replica.cold_reads import ColdReads
from loghouse.replica.read_ahead import ReadAhead
from loghouse.shares import Pace
from tests.driver.queue import ManualQueue
from tests.test_coalescing import Batch


class ReadAheadTests(SynchronousTestCase):
    """Pieces of two entries, ten bytes each, of a log whose entries from 91 on are hot."""

    def setUp(self):
        self.queue = ManualQueue()
        self.clock = Clock()
        self.wakes = self.reads = 0
        self.failures = []
        self.ahead = self.make(Pace(20))
        self.ahead.wake = self.wake
        self.patch(read_ahead, "READ_AHEAD_MAX", 3)

    def make(self, pace):
        return ReadAhead(self, self.queue, self.failures.append, scheduler=self.clock, pace=pace)

    def wake(self):
        self.wakes += 1

    # --- the log ---------------------------------------------------------------------

    first_index, last_index, record_room = 5, 99, 7

    def is_active(self, index):
        return index > 90

    def check_not_damaged(self, index):
        if index == 66:
            raise KeyError(index)

    def entries(self, low, high, size_max):
        self.reads += 1
        return [SimpleNamespace(index=low, size=10), SimpleNamespace(index=low + 1, size=10)]

    # --- the core --------------------------------------------------------------------

    def take(self, low, high=99, size_max=1000):
        """The entries that are here, or None."""
        try:
            return [entry.index for entry in self.ahead.entries(low, high, size_max)]
        except EntriesPendingError:
            return None

    def read(self, *lows):
        """Have pieces read, and let the time pass that the rate takes."""
        for low in lows:
            self.take(low)
            self.queue.drain()
            self.clock.advance(1)

    def test_from_the_log(self):
        """What the log says is passed on; hot entries come from it at once."""
        self.assertEqual((self.ahead.first_index, self.ahead.last_index, self.ahead.record_room), (5, 99, 7))
        self.assertEqual(self.take(91), [91, 92])
        self.assertRaises(LookupError, self.take, 4)
        self.assertIsNone(self.take(5))
        self.assertRaises(KeyError, self.take, 66)
        self.assertEqual(len(self.queue.waiting), 1)

    def test_passed_on(self):
        """Terms, headers and states are the log's."""
        for name in ("term_at", "header_at", "state_at"):
            setattr(self, name, lambda index, name=name: (name, index))
            self.assertEqual(getattr(self.ahead, name)(7), (name, 7))

    def test_fitting(self):
        """At least one entry, then those that fit in bytes and number."""
        for high, size_max, wanted in (
            (12, 20, [10, 11]),
            (12, 19, [10]),
            (12, 0, [10]),
            (11, 99, [10]),
        ):
            self.ahead.forget()
            self.read(10)
            self.assertEqual(self.take(10, high, size_max), wanted, (high, size_max))

    def test_pace_of_all_logs(self):
        """What is read for one log puts off what is read for another: the rate is that of the node."""
        pace = Pace(20)
        self.ahead, other = self.make(pace), self.make(pace)
        self.take(10)
        self.assertRaises(EntriesPendingError, other.entries, 10, 99, 1000)
        self.queue.drain()
        self.assertEqual((list(self.ahead._pieces), list(other._pieces)), ([10], []))
        self.clock.advance(1)
        self.assertEqual(list(other._pieces), [10])

    def test_the_oldest_goes(self):
        """As many pieces are kept as the limit says: those that came last."""
        self.read(10, 20, 30)
        self.assertEqual(list(self.ahead._pieces), [10, 20, 30])
        self.read(40)
        self.assertEqual(list(self.ahead._pieces), [20, 30, 40])

    def test_what_is_kept(self):
        """What was taken stays until what is behind it is taken, and is forgotten with its piece."""
        self.read(10)
        self.assertEqual(self.take(10, size_max=10), [10])
        self.assertEqual((list(self.ahead._pieces), self.ahead._before), ([10, 11], {11: 10}))
        self.assertEqual(self.take(10, size_max=10), [10])
        self.assertEqual(list(self.ahead._pieces), [10, 11])
        self.assertEqual(self.take(11), [11])
        self.assertEqual((list(self.ahead._pieces), self.ahead._before), ([11], {12: 11}))
        self.queue.drain()
        self.clock.advance(1)
        self.assertEqual(list(self.ahead._pieces), [11, 12])
        self.read(20)
        self.assertEqual((list(self.ahead._pieces), self.ahead._before), ([11, 12, 20], {12: 11}))
        self.read(30)
        self.assertEqual((list(self.ahead._pieces), self.ahead._before), ([12, 20, 30], {}))

    def test_reads_on(self):
        """Behind a piece that is used up the next is read, but not in what is hot."""
        self.read(10, 89)
        self.take(10)
        self.assertEqual(len(self.queue.waiting), 1)
        self.queue.drain()
        self.take(89)
        self.assertEqual(len(self.queue.waiting), 0)

    def test_reads_at_once(self):
        """No more are read at once than the limit says, each once."""
        for low in (10, 10, 20, 30, 40):
            self.assertIsNone(self.take(low))
        self.assertEqual(len(self.queue.waiting), 3)

    def test_rate(self):
        """A piece comes when those before it had their time."""
        for low in (10, 20, 30):
            self.take(low)
        self.queue.drain()
        self.assertEqual((self.wakes, len(self.ahead._waiting)), (1, 2))
        due = sorted(call.getTime() for call in self.clock.getDelayedCalls())
        self.assertEqual(due, [1.0, 2.0])
        self.clock.advance(1.0)
        self.assertEqual((list(self.ahead._pieces), len(self.ahead._waiting)), ([10, 20], 1))
        self.assertIsNone(self.take(30))
        self.assertEqual(len(self.queue.waiting), 0, "it was read already")
        self.clock.advance(1.0)
        self.assertEqual((self.wakes, len(self.ahead._waiting)), (3, 0))
        self.clock.advance(5.0)
        self.take(40)
        self.queue.drain()
        self.assertEqual(self.wakes, 4, "what was not used is not saved up, nor owed")
        self.ahead.forget()
        self.take(50)
        self.queue.drain()
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [8.0])

    def test_forgotten(self):
        """After a change of the role what was asked before neither counts nor is in the way."""
        self.take(10)
        self.ahead.forget()
        self.take(10)
        self.assertEqual(len(self.queue.waiting), 2)
        self.queue.step()
        self.assertEqual((self.wakes, self.ahead._under_way), (0, {10}))
        self.queue.step()
        self.assertEqual((self.wakes, self.ahead._under_way), (1, set()))

    def test_failures(self):
        """A read that fails is told, unless it was trimmed; either way it may be asked for again."""
        for error, told in ((KeyError("x"), 0), (OSError("x"), 1)):
            self.entries = lambda *_, error=error: (_ for _ in ()).throw(error)
            self.take(10)
            self.queue.drain()
            self.assertEqual((len(self.failures), self.ahead._under_way), (told, set()))
        self.take(10)
        self.ahead.forget()
        self.take(10)
        self.queue.step()
        self.assertEqual(self.ahead._under_way, {10})

    def test_nothing_there(self):
        """A read that gave nothing wakes nobody."""
        self.entries = lambda *_: []
        self.take(10)
        self.queue.drain()
        self.assertEqual((self.wakes, self.ahead._pieces, self.ahead._under_way), (0, {}, set()))


class ReadsTests(SynchronousTestCase):
    """Reads of a member, alone, whose readable offsets are 3 to 9."""

    lowest_offset, readable_offset, readable_index = 3, 10, 20

    def setUp(self):
        self.readers = ManualQueue()
        self.barriers = []
        self.asked = []
        self.is_full = self.is_damaged = False
        self.found = (5, 70)
        self.raft = SimpleNamespace(id=1, configuration=SimpleNamespace(voters={1}))
        self.reads = LogReads(
            self.readers,
            self,
            member=lambda: self.driver(),
            is_damaged=lambda: self.is_damaged,
            read_failed=lambda error: error,
            cold_reads=ColdReads(),
            scheduler=Clock(),
        )
        self.is_member = True

    def driver(self):
        if not self.is_member:
            raise UnavailableError("no member")
        return self

    def read_barrier(self, done, failed):
        barrier = Deferred()
        barrier.addCallbacks(done, lambda failure: failed(failure.value))
        self.barriers.append(barrier)

    # --- the log ----------------------------------------------------------------------

    def is_hot(self, offset):
        return offset >= 8

    def is_near(self, offset):
        return True

    def read(self, *asked):
        self.asked.append(asked)
        return b"frames", 9

    def find_time(self, *asked):
        self.asked.append(asked)
        return self.found

    def test_fetch(self):
        """What is readable is read at once when it is hot, else on another thread; no more than the limit."""
        for offset, is_hot in ((3, False), (7, False), (8, True), (9, True)):
            done = self.reads.fetch(offset, KIB)
            self.assertEqual(len(self.readers.waiting), int(not is_hot))
            self.readers.drain()
            fetched = self.successResultOf(done)
            self.assertEqual((fetched.frames, fetched.next_offset), (b"frames", 9))
            self.assertEqual(self.asked.pop(), (offset, KIB, 20))
        self.successResultOf(self.reads.fetch(8, FETCH_SIZE_MAX + 1))
        self.assertEqual(self.asked.pop(), (8, FETCH_SIZE_MAX, 20))
        self.assertEqual(self.barriers, [])

    def test_miss(self):
        """What is not readable here is asked of the leader first: then it is, or the bounds are told."""
        for offset in (2, 10):
            done = self.reads.fetch(offset, KIB)
            self.assertNoResult(done)
            self.barriers.pop().callback(20)
            error = self.failureResultOf(done, OffsetOutOfRangeError).value
            self.assertEqual((error.offset, error.lowest, error.next_offset), (offset, 3, 10))
        done = self.reads.fetch(10, KIB)
        self.readable_offset = 11
        self.barriers.pop().callback(20)
        self.assertEqual(self.successResultOf(done).next_offset, 9)
        done = self.reads.fetch(11, KIB)
        self.barriers.pop().errback(UnavailableError("x"))
        self.failureResultOf(done, UnavailableError)

    def test_no_member(self):
        """Who is no member yet answers nothing."""
        self.is_member = False
        for done in (self.reads.fetch(5, KIB), self.reads.bounds()):
            self.failureResultOf(done, UnavailableError)

    def test_bounds(self):
        """The readable range, once the leader confirmed it."""
        done = self.reads.bounds()
        self.barriers.pop().callback(20)
        bounds = self.successResultOf(done)
        self.assertEqual((bounds.lowest, bounds.next_offset), (3, 10))

    def test_find(self):
        """A time is looked up within what is readable; nothing found is the next offset."""
        done = self.reads.find_offset(60)
        self.assertEqual(len(self.readers.waiting), 0)
        self.barriers.pop().callback(20)
        self.readers.drain()
        self.assertEqual(self.successResultOf(done), (5, 70))
        self.assertEqual(self.asked, [(60, 20, 3)])
        self.found = None
        done = self.reads.find_offset(60)
        self.barriers.pop().callback(20)
        self.readers.drain()
        self.assertEqual(self.successResultOf(done), (10, 0))

    def test_find_alone(self):
        """Without the leader what is found counts; that nothing is does not, nor does any other failure."""
        for found, error, is_answer in (
            ((5, 70), UnavailableError("x"), True),
            (None, UnavailableError("x"), False),
            ((5, 70), NotLeaderError(), False),
            ((5, 70), KeyError("x"), False),
        ):
            self.found = found
            done = self.reads.find_offset(60)
            self.barriers.pop().errback(Failure(error))
            self.readers.drain()
            if is_answer:
                self.assertEqual(self.successResultOf(done), (5, 70))
            else:
                self.assertIs(self.failureResultOf(done).value, error)

    def test_full_and_alone(self):
        """A lone voter with a full disk, which leads no more, confirms by itself; damaged it does not."""
        for is_full, voters, is_damaged, asks in (
            (True, {1}, False, 0),
            (False, {1}, False, 1),
            (True, {1, 2}, False, 1),
            (True, {2}, False, 1),
            (True, {1}, True, 1),
        ):
            self.is_full, self.is_damaged, self.raft.configuration.voters = is_full, is_damaged, voters
            done = self.reads._confirm()
            self.assertEqual(len(self.barriers), asks, (is_full, voters, is_damaged))
            self.barriers.clear()
            if not asks:
                self.assertEqual(self.successResultOf(done), 20)


class LingerTests(SynchronousTestCase):
    """How long a door with timers waits behind an entry when there are several callers."""

    def test_seconds(self):
        """A quarter of a millisecond for each caller from six on, sixteen milliseconds at most."""
        for count, seconds in ((6, 0.0015), (7, 0.00175), (64, 0.016), (65, 0.016), (100, 0.016)):
            clock, settle = Clock(), []
            coalescer = Coalescer(
                lambda _, appended, failed, settle=settle: settle.append(failed),
                lambda work: None,
                later=clock.callLater,
            )
            for _ in range(count):
                coalescer.add("a", Batch(b"x"))
            coalescer.flush()
            settle.pop()(UnavailableError("x"))
            [timer] = clock.getDelayedCalls()
            self.assertAlmostEqual(timer.getTime(), seconds, 9, str(count))
