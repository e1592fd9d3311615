"""The links to the other nodes: those dialled to each for sending, those they dialled for receiving.

Nodes are known by name and disk: two machines of one name are two nodes, and what is for one is
never sent to the other. An address is only where a node is tried: while gossip knows of two, at both,
and the one where it answers carries everything. A link to an address without a node (a seed) becomes
that of who answers there.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

from twisted.logger import Logger

from loghouse.gossip.members import MemberKey
from loghouse.limits import PEER_ADDRESSES_MAX
from loghouse.net.accept import AcceptedLink
from loghouse.net.peer import DialContext, PeerLink, PeerState
from loghouse.protocol.link_messages import Hello
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.session import Event, LinkUp

NOWHERE: Final = ("127.0.0.1", 0)
UNASKED_SECONDS_MAX: Final = 60.0
"""How long nobody has to send to one address of a node until it is given up, while another one answers."""


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`, as gossip passes it on.

    What other nodes say is not checked by node.yaml's rules: for an address that means nothing this is one
    where a connection is refused at once.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    try:
        is_host = bool(host.encode("idna"))
    except UnicodeError:
        is_host = False
    return (host, int(port)) if is_host and is_port else NOWHERE


def key_of(hello: Hello) -> MemberKey:
    """Return who a node is, by its Hello."""
    return MemberKey(hello.node_name, hello.disk_uuid)


def is_dialable(address: str) -> bool:
    """Whether an address names a host and a port."""
    return all(split_address(address))


@dataclass(slots=True)
class _Way:
    """A link to one address of a node, and when somebody sent there last, if the node has another."""

    link: PeerLink
    asked_at: float


class PeerSet:
    """Dialled links by node and address, and seeds by address."""

    logger = Logger()

    def __init__(
        self,
        link_up: Callable[[str, PeerLink, Hello], None],
        link_lost: Callable[[MemberKey], None],
        monotonic: Callable[[], float],
    ) -> None:
        """Dial nobody before `start`."""
        # Told at which address a dialled link came up, and what the other node said of itself; fixed.
        self._link_up = link_up
        self._link_lost = link_lost  # told whose link is gone, and maybe with it what was sent; fixed
        self._monotonic = monotonic  # seconds that only rise; fixed
        # The links to each node, by the address that each dials, the newest last; most nodes have one.
        self._by_key: dict[MemberKey, dict[str, _Way]] = {}
        # Links to addresses whose nodes are not known yet; one leaves for `_by_key` when its node answers.
        self._seeds: dict[str, PeerLink] = {}
        # What the node at the other end said of itself, for each link that is up.
        self._hellos: dict[PeerLink, Hello] = {}

    def start(self, context: DialContext) -> None:
        """Dial in this context from now on."""
        self._context = context  # how links are dialled; fixed from the start on

    def send_raft(self, key: MemberKey, address: str, envelope: Envelope) -> bool:
        """Send a Raft message to a node, wherever it answers; False when it was dropped."""
        link = self._link_that_is_up(key, address)
        return self._is_for(key, link) and link.send_raft(envelope)

    def send(self, key: MemberKey, address: str, message: Message, *, group: int = 0) -> bool:
        """Send another message as `send_raft`. `group` says of which log it is."""
        link = self._link_that_is_up(key, address)
        return self._is_for(key, link) and link.send(message, group=group)

    def send_to(self, key: MemberKey, address: str, message: Message) -> bool:
        """Send a message to a node at this address and no other: an answer tells that it is there."""
        link = self._link(key, address)
        return self._is_for(key, link) and link.send(message)

    def send_to_seed(self, address: str, message: Message) -> bool:
        """Send to whoever of this cluster answers at an address."""
        for ways in self._by_key.values():
            if address in ways:
                return ways[address].link.send(message)
        return self.seed(address).send(message)

    def seed(self, address: str) -> PeerLink:
        """Return the link to an address whose node is not known yet, dialling if needed."""
        link = self._seeds.get(address)
        if link is None:
            return self.fresh_seed(address)
        link.dial()
        return link

    def fresh_seed(self, address: str) -> PeerLink:
        """Dial an address anew: what its node says of itself may be another thing by now."""
        link = self._seeds[address] = self._make(address, "")
        link.dial()
        return link

    def hello_of(self, key: MemberKey) -> Hello | None:
        """Return what a node said on the dialled link that is up now; None when there is none."""
        link = self._up(key)
        return self._hellos[link] if link is not None else None

    def links(self) -> list[tuple[str, PeerLink]]:
        """Return the link to each known node that is up, or else its newest one, with the node's name."""
        return [
            (key.name, self._up(key) or next(reversed(ways.values())).link)
            for key, ways in self._by_key.items()
        ]

    def keep(self, keys: Set[MemberKey]) -> None:
        """Hang up on every node that is not among these, and dial it no more."""
        for key in self._by_key.keys() - keys:
            for way in self._by_key.pop(key).values():
                way.link.stop("no longer of this cluster")

    def stop(self, reason: str) -> None:
        """Say goodbye to everybody."""
        ways = [way.link for ways in self._by_key.values() for way in ways.values()]
        for link in [*ways, *self._seeds.values()]:
            link.stop(reason)
        self._by_key.clear()
        self._seeds.clear()

    def _is_for(self, key: MemberKey, link: PeerLink) -> bool:
        """Whether what is sent on a link gets to this node, as far as that is known."""
        # Another disk may answer: emptied, or of a machine that took name and address. What is for the node
        # that was dialled would break promises there, or be believed by the wrong one.
        hello = self._hellos.get(link) if link.state is PeerState.UP else None
        return hello is None or hello.disk_uuid == key.disk_uuid

    def _up(self, key: MemberKey) -> PeerLink | None:
        """Return the link on which a node answers now."""
        for way in self._by_key.get(key, {}).values():
            hello = self._hellos.get(way.link) if way.link.state is PeerState.UP else None
            if hello is not None and key_of(hello) == key:
                return way.link
        return None

    def _link_that_is_up(self, key: MemberKey, address: str) -> PeerLink:
        """Return the link to a node at an address, or the one where it answers instead."""
        link = self._link(key, address)
        if link.state is PeerState.UP or len(self._by_key[key]) == 1:
            return link
        other = self._up(key)
        if other is None:
            return link
        link.dial()
        return other

    def _link(self, key: MemberKey, address: str) -> PeerLink:
        ways = self._by_key.setdefault(key, {})
        way = ways.get(address)
        if way is not None and len(ways) == 1:
            return way.link
        now = self._monotonic()
        if way is None:
            for other in ways.values() if len(ways) == 1 else ():
                other.asked_at = now  # until now nobody noted it
            if len(ways) >= PEER_ADDRESSES_MAX:
                up = self._up(key)
                self._give_up(ways, min(ways, key=lambda one: (ways[one].link is up, ways[one].asked_at)))
            way = ways[address] = _Way(self._make(address, key.name), now)
        way.asked_at = now
        if len(ways) > 1 and way.link is self._up(key):
            for one in [one for one in ways if ways[one].asked_at < now - UNASKED_SECONDS_MAX]:
                self._give_up(ways, one)
        return way.link

    def _give_up(self, ways: dict[str, _Way], address: str) -> None:
        """Dial an address of a node no more: it has others."""
        ways.pop(address).link.stop("you moved")

    def _make(self, address: str, expected_node: str) -> PeerLink:
        host, port = split_address(address)

        def received(event: Event) -> None:
            if isinstance(event, LinkUp):
                self._came_up(address, link, event.hello)

        link = PeerLink(self._context, host, port, expected_node, received, lambda: self._lost(link))
        return link

    def _came_up(self, address: str, link: PeerLink, hello: Hello) -> None:
        key = key_of(hello)
        self._hellos[link] = hello
        if self._seeds.get(address) is link and key not in self._by_key:
            del self._seeds[address]
            link.expected_node = key.name
            self._by_key[key] = {address: _Way(link, 0.0)}
        self._link_up(address, link, hello)

    def _lost(self, link: PeerLink) -> None:
        hello = self._hellos.pop(link, None)
        if hello is not None:
            self._link_lost(key_of(hello))


class AcceptedPeers:
    """The links that other nodes dialled to this one; `net.accept.Peers` for the one port."""

    def __init__(
        self,
        *,
        admit: Callable[[Hello], None],
        event_received: Callable[[AcceptedLink, Event], None],
        link_lost: Callable[[MemberKey], None],
    ) -> None:
        self.admit = admit  # raises IdentityError unless a node may open a link; fixed
        self.event_received = event_received  # takes what nodes say; fixed
        self._link_lost = link_lost  # told when the last link of a node is gone; fixed
        # The links of each node that are up, the oldest first.
        self._links: dict[MemberKey, dict[AcceptedLink, None]] = {}

    def link_up(self, link: AcceptedLink) -> None:
        """A node's link is up."""
        self._links.setdefault(self._key(link), {})[link] = None

    def link_lost(self, link: AcceptedLink) -> None:
        """The link is gone."""
        key = self._key(link)
        links = self._links.get(key)
        if links is not None:
            links.pop(link, None)
            if not links:
                del self._links[key]
                self._link_lost(key)

    def close(self, name: str) -> None:
        """Cut off what the nodes of a name dialled."""
        for key in [key for key in self._links if key.name == name]:
            for link in list(self._links.get(key, ())):
                link.close()

    @staticmethod
    def _key(link: AcceptedLink) -> MemberKey:
        assert link.session is not None
        assert link.session.peer is not None
        return key_of(link.session.peer)
