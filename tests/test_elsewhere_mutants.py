"""Known bugs in serving logs that other nodes have, planted one at a time: the test named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.elsewhere import ELSEWHERE, LEADERS, PASSED_ON
from tests.mutants.named import survivors
from tests.processes import PLANTED
from tests.tables import Rows


class MutantTests(SynchronousTestCase):
    """Every mutant is caught."""

    skip = PLANTED

    def test_names(self):
        """No two mutants have the same name."""
        names = [caught.mutant.name for caught in ELSEWHERE]
        self.assertEqual(len(names), len(set(names)))

    @Rows(
        leaders=("Bugs in who is believed to lead are seen.", LEADERS),
        passed_on=("Bugs in reads that are passed on are seen.", PASSED_ON),
    )
    def test(self, bank):
        self.assertEqual(survivors(bank), [])
