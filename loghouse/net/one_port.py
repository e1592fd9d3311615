"""The one port of a node: the server behind `listen` in node.yaml, from bind to the last byte.

gRPC's own server listens on a Unix socket in a private directory that only the node's user can enter.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from loghouse import __version__
from loghouse.auth.credentials import Credentials
from loghouse.auth.policy import Authorizer
from loghouse.errors import ConfigError, LoghouseError
from loghouse.limits import CONNECTIONS_MAX, RECORD_SIZE_MAX, REPLICA_FILES
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.accept import LinkContext, Peers, own_hello
from loghouse.net.admission import Admission, limits_for
from loghouse.net.appending import Appender, Appends
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

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

BACKLOG: Final = 1024
_REMEDIES: Final = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another port",
    errno.EADDRNOTAVAIL: "it is not an address of this host",
    errno.EACCES: "a port below 1024 needs a right of its own (CAP_NET_BIND_SERVICE): choose another",
}
REPLICAS_MIN: Final = 16  # logs that a node may hold, however few files it may have open
FILES_RESERVED: Final = 256  # file descriptors for the log, the diagnostics, gRPC and peers
FILES_PER_CONNECTION: Final = 3  # of gRPC: the client's, the one to the gRPC server, the gRPC server's


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePortOptions:
    """How to serve.

    `tls` None is plaintext, for loopback: every client is `anonymous`. `tracer` makes spans of appends; None:
    nobody traces.
    """

    tls: Credentials | None
    anonymous: str = ""
    record_size_max: int = RECORD_SIZE_MAX
    times: LinkTimes = field(default_factory=LinkTimes)
    metrics: Metrics = NO_METRICS
    tracer: Tracer | None = None


def _appending_by(tracer: Tracer | None) -> tuple[Callable[..., Appender], Callable[..., Appends]]:
    """Return what makes the appender of the node, and the appends of a session."""
    if tracer is None:
        return Appender, Appends
    from loghouse.net.traced_appends import TracedAppender, TracedAppends

    return partial(TracedAppender, tracer=tracer), TracedAppends


class OnePort:
    """Listens, serves both protocols, and stops in order."""

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

        Raises:
            CertificateError: OpenSSL cannot use the credentials.
        """
        self._reactor = reactor  # fixed
        self._node = node  # what is served; fixed
        self._wall_clock = wall_clock  # seconds since the epoch; fixed
        self._options = options  # how to serve; fixed
        self._peers = peers  # the cluster; fixed, None while this node is alone
        # Runs work at the end of this turn of the reactor; the reactor's own way takes longer; fixed.
        self._soon = soon or (lambda work: reactor.callLater(0, work))
        # Checks every request of the binary protocol; fixed. Links check their certificates once a second,
        # so it has no check for each request.
        self.gate = Gate(node, authorizer, clock=wall_clock, record_size_max=options.record_size_max)
        # Counts what subjects hold, over all protocols.
        self.shares = shares or Shares(seconds=reactor.seconds)
        self.callers = Callers(self.shares.bodies)  # the connections of gRPC clients
        # Holds the gRPC server's socket; made when `grpc_address` is first asked for, gone after `abort`.
        self._directory: PrivateDirectory | None = None
        self._socket: socket.socket | None = None  # has the address; made by `bind`, closed by `listen`
        self._port: Any = None  # Twisted's listening port; made by `listen`
        self._expiry_day = -1  # the day, since the epoch, on which `warn_of_expiry` last looked
        self._listener: Listener | None = None  # accepts connections; made by `listen`
        self.watch = LinkWatch(reactor)  # checks the deadlines of all links, dialled ones too
        self.tls = TlsContexts(options.tls, clock=wall_clock) if options.tls else None  # fixed

    @property
    def admission(self) -> Admission | None:
        """Counts the connections of the port; None before `listen`."""
        return self._listener.admission if self._listener is not None else None

    @property
    def grpc_address(self) -> str:
        """The address for `GrpcServer.bind`. The first call makes the private directory."""
        if self._directory is None:
            self._directory = PrivateDirectory()
        return f"unix:{self._directory.socket_path}"

    def bind(self, host: str, port: int) -> int:
        """Take the address and return the port. Until `listen` the kernel refuses who connects.

        Raises:
            ConfigError: The address cannot be had.
        """
        if self.tls is None and not _is_loopback(host):
            raise ConfigError([f"{host}:{port}: without TLS only loopback addresses are allowed"])
        self._socket = take_address(host, port)
        return int(self._socket.getsockname()[1])

    def listen(self) -> None:
        """Begin to accept at the address of `bind`. The gRPC server must be bound already.

        Raises:
            ConfigError: Another process that had bound the address, too, listens by now.
        """
        assert self._socket is not None
        gate = self.gate
        metrics = self._options.metrics
        make_appender, make_appends = _appending_by(self._options.tracer)
        links = LinkContext(
            binary=BinaryServer(
                gate=gate,
                scheduler=self._reactor,
                appends=make_appender(
                    gate,
                    soon=self._soon,
                    scheduler=self._reactor,
                    in_thread=self._in_thread,
                    bodies=self.shares.bodies,
                    tally=tallies.binary if (tallies := metrics.tallies) is not None else None,
                ),
                make_appends=make_appends,
                shares=self.shares,
                metrics=metrics,
            ),
            watch=self.watch,
            times=self._options.times,
            hello=own_hello(self._node, f"loghouse {__version__}"),
            tls=self.tls,
            anonymous=self._options.anonymous,
            peers=self._peers,
            soon=self._soon,
        )
        quotas = self.shares.quotas
        admission = Admission(
            limits_for(connections_allowed()), metrics, quotas.connections_of, quotas.connection_refused
        )
        path = self.grpc_address.removeprefix("unix:")
        self._listener = Listener(self._reactor, links, admission, path, self.callers)
        with listening(*self._socket.getsockname()[:2]):
            self._socket.listen(BACKLOG)
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), self._socket.family, self._listener)
        self._socket.close()
        self._listener.port = self._port

    def warn_of_expiry(self) -> None:
        """Log which certificates expire soon; at most once a day, however often this is called."""
        today = int(self._wall_clock() // 86_400)
        if self.tls is not None and today != self._expiry_day:
            self._expiry_day = today
            try:
                self.tls.warn_of_expiry()
            except LoghouseError as error:
                self.logger.error("certificates cannot be read: {error}", error=str(error))

    def stop_accepting(self) -> Deferred[None]:
        """Take no new connections, and end those of binary clients once their requests are answered.

        The gRPC server ends its own. Links of other nodes stay until `leave_nodes`: answers need them.
        """
        if self._port is None:
            return maybeDeferred(lambda: None)
        self.watch.say_goodbye("the node is stopping", nodes_too=False)
        return maybeDeferred(self._port.stopListening)

    def when_clients_are_gone(self, seconds: float) -> Deferred[None]:
        """Fire when all binary clients' sessions have ended, at the latest after `seconds`."""
        return self._within(seconds, self.watch.when_empty(nodes_too=False))

    def leave_nodes(self, seconds: float) -> Deferred[None]:
        """Say goodbye on every link that is left; fires when all are gone, at the latest after `seconds`."""
        self.watch.say_goodbye("the node is stopping")
        return self._within(seconds, self.watch.when_empty())

    def _within(self, seconds: float, done: Deferred[None]) -> Deferred[None]:
        return done.addTimeout(seconds, self._reactor, onTimeoutCancel=lambda _, seconds: None)

    def abort(self) -> None:
        """Abort every connection, and remove the private directory."""
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
    """Return a socket that has an address and does not listen yet.

    Raises:
        ConfigError: The address cannot be had.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with listening(host, port):
            made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Turn the failure to have an address into a ConfigError that says what to do."""
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
    """Raise the limit of file descriptors, and return how many connections it allows."""
    soft = _raise_files(FILES_RESERVED + FILES_PER_CONNECTION * CONNECTIONS_MAX)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(16, min(CONNECTIONS_MAX, (soft - FILES_RESERVED) // FILES_PER_CONNECTION))


def replicas_allowed(count_max: int) -> int:
    """Raise the limit of file descriptors, and return how many logs it allows beside all connections."""
    others = FILES_RESERVED + FILES_PER_CONNECTION * CONNECTIONS_MAX
    soft = _raise_files(others + REPLICA_FILES * count_max)
    if soft == resource.RLIM_INFINITY:
        return count_max
    return max(min(REPLICAS_MIN, count_max), min(count_max, (soft - others) // REPLICA_FILES))


def _raise_files(wanted: int) -> int:
    """Raise the limit of file descriptors as far as is wanted and allowed; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return soft
