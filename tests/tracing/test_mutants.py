"""Known bugs of tracing are planted one at a time, and the test named for each must fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.named import survivors
from tests.mutants.tracing import TRACING
from tests.processes import PLANTED


class MutantTests(SynchronousTestCase):
    """Every mutant of tracing is caught."""

    skip = PLANTED

    def test_tracing(self):
        """Bugs in which appends have spans, whose children those are, and that they end are seen."""
        self.assertEqual(survivors(TRACING), [])
