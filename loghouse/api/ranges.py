"""Reads of a range by gRPC: what a request means, and answers that every client can take."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import Deferred

from loghouse.api.unpacking import fitting
from loghouse.api.v1 import log_pb2
from loghouse.limits import ENTRY_HEADER_SIZE, GRPC_FRAMES_SIZE_MAX, UINT64_MAX
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import CODEC_MASK, Entry, EntryKind, decode_entries, make_entry
from loghouse.protocol.record_filter import EVERYTHING, RecordFilter
from loghouse.protocol.record_matching import encoded_records
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.protocol.varint import join_bytes_field
from loghouse.replica.api import Fetched
from loghouse.runtime.bridge import to_asyncio

RECORD_HEAD_SIZE: Final = 6
"""Bytes of tag and length before a record, at most."""


def range_of(request: Any) -> RecordRange:
    """Return what a ReadRequest asks for.

    Raises:
        InvalidRequestError: It cannot be meant.
    """
    asked = request.filter
    wanted = RecordRange(
        first=request.first,
        end=request.end if request.HasField("end") else UINT64_MAX,
        is_reverse=request.reverse,
        count_max=request.count_max,
        size_max=request.size_max,
        filter=RecordFilter(
            keys=tuple(asked.keys),
            key_prefixes=tuple(asked.key_prefixes),
            headers=tuple((header.key, header.value) for header in asked.headers),
        )
        if request.HasField("filter")
        else EVERYTHING,
        consistency=request.consistency,
        wait_milliseconds=request.wait_milliseconds,
    )
    wanted.check()
    return wanted


def range_response(page: ReadPage, group: int) -> bytes:
    """Return the serialized answer."""
    rest = log_pb2.ReadResponse(
        next_offset=page.next_offset,
        group=group,
        lowest=page.lowest,
        committed=page.committed,
        is_confirmed=page.is_confirmed,
    ).SerializeToString()
    return join_bytes_field(log_pb2.ReadResponse.FRAMES_FIELD_NUMBER, page.frames, bytes(rest))


async def wait_at_most(waiting: Deferred[None], seconds: float) -> None:
    """Return once it fires, or its time is over; raises what it fails with."""
    with suppress(TimeoutError):
        await asyncio.wait_for(to_asyncio(waiting), seconds)


async def fitting_range(seed: int, page: ReadPage, wanted: RecordRange, size_max: int) -> ReadPage:
    """Return a page so that a gRPC client with its usual limit for a message can take it (`fitting`).

    Args:
        size_max: What the client says that it can take; it counts when it is above the usual limit.
    """
    size_max = max(size_max, GRPC_FRAMES_SIZE_MAX)
    if len(page.frames) <= size_max:
        return page
    if wanted.is_reverse:
        return await asyncio.to_thread(_fitting_backwards, seed, page, wanted.end, size_max)
    whole = Fetched(frames=page.frames, next_offset=page.next_offset)
    part = await fitting(seed, whole, wanted.first, size_max)
    return replace(page, frames=part.frames, next_offset=min(part.next_offset, page.next_offset))


def _fitting_backwards(seed: int, page: ReadPage, end: int, size_max: int) -> ReadPage:
    entries = list(decode_entries(seed, page.frames))
    begin, size = len(entries), 0
    while begin and size + entries[begin - 1].size <= size_max:
        begin -= 1
        size += entries[begin].size
    if size:
        next_offset = max(entries[begin].base_offset, page.next_offset)
        return replace(page, frames=memoryview(page.frames)[-size:], next_offset=next_offset)
    part = _last_part(seed, entries[-1], end, size_max)
    return replace(page, frames=part.frame, next_offset=max(part.base_offset, page.next_offset))


def _last_part(seed: int, entry: Entry, end: int, size_max: int) -> Entry:
    """Return the records of an entry before an offset, as many of the last as fit; one, whatever its size."""
    payload = bytes(decompress(entry.payload, entry.attributes & CODEC_MASK))
    records = [record for piece in encoded_records(payload) for record in piece]
    records = records[: max(1, end - entry.base_offset)]
    first, size = len(records) - 1, ENTRY_HEADER_SIZE + RECORD_HEAD_SIZE + len(records[-1])
    while first and (size := size + RECORD_HEAD_SIZE + len(records[first - 1])) <= size_max:
        first -= 1
    part = records[first:]
    return make_entry(
        seed,
        index=entry.index,
        term=entry.term,
        kind=EntryKind.RECORDS,
        base_offset=entry.base_offset + first,
        timestamp=entry.timestamp,
        payload=log_pb2.EncodedRecords(records=part).SerializeToString(),
        record_count=len(part),
    )
