"""Known bugs of the driver are planted one at a time, and the test that is named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.driving import (
    ANSWERS,
    DRIVING,
    JOINING_APPENDS,
    MEMBERSHIP,
    ORDER,
    READING,
    STRANGERS,
    TWINS,
)
from tests.mutants.many import SHARED
from tests.mutants.mending import GIVING, MENDING, SCRUBBED, TAKING, WRITTEN
from tests.mutants.named import survivors
from tests.mutants.rooms import ROOMS
from tests.processes import PLANTED
from tests.tables import Rows


class MutantTests(SynchronousTestCase):
    """Every mutant of the driver is caught."""

    skip = PLANTED

    def test_names(self):
        """No two mutants have the same name."""
        names = [caught.mutant.name for caught in (*DRIVING, *MENDING, *ROOMS, *SHARED)]
        self.assertEqual(len(names), len(set(names)))

    @Rows(
        order=("Bugs in the order of disk, messages and readers are seen.", ORDER),
        answers=("Bugs in what callers are told are seen.", ANSWERS),
        joining_appends=("Bugs in small appends that share entries are seen.", JOINING_APPENDS),
        reading=("Bugs in what readers are told are seen.", READING),
        membership=("Bugs in joining, ids and administration are seen.", MEMBERSHIP),
        strangers=("Bugs in who is believed to be a member are seen.", STRANGERS),
        twins=("Bugs in telling two machines of one name apart are seen.", TWINS),
        taking=("Bugs in what is taken for the damaged entries are seen.", TAKING),
        written=("Bugs in how they are written are seen.", WRITTEN),
        giving=("Bugs in asking and giving are seen.", GIVING),
        scrubbed=("Bugs of the scrubber are seen.", SCRUBBED),
        rooms=("Bugs about full disks are seen.", ROOMS),
        shared=("Bugs in what the logs of a node share are seen.", SHARED),
    )
    def test(self, bank):
        self.assertEqual(survivors(bank), [])
