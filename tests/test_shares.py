"""What one subject may hold, and what is left for the others."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import OutcomeUnknownError, ResourceExhaustedError
from loghouse.limits import HOLDING_FREE, HOLDING_STEP, KIB, PROPOSALS_MAX, RATES_MAX, Quota
from loghouse.raft.config import LAN
from loghouse.replica.api import Proposal
from loghouse.replica.budgets import Budgets
from loghouse.replica.under_way import UnderWay
from loghouse.shares import Budget, Holding, Ledger, Pace, Rate, Shares


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
        self.assertEqual(self.refused("a", 2), "things: 'a' holds 3 of its share of 3 and asks for 2 more")
        self.assertEqual(self.ledger.refused_count, 2)

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


class HoldingTests(SynchronousTestCase):
    """What one connection holds, in steps, of sixteen steps; its subject may have twelve."""

    def setUp(self):
        self.ledger = Ledger(Quota("bytes", 16 * HOLDING_STEP, 12 * HOLDING_STEP))
        self.holding = Holding(self.ledger, "a")

    def check_steps(self, count):
        self.assertEqual(self.ledger.held, count * HOLDING_STEP)
        self.assertEqual(self.ledger._held_by, {"a": count * HOLDING_STEP} if count else {})

    def test_steps(self):
        """A little is free, more is counted in steps; four steps too many are kept, all until it holds 0."""
        for amount, count in (
            (0, 0),
            (1, 0),
            (HOLDING_FREE, 0),
            (HOLDING_FREE + 1, 1),
            (HOLDING_FREE + HOLDING_STEP, 1),
            (HOLDING_FREE + HOLDING_STEP + 1, 2),
            (HOLDING_FREE + 5 * HOLDING_STEP, 5),
            (HOLDING_FREE + 4 * HOLDING_STEP, 5),
            (HOLDING_STEP, 5),
            (HOLDING_STEP - 1, 1),
            (HOLDING_FREE + 6 * HOLDING_STEP, 6),
            (HOLDING_FREE + HOLDING_STEP + 1, 2),
            (HOLDING_FREE + 7 * HOLDING_STEP, 7),
            (HOLDING_FREE, 0),
            (HOLDING_FREE + 5 * HOLDING_STEP, 5),
            (1, 0),
            (HOLDING_FREE + 1, 1),
            (1, 1),
            (0, 0),
        ):
            self.holding.hold(amount)
            self.check_steps(count)

    def test_shrink(self):
        """What shrinks gives back, and takes nothing."""
        self.holding.shrink(9 * HOLDING_STEP)
        self.check_steps(0)
        self.holding.hold(HOLDING_FREE + 7 * HOLDING_STEP)
        for amount, count in (
            (3 * HOLDING_STEP, 7),
            (3 * HOLDING_STEP - 1, 3),
            (9 * HOLDING_STEP, 3),
            (0, 0),
        ):
            self.holding.shrink(amount)
            self.check_steps(count)

    def test_refused(self):
        """Who is refused holds what it held."""
        self.holding.hold(2 * HOLDING_STEP)
        self.assertRaises(ResourceExhaustedError, self.holding.hold, HOLDING_FREE + 12 * HOLDING_STEP + 1)
        self.check_steps(2)
        self.holding.hold(HOLDING_FREE + 12 * HOLDING_STEP)
        self.check_steps(12)

    def test_close(self):
        """A connection that ends gives all back, once; another one of that subject keeps its own."""
        other = Holding(self.ledger, "a")
        other.hold(HOLDING_FREE + HOLDING_STEP)
        self.holding.hold(HOLDING_FREE + 3 * HOLDING_STEP)
        self.check_steps(4)
        for _ in range(2):
            self.holding.close()
            self.check_steps(1)
        other.close()
        self.check_steps(0)


class RateTests(SynchronousTestCase):
    """Three at once, then one every two seconds."""

    def test_turns(self):
        """A subject's turns run out and come back; another one has its own; those at rest are forgotten."""
        rate = Rate(3, 2.0)
        for _ in range(3):
            rate.take("a", "ids", 100.0)
        error = self.assertRaises(ResourceExhaustedError, rate.take, "a", "ids", 101.0)
        self.assertIn("'a' asked for 3; one more in 2 s", str(error))
        rate.take("b", "ids", 101.0)
        rate.take("a", "ids", 102.0)
        self.assertRaises(ResourceExhaustedError, rate.take, "a", "ids", 103.0)
        for _ in range(3):
            rate.take("a", "ids", 1000.0)

    def test_is_bounded(self):
        """Subjects that did nothing for long are not remembered."""
        rate = Rate(3, 2.0)
        for number in range(10 * RATES_MAX):
            rate.take(str(number), "ids", float(number))
        self.assertLessEqual(len(rate._free_at), RATES_MAX + 1)

    def test_who_is_at_rest(self):
        """Room is made once there is no more; who has all turns again is forgotten, others are not."""
        rate = Rate(3, 2.0)
        rate.take("at rest", "ids", 98.0)
        rate.take("busy", "ids", 98.5)
        for number in range(RATES_MAX - 2):
            rate.take(str(number), "ids", 100.0)
        self.assertEqual(len(rate._free_at), RATES_MAX)
        rate.take("one more", "ids", 100.0)
        self.assertEqual(len(rate._free_at), RATES_MAX)
        self.assertNotIn("at rest", rate._free_at)
        self.assertIn("busy", rate._free_at)


class UnderWayTests(SynchronousTestCase):
    """Room for sixteen kilobytes of appends."""

    def setUp(self):
        self.under_way = UnderWay(16 * KIB)
        self.proposed = []
        self.failed = []

    def propose(self, subject, size):
        proposal = Proposal(payload=bytes(size), record_count=1, subject=subject)
        self.under_way.propose(
            lambda *proposed: self.proposed.append(proposed), proposal, lambda _: None, self.failed.append
        )

    def test_share(self):
        """A subject has three quarters, also when other nodes pass its appends on; others go on."""
        for _ in range(4):
            self.propose("a", 4 * KIB)
        self.assertEqual((len(self.proposed), len(self.failed)), (3, 1))
        self.assertIsInstance(self.failed[0], ResourceExhaustedError)
        self.propose("b", 4 * KIB)
        self.assertEqual(len(self.proposed), 4)
        self.proposed[0][1](None)
        self.proposed[1][2](OutcomeUnknownError("x"))
        self.propose("a", 8 * KIB)
        self.assertEqual(len(self.proposed), 5)

    def test_small_ones(self):
        """Small appends are shared out by number."""
        under_way = UnderWay(4 * PROPOSALS_MAX)
        for _ in range(PROPOSALS_MAX):
            proposal = Proposal(payload=b"", record_count=1, subject="a")
            under_way.propose(lambda *proposed: None, proposal, lambda _: None, self.failed.append)
        self.assertEqual(len(self.failed), PROPOSALS_MAX // 4)


class BudgetTests(SynchronousTestCase):
    """What the logs of a node hold and do together."""

    def test_share(self):
        """Each that holds something has an equal part; one that holds nothing any more has none."""
        budget = Budget(120)
        shares = []
        for before, after in [(0, 0), (0, 10), (10, 90), (0, 5), (0, 1), (90, 0), (5, 4), (4, 0), (1, 0)]:
            budget.move(before, after)
            shares.append((budget.held, budget.share))
        self.assertEqual(
            shares,
            [(0, 120), (10, 120), (90, 120), (95, 60), (96, 40), (6, 60), (5, 60), (1, 120), (0, 120)],
        )

    def test_pace(self):
        """What is asked for is due in its turn, and what nobody asked for is not saved up."""
        pace = Pace(10.0)
        self.assertEqual([pace.due(20, 0.0), pace.due(5, 0.0), pace.due(5, 1.0)], [0.0, 2.0, 2.5])
        self.assertEqual([pace.due(10, 50.0), pace.due(0, 50.5), pace.due(1, 51.5)], [50.0, 51.0, 51.5])

    def test_proposals_of_a_node(self):
        """Appends of all logs of a node are under way in one place, and make room for each other's."""
        budgets = Budgets.for_node(replace(LAN, proposals_size_max=16 * KIB))
        settled, failed = [], []
        for subject, size in (("a", 10), ("b", 6), ("c", 1)):
            proposal = Proposal(payload=bytes(size * KIB), record_count=1, subject=subject)
            budgets.under_way.propose(
                lambda proposal, appended, lost: settled.append(appended),
                proposal,
                lambda _: None,
                failed.append,
            )
        self.assertEqual((len(settled), [type(error) for error in failed]), (2, [ResourceExhaustedError]))
        settled[0](None)
        self.assertEqual(budgets.under_way.ledger.held, 6 * KIB)


class SharesTests(SynchronousTestCase):
    """The ledgers of one node."""

    def test_quotas(self):
        """Each is of the node's quota for it, or of one that a test gives."""
        shares = Shares()
        found = [one.quota for one in (shares.calls, shares.followers, shares.bodies, shares.answers)]
        self.assertEqual(found, [limits.CALLS, limits.FOLLOWERS, limits.BODIES, limits.ANSWERS])
        given = {name: Quota(name, 4, 2) for name in ("calls", "followers", "bodies", "answers")}
        shares = Shares(**given)
        self.assertEqual({name: getattr(shares, name).quota for name in given}, given)


class TableTests(SynchronousTestCase):
    """The table in limits.py."""

    def test_every_share_leaves_some(self):
        """No subject's share is all there is."""
        quotas = [value for value in vars(limits).values() if isinstance(value, Quota)]
        self.assertGreater(len(quotas), 2)
        for quota in quotas:
            self.assertLess(quota.share, quota.total, quota.what)
