"""Blocking consumers: asyncio ones on their client's loop, for programs without an event loop.

The loop reads, keeps the cursor and commits; records are decoded by the thread that takes them, and what it
says is done crosses to the loop together, not one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from loghouse.client.batching import encode_outputs
from loghouse.client.consumer_settings import Done, position_behind
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.crossing_consumer import CrossingConsumer, CrossingLog, CrossingMember
from loghouse.client.database import DatabaseConnection, DatabasePosition
from loghouse.client.group_consuming import AsyncGroupConsumer
from loghouse.client.group_records import GroupBatch, GroupDone, GroupRecord
from loghouse.client.loop_thread import LoopThread, pulled
from loghouse.client.open_consumers import OpenConsumers
from loghouse.client.place import Place
from loghouse.client.records import Batch, NewRecord, Record
from loghouse.errors import ClientUseError, ClosedError, UnavailableError

_T = TypeVar("_T")
_C = TypeVar("_C", bound=AsyncConsumer | AsyncGroupConsumer)


class ConsumerLoop(Protocol):
    """The loop of a client, which its consumers work on."""

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there and return its result."""

    def soon(self, work: Callable[[], None]) -> None:
        """Do something there; nothing once the loop is closed."""


class _BlockingConsumer(CrossingConsumer[_C]):
    """What consumers of one log and members of groups have in common; any thread may use them."""

    def __init__(self, consumer: _C, loop: ConsumerLoop, place: Place, owner: object) -> None:
        """Wait for what `consumer` does; `owner` is kept: it closes the loop when it is dropped."""
        super().__init__(consumer, loop.soon)
        self._loop = loop
        self._place = place
        self._owner = owner
        self._is_open = False

    def __enter__(self) -> Self:
        self._place.check_process()
        self._loop.run(self._inner.__aenter__())
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(lambda: self._inner.__aexit__(kind, error, trace))

    # --- what there is to do ----------------------------------------------------------------

    def _taken(self, decode: Callable[[Any], Iterator[_T]]) -> Iterator[_T]:
        """Yield what answers hold, decoded here."""
        self._check()
        with contextlib.closing(pulled(self._loop.run, self._inner.answers())) as answers:
            for answer in answers:
                for item in self._inner.once(decode(answer)):
                    self._given = item
                    yield item
                    self._check()

    # --- what is done -----------------------------------------------------------------------

    def commit(self) -> None:
        """Return once everything that is done is durable; see `AsyncConsumer.commit`."""

        async def commit() -> None:
            self._done.pass_on()
            await self._inner.commit()

        self._check()
        self._loop.run(commit())

    def _emit(self, values: Iterable[bytes | NewRecord], done: Any) -> Any:
        payload, record_count = encode_outputs(values)

        async def emit() -> Any:
            self._done.pass_on()
            return await self._inner.emit_encoded(payload, record_count, done)

        return self._loop.run(emit())

    # --- where it is ------------------------------------------------------------------------

    def lag(self) -> int:
        """Return how many records are not done."""

        async def lag() -> int:
            self._done.pass_on()
            return await self._inner.lag()

        self._check()
        return self._loop.run(lag())

    # --- the end ----------------------------------------------------------------------------

    def close(self) -> None:
        """Commit what is done, and let others go on at once.

        Raises:
            LoghouseError: Something that is done could not be committed.
        """
        self._end(self._inner.close)

    def abort(self) -> None:
        """End at once: nothing is committed any more, and others wait until the lease runs out."""
        self._done.forget()
        self._end(self._inner.abort)

    def _end(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def work() -> None:
            self._done.pass_on()
            await end()

        if not self._is_open or self._place.is_elsewhere:
            return  # it is closed; or the parent's
        self._is_open = False
        with contextlib.suppress(ClosedError):  # the client is closed, and this was with it
            self._loop.run(work())

    def _check(self) -> None:
        """Raise unless this consumer can do something."""
        self._place.check_process()
        if self._inner.failure is not None:
            raise self._inner.failure.anew()
        if not self._is_open:
            raise ClientUseError("this consumer is not open; use `with`")


class Consumer(_BlockingConsumer[AsyncConsumer], CrossingLog):
    """Consumes a log through a cursor. See `Client.consumer`; use it as a context manager.

        with log.consumer("billing") as consumer:
            for record in consumer:
                handle(record)
                consumer.done(record)

    It is `AsyncConsumer` for programs without an event loop: the same methods and errors.
    """

    def acquire(self, *, wait_seconds: float | None = None) -> int:
        """Have the cursor, and return its position; see `AsyncConsumer.acquire`."""
        self._check()
        return self._loop.run(self._inner.acquire(wait_seconds=wait_seconds))

    def begin(self, *, wait_seconds: float | None = None) -> int:
        """Have the cursor, and return the offset where iterating begins; see `AsyncConsumer.begin`."""
        self._check()
        return self._loop.run(self._inner.begin(wait_seconds=wait_seconds))

    def __iter__(self) -> Iterator[Record]:
        """Yield records from the position on, for ever; wait while another one holds the cursor.

        Errors are those of `AsyncConsumer.__aiter__`.
        """
        return self._taken(self._inner.records_in)

    def batches(self) -> Iterator[Batch]:
        """As iterating, whole batches at a time: several times as fast."""
        return self._taken(self._inner.batches_in)

    def emit(self, values: Iterable[bytes | NewRecord], done: Done | None = None) -> None:
        """Append records where the cursor is, and move it with them; see `AsyncConsumer.emit`."""
        self._emit(values, position_behind(self._what(done)))

    def process(
        self,
        connection: DatabaseConnection,
        handler: Callable[[Batch], object],
        *,
        name: str | None = None,
        paramstyle: str = "qmark",
    ) -> None:
        """Handle batches for ever, each in a transaction of a database that holds the position, too.

            consumer.process(database, lambda batch: database.executemany(INSERT, rows_of(batch)))

        See `AsyncConsumer.process`. The handler and the database are this thread's.
        """
        row = self.cursor_name if name is None else name
        place = DatabasePosition(connection, row, paramstyle=paramstyle)
        beginning = self.begin()
        position = place.claim(self._inner.epoch, beginning, self._inner.source)
        self._loop.run(self._inner.go_on_from(position))
        for batch in self.batches():
            place.handle(handler, batch, self._inner.epoch)
            self.done(batch)


class GroupConsumer(_BlockingConsumer[AsyncGroupConsumer], CrossingMember):
    """Consumes several logs as a member of a group. See `Client.consumer`; use it as a context manager.

    It is `AsyncGroupConsumer` for programs without an event loop: the same methods and errors.
    """

    def __iter__(self) -> Iterator[GroupRecord]:
        """Yield records of all logs that this member holds, for ever; those of one log in their order."""
        return self._taken(self._inner.records_in)

    def batches(self) -> Iterator[GroupBatch]:
        """As iterating, whole batches at a time: several times as fast."""
        return self._taken(self._inner.batches_in)

    def emit(self, values: Iterable[bytes | NewRecord], done: GroupDone | None = None) -> bool:
        """Append records, and move the cursor of their source with them; see `AsyncGroupConsumer.emit`."""
        return bool(self._emit(values, self._what(done)))


class ConsumersEnd:
    """The end of all consumers on a loop, for who waits in another thread, for a bounded time."""

    def __init__(self, thread: LoopThread, consumers: OpenConsumers) -> None:
        self._thread = thread
        self._consumers = consumers
        self._left: Future[str] = Future()

    def begin(self, seconds: float, before: Iterable[asyncio.Task[None]] = ()) -> None:
        """Commit what is done, and let all cursors go; nobody waits here.

        Args:
            before: What ends before that; half of the time is the consumers' even if it does not.
        """

        async def end() -> str:
            if waited := set(before):
                await asyncio.wait(waited, timeout=seconds / 2)
            return await self._consumers.close(seconds)

        def ended(task: asyncio.Task[str]) -> None:
            self._left.set_result("" if task.cancelled() or task.exception() else task.result())

        try:
            self._thread.begin(end(), ended)
        except (UnavailableError, ClientUseError):
            self._left.set_result("")  # the loop is closed, and they were with it

    def wait(self, until: float) -> str:
        """Wait until all have ended, or for a moment of the monotonic clock.

        Returns:
            What could not be committed, as a sentence; empty when everything is.
        """
        try:
            return self._left.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            return self._consumers.left()
