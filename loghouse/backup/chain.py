"""Whether entries follow each other, as a backup has them: all with records, and some of the others. Pure."""

from __future__ import annotations

from loghouse.backup.format import LastEntry
from loghouse.errors import EntryDamagedError
from loghouse.limits import BACKUP_GAP_MAX
from loghouse.protocol.entry import Entry, EntryKind
from loghouse.protocol.log_state import LogState


class Chain:
    """The end of the entries so far.

    Offsets have no gap. Indexes may have some, where entries without records were left out: what those said
    is in the states between which they lie.
    """

    __slots__ = ("index", "last", "next_offset", "term", "timestamp")

    def __init__(self, state: LogState, last: LastEntry | None = None) -> None:
        """Begin behind a state; `last` is the last entry with records before it, where that is known."""
        self.index = state.index  # of the last entry; rises with each
        self.term = state.term  # of that entry; never falls
        self.timestamp = state.timestamp  # of that entry, microseconds; never falls
        self.next_offset = state.next_offset  # of the next record; rises with each
        self.last = last or LastEntry()  # the last entry with records

    def take(self, entry: Entry) -> None:
        """Go on behind an entry.

        Raises:
            EntryDamagedError: It does not follow.
        """
        if not 0 < entry.index - self.index <= BACKUP_GAP_MAX:
            raise EntryDamagedError(f"entry {entry.index} does not follow entry {self.index}")
        if entry.base_offset != self.next_offset:
            raise EntryDamagedError(
                f"entry {entry.index} has base offset {entry.base_offset}, expected {self.next_offset}"
            )
        if entry.term < self.term or entry.timestamp < self.timestamp:
            raise EntryDamagedError(f"entry {entry.index} goes back in term or time")
        self.index, self.term, self.timestamp = entry.index, entry.term, entry.timestamp
        self.next_offset = entry.next_offset
        if entry.kind == EntryKind.RECORDS:
            self.last = LastEntry.of(entry)

    def check_state(self, state: LogState) -> None:
        """Check that a state which the log had here, or a little later, follows.

        Raises:
            EntryDamagedError: It does not.
        """
        if state.next_offset != self.next_offset or not 0 <= state.index - self.index <= BACKUP_GAP_MAX:
            raise EntryDamagedError(
                f"the state at entry {state.index}, offset {state.next_offset}, does not follow entry "
                f"{self.index}, offset {self.next_offset}"
            )
        if state.term < self.term or state.timestamp < self.timestamp:
            raise EntryDamagedError(f"the state at entry {state.index} goes back in term or time")
