"""Record batches: the payload of a records entry, checked and read in C.

A payload is a serialized protobuf `RecordBatch`, compressed as a whole or not.
Nothing here runs Python per record except `check_batch`'s size test, which is
one `max` over a C iteration.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

import zstandard
from google.protobuf.message import DecodeError

from loghouse.api.v1.log_pb2 import EncodedRecords, Record, RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.limits import KIB, PAYLOAD_SIZE_MAX, RECORD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.protocol.entry import Buffer, Codec, crc32c
from loghouse.protocol.varint import decode_varint

_FormT = TypeVar("_FormT", RecordBatch, EncodedRecords)

PARSE_SLACK: Final = 262_144
"""Records more than announced that a parse may make: 24 MiB for a moment. Batches below 512 KiB cannot."""


UNPACK_SIZE_MAX: Final = 64 * KIB
"""A larger compressed batch is unpacked on another thread than the reactor's; that leaves the GIL alone."""


def is_slow(size: int, codec: int) -> bool:
    """Whether unpacking so many bytes is for another thread; what is refused for its size needs none."""
    return codec != Codec.NONE and UNPACK_SIZE_MAX < size <= PAYLOAD_SIZE_MAX


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
    return _parse(RecordBatch, decompress(payload, codec))


def split_batch(payload: Buffer, codec: int = Codec.NONE) -> EncodedRecords:
    """Return the records of a payload as `decode_batch` does, each still encoded.

    Raises:
        InvalidRequestError: It is not a batch of that codec.
    """
    return _parse(EncodedRecords, decompress(payload, codec))


def _parse(form: type[_FormT], payload: Buffer) -> _FormT:
    try:
        return form.FromString(payload if isinstance(payload, bytes) else bytes(payload))
    except DecodeError:
        raise InvalidRequestError("batch", "is not a serialized RecordBatch") from None


def plain_values(batch: EncodedRecords) -> list[bytes] | None:
    """Return the values of records that are nothing but values; None if one is more than that, or is empty.

    No Python object is made of a record, which is most of what `decode_batch` and taking its values costs: a
    record that is only a value is encoded as its field 1, and those of a whole batch, one behind the other,
    are one message that has this field again and again, as `EncodedRecords` has. See ADR 15.
    """
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


def _check_parse_is_cheap(payload: Buffer, record_count: int) -> None:
    """Raise if parsing would make far more records than announced: some 90 bytes of memory each.

    Eight megabytes hold four million empty records, and pack into a kilobyte. Each record begins with one
    line feed, so counting those (in C) bounds them from above; only when there are too many is it walked,
    and no further than one record too many.
    """
    if len(payload) // 2 <= record_count + PARSE_SLACK:
        return
    view = bytes(payload)
    if view.count(b"\n") <= record_count + PARSE_SLACK:
        return
    position = found = 0
    while position < len(view):
        found += 1
        if found > record_count:
            raise InvalidRequestError("record_count", f"is {record_count}, but the batch holds more")
        if view[position] != 0x0A:
            raise InvalidRequestError("batch", "is not a serialized RecordBatch")
        try:
            size, position = decode_varint(view, position + 1)
        except (IndexError, ValueError):
            raise InvalidRequestError("batch", "is not a serialized RecordBatch") from None
        position += size


def check_batch(
    payload: Buffer,
    *,
    record_count: int,
    codec: int = Codec.NONE,
    payload_crc: int | None = None,
    record_size_max: int = RECORD_SIZE_MAX,
) -> None:
    """Raise unless a producer's batch is what it says it is.

    Raises:
        InvalidRequestError: Names the field and the limit.
    """
    if len(payload) > PAYLOAD_SIZE_MAX:
        raise InvalidRequestError(
            "batch", f"has {len(payload)} bytes; at most {PAYLOAD_SIZE_MAX} are allowed"
        )
    if payload_crc is not None and crc32c(payload) != payload_crc:
        raise InvalidRequestError("batch_crc", "does not match the batch; it was damaged on the way")
    if not 0 < record_count <= RECORDS_PER_BATCH_MAX:
        raise InvalidRequestError("record_count", f"is {record_count}; allowed: 1 to {RECORDS_PER_BATCH_MAX}")
    unpacked = decompress(payload, codec)
    _check_parse_is_cheap(unpacked, record_count)
    records = _parse(RecordBatch, unpacked).records
    if len(records) != record_count:
        raise InvalidRequestError("record_count", f"is {record_count}, but the batch holds {len(records)}")
    # A record cannot be larger than the batch around it, so most batches need no look inside.
    if len(payload) <= record_size_max and codec == Codec.NONE:
        return
    largest = max(record.ByteSize() for record in records)
    if largest > record_size_max:
        raise InvalidRequestError("record", f"has {largest} bytes; at most {record_size_max} are allowed")
