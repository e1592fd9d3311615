"""Time for many logs: each is called once a period, and not all of them at one instant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

PHASES_MAX: Final = 10


class Wheel:
    """Calls once a period whatever is to be called, spread over phases of the period.

    Little has few phases, so that one alone wakes the process as seldom as a plain loop does.
    """

    def __init__(
        self, seconds: float, begin: Callable[[], Sequence[Callable[[], object]]], clock: IReactorTime
    ) -> None:
        """Turn once in so many seconds, from `start` on.

        Args:
            begin: Called at the beginning of each round; returns what is to be called in it.
        """
        self._seconds = seconds
        self._begin = begin
        self._calls: Sequence[Callable[[], object]] = ()  # those of this round
        self._phase = 0  # the next one of the round; 0: a new round begins
        self._phase_count = 1
        self._loop = LoopingCall(self._turn)
        self._loop.clock = clock
        self._turned_at = 0.0

    def start(self, failed: Callable[[Failure], object]) -> None:
        """Begin, a period from now; `failed` is told what a call raised, which ends it."""
        self._turned_at = self._loop.clock.seconds()
        self._loop.start(self._seconds, now=False).addErrback(failed)

    @property
    def running(self) -> bool:
        """Whether it turns."""
        return self._loop.running

    def stop(self) -> None:
        """Call nobody any more."""
        self._loop.stop()

    def _turn(self) -> None:
        # Phases that a busy reactor missed are made up for, else time would pass more slowly for all.
        now = self._loop.clock.seconds()
        due, done = int((now - self._turned_at) * self._phase_count / self._seconds), 0
        self._turned_at = now
        while not done or done < min(due, self._phase_count):
            self._do_phase()
            done += 1

    def _do_phase(self) -> None:
        if self._phase == 0:
            self._calls = self._begin()
            self._phase_count = min(max(len(self._calls), 1), PHASES_MAX)
            self._loop.interval = self._seconds / self._phase_count
        calls = self._calls[self._phase :: self._phase_count]
        self._phase = (self._phase + 1) % self._phase_count
        for call in calls:
            call()
