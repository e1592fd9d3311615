"""A machine with a node's certificate that runs no node: it says what it likes over real sessions."""

from loghouse.net.peer import PeerState
from loghouse.protocol.link_messages import Hello, LinkRole
from tests.driver.links import TownLink


class Intruder:
    """Somebody of this name and disk, who knows the cluster's uuid."""

    is_running = True

    def __init__(self, town, name: str = "x", disk_uuid: bytes = b"X" * 16) -> None:
        self.town = town
        self.name = name
        self.disk_uuid = disk_uuid
        self.links: dict[str, TownLink] = {}

    def hello(self) -> Hello:
        return Hello(
            role=LinkRole.NODE,
            cluster_name="test",
            cluster_uuid=self.town.running[0].node.cluster_uuid,
            node_name=self.name,
            disk_uuid=self.disk_uuid,
            software="test",
        )

    def link(self, resident) -> TownLink:
        """The link to a node, up: its own successor after it was broken off."""
        link = self.links.get(resident.name)
        if link is None or link.state is not PeerState.UP:
            host, _, port = resident.address.partition(":")
            link = TownLink(self, host, int(port), resident.name, lambda event: None, lambda: None)
            self.links[resident.name] = link
            link.dial()
            self.town.until(lambda: link.state is PeerState.UP)
        return link

    def send(self, resident, message) -> None:
        self.link(resident).send(message, group=1)

    def send_raft(self, resident, envelope) -> None:
        self.link(resident).send_raft(envelope)
