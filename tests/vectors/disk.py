"""Vectors of the disk format: entry frames, header block, hard state, start and state files, index."""

from dataclasses import replace

from loghouse.api.v1.log_pb2 import Record
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    Retention,
    encode_birth,
    encode_configuration,
    encode_producer,
    encode_trim,
)
from loghouse.protocol.cursors import WITH_RECORDS, CursorAction, CursorChange, encode_cursor_change
from loghouse.protocol.entry import CATALOGUE_GROUP, HEADER, EntryKind, frame_seed, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState, check_follows
from loghouse.storage.directory import DiskIdentity
from loghouse.storage.hard_state import Slot
from loghouse.storage.held import Held
from loghouse.storage.index import INDEX_ENTRY
from loghouse.storage.loss import Loss
from loghouse.storage.start import FLAG_INSTALLING, START_MAGIC, STATE_MAGIC, encode_state_file
from loghouse.storage.store import StoreHeader, Watermark

CLUSTER = b"loghouse-test\0\0\1"
GROUP = 1
SEED = frame_seed(CLUSTER, GROUP)
TIMESTAMP = 1_790_000_000_000_000
CONFIGURATION = Configuration(retention=Retention(size_max=2**30, age_max_seconds=86_400)).with_member(
    "a", bytes(range(16)), MemberRole.VOTER
)
ACQUIRED = CursorChange(
    action=CursorAction.ACQUIRE,
    name="orders→bills",
    holder="host-1:4711",
    subject="root",
    lease_milliseconds=10_000,
)
ADVANCED = CursorChange(
    action=CursorAction.ADVANCE, name="orders→bills", epoch=9, position=2, flags=WITH_RECORDS
)
PUT = CursorChange(action=CursorAction.SET, name="billing", subject="root", position=1)
RELEASED = CursorChange(action=CursorAction.RELEASE, name="billing", epoch=12)
DELETED = CursorChange(action=CursorAction.DELETE, name="billing")
MISSING = replace(ADVANCED, position=5)
HEADER_FIELDS = (
    "header_crc",
    "length",
    "version",
    "kind",
    "attributes",
    "record_count",
    "index",
    "term",
    "base_offset",
    "timestamp",
    "producer_id",
    "producer_sequence",
    "payload_crc",
)


def entries():
    """One entry of each kind, as they follow each other in a log."""
    batch = encode_batch([Record(value=b"hello"), Record(value=b"world")])
    keyed = encode_batch([Record(value=b"a"), Record(value=b"b", key=b""), Record(value=b"c", key=b"k")])
    rows = [
        ("no-op", EntryKind.NOOP, b"", {}),
        ("configuration", EntryKind.CONFIGURATION, encode_configuration(CONFIGURATION), {}),
        ("records", EntryKind.RECORDS, batch, {"record_count": 2}),
        ("producer", EntryKind.PRODUCER, encode_producer("root"), {}),
        (
            "records of producer 4",
            EntryKind.RECORDS,
            batch,
            {"record_count": 2, "producer_id": 4, "producer_sequence": 0},
        ),
        ("trim", EntryKind.TRIM, encode_trim(2), {}),
        ("birth", EntryKind.BIRTH, encode_birth(CATALOGUE_GROUP, CONFIGURATION), {}),
        ("records with no key, an empty one, and one", EntryKind.RECORDS, keyed, {"record_count": 3}),
        ("cursor that is acquired", EntryKind.CURSOR, encode_cursor_change(ACQUIRED), {}),
        ("advance with records", EntryKind.CURSOR, encode_cursor_change(ADVANCED), {}),
        ("records of an advance", EntryKind.RECORDS, batch, {"record_count": 2}),
        ("cursor that is set", EntryKind.CURSOR, encode_cursor_change(PUT), {}),
        ("cursor that is released", EntryKind.CURSOR, encode_cursor_change(RELEASED), {}),
        ("cursor that is deleted", EntryKind.CURSOR, encode_cursor_change(DELETED), {}),
        ("advance whose records are missing", EntryKind.CURSOR, encode_cursor_change(MISSING), {}),
    ]
    offset = 0
    for index, (name, kind, payload, fields) in enumerate(rows, 1):
        entry = make_entry(
            SEED,
            index=index,
            term=1,
            kind=kind,
            base_offset=offset,
            timestamp=TIMESTAMP,
            payload=payload,
            **fields,
        )
        offset = entry.next_offset
        yield name, entry


def entry_vectors():
    """Frames of each kind, of cluster `CLUSTER` and group 1."""
    return [
        {
            "name": name,
            "cluster_uuid": CLUSTER.hex(),
            "group": GROUP,
            "fields": {
                **dict(zip(HEADER_FIELDS, HEADER.unpack(entry.head), strict=True)),
                "payload": bytes(entry.payload).hex(),
            },
            "hex": entry.frame.hex(),
        }
        for name, entry in entries()
    ]


def store_header_vectors():
    """The header block's first bytes, and the watermark in each slot."""
    header = StoreHeader(cluster=CLUSTER, group=GROUP, base_index=1, base_offset=0, previous_term=0)
    first = Watermark(counter=0, durable_index=0, durable_term=0, position=STORE_HEADER_SIZE, commit_index=0)
    second = Watermark(counter=1, durable_index=2, durable_term=1, position=4275, commit_index=1)
    return [
        {
            "name": "store header",
            "position": 0,
            "fields": {
                "version": 1,
                "group": GROUP,
                "cluster_uuid": CLUSTER.hex(),
                "base_index": 1,
                "base_offset": 0,
                "previous_term": 0,
            },
            "hex": header.encode().hex(),
        },
        *(
            {
                "name": name,
                "position": watermark.slot_position,
                "fields": {
                    field: getattr(watermark, field)
                    for field in ("counter", "durable_index", "durable_term", "position", "commit_index")
                },
                "hex": watermark.encode(SEED).hex(),
            }
            for name, watermark in (("watermark of a new store", first), ("watermark after a sync", second))
        ),
    ]


def small_file_vectors():
    """Hard state slot, start and state files, the node file, and an index."""
    state, before_cursors = LogState(), LogState()
    for _, entry in entries():
        check_follows(state, entry)
        state.apply(entry)
        if not state.cursors.last_index:
            before_cursors.apply(entry)
    identity = DiskIdentity(
        cluster_uuid=CLUSTER, disk_uuid=bytes(range(16)), cluster_name="logs", node_name="a"
    )
    position, index = STORE_HEADER_SIZE, b""
    for _, entry in entries():
        index += INDEX_ENTRY.pack(entry.base_offset, position)
        position += entry.size
    return [
        {
            "name": "hard state slot",
            "fields": {"counter": 3, "term": 7, "vote": 1},
            "hex": Slot(3, HardState(7, 1)).encode(SEED).hex(),
        },
        {
            "name": "start of an empty log, being installed",
            "fields": {"flags": FLAG_INSTALLING},
            "hex": encode_state_file(START_MAGIC, SEED, LogState(), FLAG_INSTALLING).hex(),
        },
        {
            "name": "state behind the first eight entries of entry.json: without cursors",
            "fields": {"flags": 0, "index": before_cursors.index, "next_offset": before_cursors.next_offset},
            "hex": encode_state_file(STATE_MAGIC, SEED, before_cursors).hex(),
        },
        {
            "name": "state behind the entries of entry.json",
            "fields": {"flags": 0, "index": state.index, "next_offset": state.next_offset},
            "hex": encode_state_file(STATE_MAGIC, SEED, state).hex(),
        },
        {
            "name": "node",
            "fields": {
                "cluster_uuid": identity.cluster_uuid.hex(),
                "disk_uuid": identity.disk_uuid.hex(),
                "cluster_name": "logs",
                "node_name": "a",
            },
            "hex": identity.encode().hex(),
        },
        {
            "name": "damage of a log that is cut",
            "fields": {"flags": 1, "last_index": 6, "last_term": 1},
            "hex": Loss(6, 1, is_cut=True).encode(SEED).hex(),
        },
        {
            "name": "held by a log that was closed",
            "fields": {"flags": 1, "last_index": 6, "last_term": 1, "term": 7, "vote": 1},
            "hex": Held(6, 1, HardState(7, 1), is_closed=True).encode(SEED).hex(),
        },
        {"name": "index of the entries of entry.json", "fields": {}, "hex": index.hex()},
    ]


FILES = {
    "entry.json": entry_vectors,
    "store_header.json": store_header_vectors,
    "small_files.json": small_file_vectors,
}
