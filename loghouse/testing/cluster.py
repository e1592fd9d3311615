"""A whole cluster in one process: machines, network, clients and the adversary, driven by one seed.

    result = SimCluster(draw_options(7)).run()
    assert result.violation is None

A run has two phases. *Safety*: faults strike while clients work. *Liveness*: all faults
end, every machine is started, and within a bound a leader must be there, a write must be
acknowledged, and every member must hold the same log. Then the history is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.raft_messages import Envelope, envelope_from_wire, envelope_to_wire
from loghouse.raft.membership import bootstrap_entry
from loghouse.testing.atlas import CoreAtlas
from loghouse.testing.cursor_work import CursorWork
from loghouse.testing.machine import GROUP
from loghouse.testing.nemesis import Fault, Nemesis, plan_faults
from loghouse.testing.network import SimNetwork
from loghouse.testing.node import Places, SimNode
from loghouse.testing.reconcile import Reconciler
from loghouse.testing.simulation import Simulation
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.workload import Workload

CLUSTER_UUID = b"simulated-uuid-0"
FRAME_SEED = frame_seed(CLUSTER_UUID, GROUP)


class SimCluster(Simulation[SimNode]):
    """Machines 1 to n, of which the first `voters` begin as voters and the rest wait to be added."""

    network: SimNetwork
    atlas: CoreAtlas
    reconciler: Reconciler

    def __init__(
        self,
        options: SwarmOptions,
        faults: tuple[Fault, ...] | None = None,
        write_trace: Callable[[str], object] | None = None,
    ) -> None:
        """Build a cluster that is not yet running; `faults` are drawn from the options when None."""
        super().__init__(options, write_trace)
        self.network = SimNetwork(self.clock, self.stream("network"), options.network, self._deliver)
        self.places: Places = {}
        self.atlas = CoreAtlas(self)
        self.nodes = {
            number: SimNode(
                self,
                number,
                places=self.places,
                transmit=self._send,
                cluster_uuid=CLUSTER_UUID,
            )
            for number in range(1, options.voters + options.spares + 1)
        }
        self.reconciler = Reconciler(self, self.places)
        self.nemesis = Nemesis(self, plan_faults(options) if faults is None else faults)
        self.work = Workload(self.clock, self, self.history, options)
        self.cursor_work = CursorWork(self.clock, self, self.history, options)

    # --- the run ----------------------------------------------------------------------

    def boot(self) -> None:
        """Write the same first entry to the voters' disks and start every machine."""
        configuration = Configuration()
        for number in range(1, self.options.voters + 1):
            node = self.nodes[number]
            configuration = configuration.with_member(node.name, node.machine.disk_uuid, MemberRole.VOTER)
            node.join(number)
            self.places[number] = (number, node.machine.disk_uuid)
        entry = bootstrap_entry(self.frame_seed, configuration, 1_700_000_000_000_000)
        for node in self.nodes.values():
            node.machine.create_log([entry] if node.member else [])
        self.oracle.bootstrap(entry)
        for node in self.nodes.values():
            node.start()
        self.work.start(self.stream)
        self.cursor_work.start(self.stream)
        self.reconciler.begin()

    @property
    def frame_seed(self) -> int:
        """The seed of the cluster's frames."""
        return FRAME_SEED

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

    # --- the network ----------------------------------------------------------------------

    def _send(self, source: int, target: int, envelope: Envelope) -> None:
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
