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
from tests.mutants.mending import GIVING, MENDING, SCRUBBED, TAKING, WRITTEN
from tests.mutants.named import survivors
from tests.mutants.rooms import ROOMS


class MutantTests(SynchronousTestCase):
    """Every mutant of the driver is caught."""

    def test_names(self):
        """No two mutants have the same name."""
        names = [caught.mutant.name for caught in (*DRIVING, *MENDING, *ROOMS)]
        self.assertEqual(len(names), len(set(names)))

    def test_order(self):
        """Bugs in the order of disk, messages and readers are seen."""
        self.assertEqual(survivors(ORDER), [])

    def test_answers(self):
        """Bugs in what callers are told are seen."""
        self.assertEqual(survivors(ANSWERS), [])

    def test_joining_appends(self):
        """Bugs in small appends that share entries are seen."""
        self.assertEqual(survivors(JOINING_APPENDS), [])

    def test_reading(self):
        """Bugs in what readers are told are seen."""
        self.assertEqual(survivors(READING), [])

    def test_membership(self):
        """Bugs in joining, ids and administration are seen."""
        self.assertEqual(survivors(MEMBERSHIP), [])

    def test_strangers(self):
        """Bugs in who is believed to be a member are seen."""
        self.assertEqual(survivors(STRANGERS), [])

    def test_twins(self):
        """Bugs in telling two machines of one name apart are seen."""
        self.assertEqual(survivors(TWINS), [])

    def test_taking(self):
        """Bugs in what is taken for the damaged entries are seen."""
        self.assertEqual(survivors(TAKING), [])

    def test_written(self):
        """Bugs in how they are written are seen."""
        self.assertEqual(survivors(WRITTEN), [])

    def test_giving(self):
        """Bugs in asking and giving are seen."""
        self.assertEqual(survivors(GIVING), [])

    def test_scrubbed(self):
        """Bugs of the scrubber are seen."""
        self.assertEqual(survivors(SCRUBBED), [])

    def test_rooms(self):
        """Bugs about full disks are seen."""
        self.assertEqual(survivors(ROOMS), [])
