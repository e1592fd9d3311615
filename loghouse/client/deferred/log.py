"""One log of a cluster, as Twisted programs use it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from inspect import iscoroutine
from typing import Any, Literal, Unpack, overload

from twisted.internet.defer import Deferred, fail

from loghouse.client.choice import ReadOptions
from loghouse.client.consumer_settings import ConsumerOptions, checked_into
from loghouse.client.cursors import Advance
from loghouse.client.deferred.consumer import DeferredConsumer
from loghouse.client.deferred.cursors import DeferredCursors, deferred
from loghouse.client.deferred.opened import OpenedClient
from loghouse.client.deferred.producer import DeferredProducer
from loghouse.client.deferred.reading import PulledAnswers
from loghouse.client.fields import values_of
from loghouse.client.log import AsyncLog
from loghouse.client.pages import in_order
from loghouse.client.producer_settings import BATCH_SIZE, BUFFER_SIZE, LINGER_MILLISECONDS
from loghouse.client.records import Batch, NewRecord, Record
from loghouse.client.starts import Compression, Start
from loghouse.errors import LoghouseError


class DeferredLog:
    """One of a cluster's logs, for Twisted programs. Made by `DeferredClient.log`, closed with it.

    Its methods are those of `AsyncLog`, with the same arguments and the same errors; they give Deferreds.
    Only the reactor's thread may call them.
    """

    def __init__(self, log: AsyncLog, opened: OpenedClient, owner: object = None) -> None:
        """Give Deferreds of what `log` does; `owner`: the client, which closes itself when it is dropped."""
        self.log_name = log.log_name
        self._inner = log
        self._opened = opened
        self._run = opened.call
        self._owner = owner

    # --- appending ------------------------------------------------------------------------

    append = deferred(
        "DeferredLog",
        AsyncLog.append,
        "Append one record and return its offset",
        size=lambda value, *, key=None, **_: _size_of((value, key)),
    )

    def append_batch(
        self,
        values: Iterable[bytes],
        *,
        compression: Compression = "none",
        expect_offset: int | None = None,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> Deferred[range]:
        """Append records together and return their offsets; see `AsyncLog.append_batch`."""
        try:
            given = list(values_of(values))  # here: what makes them is the caller's, and so is its thread
        except LoghouseError:
            return fail()
        return self._run(
            self._inner.append_batch(
                given,
                compression=compression,
                expect_offset=expect_offset,
                cursor=cursor,
                timeout_seconds=timeout_seconds,
            ),
            _size_of(given),
        )

    def producer(
        self,
        *,
        linger_ms: float = LINGER_MILLISECONDS,
        batch_bytes: int = BATCH_SIZE,
        compression: Compression = "none",
        buffer_bytes: int = BUFFER_SIZE,
        timeout_seconds: float | None = None,
    ) -> DeferredProducer:
        """Return a producer; see `AsyncLog.producer`.

            async with log.producer() as producer:
                for line in lines:
                    delivery = await producer.append(line)  # waits only while the buffer is full
                offset = await delivery.offset()

        Its `append` gives a Deferred of a `DeferredDelivery`, whose `offset` gives one of the offset.
        """
        return DeferredProducer(
            self._opened,
            self._inner,
            owner=self,
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            compression=compression,
            buffer_bytes=buffer_bytes,
            timeout_seconds=timeout_seconds,
        )

    # --- reading --------------------------------------------------------------------------

    async def read(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Record, None]:
        """Yield records, in a coroutine of Twisted; see `AsyncLog.read`.

            async for record in log.read("earliest"):
                print(record.offset, record.value)

        Leaving the loop ends the reading. Elsewhere use `read_each`.
        """
        is_reverse = bool(options.get("reverse"))
        async with aclosing(self.read_batches(from_, **options)) as batches:
            async for batch in batches:
                for record in in_order(batch, is_reverse):
                    yield record

    async def read_batches(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Batch, None]:
        """Yield whole batches, in a coroutine of Twisted; see `AsyncLog.read_batches`."""
        answers = PulledAnswers(self._opened, self._inner.read_answers(from_, **options))
        try:
            while (batches := await answers.next()) is not None:
                for batch in batches:
                    yield batch
        finally:
            answers.close()

    @overload
    def read_each(
        self,
        use: Callable[[Record], Any],
        from_: Start = ...,
        *,
        batches: Literal[False] = ...,
        **options: Unpack[ReadOptions],
    ) -> Deferred[None]: ...

    @overload
    def read_each(
        self,
        use: Callable[[Batch], Any],
        from_: Start = ...,
        *,
        batches: Literal[True],
        **options: Unpack[ReadOptions],
    ) -> Deferred[None]: ...

    def read_each(
        self,
        use: Callable[[Any], Any],
        from_: Start = "earliest",
        *,
        batches: bool = False,
        **options: Unpack[ReadOptions],
    ) -> Deferred[None]:
        """Call `use` with each record, in order; fires behind the last one, and fails with what fails.

            reading = log.read_each(lambda record: print(record.offset, record.value), follow=True)
            reading.cancel()  # ends it

        While `use` is at work, for it returned a Deferred or a coroutine, the next record waits, and so does
        the server.

        Args:
            batches: Call it with whole batches, which is several times as fast.
            from_, options: As of `AsyncLog.read`.
        """
        return Deferred.fromCoroutine(self._read_each(use, from_, batches, options))

    async def _read_each(
        self, use: Callable[[Any], Any], from_: Start, batches: bool, options: ReadOptions
    ) -> None:
        read: Callable[..., AsyncGenerator[Any, None]] = self.read_batches if batches else self.read
        async with aclosing(read(from_, **options)) as found:
            async for one in found:
                result = use(one)
                if isinstance(result, Deferred) or iscoroutine(result):
                    await result

    newest = deferred("DeferredLog", AsyncLog.newest, "Return the last records in the order of the log")
    read_page = deferred(
        "DeferredLog", AsyncLog.read_page, "Return what a server gives at once, and where to go on"
    )
    bounds = deferred("DeferredLog", AsyncLog.bounds, "Return the offsets that the log holds")
    find_offset = deferred(
        "DeferredLog", AsyncLog.find_offset, "Return the first offset appended at or after a time"
    )

    # --- cursors ------------------------------------------------------------------------------

    def cursors(self) -> DeferredCursors:
        """Return what moves, lists and changes this log's cursors; see `AsyncLog.cursors`."""
        return DeferredCursors(self._inner.cursors(), self._run)

    def consumer(
        self, name: str, *, into: DeferredLog | None = None, **options: Unpack[ConsumerOptions]
    ) -> DeferredConsumer:
        """Return a consumer of this log; see `AsyncLog.consumer`.

        At the reactor's stop one that is open commits what is done, and lets its cursor go.
        """
        made = AsyncLog.consumer(self._inner, name, into=inner_of(into), **options)
        return DeferredConsumer(self._opened, made, self)

    # --- administration -----------------------------------------------------------------------

    status = deferred("DeferredLog", AsyncLog.status, "Return the log's group as one server sees it")
    transfer = deferred("DeferredLog", AsyncLog.transfer, "Hand the log's leadership over")
    trim = deferred("DeferredLog", AsyncLog.trim, "Let records below an offset go")


def inner_of(into: DeferredLog | None) -> AsyncLog | None:
    """Return the asyncio log of one that is to keep cursors."""
    found = checked_into(into, DeferredLog)
    return None if found is None else found._inner


def _size_of(values: Iterable[Any]) -> int:
    """Return the bytes of values and records. Headers are small, and few; what is wrong is said later."""
    given = (value.value if isinstance(value, NewRecord) else value for value in values)
    return sum(len(value) for value in given if isinstance(value, bytes))
