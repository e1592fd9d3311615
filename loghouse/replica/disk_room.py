"""A replica and the room on its disk: taken ahead, missed, found again.

A full disk is a state, not an error: appends are refused with what to do, reads, votes and trims go on, and
everything that found no room is tried again every second (`look`).
"""

from __future__ import annotations

from loghouse.errors import DiskFullError
from loghouse.replica.driver import RaftDriver, ReplicaLike
from loghouse.replica.retention import AgeClock
from loghouse.replica.trimming import Trimmer
from loghouse.runtime.events import Logger, name_lines
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.log import Log


class DiskRoom:
    """Takes room for a log before it is needed, gives back what is trimmed, and lives without room."""

    logger = Logger()

    def __init__(
        self,
        owner: ReplicaLike,
        log: Log,
        *,
        disk: WorkQueue,
        clocks: Clocks,
        data_dir: str,
        log_name: str = "",
    ) -> None:
        """Begin with a log that was opened just now. `log_name` is what lines about it begin with."""
        self._owner = owner  # the replica; its `is_writable` follows what the disk takes
        self._log = log
        self._disk = disk  # the thread that writes
        self._clocks = clocks  # for the age of records, by which they are trimmed
        self._log_name = log_name  # fixed
        self._data_dir = data_dir  # where the log is, for what is told of a full disk
        self._age_clock = AgeClock(log.state.timestamp, clocks.wall(), clocks.monotonic())
        # Proposes trims by the retention; there is a new one for each driver.
        self._trimmer: Trimmer | None = None
        # The lowest offset that the disk thread was asked to trim to; it only rises.
        self._trimmed_to = 0
        # Whether room was asked for behind the active segment; False again once that segment is a new one.
        self._is_prepared = False
        # A trim (lowest offset, readable index) that found no room; tried again each second until it does.
        self._untrimmed: tuple[int, int] | None = None

    def driver_began(self, driver: RaftDriver) -> None:
        """Another driver runs the core from now on."""
        self._trimmer = Trimmer(driver, self._log, self._age_clock, self._clocks.monotonic())
        name_lines(self._log_name, self._trimmer)

    # --- segments -----------------------------------------------------------------------

    def disk_filled(self, is_full: bool) -> None:
        """The disk has no room for appends, or has room again."""
        owner = self._owner
        if is_full and owner.is_writable:
            self.logger.error("{problem}", problem=str(DiskFullError(self._data_dir)))
        elif not is_full and not owner.is_writable:
            self.logger.info("disk has room again: appends resume")
        owner.is_writable = not is_full
        if owner.driver is not None:
            owner.driver.raft.disk_is_full = is_full
            self.look_at_stuck_write()

    def committed(self, driver: RaftDriver) -> None:
        """Remove what was trimmed, and take room for the next segment once the active one is half full.

        So no append waits for the room. That is where a full disk shows: while there still is half a segment
        of room for what was taken.
        """
        lowest = driver.lowest_offset
        if lowest > self._trimmed_to:
            self._trimmed_to = lowest
            self._trim(lowest, driver.readable_index)
            self.logger.info("trimmed: the lowest offset is {lowest}", lowest=lowest)
        half_full = self._log.is_half_full
        if half_full and not self._is_prepared:
            self._prepare()
        self._is_prepared = half_full

    def _prepare(self) -> None:
        self._disk.run(
            self._log.prepare,
            lambda _: self.disk_filled(False),
            self._not_prepared,
            fatal=self._owner.fatal,
        )

    def _not_prepared(self, error: BaseException) -> None:
        if not isinstance(error, DiskFullError):
            raise error
        self.disk_filled(True)

    def look(self) -> None:
        """Try again what found no room, and trim what is due; called every second."""
        driver = self._owner.driver
        if driver is None:
            return
        if driver.is_full:
            driver.retry_write()
        elif not self._owner.is_writable:
            self._prepare()
        if self._untrimmed is not None:
            self._trim(*self._untrimmed)
        if self._trimmer is not None:
            self._trimmer.look(self._clocks.wall(), self._clocks.monotonic())

    def look_at_stuck_write(self) -> None:
        """Go back to what the disk holds when what was to be written behind it found no room.

        As a restart would: nothing of that was promised to anybody. Else votes, and entries for which there
        is room, would wait behind it. Called at each tick and when the disk is found full.
        """
        driver = self._owner.driver
        if driver is not None and driver.must_go_back:
            first = driver.raft.durable_index + 1
            self.logger.info("no room for entries from {first} on: forgotten until there is", first=first)
            driver.go_back(self._data_dir)
            self._owner.restart_core(driver)

    # --- trims ----------------------------------------------------------------------------

    def _trim(self, lowest: int, high_index: int) -> None:
        """Remove segments below an offset; with no room to say so, again a second later."""
        log, self._untrimmed = self._log, None

        def untrimmed(error: BaseException) -> None:
            if not isinstance(error, DiskFullError):
                raise error
            if self._untrimmed is None:
                self._untrimmed = (lowest, high_index)

        self._disk.run(lambda: log.trim_prefix(lowest, high_index), failed=untrimmed, fatal=self._owner.fatal)
