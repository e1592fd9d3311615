"""A removal that was never committed must not come between a node and the leader that replaces it."""

from dataclasses import replace

from tests.driver.town import TownTestCase


class UncommittedRemovalTests(TownTestCase):
    """What only this node's log says of who was removed shuts nobody out."""

    def test_removed_becomes_the_leader(self):
        """A leader that is cut off removes a node; that one leads then, and the old leader follows it."""
        town, old, successor, other = self.led("abc")
        town.cut(old.name)
        # As if the cut came right after the others were heard for the removal.
        configuration = old.log.configuration
        member = next(iter(configuration.named(successor.name)))
        removal = replace(configuration.without(member.id), removed=(successor.name,))
        old.driver.propose_configuration(removal, lambda appended: None, lambda error: None)
        town.until(lambda: town.leader is not old and town.leader is not None)
        if town.leader is other:
            self.result(town, other.node.administration.transfer(successor.name))
            town.until(lambda: town.leader is successor)
        self.assertIn(successor.name, old.log.configuration.removed)
        town.heal()
        done = self.result(town, successor.propose())
        town.until(lambda: old.driver.readable_index >= done.index)
        self.assertEqual(old.log.configuration.removed, ())
        self.assertEqual(town.shape(old.name), "aV bV cV")

    def test_id_given_twice(self):
        """Who has an entry that gave a node's id to another, and was never committed, still follows it."""
        town, old, successor, other = self.led("abc")
        for one in (successor, other):
            town.cuts |= {(old.name, one.name), (one.name, old.name)}
        # The old leader, alone with "d", gives it the next id before it notices.
        for one in (successor, other):
            town.cuts |= {("d", one.name), (one.name, "d")}
        town.add("d").start()
        town.until(lambda: "dL" in town.shape(old.name))
        town.until(lambda: town.leader in (successor, other))
        leader = town.leader
        for name in (old.name, "d"):
            town.cuts |= {(name, "e"), ("e", name)}
        newcomer = town.add("e").start()
        town.until(lambda: "eL" in town.shape(leader.name))
        ids = [one.log.configuration.named(twin)[0].id for one, twin in ((old, "d"), (leader, "e"))]
        self.assertEqual(ids[0], ids[1])
        # A second newcomer: they get their votes in pairs.
        for name in (old.name, "d"):
            town.cuts |= {(name, "f"), ("f", name)}
        town.add("f").start()
        town.until(lambda: "eV fV" in town.shape(leader.name))
        self.result(town, leader.node.administration.transfer("e"))
        town.until(lambda: town.leader is newcomer)
        town.heal()
        done = self.result(town, newcomer.propose())
        town.until(lambda: old.driver.readable_index >= done.index)
        town.until(lambda: "d" in town.shape("e"))
