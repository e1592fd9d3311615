"""The small parts: suspicion, local health, broadcasts, presets."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.awareness import Awareness
from loghouse.gossip.broadcasts import Broadcasts, transmit_limit
from loghouse.gossip.config import LAN, LOCAL, WAN, SwimConfig
from loghouse.gossip.suspicion import (
    Suspicion,
    confirmations_expected,
    suspicion_ticks,
    suspicion_ticks_range,
)
from tests.gossip.bench import alive, key, left


class SuspicionTicksTests(SynchronousTestCase):
    """The time that a suspect has, as a function of what is known."""

    # confirmations, expected, low, high -> ticks
    ROWS = [
        (0, 0, 40, 240, 40),
        (0, 3, 20, 300, 300),
        (1, 3, 20, 300, 160),
        (2, 3, 20, 300, 78),
        (3, 3, 20, 300, 20),
        (4, 3, 20, 300, 20),
        (10, 3, 20, 300, 20),
        (0, 1, 40, 240, 240),
        (1, 1, 40, 240, 40),
        (0, 2, 40, 240, 240),
        (1, 2, 40, 240, 113),
        (2, 2, 40, 240, 40),
    ]

    def test_rows(self):
        """Every row of `ROWS` comes out as listed."""
        for confirmations, expected, low, high, ticks in self.ROWS:
            row = (confirmations, expected, low, high)
            self.assertEqual(suspicion_ticks(*row), ticks, row)

    def test_range(self):
        """The shortest time grows with the logarithm of the members, the longest with it."""
        found = [suspicion_ticks_range(LAN, live) for live in (0, 1, 3, 10, 50, 100)]
        self.assertEqual(found, [(40, 240), (40, 240), (40, 240), (40, 240), (68, 408), (80, 480)])

    def test_expected(self):
        """Confirmations are waited for only where there are enough others to give them."""
        self.assertEqual([confirmations_expected(LAN, live) for live in (1, 3, 4, 50)], [0, 0, 2, 2])
        self.assertEqual(confirmations_expected(replace(LAN, suspicion_factor=1), 50), 0)

    def test_confirmations(self):
        """Each new accuser shortens the time; one heard before, and one too many, changes nothing."""
        suspicion = Suspicion(LAN, 10, "a", 1000)
        self.assertFalse(suspicion.is_over(1239, 1))
        self.assertTrue(suspicion.is_over(1240, 1))
        self.assertFalse(suspicion.confirm("a"))
        self.assertTrue(suspicion.confirm("b"))
        self.assertFalse(suspicion.is_over(1112, 1))
        self.assertTrue(suspicion.is_over(1113, 1))
        self.assertTrue(suspicion.confirm("c"))
        self.assertFalse(suspicion.confirm("d"))
        self.assertTrue(suspicion.is_over(1040, 1))
        self.assertFalse(suspicion.is_over(1359, 9))
        self.assertTrue(suspicion.is_over(1360, 9))


class AwarenessTests(SynchronousTestCase):
    """The score of local health."""

    def test_bounds(self):
        """The score stays between 0 and its maximum, and stretches by one more than itself."""
        awareness = Awareness(8)
        seen = []
        for by in (-1, 3, 2, 9, -1, -20):
            awareness.change(by)
            seen.append((awareness.score, awareness.scaled(10)))
        self.assertEqual(seen, [(0, 10), (3, 40), (5, 60), (8, 90), (7, 80), (0, 10)])


class BroadcastsTests(SynchronousTestCase):
    """What is told, and how often."""

    def test_limit(self):
        """The transmit limit grows with the logarithm of the members."""
        self.assertEqual([transmit_limit(4, live) for live in (1, 9, 10, 50, 99, 100)], [4, 4, 8, 8, 8, 12])

    def test_each_is_transmitted_so_often(self):
        """Each statement is taken exactly as often as the limit says, those taken least often first."""
        queue = Broadcasts()
        for name in "abc":
            queue.queue(alive(name, 1))
        taken = []
        while len(queue):
            taken.append(queue.take(2, 2))
        self.assertEqual(
            [[statement.name for statement in each] for each in taken], [["a", "b"], ["c", "a"], ["b", "c"]]
        )
        self.assertEqual(queue.take(2, 2), ())

    def test_newer_replaces_older(self):
        """Of each member only the latest statement is transmitted, as often as if there had been no other."""
        queue = Broadcasts()
        queue.queue(alive("a", 1))
        queue.take(1, 3)
        queue.queue(left("a", 1))
        self.assertEqual(len(queue), 1)
        self.assertEqual([queue.take(9, 3) for _ in range(4)], [(left("a", 1),)] * 3 + [()])

    def test_drop(self):
        """What is dropped is not transmitted."""
        queue = Broadcasts()
        queue.queue(alive("a", 1))
        queue.drop(key("a"))
        queue.drop(key("b"))
        self.assertEqual(queue.take(9, 9), ())


class ConfigTests(SynchronousTestCase):
    """Settings that cannot work are refused at once."""

    def test_refused(self):
        """Each bad value is named."""
        for name, more in (
            ("probe_ticks", {"probe_ticks": 0}),
            ("timeout_ticks", {"timeout_ticks": 10}),
            ("reach_out_ticks_max", {"reach_out_ticks_max": 9}),
            ("dead_reclaim_ticks", {"dead_reclaim_ticks": 299}),
        ):
            error = self.assertRaises(ValueError, SwimConfig, **more)
            self.assertIn(name, str(error))

    def test_presets(self):
        """A LOCAL suspect has less time than a LAN one, and a WAN one more."""
        shortest = [suspicion_ticks_range(config, 10)[0] for config in (LOCAL, LAN, WAN)]
        self.assertEqual(shortest, [30, 40, 300])
