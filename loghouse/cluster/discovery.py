"""A node with an empty disk: which cluster it is to belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from loghouse.net.peer import PeerLink, PeerState
from loghouse.protocol.link_messages import Hello
from loghouse.protocol.message import NO_UUID

JOIN_LOOKS_EAGER: Final = 4  # then every so many
LOOKS_SAID: Final = 3600  # an hour's: who is waited for is said when it changes, else so rarely
ANSWER_SECONDS_MAX: Final = 10.0


class Discovery:
    """A node with an empty disk asks everybody in `join` whether there is a cluster.

    One that belongs to a cluster settles it. Only when all of them answered that they belong to none may the
    node that bootstraps make one: so an emptied bootstrap node joins the living cluster instead of making a
    second one (`design.md` 7).
    """

    logger = Logger()

    def __init__(
        self,
        cluster_name: str,
        seeds: Sequence[str],
        *,
        bootstrap: bool,
        clock: IReactorTime,
        dial: Callable[[str], PeerLink],
        found: Callable[[bytes | None], None],
    ) -> None:
        """Look for the cluster."""
        self._cluster_name = cluster_name  # for the log; fixed
        self._seeds = seeds  # the addresses in `join`; fixed
        self._may_bootstrap = bootstrap  # whether this node may make a cluster; fixed
        self._clock = clock  # for the age of answers; fixed
        self._dial = dial  # makes a new link to an address; what its node says comes to `answered`; fixed
        self._found = found  # called once with the uuid of the cluster to join, or with None to make one
        # When each address said that its node belongs to no cluster; counts for a while only.
        self._answers: dict[str, float] = {}
        self._links: dict[str, PeerLink] = {}  # the last link dialled to each address
        self._calls = 0  # of `look`
        self._looks = 0  # those of them that asked; the others came too soon
        self._said_missing = ""  # who was waited for when that was last logged

    def look(self) -> None:
        """Ask who did not answer yet, again and again: often at first, when all may be starting together."""
        self._calls += 1
        if self._calls > JOIN_LOOKS_EAGER and self._calls % JOIN_LOOKS_EAGER:
            return
        oldest = self._clock.seconds() - ANSWER_SECONDS_MAX
        silent = sorted(address for address in self._seeds if self._answers.get(address, oldest) <= oldest)
        if self._may_bootstrap and not silent:
            self.logger.info("no cluster at any address of join: making a new one")
            self._found(None)
            return
        missing = ", ".join(silent) or "one: all that answered wait for the node that bootstraps"
        if (missing != self._said_missing and self._looks % 10 == 0) or self._looks % LOOKS_SAID == 0:
            self._said_missing = missing
            self.logger.info(
                "looking for a member of cluster {name}; no answer from {silent}",
                name=self._cluster_name,
                silent=missing,
            )
        self._looks += 1
        for address in self._seeds:
            link = self._links.get(address)
            if link is None or link.state is PeerState.UP:
                if link is not None:
                    link.stop("asking again")
                self._links[address] = self._dial(address)

    def answered(self, link: PeerLink, hello: Hello) -> None:
        """A node said who it is."""
        if hello.cluster_uuid != NO_UUID:
            self.logger.info(
                "joining the cluster of node {name}: {uuid}",
                name=hello.node_name,
                uuid=hello.cluster_uuid.hex(),
            )
            self._found(hello.cluster_uuid)
            return
        now = self._clock.seconds()
        self._answers.update({address: now for address, asked in self._links.items() if asked is link})
