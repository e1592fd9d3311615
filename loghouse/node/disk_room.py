"""A node and the room on its disk: taken ahead, missed, found again.

A full disk is a state, not an error: appends are refused with what to do, reads, votes and trims go on, and
everything that found no room is tried again every second (`look_for_room`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import DiskFullError
from loghouse.node.options import NodeOptions
from loghouse.replica.driver import RaftDriver
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.directory import DataDirectory
from loghouse.storage.log import Log


class RoomKeeping:
    """The part of a node that takes room before it is needed, and lives without when there is none."""

    logger: Logger
    options: NodeOptions
    is_writable: bool
    _directory: DataDirectory
    _disk: WorkQueue
    _log: Log | None
    _replica: RaftDriver | None
    _trimmed_to: int = 0
    _is_prepared: bool = False
    _unwritten_book: bytes | None = None
    _untrimmed: tuple[int, int] | None = None

    if TYPE_CHECKING:

        def fatal(self, failure: Failure) -> None:
            """The process must end; the node does it."""

        def _restart_core(self, replica: RaftDriver, id_: int = 0) -> None:
            """Go on with what the disk holds; the node does it."""

    # --- segments -----------------------------------------------------------------------

    def disk_filled(self, is_full: bool) -> None:
        """The disk has no room for appends, or has room again."""
        if is_full and self.is_writable:
            self.logger.error("{problem}", problem=str(DiskFullError(self.options.data_dir)))
        elif not is_full and not self.is_writable:
            self.logger.info("disk has room again: appends resume")
        self.is_writable = not is_full
        if self._replica is not None:
            self._replica.raft.disk_is_full = is_full
            self.look_at_stuck_write()

    def _prepare(self) -> None:
        """Take room for the next segment once the active one is half full, so that no append waits for it.

        That is where a full disk shows: while there still is half a segment of room for what was taken.
        """
        assert self._log is not None
        half_full = self._log.active_size >= self.options.segment_size // 2
        if half_full and not self._is_prepared:
            self._run_prepare()
        self._is_prepared = half_full

    def _run_prepare(self) -> None:
        assert self._log is not None
        self._disk.run(self._log.prepare).addCallbacks(
            lambda _: self.disk_filled(False), self._not_prepared
        ).addErrback(self.fatal)

    def _not_prepared(self, failure: Failure) -> None:
        failure.trap(DiskFullError)
        self.disk_filled(True)

    def look_for_room(self) -> None:
        """Try again what found no room; called every second."""
        if self._unwritten_book is not None:
            self.write_address_book(self._unwritten_book, lambda: None)
        if self._replica is None:
            return
        if self._replica.is_full:
            self._replica.retry_write()
        elif not self.is_writable:
            self._run_prepare()
        if self._untrimmed is not None:
            self._trim(*self._untrimmed)

    def look_at_stuck_write(self) -> None:
        """Go back to what the disk holds when what was to be written behind it found no room.

        As a restart would: nothing of that was promised to anybody. Else votes, and entries for which there
        is room, would wait behind it. Called at each tick and when the disk is found full.
        """
        replica = self._replica
        if replica is not None and replica.must_go_back:
            first = replica.raft.durable_index + 1
            self.logger.info("no room for entries from {first} on: forgotten until there is", first=first)
            replica.go_back(self.options.data_dir)
            self._restart_core(replica)

    # --- trims ----------------------------------------------------------------------------

    def _trim(self, lowest: int, high_index: int) -> None:
        """Remove segments below an offset; with no room to say so, again a second later."""
        log, self._untrimmed = self._log, None
        assert log is not None

        def untrimmed(failure: Failure) -> None:
            failure.trap(DiskFullError)
            if self._untrimmed is None:
                self._untrimmed = (lowest, high_index)

        self._disk.run(lambda: log.trim_prefix(lowest, high_index)).addErrback(untrimmed).addErrback(
            self.fatal
        )

    # --- the address book (`cluster.ClusterNode`) ------------------------------------------

    def write_address_book(self, content: bytes, done: Callable[[], None]) -> None:
        """Make the address book durable, then call `done`; on a full disk go on without, and write it later.

        It is a cache: of addresses, and of an incarnation that the others remember, too.
        """
        directory, self._unwritten_book = self._directory, None

        def unwritten(failure: Failure) -> None:
            failure.trap(DiskFullError)
            if self._unwritten_book is None:
                self._unwritten_book = content  # else a newer one is waiting already

        self._disk.run(lambda: directory.write_members(content)).addErrback(unwritten).addCallback(
            lambda _: done()
        ).addErrback(self.fatal)

    def read_address_book(self) -> bytes:
        """The address book as last written."""
        return self._directory.read_members()
