"""The fault atlas: how much loss a run may cause, so that whatever is acknowledged must survive.

Crashes, partitions and stalls lose nothing that was synced. Bit rot and emptied disks do.
They may strike only machines whose loss leaves a majority of voters whole; until such a machine
is repaired or replaced, it counts as lost.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from loghouse.errors import DamageError
from loghouse.testing.checkers import Violation

if TYPE_CHECKING:
    from loghouse.testing.cluster import SimCluster
    from loghouse.testing.node import SimNode


class Atlas:
    """Knows what is lost, and says what more may be."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._lossy = any(kind in ("bit_rot", "wipe") for kind, _ in cluster.options.faults)
        # Machines whose disk lost something, and which disk that was.
        self._lost: dict[int, bytes] = {}

    @property
    def voters_min(self) -> int:
        """Voters that the group keeps: enough for one loss where losses are in the mix."""
        return 3 if self._lossy else 1

    @property
    def has_losses(self) -> bool:
        """Whether some member's disk lost something and is not made good yet."""
        self._forget_repaired()
        return bool(self._lost)

    def _forget_repaired(self) -> None:
        """A loss is over when the old member is out of the configuration and its successor has its place."""
        leader = self._cluster.leader()
        if leader is None or leader.raft is None or not leader.raft.configuration_is_committed:
            return
        members = leader.raft.configuration.members
        for number, uuid in list(self._lost.items()):
            node = self._cluster.nodes[number]
            if all(member.disk_uuid != uuid for member in members) and (
                node.machine.disk_uuid != uuid and node.member in leader.raft.configuration.voters
            ):
                del self._lost[number]

    def _may_lose(self, number: int) -> bool:
        """Whether the group survives that this machine's disk loses something now."""
        leader = self._cluster.leader()
        if leader is None or leader.raft is None or not leader.raft.configuration_is_committed:
            return False
        voters = leader.raft.configuration.voters
        lost = {*self._lost, number}
        # Every machine that is wanted as a voter but is none yet may be on its way out or in: count it.
        unsettled = 0 if self._cluster.reconciler.is_settled() else 1
        return len(lost) + unsettled <= (len(voters) - 1) // 2

    def _victim(self, rng: random.Random) -> SimNode | None:
        nodes = list(self._cluster.nodes.values())
        rng.shuffle(nodes)
        return next((node for node in nodes if node.member and self._may_lose(node.number)), None)

    def wipe(self, rng: random.Random) -> str:
        """Put an empty disk into some machine: it must come back as another member."""
        node = self._victim(rng)
        if node is None:
            return ""
        self._lost[node.number] = node.machine.disk_uuid
        self._replace_disk(node, rng)
        return "wipe"

    def _replace_disk(self, node: SimNode, rng: random.Random) -> None:
        self._cluster.oracle.view(node.member).excused = True
        node.crash(rng)
        node.member = 0
        node.machine.new_disk()
        node.machine.create_log([])
        node.restart_after(self._cluster.options.election_seconds * 2)

    def rot(self, rng: random.Random) -> str:
        """Flip bits on some machine's disk; it is noticed when they are read, or at the next start."""
        node = self._victim(rng)
        if node is None:
            return ""
        where = node.machine.rot(rng)
        if not where:
            return ""
        self._lost[node.number] = node.machine.disk_uuid
        self._cluster.trace.note(f"{node.name} rots: {where}")
        if rng.random() < 0.7:
            node.crash(rng)
            node.restart_after(self._cluster.options.election_seconds)
        return "bit rot"

    def expect_loss(self, node: SimNode) -> None:
        """Let a scenario damage a machine beyond what the atlas allows."""
        self._lost[node.number] = node.machine.disk_uuid

    def is_lost(self, node: SimNode) -> bool:
        """Whether this machine's disk lost something and is still in use."""
        return node.number in self._lost

    def refused(self, node: SimNode, error: DamageError) -> None:
        """A machine will not start on what its disk holds; then its operator gives it a new one."""
        if node.number not in self._lost:
            raise Violation(
                "recovery", f"{node.name} refuses to start though nothing damaged its disk: {error}"
            )
        self._cluster.trace.note(f"{node.name} refuses to start: {error}")
        self._cluster.clock.after(
            self._cluster.options.election_seconds, self._replace_if_down, node, node.incarnation
        )

    def _replace_if_down(self, node: SimNode, incarnation: int) -> None:
        if not node.is_up and node.incarnation == incarnation and node.number in self._lost:
            self._replace_disk(node, self._cluster.stream(f"atlas.{node.number}.{incarnation}"))

    def heal(self) -> None:
        """Lose nothing more; what is lost is still to be made good."""
        self._lossy = False
