"""A cursor kept for a consumer: acquired, its lease renewed, its position committed, and released.

    acquired -> HeldCursor -> steps -> the log that keeps the cursor
                   ^--- done, emit, commit: from the consumer

Drives `holding` with a log and the loop's clock. One task, which outlives a consumer that is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final, NamedTuple, Protocol

from loghouse.client.consumer_settings import ConsumerSettings
from loghouse.client.cursors import Advance, AsyncCursors, Cursor
from loghouse.client.first_place import FirstPlace
from loghouse.client.holding import HeldCursor, Step, stand_by_seconds
from loghouse.client.open_consumers import Spawn
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    CursorFencedError,
    CursorHeldError,
    DeadlineError,
    LoghouseError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownCursorError,
)
from loghouse.limits import WAITING_APPENDS_MAX, WAITING_SIZE_MAX
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec

_logger: Final = logging.getLogger("loghouse.client")
RETRY_SECONDS: Final = 0.5
"""Between two attempts at a step that nobody answered; each attempt itself takes long."""


class KeepingLog(Protocol):
    """The log that keeps the cursor, as asyncio programs use it."""

    def cursors(self) -> AsyncCursors:
        """Return its cursors."""

    async def append_encoded(
        self,
        payload: bytes,
        record_count: int,
        *,
        codec: Codec = Codec.NONE,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> int:
        """Append a serialized batch, compressed by `codec`; return the offset of its first record."""


class _Emit(NamedTuple):
    """Records that wait for room, and who waits; or a position that is done behind such records."""

    payload: bytes
    record_count: int
    position: int
    taken: asyncio.Future[None] | None


class Keeper:
    """Keeps one cursor.

    Attributes:
        name: The cursor's.
        holder: Who acquires it.
        holding: What is held; None before it was acquired.
        is_new: Whether nobody had this cursor before, and it began at 0.
        failure: Why it is not held any more; None while it is, or nobody tried.
    """

    def __init__(self, log: KeepingLog, settings: ConsumerSettings, spawn: Spawn, first: FirstPlace) -> None:
        self._log = log
        self._cursors = log.cursors()
        self._settings = settings
        self._spawn = spawn
        self._first = first
        self._begins_at = 0  # where this holder put a cursor that was new
        self.name = settings.name
        self.holder = self._cursors.holder if settings.holder is None else settings.holder
        self.holding: HeldCursor | None = None
        self.is_new = False
        self.failure: LoghouseError | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_finishing = False
        self._is_aborted = False
        self._held: CursorHeldError | None = None  # what the last acquisition came to, if to that
        self._problem: LoghouseError | None = None  # of the last step that nobody answered
        self._problem_count = 0
        self._waiting: deque[_Emit] = deque()  # for room
        self._waiting_size = 0  # bytes
        self._changed = asyncio.Event()  # there may be something to ask for
        self._news: asyncio.Future[None] | None = None  # the log answered

    @property
    def is_active(self) -> bool:
        """Whether the cursor is held, as far as is known."""
        return self.holding is not None and self.failure is None and not self.is_finishing

    @property
    def is_at_work(self) -> bool:
        """Whether the cursor is held, or waited for."""
        return self._task is not None and not self._task.done()

    @property
    def is_committed(self) -> bool:
        """Whether everything that is done is durable."""
        return self.holding is None or self.holding.committed >= self.holding.position

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that keeps the cursor; it ends when that is over."""
        assert self._task is not None
        return self._task

    # --- for the consumer -------------------------------------------------------------------

    async def acquire(self, wait_seconds: float | None = None) -> HeldCursor:
        """Return what is held, once it is; one that is new, once the place where it begins is committed.

        Args:
            wait_seconds: How long to wait for another holder; None: for ever, 0: not at all.

        Raises:
            CursorHeldError: Another one has the cursor still.
            LoghouseError: It cannot be had; or it was lost.
        """
        if self.failure is not None and self.holding is None:
            self._task = self.failure = self._held = None  # it came to nothing the last time
        self.check()
        until = None if wait_seconds is None else self._now + wait_seconds
        if self._task is None:
            self._task = self._spawn(self._run())
        while self.holding is None:
            if self._held is not None and until is not None and self._now >= until:
                raise self._held.anew()
            await self._wait_for_news(until if self._held is not None else None)
            self.check()
        if self.holding.committed < self._begins_at:
            await self.commit()
        return self.holding

    def check(self) -> None:
        """Raise if the cursor is not held any more, or never will be.

        Raises:
            CursorFencedError: Another one has it.
            ClosedError: The consumer is closed.
        """
        if self.failure is not None:
            raise self.failure.anew()
        if self.is_finishing:
            raise ClosedError("the consumer is closed")

    def done(self, position: int) -> None:
        """Everything before a position is done.

        Raises:
            ClientUseError: The cursor was not acquired yet.
        """
        holding = self.held()
        if self._waiting:  # the position behind records goes behind them, not before
            if self._waiting[-1].taken is None:
                position = max(position, self._waiting.pop().position)
            self._waiting.append(_Emit(b"", 0, position, None))
        elif holding.done(position, self._now):
            self.wake()

    def held(self) -> HeldCursor:
        """Return what is held; any thread may ask.

        Raises:
            ClientUseError: The cursor was not acquired yet.
        """
        if self.holding is None:
            raise ClientUseError("this consumer does not have its cursor yet; iterate it, or call acquire()")
        return self.holding

    async def position(self) -> int:
        """Return the next one to do; of a cursor that is not held, as the log knows it."""
        if self.holding is not None:
            return self.holding.position
        seconds = self._settings.timeout_seconds
        try:
            return (await self._cursors.get(self.name, timeout_seconds=seconds)).position
        except UnknownCursorError:
            return 0

    def wake(self) -> None:
        """There may be something to do; on the loop."""
        self._changed.set()

    async def emit(self, payload: bytes, record_count: int, position: int) -> None:
        """Take records to be appended with a position; wait only while too many are not appended.

        Those that wait are taken in the order in which they came.

        Raises:
            DeadlineError: Nothing could be appended for long; these records were not taken.
            ResourceExhaustedError: Too many wait already.
            LoghouseError: As `check`; or why what was emitted before cannot be appended.
        """
        holding = await self.acquire()
        if holding.has_room:  # so nobody waits for it
            holding.emit(payload, record_count, position)
            self.wake()
            return
        check_waiting(len(self._waiting), self._waiting_size)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Emit(payload, record_count, position, taken))
        self._waiting_size += len(payload)
        await taken

    def _take_waiting(self, holding: HeldCursor) -> None:
        """Take what waited for room."""
        while self._waiting and holding.has_room:
            emit = self._waiting.popleft()
            self._waiting_size -= len(emit.payload)
            if emit.taken is None:
                holding.done(emit.position, self._now)
            elif not emit.taken.done():  # nobody waits for one that was cancelled
                try:
                    holding.emit(emit.payload, emit.record_count, emit.position)
                except LoghouseError as error:
                    emit.taken.set_exception(error)
                else:
                    emit.taken.set_result(None)
        self.wake()

    def _refuse_waiting(self, error: LoghouseError) -> None:
        """Tell whoever waits for room why it was not taken."""
        waiting, self._waiting, self._waiting_size = self._waiting, deque(), 0
        for emit in waiting:
            if emit.taken is not None and not emit.taken.done():
                emit.taken.set_exception(error.anew())

    async def commit(self) -> None:
        """Return once everything that is done is durable.

        Raises:
            DeadlineError: No server answered for so long; it is still tried.
            LoghouseError: The cursor is not held any more.
        """
        holding = self.holding
        if holding is None:
            return self.check()
        goal = self._waiting[-1].position if self._waiting else holding.position
        failed_before = self._problem_count
        while holding.committed < goal:
            if self.failure is not None:
                raise self.failure.anew()
            if not self.is_at_work:
                raise ClosedError("the consumer was closed before emits that waited were taken")
            self._raise_problem(failed_before)
            holding.hurry(self._now)
            self.wake()
            await self._wait_for_news(None)

    def finish(self) -> None:
        """Commit what is done, release the cursor, and end; on the loop."""
        self.is_finishing = True
        self._refuse_waiting(ClosedError("the consumer is closed"))
        if self.holding is not None:
            self.holding.hurry(self._now)
        self.wake()

    async def close(self, seconds: float) -> None:
        """Finish, within so many seconds.

        Raises:
            LoghouseError: Something that was done is not committed, and why.
        """
        if self._task is None:
            self.is_finishing = True
            return
        self.finish()
        try:
            await asyncio.wait({self._task}, timeout=seconds)
            if self._task.cancelled() and self.holding is not None and not self._is_aborted:
                # `asyncio.run` that ends by a SystemExit cancels every task at once, this one among them.
                self.failure = None
                self._task = self._spawn(self._run())
                await asyncio.wait({self._task}, timeout=seconds)
            if not self._task.done():
                self.failure = self._given_up(seconds)
        finally:
            await self.abort()
        if self.failure is not None and not self.is_committed:
            raise self.failure.anew()

    async def abort(self) -> None:
        """End at once: nothing is committed any more, and the cursor is not released."""
        self.is_finishing = self._is_aborted = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    def _given_up(self, seconds: float) -> LoghouseError:
        why = f": {self._problem}" if self._problem is not None else ""
        return DeadlineError(f"cursor {self.name!r} was not committed for {seconds:g} s{why}")

    def _raise_problem(self, failed_before: int) -> None:
        if self._problem is not None and self._problem_count != failed_before:
            raise self._problem.anew()

    # --- the task ---------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            if self.holding is None:
                await self._have()
            await self._keep()
        except LoghouseError as error:
            self.failure = error
            if not (error.may_retry or isinstance(error, CursorFencedError | UnknownCursorError)):
                await self._release()
        except asyncio.CancelledError:
            self.failure = self.failure or ClosedError("the consumer, or its client, was closed")
            raise
        except Exception as error:
            self.failure = UnavailableError(f"the consumer failed: {type(error).__name__}: {error}")
            self.failure.__cause__ = error
            raise  # whoever waits is told; the loop says where it comes from
        finally:
            self._refuse_waiting(self.failure or ClosedError("the consumer is closed"))
            self._tell()

    async def _have(self) -> None:
        """Acquire the cursor; while another one holds it, stand by."""
        settings, first = self._settings, self._first
        await self._find_first()
        while not self.is_finishing:
            asked_at = self._now
            try:
                cursor = await self._cursors.acquire(
                    self.name,
                    holder=self.holder,
                    lease_seconds=settings.lease_seconds,
                    timeout_seconds=settings.timeout_seconds,
                )
            except CursorHeldError as held:
                first.position = None
                self._held = held
                self._tell()
                await rest(self._changed, asked_at + stand_by_seconds(held))
                continue
            self.is_new = first.position == 0 and not cursor.position
            holding = HeldCursor(
                cursor,
                commit_seconds=settings.commit_seconds,
                commit_records=settings.commit_records,
                now=asked_at,
            )
            if first.position and not cursor.position:
                self._begins_at = first.position
                holding.done(first.position, self._now)
                holding.hurry(self._now)
            self.holding = holding
            return self._tell()

    async def _find_first(self) -> None:
        """Find where the cursor begins, if there is none: one that is there may stand at 0, too."""
        try:
            cursor = await self._cursors.get(self.name, timeout_seconds=self._settings.timeout_seconds)
        except UnknownCursorError:
            await self._first.find()
        else:
            self._first.saw(cursor, self.holder)

    async def _keep(self) -> None:
        """Ask for one step after the other; in the end, release the cursor."""
        holding = self.holding
        if holding is None:
            return
        while not (self.is_finishing and holding.is_settled):
            if self.is_finishing:
                holding.hurry(self._now)
            step = holding.next_step(self._now)
            if step is None:
                await rest(self._changed, holding.due_at(self._now))
            else:
                await self._carry_out(holding, step)
        await self._release()

    async def _carry_out(self, holding: HeldCursor, step: Step) -> None:
        asked_at = self._now
        try:
            cursor = await self._ask(holding, step)
        except LoghouseError as error:
            if not (error.may_retry or isinstance(error, OutcomeUnknownError)):
                raise
            _logger.warning("cursor %r is not %s: %s", self.name, _what(step), error)
            self._problem, self._problem_count = error, self._problem_count + 1
            self._refuse_waiting(error)
            self._tell()
            if self.is_finishing:
                raise
            await asyncio.sleep(RETRY_SECONDS)
            return
        holding.succeeded(asked_at, cursor)
        self._take_waiting(holding)
        self._tell()

    async def _ask(self, holding: HeldCursor, step: Step) -> Cursor | None:
        epoch, seconds = holding.cursor.epoch, self._settings.timeout_seconds
        if step.position is None:
            return await self._cursors.renew(self.name, epoch, timeout_seconds=seconds)
        if not step.payload:
            return await self._cursors.advance(self.name, epoch, step.position, timeout_seconds=seconds)
        await self._log.append_encoded(
            compress(step.payload, self._settings.codec),
            step.record_count,
            codec=self._settings.codec,
            cursor=Advance(self.name, epoch, step.position),
            timeout_seconds=seconds,
        )
        return None

    async def _release(self) -> None:
        holding = self.holding
        if holding is None:
            return
        try:
            await self._cursors.release(
                self.name, holding.cursor.epoch, timeout_seconds=self._settings.lease_seconds
            )
        except LoghouseError as error:
            # Others wait until the lease runs out, that is all.
            _logger.info("cursor %r was not released: %s", self.name, error)

    # --- waiting ----------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _wait_for_news(self, until: float | None) -> None:
        """Wait until the log answered, at most until a moment of the loop's clock."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        seconds = None if until is None else max(0.0, until - self._now)
        await asyncio.wait({self._news}, timeout=seconds)

    def _tell(self) -> None:
        """Wake who waits for news."""
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)


def check_waiting(count: int, size: int) -> None:
    """Raise ResourceExhaustedError unless one more emit may wait beside so many, of so many bytes."""
    if count >= WAITING_APPENDS_MAX or size > WAITING_SIZE_MAX:
        raise ResourceExhaustedError(
            "consumer",
            f"{count} emits wait until others are appended already; wait for each before the next one",
        )


def _what(step: Step) -> str:
    if step.position is None:
        return "renewed"
    return f"at {step.position}" + (f" with {step.record_count} records" if step.payload else "")


async def rest(changed: asyncio.Event, until: float) -> None:
    """Wait for a change, at most until a moment of the loop's clock; the event is clear then."""
    alarm = asyncio.get_running_loop().call_at(until, changed.set)
    try:
        await changed.wait()
    finally:
        changed.clear()
        alarm.cancel()
