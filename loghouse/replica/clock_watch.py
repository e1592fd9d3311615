"""What is to be said of this machine's wall clock, decided without I/O.

No timer follows the wall clock. The append times in the log do, as far as they can: they never decrease.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final

from loghouse.limits import MICROSECONDS

STEP_SECONDS_MIN: Final = 5.0
QUIET_SECONDS: Final = 60.0
WAIT_SECONDS_MIN: Final = 1.0


class ClockWatch:
    """Notices steps of the wall clock, and append times that wait until it has caught up with the log."""

    def __init__(self) -> None:
        self._told_drift = 0.0
        self._quiet_until = -math.inf
        self._is_waiting = False

    def step(self, drift_seconds: float, wall: float, monotonic: float) -> str:
        """Return a warning when the wall clock stepped since the last one, at most one a minute, or "".

        Args:
            drift_seconds: By how much the wall clock moved more than the monotonic one since the start.
            wall, monotonic: The two clocks now, seconds.
        """
        step = drift_seconds - self._told_drift
        if abs(step) < STEP_SECONDS_MIN or monotonic < self._quiet_until:
            return ""
        self._told_drift = drift_seconds
        self._quiet_until = monotonic + QUIET_SECONDS
        way = "ahead" if step > 0 else "back"
        return (
            f"the wall clock stepped {way} by {_span(step)} and says {_moment(wall)}; no timer follows it, "
            "append times and the dates of certificates do: check NTP"
        )

    def waiting(self, wall: float, newest_timestamp: int) -> str:
        """Return a warning, once, when a leader's clock is behind the newest append time, or "".

        Args:
            wall: The wall clock, seconds since the epoch.
            newest_timestamp: The newest append time in the log, microseconds since the epoch.
        """
        ahead = newest_timestamp / MICROSECONDS - wall
        was_waiting = self._is_waiting
        self._is_waiting = ahead > (0 if was_waiting else WAIT_SECONDS_MIN)
        if was_waiting or not self._is_waiting:
            return ""
        until = _moment(newest_timestamp / MICROSECONDS)
        return (
            f"the newest append time is {_span(ahead)} ahead of this node's clock: timestamps in the log "
            f"never decrease, so new records get {until} until the clock is there; if it is wrong, correct it"
        )


def _span(seconds: float) -> str:
    try:
        return str(timedelta(seconds=round(abs(seconds))))
    except OverflowError:
        return f"{abs(seconds):.0f} s"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} seconds since the epoch"
