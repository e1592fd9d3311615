"""The groups of a disk: which logs were born on it, and what became of them.

    data_dir/ groups                        what was born here, and what became of it
              logs/<group>.new/             being made; after a crash it is removed, and made anew
              logs/<group>/                 born: has its first entry, and may have voted
              logs/gone-<group>-<seconds>/  dead or released: kept for a while, then removed

A log is born once: one that is missing although it was born here is damage, for it may have promised things.
It goes by `bury`, for which the caller has the tombstone of its group, or by `release`, for which the caller
knows that this disk's member is out of the group for good; nothing else removes a log.
Order of a birth: all of `<group>.new`, its name synced; renamed, synced; `groups`. Of an end: `groups`;
renamed, synced; after a while the files, and the directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final

from construct import Const, Int8ub, Int16ub, Struct, Terminated

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.limits import LOGS_MAX, TOMBSTONES_MAX
from loghouse.protocol.entry import with_crc
from loghouse.protocol.fields import U32, Items32, plain, struct_of
from loghouse.storage.directory import FORMAT_VERSION, LOGS_NAME, DataDirectory, decode_small_file
from loghouse.storage.files import Files, OpenFile, disk_work, read_file, remove_folder, replace_file
from loghouse.storage.log import Log

GROUPS_NAME: Final = "groups"
NEW_SUFFIX: Final = ".new"
GONE_PREFIX: Final = "gone-"
_MAGIC: Final = b"LOGHGRPS"
_FILE_SIZE_MAX: Final = 64 + 5 * (LOGS_MAX + TOMBSTONES_MAX)


class GroupState(IntEnum):
    """What became of a group on a disk. ONLY APPEND TO THIS LIST."""

    BORN = 1
    DEAD = 2
    RELEASED = 3
    """The member that this disk was is out of the group: it may be another one, which begins with nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    group: U32
    state: Annotated[GroupState, Int8ub]


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownGroups:
    groups: Items32[_Known] = ()


_GROUPS: Final = Struct(
    "magic" / Const(_MAGIC), "version" / Int16ub, *struct_of(_KnownGroups).subcons, Terminated
)


def groups_of(files: Files, path: str) -> list[int]:
    """Return the groups that have a log in a data directory."""
    names = files.list_directory(f"{path}/{LOGS_NAME}") if files.exists(f"{path}/{LOGS_NAME}") else []
    return sorted(int(name) for name in names if name.isdecimal())


def size_of(files: Files, path: str, group: int) -> int:
    """Return how many bytes the files of a group's log have, as far as they can be read."""
    directory, size = f"{path}/{LOGS_NAME}/{group}", 0
    with suppress(OSError):
        for name in files.list_directory(directory):
            with suppress(OSError):
                size += OpenFile.open(files, f"{directory}/{name}").size()
    return size


def groups_file(states: Mapping[int, GroupState]) -> bytes:
    """Return the bytes of the file `groups`."""
    known = _KnownGroups(groups=tuple(_Known(group=group, state=state) for group, state in states.items()))
    return with_crc(_GROUPS.build({"version": FORMAT_VERSION, **plain(known)}))


def read_groups(files: Files, path: str) -> dict[int, GroupState]:
    """Return what became of each group of a data directory, by the file `groups`; changes nothing.

    Raises:
        DamageError: It is damaged.
        DataDirectoryError: It is one of a newer version.
    """
    file = f"{path}/{GROUPS_NAME}"
    if not files.exists(file):
        return {}  # there are no named logs
    content = read_file(files, file, _FILE_SIZE_MAX)
    known = decode_small_file(_KnownGroups, _GROUPS, _MAGIC, file, content, what="list of groups")
    return {one.group: one.state for one in known.groups}


class BornGroups:
    """The groups of a data directory, on the disk thread."""

    def __init__(self, files: Files, directory: DataDirectory, now: int) -> None:
        """Read what was born here, and finish what a crash interrupted. `now`: seconds.

        Raises:
            DamageError: The file `groups` is damaged; nothing was modified.
            DataDirectoryError: It is one of a newer version.
            DiskFullError: No room to write down what is seen; it may be done again.
            DiskFailedError: The disk refuses.
        """
        self._files = files  # the file seam; fixed
        self._directory = directory  # whose groups these are; fixed
        self._logs = f"{directory.path}/{LOGS_NAME}"  # where their logs are; fixed
        # What became of each group, those that ended in the order of their ends; follows births and ends, as
        # another object each time: other threads may read it.
        self._states = read_groups(files, directory.path)
        with disk_work(directory.path, f"settle the logs in {self._logs}"):
            self._settle(now)

    # --- what is there ------------------------------------------------------------------

    @property
    def born(self) -> list[int]:
        """The groups that live here, in the order of their numbers."""
        return sorted(group for group, state in self._states.items() if state is GroupState.BORN)

    @property
    def missing(self) -> list[int]:
        """The groups that were born here and whose logs are gone: damage, never to be made anew here."""
        return [group for group in self.born if not self._files.exists(self._path(group))]

    def gone(self) -> Mapping[str, int]:
        """Return the directories of logs that ended, each with the second at which it did."""
        return {
            name: int(name.rpartition("-")[2])
            for name in self._files.list_directory(self._logs)
            if name.startswith(GONE_PREFIX)
        }

    # --- birth and end --------------------------------------------------------------------

    def bear(self, group: int, begin: Callable[[Log], None]) -> None:
        """Make a group's log, unless it is here; durable on return.

        Args:
            begin: Writes its first entry, the same bytes on every founder, and syncs it; for a new member of
                a group that runs, nothing.

        Raises:
            DamageError: It was born here, and is gone.
            DataDirectoryError: It died here.
            DiskFullError: No room; nothing of it is there.
            DiskFailedError: The disk refuses.
        """
        path = self._path(group)
        state = self._states.get(group)
        if state is GroupState.DEAD:
            raise DataDirectoryError(f"{path}: the log of group {group} died here, and cannot be born again")
        if state is GroupState.BORN:
            if not self._files.exists(path):
                raise DamageError(path, 0, f"the log of group {group} was born here, and is gone")
            return
        new = f"{path}{NEW_SUFFIX}"
        with disk_work(self._directory.path, f"make {path}"):
            try:
                self._make(group, new, begin)
            except BaseException:
                self._remove_tree(new)
                raise
            self._files.rename(new, path)
            self._files.sync_directory(self._logs)
            # Only behind the name: a log that is said to be here and is not would be damage.
            self._note(group, GroupState.BORN)

    def bury(self, group: int, now: int) -> None:
        """Take a log that is closed out of service, for good; durable on return. `now`: seconds.

        Raises:
            DiskFullError: No room to say so; nothing changed.
            DiskFailedError: The disk refuses.
        """
        self._end(group, GroupState.DEAD, now)

    def release(self, group: int, now: int) -> None:
        """Give the files of a log back whose group has no member on this disk any more; as `bury`."""
        self._end(group, GroupState.RELEASED, now)

    def _end(self, group: int, state: GroupState, now: int) -> None:
        with disk_work(self._directory.path, f"put {self._path(group)} away"):
            # Before the name goes: a log that is gone and is not said to be so would be damage.
            self._note(group, state)
            self._put_away(group, now)

    def remove_gone(self, before: int) -> list[str]:
        """Remove the logs that ended before a second; return their names.

        Raises:
            DiskFailedError: The disk refuses; what is left is removed by the next call.
        """
        names = [name for name, died in self.gone().items() if died < before]
        with disk_work(self._directory.path, f"remove dead logs in {self._logs}"):
            for name in names:
                self._remove_tree(f"{self._logs}/{name}")
        return names

    # --- files ----------------------------------------------------------------------------

    def _path(self, group: int) -> str:
        return self._directory.log_directory(group)

    def _make(self, group: int, new: str, begin: Callable[[Log], None]) -> None:
        self._files.make_directory(new)
        self._files.sync_directory(self._logs)
        Log.create(self._files, new, cluster=self._directory.identity.cluster_uuid, group=group)
        log = self._directory.open_log_at(new, group)
        try:
            begin(log)
        finally:
            log.close()

    def _put_away(self, group: int, now: int) -> None:
        if self._files.exists(self._path(group)):
            while self._files.exists(f"{self._logs}/{GONE_PREFIX}{group}-{now}"):
                now += 1  # it was here before
            self._files.rename(self._path(group), f"{self._logs}/{GONE_PREFIX}{group}-{now}")
        self._files.sync_directory(self._logs)

    def _remove_tree(self, path: str) -> None:
        """Remove a log's directory; what is left after a crash is still of the same kind."""
        if self._files.exists(path):
            remove_folder(self._files, path)
            self._files.sync_directory(self._logs)

    def _settle(self, now: int) -> None:
        """Finish what a crash interrupted."""
        for name in self._files.list_directory(self._logs):
            if name.endswith(NEW_SUFFIX):
                self._remove_tree(f"{self._logs}/{name}")
            elif name.isdecimal() and int(name) not in self._states:
                self._note(int(name), GroupState.BORN)
        # The process before may have ended between a rename and its sync.
        self._files.sync_directory(self._logs)
        for group, state in self._states.items():
            # One that was just made in the place of a released one is empty yet, and made again.
            if state is not GroupState.BORN and self._files.exists(self._path(group)):
                self._put_away(group, now)

    def _note(self, group: int, state: GroupState) -> None:
        states = {**self._states}
        states.pop(group, None)
        states[group] = state
        ended = [group for group, state in states.items() if state is not GroupState.BORN]
        for forgotten in ended[:-TOMBSTONES_MAX]:
            del states[forgotten]
        replace_file(self._files, self._directory.path, GROUPS_NAME, groups_file(states))
        self._states = states
