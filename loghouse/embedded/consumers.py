"""Consumers of an embedded log, for programs without an event loop: on a thread that the first one begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from loghouse.client import exiting
from loghouse.client.blocking_consumer import Consumer, ConsumersEnd
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.loop_thread import LoopThread
from loghouse.client.open_consumers import LEAVE_SECONDS
from loghouse.client.place import Place
from loghouse.embedded.asynchronous import AsyncEmbeddedLog

if TYPE_CHECKING:
    from loghouse.embedded.blocking import EmbeddedLog

T = TypeVar("T")


class EmbeddedConsumers:
    """What keeps the cursors of one embedded log's consumers."""

    def __init__(self, log: EmbeddedLog) -> None:
        """Begin a thread; `close` ends it."""
        self.log = AsyncEmbeddedLog(log)
        self._place = Place()
        self._place.check_process()
        self._thread = LoopThread()
        self._end = ConsumersEnd(self._thread, self.log.consumers)
        exiting.opened(self)

    def blocking(self, consumer: AsyncConsumer, owner: object) -> Consumer:
        """Return a consumer of `log` for a program without an event loop."""
        return Consumer(consumer, self, self._place, owner)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; see `LoopThread.run`."""
        return self._thread.run(work)

    def soon(self, work: Callable[[], None]) -> None:
        """Do something on the loop; nothing once it is closed."""
        self._thread.soon(work)

    def finish(self, seconds: float) -> None:
        """See `exiting.Open`."""
        self._end.begin(seconds)

    def flush(self, until: float) -> str:
        """See `exiting.Open`."""
        return self._end.wait(until)

    def close(self, until: float | None = None) -> None:
        """Close the consumers, until a moment of the monotonic clock or for 10 seconds; end the thread."""
        if self._place.is_elsewhere:
            return  # it is the parent's
        exiting.closed(self)
        seconds = LEAVE_SECONDS if until is None else max(0.0, until - time.monotonic())
        self._thread.close(partial(self.log.leave, seconds))
