"""Who waits for a cursor: what a leader remembers of those that it refused."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import WAIT_SECONDS, WAITING_MAX, WAITING_PER_CURSOR_MAX
from loghouse.replica.cursor_waits import CursorWaits


class WaitCase(SynchronousTestCase):
    """Waits on a clock of the test's."""

    def setUp(self):
        self.now = 100.0
        self.waits = CursorWaits(lambda: self.now)

    def check_empty(self):
        self.assertEqual((self.waits._until, self.waits._waiting), ({}, {}))


class WaitTests(WaitCase):
    """Who is said to wait, and for how long."""

    def test_order(self):
        """Who came first is told first, however often it asks."""
        for holder in ("one", "two", "one"):
            self.waits.refused("billing", holder)
        self.waits.refused("other", "three")
        self.assertEqual((self.waits.of("billing"), self.waits.count("billing")), (("one", "two"), 2))
        self.assertEqual((self.waits.of("nothing"), self.waits.count("nothing")), ((), 0))

    def test_silent(self):
        """Who asks no more is forgotten, and nobody else."""
        self.waits.refused("billing", "one")
        self.waits.refused("billing", "two")
        self.now += WAIT_SECONDS - 1
        self.waits.refused("billing", "one")
        self.now += 1
        self.assertEqual(self.waits.of("billing"), ("one",))
        self.now += WAIT_SECONDS - 1
        self.assertEqual(self.waits.count("billing"), 0)
        self.check_empty()

    def test_acquired(self):
        """Who has the cursor waits no more; it is no matter whether it did."""
        self.waits.refused("billing", "one")
        self.waits.acquired("billing", "two")
        self.assertEqual(self.waits.of("billing"), ("one",))
        self.waits.acquired("billing", "one")
        self.check_empty()

    def test_forgotten(self):
        """Nothing is kept of a cursor that is gone, nor of another leadership."""
        for forget in (lambda: self.waits.forget("billing"), self.waits.begin):
            self.waits.refused("billing", "one")
            self.waits.refused("billing", "two")
            forget()
            self.check_empty()
        self.waits.forget("billing")


class CapTests(WaitCase):
    """How many are remembered."""

    def test_cursor(self):
        """Of one cursor so many; those keep their place, and another one comes in once one is forgotten."""
        for number in range(WAITING_PER_CURSOR_MAX + 1):
            self.waits.refused("billing", f"h{number}")
        self.waits.refused("billing", "h0")
        found = self.waits.of("billing")
        self.assertEqual((len(found), found[0]), (WAITING_PER_CURSOR_MAX, "h0"))
        self.waits.refused("other", "late")
        self.assertEqual(self.waits.of("other"), ("late",))
        self.waits.acquired("billing", "h1")
        self.waits.refused("billing", "late")
        self.assertEqual(self.waits.of("billing")[-1], "late")

    def test_log(self):
        """Of all cursors together so many; then there is room again."""
        for number in range(WAITING_MAX + 1):
            self.waits.refused(f"c{number}", "one")
        self.assertEqual(len(self.waits._until), WAITING_MAX)
        self.assertEqual((self.waits.count("c0"), self.waits.count(f"c{WAITING_MAX}")), (1, 0))
        self.now += WAIT_SECONDS
        self.waits.refused("late", "one")
        self.assertEqual(list(self.waits._until), [("late", "one")])
