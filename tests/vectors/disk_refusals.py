"""What a reader of a disk must refuse: entries, runs of entries, and the files of a log.

A row is (name, of, place, error, bytes). `place` is the field that is why. `error` is "damaged", "newer" (its
checksums are good, but it has a version, kind or bit that is not known) or "none" (the slot or file counts as
if it were not there). "entry" is one frame, "entries" are frames from the first of a log on.
"""

from dataclasses import replace

from loghouse.limits import CURSOR_NAME_SIZE_MAX, ENTRY_SIZE_MAX
from loghouse.protocol.address_book import AddressBook, encode_address_book
from loghouse.protocol.cursors import encode_cursor_change
from loghouse.protocol.entry import HEADER, EntryKind, crc32c, frame_seed, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import DiskIdentity
from loghouse.storage.hard_state import Slot
from loghouse.storage.held import Held
from loghouse.storage.loss import Loss
from loghouse.storage.start import START_MAGIC, STATE_MAGIC, encode_state_file
from loghouse.storage.store import StoreHeader, Watermark
from tests.vectors.disk import (
    ACQUIRED,
    CLUSTER,
    DELETED,
    GROUP,
    PUT,
    RELEASED,
    SEED,
    TIMESTAMP,
    entries,
)

GOOD = dict(entries())
RECORDS = GOOD["records"].frame
HEADER_SIZE = HEADER.size
DAMAGED, NEWER, NONE = "damaged", "newer", "none"


def sealed(fields, seed=0):
    """Return the fields of a file with their checksum."""
    return fields + crc32c(fields, seed).to_bytes(4, "big")


def changed(data, at, new):
    """Return bytes with others at a place."""
    return data[:at] + new + data[at + len(new) :]


def headed(at, new, frame=RECORDS, seed=SEED):
    """Return a frame with another field, and a header checksum that is right."""
    head = changed(frame[:HEADER_SIZE], at, new)
    return crc32c(head[4:], seed).to_bytes(4, "big") + head[4:] + frame[HEADER_SIZE:]


def made(index, kind=EntryKind.NOOP, payload=b"", *, term=1, base_offset=0, timestamp=TIMESTAMP, **fields):
    """Return a frame of the vectors' log."""
    return make_entry(
        SEED,
        index=index,
        term=term,
        kind=kind,
        base_offset=base_offset,
        timestamp=timestamp,
        payload=payload,
        **fields,
    ).frame


def resized(file):
    """Return a start or state file, but for its checksum, whose length is that of its state."""
    return changed(file, 12, (len(file) - 16).to_bytes(4, "big"))


def single_entries():
    """Frames that are none, whatever stands before them."""
    yield "cut in the header", "header_crc", DAMAGED, RECORDS[:63]
    yield "cut in the payload", "length", DAMAGED, RECORDS[:-1]
    yield "a header with a wrong bit", "header_crc", DAMAGED, changed(RECORDS, 47, b"\1")
    yield "a checksum with a wrong bit", "header_crc", DAMAGED, changed(RECORDS, 0, b"\xff")
    yield "of another group", "header_crc", DAMAGED, headed(4, b"", seed=frame_seed(CLUSTER, GROUP + 1))
    yield "of another cluster", "header_crc", DAMAGED, headed(4, b"", seed=frame_seed(bytes(16), GROUP))
    yield "a payload with a wrong bit", "payload_crc", DAMAGED, changed(RECORDS, 80, b"\0")
    yield "shorter than a header", "length", DAMAGED, headed(4, (63).to_bytes(4, "big"))
    yield "longer than an entry may be", "length", DAMAGED, headed(4, (ENTRY_SIZE_MAX + 1).to_bytes(4, "big"))
    yield "version 2", "version", NEWER, headed(8, b"\2")
    yield "kind 8", "kind", NEWER, headed(9, b"\x08")
    yield "a reserved bit of the attributes", "attributes", NEWER, headed(11, b"\x08")
    yield "records without a record", "record_count", DAMAGED, headed(12, bytes(4))
    yield "a no-op with a record", "record_count", DAMAGED, headed(15, b"\1", GOOD["no-op"].frame)
    yield "index 0", "index", DAMAGED, headed(16, bytes(8))
    yield "term 0", "term", DAMAGED, headed(24, bytes(8))


def cursor_payloads():
    """Payloads that say of a cursor what cannot be."""
    acquired = bytes(GOOD["cursor that is acquired"].payload)
    advanced = bytes(GOOD["advance with records"].payload)
    name = "n" * (CURSOR_NAME_SIZE_MAX + 1)
    yield "a cursor without its last byte", acquired[:-1]
    yield "a cursor and a byte", acquired + b"\0"
    yield "a cursor's action 0", changed(acquired, 0, b"\0")
    yield "a cursor's action 6", changed(acquired, 0, b"\6")
    yield "a cursor that is acquired with flags", changed(acquired, 1, b"\1")
    yield "an advance with flag 4", changed(advanced, 1, b"\4")
    yield "a rewind with records", changed(advanced, 1, b"\3")
    yield "a cursor without a name", encode_cursor_change(replace(DELETED, name=""))
    yield "a cursor's name of 128 bytes", encode_cursor_change(replace(DELETED, name=name))
    yield "a cursor's name that is not UTF-8", changed(acquired, 3, b"\xff")
    yield "a cursor that is acquired by nobody", encode_cursor_change(replace(ACQUIRED, holder=""))
    yield "a cursor that is acquired at a position", encode_cursor_change(replace(ACQUIRED, position=1))
    yield "a cursor that is released at a position", encode_cursor_change(replace(RELEASED, position=1))
    yield "a cursor that is set with an epoch", encode_cursor_change(replace(PUT, epoch=1))
    yield "a cursor that is deleted with a subject", encode_cursor_change(replace(DELETED, subject="a"))


def runs():
    """Whole frames of which the last does not join, or says what cannot be."""
    first = made(1)
    yield "an entry is missing", "index", DAMAGED, first + made(3)
    yield "an entry twice", "index", DAMAGED, first + first
    yield "a log that begins at 2", "index", DAMAGED, made(2)
    yield "a term that falls", "term", DAMAGED, made(1, term=2) + made(2, term=1)
    yield "an offset that nobody gave out", "base_offset", DAMAGED, first + made(2, base_offset=1)
    yield "a time that falls", "timestamp", DAMAGED, first + made(2, timestamp=TIMESTAMP - 1)
    batch = bytes(GOOD["records"].payload)
    unknown = made(2, EntryKind.RECORDS, batch, record_count=2, producer_id=1, producer_sequence=0)
    yield "records of an unknown producer", "producer_id", DAMAGED, first + unknown
    configuration = bytes(GOOD["configuration"].payload)
    for name, place, kind, payload in (
        ("a configuration without its last byte", "payload", EntryKind.CONFIGURATION, configuration[:-1]),
        ("a configuration and a byte", "payload", EntryKind.CONFIGURATION, configuration + b"\0"),
        ("a member of role 4", "role", EntryKind.CONFIGURATION, changed(configuration, 8, b"\4")),
        ("65 members", "members", EntryKind.CONFIGURATION, (65).to_bytes(4, "big") + configuration[4:]),
        ("a trim of 7 bytes", "lowest_offset", EntryKind.TRIM, bytes(7)),
        ("a trim of 9 bytes", "lowest_offset", EntryKind.TRIM, bytes(9)),
        ("a subject longer than it is", "subject", EntryKind.PRODUCER, b"\5root"),
        ("a subject that is not UTF-8", "subject", EntryKind.PRODUCER, b"\1\xff"),
        *((name, "cursor", EntryKind.CURSOR, payload) for name, payload in cursor_payloads()),
    ):
        yield name, place, DAMAGED, first + made(2, kind, payload)


def small_files():
    """The files beside the entries: (name, of, place, error, bytes)."""
    header = StoreHeader(cluster=CLUSTER, group=GROUP, base_index=1, base_offset=0, previous_term=0).encode()
    yield (
        "a store's header of another magic",
        "store header",
        "magic",
        DAMAGED,
        sealed(b"LOGHOUSF" + header[8:-4]),
    )
    yield (
        "a store's header of version 2",
        "store header",
        "version",
        NEWER,
        sealed(changed(header[:-4], 9, b"\2")),
    )
    yield "a store's header with a wrong bit", "store header", "crc", DAMAGED, changed(header, 39, b"\2")
    yield "a store's header of 59 bytes", "store header", "crc", DAMAGED, header[:-1]
    mark = Watermark(counter=1, durable_index=2, durable_term=1, position=4275, commit_index=1)
    yield "a torn watermark", "watermark", "crc", NONE, changed(mark.encode(SEED), 7, b"\2")
    yield "a watermark of another log", "watermark", "crc", NONE, mark.encode(SEED ^ 1)
    slot = Slot(3, HardState(7, 1)).encode(SEED)
    yield "a torn slot of term and vote", "hard state slot", "crc", NONE, changed(slot, 15, b"\4")
    yield "a slot of another magic", "hard state slot", "magic", NONE, sealed(b"LOGHTERN" + slot[8:-4], SEED)
    start = encode_state_file(START_MAGIC, SEED, LogState())[:-4]
    for name, place, error, fields in (
        ("a start of another magic", "magic", DAMAGED, STATE_MAGIC + start[8:]),
        ("a start of version 2", "version", NEWER, changed(start, 9, b"\2")),
        ("a start and a byte", "length", DAMAGED, start + b"\0"),
        ("a start that ends in its state", "length", DAMAGED, start[:-1]),
    ):
        yield name, "start", place, error, sealed(fields, SEED)
    no_birth, last_index = bytes(20), (1).to_bytes(8, "big")
    for name, place, behind in (
        ("a start with one cursor that is missing", "cursors", last_index + b"\0\0\0\1" + b"\0"),
        ("a start with more cursors than there may be", "cursors", last_index + b"\0\0\x10\1" + b"\0"),
        (
            "a start that awaits a cursor that is not there",
            "cursors",
            last_index + bytes(4) + b"\1a" + bytes(16),
        ),
        ("a start with a birth of no entry", "birth", b""),
    ):
        fields = start + no_birth + (len(behind).to_bytes(4, "big") + behind if behind else b"")
        yield name, "start", place, DAMAGED, sealed(resized(fields), SEED)
    yield "a start of another log", "start", "crc", DAMAGED, sealed(start, SEED ^ 1)
    yield "a start with a wrong bit", "start", "crc", DAMAGED, changed(sealed(start, SEED), 23, b"\1")
    node = DiskIdentity(
        cluster_uuid=CLUSTER, disk_uuid=bytes(range(16)), cluster_name="logs", node_name="a"
    ).encode()[:-4]
    for name, place, error, fields in (
        ("a node file of another magic", "magic", DAMAGED, b"LOGHNODF" + node[8:]),
        ("a node file of version 2", "version", NEWER, changed(node, 9, b"\2")),
        ("a node file that ends in its name", "node_name", DAMAGED, node[:-1]),
    ):
        yield name, "node", place, error, sealed(fields)
    yield "a node file with a wrong bit", "node", "crc", DAMAGED, changed(sealed(node), 10, b"\0")
    held = Held(6, 1, HardState(7, 1), is_closed=True).encode(SEED)[:-4]
    yield "a held file with a wrong bit", "held", "crc", NONE, changed(sealed(held, SEED), 19, b"\0")
    yield "a held file of version 2", "held", "version", NONE, sealed(changed(held, 9, b"\2"), SEED)
    yield "a held file with an unknown flag", "held", "flags", NONE, sealed(changed(held, 11, b"\3"), SEED)
    loss = Loss(6, 1, is_cut=True).encode(SEED)[:-4]
    yield "a damage file with a wrong bit", "damage", "crc", DAMAGED, changed(sealed(loss, SEED), 19, b"\0")
    yield (
        "a damage file with an unknown flag",
        "damage",
        "flags",
        DAMAGED,
        sealed(changed(loss, 11, b"\3"), SEED),
    )
    book = encode_address_book(AddressBook(incarnation=1))[:-4]
    yield "an address book with a wrong bit", "members", "crc", DAMAGED, changed(sealed(book), 17, b"\0")
    yield "an address book of version 2", "members", "version", DAMAGED, sealed(changed(book, 9, b"\2"))


def rows():
    """Yield every row."""
    for name, place, error, data in single_entries():
        yield name, "entry", place, error, data
    for name, place, error, data in runs():
        yield name, "entries", place, error, data
    yield from small_files()


def refused_vectors():
    """Bytes of a disk that must be refused."""
    return [
        {
            "name": name,
            "of": of,
            "place": place,
            "error": error,
            "cluster_uuid": CLUSTER.hex(),
            "group": GROUP,
            "hex": data.hex(),
        }
        for name, of, place, error, data in rows()
    ]
