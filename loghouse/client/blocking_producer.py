"""The blocking producer: records gather in the caller's thread, and the client's loop sends them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from loghouse.client import exiting
from loghouse.client.asynchronous import AsyncClient
from loghouse.client.batching import Accumulator, OutgoingBatch, ProducerLedger, encode_record
from loghouse.client.blocking_consumer import ConsumersEnd
from loghouse.client.gathering import GatheredDelivery, GatheringProducer
from loghouse.client.log import AsyncLog
from loghouse.client.loop_thread import LoopThread
from loghouse.client.place import Place
from loghouse.client.producer_settings import check_settings, warn_of
from loghouse.client.producing import WINDOW
from loghouse.client.records import Headers
from loghouse.client.sending import Sending
from loghouse.client.starts import Compression, codec_of
from loghouse.client.tracing import sending_class
from loghouse.errors import UnavailableError

T = TypeVar("T")


class BlockingDelivery(GatheredDelivery):
    """A record on its way to a cluster; `offset()` waits for its offset."""

    __slots__ = ()


class Pending:
    """What a producer took and its sending task has not settled; it outlives a producer that is dropped."""

    def __init__(self, ledger: ProducerLedger, place: Place) -> None:
        self.ledger = ledger
        self.place = place
        self.changed = threading.Condition(threading.Lock())

    def check_process(self) -> None:
        """Raise ClientUseError in a forked child."""
        self.place.check_process()

    def settled(self, batch: OutgoingBatch) -> None:
        """Note a batch of which the outcome is known; on the loop."""
        with self.changed:
            self.ledger.settle(batch)
            self.changed.notify_all()

    def wait(self, until: float) -> str:
        """Wait until everything is settled, or for a moment of the monotonic clock.

        Returns:
            What nobody was told of, as a sentence; empty when there is nothing.
        """
        ledger = self.ledger
        with self.changed:
            seconds = max(0.0, until - time.monotonic())
            self.changed.wait_for(lambda: ledger.done >= ledger.taken, seconds)
            return ledger.unreported()


class OpenClient:
    """An asyncio client on its loop's thread, and what its producers have not sent yet.

    What a blocking client and its producers have in common; closed when they are, or when they are dropped.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        client.calls.place.check_process()  # where its thread is
        self.thread = LoopThread()
        self._running: dict[asyncio.Task[None], tuple[Pending, Sending]] = {}
        self._finishing: list[Pending] = []  # of the producers that were told to finish at the exit
        self._consumers_end = ConsumersEnd(self.thread, client.calls.consumers)
        exiting.opened(self)

    def begin(self, pending: Pending, sending: Sending) -> asyncio.Task[None]:
        """Start a producer's sending task."""

        async def start() -> asyncio.Task[None]:
            task = self.client.calls.spawn(sending.run())
            self._running[task] = pending, sending
            task.add_done_callback(self._running.pop)
            return task

        return self.thread.run(start())

    def finish(self, seconds: float) -> None:
        """See `exiting.Open`."""
        running = dict(self._running)
        for pending, sending in running.values():
            self._finishing.append(pending)
            self.soon(sending.finish)
        # Behind that: what is done may rest on what was appended.
        self._consumers_end.begin(seconds, running)

    def flush(self, until: float) -> str:
        """See `exiting.Open`."""
        left = [pending.wait(until) for pending in self._finishing]
        return "; ".join(filter(None, [*left, self._consumers_end.wait(until)]))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; see `LoopThread.run`."""
        return self.thread.run(work)

    def soon(self, work: Callable[[], None]) -> None:
        """Do something on the loop; nothing when it is closed, for what was appended has failed then."""
        self.thread.soon(work)

    def close(self, until: float | None = None) -> None:
        """Close every connection and end the thread; wait for a thread that was ending already until then.

        Args:
            until: A moment of the monotonic clock, up to which consumers may commit; None: for 10 seconds.
        """
        if self.client.calls.place.is_elsewhere:
            return  # the connections are the parent's, and so is the thread
        exiting.closed(self)
        if until is None:
            self.thread.close(self.client.close)
            until = float("-inf")
        else:
            self.thread.close(
                partial(self.client.cluster_calls.close_within, max(0.0, until - time.monotonic()))
            )
        self.thread.join(max(0.0, until - time.monotonic()))

    def close_soon(self) -> None:
        """Close once everything is sent; nobody waits for that, but the interpreter's end does."""
        if not self.client.calls.place.is_elsewhere:
            self.thread.close_soon(self._send_and_close)

    async def _send_and_close(self) -> None:
        running = dict(self._running)
        for _, sending in running.values():
            sending.finish()
        if running:
            await asyncio.wait(running)
        await self.client.close()
        exiting.closed(self)


class Producer(GatheringProducer):
    """Appends records in batches, exactly once, in order. See `Client.producer`; any thread may use it."""

    def __init__(
        self,
        client: OpenClient,
        log: AsyncLog,
        *,
        owner: object,
        linger_ms: float,
        batch_bytes: int,
        compression: Compression,
        buffer_bytes: int,
        timeout_seconds: float | None,
    ) -> None:
        check_settings(linger_ms=linger_ms, batch_bytes=batch_bytes, buffer_bytes=buffer_bytes)
        self._client = client
        self._owner = owner  # which closes the client when it is dropped
        self._loop = client.thread.loop
        self._ledger = ProducerLedger(buffer_bytes)
        self._pending = Pending(self._ledger, log.calls.place)
        self._changed = self._pending.changed
        self._check_process = self._pending.place.check_process
        self._accumulator = Accumulator(
            batch_size=batch_bytes,
            linger_seconds=linger_ms / 1000,
            timeout_seconds=log.timeout_of(timeout_seconds),
        )
        self._sending = sending_class(log.calls, Sending)(
            log.calls,
            self._accumulator,
            codec=codec_of(compression),
            window=WINDOW,
            lock=self._changed,
            settled=self._pending.settled,
        )
        self._running = client.begin(self._pending, self._sending)
        self._is_closed = False

    def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> BlockingDelivery:
        """Take a record, and return its delivery; waits only while the buffer is full.

        Raises:
            InvalidRequestError: It cannot be encoded, or no batch can hold it.
            UnavailableError: The producer is closed.
        """
        self._check_process()
        head, body = encode_record(value, key, headers, timestamp)
        with self._changed:
            while self._ledger.room <= 0 and not self._running.done():
                self._changed.wait()
            if self._is_closed or self._accumulator.is_over or self._running.done():
                raise self._sending.closed_error
            batch = self._accumulator.add(head, body, self._loop.time())
            self._ledger.take(len(head) + len(body))
            place = batch.record_count - 1
        if place == 0 or batch.is_full:
            self._wake()
        return BlockingDelivery(batch, place, self._pending)

    def abort(self) -> None:
        """End at once: what is not acknowledged fails; it may have been appended where it was sent."""
        self._is_closed = True
        if self._pending.place.is_elsewhere:
            return  # it is the parent's
        with contextlib.suppress(UnavailableError):  # the client is closed, and this with it
            self._client.thread.run(self._stop())

    def __del__(self) -> None:
        if not self._is_closed and not self._pending.place.is_elsewhere:
            warn_of(self._ledger)
            self._client.soon(self._sending.finish)

    # --- on the loop ----------------------------------------------------------------------

    async def _stop(self) -> None:
        if not self._running.done():
            self._running.cancel()
            await asyncio.wait({self._running})

    def _wake(self) -> None:
        self._client.soon(self._sending.wake)
