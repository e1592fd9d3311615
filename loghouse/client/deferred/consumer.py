"""The Deferred consumer: an `AsyncConsumer` on the client's loop, used by the reactor's thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from twisted.internet.defer import Deferred, fail

from loghouse.client.consumer_settings import Done, position_behind
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.deferred.cursors import deferred
from loghouse.client.deferred.opened import OpenedClient
from loghouse.client.deferred.reading import PulledAnswers
from loghouse.client.done_crossing import DoneCrossing
from loghouse.client.fields import values_of
from loghouse.client.records import Batch, Record
from loghouse.errors import ClientUseError, ClosedError, LoghouseError

_T = TypeVar("_T")


class DeferredConsumer:
    """Consumes a log through a cursor. See `DeferredLog.consumer`; methods and errors are `AsyncConsumer`'s.

    Attributes:
        cursor_name: The name of the cursor.
        holder: Who acquires it.
    """

    def __init__(self, opened: OpenedClient, consumer: AsyncConsumer, owner: object) -> None:
        """Use `DeferredLog.consumer`."""
        self.cursor_name = consumer.cursor_name
        self.holder = consumer.holder
        self._opened = opened
        self._run = opened.run
        self._inner = consumer
        self._owner = owner  # which closes the client when it is dropped
        self._given: Any = None  # what the program got last
        self._done = DoneCrossing(consumer, self._soon, position_behind)

    async def __aenter__(self) -> Self:
        await self._run(self._inner.__aenter__())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(self._inner.__aexit__(kind, error, trace))

    # --- what there is to do ----------------------------------------------------------------

    def acquire(self, *, wait_seconds: float | None = None) -> Deferred[int]:
        """Have the cursor, and return its position; see `AsyncConsumer.acquire`."""
        return self._run(self._inner.acquire(wait_seconds=wait_seconds), is_endless=True)

    def begin(self, *, wait_seconds: float | None = None) -> Deferred[int]:
        """Have the cursor, and return the offset where iterating begins; see `AsyncConsumer.begin`."""
        return self._run(self._inner.begin(wait_seconds=wait_seconds), is_endless=True)

    async def __aiter__(self) -> AsyncGenerator[Record, None]:
        async with aclosing(self._taken(self._inner.records_in)) as records:
            async for record in records:
                yield record

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """As iterating, whole batches at a time; see `AsyncConsumer.batches`."""
        async with aclosing(self._taken(self._inner.batches_in)) as batches:
            async for batch in batches:
                yield batch

    async def _taken(self, decode: Callable[[Iterator[Batch]], Iterator[_T]]) -> AsyncGenerator[_T, None]:
        """Yield what answers hold, decoded here."""
        pulled = PulledAnswers(self._opened, self._inner.answers())
        try:
            while (answer := await pulled.next()) is not None:
                for item in self._inner.once(decode(answer)):
                    self._given = item
                    yield item
                    self._inner.check_open()
        finally:
            pulled.close()

    # --- what is done -----------------------------------------------------------------------

    def done(self, done: Done | None = None) -> None:
        """This record or batch, and all before it, is handled; see `AsyncConsumer.done`."""
        self._opened.check_here()
        self._inner.check_open()
        position = self._position_behind(done)
        self._inner.check_held()
        self._done.note(position)

    def _soon(self, work: Callable[[], None]) -> None:
        self._opened.loop.soon(work)

    def emit(self, values: Iterable[bytes], done: Done | None = None) -> Deferred[None]:
        """Append records, and move the cursor behind what they were made of; see `AsyncConsumer.emit`."""
        try:
            position = self._position_behind(done)
            given = list(values_of(values))
        except LoghouseError:
            return fail()
        return self._run(self._inner.emit(given, position))

    commit = deferred("DeferredConsumer", AsyncConsumer.commit, "Wait until everything done is durable")

    def _position_behind(self, done: Any) -> int:
        if done is None:
            done = self._given
            if done is None:
                raise ClientUseError("this consumer gave nothing yet; say what is done")
        return position_behind(done)

    # --- where it is ------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The next one to do, committed or not; 0 before the cursor was acquired."""
        return max(self._inner.position, self._done.position())

    @property
    def committed(self) -> int:
        """The next one to do for who takes over; 0 before the cursor was acquired."""
        return self._inner.committed

    @property
    def is_active(self) -> bool:
        """Whether this consumer holds the cursor, as far as it knows."""
        return self._inner.is_active

    lag = deferred("DeferredConsumer", AsyncConsumer.lag, "Return how many of the log's records are not done")

    # --- the end ----------------------------------------------------------------------------

    def close(self) -> Deferred[None]:
        """Commit what is done, and let others have the cursor at once."""
        return self._end(self._inner.close())

    def abort(self) -> Deferred[None]:
        """End at once: nothing is committed any more, and others wait until the lease runs out."""
        self._done.forget()
        return self._end(self._inner.abort())

    def _end(self, end: Coroutine[Any, Any, None]) -> Deferred[None]:
        # A client that is closed has closed it.
        return self._run(end).addErrback(lambda failure: failure.trap(ClosedError) and None)
