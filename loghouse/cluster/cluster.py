"""This node among the others: links, gossip, joining, and what the leader does about who is there.

A driver: SWIM decides who is alive (`gossip`), Raft who is a member (`raft`), `reconcile` what the leader
proposes, `router` which frame goes to whom. Links prove who somebody is; nothing that is said over them about
a third node is believed further than gossip believes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.cluster.discovery import Discovery
from loghouse.cluster.peers import AcceptedPeers, PeerSet, is_dialable, key_of
from loghouse.cluster.reconcile import (
    next_configuration,
    next_configuration_of_catalogue,
    next_configuration_of_log,
)
from loghouse.cluster.roster import Roster
from loghouse.cluster.router import Router
from loghouse.cluster.twins import Twins
from loghouse.errors import (
    IdentityError,
    LoghouseError,
    MalformedMessageError,
)
from loghouse.gossip.config import LAN, SwimConfig
from loghouse.gossip.core import Swim
from loghouse.gossip.members import MemberKey, MemberView, Profile
from loghouse.gossip.ready import EventKind, MemberEvent
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.peer import DialContext, PeerLink
from loghouse.node.node import Node
from loghouse.protocol.address_book import AddressBook, decode_address_book, encode_address_book
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import CATALOGUE_GROUP, EntryKind
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.link_messages import VERSION_MAX, VERSION_MIN, Hello
from loghouse.protocol.message import NO_UUID, Message

TICK_SECONDS: Final = 0.1
JOIN_SECONDS: Final = 0.25
RECONCILE_SECONDS: Final = 0.5
DROP_SECONDS: Final = 1.0


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
    metrics: Metrics = NO_METRICS

    @property
    def seeds(self) -> tuple[str, ...]:
        """The addresses of the others."""
        return tuple(address for address in self.join if address != self.address)


class Cluster:
    """Links, gossip and membership of one node."""

    logger = Logger()

    def __init__(
        self,
        node: Node,
        options: ClusterOptions,
        *,
        clock: IReactorTime,
        rng: random.Random,
    ) -> None:
        """Prepare; nothing is dialled before `start`."""
        self.node = node  # what is a member here: its log, disk and configuration; fixed
        self.options = options  # who this node is to the others; fixed
        self.clock = clock  # for ticks and delayed calls; fixed
        self._rng = rng  # chance for gossip; fixed
        self._swim: Swim | None = None  # gossip; None until this node belongs to a cluster
        # Periodic calls; the first is the search for a cluster, where there was none.
        self._loops: list[LoopingCall] = []
        # Looks for a cluster to belong to; None before `start` and once there is one.
        self._discovery: Discovery | None = None
        self._is_stopped = False  # set once, by `stop`
        self._is_growing = False  # a change of members is under way: reconcile with every tick
        # The removed names, as `_drop_removed` last saw them.
        self._dropped: frozenset[str] = frozenset()
        # Who may speak as which member; follows configurations and introductions.
        self.roster = Roster()
        self.twins = Twins()  # second machines with a member's name; follows what gossip sees
        # The removed names that are cut off by now; a name that is let back in goes out again.
        self._shut_out_names: frozenset[str] = frozenset()
        self._drops: dict[str, IDelayedCall] = {}  # the calls that will cut removed nodes off, by name
        self.peers = PeerSet(self._link_up, self._peer_lost, clock.seconds)  # dialled links, by node; fixed
        # Which frame goes to whom; open while this node takes part in a cluster.
        self.router = Router(
            node, self.peers, roster=self.roster, twins=self.twins, owner=self, now=clock.seconds
        )
        # Sends a Raft message to the member it is for. The router's own method: no call between for each.
        self.send_raft = self.router.send_raft
        self.send = self.router.send  # sends another message to a member; fixed
        self.address_of = self.router.address_of  # where a node is, as far as known; fixed
        # Links that others dialled, by the name of who did.
        self.accepted = AcceptedPeers(
            admit=self._admit, event_received=self.router.event_received, link_lost=self._peer_lost
        )

    # --- life -----------------------------------------------------------------------

    def start(self, context: DialContext) -> None:
        """Join the others: as who this node is, or, with an empty disk, as whoever they make it."""
        self.peers.start(context)
        if self.node.cluster_uuid == NO_UUID:
            self._discovery = Discovery(
                self.node.cluster_name,
                self.options.seeds,
                bootstrap=self.options.bootstrap,
                clock=self.clock,
                dial=self.peers.fresh_seed,
                found=self.joined,
            )
            self._every(JOIN_SECONDS, self._discovery.look, now=True)
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
            ),
            seeds=options.seeds,
            metrics=options.metrics,
            book=self._read_book(),
            rng=self._rng,
        )
        self.router.is_open = True
        self.configuration_changed()
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
            return decode_address_book(self.node.address_book.read())
        except MalformedMessageError as error:
            # It is a cache of addresses and an incarnation that the others remember, too.
            self.logger.warn("the address book is damaged, going on without: {error}", error=str(error))
            return AddressBook()

    def stop(self, reason: str) -> None:
        """Hang up on everybody."""
        self._is_stopped = True
        self.router.is_open = False
        for loop in self._loops:
            if loop.running:
                loop.stop()
        for drop in self._drops.values():
            drop.cancel()
        self._drops.clear()
        book = self._swim.last_book() if self._swim is not None else None
        if book is not None:
            self.node.address_book.write(encode_address_book(book), lambda: None)
        self.peers.stop(reason)

    def leave(self) -> None:
        """Tell the others that this node leaves for good; `stop` a second later."""
        if self._swim is not None:
            self._swim.leave()
            self._hand_out()

    # --- asked by the node (`node.options.Transport`) ------------------------------------

    def present(self) -> list[MemberKey]:
        """Return the nodes that are alive and reached by this node's own link, disk and certificate seen."""
        present = [MemberKey(self.node.name, self.node.disk_uuid)]
        for member in self._members()[1:]:
            key = MemberKey(member.name, member.disk_uuid)
            hello = self.peers.hello_of(key)
            is_here = hello is not None and hello.cluster_uuid == self.node.cluster_uuid
            if member.liveness is Liveness.ALIVE and is_here and key not in self.twins:
                present.append(key)
        return present

    def servers(self) -> tuple[DescribedServer, ...]:
        """Return the members of the configuration as clients should know them.

        A member of which this node has heard no address yet is left out: it would be dialled there.
        """
        node = self.node
        views = {(view.name, view.disk_uuid): view for view in self._members()}
        servers = []
        for member in node.membership.configuration.members:
            view = views.get((member.name, member.disk_uuid))
            profile = view.profile if view is not None else None
            if profile is None or not is_dialable(profile.address):
                continue
            grpc_address = profile.grpc_address
            servers.append(
                DescribedServer(
                    name=member.name,
                    address=profile.address,
                    grpc_address=grpc_address if is_dialable(grpc_address) else "",
                    is_leader=member.id == node.membership.leader_id,
                    role=MemberRole.VOTER if member.role is MemberRole.VOTER else MemberRole.LEARNER,
                    is_alive=view is not None and view.liveness in (Liveness.ALIVE, Liveness.SUSPECT),
                )
            )
        return tuple(servers)

    def strangers(self) -> list[MemberView]:
        """Return the nodes that are alive and no members: joiners, and machines with a member's name."""
        members = {(member.name, member.disk_uuid) for member in self.node.membership.configuration.members}
        live = (Liveness.ALIVE, Liveness.SUSPECT)
        return [
            view
            for view in self._members()
            if view.liveness in live and (view.name, view.disk_uuid) not in members
        ]

    def version_of(self, key: MemberKey) -> str:
        """Return the version of Loghouse that a node said it runs; empty while there is no link to it."""
        hello = self.peers.hello_of(key)
        return hello.software.removeprefix("loghouse ") if hello is not None else ""

    def entry_kinds_of(self, key: MemberKey) -> bytes:
        """Return the kinds of entry that a node can store; empty while there is no link to it."""
        hello = self.peers.hello_of(key)
        return hello.entry_kinds if hello is not None else b""

    def liveness_of(self, key: MemberKey) -> Liveness | None:
        """Return what gossip says of a node; None when it never saw it."""
        for view in self._members():
            if (view.name, view.disk_uuid) == key:
                return view.liveness
        return None

    @property
    def members_seen(self) -> tuple[MemberView, ...]:
        """The other nodes as gossip sees them."""
        return self._members()

    def _members(self) -> tuple[MemberView, ...]:
        return self._swim.members if self._swim is not None else ()

    # --- links ------------------------------------------------------------------------

    def _admit(self, hello: Hello) -> None:
        """Decide about a node whose certificate and cluster fit.

        Raises:
            IdentityError: It was removed from the cluster.
        """
        if self._is_removed(hello.node_name):
            name = hello.node_name
            raise IdentityError(f"node {name!r} was removed; `loghouse cluster add {name}` lets it back")

    def _is_removed(self, name: str) -> bool:
        group = self.router.group
        return name in group.settled.removed and name in group.replica.configuration.removed

    def _link_up(self, address: str, link: PeerLink, hello: Hello) -> None:
        if self._discovery is not None:
            self._discovery.answered(link, hello)
            return
        if address in self.options.join:
            self.roster.answered_at(address, key_of(hello))
            self.known_changed()
        self.reconcile()

    def _peer_lost(self, key: MemberKey) -> None:
        if self.router.key_of(key.name) in (key, None):
            self.node.peer_lost(key.name)

    # --- gossip -----------------------------------------------------------------------

    def find_address(self, key: MemberKey) -> str:
        """Return the address that a node gave of itself; empty when it was not heard of."""
        for member in self._members():
            if (member.name, member.disk_uuid) == key and member.profile is not None:
                return member.profile.address
        return ""

    def gossip_received(self, key: MemberKey, message: Message) -> None:
        """Take a message of gossip, and send what comes of it."""
        assert self._swim is not None
        self._swim.step(key, message)
        self._hand_out()

    def _tick(self) -> None:
        assert self._swim is not None
        self._swim.tick()
        self._hand_out()
        if self._is_growing:
            self.reconcile()

    def _hand_out(self) -> None:
        self.router.forget_addresses()
        swim = self._swim
        assert swim is not None
        while (ready := swim.ready()) is not None:
            for outgoing in ready.messages:
                if outgoing.target is None:
                    self.peers.send_to_seed(outgoing.address, outgoing.message)
                else:
                    self.peers.send_to(outgoing.target, outgoing.address, outgoing.message)
            for event in ready.events:
                self._member_changed(event)
            if ready.book is not None:
                self.node.address_book.write(
                    encode_address_book(ready.book), partial(self._book_written, ready.token)
                )

    def _book_written(self, token: int) -> None:
        if not self._is_stopped:
            assert self._swim is not None
            self._swim.persisted(token)
            self._hand_out()

    def _member_changed(self, event: MemberEvent) -> None:
        member = event.member
        where = member.profile.address if member.profile else "unknown address"
        log = self.logger.warn if event.kind is EventKind.FAILED else self.logger.info
        log("node {name} {what} ({where})", name=member.name, what=event.kind.value, where=where)
        self.reconcile()

    # --- what the leader does about it ---------------------------------------------------

    def reconcile(self) -> None:
        """Let go of removed nodes; on the leader, propose the next change that is due."""
        node = self.node
        if self._is_stopped:
            return
        self.configuration_changed()
        self._look_for_twins()
        self._drop_removed()
        self._is_growing = False
        self._reconcile_logs()
        if not self.router.group.leads:
            return
        group = node.membership
        configuration = group.configuration
        # A newcomer takes several steps to a vote; each is due as soon as the one before is in force.
        self._is_growing = any(member.role is MemberRole.LEARNER for member in configuration.members)
        change = next_configuration(
            configuration, self._admissible(), is_caught_up=group.is_caught_up, is_heard=group.is_heard
        )
        if change is not None:
            self._is_growing = True
            group.change_configuration(change)

    def _admissible(self) -> list[MemberKey]:
        """The nodes that are present and can read what is in the log by now."""
        present, needed = self.present(), set[int]()
        if self.node.catalogue_log is not None:
            needed.add(EntryKind.BIRTH)
        if self.node.membership.has_cursors:
            needed.add(EntryKind.CURSOR)
        if not needed:
            return present
        own = MemberKey(self.node.name, self.node.disk_uuid)
        return [key for key in present if key == own or needed <= set(self.entry_kinds_of(key))]

    def _reconcile_logs(self) -> None:
        """Propose the changes that are due in the groups beside the default one that this node leads."""
        present: list[MemberKey] | None = None
        for log in self.node.logs.values():
            group = self.router.group_of(log.group)
            if log is self.node.membership or group is None or not group.leads:
                continue
            if present is None:
                present = self.present()
            if log.group == CATALOGUE_GROUP:
                next_one = partial(next_configuration_of_catalogue, cluster=self.router.group.settled)
            elif log.catalogued is not None:
                next_one = partial(next_configuration_of_log, replicas=log.catalogued.replicas)
            else:
                continue
            change = next_one(
                log.configuration, present=present, is_caught_up=log.is_caught_up, is_heard=log.is_heard
            )
            if change is not None:
                log.change_configuration(change)

    def configuration_changed(self) -> None:
        """Know who is a member by what the log says now; keep links to members and live nodes only."""
        if self.router.look() and self._swim is not None:
            self.peers.keep(self.roster.known | self._swim.keys)

    def _look_for_twins(self) -> None:
        strangers = {MemberKey(view.name, view.disk_uuid) for view in self.strangers()}
        for twin in self.twins.look(self.roster.members, strangers, self.clock.seconds()):
            self.logger.warn(
                "a second machine calls itself {name}: at {where}, with another disk ({disk}) than the "
                "member at {there}. It is not let in: stop it, or rename it",
                name=twin.name,
                where=self.address_of(twin),
                disk=twin.disk_uuid.hex()[:8],
                there=next(
                    (self.address_of(one) for one in self.roster.members if one.name == twin.name), ""
                ),
            )

    def known_changed(self) -> None:
        """Let gossip know whose word about others counts."""
        if self._swim is not None:
            self._swim.believe(self.roster.known)

    def _shut_out(self, names: frozenset[str]) -> None:
        """Speak with nodes of these names no more, nor of them."""
        self._shut_out_names = names
        self.router.forget_addresses()
        if self._swim is not None:
            self._swim.shut_out(names)
            self.peers.keep(self.roster.known | self._swim.keys)

    def _drop_removed(self) -> None:
        """Have removed nodes cut off soon: they may hold valid certificates and open links."""
        removed = frozenset(self.router.group.settled.removed)
        for name in sorted(removed - self._dropped - self._drops.keys()):
            # Not at once: the answer to its own wish to leave may still be on its way.
            self._drops[name] = self.clock.callLater(DROP_SECONDS, self._drop, name)
        self._dropped = removed
        if self._shut_out_names - removed:
            self._shut_out(self._shut_out_names & removed)  # somebody was let back in

    def _drop(self, name: str) -> None:
        del self._drops[name]
        if not self._is_removed(name):
            return  # it was let back in, or the removal was never committed
        self.logger.info("node {name} was removed: its links are closed", name=name)
        self.accepted.close(name)
        self._shut_out(self._shut_out_names | {name})

    # --- joining ----------------------------------------------------------------------

    def joined(self, cluster_uuid: bytes | None) -> None:
        """Called once by `Discovery`: the cluster to belong to; None makes a new one."""
        self._discovery = None
        self._loops[0].stop()
        self.peers.stop("joining")
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
