"""Batches that need a parse, by protobuf: a program that reads values of one size does without."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from loghouse.api.v1.log_pb2 import EncodedRecords, FetchResponse
from loghouse.errors import ProtocolError
from loghouse.protocol.batch import decode_batch, plain_values, split_batch
from loghouse.protocol.checking import check_not_more
from loghouse.protocol.entry import Buffer, Entry

__all__ = ["EncodedRecords", "decode_batch", "parse_answer", "plain_values", "split_entry"]


def split_entry(unpacked: Buffer, entry: Entry) -> EncodedRecords:
    """Return the records of an entry's unpacked payload, each still encoded.

    Raises:
        InvalidRequestError: The payload is no batch, or would make many more records than the entry says.
        ProtocolError: They are not as many as it says.
    """
    check_not_more(unpacked, entry.record_count)
    encoded = split_batch(unpacked)
    size = len(encoded.records)
    if size != entry.record_count:
        raise ProtocolError(
            f"the batch at {entry.base_offset} holds {size} records, its frame says {entry.record_count}"
        )
    return encoded


def parse_answer(message: bytes) -> tuple[bytes, int]:
    """Return the frames and the next offset of a serialized FetchResponse.

    Raises:
        ProtocolError: It is no FetchResponse.
    """
    try:
        parsed = FetchResponse.FromString(message)
    except DecodeError:
        raise ProtocolError("the server's answer is not a serialized FetchResponse") from None
    return parsed.frames, parsed.next_offset
