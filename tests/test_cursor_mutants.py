"""Known bugs of cursors are planted one at a time; the test named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.cursors import CURSOR_BUGS, EPOCHS, LEASES, POSITIONS, RECORDS, WAITS
from tests.mutants.named import survivors
from tests.processes import PLANTED


class MutantTests(SynchronousTestCase):
    """Every mutant of cursors is caught."""

    skip = PLANTED

    def test_names(self):
        """No two mutants have the same name."""
        self.assertEqual(len({caught.mutant.name for caught in CURSOR_BUGS}), len(CURSOR_BUGS))

    def test_epochs(self):
        """Bugs in who may move a cursor are seen."""
        self.assertEqual(survivors(EPOCHS), [])

    def test_positions(self):
        """Bugs in where cursors stand, and how many there are, are seen."""
        self.assertEqual(survivors(POSITIONS), [])

    def test_records(self):
        """Bugs in advances that come with records are seen."""
        self.assertEqual(survivors(RECORDS), [])

    def test_leases(self):
        """Bugs in who waits for whom, and in who is told what, are seen."""
        self.assertEqual(survivors(LEASES), [])

    def test_waits(self):
        """Bugs in who is said to wait are seen."""
        self.assertEqual(survivors(WAITS), [])
