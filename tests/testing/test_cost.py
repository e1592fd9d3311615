"""What tells that an append became dearer: `bench.cost`."""

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from bench.cost import Expected, append_costs, counted, tell
from loghouse.testing.life import Life


class CostTests(SynchronousTestCase):
    """Processor time of appends, leader and follower apart."""

    def test_verdict(self):
        """A tenth more or less is told, each with what to do about it; half of the range is not."""
        expected = Expected("appends", 2.0, 0.06)
        self.assertIn("dearer by 10%", expected.verdict(2.2))
        self.assertIn("write 1.8 into", expected.verdict(1.8))
        self.assertEqual([expected.verdict(2.06), expected.verdict(1.94)], ["", ""])

    def test_rounds(self):
        """A round is held against the loops around it, and one that was disturbed alone changes nothing."""
        expected = Expected("appends", 2.0, 0.06)
        self.assertEqual(tell(expected, [2.0, 9.0, 6.0], [1.0, 1.0, 1.0, 5.0]), "")
        self.assertIn("appends: dearer by 15%", tell(expected, [2.3, 2.3], [1.0, 1.0, 1.0]))
        self.assertEqual(tell(expected, [1.7, 1.7], [1.0, 1.0, 1.0]), "")  # told, and no error

    def test_costs(self):
        """Both sides of an append are counted, and the leader's is more; nothing is counted afterwards."""
        enter = Life.enter
        leader, follower = append_costs(20)
        self.assertGreater(follower, 0.0)
        self.assertGreater(leader, follower)
        self.assertIs(Life.enter, enter)

    def test_restored(self):
        """An error on the way leaves the simulator as it was."""
        enter = Life.enter
        with self.assertRaises(KeyError), counted(Counter()):
            raise KeyError
        self.assertIs(Life.enter, enter)
