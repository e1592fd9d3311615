"""The accepting side of `loghouse/1`: identifies the peer, admits or refuses it, and chooses who serves it.

A link is up once the peer's certificate and its Hello agree. Before that its connection counts as one of a
stranger. `binary_server` answers a client; what a node says goes to `Peers`. A link ends within a second
after its certificate has expired or was denied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from loghouse.auth.identity import Identity
from loghouse.errors import IdentityError, NotSupportedError, ProtocolError, ResourceExhaustedError
from loghouse.net.admission import ConnectionTicket, network_of
from loghouse.net.binary_server import BinaryServer, BinarySession, describe
from loghouse.net.link import Link, LinkTimes, LinkWatch
from loghouse.net.tls import TlsContexts
from loghouse.protocol.client_messages import Describe
from loghouse.protocol.greeting import Certified
from loghouse.protocol.link_messages import Capability, Hello, LinkRole
from loghouse.protocol.session import Event, LinkUp, RequestReceived, Session
from loghouse.runtime.scheduling import Soon


class Peers(Protocol):
    """The cluster, as accepted links see it."""

    def admit(self, hello: Hello) -> None:
        """Raise IdentityError unless this node may open a link: a member with this disk, or a joiner."""

    def link_up(self, link: AcceptedLink) -> None:
        """A node's link is up; `link.session.peer` says whose."""

    def event_received(self, link: AcceptedLink, event: Event) -> None:
        """A Raft frame, gossip or another message of a node."""

    def link_lost(self, link: AcceptedLink) -> None:
        """The link is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkContext:
    """What all accepted links of a node share.

    Attributes:
        binary: Serves clients.
        watch: Checks the links' deadlines, which are `times`.
        hello: Makes this node's own Hello.
        tls: None is plaintext: every client is `anonymous`, and nodes are refused: none can prove its name.
        peers: The cluster; without it other nodes may only describe.
        soon: See `BulkTlsFactory`.
    """

    binary: BinaryServer
    watch: LinkWatch
    times: LinkTimes
    hello: Callable[[], Hello]
    tls: TlsContexts | None
    anonymous: str = ""
    peers: Peers | None = None
    soon: Soon | None = None


class AcceptedLink(Link):
    """One accepted connection of `loghouse/1`."""

    def __init__(self, context: LinkContext, ticket: ConnectionTicket) -> None:
        super().__init__(context.watch, context.times, context.tls)
        self._context = context  # what all accepted links share; fixed
        self._ticket = ticket  # its place among all connections; a stranger's until `_admit`
        # Serves the client; None before LinkUp, and for ever if a node is at the other end.
        self._server: BinarySession | None = None

    @property
    def _identity(self) -> Identity | None:
        """Who is at the other end: None before the handshake; without TLS the anonymous subject."""
        if self._tls is None:
            return Identity(subject=self._context.anonymous, expires_at=float("inf"))
        return self._shown.identity if self._shown is not None else None

    def greet(self, certified: Certified | None) -> None:
        """Wait for the peer's Hello."""
        self.start(Session(self._context.hello(), is_dialler=False, certified=certified, admit=self._admit))

    def turn_away(self, error: ProtocolError) -> None:
        """Refuse the peer before there is a session; what it sends is not read."""
        self.problem = str(error)
        self._tell_refused(error)
        self._warn("refused a link from {peer}: {problem}", error, f"{self.log_account}: {error}")
        self.session = Session(self._context.hello(), is_dialler=False)
        self.session.fail(error)
        self.flush()

    def _note_problem(self, error: ProtocolError) -> None:
        self._tell_refused(error)
        super()._note_problem(error)

    def _tell_refused(self, error: ProtocolError) -> None:
        identity = self._identity
        who = identity.subject if identity is not None else ""
        self._context.binary.gate.audit.refused(error, who=who, what="a connection", where=self.place)

    def _admit(self, hello: Hello) -> None:
        """Refuse the peer after its Hello, or count its connection as a client's or a node's."""
        assert self._identity is not None
        is_node = hello.role == LinkRole.NODE
        if is_node:
            if self._tls is None:
                raise IdentityError("without TLS a node cannot be told from another; nodes need certificates")
            if self._context.peers is not None:
                self._context.peers.admit(hello)
        try:
            subject = self._identity.subject
            has_rule = is_node or self._context.binary.gate.authorizer.permits_anything(subject)
            self._ticket.identify(subject, is_node=is_node, has_rule=has_rule)
        except ResourceExhaustedError as error:
            raise ProtocolError(str(error)) from None

    def flush(self) -> None:
        """Write what the session has to send; requests that were answered count against no quota."""
        super().flush()
        server = self._server
        if server is not None and server.counted:
            server.count_requests()

    def event_received(self, event: Event) -> None:
        """Pass the event to what serves this link."""
        peers = self._context.peers
        if self._server is not None:
            self._server.event_received(event)
        elif isinstance(event, LinkUp):
            self._link_up(event)
        elif isinstance(event, RequestReceived):
            self._answer_node(event)
        elif peers is not None:
            peers.event_received(self, event)

    def _link_up(self, event: LinkUp) -> None:
        assert self._identity is not None
        if event.hello.role == LinkRole.CLIENT:
            self._server = BinarySession(self._context.binary, self, self._identity)
        elif self._context.peers is not None and not event.agreement.is_restricted:
            self._context.peers.link_up(self)

    def _answer_node(self, event: RequestReceived) -> None:
        # A node is no subject of the policy: its certificate alone allows it to ask.
        assert self.session is not None
        if isinstance(event.request, Describe):
            self.session.answer(event.stream, describe(self._context.binary.gate.node))
        else:
            self.session.refuse(event.stream, NotSupportedError("nodes may only describe"))

    @property
    def peer_name(self) -> str:
        """The peer's name for the log: a client by its subject and host."""
        identity = self._identity
        if identity is None or not identity.subject or self.is_of_node:
            return super().peer_name
        return f"{identity.subject} at {super().peer_name}"

    @property
    def log_account(self) -> str:
        """A subject has one share of the log's lines, whatever its hosts; a stranger that of its network."""
        return self._identity.subject if self._identity is not None else network_of(super().peer_name)

    def write_resumed(self) -> None:
        """The link is writable again."""
        if self._server is not None:
            self._server.write_resumed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._ticket.close()
        super().connectionLost(reason)

    def link_lost(self, reason: str) -> None:
        """End what serves the link: nobody waits for answers."""
        if self._server is not None:
            self._server.link_lost()
        elif self._context.peers is not None and self.session is not None and self.session.peer is not None:
            self._context.peers.link_lost(self)


def own_hello(node: Any, software: str) -> Callable[[], Hello]:
    """Return what makes a node's Hello. It asks for the uuids each time: a node that joins gets them late."""
    return lambda: Hello(
        role=LinkRole.NODE,
        cluster_name=node.cluster_name,
        cluster_uuid=node.cluster_uuid,
        node_name=node.name,
        disk_uuid=node.disk_uuid,
        capabilities=Capability.MANY_LOGS | Capability.BEATS | Capability.RANGES | Capability.CURSORS,
        software=software,
    )
