"""The Deferred producer: records gather on the reactor's thread, and the client's loop sends them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from datetime import datetime
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, fail, succeed

from loghouse.client.batching import Accumulator, OutgoingBatch, ProducerLedger, encode_record
from loghouse.client.deferred.opened import OpenedClient
from loghouse.client.log import AsyncLog
from loghouse.client.producer_settings import check_settings, warn_of
from loghouse.client.producing import WINDOW, ProducerBlock
from loghouse.client.records import Headers
from loghouse.client.sending import Sending
from loghouse.client.starts import Compression, codec_of
from loghouse.client.tracing import sending_class
from loghouse.errors import ClosedError, LoghouseError, ResourceExhaustedError
from loghouse.limits import WAITING_APPENDS_MAX, WAITING_SIZE_MAX


class DeferredDelivery:
    """A record on its way. `offset()` tells its offset, as often as you like, or never; so does awaiting it.

    Both fail by what its producer learned: OutcomeUnknownError when its time was over and nobody can tell, or
    an error that means that it was not appended. A cancelled wait does not take the record back.
    """

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: OutgoingBatch, place: int) -> None:
        self._batch = batch
        self._place = place

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known, so that nobody waits for it."""
        return self._batch.is_settled

    def offset(self) -> Deferred[int]:
        """Return the record's offset, once it is durable on a majority."""
        batch = self._batch
        if not batch.is_settled:
            waiting: Deferred[None] = Deferred()
            batch.waiter = [*(batch.waiter or ()), waiting]
            return waiting.addCallback(lambda _: batch.offset(self._place))
        try:
            return succeed(batch.offset(self._place))
        except LoghouseError:
            return fail()

    def __await__(self) -> Generator[Any, None, int]:
        return self.offset().__await__()


class _Waiting(NamedTuple):
    """A record for which the buffer has no room yet."""

    head: bytes
    body: bytes
    taken: Deferred[DeferredDelivery]


class Outbox:
    """What a producer took and its sending task has not settled; it outlives a producer that is dropped."""

    def __init__(
        self,
        opened: OpenedClient,
        log: AsyncLog,
        *,
        linger_ms: float,
        batch_bytes: int,
        compression: Compression,
        buffer_bytes: int,
        timeout_seconds: float | None,
    ) -> None:
        self.ledger = ProducerLedger(buffer_bytes)
        self.is_over = False  # nothing is sent any more, and the outcome of everything is known
        self._opened = opened
        self._loop = opened.loop
        self._calls = log.calls
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
            lock=self._loop.lock,
            settled=lambda batch: self._loop.back(self._settled, batch),
        )
        self._queue: deque[_Waiting] = deque()
        self._queue_size = 0  # bytes
        self._news: list[Deferred[None]] = []  # fired when a batch is settled, and at the end
        opened.unsettled.add(self)
        self._loop.soon(self._begin)

    # --- taking records -------------------------------------------------------------------

    def append(self, head: bytes, body: bytes) -> Deferred[DeferredDelivery]:
        """Take a record, now or when there is room.

        Raises:
            ClosedError: The producer has ended.
            ResourceExhaustedError: Nobody waits until there is room.
        """
        if self.is_over:
            raise self._sending.closed_error
        if self.ledger.room > 0 and not self._queue:
            return succeed(self._take(head, body))
        size = len(head) + len(body)
        if len(self._queue) >= WAITING_APPENDS_MAX or self._queue_size > WAITING_SIZE_MAX:
            raise ResourceExhaustedError(
                "producer",
                f"{len(self._queue)} appends wait for room in its buffer already; "
                "wait for the Deferred of each append before the next one",
            )
        waiting = _Waiting(head, body, Deferred(lambda _: self._forget(waiting)))
        self._queue.append(waiting)
        self._queue_size += size
        return waiting.taken

    def _take(self, head: bytes, body: bytes) -> DeferredDelivery:
        with self._loop.lock:
            batch = self._accumulator.add(head, body, self._loop.time())
            place = batch.record_count - 1
            is_due = place == 0 or batch.is_full
        self.ledger.take(len(head) + len(body))
        if is_due:
            self._loop.soon(self._sending.wake)
        return DeferredDelivery(batch, place)

    def _forget(self, waiting: _Waiting) -> None:
        """An append was cancelled that waited for room."""
        self._queue = deque(one for one in self._queue if one is not waiting)
        self._queue_size -= len(waiting.head) + len(waiting.body)
        self._note()

    # --- what became of them --------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """See `UnsettledRecords`."""
        return not self._queue and self.ledger.done >= self.ledger.taken

    def hurry(self) -> None:
        """See `UnsettledRecords`."""
        with self._loop.lock:
            self._accumulator.hurry()
        self._loop.soon(self._sending.wake)

    def finish(self) -> None:
        """Nothing more will be taken: send what was, and end."""
        self._loop.soon(self._sending.finish)

    def unreported(self) -> str:
        """See `UnsettledRecords`."""
        return self.ledger.unreported()

    async def flush(self) -> None:
        """Wait until every record appended so far is settled; raises the first failure nobody was told of."""
        last = self._queue[-1] if self._queue else None
        while last in self._queue:
            self.hurry()
            await self._next()
        goal = self.ledger.taken
        while self.ledger.done < goal:
            self.hurry()
            await self._next()
        self.ledger.raise_unreported()

    async def abort(self) -> None:
        """End at once, and wait until everything is settled."""
        self._loop.soon(lambda: self._task.cancel())  # which has begun by then
        while not self.is_over:
            await self._next()

    def _next(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._news.append(waiting)
        return waiting

    def _note(self) -> None:
        news, self._news = self._news, []
        for waiting in news:
            waiting.callback(None)
        self._opened.note()

    def _settled(self, batch: OutgoingBatch) -> None:
        """Note a batch of which the outcome is known, and take what waited for its room."""
        self.ledger.settle(batch)
        waiting, batch.waiter = batch.waiter, None
        for one in waiting or ():
            one.callback(None)
        while self._queue and self.ledger.room > 0:
            first = self._queue.popleft()
            self._queue_size -= len(first.head) + len(first.body)
            first.taken.callback(self._take(first.head, first.body))
        self._note()

    # --- the sending task -----------------------------------------------------------------

    def _begin(self) -> None:
        self._task = self._calls.spawn(self._sending.run())
        self._task.add_done_callback(lambda _: self._loop.back(self._ended))

    def _ended(self) -> None:
        """Nothing is sent any more. What was taken since the task gave up what it had fails, too."""
        self.is_over = True
        self._opened.unsettled.discard(self)
        error = self._sending.closed_error
        with self._loop.lock:
            dropped = self._accumulator.drop()
        waiting, self._queue, self._queue_size = self._queue, deque(), 0
        for batch in dropped:
            batch.error = error
            self._settled(batch)
        for one in waiting:
            one.taken.errback(error)
        self._note()


class DeferredProducer(ProducerBlock):
    """Appends records in batches, exactly once, in order. See `DeferredLog.producer`."""

    _is_closed = True  # until there is something to close

    def __init__(
        self,
        opened: OpenedClient,
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
        self._owner = owner  # which closes the client when it is dropped
        self._place = log.calls.place
        self._outbox: Final = Outbox(
            opened,
            log,
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            compression=compression,
            buffer_bytes=buffer_bytes,
            timeout_seconds=timeout_seconds,
        )
        self._check_here = opened.check_here
        self._is_closed = False

    def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> Deferred[DeferredDelivery]:
        """Take a record, and return its delivery; fires at once, or when the buffer has room again.

        Wait for it before the next append: that is what holds back a program that is faster than its log.

        Raises:
            InvalidRequestError: It cannot be encoded, or no batch can hold it.
            ResourceExhaustedError: Too many appends wait for room already.
            UnavailableError: The producer is closed.
        """
        try:
            self._check_here()
            if self._is_closed:
                raise ClosedError("the producer is closed")
            head, body = encode_record(value, key, headers, timestamp)
            return self._outbox.append(head, body)
        except LoghouseError:
            return fail()

    def flush(self) -> Deferred[None]:
        """Wait until every record appended so far is settled.

        Raises:
            LoghouseError: The first failure since the last time that no delivery has told.
        """
        return Deferred.fromCoroutine(self._flush())

    def close(self) -> Deferred[None]:
        """Flush, and end; raises as `flush`."""
        return Deferred.fromCoroutine(self._close())

    def abort(self) -> Deferred[None]:
        """End at once: what is not acknowledged fails; it may have been appended where it was sent."""
        self._is_closed = True
        if self._place.is_elsewhere:
            return succeed(None)  # it is the parent's
        return Deferred.fromCoroutine(self._outbox.abort())

    async def _flush(self) -> None:
        self._check_here()
        await self._outbox.flush()

    async def _close(self) -> None:
        self._check_here()
        self._is_closed = True
        try:
            await self._outbox.flush()
        finally:
            await self._outbox.abort()

    def __del__(self) -> None:
        if not self._is_closed and not self._place.is_elsewhere:
            warn_of(self._outbox.ledger)
            self._outbox.finish()
