"""Local health awareness (Lifeguard, LHA-Probe): how far a member may trust its own clock and links."""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to `score_max`. Whoever misses what it should have heard blames itself first.

    Missed acks and nacks and having been accused raise it, each answered probe lowers it. A probe's interval
    and timeout, and the time given to a suspect, are stretched by `score + 1`: a slow member accuses slowly.
    """

    __slots__ = ("_score_max", "score")

    def __init__(self, score_max: int) -> None:
        self._score_max = score_max
        self.score = 0

    def change(self, by: int) -> None:
        """Raise (worse) or lower (better) the score, within its bounds."""
        self.score = min(max(self.score + by, 0), self._score_max)

    def scaled(self, ticks: int) -> int:
        """Return an interval or timeout, stretched."""
        return ticks * (self.score + 1)
