"""Records for HTTP: some at once as one JSON object, or following the log as server-sent events.

A stream is pulled: a piece is read and made only when the client took the one before. A live stream is for
people: it shows so many records a second, skips to the end when there are more, and says how many it skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from loghouse.api.gated_call import GatedCall
from loghouse.api.log_service import CONSUME_SIZE, LogService
from loghouse.api.rest.choosing import pick
from loghouse.api.rest.exchange import json_bytes
from loghouse.api.rest.forms import record_form
from loghouse.api.rest.problems import problem_of
from loghouse.api.unpacking import records_from
from loghouse.errors import OffsetOutOfRangeError
from loghouse.limits import (
    FETCH_SIZE_DEFAULT,
    REST_ANSWER_SIZE_MAX,
    REST_BEAT_SECONDS,
    REST_EVENT_SIZE_MAX,
    REST_LIVE_RECORDS_MAX,
    REST_LIVE_SECONDS,
    UINT64_MAX,
)
from loghouse.node.api import LogLike
from loghouse.protocol.entry import decode_entries
from loghouse.protocol.record_range import Consistency, RecordRange
from loghouse.replica.api import Fetched
from loghouse.runtime.bridge import to_asyncio

RECORD_COST: Final = 64
"""Bytes counted for a record beside its value: of its JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordShape:
    """How records are shown: bytes as text where possible, or in base64; how many bytes of a value."""

    is_text: bool = True
    value_size_max: int = REST_ANSWER_SIZE_MAX

    def form(self, record: Any) -> dict[str, Any]:
        """Return a record as JSON."""
        return record_form(record, is_text=self.is_text, value_size_max=self.value_size_max)

    def size_of(self, record: Any) -> int:
        """Return about how many bytes it is shown in."""
        return RECORD_COST + len(record.key) + min(len(record.value), self.value_size_max)


class RestReads:
    """Reads logs for HTTP by what the gRPC service reads them by, from its share of memory."""

    def __init__(self, service: LogService) -> None:
        self._service = service

    async def page(
        self, call: GatedCall, log: LogLike, offset: int, count_max: int, shape: RecordShape
    ) -> dict[str, Any]:
        """Return records from `offset` on and where to go on; none at the end of the log.

        Raises:
            OffsetOutOfRangeError: There is no such offset, and it is not the next one either.
        """
        bounds = await to_asyncio(log.bounds())
        if not bounds.lowest <= offset <= bounds.next_offset:
            raise OffsetOutOfRangeError(offset, bounds.lowest, bounds.next_offset)
        records: list[dict[str, Any]] = []
        size = 0
        with self._service.reader():
            while offset < bounds.next_offset and len(records) < count_max and size < REST_ANSWER_SIZE_MAX:
                fetched = await to_asyncio(log.fetch(offset, self._service.share_of(FETCH_SIZE_DEFAULT)))
                self._service.count_out(fetched)
                with call.holding(len(fetched.frames)):
                    async with contextlib.aclosing(self._records(log, fetched, offset)) as found:
                        async for record in found:
                            records.append(shape.form(record))
                            size += shape.size_of(record)
                            offset = record.offset + 1
                            if len(records) == count_max or size >= REST_ANSWER_SIZE_MAX:
                                break
                        else:
                            offset = fetched.next_offset
        return {
            "records": records,
            "next_offset": offset,
            "bounds": {"lowest": bounds.lowest, "next": bounds.next_offset},
        }

    async def bounds(self, log: LogLike, consistency: Consistency) -> tuple[int, int]:
        """Return the lowest offset and the next one: as the leader or this node knows them."""
        if consistency is Consistency.CONFIRMED:
            bounds = await to_asyncio(log.bounds())
            return bounds.lowest, bounds.next_offset
        nothing = RecordRange(first=UINT64_MAX, end=UINT64_MAX, is_reverse=True, consistency=consistency)
        page = await to_asyncio(log.read_range(nothing))
        return page.lowest, page.committed

    async def chosen(
        self, call: GatedCall, log: LogLike, wanted: RecordRange, shape: RecordShape
    ) -> dict[str, Any]:
        """Return the records of a range that one look of the node finds, and where to go on."""
        with self._service.reader():
            wanted = replace(wanted, size_max=self._service.share_of(FETCH_SIZE_DEFAULT))
            page = self._service.count_out(await to_asyncio(log.read_range(wanted)))
            with call.holding(len(page.frames)):
                records, next_offset = await asyncio.to_thread(
                    pick, log.seed, page, wanted, size_of=shape.size_of, size_max=REST_ANSWER_SIZE_MAX
                )
        return {
            "records": [shape.form(record) for record in records],
            "next_offset": next_offset,
            "bounds": {"lowest": page.lowest, "next": page.committed},
            "is_confirmed": page.is_confirmed,
        }

    async def _records(self, log: LogLike, fetched: Fetched, offset: int) -> AsyncGenerator[Any, None]:
        share = partial(self._service.share_of, CONSUME_SIZE)
        for entry in decode_entries(log.seed, fetched.frames):
            async for record in records_from(entry, offset, share):
                yield record

    async def follow(
        self, call: GatedCall, log: LogLike, offset: int, shape: RecordShape, *, is_live: bool, where: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield events with the records from `offset` on, for ever; an error is the last event.

        Args:
            is_live: Skip what is too much for people.
        """
        try:
            with self._service.reader(), call.following():
                yield b"retry: 1000\n\n"
                events = (
                    self._live(call, log, offset, shape) if is_live else self._all(call, log, offset, shape)
                )
                async with contextlib.aclosing(events) as made:
                    async for event in made:
                        yield event
        except Exception as error:
            _, problem = problem_of(error, where)
            yield _event("problem", problem)

    async def _all(
        self, call: GatedCall, log: LogLike, offset: int, shape: RecordShape
    ) -> AsyncGenerator[bytes, None]:
        while True:
            async for beat in self._beats(log, offset):
                yield beat
            fetched = await self._service.read_on(call, log, offset, CONSUME_SIZE)
            with call.holding(len(fetched.frames)):
                records: list[dict[str, Any]] = []
                size = 0
                async for record in self._records(log, fetched, offset):
                    records.append(shape.form(record))
                    size += shape.size_of(record)
                    if size >= REST_EVENT_SIZE_MAX:
                        yield _records_event(records, record.offset + 1)
                        records, size = [], 0
                if records:
                    yield _records_event(records, fetched.next_offset)
            offset = fetched.next_offset

    async def _live(
        self, call: GatedCall, log: LogLike, offset: int, shape: RecordShape
    ) -> AsyncGenerator[bytes, None]:
        while True:
            async for beat in self._beats(log, offset):
                yield beat
            call.find_log(log.name, log.group)
            bounds = await to_asyncio(log.bounds())
            start = max(offset, bounds.lowest, bounds.next_offset - REST_LIVE_RECORDS_MAX)
            if start > offset:
                yield _event("skipped", {"from": offset, "to": start, "count": start - offset})
            if start < bounds.next_offset:
                page = await self.page(call, log, start, REST_LIVE_RECORDS_MAX, shape)
                yield _records_event(page["records"], page["next_offset"])
                offset = page["next_offset"]
            await asyncio.sleep(REST_LIVE_SECONDS)

    async def _beats(self, log: LogLike, offset: int) -> AsyncIterator[bytes]:
        """Wait for a record; yield a comment now and then."""
        waiting = to_asyncio(log.wait_for(offset))
        try:
            while not (await asyncio.wait({waiting}, timeout=REST_BEAT_SECONDS))[0]:
                yield b": alive\n\n"
            waiting.result()
        finally:
            waiting.cancel()


def _records_event(records: list[dict[str, Any]], next_offset: int) -> bytes:
    return b"id: %d\n" % next_offset + _event("records", {"records": records, "next_offset": next_offset})


def _event(name: str, value: Any) -> bytes:
    # JSON on one line: no line break of a record can end the event.
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json_bytes(value))
