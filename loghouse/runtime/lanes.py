"""Lanes: what one log writes is done in order, and beside what other logs write.

A thread that syncs the files of many logs waits for one after the other. Syncs that come together share the
file system's commit, so each log has a lane of its own, and few threads serve them all: a lane has a thread
only while there is work on it. A log alone has one thread, and the same way there and back as without lanes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from loghouse.runtime.threads import Job, OnRaised, Outcome, WorkQueue, do

T = TypeVar("T")

NODE_LANE: Final = 0
"""The lane of what a node writes for itself: no log is of group 0."""

ROUNDS_MAX: Final = 2
"""Rounds of shared syncs at a time: while one waits for the disk, the other begins."""


class SyncedWork(ABC):
    """Work that ends with the sync of a file; where it may, it shares the wait for the disk with others.

    Called as it is, it does all by itself.
    """

    may_share = False
    """Whether others may wait for it: it is little, and takes one sync."""

    @abstractmethod
    def __call__(self) -> None:
        """Do all of it."""

    @abstractmethod
    def begin(self) -> Callable[[], object]:
        """Do what comes before the sync, and return the sync."""

    @abstractmethod
    def finish(self) -> None:
        """Do what comes behind the sync."""


_Due: TypeAlias = tuple[SyncedWork, Callable[[Any], object], OnRaised]


class RoundOutcomes(list[Outcome]):
    """How the parts of a round ended: who is to be told, and what."""


def _never(error: Exception) -> None:
    """A round raises nothing: what its parts raised is told to whom they are of."""
    raise AssertionError(error)


class SyncRounds:
    """Does work of many lanes in rounds: all of it up to the syncs, these side by side, and then the rest.

    A thread for each of them would be woken for each, and they would wait for each other's turn of the
    interpreter at each call of the system. What comes while a round waits for its thread is part of it.
    """

    def __init__(self, threads: WorkQueue) -> None:
        """Use these threads."""
        self._threads = threads
        self._due: deque[_Due] = deque()  # for the next round; its thread takes all of it
        self._is_open = False  # a round was given to the threads and has not begun
        self._count = 0  # rounds that were given to the threads and were not told of yet
        self._left = RoundOutcomes()  # what a stop did, not told of yet

    def submit(self, work: SyncedWork, done: Callable[[None], object], failed: OnRaised) -> None:
        """Do work in the next round; see `WorkQueue.submit`."""
        self._due.append((work, done, failed))
        self._open()

    def _open(self) -> None:
        if not self._is_open and self._count < ROUNDS_MAX:
            self._is_open = True
            self._count += 1
            self._threads.submit(self._do, self._told, _never)

    def _do(self) -> RoundOutcomes:
        """Do what is due, on a thread."""
        self._is_open = False  # before the first is taken: whoever comes later begins another round
        due: list[_Due] = []
        with suppress(IndexError):  # two rounds may take from it at a time
            while True:
                due.append(self._due.popleft())
        if len(due) == 1:
            return RoundOutcomes([do(due[0])])
        outcomes = RoundOutcomes()
        begun: list[Job] = []
        syncs: list[Callable[[], object]] = []
        for work, done, failed in due:
            try:
                syncs.append(work.begin())
                begun.append((work.finish, done, failed))
            except Exception as error:
                outcomes.append((failed, error))
        for job, raised in zip(begun, self._threads.do_all(syncs), strict=True):
            outcomes.append(do(job) if raised is None else (job[2], raised))
        return outcomes

    def _told(self, outcomes: RoundOutcomes) -> None:
        self._count -= 1
        if self._due:
            self._open()
        left, self._left = self._left, RoundOutcomes()
        for tell, outcome in (*outcomes, *left):
            tell(outcome)

    def stop(self) -> None:
        """Do here what waits for a round. Nobody may be at one any more; its outcome may still be told."""
        self._left = self._do()


class Lane(WorkQueue):
    """Does one piece of work at a time, in order, on whichever thread is free.

    The next one begins before the outcome of the last one is told. Only the reactor's thread comes here.
    """

    def __init__(self, threads: WorkQueue, rounds: SyncRounds) -> None:
        """Use threads that may do what they are given in any order."""
        self._threads = threads
        self._rounds = rounds
        self._jobs: deque[Job] = deque()  # the first one is with the threads, the others wait for it

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Run `work` behind what this lane was given before; see `WorkQueue.submit`."""
        self._jobs.append((work, done, failed))
        if len(self._jobs) == 1:
            self._begin()

    def _begin(self) -> None:
        work = self._jobs[0][0]
        if isinstance(work, SyncedWork) and work.may_share:
            self._rounds.submit(work, self._done, self._failed)
        else:
            self._threads.submit(work, self._done, self._failed)

    def _done(self, outcome: object) -> None:
        self._take_over()[1](outcome)

    def _failed(self, error: Exception) -> None:
        self._take_over()[2](error)

    def _take_over(self) -> Job:
        """Let the next one begin, and return the one that is over."""
        job = self._jobs.popleft()
        if self._jobs:
            self._begin()
        return job

    def stop(self) -> None:
        """Finish here what waits. Nobody may be at the first one any more; its outcome may still be told."""
        if not self._jobs:
            return
        (work, done, failed), *waiting = self._jobs
        outcomes = [do(job) for job in waiting]

        def told(tell: Callable[[Any], object], outcome: object) -> None:
            tell(outcome)
            for tell_next, next_outcome in outcomes:
                tell_next(next_outcome)

        self._jobs = deque([(work, partial(told, done), partial(told, failed))])


class DiskLanes:
    """The lanes of one node, over the threads that write."""

    def __init__(self, threads: WorkQueue) -> None:
        """Use threads that may do what they are given in any order."""
        self._threads = threads
        self._rounds = SyncRounds(threads)  # the syncs that lanes share
        # By group. Whoever writes for a group keeps its lane, and so does the work on it.
        self._lanes: WeakValueDictionary[int, Lane] = WeakValueDictionary()

    def lane(self, group: int) -> WorkQueue:
        """Return the lane of a group; `NODE_LANE` is that of what is no log's."""
        lane = self._lanes.get(group)
        if lane is None:
            lane = self._lanes[group] = Lane(self._threads, self._rounds)
        return lane

    def stop(self) -> None:
        """Finish what was given, then end. Blocks until the threads are gone."""
        self._threads.stop()
        self._rounds.stop()
        for lane in list(self._lanes.values()):
            lane.stop()
