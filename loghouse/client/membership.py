"""A member of a group: it looks at the cursors of all logs, holds its share of them, and lets go of others.

    cursors of all logs -> GroupShares -> look, acquire, let go -> HeldLog: a log that is held, and read
                               ^------------------------------------ lost

Drives `group_shares` on the loop. One task, which outlives a consumer that is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Set
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from loghouse.client.consumer_settings import ConsumerSettings
from loghouse.client.consumption import Consumption
from loghouse.client.first_place import FirstPlace
from loghouse.client.group_shares import ASK_SECONDS, GroupShares
from loghouse.client.keeping import rest
from loghouse.client.open_consumers import Spawn
from loghouse.client.records import Batch
from loghouse.errors import (
    ClosedError,
    CursorFencedError,
    CursorHeldError,
    LoghouseError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownCursorError,
    UnknownLogError,
)

if TYPE_CHECKING:
    from loghouse.client.log import AsyncLog

_logger: Final = logging.getLogger("loghouse.client")
DISCOVER_SECONDS: Final = 5.0
"""How often a member asks which logs there are."""
CALL_SECONDS: Final = 5.0
"""How long a look at a cursor may take: the next one asks again."""
CALLS_MAX: Final = 32
"""Looks and acquisitions of one member that are under way at the same time."""
LET_GO_SECONDS: Final = 30.0
"""How long a log that is let go waits for what was given out of it; the next holder gets the rest again."""
LOST: Final = (CursorFencedError, UnknownCursorError, ClosedError)
"""What a cursor's keeper says when another member has it, or an operator deleted it."""

OpenLog = Callable[[str], "AsyncLog"]
FindLogs = Callable[[Set[str]], Coroutine[Any, Any, "list[str]"]]
"""Names of all logs; of those that are handed in it says for certain whether they are there."""


class HeldLog:
    """One log that this member holds.

    Attributes:
        log: Its name.
        work: What reads it, and keeps its cursor.
        epoch: Of the cursor; new each time that a member gets the log.
        given: The position behind what was given out; None: nothing was yet.
        is_leaving: It is being let go: nothing more is given out.
        drained: Set once what was given out is done, if the log is leaving.
        reading: The next answer, on its way; None: nobody asked for it.
    """

    def __init__(self, log: str, work: Consumption, epoch: int) -> None:
        self.log = log
        self.work = work
        self.epoch = epoch
        self.given: int | None = None
        self.is_leaving = False
        self.drained = asyncio.Event()
        self.reading: asyncio.Task[Iterator[Batch]] | None = None

    @property
    def position(self) -> int:
        """The next one to do."""
        holding = self.work.keeper.holding
        assert holding is not None
        return holding.position

    def check_drained(self) -> None:
        """See whether what was given out is done; on the loop."""
        if self.is_leaving and (self.given is None or self.position >= self.given):
            self.drained.set()

    async def stop_reading(self) -> None:
        """Read no more."""
        reading, self.reading = self.reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
        await self.work.stop_reading()


class Membership:
    """What one member of a group holds, and how it comes by it.

    Args:
        settings: Of the consumer of each log; the name is that of the group.
        wanted: Names of logs, or one pattern.
        find_logs: Asks which logs there are.
        open_log: Gives the log of a name.
        into: The log that keeps all cursors; None: each log keeps its own.
        holder: Who this member is.

    Attributes:
        name: The group's.
        shares: What is held, by the log's name.
        ready: Shares whose next answer has come, in their order.
        failure: Why there is nothing more to come; None: there is.
        is_ending: Whether the consumer is closed, or about to be.
        news: Set when `ready`, `shares` or `failure` changed; whoever waits for it clears it.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        wanted: tuple[str, ...] | str,
        *,
        find_logs: FindLogs,
        open_log: OpenLog,
        into: AsyncLog | None,
        holder: str,
        spawn: Spawn,
    ) -> None:
        self._settings = replace(settings, holder=holder)
        self._wanted = wanted
        self._find_logs = find_logs
        self._open_log = open_log
        self._into = into
        self._holder = holder
        self._spawn = spawn
        self._group = GroupShares(holder, settings.lease_seconds)
        self._logs: dict[str, AsyncLog] = {}  # the logs of the group
        self._first: dict[str, FirstPlace] = {}  # where logs begin that were asked for, and not had yet
        self._calls: dict[str, asyncio.Task[None]] = {}  # what is asked about a log, or done with it
        self._limit = asyncio.Semaphore(CALLS_MAX)
        self._changed = asyncio.Event()  # something that `GroupShares` was told
        self._task: asyncio.Task[None] | None = None
        self.name = settings.name
        self.is_ending = False
        self.shares: dict[str, HeldLog] = {}
        self.ready: deque[HeldLog] = deque()
        self.failure: LoghouseError | None = None
        self.news = asyncio.Event()

    # --- for the consumer -------------------------------------------------------------------

    async def start(self) -> None:
        """Find the logs, and begin to share them.

        Raises:
            UnknownLogError: A log that is asked for by its name is not there.
            LoghouseError: Nobody tells which logs there are.
        """
        await self._discover()
        for name in () if isinstance(self._wanted, str) else self._wanted:
            if name not in self._logs:
                raise UnknownLogError(name)
        if not self._logs:
            _logger.warning("group %r: no log matches %r yet", self._settings.name, self._wanted)
        self._task = self._spawn(self._run())

    def read_on(self) -> None:
        """Ask for the next answer of each log that is held, unless that is under way."""
        for share in self.shares.values():
            if share.reading is None and not share.is_leaving:
                share.reading = asyncio.ensure_future(self._next_of(share))
                share.reading.add_done_callback(partial(self._has_come, share))

    async def begin_anew(self) -> None:
        """Go on with each log behind what was given out of it."""
        for share in list(self.shares.values()):
            await share.stop_reading()
            if share.given is not None and not share.is_leaving:
                await share.work.read_from(share.given)
        self.ready.clear()

    def answer_of(self, share: HeldLog) -> Iterator[Batch] | None:
        """Return the answer that has come for a share; None: the share is lost, or is to be read again later.

        Raises:
            LoghouseError: The log cannot be read.
        """
        reading = share.reading
        if reading is None or not reading.done():
            return None  # what has come was stopped meanwhile; another one is on its way
        share.reading = None
        if reading.cancelled() or share.is_leaving:
            return None
        try:
            return reading.result()
        except LOST as error:
            self.lose(share, error)
        except UnknownLogError:
            self._is_gone(share.log)
        return None

    def lose(self, share: HeldLog, why: LoghouseError) -> None:
        """A share is held no more."""
        if self.shares.get(share.log) is share:
            _logger.info(
                "group %r: log %r is held by another member: %s", self._settings.name, share.log, why
            )
            self._drop(share)

    @property
    def is_at_work(self) -> bool:
        """Whether it holds logs, or looks for some."""
        return self._task is not None and not self._task.done() and not self.is_ending

    @property
    def is_committed(self) -> bool:
        """Whether everything that is done is durable, in all logs that it holds."""
        return all(share.work.is_committed for share in list(self.shares.values()))

    async def close(self, seconds: float) -> None:
        """Commit what is done, and let others have all logs at once.

        Raises:
            LoghouseError: Something that is done could not be committed.
        """
        self.is_ending = True
        try:
            await self._stop()
            if self._calls:
                await asyncio.wait(set(self._calls.values()), timeout=min(seconds, CALL_SECONDS))
            shares = list(self.shares.values())
            ends = await asyncio.gather(
                *(self._close(share, seconds) for share in shares), return_exceptions=True
            )
        finally:
            await self.abort()
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, LOST):
                raise end

    async def abort(self) -> None:
        """End at once: nothing is committed any more."""
        self.is_ending = True
        await self._stop()
        if calls := set(self._calls.values()):
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
        for share in list(self.shares.values()):
            await share.stop_reading()
            await share.work.keeper.abort()
        self.shares.clear()
        self.news.set()

    async def _stop(self) -> None:
        """Begin nothing more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- the task ---------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        discover_at = loop.time() + DISCOVER_SECONDS
        try:
            while True:
                now = loop.time()
                if now >= discover_at:
                    discover_at = now + DISCOVER_SECONDS
                    self._call("", self._discover_again())
                turn = self._group.turn(now)
                for name in turn.look:
                    self._call(name, self._look(name))
                for name in turn.acquire:
                    self._call(name, self._acquire(name))
                for name in turn.let_go:
                    self._begin_to_leave(name)
                await rest(self._changed, min(turn.next_at, discover_at))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(UnavailableError(f"the group's consumer failed: {type(error).__name__}: {error}"))
            raise

    def _call(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something about a log, unless something is under way about it."""
        if name in self._calls:
            work.close()
            return
        task = self._calls[name] = self._spawn(work)
        task.add_done_callback(lambda _: self._called(name, task))

    def _called(self, name: str, task: asyncio.Task[None]) -> None:
        del self._calls[name]
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            is_ours = isinstance(error, LoghouseError)
            self._fail(error if is_ours else UnavailableError(f"the group's consumer failed: {error!r}"))

    def _fail(self, error: Any) -> None:
        self.failure = self.failure or error
        self.news.set()

    # --- which logs there are ---------------------------------------------------------------

    async def _discover(self) -> None:
        wanted = self._wanted
        named = () if isinstance(wanted, str) else wanted
        found = {
            name
            for name in await self._find_logs({*self._logs, *named})
            if (fnmatchcase(name, wanted) if isinstance(wanted, str) else name in wanted)
        }
        for name in set(self._logs) - found:
            self._is_gone(name)
        for name in found - set(self._logs):
            self._logs[name] = self._open_log(name)
        self._group.set_logs(self._logs)

    async def _discover_again(self) -> None:
        try:
            await self._discover()
        except LoghouseError as error:
            _logger.info("group %r: which logs there are is not known now: %s", self._settings.name, error)

    def _is_gone(self, name: str) -> None:
        """A log was deleted; another one of its name is found as a new one."""
        if self._logs.pop(name, None) is not None:
            self._first.pop(name, None)
            _logger.info("group %r: log %r is gone", self._settings.name, name)
            self._group.set_logs(self._logs)
            if name in self.shares:
                self._drop(self.shares[name])

    # --- cursors ----------------------------------------------------------------------------

    def _cursor_name(self, name: str) -> str:
        """Return the name of a log's cursor: where one log keeps those of all, it names the log, too."""
        return self._settings.name if self._into is None else f"{self._settings.name}/{name}"

    async def _look(self, name: str) -> None:
        keeping = self._into or self._logs[name]
        async with self._limit:
            try:
                cursor = await keeping.cursors().get(self._cursor_name(name), timeout_seconds=CALL_SECONDS)
            except UnknownCursorError:
                self._group.saw(name, self._now, holder="", left_seconds=0.0)
            except LoghouseError as error:
                self._missed(name, error)
            else:
                self._group.saw(
                    name,
                    self._now,
                    holder=cursor.holder,
                    left_seconds=cursor.left_seconds,
                    waiting=cursor.waiting,
                )

    async def _acquire(self, name: str) -> None:
        if name in self.shares:
            return
        log = self._logs[name]
        settings = replace(self._settings, name=self._cursor_name(name))
        if name not in self._first:
            self._first[name] = FirstPlace(log, settings.from_, settings.timeout_seconds)
        work = Consumption(log, self._into or log, settings, self._spawn, self._first[name])
        try:
            async with self._limit:
                holding = await asyncio.wait_for(work.keeper.acquire(0), CALL_SECONDS)
        except CursorHeldError as held:
            await work.keeper.abort()
            left = held.milliseconds / 1000
            self._group.refused(name, self._now, holder=held.holder, left_seconds=left)
        except (TimeoutError, LoghouseError) as error:
            await work.keeper.abort()
            self._missed(name, error)
        except asyncio.CancelledError:
            await work.keeper.abort()
            raise
        else:
            share = HeldLog(name, work, holding.cursor.epoch)
            self.shares[name] = share
            self._first.pop(name, None)
            if self._logs.get(name) is not log:
                self._drop(share)
                return
            self._group.took(name, self._now)
            _logger.info("group %r: log %r is ours from %d on", self._settings.name, name, share.position)
            work.keeper.task.add_done_callback(lambda _: self._kept(share))
            self.news.set()

    def _missed(self, name: str, error: Exception) -> None:
        """Something could not be asked about a log; raise what asking again will not help."""
        if isinstance(error, UnknownLogError) and self._into is None:
            self._is_gone(name)
            return
        is_hopeful = isinstance(error, TimeoutError | OutcomeUnknownError) or getattr(
            error, "may_retry", False
        )
        if not is_hopeful:
            raise error
        _logger.info("group %r: log %r cannot be asked about now: %s", self._settings.name, name, error)
        self._group.missed(name, self._now)

    # --- what is held -----------------------------------------------------------------------

    async def _next_of(self, share: HeldLog) -> Iterator[Batch]:
        """Return the next answer of a log; while nobody serves it, go on trying, for there are others."""
        while True:
            try:
                return await share.work.next_batches()
            except LOST:
                raise
            except LoghouseError as error:
                if not error.may_retry:
                    raise
                _logger.warning(
                    "group %r: log %r cannot be read now: %s", self._settings.name, share.log, error
                )
                await asyncio.sleep(ASK_SECONDS)
                if share.given is not None:
                    await share.work.read_from(share.given)

    def _has_come(self, share: HeldLog, _: asyncio.Task[Iterator[Batch]]) -> None:
        self.ready.append(share)
        self.news.set()

    def _kept(self, share: HeldLog) -> None:
        """The keeper of a share ended: because it was told to, or because the cursor is lost."""
        if not share.is_leaving and not self.is_ending and share.work.keeper.failure is not None:
            self.lose(share, share.work.keeper.failure)

    def _drop(self, share: HeldLog) -> None:
        """Hold a log no more, without a commit."""
        share.is_leaving = True
        share.drained.set()
        self.shares.pop(share.log, None)
        self._group.lost(share.log, self._now)
        self._changed.set()
        self.news.set()
        self._spawn(self._abandon(share))

    async def _abandon(self, share: HeldLog) -> None:
        await share.stop_reading()
        await share.work.keeper.abort()

    def _begin_to_leave(self, name: str) -> None:
        share = self.shares.get(name)
        if share is None:
            self._group.lost(name, self._now)
            return
        share.is_leaving = True
        share.check_drained()
        self._call(f"leave {name}", self._leave(share))  # beside a look that may be under way

    async def _leave(self, share: HeldLog) -> None:
        """Let go of a log once what was given out of it is done."""
        await share.stop_reading()
        try:
            await asyncio.wait_for(share.drained.wait(), LET_GO_SECONDS)
        except TimeoutError:
            text = "group %r: log %r is let go, though offsets before %s were given out and are not done"
            _logger.warning(text, self._settings.name, share.log, share.given)
        try:
            await share.work.keeper.close(CALL_SECONDS)
        except LoghouseError as error:
            _logger.info("group %r: log %r was lost: %s", self._settings.name, share.log, error)
        if self.shares.get(share.log) is share:
            del self.shares[share.log]
        self._group.lost(share.log, self._now)
        _logger.info("group %r: log %r was let go", self._settings.name, share.log)

    async def _close(self, share: HeldLog, seconds: float) -> None:
        await share.stop_reading()
        await share.work.keeper.close(seconds)

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()
