"""`LogReads` by itself: what is read at once, what the leader is asked first, what is told of a failure."""

from types import SimpleNamespace

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DiskFailedError, OffsetOutOfRangeError, UnavailableError
from loghouse.limits import FETCH_SIZE_MAX
from loghouse.node.reads import LogReads
from loghouse.replica.api import Fetched, LogBounds
from loghouse.replica.cold_reads import ColdReads
from tests.driver.queue import ManualQueue


class ReadsCase(SynchronousTestCase):
    """Reads of records 5 to 9, by a follower; the leader's word comes when the test says so."""

    def setUp(self):
        self.readers = ManualQueue()
        self.barriers = []  # each: what tells that the leader confirmed, and what tells why not
        self.dropped = []
        self.read = []  # what was read of the log
        self.is_hot = False
        self.is_damaged = False
        self.frames = (b"frames", 8)  # or what the log raises
        self.found = (6, 1000)  # the record of a time, None when there is none
        raft = SimpleNamespace(id=1, configuration=SimpleNamespace(voters={1, 2}))
        self.driver = SimpleNamespace(
            raft=raft, lowest_offset=5, readable_offset=10, readable_index=77, is_full=False,
            read_barrier=self.barrier,
        )  # fmt: skip
        self.log = SimpleNamespace(
            read=self.read_log, find_time=self.find_time, is_hot=lambda _: self.is_hot, is_near=lambda _: True
        )
        self.reads = LogReads(
            self.readers,
            self.log,
            member=self.member,
            is_damaged=lambda: self.is_damaged,
            read_failed=self.explain,
            cold_reads=ColdReads(),
            scheduler=Clock(),
        )

    def member(self):
        if isinstance(self.driver, Exception):
            raise self.driver
        return self.driver

    def barrier(self, confirmed, failed):
        self.barriers.append((confirmed, failed))
        return SimpleNamespace(cancel=lambda: self.dropped.append(True))

    def confirm(self, error=None):
        """Let the leader confirm, or not, what was asked first."""
        confirmed, failed = self.barriers.pop(0)
        if error is None:
            confirmed(77)
        else:
            failed(error)

    def read_log(self, *where):
        self.read.append(where)
        if isinstance(self.frames, Exception):
            raise self.frames
        return self.frames

    def find_time(self, *where):
        self.read.append(where)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def explain(self, error):
        return DiskFailedError("explained") if isinstance(error, OSError) else error


class FetchTests(ReadsCase):
    """Entry frames."""

    def test_readable(self):
        """What is readable here is read without the leader, on a thread unless it is at hand."""
        for self.is_hot in (True, False):
            for offset in (5, 9):
                done = self.reads.fetch(offset, 100)
                self.assertEqual(done.called, self.is_hot)
                self.readers.drain()
                fetched = Fetched(frames=b"frames", next_offset=8)
                self.assertEqual(self.successResultOf(done), fetched)
                self.assertEqual((self.read.pop(), self.barriers), ((offset, 100, 77), []))

    def test_size(self):
        """No answer is larger than the bound, whatever is asked for."""
        for asked, size in ((FETCH_SIZE_MAX + 1, FETCH_SIZE_MAX), (FETCH_SIZE_MAX - 1, FETCH_SIZE_MAX - 1)):
            self.reads.fetch(5, asked)
            self.readers.drain()
            self.assertEqual(self.read.pop(), (5, size, 77))

    def test_not_readable(self):
        """A miss is told once the leader confirmed it; what came meanwhile is read."""
        for offset in (4, 10):
            done = self.reads.fetch(offset, 100)
            self.assertNoResult(done)
            self.confirm()
            error = self.failureResultOf(done, OffsetOutOfRangeError).value
            self.assertEqual((error.offset, error.lowest, error.next_offset), (offset, 5, 10))
        self.assertEqual((self.read, len(self.readers.waiting)), ([], 0))
        done = self.reads.fetch(10, 100)
        self.driver.readable_offset = 11
        self.confirm()
        self.readers.drain()
        self.successResultOf(done)
        self.assertEqual(self.read, [(10, 100, 77)])
        self.driver.lowest_offset = 6
        done = self.reads.fetch(5, 100)
        self.driver.lowest_offset = 5
        self.confirm()
        self.readers.drain()
        self.successResultOf(done)

    def test_not_confirmed(self):
        """Why the leader did not confirm is what is told; who gives up drops the question."""
        done = self.reads.fetch(10, 100)
        self.confirm(UnavailableError("no leader"))
        self.failureResultOf(done, UnavailableError)
        done = self.reads.fetch(10, 100)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.dropped, [True])

    def test_nothing_drives(self):
        """A copy that nothing drives is not read."""
        self.driver = UnavailableError("not now")
        for done in (self.reads.fetch(5, 1), self.reads.bounds(), self.reads.find_offset(1)):
            self.assertIs(self.failureResultOf(done, UnavailableError).value, self.driver)
        self.assertEqual((self.read, len(self.readers.waiting)), ([], 0))

    def test_trimmed_meanwhile(self):
        """What is gone when it is read is told by the bounds of now."""
        for self.is_hot in (True, False):
            self.frames = OffsetOutOfRangeError(6, 0, 99)
            done = self.reads.fetch(6, 100)
            self.driver.lowest_offset = 7
            self.readers.drain()
            error = self.failureResultOf(done, OffsetOutOfRangeError).value
            expected = (6, 5, 10) if self.is_hot else (6, 7, 10)
            self.assertEqual((error.offset, error.lowest, error.next_offset), expected)
            self.driver.lowest_offset = 5

    def test_failed(self):
        """A failed read is told as it is explained, any other bug as it is, and where it was."""
        self.frames = OSError(5, "broken")
        done = self.reads.fetch(5, 100)
        self.readers.drain()
        self.assertEqual(str(self.failureResultOf(done, DiskFailedError).value), "explained")
        self.frames = ValueError("bug")
        done = self.reads.fetch(5, 100)
        self.readers.drain()
        failure = self.failureResultOf(done, ValueError)
        self.assertIs(failure.value, self.frames)
        self.assertIn("read_log", failure.getTraceback())


class BoundsTests(ReadsCase):
    """The readable range."""

    def test_confirmed(self):
        """It is that of the moment at which the leader has confirmed."""
        done = self.reads.bounds()
        self.driver.lowest_offset, self.driver.readable_offset = 6, 12
        self.assertNoResult(done)
        self.confirm()
        self.assertEqual(self.successResultOf(done), LogBounds(lowest=6, next_offset=12))
        done = self.reads.bounds()
        self.confirm(UnavailableError("no leader"))
        self.failureResultOf(done, UnavailableError)

    def test_full_disk(self):
        """Where the disk is full a lone voter confirms by itself; a damaged one, or a member, does not."""
        for is_full, voters, is_damaged, is_asked in (
            (True, {1}, False, False),
            (True, {1}, True, True),
            (True, {1, 2}, False, True),
            (True, {2}, False, True),
            (False, {1}, False, True),
        ):
            self.driver.is_full, self.is_damaged = is_full, is_damaged
            self.driver.raft.configuration.voters = voters
            done = self.reads.bounds()
            self.assertEqual((len(self.barriers), not done.called), (is_asked, is_asked))
            if is_asked:
                self.confirm()
            self.assertEqual(self.successResultOf(done), LogBounds(lowest=5, next_offset=10))


class FindTests(ReadsCase):
    """The first record of a time."""

    def find(self, error=None):
        done = self.reads.find_offset(900)
        self.confirm(error)
        self.readers.drain()
        return done

    def test_found(self):
        """It is looked up among what is readable, on a thread; none is the next offset, at no time."""
        self.assertEqual(self.successResultOf(self.find()), (6, 1000))
        self.assertEqual(self.read, [(900, 77, 5)])
        self.found = None
        self.assertEqual(self.successResultOf(self.find()), (10, 0))

    def test_without_the_leader(self):
        """A record that is here is an answer without the leader; none is not, and then it is told why."""
        error = UnavailableError("no leader")
        self.assertEqual(self.successResultOf(self.find(error)), (6, 1000))
        self.found = None
        self.assertIs(self.failureResultOf(self.find(error), UnavailableError).value, error)

    def test_failed(self):
        """What broke is told as it is, and is no reason to look here."""
        self.failureResultOf(self.find(ValueError("bug")), ValueError)
        self.assertEqual(self.read, [])
        self.found = OSError(5, "broken")
        self.failureResultOf(self.find(), DiskFailedError)
