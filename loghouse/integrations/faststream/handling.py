"""How the records of one consumer get to the handlers of a subscriber, and what is done to its cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from itertools import count
from typing import Any, Final, Protocol, TypeAlias
from zlib import crc32

from faststream.message import AckStatus

from loghouse.client.records import Batch, NewRecord, Record
from loghouse.integrations.faststream.message import Received
from loghouse.integrations.faststream.progress import HandledInOrder, retry_seconds

LANE_SIZE: Final = 8
"""Records that wait for one of several workers; then reading waits."""
Mark: TypeAlias = Record | Batch


class ToldConsumer(Protocol):
    """What is told of a consumer's records, once it has given them."""

    def done(self, mark: Mark) -> None:
        """Let the cursor pass a record or a batch, and all before it."""

    def emit(self, values: Iterable[bytes | NewRecord], done: Mark) -> Awaitable[None]:
        """Append records in one step with the cursor that passes this."""


class Subscriber(Protocol):
    """What is used of a subscriber."""

    running: bool
    lock: Any
    into: Any
    is_batch: bool
    max_workers: int
    retry_seconds: float
    tasks: set[Any]

    def log_of(self, mark: Mark) -> str:
        """Return the log that a record or a batch is of."""

    def consume(self, received: Received) -> Awaitable[Any]:
        """Have it handled, and its status set; raises nothing of the handler's."""


class Handling:
    """Hands what one consumer gives to a subscriber, for as long as that runs.

    Attributes:
        handled_count: What was handled and acknowledged, or rejected.
    """

    def __init__(self, subscriber: Subscriber, consumer: ToldConsumer) -> None:
        self._subscriber = subscriber
        self._consumer = consumer
        self._in_order = HandledInOrder()  # with several workers: what is handled, or waits for its turn
        self._passing = asyncio.Lock()  # held while the cursor is moved by answers, so that it goes forward
        self.handled_count = 0

    async def run(self, marks: AsyncGenerator[Mark, None]) -> None:
        """Handle what the consumer gives until the subscriber is stopped.

        Raises:
            LoghouseError: Of the consumer.
        """
        with self._as_own_task():
            async with aclosing(self._received(marks)) as given:
                if self._subscriber.max_workers > 1:
                    await self._hand_out(given)
                    return
                async for received in given:
                    await self._handle(received)

    @contextmanager
    def _as_own_task(self) -> Iterator[None]:
        """Let the subscriber know a task that handlers run in."""
        task = asyncio.current_task()
        self._subscriber.tasks.add(task)
        try:
            yield
        finally:
            self._subscriber.tasks.discard(task)

    async def _received(self, marks: AsyncGenerator[Mark, None]) -> AsyncGenerator[Received, None]:
        async with aclosing(marks):
            async for mark in marks:
                if not self._subscriber.running:
                    return
                yield self.receive(mark)
                if not self._subscriber.running:
                    return

    def receive(self, mark: Mark) -> Received:
        """Return a record, or a batch, as the subscriber gets it."""
        subscriber = self._subscriber
        records = (mark,) if isinstance(mark, Record) else tuple(mark)
        return Received(subscriber.log_of(mark), records, mark, self.acknowledged, subscriber.into)

    # --- several workers --------------------------------------------------------------------

    async def _hand_out(self, given: AsyncIterator[Received]) -> None:
        """Give each record to a worker: those of a key to the same one, those without in turn.

        Workers that wait for records end by being cancelled, when the subscriber is stopped.
        """
        lanes = [asyncio.Queue[Received](LANE_SIZE) for _ in range(self._subscriber.max_workers)]
        turns = count()
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(self._work(lane))
                async for received in given:
                    self._in_order.give(received)
                    key = received.key
                    await lanes[(next(turns) if key is None else crc32(key)) % len(lanes)].put(received)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self, lane: asyncio.Queue[Received]) -> None:
        with self._as_own_task():
            while self._subscriber.running:
                await self._handle(await lane.get())

    # --- one record -------------------------------------------------------------------------

    async def _handle(self, received: Received) -> None:
        """Have a record handled, again and again until it is not to be handled again."""
        subscriber = self._subscriber
        failure_count = 0
        while subscriber.running:
            # Held until the cursor is told, too: whoever stops the subscriber waits for both.
            with subscriber.lock:
                await subscriber.consume(received)
                if received.status is not AckStatus.NACKED:
                    await self.settle(received)
                    return
            failure_count += 1
            await asyncio.sleep(retry_seconds(subscriber.retry_seconds, failure_count))
            received.reset()

    def acknowledged(self, received: Received) -> None:
        """Let the cursor pass a record at once; where answers go with it, `settle` does that."""
        if self._subscriber.into is None:
            for passed in self._passed(received):
                self._consumer.done(passed.mark)

    async def settle(self, received: Received) -> None:
        """Append the answers of a record that is handled in one step with the cursor.

        Raises:
            LoghouseError: They could not be appended; nor did the cursor move.
        """
        received.is_over = True
        if received.status is None:
            return  # nobody said what became of it: it waits for the next one that is acknowledged
        self.handled_count += 1
        if self._subscriber.into is None:
            return
        async with self._passing:
            for passed in self._passed(received):
                if passed.answers and passed.status is AckStatus.ACKED:
                    await self._consumer.emit(passed.answers, done=passed.mark)
                else:
                    self._consumer.done(passed.mark)

    def _passed(self, received: Received) -> list[Received]:
        """Return what the cursor may pass now that one more is handled, in order."""
        return self._in_order.done(received) if len(self._in_order) else [received]
