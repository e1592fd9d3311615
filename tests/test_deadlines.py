"""Tests of loghouse.runtime.deadlines."""

from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.runtime.deadlines import Deadlines


class DeadlineTests(SynchronousTestCase):
    """One timer looks after many deadlines."""

    def setUp(self):
        self.clock = Clock()
        self.open = []
        self.expired = []
        self.deadlines = Deadlines(self.clock, self.expire)

    def expire(self, now):
        self.expired += [(now, deadline) for deadline in self.open if deadline <= now]
        self.open = [deadline for deadline in self.open if deadline > now]
        return min(self.open, default=inf)

    def watch(self, *deadlines):
        for deadline in deadlines:
            self.open.append(deadline)
            self.deadlines.watch(deadline)

    def test_each_when_it_is_due(self):
        """Whatever the order in which they came, each is given up when it is due, by one timer."""
        self.watch(5.0, 2.0, 7.0, 2.0)
        for _ in range(4):
            self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)
            self.clock.advance(2.5)
        self.assertEqual(self.expired, [(2.5, 2.0), (2.5, 2.0), (5.0, 5.0), (7.5, 7.0)])
        self.assertEqual((self.clock.getDelayedCalls(), self.deadlines.due), ([], inf))

    def test_later_ones_wait(self):
        """A deadline behind the earliest one, or at the same time, moves no timer."""
        self.watch(2.0)
        [timer] = self.clock.getDelayedCalls()
        moved = []
        timer.reset = moved.append
        self.watch(2.0, 5.0)
        self.assertEqual((self.deadlines.due, moved), (2.0, []))
        self.clock.advance(2.0)
        self.assertEqual((self.expired, self.deadlines.due), ([(2.0, 2.0)] * 2, 5.0))
        [timer] = self.clock.getDelayedCalls()
        self.assertEqual(timer.getTime(), 5.0)

    def test_earlier_one(self):
        """An earlier deadline takes the timer; the time that passed counts."""
        self.clock.advance(1.0)
        self.watch(9.0)
        self.clock.advance(2.0)
        self.watch(4.0)
        [timer] = self.clock.getDelayedCalls()
        self.assertEqual((timer.getTime(), self.deadlines.due), (4.0, 4.0))

    def test_over_already(self):
        """A deadline that is over is given up in the next turn."""
        self.clock.advance(3.0)
        self.watch(1.0)
        self.assertEqual(self.expired, [])
        self.clock.advance(0)
        self.assertEqual(self.expired, [(3.0, 1.0)])

    def test_stop(self):
        """After a stop nothing is given up, and no timer is left."""
        self.watch(1.0)
        self.deadlines.stop()
        self.clock.advance(5.0)
        self.assertEqual((self.expired, self.clock.getDelayedCalls()), ([], []))
        self.deadlines.stop()  # once more: nothing happens

    def test_after_a_stop(self):
        """What is watched after a stop counts from there, whatever was watched before."""
        self.watch(1.0)
        self.deadlines.stop()
        self.assertEqual(self.deadlines.due, inf)
        self.open.clear()
        self.watch(3.0)
        self.clock.advance(3.0)
        self.assertEqual(self.expired, [(3.0, 3.0)])
