"""Many logs have their time one after the other, each once a period."""

from collections import Counter
from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.node.wheel import PHASES_MAX, Wheel


class WheelTests(SynchronousTestCase):
    """A wheel that turns once a second, in binary fractions that add up."""

    def setUp(self):
        self.clock = Clock()
        self.members: list[int] = []
        self.called: list[tuple[float, int]] = []
        self.failed: list = []
        self.wheel = Wheel(1.0, lambda: [partial(self.call, member) for member in self.members], self.clock)
        self.wheel.start(self.failed.append)

    def call(self, member: int) -> None:
        self.called.append((self.clock.seconds(), member))

    def pass_(self, seconds: float, step: float = 1 / 64) -> None:
        for _ in range(int(seconds / step)):
            self.clock.advance(step)

    def test_one(self):
        """One alone is called once a period, and nothing wakes the process in between."""
        self.members = [7]
        self.pass_(3)
        self.assertEqual(self.called, [(1.0, 7), (2.0, 7), (3.0, 7)])
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [4.0])

    def test_few(self):
        """Few are called at moments of their own, evenly spread."""
        self.members = [1, 2, 3, 4]
        self.pass_(2)
        self.assertEqual(self.called, [(1.0, 1), (1.25, 2), (1.5, 3), (1.75, 4), (2.0, 1)])

    def test_many(self):
        """Many share the phases; each is called once a period."""
        self.members = list(range(100))
        self.pass_(3.99)
        self.assertEqual(set(Counter(member for _, member in self.called).values()), {3})
        moments = Counter(moment for moment, _ in self.called)
        self.assertEqual((len(moments), set(moments.values())), (3 * PHASES_MAX, {100 // PHASES_MAX}))

    def test_who_comes_and_goes(self):
        """Who comes or goes is called, or not, from the next round on."""
        self.members = [1, 2]
        self.pass_(1)
        self.members = [2, 3]
        self.pass_(1.75)
        self.assertEqual(self.called, [(1.0, 1), (1.5, 2), (2.0, 2), (2.5, 3)])

    def test_nobody(self):
        """With nobody to call it turns on, and finds who comes."""
        self.pass_(2)
        self.members = [1]
        self.pass_(1)
        self.assertEqual(self.called, [(3.0, 1)])

    def test_late(self):
        """What a busy reactor missed is made up for, but nobody is called twice at a moment for that."""
        self.members = [1, 2, 3, 4]
        self.pass_(1)
        self.clock.advance(0.75)
        self.assertEqual(self.called[1:], [(1.75, 2), (1.75, 3), (1.75, 4)])
        self.called.clear()
        self.clock.advance(10)
        self.assertEqual(self.called, [(11.75, 1), (11.75, 2), (11.75, 3), (11.75, 4)])
        self.called.clear()
        self.pass_(1)
        self.assertEqual([member for _, member in self.called], [1, 2, 3, 4])

    def test_late_by_a_part(self):
        """Being late by less than a phase makes nobody's time pass faster."""
        self.members = [1, 2, 3, 4]
        for _ in range(80):
            self.clock.advance(0.15)
        self.assertLessEqual(len(self.called), 4 * 12)

    def test_stop(self):
        """Stopped, it calls nobody."""
        self.members = [1]
        self.assertTrue(self.wheel.running)
        self.wheel.stop()
        self.pass_(2)
        self.assertEqual((self.wheel.running, self.called, self.failed), (False, [], []))

    def test_error(self):
        """What a call raises ends it, and is told."""
        self.members = [1]
        self.wheel._begin = lambda: [lambda: 1 // 0]
        self.pass_(2)
        self.assertFalse(self.wheel.running)
        self.assertEqual([failure.type for failure in self.failed], [ZeroDivisionError])
