"""A removal that was never committed must not come between a node and the leader that replaces it."""

from tests.driver.town import TownTestCase


class UncommittedRemovalTests(TownTestCase):
    """What only this node's log says of who was removed shuts nobody out."""

    def test_removed_becomes_the_leader(self):
        """A leader that is cut off removes a node; that one leads then, and the old leader follows it."""
        town = self.built("abc")
        old = town.leader
        successor, other = (one for one in town.running if one is not old)
        town.cut(old.name)
        ignored = old.node.remove(successor.name)
        ignored.addErrback(lambda failure: None)
        town.until(lambda: town.leader is not old and town.leader is not None)
        if town.leader is other:
            self.result(town, other.node.transfer(successor.name))
            town.until(lambda: town.leader is successor)
        self.assertIn(successor.name, old.node.configuration.removed)
        town.heal()
        done = self.result(town, successor.propose())
        town.until(lambda: old.node._replica.readable_index >= done.index)
        self.assertEqual(old.node.configuration.removed, ())
        self.assertEqual(town.shape(old.name), "aV bV cV")
