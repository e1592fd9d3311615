"""Which copies of logs need attention, by what one node knows."""

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import CataloguedLog, LogSettings, PlacedReplica, Span
from loghouse.gossip.members import MemberKey
from loghouse.limits import LAG_ENTRIES_MAX
from loghouse.node.api import CopyTrouble, LogProblem
from loghouse.node.copy_watch import STUCK_SECONDS, CopyWatch
from loghouse.protocol.configuration import Configuration, Member, MemberRole
from loghouse.protocol.gossip_messages import Liveness

A, B, C = (MemberKey(name, name.encode() * 16) for name in "abc")
NEW_C = MemberKey("c", b"n" * 16)
VOTER, LEARNER = MemberRole.VOTER, MemberRole.LEARNER


def configuration_of(*members):
    """Members, each as (id, key, role)."""
    made = [Member(id=id_, name=key.name, disk_uuid=key.disk_uuid, role=role) for id_, key, role in members]
    return Configuration(members=tuple(made), next_id=9)


def catalogued(*replicas):
    """A log placed on disks, each as (member, key)."""
    placed = tuple(PlacedReplica(member=id_, node=key.name, disk_uuid=key.disk_uuid) for id_, key in replicas)
    return CataloguedLog(
        name="orders",
        settings=LogSettings(),
        spans=(Span(group=16, replicas=placed),),
        epoch=1,
        next_member=4,
        created_at=0,
        founders=placed,
    )


class PlayedLog:
    """A log on node a, which leads it with 100 committed entries, all on every disk."""

    def __init__(self, name, group):
        self.name, self.group, self.leader_name = name, group, "a"
        self.catalogued = catalogued((1, A), (2, B), (3, C)) if group > 2 else None
        self.configuration = configuration_of((1, A, VOTER), (2, B, VOTER), (3, C, VOTER))
        self.followers = {id_: SimpleNamespace(match_index=100) for id_ in (1, 2, 3)}
        raft = SimpleNamespace(id=1, leader=1, commit_index=100, followers=self.followers)
        self.driver = SimpleNamespace(raft=raft)
        damage_control = SimpleNamespace(is_damaged=False)
        self.replica = SimpleNamespace(leads=True, damage_control=damage_control)

    @property
    def raft(self):
        return self.driver.raft

    def follow(self, leader="b"):
        """Let another node lead it; empty: nobody."""
        self.leader_name, self.replica.leads, self.raft.leader = leader, False, 2
        self.raft.followers = {}


class CopyWatchCase(SynchronousTestCase):
    """Node a of three, with the default log, the catalogue, and `orders`."""

    def setUp(self):
        self.clock = Clock()
        self.dead = set()
        self.default, self.catalogue = PlayedLog("default", 1), PlayedLog("_catalog", 2)
        self.orders = PlayedLog("orders", 16)
        self.node = SimpleNamespace(
            name=A.name,
            disk_uuid=A.disk_uuid,
            transport=SimpleNamespace(liveness_of=self.liveness_of),
            membership=self.default,
            logs={log.group: log for log in (self.default, self.catalogue, self.orders)},
            set_aside={},
        )
        self.watch = CopyWatch(self.node, self.clock.seconds)

    def liveness_of(self, key):
        return Liveness.DEAD if key in self.dead else Liveness.ALIVE

    def let_in(self, *keys):
        """Let the cluster's members be these."""
        members = [(id_, key, VOTER) for id_, key in enumerate(keys, start=1)]
        self.default.configuration = configuration_of(*members)

    def problems(self):
        return [(one.log, one.node, one.trouble, one.entries) for one in self.watch.problems()]

    def wait(self, seconds):
        for _ in range(int(seconds)):
            self.watch.look()
            self.clock.advance(1.0)
        self.watch.look()


class LedHereTests(CopyWatchCase):
    """A leader knows of every copy."""

    def test_well(self):
        """Nothing is said of copies that are there, and close behind."""
        self.orders.followers[3].match_index = 100 - 5
        self.wait(1)
        self.assertEqual(self.problems(), [])

    def test_away(self):
        """A copy on a node that does not run is away, of each log that has one there."""
        self.dead.add(C)
        away = [(name, "c", CopyTrouble.AWAY, 0) for name in ("_catalog", "orders")]
        self.assertEqual(self.problems(), away)

    def test_emptied(self):
        """A node with another disk has no copy, from when the cluster knows it until it votes."""
        self.dead.add(C)
        self.let_in(A, B, NEW_C)
        missing = [(name, "c", CopyTrouble.NO_COPY, 0) for name in ("_catalog", "orders")]
        self.assertEqual(self.problems(), missing)
        self.orders.catalogued = catalogued((1, A), (2, B), (4, NEW_C))
        self.assertEqual(self.problems(), missing)
        self.orders.followers[4] = SimpleNamespace(match_index=30)
        members = (1, A, VOTER), (2, B, VOTER), (3, C, VOTER), (4, NEW_C, LEARNER)
        self.orders.configuration = self.catalogue.configuration = configuration_of(*members)
        self.assertEqual(self.problems(), [missing[0], ("orders", "c", CopyTrouble.NO_COPY, 70)])
        members = (1, A, VOTER), (2, B, VOTER), (4, NEW_C, VOTER)
        self.orders.configuration = self.catalogue.configuration = configuration_of(*members)
        self.assertEqual(self.problems(), [])

    def test_behind(self):
        """A copy that lacks entries is told once it does not get on for ten seconds, or lacks very many."""
        for log in (self.orders, self.default):
            log.followers[2].match_index = 90
        self.wait(STUCK_SECONDS - 1)
        self.assertEqual(self.problems(), [])
        self.wait(1)
        stuck = [(name, "b", CopyTrouble.BEHIND, 10) for name in ("default", "orders")]
        self.assertEqual(self.problems(), stuck)
        self.orders.followers[2].match_index = 91
        self.wait(1)
        self.assertEqual(self.problems(), stuck[:1])
        self.default.followers[2].match_index = 100
        self.orders.raft.commit_index = 92 + LAG_ENTRIES_MAX
        self.wait(1)
        self.assertEqual(self.problems(), [("orders", "b", CopyTrouble.BEHIND, LAG_ENTRIES_MAX + 1)])

    def test_own_copy(self):
        """A leader is not behind itself, whatever its disk has."""
        for log in self.node.logs.values():
            log.followers[1].match_index = 0
        self.wait(2 * STUCK_SECONDS)
        self.assertEqual(self.problems(), [])


class AnyNodeTests(CopyWatchCase):
    """What is known of logs that others lead."""

    def setUp(self):
        super().setUp()
        for log in self.node.logs.values():
            log.follow()

    def test_well(self):
        """Nothing is said of the copies of others."""
        self.dead.add(C)
        self.assertEqual(self.problems(), [])

    def test_damaged(self):
        """A copy that is being repaired, or that stays closed, is told; of the default log, too."""
        for log in (self.default, self.orders):
            log.replica.damage_control.is_damaged = True
        repairing = [(name, "a", CopyTrouble.REPAIRING, 0) for name in ("default", "orders")]
        self.assertEqual(self.problems(), repairing)
        self.node.set_aside[16], self.orders.replica = "it is gone", None
        self.assertEqual(self.problems(), [repairing[0], ("orders", "a", CopyTrouble.DAMAGED, 0)])

    def test_not_opened(self):
        """A copy that belongs here and is not open is missing; one that belongs elsewhere is not."""
        self.orders.replica = self.orders.driver = None
        self.assertEqual(self.problems(), [("orders", "a", CopyTrouble.NO_COPY, 0)])
        self.orders.catalogued = catalogued((2, B), (3, C))
        self.assertEqual(self.problems(), [])

    def test_no_leader(self):
        """A log without a leader is told; of the default one the status says that."""
        for log in self.node.logs.values():
            log.leader_name = ""
        told = [(name, "a", CopyTrouble.NO_LEADER, 0) for name in ("_catalog", "orders")]
        self.assertEqual(self.problems(), told)

    def test_lost(self):
        """When the disks of half of the copies are gone no leader can be: that is told instead."""
        self.orders.leader_name = ""
        for keys, trouble in (
            ((A, B, NEW_C), CopyTrouble.NO_LEADER),
            ((A, MemberKey("b", b"n" * 16), NEW_C), CopyTrouble.LOST),
        ):
            self.let_in(*keys)
            self.assertIn(("orders", "a", trouble, 0), self.problems())
        self.let_in(A, B, NEW_C)
        self.orders.catalogued = catalogued((1, A), (3, C))
        self.assertIn(LogProblem(log="orders", node="a", trouble=CopyTrouble.LOST), self.watch.problems())
