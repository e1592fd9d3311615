"""Tests of loghouse.catalogue: the fold, what may be changed, and where new logs go."""

import random
from collections import Counter
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue import catalogue as catalogue_module
from loghouse.catalogue import changes as changes_module
from loghouse.catalogue.changes import alter_log, create_log, delete_log, replace_replica
from loghouse.catalogue.records import (
    CataloguedNode,
    LogAltered,
    LogCreated,
    LogDeleted,
    LogPlaced,
    LogSettings,
    NodeSet,
    PlacedReplica,
    Span,
    encode_record,
)
from loghouse.errors import InvalidRequestError, ResourceExhaustedError, UnknownLogError
from tests.catalogue.case import Changer, disk_of, everything, read

NOW = {"at": 8, "by": "root"}


class FoldTests(SynchronousTestCase):
    """What the records come to."""

    def test_created_and_deleted(self):
        """A log has a group of its own. Deleted, it leaves a tombstone, and its number never comes again."""
        changer = Changer("a", "b", "c")
        changer.create("orders")
        changer.create("audit")
        catalogue = changer.catalogue
        self.assertEqual([log.group for log in catalogue.logs.values()], [16, 17])
        self.assertEqual(catalogue.log_of(16).name, "orders")
        changer.delete("orders", at=1234)
        self.assertIsNone(catalogue.log_of(16))
        self.assertEqual(catalogue.tombstones, {16: 1234})
        changer.create("orders")
        self.assertEqual(catalogue.logs["orders"].group, 18)
        self.assertEqual(catalogue.placed_on("a", disk_of("a")).keys(), {17, 18})
        self.assertEqual(catalogue.placed_on("a", disk_of("b")), {})

    def test_epochs(self):
        """The epoch of a log rises with each record that places it, and with no other."""
        changer = Changer("a", "b", "c", "d")
        changer.create("orders")
        log = changer.catalogue.logs["orders"]
        self.assertEqual(log.epoch, 4)
        changer.append(alter_log(changer.catalogue, "orders", retention_bytes=5, **NOW))
        self.assertEqual(changer.catalogue.logs["orders"].epoch, 4)
        changer.append(replace_replica(changer.catalogue, "orders", lost="a", new="d", **NOW))
        self.assertEqual(changer.catalogue.logs["orders"].epoch, 6)

    def test_default(self):
        """The default log, which is older, comes in with its group and members as they are."""
        changer = Changer("a", "b")
        span = Span(group=1, replicas=(PlacedReplica(member=5, node="a", disk_uuid=disk_of("a")),))
        record = LogCreated(name="default", settings=LogSettings(replicas=1), spans=(span,))
        self.assertFalse(changer.append(replace(record, spans=(replace(span, group=16),))))
        self.assertTrue(changer.append(record))
        self.assertEqual(changer.catalogue.logs["default"].next_member, 6)
        changer.create("orders", 2)
        self.assertEqual(changer.catalogue.logs["orders"].group, 16)

    def test_what_does_not_fit(self):
        """A record that does not fit changes nothing, and is noted with the reason."""
        changer = Changer("a", "b", "c")
        created = changer.create("orders")
        changer.delete("orders")
        changer.create("audit")
        span = created.spans[0]
        gone = replace(span.replicas[0], member=4)
        self.patch(catalogue_module, "LOGS_MAX", 1)
        rows = (
            (replace(created, name="audit"), "there is a log audit already"),
            (created, "group 16 is not the next one, 18"),
            (replace(created, spans=(replace(span, group=18),)), "there are 1 logs already"),
            (LogAltered(group=16, settings=LogSettings()), "there is no group 16"),
            (LogDeleted(group=16), "there is no group 16"),
            (LogPlaced(group=16, replicas=span.replicas), "there is no group 16"),
            (
                LogPlaced(group=17, replicas=(replace(span.replicas[0], node="z"),)),
                "member 1 is on another node or disk",
            ),
            (changer.catalogue.checkpoint(), "it was made for offset 6"),
        )
        for record, problem in rows:
            before = replace(everything(changer.catalogue), offset=0)
            if problem == "it was made for offset 6":
                record = replace(record, offset=6)
            self.assertFalse(changer.append(record), problem)
            self.assertEqual(changer.catalogue.ignored[-1], (len(changer.log) - 1, problem))
            self.assertEqual(replace(everything(changer.catalogue), offset=0), before)
        changer.append(LogPlaced(group=17, replicas=(gone,)))
        self.assertFalse(changer.append(LogPlaced(group=17, replicas=(replace(gone, member=2),))))
        self.assertEqual(changer.catalogue.ignored[-1][1], "member id 2 was used before")

    def test_members_are_numbered_from_1(self):
        """The members of a new log are numbered from 1 on, for all of them make the same first entry."""
        changer = Changer("a", "b", "c")
        record = create_log(
            changer.catalogue, "orders", LogSettings(), alive=changer.catalogue.nodes, at=1, by=""
        )
        span = record.spans[0]
        wrong = replace(span, replicas=(*span.replicas[:-1], replace(span.replicas[-1], member=7)))
        self.assertFalse(changer.append(replace(record, spans=(wrong,))))
        self.assertEqual(changer.catalogue.ignored[-1][1], "its members are not numbered from 1 on")

    def test_bounds(self):
        """The oldest tombstones are forgotten, and no more nodes are taken than there may be."""
        self.patch(catalogue_module, "TOMBSTONES_MAX", 2)
        self.patch(catalogue_module, "CATALOGUE_NODES_MAX", 3)
        changer = Changer("a", "b", "c")
        for name in ("x", "y", "z"):
            changer.create(name)
            changer.delete(name)
        self.assertEqual(list(changer.catalogue.tombstones), [17, 18])
        another = CataloguedNode(name="d", disk_uuid=disk_of("d"))
        self.assertFalse(changer.append(NodeSet(node=another)))
        self.assertTrue(changer.append(NodeSet(node=replace(another, name="c"))))
        for _ in range(20):
            changer.append(NodeSet(node=another))
        self.assertLessEqual(len(changer.catalogue.ignored), 10)


class CheckpointTests(SynchronousTestCase):
    """A catalogue that begins behind a trim."""

    def test_walk(self):
        """Whoever begins at any checkpoint comes to the same catalogue as who read all, whatever was done."""
        for seed in range(20):
            changer, checkpoints = walked(random.Random(seed))
            for first in checkpoints:
                self.assertEqual(everything(read(changer.log, first)), everything(changer.catalogue))

    def test_too_early(self):
        """A checkpoint that another record came before of means nothing, to who begins there, too."""
        changer = Changer("a", "b", "c")
        late = changer.catalogue.checkpoint()
        changer.create("orders")
        first = len(changer.log)
        self.assertFalse(changer.append(late))
        changer.append(changer.catalogue.checkpoint())
        changer.create("audit")
        self.assertEqual(everything(read(changer.log, first)), everything(changer.catalogue))

    def test_without_the_records_before(self):
        """Records behind a gap that no checkpoint closes are not taken for a catalogue."""
        changer = Changer("a", "b", "c")
        changer.create("orders")
        self.assertEqual(read(changer.log, 3).logs, {})

    def test_size(self):
        """A checkpoint of a thousand logs on thirty nodes is smaller than one entry may be."""
        changer = Changer(*(f"node-{number}" for number in range(30)))
        for number in range(1000):
            changer.create(f"team-a-orders-{number}", tags=("team-a",))
        self.assertLess(len(encode_record(changer.catalogue.checkpoint())), 800_000)


class ChangeTests(SynchronousTestCase):
    """What somebody may ask for."""

    def setUp(self):
        self.changer = Changer("a", "b", "c", "d")
        self.changer.create("orders", retention_seconds=5)

    def test_twice(self):
        """A log that exists as it is asked for is no error, and no record."""
        self.assertIsNone(self.changer.create("orders", retention_seconds=5))
        self.assertIsNone(
            self.changer.create("orders", retention_seconds=5, on=self.changer.nodes_of("orders"))
        )
        self.assertIsNone(alter_log(self.changer.catalogue, "orders", retention_seconds=5, **NOW))

    def test_refused(self):
        """What cannot be meant is refused, with the field and what to do."""
        catalogue = self.changer.catalogue
        rows = (
            ("name", "log 'A'", lambda: self.changer.create("A")),
            ("name", "with other settings", lambda: self.changer.create("orders")),
            ("on", "on other nodes", lambda: self.changer.create("orders", retention_seconds=5, on=("d",))),
            ("on", "z is no node", lambda: self.changer.create("x", on=("a", "b", "z"))),
            ("on", "3 different nodes, 2", lambda: self.changer.create("x", on=("a", "b"))),
            ("on", "3 different nodes, 3", lambda: self.changer.create("x", on=("a", "b", "b"))),
            ("replicas", "cannot change", lambda: alter_log(catalogue, "orders", replicas=1, **NOW)),
            ("settings", "9 replicas", lambda: alter_log(catalogue, "orders", replicas=9, **NOW)),
            ("name", "cannot be deleted", lambda: delete_log(catalogue, "default", **NOW)),
            ("replace", "no replica on z", lambda: self.replaced("z", "d")),
            ("on", "z is no node", lambda: self.replaced(self.changer.nodes_of("orders")[0], "z")),
        )
        for field, told, ask in rows:
            error = self.assertRaises(InvalidRequestError, ask)
            self.assertEqual(error.field, field, told)
            self.assertIn(told, str(error))
        for ask in (
            lambda: alter_log(catalogue, "audit", **NOW),
            lambda: delete_log(catalogue, "audit", **NOW),
        ):
            self.assertRaises(UnknownLogError, ask)

    def replaced(self, lost, new):
        return replace_replica(self.changer.catalogue, "orders", lost=lost, new=new, **NOW)

    def test_too_many(self):
        """No more logs are created than a cluster may have."""
        self.patch(changes_module, "LOGS_MAX", 1)
        error = self.assertRaises(ResourceExhaustedError, self.changer.create, "audit")
        self.assertIn("delete one first", str(error))

    def test_replaced(self):
        """A lost replica gives way to one on another node, under an id that no member had."""
        nodes = self.changer.nodes_of("orders")
        lost, (new,) = nodes[1], {*"abcd"} - {*nodes}
        self.assertTrue(self.changer.append(self.replaced(lost, new)))
        log = self.changer.catalogue.logs["orders"]
        self.assertNotIn(lost, self.changer.nodes_of("orders"))
        self.assertEqual(sorted(one.member for one in log.replicas), [1, 3, 4])
        self.assertEqual(log.next_member, 5)


class PlacementTests(SynchronousTestCase):
    """Where new logs go."""

    def test_even(self):
        """Replicas and first places are spread over all nodes."""
        changer = Changer(*"abcde")
        for number in range(20):
            changer.create(f"log-{number}")
        self.assertEqual(set(changer.catalogue.load().values()), {12})
        leads = Counter(changer.nodes_of(name)[0] for name in changer.catalogue.logs)
        self.assertEqual(set(leads.values()), {4})

    def test_racks_and_hosts(self):
        """Replicas are on different hosts always, and on different racks as far as there are such."""
        changer = Changer()
        for number in range(12):
            name = f"n{number}"
            node = CataloguedNode(
                name=name, disk_uuid=disk_of(name), host=f"h{number // 2}", rack=f"r{number // 6}"
            )
            changer.append(NodeSet(node=node))
        nodes = changer.catalogue.nodes
        for number in range(30):
            changer.create(f"log-{number}", 5)
            chosen = [nodes[name] for name in changer.nodes_of(f"log-{number}")]
            self.assertEqual(len({node.host for node in chosen}), 5)
            self.assertEqual(sorted(Counter(node.rack for node in chosen).values()), [2, 3])
        error = self.assertRaises(InvalidRequestError, changer.create, "x", 2, on=("n0", "n1"))
        self.assertIn("2 of these nodes are on the host h0", str(error))

    def test_too_few(self):
        """A log for which too few nodes are alive is not created."""
        changer = Changer("a", "b", "c")
        error = self.assertRaises(ResourceExhaustedError, changer.create, "orders", alive=("a", "b", "z"))
        self.assertIn("3 replicas need 3 nodes on different hosts; 2 are alive", str(error))

    def test_chosen(self):
        """An operator may choose nodes, also such that are not alive now."""
        changer = Changer("a", "b", "c", "d")
        changer.create("orders", on=("d", "b", "c"), alive=())
        self.assertEqual(sorted(changer.nodes_of("orders")), ["b", "c", "d"])


def walked(rng):
    """Let somebody change a catalogue at random; return the changer and the offsets of good checkpoints."""
    changer = Changer("a", "b", "c", "d", "e")
    catalogue, checkpoints, groups = changer.catalogue, [], []
    for step in range(60):
        names = list(catalogue.logs)
        choice = rng.random()
        if choice < 0.4 or not names:
            changer.create(f"log-{rng.randrange(20)}-{step}", rng.choice((1, 3)))
            groups.append(catalogue.next_group - 1)
        elif choice < 0.55:
            changer.delete(rng.choice(names))
        elif choice < 0.7:
            changer.append(alter_log(catalogue, rng.choice(names), retention_bytes=step + 1, **NOW))
        elif choice < 0.85:
            name = rng.choice(names)
            used = changer.nodes_of(name)
            new = rng.choice([node for node in catalogue.nodes if node not in used])
            changer.append(replace_replica(catalogue, name, lost=rng.choice(used), new=new, **NOW))
        else:
            checkpoints.append(len(changer.log))
            changer.append(catalogue.checkpoint())
    assert len(set(groups)) == len(groups), "a group was used twice"
    assert checkpoints
    return changer, checkpoints
