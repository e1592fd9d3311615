"""What a node knows and asks of the logs whose copies other nodes have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime

from loghouse.metrics import Metrics
from loghouse.node.forwarded_reads import REPLIES, REQUESTS, LogWithCopy, ReadForwarder
from loghouse.node.forwarding import Forwarder
from loghouse.node.leaders import LeaderNews, LeaderTable
from loghouse.node.options import Transport
from loghouse.node.remote_reads import PlacedLog, RemoteReads
from loghouse.node.waiters import Waiters
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.forward_messages import ForwardFailure
from loghouse.protocol.message import Message, RequestIds
from loghouse.protocol.range_messages import RANGE_KINDS
from loghouse.protocol.routing_messages import ROUTING_KINDS, Lead, Leads

# The kinds of what `message_received` may take. A failure may be one of an order, which it leaves alone.
ELSEWHERE_KINDS: Final = ROUTING_KINDS | RANGE_KINDS | {ForwardFailure.KIND}


class RoutedLog(LogWithCopy, Protocol):
    """A log as this node serves it, whether it has a copy or not."""

    @property
    def group(self) -> int:
        """The number of its Raft group."""

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""


class RoutingNode(Protocol):
    """The node, as far as this is concerned."""

    name: str
    transport: Transport
    forwarder: Forwarder | None

    @property
    def logs(self) -> Mapping[int, RoutedLog]:
        """The logs of the cluster, by group."""

    @property
    def membership(self) -> RoutedLog:
        """The log whose group says who is a member of the cluster."""


class Elsewhere:
    """Who leads which log, and the way to the copies that other nodes have."""

    def __init__(
        self,
        node: RoutingNode,
        *,
        clock: IReactorTime,
        soon: Callable[[Callable[[], None]], object],
        ids: RequestIds,
        metrics: Metrics,
    ) -> None:
        """Know nothing yet, and ask nothing."""
        self._node = node  # the node that this is a part of; fixed
        self._clock = clock  # time; fixed
        self.leaders = LeaderTable(clock.seconds)  # who leads what, by what others say; the object is fixed
        # Tells the others what this node leads; fixed.
        self.news = LeaderNews(self._leads, self._others, node.transport.send, soon=soon)
        # Asks other nodes to read, and reads for them; fixed.
        self.reads = ReadForwarder(node.transport.send, clock=clock, ids=ids, metrics=metrics)

    def remote_reads(self, log: PlacedLog, waiters: Waiters) -> RemoteReads:
        """Return what answers readers of a log of which there is no copy here."""
        return RemoteReads(log, waiters, self.reads, clock=self._clock)

    def _others(self) -> Sequence[str]:
        members = self._node.membership.configuration.members
        return sorted({member.name for member in members} - {self._node.name})

    def _leads(self) -> list[Lead]:
        """Return what this node leads, but for groups of which every member of the cluster hears by Raft."""
        # A node that came back with an empty disk has no copy, and hears nothing by Raft.
        members = _disks_of(self._node.membership.configuration)
        found = []
        for log in self._node.logs.values():
            raft = log.driver.raft if log.driver is not None else None
            if raft is None or raft.leader != raft.id:
                continue
            if members - _disks_of(log.configuration):
                found.append(Lead(group=log.group, term=raft.term))
        return found

    # --- what comes from other nodes --------------------------------------------------------

    def message_received(self, source: str, message: Message, group: int) -> bool:
        """Take a message of one of `ELSEWHERE_KINDS` from a member; False when it is for somebody else."""
        if isinstance(message, Leads):
            self._changed(self.leaders.heard(source, message.leads))
        elif isinstance(message, REQUESTS):
            self.reads.asked_for(source, group, message, self._node.logs.get(group))
        elif isinstance(message, REPLIES):
            self.reads.answered(source, group, message)
        elif isinstance(message, ForwardFailure):
            return self.reads.failed(source, group, message)
        return True

    def denied(self, group: int, name: str, leader: str) -> None:
        """A node that was asked as the leader of a group is not; `leader` is, by its word (empty: nobody)."""
        if self.leaders.denied(group, name, leader if leader != self._node.name else ""):
            self._changed([group])

    def _changed(self, groups: Sequence[int]) -> None:
        """Let what was asked of a former leader not wait for long."""
        forwarder = self._node.forwarder
        assert forwarder is not None
        for group in groups:
            log = self._node.logs.get(group)
            if log is None or log.driver is None:
                forwarder.leader_changed(group, self.leaders.leader_of(group))

    def node_lost(self, name: str) -> None:
        """A link with that node is gone."""
        self.reads.link_lost(name)
        self.leaders.node_lost(name)

    def stop(self) -> None:
        """Ask and tell nothing more; who waits is told so."""
        self.news.stop()
        self.reads.stop()


def _disks_of(configuration: Configuration) -> set[tuple[str, bytes]]:
    return {(member.name, member.disk_uuid) for member in configuration.members}
