"""The asyncio producer: batches with back-pressure, exactly once, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from loghouse.client.batching import Accumulator, Ledger, Outgoing, encode_record
from loghouse.client.calls import Calls
from loghouse.client.records import Headers
from loghouse.client.sending import Sending
from loghouse.errors import InvalidRequestError, LoghouseError, UnavailableError
from loghouse.limits import KIB, MIB, PAYLOAD_SIZE_MAX
from loghouse.protocol.entry import Codec

LINGER_MILLISECONDS: Final = 5.0
BATCH_SIZE: Final = 256 * KIB
BUFFER_SIZE: Final = 16 * MIB
WINDOW: Final = 8  # batches on their way; a node remembers 64 of a producer


class Delivery:
    """A record on its way. Await it for the offset; as often as you like, or never.

    Awaiting raises what its producer learned: OutcomeUnknownError when its time was over and nobody can tell,
    or an error that means that it was not appended. A cancelled wait does not take the record back.
    """

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: Outgoing, place: int) -> None:
        self._batch = batch
        self._place = place

    def __await__(self) -> Generator[Any, None, int]:
        batch = self._batch
        while not batch.is_settled:
            waiter = batch.waiter
            if waiter is None:
                waiter = batch.waiter = asyncio.get_running_loop().create_future()
            yield from asyncio.shield(waiter).__await__()
        return batch.offset(self._place)

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known, so that awaiting it does not wait."""
        return self._batch.is_settled


class AsyncProducer:
    """Appends records in batches. See `AsyncClient.producer`; use it as an async context manager."""

    def __init__(
        self,
        calls: Calls,
        *,
        log: str,
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
        self._sending = Sending(
            calls,
            self._accumulator,
            log=log,
            codec=codec,
            window=WINDOW,
            lock=contextlib.nullcontext(),
            settled=self._settled,
        )
        self._ledger = Ledger(buffer_bytes)
        self._progress: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        elif isinstance(error, Exception):
            with contextlib.suppress(LoghouseError):  # the error of the block is the one to tell
                await self.close()
        else:
            await self.abort()

    async def append(
        self,
        value: bytes,
        *,
        key: bytes = b"",
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> Delivery:
        """Take a record, and return its delivery; waits only while the buffer is full.

        Raises:
            InvalidRequestError: It cannot be encoded, or no batch can hold it.
            UnavailableError: The producer is closed.
        """
        head, body = encode_record(value, key, headers, timestamp)
        while self._ledger.room <= 0:
            await self._wait_for_progress()
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
        return Delivery(batch, place)

    async def flush(self) -> None:
        """Wait until every record appended so far is settled.

        Raises:
            LoghouseError: The first failure since the last time that no delivery has told.
        """
        goal = self._ledger.taken
        while self._ledger.done < goal:
            self._accumulator.hurry()
            self._sending.wake()
            await self._wait_for_progress()
        self._ledger.raise_untold()

    async def close(self) -> None:
        """Flush, and end; raises as `flush`."""
        self._is_closed = True
        try:
            await self.flush()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """End at once: what is not acknowledged fails; it may have been appended where it was sent."""
        self._is_closed = True
        running = self._running
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait({running})

    # --- the sending task -----------------------------------------------------------------

    def _start(self) -> None:
        if self._is_closed:
            raise UnavailableError("the producer is closed")
        self._loop = asyncio.get_running_loop()
        self._running = self._calls.spawn(self._sending.run())

    def _settled(self, batch: Outgoing) -> None:
        self._ledger.settle(batch)
        if batch.waiter is not None:
            batch.waiter.set_result(None)
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.set_result(None)

    async def _wait_for_progress(self) -> None:
        if self._progress is None:
            self._progress = self._loop.create_future()
        await asyncio.shield(self._progress)


def check_settings(*, linger_ms: float, batch_bytes: int, buffer_bytes: int) -> None:
    """Raise for settings that make no sense.

    Raises:
        InvalidRequestError: Names the setting.
    """
    if not 0 <= linger_ms <= 60_000:
        raise InvalidRequestError("linger_ms", f"{linger_ms} is out of range; allowed: 0 to 60000")
    if not 1 <= batch_bytes <= PAYLOAD_SIZE_MAX:
        raise InvalidRequestError(
            "batch_bytes", f"{batch_bytes} is out of range; allowed: 1 to {PAYLOAD_SIZE_MAX}"
        )
    if buffer_bytes < 1:
        raise InvalidRequestError("buffer_bytes", f"{buffer_bytes} is out of range; allowed: 1 and more")
