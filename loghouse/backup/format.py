"""The files of a backup, byte by byte: `docs/disk_format.md` 10. Pure.

DIR/ lock  backup                  whose backup this is
     logs/<name>/log               what is backed up of the log, replaced at the end of each run
                 <offset>.part     entry frames as the nodes store them, from that offset on
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from construct import Bytes as _Bytes
from construct import ConstructError, GreedyBytes, Int16ub, Int32ub, Prefixed, Struct, Terminated

from loghouse.errors import BackupError, DamageError, MalformedMessageError
from loghouse.limits import STATE_SIZE_MAX
from loghouse.protocol.entry import Entry, with_crc, without_crc
from loghouse.protocol.fields import U32, U64, LongText, ShortText, Truth, Uuid, plain, read_fields, struct_of
from loghouse.protocol.log_state import LogState, decode_log_state

_T = TypeVar("_T")
FORMAT_VERSION: Final = 1
LOCK_NAME: Final = "lock"
BACKUP_NAME: Final = "backup"
LOGS_NAME: Final = "logs"
LOG_NAME: Final = "log"
PART: Final = ".part"
REMEDY: Final = "nothing was modified; restore from another copy of the backup, or back up anew elsewhere"
_DIGITS: Final = 20

StateBytes: TypeAlias = Annotated[bytes, Prefixed(Int32ub, GreedyBytes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupIdentity:
    """The cluster that a backup is of."""

    cluster_uuid: Uuid
    cluster_name: ShortText


@dataclass(frozen=True, slots=True, kw_only=True)
class LastEntry:
    """What the header of an entry with records says, to recognize it by; all 0 where there is none."""

    index: U64 = 0
    term: U64 = 0
    timestamp: U64 = 0
    payload_crc: U32 = 0

    @classmethod
    def of(cls, entry: Entry) -> LastEntry:
        """Return what tells this entry from any other one at its place."""
        return cls(
            index=entry.index, term=entry.term, timestamp=entry.timestamp, payload_crc=entry.payload_crc
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogManifest:
    """What a backup holds of one log, and what the log was then.

    Attributes:
        settings: Those of the catalogue, as JSON.
        created_at, taken_at: When the log was created, and when the last run began, in microseconds.
        is_finished: Whether a run came to its end; before that nothing is restored.
        first_offset: Where the first part begins.
        next_offset: The first offset that is not in the backup; all parts up to there are finished.
        state: The log's replicated state there, as on a node's disk.
    """

    cluster_uuid: Uuid
    group: U32
    name: ShortText
    settings: LongText
    created_at: U64
    taken_at: U64
    is_finished: Truth
    first_offset: U64
    next_offset: U64
    state: StateBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeader:
    """What stands before a part's frames: the log, and its replicated state before the first of them."""

    cluster_uuid: Uuid
    group: U32
    base_offset: U64
    state: StateBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEnd:
    """What stands behind a finished part's frames.

    Attributes:
        next_offset: The offset behind its last record.
        last: Its last entry with records.
        size: Bytes before this: where it begins.
        frames_crc: CRC32C of all frames.
    """

    next_offset: U64
    last: LastEntry
    size: U64
    frames_crc: U32


MAGICS: Final[Mapping[type, bytes]] = MappingProxyType(
    {
        BackupIdentity: b"LOGHBKUP",
        LogManifest: b"LOGHBLOG",
        PartHeader: b"LOGHPART",
        PartEnd: b"LOGHPEND",
    }
)
_MAGIC_SIZE: Final = 8
_LAYOUTS: Final[Mapping[type, Struct[Any, Any]]] = MappingProxyType(
    {
        cls: Struct("magic" / _Bytes(_MAGIC_SIZE), "version" / Int16ub, *struct_of(cls).subcons, Terminated)
        for cls in MAGICS
    }
)
HEADER_PREFIX: Final = 8 + 2 + 16 + 4 + 8 + 4
"""Bytes of a part's header up to its state; the last four are the state's size."""
END_SIZE: Final = 8 + 2 + 8 + (8 + 8 + 8 + 4) + 8 + 4 + 4
"""Bytes of what stands behind a part's frames."""


def encode(value: Any, seed: int = 0) -> bytes:
    """Return the bytes of a file, or of a part's header or end; `seed` binds the latter to their log."""
    cls = type(value)
    fields = {"magic": MAGICS[cls], "version": FORMAT_VERSION, **plain(value)}
    return with_crc(bytes(_LAYOUTS[cls].build(fields)), seed)


def decode(cls: type[_T], content: bytes, path: str, seed: int = 0, position: int = 0) -> _T:
    """Parse what `encode` made, which begins at a position of the file at `path`.

    Raises:
        DamageError: It is not that, or of another log.
        BackupError: It is one of a newer version.
    """
    what = MAGICS[cls].decode()
    fields = without_crc(content, seed)
    if fields is None:
        raise DamageError(path, position, f"checksum of {what} does not match", remedy=REMEDY)
    version = int.from_bytes(fields[_MAGIC_SIZE : _MAGIC_SIZE + 2], "big")
    if fields[:_MAGIC_SIZE] == MAGICS[cls] and version != FORMAT_VERSION:
        raise BackupError(
            f"{path}: format {version}, this version reads {FORMAT_VERSION}; use a newer Loghouse"
        )
    try:
        parsed = _LAYOUTS[cls].parse(fields)
        if parsed.magic != MAGICS[cls]:
            raise ValueError
        return read_fields(cls, parsed)
    except (ConstructError, UnicodeError, ValueError):
        raise DamageError(path, position, f"no {what}", remedy=REMEDY) from None


def checked_state(content: bytes) -> LogState:
    """Parse the replicated state of a log that has an entry.

    Raises:
        MalformedMessageError: It is none.
    """
    if len(content) > STATE_SIZE_MAX:
        raise MalformedMessageError(f"log state: {len(content)} bytes, at most {STATE_SIZE_MAX}")
    state = decode_log_state(content)
    if not state.index or not state.term:
        raise MalformedMessageError("log state: it is that of a log without an entry")
    return state


def state_of(content: bytes, path: str, position: int = 0) -> LogState:
    """Return the replicated state that a file holds.

    Raises:
        DamageError: It is none.
    """
    try:
        return checked_state(content)
    except MalformedMessageError as error:
        raise DamageError(path, position, str(error), remedy=REMEDY) from None


def part_name(base_offset: int) -> str:
    """Return the name of the part that begins at an offset."""
    return f"{base_offset:0{_DIGITS}}{PART}"


def part_offset(name: str) -> int | None:
    """Return where the part of that name begins; None when it is no part's name."""
    digits = name.removesuffix(PART)
    is_part = name.endswith(PART) and len(digits) == _DIGITS and digits.isascii() and digits.isdecimal()
    return int(digits) if is_part else None
