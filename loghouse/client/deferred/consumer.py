"""Deferred consumers: asyncio ones on the client's loop, used by the reactor's thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from twisted.internet.defer import Deferred, fail

from loghouse.client.batching import encode_batch_of
from loghouse.client.consumer_settings import Done, position_behind
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.database import DatabaseConnection, DatabasePosition
from loghouse.client.deferred.opened import OpenedClient
from loghouse.client.deferred.reading import PulledAnswers
from loghouse.client.done_crossing import DoneCrossing
from loghouse.client.fields import values_of
from loghouse.client.group_consuming import AsyncGroupConsumer
from loghouse.client.group_records import GroupBatch, GroupDone, GroupRecord, behind
from loghouse.client.keeping import check_waiting
from loghouse.client.records import Batch, NewRecord, Record
from loghouse.errors import ClientUseError, ClosedError, LoghouseError

_T = TypeVar("_T")
_C = TypeVar("_C", bound=AsyncConsumer | AsyncGroupConsumer)


class _DeferredConsumer(Generic[_C]):
    """What consumers of one log and members of groups have in common.

    Attributes:
        cursor_name: The name of the cursor, or of the group.
        holder: Who acquires it.
    """

    _position_of: Callable[[Any], int]  # behind what is done

    def __init__(self, opened: OpenedClient, consumer: _C, owner: object) -> None:
        """Give Deferreds of what `consumer` does; `owner` is kept: it closes its client when dropped."""
        self.cursor_name = consumer.cursor_name
        self.holder = consumer.holder
        self._opened = opened
        self._run = opened.run
        self._inner = consumer
        self._owner = owner
        self._given: Any = None  # what the program got last
        self._done = DoneCrossing(consumer, self._soon, self._position_of)
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

    def _what(self, done: Any) -> Any:
        self._opened.check_here()
        self._inner.check_open()
        if done is None:
            done = self._given
        if done is None:
            raise ClientUseError("this consumer gave nothing yet; say what is done")
        return done

    def _soon(self, work: Callable[[], None]) -> None:
        self._opened.loop.soon(work)

    def _emit(
        self,
        values: Iterable[bytes | NewRecord],
        what: Callable[[], _T],
        emit: Callable[[bytes, int, _T], Coroutine[Any, Any, Any]],
    ) -> Deferred[Any]:
        """Encode records here, and have them emitted, unless nobody waits for too many of them."""
        try:
            done = what()
            given = list(values_of(values))
            payload, record_count = encode_batch_of(given) if given else (b"", 0)
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

    @property
    def is_active(self) -> bool:
        """Whether this consumer holds a cursor, as far as it knows."""
        return self._inner.is_active

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


class DeferredConsumer(_DeferredConsumer[AsyncConsumer]):
    """Consumes a log through a cursor. See `DeferredLog.consumer`.

    It is `AsyncConsumer` for Twisted programs: the same methods and errors.
    """

    _position_of = staticmethod(position_behind)

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

    def done(self, done: Done | None = None) -> None:
        """This record or batch, and all before it, is handled; see `AsyncConsumer.done`."""
        what = self._what(done)
        self._inner.check_held()
        self._done.note(position_behind(what))

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

    @property
    def position(self) -> int:
        """The next one to do, committed or not; 0 before the cursor was acquired."""
        return max(self._inner.position, self._done.position())

    @property
    def committed(self) -> int:
        """The next one to do for who takes over; 0 before the cursor was acquired."""
        return self._inner.committed


class DeferredGroupConsumer(_DeferredConsumer[AsyncGroupConsumer]):
    """Consumes several logs as a member of a group. See `DeferredClient.consumer`.

    It is `AsyncGroupConsumer` for Twisted programs: the same methods and errors.
    """

    _position_of = staticmethod(behind)

    async def __aiter__(self) -> AsyncGenerator[GroupRecord, None]:
        async with aclosing(self._taken(self._inner.records_in)) as records:
            async for record in records:
                yield record

    async def batches(self) -> AsyncGenerator[GroupBatch, None]:
        """As iterating, whole batches at a time; see `AsyncGroupConsumer.batches`."""
        async with aclosing(self._taken(self._inner.batches_in)) as batches:
            async for batch in batches:
                yield batch

    def done(self, done: GroupDone | None = None) -> None:
        """This record or batch, and all before it in its log, is handled; see `AsyncGroupConsumer.done`."""
        what = self._what(done)
        behind(what)
        self._done.note(what, (what.log, what.epoch))

    def emit(self, values: Iterable[bytes | NewRecord], done: GroupDone | None = None) -> Deferred[bool]:
        """Append records, and move the cursor of their source with them; see `AsyncGroupConsumer.emit`.

        Wait for it before the next one, as of `DeferredConsumer.emit`.
        """
        return self._emit(values, lambda: self._source(done), self._inner.emit_encoded)

    def _source(self, done: GroupDone | None) -> GroupDone:
        what: GroupDone = self._what(done)
        behind(what)
        return what

    @property
    def logs(self) -> list[str]:
        """The logs that this member holds now, by name."""
        return self._inner.logs

    @property
    def positions(self) -> dict[str, int]:
        """The next one to do in each log that this member holds, as its loop knows it."""
        return self._inner.positions
