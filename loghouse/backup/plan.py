"""What a run of a backup has to fetch, or why it cannot go on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from loghouse.backup.chain import Chain
from loghouse.backup.format import BackupIdentity, LastEntry
from loghouse.errors import BackupError, BackupGapError, EntryDamagedError, LogReplacedError, ProtocolError
from loghouse.protocol.entry import Entry, EntryKind
from loghouse.protocol.log_state import LogState

MOVE_AWAY = "back up into another directory, or move {directory} away; it can still be restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What a backup holds of a log: its group, and how far it goes."""

    directory: str
    group: int
    next_offset: int
    last: LastEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to fetch: the entries from the one that holds `fetch_from` on, up to `end`.

    Attributes:
        begin_at: The offset at which the backup goes on; the entry before it, when it is fetched, must be
            the last one that the backup has.
    """

    fetch_from: int
    begin_at: int
    end: int

    @property
    def record_count(self) -> int:
        """How many records are new."""
        return self.end - self.begin_at


def check_cluster(path: str, kept: BackupIdentity, found: BackupIdentity) -> None:
    """Raise LogReplacedError when a backup is of another cluster."""
    if kept.cluster_uuid != found.cluster_uuid:
        raise LogReplacedError(
            f"{path}: this backup is of the cluster {kept.cluster_name} with uuid {kept.cluster_uuid.hex()}, "
            f"and the nodes are of {found.cluster_name}, {found.cluster_uuid.hex()}; give another directory"
        )


def plan(name: str, group: int, lowest: int, next_offset: int, held: BackedUp | None) -> Plan:
    """Return what a run fetches of a log.

    Args:
        lowest, next_offset: The offsets that the log has now.
        held: What the backup has; None when that is nothing.

    Raises:
        BackupGapError: Records are gone that the backup does not have.
        LogReplacedError: It is another log, or one that was cut.
        ProtocolError: The offsets that a node told cannot be.
    """
    if lowest > next_offset:
        raise ProtocolError(f"log {name}: a node says that it holds offsets {lowest} to {next_offset}")
    if held is None:
        return Plan(fetch_from=lowest, begin_at=lowest, end=next_offset)
    advice = MOVE_AWAY.format(directory=held.directory)
    if held.group != group:
        raise LogReplacedError(
            f"log {name} was deleted and made again since it was backed up (group {held.group} then, {group} "
            f"now); {advice}"
        )
    if next_offset < held.next_offset:
        raise LogReplacedError(
            f"log {name} ends at offset {next_offset}, and its backup at {held.next_offset}: the log was "
            f"cut, or put back; {advice}"
        )
    if lowest > held.next_offset:
        raise BackupGapError(name, held.next_offset, lowest)
    return Plan(
        fetch_from=max(lowest, held.next_offset - 1) if held.last.index else held.next_offset,
        begin_at=held.next_offset,
        end=next_offset,
    )


def is_wanted(name: str, chain: Chain | None, held: BackedUp | None, entry: Entry) -> bool:
    """Return whether a fetched entry is new; what the backup has already comes first.

    Args:
        chain: How far the backup goes by now; None: nothing is there yet.

    Raises:
        LogReplacedError: The record at the backup's end is another one than it has.
    """
    if chain is None:
        return True
    if entry.kind != EntryKind.RECORDS:
        return entry.index > chain.index
    if held is not None and held.last.index and entry.base_offset < held.next_offset <= entry.next_offset:
        if (LastEntry.of(entry), entry.next_offset) != (held.last, held.next_offset):
            raise LogReplacedError(
                f"log {name}: the record at offset {held.next_offset - 1} is another one than in the backup: "
                f"the log was cut and went on; {MOVE_AWAY.format(directory=held.directory)}"
            )
        return False
    return entry.next_offset > chain.next_offset


def check_state_covers(state: LogState, offset: int) -> None:
    """Raise EntryDamagedError when a node sent the state at an offset behind the one asked for."""
    if state.next_offset > offset:
        raise EntryDamagedError(f"the state is that at offset {state.next_offset}, not at {offset}")


def check_is_backup(*, has_identity: bool, names: list[str], path: str) -> None:
    """Raise BackupError when a directory that holds other things would become a backup."""
    if not has_identity and names:
        raise BackupError(
            f"{path} holds other files ({names[0]} and so on); name an empty or a new directory"
        )
