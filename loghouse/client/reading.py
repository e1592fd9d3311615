"""A reader: one stream of whole batches that goes on at another server when one fails.

It remembers the next offset, so that nothing is read twice and nothing is missed. A server that is silent for
a while is asked for the log's bounds: one that is cut off from the leader cannot answer that, and one that
has more and does not send it is left, too. What is not read waits at the server, held back by flow control.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Final, TypeAlias

from loghouse.client.balancing import Purpose
from loghouse.client.calls import Calls
from loghouse.client.channels import Answers, Channel, FetchAnswer
from loghouse.client.failures import CallFailedError, CallFailure, Effect
from loghouse.client.records import batches_of
from loghouse.client.retrying import Pauses
from loghouse.errors import DeadlineError, LoghouseError, OutcomeUnknownError, UnavailableError
from loghouse.protocol.entry import Buffer, frame_seed

_logger: Final = logging.getLogger("loghouse.client")
QUIET_SECONDS: Final = 5.0
"""After so long without a record, a server must show that it is in touch with the leader."""
DRY_SECONDS: Final = 2.0
"""When the end is not confirmed: a server that sent nothing for so long has no more."""
ANSWER_SECONDS: Final = 5.0
"""How long it may take to show that, and then to send what it has."""


Decode: TypeAlias = Callable[[int, Buffer, int, int, int | None], Iterator[Any]]
"""Called with the frames' seed, an answer's frames, the offset asked for, where to go on, and the end."""


class Reader:
    """Reads from an offset on.

    Args:
        offset: Of the first record.
        end: The first offset not to read; None follows the tail for ever.
        timeout_seconds: How long no server may be found before the reader fails.
        is_unconfirmed: Nobody could tell the end: read until no server that can be reached has more.
        decode: Checks an answer's frames, and makes of them what the reader gives.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        offset: int,
        end: int | None,
        timeout_seconds: float,
        is_unconfirmed: bool = False,
        decode: Decode = batches_of,
    ) -> None:
        self._calls = calls
        self._offset = offset
        self._end = end
        self._timeout_seconds = timeout_seconds
        self._is_unconfirmed = is_unconfirmed
        self._decode = decode
        self._dry: set[str] = set()  # the servers that had nothing at the offset
        self._pauses = Pauses(calls.rng)
        self._failing_since: float | None = None

    async def answers(self) -> AsyncGenerator[Iterator[Any], None]:
        """Yield the batches of each answer, decoded as they are iterated.

        Raises:
            OffsetOutOfRangeError: The records at the offset have been trimmed.
            LoghouseError: A refusal; DeadlineError when no server answered for so long.
        """
        calls = self._calls
        seed = frame_seed((await calls.view(self._timeout_seconds)).cluster_uuid, calls.group)
        while not self._is_done:
            address = self._next_address()
            if address is None:
                _logger.warning(
                    "no server can confirm where the log ends (a majority is not reached); read what is "
                    "committed here, to offset %d: more may have been appended",
                    self._offset - 1,
                )
                return
            answers = self._from(address)
            try:
                async for frames, next_offset in answers:
                    offset, self._offset = self._offset, next_offset
                    yield self._here(self._decode(seed, frames, offset, next_offset, self._end))
                    calls.place.check()
                    if self._is_done:
                        return
                    calls.refresh_if_stale()
            except CallFailedError as error:
                failure = error.failure
            except _DryServerError:
                self._dry.add(address)
                continue
            except _SilentServerError as error:
                failure = CallFailure(error=error, effect=Effect.UNKNOWN, is_link=True)
            finally:
                await answers.aclose()
            await self._pause_after(failure, address)

    def _here(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches in this process; a forked child gets none of what the parent asked for."""
        check = self._calls.place.check_process
        for batch in batches:
            check()
            yield batch
            check()

    @property
    def _is_done(self) -> bool:
        return self._end is not None and self._offset >= self._end

    async def _from(self, address: str) -> AsyncGenerator[FetchAnswer, None]:
        """Yield one server's answers.

        Raises:
            CallFailedError: The stream ended.
            _SilentServerError: The server is there, but out of touch with the leader.
        """
        calls = self._calls
        with calls.channels.lend(address) as channel, calls.unless_closed(is_safe=True):
            answers = channel.answers(self._offset, calls.where)
            try:
                while True:
                    answer = answers.take()
                    if answer is None:
                        answer = await self._wait_for(answers, channel)
                        calls.balancer.succeeded(address)
                        self._went_well()
                    else:
                        await asyncio.sleep(0)  # what comes meanwhile is taken from the wire
                    yield answer
            finally:
                answers.cancel()

    def _next_address(self) -> str | None:
        """Return where to read next; None when the end is where no server has more."""
        calls = self._calls
        if not self._dry:
            return calls.balancer.address(Purpose.STREAM, calls.now)
        return calls.balancer.address_beside(self._dry, Purpose.STREAM, calls.now)

    async def _wait_for(self, answers: Answers, channel: Channel) -> FetchAnswer:
        """Return the next answer, however long that takes while the server is in touch with the leader."""
        reading = asyncio.ensure_future(answers.read())
        try:
            while not reading.done():
                seconds = DRY_SECONDS if self._is_unconfirmed else QUIET_SECONDS
                await asyncio.wait({reading}, timeout=seconds)
                if not reading.done() and self._is_unconfirmed:
                    raise _DryServerError
                if not reading.done():
                    await self._check_in_touch(channel, reading)
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()

    def _went_well(self) -> None:
        self._failing_since = None
        self._dry.clear()
        self._pauses.reset()

    async def _check_in_touch(self, channel: Channel, reading: asyncio.Task[FetchAnswer]) -> None:
        """Raise _SilentServerError when a silent server cannot confirm why, or has what it does not send."""
        try:
            bounds = await channel.bounds(self._calls.where, ANSWER_SECONDS)
        except CallFailedError as error:
            raise _SilentServerError(str(error.failure.error)) from None
        self._went_well()
        if bounds.next_offset > self._offset:
            # Just appended, perhaps; what is sent now arrives soon.
            await asyncio.wait({reading}, timeout=ANSWER_SECONDS)
            if not reading.done():
                raise _SilentServerError(f"{channel.address}: has offset {self._offset}, but did not send it")

    async def _pause_after(self, failure: CallFailure, address: str) -> None:
        calls = self._calls
        if failure.effect is not Effect.REFUSED or failure.is_permanent:
            calls.note(failure, address)
            failure = calls.judged(failure)
        failure = await calls.confirmed(failure, address)
        if failure.effect is Effect.REFUSED:
            raise failure.error
        now = calls.now
        if self._failing_since is None:
            self._failing_since = now
        pause = self._pauses.after(failure)
        if now + pause >= self._failing_since + self._timeout_seconds:
            raise self._given_up(failure.error)
        await calls.await_news(pause)
        await asyncio.sleep(pause)

    def _given_up(self, error: LoghouseError) -> LoghouseError:
        if isinstance(error, OutcomeUnknownError | UnavailableError):
            text = (
                f"no server sent offset {self._offset} for {self._timeout_seconds:g} s; the last one: {error}"
            )
            return DeadlineError(text)
        return error


class _DryServerError(LoghouseError):
    """A server has nothing at the offset, as far as it knows."""


class _SilentServerError(UnavailableError):
    """A server is there, but cannot be read from."""
