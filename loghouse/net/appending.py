"""Appends of binary sessions: each is checked, proposed, alone or in an entry with others, and answered.

A session may have hundreds of small appends under way, so an append costs no Deferred and no timer of its
own: its outcome calls it. One `Appender` serves all sessions of a node, and each session has one `Appends`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

from twisted.internet.defer import Deferred

from loghouse.errors import OutcomeUnknownError, ResourceExhaustedError, short_of
from loghouse.limits import APPEND_COST, BODIES
from loghouse.metrics import DoorTally
from loghouse.net.link import Link
from loghouse.node.api import LogLike
from loghouse.node.gate import Gate, proposal_alone, refusal_of
from loghouse.node.long_checks import LongChecks
from loghouse.protocol.client_messages import LeaderHint, Produce, ProduceReply
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import CODEC_MASK, DEFAULT_GROUP, Buffer
from loghouse.protocol.session import Session, TraceReceived
from loghouse.replica.api import Proposal
from loghouse.replica.coalescing import Coalescer
from loghouse.runtime.deadlines import Deadlines
from loghouse.runtime.scheduling import Cancellable
from loghouse.shares import Holding, Ledger

PRODUCE_SECONDS_DEFAULT: Final = 30.0
PRODUCE_SECONDS_MAX: Final = 600.0
ENTRIES_MAX: Final = 2  # shared entries under way: half of the sessions sends while half waits for disks


class Appender:
    """Proposes the batches of all binary sessions, small ones of one turn together in one entry."""

    coalescer_class = Coalescer

    def __init__(
        self,
        gate: Gate,
        *,
        soon: Callable[[Callable[[], None]], object],
        scheduler: Any,
        in_thread: Callable[..., Deferred[Any]],
        bodies: Ledger | None = None,
        tally: DoorTally | None = None,
    ) -> None:
        self._tally = tally  # counts what became of batches; fixed, None when nobody asks for it
        self._node = gate.node  # whose logs are appended to; fixed
        self._node_name = gate.node.name  # fixed
        self.check_batch = gate.check_batch  # checks a batch, in steps; fixed
        self.bodies = bodies or Ledger(BODIES)  # counts unanswered bytes by subject; fixed
        self.scheduler = scheduler  # the reactor's clock; fixed
        self.checks = LongChecks(in_thread)  # the checks that wait for a thread, off the reactor
        self._soon = soon  # runs work at the end of this turn of the reactor; fixed
        # By group; one for each log that is appended to, as long as there is that log.
        self._coalescers: dict[int, Coalescer] = {}
        # Sessions with answers not written yet, each with the logs that these are of; emptied by `flush`.
        self._answered: dict[Appends, dict[int, LogLike]] = {}
        self._last_group = DEFAULT_GROUP  # the log of the entry that was answered last
        self._is_flush_due = False  # `_end_turn` is due

    def coalescer_of(self, log: LogLike) -> Coalescer:
        """Return what joins the appends of all sessions to a log."""
        found = self._coalescers.get(log.group)
        if found is None:
            logs = self._node.logs
            self._coalescers = {group: one for group, one in self._coalescers.items() if group in logs}
            settled = partial(self._settled, log.group)
            found = self.coalescer_class(log.propose, self._soon, settled, ENTRIES_MAX, tally=self._tally)
            self._coalescers[log.group] = found
        return found

    def join(self, append: Append, subject: str) -> None:
        """Propose a plain batch in one entry with the others of this turn."""
        coalescer = self.coalescer_of(append.log)
        coalescer.add(subject, append)
        coalescer.flush_soon()

    def propose(self, append: Append, proposal: Proposal) -> None:
        """Propose an entry of its own, behind the batches that came before it."""
        append.pending = self.coalescer_of(append.log).submit_alone(append, proposal)

    def note_answer(self, appends: Appends, log: LogLike) -> None:
        """Flush a session later, once all batches of the entry have their answers."""
        logs = self._answered.get(appends)
        if logs is None:
            logs = self._answered[appends] = {}
        logs[log.group] = log

    def _settled(self, group: int) -> None:
        """The answers to an entry were given: write them, with those of other logs that this turn brings."""
        if group == self._last_group and not self._is_flush_due:
            self.flush()  # one log answers alone, and nobody waits for others
            return
        self._last_group = group
        if not self._is_flush_due:
            self._is_flush_due = True
            self._soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_flush_due = False
        self.flush()

    def flush(self) -> None:
        """Write all answers given so far."""
        answered, self._answered = self._answered, {}
        leaders: dict[int, str] = {}
        for appends, logs in answered.items():
            for group, log in logs.items():
                if group not in leaders:
                    leader = log.leader_name
                    leaders[group] = "" if leader == self._node_name else leader
                appends.name_leader(group, leaders[group])
            appends.flush()


class Append:
    """One batch of a session on its way into the log (`coalescing.Share`).

    Attributes:
        stream: The session's, which the outcome answers.
        payload, payload_crc, record_count: The batch.
        cursor: The advance that comes with it; None: none does.
        seconds: How long the client waits.
        deadline: When it no longer waits, in seconds of the scheduler's clock.
        is_checked: Whether the batch is what it says; True once its check ended well or badly.
        is_wanted: Whether the client still waits; False after the outcome, a cancel or the deadline.
        pending: The check or the proposal under way; None in between.
    """

    __slots__ = (
        "_appends",
        "cursor",
        "deadline",
        "is_checked",
        "is_wanted",
        "log",
        "payload",
        "payload_crc",
        "pending",
        "record_count",
        "seconds",
        "stream",
    )

    def __init__(self, appends: Appends, log: LogLike, stream: int, request: Produce, now: float) -> None:
        self._appends = appends
        self.log = log
        self.cursor: CursorChange | None = None
        self.stream = stream
        self.payload: Buffer = request.batch
        self.payload_crc = request.batch_crc
        self.record_count = request.record_count
        asked_seconds = request.timeout_milliseconds / 1000
        self.seconds = min(asked_seconds or PRODUCE_SECONDS_DEFAULT, PRODUCE_SECONDS_MAX)
        self.deadline = now + self.seconds
        self.is_checked = False
        self.is_wanted = True
        self.pending: Cancellable | None = None

    def appended(self, base_offset: int, timestamp: int) -> None:
        """The batch is durable."""
        self._appends.answer(self, base_offset, timestamp)

    def failed(self, error: BaseException) -> None:
        """The batch was not appended, or nobody knows."""
        self._appends.refuse(self, error)

    def forget(self) -> None:
        """Nobody waits: take the batch back if it was not proposed yet."""
        self.is_wanted = False
        if self.pending is not None:
            self.pending.cancel()


class Appends:
    """The unanswered appends of one session: bounded in bytes, each with a deadline."""

    append_class = Append  # fixed; another one where appends are traced

    def __init__(self, appender: Appender, link: Link, session: Session, subject: str) -> None:
        self.appender = appender  # proposes; shared by all sessions, fixed
        self._link = link  # the client's connection; fixed
        self._session = session  # the protocol's side of the link; fixed
        self._subject = subject  # whose session this is; fixed
        self._open: dict[int, Append] = {}  # the unanswered appends, by stream
        self._size = 0  # bytes of the unanswered appends, with what each costs beside its batch
        self._coming = 0  # bytes of the batch that is being received; 0 between batches
        # The subject's share of unanswered bytes; follows `_size` and `_coming`.
        self._holding = Holding(appender.bodies, subject)
        self._deadlines = Deadlines(appender.scheduler, self._expire)  # gives up appends that are due
        # A batch that a thread checks, and all that came behind it: batches must not overtake each other.
        self._line: deque[tuple[Append, Produce]] = deque()
        # The leader of each group that the client was last told of; this node when there is none.
        self._leaders_named: dict[int, str] = {}

    def expect(self, size: int) -> None:
        """Make room for a batch of `size` bytes that begins to come.

        Raises:
            ResourceExhaustedError: Its subject has its share of unfinished requests.
        """
        self._holding.hold(self._size + size)
        self._coming = size

    def take(self, log: LogLike, stream: int, request: Produce, cursor: CursorChange | None = None) -> None:
        """Append a batch to a log, with an advance or without; its outcome is the stream's answer."""
        appender = self.appender
        now = appender.scheduler.seconds()
        append = self._open[stream] = self.append_class(self, log, stream, request, now)
        append.cursor = cursor
        self._size += len(append.payload) + APPEND_COST
        self._coming = 0
        try:
            self._holding.hold(self._size)
        except ResourceExhaustedError as error:
            self.refuse(append, error)
            return
        if append.deadline < self._deadlines.due:
            self._deadlines.watch(append.deadline)
        steps = appender.check_batch(
            log, request.batch, request.record_count, request.attributes & CODEC_MASK, request.batch_crc
        )
        try:
            for _ in steps:
                self._line.append((append, request))
                append.pending = appender.checks.run(self._subject, steps, partial(self._checked, append))
                return
        except Exception as error:
            self.refuse(append, short_of(error) or error)
            return
        append.is_checked = True
        if self._line:
            self._line.append((append, request))  # a producer's batches must not overtake each other
        else:
            self._propose(append, request)

    def trace(self, received: TraceReceived) -> None:
        """The next batch belongs to a trace; nothing is made of it here."""

    def _checked(self, append: Append, error: BaseException | None) -> None:
        append.is_checked = True
        append.pending = None
        if error is not None:
            self.refuse(append, short_of(error) or error)
            self.appender.flush()
        self._propose_checked()

    def _propose_checked(self) -> None:
        """Propose the checked batches at the head of the line; drop those that nobody waits for."""
        line = self._line
        while line and (line[0][0].is_checked or not line[0][0].is_wanted):
            self._propose(*line.popleft())

    def _propose(self, append: Append, request: Produce) -> None:
        if not append.is_wanted:
            return  # given up while it was checked
        proposal = proposal_alone(
            append,
            self._subject,
            attributes=request.attributes,
            expect_offset=request.expect_offset,
            producer_id=request.producer_id,
            producer_sequence=request.producer_sequence,
            cursor=append.cursor,
        )
        if proposal is None:
            self.appender.join(append, self._subject)
        else:
            self.appender.propose(append, proposal)

    # --- outcomes -------------------------------------------------------------------------

    def answer(self, append: Append, base_offset: int, timestamp: int) -> None:
        """Queue the answer to an append that is durable."""
        self._end(append)
        reply = ProduceReply(base_offset=base_offset, record_count=append.record_count, timestamp=timestamp)
        self._session.answer(append.stream, reply)

    def refuse(self, append: Append, error: BaseException) -> None:
        """Queue the refusal of an append."""
        self._end(append)
        self._session.refuse(append.stream, refusal_of(error, "a binary append", may_be_done=True))

    def _end(self, append: Append) -> None:
        del self._open[append.stream]
        append.is_wanted = False
        self.appender.note_answer(self, append.log)
        self._size -= len(append.payload) + APPEND_COST
        self._holding.shrink(self._size + self._coming)

    def name_leader(self, group: int, leader: str) -> None:
        """Tell the client of another leader of a log once, behind the answers: asking there saves a hop."""
        if leader != self._leaders_named.get(group, ""):
            self._leaders_named[group] = leader
            if leader and not self._session.is_closed:
                self._session.send(LeaderHint(name=leader), group=group)

    def flush(self) -> None:
        """Write the answers."""
        self._link.flush()

    # --- giving up ------------------------------------------------------------------------

    def forget(self, stream: int) -> None:
        """The client cancelled an append."""
        append = self._open.get(stream)
        if append is not None:
            self._end(append)
            append.forget()
            self._propose_checked()

    def close(self) -> None:
        """The client is gone."""
        for stream in list(self._open):
            self.forget(stream)
        self._holding.close()
        self._deadlines.stop()

    def _expire(self, now: float) -> float:
        for append in [append for append in self._open.values() if append.deadline <= now]:
            text = f"not durable within {append.seconds:g} s; it may still be appended"
            self.refuse(append, OutcomeUnknownError(text))
            append.forget()
        self._propose_checked()
        self.appender.flush()
        return min((append.deadline for append in self._open.values()), default=inf)
