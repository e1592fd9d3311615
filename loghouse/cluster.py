"""This node among the others: links, gossip, joining, and what the leader does about who is there.

A driver: SWIM decides who is alive (`gossip`), Raft who is a member (`raft`),
`reconcile` what the leader proposes. Links prove who somebody is; nothing that is
said over them about a third node is believed further than gossip believes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import IdentityError, LoghouseError, MalformedMessageError, ProtocolError
from loghouse.gossip.config import LAN, SwimConfig
from loghouse.gossip.core import Swim
from loghouse.gossip.members import MemberKey, MemberView, Profile
from loghouse.gossip.ready import EventKind, MemberEvent
from loghouse.net.accept import AcceptedLink
from loghouse.net.peer import DialDoor, PeerLink, PeerState
from loghouse.node_api import Server
from loghouse.peers import AcceptedPeers, PeerSet, is_dialable
from loghouse.protocol.address_book import AddressBook, decode_address_book, encode_address_book
from loghouse.protocol.codec import decode_envelope
from loghouse.protocol.configuration import Configuration, Role
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.link_messages import VERSION_MAX, VERSION_MIN, Hello
from loghouse.protocol.message import NO_UUID, Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.session import Event, MessageReceived, RaftFrameReceived
from loghouse.reconcile import Presence, next_configuration

TICK_SECONDS: Final = 0.1
JOIN_SECONDS: Final = 0.25
JOIN_LOOKS_EAGER: Final = 4  # then every so many
RECONCILE_SECONDS: Final = 0.5
DROP_SECONDS: Final = 1.0
ANSWER_SECONDS_MAX: Final = 10.0


class ClusterNode(Protocol):
    """What the cluster needs of its node."""

    name: str
    cluster_name: str
    cluster_uuid: bytes
    disk_uuid: bytes
    seed: int

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while this node has none."""

    @property
    def is_configuration_committed(self) -> bool:
        """Whether that is committed, as far as this node knows: else a new leader may cut it again."""

    @property
    def leader_id(self) -> int:
        """The member that leads, 0 when none is known."""

    @property
    def member_id(self) -> int:
        """This node's id in the group, 0 while it has none."""

    def receive(self, envelope: Envelope) -> None:
        """Take a Raft message from a node that may send it."""

    def message_received(self, source: str, message: Message) -> None:
        """Take another message between nodes: a forwarded request, or its answer."""

    def peer_lost(self, name: str) -> None:
        """A link with that node, dialled there or here, is gone."""

    def join_cluster(self, cluster_uuid: bytes) -> None:
        """Belong to a cluster from now on; the disk was empty."""

    def begin_cluster(self) -> None:
        """Make a new cluster; the disk was empty."""

    def change_configuration(self, configuration: Configuration) -> None:
        """Propose a configuration on the leader; what is refused is tried again by the next look."""

    def is_caught_up(self, id: int) -> bool:
        """Whether a follower replicates close behind this leader."""

    def write_address_book(self, content: bytes, done: Callable[[], None]) -> None:
        """Make the address book durable, then call `done`."""

    def read_address_book(self) -> bytes:
        """The address book as last written; empty when there is none."""

    def fatal(self, failure: Failure) -> None:
        """The process must end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Who this node is to the others, and where they are.

    `address` is where others reach this node, `join` all addresses of the cluster as node.yaml has them (its
    own among them), `bootstrap` whether this node makes the cluster when there is none.
    """

    address: str
    grpc_address: str = ""
    join: tuple[str, ...] = ()
    bootstrap: bool = False
    swim: SwimConfig = LAN
    tags: tuple[str, ...] = field(default=())

    @property
    def seeds(self) -> tuple[str, ...]:
        """The addresses of the others."""
        return tuple(address for address in self.join if address != self.address)


class Cluster:
    """Links, gossip and membership of one node."""

    logger = Logger()

    def __init__(
        self,
        node: ClusterNode,
        options: ClusterOptions,
        *,
        clock: IReactorTime,
        rng: random.Random,
    ) -> None:
        """Prepare; nothing is dialled before `start`."""
        self.node = node
        self.options = options
        self.clock = clock
        self._rng = rng
        self._swim: Swim | None = None
        self._loops: list[LoopingCall] = []
        self._joining: _Joining | None = None
        self._is_stopped = False
        self._is_growing = False
        # The last configuration known to be committed; only that may shut anybody out. By one that is not,
        # this node would refuse the very leader that is to replace it.
        self._settled = Configuration()
        self._dropped: frozenset[str] = frozenset()
        # Where nodes are, since gossip was last heard: looked up for every message.
        self._addresses: dict[str, str] = {}
        self._drops: dict[str, IDelayedCall] = {}
        # Who spoke as which member: a joiner must answer a leader that its own log does not know yet.
        self._routes: dict[int, tuple[str, bytes]] = {}
        self.accepted = AcceptedPeers(
            admit=self._admit, event_received=self._event_received, link_lost=node.peer_lost
        )

    # --- life -----------------------------------------------------------------------

    def start(self, door: DialDoor) -> None:
        """Join the others: as who this node is, or, with an empty disk, as whoever they make it."""
        self._door = door
        self.peers = PeerSet(door, self._link_up, self.node.peer_lost)
        if self.node.cluster_uuid == NO_UUID:
            self._joining = _Joining(self)
            self._every(JOIN_SECONDS, self._joining.look, now=True)
        else:
            self._begin()

    def _begin(self) -> None:
        """Take part: this node belongs to a cluster."""
        options, node = self.options, self.node
        self._swim = Swim(
            options.swim,
            name=node.name,
            disk_uuid=node.disk_uuid,
            profile=Profile(
                address=options.address,
                grpc_address=options.grpc_address,
                version_min=VERSION_MIN,
                version_max=VERSION_MAX,
                tags=options.tags,
            ),
            seeds=options.seeds,
            book=self._read_book(),
            rng=self._rng,
        )
        self._every(TICK_SECONDS, self._tick)
        self._every(RECONCILE_SECONDS, self.reconcile)

    def _every(self, seconds: float, work: Callable[[], None], *, now: bool = False) -> LoopingCall:
        loop = LoopingCall(work)
        loop.clock = self.clock
        self._loops.append(loop)
        loop.start(seconds, now=now).addErrback(self.node.fatal)
        return loop

    def _read_book(self) -> AddressBook:
        try:
            return decode_address_book(self.node.read_address_book())
        except MalformedMessageError as error:
            # It is a cache of addresses and an incarnation that the others remember, too.
            self.logger.warn("the address book is damaged, going on without: {error}", error=str(error))
            return AddressBook()

    def stop(self, reason: str) -> None:
        """Hang up on everybody."""
        self._is_stopped = True
        for loop in self._loops:
            if loop.running:
                loop.stop()
        for drop in self._drops.values():
            drop.cancel()
        self._drops.clear()
        book = self._swim.last_book() if self._swim is not None else None
        if book is not None:
            self.node.write_address_book(encode_address_book(book), lambda: None)
        self.peers.stop(reason)

    def leave(self) -> None:
        """Tell the others that this node leaves for good; `stop` a second later."""
        if self._swim is not None:
            self._swim.leave()
            self._hand_out()

    # --- sending ----------------------------------------------------------------------

    def send_raft(self, envelope: Envelope) -> None:
        """Send a Raft message to the member it is for, or drop it."""
        member = self._authority.member(envelope.target)
        if member is None and envelope.target not in self._routes:
            member = self.node.configuration.member(envelope.target)
        if member is not None:
            name, disk_uuid = member.name, member.disk_uuid
        else:
            name, disk_uuid = self._routes.get(envelope.target, ("", b""))
        address = self.address_of(name)
        hello = self.peers.hello_of(name)
        if hello is not None and hello.disk_uuid != disk_uuid:
            # Its disk was emptied: speaking as the member it was, it would break what that one promised.
            return
        if address:
            self.peers.send_raft(name, address, envelope)

    @property
    def _authority(self) -> Configuration:
        """The configuration that says which node and disk a member is.

        Where this node does not lead it is the committed one: by an entry that is to be cut, the leader may
        have given a new member's id to another.
        """
        return self.node.configuration if self._leads else self._settled

    @property
    def _leads(self) -> bool:
        node = self.node
        return bool(node.member_id) and node.leader_id == node.member_id

    def send(self, name: str, message: Message) -> bool:
        """Send another message to a node; False when it certainly was not sent."""
        address = self.address_of(name)
        return bool(address) and self.peers.send(name, address, message)

    def address_of(self, name: str) -> str:
        """Return where a node is, as far as known; the living one of two of a name."""
        found = self._addresses.get(name, "")
        if not found:
            found = self._addresses[name] = self._find_address(name)
        return found

    def _find_address(self, name: str) -> str:
        found = ""
        for member in self._members():
            if member.name == name and member.profile is not None:
                if member.liveness is Liveness.ALIVE:
                    return member.profile.address
                found = found or member.profile.address
        return found

    def _members(self) -> tuple[MemberView, ...]:
        return self._swim.members if self._swim is not None else ()

    # --- receiving --------------------------------------------------------------------

    def _admit(self, hello: Hello) -> None:
        """Decide about a node whose certificate and cluster fit.

        Raises:
            IdentityError: It was removed from the cluster.
        """
        name = hello.node_name
        if name in self._settled.removed and name in self.node.configuration.removed:
            raise IdentityError(f"node {name!r} was removed; `loghouse cluster add {name}` lets it back")

    def _event_received(self, link: AcceptedLink, event: Event) -> None:
        if self._is_stopped or self._swim is None:
            return
        assert link.session is not None
        peer = link.session.peer
        assert peer is not None
        try:
            if isinstance(event, RaftFrameReceived):
                envelope = decode_envelope(event.frame, self.node.seed)
                self._check_source(peer, envelope)
                self._routes[envelope.source] = (peer.node_name, peer.disk_uuid)
                self.node.receive(envelope)
            elif isinstance(event, MessageReceived):
                if event.message.KIND >> 8 == 2:
                    self._swim.step(MemberKey(peer.node_name, peer.disk_uuid), event.message)
                    self._hand_out()
                else:
                    self.node.message_received(peer.node_name, event.message)
        except ProtocolError as error:
            link.break_off(error)

    def _check_source(self, peer: Hello, envelope: Envelope) -> None:
        """A link's messages must be from the member that its certificate and disk are.

        Raises:
            IdentityError: They are not.
        """
        member = self._authority.member(envelope.source)
        if member is not None and (member.name, member.disk_uuid) != (peer.node_name, peer.disk_uuid):
            raise IdentityError(
                f"node {peer.node_name!r} spoke as member {envelope.source} ({member.name!r})"
            )

    def _link_up(self, link: PeerLink, hello: Hello) -> None:
        if self._joining is not None:
            self._joining.answered(link, hello)
        else:
            self.reconcile()

    # --- gossip -----------------------------------------------------------------------

    def _tick(self) -> None:
        assert self._swim is not None
        self._swim.tick()
        self._hand_out()
        if self._is_growing:
            self.reconcile()

    def _hand_out(self) -> None:
        self._addresses.clear()
        swim = self._swim
        assert swim is not None
        while (ready := swim.ready()) is not None:
            for outgoing in ready.messages:
                if outgoing.target is None:
                    self.peers.send_to_seed(outgoing.address, outgoing.message)
                else:
                    self.peers.send(outgoing.target.name, outgoing.address, outgoing.message)
            for event in ready.events:
                self._tell(event)
            if ready.book is not None:
                self.node.write_address_book(
                    encode_address_book(ready.book), partial(self._book_written, ready.token)
                )

    def _book_written(self, token: int) -> None:
        if not self._is_stopped:
            assert self._swim is not None
            self._swim.persisted(token)
            self._hand_out()

    def _tell(self, event: MemberEvent) -> None:
        member = event.member
        where = member.profile.address if member.profile else "unknown address"
        tell = self.logger.warn if event.kind is EventKind.FAILED else self.logger.info
        tell("node {name} {what} ({where})", name=member.name, what=event.kind.value, where=where)
        self.reconcile()

    # --- what the leader does about it ---------------------------------------------------

    def reconcile(self) -> None:
        """Let go of removed nodes; on the leader, propose the next change that is due."""
        node = self.node
        if self._is_stopped:
            return
        if node.is_configuration_committed:
            self._settled = node.configuration
        self._drop_removed()
        self._is_growing = False
        if not self._leads:
            return
        configuration = node.configuration
        # A newcomer takes several steps to a vote; each is due as soon as the one before is in force.
        self._is_growing = any(member.role is Role.LEARNER for member in configuration.members)
        change = next_configuration(configuration, self.present(), is_caught_up=node.is_caught_up)
        if change is not None:
            self._is_growing = True
            node.change_configuration(change)

    def _drop_removed(self) -> None:
        """Have removed nodes cut off soon: they may hold valid certificates and open links."""
        removed = frozenset(self._settled.removed)
        for name in sorted(removed - self._dropped - self._drops.keys()):
            # Not at once: the answer to its own wish to leave may still be on its way.
            self._drops[name] = self.clock.callLater(DROP_SECONDS, self._drop, name)
        self._dropped = removed

    def _drop(self, name: str) -> None:
        del self._drops[name]
        if name not in self.node.configuration.removed:
            return  # it was let back in, or the removal was never committed
        self.logger.info("node {name} was removed: its links are closed", name=name)
        self.accepted.close(name)
        if self._swim is not None:
            self._swim.forget(name)
            self._addresses.clear()

    def present(self) -> list[Presence]:
        """Return the nodes that are alive and reached by this node's own link, disk and certificate seen."""
        present = [Presence(self.node.name, self.node.disk_uuid)]
        for member in self._members()[1:]:
            hello = self.peers.hello_of(member.name)
            if (
                member.liveness is Liveness.ALIVE
                and hello is not None
                and hello.disk_uuid == member.disk_uuid
                and hello.cluster_uuid == self.node.cluster_uuid
            ):
                present.append(Presence(member.name, member.disk_uuid))
        return present

    def servers(self) -> tuple[Server, ...]:
        """Return the members of the configuration as clients should know them.

        A member of which this node has heard no address yet is left out: it would be dialled there.
        """
        node = self.node
        views = {(view.name, view.disk_uuid): view for view in self._members()}
        servers = []
        for member in node.configuration.members:
            view = views.get((member.name, member.disk_uuid))
            profile = view.profile if view is not None else None
            address = profile.address if profile else self.address_of(member.name)
            if not is_dialable(address):
                continue
            grpc_address = profile.grpc_address if profile else ""
            servers.append(
                Server(
                    name=member.name,
                    address=address,
                    grpc_address=grpc_address if is_dialable(grpc_address) else "",
                    is_leader=member.id == node.leader_id,
                    role="voter" if member.role is Role.VOTER else "learner",
                    is_alive=view is not None and view.liveness in (Liveness.ALIVE, Liveness.SUSPECT),
                )
            )
        return tuple(servers)

    def version_of(self, name: str) -> str:
        """Return the version of Loghouse that a node said it runs; empty while there is no link to it."""
        hello = self.peers.hello_of(name)
        return hello.software.removeprefix("loghouse ") if hello is not None else ""

    def liveness_of(self, name: str, disk_uuid: bytes) -> str:
        """Return what gossip says of a member: alive, suspect, dead, left; empty when it never saw it."""
        for view in self._members():
            if (view.name, view.disk_uuid) == (name, disk_uuid):
                return view.liveness.name.lower()
        return ""

    # --- joining ----------------------------------------------------------------------

    def joined(self, cluster_uuid: bytes | None) -> None:
        """Called once by `_Joining`: the cluster to belong to; None makes a new one."""
        self._joining = None
        self._loops[0].stop()
        self.peers.stop("joining")
        self.peers = PeerSet(self._door, self._link_up, self.node.peer_lost)
        try:
            if cluster_uuid is None:
                self.node.begin_cluster()
            else:
                self.node.join_cluster(cluster_uuid)
        except LoghouseError:
            # As when the disk cannot be used at the start: else this node would look alive and never join.
            self.node.fatal(Failure())
            return
        self._begin()


class _Joining:
    """A node with an empty disk asks everybody in `join` whether there is a cluster.

    One that belongs to a cluster settles it. Only when all of them answered that they belong to none may the
    node that bootstraps make one: so an emptied bootstrap node joins the living cluster instead of making a
    second one (`design.md` 7).
    """

    logger = Logger()

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # When each address said that its node belongs to no cluster; counts for a while only.
        self._answers: dict[str, float] = {}
        self._links: dict[str, PeerLink] = {}
        self._looks = self._calls = 0

    def look(self) -> None:
        """Ask who did not answer yet, again and again: often at first, when all may be starting together."""
        self._calls += 1
        if self._calls > JOIN_LOOKS_EAGER and self._calls % JOIN_LOOKS_EAGER:
            return
        cluster, seeds = self._cluster, self._cluster.options.seeds
        oldest = cluster.clock.seconds() - ANSWER_SECONDS_MAX
        silent = sorted(address for address in seeds if self._answers.get(address, oldest) <= oldest)
        if cluster.options.bootstrap and not silent:
            self.logger.info("no cluster at any address of join: making a new one")
            cluster.joined(None)
            return
        if self._looks % 10 == 0:
            self.logger.info(
                "looking for a member of cluster {name}; no answer from {silent}",
                name=cluster.node.cluster_name,
                silent=", ".join(silent) or "one: all that answered wait for the node that bootstraps",
            )
        self._looks += 1
        for address in seeds:
            link = self._links.get(address)
            if link is None or link.state is PeerState.UP:
                if link is not None:
                    link.stop("asking again")
                self._links[address] = cluster.peers.fresh_seed(address)

    def answered(self, link: PeerLink, hello: Hello) -> None:
        """A node said who it is."""
        if hello.cluster_uuid != NO_UUID:
            self.logger.info(
                "joining the cluster of node {name}: {uuid}",
                name=hello.node_name,
                uuid=hello.cluster_uuid.hex(),
            )
            self._cluster.joined(hello.cluster_uuid)
            return
        now = self._cluster.clock.seconds()
        self._answers.update({address: now for address, asked in self._links.items() if asked is link})
