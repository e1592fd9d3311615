"""Requests open on one connection, seen from either end. Pure bookkeeping, bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loghouse.errors import InvalidRequestError, ProtocolError, RequestError, ResourceExhaustedError
from loghouse.limits import FOLLOW_CREDIT_MAX, REQUESTS_PER_CONNECTION_MAX
from loghouse.protocol.client_messages import REPLIES, Failure, Follow
from loghouse.protocol.message import Message

STREAM_MAX: Final = 2**32 - 1


@dataclass(slots=True)
class ServedStream:
    """A request that waits for its answer here. `credit` is what may still be sent, for Follow."""

    request: type[Message]
    credit: int = 0


class ServedStreams:
    """The acceptor's side: what the dialler asked for and did not get yet."""

    def __init__(self, open_max: int = REQUESTS_PER_CONNECTION_MAX) -> None:
        self.open: dict[int, ServedStream] = {}
        self._open_max = open_max
        self._last = 0

    def begin(self, stream: int, request: Message) -> None:
        """Note a new request.

        Raises:
            ProtocolError: The stream's number is not larger than all before.
            RequestError: This request is refused; the connection goes on.
        """
        self.pass_over(stream)
        if len(self.open) >= self._open_max:
            raise ResourceExhaustedError("requests", f"at most {self._open_max} open on one connection")
        credit = request.credit if isinstance(request, Follow) else 0
        if credit > FOLLOW_CREDIT_MAX:
            raise _too_much_credit(credit)
        self.open[stream] = ServedStream(type(request), credit)

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
        del self.open[stream]
        return True

    def answer(self, stream: int, reply: Message, *, credit_used: int = 0) -> None:
        """Note an answer: it ends the stream, unless it is a Follow's."""
        served = self.open[stream]
        if isinstance(reply, Failure):
            del self.open[stream]
            return
        assert type(reply) is REPLIES[served.request], f"{type(reply).__name__} to {served.request.__name__}"
        if served.request is Follow:
            # An entry larger than the credit left takes it below zero, once; nothing is sent until it is
            # above again.
            assert served.credit > 0
            served.credit -= credit_used
        else:
            del self.open[stream]

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
