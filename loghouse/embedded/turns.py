"""What stands for the reactor and for the disk's thread: a queue of work, done by whoever waits for it.

The replica asks for work "soon", "later" and "on the disk's thread", as it does of a node. Here one thread at
a time does all of it in `run`, in the order that a reactor would: what is due in this turn first, then one
piece of disk work, whose answer begins the next turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, TypeVar

from loghouse.runtime.threads import Job, OnRaised, WorkQueue, do

T = TypeVar("T")


class Timer:
    """Work that is due at a time, unless it is cancelled."""

    __slots__ = ("due", "number", "work")

    def __init__(self, due: float, number: int, work: Callable[[], object]) -> None:
        self.due = due
        self.number = number
        self.work: Callable[[], object] | None = work

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self.number) < (other.due, other.number)

    def cancel(self) -> None:
        """Do not do it."""
        self.work = None

    def active(self) -> bool:
        """Whether it is still to be done."""
        return self.work is not None


class Turns:
    """Work of an embedded log, in its order (`runtime.scheduling.Scheduler`); for one thread at a time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.seconds = monotonic
        self._soon: deque[Callable[[], object]] = deque()
        self._jobs: deque[Job] = deque()
        self._timers: list[Timer] = []
        self._timer_count = 0
        self.soon = self._soon.append

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> Timer:  # noqa: N802
        """Call something in a `run` after so many seconds."""
        return self.later(delay, lambda: callable(*args))

    def later(self, seconds: float, work: Callable[[], object]) -> Timer:
        """Do work in a `run` after so many seconds."""
        self._timer_count += 1
        timer = Timer(self.seconds() + seconds, self._timer_count, work)
        heappush(self._timers, timer)
        return timer

    def submit(self, job: Job) -> None:
        """Take a piece of work of the disk's thread."""
        self._jobs.append(job)

    def run(self) -> None:
        """Do all that is due, and what comes of it."""
        soon, jobs = self._soon, self._jobs
        while True:
            if self._timers:
                self._ring()
            if soon:
                soon.popleft()()
            elif jobs:
                tell, outcome = do(jobs.popleft())
                tell(outcome)
            else:
                return

    def _ring(self) -> None:
        timers = self._timers
        while timers and (timers[0].work is None or timers[0].due <= self.seconds()):
            timer = heappop(timers)
            work, timer.work = timer.work, None
            if work is not None:
                work()


class TurnQueue(WorkQueue):
    """A `WorkQueue` without threads: its work is done by `Turns.run`, in order."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        job: tuple[Callable[[], Any], Callable[[Any], object], OnRaised] = (work, done, failed)
        self._turns.submit(job)

    def stop(self) -> None:
        """Finish what was given."""
        self._turns.run()
