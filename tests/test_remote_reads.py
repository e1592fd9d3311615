"""Tests of loghouse.node.remote_reads: which nodes are asked, and who waits for what."""

from functools import partial
from types import SimpleNamespace

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import OffsetOutOfRangeError, ResourceExhaustedError, UnavailableError
from loghouse.limits import FORWARD_RETRY_SECONDS
from loghouse.node.leaders import LeaderTable
from loghouse.node.remote_log import RemoteLog
from loghouse.node.remote_reads import RemoteReads
from loghouse.node.waiters import Waiters
from loghouse.protocol.record_range import RecordRange
from loghouse.protocol.routing_messages import Lead
from loghouse.replica.api import Fetched, LogBounds


class FakeForwarder:
    """Notes what is asked of whom; the test answers, or `refused` nodes fail at once."""

    def __init__(self):
        self.asked, self.done, self.cancelled = [], [], []
        self.refused = {}

    def _ask(self, what, name, group, *arguments):
        self.asked.append((what, name, group, *arguments))
        if name in self.refused:
            return fail(self.refused[name])
        self.done.append(Deferred(self.cancelled.append))
        return self.done[-1]

    def __getattr__(self, name):
        return partial(self._ask, name)


class RemoteReadsCase(SynchronousTestCase):
    """The log `orders`, which the nodes in `names` have."""

    name, group = "orders", 16

    def setUp(self):
        self.names = ["b", "c"]
        self.clock, self.waiters, self.forwarder = Clock(), Waiters(), FakeForwarder()
        self.reads = RemoteReads(self, self.waiters, self.forwarder, clock=self.clock)

    def sources(self):
        return self.names

    def asked(self):
        """What was asked since the last time."""
        asked, self.forwarder.asked = self.forwarder.asked, []
        return asked


class AskingTests(RemoteReadsCase):
    """One node after the other."""

    def test_first(self):
        """What the first node says is the answer."""
        read, bounds, found = self.reads.fetch(3, 100), self.reads.bounds(), self.reads.find_offset(77)
        self.assertEqual(
            self.asked(), [("read", "b", 16, 3, 100), ("bounds", "b", 16), ("find_offset", "b", 16, 77)]
        )
        answers = Fetched(frames=b"x", next_offset=4), LogBounds(lowest=1, next_offset=9), (5, 77)
        for deferred, answer in zip(self.forwarder.done, answers, strict=True):
            deferred.callback(answer)
        for done, answer in zip((read, bounds, found), answers, strict=True):
            self.assertIs(self.successResultOf(done), answer)
        self.assertEqual(self.asked(), [])

    def test_range(self):
        """A range is asked for as any read, and is nobody else's answer."""
        wanted = RecordRange(first=3)
        reading = [self.reads.read_range(wanted), self.reads.read_range(wanted)]
        self.assertEqual(self.asked(), [("read_range", "b", 16, wanted)] * 2)
        for done, deferred, answer in zip(reading, self.forwarder.done, ("one", "two"), strict=True):
            deferred.callback(answer)
            self.assertEqual(self.successResultOf(done), answer)

    def test_next(self):
        """When the first node cannot tell, the next one is asked; each once."""
        for error in (UnavailableError("lost"), ResourceExhaustedError("reads", "full")):
            done = self.reads.bounds()
            self.forwarder.done[-1].errback(error)
            self.assertEqual(self.asked(), [("bounds", "b", 16), ("bounds", "c", 16)])
            self.assertNoResult(done)
            self.forwarder.done[-1].errback(UnavailableError("the last"))
            self.assertEqual(str(self.failureResultOf(done, UnavailableError).value), "the last")
            self.assertEqual(self.asked(), [])

    def test_certain(self):
        """A refusal that no other node would change is the answer."""
        done = self.reads.fetch(3, 100)
        self.forwarder.done[0].errback(OffsetOutOfRangeError(3, 5, 9))
        self.failureResultOf(done, OffsetOutOfRangeError)
        self.assertEqual(len(self.asked()), 1)

    def test_nobody(self):
        """Without a node that is known to have the log, its name is in the refusal."""
        self.names = []
        for done in (self.reads.fetch(0, 1), self.reads.bounds(), self.reads.find_offset(0)):
            self.assertIn("'orders'", str(self.failureResultOf(done, UnavailableError).value))

    def test_cancelled(self):
        """A reader that gives up has no other node asked."""
        for before in (0, 1):
            done = self.reads.bounds()
            for _ in range(before):
                self.forwarder.done[-1].errback(UnavailableError("lost"))
            self.asked()
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.assertEqual(self.asked(), [])
        self.assertEqual(len(self.forwarder.cancelled), 2)


class SharedTests(RemoteReadsCase):
    """Equal reads are one."""

    def fetch(self, offset=7, size_max=100):
        return self.reads.fetch(offset, size_max)

    def test_shared(self):
        """Who asks for the same while a read is under way gets its answer; the next one asks anew."""
        reading = [self.fetch(), self.fetch(), self.fetch(8), self.fetch(7, 99), self.fetch()]
        self.assertEqual([what[3:] for what in self.asked()], [(7, 100), (8, 100), (7, 99)])
        fetched = Fetched(frames=b"x", next_offset=9)
        self.forwarder.done[0].callback(fetched)
        for place in (0, 1, 4):
            self.assertIs(self.successResultOf(reading[place]), fetched)
        self.assertNoResult(reading[2])
        self.assertNoResult(self.fetch())
        self.assertEqual(len(self.asked()), 1)

    def test_refused(self):
        """All are told of a failure."""
        self.names = ["b"]
        reading = [self.fetch(), self.fetch()]
        self.forwarder.done[0].errback(UnavailableError("lost"))
        for one in reading:
            self.failureResultOf(one, UnavailableError)

    def test_appended_meanwhile(self):
        """Who came later is not told that there is no record yet, but asks again: all of them together."""
        reading = [self.fetch() for _ in range(3)]
        self.forwarder.done[0].errback(OffsetOutOfRangeError(7, 0, 7))
        self.failureResultOf(reading[0], OffsetOutOfRangeError)
        self.assertEqual(len(self.asked()), 2)
        self.forwarder.done[1].errback(OffsetOutOfRangeError(7, 0, 7))
        for one in reading[1:]:
            self.failureResultOf(one, OffsetOutOfRangeError)
        self.assertEqual(self.asked(), [])

    def test_cancelled(self):
        """The read goes on until the last one leaves; then it is dropped, and the next one asks anew."""
        first, second = self.fetch(), self.fetch()
        for done, cancelled in ((first, 0), (second, 1)):
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.assertEqual(len(self.forwarder.cancelled), cancelled)
        self.assertNoResult(self.fetch())
        self.assertEqual(len(self.asked()), 2)

    def test_answered_at_once(self):
        """A read that is answered before the question returns leaves nothing behind."""
        self.names = []
        for _ in range(2):
            self.failureResultOf(self.fetch(), UnavailableError)


class WaitingTests(RemoteReadsCase):
    """Waiting for records that nobody has here."""

    def answer(self, next_offset):
        self.forwarder.done[-1].callback(next_offset)

    def test_shared(self):
        """All who wait wait together: for the lowest offset, and again for what is left."""
        waiting = [self.reads.wait_for(offset) for offset in (7, 9, 7)]
        self.assertEqual(self.asked(), [("wait", "b", 16, 7)])
        self.answer(8)
        self.successResultOf(waiting[0])
        self.successResultOf(waiting[2])
        self.assertNoResult(waiting[1])
        self.assertEqual(self.asked(), [("wait", "b", 16, 9)])
        self.answer(10)
        self.successResultOf(waiting[1])
        self.assertEqual((self.asked(), self.waiters.count), ([], 0))

    def test_known(self):
        """What is known to be readable is not asked for again: by waits, and by what was read."""
        self.reads.wait_for(7)
        self.answer(20)
        self.successResultOf(self.reads.wait_for(19))
        read = self.reads.fetch(20, 100)
        self.forwarder.done[-1].callback(Fetched(frames=b"", next_offset=25))
        self.successResultOf(read)
        self.asked()
        self.successResultOf(self.reads.wait_for(24))
        self.assertEqual(self.asked(), [])
        self.assertNoResult(self.reads.wait_for(25))
        self.assertEqual(self.asked(), [("wait", "b", 16, 25)])

    def test_read_wakes(self):
        """What one reader gets wakes others that wait for it."""
        waiting = self.reads.wait_for(7)
        self.reads.fetch(6, 100)
        self.forwarder.done[-1].callback(Fetched(frames=b"", next_offset=8))
        self.successResultOf(waiting)
        self.assertEqual(len(self.forwarder.cancelled), 1)

    def test_take_over(self):
        """Who waited for records of a copy that is gone waits for what another node says."""
        self.reads.take_over()
        self.assertEqual(self.asked(), [])
        waiting = self.waiters.wait_for(9), self.waiters.wait_for(7)
        self.reads.take_over()
        self.reads.take_over()
        self.assertEqual(self.asked(), [("wait", "b", 16, 7)])
        self.answer(8)
        self.successResultOf(waiting[1])
        self.assertEqual(self.asked(), [("wait", "b", 16, 9)])
        self.forwarder.refused = {"b": UnavailableError("lost"), "c": UnavailableError("lost")}
        self.forwarder.done[-1].errback(UnavailableError("lost"))
        self.reads.take_over()
        self.assertEqual([what[1] for what in self.asked()], ["c"], "and now and then, as after any failure")
        waiting[0].addErrback(lambda failure: failure.trap(CancelledError))
        waiting[0].cancel()
        self.clock.advance(FORWARD_RETRY_SECONDS)
        self.assertEqual((self.asked(), self.clock.getDelayedCalls()), ([], []))

    def test_lower(self):
        """Who comes for a lower offset is waited for at once; the request before is dropped."""
        self.reads.wait_for(9)
        lower = self.reads.wait_for(7)
        self.assertEqual(self.asked(), [("wait", "b", 16, 9), ("wait", "b", 16, 7)])
        self.assertEqual(self.forwarder.cancelled, [self.forwarder.done[0]])
        self.answer(8)
        self.successResultOf(lower)
        self.assertEqual(self.asked(), [("wait", "b", 16, 9)])

    def test_nothing_new(self):
        """An answer without the record is no end: it is asked for again."""
        waiting = self.reads.wait_for(7)
        self.answer(7)
        self.assertNoResult(waiting)
        self.assertEqual(self.asked(), [("wait", "b", 16, 7)] * 2)

    def test_answered_at_once(self):
        """Answers that come before the question returns are no reason to ask for ever."""
        answers = iter((8, 10))

        def wait(name, group, offset):
            done = self.forwarder._ask("wait", name, group, offset)
            done.callback(next(answers))
            return done

        waiting = self.waiters.wait_for(9)
        self.forwarder.wait = wait
        self.successResultOf(self.reads.wait_for(7))
        self.successResultOf(waiting)
        self.assertEqual([what[3] for what in self.asked()], [7, 9])
        self.forwarder.wait = partial(self.forwarder._ask, "wait")
        self.assertNoResult(self.reads.wait_for(10))
        self.assertEqual(self.asked(), [("wait", "b", 16, 10)])

    def test_cancelled(self):
        """Once nobody waits the request is dropped."""
        waiting = [self.reads.wait_for(7), self.reads.wait_for(7)]
        for done, cancelled in zip(waiting, (0, 1), strict=True):
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.assertEqual(len(self.forwarder.cancelled), cancelled)
        self.assertNoResult(self.reads.wait_for(7))
        self.assertEqual(len(self.asked()), 2)

    def test_nobody_can_tell(self):
        """While no node can be asked, who waits goes on waiting, and it is tried again and again."""
        self.forwarder.refused = {"b": UnavailableError("lost"), "c": UnavailableError("lost")}
        waiting = self.reads.wait_for(7)
        self.assertEqual([what[1] for what in self.asked()], ["b", "c"])
        self.assertNoResult(self.reads.wait_for(3))
        self.assertEqual(self.asked(), [], "not more often than now and then")
        self.forwarder.refused = {}
        self.clock.advance(FORWARD_RETRY_SECONDS)
        self.assertEqual(self.asked(), [("wait", "b", 16, 3)])
        self.answer(8)
        self.successResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_has_it(self):
        """So it is while no node is known that has the log."""
        self.names = []
        waiting = self.reads.wait_for(7)
        self.assertEqual(self.asked(), [])
        self.names = ["d"]
        self.clock.advance(FORWARD_RETRY_SECONDS)
        self.assertEqual(self.asked(), [("wait", "d", 16, 7)])
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        waiting.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_before_a_retry(self):
        """Once nobody waits it is not tried again."""
        self.names = []
        waiting = self.reads.wait_for(7)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end(self):
        """When waiting ends for all, so does the request, and who comes later is told."""
        waiting = self.reads.wait_for(7)
        self.waiters.close(UnavailableError("stopping"))
        self.failureResultOf(waiting, UnavailableError)
        self.assertEqual(len(self.forwarder.cancelled), 1)
        self.failureResultOf(self.reads.wait_for(7), UnavailableError)
        self.assertEqual((len(self.asked()), self.clock.getDelayedCalls()), (1, []))


class RemoteLogTests(SynchronousTestCase):
    """Who has a log, and who leads it, by what is known here."""

    def setUp(self):
        self.table = LeaderTable(lambda: 0.0)
        self.node = SimpleNamespace(name="d", elsewhere=SimpleNamespace(leaders=self.table))
        self.node.elsewhere.remote_reads = lambda log, waiters: SimpleNamespace(log=log, waiters=waiters)
        self.log = RemoteLog(self.node, "orders", 16, "waiters")

    def lead(self, name, term):
        self.table.heard(name, (Lead(group=16, term=term),))

    def test_nobody(self):
        """Without a catalogue and a leader there is nobody, and nothing reads."""
        self.assertEqual((self.log.leader_name(), self.log.leader_after(0), self.log.sources()), ("", "", []))
        self.assertEqual((self.log.is_known, self.log.reads), (False, None))

    def test_alone(self):
        """Nor is there a way to others on a node alone."""
        self.node.elsewhere, self.log.replica_names = None, ["a"]
        self.assertEqual((self.log.leader_name(), self.log.leader_after(0)), ("", ""))
        self.assertIsNone(self.log.reads)

    def test_sources(self):
        """The leader is asked first, and this node never."""
        self.log.replica_names = ["d", "a", "b", "c"]
        self.assertEqual(self.log.sources(), ["a", "b", "c"])
        self.lead("b", 1)
        self.assertEqual(self.log.sources(), ["b", "a", "c"])
        self.lead("e", 2)
        self.assertEqual(self.log.sources(), ["e", "a", "b", "c"])

    def test_reads(self):
        """One object reads it, from when somebody is known who has it."""
        self.lead("b", 1)
        self.assertTrue(self.log.is_known)
        self.assertIs(self.log.reads, self.log.reads)
        self.assertEqual((self.log.reads.log, self.log.reads.waiters), (self.log, "waiters"))

    def test_own_term(self):
        """To a replica that lost its leader only one of a later term is news."""
        self.lead("b", 3)
        told = [self.log.leader_after(term) for term in (0, 2, 3, 4)]
        self.assertEqual((told, self.log.leader_name()), (["b", "b", "", ""], "b"))

    def test_gone(self):
        """A log that was deleted nobody has, whoever still says that it leads it."""
        self.log.replica_names = ["a"]
        self.lead("b", 3)
        self.log.retire()
        self.lead("b", 4)
        self.assertEqual((self.log.leader_name(), self.log.leader_after(0), self.log.sources()), ("", "", []))
        self.assertEqual((self.log.is_known, self.log.reads), (False, None))
