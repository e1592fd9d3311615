"""Whether a failed call is made again, and after which pause: pure, with injected chance."""

from __future__ import annotations

import random
from typing import Final

from loghouse.client.failures import CallFailure, Effect
from loghouse.errors import (
    DeadlineError,
    LoghouseError,
    OutcomeUnknownError,
    QuotaExceededError,
    ResourceExhaustedError,
)
from loghouse.protocol.backoff import Backoff

PAUSE_SECONDS: Final = 0.02
PAUSE_SECONDS_MAX: Final = 1.0
ATTEMPT_SECONDS: Final = 5.0
"""How long one server may take over a call that can safely be made again elsewhere."""
ATTEMPT_SECONDS_MIN: Final = 0.1
"""An attempt with less time than that would mostly end without anybody knowing what it did."""


class Pauses(Backoff):
    """The pauses of calls that failed."""

    __slots__ = ("_was_there",)

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng.random, PAUSE_SECONDS, PAUSE_SECONDS_MAX)
        self._was_there = False  # whether the server that was asked last answered

    def after(self, failure: CallFailure) -> float:
        """Return how long to wait after one more failure: as long as the server said, if it said that.

        Between servers that answer, and wait for a new leader, there is no pause for one that is not there:
        pauses have grown by then, and the next server may have the leader already.
        """
        was_there, self._was_there = self._was_there, not failure.is_link
        if was_there and failure.is_link and failure.effect is Effect.NOTHING:
            return 0.0
        seconds = self.next_seconds()
        error = failure.error
        return max(seconds, error.retry_seconds) if isinstance(error, QuotaExceededError) else seconds

    def reset(self) -> None:
        """Begin again: something went well."""
        super().reset()
        self._was_there = False


class Attempts:
    """The attempts at one call.

    Args:
        begun_at, deadline: In the clock's seconds.
        is_safe: Whether the call may be made again though it may have been carried out: reads, and appends
            that carry a producer's id and sequence.
    """

    __slots__ = ("_begun_at", "_count", "_deadline", "_is_safe", "_pauses", "_rng")

    def __init__(self, *, begun_at: float, deadline: float, is_safe: bool, rng: random.Random) -> None:
        self._begun_at = begun_at
        self._deadline = deadline
        self._is_safe = is_safe
        self._rng = rng
        self._pauses: Pauses | None = None  # from the first failure on: nearly every call has none
        self._count = 0

    def seconds_left(self, now: float) -> float:
        """Return how long the next attempt may take."""
        left = max(0.0, self._deadline - now)
        return min(left, ATTEMPT_SECONDS) if self._is_safe else left

    def pause_after(self, failure: CallFailure, now: float) -> float:
        """Return after how many seconds to try again.

        Raises:
            LoghouseError: There is no further attempt; this is what the caller is told.
        """
        self._count += 1
        if failure.effect is Effect.REFUSED or (failure.effect is Effect.UNKNOWN and not self._is_safe):
            raise failure.error
        # A node that named the leader, or is not there at all, says by itself where to go on: elsewhere.
        pause = 0.0
        if self._count > 1 or not failure.leader:
            self._pauses = self._pauses or Pauses(self._rng)
            pause = self._pauses.after(failure)
        least = min(ATTEMPT_SECONDS_MIN, (self._deadline - self._begun_at) / 4)
        if now + pause + least >= self._deadline:
            raise self._given_up(failure, now)
        return pause

    def _given_up(self, failure: CallFailure, now: float) -> LoghouseError:
        error = failure.error
        if isinstance(error, ResourceExhaustedError):
            return error
        attempts = "1 attempt" if self._count == 1 else f"{self._count} attempts"
        seconds = max(0.0, now - self._begun_at)
        text = str(error)
        if isinstance(error, OutcomeUnknownError):
            text = f"no answer ({text})"
        return DeadlineError(f"gave up after {seconds:.1f} s and {attempts}; the last one: {text}")
