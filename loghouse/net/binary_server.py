"""The server of the binary protocol: it asks the same gate and calls the same node as the gRPC server.

The streams of a connection take turns, and one of them reads at a time, while the client takes what it is
sent. So a slow reader holds two answers and slows only itself. `appending` has the appends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure

from loghouse.auth.identity import Identity
from loghouse.auth.policy import ANY_OBJECT, Action
from loghouse.errors import PermissionDeniedError, RequestError, UnknownLogError
from loghouse.limits import FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX, LOGS_PER_PAGE_DEFAULT, LOGS_PER_PAGE_MAX
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.appending import Appender, Appends
from loghouse.net.link import Link
from loghouse.node.api import LogDescription, LogLike, NodeLike, page_of, servers_of
from loghouse.node.gate import Gate, describe_log, refusal_of
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Describe,
    DescribedLog,
    DescribeLog,
    DescribeLogReply,
    DescribeLogs,
    DescribeLogsReply,
    DescribeReply,
    Fetch,
    FetchReply,
    FetchState,
    FetchStateReply,
    FindOffset,
    FindOffsetReply,
    Follow,
    FollowFrames,
    Produce,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.cursor_messages import (
    CURSOR_FIELDS,
    AskCursor,
    AskCursorReply,
    ProduceWithCursor,
    page_fields,
)
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG, LATER_KINDS, index_of, without_kinds
from loghouse.protocol.message import Message
from loghouse.protocol.range_messages import Read, ReadReply
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.protocol.session import (
    CancelReceived,
    CreditReceived,
    Event,
    RequestReceived,
    Session,
    TraceReceived,
)
from loghouse.protocol.streams import STREAM_MAX
from loghouse.replica.api import Fetched
from loghouse.shares import Holding, Shares, SubjectUse

READS_PER_TURN_MAX: Final = 4

_ACTIONS: Final = {
    Produce: Action.PRODUCE,
    RegisterProducer: Action.PRODUCE,
    Fetch: Action.CONSUME,
    Follow: Action.CONSUME,
    Bounds: Action.CONSUME,
    FindOffset: Action.CONSUME,
    FetchState: Action.CONSUME,
    Read: Action.CONSUME,
    AskCursor: Action.CONSUME,
    ProduceWithCursor: Action.PRODUCE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryServer:
    """What all binary sessions of a node share.

    Attributes:
        gate: Checks every request, and has the node.
        scheduler: The reactor's clock.
        appends: Puts batches into the log.
        make_appends: Makes what has the appends of one session.
        shares: Counts what subjects hold.
        metrics: Told of refusals.
    """

    gate: Gate
    scheduler: Any
    appends: Appender
    make_appends: Callable[[Appender, Link, Session, str], Appends] = Appends
    shares: Shares = field(default_factory=Shares)
    metrics: Metrics = NO_METRICS


class BinarySession:
    """Serves the requests of one client."""

    def __init__(self, server: BinaryServer, link: Link, identity: Identity) -> None:
        self._server = server  # what all sessions share; fixed
        self._gate = server.gate  # checks every request; fixed
        self._metrics = server.metrics  # told of refusals; fixed
        self._link = link  # the client's connection; fixed
        self._identity = identity  # who the client is; fixed
        assert link.session is not None
        self._session = link.session  # the protocol's side of the link; fixed
        hello = link.session.peer
        # The kinds of entry that the client cannot read: its version is older than they are; fixed.
        self._unreadable = LATER_KINDS - frozenset(hello.entry_kinds if hello is not None else ())
        # The work of each stream that waits for the node; gone with its answer, or when the client cancels.
        self._running: dict[int, Deferred[Any]] = {}
        # Stream and size in bytes of the reads that wait for their turn.
        self._reads: deque[tuple[int, int]] = deque()
        # The log and the next offset of each stream that reads; gone when the stream ends.
        self._places: dict[int, tuple[LogLike, int]] = {}
        self._is_reading = False  # the node reads for one of the streams
        self._is_in_turn = False  # `_read_next` runs, or goes on in the next turn of the reactor
        # What was read ahead while the link was not writable, its stream, and whether that follows.
        self._ready: tuple[Fetched | ReadPage, int, bool] | None = None
        self._states: set[int] = set()  # the streams that read the log's state; until they end
        self._ranges: dict[int, RecordRange] = {}  # what the streams want that read a range; until they end
        self._followed: set[int] = set()  # the streams that follow; each holds one of the subject's share
        self._unsent_size = 0  # bytes of answers that were read and not written to the link yet
        # The subject's share of answers that its clients have not taken; follows `_hold_answers`.
        self._answers = Holding(server.shares.answers, identity.subject)
        # Requests under way that count against the subject's quota; follows `count_requests`.
        self.counted = 0
        if server.shares.quotas.is_used:
            self._bound_requests()
        self._held: Any = None  # the end of a time without reading, for a quota; None while there is none
        # The batches that are not answered yet.
        self._appends = server.make_appends(server.appends, link, link.session, identity.subject)
        self._session.check_before_body(self._check_unread)

    # --- from the link ------------------------------------------------------------------

    def event_received(self, event: Event) -> None:
        """Begin what the client asks for; every outcome becomes an answer on its stream."""
        match event:
            case RequestReceived():
                try:
                    if self._server.shares.quotas.is_used:
                        self._count_begun(event.request)
                    self._begin(event)
                except RequestError as error:
                    self._tell_refused(error, type(event.request))
                    self._session.refuse(event.stream, error)
            case CreditReceived():
                self._follow_on(event.stream)
            case CancelReceived():
                self._forget(event.stream)
            case TraceReceived():
                self._appends.trace(event)

    def write_resumed(self) -> None:
        """The link is writable again: send what was read ahead, and read on."""
        ready, self._ready = self._ready, None
        if ready is not None:
            self._hold_answers(len(ready[0].frames))
            self._send_frames(*ready)
        elif self._link.is_writable:
            self._hold_answers(0)
        self._read_next()

    def link_lost(self) -> None:
        """The client is gone: cancel its requests. What was proposed may still be appended."""
        for stream in list(self._running):
            self._forget(stream)
        self._appends.close()
        self._reads.clear()
        for stream in list(self._places):
            self._end_read(stream)
        self._ready = None
        self._answers.close()
        if self._held is not None:
            self._held.cancel()
        self._count(0)

    # --- quotas ---------------------------------------------------------------------------

    def _count_begun(self, request: Message) -> None:
        """Count a request that came just now; read no more for a while when the subject used its quota.

        Raises:
            QuotaExceededError: The subject has as many under way as it may, over all its connections, or used
                more bytes than it may.
        """
        quotas = self._server.shares.quotas
        use = self._bound_requests()
        self._count(min(self.counted, self._session.served.count))
        now = quotas.seconds()
        size = 0
        if isinstance(request, Produce):
            size = len(request.batch)
        elif isinstance(request, ProduceWithCursor):
            size = len(request.produce)
        use.receive(size, now)
        if not isinstance(request, Follow):
            use.begin()
            self.counted += 1
        seconds = use.hold_seconds(now)
        if seconds and self._held is None:
            self._link.hold_reading("quota")
            self._held = self._server.scheduler.callLater(seconds, self._read_again)

    def _bound_requests(self) -> SubjectUse:
        """Let no more come on this connection at a time than the subject may have; return its use."""
        use = self._server.shares.quotas.of(self._identity.subject)
        self._session.served.count_max = use.quota.requests or STREAM_MAX
        return use

    def _read_again(self) -> None:
        self._held = None
        self._link.release_reading("quota")

    def count_requests(self) -> None:
        """Some were answered: they count no more."""
        self._count(min(self.counted, self._session.served.count))

    def _count(self, count: int) -> None:
        if count != self.counted:
            self._server.shares.quotas.of(self._identity.subject).requests += count - self.counted
            self.counted = count

    # --- requests ------------------------------------------------------------------------

    def _check_unread(self, request: type[Message], group: int, size: int) -> None:
        """Check a request by its header, before its body is read: permission first, then room.

        Raises:
            RequestError: Its body is not to be read.
        """
        try:
            self._check_header(request, group, size)
        except RequestError as error:
            self._tell_refused(error, request)
            raise

    def _tell_refused(self, error: RequestError, request: type[Message]) -> None:
        self._metrics.request_refused(type(error).__name__)
        self._gate.audit.refused(
            error, who=self._identity.subject, what=request.__name__, where=self._link.place
        )

    def _check_header(self, request: type[Message], group: int, size: int) -> None:
        action = _ACTIONS.get(request)
        if action is None:
            self._gate.check_permission(self._identity, ANY_OBJECT, None)
            return
        log = self._check_log(group, action)
        if request is ProduceWithCursor:
            self._gate.check_permission(self._identity, log.name, Action.CONSUME)
        quotas = self._server.shares.quotas
        if quotas.is_used:
            quotas.of(self._identity.subject).check_receive(quotas.seconds())
        if request in (Produce, ProduceWithCursor):
            self._appends.expect(size)

    def _begin(self, event: RequestReceived) -> None:
        """Check a request, and begin with it."""
        stream, action = event.stream, _ACTIONS.get(type(event.request))
        if action is None:
            self._gate.check_permission(self._identity, ANY_OBJECT, None)
            self._describe(stream, event.request)
            return
        log = self._check_log(event.group, action)
        match event.request:
            case Produce() as request:
                self._appends.take(log, stream, request)
            case Fetch() as request:
                quotas = self._server.shares.quotas
                if quotas.is_used:
                    quotas.of(self._identity.subject).check_send(quotas.seconds())
                self._reads.append((stream, min(request.size_max or FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX)))
                self._places[stream] = log, request.offset
                self._read_next()
            case FetchState() as request:  # in its turn, as what is read: a state may have megabytes
                self._states.add(stream)
                self._reads.append((stream, 0))
                self._places[stream] = log, request.offset
                self._read_next()
            case Read() as request:
                self._begin_range(log, stream, request.wanted())
            case Follow() as request:
                self._server.shares.followers.take(self._identity.subject)
                self._followed.add(stream)
                self._places[stream] = log, request.offset
                self._follow_on(stream)
            case ProduceWithCursor() as request:
                self._gate.check_permission(self._identity, log.name, Action.CONSUME)
                self._appends.take(log, stream, request.request, request.change)
            case AskCursor() as request:
                self._ask_cursor(stream, log, request)
            case Bounds():
                self._run(
                    stream, log.bounds, lambda b: BoundsReply(lowest=b.lowest, next_offset=b.next_offset)
                )
            case FindOffset() as request:
                self._run(
                    stream,
                    lambda: log.find_offset(request.timestamp),
                    lambda found: FindOffsetReply(offset=found[0], timestamp=found[1]),
                )
            case RegisterProducer():
                self._run(
                    stream,
                    lambda: log.register_producer(self._identity.subject),
                    lambda found: RegisterProducerReply(producer_id=found),
                )

    def _ask_cursor(self, stream: int, log: LogLike, request: AskCursor) -> None:
        fields = {name: getattr(request, name) for name in CURSOR_FIELDS}
        order = self._gate.cursor_order(self._identity, log, **fields)
        self._run(
            stream,
            lambda: log.order_cursor(order),
            lambda page: AskCursorReply(**page_fields(page)),
        )

    def _check_log(self, group: int, action: Action) -> LogLike:
        """Return the log of a group, if the client may do this on it.

        Raises:
            UnknownLogError: There is none any more, or none that the client may learn of.
            UnavailableError: The node does not know yet which logs there are.
            PermissionDeniedError, UnauthenticatedError, IdentityError: As `Gate.check_permission`.
        """
        gate, identity = self._gate, self._identity
        log = gate.node.logs.get(group)
        if log is None:
            gate.check_permission(identity, ANY_OBJECT, None)
            # No log is called so: it says whether there is none, or whether the node cannot know that yet.
            return gate.node.log(f"group {group}")
        try:
            gate.check_permission(identity, log.name, action)
        except PermissionDeniedError:
            if group == DEFAULT_GROUP or gate.may_see(identity, log.name):
                raise
            gate.check_permission(identity, ANY_OBJECT, None)
            raise UnknownLogError(f"group {group}") from None
        return log

    def _describe(self, stream: int, request: Message) -> None:
        node = self._gate.node
        match request:
            case Describe():
                self._session.answer(stream, describe(node))
            case DescribeLog():
                name = request.name or DEFAULT_LOG
                if not self._gate.may_see(self._identity, name):
                    raise PermissionDeniedError(self._identity.subject, Action.CONSUME, name)
                self._run(stream, lambda: describe_log(node, name), partial(_log_reply, node))
            case DescribeLogs():
                self._run(stream, node.log_administration.list, partial(self._list_logs, request))
            case _:
                raise AssertionError(type(request).__name__)

    def _list_logs(self, request: DescribeLogs, logs: Sequence[LogDescription]) -> DescribeLogsReply:
        count_max = min(request.count_max or LOGS_PER_PAGE_DEFAULT, LOGS_PER_PAGE_MAX)
        page, following = page_of(logs, request.after, count_max, partial(self._gate.may_see, self._identity))
        described = (
            DescribedLog(name=log.name, group=log.group, epoch=log.epoch, leader=log.leader) for log in page
        )
        return DescribeLogsReply(found=tuple(described), next=following)

    def _run(self, stream: int, work: Callable[[], Deferred[Any]], reply: Callable[[Any], Message]) -> None:
        """Start work whose result is the only answer of its stream."""
        running = maybeDeferred(work)
        self._running[stream] = running
        running.addCallback(lambda result: self._session.answer(stream, reply(result)))
        running.addErrback(self._refuse, stream)
        running.addBoth(self._finish, stream)

    def _refuse(self, failure: Failure, stream: int) -> None:
        error = failure.value
        assert error is not None
        if not isinstance(error, CancelledError):
            if isinstance(error, RequestError):
                self._tell_refused(error, Fetch)
            else:
                self._metrics.request_refused(type(error).__name__)
            self._session.refuse(stream, refusal_of(error, "a binary request", may_be_done=False))

    def _finish(self, _: object, stream: int) -> None:
        self._running.pop(stream, None)
        self._link.flush()

    def _forget(self, stream: int) -> None:
        self._appends.forget(stream)
        self._end_read(stream)
        running = self._running.pop(stream, None)
        if running is not None:
            running.cancel()

    # --- reading -----------------------------------------------------------------------------

    def _follow_on(self, stream: int) -> None:
        """Wait for the next record of a stream that follows, if it has credit and waits for nothing else."""
        served = self._session.served.open.get(stream)
        if served is None or served.credit <= 0 or stream in self._running or stream not in self._places:
            return
        log, offset = self._places[stream]
        waiting = maybeDeferred(log.wait_for, offset)
        self._running[stream] = waiting
        waiting.addCallback(self._readable, stream)
        waiting.addErrback(self._read_failed, stream)

    def _begin_range(self, log: LogLike, stream: int, wanted: RecordRange) -> None:
        """Read a range in its turn; of one that waits for a record, once that is here or its time is over."""
        quotas, subject = self._server.shares.quotas, self._identity.subject
        if quotas.is_used:
            quotas.of(subject).check_send(quotas.seconds())
        if wanted.wait_milliseconds:
            self._server.shares.followers.take(subject)
            self._followed.add(stream)
        self._ranges[stream] = wanted
        self._places[stream] = log, wanted.first
        if not wanted.wait_milliseconds:
            self._range_readable(None, stream)
            return
        waiting = maybeDeferred(log.wait_for, wanted.first)
        self._running[stream] = waiting
        seconds = wanted.wait_milliseconds / 1000
        waiting.addTimeout(seconds, self._server.scheduler, onTimeoutCancel=lambda _, __: None)
        waiting.addCallback(self._range_readable, stream)
        waiting.addErrback(self._read_failed, stream)

    def _range_readable(self, _: object, stream: int) -> None:
        size_max = self._ranges[stream].size_max or FETCH_SIZE_DEFAULT
        self._reads.append((stream, min(size_max, FETCH_SIZE_MAX)))
        self._read_next()

    def _readable(self, _: object, stream: int) -> None:
        self._reads.append((stream, FETCH_SIZE_DEFAULT))
        self._read_next()

    def _read_next(self) -> None:
        """Start the next reads, unless one runs or the client has not taken the last one."""
        if self._is_in_turn:
            return
        # A read may be answered at once and ask for the next one. This loop keeps such reads from nesting,
        # and its bound keeps other connections from waiting.
        self._is_in_turn = True
        for _ in range(READS_PER_TURN_MAX):
            if self._is_reading or not self._reads or self._ready is not None:
                self._is_in_turn = False
                return
            quotas = self._server.shares.quotas
            if quotas.is_used:
                seconds = quotas.of(self._identity.subject).send_seconds(quotas.seconds())
                if seconds:
                    # Its other streams wait, too: they are of the same subject.
                    self._server.scheduler.callLater(seconds, self._next_turn)
                    return
            self._is_reading = True
            self._read(*self._reads.popleft())
        self._server.scheduler.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._is_in_turn = False
        self._read_next()

    def _read(self, stream: int, size_max: int) -> None:
        served = self._session.served.open.get(stream)
        if served is None or stream not in self._places:
            self._is_reading = False  # cancelled meanwhile
            return
        is_follow = served.request is Follow
        if is_follow:
            size_max = min(size_max, served.credit)
        quotas = self._server.shares.quotas
        if quotas.is_used:
            size_max = quotas.of(self._identity.subject).size_max(size_max)
        log, offset = self._places[stream]
        read: Callable[[], Deferred[Any]]
        if stream in self._states:
            read = partial(log.read_state, offset)
        elif stream in self._ranges:
            read = partial(log.read_range, replace(self._ranges[stream], size_max=size_max))
        else:
            read = partial(log.fetch, offset, size_max)
        # A follower may have waited for days: ask the policy and the certificate again.
        reading: Deferred[Any] = maybeDeferred(
            self._gate.check_permission, self._identity, log.name, Action.CONSUME
        )
        reading.addCallback(lambda _: read())
        self._running[stream] = reading
        reading.addCallback(self._frames_read, stream, is_follow)
        reading.addErrback(self._read_failed, stream)
        reading.addBoth(self._read_done)

    def _frames_read(self, fetched: Fetched | ReadPage, stream: int, is_follow: bool) -> None:
        if self._unreadable and fetched.frames and stream not in self._states:
            place = self._places.get(stream)
            if place is None or index_of(fetched.frames) <= place[0].later_index:
                fetched = replace(fetched, frames=without_kinds(fetched.frames, self._unreadable))
        self._hold_answers(self._unsent_size + len(fetched.frames))
        if self._link.is_writable:
            self._send_frames(fetched, stream, is_follow)
        else:
            # Read one answer ahead: the disk works while the client takes the one before.
            self._ready = (fetched, stream, is_follow)

    def _send_frames(self, fetched: Fetched | ReadPage, stream: int, is_follow: bool) -> None:
        self._running.pop(stream, None)
        if self._metrics.tallies is not None:
            self._metrics.tallies.binary.bytes_out += len(fetched.frames)
        reply: Message
        if isinstance(fetched, ReadPage):
            reply = _read_reply(fetched)
        elif is_follow:
            reply = FollowFrames(next_offset=fetched.next_offset, frames=fetched.frames)
        elif stream in self._states:
            reply = FetchStateReply(next_offset=fetched.next_offset, state=fetched.frames)
        else:
            reply = FetchReply(next_offset=fetched.next_offset, frames=fetched.frames)
        self._session.answer(stream, reply)
        quotas = self._server.shares.quotas
        if quotas.is_used:
            quotas.of(self._identity.subject).send(len(fetched.frames), quotas.seconds())
        self._link.flush()
        if self._link.is_writable:
            self._hold_answers(0)
        if is_follow and stream in self._places:
            self._places[stream] = self._places[stream][0], fetched.next_offset
            self._follow_on(stream)
        else:
            self._end_read(stream)

    def _hold_answers(self, size: int) -> None:
        """Count the bytes that were read for the client and that it has not taken.

        Raises:
            ResourceExhaustedError: Its subject holds its share of them.
        """
        self._answers.hold(size)
        self._unsent_size = size

    def _end_read(self, stream: int) -> None:
        self._places.pop(stream, None)
        self._states.discard(stream)
        self._ranges.pop(stream, None)
        if stream in self._followed:
            self._followed.discard(stream)
            self._server.shares.followers.give_back(self._identity.subject)

    def _read_failed(self, failure: Failure, stream: int) -> None:
        self._end_read(stream)
        self._refuse(failure, stream)
        self._finish(None, stream)

    def _read_done(self, _: object) -> None:
        self._is_reading = False
        self._read_next()


def _read_reply(page: ReadPage) -> ReadReply:
    return ReadReply(
        next_offset=page.next_offset,
        lowest=page.lowest,
        committed=page.committed,
        is_confirmed=page.is_confirmed,
        frames=page.frames,
    )


def describe(node: NodeLike) -> DescribeReply:
    """Return the answer to Describe."""
    return DescribeReply(
        cluster_uuid=node.cluster_uuid,
        cluster_name=node.cluster_name,
        node_name=node.name,
        # The other ones by DescribeLogs: this may have too few, and earlier clients know the default one.
        logs=((DEFAULT_GROUP, DEFAULT_LOG),),
        servers=tuple(node.servers()),
    )


def _log_reply(node: NodeLike, log: LogDescription) -> DescribeLogReply:
    """Return the answer to DescribeLog."""
    return DescribeLogReply(
        name=log.name,
        group=log.group,
        epoch=log.epoch,
        leader=log.leader,
        servers=tuple(servers_of(log, node.servers())),
    )
