"""The records of an entry, a piece at a time: a stream holds no more of them than its share.

What an entry unpacks to, and what its records cost in memory, has little to do with its size on the disk:
eight hundred bytes can hold a million records. So an entry is unpacked for each piece anew, in a thread when
that is long, and only the piece is kept while the client takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from loghouse.api.v1.log_pb2 import RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.protocol.batch import decompress, parse
from loghouse.protocol.checking import (
    PARSED_SIZE_MAX,
    UNPACKED_AT_ONCE_MAX,
    WALKED_RECORDS_MAX,
    RecordWalk,
)
from loghouse.protocol.entry import CODEC_MASK, Codec, Entry, EntryKind
from loghouse.protocol.zstd import unpacked_size

RECORD_COST: Final = 128
"""Bytes of memory counted for a record on top of its own."""


async def records_from(entry: Entry, offset: int, share: Callable[[], int]) -> AsyncIterator[Any]:
    """Yield the records of an entry from `offset` on, each with its offset and a time.

    Args:
        share: How many bytes of records may be held now.
    """
    if entry.kind != EntryKind.RECORDS or entry.next_offset <= offset:
        return
    position, place, first = 0, 0, max(0, offset - entry.base_offset)
    while first < entry.record_count:
        size_max = share()
        if _is_long(entry, first - place):
            piece = await asyncio.to_thread(_piece, entry, position, place, first, size_max)
        else:
            piece = _piece(entry, position, place, first, size_max)
        position, place, records = piece
        for number, record in enumerate(records, first):
            record.offset = entry.base_offset + number
            if not record.timestamp:
                record.timestamp = entry.timestamp
            yield record
        first = place


def _is_long(entry: Entry, skipped: int) -> bool:
    """Whether taking a piece is for a thread."""
    if skipped > WALKED_RECORDS_MAX:
        return True
    payload = entry.payload
    if entry.attributes & CODEC_MASK == Codec.NONE:
        return False
    try:
        return max(len(payload), unpacked_size(payload)) > UNPACKED_AT_ONCE_MAX
    except InvalidRequestError:
        return True  # taken by an earlier version


def _piece(entry: Entry, position: int, place: int, first: int, size_max: int) -> tuple[int, int, Any]:
    """Return where the next piece begins, its first record's place, and the records from `first` on.

    Args:
        position: Of a record in the unpacked payload.
        place: Of that record among all.
        first: The first record wanted, that one or a later one.
    """
    walk = RecordWalk(decompress(entry.payload, entry.attributes & CODEC_MASK), position, place)
    if first > place:
        walk.take(first - place)
    piece = walk.take(WALKED_RECORDS_MAX, min(size_max, PARSED_SIZE_MAX), RECORD_COST)
    if walk.count == first:
        raise InvalidRequestError("batch", f"holds {first} records, its entry says {entry.record_count}")
    return walk.position, walk.count, parse(RecordBatch, piece).records
