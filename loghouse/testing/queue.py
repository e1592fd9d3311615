"""The threads of a simulated process: they work on the machine's disk, which takes its time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from loghouse.runtime.lanes import RoundOutcomes
from loghouse.runtime.threads import Job, OnRaised, WorkQueue, do
from loghouse.testing.disk import CHANGING, PowerLossError
from loghouse.testing.host import Host
from loghouse.testing.life import Life

T = TypeVar("T")
RETURN_SECONDS: Final = 0.00005  # from the thread back to the reactor
# What a disk may have done of its work when the power went: in half of the cases all before its first or
# second sync, else so many operations.
SYNCS: Final = ("fdatasync", "fsync", "sync_directory")
BROKEN_OFF_MAX: Final = 8


def _is_power_loss(outcome: object) -> bool:
    """Whether the power went during a piece of work, or during one of those that shared a round."""
    parts = [part[1] for part in outcome] if isinstance(outcome, RoundOutcomes) else [outcome]
    return any(isinstance(part, PowerLossError) for part in parts)


class DiskQueue(WorkQueue):
    """A `WorkQueue` of threads that write: each piece of work is done when the disk is through with it.

    With one thread in order, with several each in its own time. The work itself happens at one moment; what
    the reactor does before it, and before its result is told, it does with the disk as it is then.
    """

    def __init__(self, host: Host, life: Life, thread_count: int = 1) -> None:
        self._host = host
        self._life = life
        self._thread_count = thread_count
        self._waiting: deque[Job] = deque()
        self._at_disk: list[Job] = []  # what the threads are at, oldest first
        self._is_stopped = False

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        if not self._is_stopped:  # else the threads are gone: it is never done
            self._waiting.append((work, done, failed))
            self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._at_disk) < self._thread_count:
            job = self._waiting.popleft()
            self._at_disk.append(job)
            self._host.machine.after_sync(partial(self._work, job))

    def _work(self, job: Job) -> None:
        host, again = self._host, partial(self._work, job)
        if not self._life.is_alive or not host.machine.is_awake(again):
            return
        if host.paused_until > host.cluster.clock.seconds():
            host.cluster.clock.at(host.paused_until, again)
            return
        if job in self._at_disk:  # else a stop has done it
            self._at_disk.remove(job)
            self._do(job)
            self._begin()

    def _do(self, job: Job) -> None:
        host = self._host
        tell, outcome = do(job)
        if _is_power_loss(outcome):
            host.lose_power()
            return
        host.worked()
        host.cluster.check()
        if host.reach("synced"):
            return
        host.cluster.clock.after(RETURN_SECONDS, self._life.enter, tell, outcome)

    def break_off(self, rng: random.Random) -> None:
        """The power goes: what the disk was at is done up to some operation, and nobody is told."""
        jobs, self._at_disk = self._at_disk, []
        for job in jobs:
            is_at_sync = rng.random() < 0.5
            kinds = SYNCS if is_at_sync else sorted(CHANGING)
            count = rng.randrange(2 if is_at_sync else BROKEN_OFF_MAX)
            self._host.machine.disk.fail(PowerLossError("power lost"), after=count, kinds=kinds)
            do(job)

    def stop(self) -> None:
        """Finish what was given; the process waits for it.

        Raises:
            PowerLossError: The power went meanwhile: nothing of the process goes on.
        """
        self._is_stopped = True
        jobs = deque([*self._at_disk, *self._waiting])
        self._at_disk.clear()
        self._waiting.clear()
        while jobs and self._life.is_alive:
            self._do(jobs.popleft())
        if not self._life.is_alive:
            raise PowerLossError("power lost")


class ReaderQueue(WorkQueue):
    """A `WorkQueue` of threads that only read: work is done in any order, soon."""

    def __init__(self, host: Host, life: Life) -> None:
        self._host = host
        self._life = life
        self._jobs: dict[int, Job] = {}
        self._count = 0

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Take a piece of work; see `WorkQueue.submit`."""
        self._count += 1
        self._jobs[self._count] = (work, done, failed)
        host = self._host
        host.cluster.clock.after(host.rng.expovariate(1 / 0.002), self._work, self._count)

    def _work(self, number: int) -> None:
        life, host = self._life, self._host
        clock = host.cluster.clock
        if not life.is_alive or number not in self._jobs:
            return
        if host.paused_until > clock.seconds():
            clock.at(host.paused_until, self._work, number)
            return
        tell, outcome = do(self._jobs.pop(number))
        clock.after(RETURN_SECONDS, life.enter, tell, outcome)

    def stop(self) -> None:
        """Finish what was given."""
        while self._jobs and self._life.is_alive:
            self._work(next(iter(self._jobs)))
