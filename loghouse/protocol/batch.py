"""Record batches: the payload of a records entry, made and read by protobuf.

A payload is a serialized `RecordBatch`, compressed as a whole or not. `checking` says which are taken; here
all that were ever taken can be read. Who only needs `compression` or `uniform` does without protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError

from loghouse.api.v1.log_pb2 import EncodedRecords, Record, RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import Buffer, Codec

_FormT = TypeVar("_FormT", RecordBatch, EncodedRecords, Record)


def encode_batch(records: Iterable[Record]) -> bytes:
    """Return the uncompressed payload that holds these records."""
    return RecordBatch(records=records).SerializeToString()


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
