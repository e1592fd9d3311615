"""One timer for many deadlines: whoever waits for hundreds of answers needs no timer for each."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Deadlines:
    """Looks after many deadlines, all in the clock's seconds."""

    def __init__(self, clock: IReactorTime, expire: Callable[[float], float]) -> None:
        """Watch nothing yet.

        Args:
            expire: Called with the time when the earliest deadline is due; gives up what is due, and returns
                the earliest deadline of what is left, `inf` when nothing is.
        """
        self._clock = clock  # fixed
        self._expire = expire  # fixed
        self._timer: IDelayedCall | None = None  # runs at `due`; None while nothing is watched
        self.due = inf  # the earliest deadline that is watched

    def watch(self, deadline: float) -> None:
        """Look after one more deadline; for one that is not before `due` there is nothing to do."""
        if deadline >= self.due:
            return
        self.due = deadline
        seconds = max(0.0, deadline - self._clock.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._run)
        else:
            self._timer.reset(seconds)

    def stop(self) -> None:
        """Watch nothing any more."""
        self.due = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._timer, self.due = None, inf
        self.watch(self._expire(self._clock.seconds()))
