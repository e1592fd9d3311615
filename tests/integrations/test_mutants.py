"""Bugs of the broker for FastStream are planted one at a time, and the test named for each must fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.integrations.bugs import FASTSTREAM
from tests.mutants.named import survivors
from tests.processes import PLANTED, long


class MutantTests(SynchronousTestCase):
    """Every mutant is caught."""

    skip = PLANTED

    @long
    def test_faststream(self):
        """Bugs in what a cursor passes, in what goes with it, in order, and in how it stops are seen."""
        self.assertEqual(len({caught.mutant.name for caught in FASTSTREAM}), len(FASTSTREAM))
        self.assertEqual(survivors(FASTSTREAM), [])
