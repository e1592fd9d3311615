"""Bugs that other implementations had, one test each, on whole memberships."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.gossip.ready import EventKind
from loghouse.limits import GOSSIP_MEMBERS_MAX
from loghouse.protocol.gossip_messages import Liveness, SwimBroadcast
from tests.gossip.bench import said
from tests.gossip.town import Town
from tests.processes import thorough

# A day of dead-reclaim in half a minute.
SHORT_LIVED = replace(LAN, dead_reclaim_ticks=300, gossip_to_dead_ticks=100)


@thorough
class LongPartitionTests(SynchronousTestCase):
    """weaviate #10698, serf #333: after a long partition nobody probes the dead any more."""

    def test_long_partition(self):
        """After ten times the time in which the dead are forgotten, healed halves become one again."""
        town = Town(6, seed=11, config=SHORT_LIVED)
        town.settle()
        left, right = (1, 2, 3), (4, 5, 6)
        town.partition(left, right)
        town.run(300)
        self.assertEqual({member.name for member in town[1].swim.members}, {"node-1", "node-2", "node-3"})
        town.mend(left, right)
        self.assertLess(town.run_until_agreed(60), 60)

    def test_restart_within_partition(self):
        """The same when one half restarted meanwhile: its disks remember the other half."""
        town = Town(6, seed=12, config=SHORT_LIVED)
        town.settle()
        left, right = (1, 2, 3), (4, 5, 6)
        town.partition(left, right)
        town.run(100)
        for number in left:
            town[number].kill()
            town[number].start()
        town.run(200)
        town.mend(left, right)
        self.assertLess(town.run_until_agreed(60), 60)

    def test_removed_is_left_alone(self):
        """A member that was removed for good is not tried any more."""
        town = Town(3, seed=13)
        town.settle()
        town[3].kill()
        town.run_until_agreed(60)
        for number in (1, 2):
            town[number].swim.shut_out(frozenset({"node-3"}))
        town.run(30)
        tried = []
        town.tap = lambda source, outgoing: tried.append(outgoing.address)
        town.run(120)
        self.assertNotIn(town[3].address, tried)


@thorough
class LeaveTests(SynchronousTestCase):
    """Leaving, leaving twice, and what comes after."""

    def test_leave(self):
        """A leave reaches everybody at once, is no failure, and nobody looks for who left."""
        for count in (3, 10, 50):
            town = Town(count, seed=count)
            town.settle()
            town[2].swim.leave()
            town[2].drive()
            town.run(3)
            self.assertIs(town[2].swim.members[0].liveness, Liveness.LEFT)
            town[2].kill()
            for node in town.running():
                self.assertEqual(node.kinds("node-2")[-1], EventKind.LEFT, node.number)
            town.run(30)
            self.assertEqual(town.failures, [])
            tried = []
            town.tap = lambda source, outgoing, tried=tried: tried.append(outgoing.address)
            town.run(30)
            self.assertNotIn(town[2].address, tried)

    def test_two_leaves_die_down(self):
        """serf #606: two leaves of one member do not chase each other for ever."""
        town = Town(10, seed=21)
        town.settle()
        town.run(30)
        quiet = self.broadcasts_in(town, 20)
        self.assertEqual(quiet, 0)
        town[2].swim.leave()
        town[2].drive()
        again = replace(self.leave_of(town[2]), incarnation=town[2].swim.incarnation + 1)
        town[2].kill()
        town.forge(3, 4, SwimBroadcast(broadcasts=(again,)))
        town.forge(5, 6, SwimBroadcast(broadcasts=(replace(again, incarnation=again.incarnation - 1),)))
        # Two statements, each told at most transmit_limit times by each of nine.
        self.assertLess(self.broadcasts_in(town, 30), 2 * 8 * 9)
        self.assertEqual(self.broadcasts_in(town, 60), 0)

    def leave_of(self, node):
        view = next(view for view in node.swim.members if view.name == f"node-{node.number}")
        return said(Liveness.LEFT, view.name, view.incarnation, disk_uuid=view.disk_uuid)

    def broadcasts_in(self, town, seconds):
        before = town.sent.get("SwimBroadcast", 0)
        town.run(seconds)
        return town.sent.get("SwimBroadcast", 0) - before

    def test_address_used_again(self):
        """memberlist #213: who left or died does not block its address for another member."""
        for how in ("left", "dead"):
            town = Town(5, seed=22)
            town.know_each_other()
            for number in (1, 2, 3, 4):
                town[number].start()
            town.run(20)
            if how == "left":
                town[4].swim.leave()
                town[4].drive()
                town.run(2)
            town[4].kill()
            del town.listeners[town[4].address]
            town.run(60)
            town[5].address = town[4].address
            town[5].disk = b""
            town[5].seeds = (town[1].address,)
            town[5].start()
            self.assertLess(town.run_until_agreed(30), 30, how)
            expected = Liveness.LEFT if how == "left" else Liveness.DEAD
            self.assertIs(town[1].member(town[4]).liveness, expected)

    def test_rejoin_elsewhere(self):
        """serf #58: a member that left and comes back with another address and tags is known by those."""
        town = Town(5, seed=23)
        town.settle()
        town[4].swim.leave()
        town[4].drive()
        town.run(2)
        town[4].kill()
        town.run(10)
        town[4].address, town[4].tags = "10.9.9.9:8400", ("rack-7",)
        town[4].start()
        town.run_until_agreed(30)
        for node in town:
            profile = node.member(town[4]).profile
            self.assertEqual((profile.address, profile.tags), ("10.9.9.9:8400", ("rack-7",)), node.number)

    def test_move_while_running(self):
        """A member that changes its address goes on without a failure."""
        town = Town(10, seed=24)
        town.settle()
        moved = replace(town[4].swim.profile, address="10.9.9.9:8400")
        town.listeners["10.9.9.9:8400"] = 4
        del town.listeners[town[4].address]
        town[4].swim.update(moved)
        town[4].drive()
        town.run(120)
        self.assertEqual(town.failures, [])
        self.assertEqual({node.member(town[4]).profile.address for node in town}, {"10.9.9.9:8400"})

    def test_emptied_disk(self):
        """A node back with an emptied disk is a new member; its old self fails and is not looked for."""
        town = Town(5, seed=25)
        town.settle()
        old = town[4].key
        town[4].kill()
        town[4].disk, town[4].disk_uuid, town[4].seeds = b"", bytes(15) + b"\x99", (town[1].address,)
        town[4].start()
        town.run(150)
        held = {(m.name, m.disk_uuid): m.liveness for m in town[1].swim.members}
        self.assertEqual((held[old], held[town[4].key]), (Liveness.DEAD, Liveness.ALIVE))
        targets = []
        town.tap = lambda source, outgoing: targets.append(outgoing.target)
        town.run(60)
        self.assertFalse(old in targets)


@thorough
class BudgetTests(SynchronousTestCase):
    """serf #78, consul #18078, #14200: nothing grows, and nothing is sent without need."""

    def test_idle(self):
        """An idle node sends one ping and one ack a second, and a view now and then; no broadcasts at all."""
        for count in (3, 10, 50):
            town = Town(count, seed=count)
            town.settle()
            town.run(30)
            before = dict(town.sent)
            town.run(120)
            rate = {kind: (town.sent[kind] - before[kind]) / 120 / count for kind in town.sent}
            self.assertEqual(rate["SwimBroadcast"], 0, count)
            self.assertLessEqual(rate["SwimPing"], 1.01)
            self.assertLessEqual(rate["PushPull"], 1 / 29)
            self.assertLess(sum(rate.values()), 2.1, count)

    def test_change(self):
        """One change costs each of fifty nodes at most its transmit limit of messages."""
        town = Town(50, seed=31)
        town.settle()
        town.run(60)
        before = town.sent["SwimBroadcast"]
        town[7].swim.update(replace(town[7].swim.profile, tags=("new",)))
        town.run(60)
        self.assertEqual({node.member(town[7]).profile.tags for node in town}, {("new",)})
        # Besides pings and acks; a gossip round of three targets may end with a third of its messages unused.
        self.assertLess(town.sent["SwimBroadcast"] - before, 8 * 50)

    def test_churn(self):
        """However much happens, each node queues at most one statement of each member."""
        town = Town(10, seed=32, loss=0.2)
        town.settle()
        for step in range(60):
            number = step % 9 + 2
            if town[number].swim is None:
                town[number].start()
            else:
                town[number].kill()
            town.run(1)
            for node in town.running():
                self.assertLessEqual(len(node.swim._broadcasts), 10)
                self.assertLess(len(node.swim._table), GOSSIP_MEMBERS_MAX)
        for node in town:
            if node.swim is None:
                node.start()
        town.network.heal(0.002)
        town.run_until_agreed(120)


@thorough
class DeadRumourTests(SynchronousTestCase):
    """What is held against a living member reaches it, and it takes it back."""

    def poison(self, liveness, ahead):
        """Let a newcomer to three nodes first hear of the end of one, from somebody whom nobody else hears.

        So it was with a node that had just been removed, and was asked by one that had lost its disk.
        """
        town = Town(5, seed=31)
        town.know_each_other()
        for number in (1, 2, 3):
            town[number].start()
        town.run(20)
        victim = town[3]
        town[4].disk = b""
        town[4].seeds = (town[1].address, victim.address)
        town[4].start()
        said_of_it = said(
            liveness,
            "node-3",
            victim.swim.incarnation + ahead,
            accuser="node-5" if liveness is Liveness.DEAD else "",
            disk_uuid=victim.disk_uuid,
        )
        town.forge(5, 4, SwimBroadcast(broadcasts=(said_of_it,)))
        town.run_until_agreed(60)
        self.assertEqual(town.failures, [], (liveness, ahead))
        self.assertGreater(victim.swim.incarnation, said_of_it.incarnation)

    def test_unknown_member(self):
        """A newcomer that was told that a living member is dead, or has left, learns soon that it lives."""
        for liveness in (Liveness.DEAD, Liveness.LEFT):
            for ahead in (0, 100):
                self.poison(liveness, ahead)

    def test_moved_without_its_book(self):
        """A dead member that comes back elsewhere, its incarnation forgotten, is found at its new address."""
        town = Town(4, seed=32)
        town.settle()
        for _ in range(3):
            town[3].kill()
            town[3].start()
        town.run_until_agreed(60)
        town[3].kill()
        town.run_until_agreed(90)
        del town.listeners[town[3].address]
        town[3].address = "10.0.1.3:8400"
        town[3].disk = b""
        town[3].seeds = (town[1].address,)
        town[3].start()
        town.run_until_agreed(60)
        for number in (1, 2, 4):
            self.assertEqual(town[number].member(town[3]).profile.address, town[3].address)
