"""Tests of loghouse.node.forwarding: bounds to the byte, what is held back, and what is said of each end."""

from dataclasses import replace

from loghouse.errors import (
    DiskFailedError,
    IdentityError,
    LoghouseError,
    NotLeaderError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.limits import FORWARD_GRACE_SECONDS, FORWARD_SECONDS
from loghouse.node.forwarding import AdminOrder, AdminResult
from loghouse.protocol.forward_messages import AdminOperation, ForwardAdminReply, ForwardFailure, ForwardReply
from tests.test_forwarding import APPENDED, GROUP, PROPOSAL, ForwardCase, vars_of

SIZE = len(PROPOSAL.payload)
NEXT = replace(PROPOSAL, producer_sequence=PROPOSAL.producer_sequence + 1)
WITHOUT_PRODUCER = replace(PROPOSAL, producer_id=0, producer_sequence=0)


class HeldBackTests(ForwardCase):
    """After a batch that found no room its producer's next ones wait for it, and nobody else's."""

    def fill(self, **bounds):
        """Let `a` have room for one batch, which takes it."""
        self.a = self.town.add("a", **bounds)
        self.taken = self.propose(WITHOUT_PRODUCER)

    def refused(self, proposal):
        return self.failureResultOf(self.propose(proposal), ResourceExhaustedError).value

    def test_sent_again(self):
        """The batch that was held back may go once there is room; then so may those behind it."""
        self.fill(count_max=1)
        self.assertIn("wait for the leader's answer", str(self.refused(PROPOSAL)))
        self.town.deliver()
        self.assertIn("held back; send it again", str(self.refused(NEXT)))
        self.propose(PROPOSAL)
        self.town.deliver()
        self.propose(NEXT)
        self.town.deliver()
        sequences = [proposal.producer_sequence for proposal in self.b.proposals]
        self.assertEqual(sequences, [0, PROPOSAL.producer_sequence, NEXT.producer_sequence])

    def test_not_for_ever(self):
        """A batch that does not come again holds nobody back once its time is over."""
        self.fill(count_max=1)
        self.refused(PROPOSAL)
        self.town.deliver()
        self.town.clock.advance(FORWARD_GRACE_SECONDS - 0.1)
        self.refused(NEXT)
        self.town.clock.advance(0.1)
        self.propose(NEXT)
        self.town.deliver()
        self.assertEqual(len(self.b.proposals), 2)

    def test_others(self):
        """Other producers, and who has none, have nothing to do with it."""
        self.fill(count_max=1)
        self.refused(PROPOSAL)
        self.refused(WITHOUT_PRODUCER)
        self.town.deliver()
        self.propose(replace(NEXT, producer_id=PROPOSAL.producer_id + 1))
        self.town.deliver()
        self.propose(WITHOUT_PRODUCER)
        self.town.deliver()
        self.assertEqual(len(self.b.proposals), 3)

    def test_at_the_leader(self):
        """The leader holds back in the same way what it has no room for."""
        self.b = self.town.add("b", count_max=1)
        self.b.outcome = waiting = []
        first, second, third = (self.propose(one) for one in (WITHOUT_PRODUCER, PROPOSAL, NEXT))
        self.town.deliver()
        error = self.failureResultOf(second, ResourceExhaustedError).value
        self.assertIn("requests of other nodes are under way here; send slower", str(error))
        self.assertIn("held back", str(self.failureResultOf(third, ResourceExhaustedError).value))
        waiting[0].callback(APPENDED)
        self.town.deliver()
        self.assertEqual(self.successResultOf(first), APPENDED)
        self.assertEqual(len(self.b.proposals), 1)


class ExactTests(ForwardCase):
    """Bounds to the byte and to the request, at both ends."""

    def test_asking(self):
        """So many bytes may wait, and not one more; an order has none, and counts as a request."""
        self.a = self.town.add("a", size_max=2 * SIZE, count_max=3)
        for _ in range(2):
            self.propose(WITHOUT_PRODUCER)
        one = replace(WITHOUT_PRODUCER, payload=b"x")
        self.failureResultOf(self.propose(one), ResourceExhaustedError)
        self.assertNoResult(self.administer(AdminOperation.PROGRESS))
        error = self.failureResultOf(self.administer(AdminOperation.PROGRESS), ResourceExhaustedError).value
        self.assertIn(f"{2 * SIZE} bytes or 3 requests wait for the leader's answer", str(error))
        self.assertIn("nothing was done: send slower, or to b, which leads", str(error))

    def test_serving(self):
        """So many bytes of others may be under way, and not one more; what ends makes room for as much."""
        self.b = self.town.add("b", size_max=2 * SIZE)
        self.b.outcome = waiting = []
        first, second, third = (self.propose(WITHOUT_PRODUCER) for _ in range(3))
        self.town.deliver()
        self.assertIn(f"{2 * SIZE} bytes or", str(self.failureResultOf(third, ResourceExhaustedError).value))
        self.assertEqual(len(waiting), 2)
        waiting[0].callback(APPENDED)
        self.town.deliver()
        fourth = self.propose(WITHOUT_PRODUCER)
        self.town.deliver()
        for done in waiting[1:]:
            done.callback(APPENDED)
        self.town.deliver()
        self.assertEqual([self.successResultOf(done) for done in (first, second, fourth)], [APPENDED] * 3)
        self.assertQuiet()

    def test_orders_under_way(self):
        """An order of another node counts as a request under way, and takes no bytes."""
        self.b = self.town.add("b", size_max=0, count_max=1)
        self.b.result = waiting = []
        first, second = (self.administer(AdminOperation.PROGRESS) for _ in range(2))
        self.town.deliver()
        self.failureResultOf(second, ResourceExhaustedError)
        waiting[0].callback(AdminResult(number=3))
        self.town.deliver()
        self.assertEqual(self.successResultOf(first), AdminResult(number=3))
        self.assertQuiet()


class DeadlineTests(ForwardCase):
    """One timer for all that wait, at the earliest deadline."""

    def test_one_timer(self):
        """However many wait, there is one timer; it stays for the next when the first is answered."""
        self.propose(WITHOUT_PRODUCER)
        self.town.clock.advance(1.0)
        second = self.propose(WITHOUT_PRODUCER)
        [timer] = self.town.clock.getDelayedCalls()
        self.assertEqual(timer.getTime(), FORWARD_SECONDS)
        [(_, _, message, _), _] = self.town.wires
        self.a.receive("b", ForwardReply(request_id=message.request_id, **vars_of(APPENDED)))
        self.town.clock.advance(FORWARD_SECONDS - 1.0)
        self.assertNoResult(second)
        [timer] = self.town.clock.getDelayedCalls()
        self.assertEqual(timer.getTime(), FORWARD_SECONDS + 1.0)

    def test_other_leaders(self):
        """Of several that were asked elsewhere the earliest deadline counts, which none is moved behind."""
        old = self.propose(WITHOUT_PRODUCER)
        self.town.clock.advance(FORWARD_SECONDS - FORWARD_GRACE_SECONDS / 2)
        new = self.propose(WITHOUT_PRODUCER)
        self.a.forwarder.leader_changed(GROUP, "c")
        self.town.clock.advance(FORWARD_GRACE_SECONDS / 2)
        self.failureResultOf(old, OutcomeUnknownError)
        self.assertNoResult(new)
        self.town.clock.advance(FORWARD_GRACE_SECONDS / 2)
        self.failureResultOf(new, OutcomeUnknownError)
        self.assertEqual(self.town.clock.getDelayedCalls(), [])

    def test_not_sent(self):
        """What the link did not take leaves no timer, also when its answer came within that."""
        self.town.cut.add(("a", "b"))
        self.failureResultOf(self.propose(), UnavailableError)
        self.assertEqual(self.town.clock.getDelayedCalls(), [])

    def test_lost_while_it_is_sent(self):
        """A link that ends within `send` has told its callers already."""
        told = []

        def send(target, message, group):
            self.a.forwarder.link_lost(target)
            return False

        self.a.forwarder._send = send
        done = self.propose()
        done.addErrback(lambda failure: told.append(failure.type))
        self.assertEqual(told, [OutcomeUnknownError])
        self.assertQuiet()


class WordsTests(ForwardCase):
    """What is said of each end."""

    def test_ends(self):
        """Each says what happened to the leader, and what is known of the records, or of the order."""
        ends = {
            "did not answer in time": lambda: self.town.clock.advance(FORWARD_SECONDS),
            "was lost before it answered": lambda: self.a.forwarder.link_lost("b"),
            "had not answered when this node stopped": lambda: self.a.forwarder.stop(),
        }
        for text, end in ends.items():
            done = self.propose()
            change = self.administer(AdminOperation.TRIM, number=1)
            question = self.administer(AdminOperation.PROGRESS)
            end()
            self.assertIn(
                f"the leader b {text}: the records may or may not have been appended",
                str(self.failureResultOf(done, OutcomeUnknownError).value),
            )
            self.assertIn(
                f"the leader b {text}: it may or may not have been done",
                str(self.failureResultOf(change, OutcomeUnknownError).value),
            )
            asked = self.failureResultOf(question, UnavailableError).value
            self.assertEqual(str(asked), f"the leader b {text}; try again")

    def test_stopped(self):
        """A node that stopped asks nobody, and says so first."""
        self.a.forwarder.stop()
        for leader in ("b", ""):
            done = self.a.forwarder.propose(leader, GROUP, PROPOSAL)
            self.assertIn("the node is stopping", str(self.failureResultOf(done, UnavailableError).value))
        self.assertEqual(self.town.wires, [])

    def test_leader_of_now(self):
        """A node that does not lead names who does, if it knows; orders are told the same."""
        for leader, text in (
            ("c", "b does not lead any more, the leader is c now: nothing was done, try again"),
            (None, "b does not lead any more, no leader is known there: nothing was done, try again"),
        ):
            self.b.outcome = self.b.result = NotLeaderError(leader)
            for done in (self.propose(), self.administer(AdminOperation.TRIM, number=1)):
                self.town.deliver()
                self.assertEqual(str(self.failureResultOf(done, UnavailableError).value), text)

    def test_failures_of_no_request(self):
        """A failure that no leader tells of a request must not look safe to retry; its text is passed on."""
        for told in (LoghouseError("odd"), IdentityError("odd")):
            done = self.propose()
            message = self.town.wires.pop()[2]
            self.a.receive("b", ForwardFailure.answering(message.request_id, told))
            error = self.failureResultOf(done, OutcomeUnknownError).value
            self.assertTrue(str(error).startswith("b: "), error)

    def test_broken_leader(self):
        """Of what broke at the leader its caller hears that, and where to look."""
        self.b.outcome = DiskFailedError("disk")
        done = self.propose()
        self.town.deliver()
        error = self.failureResultOf(done, OutcomeUnknownError).value
        self.assertEqual(str(error), "the leader failed while it did that; its diagnostics say why")
        self.assertEqual(len(self.flushLoggedErrors(DiskFailedError)), 1)


class FitTests(ForwardCase):
    """An answer counts if it is of the kind that was asked for."""

    def test_order_reply_to_a_batch(self):
        """An order's answer is none to a batch; the batch's own is taken."""
        done = self.propose()
        [(_, _, message, _)] = self.town.wires
        self.a.receive("b", ForwardAdminReply(request_id=message.request_id, name="", number=1, matches=()))
        self.assertNoResult(done)
        self.assertEqual(self.a.ignored, ["answer that nobody waits for"])
        self.town.deliver()
        self.assertEqual(self.successResultOf(done), APPENDED)

    def test_answer_of_another_group(self):
        """A failure in another group is none of this request."""
        done = self.propose()
        [(_, _, message, _)] = self.town.wires
        self.a.receive("b", ForwardFailure.answering(message.request_id, UnavailableError("x")), GROUP + 1)
        self.assertNoResult(done)

    def test_other_orders(self):
        """Only a registration is checked for its subject: the name of another order is a node's."""
        checked = []
        self.b.forwarder._check_subject = lambda *asked: checked.append(asked)
        for operation in (AdminOperation.REMOVE, AdminOperation.REGISTER_PRODUCER):
            done = self.a.forwarder.administer("b", GROUP, AdminOrder(operation=operation, name="n2"))
            self.town.deliver()
            self.successResultOf(done)
        self.assertEqual(checked, [("n2", "default")])
