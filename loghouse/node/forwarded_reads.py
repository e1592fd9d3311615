"""Passing reads of a log on to a node that has a copy, from one that has none.

    without a copy                         with one
    read -- ForwardRead -->            message_received -> read here, never pass on
    answer  <-- ForwardFrames or ForwardFailure --

A read changes nothing, so one that was not answered may be made again: every failure of the way is an
UnavailableError. What is on its way is bounded in bytes; reads beyond that wait here for their turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import LoghouseError, RequestError, ResourceExhaustedError, UnavailableError
from loghouse.limits import (
    FETCH_SIZE_DEFAULT,
    FETCH_SIZE_MAX,
    FORWARD_READ_SECONDS,
    FORWARD_WAIT_SECONDS,
    FORWARDED_READS_SERVED_SIZE_MAX,
    FORWARDED_READS_SIZE_MAX,
    FORWARDS_MAX,
    READER_SIZE_MIN,
    WAITERS_MAX,
)
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.node.reads import LogReads
from loghouse.protocol.failures import is_told_whole
from loghouse.protocol.forward_messages import ForwardFailure
from loghouse.protocol.message import Message, RequestIds
from loghouse.protocol.range_messages import ForwardRange, ForwardRangeReply
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.protocol.routing_messages import (
    ForwardBounds,
    ForwardBoundsReply,
    ForwardFindOffset,
    ForwardFindOffsetReply,
    ForwardFrames,
    ForwardRead,
    ForwardWait,
    ForwardWaitReply,
)
from loghouse.replica.api import Fetched, LogBounds
from loghouse.replica.driver import RaftDriver
from loghouse.runtime.deadlines import Deadlines

Request: TypeAlias = ForwardRead | ForwardRange | ForwardWait | ForwardBounds | ForwardFindOffset
REQUESTS: Final = (ForwardRead, ForwardRange, ForwardWait, ForwardBounds, ForwardFindOffset)
Reply: TypeAlias = (
    ForwardFrames | ForwardRangeReply | ForwardWaitReply | ForwardBoundsReply | ForwardFindOffsetReply
)
REPLIES: Final = (
    ForwardFrames,
    ForwardRangeReply,
    ForwardWaitReply,
    ForwardBoundsReply,
    ForwardFindOffsetReply,
)


class LogWithCopy(Protocol):
    """A log that is served here, as others read it."""

    @property
    def reads(self) -> LogReads | None:
        """Reads the copy on this node; None while there is none."""

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while this node is no member of the group."""

    def wait_for(self, offset: int) -> Deferred[None]:
        """See `LogLike.wait_for`; asked for only where there is a copy."""


@dataclass(slots=True)
class _Asked:
    """A request until its answer comes.

    `size` is what it takes of the budget, `seconds` how long its answer may take, `deadline` in the clock's.
    """

    name: str
    group: int
    request: Request
    reply: type[Reply]
    size: int
    seconds: float
    deadline: float
    done: Deferred[Any]
    is_sent: bool = False

    def is_of(self, name: str, group: int) -> bool:
        """Whether that node was asked this, in that group."""
        return self.is_sent and (self.name, self.group) == (name, group)


@dataclass(slots=True)
class _Wait:
    """A node that waits for a record of a log here, until `deadline`."""

    request_id: int
    log: LogWithCopy
    deadline: float
    waiting: Deferred[None]


class ReadForwarder:
    """Both ends of passing reads on, for all logs of one node.

    Args:
        ids: Gives each request its number.
        size_max, count_max: Bytes of answers that may be on their way here, and requests that may wait, for
            their turn or for an answer.
        served_size_max: Bytes of answers that are read here for others at a time.
    """

    logger = Logger()

    def __init__(
        self,
        send: Callable[[str, Message, int], bool],
        *,
        clock: IReactorTime,
        ids: RequestIds,
        size_max: int = FORWARDED_READS_SIZE_MAX,
        count_max: int = FORWARDS_MAX,
        served_size_max: int = FORWARDED_READS_SERVED_SIZE_MAX,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        # Sends a message of a group to the node of that name; False when it certainly will not get there.
        self._send = send
        self._clock = clock  # for deadlines; fixed
        self._metrics = metrics  # told of messages that were ignored or did not get there; fixed
        self._size_max = size_max  # fixed
        self._count_max = count_max  # fixed
        self._served_size_max = served_size_max  # fixed
        self._ids = ids  # fixed
        self._asked: dict[int, _Asked] = {}  # by request id, from the asking on; gone with the outcome
        self._asked_size = 0  # the sum of the sizes of those that were sent
        self._queue: deque[int] = deque()  # those that wait for their turn, some of them gone meanwhile
        self._is_sending_on = False  # `_send_on` runs
        self._deadlines = Deadlines(clock, self._expire)  # of `_asked`
        self._serving_size = 0  # bytes of the answers that are being read for others
        self._serving_count = 0  # requests of others under way, without those that wait
        # Others that wait for a record, by node and group; gone with the answer, and with the link.
        self._waits: dict[tuple[str, int], _Wait] = {}
        self._wait_deadlines = Deadlines(clock, self._expire_waits)  # of `_waits`
        self._is_stopped = False  # set once, by `stop`

    # --- asking -----------------------------------------------------------------------

    def read(self, name: str, group: int, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read entry frames of a group's log on the node of that name, as `LogLike.fetch`.

        Cancelling drops the answer, here and below. The frames are a view of what came.

        Raises (as failures):
            UnavailableError: The node cannot be asked, or did not answer.
            ResourceExhaustedError: Too many requests wait already.
            RequestError: What the node says.
        """
        size_max = min(size_max, FETCH_SIZE_MAX)
        request = ForwardRead(request_id=self._ids.take(), offset=offset, size_max=size_max)
        return self._ask(name, group, request, ForwardFrames, max(size_max, READER_SIZE_MIN))

    def read_range(self, name: str, group: int, wanted: RecordRange) -> Deferred[ReadPage]:
        """Read some of a range on the node of that name, as `LogLike.read_range`; fails as `read`."""
        request = ForwardRange.asking(self._ids.take(), wanted)
        return self._ask(name, group, request, ForwardRangeReply, _size_of(wanted))

    def wait(self, name: str, group: int, offset: int) -> Deferred[int]:
        """Fire once the record at `offset` is readable there, or after a while, with the end of what is.

        Of the waits of one group only the last one with a node is answered.
        """
        request = ForwardWait(request_id=self._ids.take(), offset=offset)
        seconds = FORWARD_WAIT_SECONDS + FORWARD_READ_SECONDS
        return self._ask(name, group, request, ForwardWaitReply, 0, seconds)

    def bounds(self, name: str, group: int) -> Deferred[LogBounds]:
        """Return the readable range; fails as `read`."""
        return self._ask(name, group, ForwardBounds(request_id=self._ids.take()), ForwardBoundsReply)

    def find_offset(self, name: str, group: int, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time, as `LogLike.find_offset`; fails as `read`."""
        request = ForwardFindOffset(request_id=self._ids.take(), timestamp=timestamp)
        return self._ask(name, group, request, ForwardFindOffsetReply)

    def _ask(
        self,
        name: str,
        group: int,
        request: Request,
        reply: type[Reply],
        size: int = 0,
        seconds: float = FORWARD_READ_SECONDS,
    ) -> Deferred[Any]:
        if self._is_stopped:
            return fail(UnavailableError("the node is stopping; try another node"))
        if len(self._asked) >= self._count_max:
            limit = f"{self._count_max} wait here already, for other nodes' answers; read slower"
            return fail(ResourceExhaustedError("forwarded reads", limit))
        request_id = request.request_id
        done: Deferred[Any] = Deferred(lambda _: self._drop(request_id))
        deadline = self._clock.seconds() + seconds
        asked = _Asked(name, group, request, reply, size, seconds, deadline, done)
        self._asked[request_id] = asked
        if size and (self._queue or not self._fits(size)):
            self._queue.append(request_id)
            self._deadlines.watch(deadline)
            self._send_on()
        else:
            self._send_now(asked)
        return done

    def _fits(self, size: int) -> bool:
        """Whether the answer to one more read may be on its way; to one at least, whatever its size."""
        return not self._asked_size or self._asked_size + size <= self._size_max

    def _send_now(self, asked: _Asked) -> None:
        # Before it is sent: the answer may come within `send`.
        asked.is_sent = True
        asked.deadline = self._clock.seconds() + asked.seconds
        self._asked_size += asked.size
        if not self._send(asked.name, asked.request, asked.group):
            self._give_up([asked.request.request_id], "cannot be reached from this node, or reads too slowly")
        elif asked.request.request_id in self._asked:
            self._deadlines.watch(asked.deadline)

    def _send_on(self) -> None:
        """Send what waits for its turn, as far as there is room."""
        if self._is_sending_on:
            return  # the loop below goes on with what became free
        self._is_sending_on = True
        while self._queue and not self._is_stopped:
            asked = self._asked.get(self._queue[0])
            if asked is not None and not self._fits(asked.size):
                break
            self._queue.popleft()
            if asked is not None:
                self._send_now(asked)
        self._is_sending_on = False

    def _forget(self, request_id: int) -> _Asked | None:
        asked = self._asked.pop(request_id, None)
        if asked is not None and asked.is_sent:
            self._asked_size -= asked.size
        return asked

    def _drop(self, request_id: int) -> None:
        """Its caller does not wait any more; an answer will be ignored."""
        self._forget(request_id)
        self._send_on()

    def _expire(self, now: float) -> float:
        """Give up on what is due."""
        due = [request_id for request_id, asked in self._asked.items() if asked.deadline <= now]
        self._give_up(due, "did not answer in time")
        return min((asked.deadline for asked in self._asked.values()), default=inf)

    def _give_up(self, request_ids: list[int], what: str) -> None:
        for request_id in request_ids:
            asked = self._forget(request_id)  # an errback before it may have cancelled this one
            if asked is not None:
                asked.done.errback(UnavailableError(f"{asked.name} {what}; try again"))
        self._send_on()

    def answered(self, source_name: str, group: int, message: Reply) -> None:
        """Take an answer from the node of that name."""
        asked = self._asked.get(message.request_id)
        if asked is None or not asked.is_of(source_name, group) or not isinstance(message, asked.reply):
            self._metrics.forwarded_message_ignored("answer that nobody waits for")
            return
        self._forget(message.request_id)
        match message:
            case ForwardFrames():
                asked.done.callback(Fetched(frames=message.frames, next_offset=message.next_offset))
            case ForwardRangeReply():
                asked.done.callback(
                    ReadPage(
                        frames=message.frames,
                        next_offset=message.next_offset,
                        lowest=message.lowest,
                        committed=message.committed,
                        is_confirmed=bool(message.is_confirmed),
                    )
                )
            case ForwardWaitReply():
                asked.done.callback(message.next_offset)
            case ForwardBoundsReply():
                asked.done.callback(LogBounds(lowest=message.lowest, next_offset=message.next_offset))
            case ForwardFindOffsetReply():
                asked.done.callback((message.offset, message.timestamp))
        self._send_on()

    def failed(self, source_name: str, group: int, message: ForwardFailure) -> bool:
        """Take the failure of a request; False when it is none of these, but maybe of another kind."""
        asked = self._asked.get(message.request_id)
        if asked is None or not asked.is_of(source_name, group):
            return False
        self._forget(message.request_id)
        error = message.error()
        if not is_told_whole(error):  # of a later version; a read may be made again whatever it was
            error = UnavailableError(f"{asked.name}: {error}")
        asked.done.errback(error)
        self._send_on()
        return True

    # --- serving --------------------------------------------------------------------------

    def asked_for(self, source_name: str, group: int, request: Request, log: LogWithCopy | None) -> None:
        """Take a request from the node of that name, which is a member of the cluster.

        Args:
            log: The log of that group, if it is served here.
        """
        reads = log.reads if log is not None else None
        if log is None or reads is None:
            problem = f"the node that was asked has no copy of the log of group {group}; try another one"
            self._refuse(source_name, group, request.request_id, UnavailableError(problem))
            return
        match request:
            case ForwardWait():
                self._wait(source_name, group, request, log)
            case ForwardRead(offset=offset):
                size_max = min(request.size_max, FETCH_SIZE_MAX)
                size = max(size_max, READER_SIZE_MIN)
                self._serve(source_name, group, request, lambda: reads.fetch(offset, size_max), _frames, size)
            case ForwardRange():
                self._serve_range(source_name, group, request, reads)
            case ForwardBounds():
                self._serve(source_name, group, request, reads.bounds, _bounds)
            case ForwardFindOffset(timestamp=timestamp):
                self._serve(source_name, group, request, lambda: reads.find_offset(timestamp), _found)

    def _serve(
        self,
        source_name: str,
        group: int,
        request: Request,
        work: Callable[[], Deferred[Any]],
        reply: Callable[[int, Any], Message],
        size: int = 0,
    ) -> None:
        request_id = request.request_id
        is_full = self._serving_count > 0 and self._serving_size + size > self._served_size_max
        if is_full or self._serving_count >= self._count_max:
            limit = f"{self._served_size_max} bytes or {self._count_max} of other nodes are under way here"
            error = ResourceExhaustedError("forwarded reads", f"{limit}; read slower, or elsewhere")
            self._refuse(source_name, group, request_id, error)
            return
        self._serving_count += 1
        self._serving_size += size

        def finish(outcome: Any) -> None:
            self._serving_count -= 1
            self._serving_size -= size
            if isinstance(outcome, Failure):
                self._refuse(source_name, group, request_id, self._told(outcome, source_name))
            else:
                self._reply(source_name, reply(request_id, outcome), group)

        self._logged(maybeDeferred(work).addBoth(finish), source_name)

    def _serve_range(self, source_name: str, group: int, request: ForwardRange, reads: LogReads) -> None:
        try:
            wanted = request.wanted()
        except RequestError as error:
            self._refuse(source_name, group, request.request_id, error)
            return
        size = _size_of(wanted)
        self._serve(source_name, group, request, lambda: reads.read_range(wanted), _page, size)

    def _wait(self, source_name: str, group: int, request: ForwardWait, log: LogWithCopy) -> None:
        key = source_name, group
        self._end_wait(key)
        if len(self._waits) >= WAITERS_MAX:
            error = ResourceExhaustedError(
                "followers", f"{WAITERS_MAX} logs are followed by other nodes here"
            )
            self._refuse(source_name, group, request.request_id, error)
            return
        deadline = self._clock.seconds() + FORWARD_WAIT_SECONDS
        waiting = log.wait_for(request.offset)
        wait = self._waits[key] = _Wait(request.request_id, log, deadline, waiting)
        self._logged(waiting.addBoth(partial(self._waited, key, wait)), source_name)
        if self._waits.get(key) is wait:
            self._wait_deadlines.watch(deadline)

    def _waited(self, key: tuple[str, int], wait: _Wait, outcome: object) -> None:
        if self._waits.get(key) is not wait:
            return  # ended by `_end_wait`, which nobody is to be told of
        del self._waits[key]
        source_name, group = key
        if isinstance(outcome, Failure):
            self._refuse(source_name, group, wait.request_id, self._told(outcome, source_name))
        else:
            self._tell_end(key, wait)

    def _tell_end(self, key: tuple[str, int], wait: _Wait) -> None:
        driver = wait.log.driver
        end = driver.readable_offset if driver is not None else 0
        reply = ForwardWaitReply(request_id=wait.request_id, next_offset=end)
        self._reply(key[0], reply, key[1])

    def _end_wait(self, key: tuple[str, int]) -> _Wait | None:
        wait = self._waits.pop(key, None)
        if wait is not None:
            wait.waiting.cancel()
        return wait

    def _expire_waits(self, now: float) -> float:
        """Answer those that have waited for long: the other node sees that this one is there."""
        for key in [key for key, wait in self._waits.items() if wait.deadline <= now]:
            wait = self._end_wait(key)
            if wait is not None:
                self._tell_end(key, wait)
        return min((wait.deadline for wait in self._waits.values()), default=inf)

    def _logged(self, work: Deferred[None], source_name: str) -> None:
        work.addErrback(lambda failure: self.logger.failure("answering {node}", failure, node=source_name))

    def _told(self, failure: Failure, source_name: str) -> RequestError:
        """Return what whoever asked is told of a failure here."""
        error = failure.value
        if is_told_whole(error):
            assert isinstance(error, RequestError)
            return error
        self.logger.failure("reading for {node}", failure, node=source_name)
        return UnavailableError("the node that was asked failed while it read; its diagnostics say why")

    def _refuse(self, source_name: str, group: int, request_id: int, error: LoghouseError) -> None:
        self._reply(source_name, ForwardFailure.answering(request_id, error), group)

    def _reply(self, source_name: str, message: Message, group: int) -> None:
        if self._send(source_name, message, group):
            return
        self._metrics.forwarded_answer_dropped()
        if isinstance(message, ForwardFrames | ForwardRangeReply):
            # Too much waits for that node; a few bytes may still fit, and spare it the wait for its deadline.
            limit = "the link to the node that asked has no room for the answer now; read slower"
            self._refuse(
                source_name, group, message.request_id, ResourceExhaustedError("forwarded reads", limit)
            )

    # --- life -----------------------------------------------------------------------------

    def link_lost(self, node_name: str) -> None:
        """A link with that node ended: answers to what was sent it will not come."""
        for key in [key for key in self._waits if key[0] == node_name]:
            self._end_wait(key)
        lost = [id_ for id_, asked in self._asked.items() if asked.is_sent and asked.name == node_name]
        self._give_up(lost, "was lost before it answered")

    def stop(self) -> None:
        """Ask nothing more; who waits is told so. Requests of others are answered on."""
        self._is_stopped = True
        self._deadlines.stop()
        self._queue.clear()
        self._give_up(list(self._asked), "had not answered when this node stopped")
        self._wait_deadlines.stop()
        for key in list(self._waits):
            self._end_wait(key)


def _frames(request_id: int, fetched: Fetched) -> Message:
    return ForwardFrames(request_id=request_id, next_offset=fetched.next_offset, frames=fetched.frames)


def _page(request_id: int, page: ReadPage) -> Message:
    return ForwardRangeReply(
        request_id=request_id,
        next_offset=page.next_offset,
        lowest=page.lowest,
        committed=page.committed,
        is_confirmed=page.is_confirmed,
        frames=page.frames,
    )


def _size_of(wanted: RecordRange) -> int:
    """Return for how many bytes of an answer there must be room."""
    return max(min(wanted.size_max or FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX), READER_SIZE_MIN)


def _bounds(request_id: int, bounds: LogBounds) -> Message:
    return ForwardBoundsReply(request_id=request_id, lowest=bounds.lowest, next_offset=bounds.next_offset)


def _found(request_id: int, found: tuple[int, int]) -> Message:
    return ForwardFindOffsetReply(request_id=request_id, offset=found[0], timestamp=found[1])
