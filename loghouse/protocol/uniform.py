"""Batches of records that are only values, all of one size: taken apart by places, without a parse."""

from __future__ import annotations

import struct
from itertools import chain
from typing import Final

from loghouse.protocol.entry import Buffer
from loghouse.protocol.varint import decode_varint

_TAG: Final = 0x0A  # field 1, length-delimited: `records` of a batch, `value` of a record
_UNPACKED_AT_ONCE: Final = 32  # values of one call: fewer cost a tuple each, more a larger `struct` format


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
        size = (self._head_size + self._value_size) * _UNPACKED_AT_ONCE
        view, behind = memoryview(self._payload), len(self._payload) // size * size
        values: list[bytes] = []
        for some in struct.iter_unpack(form * _UNPACKED_AT_ONCE, view[:behind]):
            values += some
        values.extend(chain.from_iterable(struct.iter_unpack(form, view[behind:])))
        return values

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
