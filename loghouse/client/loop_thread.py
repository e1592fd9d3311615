"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from loghouse.client.place import Place
from loghouse.errors import ClientUseError, ClosedError, UnavailableError

JOIN_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 1.0
"""How long gRPC may take to end the calls of a client that closes."""
CHECK_SECONDS: Final = 0.5
"""How often a waiting thread looks around: for its loop, and for a Ctrl-C that came just before it waited."""

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """An event loop that runs in a thread until it is closed."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._place = Place()
        self._is_closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="loghouse client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and return its result.

        Whatever interrupts the wait, such as Ctrl-C, cancels the coroutine and waits until it has ended.

        Raises:
            UnavailableError: The loop is closed, or was closed meanwhile.
        """
        try:
            self._place.check_process()
        except ClientUseError:
            work.close()
            raise
        if self._is_closing:
            work.close()
            raise ClosedError("the client is closed")
        return self._wait_for(work)

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        tasks: list[asyncio.Task[T]] = []
        done = threading.Event()

        def start() -> None:
            task = self.loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: done.set())
            tasks.append(task)

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # interrupted before it could begin, and now it never will
                work.close()
                done.set()

        try:
            self._soon(start)
            while not done.wait(CHECK_SECONDS):
                if self.loop.is_closed():
                    raise ClosedError("the client is closed")
        except BaseException:
            try:
                self._soon(cancel)
                done.wait(JOIN_SECONDS)
            except UnavailableError:
                work.close()
            raise
        try:
            return tasks[0].result()
        except asyncio.CancelledError:
            raise ClosedError("the client was closed before the answer came") from None

    def _soon(self, callback: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            raise ClosedError("the client is closed") from None

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a last coroutine, cancel all others, and end the thread; a second time does nothing."""
        if self._is_closing:
            return
        self._is_closing = True  # nobody's clean-up may come into the way of ours
        with contextlib.suppress(Exception):
            self._wait_for(self._finish(last))
        with contextlib.suppress(UnavailableError):
            self._soon(self.loop.stop)
        self.join(JOIN_SECONDS)

    def close_soon(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As `close`, but nobody waits: any thread may call it, at any moment, this one included."""
        if self._is_closing:
            return
        self._is_closing = True

        def begin() -> None:
            ending = self.loop.create_task(self._finish(last))
            ending.add_done_callback(self._ended)

        with contextlib.suppress(UnavailableError):
            self._soon(begin)

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, at most so long."""
        self._thread.join(seconds)

    def _ended(self, ending: asyncio.Task[None]) -> None:
        if not ending.cancelled():
            ending.exception()  # nobody is there to be told
        self.loop.stop()

    async def _finish(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await last()
        finally:
            myself = asyncio.current_task()
            await _end(self._tasks - {myself})
            await let_calls_end()
            await _end(asyncio.all_tasks() - {myself})
            await asyncio.get_running_loop().shutdown_asyncgens()


async def let_calls_end() -> None:
    """Let gRPC's tasks of this loop end, which is about to close; nothing else may be running there.

    They end when its core has told how each call ended. Cancelled, they would not wait, and the core's news,
    coming after this loop's end, would be another loop's exception.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=SETTLE_SECONDS)


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=JOIN_SECONDS)
