"""The embedded producer: records gather while the batch before is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeAlias

from loghouse.client.batching import Accumulator, OutgoingBatch, ProducerLedger, encode_record
from loghouse.client.fields import seconds_of
from loghouse.client.gathering import GatheredDelivery, GatheringProducer
from loghouse.client.producer_settings import check_settings, warn_of
from loghouse.client.records import Headers
from loghouse.errors import ClientUseError, ClosedError, LoghouseError
from loghouse.protocol.entry import Codec

Append: TypeAlias = Callable[[bytes, int, Codec], int]
"""Appends a serialized batch of so many records, compressed by that codec; returns its first offset."""

RETRY_SECONDS: Final = 0.1
"""How long a batch waits that was refused and may be tried again, such as by a full disk."""


class EmbeddedDelivery(GatheredDelivery):
    """A record on its way into an embedded log; `offset()` waits for its offset."""

    __slots__ = ()

    def when_done(self, told: Callable[[], object]) -> None:
        """Call `told` once the outcome is known; on the producer's thread, or at once."""
        with self._shared.changed:
            if not self._batch.is_settled:
                self._batch.waiter = (*(self._batch.waiter or ()), told)
                return
        told()


class _Sending:
    """What a producer took and did not append yet; a thread works on it, and outlives a dropped producer."""

    def __init__(
        self,
        append: Append,
        accumulator: Accumulator,
        ledger: ProducerLedger,
        codec: Codec,
        check_process: Callable[[], None],
    ) -> None:
        self.changed = threading.Condition()
        self.check_process = check_process
        self.ledger = ledger
        self.accumulator = accumulator
        self.is_ending = False  # nothing more is taken; what is here is appended
        self.is_aborted = False  # what is here fails
        self._append_encoded = append
        self._codec = codec
        self.thread = threading.Thread(target=self._run, name="loghouse-producer", daemon=True)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            batch.seal(self._codec)
            try:
                base_offset = self._append(batch)
            except LoghouseError as error:
                self._settle(batch, error=error)
            else:
                self._settle(batch, base_offset=base_offset)
        for batch in self.accumulator.drop():
            self._settle(batch, error=ClosedError("the producer was closed before this was appended"))

    def _next(self) -> OutgoingBatch | None:
        """Wait for the next batch that is due; None when there is no more to do."""
        changed, accumulator = self.changed, self.accumulator
        with changed:
            while not self.is_aborted:
                if self.is_ending:
                    accumulator.hurry()
                now = time.monotonic()
                batch = accumulator.take(now)
                if batch is not None:
                    return batch
                due_at = accumulator.due_at
                if due_at is None and self.is_ending:
                    return None
                changed.wait(None if due_at is None else max(0.0, due_at - now))
        return None

    def _append(self, batch: OutgoingBatch) -> int:
        while True:
            try:
                return self._append_encoded(batch.payload, batch.record_count, batch.codec)
            except LoghouseError as error:
                if not error.may_retry or time.monotonic() + RETRY_SECONDS >= batch.deadline:
                    raise
            with self.changed:
                if self.changed.wait_for(lambda: self.is_aborted, RETRY_SECONDS):
                    raise ClosedError("the producer was closed before this was appended")

    def _settle(
        self, batch: OutgoingBatch, *, base_offset: int = -1, error: LoghouseError | None = None
    ) -> None:
        with self.changed:
            batch.base_offset, batch.error = base_offset, error
            self.ledger.settle(batch)
            waiters, batch.waiter = batch.waiter or (), None
            self.changed.notify_all()
        for told in waiters:
            told()


class EmbeddedProducer(GatheringProducer):
    """Appends records in batches, in order. See `EmbeddedLog.producer`; any thread may use it."""

    def __init__(
        self,
        append: Append,
        *,
        check_process: Callable[[], None],
        linger_ms: float,
        batch_bytes: int,
        codec: Codec,
        buffer_bytes: int,
        timeout_seconds: float,
    ) -> None:
        check_settings(linger_ms=linger_ms, batch_bytes=batch_bytes, buffer_bytes=buffer_bytes)
        self._ledger = ProducerLedger(buffer_bytes)
        self._accumulator = Accumulator(
            batch_size=batch_bytes,
            linger_seconds=linger_ms / 1000,
            timeout_seconds=seconds_of(timeout_seconds),
        )
        self._sending = _Sending(append, self._accumulator, self._ledger, codec, check_process)
        self._changed = self._sending.changed
        self._check_process = check_process
        self._sending.thread.start()
        self._is_closed = False

    @property
    def has_room(self) -> bool:
        """Whether `append` would not wait."""
        return self._ledger.room > 0

    def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> EmbeddedDelivery:
        """Take a record, and return its delivery; waits only while the buffer is full.

        Raises:
            InvalidRequestError: It cannot be encoded, or no batch can hold it.
            UnavailableError: The producer is closed.
            ClientUseError: This is a forked child of the process that opened the log.
        """
        self._check_process()
        head, body = encode_record(value, key, headers, timestamp)
        with self._changed:
            while self._ledger.room <= 0 and not self._sending.is_ending:
                self._changed.wait()
            if self._sending.is_ending:
                raise ClosedError("the producer is closed")
            batch = self._accumulator.add(head, body, time.monotonic())
            self._ledger.take(len(head) + len(body))
            place = batch.record_count - 1
            if place == 0 or batch.is_full:
                self._changed.notify_all()
        return EmbeddedDelivery(batch, place, self._sending)

    def abort(self) -> None:
        """End at once: what is not appended fails."""
        self._is_closed = True
        if self._is_elsewhere:
            return  # it is the parent's
        with self._changed:
            self._sending.is_ending = self._sending.is_aborted = True
            self._changed.notify_all()
        if threading.current_thread() is not self._sending.thread:
            self._sending.thread.join()

    def _wake(self) -> None:
        self._changed.notify_all()

    @property
    def _is_elsewhere(self) -> bool:
        """Whether this is a forked child, in which the sending thread does not run."""
        try:
            self._check_process()
        except ClientUseError:
            return True
        return False

    def __del__(self) -> None:
        if not self._is_closed and not self._is_elsewhere:
            warn_of(self._ledger)
            with self._changed:
                self._sending.is_ending = True
                self._changed.notify_all()
