"""Lanes: what one log writes is done in order, and beside what other logs write.

A thread that syncs the files of many logs waits for one after the other. Syncs that come together share the
file system's commit, so each log has a lane of its own, and few threads serve them all: a lane has a thread
only while there is work on it. A log alone has one thread, and the same way there and back as without lanes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from loghouse.runtime.threads import Job, OnRaised, WorkQueue, do

T = TypeVar("T")

NODE_LANE: Final = 0
"""The lane of what a node writes for itself: no log is of group 0."""


class Lane(WorkQueue):
    """Does one piece of work at a time, in order, on whichever thread is free.

    The next one begins before the outcome of the last one is told. Only the reactor's thread comes here.
    """

    def __init__(self, threads: WorkQueue) -> None:
        """Use threads that may do what they are given in any order."""
        self._threads = threads
        self._jobs: deque[Job] = deque()  # the first one is with the threads, the others wait for it

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Run `work` behind what this lane was given before; see `WorkQueue.submit`."""
        self._jobs.append((work, done, failed))
        if len(self._jobs) == 1:
            self._begin()

    def _begin(self) -> None:
        self._threads.submit(self._jobs[0][0], self._done, self._failed)

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
        # By group. Whoever writes for a group keeps its lane, and so does the work on it.
        self._lanes: WeakValueDictionary[int, Lane] = WeakValueDictionary()

    def lane(self, group: int) -> WorkQueue:
        """Return the lane of a group; `NODE_LANE` is that of what is no log's."""
        lane = self._lanes.get(group)
        if lane is None:
            lane = self._lanes[group] = Lane(self._threads)
        return lane

    def stop(self) -> None:
        """Finish what was given, then end. Blocks until the threads are gone."""
        self._threads.stop()
        for lane in list(self._lanes.values()):
            lane.stop()
