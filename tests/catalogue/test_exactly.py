"""The catalogue at its bounds: what is just possible, what is one too much, and what an empty one says."""

import json
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue import catalogue as catalogue_module
from loghouse.catalogue import changes as changes_module
from loghouse.catalogue.catalogue import FIRST_GROUP, Catalogue
from loghouse.catalogue.changes import alter_log, create_log, delete_log, replace_replica
from loghouse.catalogue.placement import choose_nodes
from loghouse.catalogue.records import (
    CataloguedLog,
    CataloguedNode,
    Checkpoint,
    LogAltered,
    LogCreated,
    LogDeleted,
    LogPlaced,
    LogSettings,
    NodeSet,
    PlacedReplica,
    Span,
    Tombstone,
    decode_record,
    encode_record,
)
from loghouse.errors import InvalidRequestError, MalformedMessageError, ResourceExhaustedError
from loghouse.limits import (
    CATALOGUE_RECORD_SIZE_MAX,
    LOG_TAG_SIZE_MAX,
    LOG_TAGS_MAX,
    REPLICAS_PER_LOG_MAX,
    SUBJECT_SIZE_MAX,
    UINT32_MAX,
    UINT64_MAX,
)
from loghouse.protocol.entry import crc32c
from tests.catalogue.case import Changer, disk_of

NOW = {"at": 8, "by": "ann"}


def replica(member=1, node="a", disk=None):
    return PlacedReplica(member=member, node=node, disk_uuid=disk_of(node) if disk is None else disk)


def several(count):
    return tuple(replica(number + 1, f"n{number}") for number in range(count))


def node_of(name, **fields):
    return CataloguedNode(name=name, disk_uuid=disk_of(name), **fields)


class FieldTests(SynchronousTestCase):
    """What the fields of a record may hold."""

    def check(self, make, good, bad):
        """Make a record of each value: the good ones can be, the others not."""
        for value in good:
            make(value)
        for value in bad:
            self.assertRaises(ValueError, make, value)

    def test_settings(self):
        """Every limit is a u64; replicas, tags and their sizes have bounds of their own."""
        self.check(lambda count: LogSettings(replicas=count), (1, REPLICAS_PER_LOG_MAX), (0, 6))
        self.assertEqual(REPLICAS_PER_LOG_MAX, 5)
        for name in (
            "retention_bytes",
            "retention_seconds",
            "record_bytes_max",
            "append_bytes_per_second_max",
        ):
            self.check(
                lambda size, name=name: LogSettings(**{name: size}),
                (0, 1, UINT64_MAX),
                (-1, UINT64_MAX + 1),
            )
        self.check(lambda count: LogSettings(tags=("t",) * count), (0, 1, LOG_TAGS_MAX), (LOG_TAGS_MAX + 1,))
        self.check(
            lambda size: LogSettings(tags=("t", "t" * size)), (1, LOG_TAG_SIZE_MAX), (LOG_TAG_SIZE_MAX + 1,)
        )

    def test_settings_not_given(self):
        """Three replicas, no limit and no tag, where nothing is said."""
        expected = LogSettings(
            replicas=3,
            retention_bytes=0,
            retention_seconds=0,
            record_bytes_max=0,
            append_bytes_per_second_max=0,
            tags=(),
        )
        self.assertEqual(LogSettings(), expected)

    def test_places(self):
        """Members and groups are numbers from 1 on, of 32 bits, offsets such of 64; a disk has 16 bytes."""
        self.check(replica, (1, UINT32_MAX), (0, -1, UINT32_MAX + 1))
        for make in (
            lambda size: replica(disk=bytes(size)),
            lambda size: CataloguedNode(name="a", disk_uuid=bytes(size)),
        ):
            self.check(make, (16,), (0, 15, 17))
        self.check(lambda name: replica(node=name, disk=bytes(16)), ("a",), ("", "A"))
        self.check(node_of, ("a",), ("", "A"))
        for name in ("host", "rack"):
            self.check(
                lambda text, name=name: node_of("a", **{name: text}),
                ("", "h", "h" * SUBJECT_SIZE_MAX),
                ("h" * (SUBJECT_SIZE_MAX + 1), "h\n"),
            )
        self.check(
            lambda group: Span(group=group, replicas=(replica(),)), (1, UINT32_MAX), (0, -1, UINT32_MAX + 1)
        )
        self.check(
            lambda offset: Span(from_offset=offset, group=1, replicas=(replica(),)),
            (0, UINT64_MAX),
            (-1, UINT64_MAX + 1),
        )
        self.assertEqual(Span(group=1, replicas=(replica(),)).from_offset, 0)

    def test_replicas(self):
        """A log has one to five replicas, of different ids and on different nodes, at first and later."""
        for make in (
            lambda replicas: Span(group=1, replicas=replicas),
            lambda replicas: LogPlaced(group=1, replicas=replicas),
        ):
            self.check(
                make,
                (several(1), several(REPLICAS_PER_LOG_MAX)),
                (
                    (),
                    several(REPLICAS_PER_LOG_MAX + 1),
                    (replica(1, "a"), replica(1, "b")),
                    (replica(1, "a"), replica(2, "a")),
                ),
            )

    def test_created(self):
        """A log has a name that can be one, and one span."""
        span = Span(group=16, replicas=(replica(),))
        self.check(
            lambda name: LogCreated(name=name, settings=LogSettings(), spans=(span,)), ("x",), ("", "_x")
        )
        self.check(
            lambda count: LogCreated(name="x", settings=LogSettings(), spans=(span,) * count), (1,), (0, 2)
        )

    def test_not_given(self):
        """A record that does not say when and by whom says 0 and nobody; a node may name no host or rack."""
        record = NodeSet(node=node_of("a"))
        self.assertEqual((record.at, record.by, record.node.host, record.node.rack), (0, "", "", ""))


class TextTests(SynchronousTestCase):
    """Records as they are written."""

    def test_size(self):
        """A record may have exactly so many bytes, and no more."""
        value = encode_record(LogDeleted(group=16)).ljust(CATALOGUE_RECORD_SIZE_MAX)
        self.assertEqual(decode_record(value), LogDeleted(group=16))
        error = self.assertRaises(MalformedMessageError, decode_record, value + b" ")
        self.assertIn(f"{len(value) + 1} bytes, at most {len(value)}", str(error))

    def test_letters(self):
        """Letters of every language stand there as they are."""
        record = LogAltered(group=16, settings=LogSettings(tags=("élan",)))
        self.assertIn('"tags":["élan"]'.encode(), encode_record(record))

    def test_kinds(self):
        """Every kind of value is taken as what it is, and as nothing else."""
        content = json.loads(encode_record(NodeSet(node=node_of("a", host="h", rack="r"))))
        for field in ("name", "disk_uuid", "host", "rack"):
            wrong = json.dumps({**content, "node": {**content["node"], field: 7}}).encode()
            error = self.assertRaises(MalformedMessageError, decode_record, wrong)
            self.assertIn("7 is no text", str(error))
        for field, value in (("at", 1.0), ("at", False), ("at", None), ("at", "1")):
            wrong = json.dumps({**content, field: value}).encode()
            error = self.assertRaises(MalformedMessageError, decode_record, wrong)
            self.assertIn(f"{value!r} is no integer", str(error))


class EmptyTests(SynchronousTestCase):
    """A catalogue before its first record."""

    def test_checkpoint(self):
        """It says that nothing is there, and passes on when and by whom it is said."""
        expected = Checkpoint(offset=0, next_group=FIRST_GROUP, nodes=(), logs=(), tombstones=())
        self.assertEqual(Catalogue().checkpoint(), expected)
        self.assertEqual(Catalogue().checkpoint(at=5, by="ann"), replace(expected, at=5, by="ann"))
        self.assertEqual(FIRST_GROUP, 16)

    def test_nothing(self):
        """No group has a log, no node a replica."""
        catalogue = Catalogue()
        self.assertIsNone(catalogue.log_of(16))
        self.assertEqual((catalogue.load(), catalogue.placed_on("a", disk_of("a"))), ({}, {}))


class FoldTests(SynchronousTestCase):
    """What records come to, at their bounds."""

    def test_whole(self):
        """A catalogue after some changes, field by field, and again from its checkpoint."""
        changer = Changer("a", "b")
        changer.create("x", 2)
        changer.create("y", 1, on=("b",))
        changer.delete("x", at=77)
        catalogue = changer.catalogue
        [log] = catalogue.logs.values()
        self.assertEqual((log.name, log.group, log.epoch, log.next_member), ("y", 17, 3, 2))
        self.assertEqual(log.replicas, (replica(1, "b"),))
        expected = Checkpoint(
            offset=5,
            next_group=18,
            nodes=(node_of("a"), node_of("b")),
            logs=(log,),
            tombstones=(Tombstone(group=16, at=77),),
        )
        self.assertEqual(catalogue.checkpoint(), expected)
        self.assertEqual(catalogue.load(), {"a": 0, "b": 1})
        again = Catalogue()
        again.tombstones[1] = 2
        self.assertTrue(again.apply(5, expected))
        self.assertEqual((again.checkpoint(), again.names), (replace(expected, offset=6), {17: "y"}))
        self.assertEqual(again.log_of(17), log)

    def test_load_of_strangers(self):
        """Replicas on nodes that are not in the catalogue are counted, too: the default log is older."""
        changer = Changer("a")
        for name, group in (("default", 1), ("x", 16)):
            span = Span(group=group, replicas=(replica(1, "z"),))
            changer.append(LogCreated(name=name, settings=LogSettings(replicas=1), spans=(span,)))
        self.assertEqual(changer.catalogue.load(), {"a": 0, "z": 2})

    def test_another_disk(self):
        """What belongs on a node belongs on one disk of it."""
        changer = Changer("a", "b")
        changer.create("x", 2)
        own = changer.catalogue.placed_on("b", disk_of("b"))
        self.assertEqual([(group, one.node) for group, one in own.items()], [(16, "b")])
        self.assertEqual(changer.catalogue.placed_on("b", disk_of("c")), {})

    def test_groups(self):
        """Groups are given in order, and no log has the last number of 32 bits."""
        changer = Changer("a")
        span = Span(group=UINT32_MAX - 1, replicas=(replica(),))
        record = LogCreated(name="x", settings=LogSettings(replicas=1), spans=(span,))
        full = replace(changer.catalogue.checkpoint(), offset=1, next_group=UINT32_MAX - 1)
        self.assertTrue(changer.append(full))
        self.assertTrue(changer.append(record))
        self.assertEqual(changer.catalogue.next_group, UINT32_MAX)
        last = replace(record, name="y", spans=(replace(span, group=UINT32_MAX),))
        self.assertFalse(changer.append(last))
        self.assertEqual(changer.catalogue.next_group, UINT32_MAX)

    def test_ids(self):
        """The next member's id is above every one that was placed, whether these are there still or not."""
        changer = Changer("a", "b", "c")
        changer.create("x", 1, on=("a",))
        for replicas, next_member in (
            ((replica(1, "a"), replica(2, "b")), 3),
            ((replica(9, "c"), replica(1, "a")), 10),
            ((replica(1, "a"),), 10),
            ((replica(10, "b"),), 11),
        ):
            self.assertTrue(changer.append(LogPlaced(group=16, replicas=replicas)))
            log = changer.catalogue.logs["x"]
            self.assertEqual((log.replicas, log.next_member), (replicas, next_member))
            self.assertEqual(log.epoch, len(changer.log) - 1)
        for replicas, problem in (
            ((replica(9, "c"),), "member id 9 was used before"),
            ((replica(11, "c"), replica(10, "a")), "member 10 is on another node or disk"),
            ((replica(10, "b", disk_of("x")),), "member 10 is on another node or disk"),
        ):
            self.assertFalse(changer.append(LogPlaced(group=16, replicas=replicas)))
            self.assertEqual(changer.catalogue.ignored[-1], (len(changer.log) - 1, problem))
        self.assertEqual(changer.catalogue.logs["x"].replicas, (replica(10, "b"),))

    def test_counts(self):
        """As many nodes, logs and tombstones as there may be, and not one more."""
        for name, count in (("CATALOGUE_NODES_MAX", 2), ("LOGS_MAX", 2), ("TOMBSTONES_MAX", 2)):
            self.patch(catalogue_module, name, count)
        changer = Changer("a", "b", "c")
        self.assertEqual(list(changer.catalogue.nodes), ["a", "b"])
        self.assertEqual(changer.catalogue.ignored, [(2, "there are too many nodes")])
        self.assertTrue(changer.append(NodeSet(node=node_of("b", host="h"))))
        self.assertEqual(changer.catalogue.nodes["b"].host, "h")
        for name in ("x", "y"):
            changer.create(name, 1)
        span = Span(group=18, replicas=(replica(),))
        third = LogCreated(name="z", settings=LogSettings(replicas=1), spans=(span,))
        self.assertFalse(changer.append(third))
        self.assertEqual(changer.catalogue.ignored[-1][1], "there are 2 logs already")
        self.assertEqual(changer.catalogue.next_group, 18)
        changer.delete("x", at=1)
        self.assertTrue(changer.append(third))
        changer.delete("y", at=2)
        self.assertEqual(changer.catalogue.tombstones, {16: 1, 17: 2})
        changer.delete("z", at=3)
        self.assertEqual(changer.catalogue.tombstones, {17: 2, 18: 3})

    def test_ignored(self):
        """The last ten records that did not fit are known, with their offsets."""
        catalogue = Catalogue()
        for offset in range(12):
            self.assertFalse(catalogue.apply(offset, LogDeleted(group=20 + offset)))
        expected = [(offset, f"there is no group {20 + offset}") for offset in range(2, 12)]
        self.assertEqual((catalogue.ignored, catalogue.next_offset), (expected, 12))

    def test_gap(self):
        """A record behind a gap changes nothing and is told; a checkpoint there counts, at its own offset."""
        catalogue = Catalogue()
        self.assertFalse(catalogue.apply(3, NodeSet(node=node_of("a"))))
        self.assertEqual(catalogue.ignored, [(3, "records from 0 on are missing")])
        self.assertEqual((catalogue.nodes, catalogue.next_offset), ({}, 4))
        self.assertTrue(catalogue.apply(9, replace(Catalogue().checkpoint(), offset=9)))
        self.assertTrue(catalogue.apply(10, NodeSet(node=node_of("a"))))

    def test_spans(self):
        """Where a log has several spans, as later versions may have it, the last one counts."""
        spans = (Span(group=16, replicas=several(2)), Span(from_offset=7, group=17, replicas=several(3)))
        log = CataloguedLog(
            name="x",
            settings=LogSettings(),
            spans=spans,
            epoch=1,
            next_member=4,
            created_at=0,
            founders=(),
        )
        self.assertEqual((log.group, log.replicas), (17, several(3)))
        changer = Changer()
        whole = replace(changer.catalogue.checkpoint(), next_group=18, logs=(log,))
        self.assertTrue(changer.append(whole))
        self.assertIsNone(changer.catalogue.log_of(16))
        self.assertTrue(changer.append(LogPlaced(group=17, replicas=several(1))))
        placed = (spans[0], replace(spans[1], replicas=several(1)))
        self.assertEqual(changer.catalogue.log_of(17), replace(log, spans=placed))

    def test_default(self):
        """The default log is in group 1 and in no other; its members keep the ids that they have."""
        changer = Changer("a")
        record = LogCreated(
            name="default", settings=LogSettings(), spans=(Span(group=2, replicas=(replica(5),)),)
        )
        self.assertFalse(changer.append(record))
        self.assertEqual(changer.catalogue.ignored[-1][1], "group 2 is not that of the default log")
        self.assertTrue(changer.append(replace(record, spans=(replace(record.spans[0], group=1),))))
        self.assertEqual((changer.catalogue.next_group, changer.catalogue.names), (16, {1: "default"}))
        self.assertEqual(changer.catalogue.log_of(1).next_member, 6)


class ChangeTests(SynchronousTestCase):
    """The records that are decided, field by field."""

    def setUp(self):
        self.changer = Changer("a", "b", "c", "d")
        self.catalogue = self.changer.catalogue

    def test_records(self):
        """Each says when, by whom, of which group and what."""
        settings = LogSettings(replicas=1, retention_bytes=3)
        record = create_log(self.catalogue, "x", settings, alive=(), on=("b",), **NOW)
        span = Span(group=16, replicas=(replica(1, "b"),))
        self.assertEqual(record, LogCreated(name="x", settings=settings, spans=(span,), **NOW))
        self.changer.append(record)
        altered = alter_log(self.catalogue, "x", retention_bytes=0, tags=("t",), **NOW)
        expected = LogSettings(replicas=1, tags=("t",))
        self.assertEqual(altered, LogAltered(group=16, settings=expected, **NOW))
        self.changer.append(altered)
        self.assertEqual(self.catalogue.logs["x"].settings, expected)
        self.assertEqual(delete_log(self.catalogue, "x", **NOW), LogDeleted(group=16, **NOW))
        placed = replace_replica(self.catalogue, "x", lost="b", new="d", **NOW)
        self.assertEqual(placed, LogPlaced(group=16, replicas=(replica(2, "d"),), **NOW))

    def test_replaced(self):
        """The others stay as they are, in their order; the new one is on the node that was asked for."""
        self.changer.create("x", 3, on=("a", "b", "c"))
        before = self.catalogue.logs["x"].replicas
        for lost in ("a", "b", "c"):
            record = replace_replica(self.catalogue, "x", lost=lost, new="d", **NOW)
            kept = tuple(one for one in before if one.node != lost)
            self.assertEqual(record.replicas, (*kept, replica(4, "d")))

    def test_on_the_same_nodes(self):
        """A log asked for again on the same nodes, in any order, is there; on others it is refused."""
        self.changer.create("x", 2, on=("a", "b"))
        ask = {"alive": (), **NOW}
        settings = LogSettings(replicas=2)
        for on in ((), ("a", "b"), ("b", "a")):
            self.assertIsNone(create_log(self.catalogue, "x", settings, on=on, **ask))
        for on in (("a",), ("a", "c")):
            error = self.assertRaises(
                InvalidRequestError, create_log, self.catalogue, "x", settings, on=on, **ask
            )
            self.assertEqual((error.field, "log x exists, on other nodes" in str(error)), ("on", True))

    def test_count(self):
        """As many logs as there may be are created, and not one more."""
        self.patch(changes_module, "LOGS_MAX", 2)
        self.changer.create("x", 1)
        self.changer.create("y", 1)
        self.assertIsNone(self.changer.create("y", 1))
        error = self.assertRaises(ResourceExhaustedError, self.changer.create, "z", 1)
        self.assertIn("there are 2 already", str(error))


class PlacementTests(SynchronousTestCase):
    """Who is chosen, and in which order."""

    def chosen(self, changer, log, count, alive=None, on=()):
        alive = changer.catalogue.nodes if alive is None else alive
        return [node.name for node in choose_nodes(changer.catalogue, log, count, alive, on)]

    def test_by_chance(self):
        """Where all nodes are alike, the checksum of log and node decides who holds it and who leads it."""
        changer = Changer(*"abcdefg")
        for log in ("x", "y", "orders"):
            order = sorted("abcdefg", key=lambda name: crc32c(f"{log} {name}".encode()))
            self.assertEqual(self.chosen(changer, log, 3), order[:3])

    def test_fewest_replicas(self):
        """A node with fewer replicas comes first, whatever chance says."""
        changer = Changer(*"abcd")
        for number, nodes in enumerate(("a", "a", "b", "d")):
            changer.create(f"log-{number}", 1, on=nodes)
        for log in ("x", "y", "z"):
            self.assertEqual(self.chosen(changer, log, 1), ["c"])
            self.assertEqual(sorted(self.chosen(changer, log, 3)), ["b", "c", "d"])
            self.assertEqual(sorted(self.chosen(changer, log, 2, alive="ab")), ["a", "b"])

    def test_fewest_leads(self):
        """Of those that are chosen, the one that is first of the fewest logs comes first."""
        changer = Changer(*"abc")
        changer.create("x", 1, on="a")
        changer.create("y", 1, on="b")
        for log in ("p", "q", "r"):
            self.assertEqual(self.chosen(changer, log, 3)[0], "c")
            self.assertEqual(self.chosen(changer, log, 2, on=("a", "c")), ["c", "a"])
            self.assertEqual(self.chosen(changer, log, 2, on=("c", "a")), ["c", "a"])

    def test_racks(self):
        """Another rack is worth more than fewer replicas; nodes that name none stay apart from nobody."""
        changer = Changer()
        for name, rack in (("a", "r1"), ("b", "r1"), ("c", "r2"), ("d", ""), ("e", "")):
            changer.append(NodeSet(node=node_of(name, rack=rack)))
        for number in range(3):
            changer.create(f"log-{number}", 1, on="c")
        for log in ("x", "y", "z"):
            self.assertIn("c", self.chosen(changer, log, 2, alive="abc"))
            self.assertEqual(sorted(self.chosen(changer, log, 3, alive="abc")), ["a", "b", "c"])
            self.assertEqual(sorted(self.chosen(changer, log, 2, alive="dec")), ["d", "e"])
            self.assertEqual(len({*self.chosen(changer, log, 3, alive="abde")} & {*"ab"}), 1)

    def test_full_nodes(self):
        """A node that holds as many replicas as it may gets no more; when it is needed, it is named."""
        changer = Changer()
        for name, most in (("a", 1), ("b", 5), ("c", 5), ("d", 5)):
            changer.append(NodeSet(node=node_of(name, replicas_max=most)))
        changer.create("first", on=("a", "b", "c"))
        changer.create("second")
        self.assertEqual(sorted(changer.nodes_of("second")), ["b", "c", "d"])
        for fields in ({"alive": "abc"}, {"on": ("a", "b", "c")}):
            error = self.assertRaises(ResourceExhaustedError, changer.create, "third", **fields)
            self.assertIn("replicas: a may hold no more: delete logs", str(error))

    def test_hosts(self):
        """Two replicas never share a host; a node that names none is a host of its own."""
        changer = Changer()
        for name, host in (("a", "h"), ("b", "h"), ("c", ""), ("d", "")):
            changer.append(NodeSet(node=node_of(name, host=host)))
        for log in ("x", "y", "z"):
            self.assertEqual(len({*self.chosen(changer, log, 3)} & {*"ab"}), 1)
        error = self.assertRaises(ResourceExhaustedError, self.chosen, changer, "x", 4)
        self.assertIn("4 replicas need 4 nodes on different hosts; 3 are alive", str(error))
        error = self.assertRaises(InvalidRequestError, self.chosen, changer, "x", 3, on="abc")
        self.assertIn("2 of these nodes are on the host h", str(error))
        self.assertEqual(sorted(self.chosen(changer, "x", 3, on="bcd")), ["b", "c", "d"])
