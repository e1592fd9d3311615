"""New copies on the disk of a node that lost its own, begun by the leaders of the logs."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import CataloguedNode, NodeSet
from loghouse.errors import DamageError, UnavailableError
from loghouse.gossip.members import MemberKey
from loghouse.node.renewals import RENEWALS_AT_ONCE_MAX, Renewals
from loghouse.protocol.configuration import Configuration, Member, MemberRole
from tests.catalogue.case import Changer, disk_of

NEW_DISK = b"n" * 16
BACK = MemberKey("c", NEW_DISK)


def key_of(name):
    return MemberKey(name, disk_of(name))


def configuration_of(*keys, learners=()):
    members = [Member(id=id_, name=key.name, disk_uuid=key.disk_uuid, role=role) for id_, key, role in keys]
    return Configuration(members=tuple(members), next_id=9)


VOTER, LEARNER = MemberRole.VOTER, MemberRole.LEARNER


class PlayedLog:
    """A log that this node leads, or not; the members in `heard` answer."""

    is_asleep = False

    def __init__(self, catalogued):
        self.group, self.catalogued = catalogued.group, catalogued
        self.replica = SimpleNamespace(leads=True)
        self.heard, self.woken = set(), 0
        self.driver = SimpleNamespace(wake=self.wake)
        self.configuration = configuration_of(
            *((one.member, MemberKey(one.node, one.disk_uuid), VOTER) for one in catalogued.replicas)
        )

    def wake(self):
        self.woken += 1

    def is_heard(self, member):
        return member in self.heard


class RenewalsCase(SynchronousTestCase):
    """Node a leads logs that are on a, b and c; c came back with an empty disk."""

    count = 1

    def setUp(self):
        self.changer = Changer("a", "b", "c")
        for number in range(self.count):
            self.changer.create(f"log-{number}", on=("a", "b", "c"))
        self.changer.append(NodeSet(node=CataloguedNode(name="c", disk_uuid=NEW_DISK)))
        self.cluster = configuration_of((1, key_of("a"), VOTER), (2, key_of("b"), VOTER), (9, BACK, LEARNER))
        self.damage = None
        self.present = [key_of("a"), key_of("b"), BACK]
        self.changes = []  # of the catalogue, each as (what decides, Deferred)
        logs = {log.group: PlayedLog(log) for log in self.changer.catalogue.logs.values()}
        self.node = SimpleNamespace(
            name="a",
            is_ending=False,
            transport=SimpleNamespace(present=lambda: self.present),
            membership=self,
            logs=logs,
            catalogue_log=SimpleNamespace(catalogue=self.changer.catalogue, change=self.change),
        )
        self.log = logs[16]
        self.renewals = Renewals(self.node, lambda: 1000.5)

    @property
    def settled(self):
        """The default log's committed configuration."""
        if self.damage is not None:
            raise self.damage
        return self.cluster, 7

    def change(self, decide):
        done = Deferred()
        self.changes.append((decide, done))
        return done

    def due(self):
        return self.renewals.due(self.changer.catalogue)


class DueTests(RenewalsCase):
    """Which copies are to be made anew."""

    def test_due(self):
        """A log led here whose copy was on a disk that the cluster knows no more, of a node that is there."""
        self.assertEqual(self.due(), [(16, "c")])

    def test_old_disk_is_a_member(self):
        """While the cluster has the old disk as a member it may come back, and is not replaced."""
        self.cluster = configuration_of((1, key_of("a"), VOTER), (3, key_of("c"), VOTER), (9, BACK, LEARNER))
        self.assertEqual(self.due(), [])

    def test_not_a_member_yet(self):
        """A node that the cluster has not let in gets nothing."""
        self.cluster = configuration_of((1, key_of("a"), VOTER), (2, key_of("b"), VOTER))
        self.assertEqual(self.due(), [])

    def test_not_there(self):
        """Nor does one that is not there."""
        self.present.remove(BACK)
        self.assertEqual(self.due(), [])

    def test_not_registered(self):
        """Nor one whose disk the catalogue does not know."""
        self.changer.append(NodeSet(node=CataloguedNode(name="c", disk_uuid=b"o" * 16)))
        self.assertEqual(self.due(), [])

    def test_heard(self):
        """A member that is heard has its disk, whatever is said of it; a log that sleeps wakes to listen."""
        replicas = self.log.catalogued.replicas
        self.log.heard.add(next(one.member for one in replicas if one.node == "c"))
        self.assertEqual((self.due(), self.log.woken), ([], 0))
        self.log.is_asleep = True
        self.assertEqual((self.due(), self.log.woken), ([], 1))

    def test_led_elsewhere(self):
        """The leader does it: only it knows that a majority is left."""
        self.log.replica.leads = False
        self.assertEqual(self.due(), [])
        self.log.replica = None
        self.assertEqual(self.due(), [])

    def test_not_placed(self):
        """The default log, and one that the catalogue does not place, are left alone."""
        self.log.group = 1
        self.assertEqual(self.due(), [])
        self.log.group, self.log.catalogued = 2, None
        self.assertEqual(self.due(), [])

    def test_damaged(self):
        """Who is a member is not known while the default log is repaired here."""
        self.damage = DamageError("file", 0, "damaged")
        self.assertEqual(self.due(), [])


class ManyTests(RenewalsCase):
    """A node that lost many copies gets some of them at a time."""

    count = RENEWALS_AT_ONCE_MAX + 3

    def test_some_at_a_time(self):
        """So many are begun at once, less those under way; a copy that cannot come holds nobody up."""
        self.assertEqual(len(self.due()), RENEWALS_AT_ONCE_MAX)
        logs = list(self.node.logs.values())
        for log in logs[:2]:
            ids = {one.node: one.member for one in log.catalogued.replicas}
            log.configuration = configuration_of((ids["a"], key_of("a"), VOTER), (ids["c"], BACK, VOTER))
        self.assertEqual(len(self.due()), RENEWALS_AT_ONCE_MAX - 2, "two copies on b are being made")
        self.assertNotIn(logs[0].group, [group for group, _ in self.due()])
        self.present.remove(key_of("b"))
        self.assertEqual(len(self.due()), RENEWALS_AT_ONCE_MAX)


class LookTests(RenewalsCase):
    """When the records are written."""

    count = 2

    def test_one_after_the_other(self):
        """Each log is placed anew by a record of its own, and nothing begins while that is under way."""
        self.renewals.look()
        self.renewals.look()
        (decide, done), *more = self.changes
        self.assertEqual(more, [])
        record = decide(self.changer.catalogue)
        self.assertEqual((record.group, record.by, record.at), (16, "node a", 1_000_500_000))
        self.assertEqual(next(one for one in record.replicas if one.node == "c").disk_uuid, NEW_DISK)
        done.callback(True)
        decide, done = self.changes[1]
        self.assertEqual(decide(self.changer.catalogue).group, 17)
        done.callback(True)
        self.renewals.look()
        self.assertEqual(len(self.changes), 3)

    def test_refused(self):
        """What finds no leader is tried again by the next look; a bug is told."""
        for error, count in ((UnavailableError("no leader"), 0), (ZeroDivisionError(), 1)):
            self.renewals.look()
            self.changes.pop()[1].errback(error)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), count)
        self.renewals.look()
        self.assertEqual(len(self.changes), 1)

    def test_not_now(self):
        """Nothing begins without a catalogue, nor while the node stops."""
        log, self.node.catalogue_log = self.node.catalogue_log, None
        self.renewals.look()
        self.node.catalogue_log, self.node.is_ending = log, True
        self.renewals.look()
        self.assertEqual(self.changes, [])
