"""A cluster of production nodes in one process, driven by one seed.

As `testing.cluster`, with the same nemesis, clients and oracle, but the machines run what a user runs:
`Node`, `RaftDriver`, `Cluster`, `Forwarder`, `LogRepair` and real links. They find each other by themselves:
one machine bootstraps, the others join.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from loghouse.protocol.entry import frame_seed
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.message import NO_UUID
from loghouse.testing.cursor_work import CursorWork
from loghouse.testing.full.atlas import FullAtlas
from loghouse.testing.full.follower import Follower
from loghouse.testing.full.host import ANSWER_SECONDS_MAX, FullHost
from loghouse.testing.full.members import Operators
from loghouse.testing.full.named import Books, NamedLog
from loghouse.testing.full.swarm import FullOptions
from loghouse.testing.full.tcp import TcpNetwork
from loghouse.testing.host import Host
from loghouse.testing.nemesis import Fault, Nemesis, plan_faults
from loghouse.testing.simulation import Simulation
from loghouse.testing.workload import Answer, Workload

GROUP = 1


class FullCluster(Simulation[FullHost]):
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
            number: FullHost(self, number, join=self.join, swim=options.swim)
            for number in range(1, options.voters + options.spares + 1)
        }
        self.reconciler = Operators(self, trims=options.trims)
        self.nemesis = FullNemesis(self, plan_faults(options) if faults is None else faults)
        self.work = Workload(self.clock, self, self.history, options)
        self.cursor_work = CursorWork(self.clock, self, self.history, options)
        self.follower = Follower(self, self.stream("follower"))
        # The books of each group that has a name, from when a node first opens its log.
        self._books: dict[int, Books] = {}
        rng = self.stream("named logs")
        self.named = [NamedLog(self, f"log-{n}", rng.choice((1, 2, 3, 3))) for n in range(options.logs)]

    @property
    def frame_seed(self) -> int:
        """The seed of the frames of the cluster that was made; 0 before that."""
        for host in self.nodes.values():
            if host.node is not None and host.node.cluster_uuid != NO_UUID:
                return frame_seed(host.node.cluster_uuid, GROUP)
        return 0

    def books_of(self, group: int) -> Books:
        """Return the books of a group that has a name."""
        books = self._books.get(group)
        if books is None:
            books = self._books[group] = Books(self, partial(self._seed_of, group))
        return books

    def _seed_of(self, group: int) -> int:
        uuid = next(host.node.cluster_uuid for host in self.nodes.values() if host.node is not None)
        return frame_seed(uuid, group)

    def _machine_at(self, address: str) -> FullHost | None:
        return next((host for host in self.nodes.values() if host.address == address), None)

    # --- the run ---------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the first machines, one after the other, then clients, and whoever operates the cluster."""
        # Nodes of an earlier run are collected now: in the middle of this one, what their coroutines fail at
        # would pass for a failure of the node that happens to be at work. See `FullHost._dead`, too.
        gc.collect()
        rng = self.stream("boot")
        for number in range(1, self.options.voters + 1):
            self.clock.after(rng.random(), self._start_first, self.nodes[number])
        self.work.start(self.stream)
        self.cursor_work.start(self.stream)
        self.follower.begin()
        self.reconciler.begin()
        for log in self.named:
            log.begin()

    def _start_first(self, host: FullHost) -> None:
        if not host.incarnation:
            host.start()

    def _run_liveness(self) -> None:
        super()._run_liveness()
        self.clock.advance(ANSWER_SECONDS_MAX)

    def describe(self) -> str:
        """Return one line about every node."""
        at, end = self.follower.next_offset, self.oracle.state.next_offset
        problems = [log.problem() for log in self.named]
        logs = "".join(f"; {problem}" for problem in problems if problem)
        return f"{super().describe()}; the follower is at {at} of {end}{logs}"

    def _is_converged(self) -> bool:
        is_at_end = self.follower.next_offset == self.oracle.state.next_offset
        if not (is_at_end and super()._is_converged() and self._see_each_other()):
            return False
        return not any(log.problem() for log in self.named)

    def _works(self) -> list[Workload]:
        return [self.work, *(log.work for log in self.named)]

    def _judge(self) -> None:
        super()._judge()
        for log in self.named:
            log.judge()
        self.check()

    def _see_each_other(self) -> bool:
        """Whether gossip at each member calls all members alive."""
        leader = self.leader()
        assert leader is not None
        assert leader.raft is not None
        members = leader.raft.configuration.members
        return all(_sees_all(self.host_named(member.name), len(members)) for member in members)

    def _counters(self) -> Counter[str]:
        network = self.network
        counters = super()._counters()
        counters["acknowledged"] = sum(work.acknowledged for work in self._works())
        counters["slept"] = sum(log.slept for log in self.named)
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

    def _arrive(self, number: int, ask: Callable[[FullHost, Answer], Any], back: Answer) -> None:
        cancel = ask(self.nodes[number], back)
        if self._client_rng.random() < 0.3:  # a caller whose deadline is over takes its call back
            self.clock.after(self.options.request_timeout_seconds * 2, cancel)


def _sees_all(host: FullHost, count: int) -> bool:
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
        super().__init__(cluster, faults)
        self._acts["link_reset"] = cluster.network.reset_links
        self._acts["stop"] = self._on_victim(self._stop_in_order)

    def _stop_in_order(self, rng: random.Random, victim: Host) -> str:
        assert isinstance(victim, FullHost)
        victim.stop_in_order(self._later(rng, 0.1, 4))
        return "stop"
