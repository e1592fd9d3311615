"""Known bugs in reading ranges of a log, planted one at a time: the test named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.named import survivors
from tests.mutants.ranges import RANGES
from tests.processes import PLANTED


class MutantTests(SynchronousTestCase):
    """Every mutant is caught."""

    skip = PLANTED

    def test_names(self):
        """No two mutants have the same name."""
        names = [caught.mutant.name for caught in RANGES]
        self.assertEqual(len(names), len(set(names)))

    def test(self):
        """Bugs in what is read, and in what is said of it, are seen."""
        self.assertEqual(survivors(RANGES), [])
