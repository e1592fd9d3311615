"""Tests of loghouse.node.forwarded_reads: two ends over links that a test cuts, delays and turns back."""

from types import SimpleNamespace

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.errors import OffsetOutOfRangeError, ResourceExhaustedError, UnavailableError
from loghouse.limits import (
    FETCH_SIZE_MAX,
    FORWARD_READ_SECONDS,
    FORWARD_WAIT_SECONDS,
    FORWARDED_READS_SIZE_MAX,
    PEER_QUEUE_SIZE_MAX,
    READER_SIZE_MIN,
)
from loghouse.node import forwarded_reads
from loghouse.node.forwarded_reads import REPLIES, REQUESTS, ReadForwarder
from loghouse.node.waiters import Waiters
from loghouse.protocol.forward_messages import ForwardFailure
from loghouse.protocol.message import RequestIds
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import Consistency, ReadPage, RecordRange
from loghouse.protocol.routing_messages import (
    ForwardBoundsReply,
    ForwardFrames,
    ForwardRead,
    ForwardWaitReply,
)
from loghouse.replica.api import Fetched, LogBounds
from tests.recording import RecordingMetrics
from tests.test_forwarding import over_the_wire

GROUP = 16
FRAMES = b"frames of two entries"


class FakeReads:
    """A copy of a log: notes what is read of it; `outcome` None: answers when the test does."""

    def __init__(self):
        self.asked, self.waiting = [], []
        self.outcome = Fetched(frames=memoryview(FRAMES), next_offset=9)

    def fetch(self, offset, size_max):
        return self._answer(("fetch", offset, size_max), self.outcome)

    def read_range(self, wanted):
        page = ReadPage(frames=memoryview(FRAMES), next_offset=4, lowest=2, committed=9, is_confirmed=True)
        return self._answer(wanted, page)

    def bounds(self):
        return self._answer("bounds", LogBounds(lowest=2, next_offset=9))

    def find_offset(self, timestamp):
        return self._answer(("find", timestamp), (5, 77))

    def _answer(self, what, answer):
        self.asked.append(what)
        if isinstance(self.outcome, Exception):
            return fail(self.outcome)
        if self.outcome is None:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        return succeed(answer)


class Member:
    """A node with both ends, and a copy of one log."""

    def __init__(self, town, name, **arguments):
        self.town, self.name = town, name
        self.metrics = RecordingMetrics()
        self.reads, self.driver = FakeReads(), SimpleNamespace(readable_offset=9)
        self.waiters = Waiters()
        self.forwarder = ReadForwarder(
            self.send, clock=town.clock, ids=RequestIds(2**64 - 2), metrics=self.metrics, **arguments
        )

    def wait_for(self, offset):
        return succeed(None) if offset < self.driver.readable_offset else self.waiters.wait_for(offset)

    def append(self, next_offset):
        self.driver.readable_offset = next_offset
        self.waiters.wake(next_offset)

    def send(self, target, message, group):
        if (self.name, target) in self.town.cut:
            return False
        if self.town.full and isinstance(message, ForwardFrames):
            return False
        self.town.wires.append((self.name, target, message, group))
        return True

    def receive(self, source, message, group=GROUP):
        if isinstance(message, REQUESTS):
            self.forwarder.asked_for(source, group, message, self if group == GROUP else None)
        elif isinstance(message, ForwardFailure):
            self.forwarder.failed(source, group, message)
        else:
            assert isinstance(message, REPLIES)
            self.forwarder.answered(source, group, message)

    @property
    def ignored(self):
        return self.metrics.count("forwarded_message_ignored")


class ReadCase(SynchronousTestCase):
    """Node `a` has no copy, node `b` has one; what they send waits in `wires` until `deliver`."""

    def setUp(self):
        self.clock, self.wires, self.cut, self.full = Clock(), [], set(), False
        self.members = {}
        self.a, self.b = self.add("a"), self.add("b")

    def add(self, name, **arguments):
        self.members[name] = Member(self, name, **arguments)
        return self.members[name]

    def deliver(self, count=None):
        while self.wires and count != 0:
            source, target, message, group = self.wires.pop(0)
            self.members[target].receive(source, over_the_wire(message), group)
            count = count - 1 if count is not None else None

    def read(self, offset=7, size_max=100_000, name="b"):
        return self.a.forwarder.read(name, GROUP, offset, size_max)

    def wait(self, offset, group=GROUP):
        return self.a.forwarder.wait("b", group, offset)

    def assertQuiet(self):
        """Nobody is waited for, nothing is counted, and no timer is left once its time has come."""
        for node in (self.a.forwarder, self.b.forwarder):
            self.assertEqual((node._asked, node._asked_size), ({}, 0))
            self.assertEqual((node._serving_size, node._serving_count, node._waits), (0, 0, {}))
        self.clock.advance(FORWARD_READ_SECONDS + FORWARD_WAIT_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AnswerTests(ReadCase):
    """What the copy says reaches the reader as if it had been read here."""

    def test_frames(self):
        """Whole frames come as they are, without a copy of their bytes on the way out."""
        done = self.read()
        self.deliver(1)
        self.assertEqual(self.b.reads.asked, [("fetch", 7, 100_000)])
        [(_, _, answer, group)] = self.wires
        self.assertIs(answer.frames, self.b.reads.outcome.frames)
        self.assertIs(answer.encode()[-1], answer.frames)
        self.assertEqual(group, GROUP)
        self.deliver()
        fetched = self.successResultOf(done)
        self.assertEqual((bytes(fetched.frames), fetched.next_offset), (FRAMES, 9))
        self.assertIsInstance(fetched.frames, memoryview)
        self.assertQuiet()

    def test_size(self):
        """Nobody asks for more than one fetch may give, nor gives it."""
        self.read(size_max=2**32)
        [(_, _, message, _)] = self.wires
        self.assertEqual(message.size_max, FETCH_SIZE_MAX)
        self.b.receive("a", ForwardRead(request_id=1, offset=0, size_max=2**32 - 1))
        self.assertEqual(self.b.reads.asked, [("fetch", 0, FETCH_SIZE_MAX)])

    def test_range(self):
        """A range goes there with all that is wanted, and comes back with all that is known there."""
        wanted = RecordRange(
            first=4,
            end=7,
            is_reverse=True,
            count_max=3,
            size_max=100,
            filter=RecordFilter(keys=(b"k",), key_prefixes=(b"p",), headers=(("h", b"v"),)),
            consistency=Consistency.LOCAL,
        )
        done = self.a.forwarder.read_range("b", GROUP, wanted)
        self.assertEqual(self.a.forwarder._asked_size, READER_SIZE_MIN)
        self.deliver()
        self.assertEqual(self.b.reads.asked, [wanted])
        page = self.successResultOf(done)
        self.assertEqual((bytes(page.frames), page.next_offset), (FRAMES, 4))
        self.assertEqual((page.lowest, page.committed, page.is_confirmed), (2, 9, True))
        self.assertQuiet()

    def test_range_that_cannot_be_meant(self):
        """What a later version may ask for and this one does not know is refused."""
        done = self.a.forwarder.read_range("b", GROUP, RecordRange(consistency=7))
        self.deliver()
        self.assertIn("consistency", str(self.failureResultOf(done, errors.InvalidRequestError).value))
        self.assertEqual(self.b.reads.asked, [])
        self.assertQuiet()

    def test_bounds_and_times(self):
        """The readable range, and the first offset of a time."""
        bounds = self.a.forwarder.bounds("b", GROUP)
        found = self.a.forwarder.find_offset("b", GROUP, 2**64 - 1)
        self.deliver()
        self.assertEqual(self.successResultOf(bounds), LogBounds(lowest=2, next_offset=9))
        self.assertEqual(self.successResultOf(found), (5, 77))
        self.assertEqual(self.b.reads.asked, ["bounds", ("find", 2**64 - 1)])
        self.assertQuiet()

    def test_refusals_keep_their_details(self):
        """A typed error of the other node is the same error here."""
        for error in (
            OffsetOutOfRangeError(7, 1, 5),
            UnavailableError("no leader"),
            ResourceExhaustedError("followers", "too many"),
        ):
            self.b.reads.outcome = error
            done = self.read()
            self.deliver()
            told = self.failureResultOf(done).value
            self.assertEqual((type(told), vars(told), str(told)), (type(error), vars(error), str(error)))
        self.assertQuiet()

    def test_a_bug_there(self):
        """What breaks inside the other node is in its diagnostics, and another node may be asked."""
        for bug in (AssertionError("ours"), errors.RequestError("bare")):
            self.b.reads.outcome = bug
            done = self.read()
            self.deliver()
            self.assertIn("failed while it read", str(self.failureResultOf(done, UnavailableError).value))
            self.assertEqual(len(self.flushLoggedErrors(type(bug))), 1)
        self.assertQuiet()

    def test_error_of_a_later_version(self):
        """An error that this version does not know is no reason not to ask another node."""
        done = self.read()
        [(_, _, message, _)] = self.wires
        self.a.receive("b", ForwardFailure(request_id=message.request_id, code=999, text="something new"))
        self.assertIn("b: something new", str(self.failureResultOf(done, UnavailableError).value))

    def test_no_copy(self):
        """A node without a copy says so, and asks nobody."""
        for group, reads in ((GROUP + 1, self.b.reads), (GROUP, None)):
            self.b.reads = reads
            asked = [
                self.a.forwarder.read("b", group, 0, 1),
                self.wait(0, group),
                self.a.forwarder.bounds("b", group),
                self.a.forwarder.find_offset("b", group, 0),
            ]
            self.deliver()
            for done in asked:
                error = self.failureResultOf(done, UnavailableError).value
                self.assertIn(f"has no copy of the log of group {group}", str(error))
        self.assertQuiet()

    def test_answer_within_send(self):
        """A link that answers before `send` returns leaves no timer."""

        def send(target, message, group):
            reply = ForwardBoundsReply(request_id=message.request_id, lowest=1, next_offset=2)
            forwarder.answered(target, group, reply)
            return True

        forwarder = ReadForwarder(send, clock=self.clock, ids=RequestIds(2**64 - 1))
        self.assertEqual(self.successResultOf(forwarder.bounds("b", GROUP)).next_offset, 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class WaitTests(ReadCase):
    """Waiting for a record at another node."""

    def test_readable(self):
        """A record that is there is told at once, with how far the log is readable; no frames come."""
        done = self.wait(4)
        self.deliver()
        self.assertEqual((self.successResultOf(done), self.b.reads.asked), (9, []))
        self.assertQuiet()

    def test_woken(self):
        """A record that is not there is told when it is."""
        done = self.wait(10)
        self.deliver()
        self.b.append(10)
        self.deliver()
        self.assertNoResult(done)
        self.b.append(12)
        self.deliver()
        self.assertEqual(self.successResultOf(done), 12)
        self.assertQuiet()

    def test_long(self):
        """After a while the other node says what is so; it forgets who waited."""
        done = self.wait(10)
        self.deliver()
        self.clock.advance(FORWARD_WAIT_SECONDS)
        self.assertEqual((self.b.waiters.count, self.b.forwarder._waits), (0, {}))
        self.deliver()
        self.assertEqual(self.successResultOf(done), 9)
        self.assertQuiet()

    def test_last_one_counts(self):
        """Of the waits of one node in one group only the last one is answered, so they do not pile up."""
        before, other = self.wait(10), self.add("c").forwarder.wait("b", GROUP, 10)
        after = self.wait(11)
        self.deliver()
        self.assertEqual((self.b.waiters.count, len(self.b.forwarder._waits)), (2, 2))
        self.b.append(20)
        self.deliver()
        self.assertNoResult(before)
        self.assertEqual([self.successResultOf(done) for done in (other, after)], [20, 20])
        before.addErrback(lambda failure: failure.trap(CancelledError))
        before.cancel()
        self.assertQuiet()

    def test_link_lost(self):
        """Who waits at a node whose link is lost is forgotten there, and told here."""
        done = self.wait(10)
        self.deliver()
        self.b.forwarder.link_lost("c")
        self.assertEqual(self.b.waiters.count, 1)
        self.b.forwarder.link_lost("a")
        self.assertEqual((self.b.waiters.count, self.wires), (0, []))
        self.a.forwarder.link_lost("b")
        self.failureResultOf(done, UnavailableError)
        self.assertQuiet()

    def test_the_other_node_stops(self):
        """A node that stops sends those who wait elsewhere."""
        done = self.wait(10)
        self.deliver()
        self.b.waiters.close(UnavailableError("the node is stopping; go on at another node"))
        self.deliver()
        self.assertIn("go on at another node", str(self.failureResultOf(done, UnavailableError).value))
        late = self.wait(10)
        self.deliver()
        self.failureResultOf(late, UnavailableError)
        self.assertQuiet()

    def test_bounded(self):
        """So many logs are followed here by other nodes, and no more."""
        self.patch(forwarded_reads, "WAITERS_MAX", 1)
        first, second = self.wait(10), self.add("c").forwarder.wait("b", GROUP, 10)
        self.deliver()
        self.assertIn("1 logs are followed", str(self.failureResultOf(second, ResourceExhaustedError).value))
        self.assertNoResult(first)
        again = self.wait(11)
        self.deliver()
        self.assertNoResult(again)

    def test_no_answer(self):
        """A node that does not even answer after that while is given up."""
        done = self.wait(10)
        self.wires.clear()
        self.clock.advance(FORWARD_WAIT_SECONDS + FORWARD_READ_SECONDS)
        self.failureResultOf(done, UnavailableError)
        self.assertQuiet()


class WayTests(ReadCase):
    """Nobody is left waiting, whatever becomes of the way there and back."""

    def test_never_sent(self):
        """A node that cannot be reached is told of at once."""
        self.cut.add(("a", "b"))
        for done in (self.read(), self.wait(1), self.a.forwarder.bounds("b", GROUP)):
            self.assertIn("b cannot be reached", str(self.failureResultOf(done, UnavailableError).value))
        self.assertQuiet()

    def test_no_answer(self):
        """Each request has its own deadline."""
        first = self.read()
        self.clock.advance(FORWARD_READ_SECONDS / 2)
        second = self.a.forwarder.bounds("b", GROUP)
        self.clock.advance(FORWARD_READ_SECONDS / 2)
        self.assertIn("did not answer in time", str(self.failureResultOf(first, UnavailableError).value))
        self.assertNoResult(second)
        self.clock.advance(FORWARD_READ_SECONDS / 2)
        self.failureResultOf(second, UnavailableError)
        self.deliver()
        self.assertEqual(self.a.ignored, 2)
        self.assertQuiet()

    def test_link_lost(self):
        """What was asked on a lost link is not answered; what was asked of others is."""
        self.add("c")
        lost, kept = self.read(), self.read(name="c")
        self.a.forwarder.link_lost("b")
        self.assertIn("b was lost", str(self.failureResultOf(lost, UnavailableError).value))
        self.deliver()
        self.successResultOf(kept)
        self.assertQuiet()

    def test_answer_that_does_not_fit_the_link(self):
        """An answer for which the link has no room is a refusal at once, not a silence."""
        self.full = True
        done = self.read()
        self.deliver()
        self.assertIn("has no room", str(self.failureResultOf(done, ResourceExhaustedError).value))
        self.assertEqual(self.b.metrics.count("forwarded_answer_dropped"), 1)
        self.assertQuiet()

    def test_cancelled(self):
        """A reader that gives up is forgotten; the answer is ignored."""
        done = self.read()
        done.addErrback(lambda failure: failure.trap(CancelledError))
        done.cancel()
        self.deliver()
        self.assertEqual(self.a.ignored, 1)
        self.assertQuiet()

    def test_stop(self):
        """A node that stops tells its readers so and asks no more; it still reads for others."""
        done, served = self.read(), self.b.forwarder.bounds("a", GROUP)
        self.a.forwarder.stop()
        self.failureResultOf(done, UnavailableError)
        self.failureResultOf(self.read(), UnavailableError)
        self.deliver()
        self.successResultOf(served)
        self.assertQuiet()

    def test_stop_while_others_wait(self):
        """Who waits at a node that stops is forgotten there."""
        done = self.wait(10)
        self.deliver()
        self.b.forwarder.stop()
        self.assertEqual((self.b.waiters.count, self.b.forwarder._waits), (0, {}))
        self.a.forwarder.link_lost("b")
        self.failureResultOf(done, UnavailableError)
        self.assertQuiet()

    def test_answer_of_another(self):
        """Only the node that was asked can answer, in the group it was asked in, with what fits."""
        done = self.read()
        [(_, _, message, _)] = self.wires
        right = ForwardFrames(request_id=message.request_id, next_offset=1, frames=b"")
        failure = ForwardFailure.answering(message.request_id, UnavailableError("no"))
        self.a.receive("c", right)
        self.a.receive("b", right, GROUP + 1)
        self.a.receive("b", ForwardWaitReply(request_id=message.request_id, next_offset=1))
        self.assertFalse(self.a.forwarder.failed("c", GROUP, failure))
        self.assertNoResult(done)
        self.assertEqual(self.a.ignored, 3)
        self.a.receive("b", right)
        self.successResultOf(done)


class BudgetTests(ReadCase):
    """What is on its way is bounded on either side."""

    def test_of_one_link(self):
        """What one node may have on its way fits what a link queues, and so is not dropped there."""
        self.assertLessEqual(2 * FORWARDED_READS_SIZE_MAX, PEER_QUEUE_SIZE_MAX)

    def test_turns(self):
        """Reads beyond the budget wait here for their turn, in order; an answer lets the next one go."""
        size = FETCH_SIZE_MAX
        asked = [self.read(offset, size) for offset in range(FORWARDED_READS_SIZE_MAX // size + 2)]
        fitting = FORWARDED_READS_SIZE_MAX // size
        self.assertEqual([message.offset for _, _, message, _ in self.wires], list(range(fitting)))
        small = self.read(99, 1)
        self.assertEqual(len(self.wires), fitting, "a small one does not overtake")
        self.deliver(fitting)
        self.assertEqual([type(message) for _, _, message, _ in self.wires], [ForwardFrames] * fitting)
        self.deliver(1)
        self.successResultOf(asked[0])
        self.assertEqual(self.wires[-1][2].offset, fitting)
        self.deliver()
        for done in (*asked, small):
            self.successResultOf(done)
        self.assertEqual(self.b.reads.asked[-1], ("fetch", 99, 1))
        self.assertQuiet()

    def test_least_size(self):
        """A read counts for some bytes whatever it asks for: an entry may be larger."""
        self.a = self.add("a", size_max=2 * READER_SIZE_MIN)
        for _ in range(3):
            self.read(size_max=1)
        self.assertEqual(len(self.wires), 2)

    def test_larger_than_all(self):
        """One read goes, even if it asks for more than the budget."""
        self.a = self.add("a", size_max=1)
        first, second = self.read(), self.read()
        self.assertEqual(len(self.wires), 1)
        self.deliver()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertQuiet()

    def test_small_questions_do_not_wait(self):
        """What is answered in a few bytes goes at once."""
        self.a = self.add("a", size_max=1)
        self.read()
        self.wait(1)
        self.a.forwarder.bounds("b", GROUP)
        self.assertEqual(len(self.wires), 3)

    def test_in_the_queue(self):
        """A read that waits for its turn has its deadline, may be cancelled, and goes when others fail."""
        self.a = self.add("a", size_max=1)
        first, second, third, fourth = (self.read(offset) for offset in range(4))
        second.addErrback(lambda failure: failure.trap(CancelledError))
        second.cancel()
        self.a.forwarder.link_lost("b")
        self.failureResultOf(first, UnavailableError)
        self.assertEqual([message.offset for _, _, message, _ in self.wires], [0, 2])
        self.clock.advance(FORWARD_READ_SECONDS)
        for done in (third, fourth):
            self.failureResultOf(done, UnavailableError)
        self.wires.clear()
        self.assertQuiet()

    def test_turn_late(self):
        """The time for an answer begins when the read goes."""
        self.a = self.add("a", size_max=1)
        first, second = self.read(), self.read()
        self.clock.advance(FORWARD_READ_SECONDS - 1)
        self.deliver(2)
        self.successResultOf(first)
        self.clock.advance(FORWARD_READ_SECONDS - 1)
        self.assertNoResult(second)
        self.deliver()
        self.successResultOf(second)
        self.assertQuiet()

    def test_all_fail(self):
        """Many that wait for their turn and cannot be sent then are told, however many they are."""
        self.a = self.add("a", size_max=1)
        asked = [self.read() for _ in range(2000)]
        self.cut.add(("a", "b"))
        self.deliver()
        self.successResultOf(asked[0])
        for done in asked[1:]:
            self.failureResultOf(done, UnavailableError)
        self.assertQuiet()

    def test_stop_with_a_queue(self):
        """Who waits for a turn is told of the end, and nothing more is sent."""
        self.a = self.add("a", size_max=1)
        first, second = self.read(), self.read()
        self.a.forwarder.stop()
        for done in (first, second):
            self.failureResultOf(done, UnavailableError)
        self.assertEqual(len(self.wires), 1)

    def test_count(self):
        """So many may wait here; one more is refused at once."""
        self.a = self.add("a", count_max=2)
        self.read()
        self.wait(1)
        for done in (self.read(), self.wait(1)):
            self.assertIn(
                "2 wait here already", str(self.failureResultOf(done, ResourceExhaustedError).value)
            )

    def test_serving(self):
        """What other nodes ask for is read up to a bound; beyond it they are refused, and not read for."""
        for bound in ({"served_size_max": 2 * 100_000 - 1}, {"count_max": 1}):
            self.b = self.add("b", **bound)
            self.b.reads.outcome = None
            done, refused = self.read(), self.read()
            self.deliver()
            self.assertIn(
                "are under way here", str(self.failureResultOf(refused, ResourceExhaustedError).value)
            )
            self.assertEqual(len(self.b.reads.waiting), 1)
            self.b.reads.waiting[0].callback(SimpleNamespace(frames=b"x", next_offset=8))
            self.deliver()
            self.assertEqual(self.successResultOf(done).next_offset, 8)
            self.assertQuiet()
