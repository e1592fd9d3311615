"""The leader proposes trims when retention asks for them; every trim is an entry."""

from __future__ import annotations

from typing import Final

from loghouse.protocol.configuration import encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Proposal, Role
from loghouse.replica.clock_watch import ClockWatch
from loghouse.replica.driver import RaftDriver
from loghouse.replica.retention import AgeClock, trim_offset
from loghouse.runtime.events import Logger
from loghouse.storage.log import Log

RETENTION_SECONDS: Final = 60.0


class Trimmer:
    """Looks at a replica's segments now and then, and at the clocks by which they age."""

    logger = Logger()

    def __init__(self, replica: RaftDriver, log: Log, age_clock: AgeClock, monotonic: float) -> None:
        self._replica = replica
        self._log = log
        self._age_clock = age_clock
        self._clock_watch = ClockWatch()
        self._looked_at = monotonic
        self._proposed = 0
        self._is_paused = False

    def look(self, wall: float, monotonic: float) -> None:
        """Propose a trim when one is due; called every second, looks every `RETENTION_SECONDS`."""
        self._watch_clock(wall, monotonic)
        if monotonic - self._looked_at < RETENTION_SECONDS or self._replica.raft.role is not Role.LEADER:
            return
        self._looked_at = monotonic
        if self._replica.raft.configuration.retention.age_max_seconds and self._log.sealed_segments():
            self._replica.wake()  # for the next look: a leader that sleeps does not hear the others' clocks
        lowest = self._lowest_wanted(self._age_now(wall, monotonic))
        if lowest is not None and lowest > max(self._replica.lowest_offset, self._proposed):
            self._proposed = lowest
            proposal = Proposal(kind=EntryKind.TRIM, payload=encode_trim(lowest))
            self._replica.propose(proposal, lambda appended: None, self._not_trimmed)

    def _watch_clock(self, wall: float, monotonic: float) -> None:
        drift = self._age_clock.drift_seconds(wall, monotonic)
        warnings = [self._clock_watch.step(drift, wall, monotonic)]
        if self._replica.raft.role is Role.LEADER:
            warnings.append(self._clock_watch.waiting(wall, self._replica.raft.newest_timestamp))
        for warning in filter(None, warnings):
            self.logger.warn("{clock}", clock=warning)

    def _age_now(self, wall: float, monotonic: float) -> int | None:
        """The age clock's time, but none that the clocks of a majority have not reached."""
        now = self._age_clock.now(wall, monotonic)
        return None if now is None else min(now, self._replica.raft.majority_time())

    def _lowest_wanted(self, age_now: int | None) -> int | None:
        retention = self._replica.raft.configuration.retention
        is_paused = age_now is None and bool(retention.age_max_seconds)
        if is_paused and not self._is_paused:
            self.logger.warn(
                "clock jumped: trimming by age is paused until it is right; check NTP, then restart"
            )
        self._is_paused = is_paused
        return trim_offset(retention, self._log.sealed_segments(), self._log.active_size, age_now)

    def _not_trimmed(self, error: BaseException) -> None:
        self._proposed = 0
        self.logger.warn("trim not proposed: {reason}", reason=str(error))
