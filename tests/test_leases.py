"""Leases: how long others wait for a holder that is silent."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.cursors import CursorState
from loghouse.replica.leases import Leases

CURSOR = CursorState(name="billing", epoch=7, holder="one", lease_milliseconds=5000)


class LeaseTests(SynchronousTestCase):
    """One holder, on the leader's monotonic clock."""

    def setUp(self):
        self.now = 100.0
        self.leases = Leases(lambda: self.now)

    def left(self, **changes):
        return self.leases.left_milliseconds(replace(CURSOR, **changes))

    def test_renewed(self):
        """A lease runs out its whole length after its holder was last heard."""
        self.leases.renew(CURSOR)
        self.now += 4
        self.assertEqual(self.left(), 1000)
        self.leases.renew(CURSOR)
        self.assertEqual(self.left(), 5000)
        self.now += 5
        self.assertEqual(self.left(), 0)
        self.now += 100
        self.assertEqual(self.left(), 0)

    def test_grace(self):
        """A holder that this leader never heard has one whole lease from the leadership's beginning on."""
        self.leases.renew(CURSOR)
        self.now += 1000
        self.leases.begin()
        self.assertEqual(self.left(), 5000)
        self.now += 3
        self.assertEqual((self.left(), self.left(lease_milliseconds=60_000)), (2000, 57_000))
        self.now += 2
        self.assertEqual(self.left(), 0)

    def test_of_another_epoch(self):
        """Who acquired it later has a lease of its own; what was renewed before does not count for it."""
        self.leases.renew(CURSOR)
        self.now += 4.5
        self.assertEqual(self.left(epoch=9), 500)
        self.leases.renew(replace(CURSOR, epoch=9))
        self.assertEqual(self.left(epoch=9), 5000)

    def test_nobody(self):
        """What nobody holds has no lease."""
        self.leases.renew(CURSOR)
        self.assertEqual(self.left(holder=""), 0)

    def test_forgotten(self):
        """Nothing is kept of a cursor that is gone."""
        self.leases.renew(CURSOR)
        self.leases.forget("billing")
        self.leases.forget("billing")
        self.assertEqual(self.leases._heard, {})
