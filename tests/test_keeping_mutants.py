"""Known bugs of what is counted, kept and reset are planted one at a time; the test named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.keeping import AT_MOST, GIVEN_BACK, KEEPING, RESET, SNAPSHOTS, TIMES, TWICE, ZEROES
from tests.mutants.named import survivors
from tests.processes import PLANTED


class MutantTests(SynchronousTestCase):
    """Every mutant of bookkeeping is caught."""

    skip = PLANTED

    def test_names(self):
        """No two mutants have the same name."""
        self.assertEqual(len({caught.mutant.name for caught in KEEPING}), len(KEEPING))

    def test_snapshots(self):
        """Bugs in what a snapshot replaces are seen."""
        self.assertEqual(survivors(SNAPSHOTS), [])

    def test_given_back(self):
        """Bugs in giving back slots and room are seen."""
        self.assertEqual(survivors(GIVEN_BACK), [])

    def test_at_most(self):
        """Bugs at exactly the largest value are seen."""
        self.assertEqual(survivors(AT_MOST), [])

    def test_reset(self):
        """Bugs in what a success resets, and in what is told once, are seen."""
        self.assertEqual(survivors(RESET), [])

    def test_twice(self):
        """Bugs in what is written twice, or compared by two numbers, are seen."""
        self.assertEqual(survivors(TWICE), [])

    def test_times(self):
        """Bugs in pauses, deadlines and the end are seen."""
        self.assertEqual(survivors(TIMES), [])
        self.flushLoggedErrors()  # of appends that a node forgot

    def test_zeroes(self):
        """Bugs in what is written behind a log's end are seen."""
        self.assertEqual(survivors(ZEROES), [])
