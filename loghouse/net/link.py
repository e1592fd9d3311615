"""A session on a transport: bytes in and out, deadlines, back-pressure. `Session` has the protocol's rules.

    accepted or dialled --greet--> greeting --LinkUp--> up --> closing --> lost

One `LinkWatch` checks the deadlines of all links once a second, so thousands of idle links cost no timers. A
link does not read while its peer does not read, so the transport's buffer bounds what a peer can make this
node answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from loghouse.auth.identity import Identity
from loghouse.errors import (
    IdentityError,
    LoghouseError,
    PeerTimeoutError,
    ProtocolError,
    VersionError,
)
from loghouse.limits import (
    FRAME_BYTES_PER_SECOND_MIN,
    FRAME_SECONDS,
    GREETING_SECONDS,
    MIB,
    SILENCE_SECONDS,
    SILENCE_SECONDS_MAX,
    STUCK_SECONDS_MAX,
)
from loghouse.net.tls import ALPN, ShownCertificate, TlsContexts
from loghouse.protocol.entry import Buffer
from loghouse.protocol.greeting import Certified
from loghouse.protocol.link_messages import LinkRole
from loghouse.protocol.session import Event, LinkFailed, LinkState, Session
from loghouse.runtime.bulk_tls import write_at_once
from loghouse.runtime.sockets import use_large_buffers

LASTING: Final = (IdentityError, VersionError)  # until somebody changes a file or a node
WATCH_SECONDS: Final = 1.0
WRITE_AT_ONCE_MAX: Final = 1 * MIB  # a turn: encrypting and sending it takes 2 ms, 8 MiB take 15 ms
CLOSE_SECONDS_MAX: Final = 5.0  # how long a peer may take to close after us


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimes:
    """Deadlines of a link, in seconds; `limits.py` says why."""

    greeting: float = GREETING_SECONDS
    frame: float = FRAME_SECONDS
    silence: float = SILENCE_SECONDS
    silence_max: float = SILENCE_SECONDS_MAX
    stuck_max: float = STUCK_SECONDS_MAX
    close_max: float = CLOSE_SECONDS_MAX


class LinkWatch:
    """Checks the deadlines of every link, once a second while there are links."""

    logger = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock  # the reactor's; fixed
        self._links: dict[Link, None] = {}  # those that are connected, the oldest first
        # Who waits for the links to end: whether those of nodes count, and what to fire.
        self._waiting: list[tuple[bool, Deferred[None]]] = []
        self._loop = LoopingCall(self._look)  # runs while `_links` has any
        self._loop.clock = clock

    def add(self, link: Link) -> None:
        """Begin to check a link."""
        self._links[link] = None
        if not self._loop.running:
            done = self._loop.start(WATCH_SECONDS, now=False)
            done.addErrback(lambda failure: self.logger.failure("watching links", failure))

    def remove(self, link: Link) -> None:
        """Stop checking a link: its connection is gone."""
        self._links.pop(link, None)
        if not self._links and self._loop.running:
            self._loop.stop()
        due = [(nodes_too, done) for nodes_too, done in self._waiting if not self._has_links(nodes_too)]
        self._waiting = [one for one in self._waiting if one not in due]
        for _, done in due:
            done.callback(None)

    def say_goodbye(self, reason: str, *, nodes_too: bool = True) -> None:
        """End every link once its open requests are answered.

        Args:
            nodes_too: False leaves the links of other nodes alone.
        """
        for link in list(self._links):
            if nodes_too or not link.is_of_node:
                link.say_goodbye(reason)

    def when_empty(self, *, nodes_too: bool = True) -> Deferred[None]:
        """Fire when no link is left; at once if there is none.

        Args:
            nodes_too: False does not wait for the links of other nodes.
        """
        empty: Deferred[None] = Deferred(self._forget)
        if self._has_links(nodes_too):
            self._waiting.append((nodes_too, empty))
        else:
            empty.callback(None)
        return empty

    def _has_links(self, nodes_too: bool) -> bool:
        return any(nodes_too or not link.is_of_node for link in self._links)

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiting = [one for one in self._waiting if one[1] is not waiting]

    def _look(self) -> None:
        now = self.clock.seconds()
        for link in list(self._links):
            link.check_deadlines(now)


@implementer(IPushProducer, IHandshakeListener)
class Link(Protocol):
    """One connection, with TLS or, if so configured, without. A subclass decides what events mean."""

    logger = Logger()

    def __init__(self, watch: LinkWatch, times: LinkTimes, tls: TlsContexts | None) -> None:
        self.session: Session | None = None  # the protocol's side; None until `start`
        # False while the transport is full, a long write goes on, or the connection is gone.
        self.is_writable = True
        self.problem = ""  # why the link ends, when it does not end in order
        self._watch = watch  # looks at the deadlines of all links; fixed
        self._times = times  # the deadlines; fixed
        self._tls = tls  # fixed, None without TLS
        # The peer's certificate; None before the handshake, and for ever without TLS.
        self._shown: ShownCertificate | None = None
        self._holds: set[str] = set()  # reasons not to read now; empty: it reads
        # What a long write has left for later turns; while there is any, the link is not writable.
        self._unsent: deque[memoryview] = deque()
        self._is_going_on = False  # `_take_held` is due
        now = watch.clock.seconds()
        self._begun_at = now  # when the link was made; fixed
        self._received_at = now  # when bytes last came, or reading went on
        self._partial_since: float | None = None  # since when a frame is incomplete; None when none is
        # Since when the transport is full; None when it is not.
        self._unwritable_since: float | None = None
        self._closing_since: float | None = None  # when `close` began; None before
        self._pings = 0  # how many were sent; the token of the last one
        self._was_pinged = False  # a ping was sent since something last came

    # --- for subclasses -----------------------------------------------------------

    def check_identity(self, identity: Identity) -> None:
        """Raise ProtocolError unless a link to whoever that is may greet."""

    def greet(self, certified: Certified | None) -> None:
        """The TLS handshake is done, or there is no TLS: `start` a session."""
        raise NotImplementedError

    def turn_away(self, error: ProtocolError) -> None:
        """End the link instead: the peer is not whom it should be, or speaks something else."""
        raise NotImplementedError

    def start(self, session: Session) -> None:
        """Send this side's Hello."""
        self.session = session
        use_large_buffers(self._transport)
        self._transport.registerProducer(self, True)
        self.flush()

    def event_received(self, event: Event) -> None:
        """Act on an event of the session."""
        raise NotImplementedError

    def write_resumed(self) -> None:
        """The link is writable again."""

    def link_lost(self, reason: str) -> None:
        """The connection is gone."""

    # --- writing ---------------------------------------------------------------------

    @property
    def _transport(self) -> Any:
        transport = self.transport
        assert transport is not None
        return transport

    def flush(self) -> None:
        """Write what the session has to send; close the connection once the session is closed."""
        session = self.session
        if session is None or not self.connected:
            return
        pieces = session.bytes_to_send()
        if pieces:
            self._write(pieces, sum(map(len, pieces)))
            if not self.is_writable:
                # The peer asks and does not read the answers: read no more of its requests.
                self.hold_reading("write")
        if session.state is LinkState.CLOSED:
            self.close()
        elif session.is_held:
            self.hold_reading("requests")
            self._go_on(session)
        else:
            self.release_reading("requests")

    def _write(self, pieces: Sequence[Buffer], size: int) -> None:
        """Write `size` bytes: at once, or in parts, one a turn, for encrypting takes milliseconds."""
        if not self._unsent and size <= WRITE_AT_ONCE_MAX:
            write_at_once(self._transport, pieces)
            return
        if not self._unsent:
            self._watch.clock.callLater(0, self._write_on)
        self._unsent.extend(map(memoryview, pieces))
        self.is_writable = False

    def _write_on(self) -> None:
        """Write the next part; after the last one the link is writable again."""
        if not self.connected:
            return
        part, left = [], WRITE_AT_ONCE_MAX
        while self._unsent and left:
            piece = self._unsent.popleft()
            if len(piece) > left:
                self._unsent.appendleft(piece[left:])
            part.append(piece[:left])
            left -= len(part[-1])
        write_at_once(self._transport, part)
        if self._unsent:
            self._watch.clock.callLater(0, self._write_on)
        elif self._closing_since is not None:
            self._lose()
        elif self._unwritable_since is None:
            self._resume()

    def _go_on(self, session: Session) -> None:
        """Take the requests held back, in the next turn: this call may be inside a request's answer."""
        if self._is_going_on or session.served.is_full:
            return
        self._is_going_on = True
        self._watch.clock.callLater(0, self._take_held, session)

    def _take_held(self, session: Session) -> None:
        self._is_going_on = False
        if self._closing_since is not None or not self.connected:
            return
        try:
            events = session.go_on()
        except ProtocolError as error:
            self._note_problem(error)
            self.flush()
            return
        self._partial_since = self._watch.clock.seconds() if session.frames.pending_size else None
        for event in events:
            self._receive_event(event)
        self.flush()

    def say_goodbye(self, reason: str) -> None:
        """End the link once its open requests are answered; at once if it did not greet yet."""
        if self.session is None:
            self.close()
        else:
            self.session.say_goodbye(reason)
            self.flush()

    def close(self) -> None:
        """Close after the last byte; `check_deadlines` aborts if the peer does not close in time."""
        if self._closing_since is None and self.connected:
            self._closing_since = self._watch.clock.seconds()
            if not self._unsent:
                self._lose()

    def _lose(self) -> None:
        # A transport does not close while it has a producer.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def break_off(self, error: ProtocolError) -> None:
        """Send the peer the error, and close."""
        if self.session is not None and not self.session.is_closed:
            self.session.fail(error)
        if self._closing_since is None:
            self._note_problem(error)
        self.flush()
        self.close()

    def _note_problem(self, error: ProtocolError) -> None:
        self.problem = str(error)
        self._warn("closing link of {peer}: {problem}", error, f"{self.log_account}: {error}")

    def _warn(self, format: str, error: LoghouseError, text: str) -> None:
        """Log a problem. One that lasts is logged once for each `text`."""
        lasting = {"lasting": text} if isinstance(error, LASTING) else {}
        self.logger.warn(format, peer=self.peer_name, about=self.log_account, problem=self.problem, **lasting)

    @property
    def is_of_node(self) -> bool:
        """Whether the peer's Hello says that it is a node; False before it."""
        peer = self.session.peer if self.session else None
        return peer is not None and peer.role == LinkRole.NODE

    @property
    def peer_name(self) -> str:
        """The peer's name for the log: a node's own, else its host."""
        peer = self.session.peer if self.session else None
        return (peer.node_name if peer else "") or str(getattr(self._transport.getPeer(), "host", "?"))

    @property
    def place(self) -> str:
        """The host at the other end."""
        return str(getattr(self._transport.getPeer(), "host", "?"))

    @property
    def log_account(self) -> str:
        """Whose share of the log's lines a line about this link uses up."""
        return self.peer_name

    # --- reading -----------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the peer."""
        session = self.session
        if session is None or self._closing_since is not None:
            return
        self._received_at = now = self._watch.clock.seconds()
        self._was_pinged = False
        frame_count = session.frame_count
        try:
            events = session.receive(data)
        except ProtocolError as error:
            self._note_problem(error)
            self.flush()
            return
        if session.frame_count == frame_count:
            # In the middle of a large frame: most reads of bulk end here.
            if self._partial_since is None:
                self._partial_since = now
            return
        # A frame is complete, so what is incomplete now is another one.
        self._partial_since = now if session.frames.pending_size else None
        for event in events:
            self._receive_event(event)
        self.flush()

    def _receive_event(self, event: Event) -> None:
        if isinstance(event, LinkFailed):
            self.problem = f"refused by the peer: {event.error}"
            # The same refusal by several nodes is logged once.
            self._warn("{peer}: {problem}", event.error, self.problem)
        self.event_received(event)

    def hold_reading(self, reason: str) -> None:
        """Stop reading until `release_reading` is called with the same reason."""
        if not self._holds and self._closing_since is None and self.connected:
            self._transport.pauseProducing()
        self._holds.add(reason)

    def release_reading(self, reason: str) -> None:
        """Drop a reason not to read; without any other, read again."""
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds and self._closing_since is None and self.connected:
                self._received_at = self._watch.clock.seconds()
                self._transport.resumeProducing()

    # --- IPushProducer: the transport's buffer is full, or empty again --------------------

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the peer reads too slowly."""
        self.is_writable = False
        self._unwritable_since = self._watch.clock.seconds()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        self._unwritable_since = None
        if not self._unsent:
            self._resume()

    def _resume(self) -> None:
        self.is_writable = True
        self.release_reading("write")
        self.write_resumed()
        self.flush()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.is_writable = False

    # --- life ------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Connected; with TLS the handshake is still to come."""
        self._watch.add(self)
        if self._tls is None:
            self.greet(None)

    def handshakeCompleted(self) -> None:
        """TLS is done on this side: a CA of this node has signed the peer's certificate."""
        assert self._tls is not None
        try:
            self._shown = ShownCertificate(self._tls, self._transport)
            identity = self._shown.identity
            if self._transport.negotiatedProtocol != ALPN:
                raise ProtocolError(f"ALPN {self._transport.negotiatedProtocol!r}, expected {ALPN!r}")
            self.check_identity(identity)
        except ProtocolError as error:
            self.turn_away(error)
            return
        self.greet(Certified(subject=identity.subject, node=identity.node, cluster=identity.cluster))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self.connected = 0
        self._unsent.clear()
        self._watch.remove(self)
        self.is_writable = False
        self.link_lost(self.problem or reason.getErrorMessage())

    def check_deadlines(self, now: float) -> None:
        """End the link if a deadline is over or the certificate no longer counts. Called every second."""
        self._check_times(now)
        if self._shown is not None:
            try:
                self._shown.check_still_valid()
            except IdentityError as error:
                self.break_off(error)

    def _check_times(self, now: float) -> None:
        times = self._times
        if self._closing_since is not None:
            if now - self._closing_since >= times.close_max:
                self._transport.abortConnection()
            return
        problem = self._problem(now)
        if problem:
            self.break_off(PeerTimeoutError(problem))
            return
        session = self.session
        if session is None or session.state is LinkState.GREETING or self._holds:
            return
        if now - self._received_at >= times.silence and not self._was_pinged:
            self._was_pinged = True
            self._pings += 1
            session.ping(self._pings)
            self.flush()

    def _problem(self, now: float) -> str:
        times = self._times
        session = self.session
        if session is None or session.state is LinkState.GREETING:
            late = now - self._begun_at >= times.greeting
            return f"no Hello within {times.greeting:g} s" if late else ""
        if self._unwritable_since is not None and now - self._unwritable_since >= times.stuck_max:
            return f"took nothing of what was sent for {times.stuck_max:g} s"
        if self._holds:
            return ""  # this side does not read, so the peer cannot be late
        if self._partial_since is not None:
            allowed = times.frame + session.frames.awaited_size / FRAME_BYTES_PER_SECOND_MIN
            if now - self._partial_since >= allowed:
                return f"a frame was not complete within {allowed:.0f} s"
        if now - self._received_at >= times.silence_max:
            return f"silent for {times.silence_max:g} s"
        return ""
