"""A cluster of production nodes in one process, driven by one seed.

As `testing.cluster`, with the same nemesis, clients and oracle, but the machines run what a user runs:
`Node`, `Replica`, `Cluster`, `Forwarder`, `LogRepair` and real links. They find each other by themselves:
one machine bootstraps, the others join.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from loghouse.errors import DamageError
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.message import NO_UUID
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Proposal
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.cluster import RunResult, SimCluster
from loghouse.testing.full.atlas import FullAtlas
from loghouse.testing.full.follower import Follower
from loghouse.testing.full.host import ANSWER_SECONDS_MAX, Host
from loghouse.testing.full.members import Operators
from loghouse.testing.full.swarm import FullOptions
from loghouse.testing.full.tcp import TcpNetwork
from loghouse.testing.history import History
from loghouse.testing.nemesis import Fault, Nemesis, plan_faults
from loghouse.testing.streams import substream
from loghouse.testing.trace import Trace
from loghouse.testing.workload import Answer, Workload

GROUP = 1


class FullCluster:
    """Machines 1 to n, of which the first `voters` start at once and the rest when an operator wants one."""

    def __init__(
        self,
        options: FullOptions,
        faults: tuple[Fault, ...] | None = None,
        write_trace: Callable[[str], object] | None = None,
    ) -> None:
        """Build a cluster that is not yet running; arguments as `SimCluster`."""
        self.options = options
        self.clock = SimClock()
        self.trace = Trace(self.clock.seconds, write_trace)
        self.oracle = Oracle()
        self.history = History()
        self.current = ""
        self._violation: Violation | None = None
        limits = options.raft
        self.raft_config = RaftConfig(
            election_ticks=limits.election_ticks,
            heartbeat_ticks=limits.heartbeat_ticks,
            snapshot_ticks=limits.snapshot_ticks,
            append_size_max=limits.append_size_max,
            inflight_entries_max=limits.inflight_entries_max,
            inflight_size_max=limits.inflight_size_max,
            proposals_max=limits.proposals_max,
            proposals_size_max=limits.proposals_size_max,
            committed_size_max=limits.committed_size_max,
            cache_size_max=limits.cache_size_max,
            reads_max=limits.reads_max,
        )
        self.network = TcpNetwork(
            self.clock,
            self.stream("network"),
            options.network,
            self.trace,
            self._machine_at,
            options.write_buffer_size,
        )
        self._client_rng = self.stream("clients")
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

    def stream(self, name: str) -> random.Random:
        """Return the generator of one concern of this seed."""
        return substream(self.options.seed, name)

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
        result = RunResult(self.options.seed)
        observer = cast(ILogObserver, self._observe)
        globalLogPublisher.addObserver(observer)
        try:
            self._boot()
            self.clock.run_until(self.options.safety_seconds)
            self._run_liveness()
            self._judge()
            self.check()
        except Violation as violation:
            result.violation = violation
        except Exception as error:
            # A broken invariant inside a node is as bad as one that the oracle finds.
            result.violation = Violation("crash", f"{type(error).__name__}: {error}")
            result.violation.__cause__ = error
        finally:
            globalLogPublisher.removeObserver(observer)
        result.simulated_seconds = self.clock.seconds()
        result.faults = self.nemesis.injected
        result.counters = self._counters()
        result.digest = self.trace.digest()
        return result

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

    def _boot(self) -> None:
        rng = self.stream("boot")
        for number in range(1, self.options.voters + 1):
            self.clock.after(rng.random(), self._start_first, self.nodes[number])
        self.work.start(self.stream)
        self.follower.begin()
        self.reconciler.begin()

    def _start_first(self, host: Host) -> None:
        if not host.incarnation:
            host.start()

    def _run_liveness(self) -> None:
        """End all faults; a leader, a write through it, and one log everywhere must come within the bound."""
        self.trace.note("faults end")
        self.nemesis.stop()
        options = self.options
        self.network.heal(options.election_seconds * 0.02)
        self.atlas.heal()
        for host in self.nodes.values():
            host.resume()
            host.machine.heal()
            if not host.is_up and host.incarnation:
                host.restart_after(0.0)
        deadline = self.clock.seconds() + options.liveness_seconds
        step = options.election_seconds
        self.work.think_seconds_min = 2 * options.election_seconds
        acknowledged = self.work.acknowledged
        while self.work.acknowledged == acknowledged or not self.reconciler.is_settled():
            problem = "no write was acknowledged" if self.work.acknowledged == acknowledged else "members"
            self._check_deadline(deadline, f"{problem}: {self.reconciler.describe()}")
            self.clock.advance(step)
        self.work.stopped = True
        self.reconciler.stop()
        while not self._is_converged():
            self._check_deadline(deadline, f"members did not converge: {self.describe()}")
            self.clock.advance(step)
        self.clock.advance(ANSWER_SECONDS_MAX)

    def _check_deadline(self, deadline: float, problem: str) -> None:
        if self.clock.seconds() > deadline:
            raise Violation("liveness", f"{problem}, {self.options.liveness_seconds} s after the last fault")

    def describe(self) -> str:
        """Return one line about every node."""
        nodes = "; ".join(host.describe() for host in self.nodes.values())
        return f"{nodes}; the follower is at {self.follower.next_offset} of {self.oracle.state.next_offset}"

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
            if node is None or node.replica is None or host.member != member.id:
                return False
            if node.replica.readable_index != raft.last_index or not _sees_all(
                host, len(raft.configuration.members)
            ):
                return False
        return True

    def _judge(self) -> None:
        leader = self.leader()
        assert leader is not None
        assert leader.raft is not None
        for member in leader.raft.configuration.members:
            host = self.host_named(member.name)
            node = host.node
            assert node is not None
            assert node.log is not None
            assert node.raft is not None
            try:
                entries = host.machine.all_entries(node.log)
            except DamageError as error:
                if not self.atlas.is_lost(cast(Any, host)):
                    raise Violation("recovery", f"{host.name}: nothing damaged its disk: {error}") from error
            else:
                self.oracle.check_replica(node.number, entries, node.log.state, node.raft._log.state)
        problems = self.history.problems(self.oracle.committed)
        if problems:
            raise Violation("history", "; ".join(problems[:5]))

    def _counters(self) -> Counter[str]:
        network, work = self.network, self.work
        return Counter(
            {
                "messages": network.delivered,
                "lost": network.lost,
                "connections": network.connections,
                "resets": network.resets,
                "events": self.clock.calls_made,
                "acknowledged": work.acknowledged,
                "refused": work.refused,
                "timed_out": work.timed_out,
                "reads": work.reads,
                "entries": self.oracle.committed_index,
                "leaders": self.oracle.leader_count,
                "checks": self.oracle.checks,
                "restarts": sum(max(0, host.incarnation - 1) for host in self.nodes.values()),
                "orders": self.reconciler.orders,
                "orders_done": self.reconciler.done,
            }
        )

    # --- who is who ---------------------------------------------------------------------------------

    def leader(self) -> Host | None:
        """Return the running node that leads the highest term, if any."""
        leading = [host for host in self.nodes.values() if host.leads]
        return max(leading, key=_term_of, default=None)

    def change_membership(self, rng: random.Random) -> str:
        """Let an operator order something."""
        return self.reconciler.change(rng)

    # --- what clients reach (workload.Servers) ----------------------------------------------------------

    def numbers(self) -> list[int]:
        """Return the numbers of all machines."""
        return list(self.nodes)

    def propose(self, number: int, proposal: Proposal, answer: Answer) -> None:
        """Carry an append to a node and its answer back; either may be lost."""
        self._request(lambda back: self.nodes[number].propose(proposal, back), answer)

    def read(self, number: int, offset: int, answer: Answer) -> None:
        """Carry a read to a node and its answer back."""
        self._request(lambda back: self.nodes[number].read(offset, back), answer)

    def tail(self, number: int, answer: Answer) -> None:
        """Carry a question for the next offset to a node and its answer back."""
        self._request(lambda back: self.nodes[number].tail(back), answer)

    def _request(self, ask: Callable[[Answer], Callable[[], None]], answer: Answer) -> None:
        rng, clock, options = self._client_rng, self.clock, self.network.options

        def travel() -> float:
            return options.delay_seconds_min + rng.random() * options.delay_seconds_mean

        def back(result: object) -> None:
            if rng.random() >= options.loss * 0.5:
                clock.after(travel(), answer, result)

        def arrive() -> None:
            cancel = ask(back)
            if rng.random() < 0.3:  # a caller whose deadline is over takes its call back
                clock.after(self.options.request_timeout_seconds * 2, cancel)

        if rng.random() >= options.loss * 0.5:
            clock.after(travel(), arrive)


def _term_of(host: Host) -> int:
    raft = host.raft
    return raft.term if raft is not None else 0


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
