"""Threads for disk work: nothing here blocks the reactor.

One `DiskThread` does all writing of a node, in order; a pool of readers does
cold reads. Both are `WorkQueue`s, so a test or a simulator can put its own in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class WorkQueue(Protocol):
    """Runs work elsewhere and hands the result back on the reactor's thread."""

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Run `work`; the Deferred fires with what it returned or raised."""

    def stop(self) -> None:
        """Finish what was given, then end. Blocks until the threads are gone."""


class ThreadQueue:
    """A fixed number of threads taking work from one queue; with one thread, work keeps its order."""

    def __init__(
        self, name: str, call_from_thread: Callable[[Callable[[], None]], object], thread_count: int = 1
    ) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._call_from_thread = call_from_thread
        # Daemons: a thread stuck in a dead disk must not keep a stopping process alive.
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(thread_count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Run `work` on one of the threads; see `WorkQueue.run`."""
        done: Deferred[T] = Deferred()

        def job() -> None:
            try:
                result = work()
            except Exception:
                failure = Failure()
                self._call_from_thread(lambda: None if done.called else done.errback(failure))
            else:
                # A caller may have cancelled its wait; the work was done all the same.
                self._call_from_thread(lambda: None if done.called else done.callback(result))

        self._queue.put(job)
        return done

    def stop(self) -> None:
        """Finish what was given, then end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job()
