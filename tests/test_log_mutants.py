"""Known bugs of named logs are planted one at a time, and the test that is named for each must fail."""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.asleep import ASLEEP
from tests.mutants.emptied import RENEWED, TOLD
from tests.mutants.many_logs import BIRTHS, CATALOGUE, ENDS, PLACES
from tests.mutants.named import survivors
from tests.processes import PLANTED
from tests.tables import Rows


class MutantTests(SynchronousTestCase):
    """Every mutant of named logs is caught."""

    skip = PLANTED

    @Rows(
        births=("Bugs in how logs come into being are seen.", BIRTHS),
        catalogue=("Bugs in how the catalogue is changed and known are seen.", CATALOGUE),
        ends=("Bugs in how logs end are seen.", ENDS),
        asleep=("Bugs in who sleeps, and what wakes them, are seen.", ASLEEP),
        renewed=("Bugs in how an emptied disk gets its copies again are seen.", RENEWED),
        told=("Bugs in what is told of copies that are missing, behind or damaged are seen.", TOLD),
        places=("Bugs in where logs are, and in frames that find them, are seen.", PLACES),
    )
    def test(self, bank):
        self.assertEqual(survivors(bank), [])
