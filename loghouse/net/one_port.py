"""The one port of a node, put together: what `listen` in node.yaml serves, from bind to the last byte.

gRPC's own server listens on a Unix socket in a private directory that only this process's user can enter.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from loghouse import __version__
from loghouse.auth.credentials import Credentials
from loghouse.auth.policy import Authorizer
from loghouse.errors import ConfigError, LoghouseError
from loghouse.limits import CONNECTIONS_MAX, RECORD_SIZE_MAX
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.accept import LinkContext, Peers, own_hello
from loghouse.net.admission import Admission, limits_for
from loghouse.net.appending import Appender
from loghouse.net.binary_server import BinaryServer
from loghouse.net.callers import Callers
from loghouse.net.link import LinkTimes, LinkWatch
from loghouse.net.listener import Listener
from loghouse.net.private_directory import PrivateDirectory
from loghouse.net.tls import TlsContexts
from loghouse.node.api import NodeLike
from loghouse.node.gate import Gate
from loghouse.runtime.scheduling import Soon
from loghouse.shares import Shares

BACKLOG: Final = 1024
_REMEDIES: Final = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "it is not an address of this host",
    errno.EACCES: "a port below 1024 needs a right of its own (CAP_NET_BIND_SERVICE): choose another",
}
FILES_RESERVED: Final = 256  # file descriptors for the log, the diagnostics, gRPC and peers
FILES_PER_CONNECTION: Final = 3  # a spliced one: the client's, ours to gRPC, gRPC's


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePortOptions:
    """How to serve. `tls` None is plaintext, for loopback: then everyone is `anonymous`."""

    tls: Credentials | None
    anonymous: str = ""
    record_size_max: int = RECORD_SIZE_MAX
    times: LinkTimes = field(default_factory=LinkTimes)
    metrics: Metrics = NO_METRICS


class OnePort:
    """Listens, routes, and stops in order.

    Args:
        reactor: The reactor.
        node: What is served.
        authorizer: Decides about every request.
        wall_clock: Seconds since the epoch.
        options: How to serve.
        peers: The cluster; None while this node is alone.
    """

    logger = Logger()

    def __init__(
        self,
        reactor: Any,
        node: NodeLike,
        authorizer: Authorizer,
        *,
        wall_clock: Callable[[], float],
        options: OnePortOptions,
        peers: Peers | None = None,
        soon: Soon | None = None,
        shares: Shares | None = None,
    ) -> None:
        """Make the parts of the port; nothing is bound yet.

        Args:
            shares: Counts what subjects hold, over both protocols.
            soon: Runs work at the end of this turn of the reactor; the reactor's own way takes longer.

        Raises:
            CertificateError: OpenSSL cannot use the credentials.
        """
        self._reactor = reactor
        self._node = node
        self._authorizer = authorizer
        self._wall_clock = wall_clock
        self._options = options
        self._peers = peers
        self._soon = soon or (lambda work: reactor.callLater(0, work))
        self.shares = shares or Shares()
        self.callers = Callers(self.shares.bodies)
        self._directory: PrivateDirectory | None = None
        self._socket: socket.socket | None = None
        self._port: Any = None
        self._expiry_day = -1
        self._listener: Listener | None = None
        self.watch = LinkWatch(reactor)
        self.tls = TlsContexts(options.tls, clock=wall_clock) if options.tls else None

    @property
    def grpc_address(self) -> str:
        """Where gRPC's server is to listen, for `GrpcServer.bind`. Makes the private directory."""
        if self._directory is None:
            self._directory = PrivateDirectory()
        return f"unix:{self._directory.socket_path}"

    def bind(self, host: str, port: int) -> int:
        """Take the address and return the port; until `listen` whoever dials it is refused.

        Raises:
            ConfigError: The address cannot be had.
        """
        if self.tls is None and not _is_loopback(host):
            raise ConfigError([f"{host}:{port}: without TLS only loopback addresses are allowed"])
        self._socket = take_address(host, port)
        return int(self._socket.getsockname()[1])

    def listen(self) -> None:
        """Begin to accept where `bind` said. gRPC's server must be bound already.

        Raises:
            ConfigError: Somebody else, who had bound it, too, listens there by now.
        """
        assert self._socket is not None
        # Links look at their certificates by the second: the gate need not, request by request.
        gate = Gate(
            self._node,
            self._authorizer,
            clock=self._wall_clock,
            record_size_max=self._options.record_size_max,
        )
        links = LinkContext(
            binary=BinaryServer(
                gate=gate,
                scheduler=self._reactor,
                appends=Appender(
                    gate,
                    soon=self._soon,
                    scheduler=self._reactor,
                    in_thread=self._in_thread,
                    bodies=self.shares.bodies,
                ),
                shares=self.shares,
            ),
            watch=self.watch,
            times=self._options.times,
            hello=own_hello(self._node, f"loghouse {__version__}"),
            tls=self.tls,
            anonymous=self._options.anonymous,
            peers=self._peers,
            soon=self._soon,
        )
        admission = Admission(limits_for(connections_allowed()), self._options.metrics)
        path = self.grpc_address.removeprefix("unix:")
        self._listener = Listener(self._reactor, links, admission, path, self.callers)
        with _listening(*self._socket.getsockname()[:2]):
            self._socket.listen(BACKLOG)
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), self._socket.family, self._listener)
        self._socket.close()
        self._listener.port = self._port

    def warn_of_expiry(self) -> None:
        """Log which certificates expire soon, once a day however often this is called."""
        today = int(self._wall_clock() // 86_400)
        if self.tls is not None and today != self._expiry_day:
            self._expiry_day = today
            try:
                self.tls.warn_of_expiry()
            except LoghouseError as error:
                self.logger.error("certificates cannot be read: {error}", error=str(error))

    def stop_accepting(self) -> Deferred[None]:
        """Take no new connections; binary clients finish what is open and end. Those of gRPC are gRPC's.

        Links of other nodes stay: what clients wait for comes over them. See `leave_nodes`.
        """
        if self._port is None:
            return maybeDeferred(lambda: None)
        self.watch.say_goodbye("the node is stopping", nodes_too=False)
        return maybeDeferred(self._port.stopListening)

    def when_clients_are_gone(self, seconds: float) -> Deferred[None]:
        """Fire when all binary clients' sessions have ended, at the latest after `seconds`."""
        return self.watch.when_empty(nodes_too=False).addTimeout(
            seconds, self._reactor, onTimeoutCancel=lambda _, seconds: None
        )

    def leave_nodes(self, seconds: float) -> Deferred[None]:
        """Say goodbye on every link that is left; fires when all are gone, at the latest after `seconds`."""
        self.watch.say_goodbye("the node is stopping")
        return self.watch.when_empty().addTimeout(
            seconds, self._reactor, onTimeoutCancel=lambda _, seconds: None
        )

    def abort(self) -> None:
        """Cut off what is still open, and remove the private directory."""
        if self._listener is not None:
            self._listener.abort_all()
        if self._socket is not None:
            self._socket.close()
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()

    def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args, **kwargs)


def take_address(host: str, port: int) -> socket.socket:
    """Return a socket that has an address, and does not listen yet.

    Raises:
        ConfigError: The address cannot be had.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _listening(host, port):
            made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Say what to do when an address cannot be had."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "is it in use, or not an address of this host?")
        raise ConfigError([f"{host}:{port}: cannot listen: {error}; {remedy}"]) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connections_allowed() -> int:
    """Return how many connections this process has file descriptors for, after asking for more of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_RESERVED + FILES_PER_CONNECTION * CONNECTIONS_MAX
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(16, min(CONNECTIONS_MAX, (soft - FILES_RESERVED) // FILES_PER_CONNECTION))
