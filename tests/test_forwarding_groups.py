"""Tests of loghouse.node.forwarding: requests, answers and refusals of several logs between two nodes."""

from dataclasses import replace

from loghouse import errors
from loghouse.errors import ResourceExhaustedError, UnavailableError
from loghouse.limits import FORWARD_GRACE_SECONDS
from loghouse.node.forwarding import AdminOrder
from loghouse.protocol.forward_messages import AdminOperation, ForwardAdmin, ForwardReply
from tests.test_forwarding import APPENDED, GROUP, OTHER, PROPOSAL, ForwardCase, over_the_wire, vars_of


class GroupTests(ForwardCase):
    """Requests and answers are of one log each."""

    def test_answered_in_its_group(self):
        """The answer comes in the group of the question; one in another group is not taken for it."""
        done = self.a.forwarder.propose("b", OTHER, PROPOSAL)
        [(_, _, message, group)] = self.town.wires
        self.assertEqual(group, OTHER)
        self.a.receive("b", ForwardReply(request_id=message.request_id, **vars_of(APPENDED)))
        self.assertNoResult(done)
        self.town.deliver()
        self.assertEqual(self.successResultOf(done), APPENDED)

    def test_no_such_log(self):
        """Who has no such log says so, and does nothing: its sender may try again."""
        asked = (
            self.a.forwarder.propose("b", 9, PROPOSAL),
            self.a.forwarder.administer("b", 9, AdminOrder(operation=AdminOperation.TRIM, number=1)),
        )
        self.town.deliver()
        for done in asked:
            told = self.failureResultOf(done, UnavailableError).value
            self.assertIn("has no log of group 9; nothing was done, try again", str(told))
        self.assertEqual((self.b.proposals, self.b.orders), ([], []))
        self.assertQuiet()

    def test_leader_of_another_log(self):
        """Another leader of one log hastens no request of another."""
        kept = self.a.forwarder.propose("b", OTHER, PROPOSAL)
        self.a.forwarder.leader_changed(GROUP, "c")
        self.town.clock.advance(FORWARD_GRACE_SECONDS + 1)
        self.assertNoResult(kept)
        self.town.deliver()
        self.assertEqual(self.successResultOf(kept), APPENDED)

    def test_producers_of_two_logs(self):
        """A batch that is held back holds back its producer's next ones of the same log alone."""
        small = self.town.add("c", size_max=10)
        refused = small.forwarder.propose("b", GROUP, replace(PROPOSAL, payload=b"x" * 11))
        self.failureResultOf(refused, ResourceExhaustedError)
        following = replace(PROPOSAL, producer_sequence=PROPOSAL.producer_sequence + 1)
        refused = small.forwarder.propose("b", GROUP, following)
        error = self.failureResultOf(refused, ResourceExhaustedError).value
        held = PROPOSAL.producer_id, PROPOSAL.producer_sequence
        self.assertIn("producer {}: its batch {} was held back".format(*held), str(error))
        done = small.forwarder.propose("b", OTHER, following)
        self.town.deliver()
        self.assertEqual(self.successResultOf(done), APPENDED)

    def test_unknown_operation(self):
        """An order of a later version is answered, and what the link carries goes on."""
        later = ForwardAdmin(request_id=4, operation=77, name="whatever", number=5)
        self.b.receive("a", over_the_wire(later))
        [(_, _, message, group)] = self.town.wires
        self.assertEqual((message.request_id, group), (4, GROUP))
        self.assertIsInstance(message.error(), errors.NotSupportedError)
        self.assertIn("operation 77 is not known", str(message.error()))
        self.assertEqual(self.b.orders, [])
