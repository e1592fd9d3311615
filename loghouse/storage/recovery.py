"""What a log's bytes mean after a crash: pure decisions, no file is touched here.

`FrameScan` walks frames and says where the first bad byte is and why. `judge_tail`
says whether that is a torn tail (never acknowledged, may be cut) or damage (acknowledged,
must not be). `plan_directory` says what the names in a log's directory mean.
The rules, and what cannot be told apart, are in `docs/disk_format.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from loghouse.errors import EntryDamagedError, MalformedMessageError
from loghouse.limits import ENTRY_HEADER_SIZE, ENTRY_SIZE_MAX, KIB, MIB, STORE_HEADER_SIZE
from loghouse.protocol.configuration import (
    decode_birth,
    decode_configuration,
    decode_producer,
    decode_trim,
)
from loghouse.protocol.cursors import decode_cursor_change
from loghouse.protocol.entry import (
    CODEC_MASK,
    HEADER,
    KINDS,
    VERSION,
    Buffer,
    Entry,
    EntryKind,
    crc32c,
    decode_entry,
)
from loghouse.protocol.log_state import LogState, check_follows
from loghouse.storage.index import INDEX_ENTRY, RELATIVE_OFFSET_MAX
from loghouse.storage.store import StoreHeader

SCAN_CHUNK_SIZE: Final = 4 * MIB
SCAN_CHUNK_SIZE_FIRST: Final = 64 * KIB  # four times as much with each: most logs of many hold little
_ZERO_HEADER: Final = bytes(ENTRY_HEADER_SIZE)


class FrameScan:
    """Walk frames that must join each other; stop at the first byte that is none.

    `index`, `term`, `next_offset` and `timestamp` are those after the last good frame, `position` is the
    byte behind it. `entries` collects the offset index. `problem` says what is wrong at `position`, "" when
    nothing is: then `is_ended` tells that zeroes follow, which is how a store ends. `is_newer` means that the
    frame there is whole, but of a kind or version this program does not know.
    """

    def __init__(
        self,
        seed: int,
        *,
        index: int,
        term: int,
        next_offset: int,
        base_offset: int,
        position: int,
        timestamp: int = 0,
        state: LogState | None = None,
        check_payloads: bool = True,
        index_max: int = 2**64,
    ) -> None:
        """Start behind the entry (`index`, `term`), with the frame at `position` of the store."""
        self.seed = seed  # from `frame_seed`
        self.index = index
        self.term = term
        self.next_offset = next_offset  # the offset that the first frame must have as its base
        self.base_offset = base_offset  # the segment's, which the offset index is relative to
        self.position = position
        self.timestamp = timestamp  # of the entry before; 0 when not known
        self.state = state  # the replicated state before the first frame; folded along when given
        self.check_payloads = check_payloads  # whether payload checksums are checked too
        self.index_max = index_max  # the last Raft index wanted
        self.entries = bytearray()
        self.count = 0
        self.problem = ""
        self.is_ended = False
        self.is_newer = False
        self.is_payload_damaged = False
        self._behind = (0, 0, 0, 0, 0)

    @classmethod
    def of_segment(cls, seed: int, header: StoreHeader, **more: Any) -> FrameScan:
        """Start with the first frame of a segment; `more` is what else the constructor takes."""
        return cls(
            seed,
            index=header.base_index - 1,
            term=header.previous_term,
            next_offset=header.base_offset,
            base_offset=header.base_offset,
            position=STORE_HEADER_SIZE,
            **more,
        )

    @property
    def is_done(self) -> bool:
        """Whether the scan will not go on."""
        return bool(self.problem) or self.is_ended or self.index >= self.index_max

    def feed(self, buffer: Buffer) -> int:
        """Walk the frames in `buffer`, that start at `position`; return how many bytes are needed next.

        The rest of the buffer behind the last whole frame is to be fed again, with more behind it.
        """
        # Everything is a local: this loop is what a restart waits for.
        seed, index, term, next_offset = self.seed, self.index, self.term, self.next_offset
        timestamp, base_offset, position = self.timestamp, self.base_offset, self.position
        payloads, index_max, state = self.check_payloads, self.index_max, self.state
        view, size, at, needed = memoryview(buffer), len(buffer), 0, ENTRY_HEADER_SIZE
        unpack, pack, out = HEADER.unpack_from, INDEX_ENTRY.pack, self.entries
        header_size, version_known, kinds, bits_unknown = ENTRY_HEADER_SIZE, VERSION, KINDS, ~CODEC_MASK
        of_records, problem, count = int(EntryKind.RECORDS), "", 0
        cursors = state.cursors if state is not None else None
        while index < index_max:
            if size - at < header_size:
                break
            crc, length, version, kind, attributes, records, i, t, base, time, producer, _, payload_crc = (
                unpack(view, at)
            )
            if crc32c(view[at + 4 : at + header_size], seed) != crc:
                if view[at : at + header_size] == _ZERO_HEADER:
                    self.is_ended = True
                else:
                    problem = "no entry of this log starts here (header checksum)"
                break
            if version != version_known or kind not in kinds or attributes & bits_unknown:
                problem = (
                    f"entry of version {version}, kind {kind}, attributes {attributes:#06x} is not known"
                )
                self.is_newer = True
                break
            if not header_size <= length <= ENTRY_SIZE_MAX:
                problem = f"entry of {length} bytes"
                break
            if length > size - at:
                needed = length
                break
            if i != index + 1 or t < term or base != next_offset or time < timestamp:
                problem = f"entry {i} of term {t} at offset {base} does not join entry {index} of term {term}"
                break
            if payloads and crc32c(view[at + header_size : at + length]) != payload_crc:
                problem = f"payload checksum of entry {i} does not match"
                self.is_payload_damaged = True
                self._behind = (position + at + length, i, t, base + records, time)
                break
            if base - base_offset > RELATIVE_OFFSET_MAX or (records > 0) != (kind == of_records):
                problem = f"entry {i} has {records} records at offset {base}"
                break
            if state is not None and (producer or kind != of_records):
                try:
                    state.apply(decode_entry(seed, view, at))
                except (EntryDamagedError, MalformedMessageError) as error:
                    problem = str(error)
                    break
            elif cursors is not None and cursors.awaited is not None:
                cursors.take_records(i, t, base, records)
            out += pack(base - base_offset, position + at)
            index, term, timestamp, next_offset = i, t, time, base + records
            count += 1
            at += length
        self.index, self.term, self.next_offset, self.timestamp = index, term, next_offset, timestamp
        self.position = position + at
        self.count += count
        self.problem = problem
        if state is not None:
            state.index, state.term = index, term
            state.timestamp, state.next_offset = timestamp, next_offset
        return needed

    def skip_payload(self) -> None:
        """Go on behind the frame whose payload is damaged: its header, which is good, tells where that is.

        The state cannot be folded over it any more.
        """
        self.problem, self.is_payload_damaged, self.state = "", False, None
        self.position, self.index, self.term, self.next_offset, self.timestamp = self._behind

    def run(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Walk a store of `size` bytes to its end or the first bad byte.

        Args:
            read: `read(size, position)` returns that many bytes, fewer at the end of the file.
        """
        needed, chunk_size = ENTRY_HEADER_SIZE, SCAN_CHUNK_SIZE_FIRST
        while not self.is_done:
            room = size - self.position
            if room < needed:
                # A file that ends between frames is whole; a preallocated one may have a stub that fits none.
                rest = read(room, self.position) if room > 0 else b""
                if room >= ENTRY_HEADER_SIZE or rest.strip(b"\0"):
                    self.problem = f"the file ends inside an entry of {needed} bytes"
                else:
                    self.is_ended = True
                return
            buffer = read(min(max(needed, min(chunk_size, SCAN_CHUNK_SIZE)), room), self.position)
            chunk_size *= 4
            if len(buffer) < needed:
                self.problem = "the file is shorter than it was"
                return
            needed = self.feed(buffer)


class Tail(Enum):
    """What is behind the last good frame of the active store."""

    CLEAN = "clean"
    TORN = "torn"
    DAMAGED = "damaged"


def judge_tail(scan: FrameScan, *, durable_position: int, is_zero_behind: bool) -> Tail:
    """Say what the end of a scan of the active store means.

    Args:
        scan: Finished.
        durable_position: The watermark's: every byte before it was once durable.
        is_zero_behind: Whether all bytes from the scan's end on are zero.
    """
    if scan.position < durable_position:
        return Tail.DAMAGED
    return Tail.CLEAN if is_zero_behind else Tail.TORN


STORE: Final = ".store"
INDEX: Final = ".index"
STATE: Final = ".state"
SUFFIXES: Final = (STORE, INDEX, STATE)
START_NAME: Final = "start"
HARD_STATE_NAME: Final = "hard_state"
RESERVE_NAME: Final = "reserve"
ASIDE_NAME: Final = "lost+found"
SPARE_PREFIX: Final = "spare-"
_BASE_DIGITS: Final = 20


def segment_name(base_index: int, suffix: str) -> str:
    """Return a segment file's name."""
    return f"{base_index:0{_BASE_DIGITS}d}{suffix}"


def parse_name(name: str) -> tuple[int, str] | None:
    """Return a segment file's base index and suffix; None for other names."""
    digits, suffix = name[:_BASE_DIGITS], name[_BASE_DIGITS:]
    if len(digits) == _BASE_DIGITS and digits.isascii() and digits.isdecimal() and suffix in SUFFIXES:
        return int(digits), suffix
    return None


def stores_among(names: Iterable[str]) -> list[int]:
    """Return the base indexes of the stores among a log directory's names, in order."""
    return sorted(found[0] for name in names if (found := parse_name(name)) and found[1] == STORE)


@dataclass(frozen=True, slots=True)
class DirectoryPlan:
    """What the names in a log's directory mean: the stores that count, and what a crash left over."""

    bases: tuple[int, ...]
    leftovers: tuple[str, ...]


def plan_directory(names: Iterable[str], *, first_index: int, is_installing: bool) -> DirectoryPlan:
    """Sort names into the log's segments and leftovers.

    Left over are: everything when a start is being installed (the old log), stores before the
    log's first index (a trim), index and state files without a store (unless they are traces of a
    loss: `storage.traces`), temporary and spare files.
    Names that are none of ours are left alone.
    """
    parsed = {name: found for name in names if (found := parse_name(name))}
    bases = tuple(
        sorted(
            base
            for base, suffix in parsed.values()
            if suffix == STORE and base >= first_index and not is_installing
        )
    )
    kept = set(bases)
    leftovers = [name for name, (base, _) in parsed.items() if base not in kept]
    leftovers += [name for name in names if name.endswith(".tmp") or name.startswith(SPARE_PREFIX)]
    # Stores last: an index or state file without its store tells of a loss.
    leftovers.sort(key=lambda name: (name.endswith(STORE), name))
    return DirectoryPlan(bases, tuple(leftovers))


def check_entries(state: LogState, entries: Sequence[Entry]) -> None:
    """Raise unless the entries may follow `state` and can be folded into it.

    Raises:
        EntryDamagedError: They do not join, or one is of an unknown producer.
        MalformedMessageError: A payload is not what its kind says.
    """
    before: LogState | Entry = state
    registered: set[int] = set()
    for entry in entries:
        check_follows(before, entry)
        before = entry
        if entry.kind == EntryKind.RECORDS:
            producer_id = entry.producer_id
            if producer_id and producer_id not in state.producers and producer_id not in registered:
                raise EntryDamagedError(f"entry {entry.index} is of unknown producer {producer_id}")
        elif entry.kind == EntryKind.CONFIGURATION:
            decode_configuration(bytes(entry.payload))
        elif entry.kind == EntryKind.TRIM:
            decode_trim(bytes(entry.payload))
        elif entry.kind == EntryKind.PRODUCER:
            decode_producer(bytes(entry.payload))
            registered.add(entry.index)
        elif entry.kind == EntryKind.CURSOR:
            decode_cursor_change(bytes(entry.payload))
        elif entry.kind == EntryKind.BIRTH:
            decode_birth(bytes(entry.payload), index=entry.index, timestamp=entry.timestamp)
