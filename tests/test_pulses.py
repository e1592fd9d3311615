"""What is known of other nodes by their beats."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.node.pulses import LIVES_MAX, News, Pulses
from loghouse.protocol.beat_messages import encode_sleeping

ORDERS = encode_sleeping([(16, 3, 9)])
BOTH = encode_sleeping([(16, 3, 9), (17, 1, 2)])


class PulsesTests(SynchronousTestCase):
    """Nodes that are gone after four ticks of silence."""

    def setUp(self):
        self.pulses = Pulses(4)

    def pass_(self, ticks):
        return [self.pulses.tick() for _ in range(ticks)]

    def test_first_beat(self):
        """Nobody is there, and nothing is said, before the first beat, which begins a life."""
        self.assertEqual((self.pulses.is_here("b"), self.pulses.said("b", 16)), (False, None))
        self.assertIs(self.pulses.heard("b", 7, BOTH), News.LIFE)
        self.assertTrue(self.pulses.is_here("b"))
        self.assertFalse(self.pulses.is_here("c"))
        said = [self.pulses.said("b", group) for group in (16, 17, 18)]
        self.assertEqual(said, [(3, 9), (1, 2), None])

    def test_same_again(self):
        """A beat that says what the last one did is no news; another one is, also when it says less."""
        self.pulses.heard("b", 7, BOTH)
        self.assertIs(self.pulses.heard("b", 7, BOTH), News.NONE)
        self.assertIs(self.pulses.heard("b", 7, ORDERS), News.SAID)
        self.assertEqual(self.pulses.said("b", 17), None)
        self.assertIs(self.pulses.heard("b", 7, b""), News.SAID)
        self.assertEqual(self.pulses.said("b", 16), None)

    def test_silence(self):
        """A node without a beat for the time is gone, which is told once, and what it said with it."""
        self.pulses.heard("b", 7, ORDERS)
        self.assertEqual(self.pass_(3), [[], [], []])
        self.assertIs(self.pulses.heard("b", 7, ORDERS), News.NONE)
        self.assertEqual(self.pass_(4), [[], [], [], ["b"]])
        self.assertEqual((self.pulses.is_here("b"), self.pulses.said("b", 16)), (False, None))
        self.assertEqual(self.pass_(9), [[]] * 9)
        self.assertIs(self.pulses.heard("b", 7, ORDERS), News.BACK)
        self.assertEqual(self.pulses.said("b", 16), (3, 9))
        self.assertEqual(self.pass_(4)[-1], ["b"])

    def test_lost_link(self):
        """Without its link a node is gone at once, until it beats again."""
        self.pulses.lost("b")
        self.pulses.heard("b", 7, ORDERS)
        self.pulses.lost("b")
        self.assertEqual((self.pulses.is_here("b"), self.pulses.said("b", 16)), (False, None))
        self.assertEqual(self.pass_(9), [[]] * 9)
        self.pulses.lost("b")
        self.assertIs(self.pulses.heard("b", 7, ORDERS), News.BACK)

    def test_new_life(self):
        """Another life is news, whatever it says and however soon it comes."""
        self.pulses.heard("b", 7, ORDERS)
        self.assertIs(self.pulses.heard("b", 8, ORDERS), News.LIFE)
        self.pass_(5)
        self.assertIs(self.pulses.heard("b", 9, b""), News.LIFE)
        self.assertEqual(self.pulses.said("b", 16), None)

    def test_old_life(self):
        """A beat of a life that is over counts for nothing, however late it comes."""
        self.pulses.heard("b", 7, ORDERS)
        self.pulses.heard("b", 8, b"")
        self.pass_(3)
        self.assertIs(self.pulses.heard("b", 7, ORDERS), News.NONE)
        self.assertIsNone(self.pulses.said("b", 16))
        self.assertEqual(self.pass_(1), [["b"]])
        self.assertIs(self.pulses.heard("b", 8, b""), News.BACK)
        for life in range(9, 9 + LIVES_MAX):
            self.pulses.heard("b", life, b"")
        self.assertIs(self.pulses.heard("b", 9, ORDERS), News.NONE)

    def test_keep(self):
        """Who is no member any more is forgotten."""
        for name in "bc":
            self.pulses.heard(name, 7, ORDERS)
        self.pulses.keep({"c", "d"})
        self.assertEqual([self.pulses.is_here(name) for name in "bcd"], [False, True, False])
