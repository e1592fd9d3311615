"""What all HTTP connections of a node share, and the tree of what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import IResource
from twisted.web.server import Site

from loghouse.auth.identity import Identity
from loghouse.errors import ResourceExhaustedError
from loghouse.http.channel import HttpChannel
from loghouse.http.tls import HttpTls
from loghouse.limits import HTTP_CONNECTIONS_MAX
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.node.gate import Gate
from loghouse.runtime.scheduling import Soon
from loghouse.shares import Shares

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

LIMITS: Final = ConnectionLimits(
    all_max=HTTP_CONNECTIONS_MAX,
    per_address_max=HTTP_CONNECTIONS_MAX // 2,
    strangers_max=HTTP_CONNECTIONS_MAX // 4,
    strangers_per_address_max=HTTP_CONNECTIONS_MAX // 8,
    nodes_max=0,
    per_client_max=HTTP_CONNECTIONS_MAX // 2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpContext:
    """What answers are made of.

    Attributes:
        gate: Decides what a caller may do; it has the node. It asks whether a certificate still counts.
        shares: Counts what subjects hold, over all servers of the node.
        tls: None is plain HTTP, for loopback: everyone is `anonymous`, or nobody when that is empty.
        soon: See `BulkTlsFactory`.
        metrics_are_open: Whether /metrics asks for no permission.
        tracer: Makes spans of appends; None: nobody traces.
    """

    reactor: Any
    gate: Gate
    shares: Shares
    tls: HttpTls | None
    anonymous: str = ""
    soon: Soon | None = None
    metrics_are_open: bool = False
    metrics: Metrics = NO_METRICS
    tracer: Tracer | None = None


class HttpSite(Site):
    """Makes a channel for each connection, and counts them."""

    noisy = False
    logger = Logger()

    def __init__(self, root: IResource, context: HttpContext) -> None:
        super().__init__(root, reactor=context.reactor, parsePOSTFormSubmission=False)
        self.context = context  # fixed
        self.gate, self.shares = context.gate, context.shares  # fixed
        self.tls: HttpTls | None = context.tls  # fixed
        # Who everyone is without TLS; None: nobody.
        self.anonymous: Identity | None = None
        if context.tls is None and context.anonymous:
            self.anonymous = Identity(subject=context.anonymous, expires_at=float("inf"))
        self.admission = Admission(LIMITS, context.metrics)  # counts connections; fixed
        self.is_stopping = False  # set once: connections end with the answers under way
        self._channels: set[HttpChannel] = set()  # those that are open
        self.streams: set[Callable[[], object]] = set()  # what ends each answer that has no end by itself
        self._gone: list[Deferred[None]] = []  # who waits until none is

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of an accepted connection; None closes it at once."""
        address = str(getattr(addr, "host", "local"))
        if self.admission.is_full:
            self.logger.info("refused {peer}: all places for HTTP are taken", peer=address)
            return None
        try:
            channel = HttpChannel(self, address)
        except ResourceExhaustedError as error:
            self.logger.info("refused {peer}: {reason}", peer=address, reason=str(error))
            return None
        channel.factory = self
        self._channels.add(channel)
        return channel

    def connection_lost(self, channel: HttpChannel) -> None:
        """A connection is gone."""
        self._channels.discard(channel)
        if not self._channels:
            gone, self._gone = self._gone, []
            for one in gone:
                one.callback(None)

    def close_idle(self) -> None:
        """End streams, and connections without a request; the others end with their answers."""
        self.is_stopping = True
        for end in list(self.streams):
            end()
        for channel in list(self._channels):
            channel.close_if_idle()

    def when_empty(self) -> Deferred[None]:
        """Fire once no connection is open."""
        empty: Deferred[None] = Deferred()
        if self._channels:
            self._gone.append(empty)
        else:
            empty.callback(None)
        return empty

    def abort_all(self) -> None:
        """Abort every connection."""
        for channel in list(self._channels):
            channel.abort()

    # What Twisted's does here is for a log of accesses, which nobody here reads.

    def startFactory(self) -> None:
        """Nothing to set up."""

    def stopFactory(self) -> None:
        """Nothing to take down."""

    def log(self, request: Any) -> None:
        """Write no line for each request."""
