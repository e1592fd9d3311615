"""Known bugs of backups are planted one at a time, and the test that is named for each must fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.backups import RESTORING, WRITING
from tests.mutants.named import survivors
from tests.processes import PLANTED
from tests.tables import Rows


class MutantTests(SynchronousTestCase):
    """Every mutant of backups is caught."""

    skip = PLANTED

    @Rows(
        restoring=("Bugs in what is restored are seen.", RESTORING),
        writing=("Bugs in what is backed up are seen.", WRITING),
    )
    def test(self, bank):
        self.assertEqual(survivors(bank), [])
