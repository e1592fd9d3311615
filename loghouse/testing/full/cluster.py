"""A cluster of production nodes in one process, driven by one seed.

As `testing.cluster`, with the same nemesis, clients and oracle, but the machines run what a user runs:
`Node`, `RaftDriver`, `Cluster`, `Forwarder`, `LogRepair` and real links. They find each other by themselves:
one machine bootstraps, the others join.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from loghouse.protocol.entry import frame_seed
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.message import NO_UUID
from loghouse.testing.checkers import Violation
from loghouse.testing.cluster import SimCluster
from loghouse.testing.full.atlas import FullAtlas
from loghouse.testing.full.follower import Follower
from loghouse.testing.full.host import ANSWER_SECONDS_MAX, Host
from loghouse.testing.full.members import Operators
from loghouse.testing.full.swarm import FullOptions
from loghouse.testing.full.tcp import TcpNetwork
from loghouse.testing.nemesis import Fault, Nemesis, plan_faults
from loghouse.testing.simulation import RunResult, Simulation
from loghouse.testing.workload import Answer, Workload

GROUP = 1


class FullCluster(Simulation[Host]):
    """Machines 1 to n, of which the first `voters` start at once and the rest when an operator wants one."""

    options: FullOptions
    network: TcpNetwork
    atlas: FullAtlas
    reconciler: Operators

    def __init__(
        self,
        options: FullOptions,
        faults: tuple[Fault, ...] | None = None,
        write_trace: Callable[[str], object] | None = None,
    ) -> None:
        """Build a cluster that is not yet running; arguments as `SimCluster`."""
        super().__init__(options, write_trace)
        self.current = ""
        self._violation: Violation | None = None
        self.network = TcpNetwork(
            self.clock,
            self.stream("network"),
            options.network,
            self.trace,
            self._machine_at,
            options.write_buffer_size,
        )
        self.join = tuple(f"n{number}:1" for number in range(1, options.voters + 1))
        self.atlas = FullAtlas(self)
        self.nodes = {
            number: Host(self, number, self.stream(f"node.{number}"))
            for number in range(1, options.voters + options.spares + 1)
        }
        self.reconciler = Operators(self)
        self.nemesis = FullNemesis(self, plan_faults(options) if faults is None else faults)
        self.work = Workload(self.clock, self, self.history, options)
        self.follower = Follower(self, self.stream("follower"))

    @property
    def frame_seed(self) -> int:
        """The seed of the frames of the cluster that was made; 0 before that."""
        for host in self.nodes.values():
            if host.node is not None and host.node.cluster_uuid != NO_UUID:
                return frame_seed(host.node.cluster_uuid, GROUP)
        return 0

    def _machine_at(self, address: str) -> Host | None:
        return next((host for host in self.nodes.values() if host.address == address), None)

    def host_named(self, name: str) -> Host:
        """Return the machine of that name."""
        return next(host for host in self.nodes.values() if host.name == name)

    # --- what is found -------------------------------------------------------------------------

    def guarded(self, check: Callable[..., object], *args: Any) -> None:
        """Ask the oracle; what it finds ends the run, whoever catches the exception on its way."""
        try:
            check(*args)
        except Violation as violation:
            if self._violation is None:
                self._violation = violation
            raise

    def crashed(self, name: str, error: BaseException | None) -> None:
        """A node met an error that nothing explains."""
        if isinstance(error, Violation):
            violation = error
        else:
            violation = Violation("crash", f"{name}: {type(error).__name__}: {error}")
            violation.__cause__ = error
        if self._violation is None:
            self._violation = violation

    def check(self) -> None:
        """Raise what was found, if anything was.

        Raises:
            Violation: A rule was broken.
        """
        if self._violation is not None:
            raise self._violation

    # --- the run ---------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run both phases; what is found is in the result."""
        observer = cast(ILogObserver, self._observe)
        globalLogPublisher.addObserver(observer)
        try:
            return super().run()
        finally:
            globalLogPublisher.removeObserver(observer)

    def _observe(self, event: dict[str, Any]) -> None:
        """Take what the nodes write into their diagnostics; a failure nobody handled is found here."""
        if not self.current:
            return
        if self.trace.loud:
            self.trace.line(f"{self.current}: {formatEvent(event)}")
        failure = event.get("log_failure")
        if failure is not None:
            host = self.host_named(self.current)
            if host.is_up:
                self.crashed(self.current, failure.value)

    def boot(self) -> None:
        """Start the first machines, one after the other, then clients, and whoever operates the cluster."""
        rng = self.stream("boot")
        for number in range(1, self.options.voters + 1):
            self.clock.after(rng.random(), self._start_first, self.nodes[number])
        self.work.start(self.stream)
        self.follower.begin()
        self.reconciler.begin()

    def _start_first(self, host: Host) -> None:
        if not host.incarnation:
            host.start()

    def _revive(self, node: Host) -> None:
        node.resume()
        node.machine.heal()
        if not node.is_up and node.incarnation:
            node.restart_after(0.0)

    def _run_liveness(self) -> None:
        super()._run_liveness()
        self.clock.advance(ANSWER_SECONDS_MAX)

    def describe(self) -> str:
        """Return one line about every node."""
        at, end = self.follower.next_offset, self.oracle.state.next_offset
        return f"{super().describe()}; the follower is at {at} of {end}"

    def _is_converged(self) -> bool:
        leader = self.leader()
        if leader is None or leader.raft is None:
            return False
        raft = leader.raft
        if raft.last_index != self.oracle.committed_index:
            return False
        if self.follower.next_offset != self.oracle.state.next_offset:
            return False
        for member in raft.configuration.members:
            host = self.host_named(member.name)
            node = host.node
            if node is None or node.driver is None or host.member != member.id:
                return False
            if node.driver.readable_index != raft.last_index or not _sees_all(
                host, len(raft.configuration.members)
            ):
                return False
        return True

    def _replicas(self, leader: Host) -> Iterator[tuple[int, Host, Any, Any]]:
        assert leader.raft is not None
        for member in leader.raft.configuration.members:
            host = self.host_named(member.name)
            node = host.node
            assert node is not None
            assert node.store is not None
            assert node.raft is not None
            yield node.number, host, node.store, node.raft

    def _judge(self) -> None:
        super()._judge()
        self.check()

    def _counters(self) -> Counter[str]:
        network = self.network
        counters = super()._counters()
        counters.update(
            {
                "lost": network.lost,
                "connections": network.connections,
                "resets": network.resets,
                "orders": self.reconciler.orders,
                "orders_done": self.reconciler.done,
            }
        )
        return counters

    def _arrive(self, ask: Callable[[Answer], Any], back: Answer) -> None:
        cancel = ask(back)
        if self._client_rng.random() < 0.3:  # a caller whose deadline is over takes its call back
            self.clock.after(self.options.request_timeout_seconds * 2, cancel)


def _sees_all(host: Host, count: int) -> bool:
    """Whether gossip at a machine calls all members alive."""
    if host.links is None:
        return False
    if count == 1:
        return True
    alive = [member for member in host.links._members() if member.liveness is Liveness.ALIVE]
    return len(alive) >= count


class FullNemesis(Nemesis):
    """The adversary, with what only whole processes and connections can suffer."""

    def __init__(self, cluster: FullCluster, faults: tuple[Fault, ...]) -> None:
        super().__init__(cast(SimCluster, cluster), faults)
        self._full = cluster
        self._acts["link_reset"] = cluster.network.reset_links
        self._acts["stop"] = self._stop_in_order

    def _stop_in_order(self, rng: random.Random) -> str:
        victim = cast("Host | None", self._victim(rng))
        if victim is None:
            return ""
        victim.stop_in_order(self._later(rng, 0.1, 4))
        return "stop"


def run_full_seed(
    options: FullOptions,
    faults: tuple[Fault, ...] | None = None,
    write_trace: Callable[[str], object] | None = None,
) -> RunResult:
    """Run one seed's cluster of production nodes from boot to judgement."""
    return FullCluster(options, faults, write_trace).run()
