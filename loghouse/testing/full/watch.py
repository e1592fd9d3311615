"""The production node under watch: the oracle hears of everything before anybody else can."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from loghouse.net.accept import AcceptedLink
from loghouse.node.node import Node
from loghouse.protocol.link_messages import Hello
from loghouse.protocol.raft_messages import AppendEntriesReply, Envelope, RequestVoteReply
from loghouse.raft.core import Raft
from loghouse.raft.ready import Ready, Role
from loghouse.replica.damage import LogRepair
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.storage.log import Log

if TYPE_CHECKING:
    from loghouse.testing.full.host import Host
    from loghouse.testing.full.life import Life


class WatchedNode(Node):
    """A `Node` that differs from the production one in nothing but that it is seen."""

    host: Host
    life: Life
    # Its place in the oracle's books: member id and disk; 0 before it knows.
    number = 0
    _led_from = -1

    def _host(self, opened: LogRepair) -> None:
        self.make_replica = partial(WatchedReplica, self)  # type: ignore[assignment]
        super()._host(opened)

    def open_books(self, id_: int, log: Log) -> None:
        """Begin with a core over a log: as the member of that id."""
        if self.life.is_alive:
            self.host.cluster.guarded(self._open_books, id_, log)

    def _open_books(self, id_: int, log: Log) -> None:
        oracle = self.host.cluster.oracle
        self.number = oracle.number(id_, self.disk_uuid)
        state = log.hard_state
        entries = self.host.machine.all_entries(log)
        oracle.opened(self.number, entries, log.first_index - 1, state.term, state.vote)

    def noted(self, ready: Ready, raft: Raft) -> None:
        """Take down what the core says, as soon as it says it."""
        if self.life.is_alive:
            self.host.cluster.guarded(self._note, ready, raft)

    def _note(self, ready: Ready, raft: Raft) -> None:
        host, number = self.host, self.number
        oracle = host.cluster.oracle
        oracle.stepped(number, raft.term)
        if ready.snapshot is not None:
            oracle.installed(number, ready.snapshot)
        if ready.truncate_after is not None:
            oracle.truncated(number, ready.truncate_after)
        leads = raft.role is Role.LEADER
        if ready.soft_state is not None:
            soft = ready.soft_state
            host.cluster.trace.note(f"{host.name} {soft.role.value} term {soft.term} leader {soft.leader}")
            if soft.role is Role.LEADER:
                self._led_from = oracle.view(number).commit_index
                oracle.elected(number, soft.term)
        committed_before = oracle.committed_index
        # A leader commits before it appends what that allows; a follower is told both at once.
        if ready.commit_index <= oracle.view(number).last:
            oracle.committed_to(number, ready.commit_index, raft.term if leads else 0)
        oracle.appended(number, ready.entries)
        oracle.committed_to(number, ready.commit_index, raft.term if leads else 0)
        if leads:
            oracle.check_quorum(number)
        elif ready.commit_index > committed_before:
            oracle.check_first_commit(number, ready.commit_index)
        if ready.committed:
            oracle.applied(number, ready.committed)
        self._reach_points(ready, leads=leads)

    def _reach_points(self, ready: Ready, *, leads: bool) -> None:
        host = self.host
        if not leads:
            return
        if ready.soft_state is not None:
            host.reach("elected")
        if ready.commit_index > self._led_from >= 0:
            self._led_from = -1
            host.reach("first_commit")
        if ready.committed:
            host.reach("committed")

    def sent(self, envelope: Envelope) -> None:
        """Take down a message that leaves."""
        host = self.host
        host.cluster.guarded(host.cluster.oracle.sent, envelope, self.number)
        if host.cluster.trace.loud:
            host.cluster.trace.line(f"{host.name} {envelope.source}->{envelope.target} {envelope.message}")

    def reach_sending(self, envelope: Envelope) -> None:
        """Come by the crash points of a message that left."""
        message = envelope.message
        if isinstance(message, RequestVoteReply):
            if message.granted and not message.pre_vote:
                self.host.reach("vote_sent")
        elif isinstance(message, AppendEntriesReply):
            self.host.reach("acknowledged")
        elif self.leads:
            self.host.reach("mid_broadcast")

    # --- for the simulator ------------------------------------------------------------------

    @property
    def driver(self) -> RaftDriver | None:
        """The driver of the core; None while this node is no member."""
        return self.membership.driver

    @property
    def raft(self) -> Raft | None:
        """The core; None while this node is no member."""
        return self.membership.driver.raft if self.membership.driver is not None else None

    @property
    def leads(self) -> bool:
        """Whether it thinks that it leads."""
        return self.membership.replica is not None and self.membership.replica.leads

    @property
    def store(self) -> Log | None:
        """The log on the disk; None before the node belongs to a cluster."""
        return self.membership.replica.log if self.membership.replica is not None else None


class WatchedReplica(Replica):
    """A `Replica` that differs from the production one in nothing but that it is seen."""

    def __init__(self, node: WatchedNode, *args: Any, **settings: Any) -> None:
        self._node = node
        super().__init__(*args, **settings)

    def _make_driver(self, id_: int) -> RaftDriver:
        self._node.open_books(id_, self.log)
        driver = super()._make_driver(id_)
        _watch(driver.raft, self._node)
        return driver

    def send(self, envelope: Envelope) -> None:
        """Send a message to another member, or drop it."""
        node = self._node
        if not node.life.is_alive:
            return
        node.sent(envelope)
        super().send(envelope)
        if node.host.point:
            node.reach_sending(envelope)


def _watch(raft: Raft, node: WatchedNode) -> None:
    ready_of_core = raft.ready

    def ready() -> Ready | None:
        found = ready_of_core()
        if found is not None:
            node.noted(found, raft)
        return found

    raft.ready = ready  # type: ignore[method-assign]


class AcceptedWithoutTls(AcceptedLink):
    """A link of another node. TLS is not simulated: who is there is taken from its Hello."""

    def _admit(self, hello: Hello) -> None:
        peers: Any = self._context.peers
        peers.admit(hello)
