"""A node with an empty disk: which cluster it is to belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from loghouse.net.peer import PeerLink, PeerState
from loghouse.protocol.link_messages import Hello
from loghouse.protocol.message import NO_UUID

if TYPE_CHECKING:
    from loghouse.cluster import Cluster

JOIN_LOOKS_EAGER: Final = 4  # then every so many
LOOKS_TOLD: Final = 3600  # an hour's: who is waited for is said when it changes, else so rarely
ANSWER_SECONDS_MAX: Final = 10.0


class Joining:
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
        self._told = ""

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
        missing = ", ".join(silent) or "one: all that answered wait for the node that bootstraps"
        if (missing != self._told and self._looks % 10 == 0) or self._looks % LOOKS_TOLD == 0:
            self._told = missing
            self.logger.info(
                "looking for a member of cluster {name}; no answer from {silent}",
                name=cluster.node.cluster_name,
                silent=missing,
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
