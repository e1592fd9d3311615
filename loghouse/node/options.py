"""What a node is made with: its settings, and the way to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from loghouse.gossip.members import MemberKey, MemberView
from loghouse.limits import COLD_READ_RATE_DEFAULT, REPLICAS_PER_NODE_DEFAULT
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import Retention
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.config import LAN, RaftConfig

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

TICK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What a node must be told.

    Addresses are for `servers`, sizes in bytes, `scrub_rate` in bytes a second (0: sealed segments are read
    only when somebody asks for them), `cold_read_rate` too (0: reads do not give way to appends). `host` and
    `rack` are empty where node.yaml does not name them; the files of a log that was deleted are kept for
    `keep_deleted_seconds`. `tracer` makes spans of appends; None: nobody traces.
    """

    name: str
    cluster_name: str
    data_dir: str
    address: str = ""
    grpc_address: str = ""
    host: str = ""
    rack: str = ""
    replicas_max: int = REPLICAS_PER_NODE_DEFAULT
    segment_size: int
    reserve_size: int
    drain_seconds: float = 10.0
    keep_deleted_seconds: float = 86400.0
    is_alone: bool = True
    tick_seconds: float = TICK_SECONDS
    retention: Retention = field(default_factory=Retention)
    raft: RaftConfig = LAN
    scrub_rate: int = 0
    cold_read_rate: int = COLD_READ_RATE_DEFAULT
    metrics: Metrics = NO_METRICS
    tracer: Tracer | None = None

    def as_server(self, *, is_leader: bool) -> DescribedServer:
        """Return the node as clients are told of it when it is the whole cluster."""
        return DescribedServer(
            name=self.name, address=self.address, grpc_address=self.grpc_address, is_leader=is_leader
        )


class Transport(Protocol):
    """The way to the other nodes, as `cluster.Cluster` is one. Where nothing is said: there are none."""

    def send_raft(self, envelope: Envelope) -> None:
        """Send a Raft message, or drop it."""
        return

    def send(self, name: str, message: Message, group: int) -> bool:
        """Send another message of a group's log to a node; False when it certainly was not sent."""
        return False

    def servers(self) -> Sequence[DescribedServer]:
        """The members of the configuration, for clients."""
        return ()

    def present(self) -> Sequence[MemberKey]:
        """The nodes of this cluster that are alive and reached by this node's own link."""
        return ()

    def address_of(self, key: MemberKey) -> str:
        """Where a node is, as far as known; empty when it is not."""
        return ""

    def strangers(self) -> Sequence[MemberView]:
        """The nodes of this cluster that are alive and no members."""
        return ()

    def version_of(self, key: MemberKey) -> str:
        """The version of Loghouse that a node runs; empty while there is no link to it."""
        return ""

    def entry_kinds_of(self, key: MemberKey) -> bytes:
        """The kinds of entry that a node can store; empty while there is no link to it."""
        return b""

    def liveness_of(self, key: MemberKey) -> Liveness | None:
        """What gossip says of a node; None when it never saw it."""
        return None


class NoOthers(Transport):
    """The way to the others of a node that is alone."""
