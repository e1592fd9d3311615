"""A log's copy on a disk that is gone gives way to one on the disk that its node has now."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.changes import renew_replica
from loghouse.catalogue.records import CataloguedNode, LogCreated, LogSettings, NodeSet, PlacedReplica, Span
from tests.catalogue.case import Changer, disk_of

NOW = {"at": 8, "by": "node a"}
NEW_DISK = b"n" * 16


class RenewingTests(SynchronousTestCase):
    """What `renew_replica` says."""

    def setUp(self):
        self.changer = Changer("a", "b", "c")
        self.changer.create("orders")

    def renew(self, group=16, node="b"):
        return renew_replica(self.changer.catalogue, group, node, **NOW)

    def test_renewed(self):
        """The new copy is another member, in the old one's place; the others stay who they are."""
        before = self.changer.catalogue.logs["orders"].replicas
        self.changer.append(NodeSet(node=CataloguedNode(name="b", disk_uuid=NEW_DISK)))
        record = self.renew()
        self.assertEqual((record.at, record.by, record.group), (8, "node a", 16))
        new = PlacedReplica(member=4, node="b", disk_uuid=NEW_DISK)
        self.assertEqual(record.replicas, tuple(new if one.node == "b" else one for one in before))
        self.assertTrue(self.changer.append(record))
        self.assertIsNone(self.renew(), "it is on the disk that the node has")

    def test_nothing_to_renew(self):
        """Nothing is said of a node with its disk, of one that is not known, nor of another log."""
        for group, node in ((16, "b"), (16, "z"), (17, "b")):
            self.assertIsNone(self.renew(group, node))

    def test_default(self):
        """The default log's members are the cluster's: they are not placed."""
        span = Span(group=1, replicas=(PlacedReplica(member=1, node="b", disk_uuid=disk_of("b")),))
        self.changer.append(LogCreated(name="default", settings=LogSettings(replicas=1), spans=(span,)))
        self.changer.append(NodeSet(node=CataloguedNode(name="b", disk_uuid=NEW_DISK)))
        self.assertIsNone(self.renew(group=1))
