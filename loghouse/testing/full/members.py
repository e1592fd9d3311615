"""The operators of a cluster of production nodes: they let nodes in and out, and trim."""

from __future__ import annotations

import random

from loghouse.cluster.reconcile import next_configuration
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.testing.full.host import FullHost
from loghouse.testing.simulation import Simulation


class Operators:
    """Give orders through some node, and say when the members are as they should be."""

    def __init__(self, cluster: Simulation[FullHost], *, trims: bool) -> None:
        self._cluster = cluster
        self._trims = trims
        self._rng = cluster.stream("operators")
        self._stopped = False
        self.orders = 0
        self.done = 0

    def begin(self) -> None:
        """Start to trim now and then, if the seed does."""
        if self._trims:
            self._trim()

    def stop(self) -> None:
        """Order nothing any more."""
        self._stopped = True

    # --- orders -----------------------------------------------------------------------------

    def change(self, rng: random.Random) -> str:
        """Order a change of the members, through any node that runs."""
        cluster = self._cluster
        leader = cluster.leader()
        running = [host for host in cluster.nodes.values() if host.is_up]
        if leader is None or leader.raft is None or not running:
            return ""
        configuration = leader.raft.configuration
        asked = rng.choice(running)
        idle = [host for host in cluster.nodes.values() if not host.incarnation]
        if idle and rng.random() < 0.5:
            idle[0].start()
            return "new machine"
        if configuration.removed and rng.random() < 0.5:
            name = rng.choice(configuration.removed)
            self._order(asked, "add", name, is_learner=False)
            return "add"
        return self._take_out(rng, configuration, asked)

    def _take_out(self, rng: random.Random, configuration: Configuration, asked: FullHost) -> str:
        cluster = self._cluster
        if cluster.atlas.has_losses:
            return ""  # a lost voter still counts: taking a good one out now could end the group
        others = [host.name for host in cluster.nodes.values() if host.name not in configuration.removed]
        name = rng.choice(others) if others else ""
        is_voter = any(member.role is MemberRole.VOTER for member in configuration.named(name))
        if not name or (is_voter and len(configuration.voters) <= cluster.atlas.voters_min):
            return ""
        if rng.random() < 0.2:
            self._order(asked, "add", name, is_learner=True)
            return "make replica"
        if rng.random() < 0.3 and cluster.host_named(name).is_up:
            self._order(cluster.host_named(name), "leave", name)
            return "leave"
        self._order(asked, "remove", name)
        return "remove"

    def _order(self, asked: FullHost, what: str, name: str, *, is_learner: bool = False) -> None:
        self.orders += 1
        cluster = self._cluster
        cluster.trace.note(f"{asked.name} is ordered to {what} {name}{' as replica' if is_learner else ''}")

        def answer(result: object) -> None:
            self.done += not isinstance(result, Exception)
            cluster.trace.note(f"{asked.name} answers {what} {name}: {type(result).__name__}")
            cluster.trace.line(f"{asked.name}: {result}")

        if what == "add":
            asked.order(what, lambda node: node.administration.add(name, is_learner), answer)
        elif what == "leave":
            asked.order(what, lambda node: node.administration.leave(), answer)
        else:
            asked.order(what, lambda node: node.administration.remove(name), answer)

    def _trim(self) -> None:
        if self._stopped:
            return
        cluster, rng = self._cluster, self._rng
        running = [host for host in cluster.nodes.values() if host.is_up]
        if running:
            highest = cluster.oracle.state.next_offset
            offset = max(0, highest - rng.choice((0, 1, 10, 50)))
            rng.choice(running).order("trim", lambda node: node.log("").trim(offset), lambda result: None)
        cluster.clock.after(rng.expovariate(1 / 3.0), self._trim)

    # --- what should be ------------------------------------------------------------------------

    def is_settled(self) -> bool:
        """Whether the members are what a leader wants them to be, and that is committed."""
        leader = self._cluster.leader()
        if leader is None or leader.raft is None or leader.links is None or leader.node is None:
            return False
        raft = leader.raft
        if not raft.configuration_is_committed:
            return False
        wanted = next_configuration(
            raft.configuration,
            leader.links.present(),
            is_caught_up=leader.node.membership.is_caught_up,
            is_heard=leader.node.membership.is_heard,
        )
        return wanted is None and not self.missing(raft.configuration)

    def missing(self, configuration: Configuration) -> list[str]:
        """Return the machines that should be members and are not, or not with the disk they have."""
        found = {(member.name, member.disk_uuid) for member in configuration.members}
        running = [host for host in self._cluster.nodes.values() if host.incarnation]
        wanted = {
            (host.name, host.machine.disk_uuid) for host in running if host.name not in configuration.removed
        }
        return sorted(name for name, _ in wanted ^ found)

    def describe(self) -> str:
        """Return what is amiss."""
        leader = self._cluster.leader()
        if leader is None or leader.raft is None:
            return "no leader"
        return f"amiss: {self.missing(leader.raft.configuration)}; {self._cluster.describe()}"
