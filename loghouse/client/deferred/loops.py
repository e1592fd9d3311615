"""Where the asyncio client of a Twisted program runs: on the reactor's own loop, or on one in a thread.

Both look alike to the reactor's thread, the only one that uses them: a coroutine goes to the loop and gives a
Deferred; what else is to be done on the loop goes there by `soon`, and comes from there by `back`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred

from loghouse.client.loop_thread import JOIN_SECONDS, LoopThread, end_tasks
from loghouse.errors import ClosedError

T = TypeVar("T")
Last = Callable[[], Coroutine[Any, Any, object]]
"""Makes the last coroutine of a loop, which closes the client."""


class ClientLoop(Protocol):
    """A loop, as the reactor's thread uses it.

    Attributes:
        lock: Held while both threads, if there are two, use something.
    """

    lock: AbstractContextManager[Any]

    def time(self) -> float:
        """Return the loop's clock, in seconds."""

    def run(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Run a coroutine on the loop, and return its result; to cancel the Deferred cancels it."""

    def soon(self, work: Callable[[], object]) -> None:
        """Do something on the loop; nothing when it is closed."""

    def back(self, work: Callable[..., object], *given: object) -> None:
        """Do something on the reactor's thread, in a later turn; on the loop."""

    def close(self, last: Last) -> Deferred[None]:
        """Run the last coroutine, and cancel all others that were run here."""


class ReactorLoop:
    """The loop of the asyncio reactor, which runs with it: nothing changes threads."""

    def __init__(self, reactor: AsyncioSelectorReactor) -> None:
        self.lock: AbstractContextManager[Any] = contextlib.nullcontext()
        # Before the reactor runs, nothing else tells its loop.
        self._loop = reactor._asyncioEventloop
        self._tasks: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        """See `ClientLoop`."""
        return self._loop.time()

    def run(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """See `ClientLoop`."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        deferred: Deferred[T] = Deferred(lambda _: self.soon(task.cancel))
        task.add_done_callback(lambda task: _tell(deferred, task))
        return deferred

    def soon(self, work: Callable[[], object]) -> None:
        """See `ClientLoop`."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(work)

    def back(self, work: Callable[..., object], *given: object) -> None:
        """See `ClientLoop`."""
        self._loop.call_soon(work, *given)

    def close(self, last: Last) -> Deferred[None]:
        """See `ClientLoop`."""
        return self.run(self._finish(last))

    async def _finish(self, last: Last) -> None:
        try:
            await last()
        finally:
            await end_tasks(self._tasks - {asyncio.current_task()})


class ThreadLoop:
    """A loop in a thread, for reactors that are none of asyncio's: a call changes threads twice."""

    def __init__(self, reactor: Any) -> None:
        self.lock: AbstractContextManager[Any] = threading.Lock()
        self._reactor = reactor
        self._thread = LoopThread()

    def time(self) -> float:
        """See `ClientLoop`."""
        return self._thread.loop.time()

    def run(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """See `ClientLoop`."""
        deferred: Deferred[T] = Deferred(lambda _: cancel())
        cancel = self._thread.begin(work, lambda task: self.back(_tell, deferred, task))
        return deferred

    def soon(self, work: Callable[[], object]) -> None:
        """See `ClientLoop`."""
        self._thread.soon(work)

    def back(self, work: Callable[..., object], *given: object) -> None:
        """See `ClientLoop`."""
        self._reactor.callFromThread(work, *given)

    def close(self, last: Last) -> Deferred[None]:
        """See `ClientLoop`; the thread has ended by then."""
        closed: Deferred[None] = Deferred()

        def ended() -> None:
            self._thread.join(JOIN_SECONDS)
            closed.callback(None)

        self._thread.close_soon(last, lambda: self.back(ended))
        return closed


def loop_of(reactor: Any) -> ClientLoop:
    """Return where an asyncio client runs beside a reactor."""
    return ReactorLoop(reactor) if isinstance(reactor, AsyncioSelectorReactor) else ThreadLoop(reactor)


def _tell(deferred: Deferred[T], task: asyncio.Task[T]) -> None:
    """Fire a Deferred, unless it was cancelled, with what its task came to; on the reactor's thread."""
    error = (
        ClosedError("the client was closed before the answer came") if task.cancelled() else task.exception()
    )
    if deferred.called:
        return
    if error is not None:
        deferred.errback(error)
    else:
        deferred.callback(task.result())
