"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
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
        self._place.check_process()  # the thread is this process's
        self._is_closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._then: Callable[[], object] = _nothing
        self._thread = threading.Thread(target=self._run, name="loghouse client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()
            self._then()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and return its result.

        Whatever interrupts the wait, such as Ctrl-C, cancels the coroutine and waits until it has ended.

        Raises:
            UnavailableError: The loop is closed, or was closed meanwhile.
        """
        self._check(work)
        return self._wait_for(work)

    def begin(
        self, work: Coroutine[Any, Any, T], ended: Callable[[asyncio.Task[T]], object]
    ) -> Callable[[], None]:
        """Start a coroutine there, and return what cancels it; `ended` gets its task at the end, on the loop.

        Raises:
            As `run`, when the loop is closed.
        """
        self._check(work)
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self._start(work)
            task.add_done_callback(ended)
            tasks.append(task)

        def cancel() -> None:
            self.soon(lambda: tasks[0].cancel())  # it has begun by then

        self._soon(start)
        return cancel

    def _check(self, work: Coroutine[Any, Any, Any]) -> None:
        """Raise unless work can begin here; it is closed then."""
        try:
            self._place.check_process()
            if self._is_closing:
                raise ClosedError("the client is closed")
        except (ClientUseError, ClosedError):
            work.close()
            raise

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        tasks: list[asyncio.Task[T]] = []
        done = threading.Event()

        def start() -> None:
            task = self._start(work)
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

    def soon(self, callback: Callable[[], object]) -> None:
        """Do something on the loop; nothing when it is closed."""
        with contextlib.suppress(UnavailableError):
            self._soon(callback)

    def _soon(self, callback: Callable[[], object]) -> None:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            raise ClosedError("the client is closed") from None

    def close(self, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a last coroutine, cancel all others, and end the thread; a second time does nothing."""
        if self._is_closing:
            return
        self._is_closing = True  # nobody's clean-up may come into the way of ours
        with contextlib.suppress(Exception):
            self._wait_for(self._finish(last))
        self.soon(self.loop.stop)
        self.join(JOIN_SECONDS)

    def close_soon(
        self, last: Callable[[], Coroutine[Any, Any, object]], then: Callable[[], object] | None = None
    ) -> None:
        """As `close`, but nobody waits: any thread may call it, at any moment, this one included.

        Args:
            then: The last thing that the thread does.
        """
        if self._is_closing:
            return
        self._is_closing = True
        self._then = then or _nothing

        def begin() -> None:
            ending = self.loop.create_task(self._finish(last))
            ending.add_done_callback(self._ended)

        self.soon(begin)

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, at most so long."""
        self._thread.join(seconds)

    def _ended(self, ending: asyncio.Task[None]) -> None:
        if not ending.cancelled():
            ending.exception()  # nobody is there to be told
        self.loop.stop()

    async def _finish(self, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            await last()
        finally:
            myself = asyncio.current_task()
            await end_tasks(self._tasks - {myself})
            await let_calls_end()
            await end_tasks(asyncio.all_tasks() - {myself})
            await asyncio.get_running_loop().shutdown_asyncgens()


def _nothing() -> None:
    pass


async def let_calls_end() -> None:
    """Let gRPC's tasks of this loop end, which is about to close; nothing else may be running there.

    They end when its core has told how each call ended. Cancelled, they would not wait, and the core's news,
    coming after this loop's end, would be another loop's exception.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=SETTLE_SECONDS)


async def end_tasks(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=JOIN_SECONDS)


Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on a loop in another thread, and returns its result."""


def pulled(run: Run, answers: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Yield here what a generator gives on the loop, and close it there in the end."""

    async def next_one() -> tuple[T] | None:
        try:
            return (await anext(answers),)
        except StopAsyncIteration:
            return None

    async def close() -> None:
        await answers.aclose()

    try:
        while (found := run(next_one())) is not None:
            yield found[0]
    finally:
        # Closed, and with it what it read; or in a forked child.
        with contextlib.suppress(UnavailableError, ClientUseError):
            run(close())
