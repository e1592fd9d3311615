"""Reading a backup: which logs it has, and every byte of them. `verify` changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loghouse.backup.chain import Chain
from loghouse.backup.format import (
    BACKUP_NAME,
    LOG_NAME,
    LOGS_NAME,
    BackupIdentity,
    LogManifest,
    decode,
    part_name,
    state_of,
)
from loghouse.backup.part import Part, check_joins, missing
from loghouse.backup.target import parts_in, read_manifest
from loghouse.errors import BackupError, DamageError, EntryDamagedError, StorageError
from loghouse.limits import MIB
from loghouse.protocol.entry import frame_seed
from loghouse.storage.files import Files, read_file

_IDENTITY_SIZE_MAX = 4096


def read_identity(files: Files, path: str) -> BackupIdentity | None:
    """Return whose backup a directory is; None when it is none.

    Raises:
        DamageError: The file that says so is damaged.
        BackupError: A newer version made it.
    """
    name = f"{path}/{BACKUP_NAME}"
    if not files.exists(name):
        return None
    return decode(BackupIdentity, read_file(files, name, _IDENTITY_SIZE_MAX), name)


def logs_in(files: Files, path: str) -> list[str]:
    """Return the names of the logs that a backup has."""
    logs = f"{path}/{LOGS_NAME}"
    return files.list_directory(logs) if files.exists(logs) else []


@dataclass(frozen=True, slots=True)
class KeptLog:
    """A log in a backup, as its manifest says it.

    Attributes:
        parts: The paths of its finished parts, those that the manifest counts alone, in order.
        size: Bytes of all these.
    """

    manifest: LogManifest
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The log's name."""
        return self.manifest.name

    @property
    def seed(self) -> int:
        """The `frame_seed` of its frames."""
        return frame_seed(self.manifest.cluster_uuid, self.manifest.group)

    @property
    def size(self) -> int:
        """Bytes of its frames."""
        return sum(part.frames_size for part in self.parts)


def open_log(files: Files, path: str, name: str, identity: BackupIdentity) -> KeptLog:
    """Return a log of a backup, with its parts' headers and ends checked.

    Raises:
        DamageError: Something is damaged or missing; names file and byte.
        BackupError: No run of it came to its end, or a newer version made it.
    """
    directory = f"{path}/{LOGS_NAME}/{name}"
    manifest = read_manifest(files, directory)
    if manifest is None or not manifest.is_finished:
        raise BackupError(f"{directory}: no run of this backup came to its end; run `loghouse backup` again")
    where = f"{directory}/{LOG_NAME}"
    if manifest.cluster_uuid != identity.cluster_uuid or manifest.name != name:
        raise DamageError(where, 0, f"it is of log {manifest.name} in {manifest.cluster_uuid.hex()}")
    seed = frame_seed(manifest.cluster_uuid, manifest.group)
    parts: list[Part] = []
    expected = manifest.first_offset
    for offset in parts_in(files, directory):
        if offset >= manifest.next_offset:
            break  # of a run that did not come to its end
        part = Part(files, f"{directory}/{part_name(offset)}", seed, finished=True)
        if parts:
            check_joins(parts[-1], part)
        elif offset != expected:
            break
        parts.append(part)
        assert part.end is not None
        expected = part.end.next_offset
    if expected != manifest.next_offset:
        raise missing(f"{directory}/{part_name(expected)}")
    if parts:
        end = parts[-1].end
        assert end is not None
        chain = Chain(parts[-1].state)
        chain.next_offset, chain.index = end.next_offset, max(end.last.index, chain.index)
        chain.term, chain.timestamp = end.last.term, end.last.timestamp
        try:
            chain.check_state(state_of(manifest.state, where))
        except EntryDamagedError as error:
            raise DamageError(where, 0, str(error)) from None
    return KeptLog(manifest, tuple(parts))


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far a check is, in bytes of frames."""

    done_size: int
    total_size: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, with file and byte where it is damage."""

    log: str
    error: StorageError


@dataclass(frozen=True, slots=True)
class Good:
    """A log of which every byte is good. `record_count` counts those in its parts."""

    log: str
    first_offset: int
    lowest_offset: int
    next_offset: int
    taken_at: int
    size: int


def verify(files: Files, path: str, names: list[str]) -> Iterator[CheckProgress | Problem | Good]:
    """Check every byte of these logs of a backup; changes nothing.

    Raises:
        BackupError: It is no backup.
        DamageError: Whose it is cannot be read.
    """
    identity = read_identity(files, path)
    if identity is None:
        raise BackupError(f"{path} is no backup: it has no file `{BACKUP_NAME}`")
    opened: list[KeptLog] = []
    for name in names:
        try:
            opened.append(open_log(files, path, name, identity))
        except StorageError as error:
            yield Problem(name, error)
    total, done = sum(log.size for log in opened), 0
    for log in opened:
        is_good = True
        for part in log.parts:
            told = done
            try:
                for position, _ in part.entries():
                    if done + position - part.frames_at > told + MIB:
                        told = done + position - part.frames_at
                        yield CheckProgress(told, total)
            except DamageError as error:
                is_good = False
                yield Problem(log.name, error)
            done += part.frames_size
            yield CheckProgress(done, total)
            part.close()
        if is_good:
            manifest = log.manifest
            state = state_of(manifest.state, "")
            yield Good(
                log.name,
                manifest.first_offset,
                max(state.lowest_offset, manifest.first_offset),
                manifest.next_offset,
                manifest.taken_at,
                log.size,
            )
