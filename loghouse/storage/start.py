"""`start` and `<base>.state`: the replicated state before an entry, in a checked file.

`start` says where the log begins: at the entry after its state. While a new start is
being installed (first boot, or a snapshot) it is marked so; then nothing else in the
directory counts, and the next open finishes the installation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from construct import Bytes, ConstructError, Int16ub, Int32ub, Prefixed, Struct, Terminated
from construct import GreedyBytes as _GreedyBytes

from loghouse.errors import DamageError, DataDirectoryError, MalformedMessageError
from loghouse.limits import STATE_SIZE_MAX
from loghouse.protocol.entry import with_crc, without_crc
from loghouse.protocol.log_state import LogState, decode_log_state, encode_log_state
from loghouse.storage.files import Files, read_file, replace_file
from loghouse.storage.recovery import START_NAME, STATE, segment_name

START_MAGIC: Final = b"LOGHSTRT"
STATE_MAGIC: Final = b"LOGHSTAT"
FORMAT_VERSION: Final = 1
FLAG_INSTALLING: Final = 1  # in `start`
FLAG_BEHIND_STORE: Final = 2  # in a state file: its store was there before
WIRE: Final = Struct(
    "magic" / Bytes(8),
    "version" / Int16ub,
    "flags" / Int16ub,
    "state" / Prefixed(Int32ub, _GreedyBytes),
    Terminated,
)
_HEAD: Final = struct.Struct(">8sHHI")  # what stands before the state; a test holds it equal to `WIRE`
_OVERHEAD: Final = _HEAD.size + 4  # and the CRC


def encode_state_file(magic: bytes, seed: int, state: LogState, flags: int = 0) -> bytes:
    """Return the bytes of a `start` or state file, its CRC bound to the log by `seed`."""
    encoded = encode_log_state(state)
    return with_crc(_HEAD.pack(magic, FORMAT_VERSION, flags, len(encoded)) + encoded, seed)


def decode_state_file(
    magic: bytes, seed: int, content: bytes, path: str = "this file"
) -> tuple[LogState, int]:
    """Return the state and the flags of the file at `path`.

    Raises:
        MalformedMessageError: It is not such a file of this log.
        DataDirectoryError: It is one of a newer format.
    """
    fields = without_crc(content, seed)
    if fields is None or len(content) < _OVERHEAD:
        raise MalformedMessageError("checksum does not match (damaged, or of another log)")
    try:
        parsed = WIRE.parse(fields)
    except ConstructError as error:
        raise MalformedMessageError(f"not a state file: {error}") from error
    if parsed.magic != magic:
        raise MalformedMessageError("not a file of this kind")
    if parsed.version != FORMAT_VERSION:
        raise DataDirectoryError(
            f"{path}: format {parsed.version}, this version reads {FORMAT_VERSION}; use a newer Loghouse"
        )
    return decode_log_state(bytes(parsed.state)), parsed.flags


def write_start(files: Files, directory: str, seed: int, state: LogState, *, installing: bool) -> None:
    """Make `state` the start of the log; durable on return."""
    flags = FLAG_INSTALLING if installing else 0
    replace_file(files, directory, START_NAME, encode_state_file(START_MAGIC, seed, state, flags))


def read_start(files: Files, directory: str, seed: int, remedy: str) -> tuple[LogState, bool]:
    """Return the state before the log's first entry, and whether it is still being installed.

    Raises:
        DamageError: `start` is gone or damaged.
    """
    path = f"{directory}/{START_NAME}"
    if not files.exists(path):
        raise DamageError(path, 0, "the file that says where the log starts is gone", remedy=remedy)
    try:
        content = read_file(files, path, STATE_SIZE_MAX + _OVERHEAD)
        state, flags = decode_state_file(START_MAGIC, seed, content, path)
    except MalformedMessageError as error:
        raise DamageError(path, 0, str(error), remedy=remedy) from None
    return state, bool(flags & FLAG_INSTALLING)


def write_state(files: Files, directory: str, seed: int, state: LogState) -> None:
    """Write the state file of the segment behind `state`, whose store is there; durable on return."""
    replace_file(files, directory, segment_name(state.index + 1, STATE), encode_segment_state(seed, state))


def encode_segment_state(seed: int, state: LogState) -> bytes:
    """Return the bytes of the state file of a segment whose store is there before that file has its name."""
    return encode_state_file(STATE_MAGIC, seed, state, FLAG_BEHIND_STORE)


@dataclass(frozen=True, slots=True)
class StateFile:
    """A good state file; `is_marked` when it was written while its store was there."""

    state: LogState
    is_marked: bool


def read_state_file(files: Files, directory: str, seed: int, base_index: int) -> StateFile | None:
    """Return the state file of a segment; None when it is gone or damaged."""
    path = f"{directory}/{segment_name(base_index, STATE)}"
    if not files.exists(path):
        return None
    try:
        content = read_file(files, path, STATE_SIZE_MAX + _OVERHEAD)
        state, flags = decode_state_file(STATE_MAGIC, seed, content, path)
    except MalformedMessageError:
        return None
    return StateFile(state, bool(flags & FLAG_BEHIND_STORE)) if state.index == base_index - 1 else None


def read_state(files: Files, directory: str, seed: int, base_index: int) -> LogState | None:
    """Return the state before a segment's first entry; None when its file is gone or damaged."""
    found = read_state_file(files, directory, seed, base_index)
    return found.state if found is not None else None
