"""The entry frame: the one representation of an entry, on disk, between nodes, and to batch readers.

The layout is declared once (`WIRE`); `HEADER` is its `struct` twin for the hot
path, held equal by a property test. See `docs/disk_format.md`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct, this
from fastcrc import crc32

from loghouse.errors import EntryDamagedError, EntryTruncatedError
from loghouse.limits import ENTRY_HEADER_SIZE, ENTRY_SIZE_MAX

Buffer: TypeAlias = bytes | bytearray | memoryview

VERSION: Final = 1
CODEC_MASK: Final = 0x0007


class EntryKind(IntEnum):
    """What an entry is. ONLY APPEND TO THIS LIST."""

    RECORDS = 1
    NOOP = 2
    CONFIGURATION = 3
    TRIM = 4
    PRODUCER = 5
    BIRTH = 6
    CURSOR = 7


class Codec(IntEnum):
    """How a records payload is compressed; the low bits of `attributes`. ONLY APPEND TO THIS LIST."""

    NONE = 0
    ZSTD = 1


WIRE: Final = Struct(
    "header_crc" / Int32ub,
    "length" / Int32ub,
    "version" / Int8ub,
    "kind" / Int8ub,
    "attributes" / Int16ub,
    "record_count" / Int32ub,
    "index" / Int64ub,
    "term" / Int64ub,
    "base_offset" / Int64ub,
    "timestamp" / Int64ub,
    "producer_id" / Int64ub,
    "producer_sequence" / Int32ub,
    "payload_crc" / Int32ub,
    "payload" / Bytes(this.length - ENTRY_HEADER_SIZE),
)

HEADER: Final = struct.Struct(">IIBBHIQQQQQII")
_HEADER_TAIL: Final = struct.Struct(">IBBHIQQQQQII")
_CRC: Final = struct.Struct(">I")
assert HEADER.size == ENTRY_HEADER_SIZE

KINDS: Final = frozenset(int(kind) for kind in EntryKind)
LATER_KINDS: Final = frozenset({int(EntryKind.BIRTH), int(EntryKind.CURSOR)})
"""Those that versions of before do not know: whoever offers none of them in its Hello is never sent one."""
FILLING_KINDS: Final = frozenset({int(EntryKind.RECORDS), int(EntryKind.CURSOR)})
"""Those that clients write without end: a full disk takes none of them, but for the others it has room."""

# CRC-32C (Castagnoli), as iSCSI uses it (RFC 3720, 12.1): `crc32c(data, value_to_continue)`. See ADR 4.
crc32c: Final = crc32.iscsi


def with_crc(fields: bytes, seed: int = 0) -> bytes:
    """Return the bytes with their CRC behind them, as the small files on disk have it."""
    return fields + _CRC.pack(crc32c(fields, seed))


def without_crc(content: bytes, seed: int = 0) -> bytes | None:
    """Return what is before the CRC at the end; None when the CRC is not that of these bytes."""
    fields = content[:-4]
    return fields if content[-4:] == _CRC.pack(crc32c(fields, seed)) else None


DEFAULT_LOG: Final = "default"
"""The log that every cluster has; an empty name means it, too."""
DEFAULT_GROUP: Final = 1
"""Its Raft group."""
CATALOGUE_LOG: Final = "_catalog"
"""The log that says which logs there are; no user's log can be called so."""
CATALOGUE_GROUP: Final = 2
"""Its Raft group."""


def frame_seed(cluster: bytes, group: int) -> int:
    """Return the CRC that header checksums of a log continue from.

    It binds every frame to its log, so a frame of another cluster or group is never valid here.

    Args:
        cluster: The cluster's uuid, 16 bytes.
        group: The Raft group, u32.
    """
    assert len(cluster) == 16
    return crc32c(cluster + group.to_bytes(4, "big"))


@dataclass(slots=True)  # made for every append: not frozen, and by position
class Entry:
    """One unit of replication, with its frame's bytes as `head` and `payload`.

    Up to `payload_crc` the fields are those of the header behind its version, in their order there.
    `index` counts entries from 1, `base_offset` records from 0 (for other kinds than records: the
    next record's offset). `timestamp` is in microseconds since the epoch. The bytes are made once, by
    the leader; everyone else passes them on untouched. `size` is that of the whole frame in bytes.
    """

    kind: int
    attributes: int
    record_count: int
    index: int
    term: int
    base_offset: int
    timestamp: int
    producer_id: int
    producer_sequence: int
    payload_crc: int
    head: bytes
    payload: Buffer
    size: int

    @property
    def next_offset(self) -> int:
        """The offset of the first record behind this entry."""
        return self.base_offset + self.record_count

    @property
    def frame(self) -> bytes:
        """The whole frame as one bytes object (a copy)."""
        return b"".join((self.head, self.payload))


def make_entry(
    seed: int,
    *,
    index: int,
    term: int,
    kind: int,
    base_offset: int,
    timestamp: int,
    payload: Buffer = b"",
    attributes: int = 0,
    record_count: int = 0,
    producer_id: int = 0,
    producer_sequence: int = 0,
    payload_crc: int | None = None,
) -> Entry:
    """Make an entry and its frame header; the payload is not copied.

    Args:
        seed: From `frame_seed`.
        payload_crc: CRC32C of `payload` when its maker sent one; computed when None.
    """
    if payload_crc is None:
        payload_crc = crc32c(payload)
    size = ENTRY_HEADER_SIZE + len(payload)
    fields = (
        kind,
        attributes,
        record_count,
        index,
        term,
        base_offset,
        timestamp,
        producer_id,
        producer_sequence,
        payload_crc,
    )
    tail = _HEADER_TAIL.pack(size, VERSION, *fields)
    return Entry(*fields, _CRC.pack(crc32c(tail, seed)) + tail, payload, size)


def decode_entry(seed: int, buffer: Buffer, position: int = 0) -> Entry:
    """Return the entry whose frame starts at `position`; its payload is a view of `buffer`.

    Raises:
        EntryTruncatedError: The frame goes on behind the buffer's end.
        EntryDamagedError: A checksum, the version, or a field is wrong.
    """
    available = len(buffer) - position
    if available < ENTRY_HEADER_SIZE:
        raise EntryTruncatedError(ENTRY_HEADER_SIZE)
    view = memoryview(buffer)
    head = bytes(view[position : position + ENTRY_HEADER_SIZE])
    header_crc, length, version, *fields = HEADER.unpack(head)
    if version != VERSION:
        raise EntryDamagedError(f"entry version {version}, expected {VERSION}")
    if not ENTRY_HEADER_SIZE <= length <= ENTRY_SIZE_MAX:
        raise EntryDamagedError(f"entry length {length}, expected {ENTRY_HEADER_SIZE} to {ENTRY_SIZE_MAX}")
    if crc32c(head[4:], seed) != header_crc:
        raise EntryDamagedError("header checksum does not match (damaged, or of another log)")
    kind, attributes, record_count, index, term, *_, payload_crc = fields
    problem = _field_problem(kind, attributes, record_count, index, term)
    if problem:
        raise EntryDamagedError(problem)
    if available < length:
        raise EntryTruncatedError(length)
    payload = view[position + ENTRY_HEADER_SIZE : position + length]
    if crc32c(payload) != payload_crc:
        raise EntryDamagedError(f"payload checksum of entry {index} does not match")
    everything: Any = (*fields, head, payload, length)
    return Entry(*everything)


def _field_problem(kind: int, attributes: int, record_count: int, index: int, term: int) -> str:
    """Say what is wrong with fields whose checksum is right: a newer writer, or a bug."""
    if kind not in KINDS:
        return f"entry kind {kind} is not known to this version"
    if attributes & ~CODEC_MASK:
        return f"reserved attribute bits set: {attributes:#06x}"
    if (record_count > 0) != (kind == EntryKind.RECORDS):
        return f"record count {record_count} in an entry of kind {kind}"
    if index < 1 or term < 1:
        return f"index {index} and term {term} start at 1"
    return ""


def decode_entries(seed: int, buffer: Buffer) -> Iterator[Entry]:
    """Yield the entries whose frames fill `buffer`, one after the other.

    Raises:
        EntryTruncatedError, EntryDamagedError: As `decode_entry`, at the first bad frame.
    """
    position = 0
    while position < len(buffer):
        entry = decode_entry(seed, buffer, position)
        yield entry
        position += entry.size


def index_of(frames: Buffer) -> int:
    """Return the index of the first of whole, good frames."""
    return int.from_bytes(frames[16:24], "big")


def without_kinds(frames: Buffer, kinds: frozenset[int]) -> Buffer:
    """Return whole, good frames without those of some kinds, none of which hold records."""
    view, position, kept = memoryview(frames), 0, []
    while position < len(view):
        size, kind = int.from_bytes(view[position + 4 : position + 8], "big"), view[position + 9]
        if kind not in kinds:
            kept.append(view[position : position + size])
        position += size
    return frames if sum(map(len, kept)) == len(view) else b"".join(kept)


def checked_entries(buffer: Buffer) -> Iterator[Entry]:
    """Yield the entries of whole frames that a read of the log has checked a moment ago, and not again."""
    view, position = memoryview(buffer), 0
    while position < len(view):
        head = bytes(view[position : position + ENTRY_HEADER_SIZE])
        _, size, _, *fields = HEADER.unpack(head)
        everything: Any = (*fields, head, view[position + ENTRY_HEADER_SIZE : position + size], size)
        yield Entry(*everything)
        position += size
