"""The logs on a node's disk: which are opened, made and put away.

What is done to a log's files is done on its lane, behind what its replica still writes; what says which logs
were born here is written on the node's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Final, TypeVar

from twisted.logger import Logger

from loghouse.errors import DamageError, DataDirectoryError, DiskFullError
from loghouse.protocol.configuration import Configuration
from loghouse.replica.bootstrap import founding
from loghouse.replica.damage import LogRepair
from loghouse.runtime.lanes import NODE_LANE, DiskLanes
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files
from loghouse.storage.groups import BornGroups, groups_of, size_of
from loghouse.storage.log import Log

_T = TypeVar("_T")

CLEAN_SECONDS: Final = 3600.0
"""How often dead logs are looked for whose time is over."""


class HostedLogs:
    """Opens, makes and buries logs beside the default one. Each group has one job under way at a time."""

    logger = Logger()

    def __init__(
        self,
        files: Files,
        directory: DataDirectory,
        lanes: DiskLanes,
        *,
        wall: Callable[[], float],
        fatal: Callable[[BaseException], None],
        keep_deleted_seconds: float,
    ) -> None:
        """Look after a data directory that has its identity; its disk is not touched before a call."""
        self._files = files  # the file seam; fixed
        self._directory = directory  # whose logs these are; fixed
        self._lanes = lanes  # run all work on files; fixed
        self._disk = lanes.lane(NODE_LANE)  # runs what is done to `_groups`, in order; fixed
        self._wall = wall  # seconds since the epoch; fixed
        self._fatal = fatal  # the process must end; fixed
        # How long a dead log's files are kept; changed with the node's settings.
        self.keep_deleted_seconds = keep_deleted_seconds
        self._groups: BornGroups | None = None  # made by the first job; of the node's lane alone
        self._busy: set[int] = set()  # the groups that have a job under way
        # Why a log cannot be opened, by group: it stays as it is until an operator has looked at it.
        self.damaged: dict[int, str] = {}
        self._clean_due = 0.0  # when dead logs are looked for again

    @property
    def idle(self) -> Set[int]:
        """The groups whose logs were born on this disk and did not end, without those that are busy."""
        return set(self._groups.born) - self._busy if self._groups is not None else set()

    # --- opening and making -----------------------------------------------------------------

    def open(
        self,
        group: int,
        founders: tuple[Configuration, int] | None,
        opened: Callable[[LogRepair], None],
        *,
        name: str = "",
    ) -> None:
        """Open a group's log, which is made unless it was born here; nothing while it has a job under way.

        Called again and again until it is open: a full disk may have room later.

        Args:
            founders: The first entry of a log that is made here: its configuration and time. None: none,
                the group's leader sends everything.
            opened: Told of the open log.
            name: What lines about the log begin with.
        """
        if group not in self._busy and group not in self.damaged:
            begin = founding(*founders) if founders is not None else _nothing
            self._run(
                group,
                self._disk,
                lambda: self._born().bear(group, begin),
                lambda _: self._run(group, self._lanes.lane(group), partial(self._open, group, name), opened),
            )

    def _open(self, group: int, name: str) -> LogRepair:
        opened = LogRepair(self._files, self._directory, group, name)
        opened.open_log()
        return opened

    def _born(self) -> BornGroups:
        if self._groups is None:
            self._groups = BornGroups(self._files, self._directory, int(self._wall()))
        return self._groups

    # --- the end of a log -------------------------------------------------------------------

    def bury(self, group: int, log: Log | None) -> bool:
        """Close a log that was deleted, and put it away, its files go later; False: its group is busy."""
        return self._end(group, log, lambda groups: groups.bury(group, int(self._wall())))

    def release(self, group: int, log: Log | None) -> bool:
        """As `bury`, for a log that goes on elsewhere: its group has no member on this disk any more."""
        self.damaged.pop(group, None)
        return self._end(group, log, lambda groups: groups.release(group, int(self._wall())))

    def _end(self, group: int, log: Log | None, end: Callable[[BornGroups], None]) -> bool:
        if group in self._busy:
            return False

        def put_away(_: object = None) -> None:
            self._run(group, self._disk, lambda: end(self._born()), lambda _: None)

        if log is not None:
            self._run(group, self._lanes.lane(group), log.close, put_away)
        else:
            put_away()
        return True

    def close(self, log: Log) -> None:
        """Close a log that is not served any more, and stays."""
        self._lanes.lane(log.group).run(log.close, fatal=self._fatal)

    def look(self, now: float) -> None:
        """Remove logs that ended, when their time is over; `now` only rises."""
        if self._groups is None or now < self._clean_due:
            return
        self._clean_due = now + CLEAN_SECONDS
        groups, before = self._groups, int(self._wall() - self.keep_deleted_seconds)
        self._disk.run(lambda: groups.remove_gone(before), self._removed, fatal=self._fatal)

    def _removed(self, names: list[str]) -> None:
        for name in names:
            self.logger.info("the files of a log that ended here are removed: {name}", name=name)

    # --- what is on the disk ----------------------------------------------------------------

    def measure(self, known: Set[int], measured: Callable[[Mapping[int, int]], None]) -> None:
        """Tell the size in bytes of each group's log on the disk that is not among the known ones."""
        files, path = self._files, self._directory.path

        def work() -> Mapping[int, int]:
            return {
                group: size_of(files, path, group) for group in groups_of(files, path) if group not in known
            }

        self._disk.run(work, measured, fatal=self._fatal)

    # --- jobs -------------------------------------------------------------------------------

    def _run(self, group: int, lane: WorkQueue, work: Callable[[], _T], done: Callable[[_T], object]) -> None:
        self._busy.add(group)

        def finished(result: _T) -> None:
            self._busy.discard(group)
            done(result)

        lane.run(work, finished, partial(self._failed, group), fatal=self._fatal)

    def _failed(self, group: int, error: Exception) -> None:
        self._busy.discard(group)
        if isinstance(error, DamageError | DataDirectoryError):
            # One log is not worth the others: they go on.
            self.damaged[group] = str(error)
            self.logger.critical("log {group} stays closed: {error}", group=group, error=str(error))
        elif not isinstance(error, DiskFullError):
            raise error


def _nothing(_: Log) -> None:
    """Begin a log without an entry."""
