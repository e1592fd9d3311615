"""A whole cluster in one process: machines, network, clients and the adversary, driven by one seed.

    result = run_seed(draw_options(7))
    assert result.violation is None

A run has two phases. *Safety*: faults strike while clients work. *Liveness*: all faults
end, every machine is started, and within a bound a leader must be there, a write must be
acknowledged, and every member must hold the same log. Then the history is judged.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from loghouse.errors import DamageError
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.configuration import Role as Part
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.raft_messages import Envelope, envelope_from_wire, envelope_to_wire
from loghouse.raft.config import RaftConfig
from loghouse.raft.membership import bootstrap_entry
from loghouse.raft.ready import Proposal, Role
from loghouse.testing.atlas import Atlas
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.history import History
from loghouse.testing.nemesis import Fault, Nemesis, plan_faults
from loghouse.testing.network import SimNetwork
from loghouse.testing.node import GROUP, SimNode
from loghouse.testing.reconcile import Reconciler
from loghouse.testing.streams import substream
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.trace import Trace
from loghouse.testing.workload import Answer, Workload

CLUSTER_UUID = b"simulated-uuid-0"


@dataclass(slots=True)
class RunResult:
    """What came of a seed. `violation` is None for a clean run."""

    seed: int
    violation: Violation | None = None
    simulated_seconds: float = 0.0
    digest: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)


class SimCluster:
    """Machines 1 to n, of which the first `voters` begin as voters and the rest wait to be added."""

    def __init__(
        self,
        options: SwarmOptions,
        faults: tuple[Fault, ...] | None = None,
        write_trace: Callable[[str], object] | None = None,
    ) -> None:
        """Build a cluster that is not yet running.

        Args:
            options: From `draw_options`, or made by hand.
            faults: The schedule; drawn from the options when None.
            write_trace: Gets every step as a line.
        """
        self.options = options
        self.clock = SimClock()
        self.trace = Trace(self.clock.seconds, write_trace)
        self.oracle = Oracle()
        self.history = History()
        self.uuid = CLUSTER_UUID
        self.frame_seed = frame_seed(CLUSTER_UUID, GROUP)
        self._client_rng = self.stream("clients")
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
        self.network = SimNetwork(self.clock, self.stream("network"), options.network, self._deliver)
        # Which machine and disk an id was given to; ids are never given twice in a run.
        self.machine_of: dict[int, tuple[int, bytes]] = {}
        self.atlas = Atlas(self)
        self.nodes = {
            number: SimNode(self, number, self.stream(f"node.{number}"))
            for number in range(1, options.voters + options.spares + 1)
        }
        self.reconciler = Reconciler(self)
        self.nemesis = Nemesis(self, plan_faults(options) if faults is None else faults)
        self.work = Workload(self.clock, self, self.history, options)

    def stream(self, name: str) -> random.Random:
        """Return the generator of one concern of this seed."""
        return substream(self.options.seed, name)

    # --- the run ----------------------------------------------------------------------

    def boot(self) -> None:
        """Write the same first entry to the voters' disks and start every machine."""
        configuration = Configuration()
        for number in range(1, self.options.voters + 1):
            node = self.nodes[number]
            configuration = configuration.with_member(node.name, node.machine.disk_uuid, Part.VOTER)
            node.member = number
            self.machine_of[number] = (number, node.machine.disk_uuid)
        entry = bootstrap_entry(self.frame_seed, configuration, 1_700_000_000_000_000)
        for node in self.nodes.values():
            node.machine.create_log([entry] if node.member else [])
        self.oracle.bootstrap(entry)
        for node in self.nodes.values():
            node.start()
        self.work.start(self.stream)
        self.reconciler.begin()

    def run(self) -> RunResult:
        """Run both phases; what is found is in the result."""
        result = RunResult(self.options.seed)
        try:
            self.boot()
            self.clock.run_until(self.options.safety_seconds)
            self._run_liveness()
            self._judge()
        except Violation as violation:
            result.violation = violation
        except Exception as error:
            # A broken invariant inside a node is as bad as one that the oracle finds.
            result.violation = Violation("crash", f"{type(error).__name__}: {error}")
            result.violation.__cause__ = error
        result.simulated_seconds = self.clock.seconds()
        result.faults = self.nemesis.injected
        result.counters = self._counters()
        result.digest = self.trace.digest()
        return result

    def _run_liveness(self) -> None:
        """End all faults; a leader, a write through it, and one log everywhere must come within the bound."""
        self.trace.note("faults end")
        self.nemesis.stop()
        # Messages and syncs must be quick beside an election timeout, or no protocol makes progress.
        self.network.heal(self.options.election_seconds * 0.02)
        self.atlas.heal()
        for node in self.nodes.values():
            node.paused_until = 0.0
            node.machine.heal()
            if not node.is_up:
                node.restart_after(0.0)
        deadline = self.clock.seconds() + self.options.liveness_seconds
        step = self.options.election_seconds
        # Under full load a new member may never be within a window of one entry of the leader.
        self.work.think_seconds_min = 2 * self.options.election_seconds
        # Clients go on for a while, so that writes are seen to work, then stop, so that logs can be equal.
        acknowledged = self.work.acknowledged
        while self.work.acknowledged == acknowledged or not self.reconciler.is_settled():
            self._check_deadline(
                deadline,
                "no write was acknowledged"
                if self.work.acknowledged == acknowledged
                else f"the members are not as wanted: {self.reconciler.describe()}",
            )
            self.clock.advance(step)
        self.work.stopped = True
        self.reconciler.stop()
        while not self._is_converged():
            self._check_deadline(deadline, f"members did not converge: {self.describe()}")
            self.clock.advance(step)

    def _check_deadline(self, deadline: float, problem: str) -> None:
        if self.clock.seconds() > deadline:
            raise Violation("liveness", f"{problem}, {self.options.liveness_seconds} s after the last fault")

    def describe(self) -> str:
        """Return one line about every node."""
        return "; ".join(node.describe() for node in self.nodes.values())

    def _is_converged(self) -> bool:
        leader = self.leader()
        if leader is None or leader.raft is None:
            return False
        ids = [member.id for member in leader.raft.configuration.members]
        last_index = leader.raft.last_index
        if last_index != self.oracle.committed_index:
            return False
        for id_ in ids:
            node = self.nodes[self.machine_of[id_][0]]
            raft = node.raft
            if raft is None or node.member != id_ or node.published_index != last_index:
                return False
        return True

    def _judge(self) -> None:
        leader = self.leader()
        assert leader is not None
        assert leader.raft is not None
        for member in leader.raft.configuration.members:
            node = self.nodes[self.machine_of[member.id][0]]
            assert node.log is not None
            try:
                entries = node.machine.all_entries(node.log)
            except DamageError as error:
                if not self.atlas.is_lost(node):
                    raise Violation("recovery", f"{node.name}: nothing damaged its disk: {error}") from error
            else:
                assert node.raft is not None
                self.oracle.check_replica(member.id, entries, node.log.state, node.raft._log.state)
        problems = self.history.problems(self.oracle.committed)
        if problems:
            raise Violation("history", "; ".join(problems[:5]))

    def _counters(self) -> Counter[str]:
        network, work = self.network, self.work
        return Counter(
            {
                "messages": network.delivered,
                "lost": network.lost + network.blocked,
                "duplicated": network.duplicated,
                "strayed": network.strayed,
                "events": self.clock.calls_made,
                "acknowledged": work.acknowledged,
                "refused": work.refused,
                "timed_out": work.timed_out,
                "reads": work.reads,
                "entries": self.oracle.committed_index,
                "leaders": self.oracle.leader_count,
                "checks": self.oracle.checks,
                "restarts": sum(node.incarnation for node in self.nodes.values()) - len(self.nodes),
                "membership_changes": self.reconciler.changes,
            }
        )

    # --- who is who ---------------------------------------------------------------------

    def leader(self) -> SimNode | None:
        """Return the running node that leads the highest term, if any."""
        best: SimNode | None = None
        for node in self.nodes.values():
            raft = node.raft
            if raft is None or raft.role is not Role.LEADER or not node.is_up:
                continue
            if best is None or best.raft is None or raft.term > best.raft.term:
                best = node
        return best

    def disk_at(self, number: int) -> bytes:
        """Return the uuid of the disk that is in a machine now."""
        return self.nodes[number].machine.disk_uuid

    def change_membership(self, rng: random.Random) -> str:
        """Want one machine more, fewer, or in another part."""
        return self.reconciler.change(rng)

    # --- the network ----------------------------------------------------------------------

    def transmit(self, source: int, target: int, envelope: Envelope) -> None:
        """Send a message from one machine to another, through the codec in seeds that ask for it."""
        if self.options.wire:
            kind, group, pieces = envelope_to_wire(envelope)
            envelope = envelope_from_wire(kind, group, b"".join(pieces), self.frame_seed)
        if self.trace.loud:
            self.trace.line(f"n{source} -> n{target} {envelope.source}->{envelope.target} {envelope.message}")
        self.network.send(source, target, envelope)

    def _deliver(self, source: int, target: int, envelope: Envelope) -> None:
        message = envelope.message
        self.trace.step(message.KIND, source, target, message.term, envelope.target)
        self.nodes[target].receive(source, envelope)

    # --- what clients reach (workload.Servers) ----------------------------------------------

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

    def _request(self, ask: Callable[[Answer], None], answer: Answer) -> None:
        rng, clock, options = self._client_rng, self.clock, self.network.options

        def travel() -> float:
            return options.delay_seconds_min + rng.random() * options.delay_seconds_mean

        def back(result: object) -> None:
            if rng.random() >= options.loss * 0.5:
                clock.after(travel(), answer, result)

        if rng.random() >= options.loss * 0.5:
            clock.after(travel(), ask, back)


def run_seed(
    options: SwarmOptions,
    faults: tuple[Fault, ...] | None = None,
    write_trace: Callable[[str], object] | None = None,
) -> RunResult:
    """Run one seed's cluster from boot to judgement."""
    return SimCluster(options, faults, write_trace).run()
