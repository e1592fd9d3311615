"""Consumers of an embedded log, for programs without an event loop: on a thread that the first one begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from loghouse.client import exiting
from loghouse.client.blocking_consumer import Consumer, close_consumers
from loghouse.client.consumer_base import AnyConsumer
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.loop_thread import LoopThread
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
        self._consumers: WeakSet[AnyConsumer] = WeakSet()
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

    def opened(self, consumer: AnyConsumer) -> None:
        """Close this consumer when the log is closed, if it is open still."""
        self._consumers.add(consumer)

    def flush(self, until: float) -> str:
        """Close the consumers; see `exiting.Open`."""
        return close_consumers(self, self._consumers, until)

    def close(self, until: float = float("-inf")) -> None:
        """Close the consumers, and end the thread."""
        if self._place.is_elsewhere:
            return  # it is the parent's
        exiting.closed(self)
        self.flush(max(until, time.monotonic() + exiting.EXIT_SECONDS))
        self._thread.close(self.log.leave)
