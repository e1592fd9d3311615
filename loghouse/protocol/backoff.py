"""Pauses between attempts, for whoever dials or asks a node again: clients, and the other nodes. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses that double, each a random part of its upper half: who failed together does not retry together.

    `chance` returns a number from 0 to 1, as `random.random` does.
    """

    __slots__ = ("_chance", "_seconds_max", "_seconds_min", "failures")

    def __init__(self, chance: Callable[[], float], seconds_min: float, seconds_max: float) -> None:
        self._chance = chance
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self.failures = 0  # since the last `reset`

    def next_seconds(self) -> float:
        """Return how long to wait after one more failure."""
        seconds: float = min(self._seconds_max, self._seconds_min * 2 ** min(self.failures, 16))
        self.failures += 1
        return seconds * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """Begin again: something went well."""
        self.failures = 0
