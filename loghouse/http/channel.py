"""One HTTP connection: what may come on it, and how long each part of that may take.

Twisted's channel parses; this refuses what could be read in two ways (a request that one end sees as two),
bounds what Twisted leaves open, and has a deadline for each stage. Twisted's own timeout begins anew with
every byte, so a client that sends one now and then would keep its place for ever.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.server import Request

from loghouse.auth.identity import Identity
from loghouse.errors import (
    LoghouseError,
    UnauthenticatedError,
)
from loghouse.http.answers import HEADERS, HttpAnswer, plain_refusal, refusal
from loghouse.limits import (
    HTTP_BODY_SECONDS,
    HTTP_BODY_SIZE_MAX,
    HTTP_HEAD_SECONDS,
    HTTP_HEAD_SIZE_MAX,
    HTTP_HEADERS_MAX,
    HTTP_IDLE_SECONDS,
    STUCK_SECONDS_MAX,
)
from loghouse.net.admission import Admission, ConnectionTicket
from loghouse.net.tls import CheckedBy, ShownCertificate
from loghouse.node.gate import Gate
from loghouse.shares import Shares

CLOSE_SECONDS: Final = 5.0  # for a client to take its last answer


class SharedSite(Protocol):
    """What all connections of a node share: its site."""

    reactor: Any
    gate: Gate
    shares: Shares
    anonymous: Identity | None
    admission: Admission
    is_stopping: bool
    streams: set[Callable[[], object]]

    @property
    def tls(self) -> CheckedBy | None:
        """What a shown certificate is checked by; None without TLS."""

    def getResourceFor(self, request: Any) -> Any:
        """Return what answers a request."""

    def connection_lost(self, channel: HttpChannel) -> None:
        """A connection is gone."""


class HttpRequest(Request):
    """One request."""

    channel: HttpChannel

    def __init__(self, channel: HttpChannel, *args: Any) -> None:
        super().__init__(channel, *args)
        self._charged = 0  # bytes of its body that are taken from the caller's share
        self._is_refused = False  # it was answered before its end: what comes more of it is not looked at

    # --- what comes (called by the channel) -------------------------------------------------

    def gotLength(self, length: int | None) -> None:
        """The head is here; `length` is the body's, None when only its chunks will tell."""
        self.content = io.BytesIO()
        answer = self._head_problem()
        if answer is None and length != 0:
            answer = self._body_problem(length)
        if answer is not None:
            self.refuse_and_close(answer)

    def _head_problem(self) -> HttpAnswer | None:
        headers = self.requestHeaders
        if len(headers.getRawHeaders(b"Host", ())) != 1:
            return plain_refusal(400, "BAD_REQUEST", "a request needs exactly one Host")
        if headers.hasHeader(b"Transfer-Encoding") and self.channel.version != b"HTTP/1.1":
            return plain_refusal(400, "BAD_REQUEST", "Transfer-Encoding is of HTTP/1.1 alone")
        return None

    def _body_problem(self, length: int | None) -> HttpAnswer | None:
        if length is not None and length > HTTP_BODY_SIZE_MAX:
            return _too_large()
        try:
            subject = self.channel.identify().subject
            self.channel.site.shares.bodies.take(subject, length or HTTP_BODY_SIZE_MAX)
        except LoghouseError as error:
            return refusal(error, "an HTTP request")
        self._charged = length or HTTP_BODY_SIZE_MAX
        return None

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body."""
        if self._is_refused:
            return
        assert self.content is not None
        if self.content.tell() + len(data) > HTTP_BODY_SIZE_MAX:
            self.refuse_and_close(_too_large())
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of it is here."""
        if not self._is_refused:
            super().requestReceived(command, path, version)

    def process(self) -> None:
        """Find what is asked for, and let it answer."""
        self._set_headers()
        self.prepath: list[bytes] = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            self.render(self.channel.site.getResourceFor(self))
        except Exception as error:
            self.answer(refusal(error, "an HTTP request"))

    def _set_headers(self) -> None:
        self.setHeader(b"Date", datetimeToString())  # by the wall clock: `loghouse doctor` compares clocks so
        for name, value in HEADERS:
            self.setHeader(name, value)

    @property
    def place(self) -> str:
        """The address that it comes from, for the audit."""
        transport: Any = self.channel.transport
        return str(getattr(transport.getPeer(), "host", "?"))

    # --- what goes ------------------------------------------------------------------------

    def answer(self, answer: HttpAnswer) -> None:
        """Send a whole answer, and end the request."""
        self.setResponseCode(answer.status)
        self.setHeader(b"Content-Type", answer.content_type)
        self.setHeader(b"Content-Length", b"%d" % len(answer.body))
        for name, value in answer.headers:
            self.setHeader(name, value)
        self.write(answer.body)
        self.finish()

    def refuse_and_close(self, answer: HttpAnswer) -> None:
        """Answer before the whole request came; the rest of it is not read, so the connection ends."""
        self._is_refused = True
        self.requestHeaders.removeHeader(b"Expect")
        channel = self.channel
        self.method, self.clientproto = b"GET", channel.version
        self._set_headers()
        self.setHeader(b"Connection", b"close")
        channel.persistent = 0
        self.answer(answer)

    def finish(self) -> None:
        """The answer is whole."""
        self._give_back()
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """Nobody waits for the answer."""
        self._give_back()
        super().connectionLost(reason)

    def _give_back(self) -> None:
        charged, self._charged = self._charged, 0
        if charged:
            self.channel.site.shares.bodies.give_back(self.channel.identify().subject, charged)


def _too_large() -> HttpAnswer:
    return plain_refusal(413, "TOO_LARGE", f"a body has at most {HTTP_BODY_SIZE_MAX} bytes")


class HttpChannel(HTTPChannel):
    """One connection."""

    logger = Logger()

    maxHeaders = HTTP_HEADERS_MAX  # fixed
    totalHeadersSize = HTTP_HEAD_SIZE_MAX  # bytes; fixed
    timeOut = None  # Twisted's, which is not used; fixed
    requestFactory = HttpRequest  # type: ignore[assignment]  # fixed

    def __init__(self, site: SharedSite, address: str) -> None:
        """Begin as a stranger.

        Raises:
            ResourceExhaustedError: This host has too many connections.
        """
        super().__init__()
        self.site = site  # what all connections share; fixed
        self._clock: IReactorTime = site.reactor  # fixed
        self._ticket: ConnectionTicket = site.admission.enter(address, self.abort)  # closed at the end
        self._shown: ShownCertificate | None = None  # what the client has shown; None without TLS, and before
        self._identity: Identity | None = None  # whose it is; set by the first request that needs one
        self._deadline: Any = None  # ends the connection when this stage takes too long; None while answering
        self._stuck: Any = None  # ends it when the client takes nothing; None while it does
        self._is_idle = False  # between two requests: the next byte begins a head
        self.is_answering = False  # a request is whole and not answered to its end

    @property
    def version(self) -> bytes:
        """The version in the request line, `HTTP/1.1` or `HTTP/1.0`."""
        return getattr(self, "_version", b"HTTP/1.1")

    # --- stages -----------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Connected; with TLS the handshake, too, has to be done within the time of a head."""
        super().connectionMade()
        self._within(HTTP_HEAD_SECONDS)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        if self._is_idle:
            self._is_idle = False
            self._within(HTTP_HEAD_SECONDS)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """A line of the head."""
        if line[:1] in (b" ", b"\t"):
            # A header in several lines is read by some as one, by others as two (RFC 9112, 5.2).
            self._respondToBadRequestAndDisconnect()
            return
        super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        """The head is whole."""
        if self.length != 0:
            self._within(HTTP_BODY_SECONDS)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request is whole, unless it was refused before."""
        if self.requests:
            self._stop_deadline()
            self.is_answering = True
            super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """A request is answered; the next one may be here already."""
        self.is_answering = False
        if self.site.is_stopping:
            self.persistent = 0
        self._is_idle = bool(self.persistent)
        self._within(HTTP_IDLE_SECONDS if self.persistent else CLOSE_SECONDS)
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """The client takes less than it is sent."""
        if self._stuck is None:
            self._stuck = self._clock.callLater(STUCK_SECONDS_MAX, self.abort)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client took what was sent."""
        self._stop_stuck()
        super().resumeProducing()

    def _stop_stuck(self) -> None:
        stuck, self._stuck = self._stuck, None
        _stop(stuck)

    def _within(self, seconds: float) -> None:
        self._stop_deadline()
        self._deadline = self._clock.callLater(seconds, self.abort)

    def _stop_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        _stop(deadline)

    def abort(self) -> None:
        """End the connection: it is late, or its place is needed."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def close_if_idle(self) -> None:
        """End the connection unless a request is on it."""
        if not self.is_answering:
            self.loseConnection()
            self._within(CLOSE_SECONDS)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._stop_deadline()
        self._stop_stuck()
        self._ticket.close()
        self.site.connection_lost(self)
        super().connectionLost(reason)

    # --- who it is ------------------------------------------------------------------------

    def identify(self) -> Identity:
        """Return who is at the other end. Whether a certificate still counts is asked with every permission.

        Raises:
            UnauthenticatedError: Nobody that the policy could know.
            IdentityError: The certificate has no single meaning.
            ResourceExhaustedError: The subject has too many connections.
        """
        if self._identity is None:
            identity = self._who()
            has_rule = self.site.gate.authorizer.permits_anything(identity.subject)
            self._ticket.identify(identity.subject, is_node=False, has_rule=has_rule)
            self._identity = identity
        return self._identity

    def _who(self) -> Identity:
        site = self.site
        if site.tls is None:
            if site.anonymous is None:
                raise UnauthenticatedError(
                    "without TLS nobody is known here; http.loopback_subject in node.yaml says whom the"
                    " policy takes everyone on this machine for"
                )
            return site.anonymous
        transport: Any = self.transport
        if transport.getPeerCertificate() is None:
            raise UnauthenticatedError("no client certificate came with this connection; this path needs one")
        return ShownCertificate(site.tls, transport).identity


def _stop(timer: Any) -> None:
    """Stop a timer, if there is one."""
    if timer is not None and timer.active():
        timer.cancel()
