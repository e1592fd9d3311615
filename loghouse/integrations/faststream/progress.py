"""How far a subscriber is whose records are handled side by side: pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from loghouse.integrations.faststream.message import Received

RETRY_SECONDS_MAX: Final = 30.0


class HandledInOrder:
    """What was given out, in the order of the log, and is not done.

    A cursor passes a record when that one and all before it are done, in whatever order they were.
    """

    def __init__(self) -> None:
        self._given: deque[Received] = deque()  # in order; from the first one on that is not done
        self._done: set[int] = set()  # those of them that are done, by identity

    def __len__(self) -> int:
        return len(self._given)

    def give(self, received: Received) -> None:
        """Note what is handled next."""
        self._given.append(received)

    def done(self, received: Received) -> list[Received]:
        """Note that one is done, and return those that the cursor may pass now, in order."""
        self._done.add(id(received))
        passed = []
        while self._given and id(self._given[0]) in self._done:
            first = self._given.popleft()
            self._done.discard(id(first))
            passed.append(first)
        return passed


def retry_seconds(first: float, failure_count: int) -> float:
    """Return how long to wait after so many failures in a row: doubled each time, up to 30 s."""
    return float(min(RETRY_SECONDS_MAX, first * 2 ** min(failure_count - 1, 32)))
