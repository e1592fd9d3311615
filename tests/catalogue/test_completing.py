"""Replicas that a restored log lacks are placed, one by one."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.changes import complete_replicas
from loghouse.catalogue.records import CataloguedNode, LogPlaced, NodeSet, PlacedReplica
from tests.catalogue.case import Changer, disk_of

NOW = {"at": 8, "by": "node a"}


class CompletingTests(SynchronousTestCase):
    """A log with fewer replicas than its settings ask for."""

    def setUp(self):
        self.changer = Changer("a", "b", "c", "d")
        self.changer.create("orders")
        replica = PlacedReplica(member=9, node="a", disk_uuid=disk_of("a"))
        self.changer.append(LogPlaced(group=16, replicas=(replica,)))

    def complete(self, *alive):
        record = complete_replicas(self.changer.catalogue, alive, **NOW)
        if record is not None:
            self.assertTrue(self.changer.append(record))
        return record

    def test_one_by_one(self):
        """Each is placed where the fewest are, under an id that no member had, until there are enough."""
        self.assertIsNone(self.complete("a"))
        self.assertEqual(self.complete("a", "b").replicas[1].node, "b")
        placed = self.complete("a", "b", "c", "d")
        self.assertEqual([one.member for one in placed.replicas], [9, 10, 11])
        self.assertIsNone(self.complete("a", "b", "c", "d"))
        self.assertEqual(self.changer.nodes_of("orders")[0], "a")

    def test_who_cannot(self):
        """Nodes that are not known, on a host that holds one, or full, get none."""
        self.changer.append(NodeSet(node=CataloguedNode(name="a", disk_uuid=disk_of("a"), host="h")))
        self.changer.append(NodeSet(node=CataloguedNode(name="b", disk_uuid=disk_of("b"), host="h")))
        self.changer.append(NodeSet(node=CataloguedNode(name="c", disk_uuid=disk_of("c"), replicas_max=0)))
        self.assertIsNone(self.complete("a", "b", "c", "z"))
        self.assertEqual(self.complete("b", "c", "d", "z").replicas[1].node, "d")

    def test_racks(self):
        """A rack that holds none comes first."""
        for name, rack in (("a", "r1"), ("b", "r1"), ("d", "r2")):
            self.changer.append(NodeSet(node=CataloguedNode(name=name, disk_uuid=disk_of(name), rack=rack)))
        self.assertEqual(self.complete("a", "b", "d").replicas[1].node, "d")

    def test_others_are_left_alone(self):
        """A log that has what it asks for stays as it is, and so does the default one."""
        changer = Changer("a", "b", "c", "d")
        changer.create("orders")
        changer.create("small", replicas=1)
        self.assertIsNone(complete_replicas(changer.catalogue, "abcd", **NOW))
