"""A `LogReader` in memory that does at once what a driver hands to the disk: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable

from loghouse.protocol.entry import Entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.raft.ready import Ready


class MemoryLog:
    """Entries behind a start state, with the writing side of the storage's log."""

    def __init__(self, entries: Iterable[Entry] = (), hard_state: HardState | None = None) -> None:
        self.hard_state = hard_state or HardState()
        self.start = LogState()
        self.stored: list[Entry] = []
        self.append(tuple(entries))

    @property
    def first_index(self) -> int:
        """The first entry held."""
        return self.start.index + 1

    record_room = 1 << 40

    @property
    def last_index(self) -> int:
        """The last entry held."""
        return self.start.index + len(self.stored)

    def term_at(self, index: int) -> int:
        """The term of an entry, or of the one before the first."""
        if index == self.start.index:
            return self.start.term
        return self.stored[self._position(index)].term

    def header_at(self, index: int) -> Entry:
        """What the header of an entry says."""
        return self.stored[self._position(index)]

    def entries(self, low: int, high: int, size_max: int) -> list[Entry]:
        """Entries from `low` up to, not including, `high`: at least one, then while they fit."""
        found: list[Entry] = []
        size = 0
        for entry in self.stored[self._position(low) : self._position(high - 1) + 1]:
            size += entry.size
            if found and size > size_max:
                break
            found.append(entry)
        return found

    def state_at(self, index: int) -> LogState:
        """The state after an entry."""
        state = self.start.copy()
        for entry in self.stored[: index - self.start.index]:
            state.apply(entry)
        assert state.index == index
        return state

    def _position(self, index: int) -> int:
        position = index - self.first_index
        if not 0 <= position < len(self.stored):
            raise LookupError(f"entry {index} is not held; {self.first_index} to {self.last_index} are")
        return position

    # --- writing ------------------------------------------------------------------

    def persist(self, ready: Ready) -> None:
        """Do all that a Ready asks of the disk."""
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        if ready.snapshot is not None:
            self.install_start(ready.snapshot)
        if ready.truncate_after is not None:
            self.truncate_suffix(ready.truncate_after)
        self.append(ready.entries)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries; they must join."""
        for entry in entries:
            assert entry.index == self.last_index + 1
            self.stored.append(entry)

    def truncate_suffix(self, index: int) -> None:
        """Keep the entries up to and including `index`."""
        assert self.start.index <= index <= self.last_index
        del self.stored[index - self.start.index :]

    def trim_prefix(self, index: int) -> None:
        """Drop the entries before `index`."""
        state = self.state_at(index - 1)
        del self.stored[: index - self.first_index]
        self.start = state

    def install_start(self, state: LogState) -> None:
        """Start anew behind `state`."""
        self.start = state.copy()
        self.stored = []
