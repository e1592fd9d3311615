"""Deferred consumers: asyncio ones on the client's loop, used by the reactor's thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from twisted.internet.defer import Deferred, fail

from loghouse.client.batching import encode_outputs
from loghouse.client.consumer_settings import Done, position_behind
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.crossing_consumer import CrossingConsumer, CrossingLog, CrossingMember
from loghouse.client.database import DatabaseConnection, DatabasePosition
from loghouse.client.deferred.opened import OpenedClient
from loghouse.client.deferred.reading import PulledAnswers
from loghouse.client.group_consuming import AsyncGroupConsumer
from loghouse.client.group_records import GroupBatch, GroupDone, GroupRecord, behind
from loghouse.client.keeping import check_waiting
from loghouse.client.records import Batch, NewRecord, Record
from loghouse.errors import ClosedError, LoghouseError

_T = TypeVar("_T")
_C = TypeVar("_C", bound=AsyncConsumer | AsyncGroupConsumer)


class _DeferredConsumer(CrossingConsumer[_C]):
    """What consumers of one log and members of groups have in common."""

    def __init__(self, opened: OpenedClient, consumer: _C, owner: object) -> None:
        """Give Deferreds of what `consumer` does; `owner` is kept: it closes its client when dropped."""
        super().__init__(consumer, lambda work: opened.loop.soon(work))
        self._opened = opened
        self._run = opened.run
        self._owner = owner
        self._emit_count = 0  # emits whose Deferreds have not fired
        self._emit_size = 0  # bytes of them

    async def __aenter__(self) -> Self:
        await self._run(self._inner.__aenter__())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(self._inner.__aexit__(kind, error, trace))

    # --- what there is to do ----------------------------------------------------------------

    async def _taken(self, decode: Callable[[Any], Iterator[_T]]) -> AsyncGenerator[_T, None]:
        """Yield what answers hold, decoded here."""
        pulled: PulledAnswers[Any] = PulledAnswers(self._opened, self._inner.answers())
        try:
            while (answer := await pulled.next()) is not None:
                for item in self._inner.once(decode(answer)):
                    self._given = item
                    yield item
                    self._inner.check_open()
        finally:
            pulled.close()

    # --- what is done -----------------------------------------------------------------------

    def _check(self) -> None:
        self._opened.check_here()
        self._inner.check_open()

    def _emit(
        self,
        values: Iterable[bytes | NewRecord],
        what: Callable[[], _T],
        emit: Callable[[bytes, int, _T], Coroutine[Any, Any, Any]],
    ) -> Deferred[Any]:
        """Encode records here, and have them emitted, unless nobody waits for too many of them."""
        try:
            done = what()
            payload, record_count = encode_outputs(values)
            check_waiting(self._emit_count, self._emit_size)
        except LoghouseError:
            return fail()

        def ended(result: Any) -> Any:
            self._emit_count -= 1
            self._emit_size -= len(payload)
            return result

        self._emit_count += 1
        self._emit_size += len(payload)
        return self._run(emit(payload, record_count, done)).addBoth(ended)

    def commit(self) -> Deferred[None]:
        """Wait until everything done is durable; see `AsyncConsumer.commit`."""
        return self._run(self._inner.commit())

    # --- where it is ------------------------------------------------------------------------

    def lag(self) -> Deferred[int]:
        """Return how many records are not done; see `AsyncConsumer.lag`."""
        return self._run(self._inner.lag())

    # --- the end ----------------------------------------------------------------------------

    def close(self) -> Deferred[None]:
        """Commit what is done, and let others go on at once."""
        return self._end(self._inner.close())

    def abort(self) -> Deferred[None]:
        """End at once: nothing is committed any more, and others wait until the lease runs out."""
        self._done.forget()
        return self._end(self._inner.abort())

    def _end(self, end: Coroutine[Any, Any, None]) -> Deferred[None]:
        # A client that is closed has closed it.
        return self._run(end).addErrback(lambda failure: failure.trap(ClosedError) and None)


class DeferredConsumer(_DeferredConsumer[AsyncConsumer], CrossingLog):
    """Consumes a log through a cursor. See `DeferredLog.consumer`.

    It is `AsyncConsumer` for Twisted programs: the same methods and errors.
    """

    def acquire(self, *, wait_seconds: float | None = None) -> Deferred[int]:
        """Have the cursor, and return its position; see `AsyncConsumer.acquire`."""
        return self._run(self._inner.acquire(wait_seconds=wait_seconds), is_endless=True)

    def begin(self, *, wait_seconds: float | None = None) -> Deferred[int]:
        """Have the cursor, and return the offset where iterating begins; see `AsyncConsumer.begin`."""
        return self._run(self._inner.begin(wait_seconds=wait_seconds), is_endless=True)

    def __aiter__(self) -> AsyncGenerator[Record, None]:
        return self._taken(self._inner.records_in)

    def batches(self) -> AsyncGenerator[Batch, None]:
        """As iterating, whole batches at a time; see `AsyncConsumer.batches`."""
        return self._taken(self._inner.batches_in)

    def emit(self, values: Iterable[bytes | NewRecord], done: Done | None = None) -> Deferred[None]:
        """Append records, and move the cursor behind what they were made of; see `AsyncConsumer.emit`.

        Wait for it before the next one: that is what holds back a program that is faster than its log.
        """
        return self._emit(values, lambda: position_behind(self._what(done)), self._inner.emit_encoded)

    def process(
        self,
        connection: DatabaseConnection,
        handler: Callable[[Batch], object],
        *,
        name: str | None = None,
        paramstyle: str = "qmark",
    ) -> Deferred[None]:
        """Handle batches until it is cancelled, each in a transaction of a database with the position.

        See `AsyncConsumer.process`. The handler runs on the reactor's thread, which waits for the database.
        """
        row = self.cursor_name if name is None else name
        return Deferred.fromCoroutine(self._process(connection, handler, row, paramstyle))

    async def _process(
        self, connection: DatabaseConnection, handler: Callable[[Batch], object], row: str, paramstyle: str
    ) -> None:
        place = DatabasePosition(connection, row, paramstyle=paramstyle)
        beginning = await self.begin()
        position = place.claim(self._inner.epoch, beginning, self._inner.source)
        await self._run(self._inner.go_on_from(position))
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                place.handle(handler, batch, self._inner.epoch)
                self.done(batch)


class DeferredGroupConsumer(_DeferredConsumer[AsyncGroupConsumer], CrossingMember):
    """Consumes several logs as a member of a group. See `DeferredClient.consumer`.

    It is `AsyncGroupConsumer` for Twisted programs: the same methods and errors.
    """

    def __aiter__(self) -> AsyncGenerator[GroupRecord, None]:
        return self._taken(self._inner.records_in)

    def batches(self) -> AsyncGenerator[GroupBatch, None]:
        """As iterating, whole batches at a time; see `AsyncGroupConsumer.batches`."""
        return self._taken(self._inner.batches_in)

    def emit(self, values: Iterable[bytes | NewRecord], done: GroupDone | None = None) -> Deferred[bool]:
        """Append records, and move the cursor of their source with them; see `AsyncGroupConsumer.emit`.

        Wait for it before the next one, as of `DeferredConsumer.emit`.
        """
        return self._emit(values, lambda: self._source(done), self._inner.emit_encoded)

    def _source(self, done: GroupDone | None) -> GroupDone:
        what: GroupDone = self._what(done)
        behind(what)
        return what
