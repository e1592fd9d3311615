"""One reading: answers of the client's loop, asked for by the reactor's thread, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

from loghouse.client.deferred.opened import OpenedClient

T = TypeVar("T")


class PulledAnswers(Generic[T]):
    """What a generator of the loop yields, for the reactor's thread: answers not decoded yet, or batches."""

    def __init__(self, opened: OpenedClient, answers: AsyncGenerator[T, None]) -> None:
        self._opened = opened
        self._answers = answers
        self._turn = asyncio.Lock()  # a generator does one thing at a time
        self._asked: Deferred[Any] | None = None

    def next(self) -> Deferred[T | None]:
        """Return the next one, None behind the last."""
        self._asked = asked = self._opened.run(self._next(), is_endless=True)
        return asked

    def close(self) -> None:
        """Stop reading; nobody waits for that, so that a generator may be closed at any moment."""
        if self._asked is not None:
            self._asked.cancel()
            self._opened.run(self._close()).addErrback(lambda _: None)  # closed, and with it what it read

    async def _next(self) -> T | None:
        async with self._turn:
            return await anext(self._answers, None)

    async def _close(self) -> None:
        async with self._turn:
            await self._answers.aclose()
