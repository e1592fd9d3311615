"""The production node under watch, and links whose other end is who it says it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from loghouse.net.accept import AcceptedLink
from loghouse.node.node import Node
from loghouse.protocol.link_messages import Hello
from loghouse.protocol.raft_messages import Envelope
from loghouse.replica.damage import LogRepair
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.storage.log import Log
from loghouse.testing.watch import Watch


class WatchedNode(Node):
    """A `Node` that differs from the production one in nothing but that it is seen."""

    # Begins to watch a member of that id over the log.
    open_watch: Callable[[int, Log], Watch]

    def _host(self, opened: LogRepair) -> None:
        self.make_replica = partial(WatchedReplica, self.open_watch)  # type: ignore[assignment]
        super()._host(opened)

    # --- for the simulator ------------------------------------------------------------------

    @property
    def driver(self) -> RaftDriver | None:
        """The driver of the core; None while this node is no member."""
        return self.membership.driver

    @property
    def store(self) -> Log | None:
        """The log on the disk; None before the node belongs to a cluster."""
        return self.membership.replica.log if self.membership.replica is not None else None


class WatchedReplica(Replica):
    """A `Replica` that differs from the production one in nothing but that it is seen."""

    def __init__(self, open_watch: Callable[[int, Log], Watch], *args: Any, **settings: Any) -> None:
        self._open_watch = open_watch
        self._watch: Watch | None = None
        super().__init__(*args, **settings)

    def _make_driver(self, id_: int) -> RaftDriver:
        watch = self._watch = self._open_watch(id_, self.log)
        driver = super()._make_driver(id_)
        watch.follow(driver.raft)
        return driver

    def send(self, envelope: Envelope) -> None:
        """Send a message to another member, or drop it."""
        if self._watch is not None and self._watch.sending(envelope):
            super().send(envelope)
            self._watch.sent(envelope)


class AcceptedWithoutTls(AcceptedLink):
    """A link of another node. TLS is not simulated: who is there is taken from its Hello."""

    def _admit(self, hello: Hello) -> None:
        peers: Any = self._context.peers
        peers.admit(hello)
