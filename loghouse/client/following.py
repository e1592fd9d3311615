"""A followed stream of one connection: what came and was not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from loghouse.client.channels import FetchAnswer
from loghouse.client.failures import CallFailedError, CallFailure


class Source(Protocol):
    """The connection that it comes by."""

    def add_credit(self, stream: int, size: int) -> None:
        """Let the node send more."""

    def stop_following(self, stream: int) -> None:
        """Cancel it."""


class Following:
    """A followed stream: what came and was not read yet."""

    def __init__(self, connection: Source, stream: int) -> None:
        self._connection = connection
        self._stream = stream
        self._ready: deque[FetchAnswer] = deque()
        self._failure: CallFailure | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._owed_size = 0

    async def read(self) -> FetchAnswer:
        """Return what comes next; the one before is done with then.

        Raises:
            CallFailedError: The stream is over.
        """
        while (answer := self.take()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return answer

    def take(self) -> FetchAnswer | None:
        """As `read`, but None when nothing is here yet."""
        owed, self._owed_size = self._owed_size, 0
        if owed:
            self._connection.add_credit(self._stream, owed)
        if self._ready:
            answer = self._ready.popleft()
            self._owed_size = len(answer.frames)
            return answer
        if self._failure is not None:
            raise CallFailedError(self._failure)
        return None

    def cancel(self) -> None:
        """Nobody reads any more."""
        self._connection.stop_following(self._stream)

    def received(self, answer: FetchAnswer) -> None:
        """More came."""
        self._ready.append(answer)
        self._wake()

    def failed(self, failure: CallFailure) -> None:
        """Nothing more will come."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
