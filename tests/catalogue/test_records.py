"""Tests of loghouse.catalogue.records: what is written is read again, and nothing else is taken."""

import json

from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import (
    RECORDS,
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
from loghouse.errors import MalformedMessageError
from loghouse.limits import CATALOGUE_RECORD_SIZE_MAX
from tests.catalogue.case import disk_of

SETTINGS = LogSettings(
    replicas=2,
    retention_bytes=2**64 - 1,
    retention_seconds=604_800,
    record_bytes_max=1000,
    append_bytes_per_second_max=5,
    tags=("team-a", "élan"),
)
REPLICAS = tuple(
    PlacedReplica(member=member, node=name, disk_uuid=disk_of(name)) for member, name in ((1, "a"), (9, "b"))
)
NODE = CataloguedNode(name="a", disk_uuid=disk_of("a"), host="h1", rack="r1")
SPAN = Span(group=16, replicas=REPLICAS)
LOG = CataloguedLog(
    name="orders",
    settings=SETTINGS,
    spans=(SPAN,),
    epoch=4,
    next_member=10,
    created_at=3,
    founders=SPAN.replicas,
)
EXAMPLES = (
    NodeSet(at=1, by="root", node=NODE),
    LogCreated(at=2, by="root", name="orders", settings=SETTINGS, spans=(SPAN,)),
    LogAltered(at=3, by="ann", group=16, settings=SETTINGS),
    LogPlaced(at=4, group=16, replicas=REPLICAS),
    LogDeleted(at=5, by="root", group=16),
    Checkpoint(
        offset=7,
        next_group=17,
        nodes=(NODE,),
        logs=(LOG,),
        tombstones=(Tombstone(group=3, at=5),),
    ),
)


class RecordTests(SynchronousTestCase):
    """Each kind of record, there and back."""

    def test_there_and_back(self):
        """Every kind is read as it was written, and says itself what it is."""
        self.assertEqual({type(record) for record in EXAMPLES}, set(RECORDS.values()))
        for record in EXAMPLES:
            value = encode_record(record)
            self.assertEqual(decode_record(value), record)
            self.assertEqual(json.loads(value)["kind"], record.KIND)

    def test_people_can_read_it(self):
        """A record is one line of JSON with names, numbers and disks in hexadecimal digits."""
        self.assertEqual(
            encode_record(EXAMPLES[3]),
            b'{"kind":"log placed","at":4,"by":"","group":16,"replicas":['
            b'{"member":1,"node":"a","disk_uuid":"612d2d2d2d2d2d2d2d2d2d2d2d2d2d2d"},'
            b'{"member":9,"node":"b","disk_uuid":"622d2d2d2d2d2d2d2d2d2d2d2d2d2d2d"}]}',
        )

    def test_later_fields(self):
        """A field that this version does not know is passed over, at every level."""
        content = json.loads(encode_record(EXAMPLES[1]))
        content["colour"] = content["settings"]["colour"] = content["spans"][0]["colour"] = "red"
        self.assertEqual(decode_record(json.dumps(content).encode()), EXAMPLES[1])

    def test_refused(self):
        """What is no record, or is beyond what a field may be, is refused with what is wrong."""
        created, placed = (json.loads(encode_record(EXAMPLES[number])) for number in (1, 3))
        span, replica = created["spans"][0], placed["replicas"][0]
        rows = (
            ("no JSON", b"\xff", "codec"),
            ("no object", b"[]", "indices"),
            ("no kind", b"{}", "kind"),
            ("a kind of a later version", b'{"kind": "log sealed"}', "'log sealed' is not known"),
            ("too deep", b"[" * 100_000, "recursion"),
            ("a part is missing", b'{"kind": "log deleted"}', "group"),
            ("a number that is text", b'{"kind": "log deleted", "group": "16"}', "'16' is no integer"),
            ("a number that is true", b'{"kind": "log deleted", "group": true}', "True is no integer"),
            ("a name", {**created, "name": "_catalogue"}, "log '_catalogue'"),
            ("two spans", {**created, "spans": [span, span]}, "2 spans"),
            ("no replicas", {**created, "spans": [{**span, "replicas": []}]}, "0 replicas"),
            ("six replicas", {**placed, "replicas": [replica] * 6}, "6 replicas"),
            ("one member twice", {**placed, "replicas": [replica] * 2}, "one member id"),
            ("one node twice", {**placed, "replicas": [replica, {**replica, "member": 2}]}, "on one node"),
            ("group 0", {**created, "spans": [{**span, "group": 0}]}, "group 0"),
            ("member 0", {**placed, "replicas": [{**replica, "member": 0}]}, "member id 0"),
            ("a short disk", {**placed, "replicas": [{**replica, "disk_uuid": "00"}]}, "1 bytes"),
            ("no digits", {**placed, "replicas": [{**replica, "disk_uuid": "zz"}]}, "hexadecimal"),
            ("a node's name", {**placed, "replicas": [{**replica, "node": "A"}]}, "node 'A'"),
            ("settings", {**created, "settings": {"replicas": 0}}, "0 replicas"),
            ("a limit", {**created, "settings": {"retention_bytes": -1}}, "limit"),
            ("nine tags", {**created, "settings": {"tags": ["t"] * 9}}, "9 tags"),
            ("a long tag", {**created, "settings": {"tags": ["t" * 64]}}, "tag"),
            ("a tag of two lines", {**created, "settings": {"tags": ["a\nb"]}}, "unprintable"),
            ("too large", b" " * (CATALOGUE_RECORD_SIZE_MAX + 1), "at most"),
        )
        for row, content, told in rows:
            value = content if isinstance(content, bytes) else json.dumps(content).encode()
            error = self.assertRaises(MalformedMessageError, decode_record, value)
            self.assertIn(told, str(error), row)
