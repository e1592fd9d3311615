"""Threads for disk work: nothing here blocks the reactor.

Some threads do all writing of a node, what one log writes in order (`lanes`); a pool of readers does
cold reads. Both are `WorkQueue`s, so a test or a simulator can put its own in.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

OnRaised: TypeAlias = Callable[[Exception], object]
"""Is told what a piece of work raised."""

Job: TypeAlias = tuple[Callable[[], Any], Callable[[Any], object], OnRaised]
"""A piece of work, who is told what it returned, and who is told what it raised."""


Outcome: TypeAlias = tuple[Callable[[Any], object], Any]
"""Who is told how a piece of work ended, and what."""


def do(job: Job) -> Outcome:
    """Do a piece of work; return who is to be told, and what."""
    work, done, failed = job
    try:
        return done, work()
    except Exception as error:
        return failed, error


def raised_by(call: Callable[[], object]) -> Exception | None:
    """Call it; return what it raised."""
    try:
        call()
    except Exception as error:
        return error
    return None


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

    def do_all(self, calls: Sequence[Callable[[], object]]) -> list[Exception | None]:
        """Do all of these, side by side where there are threads for it; return what each raised.

        For a piece of work, on its thread. Blocks until the last one is done.
        """
        return [raised_by(call) for call in calls]

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
        # What is to be done, what helps a piece of work on another thread, and None for each thread to end.
        self._queue: SimpleQueue[Job | Callable[[], None] | None] = SimpleQueue()
        self._call_from_thread = call_from_thread
        self._outcomes: deque[Outcome] = deque()
        self._untold_count = 0  # pieces of work whose outcome was not told yet
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()  # held while threads are counted, started or told to end
        self._is_ending = False  # set once, by `stop`
        self._start_thread()

    def _want_threads(self, count: int) -> None:
        """See to it that there are so many threads, as far as there may be."""
        if len(self._threads) >= min(count, self._thread_count):
            return
        with self._starting, suppress(RuntimeError):  # the system has no thread to give: those there will do
            while len(self._threads) < min(count, self._thread_count) and not self._is_ending:
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
        self._want_threads(self._untold_count)

    def do_all(self, calls: Sequence[Callable[[], object]]) -> list[Exception | None]:
        """Do all of these; see `WorkQueue.do_all`. Nobody waits for a thread: what is left is done here."""
        if len(calls) < 2:
            return super().do_all(calls)
        raised: list[Exception | None] = [None] * len(calls)
        left, ends, over = deque(enumerate(calls)), count(1), threading.Lock()
        over.acquire()

        def help_out() -> None:
            while True:
                try:
                    place, call = left.popleft()
                except IndexError:
                    return
                raised[place] = raised_by(call)
                if next(ends) == len(calls):
                    over.release()

        self._want_threads(len(calls))
        for _ in calls[1:]:
            self._queue.put(help_out)
        help_out()
        over.acquire()
        return raised

    def stop(self) -> None:
        """Finish what was given, then end the threads."""
        with self._starting:
            self._is_ending = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if not isinstance(job, tuple):
                job()
                continue
            self._outcomes.append(do(job))
            del job  # while this thread waits for the next, what it holds must be gone
            self._call_from_thread(self._tell)

    def _tell(self) -> None:
        tell, outcome = self._outcomes.popleft()
        self._untold_count -= 1
        tell(outcome)
