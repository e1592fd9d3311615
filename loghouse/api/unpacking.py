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
from loghouse.limits import ENTRY_HEADER_SIZE, GRPC_FRAMES_SIZE_MAX
from loghouse.protocol.batch import parse
from loghouse.protocol.checking import PARSED_SIZE_MAX, UNPACKED_AT_ONCE_MAX, WALKED_RECORDS_MAX, RecordWalk
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import CODEC_MASK, Codec, Entry, EntryKind, decode_entries, make_entry
from loghouse.protocol.zstd import unpacked_size
from loghouse.replica.api import Fetched

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


async def fitting(seed: int, fetched: Fetched, offset: int, size_max: int) -> Fetched:
    """Return what is fetched so that a gRPC client with its usual limit for a message can take it.

    A batch that is too large for that comes in parts: each is an entry of its own for the reader, with the
    index, term and time of the whole, and not compressed.

    Args:
        offset: The one asked for.
        size_max: What the client says that it can take; it counts when it is above the usual limit.
    """
    size_max = max(size_max, GRPC_FRAMES_SIZE_MAX)
    if len(fetched.frames) <= size_max:
        return fetched
    return await asyncio.to_thread(_fitting, seed, fetched, offset, size_max)


def _fitting(seed: int, fetched: Fetched, offset: int, size_max: int) -> Fetched:
    size = 0
    for entry in decode_entries(seed, fetched.frames):
        if size + entry.size > size_max:
            if entry.base_offset <= offset:
                return _first_part(seed, entry, offset, size_max)
            return Fetched(frames=memoryview(fetched.frames)[:size], next_offset=entry.base_offset)
        size += entry.size
    return fetched


def _first_part(seed: int, entry: Entry, offset: int, size_max: int) -> Fetched:
    """Return the records of an entry from an offset on, as many as fit; one at least, whatever its size."""
    walk = RecordWalk(decompress(entry.payload, entry.attributes & CODEC_MASK))
    first = offset - entry.base_offset
    if first:
        walk.take(first)
    part = walk.take(entry.record_count, size_max - ENTRY_HEADER_SIZE)
    made = make_entry(
        seed,
        index=entry.index,
        term=entry.term,
        kind=EntryKind.RECORDS,
        base_offset=offset,
        timestamp=entry.timestamp,
        payload=bytes(part),
        record_count=walk.count - first,
    )
    return Fetched(frames=made.frame, next_offset=made.next_offset)
