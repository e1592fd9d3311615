"""Where a cursor begins that nobody had yet."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from loghouse.client.cursors import Cursor
from loghouse.client.records import Bounds
from loghouse.client.starts import Start
from loghouse.errors import OffsetOutOfRangeError


class BoundedLog(Protocol):
    """A log that tells what it holds."""

    async def bounds(self, *, timeout_seconds: float | None = None) -> Bounds:
        """Return the offsets that the log holds."""

    async def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset that was appended at or after a time."""


class FirstPlace:
    """The place of a cursor that is new: found once, before that is made, so that no holder leaves it at 0.

    It outlives what one attempt at having the cursor comes to: a cursor that was made without an answer is
    still new to the next one.

    Attributes:
        is_earliest: The cursor stays at 0, where it is made, until reading begins: its user may count
            something else than the records of a log, as an importer does.
        position: The place; None: not found, or somebody had the cursor.
    """

    def __init__(self, log: BoundedLog, start: Start, timeout_seconds: float | None) -> None:
        self._log = log
        self._start = start
        self._timeout_seconds = timeout_seconds
        self.is_earliest = start == "earliest"
        self.position: int | None = None

    async def find(self) -> None:
        """There is no such cursor: find its place, unless that is known.

        Raises:
            OffsetOutOfRangeError: It is beyond the log's end.
        """
        if self.position is None:
            self.position = 0 if self.is_earliest else await self._find()

    def saw(self, cursor: Cursor, me: str) -> None:
        """There is such a cursor, and it is new only if it was made in vain by an attempt of `me`."""
        if cursor.position or cursor.holder != me:
            self.position = None

    async def lowest(self) -> int:
        """Return the offset of the earliest record."""
        return (await self._log.bounds(timeout_seconds=self._timeout_seconds)).lowest

    async def _find(self) -> int:
        start, seconds = self._start, self._timeout_seconds
        if isinstance(start, datetime):
            return await self._log.find_offset(start, timeout_seconds=seconds)
        bounds = await self._log.bounds(timeout_seconds=seconds)
        if not isinstance(start, int):
            return bounds.next_offset
        if start > bounds.next_offset:
            raise OffsetOutOfRangeError(start, *bounds)
        return start
