"""The log as the core sees it: what is durable through `LogReader`, what is not yet in memory.

Entries stay in memory (the window) from their append until they are durable, committed and delivered, and a
little longer so that followers close behind cost no disk reads. Three marks move over them:

    first_index .. commit_index      fixed for ever
    first_index .. durable_index     on this member's disk, and not about to be cut from it
    first_index .. delivered_index   given out in `Ready.committed`

`commit_index` may be ahead of `durable_index` (the others have the entry, our disk is slow).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from loghouse.limits import CACHED_ENTRIES_MAX, CACHED_ENTRY_COST, CACHES_SIZE_MAX
from loghouse.protocol.entry import Entry
from loghouse.protocol.log_state import LogState, check_follows
from loghouse.raft.ready import EntriesPendingError, EntryHeader, LogReader
from loghouse.shares import Budget


@dataclass(slots=True)
class _Write:
    """A write handed to the disk; once done, the log is durable up to `last_index`. Cuts lower that."""

    token: int
    last_index: int


class RaftLog:
    """Entries, the replicated state after the last of them, and what of it is committed and durable."""

    def __init__(
        self, reader: LogReader, commit_index: int, cache_size_max: int, caches: Budget | None = None
    ) -> None:
        """Take over a durable log.

        Args:
            commit_index: A lower bound of what is committed, from the log's watermark; 0 when not known.
            caches: What all logs of the node keep in memory together; None: this one has it for itself.
        """
        self._reader = reader  # the log on disk, with nothing being written to it
        self._cache_size_max = cache_size_max  # bytes of entries kept in memory though the disk has them
        self._caches = Budget(CACHES_SIZE_MAX) if caches is None else caches
        self._held = 0  # bytes of entries in memory, as `_caches` knows them
        self._quiet_ticks = 0  # since the log got an entry that is in memory
        self._ticked_index = 0  # the last entry at the last tick
        self.last_index = reader.last_index
        self.last_term = reader.term_at(reader.last_index)
        self.state = reader.state_at(reader.last_index)
        # What was trimmed had been committed.
        self.commit_index = max(min(commit_index, reader.last_index), reader.first_index - 1)
        self.delivered_index = self.commit_index
        self.durable_index = reader.last_index
        self._window: list[Entry] = []
        self._window_first = self.last_index + 1
        # Bytes appended up to and including each window entry, counted from _bytes_before.
        self._ends: list[int] = []
        self._bytes_before = 0
        # Set while a snapshot is not durable: the reader is not to be asked then.
        self._start: LogState | None = None
        self._start_token: int | None = None
        # What the disk has or was told to write, and how much of that was cut since the last hand-over.
        self._handed_index = self.last_index
        self._cut_index: int | None = None
        self._writes: deque[_Write] = deque()

    # --- reading ------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first entry held; the one before it is known by its term only."""
        return self._reader.first_index if self._start is None else self._start.index + 1

    @property
    def uncommitted_size(self) -> int:
        """Bytes of the entries in memory that are not committed."""
        return self._end_of(self.last_index) - self._end_of(self.commit_index)

    @property
    def undurable_size(self) -> int:
        """Bytes of the entries that are not durable."""
        return self._end_of(self.last_index) - self._end_of(self.durable_index)

    @property
    def record_room(self) -> int:
        """Bytes of records that a full disk still takes behind the last entry."""
        return self._reader.record_room - self.undurable_size

    @property
    def is_released(self) -> bool:
        """Whether no entry is in memory: the disk has all, and there were no new ones for long."""
        return not self._ends

    @property
    def is_writing(self) -> bool:
        """Whether the disk was handed something that it has not finished."""
        return bool(self._writes)

    def term_at(self, index: int) -> int:
        """Return the term of an entry, or 0 when the log does not (or no longer) hold it; 0 is no entry's."""
        if index >= self._window_first:
            return self._window[index - self._window_first].term if index <= self.last_index else 0
        if index == self.last_index:
            return self.last_term
        if self._start is not None:
            return self._start.term if index == self._start.index else 0
        if index < self._reader.first_index - 1:
            return 0
        try:
            return self._reader.term_at(index)
        except LookupError:  # trimmed meanwhile
            return 0

    def header_at(self, index: int) -> EntryHeader | None:
        """Return what the header of an entry says; None when the log does not (or no longer) hold it."""
        if index >= self._window_first:
            return self._window[index - self._window_first] if index <= self.last_index else None
        if self._start is not None or index < self._reader.first_index:
            return None
        try:
            return self._reader.header_at(index)
        except LookupError:  # trimmed meanwhile
            return None

    def matches(self, index: int, term: int) -> bool:
        """Return whether the log holds this entry; the empty beginning (0, 0) is always held."""
        return index <= self.last_index and self.term_at(index) == term and (term > 0 or index == 0)

    def entries(self, low: int, high: int, size_max: int) -> Sequence[Entry]:
        """Return entries from `low` up to `high`: at least one, then while they fit `size_max` bytes.

        Raises:
            LookupError: `low` is (or was meanwhile) trimmed.
        """
        assert low <= high <= self.last_index
        if low < self._window_first:
            if self._start is not None or low < self._reader.first_index:
                raise LookupError(f"entry {low} is trimmed")
            return self._reader.entries(low, min(high + 1, self._window_first), size_max)
        start = low - self._window_first
        end = bisect_right(self._ends, self._end_of(low - 1) + size_max, start, high + 1 - self._window_first)
        return self._window[start : max(end, start + 1)]

    def last_at_or_below(self, index: int, term: int) -> int:
        """Return the highest index up to `index` whose term is at most `term` (terms never fall in a log)."""
        low, high = self.first_index - 1, min(index, self.last_index)
        if high < low:
            return low
        found = low + bisect_right(range(low, high + 1), term, key=self.term_at)
        return max(found - 1, low)

    def start_state(self) -> LogState:
        """Return the state before the first entry: what a snapshot carries."""
        if self._start is not None:
            return self._start.copy()
        while True:
            first_index = self._reader.first_index
            try:
                return self._reader.state_at(first_index - 1)
            except LookupError:
                if first_index == self._reader.first_index:
                    raise  # not trimmed meanwhile: it should be there

    def state_before_configuration(self) -> LogState:
        """Return the state before the latest configuration replaced the one in it; may read the disk."""
        return self._state_at(max(self.state.configuration_index, self.first_index) - 1)

    def _end_of(self, index: int) -> int:
        position = index - self._window_first
        return self._ends[position] if position >= 0 else self._bytes_before

    # --- writing ------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        """Add the next entry.

        Raises:
            EntryDamagedError, MalformedMessageError: It does not join the state before it.
        """
        check_follows(self.state, entry)
        self.state.apply(entry)
        self._ends.append(self._end_of(self.last_index) + entry.size)
        self._window.append(entry)
        self.last_index = entry.index
        self.last_term = entry.term

    def truncate(self, index: int) -> None:
        """Cut everything behind `index`, state included, before entries of a newer leader go there."""
        assert self.commit_index <= index < self.last_index, "a committed entry is never cut"
        self.state = self._state_at(index)
        self.last_term = self.term_at(index)
        del self._window[max(0, index + 1 - self._window_first) :]
        del self._ends[len(self._window) :]
        if index < self._window_first - 1:
            self._window_first = index + 1
        self.last_index = index
        # Whatever is written of the old suffix, now or later, no longer counts: even if the same entry
        # comes back, the disk will cut it first (the ABA case).
        self.durable_index = min(self.durable_index, index)
        for write in self._writes:
            write.last_index = min(write.last_index, index)
        if index < self._handed_index:
            self._handed_index = index
            self._cut_index = index

    def restore(self, state: LogState) -> None:
        """Start anew behind `state`, which is committed; everything else is dropped."""
        assert state.index > self.commit_index
        self.state = state.copy()
        self.last_index, self.last_term = state.index, state.term
        self.commit_index = self.delivered_index = state.index
        self.durable_index = 0
        self._window, self._ends, self._window_first = [], [], state.index + 1
        self._start, self._start_token = state, None
        self._handed_index = state.index
        self._cut_index = None
        for write in self._writes:
            write.last_index = 0

    def commit(self, index: int) -> bool:
        """Raise the commit index to `index`, if that is a rise; return whether it was."""
        assert index <= self.last_index
        if index <= self.commit_index:
            return False
        self.commit_index = index
        return True

    def _state_at(self, index: int) -> LogState:
        """Return the state after `index` by replaying what is in memory onto what is on disk."""
        if self._start is not None:
            base, state = self._start.index, self._start.copy()
        else:
            base, state = self._durable_state(index)
        low, high = base + 1 - self._window_first, index + 1 - self._window_first
        for entry in self._window[max(0, low) : max(0, high)]:
            state.apply(entry)
        assert state.index == index
        return state

    def _durable_state(self, index: int) -> tuple[int, LogState]:
        """Return the last state up to `index` that is on disk for certain, and its index."""
        while True:
            # The window may begin before the log does: what is trimmed stays in the cache for a while.
            base = min(index, max(self._window_first, self._reader.first_index) - 1)
            try:
                return base, self._reader.state_at(base)
            except LookupError:
                if base >= self._reader.first_index - 1:
                    raise  # not trimmed meanwhile: it should be there

    # --- the disk -------------------------------------------------------------------

    @property
    def has_writes(self) -> bool:
        """Whether `take_writes` would return any."""
        return (
            self._handed_index < self.last_index
            or self._cut_index is not None
            or (self._start is not None and self._start_token is None)
        )

    def take_writes(self, token: int) -> tuple[LogState | None, int | None, tuple[Entry, ...]]:
        """Hand over what the disk must do next: start anew, cut behind an index, then append."""
        snapshot = None
        if self._start is not None and self._start_token is None:
            snapshot, self._start_token = self._start, token
        cut_index, self._cut_index = self._cut_index, None
        entries = tuple(self._window[self._handed_index + 1 - self._window_first :])
        self._handed_index = self.last_index
        self._writes.append(_Write(token, self.last_index))
        return snapshot, cut_index, entries

    def persisted(self, token: int) -> bool:
        """Note that everything handed over up to `token` is durable; return whether `durable_index` rose."""
        durable_index = self.durable_index
        writes = self._writes
        while writes and writes[0].token <= token:
            self.durable_index = max(self.durable_index, writes.popleft().last_index)
        if self._start_token is not None and self._start_token <= token:
            self._start = self._start_token = None
        return self.durable_index > durable_index

    def take_committed(self, size_max: int) -> tuple[Entry, ...]:
        """Return the next committed entries of which not all are delivered, up to about `size_max` bytes.

        At least one, unless the disk must read it first, or it was trimmed.
        """
        if self.delivered_index + 1 < self._window_first:
            # What was trimmed before it could be delivered was delivered in an earlier life.
            self.delivered_index = max(self.delivered_index, min(self.first_index - 1, self.commit_index))
            if self.delivered_index >= self.commit_index:
                return ()
        try:
            committed = tuple(self.entries(self.delivered_index + 1, self.commit_index, size_max))
        except EntriesPendingError:
            return ()
        self.delivered_index = committed[-1].index
        return committed

    def release(self) -> None:
        """Drop from memory what is durable, committed and delivered, beyond the cache's bounds."""
        ends, share = self._ends, self._caches.share
        size = ends[-1] - self._bytes_before if ends else 0
        size_max, entries_max = self._cache_size_max, CACHED_ENTRIES_MAX
        if share < size_max:
            size_max = share
        if share < CACHED_ENTRIES_MAX * CACHED_ENTRY_COST:
            entries_max = share // CACHED_ENTRY_COST
        surplus = len(ends) - entries_max
        # In chunks, of a quarter at least: deleting from the front of a list moves the rest.
        # And not while nothing in memory is durable.
        if (surplus * 4 > len(ends) or size > size_max) and self._window_first <= self.durable_index:
            size = self._drop(surplus, size_max)
        if size != self._held:
            self._hold(size)

    def _hold(self, size: int) -> None:
        self._caches.move(self._held, size)
        self._held = size

    def _drop(self, surplus: int, size_max: int) -> int:
        """Drop so many entries, and more until the rest fits, as far as it may; return the rest's bytes."""
        ends = self._ends
        keep = min(self.durable_index, self.commit_index, self.delivered_index) + 1 - self._window_first
        count = min(max(surplus, bisect_left(ends, ends[-1] - size_max) + 1), keep)
        if count > 0 and (count == keep or count * 4 > len(ends)):
            self._bytes_before = ends[count - 1]
            self._window_first += count
            del self._window[:count]
            del ends[:count]
        return ends[-1] - self._bytes_before if ends else 0

    def tick(self, quiet_ticks: int) -> None:
        """Let a tick pass: a log that got no entries for so many keeps none in memory that the disk has."""
        if not self._ends:
            return
        if self.last_index != self._ticked_index:
            self._ticked_index, self._quiet_ticks = self.last_index, 0
        self._quiet_ticks += 1
        if self._quiet_ticks > quiet_ticks:
            self._hold(self._drop(len(self._ends), 0))

    def let_go(self) -> None:
        """Hold nothing of the budget any more: this log is over."""
        self._hold(0)
