"""Known bugs of the doors are planted one at a time, and the test that is named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.doors import FLOW, GATES, PAYLOADS, PRODUCERS, WEB
from tests.mutants.named import survivors
from tests.processes import PLANTED
from tests.tables import Rows


class MutantTests(SynchronousTestCase):
    """Every mutant of the doors is caught."""

    skip = PLANTED

    @Rows(
        payloads=("Bugs in what is taken, and at what cost, are seen.", PAYLOADS),
        producers=("Bugs in what a producer is told of a batch are seen.", PRODUCERS),
        gate=("Bugs in what both protocols ask before they do anything are seen.", GATES),
        flow=("Bugs in how a client that is far ahead is held back are seen.", FLOW),
        web=("Bugs in what is taken over HTTP, and what is told there, are seen.", WEB),
    )
    def test(self, bank):
        self.assertEqual(survivors(bank), [])
