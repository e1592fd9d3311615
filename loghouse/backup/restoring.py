"""Making a node's data directory of a backup: the first node of a new cluster, which the others join empty.

Frames get the checksums of the new cluster; offsets, indexes, terms, timestamps, payloads and producers stay.
Entries that the backup left out come back as what they were to readers: registrations of producers, else
no-ops. The node is the only voter of every log.

Order: `restoring`, which keeps every start away; the logs; `groups`; `node`; `restoring` goes. Interrupted
before `node` it begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from loghouse.api.v1.log_pb2 import Record
from loghouse.backup.format import state_of
from loghouse.backup.part import Part
from loghouse.backup.reading import KeptLog
from loghouse.catalogue.catalogue import FIRST_GROUP
from loghouse.catalogue.records import (
    CataloguedLog,
    CataloguedNode,
    Checkpoint,
    LogSettings,
    PlacedReplica,
    Span,
    encode_record,
)
from loghouse.errors import BackupError, DamageError, DataDirectoryError, DiskFullError
from loghouse.limits import MIB, SEGMENT_SIZE_FIRST, STORE_HEADER_SIZE
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.configuration import (
    Birth,
    Configuration,
    MemberRole,
    encode_birth,
    encode_producer,
)
from loghouse.protocol.cursors import CursorAction, CursorChange, Cursors, encode_cursor_change
from loghouse.protocol.entry import (
    CATALOGUE_GROUP,
    DEFAULT_GROUP,
    DEFAULT_LOG,
    Buffer,
    Entry,
    EntryKind,
    frame_seed,
    make_entry,
)
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.raft.membership import BOOTSTRAP_TERM, bootstrap_entry
from loghouse.storage.creation import Reserve
from loghouse.storage.directory import (
    LOGS_NAME,
    NODE_NAME,
    RESTORING_NAME,
    DataDirectory,
    DiskIdentity,
)
from loghouse.storage.files import Files, disk_work, remove_file, remove_folder, replace_file
from loghouse.storage.groups import GROUPS_NAME, GroupState, groups_file
from loghouse.storage.hard_state import replace_hard_state
from loghouse.storage.log import Log
from loghouse.storage.start import write_start

BATCH_SIZE: Final = 4 * MIB  # of entries that are written at a time
_MEMBER: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredLog:
    """A log as it is in the new data directory."""

    name: str
    group: int
    lowest_offset: int
    next_offset: int
    last_index: int


class Restoring:
    """One data directory on its way; the caller holds its lock."""

    def __init__(
        self, files: Files, directory: DataDirectory, identity: DiskIdentity, *, segment_size: int, now: int
    ) -> None:
        """Change nothing yet.

        Args:
            identity: The node's, in a new cluster.
            segment_size: Bytes of a segment.
            now: Microseconds since the epoch.
        """
        self._files = files  # the file seam; fixed
        self._directory = directory  # locked by the caller; fixed
        self._identity = identity  # fixed
        self._segment_size = segment_size  # in bytes; fixed
        self._now = now  # of what is written anew; fixed
        # This node as the one member of every group; fixed.
        self._configuration = Configuration().with_member(
            identity.node_name, identity.disk_uuid, MemberRole.VOTER
        )
        self.done_size = 0  # bytes of frames that are written
        self.total_size = 0  # and of all; set by `run`

    def run(
        self, logs: Sequence[KeptLog], on_progress: Callable[[], object] = lambda: None
    ) -> list[RestoredLog]:
        """Write everything; durable on return, and nothing starts on it before.

        Raises:
            DataDirectoryError: The directory is not empty, or has no room; nothing was modified.
            DamageError: The backup is damaged; what was written is removed.
            DiskFailedError: The disk refuses; run it again.
        """
        try:
            with disk_work(self._directory.path, f"restore to {self._directory.path}"):
                return self._run(logs, on_progress)
        except DiskFullError as error:
            raise DataDirectoryError(
                f"{self._directory.path}: no room; make some, and run the same command again"
            ) from error

    def _run(self, logs: Sequence[KeptLog], on_progress: Callable[[], object]) -> list[RestoredLog]:
        files, path = self._files, self._directory.path
        self._check_empty()
        self._check_room(logs)
        replace_file(files, path, RESTORING_NAME, b"")
        self._remove_logs()
        try:
            restored = self._write(logs, on_progress)
        except DamageError:
            self._remove_logs()
            remove_file(files, f"{path}/{RESTORING_NAME}")
            files.sync_directory(path)
            raise
        replace_file(files, path, NODE_NAME, self._identity.encode())
        finish(files, path)
        return restored

    # --- the directory ------------------------------------------------------------------

    def _check_empty(self) -> None:
        files, path = self._files, self._directory.path
        if not self._directory.is_empty:
            raise DataDirectoryError(
                f"{path} is the data directory of node {self._directory.identity.node_name}; a backup is "
                "restored into an empty one: move this one away first"
            )
        if files.exists(f"{path}/{LOGS_NAME}") and not files.exists(f"{path}/{RESTORING_NAME}"):
            raise DataDirectoryError(f"{path} holds logs; a backup is restored into an empty directory")

    def _check_room(self, logs: Sequence[KeptLog]) -> None:
        self.total_size = sum(log.size for log in logs)
        # An index has an eighth of its store's size; the last store of a log has its whole size at once.
        needed = self.total_size + self.total_size // 8 + len(logs) * (SEGMENT_SIZE_FIRST + STORE_HEADER_SIZE)
        free = self._files.free_size(self._directory.path)
        if needed > free:
            raise DataDirectoryError(
                f"{self._directory.path}: the logs take some {needed} bytes, there are {free}; make room, or "
                "restore fewer logs (--log)"
            )

    def _remove_logs(self) -> None:
        files, logs = self._files, f"{self._directory.path}/{LOGS_NAME}"
        if not files.exists(logs):
            return
        for group in files.list_directory(logs):
            remove_folder(files, f"{logs}/{group}")
        files.remove_directory(logs)
        files.sync_directory(self._directory.path)

    # --- the logs -------------------------------------------------------------------------

    def _write(self, logs: Sequence[KeptLog], on_progress: Callable[[], object]) -> list[RestoredLog]:
        files, root = self._files, f"{self._directory.path}/{LOGS_NAME}"
        files.make_directory(root)
        files.sync_directory(self._directory.path)
        needs_catalogue = any(_is_catalogued(log) for log in logs)
        restored = [self._log(log, needs_catalogue, on_progress) for log in logs]
        if all(log.group != DEFAULT_GROUP for log in restored):
            self._new_log(DEFAULT_GROUP, self._default(has_birth=needs_catalogue))
        if needs_catalogue:
            self._new_log(CATALOGUE_GROUP, self._catalogue(logs))
            groups = sorted(log.group for log in restored if log.group != DEFAULT_GROUP)
            states = dict.fromkeys([DEFAULT_GROUP, CATALOGUE_GROUP, *groups], GroupState.BORN)
            replace_file(files, self._directory.path, GROUPS_NAME, groups_file(states))
        files.sync_directory(root)
        return restored

    def _open_new(self, group: int, start: LogState, term: int) -> Log:
        files, cluster = self._files, self._identity.cluster_uuid
        path, seed = self._directory.log_directory(group), frame_seed(cluster, group)
        files.make_directory(path)
        replace_hard_state(files, path, seed, HardState(term, 0))
        write_start(files, path, seed, start, installing=True)
        return Log.open(
            files,
            path,
            cluster=cluster,
            group=group,
            segment_size=self._segment_size,
            reserve=Reserve(files, f"{path}/none", 0),
        )

    def _new_log(self, group: int, entries: list[Entry]) -> None:
        """Write a log that the backup does not have."""
        log = self._open_new(group, LogState(), BOOTSTRAP_TERM)
        log.append(entries)
        log.sync(log.last_index)
        log.close()

    def _default(self, *, has_birth: bool) -> list[Entry]:
        """Return the entries of a default log that holds no records."""
        seed = frame_seed(self._identity.cluster_uuid, DEFAULT_GROUP)
        entries = [bootstrap_entry(seed, self._configuration, self._now)]
        if has_birth:
            entries.append(
                make_entry(
                    seed,
                    index=2,
                    term=BOOTSTRAP_TERM,
                    kind=EntryKind.BIRTH,
                    base_offset=0,
                    timestamp=self._now,
                    payload=encode_birth(CATALOGUE_GROUP, self._configuration),
                )
            )
        return entries

    def _catalogue(self, logs: Sequence[KeptLog]) -> list[Entry]:
        """Return the entries of the catalogue's log: one record that says all there is."""
        identity = self._identity
        replica = PlacedReplica(member=_MEMBER, node=identity.node_name, disk_uuid=identity.disk_uuid)
        catalogued = tuple(
            CataloguedLog(
                name=log.name,
                settings=settings_of(log),
                spans=(Span(group=log.manifest.group, replicas=(replica,)),),
                epoch=0,
                next_member=_MEMBER + 1,
                created_at=log.manifest.created_at,
                founders=(replica,),
            )
            for log in logs
        )
        record = Checkpoint(
            at=self._now,
            by=f"restored as node {identity.node_name}",
            offset=0,
            next_group=max([FIRST_GROUP, *(log.group + 1 for log in catalogued)]),
            nodes=(CataloguedNode(name=identity.node_name, disk_uuid=identity.disk_uuid),),
            logs=catalogued,
            tombstones=(),
        )
        seed = frame_seed(identity.cluster_uuid, CATALOGUE_GROUP)
        entry = make_entry(
            seed,
            index=2,
            term=BOOTSTRAP_TERM,
            kind=EntryKind.RECORDS,
            base_offset=0,
            timestamp=self._now,
            record_count=1,
            payload=encode_batch([Record(value=encode_record(record))]),
        )
        return [bootstrap_entry(seed, self._configuration, self._now), entry]

    def _log(self, kept: KeptLog, has_catalogue: bool, on_progress: Callable[[], object]) -> RestoredLog:
        manifest = kept.manifest
        final = state_of(manifest.state, manifest.name)
        parts = _parts_from(kept, final.lowest_offset)
        start = (parts[0].state if parts else final).copy()
        start.lowest_offset = final.lowest_offset
        start.configuration = replace(self._configuration, retention=final.configuration.retention)
        start.configuration_index = start.index
        start.birth = None
        start.cursors = Cursors()  # those of the backup's end are set behind the last entry
        if has_catalogue and manifest.group == DEFAULT_GROUP:
            start.birth = Birth(
                group=CATALOGUE_GROUP,
                index=start.index,
                timestamp=self._now,
                configuration=self._configuration,
            )
        log = self._open_new(manifest.group, start, max(final.term, BOOTSTRAP_TERM))
        writer = _Writer(log, start, [*(part.state for part in parts), final])
        for part in parts:
            position = part.frames_at
            for end, entry in part.entries():
                writer.take(entry)
                self.done_size += end - position
                position = end
                on_progress()
        writer.finish(final.cursors)
        log.sync(log.last_index)
        restored = RestoredLog(
            name=manifest.name,
            group=manifest.group,
            lowest_offset=log.lowest_offset,
            next_offset=log.next_offset,
            last_index=log.last_index,
        )
        log.close()
        return restored


class _Writer:
    """Writes a log's entries as those of another cluster, and what was left out between them."""

    def __init__(self, log: Log, start: LogState, states: Sequence[LogState]) -> None:
        """Write behind the state `start`, which the log begins with.

        Args:
            states: What the log was at some of its offsets, the last one at its end.
        """
        self._log = log  # fixed
        self._end = states[-1].index  # the index of the last entry; fixed
        # Who the producers are that were registered in between, by id; fixed.
        self._subjects = {
            id_: producer.subject for state in states for id_, producer in state.producers.items()
        }
        self._known = set(start.producers)  # the producers registered so far
        self._index, self._term = start.index, start.term  # of the last entry
        self._timestamp, self._next_offset = start.timestamp, start.next_offset  # of it, and behind it
        self._batch: list[Entry] = []  # what is to be written
        self._size = 0  # its bytes

    def take(self, entry: Entry) -> None:
        """Write the next entry of the backup, behind those that were left out before it."""
        self._fill(entry.index)
        self._term, self._timestamp = entry.term, entry.timestamp
        if entry.kind == EntryKind.RECORDS:
            # One whose registration was left out and whom nobody remembers will not come back.
            is_known = entry.producer_id in self._known
            self._add(
                EntryKind.RECORDS,
                entry.payload,
                attributes=entry.attributes,
                record_count=entry.record_count,
                producer_id=entry.producer_id if is_known else 0,
                producer_sequence=entry.producer_sequence if is_known else 0,
                payload_crc=entry.payload_crc,
            )
        elif entry.kind == EntryKind.PRODUCER:
            self._known.add(entry.index)
            self._add(EntryKind.PRODUCER, entry.payload)
        else:  # of another group of members, or said by the state that the log begins with
            self._add(EntryKind.NOOP)

    def finish(self, cursors: Cursors) -> None:
        """Write everything up to the log's end, and behind it where the cursors stood there.

        Each begins anew at its position: nobody who held it in the other cluster goes on as its holder.
        """
        self._fill(self._end + 1)
        for cursor in cursors.by_name.values():
            change = CursorChange(
                action=CursorAction.SET, name=cursor.name, subject=cursor.subject, position=cursor.position
            )
            self._add(EntryKind.CURSOR, encode_cursor_change(change))
        self._flush()

    def _fill(self, index: int) -> None:
        while self._index + 1 < index:
            subject = self._subjects.get(self._index + 1)
            if subject is None:
                self._add(EntryKind.NOOP)
            else:
                self._known.add(self._index + 1)
                self._add(EntryKind.PRODUCER, encode_producer(subject))

    def _add(self, kind: EntryKind, payload: Buffer = b"", **fields: int) -> None:
        made = make_entry(
            self._log.seed,
            index=self._index + 1,
            term=self._term,
            kind=kind,
            base_offset=self._next_offset,
            timestamp=self._timestamp,
            payload=payload,
            **fields,
        )
        self._index, self._next_offset = made.index, made.next_offset
        self._batch.append(made)
        self._size += made.size
        if self._size >= BATCH_SIZE:
            self._flush()

    def _flush(self) -> None:
        self._log.append(self._batch)
        self._log.sync(self._log.last_index)
        self._batch, self._size = [], 0


def finish(files: Files, path: str) -> None:
    """Take away what keeps starts away: everything else is there."""
    remove_file(files, f"{path}/{RESTORING_NAME}")
    files.sync_directory(path)


def is_whole(files: Files, path: str) -> bool:
    """Whether a restore wrote everything, and was interrupted before it said so."""
    return files.exists(f"{path}/{RESTORING_NAME}") and files.exists(f"{path}/{NODE_NAME}")


def settings_of(kept: KeptLog) -> LogSettings:
    """Return the settings that a log had.

    Raises:
        BackupError: They are not settings of this version.
    """
    try:
        values = json.loads(kept.manifest.settings)
        values["tags"] = tuple(values.get("tags", ()))
        return LogSettings(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise BackupError(f"log {kept.name}: its settings are not understood: {error}") from error


def settings_text(settings: LogSettings) -> str:
    """Return settings as a manifest has them."""
    return json.dumps(asdict(settings), separators=(",", ":"))


def _is_catalogued(kept: KeptLog) -> bool:
    """Whether a log has anything that only the catalogue says."""
    settings = settings_of(kept)
    own = settings.record_bytes_max or settings.append_bytes_per_second_max or settings.tags
    return kept.name != DEFAULT_LOG or bool(own)


def _parts_from(kept: KeptLog, lowest: int) -> list[Part]:
    """Return the parts that hold records from an offset on."""
    return [part for part in kept.parts if part.end is not None and part.end.next_offset > lowest]
