"""Threads for disk work: nothing here blocks the reactor.

Some threads do all writing of a node, what one log writes in order (`lanes`); a pool of readers does
cold reads. Both are `WorkQueue`s, so a test or a simulator can put its own in.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

OnRaised: TypeAlias = Callable[[Exception], object]
"""Is told what a piece of work raised."""

Job: TypeAlias = tuple[Callable[[], Any], Callable[[Any], object], OnRaised]
"""A piece of work, who is told what it returned, and who is told what it raised."""


def do(job: Job) -> tuple[Callable[[Any], object], Any]:
    """Do a piece of work; return who is to be told, and what."""
    work, done, failed = job
    try:
        return done, work()
    except Exception as error:
        return failed, error


def _nothing(_: object) -> None:
    """Do nothing with a result."""


def _guarded(tell: Callable[[T], object], fatal: OnRaised) -> Callable[[T], None]:
    def told(outcome: T) -> None:
        try:
            tell(outcome)
        except Exception as error:
            fatal(error)

    return told


class WorkQueue(ABC):
    """Runs work elsewhere and hands the result back on the reactor's thread."""

    @abstractmethod
    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Run `work`, then call `done` with what it returned, or `failed` with what it raised.

        Neither may raise: there is nobody to tell.
        """

    @abstractmethod
    def stop(self) -> None:
        """Finish what was given, then end. Blocks until the threads are gone."""

    def run(
        self,
        work: Callable[[], T],
        done: Callable[[T], object] = _nothing,
        failed: OnRaised | None = None,
        *,
        fatal: OnRaised,
    ) -> None:
        """As `submit`, but either may raise: `fatal` is told that.

        Without `failed`, it is also told what `work` raised.
        """
        tell_failed = fatal if failed is None else _guarded(failed, fatal)
        self.submit(work, _guarded(done, fatal), tell_failed)


class ThreadQueue(WorkQueue):
    """Threads taking work from one queue; with one thread, work keeps its order.

    The first thread is there from the start, each further one from when there was work for it.
    """

    def __init__(
        self, name: str, call_from_thread: Callable[[Callable[[], None]], object], thread_count: int = 1
    ) -> None:
        self._name = name
        self._thread_count = thread_count
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._call_from_thread = call_from_thread
        self._outcomes: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._untold_count = 0  # pieces of work whose outcome was not told yet
        self._threads: list[threading.Thread] = []
        self._start_thread()

    def _start_thread(self) -> None:
        # Daemons: a thread stuck in a dead disk must not keep a stopping process alive.
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def submit(self, work: Callable[[], T], done: Callable[[T], object], failed: OnRaised) -> None:
        """Run `work` on one of the threads; see `WorkQueue.submit`."""
        self._queue.put((work, done, failed))
        self._untold_count += 1
        if len(self._threads) < min(self._untold_count, self._thread_count):
            with suppress(RuntimeError):  # the system has no thread to give: those there are will do
                self._start_thread()

    def stop(self) -> None:
        """Finish what was given, then end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._outcomes.append(do(job))
            del job  # while this thread waits for the next, what it holds must be gone
            self._call_from_thread(self._tell)

    def _tell(self) -> None:
        tell, outcome = self._outcomes.popleft()
        self._untold_count -= 1
        tell(outcome)
