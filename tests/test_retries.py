"""A producer's batches, sent again or held back: what it is told, here and by way of another node."""

from dataclasses import replace

from loghouse.errors import ResourceExhaustedError, SequenceReusedError
from loghouse.limits import FORWARD_GRACE_SECONDS
from loghouse.replica.api import Proposal
from tests.test_forwarding import PROPOSAL, ForwardCase
from tests.test_node import NodeTestCase


class RetryTests(NodeTestCase):
    """Batches that are sent again."""

    def test_retries_of_a_producer(self):
        """A retry is told what the log says, before and behind a restart; other records are an error."""
        node = self.start()
        done = node.log("").register_producer("root")
        self.settle()
        fields = {"producer_id": self.successResultOf(done), "subject": "root"}
        first = self.propose(node, 2, **fields)
        self.settle()
        told = self.successResultOf(first)
        self.assertGreater(told.timestamp, 0)
        for _ in range(2):
            self.clock.advance(60)
            for count, size, is_same in ((2, 10, True), (1, 10, False), (2, 11, False)):
                again = self.propose(node, count, size, **fields)
                self.settle()
                if is_same:
                    self.assertEqual(self.successResultOf(again), told)
                else:
                    self.failureResultOf(again, SequenceReusedError)
            self.stop(node)
            node = self.start()
        self.assertEqual(self.append(node), 2)


class HeldBackTests(ForwardCase):
    """Batches behind one for which there was no room on the way to the leader."""

    def test_what_stands_behind_a_batch_held_back(self):
        """A producer's batches behind one that found no room are held back, too, until that one is sent."""

        def batch(sequence, producer_id=5):
            return Proposal(
                payload=b"x", record_count=1, producer_id=producer_id, producer_sequence=sequence, subject="r"
            )

        for place in ("here", "at the leader"):
            member = self.a if place == "here" else self.b
            self.patch(member.forwarder, "_count_max", 0)
            refused = [self.propose(batch(0))]
            self.town.deliver()
            self.patch(member.forwarder, "_count_max", 10)
            refused += [self.propose(batch(sequence)) for sequence in (1, 2)]
            self.town.deliver()
            for one in refused:
                self.failureResultOf(one, ResourceExhaustedError)
            self.assertEqual(self.b.proposals, [])
            done = [self.propose(batch(sequence)) for sequence in (0, 1)]
            done.append(self.propose(batch(7, producer_id=6)))
            self.town.deliver()
            self.assertEqual(len(self.b.proposals), 3)
            self.b.proposals.clear()
            for one in done:
                self.successResultOf(one)

    def test_held_back_for_a_moment(self):
        """A batch that was sent elsewhere meanwhile does not keep those behind it back for ever."""
        proposal = replace(PROPOSAL, producer_id=5, producer_sequence=0)
        self.patch(self.a.forwarder, "_count_max", 0)
        self.failureResultOf(self.propose(proposal), ResourceExhaustedError)
        self.patch(self.a.forwarder, "_count_max", 10)
        self.town.clock.advance(FORWARD_GRACE_SECONDS)
        done = self.propose(replace(proposal, producer_sequence=1))
        self.town.deliver()
        self.successResultOf(done)
