"""What a consumer does on its loop: read on from where its cursor stands, while that is kept.

All kinds of consumers drive it: by asyncio, and from other threads, which decode what is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final, Protocol, Unpack

from loghouse.client.choice import ReadOptions
from loghouse.client.consumer_settings import ConsumerSettings
from loghouse.client.cursors import AsyncCursors
from loghouse.client.first_place import BoundedLog, FirstPlace
from loghouse.client.keeping import Keeper, KeepingLog
from loghouse.client.open_consumers import Spawn
from loghouse.client.records import Batch
from loghouse.client.starts import Start
from loghouse.errors import (
    ClosedError,
    CursorTrimmedError,
    DeadlineError,
    LoghouseError,
    OffsetOutOfRangeError,
)

_logger: Final = logging.getLogger("loghouse.client")
CHECK_SECONDS: Final = 5.0
"""How long the log that is read may take to tell where it ends; without that it is read nevertheless."""


class ConsumedLog(BoundedLog, Protocol):
    """The log that is read, as asyncio programs use it."""

    def read_answers(
        self, from_: Start, /, **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """Yield the batches of one answer at a time."""

    def cursors(self) -> AsyncCursors:
        """Return its cursors."""


class Consumption:
    """Reads a log for a consumer, and keeps its cursor.

    Attributes:
        name: Of the cursor.
        keeper: Of the cursor.
    """

    def __init__(
        self,
        log: ConsumedLog,
        into: KeepingLog,
        settings: ConsumerSettings,
        spawn: Spawn,
        first: FirstPlace | None = None,
    ) -> None:
        self._log = log
        self._into = into
        self._settings = settings
        self._first = first or FirstPlace(log, settings.from_, settings.timeout_seconds)
        self.name = settings.name
        self.keeper = Keeper(into, settings, spawn, self._first)
        self._answers: AsyncGenerator[Iterator[Batch], None] | None = None  # what is read; None: not begun
        self._reading: asyncio.Task[Iterator[Batch]] | None = None  # the next answer, on its way

    @property
    def source(self) -> str:
        """What its positions count, and what keeps its cursor; known once that was acquired."""
        log, keeping = self._log.cursors().log, self._into.cursors().log
        kept = "" if keeping == log else f" in {keeping}"
        return f"{log} by cursor {self.keeper.name!r}{kept}"

    async def next_batches(self) -> Iterator[Batch]:
        """Return the batches of the next answer, decoded as they are taken; wait until there is one.

        Raises:
            CursorFencedError: Another one has the cursor.
            CursorTrimmedError: What comes next has been trimmed.
            OffsetOutOfRangeError: The cursor is beyond the log's end.
            LoghouseError: It cannot be read, or the cursor cannot be kept.
        """
        await self.keeper.acquire()
        if self._answers is None:
            self._answers = self._read_from(await self.beginning())
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._answers))
        waited = {self._reading, self.keeper.task}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        self.keeper.check()
        reading, self._reading = self._reading, None
        if reading is None:
            raise ClosedError("the consumer was closed, or iterated anew, while this waited")
        try:
            return reading.result()
        except BaseException:
            self._answers = None  # it has ended
            raise

    async def read_from(self, position: int) -> None:
        """Go on reading at a position."""
        await self.stop_reading()
        self._answers = self._read_from(position)

    async def stop_reading(self) -> None:
        """Read no more; whoever asks for batches begins anew."""
        reading, answers, self._reading, self._answers = self._reading, self._answers, None, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
        if answers is not None:
            await answers.aclose()

    async def lag(self) -> int:
        """Return how many records that the log holds are not done."""
        position = await self.keeper.position()
        bounds = await self._log.bounds(timeout_seconds=self._settings.timeout_seconds)
        return max(0, bounds.next_offset - max(position, bounds.lowest))

    # --- the end (`ConsumerWork`) -----------------------------------------------------------

    @property
    def failure(self) -> LoghouseError | None:
        """Why it cannot go on; None while it can."""
        return self.keeper.failure

    @property
    def is_at_work(self) -> bool:
        """Whether the cursor is held, or waited for."""
        return self.keeper.is_at_work

    @property
    def is_ending(self) -> bool:
        """Whether it is over, or about to be."""
        return self.keeper.is_finishing

    @property
    def is_committed(self) -> bool:
        """Whether everything that is done is durable."""
        return self.keeper.is_committed

    async def close(self, seconds: float) -> None:
        """Read no more, commit, and let the cursor go; see `Keeper.close`."""
        await self.stop_reading()
        await self.keeper.close(seconds)

    async def abort(self) -> None:
        """Read no more, and end; see `Keeper.abort`."""
        await self.stop_reading()
        await self.keeper.abort()

    # --- where to read ----------------------------------------------------------------------

    async def beginning(self) -> int:
        """Return where to begin, once the cursor is held.

        Of a cursor that is new this is committed, to be the same the next time.

        Raises:
            As `next_batches`.
        """
        holding = await self.keeper.acquire()
        if self.keeper.is_new and self._first.is_earliest and not holding.position:
            position = await self._first.lowest()
            self.keeper.done(position)
            await self.keeper.commit()
            self.keeper.is_new = False
            return position
        try:
            bounds = await self._log.bounds(timeout_seconds=CHECK_SECONDS)
        except DeadlineError:
            return holding.position  # whoever can be reached may have it
        if holding.position > bounds.next_offset:
            raise OffsetOutOfRangeError(holding.position, *bounds)
        return holding.position

    async def _read_from(self, position: int) -> AsyncGenerator[Iterator[Batch], None]:
        """Yield the batches of one answer at a time, without end."""
        while True:
            seconds = self._settings.timeout_seconds
            answers = self._log.read_answers(position, follow=True, timeout_seconds=seconds)
            try:
                async with aclosing(answers):
                    async for batches in answers:
                        yield batches
            except OffsetOutOfRangeError as error:
                position = self._behind_trimmed(error)

    def _behind_trimmed(self, error: OffsetOutOfRangeError) -> int:
        """Return where to go on behind records that have been trimmed.

        Raises:
            CursorTrimmedError: It was not said where.
        """
        if error.offset >= error.lowest:
            raise error
        name, on_trimmed = self._settings.name, self._settings.on_trimmed
        if on_trimmed == "error":
            raise CursorTrimmedError(name, error.offset, error.lowest) from None
        position = error.lowest if on_trimmed == "earliest" else error.next_offset
        _logger.warning(
            "cursor %r: offsets %d to %d were not consumed: they were trimmed, or %s was asked for",
            name,
            error.offset,
            position - 1,
            f"on_trimmed={on_trimmed!r}",
        )
        return position
