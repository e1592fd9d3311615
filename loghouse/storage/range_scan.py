"""Reading a range of a log for somebody who wants some of its records: forwards or backwards, in steps.

Whole entries are given, as they are stored. Without a filter they are one read; with one, each batch is
looked at, and those that hold no wanted record are left out. A step is short, so that a thread serves others
in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from loghouse.errors import DamageError, InvalidRequestError, OffsetOutOfRangeError
from loghouse.limits import FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX, READ_SCAN_SIZE_MAX, READ_SCAN_STEP_SIZE
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import CODEC_MASK, HEADER, Buffer, Codec, EntryKind
from loghouse.protocol.record_matching import Matcher, encoded_records
from loghouse.protocol.record_range import RecordRange
from loghouse.storage.reading import ReadableLog

HEADER_SIZE: Final = HEADER.size


class _Place(NamedTuple):
    """An entry in a buffer of frames: where it begins and ends, and what its header says."""

    start: int
    end: int
    kind: int
    codec: int
    base_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """Whole entry frames in the order of the log, and where to go on.

    Entries without wanted records may be left out. The records that are given are those between the range's
    beginning (read backwards: its end) and `next_offset`.
    """

    frames: Buffer
    next_offset: int


class RangeScan:
    """Reads what a log has of a range, from the end where the reader begins.

    `next_offset` is where it stands.
    """

    def __init__(self, log: ReadableLog, wanted: RecordRange, low: int, high: int, high_index: int) -> None:
        """Stand at the beginning.

        Args:
            low, high: What of the range there is (`RecordRange.window`).
            high_index: The last Raft index to read: the commit index.
        """
        self._log = log  # fixed
        self._low = low  # the first offset to give; fixed
        self._high = high  # the first one behind those; fixed
        self._high_index = high_index  # fixed
        self._is_reverse = wanted.is_reverse  # fixed
        self._matcher = Matcher(wanted.filter) if wanted.filter else None  # fixed
        self._size_max = min(wanted.size_max or FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX)  # fixed
        self._left: int | None = wanted.count_max or None  # how many more are wanted; None: all
        self._kept: list[Buffer] = []  # frames in the order in which they are come by; grows with each step
        self._kept_size = 0  # bytes of them
        self._scanned_size = 0  # bytes looked through so far
        self.read_size = 0  # bytes read of the log so far
        self.next_offset = high if wanted.is_reverse else low

    @property
    def is_filtered(self) -> bool:
        """Whether batches are looked at: then it takes several steps, each of a few milliseconds."""
        return self._matcher is not None

    @property
    def scanned(self) -> Scanned:
        """What was found so far."""
        frames = self._kept[::-1] if self._is_reverse else self._kept
        whole = frames[0] if len(frames) == 1 else b"".join(frames)
        return Scanned(frames=whole, next_offset=self.next_offset)

    def run(self) -> Scanned:
        """Take all steps, and return what was found; raises as `step`."""
        while self.step():
            pass
        return self.scanned

    @property
    def step_size(self) -> int:
        """How many bytes a step reads, if the first entry has no more."""
        return self._size_max if self._matcher is None else READ_SCAN_STEP_SIZE

    @property
    def place(self) -> int:
        """The offset that the next step looks at first."""
        return self.next_offset - 1 if self._is_reverse else self.next_offset

    def step(self, size_max: int = READ_SCAN_SIZE_MAX) -> bool:
        """Go on for a while; return whether there is more to do.

        Args:
            size_max: Bytes to read, if that is less than what a step reads anyway.

        Raises:
            OffsetOutOfRangeError: It stands at what is trimmed by now.
            DamageError: It stands at a damaged entry.
        """
        if self._low >= self._high:
            return False
        if self._matcher is None:
            self._take(*self._read(min(self.step_size, size_max)))
            return False
        try:
            frames, _ = self._read(min(self.step_size, size_max))
        except (DamageError, OffsetOutOfRangeError):
            if self.next_offset == (self._high if self._is_reverse else self._low):
                raise
            return False  # what is here is good; who goes on is told
        if not frames or not self._look_through(frames, self._matcher):
            return False
        is_over = self.next_offset <= self._low if self._is_reverse else self.next_offset >= self._high
        return not is_over and self._scanned_size < READ_SCAN_SIZE_MAX

    def _read(self, size_max: int) -> tuple[bytes, int]:
        log = self._log
        if self._is_reverse:
            found = log.read_before(self.next_offset, size_max, self._high_index, self._low)
        else:
            found = log.read(self.next_offset, size_max, self._high_index)
        self.read_size += len(found[0])
        return found

    def _take(self, frames: bytes, next_offset: int) -> None:
        """Take all that was read, but for entries behind the range."""
        if self._is_reverse:
            self.next_offset = max(next_offset, self._low)
        else:
            if next_offset > self._high:
                ends = (place.end for place in _places(frames) if place.next_offset >= self._high)
                frames = frames[: next(ends)]
            self.next_offset = min(next_offset, self._high)
        self._kept = [frames]

    def _look_through(self, frames: bytes, matcher: Matcher) -> bool:
        """Keep the entries that hold wanted records; return whether the answer takes more."""
        places = list(_places(frames))
        for place in reversed(places) if self._is_reverse else places:
            found = self._wanted_in(frames, place, matcher)
            if found:
                size = place.end - place.start
                if self._kept and self._kept_size + size > self._size_max:
                    return False
                self._kept.append(frames[place.start : place.end])
                self._kept_size += size
            if found and self._left is not None:
                if len(found) >= self._left:
                    self._stop_behind(found, self._left)
                    return False
                self._left -= len(found)
            if self._is_reverse:
                self.next_offset = max(self._low, min(self.next_offset, place.base_offset))
            else:
                self.next_offset = min(self._high, max(self.next_offset, place.next_offset))
            if self._scanned_size >= READ_SCAN_SIZE_MAX:
                return False
        return True

    def _stop_behind(self, found: list[int], count: int) -> None:
        """Stand behind the last record that is wanted."""
        self.next_offset = found[-count] if self._is_reverse else found[count - 1] + 1

    def _wanted_in(self, frames: bytes, place: _Place, matcher: Matcher) -> list[int]:
        """Return the offsets of wanted records in an entry.

        Of a batch that nobody can read, all: whoever gets it is told so, as without a filter. Where they are
        not counted, of a batch that is likely to hold some, one: whoever gets it looks at its records anyway.
        """
        low, high = max(self._low, place.base_offset), min(self._high, place.next_offset)
        if self._is_reverse:
            high = min(high, self.next_offset)
        else:
            low = max(low, self.next_offset)
        if place.kind != EntryKind.RECORDS or low >= high:
            return []
        start = place.start + HEADER_SIZE
        try:
            if place.codec == Codec.NONE:
                self._scanned_size += place.end - place.start
                if not matcher.may_be_in(frames, start, place.end):
                    return []
                if self._left is None and matcher.is_likely_in(frames, start, place.end):
                    return [low]
                payload = frames[start : place.end]
            else:
                payload = bytes(decompress(memoryview(frames)[start : place.end], place.codec))
                self._scanned_size += max(len(payload), place.end - place.start)
                if not matcher.may_be_in(payload):
                    return []
                if self._left is None and matcher.is_likely_in(payload):
                    return [low]
            offset, found = place.base_offset, []
            for records in encoded_records(payload):
                found += [offset + number for number in matcher.places(records)]
                offset += len(records)
        except InvalidRequestError:
            return list(range(low, high))
        return [one for one in found if low <= one < high]


def _places(frames: bytes) -> list[_Place]:
    """Return the entries of whole, good frames, in their order."""
    starts, position = [], 0
    while position < len(frames):
        starts.append(position)
        position += int.from_bytes(frames[position + 4 : position + 8])
    found = []
    for start, end in pairwise([*starts, len(frames)]):
        _, _, _, kind, attributes, record_count, _, _, base_offset, *_ = HEADER.unpack_from(frames, start)
        next_offset = base_offset + record_count
        found.append(_Place(start, end, kind, attributes & CODEC_MASK, base_offset, next_offset))
    return found
