"""The asyncio consumer of a group: several members share the logs, and each gives the records of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from loghouse.client.batching import encode_batch_of
from loghouse.client.consumer_settings import warn_of_consumer
from loghouse.client.consuming import CLOSE_SECONDS, LEAVE_SECONDS
from loghouse.client.fields import values_of
from loghouse.client.group_records import GroupBatch, GroupDone, GroupRecord, behind
from loghouse.client.log_settings import names_of
from loghouse.client.membership import LOST, HeldLog, Membership
from loghouse.client.place import Place
from loghouse.client.records import Batch, NewRecord
from loghouse.errors import ClientUseError, ClosedError, InvalidRequestError, LoghouseError

GroupAnswer: TypeAlias = tuple[HeldLog, Iterator[Batch]]
"""The batches of one answer, and the share of this member that they are of."""
LOGS_OF_GROUP_MAX: Final = 1024
"""Logs that are given by their names; each costs a look at its cursor by every member."""


def wanted_logs(logs: Any) -> tuple[str, ...] | str:
    """Return the names of a group's logs, or its pattern.

    Raises:
        InvalidRequestError: It is neither.
    """
    if isinstance(logs, str):
        if not logs:
            raise InvalidRequestError("logs", "is empty; give names, or a pattern such as 'orders-*'")
        return logs
    names = tuple(dict.fromkeys(names_of("logs", logs)))
    if not 0 < len(names) <= LOGS_OF_GROUP_MAX:
        raise InvalidRequestError("logs", f"are {len(names)}; allowed: 1 to {LOGS_OF_GROUP_MAX}")
    return names


class AsyncGroupConsumer:
    """Consumes several logs as a member of a group. See `AsyncClient.consumer`.

        async with cluster.consumer("billing", logs="orders-*") as consumer:
            async for record in consumer:
                print(record.log, record.offset, record.value)
                consumer.done(record)

    A log that another member takes is not an error: what this one does about its records from then on comes
    to nothing, and the other member gets them.

    Attributes:
        cursor_name: The name of the group, and of its cursors.
        holder: Who this member is.
    """

    _is_open = False  # until it is entered

    def __init__(self, membership: Membership, name: str, holder: str, place: Place) -> None:
        """Use `AsyncClient.consumer`."""
        self._membership = membership
        self._place = place
        self._given: GroupDone | None = None  # what the program got last
        self._iterations = 0
        self.cursor_name = name
        self.holder = holder

    async def __aenter__(self) -> Self:
        self._place.check()
        self._loop = asyncio.get_running_loop()
        await self._membership.start()
        self._is_open = True
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
            if own is not error:
                error.add_note(f"its consumer failed, too: {own}")

    # --- what there is to do ----------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[GroupRecord, None]:
        """Yield records of all logs that this member holds, for ever; those of one log in their order.

        A second iteration goes on behind what the first one gave.

        Raises:
            CursorTrimmedError: What comes next in a log has been trimmed.
            LoghouseError: A log cannot be read, or a cursor cannot be kept.
        """
        async with aclosing(self.answers()) as answers:
            async for answer in answers:
                for record in self.records_in(answer):
                    yield record
                    self._check()

    async def batches(self) -> AsyncGenerator[GroupBatch, None]:
        """As iterating, whole batches at a time: several times as fast."""
        async with aclosing(self.answers()) as answers:
            async for answer in answers:
                for batch in self.batches_in(answer):
                    yield batch
                    self._check()

    async def answers(self) -> AsyncGenerator[GroupAnswer, None]:
        """Yield the batches of one answer at a time, and whose they are; decoded only as they are taken."""
        self._check()
        self._iterations += 1
        iteration = self._iterations
        membership = self._membership
        await membership.begin_anew()
        while True:
            membership.read_on()
            while not membership.ready:
                membership.news.clear()
                await membership.news.wait()
                self._check()
                if iteration != self._iterations:
                    raise ClientUseError("this consumer is iterated anew, and gives each record once")
                membership.read_on()
            share = membership.ready.popleft()
            answer = membership.answer_of(share)
            if answer is not None:
                yield share, answer

    def batches_in(self, answer: GroupAnswer) -> Iterator[GroupBatch]:
        """Yield the batches of an answer, until the share is lost; any thread may take them."""
        share, batches = answer
        for batch in batches:
            if share.is_leaving:
                return
            made = GroupBatch(batch, share.log, share.epoch)
            self._give(share, made)
            yield made

    def records_in(self, answer: GroupAnswer) -> Iterator[GroupRecord]:
        """Yield the records of an answer, until the share is lost; any thread may take them."""
        share, batches = answer
        for batch in batches:
            for record in GroupBatch(batch, share.log, share.epoch):
                if share.is_leaving:
                    return
                assert isinstance(record, GroupRecord)
                self._give(share, record)
                yield record

    def _give(self, share: HeldLog, given: GroupDone) -> None:
        share.given = behind(given)
        self._given = given

    # --- what is done -----------------------------------------------------------------------

    def done(self, done: GroupDone | None = None) -> None:
        """This record or batch, and all before it in its log, is handled; it is committed in the background.

        Of a log that another member has by now it comes to nothing: that one gets the record, too.

        Args:
            done: A record or a batch that this consumer gave; None: what was given last.

        Raises:
            ClientUseError: Nothing was given yet.
        """
        self._check()
        done = self._what(done)
        position = behind(done)
        share = self._share_of(done)
        if share is None:
            return
        try:
            share.work.keeper.check()
            share.work.keeper.done(position)
        except LOST as error:
            self._membership.lose(share, error)
        share.check_drained()

    async def commit(self) -> None:
        """Return once everything that is done is durable, in all logs that this member holds.

        Raises:
            DeadlineError: No server answered for so long; it is still tried.
        """
        self._check()
        await asyncio.gather(*(self._commit(share) for share in list(self._membership.shares.values())))

    async def _commit(self, share: HeldLog) -> None:
        try:
            await share.work.keeper.commit()
        except LOST as error:
            self._membership.lose(share, error)

    async def emit(self, values: Iterable[bytes | NewRecord], done: GroupDone | None = None) -> bool:
        """Append records to the log that keeps the cursors, and move one behind their source: in one step.

        As `AsyncConsumer.emit`; `into` is the log that gets them, or else the log that they were made of.

        Returns:
            Whether they were taken. They were not when another member has the log by now: it makes them anew.
        """
        self._check()
        given = list(values_of(values))
        done = self._what(done)
        position = behind(done)
        share = self._share_of(done)
        if share is None:
            return False
        try:
            if given:
                await share.work.keeper.emit(*encode_batch_of(given), position)
            else:
                share.work.keeper.check()
                share.work.keeper.done(position)
        except LOST as error:
            self._membership.lose(share, error)
            return False
        share.check_drained()
        return True

    def _what(self, done: GroupDone | None) -> GroupDone:
        if done is not None:
            return done
        if self._given is None:
            raise ClientUseError("this consumer gave nothing yet; say what is done")
        return self._given

    def _share_of(self, done: GroupDone) -> HeldLog | None:
        """Return the share that something was given of; None when it is held no more, or anew."""
        share = self._membership.shares.get(done.log)
        return share if share is not None and share.epoch == done.epoch else None

    # --- where it is ------------------------------------------------------------------------

    @property
    def logs(self) -> list[str]:
        """The logs that this member holds now, by name."""
        return sorted(self._membership.shares)

    @property
    def positions(self) -> dict[str, int]:
        """The next one to do in each log that this member holds, committed or not."""
        return {name: share.position for name, share in sorted(self._membership.shares.items())}

    @property
    def is_active(self) -> bool:
        """Whether this member holds a log."""
        return bool(self._membership.shares)

    @property
    def failure(self) -> LoghouseError | None:
        """Why this consumer cannot go on; None while it can."""
        return self._membership.failure

    async def lag(self) -> int:
        """Return how many records are not done, of the logs that this member holds."""
        self._check()
        shares = list(self._membership.shares.values())
        return sum(await asyncio.gather(*(share.work.lag() for share in shares)))

    # --- the end ----------------------------------------------------------------------------

    async def close(self) -> None:
        """Commit what is done, and let others have the logs at once.

        Raises:
            LoghouseError: Something that is done could not be committed.
        """
        if not self._place.is_elsewhere:
            await self._close(CLOSE_SECONDS)

    async def abort(self) -> None:
        """End at once: nothing is committed any more, and others wait until the leases run out."""
        self._is_open = False
        if not self._place.is_elsewhere:
            await self._membership.abort()

    async def _close(self, seconds: float) -> None:
        if not self._is_open:
            return  # it is closed already, or was aborted
        self._is_open = False
        await self._membership.close(seconds)

    def _check(self) -> None:
        """Raise unless this consumer can do something.

        Raises:
            ClientUseError: It is another process, or loop; or the consumer was not entered.
            ClosedError: It is closed.
            LoghouseError: Why it cannot go on.
        """
        self._place.check()
        if self._membership.failure is not None:
            raise self._membership.failure
        if not self._is_open:
            if self._membership.is_closing:
                raise ClosedError("the consumer is closed")
            raise ClientUseError("this consumer is not open; use `async with`")

    def __del__(self) -> None:
        if self._is_open and self._membership.shares and not self._place.is_elsewhere:
            warn_of_consumer(self.cursor_name)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._membership.finish)
