"""Looking for damage in a sealed segment, and writing the right bytes in its place.

An `Examination` reads every frame of one segment in steps, so that whoever drives it can pace it. At bytes
that are no good entry it says which entries they must be: `DamagedEntries`. Where they begin is certain, for
every frame before is good; where they end is told by the index file, if a good frame is there, else it is
the segment's end. What another member gives for them is checked by `DamagedEntries.check` before
`write_over` puts it there. No decision here needs a clock or a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from loghouse.errors import DamageError, EntryDamagedError
from loghouse.limits import (
    ENTRY_HEADER_SIZE,
    ENTRY_SIZE_MAX,
    INDEX_ENTRY_SIZE,
    SCRUB_STEP_SIZE,
)
from loghouse.protocol.entry import HEADER, Buffer, crc32c
from loghouse.storage.files import Files, OpenFile
from loghouse.storage.index import INDEX_ENTRY
from loghouse.storage.recovery import FrameScan
from loghouse.storage.segment import End, Segment

SEEK_MAX: Final = 4096  # index entries tried in one step


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedEntries:
    """Entries of a sealed segment whose bytes are wrong, between what is known for certain.

    `position` is the byte where the first one begins, `end` the one behind the last; `is_end_exact` is False
    where only the file's size bounds it (the last entry of a segment whose end no header tells).
    `previous_...` is of the entry before, `next_term` and `next_timestamp` are what the last one is at most,
    `next_offset` is the offset behind it. `head` is the first one's header when only its payload is wrong,
    else empty.
    """

    seed: int
    path: str
    base_index: int
    segment_offset: int
    first_index: int
    last_index: int
    position: int
    end: int
    is_end_exact: bool = True
    previous_term: int
    previous_timestamp: int
    base_offset: int
    next_term: int
    next_timestamp: int
    next_offset: int
    head: bytes = b""
    problem: str

    @property
    def names(self) -> str:
        """Which entries, for people."""
        if self.first_index == self.last_index:
            return f"entry {self.first_index}"
        return f"entries {self.first_index} to {self.last_index}"

    def error(self) -> DamageError:
        """Return what a look-up that needs these entries ends with."""
        return DamageError(self.path, self.position, f"{self.problem} ({self.names})")

    def check(self, frames: Buffer) -> int:
        """Return how many of the entries, from the first on, these frames are; there may be more to ask for.

        Raises:
            EntryDamagedError: They are damaged, not these entries, or do not fit exactly in their place.
        """
        scan = FrameScan(
            self.seed,
            index=self.first_index - 1,
            term=self.previous_term,
            next_offset=self.base_offset,
            base_offset=self.segment_offset,
            position=self.position,
            timestamp=self.previous_timestamp,
            index_max=self.last_index,
        )
        scan.feed(frames)
        behind = self.position + len(frames)
        if scan.problem or not scan.count or scan.position != behind:
            raise EntryDamagedError(f"no {self.names}: {scan.problem or 'other bytes than whole entries'}")
        if self.head and bytes(frames[:ENTRY_HEADER_SIZE]) != self.head:
            raise EntryDamagedError(f"another entry {self.first_index} than the one whose header is here")
        if (
            scan.term > self.next_term
            or scan.timestamp > self.next_timestamp
            or scan.next_offset > self.next_offset
        ):
            raise EntryDamagedError(f"entry {scan.index} does not join the one behind the damage")
        missing = self.last_index - scan.index
        if missing or not self.is_end_exact:
            fits = behind + missing * ENTRY_HEADER_SIZE <= self.end
        else:
            fits = behind == self.end
        if not fits or (not missing and scan.next_offset != self.next_offset):
            raise EntryDamagedError(
                f"{self.names} of {len(frames)} bytes up to offset {scan.next_offset}: there is room for "
                f"{self.end - self.position}, up to offset {self.next_offset}"
            )
        return scan.count


class Examination:
    """Reads one sealed segment from its first frame to its last, then compares its index file.

    `damage` is set when a step met it: `resume` looks at the same place again, `skip` goes on behind.
    `index_entries` is what the index file should hold, once it is known that it does not. `failure` says why
    what is there is no damage that could be mended. `size` counts the bytes read.
    """

    def __init__(self, files: Files, segment: Segment, *, is_end_exact: bool = True) -> None:
        """Look at a sealed segment as it ends now; nothing is opened yet."""
        self.segment = segment  # sealed, and not touched: the files are opened anew
        self.end: End = segment.end
        # Whether the segment's end is where its last entry ends, not only a bound of that.
        self.is_end_exact = is_end_exact
        self.damage: DamagedEntries | None = None
        self.failure = ""
        self.index_entries: bytes | None = None
        self.size = 0
        self._files = files  # the file seam
        self._store: OpenFile | None = None
        last_index = segment.base_index + self.end.count - 1
        self._scan = FrameScan.of_segment(segment.seed, segment.header, index_max=last_index)
        self._needed = ENTRY_HEADER_SIZE
        self._seeking = 0
        self._problem = ""
        self._is_unreadable = False  # the problem is that
        self._careful_until = 0  # frame by frame up to here: a read of more failed
        self._is_whole = True  # nothing was skipped
        self._is_index_checked = False

    @property
    def is_done(self) -> bool:
        """Whether everything was read and nothing is wrong any more, skipped damage aside."""
        return self._is_at_end and self._is_index_checked and not (self.damage or self.failure)

    @property
    def _is_at_end(self) -> bool:
        return self._scan.index >= self._scan.index_max

    def found_end(self) -> End:
        """Return where the segment ends, by its last entry; once it is done."""
        scan = self._scan
        return End(self.end.count, scan.position, scan.term, scan.next_offset)

    @property
    def newest_timestamp(self) -> int:
        """The last entry's, once it is done."""
        return self._scan.timestamp

    def step(self) -> int:
        """Read on, at most about `SCRUB_STEP_SIZE` bytes or one entry; return how many were read.

        Raises:
            FileNotFoundError: The segment is gone.
        """
        if self._store is None:
            self._store = OpenFile.open(self._files, self.segment.path)
        before = self.size
        if self._seeking:
            self._seek(self._store)
        elif not self._is_at_end:
            self._read_frames(self._store)
        elif not self._is_index_checked:
            self._compare_index()
        return self.size - before

    # --- frames -----------------------------------------------------------------------

    def _read_frames(self, store: OpenFile) -> None:
        scan, room = self._scan, self.end.position - self._scan.position
        if room < self._needed:
            self._met(f"an entry of {self._needed} bytes does not end in the segment")
            return
        is_careful = scan.position < self._careful_until
        size = self._needed if is_careful else min(max(self._needed, SCRUB_STEP_SIZE), room)
        try:
            chunk = store.pread(size, scan.position)
        except OSError as error:
            if size > self._needed:
                self._careful_until = scan.position + size
            else:
                self._met(f"cannot be read: {error}")
                self._is_unreadable = True
            return
        self.size += len(chunk)
        if len(chunk) < self._needed:
            self._met("the file is shorter than it was")
            return
        self._needed = scan.feed(chunk)
        if scan.is_newer:
            self.failure = f"{scan.problem}; use a newer Loghouse"
        elif scan.is_payload_damaged:
            self._met_payload(store)
        elif scan.problem or scan.is_ended:
            self._met(scan.problem or "zeroes where an entry must be")

    def _met_payload(self, store: OpenFile) -> None:
        """Only the payload is wrong: the header, which is good, tells all about the entry."""
        scan = self._scan
        head = store.pread(ENTRY_HEADER_SIZE, scan.position)
        _, length, _, _, _, records, index, term, offset, timestamp, *_ = HEADER.unpack(head)
        self.damage = self._damaged(
            last_index=index,
            end=scan.position + length,
            next_term=term,
            next_timestamp=timestamp,
            next_offset=offset + records,
            head=head,
            problem=scan.problem,
        )

    def _met(self, problem: str) -> None:
        """No entry starts here: look for the next good one from the next step on."""
        self._problem, self._is_unreadable = problem, False
        self._seeking = self._scan.index + 2 - self.segment.base_index

    def _seek(self, store: OpenFile) -> None:
        """Look for a good entry behind the damage, where the index file says that one is."""
        scan, first, count = self._scan, self._seeking, self.end.count
        tried = self._index_part(first, min(SEEK_MAX, count - first))
        for place in range(len(tried) // INDEX_ENTRY_SIZE):
            _, position = INDEX_ENTRY.unpack_from(tried, place * INDEX_ENTRY_SIZE)
            found = self._good_header(store, first + place, position)
            if found is not None:
                index, term, offset, timestamp = found
                self.damage = self._damaged(
                    last_index=index - 1,
                    end=position,
                    next_term=term,
                    next_timestamp=timestamp,
                    next_offset=offset,
                    problem=self._problem,
                )
                self._seeking = 0
                return
        self._seeking += SEEK_MAX
        if self._seeking >= count or not tried:
            self._seeking = 0
            self.damage = self._damaged(
                last_index=scan.index_max,
                end=self.end.position,
                is_end_exact=self.is_end_exact,
                next_term=self.end.term,
                next_timestamp=self.segment.newest_timestamp,
                next_offset=self.end.next_offset,
                problem=self._problem,
            )

    def _index_part(self, first: int, count: int) -> bytes:
        try:
            file = OpenFile.open(self._files, self.segment.index_path)
            return file.pread(count * INDEX_ENTRY_SIZE, first * INDEX_ENTRY_SIZE)
        except OSError:
            return b""  # it is only a cache

    def _good_header(self, store: OpenFile, number: int, position: int) -> tuple[int, int, int, int] | None:
        """Return (index, term, base offset, timestamp) of the good header of entry `number` at `position`."""
        scan = self._scan
        skipped = number - (scan.index + 1 - self.segment.base_index)
        least = scan.position + skipped * ENTRY_HEADER_SIZE
        if not least <= position <= self.end.position - ENTRY_HEADER_SIZE:
            return None
        try:
            head = store.pread(ENTRY_HEADER_SIZE, position)
        except OSError:
            return None
        if len(head) < ENTRY_HEADER_SIZE:
            return None
        crc, length, _, _, _, records, index, term, offset, timestamp, *_ = HEADER.unpack(head)
        is_good = (
            crc32c(head[4:], self.segment.seed) == crc
            and index == self.segment.base_index + number
            and ENTRY_HEADER_SIZE <= length <= min(ENTRY_SIZE_MAX, self.end.position - position)
            and scan.term <= term <= self.end.term
            and scan.next_offset <= offset <= self.end.next_offset - records
            and scan.timestamp <= timestamp
        )
        if is_good and self._is_unreadable:
            # Written as a whole, what is between needs nothing of a bad block: else the kernel must read it.
            try:
                store.pread(length, position)
            except OSError:
                return None
        return (index, term, offset, timestamp) if is_good else None

    def _damaged(self, **end: Any) -> DamagedEntries:
        """Return the damage that begins behind the scan; `end` tells where it ends, and what is wrong."""
        scan, segment = self._scan, self.segment
        return DamagedEntries(
            seed=segment.seed,
            path=segment.path,
            base_index=segment.base_index,
            segment_offset=segment.base_offset,
            first_index=scan.index + 1,
            position=scan.position,
            previous_term=scan.term,
            previous_timestamp=scan.timestamp,
            base_offset=scan.next_offset,
            **end,
        )

    # --- the index ----------------------------------------------------------------------

    def _compare_index(self) -> None:
        self._is_index_checked = True
        scan, expected = self._scan, bytes(self._scan.entries)
        if self._is_whole:
            if (scan.term, scan.next_offset) != (self.end.term, self.end.next_offset):
                self.failure = f"entry {scan.index} does not join the next segment"
                return
            found = self._index_part(0, self.end.count)
            self.size += len(found)
            if found != expected:
                self.index_entries = expected

    # --- behind damage --------------------------------------------------------------------

    def resume(self) -> None:
        """Look at the damaged place again: it was written."""
        scan = self._scan
        self.damage, self._needed, self._seeking = None, ENTRY_HEADER_SIZE, 0
        scan.problem, scan.is_ended, scan.is_payload_damaged = "", False, False

    def skip(self) -> None:
        """Go on behind the damage."""
        damage, scan = self.damage, self._scan
        assert damage is not None
        self.resume()
        self._is_whole = False
        scan.index, scan.position, scan.next_offset = damage.last_index, damage.end, damage.next_offset


def write_over(files: Files, damage: DamagedEntries, frames: bytes) -> None:
    """Write frames that `damage.check` found good where they belong; durable and read back on return.

    What is there is of no use, so a crash in the middle leaves no less than there was.

    Raises:
        DamageError: The disk gives back other bytes than were written.
        OSError: It refuses.
    """
    store = OpenFile.open(files, damage.path, write=True)
    files.pwritev(store.fd, [frames], damage.position)
    files.fdatasync(store.fd)
    files.drop_cached(store.fd, damage.position, len(frames))
    if store.pread(len(frames), damage.position) != frames:
        raise DamageError(
            damage.path, damage.position, f"the disk does not keep what is written there ({damage.names})"
        )
