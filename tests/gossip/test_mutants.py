"""Known bugs are planted one at a time, and the test that is named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.gossip import GOSSIP
from tests.mutants.named import survivors
from tests.processes import long


class MutantTests(SynchronousTestCase):
    """Every mutant of membership is caught."""

    def test_names(self):
        """No two mutants have the same name."""
        names = [caught.mutant.name for caught in GOSSIP]
        self.assertEqual(len(names), len(set(names)))

    @long
    def test_caught(self):
        """Each bug makes the test that is named for it fail."""
        self.assertEqual(survivors(GOSSIP), [])
