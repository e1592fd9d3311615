"""The threads of a simulated process: they work on the machine's disk, which takes its time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from twisted.python.failure import Failure

from loghouse.runtime.threads import Job, WorkQueue, do
from loghouse.testing.disk import PowerLossError

if TYPE_CHECKING:
    from loghouse.testing.full.life import Life

T = TypeVar("T")
RETURN_SECONDS: Final = 0.00005  # from the thread back to the reactor


class DiskQueue(WorkQueue):
    """A `WorkQueue` of one thread: each piece of work is done when the disk is through with it.

    The work itself happens at one moment; what the reactor does before it, and before its result is told, it
    does with the disk as it is then.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._jobs: deque[Job] = deque()
        self._is_busy = False
        self._is_stopped = False

    def submit(
        self, work: Callable[[], T], done: Callable[[T], object], failed: Callable[[Failure], object]
    ) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        if not self._is_stopped:  # else the thread is gone: it is never done
            self._jobs.append((work, done, failed))
            self._begin()

    def _begin(self) -> None:
        if self._jobs and not self._is_busy:
            self._is_busy = True
            self._wait()

    def _wait(self) -> None:
        self._life.host.machine.after_sync(self._work, 0)

    def _work(self, _: int) -> None:
        life = self._life
        host = life.host
        if not life.is_alive or not host.machine.is_awake(self._work, 0):
            return
        if host.paused_until > host.cluster.clock.seconds():
            host.cluster.clock.at(host.paused_until, self._work, 0)
            return
        self._is_busy = False
        if self._jobs:
            self._do(self._jobs.popleft())
            self._begin()

    def _do(self, job: Job) -> None:
        host = self._life.host
        tell, outcome = do(job)
        if isinstance(outcome, Failure) and outcome.check(PowerLossError):
            host.lose_power()
            return
        host.worked()
        host.cluster.check()
        if host.reach("synced"):
            return
        host.cluster.clock.after(RETURN_SECONDS, self._life.enter, tell, outcome)

    def stop(self) -> None:
        """Finish what was given; the process waits for it."""
        self._is_stopped = True
        while self._jobs and self._life.is_alive:
            self._do(self._jobs.popleft())


class ReaderQueue(WorkQueue):
    """A `WorkQueue` of threads that only read: work is done in any order, soon."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._jobs: dict[int, Job] = {}
        self._count = 0

    def submit(
        self, work: Callable[[], T], done: Callable[[T], object], failed: Callable[[Failure], object]
    ) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        self._count += 1
        self._jobs[self._count] = (work, done, failed)
        host = self._life.host
        host.cluster.clock.after(host.rng.expovariate(1 / 0.002), self._work, self._count)

    def _work(self, number: int) -> None:
        life = self._life
        clock = life.host.cluster.clock
        if not life.is_alive or number not in self._jobs:
            return
        if life.host.paused_until > clock.seconds():
            clock.at(life.host.paused_until, self._work, number)
            return
        tell, outcome = do(self._jobs.pop(number))
        clock.after(RETURN_SECONDS, life.enter, tell, outcome)

    def stop(self) -> None:
        """Finish what was given."""
        while self._jobs and self._life.is_alive:
            self._work(next(iter(self._jobs)))
