"""One segment: a store with its offset index, and the checks between a look-up and its bytes.

Readers on any thread use what the log published of it; only the disk thread appends.
A segment object is never rolled back: a cut makes a new one over the same files.
Nothing is served unchecked; a wrong index is rebuilt from the store, a wrong store is `DamageError`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loghouse.errors import DamageError
from loghouse.limits import ENTRY_HEADER_SIZE, ENTRY_SIZE_MAX, INDEX_ENTRY_SIZE, KIB, STORE_HEADER_SIZE
from loghouse.protocol.entry import HEADER, Buffer, Entry, crc32c
from loghouse.protocol.log_state import LogState
from loghouse.storage.files import SCARCE_ERRNOS, ZEROES, Files, Mapping, OpenFile, is_full
from loghouse.storage.index import INDEX_ENTRY, OffsetIndex
from loghouse.storage.recovery import INDEX, STORE, FrameScan, segment_name
from loghouse.storage.start import read_state
from loghouse.storage.store import StoreHeader

CLEARED_SIZE_MIN: Final = 256 * KIB
"""How many bytes of zeroes are written ahead at a time, at least."""
CLEARED_GROUPS: Final = 8
"""For how many groups like the last one they are, if that is more: a sync seldom meets the disk writing them.
A log that takes a few small groups does not pay for a megabyte."""
CLEARED_GROUP_SIZES: Final = range(4 * KIB, 128 * KIB + 1)
"""Bytes of a group that is synced: a smaller one seldom comes to a new block, and for a larger one the zeroes
cost more than they spare."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The fields of a frame's header that look-ups need, and where it is."""

    position: int
    length: int
    kind: int
    record_count: int
    index: int
    term: int
    base_offset: int
    timestamp: int
    attributes: int
    payload_crc: int

    @property
    def next_offset(self) -> int:
        """The offset of the first record behind the entry."""
        return self.base_offset + self.record_count


@dataclass(slots=True)  # made for every append: not frozen
class End:
    """How far a segment counts: entries, the byte behind the last one, and what the last one leaves."""

    count: int
    position: int
    term: int
    next_offset: int


def write_zeroes(files: Files, fd: int, start: int, end: int) -> None:
    """Write zeroes into room that is taken, at most as many as there are in `ZEROES`. Nobody waits for them.

    Raises:
        OSError: The write failed, and not for want of room.
    """
    try:
        files.pwritev(fd, [memoryview(ZEROES)[: end - start]], start)
    except OSError as error:
        if not is_full(error):
            raise
        return  # a disk that copies on write: the write of what goes there tells
    files.begin_writing(fd, start, end - start)


class Segment:
    """A store and its index.

    `base_index` and `base_offset` are of its first entry and record; `end` is where the disk thread has
    written to.
    """

    def __init__(
        self, files: Files, directory: str, header: StoreHeader, *, end: End, size: int, remedy: str
    ) -> None:
        """Describe a segment whose files exist; nothing is opened yet."""
        self.files = files
        self.directory = directory
        self.header = header
        self.base_index = header.base_index
        self.base_offset = header.base_offset
        self.end = end  # what is in it
        self.size = size  # of the store file, in bytes
        self.remedy = remedy  # what an operator does about damage
        self.seed = header.seed
        self.path = f"{directory}/{segment_name(header.base_index, STORE)}"
        self.index_path = f"{directory}/{segment_name(header.base_index, INDEX)}"
        self.newest_timestamp = 0
        self.cleared = 0  # the byte behind the last one that was written here, be it a zero; 0: not known
        self.cleared_size = 0  # bytes of zeroes that were last written ahead; 0: none were
        self._store: OpenFile | None = None
        self._index_file: OpenFile | None = None
        self._index: OffsetIndex | None = None
        self._map: Mapping | None = None
        # (offset, place, term before it) where the last read ended: a reader that goes on needs no search.
        self._next_read = (-1, 0, 0)

    # --- what it is -----------------------------------------------------------------

    @property
    def last_index(self) -> int:
        """The Raft index of its last written entry; base - 1 when it is empty."""
        return self.base_index + self.end.count - 1

    # --- files ------------------------------------------------------------------------

    def store(self) -> OpenFile:
        """Return the open store; opened on first use."""
        store = self._store
        if store is None:
            store = self._store = OpenFile.open(self.files, self.path)
        return store

    def index(self) -> OffsetIndex:
        """Return the index; mapped on first use, rebuilt when its file is missing or short."""
        index = self._index
        if index is None:
            entries = self._map_index()
            if entries is None:
                return self.rebuild_index()
            index = self._index = OffsetIndex(entries)
        return index

    def _map_index(self) -> Mapping | None:
        if not self.files.exists(self.index_path):
            return None
        file = OpenFile.open(self.files, self.index_path)
        size = file.size()
        if size < max(self.end.count, 1) * INDEX_ENTRY_SIZE:
            return None
        return self.files.map(file.fd, size)

    def use_index(self, entries: Mapping) -> None:
        """Use these index entries until the handles are let go."""
        self._index = OffsetIndex(entries)

    def rebuild_index(self) -> OffsetIndex:
        """Return an index made from the store's frame headers, as far as they are good.

        A sealed segment keeps it in memory when it is whole; one that ends at damage must not hide
        what the index file still leads to.
        """
        scan = self.scan_headers(self.end.count)
        index = OffsetIndex(bytes(scan.entries))
        if self._index_file is None and scan.count == self.end.count:
            self._index = index
        return index

    def scan_headers(self, count: int) -> FrameScan:
        """Walk the headers of the first `count` frames."""
        scan = FrameScan.of_segment(
            self.seed, self.header, check_payloads=False, index_max=self.base_index + count - 1
        )
        scan.run(self.store().pread, self.size)
        return scan

    def activate(self) -> None:
        """Open for appending: store and index writable, both mapped for reading."""
        self._store = OpenFile.open(self.files, self.path, write=True)
        self._index_file = OpenFile.open(self.files, self.index_path, write=True)
        self._map = self.files.map(self._store.fd, self.size)
        self._index = OffsetIndex(self.files.map(self._index_file.fd, self._index_file.size()))

    def seal(self) -> None:
        """Take no more appends; from now on it is read with pread, and its files are opened when needed."""
        self._index_file = None
        self._map = None

    def let_go(self) -> None:
        """Forget open files and maps; who is reading keeps his until he is done."""
        self._store = None
        self._index = None
        self._index_file = None
        self._map = None

    @property
    def is_open(self) -> bool:
        """Whether it holds open files."""
        return self._store is not None or self._index is not None

    def with_end(self, end: End) -> Segment:
        """Return a segment over the same files with another end, not opened."""
        return Segment(self.files, self.directory, self.header, end=end, size=self.size, remedy=self.remedy)

    def state_before(self) -> LogState | None:
        """Return what the segment's state file says; None when it is gone, damaged, or does not join."""
        state = read_state(self.files, self.directory, self.seed, self.base_index)
        joined = (self.header.previous_term, self.base_offset)
        return state if state is not None and (state.term, state.next_offset) == joined else None

    # --- writing (disk thread) ---------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Write frames and index entries behind the end; the caller checked that there is room.

        Raises:
            OSError: A write failed; what was written is not known.
        """
        assert self._store is not None
        assert self._index_file is not None
        count, start = self.end.count, self.end.position
        buffers: list[Buffer] = []
        position, packed = start, []
        for entry in entries:
            buffers.append(entry.head)
            if entry.payload:
                buffers.append(entry.payload)
            packed.append(INDEX_ENTRY.pack(entry.base_offset - self.base_offset, position))
            position += entry.size
        assert position <= self.size
        self.files.pwritev(self._store.fd, buffers, start)
        self.files.pwritev(self._index_file.fd, [b"".join(packed)], count * INDEX_ENTRY_SIZE)
        last = entries[-1]
        self.end = End(count + len(entries), position, last.term, last.next_offset)
        self.newest_timestamp = last.timestamp

    def clear_ahead(self, group_size: int) -> None:
        """Write zeroes where the next groups go, when they are not there yet. Nobody waits for them.

        The blocks behind the end have room on the disk, and no content: the sync that first writes to one has
        the file's map of blocks to write, too (ADR 38). They read as zeroes before and after.

        Args:
            group_size: Bytes of the group that was just synced; the next one may be like it.

        Raises:
            OSError: The write failed, and not for want of room.
        """
        start = max(self.end.position, self.cleared)
        is_enough = self.end.position + group_size <= self.cleared or start >= self.size
        if is_enough or group_size not in CLEARED_GROUP_SIZES:
            return
        assert self._store is not None
        self.cleared_size = size = max(CLEARED_SIZE_MIN, CLEARED_GROUPS * group_size)
        self.cleared = min(start + size, self.size)
        write_zeroes(self.files, self._store.fd, start, self.cleared)

    # --- reading (any thread) -------------------------------------------------------------------

    def read_bytes(self, start: int, end: int, *, mapped: bool = False) -> bytes:
        """Return store bytes; from the map when `mapped` and it is there (committed entries only)."""
        mapping = self._map
        if mapped and mapping is not None:
            return mapping[start:end]
        try:
            return self.store().pread(end - start, start)
        except FileNotFoundError:
            raise  # trimmed or cut away since the caller looked; `ReadableLog` looks again
        except OSError as error:
            if error.errno in SCARCE_ERRNOS:
                raise  # that is no fault of the disk
            raise self.damage(start, f"cannot be read: {error}") from error

    def frame_header(self, number: int) -> FrameHeader:
        """Return the checked header of the entry at place `number`, which the caller knows is written.

        Raises:
            DamageError: The store holds no such entry there.
        """
        header = self._header_at(self.index(), number)
        if header is None:
            scan = self.scan_headers(number + 1)
            index = OffsetIndex(bytes(scan.entries))
            header = self._header_at(index, number) if scan.count > number else None
            if header is None:
                raise self.damage(scan.position, scan.problem or "entries are missing")
            if self._index_file is None:  # sealed: go on with a right index
                self.rebuild_index()
        return header

    def known_header(self, number: int) -> FrameHeader | None:
        """Return an entry's header when the index file leads to it; None when index or store is wrong."""
        entries = self._map_index()
        return self._header_at(OffsetIndex(entries), number) if entries is not None else None

    def _header_at(self, index: OffsetIndex, number: int) -> FrameHeader | None:
        if number >= index.capacity:
            return None
        position = index.position(number)
        if not STORE_HEADER_SIZE <= position <= self.size - ENTRY_HEADER_SIZE:
            return None
        raw = self.read_bytes(position, position + ENTRY_HEADER_SIZE)
        if len(raw) < ENTRY_HEADER_SIZE:
            return None
        crc, length, _, kind, attributes, records, i, term, base, timestamp, _, _, payload_crc = (
            HEADER.unpack(raw)
        )
        if crc32c(memoryview(raw)[4:], self.seed) != crc or i != self.base_index + number:
            return None
        if not ENTRY_HEADER_SIZE <= length <= ENTRY_SIZE_MAX:
            return None
        return FrameHeader(position, length, kind, records, i, term, base, timestamp, attributes, payload_crc)

    def number_at_offset(self, offset: int, count: int) -> FrameHeader:
        """Return the header of the last of the first `count` entries whose base offset is not above `offset`.

        Raises:
            DamageError: The store is damaged where the entry must be.
        """
        relative = offset - self.base_offset
        for attempt in ("as mapped", "rebuilt"):
            index = self.index() if attempt == "as mapped" else self.rebuild_index()
            number = max(index.last_at_offset(relative, min(count, index.capacity)), 0)
            header = self._header_at(index, number)
            # The entry either holds the offset or is the last one; else the index is wrong.
            if (
                header
                and (number == count - 1 or offset < header.next_offset)
                and header.base_offset <= offset
            ):
                return header
        self.frame_header(min(number + 1, count - 1))  # raises, with the place of the damage
        raise self.damage(STORE_HEADER_SIZE, f"offset {offset} is not where it belongs")

    def first_at_time(self, timestamp: int, count: int) -> int:
        """Return the first of `count` places whose entry is at or after a time; `count` when none is."""
        return bisect_left(range(count), timestamp, key=lambda number: self.frame_header(number).timestamp)

    def end_of(self, number: int, end: End) -> int:
        """Return the byte behind the entry at place `number`, given the published end."""
        return end.position if number == end.count - 1 else self.index().position(number + 1)

    def frames(
        self, header: FrameHeader, *, count: int, end: End, size_max: int, mapped: bool
    ) -> tuple[bytes, int]:
        """Return whole checked frames from `header`'s on, and the next offset behind them.

        Args:
            header: Of the first frame; it is returned even when it is larger than `size_max`.
            count: How many of the segment's entries may be read.
            end: The published end of the segment.
            size_max: Bytes.
            mapped: Whether all of them are committed, so that the map may be used.

        Raises:
            DamageError: The first frame is damaged. (A later one ends what is returned.)
        """
        number = header.index - self.base_index
        buffer, scan = self._scanned(
            number,
            header.position,
            header.length,
            header.term,
            header.base_offset,
            count=count,
            end=end,
            size_max=size_max,
            mapped=mapped,
        )
        if scan.count == 0:
            raise self.damage(header.position, scan.problem or "the entry is cut short")
        return buffer, scan.next_offset

    def frames_behind(
        self, offset: int, *, count: int, end: End, size_max: int, mapped: bool
    ) -> tuple[bytes, int] | None:
        """Return what `frames` does, without a look at a header, when `offset` is where the last read ended.

        None when it is not, or nothing good with records is there: look `number_at_offset` up.
        """
        hinted_offset, number, term = self._next_read
        index = self.index()
        if hinted_offset != offset or number >= min(count, index.capacity):
            return None
        start = index.position(number)
        length = self.end_of(number, end) - start
        if start < STORE_HEADER_SIZE or not ENTRY_HEADER_SIZE <= length <= ENTRY_SIZE_MAX:
            return None
        buffer, scan = self._scanned(
            number, start, length, term, offset, count=count, end=end, size_max=size_max, mapped=mapped
        )
        return (buffer, scan.next_offset) if scan.next_offset > offset else None

    def frames_up_to(self, header: FrameHeader, *, size_max: int, low_offset: int) -> tuple[bytes, int]:
        """Return whole checked frames that end with `header`'s, and the base offset of the first.

        Args:
            header: Of the last frame, which is committed; it comes even when it is larger than `size_max`.
            size_max: Bytes.
            low_offset: Entries whose records are all below are left out.

        Raises:
            DamageError: The last frame is damaged. (When an earlier one is, the last comes alone.)
        """
        number, stop = header.index - self.base_index, header.position + header.length
        first, index = header, self.index()
        if header.length < size_max:
            lowest = max(index.last_at_offset(low_offset - self.base_offset, number + 1), 0)
            earliest = bisect_left(range(lowest, number), stop - size_max, key=index.position) + lowest
            known = self._header_at(index, earliest) if earliest < number else None
            # An index that is wrong must not make us read more than was asked for.
            if known is not None and 0 < stop - known.position <= size_max:
                first = known
        buffer = self.read_bytes(first.position, stop, mapped=True)
        scan = FrameScan(
            self.seed,
            index=first.index - 1,
            term=first.term,
            next_offset=first.base_offset,
            base_offset=self.base_offset,
            position=first.position,
            index_max=header.index,
        )
        scan.feed(buffer)
        if scan.index == header.index and scan.position == stop:
            return buffer, first.base_offset
        if first is header:
            raise self.damage(header.position, scan.problem or "the entry is cut short")
        return self.frames_up_to(header, size_max=0, low_offset=low_offset)

    def _scanned(
        self,
        number: int,
        start: int,
        length: int,
        term: int,
        offset: int,
        *,
        count: int,
        end: End,
        size_max: int,
        mapped: bool,
    ) -> tuple[bytes, FrameScan]:
        """Read whole frames from the entry at place `number` on, and check them; the index may be wrong."""
        limit, last = start + size_max, number
        if start + length < limit:
            index = self.index()
            # The last one that starts in time; an index rebuilt from a damaged store ends at the damage.
            likely = number + size_max // length
            starts = index.last_ending_by(limit, number + 1, min(count, index.capacity), likely=likely)
            last = starts if starts == count - 1 and self.end_of(starts, end) <= limit else starts - 1
        stop = max(self.end_of(last, end), start + length) if last > number else start + length
        # A wrong index must not make us read more than was asked for.
        buffer = self.read_bytes(start, min(stop, max(limit, start + length)), mapped=mapped)
        scan = FrameScan(
            self.seed,
            index=self.base_index + number - 1,
            term=term,
            next_offset=offset,
            base_offset=self.base_offset,
            position=start,
            index_max=self.base_index + count - 1,
        )
        scan.feed(buffer)
        if scan.count:
            self._next_read = (scan.next_offset, number + scan.count, scan.term)
        good = scan.position - start
        return (buffer if good == len(buffer) else buffer[:good]), scan

    def damage(self, position: int, problem: str) -> DamageError:
        """Return the error that names this store."""
        return DamageError(
            self.path,
            position,
            problem,
            last_index=self.last_index,
            last_term=self.end.term,
            remedy=self.remedy,
        )
