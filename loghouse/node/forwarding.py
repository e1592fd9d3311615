"""Passing on to the leader what a node that does not lead was asked for.

    follower                               leader
    propose -- ForwardProduce -->  message_received -> serve here, never pass on
    answer  <-- ForwardReply or ForwardFailure --

A request crosses one link and its answer another, so each carries an id. What is certain decides the error: a
request that never left is UnavailableError (try again anywhere); one that left and was not answered may have
been done, so a produce ends in OutcomeUnknownError. Nothing is sent twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import (
    LoghouseError,
    NotLeaderError,
    NotSupportedError,
    OutcomeUnknownError,
    RequestError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.limits import (
    FORWARD_GRACE_SECONDS,
    FORWARD_SECONDS,
    FORWARDS_MAX,
    FORWARDS_REMEMBERED_MAX,
    FORWARDS_SIZE_MAX,
)
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.node.api import proposing
from loghouse.protocol.cursor_messages import (
    CursorOperation,
    CursorOrder,
    CursorPage,
    ForwardCursor,
    ForwardCursorReply,
    ForwardProduceWithCursor,
    page_fields,
    page_of,
)
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.failures import is_told_whole
from loghouse.protocol.forward_messages import (
    AdminOperation,
    ForwardAdmin,
    ForwardAdminReply,
    ForwardFailure,
    ForwardProduce,
    ForwardReply,
    Match,
)
from loghouse.protocol.message import Message, RequestIds
from loghouse.protocol.trace_messages import ForwardTrace
from loghouse.raft.held_back import HeldBack, held_back_error
from loghouse.replica.api import Appended, OnAppended, OnFailed, Proposal
from loghouse.runtime.deadlines import Deadlines

OPERATIONS: Final = frozenset(AdminOperation)
_LOOKS: Final = (CursorOperation.RENEW, CursorOperation.GET, CursorOperation.LIST)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOrder:
    """What the leader must do for an operator or a producer; `AdminOperation` says what the fields mean."""

    operation: AdminOperation
    name: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminResult:
    """What came of an order; `AdminOperation` says which fields it fills. `matches`: (member id, index)."""

    name: str = ""
    number: int = 0
    matches: tuple[tuple[int, int], ...] = ()


class Leading(Protocol):
    """What is done here when this node leads; it fails with NotLeaderError when not, passes nothing on."""

    @property
    def name(self) -> str:
        """The log's name, by which this node's policy decides."""

    def propose_here(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Append a batch; calls one of the two, as `LogLike.propose` does."""

    def administer_here(self, order: AdminOrder) -> Deferred[AdminResult]:
        """Carry out an order; fires when it is done, and committed where it changes the log."""

    def order_cursor_here(self, order: CursorOrder) -> Deferred[CursorPage]:
        """Do something about a cursor; as `administer_here`."""


@dataclass(slots=True)
class _Asked:
    """A request that left, until its answer comes. `size` in bytes, `deadline` in the clock's seconds."""

    leader_name: str
    group: int
    order: AdminOrder | CursorOrder | None
    size: int
    deadline: float
    done: Deferred[Any]


class Forwarder:
    """Both ends of forwarding, for all logs of one node: what waits is bounded in sum.

    Args:
        rng: Chooses the first request id; `random.SystemRandom()` in production.
        size_max, count_max: Bytes and number of requests that may wait for an answer; also how many
            requests of others may be under way here.
    """

    logger = Logger()

    def __init__(
        self,
        send: Callable[[str, Message, int], bool],
        *,
        clock: IReactorTime,
        rng: random.Random,
        check_subject: Callable[[str, str], None] = lambda subject, log: None,
        check_cursor: Callable[[str, str, bool], None] = lambda subject, log, is_admin: None,
        denied: Callable[[int, str, str], None] = lambda group, name, leader: None,
        timeout_seconds: float = FORWARD_SECONDS,
        size_max: int = FORWARDS_SIZE_MAX,
        count_max: int = FORWARDS_MAX,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        # Sends a message of a group to the node of that name; False when it certainly will not get there.
        self._send = send
        self._clock = clock  # for deadlines
        # Raises PermissionDeniedError for a subject that may not append to a log (its name) by this node's
        # policy, whatever the node says that passed its request on.
        self._check_subject = check_subject
        # The same for cursors, and for a subject that is said to be an administrator.
        self._check_cursor = check_cursor
        # Told that a node that was asked does not lead a group, and who does by its word (empty: nobody).
        self._denied = denied
        self._metrics = metrics  # told of messages that were ignored or did not get there
        self._timeout_seconds = timeout_seconds  # how long an answer may take
        self._size_max = size_max
        self._count_max = count_max
        # At random, so that no answer to a request of this node's former life fits one of this life. Reads
        # that are passed on take theirs from here, too: an answer fits one request of all.
        self.ids = RequestIds(rng.getrandbits(64))
        self._asked: dict[int, _Asked] = {}
        self._asked_size = 0
        self._held_back: dict[int, HeldBack] = {}  # by group: producers are registered with one log
        self._deadlines = Deadlines(clock, self._expire)
        self._serving: set[tuple[str, int]] = set()
        self._serving_size = 0
        self._served_ids: dict[str, dict[int, None]] = {}
        self._is_stopped = False

    # --- asking -----------------------------------------------------------------------

    def propose(self, leader_name: str, group: int, proposal: Proposal) -> Deferred[Appended]:
        """Let the leader of a group append a batch; fires when it is durable on a majority.

        Cancelling drops the answer; the record may still be appended.

        Raises (as failures):
            UnavailableError, ResourceExhaustedError, ...: Certainly not appended.
            OutcomeUnknownError: The request left, and its answer did not come or says so.
        """
        refusal = self._refusal(group, proposal, self._room_problem(leader_name, len(proposal.payload)))
        if refusal is not None:
            return fail(refusal)
        request_id = self.ids.take()
        message: Message = ForwardProduce(
            request_id=request_id,
            subject=proposal.subject,
            batch=proposal.payload,
            record_count=proposal.record_count,
            attributes=proposal.attributes,
            batch_crc=proposal.payload_crc,
            expect_offset=proposal.expect_offset,
            producer_id=proposal.producer_id,
            producer_sequence=proposal.producer_sequence,
        )
        if proposal.cursor is not None:
            message = ForwardProduceWithCursor(
                cursor=proposal.cursor.name,
                epoch=proposal.cursor.epoch,
                position=proposal.cursor.position,
                produce=b"".join(message.encode()),
            )
        return self._ask(leader_name, group, request_id, message, None, len(proposal.payload))

    def _refusal(
        self, group: int, proposal: Proposal, full: ResourceExhaustedError | None
    ) -> ResourceExhaustedError | None:
        """Return why a batch must wait: there is no room, or one of its producer before it had none just now.

        Who appends, and never saw that one, could only find a gap.
        """
        producer_id, sequence = proposal.producer_id, proposal.producer_sequence
        if not producer_id:
            return full
        now = self._clock.seconds()
        held_back = self._held_back.setdefault(group, HeldBack())
        held = held_back.sequence_of(producer_id, now)
        if held is not None and held < sequence:
            return held_back_error(producer_id, held)
        if full is not None:
            held_back.note(producer_id, sequence, now + FORWARD_GRACE_SECONDS)
        elif held is not None:
            held_back.forget(producer_id)
        return full

    def _room_problem(self, leader_name: str, size: int) -> ResourceExhaustedError | None:
        if len(self._asked) < self._count_max and self._asked_size + size <= self._size_max:
            return None
        limit = f"{self._size_max} bytes or {self._count_max} requests wait for the leader's answer"
        return ResourceExhaustedError(
            "forwarding", f"{limit}; nothing was done: send slower, or to {leader_name}, which leads"
        )

    def administer(self, leader_name: str, group: int, order: AdminOrder) -> Deferred[AdminResult]:
        """Let the leader carry out an order; as `propose`."""
        request_id = self.ids.take()
        message = ForwardAdmin(
            request_id=request_id, operation=order.operation, name=order.name, number=order.number
        )
        return self._ask(leader_name, group, request_id, message, order, 0)

    def order_cursor(self, leader_name: str, group: int, order: CursorOrder) -> Deferred[CursorPage]:
        """Let the leader do something about a cursor; as `propose`."""
        request_id = self.ids.take()
        message = ForwardCursor.asking(request_id, order)
        return self._ask(leader_name, group, request_id, message, order, 0)

    def _ask(
        self,
        leader_name: str,
        group: int,
        request_id: int,
        message: Message,
        order: AdminOrder | CursorOrder | None,
        size: int,
    ) -> Deferred[Any]:
        if self._is_stopped:
            return fail(UnavailableError("the node is stopping; nothing was done, try another node"))
        if not leader_name:
            return fail(UnavailableError("no leader is known; nothing was done, try again"))
        refusal = self._room_problem(leader_name, size)
        if refusal is not None:
            return fail(refusal)
        done: Deferred[Any] = Deferred(lambda _: self._drop(request_id))
        deadline = self._clock.seconds() + self._timeout_seconds
        # Before it is sent: the answer may come within `send`.
        self._asked[request_id] = _Asked(leader_name, group, order, size, deadline, done)
        self._asked_size += size
        if not self._send(leader_name, message, group):
            if self._forget(request_id):
                problem = f"the leader {leader_name} cannot be reached from this node, or reads too slowly"
                done.errback(
                    UnavailableError(f"{problem}; nothing was done: try again, or send to {leader_name}")
                )
        elif deadline < self._deadlines.due and self._asked:
            self._deadlines.watch(deadline)
        return done

    def _forget(self, request_id: int) -> _Asked | None:
        asked = self._asked.pop(request_id, None)
        if asked is not None:
            self._asked_size -= asked.size
        return asked

    def _drop(self, request_id: int) -> None:
        """Its caller does not wait any more; an answer will be ignored."""
        self._forget(request_id)

    def _expire(self, now: float) -> float:
        """Give up on what is due."""
        due = [request_id for request_id, asked in self._asked.items() if asked.deadline <= now]
        self._give_up(due, "did not answer in time")
        return min((asked.deadline for asked in self._asked.values()), default=inf)

    def leader_changed(self, group: int, leader_name: str) -> None:
        """Another node leads a group now (empty: none yet).

        A node that led before and still can tell what became of a request tells it soon: the new leader's
        first commit decides. One that is cut off would keep its callers waiting until the deadline.
        """
        if not leader_name:
            return
        latest = self._clock.seconds() + FORWARD_GRACE_SECONDS
        waits_elsewhere = [
            asked
            for asked in self._asked.values()
            if asked.group == group and asked.leader_name != leader_name
        ]
        for asked in waits_elsewhere:
            asked.deadline = min(asked.deadline, latest)
        if waits_elsewhere:
            self._deadlines.watch(min(asked.deadline for asked in waits_elsewhere))

    def link_lost(self, node_name: str) -> None:
        """A link with that node ended: answers to what was sent it will not come."""
        self._served_ids.pop(node_name, None)
        lost = [request_id for request_id, asked in self._asked.items() if asked.leader_name == node_name]
        self._give_up(lost, "was lost before it answered")

    def stop(self) -> None:
        """Ask nothing more; who waits is told that nothing is known. Requests of others are answered on."""
        self._is_stopped = True
        self._deadlines.stop()
        self._give_up(list(self._asked), "had not answered when this node stopped")

    def _give_up(self, request_ids: list[int], what: str) -> None:
        for request_id in request_ids:
            asked = self._forget(request_id)  # an errback before it may have cancelled this one
            if asked is not None:
                asked.done.errback(_lost(asked, what))

    # --- messages -----------------------------------------------------------------------

    def message_received(
        self, source_name: str, message: Message, group: int, leading: Leading | None
    ) -> None:
        """Take one of the forward messages from the node of that name.

        Args:
            source_name: Whose certificate the link has.
            group: Of which log it is.
            leading: Does here what is asked for; asked only for requests. None: this node has no such log.
        """
        if isinstance(message, ForwardReply | ForwardAdminReply | ForwardCursorReply | ForwardFailure):
            self._answer(source_name, group, message)
            return
        cursor: CursorChange | None = None
        if isinstance(message, ForwardProduceWithCursor):
            cursor, message = message.change, message.request
        if not isinstance(message, ForwardProduce | ForwardAdmin | ForwardCursor):
            assert isinstance(message, ForwardTrace), type(message).__name__
            return  # nothing is traced here
        if leading is None:
            # It may have one soon: nodes hear of a new log one after the other.
            problem = f"the node that was asked has no log of group {group}; nothing was done, try again"
            self._refuse(source_name, group, message.request_id, UnavailableError(problem))
            return
        match message:
            case ForwardProduce():
                proposal = Proposal(
                    payload=message.batch,
                    record_count=message.record_count,
                    attributes=message.attributes,
                    payload_crc=message.batch_crc,
                    expect_offset=message.expect_offset,
                    producer_id=message.producer_id,
                    producer_sequence=message.producer_sequence,
                    subject=message.subject,
                    cursor=cursor,
                )
                self._serve(
                    source_name,
                    group,
                    message.request_id,
                    lambda: self._propose_here(leading, proposal).addCallback(_reply_of, message.request_id),
                    proposal,
                )
            case ForwardCursor():
                wanted = message.order
                self._serve(
                    source_name,
                    group,
                    message.request_id,
                    lambda: self._order_cursor_here(leading, wanted).addCallback(
                        _cursor_reply_of, message.request_id
                    ),
                )
            case ForwardAdmin() if message.operation not in OPERATIONS:
                problem = f"operation {message.operation} is not known to the leader's version: upgrade it"
                error = NotSupportedError(f"{problem}; nothing was done")
                self._refuse(source_name, group, message.request_id, error)
            case ForwardAdmin():
                operation = AdminOperation(message.operation)
                order = AdminOrder(operation=operation, name=message.name, number=message.number)
                self._serve(
                    source_name,
                    group,
                    message.request_id,
                    lambda: self._administer_here(leading, order).addCallback(
                        _admin_reply_of, message.request_id
                    ),
                )

    def _answer(
        self,
        source_name: str,
        group: int,
        message: ForwardReply | ForwardAdminReply | ForwardCursorReply | ForwardFailure,
    ) -> None:
        asked = self._asked.get(message.request_id)
        is_ours = asked is not None and (asked.leader_name, asked.group) == (source_name, group)
        if asked is None or not is_ours or not _fits(message, asked):
            # Given up, cancelled, answered before, or not ours.
            self._metrics.forwarded_message_ignored("answer that nobody waits for")
            return
        self._forget(message.request_id)
        match message:
            case ForwardReply():
                asked.done.callback(
                    Appended(
                        base_offset=message.base_offset,
                        record_count=message.record_count,
                        timestamp=message.timestamp,
                        index=message.index,
                        term=message.term,
                    )
                )
            case ForwardAdminReply():
                matches = tuple((match.member, match.index) for match in message.matches)
                asked.done.callback(AdminResult(name=message.name, number=message.number, matches=matches))
            case ForwardCursorReply():
                asked.done.callback(page_of(message))
            case ForwardFailure():
                error = message.error()
                if isinstance(error, NotLeaderError):
                    self._denied(group, source_name, error.leader or "")
                asked.done.errback(_received(error, asked))

    # --- serving --------------------------------------------------------------------------

    def _serve(
        self,
        source_name: str,
        group: int,
        request_id: int,
        work: Callable[[], Deferred[Message]],
        proposal: Proposal | None = None,
    ) -> None:
        size = len(proposal.payload) if proposal is not None else 0
        if not self._is_new(source_name, request_id):
            self._metrics.forwarded_message_ignored("request that came before")
            return
        full: ResourceExhaustedError | None = None
        if len(self._serving) >= self._count_max or self._serving_size + size > self._size_max:
            limit = f"{self._size_max} bytes or {self._count_max} requests of other nodes are under way"
            full = ResourceExhaustedError("forwarding", f"{limit} here; send slower, nothing was done")
        if proposal is not None:
            full = self._refusal(group, proposal, full)
        if full is not None:
            self._refuse(source_name, group, request_id, full)
            return
        key = source_name, request_id
        self._serving.add(key)
        self._serving_size += size

        def finish(outcome: Message | Failure) -> None:
            self._serving.discard(key)
            self._serving_size -= size
            if isinstance(outcome, Failure):
                outcome = ForwardFailure.answering(request_id, self._told(outcome, source_name))
            self._reply(source_name, outcome, group)

        maybeDeferred(work).addBoth(finish).addErrback(
            lambda failure: self.logger.failure("answering {node}", failure, node=source_name)
        )

    def _propose_here(self, leading: Leading, proposal: Proposal) -> Deferred[Appended]:
        self._check_subject(proposal.subject, leading.name)
        if proposal.cursor is not None:
            self._check_cursor(proposal.subject, leading.name, False)
        return proposing(leading.propose_here, proposal)

    def _administer_here(self, leading: Leading, order: AdminOrder) -> Deferred[AdminResult]:
        if order.operation is AdminOperation.REGISTER_PRODUCER:
            self._check_subject(order.name, leading.name)
        return leading.administer_here(order)

    def _order_cursor_here(self, leading: Leading, order: CursorOrder) -> Deferred[CursorPage]:
        self._check_cursor(order.subject, leading.name, order.is_admin)
        return leading.order_cursor_here(order)

    def _is_new(self, source_name: str, request_id: int) -> bool:
        """Whether a node did not ask under that id before; remembers it."""
        ids = self._served_ids.setdefault(source_name, {})
        if request_id in ids:
            return False
        ids[request_id] = None
        if len(ids) > FORWARDS_REMEMBERED_MAX:
            del ids[next(iter(ids))]
        return True

    def _told(self, failure: Failure, source_name: str) -> LoghouseError:
        """Return what whoever asked is told of a failure here."""
        error = failure.value
        if is_told_whole(error):
            assert isinstance(error, RequestError)
            return error
        # Ours, not the caller's: what it stopped, and whether anything was appended, is not known.
        self.logger.failure("doing what {node} asked for", failure, node=source_name)
        return OutcomeUnknownError("the leader failed while it did that; its diagnostics say why")

    def _refuse(self, source_name: str, group: int, request_id: int, error: LoghouseError) -> None:
        self._reply(source_name, ForwardFailure.answering(request_id, error), group)

    def _reply(self, source_name: str, message: Message, group: int) -> None:
        if not self._send(source_name, message, group):
            self._metrics.forwarded_answer_dropped()  # its sender's deadline tells its caller


def _fits(message: Message, asked: _Asked) -> bool:
    if isinstance(asked.order, CursorOrder):
        return isinstance(message, ForwardCursorReply | ForwardFailure)
    wanted = ForwardAdminReply if asked.order is not None else ForwardReply
    return isinstance(message, wanted | ForwardFailure)


def _lost(asked: _Asked, what: str) -> RequestError:
    """Return the error of a request that left and was not answered."""
    leader = f"the leader {asked.leader_name} {what}"
    if asked.order is None:
        return OutcomeUnknownError(
            f"{leader}: the records may or may not have been appended; a retry may append them twice, "
            "unless it carries the same producer id and sequence"
        )
    if isinstance(asked.order, CursorOrder):
        if asked.order.operation in _LOOKS:
            return UnavailableError(f"{leader}; try again")
        return OutcomeUnknownError(f"{leader}: it may or may not have been done; look at the cursor first")
    if asked.order.operation is AdminOperation.PROGRESS:
        return UnavailableError(f"{leader}; try again")
    return OutcomeUnknownError(
        f"{leader}: it may or may not have been done; look at `loghouse cluster status` before trying again"
    )


def _received(error: LoghouseError, asked: _Asked) -> RequestError:
    """Return what the caller is told of the leader's failure."""
    if isinstance(error, NotLeaderError):
        # Only once: following leaders around would outlive the caller's patience, and an election needs time.
        now = f"the leader is {error.leader} now: " if error.leader else "no leader is known there: "
        return UnavailableError(
            f"{asked.leader_name} does not lead any more, {now}nothing was done, try again"
        )
    if is_told_whole(error):
        assert isinstance(error, RequestError)
        return error
    # An error of a later version, or one that no leader sends: it must not be retried blindly.
    return OutcomeUnknownError(f"{asked.leader_name}: {error}")


def _reply_of(appended: Appended, request_id: int) -> Message:
    return ForwardReply(
        request_id=request_id,
        base_offset=appended.base_offset,
        record_count=appended.record_count,
        timestamp=appended.timestamp,
        index=appended.index,
        term=appended.term,
    )


def _cursor_reply_of(page: CursorPage, request_id: int) -> Message:
    return ForwardCursorReply(request_id=request_id, **page_fields(page))


def _admin_reply_of(result: AdminResult, request_id: int) -> Message:
    return ForwardAdminReply(
        request_id=request_id,
        name=result.name,
        number=result.number,
        matches=tuple(Match(member=member, index=index) for member, index in result.matches),
    )
