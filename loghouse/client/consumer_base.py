"""What asyncio consumers have in common, of one log and of a group: the block, the iteration, the end."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from loghouse.client.consumer_settings import warn_of_consumer, what_of
from loghouse.client.open_consumers import CLOSE_SECONDS, LEAVE_SECONDS, ConsumerWork, OpenConsumers
from loghouse.client.place import Place
from loghouse.errors import ClientUseError, ClosedError, LoghouseError

_Answer = TypeVar("_Answer")
_Batch = TypeVar("_Batch")
_Record = TypeVar("_Record")
_Item = TypeVar("_Item")


class ConsumerBase(ABC, Generic[_Answer, _Batch, _Record]):
    """A consumer as an async context manager that is iterated, and says what is done.

    Attributes:
        cursor_name: The name of the cursor, or of the group and its cursors.
        holder: Who acquires it.
    """

    _is_open = False  # until it is entered

    def __init__(self, work: ConsumerWork, opened: OpenConsumers, holder: str, place: Place) -> None:
        self._inner = work
        self._opened = opened
        self._place = place
        self._given: _Record | _Batch | None = None  # what the program got last
        self._iterations = 0
        self.cursor_name = work.name
        self.holder = holder

    async def __aenter__(self) -> Self:
        self._place.check()
        self._loop = asyncio.get_running_loop()
        await self._enter()
        self._is_open = True
        self._opened.add(self._inner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place.is_elsewhere:
            return  # it is the parent's
        if error is None:
            await self.close()
            return
        try:
            await self._close(LEAVE_SECONDS)
        except LoghouseError as own:  # the error of the block is the one to tell
            if not own.is_like(error):
                error.add_note(f"its consumer failed, too: {own}")

    # --- what there is to do ----------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[_Record, None]:
        """Yield records from where the cursors stand, for ever; those of one log in their order.

        A second iteration goes on behind what the first one gave.

        Raises:
            CursorFencedError: Another one has the cursor by now; not in a group, where that is no error.
            CursorTrimmedError: What comes next has been trimmed.
            LoghouseError: A log cannot be read, or a cursor cannot be kept.
        """
        async with aclosing(self.answers()) as answers:
            async for answer in answers:
                for record in self.once(self.records_in(answer)):
                    yield record
                    self._check()

    async def batches(self) -> AsyncGenerator[_Batch, None]:
        """As iterating, whole batches at a time: several times as fast."""
        async with aclosing(self.answers()) as answers:
            async for answer in answers:
                for batch in self.once(self.batches_in(answer)):
                    yield batch
                    self._check()

    @abstractmethod
    def answers(self) -> AsyncGenerator[_Answer, None]:
        """Yield the batches of one answer at a time, decoded only as they are taken."""

    @abstractmethod
    def batches_in(self, answer: _Answer) -> Iterator[_Batch]:
        """Yield the batches of an answer; any thread may take them."""

    @abstractmethod
    def records_in(self, answer: _Answer) -> Iterator[_Record]:
        """Yield the records of an answer; any thread may take them."""

    def _iterate_anew(self) -> int:
        """Return the number of the iteration that begins."""
        self._check()
        self._iterations += 1
        return self._iterations

    def once(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yield what an answer holds, as long as nobody iterates anew: that one gives the rest.

        Raises:
            ClientUseError: Somebody does.
        """
        number = self._iterations
        for item in items:
            yield item
            self._check_iteration(number)

    def _check_iteration(self, number: int) -> None:
        if number != self._iterations:
            raise ClientUseError("this consumer is iterated anew, and gives each record once")

    # --- what is done -----------------------------------------------------------------------

    def _what(self, done: Any) -> Any:
        """Return what is done, which is what was given last if nothing is said."""
        return what_of(done, self._given)

    # --- where it is ------------------------------------------------------------------------

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether this consumer holds a cursor, as far as it knows."""

    @property
    def failure(self) -> LoghouseError | None:
        """Why this consumer cannot go on; None while it can."""
        return self._inner.failure

    # --- the end ----------------------------------------------------------------------------

    async def close(self) -> None:
        """Commit what is done, and let others go on at once.

        Raises:
            LoghouseError: Something that is done could not be committed.
        """
        if not self._place.is_elsewhere:
            await self._close(CLOSE_SECONDS)

    async def abort(self) -> None:
        """End at once: nothing is committed any more, and others wait until the lease runs out."""
        self._is_open = False
        if not self._place.is_elsewhere:
            self._opened.discard(self._inner)
            await self._inner.abort()

    async def _close(self, seconds: float) -> None:
        if not self._is_open:
            return  # it is closed already, or was aborted
        self._is_open = False
        try:
            await self._inner.close(seconds)
        finally:
            self._opened.discard(self._inner)

    def _check(self) -> None:
        """Raise unless this consumer can do something here; as `check_open`.

        Raises:
            ClientUseError: It is another process, or loop.
        """
        self._place.check()
        self.check_open()

    def check_open(self) -> None:
        """Raise unless this consumer can do something; any thread may ask.

        Raises:
            ClientUseError: The consumer was not entered.
            ClosedError: It is closed.
            LoghouseError: Why it cannot go on.
        """
        if self.failure is not None:
            raise self.failure.anew()
        if self._inner.is_ending:
            raise ClosedError("the consumer is closed")
        if not self._is_open:
            raise ClientUseError("this consumer is not open; use `async with`")

    def __del__(self) -> None:
        if not self._is_open or self._place.is_elsewhere:
            return
        if self._inner.is_at_work:
            warn_of_consumer(self.cursor_name)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._opened.drop, self._inner)

    # --- what it works with -----------------------------------------------------------------

    async def _enter(self) -> None:
        """Begin the work that does not wait for the first iteration."""
