"""The consumers of a client that are open: they end together, when it closes or when they are dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from loghouse.errors import LoghouseError

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

_logger: Final = logging.getLogger("loghouse.client")
CLOSE_SECONDS: Final = 30.0
LEAVE_SECONDS: Final = 10.0
"""How long the commit of what is done may take when a consumer's block is left by an error, a cancellation or
Ctrl-C; and that of all consumers together that are open when their client closes."""


class ConsumerWork(Protocol):
    """What a consumer does on its loop. It outlives a consumer that is dropped, and its tasks hold it alone.

    Attributes:
        name: Of the cursor, or of the group.
    """

    name: str

    @property
    def failure(self) -> LoghouseError | None:
        """Why it cannot go on; None while it can."""

    @property
    def is_at_work(self) -> bool:
        """Whether it has a cursor, or is about to: something has to end it."""

    @property
    def is_ending(self) -> bool:
        """Whether it is over, or about to be."""

    @property
    def is_committed(self) -> bool:
        """Whether everything that is done is durable."""

    async def close(self, seconds: float) -> None:
        """Commit what is done, release, and end, within so many seconds; whoever asks again waits, too.

        Raises:
            LoghouseError: Something that is done could not be committed.
        """

    async def abort(self) -> None:
        """End, and commit nothing more."""


class OpenConsumers:
    """What the open consumers of a client do.

    Attributes:
        spawn: Starts a task that ends with the client.
    """

    def __init__(self, spawn: Spawn) -> None:
        self.spawn = spawn
        self._works: set[ConsumerWork] = set()  # of those that were entered, and have not ended

    def __len__(self) -> int:
        return len(self._works)

    def add(self, work: ConsumerWork) -> None:
        """A consumer was entered."""
        self._works.add(work)

    def discard(self, work: ConsumerWork) -> None:
        """A consumer has ended."""
        self._works.discard(work)

    def drop(self, work: ConsumerWork) -> None:
        """End what a consumer did that nobody closed, and nobody has any more; on the loop."""
        self.spawn(self._drop(work))

    async def _drop(self, work: ConsumerWork) -> None:
        try:
            await work.close(CLOSE_SECONDS)
        except LoghouseError as error:
            _logger.warning("a consumer that was dropped could not commit: %s", error)
        finally:
            self._works.discard(work)

    async def close(self, seconds: float) -> str:
        """End all of them together, within so many seconds.

        Returns:
            What could not be committed, as a sentence; empty when everything is.
        """
        ending = {asyncio.ensure_future(work.close(seconds)): work for work in self._works}
        if not ending:
            return ""
        _, late = await asyncio.wait(ending, timeout=seconds)
        left = [_left(ending[task].name) for task in late if not ending[task].is_committed]
        for task in late:
            task.cancel()
        await asyncio.wait(ending)
        self._works.difference_update(ending.values())
        for task, work in ending.items():
            if not task.cancelled() and (error := task.exception()) is not None and task not in late:
                left.append(f"{_left(work.name)} ({error})")
        return "; ".join(left)

    def left(self) -> str:
        """Return what is not committed yet, as `close` does; any thread may ask."""
        return "; ".join(_left(work.name) for work in list(self._works) if not work.is_committed)


def _left(name: str) -> str:
    return f"what is done is not committed in cursor {name!r}"
