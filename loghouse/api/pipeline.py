"""Requests of one stream under way together, answered in their order.

The reader proposes each request as it comes; the writer awaits the oldest and sends its answer. The window
between them is bounded by count and by bytes: when it is full, the stream is not read, and gRPC's flow
control stops the client. A producer's window is what the log remembers of it: its next batch would be
refused, and that would end its stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from loghouse.api.guard import Call
from loghouse.limits import PIPELINE_MAX, PIPELINE_SIZE_MAX, PRODUCER_BATCHES_MAX

Submit = Callable[[Any], Awaitable[asyncio.Future[bytes]]]
"""Checks a request and proposes it; the future gives the serialized answer."""


class Pipeline:
    """One produce stream, from its first request to its last answer.

    The first request that fails ends the stream with its error, after the answers to all before it. What came
    behind it may have been appended nevertheless: a client knows only what was answered.
    """

    def __init__(self, call: Call, submit: Submit) -> None:
        self._call = call
        self._submit = submit
        self._answers: deque[tuple[asyncio.Future[bytes], int]] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._has_ended = False

    async def run(self) -> None:
        """Serve the stream until the client is done or gone, or a request fails."""
        reader = asyncio.ensure_future(self._read())
        try:
            while await self._wait_for_answer():
                answer, size = self._answers[0]
                await self._call.write(await answer)
                self._answers.popleft()
                self._size -= size
                self._changed.set()
        finally:
            reader.cancel()
            for answer, _ in self._answers:
                _forget(answer)
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (message := await self._call.read_raw()) is not None:
                size = len(message)
                request = await self._call.parse(message)
                await self._wait_for_room(size, PRODUCER_BATCHES_MAX if request.producer_id else PIPELINE_MAX)
                self._push(await self._submit(request), size)
        except Exception as error:
            # In its turn: whatever was proposed before is answered before the error.
            self._push(_failed(error), 0)
        finally:
            self._has_ended = True
            self._changed.set()

    def _push(self, answer: asyncio.Future[bytes], size: int) -> None:
        self._answers.append((answer, size))
        self._size += size
        self._changed.set()

    async def _wait_for_room(self, size: int, count_max: int) -> None:
        while self._answers and (len(self._answers) >= count_max or self._size + size > PIPELINE_SIZE_MAX):
            await self._wait()

    async def _wait_for_answer(self) -> bool:
        """Return whether there is an answer to wait for; False once the client is done."""
        while not self._answers:
            if self._has_ended:
                return False
            await self._wait()
        return True

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _forget(answer: asyncio.Future[bytes]) -> None:
    """Cancel an answer that nobody will get; one that failed already counts as seen."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()


def _failed(error: Exception) -> asyncio.Future[bytes]:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
