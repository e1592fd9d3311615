"""Known bugs of the client are planted one at a time, and the test named for each must fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.clients import CLIENT
from tests.mutants.named import survivors
from tests.processes import PLANTED, long


class MutantTests(SynchronousTestCase):
    """Every mutant of the client is caught."""

    skip = PLANTED

    @long
    def test_client(self):
        """Bugs in what is certain, in who is trusted, in what is bounded and in what is read are seen."""
        self.assertEqual(len({caught.mutant.name for caught in CLIENT}), len(CLIENT))
        self.assertEqual(survivors(CLIENT), [])
