"""The cursors of one log, as its leader keeps them: who may have one, and what is told of them.

What changes is an entry; the core refuses, before it is appended, what would come to nothing. Here is what
the log does not say: whether another holder was heard within its lease, and whose cursors these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Final, NamedTuple, Protocol

from loghouse.errors import (
    CursorFencedError,
    CursorHeldError,
    LoghouseError,
    NotLeaderError,
    NotSupportedError,
    PermissionDeniedError,
    UnknownCursorError,
)
from loghouse.limits import CURSORS_PER_PAGE_MAX
from loghouse.protocol.cursor_messages import (
    CHANGES,
    NO_LAG,
    CursorOperation,
    CursorOrder,
    CursorPage,
    DescribedCursor,
    check_order,
)
from loghouse.protocol.cursors import CursorChange, CursorState, check_cursor_change, encode_cursor_change
from loghouse.protocol.entry import EntryKind
from loghouse.raft.core import Raft
from loghouse.raft.ready import Proposal, Role
from loghouse.replica.api import Appended, OnAppended, OnFailed
from loghouse.replica.cursor_moves import CursorMoves
from loghouse.replica.cursor_waits import CursorWaits
from loghouse.replica.driver import RaftDriver
from loghouse.replica.leases import Leases

OnDone = Callable[[CursorPage], object]
_OWNER_ONLY: Final = (CursorOperation.SET, CursorOperation.DELETE)


class WatchedCursor(NamedTuple):
    """What a leader tells of a cursor to those who watch it.

    `lag` is in records, None when the position counts something else. `is_held`: its holder was heard within
    its lease. For `idle_seconds` it has stood, at least.
    """

    name: str
    lag: int | None
    is_held: bool
    idle_seconds: float


class CursorReplica(Protocol):
    """What the keeper of cursors asks of its log's replica."""

    def member(self) -> RaftDriver:
        """Return the driver; UnavailableError while nothing drives the core."""

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Append an entry if this node leads. See `RaftDriver.propose`."""


class LedCursors:
    """What a leader does about the cursors of its log; every other node refuses."""

    def __init__(self, replica: CursorReplica, monotonic: Callable[[], float]) -> None:
        self._replica = replica  # the log; fixed
        self._leases = Leases(monotonic)  # of this leadership; begun anew by each
        self._waits = CursorWaits(monotonic)  # the same
        self._moves = CursorMoves(monotonic)  # the same
        self._term = 0  # the term that they are of

    def leads(self, term: int) -> None:
        """This node leads, since this term began: every holder has one whole lease from here on."""
        if term != self._term:
            self._term = term
            self._leases.begin()
            self._waits.begin()
            self._moves.begin()

    def advanced(self, change: CursorChange) -> None:
        """Records with an advance were proposed: its holder is at work."""
        raft = self._replica.member().raft
        cursor = raft.cursors.by_name.get(change.name)
        if cursor is not None and cursor.epoch == change.epoch and raft.role is Role.LEADER:
            self.leads(raft.term)
            self._leases.renew(cursor)
            if cursor.position == change.position:
                self._moves.moved(cursor.name)

    def watch(self, count_max: int) -> Iterator[WatchedCursor]:
        """Yield the first cursors by name, as they are in the log of a leader; for metrics."""
        driver = self._replica.member()
        by_name = driver.raft.cursors.by_name
        for name in nsmallest(count_max, by_name):
            cursor = by_name[name]
            yield WatchedCursor(
                name=name,
                lag=cursor.lag(driver.readable_offset),
                is_held=bool(self._leases.left_milliseconds(cursor)),
                idle_seconds=self._moves.idle_seconds(name),
            )

    def carry_out(self, order: CursorOrder, done: OnDone, failed: OnFailed) -> None:
        """Do what is asked, and call one of the two; neither may raise.

        Fails with:
            NotLeaderError, UnavailableError: Certainly nothing was done.
            CursorHeldError, CursorFencedError, CursorRewindError, UnknownCursorError, TooManyCursorsError,
            PermissionDeniedError, InvalidRequestError: Nothing was done, and why.
            OutcomeUnknownError: Leadership was lost, and it is not known whether it was done.
        """
        try:
            driver = self._replica.member()
            raft = _leading(driver)
            self.leads(raft.term)
            check_order(order)
            match order.operation:
                case operation if operation in CHANGES:
                    self._change(driver, order, done, failed)
                case CursorOperation.RENEW:
                    cursor = _find(raft, order.name)
                    if cursor.epoch != order.epoch:
                        raise CursorFencedError(order.epoch, cursor.epoch, order.name)
                    self._leases.renew(cursor)
                    done(self._page_of(driver, cursor))
                case CursorOperation.GET | CursorOperation.LIST:
                    self._read(driver, order, done, failed)
                case operation:
                    raise NotSupportedError(f"operation {operation} is not known to this version")
        except LoghouseError as error:
            failed(error)

    # --- changes --------------------------------------------------------------------------

    def _change(self, driver: RaftDriver, order: CursorOrder, done: OnDone, failed: OnFailed) -> None:
        raft, change = driver.raft, order.change
        check_cursor_change(change)
        before = raft.cursors.by_name.get(order.name)
        if before is not None:
            self._check_free(before, order)
        written: list[CursorState | None] = []

        def appended(result: Appended) -> None:
            done(self._page_of(driver, written[0] if written else raft.cursors.by_name.get(order.name)))

        payload = encode_cursor_change(change)
        self._replica.propose(
            Proposal(kind=EntryKind.CURSOR, payload=payload, subject=order.subject), appended, failed
        )
        # The state is that after the last entry of the log: what was appended is in it, committed or not.
        after = raft.cursors.by_name.get(order.name)
        written.append(after)
        if after is None:
            self._leases.forget(order.name)
            self._waits.forget(order.name)
            self._moves.forget(order.name)
            return
        if before is None or after.position != before.position:
            self._moves.moved(order.name)
        if after is not before and after.holder:
            self._leases.renew(after)
            self._waits.acquired(after.name, after.holder)

    def _check_free(self, cursor: CursorState, order: CursorOrder) -> None:
        """Raise unless a cursor may be had by who asks for it."""
        if order.operation in _OWNER_ONLY and cursor.subject != order.subject and not order.is_admin:
            raise PermissionDeniedError(order.subject, "admin", "*")
        if order.operation == CursorOperation.ACQUIRE and cursor.holder not in ("", order.holder):
            left = self._leases.left_milliseconds(cursor)
            if left:
                self._waits.refused(cursor.name, order.holder)
                raise CursorHeldError(left, cursor.name, cursor.holder)

    # --- looks ----------------------------------------------------------------------------

    def _read(self, driver: RaftDriver, order: CursorOrder, done: OnDone, failed: OnFailed) -> None:
        """Tell what is in the log now, once that is committed and this node is known to lead still."""
        raft = driver.raft
        found, following = _look(raft, order)
        term, last_index = raft.term, raft.cursors.last_index

        def confirmed(index: int) -> None:
            if raft.term != term or raft.role is not Role.LEADER:
                failed(NotLeaderError(_leader_name(raft)))
            elif index < last_index:
                # What was looked at is on its way to a majority. Not by asking until it is there: a lone
                # node has its answer at once, and would never come to hear of its disk.
                driver.when_readable(last_index, confirmed, failed)
            elif order.operation == CursorOperation.LIST:
                # The lag is counted only here: what a cursor stands behind is readable by now.
                done(CursorPage(cursors=tuple(self._described(driver, one) for one in found), next=following))
            elif found:
                done(self._page_of(driver, found[0]))
            else:
                failed(UnknownCursorError(order.name))

        driver.read_barrier(confirmed, failed)

    def _page_of(self, driver: RaftDriver, cursor: CursorState | None) -> CursorPage:
        if cursor is None:
            return CursorPage()
        return CursorPage(cursors=(self._described(driver, cursor),), waiting=self._waits.of(cursor.name))

    def _described(self, driver: RaftDriver, cursor: CursorState) -> DescribedCursor:
        lag = cursor.lag(driver.readable_offset)
        return DescribedCursor(
            name=cursor.name,
            position=cursor.position,
            epoch=cursor.epoch,
            holder=cursor.holder,
            subject=cursor.subject,
            lease_milliseconds=cursor.lease_milliseconds,
            left_milliseconds=self._leases.left_milliseconds(cursor),
            waiting_count=self._waits.count(cursor.name),
            lag=NO_LAG if lag is None else lag,
        )


def _look(raft: Raft, order: CursorOrder) -> tuple[list[CursorState], str]:
    """Return the cursors that are asked for, and the name to go on behind, or ""."""
    by_name = raft.cursors.by_name
    if order.operation == CursorOperation.GET:
        return [by_name[order.name]] if order.name in by_name else [], ""
    count_max = min(order.count_max or CURSORS_PER_PAGE_MAX, CURSORS_PER_PAGE_MAX)
    names = sorted(name for name in by_name if name > order.name)
    following = names[count_max - 1] if len(names) > count_max else ""
    return [by_name[name] for name in names[:count_max]], following


def _leading(driver: RaftDriver) -> Raft:
    """Return the core; NotLeaderError when it does not lead."""
    raft = driver.raft
    if raft.role is not Role.LEADER:
        raise NotLeaderError(_leader_name(raft))
    return raft


def _leader_name(raft: Raft) -> str | None:
    leader = raft.configuration.member(raft.leader)
    return leader.name if leader is not None else None


def _find(raft: Raft, name: str) -> CursorState:
    cursor = raft.cursors.by_name.get(name)
    if cursor is None:
        raise UnknownCursorError(name)
    return cursor
