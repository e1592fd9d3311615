"""Known bugs of the client's connections are planted one at a time, and the test named for each must fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.clients import CONNECTIONS
from tests.mutants.named import survivors


class MutantTests(SynchronousTestCase):
    """Every mutant of the client's connections is caught."""

    def test_connections(self):
        """Bugs in what is certain, in who is trusted and in what is bounded are seen."""
        self.assertEqual(len({caught.mutant.name for caught in CONNECTIONS}), len(CONNECTIONS))
        self.assertEqual(survivors(CONNECTIONS), [])
