"""What retention would trim, decided without I/O.

Deleting is the one thing that no later care undoes, so age is not read off a
clock that may be wrong: see `AgeClock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loghouse.limits import MICROSECONDS
from loghouse.protocol.configuration import Retention
from loghouse.storage.reading import SealedSegment

CLOCK_DRIFT_MAX_SECONDS: Final = 60.0


class AgeClock:
    """The time by which records grow old.

    It starts at the newest record's append time (or at the wall clock, if that is earlier) and then
    follows the monotonic clock. So time during which the node was down ages nothing, a start-up that
    meets a clock one year ahead trims nothing, and a wall clock that jumps while the node runs (it
    parts from the monotonic one by more than `CLOCK_DRIFT_MAX_SECONDS`) pauses trims until it is back.
    """

    def __init__(self, newest_timestamp: int, wall: float, monotonic: float) -> None:
        """Start the clock.

        Args:
            newest_timestamp: Append time of the newest record, microseconds since the epoch; 0 if none.
            wall, monotonic: The two clocks now, seconds.
        """
        self._start_wall = wall
        self._start_monotonic = monotonic
        wall_timestamp = int(wall * MICROSECONDS)
        self._start_timestamp = min(newest_timestamp or wall_timestamp, wall_timestamp)

    def drift_seconds(self, wall: float, monotonic: float) -> float:
        """Return by how much the wall clock moved more than the monotonic one since the start."""
        return (wall - self._start_wall) - (monotonic - self._start_monotonic)

    def now(self, wall: float, monotonic: float) -> int | None:
        """Return the age clock's time in microseconds since the epoch, or None while the clocks part."""
        if abs(self.drift_seconds(wall, monotonic)) > CLOCK_DRIFT_MAX_SECONDS:
            return None
        return self._start_timestamp + int((monotonic - self._start_monotonic) * MICROSECONDS)


def trim_offset(
    retention: Retention, sealed: Sequence[SealedSegment], active_size: int, age_now: int | None
) -> int | None:
    """Return the offset below which records should go, or None when nothing should.

    Whole sealed segments go, oldest first: while the log is larger than `size_max`, or while their
    newest entry is older than `age_max_seconds`. The active segment always stays.
    """
    excess = sum(span.size for span in sealed) + active_size - retention.size_max if retention.size_max else 0
    oldest_kept = age_now - retention.age_max_seconds * MICROSECONDS if age_now is not None else 0
    lowest = None
    for span in sealed:
        too_large = excess > 0
        too_old = bool(retention.age_max_seconds) and span.newest_timestamp < oldest_kept
        if not (too_large or too_old):
            break
        excess -= span.size
        lowest = span.next_offset
    return lowest
