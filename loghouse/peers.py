"""The links to the other nodes: one dialled to each for sending, those they dialled for receiving.

Nodes are known by name; an address is only where one is tried. A link to an address
without a name (a seed) takes the name of who answers there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from loghouse.net.accept import AcceptedLink
from loghouse.net.peer import DialDoor, PeerLink, PeerState
from loghouse.protocol.link_messages import Hello
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.session import Event, LinkUp


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`, as gossip passes it on; port 0 when it has none.

    What other nodes say is not checked by node.yaml's rules: an address that means nothing cannot be dialled,
    and that is all.
    """
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5
    return host.strip("[]"), int(port) if is_port and int(port) < 65536 else 0


def is_dialable(address: str) -> bool:
    """Whether an address names a host and a port."""
    return all(split_address(address))


class PeerSet:
    """Dialled links by node name, and seeds by address."""

    logger = Logger()

    def __init__(
        self,
        door: DialDoor,
        link_up: Callable[[PeerLink, Hello], None],
        link_lost: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Dial nobody yet.

        Args:
            link_up: Told when a dialled link came up, and what the other node said of itself.
            link_lost: Told which node's dialled link is gone, and maybe with it what was sent.
        """
        self._door = door
        self._link_up = link_up
        self._link_lost = link_lost
        self._by_name: dict[str, tuple[str, PeerLink]] = {}
        self._seeds: dict[str, PeerLink] = {}
        self._hellos: dict[str, Hello] = {}

    def send_raft(self, name: str, address: str, envelope: Envelope) -> bool:
        """Send a Raft message to a node; False when it was dropped."""
        return self._link(name, address).send_raft(envelope)

    def send(self, name: str, address: str, message: Message) -> bool:
        """Send another message to a node; False when it was dropped."""
        return self._link(name, address).send(message)

    def send_to_seed(self, address: str, message: Message) -> bool:
        """Send to whoever of this cluster answers at an address."""
        for known_address, link in self._by_name.values():
            if known_address == address:
                return link.send(message)
        return self.seed(address).send(message)

    def seed(self, address: str) -> PeerLink:
        """Return the link to an address whose node is not known yet, dialling if needed."""
        link = self._seeds.get(address)
        if link is None:
            link = self._seeds[address] = self._make(address, "")
        link.dial()
        return link

    def fresh_seed(self, address: str) -> PeerLink:
        """Dial an address anew: what its node says of itself may be another thing by now."""
        link = self._seeds[address] = self._make(address, "")
        link.dial()
        return link

    def hello_of(self, name: str) -> Hello | None:
        """Return what a node said on the dialled link that is up now; None when there is none."""
        entry = self._by_name.get(name)
        is_up = entry is not None and entry[1].state is PeerState.UP
        return self._hellos.get(name) if is_up else None

    def link_of(self, name: str) -> PeerLink | None:
        """Return the dialled link to a node, whatever its state."""
        entry = self._by_name.get(name)
        return entry[1] if entry else None

    def keep(self, names: Iterable[str]) -> None:
        """Hang up on every named node that is not among these."""
        for name in sorted(set(self._by_name) - set(names)):
            self._by_name.pop(name)[1].stop("no longer of this cluster")
            self._hellos.pop(name, None)

    def stop(self, reason: str) -> None:
        """Say goodbye to everybody."""
        for link in [*(link for _, link in self._by_name.values()), *self._seeds.values()]:
            link.stop(reason)
        self._by_name.clear()
        self._seeds.clear()
        self._hellos.clear()

    def _link(self, name: str, address: str) -> PeerLink:
        entry = self._by_name.get(name)
        if entry is not None and entry[0] == address:
            return entry[1]
        if entry is not None:
            entry[1].stop("you moved")
        link = self._make(address, name)
        self._by_name[name] = (address, link)
        return link

    def _make(self, address: str, expected_node: str) -> PeerLink:
        host, port = split_address(address)

        def received(event: Event) -> None:
            if isinstance(event, LinkUp):
                self._came_up(address, link, event.hello)

        link = PeerLink(
            self._door, host, port, expected_node, received, lambda: self._link_lost(link.expected_node)
        )
        return link

    def _came_up(self, address: str, link: PeerLink, hello: Hello) -> None:
        name = hello.node_name
        if self._seeds.get(address) is link and name not in self._by_name:
            del self._seeds[address]
            link.expected_node = name
            self._by_name[name] = (address, link)
        entry = self._by_name.get(name)
        if entry is not None and entry[1] is link:
            self._hellos[name] = hello
        self._link_up(link, hello)


class AcceptedPeers:
    """The links that other nodes dialled to this one; `net.accept.Peers` for the front door."""

    def __init__(
        self,
        *,
        admit: Callable[[Hello], None],
        event_received: Callable[[AcceptedLink, Event], None],
        link_lost: Callable[[str], None],
    ) -> None:
        self._admit = admit
        self._event_received = event_received
        self._link_lost = link_lost
        self._links: dict[str, dict[AcceptedLink, None]] = {}

    def admit(self, hello: Hello) -> None:
        """Raise IdentityError unless this node may open a link."""
        self._admit(hello)

    def link_up(self, link: AcceptedLink) -> None:
        """A node's link is up."""
        self._links.setdefault(self._name(link), {})[link] = None

    def event_received(self, link: AcceptedLink, event: Event) -> None:
        """A node said something."""
        self._event_received(link, event)

    def link_lost(self, link: AcceptedLink) -> None:
        """The link is gone."""
        name = self._name(link)
        links = self._links.get(name)
        if links is not None:
            links.pop(link, None)
            if not links:
                del self._links[name]
                self._link_lost(name)

    def close(self, name: str) -> None:
        """Cut off what a node dialled."""
        for link in list(self._links.get(name, ())):
            link.close()

    @staticmethod
    def _name(link: AcceptedLink) -> str:
        assert link.session is not None
        assert link.session.peer is not None
        return link.session.peer.node_name
