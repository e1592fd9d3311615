"""When a client that waits for a record says that its node forgot it."""

import random
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.checkers import Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.full.follower import PATIENCE_SECONDS, Follower

LAST = PATIENCE_SECONDS - 0.0001  # a moment before the client loses patience


class Node:
    """A node of which a client waits for a record: `held` is when the record became readable, if it did."""

    name = "n1"
    life = object()

    def __init__(self, clock):
        self.clock = clock
        self.asked_at = 0.0
        self.answer = None
        self.cancelled = 0
        self.reads = []
        self.is_holding = False

    def wait_for(self, offset, answer):
        self.answer, self.asked_at = answer, self.clock.seconds()
        return self.cancel

    def cancel(self):
        self.cancelled += 1

    def is_asleep_at(self, offset):
        return self.is_holding and self.answer is not None

    def wake(self):
        answer, self.answer = self.answer, None
        answer(None)

    def read(self, offset, answer):
        self.reads.append(offset)


class WakingTests(SynchronousTestCase):
    """A record may be readable a moment before its readers are woken, and no longer."""

    def setUp(self):
        self.clock = SimClock()
        self.node = Node(self.clock)
        cluster = SimpleNamespace(clock=self.clock, nodes={1: self.node}, numbers=lambda: [1])
        self.follower = Follower(cluster, random.Random(1))
        self.follower.begin()
        self.clock.run_until(2.0)  # by then it has asked, and has patience left
        self.began = self.node.asked_at
        self.assertGreater(self.began, 0)

    def at(self, seconds, work, *args):
        self.clock.at(self.began + seconds, work, *args)

    def run_for(self, seconds):
        self.clock.run_until(self.began + seconds)

    def hold(self):
        self.node.is_holding = True

    def test_woken_by_the_next_turn(self):
        """Who is looked at between a sync and the turn that tells of it is not asleep. Seed 3030222."""
        self.at(LAST, self.hold)
        self.at(LAST + 0.005, self.node.wake)
        self.run_for(PATIENCE_SECONDS + 1)
        self.assertEqual(self.node.reads, [0])

    def test_not_woken(self):
        """A reader that goes on sleeping when its record is there was forgotten."""
        self.at(LAST, self.hold)
        violation = self.assertRaises(Violation, self.run_for, PATIENCE_SECONDS + 1)
        self.assertEqual(violation.rule, "asleep")

    def test_nothing_to_read(self):
        """Where the record is not readable, the client goes on at another node."""
        self.run_for(PATIENCE_SECONDS + 0.001)
        self.assertEqual(self.node.cancelled, 1)

    def test_restarted_meanwhile(self):
        """A process that ended between the two looks owes nothing."""
        self.at(LAST, self.hold)
        self.at(LAST + 0.005, setattr, self.node, "life", object())
        self.run_for(PATIENCE_SECONDS + 0.1)
        self.assertEqual(self.node.cancelled, 1)
