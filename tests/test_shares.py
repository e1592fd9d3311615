"""What one subject may hold, and what is left for the others."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import ResourceExhaustedError
from loghouse.limits import Quota
from loghouse.shares import Ledger


class LedgerTests(SynchronousTestCase):
    """A ledger of four, three of them for one subject at most."""

    def setUp(self):
        self.ledger = Ledger(Quota("things", 4, 3))

    def refused(self, subject, amount=1, **fields):
        return str(self.assertRaises(ResourceExhaustedError, self.ledger.take, subject, amount, **fields))

    def test_share(self):
        """A subject gets its share and no more; another one still gets some."""
        self.ledger.take("a", 3)
        self.assertEqual(self.refused("a"), "things: 'a' holds 3 of its share of 3")
        self.ledger.take("b")
        self.assertEqual(self.ledger.held, 4)

    def test_total(self):
        """All together get no more than there is, and a refusal counts nothing."""
        self.ledger.take("a", 3)
        self.assertEqual(self.refused("b", 2), "things: all subjects together hold 3 of 4")
        self.ledger.take("b")
        self.assertEqual((self.ledger.held_by("a"), self.ledger.held_by("b")), (3, 1))
        self.assertEqual(self.ledger.refused_count, 1)

    def test_give_back(self):
        """What was given back can be taken again, and whoever holds nothing is forgotten."""
        self.ledger.take("a", 3)
        self.ledger.give_back("a", 2)
        self.ledger.take("a", 2)
        self.ledger.give_back("a", 3)
        self.assertEqual((self.ledger.held, self.ledger.held_by("a")), (0, 0))
        self.assertEqual(self.ledger._held_by, {})

    def test_smaller_share(self):
        """A caller may grant less than the quota's share."""
        self.ledger.take("nobody", share=1)
        self.refused("nobody", share=1)


class TableTests(SynchronousTestCase):
    """The table in limits.py."""

    def test_every_share_leaves_some(self):
        """No subject's share is all there is."""
        quotas = [value for value in vars(limits).values() if isinstance(value, Quota)]
        self.assertGreater(len(quotas), 2)
        for quota in quotas:
            self.assertLess(quota.share, quota.total, quota.what)
