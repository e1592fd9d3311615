"""Known bugs of consumers and groups are planted one at a time; the test named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.groups import GROUP_BUGS, KEPT, MEMBERS, SHARING, STEPS, TIMES
from tests.mutants.named import survivors
from tests.processes import PLANTED


class MutantTests(SynchronousTestCase):
    """Every mutant of consumers and groups is caught."""

    skip = PLANTED

    def test_names(self):
        """No two mutants have the same name."""
        self.assertEqual(len({caught.mutant.name for caught in GROUP_BUGS}), len(GROUP_BUGS))

    def test_steps(self):
        """Bugs in what a holder asks for are seen."""
        self.assertEqual(survivors(STEPS), [])

    def test_times(self):
        """Bugs in when it does are seen."""
        self.assertEqual(survivors(TIMES), [])

    def test_kept(self):
        """Bugs in what comes of the answers, and in the end, are seen."""
        self.assertEqual(survivors(KEPT), [])

    def test_sharing(self):
        """Bugs in who takes which log, and lets it go, are seen."""
        self.assertEqual(survivors(SHARING), [])

    def test_members(self):
        """Bugs in what a member gives, and what of it counts, are seen."""
        self.assertEqual(survivors(MEMBERS), [])
