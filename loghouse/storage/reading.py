"""Reading a log, from any thread: what `Log` is to everybody but its disk thread.

Everything works on a `View`, which the writer swaps as a whole. Sealed segments are read with
pread, the active one through a read-only map; nothing is served that fails its checksum.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar, cast

from loghouse.errors import DamageError, OffsetOutOfRangeError
from loghouse.protocol.entry import Entry, decode_entries
from loghouse.protocol.log_state import LogState
from loghouse.storage.examination import DamagedEntries
from loghouse.storage.files import Files
from loghouse.storage.opening import fold
from loghouse.storage.segment import End, FrameHeader, Segment

P = ParamSpec("P")
T = TypeVar("T")
OPEN_SEGMENTS_MAX: Final = 64  # sealed segments whose files stay open: bounds file numbers and maps


@dataclass(slots=True, kw_only=True)  # made for every append: not frozen
class View:
    """What readers see; replaced as a whole, never changed.

    `end` is of the last segment. `durable_index` and `durable_offset` (the next offset there) are what the
    last sync covered; only bytes below may leave the node as stored.
    """

    segments: tuple[Segment, ...]
    base_indexes: tuple[int, ...]
    base_offsets: tuple[int, ...]
    end: End
    durable_index: int
    durable_offset: int

    @property
    def first_index(self) -> int:
        """The first entry held (or to come)."""
        return self.base_indexes[0]

    @property
    def last_index(self) -> int:
        """The last entry written."""
        return self.base_indexes[-1] + self.end.count - 1

    def end_of(self, place: int) -> End:
        """Return where the segment at `place` ends in this view."""
        return self.end if place == len(self.segments) - 1 else self.segments[place].end


def make_view(segments: Sequence[Segment], *, durable: View | None = None) -> View:
    """Return the view of these segments as they are now.

    Args:
        durable: The view whose durable end still bounds this one's; None when everything is durable.
    """
    end, last_index = segments[-1].end, segments[-1].last_index
    return View(
        segments=tuple(segments),
        base_indexes=tuple(segment.base_index for segment in segments),
        base_offsets=tuple(segment.base_offset for segment in segments),
        end=end,
        durable_index=min(durable.durable_index, last_index) if durable else last_index,
        durable_offset=min(durable.durable_offset, end.next_offset) if durable else end.next_offset,
    )


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment that takes no more appends, as retention sees it.

    `size` is of its files' bytes in use, the timestamp in microseconds since the epoch.
    """

    base_index: int
    base_offset: int
    next_offset: int
    size: int
    newest_timestamp: int


def again_when_gone(
    look: Callable[Concatenate[ReadableLog, P], T],
) -> Callable[Concatenate[ReadableLog, P], T]:
    """Look again in the new view when a segment of the old one was removed between a look and its reading."""

    @wraps(look)
    def looking(log: ReadableLog, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            view = log.view
            try:
                return look(log, *args, **kwargs)
            except FileNotFoundError as error:
                if log.view is view:
                    gone = str(error.filename or view.segments[0].directory)
                    raise DamageError(gone, 0, "a file is gone", remedy="stop the node") from error

    return cast("Callable[Concatenate[ReadableLog, P], T]", looking)


class ReadableLog:
    """The reading half of `Log`."""

    def __init__(
        self, files: Files, directory: str, view: View, *, seed: int, start_state: LogState, state: LogState
    ) -> None:
        """Use `Log.open`."""
        self._files = files
        self._directory = directory
        self._view = view
        self._start_state = start_state  # before the log's first entry
        self._state = state  # at its last entry; kept, and folded on by the writer
        # A state to fold from that no cut will undo.
        self._checkpoint = state.copy()
        self._open_segments: dict[int, Segment] = {}
        # Found and not mended yet: swapped as a whole. Look-ups of them end here, without a search.
        self._damaged: tuple[DamagedEntries, ...] = ()
        # Sealed segments, by base index, whose ends only their files bound: the last entry is damaged.
        self.unknown_ends: frozenset[int] = frozenset()
        self.seed = seed

    def advance(self, view: View, state: LogState) -> None:
        """Let readers have more; for who follows a log that another process writes."""
        self._state, self._view = state, view

    @property
    def view(self) -> View:
        """What readers see now."""
        return self._view

    # --- what there is (any thread) -------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first Raft index held; last_index + 1 when the log holds none."""
        return self._view.first_index

    @property
    def last_index(self) -> int:
        """The last Raft index written; first_index - 1 when the log holds none."""
        return self._view.last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry written, or of the one before the log's start."""
        return self._view.end.term

    @property
    def next_offset(self) -> int:
        """The offset that the next record will get."""
        return self._view.end.next_offset

    @property
    def durable_index(self) -> int:
        """The last Raft index that is on the disk for certain."""
        return self._view.durable_index

    @property
    def first_offset(self) -> int:
        """The first offset whose bytes are still here."""
        return self._view.base_offsets[0]

    @property
    def lowest_offset(self) -> int:
        """The lowest offset that is readable: trimmed ones are not, even while their bytes are still here."""
        return max(self._state.lowest_offset, self.first_offset)

    @property
    def state(self) -> LogState:
        """A copy of the replicated state at `last_index`; not while the disk thread appends."""
        return self._state.copy()

    def sealed_segments(self) -> list[SealedSegment]:
        """Return the segments that take no more appends, oldest first."""
        view = self._view
        return [
            SealedSegment(
                segment.base_index,
                segment.base_offset,
                segment.end.next_offset,
                segment.end.position,
                segment.newest_timestamp,
            )
            for segment in view.segments[:-1]
        ]

    def sealed_segment(self, base_index: int) -> Segment | None:
        """Return the segment with this first index if it takes no more appends, else None."""
        view = self._view
        place = bisect_left(view.base_indexes, base_index)
        if place >= len(view.segments) - 1 or view.base_indexes[place] != base_index:
            return None
        return view.segments[place]

    def end_found(self, base_index: int, end: End, newest_timestamp: int) -> None:
        """Take over where a segment of `unknown_ends` ends, now that its last entry is good."""
        segment = self.sealed_segment(base_index)
        if segment is not None:
            segment.end, segment.newest_timestamp = end, newest_timestamp
            self.unknown_ends -= {base_index}

    def note_damaged(self, damaged: Sequence[DamagedEntries]) -> None:
        """Refuse look-ups of these entries at once, and only of these, until told otherwise."""
        self._damaged = tuple(damaged)

    def check_not_damaged(self, index: int) -> None:
        """Raise DamageError when an entry is known to be damaged, and not mended yet; reads nothing."""
        for damage in self._damaged:
            if damage.first_index <= index <= damage.last_index:
                raise damage.error()

    @property
    def size(self) -> int:
        """Bytes in use of all segments."""
        view = self._view
        return sum(segment.end.position for segment in view.segments[:-1]) + view.end.position

    @property
    def active_size(self) -> int:
        """Bytes in use of the segment that takes appends."""
        return self._view.end.position

    # --- reading (any thread) -------------------------------------------------------

    @again_when_gone
    def term_at(self, index: int) -> int:
        """Return the term of an entry; `first_index` - 1 is known too.

        Raises:
            LookupError: The log does not hold it.
            DamageError: Its header is damaged.
        """
        view = self._view
        if index == view.last_index:
            return view.end.term
        if index == view.first_index - 1:
            return view.segments[0].header.previous_term
        return self._header(view, index).term

    def header_at(self, index: int) -> FrameHeader:
        """Return what the header of an entry says. Raises as `term_at`."""
        return self._header(self._view, index)

    def _header(self, view: View, index: int) -> FrameHeader:
        if not view.first_index <= index <= view.last_index:
            raise LookupError(f"entry {index} is not in the log ({view.first_index} to {view.last_index})")
        for damage in self._damaged:
            if damage.first_index <= index <= damage.last_index and not damage.head:
                raise damage.error()
        segment = self._segment(view, bisect_right(view.base_indexes, index) - 1)
        return segment.frame_header(index - segment.base_index)

    def _segment(self, view: View, place: int) -> Segment:
        """Return a segment and keep its files open for the next look, within bounds."""
        segment = view.segments[place]
        if place < len(view.segments) - 1 and segment.base_index not in self._open_segments:
            self._open_segments[segment.base_index] = segment
            if len(self._open_segments) > OPEN_SEGMENTS_MAX:
                for oldest in list(self._open_segments)[:1]:
                    forgotten = self._open_segments.pop(oldest, None)
                    if forgotten is not None:
                        forgotten.let_go()
        return segment

    @again_when_gone
    def entries(self, low: int, high: int, size_max: int) -> list[Entry]:
        """Return checked entries from `low` up to, not including, `high`; for consensus, committed or not.

        At least one, then as many as fit in `size_max` bytes; they may end at a segment's end.

        Raises:
            LookupError: The log does not hold `low` (trimmed, or not written).
            DamageError: The first of them is damaged.
        """
        view = self._view
        high = min(high, view.last_index + 1)
        header = self._header(view, low)
        if high <= low:
            return []
        place = bisect_right(view.base_indexes, low) - 1
        segment, end = view.segments[place], view.end_of(place)
        count = min(high - segment.base_index, end.count)
        buffer, _ = segment.frames(header, count=count, end=end, size_max=size_max, mapped=False)
        return list(decode_entries(self.seed, buffer))

    @again_when_gone
    def state_at(self, index: int) -> LogState:
        """Return the replicated state after an entry, from `first_index` - 1 on; reads the segment's headers.

        Raises:
            LookupError: The log does not reach there.
            DamageError: What it is computed from is damaged.
        """
        view = self._view
        if not view.first_index - 1 <= index <= view.last_index:
            raise LookupError(f"no state at {index}: the log holds {view.first_index} to {view.last_index}")
        place = max(bisect_right(view.base_indexes, index) - 1, 0)
        return self._state_in(view, place, index)

    def _state_in(self, view: View, place: int, index: int) -> LogState:
        segment = view.segments[place]
        if index == segment.last_index and place < len(view.segments) - 1:
            # The next segment's file says it, without a look at the frames.
            state = view.segments[place + 1].state_before()
            if state is not None:
                return state
        checkpoint = self._checkpoint
        if segment.base_index - 1 <= checkpoint.index <= index:
            return fold(segment, checkpoint.copy(), index)
        state = segment.state_before()
        if state is None and place == 0:
            state = self._start_state.copy()
        elif state is None:
            state = self._state_in(view, place - 1, segment.base_index - 1)
        return fold(segment, state, index)

    def is_active(self, index: int) -> bool:
        """Return whether an entry is in the active segment, or still to come."""
        return index >= self._view.base_indexes[-1]

    def is_hot(self, offset: int) -> bool:
        """Return whether a read from `offset` touches only the active segment: fit for the reactor thread."""
        return offset >= self._view.base_offsets[-1]

    def is_near(self, offset: int) -> bool:
        """Return whether a read from `offset` begins in the last two segments, or behind them."""
        return offset >= self._view.base_offsets[-2:][0]

    @again_when_gone
    def read(self, offset: int, size_max: int, high_index: int) -> tuple[bytes, int]:
        """Return whole checked entry frames from the entry that holds `offset` on.

        Args:
            size_max: Bytes; the first entry comes whole even when larger. A read ends at a segment's end.
            high_index: The last Raft index to read: the commit index. What is not durable is never read.

        Returns:
            The frames (entries of other kinds than records among them), and the offset to read next;
            nothing and `offset` itself when no readable entry holds it.

        Raises:
            OffsetOutOfRangeError: It is below what is held.
            DamageError: The entry is damaged.
        """
        segment, end, count = self._segment_of(offset, high_index)
        if count < 1:
            return b"", offset
        found = segment.frames_behind(offset, count=count, end=end, size_max=size_max, mapped=True)
        if found is not None:
            return found
        header = segment.number_at_offset(offset, count)
        if header.next_offset <= offset:
            return b"", offset
        return segment.frames(header, count=count, end=end, size_max=size_max, mapped=True)

    @again_when_gone
    def read_before(
        self, offset: int, size_max: int, high_index: int, low_offset: int = 0
    ) -> tuple[bytes, int]:
        """Return whole checked entry frames up to the entry that holds the record before `offset`.

        They are in the order of the log, and end with that entry.

        Args:
            size_max: Bytes; the last entry comes whole even when larger. A read begins at a segment's start.
            high_index: As for `read`.
            low_offset: Entries whose records are all below are not wanted.

        Returns:
            The frames, and the offset before which to read next; nothing and `offset` itself when no readable
            entry holds the record.

        Raises:
            OffsetOutOfRangeError: The record is below what is held.
            DamageError: The entry is damaged.
        """
        last = offset - 1
        segment, _, count = self._segment_of(last, high_index)
        if count < 1:
            return b"", offset
        header = segment.number_at_offset(last, count)
        if header.next_offset <= last:
            return b"", offset
        return segment.frames_up_to(header, size_max=size_max, low_offset=low_offset)

    def _segment_of(self, offset: int, high_index: int) -> tuple[Segment, End, int]:
        """Return the segment whose span has a record, its end, and how many of its entries may be read.

        Raises:
            OffsetOutOfRangeError: The record is below what is held.
            DamageError: Its entry is damaged.
        """
        view = self._view
        if offset < view.base_offsets[0]:
            raise OffsetOutOfRangeError(offset, self.lowest_offset, view.durable_offset)
        place = bisect_right(view.base_offsets, offset) - 1
        segment, end = self._segment(view, place), view.end_of(place)
        count = min(min(high_index, view.durable_index) - segment.base_index + 1, end.count)
        if count > 0:
            for damage in self._damaged:
                if damage.base_offset <= offset < damage.next_offset:
                    raise damage.error()
        return segment, end, count

    @again_when_gone
    def index_of_offset(self, offset: int) -> int:
        """Return the Raft index of the durable entry that holds a record.

        Raises:
            OffsetOutOfRangeError: None does.
            DamageError: It is damaged.
        """
        view = self._view
        place = bisect_right(view.base_offsets, offset) - 1
        if place >= 0:
            segment = self._segment(view, place)
            count = min(view.durable_index - segment.base_index + 1, view.end_of(place).count)
            if count > 0:
                header = segment.number_at_offset(offset, count)
                if offset < header.next_offset:
                    return header.index
        raise OffsetOutOfRangeError(offset, self.lowest_offset, view.durable_offset)

    @again_when_gone
    def index_of_time(self, timestamp: int, high_index: int) -> int | None:
        """Return the Raft index of the first entry up to `high_index` at or after a time, or None.

        Args:
            timestamp: Microseconds since the epoch.
        """
        view = self._view
        high = min(high_index, view.durable_index)
        newest = [segment.newest_timestamp for segment in view.segments]
        for place in range(bisect_left(newest, timestamp), len(view.segments)):
            segment = self._segment(view, place)
            count = min(high - segment.base_index + 1, view.end_of(place).count)
            if count < 1:
                return None
            number = segment.first_at_time(timestamp, count)
            if number < count:
                return segment.base_index + number
        return None

    @again_when_gone
    def find_time(self, timestamp: int, high_index: int, lowest_offset: int) -> tuple[int, int] | None:
        """Return (offset, timestamp) of the first record at or after a time, or None when there is none.

        A record's time is its entry's. Entries without records are passed over.

        Args:
            high_index: The last Raft index to look at: the commit index. What is not durable is passed over.
            lowest_offset: Records below are trimmed, even while their bytes are still here.
        """
        index = self.index_of_time(timestamp, high_index)
        if index is None:
            return None
        view = self._view
        if self._header(view, index).next_offset <= lowest_offset:
            try:
                index = self.index_of_offset(max(lowest_offset, self.first_offset))
            except OffsetOutOfRangeError:
                return None  # every record is trimmed
        while index <= min(high_index, view.durable_index):
            header = self._header(view, index)
            if header.record_count:
                return max(header.base_offset, lowest_offset), header.timestamp
            index += 1
        return None
