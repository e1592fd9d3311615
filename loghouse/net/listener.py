"""The one port: reads how a connection begins, and passes it to the server of that protocol.

With TLS it reads the ClientHello before any handshake work: `h2` goes to the gRPC server with its bytes
untouched, TLS of `loghouse/1` ends here, everything else is closed. Without TLS (if so configured, on
loopback) the HTTP/2 preface tells gRPC from frames.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from loghouse.errors import ProtocolError, ResourceExhaustedError
from loghouse.limits import CLIENT_HELLO_SECONDS, LINK_HEADER_SIZE
from loghouse.net.accept import AcceptedLink, LinkContext
from loghouse.net.admission import Admission, ConnectionTicket
from loghouse.net.callers import Callers
from loghouse.net.client_hello import TLS_1_3, ClientHello, ClientHelloReader
from loghouse.net.splice import SpliceFront
from loghouse.net.tls import ALPN, ALPN_GRPC
from loghouse.protocol.link_messages import MAGIC
from loghouse.runtime.bulk_tls import BulkTlsFactory
from loghouse.shares import Shares

NO_TLS_ALERT: Final = bytes((0x15, 3, 3, 0, 2, 2, 70))  # fatal: protocol_version (RFC 8446 6)
ACCEPTS_PER_TURN: Final = 4  # Twisted makes at most 20 more of them
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@implementer(IHalfCloseableProtocol)
class AcceptedConnection(Protocol):
    """One accepted connection. Once its protocol is known it only passes bytes on."""

    def __init__(self, listener: Listener, address: str) -> None:
        """Begin as a stranger.

        Raises:
            ResourceExhaustedError: This host has too many connections.
        """
        self._listener = listener  # what all connections share; fixed
        self._ticket = listener.admission.enter(address, self._drop)  # its place among all; closed at the end
        self._reader = ClientHelloReader()  # collects the first bytes, with TLS; empty after `_hand_over`
        self._preface = b""  # the first bytes, without TLS; empty again after `_hand_over`
        # What speaks the protocol, once that is known: a link, TLS around one, or a splice.
        self._inner: Any = None
        # Refuses a connection that does not begin in time; None once it began, was refused or is gone.
        self._deadline: Any = None

    def connectionMade(self) -> None:
        """Connected."""
        late = f"no ClientHello within {CLIENT_HELLO_SECONDS:g} s"
        self._deadline = self._listener.reactor.callLater(CLIENT_HELLO_SECONDS, self._refuse, late)
        transport: Any = self.transport
        transport.setTcpNoDelay(True)  # for every protocol

    def dataReceived(self, data: bytes) -> None:
        """Bytes: of the beginning, or for the protocol behind."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        if self._deadline is None:
            return  # refused already
        try:
            if self._listener.links.tls is None:
                self._route_plain(data)
            else:
                # A client of ours without TLS: only such a client gets an alert.
                if not self._reader.received and data[LINK_HEADER_SIZE:].startswith(MAGIC):
                    self._refuse("the client does not speak TLS", alert=NO_TLS_ALERT)
                    return
                hello = self._reader.feed(data)
                if hello is not None:
                    self._route(hello)
        except ProtocolError as error:
            self._refuse(str(error))

    def _route(self, hello: ClientHello) -> None:
        if TLS_1_3 not in hello.versions:
            raise ProtocolError("the client does not offer TLS 1.3")
        first = bytes(self._reader.received)
        if ALPN in hello.protocols:
            self._hand_over(self._listener.link_factory(self._ticket), first)
        elif ALPN_GRPC in hello.protocols:
            self._to_grpc(first)
        else:
            raise ProtocolError(f"no protocol of this port among those offered: {list(hello.protocols)[:4]}")

    def _route_plain(self, data: bytes) -> None:
        self._preface += data
        if HTTP2_PREFACE.startswith(self._preface[: len(HTTP2_PREFACE)]):
            if len(self._preface) >= len(HTTP2_PREFACE):
                self._to_grpc(self._preface)
        else:
            self._hand_over(AcceptedLink(self._listener.links, self._ticket), self._preface)

    def _to_grpc(self, first: bytes) -> None:
        if self._listener.grpc_path is None:
            raise ProtocolError("gRPC is not served here")
        # gRPC authenticates its clients itself; until the first call this connection stays a stranger's.
        caller = self._listener.callers.add(self._ticket, self._drop)
        self._hand_over(SpliceFront(self._listener.reactor, self._listener.grpc_path, first, caller), b"")

    def _hand_over(self, inner: Any, first: bytes) -> None:
        self._stop_deadline()
        self._inner = inner
        inner.makeConnection(self.transport)
        self._reader = ClientHelloReader()
        self._preface = b""
        if first:
            inner.dataReceived(first)

    def _drop(self) -> None:
        """Close the connection: another stranger needs its place, or its client holds too much."""
        self._stop_deadline()
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _refuse(self, reason: str, alert: bytes = b"") -> None:
        self._stop_deadline()
        transport: Any = self.transport
        self._listener.note_refusal(str(getattr(transport.getPeer(), "host", "?")), reason)
        if alert:
            transport.write(alert)  # a few bytes: the kernel takes them at once
            transport.loseConnection()
        else:
            transport.abortConnection()

    def _stop_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def readConnectionLost(self) -> None:
        """The client has closed its direction."""
        if isinstance(self._inner, SpliceFront):
            self._inner.readConnectionLost()
        else:
            transport: Any = self.transport
            transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """This side has closed its direction."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._stop_deadline()
        self._ticket.close()
        if self._inner is not None:
            self._inner.connectionLost(reason)
        self._listener.connection_lost(self)


class Listener(Factory):
    """Accepts connections on the one port."""

    noisy = False
    logger = Logger()

    def __init__(
        self,
        reactor: Any,
        links: LinkContext,
        admission: Admission,
        grpc_path: str | None,
        callers: Callers | None = None,
    ) -> None:
        self.reactor = reactor  # fixed
        self.links = links  # what `loghouse/1` connections share; fixed
        self.admission = admission  # counts connections; fixed
        self.grpc_path = grpc_path  # the Unix socket of the gRPC server; fixed, None without one
        # The connections of gRPC clients, as the gRPC server finds them; fixed.
        self.callers = callers or Callers(Shares().bodies)
        self.port: Any = None  # Twisted's listening port; set by whoever listens
        self._is_paused = False  # accepts nothing, because every place is taken
        self._connections: set[AcceptedConnection] = set()  # those that are open

    def buildProtocol(self, addr: Any) -> AcceptedConnection | None:
        """Return the protocol of an accepted connection; None closes it at once."""
        address = getattr(addr, "host", "local")
        try:
            connection = AcceptedConnection(self, address)
        except ResourceExhaustedError as error:
            self.note_refusal(address, str(error))
            return None
        self._connections.add(connection)
        if self.port is not None:
            # Twisted accepts so many a turn, and raises the number by 20: other work would wait.
            self.port.numberAccepts = ACCEPTS_PER_TURN
        if self.admission.is_full:
            self._pause()
        return connection

    def link_factory(self, ticket: ConnectionTicket) -> Any:
        """Return a TLS protocol around a new link."""
        wrapped = Factory.forProtocol(lambda: AcceptedLink(self.links, ticket))
        wrapped.noisy = False
        assert self.links.tls is not None
        factory = BulkTlsFactory(self.links.tls, False, wrapped, clock=self.reactor, soon=self.links.soon)
        factory.noisy = False
        return factory.buildProtocol(None)

    def connection_lost(self, connection: AcceptedConnection) -> None:
        """A connection is gone: accept again if that makes room."""
        self._connections.discard(connection)
        if self._is_paused and not self.admission.is_full:
            self._is_paused = False
            if self.port is not None:
                self.port.startReading()

    def _pause(self) -> None:
        # Newcomers wait in the kernel's queue. Accepting and closing them would invite them to try again at
        # once; and without file descriptors the log could not go on.
        if self.port is not None and not self._is_paused:
            self._is_paused = True
            self.port.stopReading()
            self.logger.warn("the port is full: {count} connections", count=self.admission.all)

    def note_refusal(self, address: str, reason: str) -> None:
        """Log a refusal."""
        self.logger.info("refused {peer}: {reason}", peer=address, reason=reason)

    def abort_all(self) -> None:
        """Abort every connection."""
        for connection in list(self._connections):
            transport: Any = connection.transport
            transport.abortConnection()
