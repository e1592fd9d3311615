"""Carries bytes between an accepted connection and the gRPC server on a private Unix socket, untouched.

TLS ends in the gRPC server, so that server sees the client's certificate. An end that writes too fast is not
read until the other end has taken its bytes. The end of one direction is passed on as such, and so is a
broken connection.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet import unix
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from loghouse.limits import HALF_CLOSED_SECONDS_MAX, QUIET_SECONDS_MAX
from loghouse.net.callers import Caller
from loghouse.runtime.sockets import use_large_buffers, write_promptly

CONNECT_SECONDS_MAX: Final = 30  # a local socket connects at once, unless gRPC accepts no more


@implementer(IHalfCloseableProtocol)
class SpliceEnd(Protocol):
    """One of the two ends of a spliced connection."""

    def __init__(self, reactor: Any) -> None:
        self.other: SpliceEnd | None = None  # the opposite end, while both are connected
        self._reactor = reactor  # fixed
        # Aborts both ends; runs while only the other direction is open.
        self._half_closed: Any = None
        self._is_read_done = False  # this end sends nothing more

    @property
    def _transport(self) -> Any:
        transport = self.transport
        assert transport is not None
        return transport

    def join(self, other: SpliceEnd) -> None:
        """Tie two connected ends together: each is the producer of what the other writes."""
        self.other, other.other = other, self
        for end in (self, other):
            use_large_buffers(end._transport)
        self._transport.registerProducer(other._transport, True)
        other._transport.registerProducer(self._transport, True)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on to the other end."""
        if self.other is not None:
            write_promptly(self.other._transport, data)

    def readConnectionLost(self) -> None:
        """This end sends nothing more; the other direction may go on."""
        self._is_read_done = True
        other = self.other
        if other is None:
            self._transport.loseConnection()
        elif other._is_read_done:
            # Both directions have ended. What is buffered still goes out.
            self._transport.loseConnection()
            other._transport.loseConnection()
        else:
            other._transport.loseWriteConnection()
            self._half_closed = self._reactor.callLater(HALF_CLOSED_SECONDS_MAX, self._end_both)

    def _end_both(self) -> None:
        self._half_closed = None
        other = self.other
        self._transport.abortConnection()
        if other is not None:
            other._transport.abortConnection()

    def writeConnectionLost(self) -> None:
        """This side has closed its direction."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """This end is gone: close the other one, or abort it if this one broke."""
        if self._half_closed is not None:
            self._half_closed.cancel()
            self._half_closed = None
        other, self.other = self.other, None
        if other is None:
            return
        other.other = None
        opposite = other._transport
        opposite.unregisterProducer()
        if reason.check(ConnectionDone):
            opposite.loseConnection()
        else:
            opposite.abortConnection()


class SpliceTarget(SpliceEnd):
    """The end towards the gRPC server."""

    def __init__(self, front: SpliceFront) -> None:
        super().__init__(front._reactor)
        self._front = front  # the end towards the client; fixed

    def connectionMade(self) -> None:
        """The gRPC server accepted."""
        self._front.target_connected(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes for the client."""
        self._front.caller.sent(len(data))
        super().dataReceived(data)


class SpliceFront(SpliceEnd):
    """The end towards the client. It is not read until the other end is connected.

    The other end has an address that names this connection; see `callers`.
    """

    logger = Logger()

    def __init__(self, reactor: Any, path: str, first: bytes, caller: Caller) -> None:
        super().__init__(reactor)
        self.caller = caller  # counts the connection's bytes and calls; fixed
        self._path = path  # the gRPC server's Unix socket; fixed
        self._first = first  # bytes that wait: for the other end, or for a call
        self._held: Any = None  # the deadline of bytes that wait for a call; None while none do
        self._is_lost = False  # the client is gone
        caller.go_on = self._go_on

    def connectionMade(self) -> None:
        """The client is connected: connect to the gRPC server."""
        self._transport.pauseProducing()
        factory: Any = ClientFactory.forProtocol(lambda: SpliceTarget(self))
        factory.noisy = False
        factory.clientConnectionFailed = lambda _, reason: self.target_failed(reason)
        _Connector(self._path, self.caller.name, factory, self._reactor).connect()

    def target_connected(self, target: SpliceTarget) -> None:
        """Both ends are connected."""
        if self._is_lost:
            target._transport.abortConnection()
            return
        self.join(target)
        self._transport.resumeProducing()
        first, self._first = self._first, b""
        self.dataReceived(first)

    def target_failed(self, reason: Failure) -> None:
        """The gRPC server does not accept."""
        self.logger.error("gRPC's own door is shut: {reason}", reason=reason.getErrorMessage())
        if not self._is_lost:
            self._transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the client."""
        if self.other is None or self._held:
            self._first += data
            return
        passed = self.caller.pass_on(len(data))
        if passed < len(data):
            self._hold(data[passed:])
            data = data[:passed]
        if data:
            super().dataReceived(data)

    def _hold(self, data: bytes) -> None:
        """Keep these bytes and read no more until a call begins."""
        self._first = data
        self._held = self._reactor.callLater(QUIET_SECONDS_MAX, self._held_long)
        self._transport.pauseProducing()

    def _held_long(self) -> None:
        if self.caller.has_calls:
            self.caller.note_sign()  # beside open calls this pace is enough
        else:
            self._transport.abortConnection()

    def _go_on(self) -> None:
        held, self._held = self._held, None
        if held is None or self._is_lost:
            return
        if held.active():
            held.cancel()
        data, self._first = self._first, b""
        self._transport.resumeProducing()
        self.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        self._is_lost = True
        if self._held is not None and self._held.active():
            self._held.cancel()
        self.caller.closed()
        super().connectionLost(reason)


class _Connector(unix.Connector):
    """`reactor.connectUNIX` from an abstract address of its own."""

    def __init__(self, path: str, name: str, factory: ClientFactory, reactor: Any) -> None:
        super().__init__(path, factory, CONNECT_SECONDS_MAX, reactor, False)  # type: ignore[no-untyped-call]
        self._name = name

    def _makeTransport(self) -> Any:
        return _NamedClient(self._name, self.address, self, self.reactor)


class _NamedClient(unix.Client):
    def __init__(self, name: str, *arguments: Any) -> None:
        self._abstract_name = name
        super().__init__(*arguments)  # type: ignore[no-untyped-call]

    def createInternetSocket(self) -> socket.socket:
        opened: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]
        opened.bind(f"\0{self._abstract_name}")
        return opened
