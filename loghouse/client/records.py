"""What is read: records, batches of them, and the frames that they come in. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from loghouse.client.fields import datetime_of
from loghouse.errors import ProtocolError
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import CODEC_MASK, Buffer, Entry, EntryKind, decode_entries
from loghouse.protocol.uniform import UniformRecords, uniform_records
from loghouse.protocol.varint import decode_varint

if TYPE_CHECKING:
    from loghouse.api.v1 import log_pb2

Headers = Iterable[tuple[str, bytes]] | Mapping[str, bytes]

_FRAMES_TAG: Final = 0x0A  # field 1, length-delimited
_NEXT_OFFSET_TAG: Final = 0x10  # field 2, varint
_new: Final = tuple.__new__
Places: TypeAlias = Callable[[Sequence[bytes]], list[int]]
"""Returns which of some encoded records are wanted, by their places."""
_T = TypeVar("_T")


@cache
def _parsing() -> Any:
    """Return the module `client.parsing`, imported once it is needed: protobuf is slow to import."""
    from loghouse.client import parsing

    return parsing


class Record(NamedTuple):
    """A record as it was read.

    `timestamp` is in microseconds since the epoch: what its producer gave, else when the leader appended it.
    `key` is None when it has none, which is not the same as an empty one. `headers` are (name, value) pairs
    in their order.
    """

    offset: int
    timestamp: int
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def time(self) -> datetime:
        """The timestamp as an aware datetime (UTC)."""
        return datetime_of(self.timestamp)


class NewRecord(NamedTuple):
    """A record for `append_batch`, where a value alone does not say all of it; parts as in `append`."""

    value: bytes
    key: bytes | None = None
    headers: Headers = ()
    timestamp: datetime | int | None = None


class Bounds(NamedTuple):
    """The offsets a log holds: `lowest` is the first readable one, `next_offset` the next to be given out."""

    lowest: int
    next_offset: int


class Batch:
    """Records of one batch, as they were appended together, from the asked offset on.

    Iterating gives `Record`s; `values()` is faster. `timestamp` is the leader's append time.

    Args:
        encoded: All records of the batch.
        first: Where among them this one begins.
        last: And ends; not included.
    """

    __slots__ = ("_encoded", "_first", "_last", "offset", "timestamp")

    def __init__(
        self,
        offset: int,
        timestamp: int,
        encoded: log_pb2.EncodedRecords | UniformRecords,
        first: int,
        last: int,
    ) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self._encoded = encoded
        self._first = first
        self._last = last

    def __len__(self) -> int:
        return self._last - self._first

    def __repr__(self) -> str:
        return f"Batch(offset={self.offset}, timestamp={self.timestamp}, len={len(self)})"

    @property
    def next_offset(self) -> int:
        """The offset of the first record behind this batch."""
        return self.offset + len(self)

    def before(self, end: int) -> Batch:
        """Return the part of this batch that is before an offset; the batch itself when all of it is."""
        if self.next_offset <= end:
            return self
        last = self._first + max(0, end - self.offset)
        return Batch(self.offset, self.timestamp, self._encoded, self._first, last)

    def first_of(self, count: int) -> Batch:
        """Return the first `count` records of this batch."""
        return Batch(self.offset, self.timestamp, self._encoded, self._first, self._first + count)

    def last_of(self, count: int) -> Batch:
        """Return the last `count` records of this batch."""
        first = self._last - count
        return Batch(self.next_offset - count, self.timestamp, self._encoded, first, self._last)

    @property
    def offsets(self) -> Sequence[int]:
        """The records' offsets."""
        return range(self.offset, self.next_offset)

    @property
    def messages(self) -> Sequence[log_pb2.Record]:
        """The generated messages, parsed anew; their `offset` means nothing, and `timestamp` may be 0.

        Raises:
            InvalidRequestError: A record is not a serialized one; so does all that looks into records.
        """
        records: Any = _parsing().decode_batch(self._encoded.SerializeToString()).records
        return self._mine(records)

    def values(self) -> list[bytes]:
        """Return the records' values."""
        values = self._plain_values()
        if values is not None:
            return self._mine(values)
        return [message.value for message in self.messages]

    def _plain_values(self) -> list[bytes] | None:
        """Return all values of the batch if its records are nothing but values, else None."""
        if isinstance(self._encoded, UniformRecords):
            return self._encoded.values()
        values: list[bytes] | None = _parsing().plain_values(self._encoded)
        return values

    def __iter__(self) -> Iterator[Record]:
        values = self._plain_values()
        if values is not None:
            fields = self.offsets, repeat(self.timestamp), self._mine(values), repeat(None), repeat(())
            return map(_new, repeat(Record), zip(*fields, strict=False))
        return self._records()

    def _records(self) -> Iterator[Record]:
        timestamp, new = self.timestamp, _new
        for offset, message in zip(self.offsets, self.messages, strict=False):
            headers = message.headers
            yield new(
                Record,
                (
                    offset,
                    message.timestamp or timestamp,
                    message.value,
                    message.key or (b"" if message.HasField("key") else None),
                    tuple((header.key, header.value) for header in headers) if headers else (),
                ),
            )

    def _mine(self, records: list[_T]) -> list[_T]:
        return records if len(self) == len(records) else records[self._first : self._last]


class PickedBatch(Batch):
    """Some records of one batch: those that were wanted. Their offsets may have gaps.

    `offset` is the first one's, and `next_offset` the one behind the last.

    Args:
        offsets: Of the records.
        encoded: These records alone.
    """

    __slots__ = ("_offsets",)

    def __init__(
        self, offsets: Sequence[int], timestamp: int, encoded: log_pb2.EncodedRecords | UniformRecords
    ) -> None:
        super().__init__(offsets[0] if offsets else 0, timestamp, encoded, 0, len(offsets))
        self._offsets = offsets

    @classmethod
    def of(cls, entry: Entry, unpacked: bytes, first: int, last: int, places: Places) -> PickedBatch | None:
        """Return those records of an entry, from an offset up to another, that `places` finds; None: no such.

        Raises:
            InvalidRequestError, ProtocolError: As `batches_in`.
        """
        base_offset = entry.base_offset
        records = _parsing().split_entry(unpacked, entry).records[:]
        found = [place for place in places(records) if first <= base_offset + place < last]
        if not found:
            return None
        encoded = _parsing().EncodedRecords(records=[records[place] for place in found])
        return cls([base_offset + place for place in found], entry.timestamp, encoded)

    @property
    def next_offset(self) -> int:
        """The offset behind the last record."""
        return self.offsets[-1] + 1 if self.offsets else self.offset

    def before(self, end: int) -> Batch:
        """Return those before an offset; the batch itself when all are."""
        count = bisect_left(self.offsets, end)
        return self if count == len(self.offsets) else self.first_of(count)

    def first_of(self, count: int) -> Batch:
        """Return the first `count` records of this batch."""
        return self._part(0, count)

    def last_of(self, count: int) -> Batch:
        """Return the last `count` records of this batch."""
        return self._part(len(self) - count, len(self))

    def _part(self, first: int, last: int) -> Batch:
        encoded: Any = self._encoded
        part = _parsing().EncodedRecords(records=encoded.records[first:last])
        return PickedBatch(self.offsets[first:last], self.timestamp, part)

    @property
    def offsets(self) -> Sequence[int]:
        """The records' offsets."""
        return self._offsets


def split_answer(message: bytes) -> tuple[Buffer, int]:
    """Return the frames and the next offset of a serialized FetchResponse; the frames are a view of it.

    Raises:
        ProtocolError: It is no FetchResponse.
    """
    frames: Buffer = b""
    next_offset = position = 0
    try:
        while position < len(message):
            tag = message[position]
            number, position = decode_varint(message, position + 1)
            if tag == _FRAMES_TAG:
                frames = memoryview(message)[position : position + number]
                position += number
            elif tag == _NEXT_OFFSET_TAG:
                next_offset = number
            else:
                break  # a field of a later version
    except (IndexError, ValueError):
        position = -1
    if position == len(message):
        return frames, next_offset
    answer: tuple[Buffer, int] = _parsing().parse_answer(message)
    return answer


def unpacked_entry(entry: Entry) -> bytes:
    """Return the uncompressed payload of an entry.

    Raises:
        InvalidRequestError: It unpacks to too much.
    """
    return bytes(decompress(entry.payload, entry.attributes & CODEC_MASK))


def batch_of(entry: Entry, first: int, last: int) -> Batch:
    """Return the records of an entry from an offset up to, not including, another.

    Raises:
        InvalidRequestError: The payload is not a batch, or unpacks to too much.
        ProtocolError: It holds others than the entry says.
    """
    unpacked = decompress(entry.payload, entry.attributes & CODEC_MASK)
    encoded = uniform_records(unpacked, entry.record_count) or _parsing().split_entry(unpacked, entry)
    base_offset = entry.base_offset
    return Batch(first, entry.timestamp, encoded, first - base_offset, last - base_offset)


def batches_of(seed: int, frames: Buffer, offset: int, next_offset: int, end: int | None) -> Iterator[Batch]:
    """Return the batches of one answer of a server, as `batches_in`; every checksum is checked.

    Args:
        seed: From `frame_seed`.

    Raises:
        EntryError: A frame is damaged, cut off, or of another log.
    """
    return batches_in(decode_entries(seed, frames), offset, next_offset, end)


def batches_in(entries: Iterable[Entry], offset: int, next_offset: int, end: int | None) -> Iterator[Batch]:
    """Yield the batches of some entries from `offset` up to, not including, `end`.

    Offsets must have no gaps, and lead to `next_offset`.

    Args:
        next_offset: Where who gave the entries said to go on.
        end: None for everything.

    Raises:
        InvalidRequestError: A payload is not a batch, or unpacks to too much.
        ProtocolError: Offsets are missing.
    """
    for entry in entries:
        if entry.kind != EntryKind.RECORDS or entry.next_offset <= offset:
            continue
        if entry.base_offset > offset:
            raise ProtocolError(f"the server sent offset {entry.base_offset} where {offset} belongs")
        last = entry.next_offset if end is None else min(entry.next_offset, end)
        if last > offset:
            yield batch_of(entry, offset, last)
        offset = entry.next_offset
    if offset != next_offset:
        raise ProtocolError(f"the server's frames end at offset {offset}, but it said {next_offset}")
