"""One connection, sans-IO: received bytes in, events out, bytes to send.

    dialler                          acceptor
      GREETING  ---- Hello ---->     GREETING
         |      <--- Hello -----        |         (or LinkError, then closed)
        UP     <== frames, both ==>     UP
         |      ---- Goodbye -->        |         either side, or none
      CLOSING                        CLOSING      open requests are finished
         |                              |
      CLOSED                         CLOSED       connection gone, or a rule broken

The driver feeds `receive`, writes `bytes_to_send()`, and closes the transport when `state` is CLOSED. It
owns all timers: the session knows no time. See `docs/wire_format.md`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final, TypeAlias

from loghouse.errors import LoghouseError, NotSupportedError, ProtocolError, RequestError, UnavailableError
from loghouse.protocol.client_messages import (
    Cancel,
    Credit,
    Describe,
    DescribeReply,
    Failure,
    FollowFrames,
    LeaderHint,
)
from loghouse.protocol.codec import (
    CLIENT_KINDS,
    MESSAGES,
    OPTIONAL_KIND,
    RAFT_KINDS,
    body_size_max,
    decode,
    encode,
    encode_envelope,
)
from loghouse.protocol.entry import Buffer
from loghouse.protocol.framing import Frame, FrameBuffer
from loghouse.protocol.greeting import Agreement, Certified, agree
from loghouse.protocol.link_messages import Goodbye, Hello, LinkError, LinkRole, Ping, Pong
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.senders import ACCEPTOR_SENDS, CLIENT_SENDS, NODE_SENDS
from loghouse.protocol.streams import AskedStreams, ServedStreams
from loghouse.protocol.trace_messages import RequestTrace


class LinkState(Enum):
    """Where a connection is in its life."""

    GREETING = "greeting"
    UP = "up"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """Both Hellos are here and fit."""

    hello: Hello
    agreement: Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A node's message other than Raft's: no request and no answer."""

    message: Message
    group: int
    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftFrameReceived:
    """A node's Raft message, not decoded: `codec.decode_envelope` does that with the group's seed."""

    frame: Frame


@dataclass(slots=True)
class RequestReceived:
    """The dialler asks; answer with `answer` or `refuse`."""

    request: Message
    group: int
    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditReceived:
    """A followed stream may send more."""

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReceived:
    """The dialler does not want this stream's answer any more."""

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReceived:
    """The request that the dialler sends next on this stream belongs to a trace."""

    stream: int
    trace: RequestTrace


@dataclass(slots=True)
class Answered:
    """The answer to a request; a Follow gets many."""

    stream: int
    reply: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The request failed; its stream is over."""

    stream: int
    error: LoghouseError


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderNamed:
    """The node of that name leads a group, says the one that this client appends through."""

    name: str
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodbyeReceived:
    """The peer takes no new requests and closes when the open ones are done."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFailed:
    """The peer says that this side broke a rule, and closes."""

    error: LoghouseError


Event: TypeAlias = (
    LinkUp
    | MessageReceived
    | RaftFrameReceived
    | RequestReceived
    | CreditReceived
    | CancelReceived
    | TraceReceived
    | Answered
    | Refused
    | LeaderNamed
    | GoodbyeReceived
    | LinkFailed
)

CheckUnread: TypeAlias = Callable[[type[Message], int, int], None]
"""Raises RequestError for a request of this class, group and size that is not to be read."""


_LINK: Final = frozenset({Hello.KIND, Ping.KIND, Pong.KIND, LinkError.KIND, Goodbye.KIND})
_ABOUT_STREAMS: Final = (Credit, Cancel, RequestTrace)
_ABOUT_STREAMS_KINDS: Final = frozenset(message.KIND for message in _ABOUT_STREAMS)
_DESCRIBING: Final = frozenset({Describe.KIND, Cancel.KIND})
_DESCRIBED: Final = frozenset({DescribeReply.KIND, Failure.KIND})


@cache
def _sizes(kinds: frozenset[int]) -> Mapping[int, int]:
    """Return how many bytes a body of each kind may have; one mapping for all sessions of these kinds."""
    return {kind: body_size_max(kind) for kind in kinds}


class Session:
    """One end of a connection."""

    def __init__(
        self,
        hello: Hello,
        *,
        is_dialler: bool,
        certified: Certified | None = None,
        expected_node: str = "",
        admit: Callable[[Hello], None] = lambda hello: None,
    ) -> None:
        self.state = LinkState.GREETING  # GREETING, UP, CLOSING, CLOSED: only onward
        self.peer: Hello | None = None  # who the other says it is; None until its Hello fits
        self.agreement: Agreement | None = None  # what the two Hellos agree on; None until then
        self.frame_count = 0  # frames received, those refused unread too
        self.served = ServedStreams()  # requests of the other side that wait for their answers
        self.asked = AskedStreams()  # requests of this side that wait for their answers
        self._hello = hello  # what this side says of itself; fixed
        self._is_dialler = is_dialler  # whether this side opened the connection; fixed
        self._certified = certified  # what the other's certificate says; fixed, None without TLS
        self._expected_node = expected_node  # the node that was dialled and must answer; fixed, empty for any
        # Called with the other's Hello once it fits; raises IdentityError to refuse it; fixed.
        self._admit = admit
        # The largest body of each kind that may come: at first a Hello's, then what `_kinds_allowed` says.
        self._allowed = _sizes(frozenset({Hello.KIND, LinkError.KIND} if is_dialler else {Hello.KIND}))
        # Cuts frames out of what is received. The driver bounds how long one may take to become whole.
        self.frames = FrameBuffer(self._body_size_max)
        # Judges requests before their bodies are here; None until `check_before_body`.
        self._check_unread: CheckUnread | None = None
        # What came behind requests that must be answered first: frames, and bytes that are not looked at yet.
        self._held: Iterator[Frame] | None = None
        self._unread: deque[bytes] = deque()  # what came behind those frames
        self._outgoing: list[Buffer] = []  # frames that `bytes_to_send` is to return
        self._is_closing_here = False  # whether this side said Goodbye
        if is_dialler:
            self._send(hello)

    # --- what the driver sees ---------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether nothing more may come or go but what `bytes_to_send` still holds."""
        return self.state is LinkState.CLOSED

    @property
    def is_idle(self) -> bool:
        """Whether no request is open, either way."""
        return not self.served.open and not self.asked.open

    def bytes_to_send(self) -> list[Buffer]:
        """Return what is to be written now, in order, and forget it."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def receive(self, data: bytes) -> list[Event]:
        """Take received bytes; return what they mean, in order.

        Raises:
            ProtocolError: The peer broke a rule. A LinkError is among the bytes to send, the state is
                CLOSED, and the events of this call are lost: no part of what such a peer says counts.
        """
        if self._held is not None:
            self._unread.append(data)
            return []
        return self._events_of(self.frames.feed(data)) if self.state is not LinkState.CLOSED else []

    def filled(self, size: int) -> list[Event]:
        """As `receive`, with so many bytes that were put into `frames.room()`: they are not copied again."""
        return self._events_of(self.frames.fill(size)) if self.state is not LinkState.CLOSED else []

    def _events_of(self, frames: Iterable[Frame]) -> list[Event]:
        events: list[Event] = []
        if not frames:
            return events
        frames = iter(frames)
        try:
            for frame in frames:
                self.frame_count += 1
                event = self._receive_frame(frame)
                if event is not None:
                    events.append(event)
                if self.state is LinkState.CLOSED:
                    break
                if self.served.is_full:
                    self._held = frames
                    break
        except ProtocolError as error:
            self.fail(error)
            raise
        self._close_when_done()
        return events

    @property
    def is_held(self) -> bool:
        """Whether what comes waits until requests before it are answered: nothing more is to be read."""
        return self._held is not None

    def go_on(self) -> list[Event]:
        """Return what that means, as far as there is room for it now. Raises as `receive`."""
        events: list[Event] = []
        while self._held is not None and not self.served.is_full and self.state is not LinkState.CLOSED:
            frames, self._held = self._held, None
            events += self._events_of(frames)
            if self._held is None and self._unread:
                self._held = iter(self.frames.feed(self._unread.popleft()))
        return events

    def fail(self, error: ProtocolError) -> None:
        """Tell the peer why, and be closed. For rules that the driver watches: deadlines, identities."""
        if self.state is not LinkState.CLOSED:
            self._send(LinkError.of(error))
            self.state = LinkState.CLOSED

    def send(self, message: Message, *, group: int = 0, stream: int = 0) -> None:
        """Queue a message that is neither a request nor an answer."""
        assert self.state in (LinkState.UP, LinkState.CLOSING), self.state
        self._send(message, group=group, stream=stream)

    def send_raft(self, envelope: Envelope) -> None:
        """Queue a Raft message."""
        assert self.state in (LinkState.UP, LinkState.CLOSING), self.state
        self._outgoing += encode_envelope(envelope)

    def ping(self, token: int) -> None:
        """Ask the peer for a sign of life."""
        self.send(Ping(token=token))

    def say_goodbye(self, reason: str = "") -> None:
        """Open nothing new; the connection is CLOSED when the open requests are done."""
        if self.state is LinkState.GREETING:
            self.state = LinkState.CLOSED
        elif self.state in (LinkState.UP, LinkState.CLOSING) and not self._is_closing_here:
            self._is_closing_here = True
            self._send(Goodbye(reason=reason))
            self.state = LinkState.CLOSING
            self._close_when_done()

    def check_before_body(self, check: CheckUnread) -> None:
        """Ask this about a request whose header is here and whose body is not; a refusal drops the body."""
        self._check_unread = check
        self.frames.ask(self._takes_body)

    # --- the dialler's requests -------------------------------------------------

    def trace_next(self, trace: RequestTrace) -> None:
        """Queue the trace of the request that comes next."""
        assert self.state is LinkState.UP, self.state
        self._send(trace, stream=self.asked.following)

    def request(self, request: Message, *, group: int = 1) -> int:
        """Queue a request and return its stream.

        Raises:
            UnavailableError: The connection is not up, or the peer said goodbye.
            ResourceExhaustedError: Too many are open.
        """
        if self.state is not LinkState.UP or not self._is_dialler:
            raise UnavailableError(f"the connection is {self.state.value}; nothing was sent")
        stream = self.asked.begin(request)
        self._send(request, group=group, stream=stream)
        return stream

    def cancel(self, stream: int) -> None:
        """Give up a request. What it asked for may still happen."""
        if self.asked.end(stream) and self.state is not LinkState.CLOSED:
            self._send(Cancel(), stream=stream)
            self._close_when_done()

    def add_credit(self, stream: int, credit: int) -> None:
        """Let the peer send `credit` bytes more on a followed stream."""
        if stream in self.asked.open and self.state is not LinkState.CLOSED:
            self._send(Credit(credit=credit), stream=stream)

    # --- the acceptor's answers --------------------------------------------------

    def answer(self, stream: int, reply: Message) -> None:
        """Queue the answer to a request; nothing when the stream is over already."""
        if stream not in self.served.open or self.state is LinkState.CLOSED:
            return
        used = len(reply.frames) if isinstance(reply, FollowFrames) else 0
        self.served.answer(stream, reply, credit_used=used)
        self._send(reply, stream=stream)
        self._close_when_done()

    def refuse(self, stream: int, error: RequestError) -> None:
        """Queue a refusal; the stream is over."""
        self.answer(stream, Failure.of(error))

    # --- frames ------------------------------------------------------------------

    def _body_size_max(self, kind: int) -> int:
        size_max = self._allowed.get(kind)
        if size_max is not None:
            return size_max
        if self.state is LinkState.GREETING:
            raise ProtocolError(f"frame kind {kind:#06x} before Hello")
        if kind in MESSAGES or kind in RAFT_KINDS:
            raise ProtocolError(f"frame kind {kind:#06x} may not come on this connection")
        return body_size_max(kind)

    def _takes_body(self, kind: int, size: int, group: int, stream: int) -> bool:
        if kind not in CLIENT_SENDS or kind not in CLIENT_KINDS or kind in _ABOUT_STREAMS_KINDS:
            return True
        assert self._check_unread is not None
        try:
            self._check_unread(MESSAGES[kind], group, size)
        except RequestError as error:
            self.frame_count += 1
            self.served.pass_over(stream)
            self._send(Failure.of(error), stream=stream)
            return False
        return True

    def _receive_frame(self, frame: Frame) -> Event | None:
        kind = frame.kind
        if kind in RAFT_KINDS:
            return RaftFrameReceived(frame=frame)
        message = decode(frame)
        if message is None:
            self._receive_unknown(frame)
            return None
        if kind in CLIENT_KINDS:
            if self._is_dialler:
                return self._receive_answer(message, frame)
            return self._receive_request(message, frame)
        match message:
            case Hello():
                return self._receive_hello(message)
            case Ping():
                self._send(Pong(token=message.token))
                return None
            case Pong():
                return None  # that it came is what it says
            case Goodbye():
                self.state = LinkState.CLOSING
                return GoodbyeReceived(reason=message.reason)
            case LinkError():
                self.state = LinkState.CLOSED
                return LinkFailed(error=message.error())
        return MessageReceived(message=message, group=frame.group, stream=frame.stream)

    def _receive_unknown(self, frame: Frame) -> None:
        if frame.kind & OPTIONAL_KIND:
            return
        if frame.kind in CLIENT_KINDS and frame.stream and not self._is_dialler:
            error = NotSupportedError(f"request kind {frame.kind:#06x} is not known to this node's version")
            self._send(Failure.of(error), stream=frame.stream)
            return
        raise ProtocolError(f"frame kind {frame.kind:#06x} is not known to this version")

    def _receive_hello(self, hello: Hello) -> LinkUp:
        if self.state is not LinkState.GREETING:
            raise ProtocolError("a second Hello")
        agreement = agree(
            self._hello,
            hello,
            is_dialler=self._is_dialler,
            certified=self._certified,
            expected_node=self._expected_node,
        )
        self._admit(hello)
        self.peer, self.agreement = hello, agreement
        if not self._is_dialler:
            self._send(self._hello)
        self._allowed = _sizes(_LINK | self._kinds_allowed(hello, agreement))
        self.state = LinkState.UP
        return LinkUp(hello=hello, agreement=agreement)

    def _kinds_allowed(self, hello: Hello, agreement: Agreement) -> frozenset[int]:
        if self._is_dialler:
            return ACCEPTOR_SENDS if self._hello.role == LinkRole.CLIENT else _DESCRIBED
        if hello.role == LinkRole.CLIENT:
            return CLIENT_SENDS
        return _DESCRIBING if agreement.is_restricted else NODE_SENDS

    def _receive_request(self, message: Message, frame: Frame) -> Event | None:
        try:
            if isinstance(message, _ABOUT_STREAMS):
                return self._receive_about(message, frame.stream)
            self.served.begin(frame.stream, message)
        except RequestError as error:
            was_open = self.served.end(frame.stream)
            self._send(Failure.of(error), stream=frame.stream)
            return CancelReceived(stream=frame.stream) if was_open else None
        if self.state is LinkState.CLOSING:
            self.refuse(
                frame.stream, UnavailableError("this node is closing the connection; try another one")
            )
            return None
        return RequestReceived(message, frame.group, frame.stream)

    def _receive_about(self, message: Credit | Cancel | RequestTrace, stream: int) -> Event | None:
        """Take what the dialler says of a stream, and that is no request."""
        match message:
            case Credit():
                return (
                    CreditReceived(stream=stream) if self.served.add_credit(stream, message.credit) else None
                )
            case Cancel():
                return CancelReceived(stream=stream) if self.served.cancel(stream) else None
            case RequestTrace():
                return TraceReceived(stream=stream, trace=message)

    def _receive_answer(self, message: Message, frame: Frame) -> Event | None:
        if isinstance(message, LeaderHint):
            return LeaderNamed(name=message.name, group=frame.group)
        stream = frame.stream
        if not self.asked.accept(stream, message):
            return None
        if isinstance(message, Failure):
            return Refused(stream=stream, error=message.error())
        return Answered(stream, message)

    def _send(self, message: Message, *, group: int = 0, stream: int = 0) -> None:
        self._outgoing += encode(message, group=group, stream=stream)

    def _close_when_done(self) -> None:
        if self.state is LinkState.CLOSING and self.is_idle and self._held is None:
            self.state = LinkState.CLOSED
