"""Requests open on one connection, seen from either end. Pure bookkeeping, bounded.

The acceptor bounds bytes, not a count: when requests that will be answered hold too many, it takes no more
until some are answered (`ServedStreams.is_full`). A Follow ends when its client says so, and does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loghouse.errors import InvalidRequestError, ProtocolError, RequestError, ResourceExhaustedError
from loghouse.limits import (
    APPEND_COST,
    FOLLOW_CREDIT_MAX,
    FOLLOWS_PER_CONNECTION_MAX,
    READ_COST,
    REQUESTS_PER_CONNECTION_MAX,
    REQUESTS_SIZE_MAX,
)
from loghouse.protocol.client_messages import Failure, Follow, Produce
from loghouse.protocol.cursor_messages import REPLIES, ProduceWithCursor
from loghouse.protocol.message import Message

STREAM_MAX: Final = 2**32 - 1


@dataclass(slots=True)
class ServedStream:
    """A request that waits for its answer here, and the bytes it counts.

    `credit` is what may still be sent, for Follow.
    """

    request: type[Message]
    cost: int
    credit: int = 0


class ServedStreams:
    """The acceptor's side: what the dialler asked for and did not get yet."""

    def __init__(self) -> None:
        self.open: dict[int, ServedStream] = {}
        self._size = 0
        self.count_max = STREAM_MAX  # of those that will be answered; less by a quota
        self._follow_count = 0
        self._last = 0

    @property
    def count(self) -> int:
        """How many are open that will be answered."""
        return len(self.open) - self._follow_count

    @property
    def is_full(self) -> bool:
        """Whether no request is to be taken before some are answered."""
        return self._size > REQUESTS_SIZE_MAX or len(self.open) - self._follow_count >= self.count_max

    def begin(self, stream: int, request: Message) -> None:
        """Note a new request.

        Raises:
            ProtocolError: The stream's number is not larger than all before.
            RequestError: This request is refused; the connection goes on.
        """
        self.pass_over(stream)
        if isinstance(request, Produce):
            cost, credit = APPEND_COST + len(request.batch), 0
        elif isinstance(request, ProduceWithCursor):
            cost, credit = APPEND_COST + len(request.produce), 0
        elif isinstance(request, Follow):
            cost, credit = 0, request.credit
            if credit > FOLLOW_CREDIT_MAX:
                raise _too_much_credit(credit)
            if self._follow_count >= FOLLOWS_PER_CONNECTION_MAX:
                limit = f"at most {FOLLOWS_PER_CONNECTION_MAX} open on one connection"
                raise ResourceExhaustedError("follows", f"{limit}; cancel one, or open another connection")
            self._follow_count += 1
        else:
            cost, credit = READ_COST, 0
        self.open[stream] = ServedStream(type(request), cost, credit)
        self._size += cost

    def pass_over(self, stream: int) -> None:
        """Note the number of a new request, which may be refused unread.

        Raises:
            ProtocolError: The stream's number is not larger than all before.
        """
        if stream <= self._last:
            raise ProtocolError(f"stream {stream} opened behind stream {self._last}; numbers only grow")
        self._last = stream

    def add_credit(self, stream: int, credit: int) -> bool:
        """Let a followed stream send more; False when the stream is over (the two may cross).

        Raises:
            ProtocolError: The stream was never opened, or is not a Follow.
            RequestError: The credit grew beyond its bound; the stream is over.
        """
        served = self._find(stream)
        if served is None:
            return False
        if served.request is not Follow:
            raise ProtocolError(f"credit for stream {stream}, which is a {served.request.__name__}")
        served.credit += credit
        if served.credit > FOLLOW_CREDIT_MAX:
            raise _too_much_credit(served.credit)
        return True

    def cancel(self, stream: int) -> bool:
        """Forget a stream; False when it was over already.

        Raises:
            ProtocolError: The stream was never opened.
        """
        if self._find(stream) is None:
            return False
        self.end(stream)
        return True

    def end(self, stream: int) -> bool:
        """Forget a stream; False when it is not open."""
        served = self.open.pop(stream, None)
        if served is None:
            return False
        self._size -= served.cost
        self._follow_count -= served.request is Follow
        return True

    def answer(self, stream: int, reply: Message, *, credit_used: int = 0) -> None:
        """Note an answer: it ends the stream, unless it is a Follow's."""
        served = self.open[stream]
        if isinstance(reply, Failure):
            self.end(stream)
            return
        assert type(reply) is REPLIES[served.request], f"{type(reply).__name__} to {served.request.__name__}"
        if served.request is Follow:
            # An entry larger than the credit left takes it below zero, once; nothing is sent until it is
            # above again.
            assert served.credit > 0
            served.credit -= credit_used
        else:
            self.end(stream)

    def _find(self, stream: int) -> ServedStream | None:
        if not 0 < stream <= self._last:
            raise ProtocolError(f"stream {stream} was never opened")
        return self.open.get(stream)


class AskedStreams:
    """The dialler's side: what it asked for and did not get yet."""

    def __init__(self, open_max: int = REQUESTS_PER_CONNECTION_MAX) -> None:
        self.open: dict[int, type[Message]] = {}
        self._open_max = open_max
        self._last = 0

    @property
    def is_used_up(self) -> bool:
        """Whether no stream number is left: a new connection is needed."""
        return self._last == STREAM_MAX

    @property
    def following(self) -> int:
        """The number of the next stream."""
        return self._last + 1

    def begin(self, request: Message) -> int:
        """Return the number of a new stream.

        Raises:
            ResourceExhaustedError: Too many are open.
        """
        if len(self.open) >= self._open_max or self.is_used_up:
            raise ResourceExhaustedError("requests", f"at most {self._open_max} open on one connection")
        self._last += 1
        self.open[self._last] = type(request)
        return self._last

    def end(self, stream: int) -> bool:
        """Forget a stream; False when it was over already."""
        return self.open.pop(stream, None) is not None

    def accept(self, stream: int, reply: Message) -> bool:
        """Note an answer; False when its stream was cancelled and it is to be dropped.

        Raises:
            ProtocolError: Nobody asked, or for something else.
        """
        if not 0 < stream <= self._last:
            raise ProtocolError(f"an answer on stream {stream}, which was never opened")
        request = self.open.get(stream)
        if request is None:
            return False
        if isinstance(reply, Failure):
            del self.open[stream]
        elif type(reply) is not REPLIES[request]:
            raise ProtocolError(f"{type(reply).__name__} in answer to {request.__name__} on stream {stream}")
        elif request is not Follow:
            del self.open[stream]
        return True


def _too_much_credit(credit: int) -> RequestError:
    return InvalidRequestError("credit", f"{credit} bytes; at most {FOLLOW_CREDIT_MAX} are allowed")
