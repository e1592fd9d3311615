"""The blocking producer: records gather in the caller's thread, and the client's loop sends them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import datetime
from types import TracebackType
from typing import Self

from loghouse.client.asynchronous import AsyncClient, Compression, codec_of
from loghouse.client.batching import Accumulator, Ledger, Outgoing, encode_record
from loghouse.client.loop_thread import LoopThread
from loghouse.client.producing import WINDOW, check_settings
from loghouse.client.records import Headers
from loghouse.client.sending import Sending
from loghouse.errors import LoghouseError, UnavailableError


class BlockingDelivery:
    """A record on its way; `offset()` waits for its offset."""

    __slots__ = ("_batch", "_place", "_settled")

    def __init__(self, batch: Outgoing, place: int, settled: threading.Condition) -> None:
        self._batch = batch
        self._place = place
        self._settled = settled

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known, so that `offset` does not wait."""
        return self._batch.is_settled

    def offset(self, timeout_seconds: float | None = None) -> int:
        """Wait until the record is durable on a majority, and return its offset.

        Args:
            timeout_seconds: How long to wait; None as long as its producer tries.

        Raises:
            TimeoutError: The producer is still trying.
            OutcomeUnknownError: The producer's time was over, and nobody can tell.
            LoghouseError: It was not appended.
        """
        batch = self._batch
        if not batch.is_settled:
            with self._settled:
                if not self._settled.wait_for(lambda: batch.is_settled, timeout_seconds):
                    raise TimeoutError(f"not acknowledged within {timeout_seconds:g} s; still trying")
        return batch.offset(self._place)


class Producer:
    """Appends records in batches, exactly once, in order. See `Client.producer`; any thread may use it."""

    def __init__(
        self,
        thread: LoopThread,
        client: AsyncClient,
        *,
        linger_ms: float,
        batch_bytes: int,
        compression: Compression,
        buffer_bytes: int,
        timeout_seconds: float | None,
    ) -> None:
        check_settings(linger_ms=linger_ms, batch_bytes=batch_bytes, buffer_bytes=buffer_bytes)
        self._thread = thread
        self._calls = client.calls
        self._loop = thread.loop
        self._changed = threading.Condition(threading.Lock())
        self._accumulator = Accumulator(
            batch_size=batch_bytes,
            linger_seconds=linger_ms / 1000,
            timeout_seconds=client.timeout_seconds if timeout_seconds is None else timeout_seconds,
        )
        self._sending = Sending(
            client.calls,
            self._accumulator,
            log=client.log,
            codec=codec_of(compression),
            window=WINDOW,
            lock=self._changed,
            settled=self._settled,
        )
        self._ledger = Ledger(buffer_bytes)
        self._is_closed = False
        self._running = thread.run(self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Exception):
            with contextlib.suppress(LoghouseError):  # the error of the block is the one to tell
                self.close()
        else:
            self.abort()

    def append(
        self,
        value: bytes,
        *,
        key: bytes = b"",
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> BlockingDelivery:
        """Take a record, and return its delivery; waits only while the buffer is full.

        Raises:
            InvalidRequestError: It cannot be encoded, or no batch can hold it.
            UnavailableError: The producer is closed.
        """
        head, body = encode_record(value, key, headers, timestamp)
        with self._changed:
            while self._ledger.room <= 0 and not self._running.done():
                self._changed.wait()
            if self._is_closed or self._running.done():
                raise self._sending.closed_error
            batch = self._accumulator.add(head, body, self._loop.time())
            self._ledger.take(len(head) + len(body))
            place = batch.record_count - 1
        if place == 0 or batch.is_full:
            self._wake()
        return BlockingDelivery(batch, place, self._changed)

    def flush(self) -> None:
        """Wait until every record appended so far is settled.

        Raises:
            LoghouseError: The first failure since the last time that no delivery has told.
        """
        with self._changed:
            goal = self._ledger.taken
            while self._ledger.done < goal:
                self._accumulator.hurry()
                self._wake()
                self._changed.wait()
            self._ledger.raise_untold()

    def close(self) -> None:
        """Flush, and end; raises as `flush`."""
        self._is_closed = True
        try:
            self.flush()
        finally:
            self.abort()

    def abort(self) -> None:
        """End at once: what is not acknowledged fails; it may have been appended where it was sent."""
        self._is_closed = True
        with contextlib.suppress(UnavailableError):  # the client is closed, and this with it
            self._thread.run(self._stop())

    # --- on the loop ----------------------------------------------------------------------

    async def _start(self) -> asyncio.Task[None]:
        return self._calls.spawn(self._sending.run())

    async def _stop(self) -> None:
        if not self._running.done():
            self._running.cancel()
            await asyncio.wait({self._running})

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: what was appended has failed
            self._loop.call_soon_threadsafe(self._sending.wake)

    def _settled(self, batch: Outgoing) -> None:
        with self._changed:
            self._ledger.settle(batch)
            self._changed.notify_all()
