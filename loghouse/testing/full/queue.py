"""The threads of a simulated process: they work on the machine's disk, which takes its time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from twisted.python.failure import Failure

from loghouse.disk import WorkQueue
from loghouse.testing.disk import PowerLossError

if TYPE_CHECKING:
    from loghouse.testing.full.life import Life

T = TypeVar("T")
RETURN_SECONDS: Final = 0.00005  # from the thread back to the reactor


class _Job:
    """A piece of work and who waits for it."""

    __slots__ = ("done", "failed", "work")

    def __init__(
        self, work: Callable[[], Any], done: Callable[[Any], object], failed: Callable[[Failure], object]
    ) -> None:
        self.work = work
        self.done = done
        self.failed = failed


class DiskQueue(WorkQueue):
    """A `WorkQueue` of one thread: each piece of work is done when the disk is through with it.

    The work itself happens at one moment; what the reactor does before it, and before its result is told, it
    does with the disk as it is then.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._jobs: deque[_Job] = deque()
        self._is_busy = False
        self._is_stopped = False

    def submit(
        self, work: Callable[[], T], done: Callable[[T], object], failed: Callable[[Failure], object]
    ) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        if not self._is_stopped:  # else the thread is gone: it is never done
            self._jobs.append(_Job(work, done, failed))
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

    def _do(self, job: _Job) -> None:
        host = self._life.host
        tell: Callable[[Any], object] = job.done
        try:
            outcome = job.work()
        except PowerLossError:
            host.lose_power()
            return
        except Exception:
            tell, outcome = job.failed, Failure()
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
        self._jobs: dict[_Job, None] = {}

    def submit(
        self, work: Callable[[], T], done: Callable[[T], object], failed: Callable[[Failure], object]
    ) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        job = _Job(work, done, failed)
        self._jobs[job] = None
        host = self._life.host
        host.cluster.clock.after(host.rng.expovariate(1 / 0.002), self._work, job)

    def _work(self, job: _Job) -> None:
        life = self._life
        clock = life.host.cluster.clock
        if not life.is_alive or job not in self._jobs:
            return
        if life.host.paused_until > clock.seconds():
            clock.at(life.host.paused_until, self._work, job)
            return
        del self._jobs[job]
        tell: Callable[[Any], object] = job.done
        try:
            outcome = job.work()
        except Exception:
            tell, outcome = job.failed, Failure()
        clock.after(RETURN_SECONDS, life.enter, tell, outcome)

    def stop(self) -> None:
        """Finish what was given."""
        while self._jobs and self._life.is_alive:
            self._work(next(iter(self._jobs)))
