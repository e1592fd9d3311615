"""Records on their way out, gathered into batches: pure, and as little Python for each record as can be.

A batch is a serialized `RecordBatch`. Records that are only a value are not even made: two pieces of bytes
each, a head of tags and lengths (from a table by length) and the value, joined once when the batch is whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from loghouse.client.fields import bytes_of, headers_of, timestamp_of, values_of
from loghouse.client.records import NewRecord
from loghouse.errors import InvalidRequestError, LoghouseError
from loghouse.limits import PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX, UNREPORTED_BATCHES_MAX
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, crc32c
from loghouse.protocol.varint import encode_varint

if TYPE_CHECKING:
    from loghouse.api.v1 import log_pb2

NO_HEADERS: Final = ()
_TAG: Final = b"\n"  # field 1, length-delimited: `records` of a RecordBatch, and `value` of a Record
_HEADS_MAX: Final = 8192  # lengths of which the head is remembered

_heads: dict[int, bytes] = {}


@cache
def _record_type() -> type[log_pb2.Record]:
    """Return the generated class, imported once it is needed: records that are only a value do without."""
    from loghouse.api.v1 import log_pb2

    return log_pb2.Record


def message_of(value: Any, key: Any, headers: Any, timestamp: datetime | int | None) -> log_pb2.Record:
    """Return a record's message.

    Raises:
        InvalidRequestError: A part is not of its kind; its field names it.
    """
    message = _record_type()(
        value=bytes_of("value", value),
        key=None if key is None else bytes_of("key", key),
        timestamp=timestamp_of("timestamp", timestamp),
    )
    if headers != ():
        for name, content in headers_of(headers):
            message.headers.add(key=name, value=content)
    return message


def check_fits(size: int) -> None:
    """Raise InvalidRequestError for what no batch can hold; the nodes' own limit is mostly lower."""
    if size > PAYLOAD_SIZE_MAX:
        raise InvalidRequestError("record", f"has {size} bytes; a batch holds at most {PAYLOAD_SIZE_MAX}")


def head_of(size: int) -> bytes:
    """Return what stands before a value of `size` bytes in a batch, when its record has nothing else."""
    head = _heads.get(size)
    if head is None:
        inner = _TAG + encode_varint(size) if size else b""
        head = _TAG + encode_varint(len(inner) + size) + inner
        if len(_heads) < _HEADS_MAX:
            _heads[size] = head
    return head


def encode_batch_of(values: Iterable[Any]) -> tuple[bytes, int]:
    """Return the serialized batch of some values or `NewRecord`s, and how many there are.

    Raises:
        InvalidRequestError: There are none, too many, or they are neither bytes nor records.
    """
    given = list(values_of(values))
    record_count = len(given)
    kinds = list(map(type, given))
    if kinds.count(bytes) == record_count:
        payload = _batch_of_values(given)
    elif NewRecord in kinds:
        payload = b"".join(piece for place, value in enumerate(given) for piece in _pieces_of(value, place))
    else:
        payload = _batch_of_values([_value_of(value, place) for place, value in enumerate(given)])
    if not 0 < record_count <= RECORDS_PER_BATCH_MAX:
        raise InvalidRequestError(
            "values", f"are {record_count} records; allowed: 1 to {RECORDS_PER_BATCH_MAX}"
        )
    check_fits(len(payload))
    return payload, record_count


def encode_outputs(values: Iterable[Any]) -> tuple[bytes, int]:
    """As `encode_batch_of`, of what a consumer emits, which may be nothing: then no bytes, and 0."""
    given = list(values_of(values))
    return encode_batch_of(given) if given else (b"", 0)


def _batch_of_values(given: list[bytes]) -> bytes:
    """Return the serialized batch of records that are only a value; may change the list."""
    sizes = list(map(len, given))
    if given and sizes.count(sizes[0]) == len(given):
        given.insert(0, b"")  # so that a head stands before the first value, too
        return head_of(sizes[0]).join(given)
    heads: list[bytes | None] = list(map(_heads.get, sizes))
    pieces: list[Any] = [None] * (2 * len(given))
    pieces[::2] = map(head_of, sizes) if None in heads else heads
    pieces[1::2] = given
    return b"".join(pieces)


def _value_of(value: Any, place: int) -> bytes:
    return value if type(value) is bytes else bytes_of("values", value, f"{place} ")


def _pieces_of(value: Any, place: int) -> tuple[bytes, bytes]:
    """Return the two pieces of a record that is a value, or more."""
    if isinstance(value, NewRecord):
        return encode_record(*value)
    return encode_record(_value_of(value, place), None, NO_HEADERS, None)


@dataclass(slots=True, kw_only=True, eq=False)
class OutgoingBatch:
    """A batch on its way: what it holds, how far it got, and what became of it.

    Attributes:
        size: Bytes of the payload before compression.
        deadline: When its producer stops waiting for it, in the clock's seconds.
        sequence: Its place in the producer's order, -1 before it was first sent.
        is_unsure: Whether it may be in the log though nobody acknowledged it.
        base_offset: Of its first record, once it is acknowledged; -1 before.
        error: Why it failed, if it did.
        waiter: Whatever its driver wakes when it is settled.
        is_reported: Whether a caller got its error.
        is_full: Whether nothing more goes in, though it may not have lingered long enough.
    """

    due_at: float
    deadline: float
    pieces: list[bytes] = field(default_factory=list)
    payload: bytes = b""
    codec: Codec = Codec.NONE
    crc: int = 0
    record_count: int = 0
    size: int = 0
    sequence: int = -1
    is_unsure: bool = False
    base_offset: int = -1
    error: LoghouseError | None = None
    waiter: Any = None
    is_reported: bool = False
    is_full: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether its producer knows what became of it."""
        return self.base_offset >= 0 or self.error is not None

    def seal(self, codec: Codec) -> None:
        """Make the payload; compressed only when that makes it smaller."""
        payload = b"".join(self.pieces)
        self.pieces.clear()
        if codec is not Codec.NONE:
            packed = compress(payload, codec)
            if len(packed) < len(payload):
                payload, self.codec = packed, codec
        self.payload = payload
        self.crc = crc32c(payload)

    def offset(self, place: int) -> int:
        """Return the offset of the record at a place of this batch, which is settled.

        Raises:
            LoghouseError: It failed.
        """
        if self.error is not None:
            self.is_reported = True
            raise self.error.anew()
        return self.base_offset + place


class Accumulator:
    """Gathers records; a batch is taken when it is full, or has lingered long enough.

    Args:
        batch_size: Bytes at which a batch is full.
        linger_seconds: How long a record may wait for others.
        timeout_seconds: How long a batch is tried.

    Attributes:
        is_over: Whether everything was dropped: what is added from then on is not sent by anybody.
    """

    def __init__(self, *, batch_size: int, linger_seconds: float, timeout_seconds: float) -> None:
        self._batch_size = batch_size
        self._linger_seconds = linger_seconds
        self._timeout_seconds = timeout_seconds
        self.is_over = False
        self._open: OutgoingBatch | None = None
        self._full: deque[OutgoingBatch] = deque()

    def add(self, head: bytes, body: bytes, now: float) -> OutgoingBatch:
        """Add one encoded record; its place is the batch's `record_count` - 1.

        Args:
            head: From `head_of`, or everything before `body`.
            now: In the clock's seconds.
        """
        batch = self._open
        cost = len(head) + len(body)
        if batch is None or batch.size + cost > self._batch_size:
            if batch is not None:
                self._full.append(batch)
            batch = self._open = OutgoingBatch(
                due_at=now + self._linger_seconds, deadline=now + self._timeout_seconds
            )
        pieces = batch.pieces
        pieces.append(head)
        pieces.append(body)
        batch.size += cost
        batch.record_count += 1
        if batch.size >= self._batch_size or batch.record_count >= RECORDS_PER_BATCH_MAX:
            batch.is_full = True
            self._full.append(batch)
            self._open = None
        return batch

    def take(self, now: float) -> OutgoingBatch | None:
        """Return the next batch to send, to be sealed, or None when none is due."""
        if self._full:
            return self._full.popleft()
        if self._open is not None and self._open.due_at <= now:
            batch, self._open = self._open, None
            return batch
        return None

    def hurry(self) -> None:
        """What is gathered is due now."""
        if self._open is not None:
            self._open.due_at = float("-inf")

    @property
    def due_at(self) -> float | None:
        """When there is something to take, in the clock's seconds; None when nothing is gathered."""
        if self._full:
            return float("-inf")
        return self._open.due_at if self._open is not None else None

    def expire(self, now: float) -> list[OutgoingBatch]:
        """Return the batches whose time is over, not to be sent any more."""
        expired = []
        while self._full and self._full[0].deadline <= now:
            expired.append(self._full.popleft())
        if not self._full and self._open is not None and self._open.deadline <= now:
            expired.append(self._open)
            self._open = None
        return expired

    def drop(self) -> list[OutgoingBatch]:
        """Return every batch gathered, not to be sent any more; add nothing behind that."""
        self.is_over = True
        dropped = [*self._full, *([self._open] if self._open is not None else [])]
        self._full.clear()
        self._open = None
        return dropped


class ProducerLedger:
    """What a producer took, how much of it is settled, and the failures that no caller got.

    Attributes:
        room: Bytes that the buffer still takes; a record may take it below 0, once.
        taken, done: Records appended so far, and settled.
    """

    __slots__ = ("_failed", "_forgotten", "done", "room", "taken")

    def __init__(self, buffer_size: int) -> None:
        self.room = buffer_size
        self.taken = 0
        self.done = 0
        self._failed: deque[OutgoingBatch] = deque()
        self._forgotten = 0  # records of failed batches that there was no room to remember

    def take(self, size: int) -> None:
        """Count a record of so many bytes."""
        self.room -= size
        self.taken += 1

    def settle(self, batch: OutgoingBatch) -> None:
        """Count a batch of which the outcome is known."""
        self.room += batch.size
        self.done += batch.record_count
        if batch.error is not None:
            batch.pieces.clear()
            while self._failed and self._failed[0].is_reported:
                self._failed.popleft()
            if len(self._failed) < UNREPORTED_BATCHES_MAX:
                self._failed.append(batch)
            else:
                self._forgotten += batch.record_count

    def raise_unreported(self) -> None:
        """Raise the first failure, a LoghouseError, since the last time that no delivery has raised."""
        failed, self._failed, self._forgotten = self._failed, deque(), 0
        for batch in failed:
            if not batch.is_reported:
                batch.offset(0)

    def unreported(self) -> str:
        """Return what no caller learned of, as a sentence; empty when there is nothing."""
        waiting = self.taken - self.done
        unreported = [batch for batch in self._failed if not batch.is_reported]
        failed = sum(batch.record_count for batch in unreported) + self._forgotten
        parts = [f"{_records(waiting)} not acknowledged yet"] if waiting else []
        if failed:
            parts.append(f"{_records(failed)} not appended, and nobody was told: {unreported[0].error}")
        return ", and ".join(parts)


def _records(count: int) -> str:
    return "1 record was" if count == 1 else f"{count} records were"


def encode_record(
    value: Any, key: Any, headers: Any, timestamp: datetime | int | None
) -> tuple[bytes, bytes]:
    """Return the two pieces of any record, for `Accumulator.add`.

    Raises:
        InvalidRequestError: A part is not of its kind, or the record is larger than a batch may be.
    """
    # Each of them the default itself: what is only empty, such as "", is looked at like anything else.
    if key is None and headers is NO_HEADERS and timestamp is None:
        body = value if type(value) is bytes else bytes_of("value", value)
        head = head_of(len(body))
    else:
        body = message_of(value, key, headers, timestamp).SerializeToString()
        head = _TAG + encode_varint(len(body))
    size = len(head) + len(body)
    if size > PAYLOAD_SIZE_MAX:
        check_fits(size)
    return head, body
