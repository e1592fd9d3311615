"""The asyncio consumer of a group: several members share the logs, and each gives the records of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, Final, TypeAlias

from loghouse.client.batching import encode_outputs
from loghouse.client.consumer_base import ConsumerBase
from loghouse.client.group_records import GroupBatch, GroupDone, GroupRecord, behind
from loghouse.client.log_settings import names_of
from loghouse.client.membership import LOST, HeldLog, Membership
from loghouse.client.open_consumers import OpenConsumers
from loghouse.client.place import Place
from loghouse.client.records import Batch, NewRecord
from loghouse.errors import InvalidRequestError

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


class AsyncGroupConsumer(ConsumerBase[GroupAnswer, GroupBatch, GroupRecord]):
    """Consumes several logs as a member of a group. See `AsyncClient.consumer`.

        async with cluster.consumer("billing", logs="orders-*") as consumer:
            async for record in consumer:
                print(record.log, record.offset, record.value)
                consumer.done(record)

    A log that another member takes is not an error: what this one does about its records from then on comes
    to nothing, and the other member gets them.
    """

    def __init__(self, membership: Membership, opened: OpenConsumers, holder: str, place: Place) -> None:
        """Use `AsyncClient.consumer`."""
        self._membership = membership
        super().__init__(membership, opened, holder, place)

    async def _enter(self) -> None:
        await self._membership.start()

    # --- what there is to do ----------------------------------------------------------------

    async def answers(self) -> AsyncGenerator[GroupAnswer, None]:
        """Yield the batches of one answer at a time, and whose they are; decoded only as they are taken."""
        iteration = self._iterate_anew()
        membership = self._membership
        await membership.begin_anew()
        while True:
            membership.read_on()
            while not membership.ready:
                membership.news.clear()
                await membership.news.wait()
                self._check()
                self._check_iteration(iteration)
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
        what = self._what(done)
        position = behind(what)
        share = self._share_of(what)
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
        what = self._what(done)
        return await self.emit_encoded(*encode_outputs(values), what)

    async def emit_encoded(self, payload: bytes, record_count: int, what: GroupDone) -> bool:
        """As `emit`, a serialized batch."""
        self._check()
        position = behind(what)
        share = self._share_of(what)
        if share is None:
            return False
        try:
            if record_count:
                await share.work.keeper.emit(payload, record_count, position)
            else:
                share.work.keeper.check()
                share.work.keeper.done(position)
        except LOST as error:
            self._membership.lose(share, error)
            return False
        share.check_drained()
        return True

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

    async def lag(self) -> int:
        """Return how many records are not done, of the logs that this member holds."""
        self._check()
        shares = list(self._membership.shares.values())
        return sum(await asyncio.gather(*(share.work.lag() for share in shares)))
