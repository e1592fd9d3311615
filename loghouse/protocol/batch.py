"""Record batches: the payload of a records entry, made and read in C.

A payload is a serialized protobuf `RecordBatch`, compressed as a whole or not. `checking` says which are
taken; here all that were ever taken can be read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain
from typing import Final, TypeVar

import zstandard
from google.protobuf.message import DecodeError

from loghouse.api.v1.log_pb2 import EncodedRecords, Record, RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX
from loghouse.protocol.entry import Buffer, Codec
from loghouse.protocol.varint import decode_varint

_TAG: Final = 0x0A  # field 1, length-delimited: `records` of a batch, `value` of a record
_FormT = TypeVar("_FormT", RecordBatch, EncodedRecords)


def encode_batch(records: Iterable[Record]) -> bytes:
    """Return the uncompressed payload that holds these records."""
    return RecordBatch(records=records).SerializeToString()


def compress(payload: Buffer, codec: Codec) -> bytes:
    """Return the payload compressed by `codec`."""
    if codec == Codec.ZSTD:
        return zstandard.ZstdCompressor().compress(payload)
    return bytes(payload)


def decompress(payload: Buffer, codec: int) -> Buffer:
    """Return the payload uncompressed; never more than `PAYLOAD_SIZE_MAX` bytes are made.

    For what is in the log: earlier versions took more zstd than `zstd.unpack_frame` does.

    Raises:
        InvalidRequestError: The codec is unknown, the bytes are not of it, or they unpack to too much.
    """
    if codec == Codec.NONE:
        return payload
    if codec != Codec.ZSTD:
        raise InvalidRequestError("codec", f"{codec} is unknown; allowed: 0 (none), 1 (zstd)")
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=PAYLOAD_SIZE_MAX).stream_reader(payload)
        unpacked = reader.read(PAYLOAD_SIZE_MAX + 1)
    except zstandard.ZstdError as error:
        raise InvalidRequestError("batch", f"is not valid zstd: {error}") from None
    if len(unpacked) > PAYLOAD_SIZE_MAX:
        raise InvalidRequestError("batch", f"unpacks to more than {PAYLOAD_SIZE_MAX} bytes")
    return unpacked


def decode_batch(payload: Buffer, codec: int = Codec.NONE) -> RecordBatch:
    """Return the records of a payload.

    Raises:
        InvalidRequestError: It is not a batch of that codec.
    """
    return parse(RecordBatch, decompress(payload, codec))


def split_batch(payload: Buffer, codec: int = Codec.NONE) -> EncodedRecords:
    """Return the records of a payload as `decode_batch` does, each still encoded.

    Raises:
        InvalidRequestError: It is not a batch of that codec.
    """
    return parse(EncodedRecords, decompress(payload, codec))


def parse(form: type[_FormT], payload: Buffer) -> _FormT:
    """Return an uncompressed payload parsed.

    Raises:
        InvalidRequestError: It is not a batch.
    """
    try:
        return form.FromString(payload if isinstance(payload, bytes) else bytes(payload))
    except DecodeError:
        raise InvalidRequestError("batch", "is not a serialized RecordBatch") from None


class UniformRecords:
    """A batch of records that are only values, all of one size: taken apart by places, without parsing.

    Stands for the `EncodedRecords` of the same payload. See docs/tricks.md.
    """

    __slots__ = ("_head_size", "_payload", "_value_size")

    def __init__(self, payload: bytes, head_size: int, value_size: int) -> None:
        """Use `uniform_records`."""
        self._payload = payload
        self._head_size = head_size
        self._value_size = value_size

    def values(self) -> list[bytes]:
        """Return the records' values."""
        form = f"{self._head_size}x{self._value_size}s"
        return list(chain.from_iterable(struct.iter_unpack(form, self._payload)))

    def SerializeToString(self) -> bytes:  # noqa: N802 - as generated messages name it
        """Return the payload."""
        return self._payload


def uniform_records(payload: Buffer, record_count: int) -> UniformRecords | None:
    """Return the records of an uncompressed payload if they are only values, all of one size; else None.

    Args:
        record_count: How many there must be.
    """
    whole = bytes(payload)
    size = len(whole) // record_count if record_count else 0
    try:
        record_size, at = decode_varint(whole, 1)
        value_size, head_size = decode_varint(whole, at + 1)
    except (IndexError, ValueError):
        return None
    fits = record_size == size - at and value_size == size - head_size > 0
    if not fits or whole[0] != _TAG or whole[at] != _TAG or len(whole) != size * record_count:
        return None
    # The same head before each: a column of bytes at a time.
    if any(whole[place::size].count(whole[place]) != record_count for place in range(head_size)):
        return None
    return UniformRecords(whole, head_size, value_size)


def plain_values(batch: EncodedRecords | UniformRecords) -> list[bytes] | None:
    """Return the values of records that are nothing but values; None if one is more than that, or is empty.

    No Python object is made of a record, which is most of what `decode_batch` and taking its values costs: a
    record that is only a value is encoded as its field 1, and those of a whole batch, one behind the other,
    are one message that has this field again and again, as `EncodedRecords` has. See ADR 15.
    """
    if isinstance(batch, UniformRecords):
        return batch.values()
    if not batch.records or not _is_plain(batch.records[0]):
        return None
    records = batch.records[:]
    joined = b"".join(records)
    try:
        fields = EncodedRecords.FromString(joined)
    except DecodeError:
        return None
    fields.DiscardUnknownFields()
    values = fields.records[:]
    # No record is empty, there is no byte of another field, and as many values as records: one in each.
    is_plain = len(values) == len(records) and all(records) and fields.ByteSize() == len(joined)
    return values if is_plain else None


def _is_plain(record: bytes) -> bool:
    try:
        value = Record.FromString(record).value
    except DecodeError:
        return False
    return Record(value=value).ByteSize() == len(record) > 0
