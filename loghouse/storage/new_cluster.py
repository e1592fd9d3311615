"""Make a survivor's log a cluster of its own: `loghouse recover DATA_DIR --new-cluster`.

Frame headers, watermarks and the small files are bound to their cluster by checksums, so all of them are
written anew, into a directory beside; payloads, offsets, timestamps and producers stay as they are. One
configuration entry behind the last one makes this node the only voter. The old log is kept.

Order, so that a power loss leaves the old log, the new one, or something that nothing opens and the same
command finishes:

    1. logs.new/<group>/...     everything, synced
    2. node.new                 the new identity; from here on there is no way back
    3. members -> members.<old uuid>, logs -> logs.<old uuid>, logs.new -> logs, node.new -> node
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from loghouse.errors import DamageError, DataDirectoryError, DiskFailedError
from loghouse.limits import ENTRY_HEADER_SIZE, MIB
from loghouse.protocol.configuration import Configuration, MemberRole, encode_configuration
from loghouse.protocol.entry import Entry, EntryKind, crc32c, frame_seed, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import (
    LOGS_NAME,
    MEMBERS_NAME,
    NEW_NODE_NAME,
    NODE_NAME,
    DiskIdentity,
)
from loghouse.storage.files import Files, OpenFile, read_file, replace_file
from loghouse.storage.groups import groups_of
from loghouse.storage.hard_state import HardStateFile, replace_hard_state
from loghouse.storage.index import INDEX_ENTRY
from loghouse.storage.loss import read_loss
from loghouse.storage.opening import Survey, remedy_for, state_before, survey
from loghouse.storage.recovery import INDEX, STORE, FrameScan, segment_name
from loghouse.storage.segment import Segment
from loghouse.storage.start import write_start, write_state
from loghouse.storage.store import Watermark, new_block

NEW_LOGS_NAME: Final = f"{LOGS_NAME}.new"
COPY_SIZE: Final = 4 * MIB  # frames copied at a time; one frame may be larger
_CRC_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class NewCluster:
    """What was made. `kept` is where the old log is now; `warnings` what the operator should know."""

    cluster_uuid: str
    group: int
    last_index: int
    next_offset: int
    kept: str
    warnings: tuple[str, ...]


class Rewrite:
    """One data directory on its way into a new cluster; the caller holds its lock, no node runs on it."""

    def __init__(self, files: Files, path: str, *, group: int) -> None:
        """Look whose directory it is; nothing is changed.

        Raises:
            DataDirectoryError, DamageError: It cannot be read.
        """
        self._files = files
        self._path = path
        self._group = group
        self._old = self._identity(NODE_NAME)
        self.done_size = 0
        self.total_size = 0

    def _identity(self, name: str) -> DiskIdentity:
        path = f"{self._path}/{name}"
        return DiskIdentity.decode(path, read_file(self._files, path, 4096))

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run was interrupted behind the point of no return."""
        return self._files.exists(f"{self._path}/{NEW_NODE_NAME}")

    def run(
        self, cluster_uuid: bytes, now: int, on_progress: Callable[[], object] = lambda: None
    ) -> NewCluster:
        """Do it, or finish what an earlier run began (its uuid counts then).

        Args:
            cluster_uuid: Of the new cluster, 16 random bytes.
            now: Microseconds since the epoch, for the new entry.
            on_progress: Called now and then; look at `done_size` and `total_size`.

        Raises:
            DamageError: The log is damaged; nothing was modified.
            DataDirectoryError: There is nothing to go on with, or no room; nothing was modified.
            DiskFailedError: The disk refuses; run it again.
        """
        try:
            if self.is_begun:
                return self._finish(("an earlier run was interrupted, and is finished now",))
            try:
                warnings = self._write(cluster_uuid, now, on_progress)
            except DamageError:
                self._remove_leftovers()
                raise
            new = replace(self._old, cluster_uuid=cluster_uuid)
            replace_file(self._files, self._path, NEW_NODE_NAME, new.encode())
            return self._finish(warnings)
        except OSError as error:
            raise DiskFailedError(f"cannot rewrite {self._path}: {error}; run this again") from error

    @property
    def _suffix(self) -> str:
        return self._old.cluster_uuid.hex()[:8]

    @property
    def _kept(self) -> str:
        return f"{self._path}/{LOGS_NAME}.{self._suffix}"

    # --- the swap -----------------------------------------------------------------

    def _finish(self, warnings: tuple[str, ...]) -> NewCluster:
        """Swap the directories; each step is done or not, and is skipped when it is."""
        files, path = self._files, self._path
        new = self._identity(NEW_NODE_NAME)
        kept, suffix = self._kept, self._suffix
        if files.exists(f"{path}/{MEMBERS_NAME}"):
            # Without it the node does not look for the members of the old cluster.
            files.rename(f"{path}/{MEMBERS_NAME}", f"{path}/{MEMBERS_NAME}.{suffix}")
            files.sync_directory(path)
        if files.exists(f"{path}/{NEW_LOGS_NAME}"):
            if files.exists(f"{path}/{LOGS_NAME}"):
                files.rename(f"{path}/{LOGS_NAME}", kept)
                files.sync_directory(path)
            files.rename(f"{path}/{NEW_LOGS_NAME}", f"{path}/{LOGS_NAME}")
            files.sync_directory(path)
        directory = f"{path}/{LOGS_NAME}/{self._group}"
        state = survey(files, directory, cluster=new.cluster_uuid, group=self._group).state
        files.rename(f"{path}/{NEW_NODE_NAME}", f"{path}/{NODE_NAME}")
        files.sync_directory(path)
        return NewCluster(new.cluster_uuid.hex(), self._group, state.index, state.next_offset, kept, warnings)

    # --- the new log ----------------------------------------------------------------

    def _write(self, cluster_uuid: bytes, now: int, on_progress: Callable[[], object]) -> tuple[str, ...]:
        """Write the whole new log beside the old one; durable on return."""
        files, old = self._files, f"{self._path}/{LOGS_NAME}/{self._group}"
        old_seed = frame_seed(self._old.cluster_uuid, self._group)
        hard_state = HardStateFile(files, old, old_seed, remedy=remedy_for(old))
        term = hard_state.state.term + 1
        hard_state.close()
        found = survey(files, old, cluster=self._old.cluster_uuid, group=self._group)
        if found.state.index == 0 or not found.segments:
            raise DataDirectoryError(
                f"{old} holds no log yet: this node had only begun to copy it; use another survivor's"
            )
        self._check_is_only(found.state)
        self._check_room(found)
        self._remove_leftovers()
        directory = f"{self._path}/{NEW_LOGS_NAME}/{self._group}"
        for made in (f"{self._path}/{NEW_LOGS_NAME}", directory):
            if not files.exists(made):
                files.make_directory(made)
        seed = frame_seed(cluster_uuid, self._group)
        entry = self._configuration_entry(found.state, seed, term, now)
        write_start(files, directory, seed, found.start_state, installing=False)
        replace_hard_state(files, directory, seed, HardState(term, 0))
        for place, segment in enumerate(found.segments):
            before = state_before(files, found, place)
            write_state(files, directory, seed, before)
            is_last = place == len(found.segments) - 1
            self._segment(segment, before, cluster_uuid, directory, entry if is_last else None, on_progress)
        for synced in (directory, f"{self._path}/{NEW_LOGS_NAME}", self._path):
            files.sync_directory(synced)
        loss = read_loss(files, old, old_seed)
        if loss is not None and loss.pair > (found.state.term, found.state.index):
            return (
                f"this log was being repaired: it once went to {loss.end_text}, and ends at entry "
                f"{found.state.index}; what is between is lost, if no other survivor has it",
            )
        return ()

    def _check_is_only(self, state: LogState) -> None:
        """Refuse where the cluster has named logs: they would not be in the new one."""
        others = [group for group in groups_of(self._files, self._path) if group != self._group]
        if others or state.birth is not None:
            numbers = ", ".join(map(str, others)) or "none of them here"
            raise DataDirectoryError(
                f"{self._path}: this cluster has logs beside the default one (groups {numbers}), and a new "
                "cluster would lose them; nothing was modified. Bring back a majority of the old nodes, or "
                "restore a backup into an empty data directory (`loghouse restore`)"
            )

    def _check_room(self, found: Survey) -> None:
        if self._files.exists(self._kept):
            raise DataDirectoryError(f"{self._kept} is in the way: the old log is kept there; move it away")
        self.total_size = sum(segment.end.position for segment in found.segments)
        free = self._files.free_size(self._path)
        if self.total_size + MIB > free:
            raise DataDirectoryError(
                f"{self._path}: the log is written anew beside the old one, which takes {self.total_size} "
                f"bytes; there are {free}. Make room, or copy the directory to a larger disk"
            )

    def _remove_leftovers(self) -> None:
        """Remove what an earlier run wrote; empty directories stay, they are in nobody's way."""
        files, new = self._files, f"{self._path}/{NEW_LOGS_NAME}"
        if not files.exists(new):
            return
        for group in files.list_directory(new):
            for name in files.list_directory(f"{new}/{group}"):
                files.unlink(f"{new}/{group}/{name}")

    def _configuration_entry(self, state: LogState, seed: int, term: int, now: int) -> Entry:
        """Return the entry that makes this node the only voter, under an id that nobody ever had."""
        configuration = Configuration(
            next_id=state.configuration.next_id, retention=state.configuration.retention
        ).with_member(self._old.node_name, self._old.disk_uuid, MemberRole.VOTER)
        return make_entry(
            seed,
            index=state.index + 1,
            term=term,
            kind=EntryKind.CONFIGURATION,
            base_offset=state.next_offset,
            timestamp=max(now, state.timestamp),
            payload=encode_configuration(configuration),
        )

    def _segment(
        self,
        segment: Segment,
        before: LogState,
        cluster_uuid: bytes,
        directory: str,
        last_entry: Entry | None,
        on_progress: Callable[[], object],
    ) -> None:
        """Copy one segment, each header with its new checksum; all of it is checked on the way."""
        files = self._files
        header = replace(segment.header, cluster=cluster_uuid)
        scan = FrameScan.of_segment(
            segment.seed, segment.header, timestamp=before.timestamp, index_max=segment.last_index
        )
        store = segment.store()
        scan.run(store.pread, segment.size)
        if scan.index < segment.last_index:
            raise segment.damage(scan.position, scan.problem or "entries are missing")
        new = OpenFile(
            files, files.create(f"{directory}/{segment_name(header.base_index, STORE)}"), "the new store"
        )
        files.pwritev(new.fd, [new_block(header)], 0)
        for position, chunk in _chunks(store, scan, header.seed):
            files.pwritev(new.fd, [chunk], position)
            self.done_size += len(chunk)
            on_progress()
        entries, index, term, end = scan.entries, scan.index, scan.term, scan.position
        if last_entry is not None:
            files.pwritev(new.fd, [last_entry.frame], end)
            entries += INDEX_ENTRY.pack(last_entry.base_offset - header.base_offset, end)
            index, term, end = last_entry.index, last_entry.term, end + last_entry.size
        watermark = Watermark(
            counter=1, durable_index=index, durable_term=term, position=end, commit_index=index
        )
        files.pwritev(new.fd, [watermark.encode(header.seed)], watermark.slot_position)
        files.fsync(new.fd)
        segment.let_go()
        replace_file(files, directory, segment_name(header.base_index, INDEX), bytes(entries))


def _chunks(store: OpenFile, scan: FrameScan, seed: int) -> Iterator[tuple[int, bytearray]]:
    """Return the frames that a scan found, many at a time, with where they are; headers bound to `seed`."""
    positions = [position for _, position in INDEX_ENTRY.iter_unpack(scan.entries)]
    positions.append(scan.position)
    first = 0
    while first < len(positions) - 1:
        last = first + 1
        while last < len(positions) - 1 and positions[last + 1] - positions[first] <= COPY_SIZE:
            last += 1
        begin = positions[first]
        chunk = bytearray(store.pread(positions[last] - begin, begin))
        for position in positions[first:last]:
            at = position - begin
            crc = crc32c(bytes(chunk[at + _CRC_SIZE : at + ENTRY_HEADER_SIZE]), seed)
            chunk[at : at + _CRC_SIZE] = crc.to_bytes(_CRC_SIZE, "big")
        yield begin, chunk
        first = last
