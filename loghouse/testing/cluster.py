"""A whole cluster in one process: machines, network, clients and the adversary, driven by one seed.

    result = run_seed(draw_options(7))
    assert result.violation is None

A run has two phases. *Safety*: faults strike while clients work. *Liveness*: all faults
end, every machine is started, and within a bound a leader must be there, a write must be
acknowledged, and every member must hold the same log. Then the history is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.raft_messages import Envelope, envelope_from_wire, envelope_to_wire
from loghouse.raft.membership import bootstrap_entry
from loghouse.testing.atlas import Atlas
from loghouse.testing.nemesis import Fault, Nemesis, plan_faults
from loghouse.testing.network import SimNetwork
from loghouse.testing.node import GROUP, SimNode
from loghouse.testing.reconcile import Reconciler
from loghouse.testing.simulation import RunResult, Simulation
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.workload import Workload

CLUSTER_UUID = b"simulated-uuid-0"


class SimCluster(Simulation[SimNode]):
    """Machines 1 to n, of which the first `voters` begin as voters and the rest wait to be added."""

    network: SimNetwork
    atlas: Atlas
    reconciler: Reconciler

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
        super().__init__(options, write_trace)
        self.uuid = CLUSTER_UUID
        self.frame_seed = frame_seed(CLUSTER_UUID, GROUP)
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

    # --- the run ----------------------------------------------------------------------

    def boot(self) -> None:
        """Write the same first entry to the voters' disks and start every machine."""
        configuration = Configuration()
        for number in range(1, self.options.voters + 1):
            node = self.nodes[number]
            configuration = configuration.with_member(node.name, node.machine.disk_uuid, MemberRole.VOTER)
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

    def _revive(self, node: SimNode) -> None:
        node.paused_until = 0.0
        node.machine.heal()
        if not node.is_up:
            node.restart_after(0.0)

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

    def _replicas(self, leader: SimNode) -> Iterator[tuple[int, SimNode, Any, Any]]:
        assert leader.raft is not None
        for member in leader.raft.configuration.members:
            node = self.nodes[self.machine_of[member.id][0]]
            assert node.log is not None
            assert node.raft is not None
            yield member.id, node, node.log, node.raft

    def _counters(self) -> Counter[str]:
        network = self.network
        counters = super()._counters()
        counters.update(
            {
                "lost": network.lost + network.blocked,
                "duplicated": network.duplicated,
                "strayed": network.strayed,
                "membership_changes": self.reconciler.changes,
            }
        )
        return counters

    # --- who is who ---------------------------------------------------------------------

    def disk_at(self, number: int) -> bytes:
        """Return the uuid of the disk that is in a machine now."""
        return self.nodes[number].machine.disk_uuid

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


def run_seed(
    options: SwarmOptions,
    faults: tuple[Fault, ...] | None = None,
    write_trace: Callable[[str], object] | None = None,
) -> RunResult:
    """Run one seed's cluster from boot to judgement."""
    return SimCluster(options, faults, write_trace).run()
