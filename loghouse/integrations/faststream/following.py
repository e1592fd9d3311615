"""What a subscriber without a cursor reads by: the methods of a consumer, and a place that nobody keeps."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Self

from loghouse.client.log import AsyncLog
from loghouse.client.records import Batch, Record
from loghouse.client.starts import Start
from loghouse.errors import OffsetOutOfRangeError


class LogFollower:
    """Follows a log from a place on; entered again, behind what was done."""

    def __init__(self, log: AsyncLog, from_: Start) -> None:
        self._log = log
        self._next: Start = from_

    async def begin(self) -> None:
        """Find the log's end now, where it begins there: what is appended from now on is read."""
        if self._next == "latest":
            self._next = (await self._log.bounds()).next_offset

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def __aiter__(self) -> AsyncGenerator[Record, None]:
        async for batch in self.batches():
            for record in batch:
                yield record

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield batches, for ever.

        Raises:
            OffsetOutOfRangeError: What comes next has been trimmed; entered again it goes on behind that.
        """
        try:
            async with aclosing(self._log.read_batches(self._next, follow=True)) as batches:
                async for batch in batches:
                    yield batch
        except OffsetOutOfRangeError as error:
            self._next = error.lowest
            raise

    def done(self, mark: Record | Batch) -> None:
        """Go on behind this, should the reading begin anew."""
        self._next = mark.next_offset if isinstance(mark, Batch) else mark.offset + 1

    async def emit(self, values: Any, done: Any = None) -> None:
        """Raise AssertionError: `into` needs a cursor, which `broker.subscriber` checks."""
        raise AssertionError("a subscriber without a cursor has no `into`")
