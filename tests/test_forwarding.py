"""Tests of loghouse.node.forwarding: two ends over links that a test cuts, delays and turns back."""

import random
from dataclasses import replace
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.errors import (
    ExpectOffsetError,
    NotLeaderError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SequenceError,
    UnavailableError,
)
from loghouse.limits import FORWARD_GRACE_SECONDS, FORWARD_SECONDS, FORWARDS_REMEMBERED_MAX
from loghouse.node.forwarding import AdminOrder, AdminResult, Forwarder
from loghouse.protocol import codec
from loghouse.protocol.forward_messages import (
    AdminOperation,
    ForwardFailure,
    ForwardProduce,
    ForwardReply,
)
from loghouse.protocol.framing import FrameBuffer
from loghouse.protocol.message import RequestIds
from loghouse.replica.api import Appended, Proposal
from tests.recording import RecordingMetrics

GROUP, OTHER = 1, 7
APPENDED = Appended(base_offset=7, record_count=2, timestamp=99, index=5, term=3)
PROPOSAL = Proposal(
    payload=b"batch",
    record_count=2,
    attributes=1,
    payload_crc=0,
    expect_offset=0,
    producer_id=4,
    producer_sequence=6,
    subject="root",
)


def over_the_wire(message):
    """Return a message as the other node decodes it."""
    [frame] = FrameBuffer(codec.body_size_max).feed(b"".join(codec.encode(message)))
    return codec.decode(frame)


class Town:
    """Nodes by name; what they send waits in `wires` until `deliver`."""

    def __init__(self):
        self.clock = Clock()
        self.members = {}
        self.wires = []
        self.cut = set()

    def add(self, name, **arguments):
        member = Member(self, name, **arguments)
        self.members[name] = member
        return member

    def deliver(self, copies=1):
        """Carry what was sent, and what is sent because of that, until nothing is on the way."""
        while self.wires:
            source, target, message, group = self.wires.pop(0)
            for _ in range(copies):
                self.members[target].receive(source, over_the_wire(message), group)


class Member:
    """A node: its forwarder, and what it does when it is asked as the leader."""

    def __init__(self, town, name, **arguments):
        self.town = town
        self.name = name
        self.proposals = []
        self.orders = []
        self.outcome = APPENDED
        self.result = AdminResult()
        arguments.setdefault("rng", random.Random(name))
        self.metrics = RecordingMetrics()
        self.forwarder = Forwarder(self.send, clock=town.clock, metrics=self.metrics, **arguments)

    @property
    def ignored(self):
        """Why messages were ignored, in order."""
        return [event[1] for event in self.metrics.events if event[0] == "forwarded_message_ignored"]

    def send(self, target, message, group):
        if (self.name, target) in self.town.cut:
            return False
        self.town.wires.append((self.name, target, message, group))
        return True

    def receive(self, source, message, group=GROUP):
        """Take a message, as the leader of both groups that there are."""
        log = SimpleNamespace(
            name="default", propose_here=self.propose_here, administer_here=self.administer_here
        )
        self.forwarder.message_received(source, message, group, log if group in (GROUP, OTHER) else None)

    def propose_here(self, proposal, appended, failed):
        self.proposals.append(proposal)
        self._answer(self.outcome).addCallbacks(appended, lambda failure: failed(failure.value))

    def administer_here(self, order):
        self.orders.append(order)
        return self._answer(self.result)

    def _answer(self, outcome):
        if isinstance(outcome, list):
            outcome.append(Deferred())
            return outcome[-1]
        return fail(outcome) if isinstance(outcome, Exception) else succeed(outcome)


class ForwardCase(SynchronousTestCase):
    """A follower `a` and a leader `b`."""

    def setUp(self):
        self.town = Town()
        self.a = self.town.add("a")
        self.b = self.town.add("b")

    def propose(self, proposal=PROPOSAL):
        return self.a.forwarder.propose("b", GROUP, proposal)

    def administer(self, operation, **fields):
        return self.a.forwarder.administer("b", GROUP, AdminOrder(operation=operation, **fields))

    def assertQuiet(self):
        """Nobody is waited for, and no timer is left once its time has come."""
        self.assertEqual((self.a.forwarder._asked, self.a.forwarder._asked_size), ({}, 0))
        self.assertEqual((self.b.forwarder._serving, self.b.forwarder._serving_size), (set(), 0))
        self.town.clock.advance(FORWARD_SECONDS)
        self.assertEqual(self.town.clock.getDelayedCalls(), [])


class AnswerTests(ForwardCase):
    """What the leader says reaches the caller as if it had been said here."""

    def test_subject_that_may_not(self):
        """The leader asks its own policy for whom another node passes a request on, and refuses by name."""

        def check(subject, log):
            if subject != "alice":
                raise PermissionDeniedError(subject, "produce", log)

        self.b.forwarder._check_subject = check
        done = self.propose(replace(PROPOSAL, subject="mallory"))
        order = self.administer(AdminOperation.REGISTER_PRODUCER, name="mallory")
        self.town.deliver()
        for refused in (done, order):
            self.assertIn(
                "'mallory' is not permitted to produce 'default'",
                str(self.failureResultOf(refused, PermissionDeniedError).value),
            )
        self.assertEqual((self.b.proposals, self.b.orders), ([], []))
        allowed = self.propose(replace(PROPOSAL, subject="alice"))
        self.town.deliver()
        self.assertEqual(self.successResultOf(allowed), APPENDED)
        self.assertQuiet()

    def test_produce(self):
        """The leader gets the proposal as it came in, and the caller where it went."""
        done = self.propose()
        self.assertNoResult(done)
        self.town.deliver()
        self.assertEqual(self.b.proposals, [PROPOSAL])
        self.assertEqual(self.successResultOf(done), APPENDED)
        self.assertQuiet()

    def test_what_is_not_given_stays_so(self):
        """A plain proposal arrives without CRC, expected offset and producer."""
        plain = Proposal(payload=b"x", record_count=1, subject="root")
        self.propose(plain)
        self.town.deliver()
        self.assertEqual(self.b.proposals, [plain])

    def test_slow_leader(self):
        """The answer comes when the leader has it, however the answers overtake each other."""
        self.b.outcome = waiting = []
        asked_first, asked_second = self.propose(), self.propose()
        self.town.deliver()
        self.assertNoResult(asked_first)
        waiting[1].callback(Appended(base_offset=9, record_count=1, timestamp=1, index=6, term=3))
        waiting[0].callback(APPENDED)
        self.town.deliver()
        self.assertEqual(self.successResultOf(asked_second).base_offset, 9)
        self.assertEqual(self.successResultOf(asked_first).base_offset, 7)
        self.assertQuiet()

    def test_refusals_keep_their_details(self):
        """A typed error of the leader is the same error here."""
        for error in (
            ExpectOffsetError(3, 8),
            SequenceError(4, 6, 5),
            errors.UnknownProducerError(4),
            ResourceExhaustedError("proposals", "too many"),
            errors.DiskFullError("/data"),
            UnavailableError("nothing was appended"),
            OutcomeUnknownError("leadership was lost"),
            errors.InvalidRequestError("record_count", "is false"),
        ):
            self.b.outcome = error
            done = self.propose()
            self.town.deliver()
            told = self.failureResultOf(done).value
            self.assertEqual((type(told), vars(told), str(told)), (type(error), vars(error), str(error)))
        self.assertQuiet()

    def test_not_the_leader_any_more(self):
        """The asked node does not lead: unavailable, naming the new leader, and nothing is passed on."""
        self.town.add("c")
        self.b.outcome = NotLeaderError("c")
        done = self.propose()
        self.town.deliver()
        told = self.failureResultOf(done, UnavailableError).value
        self.assertIn("the leader is c now", str(told))
        self.assertEqual(self.town.members["c"].proposals, [])
        self.b.outcome = NotLeaderError(None)
        done = self.propose()
        self.town.deliver()
        self.assertIn("no leader is known", str(self.failureResultOf(done, UnavailableError).value))

    def test_a_bug_at_the_leader(self):
        """What breaks inside the leader is an unknown outcome, and in the leader's diagnostics."""
        for bug in (AssertionError("ours"), errors.DiskFailedError("disk"), errors.RequestError("bare")):
            self.b.outcome = bug
            done = self.propose()
            self.town.deliver()
            self.failureResultOf(done, OutcomeUnknownError)
            self.assertEqual(len(self.flushLoggedErrors(type(bug))), 1)
        self.assertQuiet()

    def test_error_of_a_later_version(self):
        """An error this version does not know must not look safe to retry."""
        done = self.propose()
        [(_, _, message, _)] = self.town.wires
        self.a.receive("b", ForwardFailure(request_id=message.request_id, code=999, text="something new"))
        self.assertIn("something new", str(self.failureResultOf(done, OutcomeUnknownError).value))

    def test_answer_within_send(self):
        """A link that answers before `send` returns is answered to, and leaves no timer."""
        self.a.send = None

        def send(target, message, group):
            self.a.receive(target, ForwardReply(request_id=message.request_id, **vars_of(APPENDED)))
            return True

        forwarder = self.a.forwarder = Forwarder(send, clock=self.town.clock, rng=random.Random(1))
        self.assertEqual(self.successResultOf(forwarder.propose("b", GROUP, PROPOSAL)), APPENDED)
        self.assertEqual(self.town.clock.getDelayedCalls(), [])


def vars_of(appended):
    return {
        name: getattr(appended, name)
        for name in ("base_offset", "record_count", "timestamp", "index", "term")
    }


class AdminTests(ForwardCase):
    """Orders of operators and producers."""

    LAST = 2**64 - 1
    ROWS = (
        (AdminOrder(operation=AdminOperation.ADD, name="c", number=1), AdminResult()),
        (AdminOrder(operation=AdminOperation.REMOVE, name="c"), AdminResult()),
        (AdminOrder(operation=AdminOperation.TRANSFER), AdminResult(name="c")),
        (AdminOrder(operation=AdminOperation.TRIM, number=LAST), AdminResult(number=40)),
        (AdminOrder(operation=AdminOperation.REGISTER_PRODUCER, name="root"), AdminResult(number=12)),
        (AdminOrder(operation=AdminOperation.PROGRESS), AdminResult(number=9, matches=((1, 9), (2, LAST)))),
        (AdminOrder(operation=AdminOperation.FOUND_CATALOGUE), AdminResult()),
        (AdminOrder(operation=AdminOperation.HAS_LEFT, name="c", number=3), AdminResult(number=1)),
    )

    def test_orders(self):
        """Each order reaches the leader as it was given, and its result comes back."""
        for order, result in self.ROWS:
            self.b.result = result
            done = self.a.forwarder.administer("b", GROUP, order)
            self.town.deliver()
            self.assertEqual(self.b.orders.pop(), order)
            self.assertEqual(self.successResultOf(done), result)
        self.assertEqual({order.operation for order, _ in self.ROWS}, set(AdminOperation))
        self.assertQuiet()

    def test_refused(self):
        """A refused membership change keeps its reason."""
        self.b.result = errors.MembershipError("n3 is the last voter that is alive")
        done = self.administer(AdminOperation.REMOVE, name="c")
        self.town.deliver()
        told = self.failureResultOf(done, errors.MembershipError).value
        self.assertEqual(str(told), "n3 is the last voter that is alive")

    def test_answer_lost(self):
        """A change may have happened when the answer is lost; a question can just be asked again."""
        change = self.administer(AdminOperation.REMOVE, name="c")
        question = self.administer(AdminOperation.PROGRESS)
        self.a.forwarder.link_lost("b")
        self.assertIn("cluster status", str(self.failureResultOf(change, OutcomeUnknownError).value))
        self.failureResultOf(question, UnavailableError)

    def test_answer_of_another_kind(self):
        """A produce's answer does not fit an order, nor the other way round; both are ignored."""
        order = self.administer(AdminOperation.TRANSFER)
        [(_, _, message, _)] = self.town.wires
        self.a.receive("b", ForwardReply(request_id=message.request_id, **vars_of(APPENDED)))
        self.assertNoResult(order)
        self.assertEqual(self.a.ignored, ["answer that nobody waits for"])
        self.town.deliver()
        self.assertEqual(self.successResultOf(order), AdminResult())


class CertaintyTests(ForwardCase):
    """No caller is told that nothing was appended when something may have been, and none is left waiting."""

    def test_never_sent(self):
        """What the link did not take is certainly not appended."""
        self.town.cut.add(("a", "b"))
        told = self.failureResultOf(self.propose(), UnavailableError).value
        self.assertIn("send to b", str(told))
        self.assertQuiet()

    def test_no_leader(self):
        """Without a known leader nothing is sent."""
        self.failureResultOf(self.a.forwarder.propose("", GROUP, PROPOSAL), UnavailableError)
        self.assertEqual(self.town.wires, [])

    def test_link_lost(self):
        """What was sent on a lost link has an unknown outcome; what went to others still waits."""
        self.town.add("c")
        lost = [self.propose(), self.propose()]
        kept = self.a.forwarder.propose("c", GROUP, PROPOSAL)
        self.a.forwarder.link_lost("b")
        for done in lost:
            self.assertIn("may or may not", str(self.failureResultOf(done, OutcomeUnknownError).value))
        self.town.deliver()
        self.assertEqual(self.successResultOf(kept), APPENDED)
        self.assertEqual(self.a.ignored, 2 * ["answer that nobody waits for"], "the late answers of b")
        self.assertQuiet()

    def test_no_answer(self):
        """Each request has its own deadline; afterwards its outcome is unknown."""
        first = self.propose()
        self.town.clock.advance(FORWARD_SECONDS / 2)
        second = self.propose()
        self.town.clock.advance(FORWARD_SECONDS / 2)
        self.failureResultOf(first, OutcomeUnknownError)
        self.assertNoResult(second)
        self.town.clock.advance(FORWARD_SECONDS / 2)
        self.failureResultOf(second, OutcomeUnknownError)
        self.town.wires.clear()
        self.assertQuiet()

    def test_leader_changed(self):
        """Once another node leads, the old one has little time left to answer; the new one has all."""
        self.town.add("c")
        answered, cut_off = self.propose(), self.propose()
        [(_, _, first, _), _] = self.town.wires
        self.town.clock.advance(1.0)
        self.a.forwarder.leader_changed(GROUP, "")
        self.a.forwarder.leader_changed(GROUP, "b")
        self.town.clock.advance(FORWARD_GRACE_SECONDS)
        self.assertNoResult(cut_off)
        kept = self.a.forwarder.propose("c", GROUP, PROPOSAL)
        self.a.forwarder.leader_changed(GROUP, "c")
        self.a.receive("b", ForwardReply(request_id=first.request_id, **vars_of(APPENDED)))
        self.assertEqual(self.successResultOf(answered), APPENDED)
        self.assertNoResult(cut_off)
        self.town.clock.advance(FORWARD_GRACE_SECONDS)
        self.failureResultOf(cut_off, OutcomeUnknownError)
        self.assertNoResult(kept)
        self.town.clock.advance(FORWARD_SECONDS - FORWARD_GRACE_SECONDS)
        self.failureResultOf(kept, OutcomeUnknownError)
        self.town.wires.clear()
        self.assertQuiet()

    def test_leader_changed_late(self):
        """A change of leader never lengthens a deadline."""
        done = self.propose()
        self.town.clock.advance(FORWARD_SECONDS - FORWARD_GRACE_SECONDS / 2)
        self.a.forwarder.leader_changed(GROUP, "c")
        self.town.clock.advance(FORWARD_GRACE_SECONDS / 2)
        self.failureResultOf(done, OutcomeUnknownError)

    def test_lost_answer(self):
        """The leader's way back is cut: the leader goes on, the caller is told at its deadline."""
        done = self.propose()
        self.town.cut.add(("b", "a"))
        self.town.deliver()
        self.assertEqual(self.b.metrics.count("forwarded_answer_dropped"), 1)
        self.town.clock.advance(FORWARD_SECONDS)
        self.failureResultOf(done, OutcomeUnknownError)
        self.assertQuiet()

    def test_stop(self):
        """A node that stops tells who waits that nothing is known, asks no more, and still answers others."""
        done = self.propose()
        served = self.b.forwarder.propose("a", GROUP, PROPOSAL)
        self.a.forwarder.stop()
        self.failureResultOf(done, OutcomeUnknownError)
        self.failureResultOf(self.propose(), UnavailableError)
        self.assertEqual(self.town.clock.getDelayedCalls()[1:], [], "only b's timer")
        self.town.deliver()
        self.assertEqual(self.successResultOf(served), APPENDED)

    def test_cancelled(self):
        """A caller that gives up is forgotten with its bytes; the answer is ignored."""
        done = self.propose()
        done.addErrback(lambda failure: None)
        done.cancel()
        self.assertEqual(self.a.forwarder._asked_size, 0)
        self.town.deliver()
        self.assertEqual(self.a.ignored, ["answer that nobody waits for"])
        self.assertQuiet()

    def test_callers_that_cancel_each_other(self):
        """An errback that cancels another caller of the same lost link does no harm."""
        first, second = self.propose(), self.propose()
        first.addErrback(lambda failure: second.cancel())
        second.addErrback(lambda failure: None)
        self.a.forwarder.link_lost("b")
        self.assertIsNone(self.successResultOf(second))
        self.town.deliver()
        self.assertQuiet()


class CopyTests(ForwardCase):
    """Copies, strangers' answers and former lives."""

    def test_copies(self):
        """A request that arrives twice is done once, and an answer that arrives twice counts once."""
        done = self.propose()
        self.town.deliver(copies=2)
        self.assertEqual(len(self.b.proposals), 1)
        self.assertEqual(self.successResultOf(done), APPENDED)
        self.assertEqual(self.b.ignored, ["request that came before"])
        self.assertEqual(self.a.ignored, ["answer that nobody waits for"])

    def test_copy_while_under_way(self):
        """A copy of a request that is not done yet is not done either."""
        self.b.outcome = waiting = []
        done = self.propose()
        self.town.deliver(copies=2)
        self.assertEqual(len(self.b.proposals), 1)
        waiting[0].callback(APPENDED)
        self.town.deliver()
        self.assertEqual(self.successResultOf(done), APPENDED)

    def test_remembered_ids_are_bounded(self):
        """A leader remembers so many ids of each node, and none of a node whose link ended."""
        for _ in range(FORWARDS_REMEMBERED_MAX + 5):
            self.propose()
            self.town.deliver()
        self.assertEqual(len(self.b.forwarder._served_ids["a"]), FORWARDS_REMEMBERED_MAX)
        self.b.forwarder.link_lost("a")
        self.assertEqual(self.b.forwarder._served_ids, {})

    def test_answer_of_another_node(self):
        """Only the node that was asked can answer."""
        done = self.propose()
        [(_, _, message, _)] = self.town.wires
        self.a.receive("c", ForwardReply(request_id=message.request_id, **vars_of(APPENDED)))
        self.assertNoResult(done)

    def test_answer_to_a_former_life(self):
        """A restarted node begins at another id, so an answer to the one before fits nothing."""
        self.propose().addErrback(lambda failure: None)
        self.a = self.town.add("a", rng=random.Random(99))
        done = self.propose()
        before, after = (message.request_id for _, _, message, _ in self.town.wires)
        self.assertGreater(abs(before - after), 1 << 32)
        self.a.receive("b", ForwardReply(request_id=before, **vars_of(APPENDED)))
        self.assertNoResult(done)

    def test_ids_wrap(self):
        """The id behind the last one is 0."""
        self.a.forwarder.ids = RequestIds(2**64 - 1)
        dones = [self.propose(), self.propose()]
        self.assertEqual([message.request_id for _, _, message, _ in self.town.wires], [2**64 - 1, 0])
        self.town.deliver()
        self.assertEqual([self.successResultOf(done) for done in dones], [APPENDED] * 2)


class BoundTests(ForwardCase):
    """Nothing grows without limit, on either side."""

    def test_asking_is_bounded_in_number(self):
        """One request more than may wait is refused; an answer makes room."""
        self.a = self.town.add("a", count_max=2)
        waiting = [self.propose(), self.propose()]
        self.assertIn("to b, which leads", str(self.refused()))
        self.town.deliver()
        self.assertEqual([self.successResultOf(done) for done in waiting], [APPENDED] * 2)
        self.propose()
        self.assertEqual(len(self.town.wires), 1)

    def test_asking_is_bounded_in_bytes(self):
        """One byte more than may wait is refused."""
        self.a = self.town.add("a", size_max=10)
        self.propose()
        self.propose()
        self.refused()
        self.assertEqual(len(self.town.wires), 2)

    def refused(self):
        return self.failureResultOf(self.propose(), ResourceExhaustedError).value

    def test_serving_is_bounded(self):
        """A leader refuses what is beyond its bounds, and does not touch it."""
        for bound in ({"count_max": 1}, {"size_max": 9}):
            self.b = self.town.add("b", **bound)
            self.b.outcome = waiting = []
            done, refused = self.propose(), self.propose()
            self.town.deliver()
            self.failureResultOf(refused, ResourceExhaustedError)
            self.assertEqual(len(self.b.proposals), 1)
            waiting[0].callback(APPENDED)
            self.town.deliver()
            self.assertEqual(self.successResultOf(done), APPENDED)
            self.assertQuiet()


class WalkTests(SynchronousTestCase):
    """Whatever links and leaders do, every caller is answered once, and truly."""

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(st.integers(0, 2**32))
    def test_walk(self, seed):
        """A random walk of produces, cuts, losses, copies, late answers and deadlines."""
        rng = random.Random(seed)
        town = Town()
        nodes = [town.add(name, rng=random.Random(rng.random())) for name in "abc"]
        waiting, answers, seen = [], {}, []
        for number in range(60):
            asker, leader = rng.sample(nodes, 2)
            leader.outcome = rng.choice((APPENDED, NotLeaderError("a"), ExpectOffsetError(1, 2), waiting))
            proposal = Proposal(payload=b"%d" % number, record_count=1, subject="root")
            done = asker.forwarder.propose(leader.name, GROUP, proposal)
            done.addBoth(lambda outcome, n=number: seen.append((n, outcome)))
            step = rng.random()
            if step < 0.5 and town.wires:
                source, target, message, group = town.wires.pop(rng.randrange(len(town.wires)))
                if rng.random() < 0.8:
                    town.members[target].receive(source, over_the_wire(message), group)
            elif step < 0.6:
                town.cut.symmetric_difference_update({(asker.name, leader.name)})
            elif step < 0.65:
                asker.forwarder.link_lost(leader.name)
            elif step < 0.7:
                asker.forwarder.leader_changed(GROUP, rng.choice("abc"))
            elif step < 0.8 and waiting:
                waiting.pop(rng.randrange(len(waiting))).callback(APPENDED)
            elif step < 0.9:
                town.clock.advance(rng.random() * FORWARD_SECONDS)
            else:
                done.cancel()
        town.clock.advance(2 * FORWARD_SECONDS)
        for number, outcome in seen:
            self.assertNotIn(number, answers, "answered twice")
            answers[number] = outcome
        self.assertEqual(len(answers), 60)
        for number, outcome in answers.items():
            times = sum(p.payload == b"%d" % number for node in nodes for p in node.proposals)
            self.assertLessEqual(times, 1, "done twice")
            if isinstance(outcome, Appended):
                self.assertEqual(times, 1)
            elif outcome.check(UnavailableError) and "cannot be reached" in str(outcome.value):
                self.assertEqual(times, 0, "told that nothing was done")
        for node in nodes:
            self.assertEqual((node.forwarder._asked, node.forwarder._asked_size), ({}, 0))
        self.assertEqual(town.clock.getDelayedCalls(), [])


class MessageTests(SynchronousTestCase):
    """What a leader would choke on does not get through the decoder."""

    def test_false_produces(self):
        """No records, too many, an unknown attribute: malformed."""
        good = {"request_id": 1, "subject": "root", "batch": b"x", "record_count": 1}
        for name, changed in (
            ("no records", {"record_count": 0}),
            ("too many records", {"record_count": 1_000_001}),
            ("reserved attribute", {"attributes": 0x8000}),
            ("unprintable subject", {"subject": "a\nb"}),
        ):
            with self.assertRaises(errors.MalformedMessageError, msg=name):
                over_the_wire(ForwardProduce(**{**good, **changed}))
