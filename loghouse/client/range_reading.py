"""A reader of a range: one page after the other, each asked for while the one before is taken.

It goes on at another server when one fails, from where the last page said. Until then it stays with one: what
two replicas know to be committed is not the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from typing import Final

from loghouse.client.balancing import Purpose
from loghouse.client.calls import Calls
from loghouse.client.channels import Channel, seen
from loghouse.client.pages import begin_of, decoded
from loghouse.client.records import Batch, Bounds
from loghouse.errors import OffsetOutOfRangeError, ProtocolError
from loghouse.limits import UINT64_MAX
from loghouse.protocol.entry import decode_entries, frame_seed
from loghouse.protocol.record_matching import Matcher
from loghouse.protocol.record_range import Consistency, ReadPage, RecordRange

_logger: Final = logging.getLogger("loghouse.client")
WAIT_MILLISECONDS: Final = 5_000
"""How long a server may wait for a record to come; then it shows that it is in touch with the leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangePage:
    """An answer, and its batches, decoded as they are taken."""

    answer: ReadPage
    batches: Iterator[Batch]


class RangeReader:
    """Reads a range.

    Args:
        wanted: The range, until `between` says where.
        is_followed: Wait for more at the end.
        timeout_seconds: How long no server may be found before the reader fails.
    """

    def __init__(
        self, calls: Calls, wanted: RecordRange, is_followed: bool = False, *, timeout_seconds: float
    ) -> None:
        self._calls = calls
        self._wanted = wanted
        self._timeout_seconds = timeout_seconds
        self._is_followed = is_followed
        self._is_unconfirmed = False  # nobody could tell where the log ends: read what is known, and say so
        self._is_from_lowest = False  # read backwards, it ends at the lowest offset that there is
        self._matcher = Matcher(wanted.filter) if wanted.filter else None
        self._address = ""  # of the server that answered last; read on there while it answers

    def between(self, first: int | None, end: int | None) -> None:
        """Read from an offset up to, not including, another.

        Args:
            first: None, for a reader that goes backwards: to the lowest offset that there is.
            end: 2^64 - 1: wherever the log ends when the first server answers. None, unless the log is
                followed: nobody could confirm where that is; what a server knows is read, with a warning.
        """
        wanted = self._wanted
        self._is_from_lowest = first is None
        self._is_unconfirmed = end is None and not self._is_followed
        self._wanted = replace(
            wanted,
            first=first or 0,
            end=UINT64_MAX if end is None else max(end, first or 0),
            consistency=Consistency.LOCAL if self._is_unconfirmed else wanted.consistency,
        )

    @property
    def _wait_milliseconds(self) -> int:
        """How long a server may wait: less than the reader waits for it."""
        return min(WAIT_MILLISECONDS, max(1, int(self._timeout_seconds * 500)))

    async def pages(self) -> AsyncGenerator[RangePage, None]:
        """Yield the pages.

        Raises:
            OffsetOutOfRangeError: The range begins where there are no records, or some of it was trimmed.
            LoghouseError: A refusal; DeadlineError when no server answered for so long.
        """
        wanted = self._wanted
        if wanted.first >= wanted.end:
            return
        if self._is_followed:
            wanted = replace(wanted, wait_milliseconds=self._wait_milliseconds)
        seed = await self._seed()
        asking = self._ask_ahead(wanted)
        try:
            while True:
                answer = await asking
                batches, count = decoded(decode_entries(seed, answer.frames), wanted, answer, self._matcher)
                rest = self._rest(wanted, answer, count)
                if rest is not None:
                    wanted, asking = rest, self._ask_ahead(rest)
                yield RangePage(answer=answer, batches=self._here(batches))
                self._calls.place.check()
                if rest is None:
                    return
        finally:
            asking.cancel()
            asking.add_done_callback(seen)

    async def page(self) -> RangePage:
        """Return the first page; raises as `pages`."""
        wanted = self._wanted
        seed = await self._seed()
        answer = await self.ask(wanted)
        self._rest(wanted, answer, 0)
        batches, _ = decoded(decode_entries(seed, answer.frames), wanted, answer, self._matcher)
        return RangePage(answer=answer, batches=batches)

    async def _seed(self) -> int:
        view = await self._calls.view(self._timeout_seconds)
        return frame_seed(view.cluster_uuid, self._calls.group)

    def _here(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches in this process; a forked child gets none of what the parent asked for."""
        check = self._calls.place.check_process
        for batch in batches:
            check()
            yield batch
            check()

    def _rest(self, wanted: RecordRange, answer: ReadPage, count: int) -> RecordRange | None:
        """Return what to ask for next; None when everything is read.

        Raises:
            OffsetOutOfRangeError: The range begins behind the log's end.
        """
        next_offset, committed = answer.next_offset, answer.committed
        is_still = next_offset == begin_of(wanted, answer)
        if wanted.is_reverse:
            if answer.is_confirmed and wanted.first > committed:
                raise OffsetOutOfRangeError(wanted.first, answer.lowest, committed)
            if self._is_from_lowest and next_offset <= answer.lowest:
                return None
            rest = wanted.rest(next_offset, count)
            if rest is not None and is_still:
                raise OffsetOutOfRangeError(next_offset - 1, answer.lowest, committed)
            return rest
        if wanted.end == UINT64_MAX and not self._is_followed:
            wanted = replace(wanted, end=max(wanted.first, committed))
        rest = wanted.rest(next_offset, count)
        if self._is_unconfirmed and next_offset >= committed:
            _logger.warning(
                "no server can confirm where the log ends (a majority is not reached); read what is "
                "committed here, to offset %d: more may have been appended",
                next_offset - 1,
            )
            return None
        if rest is None:
            return None
        if self._is_followed:
            return replace(rest, wait_milliseconds=self._wait_milliseconds if next_offset >= committed else 0)
        if next_offset >= committed and (wanted.is_local or answer.is_confirmed):
            return None  # the range goes on behind the log's end
        if is_still:
            raise ProtocolError(f"the server read nothing at offset {next_offset}, and names no reason")
        return rest

    # --- asking -----------------------------------------------------------------------------

    def _ask_ahead(self, wanted: RecordRange) -> asyncio.Task[ReadPage]:
        return asyncio.ensure_future(self.ask(wanted))

    async def ask(self, wanted: RecordRange) -> ReadPage:
        """Return the answer of a server, of the same one as the last if it answers."""

        async def make(channel: Channel, seconds: float) -> ReadPage:
            answer = await channel.read_range(wanted, self._calls.where, seconds)
            self._address = channel.address
            return answer

        answer: ReadPage = await self._calls.call(
            make,
            purpose=Purpose.STREAM,
            timeout_seconds=self._timeout_seconds,
            is_safe=True,
            address=self._address,
        )
        return answer

    async def bounds(self) -> Bounds:
        """Return the bounds that a server knows; read on there."""
        nothing = RecordRange(
            first=UINT64_MAX, end=UINT64_MAX, is_reverse=True, consistency=self._wanted.consistency
        )
        answer = await self.ask(nothing)
        return Bounds(answer.lowest, answer.committed)
