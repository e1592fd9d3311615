"""What the logs of a node share comes back: of a log that is quiet, goes back, or is over."""

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import CACHES_SIZE_MAX, CATCH_UP_RATE, KIB, PROPOSALS_SIZE_MAX, WAITERS_MAX
from loghouse.raft.config import LAN
from loghouse.replica.budgets import Budgets
from tests.test_node import NodeTestCase


class NodeBudgetTests(NodeTestCase):
    """The budgets of a node with one log."""

    def test_sizes(self):
        """A node has in all what one log may have for itself; of caches, what four may."""
        node = self.start()
        budgets = node._budgets
        self.assertEqual(budgets.under_way.ledger.quota.total, PROPOSALS_SIZE_MAX)
        self.assertEqual(budgets.caches.total, CACHES_SIZE_MAX)
        self.assertEqual(budgets.catch_up.due(CATCH_UP_RATE, 0.0), 0.0)
        self.assertEqual(budgets.catch_up.due(0, 0.0), 1.0)
        self.assertEqual(node._waiting.total, WAITERS_MAX)

    def test_log_alone(self):
        """Whoever hosts a log alone need not say so: it has the budgets of a node for itself."""
        self.assertEqual(Budgets.for_node(LAN).caches.share, CACHES_SIZE_MAX)

    def test_quiet(self):
        """Entries of a busy log are in memory, and given back some seconds after the last one."""
        node = self.start()
        for _ in range(5):
            self.append(node, size=KIB)
        caches = node._budgets.caches
        self.assertGreater(caches.held, 5 * KIB)
        held = []
        for _ in range(60):
            self.clock.advance(0.1)
            self.settle()
            held.append(caches.held)
        self.assertGreater(held[40], 5 * KIB)
        self.assertEqual(held[-1], 0)
        self.append(node)
        self.assertGreater(caches.held, 0)

    def test_stopped(self):
        """A core that stops, or gives way to another, holds nothing any more."""
        node = self.start()
        self.append(node, size=KIB)
        caches, replica = node._budgets.caches, node.log("").replica
        driver = replica.driver
        driver.stop()
        self.assertEqual((caches.held, caches.share), (0, CACHES_SIZE_MAX))
        replica.restart_core(driver)
        self.settle()
        self.append(node, size=KIB)
        self.assertGreater(caches.held, KIB)
        self.stop(node)
        self.assertEqual(caches.held, 0)

    def test_appends(self):
        """Appends of a log count for the node until their outcome is known."""
        node = self.start()
        ledger = node._budgets.under_way.ledger
        done = self.propose(node, size=KIB)
        self.assertGreaterEqual(ledger.held, KIB)
        total = ledger.quota.total
        ledger.take("others, of another log", total - ledger.held, share=total)
        self.failureResultOf(self.propose(node), ResourceExhaustedError)
        self.settle()
        self.successResultOf(done)
        self.append(node)
