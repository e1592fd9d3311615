"""The leader proposes trims when retention asks for them; every trim is an entry."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from loghouse.protocol.configuration import encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Proposal, Role
from loghouse.replica import Replica
from loghouse.retention import AgeClock, SegmentSpan, trim_offset
from loghouse.storage.log import Log

RETENTION_SECONDS: Final = 60.0


class Trimmer:
    """Looks at a replica's segments now and then."""

    logger = Logger()

    def __init__(self, replica: Replica, log: Log, age_clock: AgeClock, monotonic: float) -> None:
        self._replica = replica
        self._log = log
        self._age_clock = age_clock
        self._looked_at = monotonic
        self._proposed = 0
        self._is_paused = False

    def look(self, wall: float, monotonic: float) -> None:
        """Propose a trim when one is due; called every second, looks every `RETENTION_SECONDS`."""
        if monotonic - self._looked_at < RETENTION_SECONDS or self._replica.raft.role is not Role.LEADER:
            return
        self._looked_at = monotonic
        lowest = self._lowest_wanted(self._age_clock.now(wall, monotonic))
        if lowest is not None and lowest > max(self._replica.lowest_offset, self._proposed):
            self._proposed = lowest
            proposal = Proposal(kind=EntryKind.TRIM, payload=encode_trim(lowest))
            self._replica.propose(proposal, lambda appended: None, self._not_trimmed)

    def _lowest_wanted(self, age_now: int | None) -> int | None:
        retention = self._replica.raft.configuration.retention
        is_paused = age_now is None and bool(retention.age_max_seconds)
        if is_paused and not self._is_paused:
            self.logger.warn(
                "clock jumped: trimming by age is paused until it is right; check NTP, then restart"
            )
        self._is_paused = is_paused
        spans = [SegmentSpan(s.size, s.next_offset, s.newest_timestamp) for s in self._log.sealed_segments()]
        return trim_offset(retention, spans, self._log.active_size, age_now)

    def _not_trimmed(self, error: BaseException) -> None:
        self._proposed = 0
        self.logger.warn("trim not proposed: {reason}", reason=str(error))
