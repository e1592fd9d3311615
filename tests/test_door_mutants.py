"""Known bugs of the doors are planted one at a time, and the test that is named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.doors import FLOW, GATES, PAYLOADS, PRODUCERS
from tests.mutants.named import survivors


class MutantTests(SynchronousTestCase):
    """Every mutant of the doors is caught."""

    def test_payloads(self):
        """Bugs in what is taken, and at what cost, are seen."""
        self.assertEqual(survivors(PAYLOADS), [])

    def test_producers(self):
        """Bugs in what a producer is told of a batch are seen."""
        self.assertEqual(survivors(PRODUCERS), [])

    def test_gate(self):
        """Bugs in what both protocols ask before they do anything are seen."""
        self.assertEqual(survivors(GATES), [])

    def test_flow(self):
        """Bugs in how a client that is far ahead is held back are seen."""
        self.assertEqual(survivors(FLOW), [])
