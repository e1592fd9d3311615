"""The embedded log for asyncio: the same methods as coroutines. Threads work; the loop waits for no disk."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from loghouse.client.choice import Choice, PageOptions, ReadOptions, Trust, choice_of
from loghouse.client.consumer_settings import ConsumerOptions, checked_into, settings_of
from loghouse.client.cursors import Advance, AsyncCursors, advance_of
from loghouse.client.fields import seconds_of
from loghouse.client.open_consumers import LEAVE_SECONDS, OpenConsumers
from loghouse.client.pages import RecordPage, in_order
from loghouse.client.place import Place
from loghouse.client.producer_settings import BATCH_SIZE, BUFFER_SIZE, LINGER_MILLISECONDS
from loghouse.client.records import Batch, Bounds, Headers, NewRecord, Record, batches_in
from loghouse.client.starts import Compression, Start
from loghouse.embedded.blocking import (
    EmbeddedLog,
    OpenOptions,
    batch_request,
    check_only_log,
    open_embedded,
    record_request,
)
from loghouse.embedded.producer import EmbeddedDelivery, EmbeddedProducer
from loghouse.embedded.reads import decoded_range
from loghouse.embedded.requests import Request
from loghouse.errors import ClosedError
from loghouse.limits import UINT64_MAX
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.entry import Codec, checked_entries
from loghouse.protocol.record_range import RecordRange

if TYPE_CHECKING:
    from loghouse.client.consuming import AsyncConsumer

T = TypeVar("T")
READERS: Final = 4
_logger: Final = logging.getLogger("loghouse.client")


class _TaskRequest(Request):
    """A request that a task waits for."""

    __slots__ = ("_log", "_loop", "future")

    def __init__(self, log: AsyncEmbeddedLog, like: Request) -> None:
        super().__init__(
            like.payload,
            like.record_count,
            attributes=like.attributes,
            expect_offset=like.expect_offset,
            cursor=like.cursor,
        )
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> None:
        """Tell the task that it is settled; or have the thread work, if it is its turn."""
        if self.is_settled:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._tell)
        else:
            self._log.work_on(self)

    def _tell(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class AsyncEmbeddedLog:
    """A log in this process, for one event loop. See `loghouse.open_async`.

    Methods, arguments and errors are those of `loghouse.client.AsyncClient`; tasks that append at the same
    time share a sync. A cancelled append may still be carried out.
    """

    def __init__(self, log: EmbeddedLog) -> None:
        """Use `loghouse.open_async`."""
        self._log = log
        self._node = log.node
        self._writer = ThreadPoolExecutor(1, "loghouse-embedded")
        self._readers = ThreadPoolExecutor(READERS, "loghouse-reader")
        self._is_closed = False
        self._place = Place()
        self._tasks: set[asyncio.Task[None]] = set()  # of consumers, which may have been dropped
        self.consumers = OpenConsumers(self._spawn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the log and let the directory go; who follows the log gets ClosedError.

        What is done in a consumer that is open is committed first.
        """
        if not self._is_closed:
            await self._close_consumers(LEAVE_SECONDS)
            self._is_closed = True
            await asyncio.get_running_loop().run_in_executor(self._readers, self._log.close)
            self._end_threads()

    async def leave(self, seconds: float) -> None:
        """End what this one began, once its consumers have committed; the log stays open."""
        await self._close_consumers(seconds)
        self._is_closed = True
        self._end_threads()

    async def _close_consumers(self, seconds: float) -> None:
        if left := await self.consumers.close(seconds):
            _logger.error("a log was closed before its consumers: %s", left)

    def _end_threads(self) -> None:
        self._writer.shutdown(wait=False)
        self._readers.shutdown(wait=False)

    def log(self, name: str) -> Self:
        """Return the log of that name; see `EmbeddedLog.log`."""
        check_only_log(name)
        return self

    def work_on(self, request: Request) -> None:
        """Have the thread work on requests until this one is settled."""
        self._writer.submit(self._node.rounds.work_through, request)

    async def _settle(self, request: Request) -> int:
        self._node.check()
        asked = _TaskRequest(self, request)
        if self._node.rounds.leave(asked):
            self.work_on(asked)
        await asked.future
        return asked.result()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        self._node.check()
        if self._is_closed:
            raise ClosedError(f"{self._node.path}: the log is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    # --- appending ------------------------------------------------------------------------

    async def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
        expect_offset: int | None = None,
        timeout_seconds: float | None = None,
    ) -> int:
        """Append one record and return its offset, once it is durable; see `EmbeddedLog.append`."""
        return await self._settle(
            record_request(value, key, headers, timestamp, expect_offset, timeout_seconds)
        )

    async def append_batch(
        self,
        values: Iterable[bytes | NewRecord],
        *,
        compression: Compression = "none",
        expect_offset: int | None = None,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> range:
        """Append records together, all or none; see `EmbeddedLog.append_batch`."""
        request = batch_request(values, compression, expect_offset, timeout_seconds, cursor)
        base_offset = await self._settle(request)
        return range(base_offset, base_offset + request.record_count)

    async def append_encoded(
        self,
        payload: bytes,
        record_count: int,
        *,
        codec: Codec = Codec.NONE,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> int:
        """Append a serialized batch, compressed by `codec`; return the offset of its first record."""
        change = advance_of(cursor)
        return await self._settle(Request(payload, record_count, attributes=codec, cursor=change))

    def producer(
        self,
        *,
        linger_ms: float = LINGER_MILLISECONDS,
        batch_bytes: int = BATCH_SIZE,
        compression: Compression = "none",
        buffer_bytes: int = BUFFER_SIZE,
        timeout_seconds: float | None = None,
    ) -> AsyncEmbeddedProducer:
        """Return a producer, an async context manager; see `EmbeddedLog.producer`."""
        return AsyncEmbeddedProducer(
            self._log.producer(
                linger_ms=linger_ms,
                batch_bytes=batch_bytes,
                compression=compression,
                buffer_bytes=buffer_bytes,
                timeout_seconds=timeout_seconds,
            )
        )

    def cursors(self) -> AsyncCursors:
        """Return what moves, lists and changes the log's cursors; see `loghouse.client.AsyncCursors`."""
        return AsyncCursors(self._ask_cursor)

    async def _ask_cursor(
        self, order: CursorOrder, timeout_seconds: float | None, is_safe: bool
    ) -> CursorPage:
        if timeout_seconds is not None:
            seconds_of(timeout_seconds)
        return await self._on_thread(partial(self._node.order_cursor, order))

    def consumer(
        self, name: str, *, into: AsyncEmbeddedLog | None = None, **options: Unpack[ConsumerOptions]
    ) -> AsyncConsumer:
        """Return a consumer of this log; see `loghouse.client.AsyncClient.consumer`."""
        from loghouse.client.consuming import AsyncConsumer

        keeping = checked_into(into, AsyncEmbeddedLog) or self
        return AsyncConsumer(self, keeping, settings_of(name, **options), keeping.consumers, self._place)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- reading --------------------------------------------------------------------------

    async def read(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Record, None]:
        """Yield records from `from_` on; see `EmbeddedLog.read`."""
        is_reverse = bool(options.get("reverse"))
        batches = self.read_batches(from_, **options)
        async with aclosing(batches):
            async for batch in batches:
                for record in in_order(batch, is_reverse):
                    yield record

    async def read_batches(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Batch, None]:
        """As `read`, whole batches at a time."""
        choice = choice_of(**options)
        log = self._log
        offset, end = await self._on_thread(partial(log.offsets_of, from_, choice))
        if not choice.is_plain:
            batches = self._batches_of(offset, end, choice)
            async with aclosing(batches):
                async for batch in batches:
                    yield batch
            return
        while end is None or offset < end:
            frames, next_offset = await self._on_thread(partial(log.fetch, offset))
            if next_offset == offset:
                await self._wait_for(offset)
                continue
            for batch in batches_in(checked_entries(frames), offset, next_offset, end):
                yield batch
            offset = next_offset

    async def read_answers(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """As `read_batches`, in the form that consumers read."""
        batches = self.read_batches(from_, **options)
        async with aclosing(batches):
            async for batch in batches:
                yield iter((batch,))

    async def _batches_of(self, offset: int, end: int | None, choice: Choice) -> AsyncGenerator[Batch, None]:
        wanted: RecordRange | None = choice.range(offset, UINT64_MAX if end is None else end)
        while wanted is not None and wanted.first < wanted.end:
            if choice.follow:
                await self._wait_for(wanted.first)
            answer = await self._on_thread(partial(self._log.read_range, wanted))
            batches, wanted = decoded_range(wanted, answer)
            for batch in batches:
                yield batch

    async def newest(self, count: int, **options: Unpack[PageOptions]) -> list[Record]:
        """Return the last `count` records in the order of the log; see `EmbeddedLog.newest`."""
        return await self._on_thread(partial(self._log.newest, count, **options))

    async def read_page(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> RecordPage:
        """Return some of what `read` would yield, and where to go on; see `EmbeddedLog.read_page`."""
        return await self._on_thread(partial(self._log.read_page, from_, **options))

    async def _wait_for(self, offset: int) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        end = self._node.watch(lambda: loop.call_soon_threadsafe(told.set))
        try:
            while self._node.driver.readable_offset <= offset:
                await told.wait()
                told.clear()
        finally:
            end()

    async def bounds(
        self, *, consistency: Trust = "confirmed", timeout_seconds: float | None = None
    ) -> Bounds:
        """Return the offsets that the log holds."""
        return self._log.bounds()

    async def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset appended at or after a time; see `EmbeddedLog.find_offset`."""
        return await self._on_thread(partial(self._log.find_offset, time))

    async def trim(self, offset: int, *, timeout_seconds: float | None = None) -> int:
        """Let records below an offset go, and return the lowest offset held now."""
        return await self._on_thread(partial(self._log.trim, offset))


class AsyncEmbeddedDelivery:
    """A record on its way. Await it for the offset; as often as you like, or never."""

    __slots__ = ("_delivery",)

    def __init__(self, delivery: EmbeddedDelivery) -> None:
        self._delivery = delivery

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known, so that awaiting it does not wait."""
        return self._delivery.is_done

    def __await__(self) -> Any:
        if not self._delivery.is_done:
            loop = asyncio.get_running_loop()
            told = loop.create_future()
            self._delivery.when_done(lambda: loop.call_soon_threadsafe(_resolve, told))
            yield from told.__await__()
        return self._delivery.offset()


class AsyncEmbeddedProducer:
    """Appends records in batches, in order. See `AsyncEmbeddedLog.producer`."""

    def __init__(self, producer: EmbeddedProducer) -> None:
        self._producer = producer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _elsewhere(partial(self._producer.__exit__, kind, error, trace))

    async def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> AsyncEmbeddedDelivery:
        """Take a record, and return its delivery; waits only while the buffer is full."""
        append = partial(self._producer.append, value, key=key, headers=headers, timestamp=timestamp)
        return AsyncEmbeddedDelivery(append() if self._producer.has_room else await _elsewhere(append))

    async def flush(self) -> None:
        """Wait until every record appended so far is settled; see `EmbeddedProducer.flush`."""
        await _elsewhere(self._producer.flush)

    async def close(self) -> None:
        """Flush, and end; raises as `flush`."""
        await _elsewhere(self._producer.close)

    async def abort(self) -> None:
        """End at once: what is not appended fails."""
        await _elsewhere(self._producer.abort)


async def _elsewhere(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _resolve(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


def open_async(path: str | os.PathLike[str], **options: Unpack[OpenOptions]) -> AsyncEmbeddedLog:
    """Open the log in a directory for asyncio; arguments and errors are those of `loghouse.open`.

        async with loghouse.open_async("events/") as log:
            offset = await log.append(b"moved")

    The opening itself reads the last segment; a loop that must not wait for that calls this on a thread.
    """
    return AsyncEmbeddedLog(open_embedded(path, **options))
