"""The asyncio producer: batches with back-pressure, exactly once, in order."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Generator
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from loghouse.client.batching import Accumulator, OutgoingBatch, ProducerLedger, encode_record
from loghouse.client.calls import Calls
from loghouse.client.place import Place
from loghouse.client.producer_settings import check_settings, warn_of
from loghouse.client.records import Headers
from loghouse.client.sending import Sending
from loghouse.client.tracing import sending_class
from loghouse.errors import ClosedError, LoghouseError
from loghouse.protocol.entry import Codec

WINDOW: Final = 8  # batches on their way; a node remembers 64 of a producer


class Delivery:
    """A record on its way. Await it for the offset; as often as you like, or never.

    Awaiting raises what its producer learned: OutcomeUnknownError when its time was over and nobody can tell,
    or an error that means that it was not appended. A cancelled wait does not take the record back.
    """

    __slots__ = ("_batch", "_place", "_progress")

    def __init__(self, batch: OutgoingBatch, place: int, progress: _Progress) -> None:
        self._batch = batch
        self._place = place
        self._progress = progress

    def __await__(self) -> Generator[Any, None, int]:
        batch = self._batch
        while not batch.is_settled:
            self._progress.place.check_task()
            waiter = batch.waiter
            if waiter is None:
                waiter = batch.waiter = asyncio.get_running_loop().create_future()
            yield from asyncio.shield(waiter).__await__()
        return batch.offset(self._place)

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known, so that awaiting it does not wait."""
        return self._batch.is_settled


class _Progress:
    """What a producer waits for: all that its sending task says to it, so that it may be dropped itself."""

    def __init__(self, ledger: ProducerLedger, place: Place) -> None:
        self.place = place
        self._ledger = ledger
        self._waiter: asyncio.Future[None] | None = None

    def settled(self, batch: OutgoingBatch) -> None:
        """Note a batch of which the outcome is known, and wake who waits."""
        self._ledger.settle(batch)
        waiter, self._waiter = self._waiter, None
        for waiting in (batch.waiter, waiter):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def wait(self) -> None:
        """Wait for the next batch of which the outcome is known."""
        self.place.check_task()
        if self._waiter is None:
            self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiter)


class ProducerBlock(ABC):
    """A producer as an async context manager: it is closed at the end, or aborted by what is no Exception."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        elif isinstance(error, Exception):
            try:
                await self.close()
            except LoghouseError as own:  # the error of the block is the one to tell
                error.add_note(f"its producer failed, too: {own}")
        else:
            await self.abort()

    @abstractmethod
    def close(self) -> Awaitable[None]:
        """Flush, and end."""

    @abstractmethod
    def abort(self) -> Awaitable[None]:
        """End at once."""


class AsyncProducer(ProducerBlock):
    """Appends records in batches. See `AsyncClient.producer`; use it as an async context manager."""

    _is_closed = True  # until there is something to close

    def __init__(
        self,
        calls: Calls,
        *,
        linger_ms: float,
        batch_bytes: int,
        codec: Codec,
        buffer_bytes: int,
        timeout_seconds: float,
    ) -> None:
        check_settings(linger_ms=linger_ms, batch_bytes=batch_bytes, buffer_bytes=buffer_bytes)
        self._calls = calls
        self._accumulator = Accumulator(
            batch_size=batch_bytes, linger_seconds=linger_ms / 1000, timeout_seconds=timeout_seconds
        )
        self._ledger = ProducerLedger(buffer_bytes)
        self._check_here = calls.place.check
        self._progress = _Progress(self._ledger, calls.place)
        self._sending = sending_class(calls, Sending)(
            calls,
            self._accumulator,
            codec=codec,
            window=WINDOW,
            lock=contextlib.nullcontext(),
            settled=self._progress.settled,
        )
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False

    async def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> Delivery:
        """Take a record, and return its delivery; waits only while the buffer is full.

        Raises:
            InvalidRequestError: It cannot be encoded, or no batch can hold it.
            UnavailableError: The producer is closed.
        """
        self._check_here()
        head, body = encode_record(value, key, headers, timestamp)
        while self._ledger.room <= 0:
            await self._progress.wait()
        return self._add(head, body)

    def _add(self, head: bytes, body: bytes) -> Delivery:
        if self._running is None:
            self._start()
        elif self._running.done():
            raise self._sending.closed_error
        batch = self._accumulator.add(head, body, self._loop.time())
        self._ledger.take(len(head) + len(body))
        place = batch.record_count - 1
        if place == 0 or batch.is_full:
            self._sending.wake()
        return Delivery(batch, place, self._progress)

    async def flush(self) -> None:
        """Wait until every record appended so far is settled.

        Raises:
            LoghouseError: The first failure since the last time that no delivery has told.
        """
        self._check_here()
        goal = self._ledger.taken
        while self._ledger.done < goal:
            self._accumulator.hurry()
            self._sending.wake()
            await self._progress.wait()
        self._ledger.raise_unreported()

    async def close(self) -> None:
        """Flush, and end; raises as `flush`."""
        self._check_here()
        self._is_closed = True
        try:
            await self.flush()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """End at once: what is not acknowledged fails; it may have been appended where it was sent."""
        self._is_closed = True
        running = self._running
        if running is not None and not running.done() and not self._progress.place.is_elsewhere:
            self._check_here()
            running.cancel()
            await asyncio.wait({running})

    # --- the sending task -----------------------------------------------------------------

    def _start(self) -> None:
        if self._is_closed:
            raise ClosedError("the producer is closed")
        self._loop = asyncio.get_running_loop()
        self._running = self._calls.spawn(self._sending.run())

    def __del__(self) -> None:
        if not self._is_closed and self._running is not None and not self._progress.place.is_elsewhere:
            warn_of(self._ledger)
            with contextlib.suppress(RuntimeError):  # the loop is closed, and what was not sent is lost
                self._loop.call_soon_threadsafe(self._sending.finish)
