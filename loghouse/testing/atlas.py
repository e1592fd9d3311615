"""The fault atlas: how much loss a run may cause, so that whatever is acknowledged must survive.

Crashes, partitions and stalls lose nothing that was synced. Bit rot and emptied disks do.
They may strike only machines whose loss leaves a majority of voters whole; until such a machine
is repaired or replaced, it counts as lost.
"""

from __future__ import annotations

import random
from typing import Any

from loghouse.testing.checkers import Violation
from loghouse.testing.host import Host
from loghouse.testing.simulation import Simulation


class Atlas:
    """Knows what is lost, and says what more may be."""

    def __init__(self, cluster: Simulation[Any]) -> None:
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

    def _victim(self, rng: random.Random) -> Host | None:
        nodes: list[Host] = list(self._cluster.nodes.values())
        rng.shuffle(nodes)
        return next((node for node in nodes if node.member and self._may_lose(node.number)), None)

    def wipe(self, rng: random.Random) -> str:
        """Put an empty disk into some machine: it must come back as another member."""
        host = self._victim(rng)
        if host is None:
            return ""
        self._lost[host.number] = host.machine.disk_uuid
        self._replace_disk(host, rng)
        return "wipe"

    def _replace_disk(self, host: Host, rng: random.Random) -> None:
        self._excuse(host)
        host.crash(rng)
        host.replace_disk()
        host.restart_after(self._cluster.options.election_seconds * 2)

    def _excuse(self, host: Host) -> None:
        for number in self._cluster.oracle.numbers_of(host.machine.disk_uuid):
            self._cluster.oracle.view(number).excused = True

    def rot(self, rng: random.Random) -> str:
        """Flip a bit on some machine's disk; it is noticed when it is read, or at the next start."""
        host = self._victim(rng)
        if host is None:
            return ""
        where = host.machine.rot(rng)
        if not where:
            return ""
        self._lost[host.number] = host.machine.disk_uuid
        self._rotted(host)
        self._cluster.trace.note(f"{host.name} rots: {where}")
        if rng.random() < 0.7:
            host.crash(rng)
            host.restart_after(self._cluster.options.election_seconds)
        return "bit rot"

    def _rotted(self, host: Host) -> None:
        """What is on a member's disk is not what it wrote any more."""

    def refused(self, host: Host, error: Exception) -> None:
        """A machine will not start on what its disk holds; then its operator gives it a new one."""
        self._check_is_lost(host, f"refuses to start though nothing damaged its disk: {error}")
        self._cluster.trace.note(f"{host.name} refuses to start: {error}")
        self._replace_later(host)

    def _replace_later(self, host: Host) -> None:
        after, incarnation = self._cluster.clock.after, host.incarnation
        after(self._cluster.options.election_seconds, self._replace_if_down, host, incarnation)

    def _replace_if_down(self, host: Host, incarnation: int) -> None:
        if not host.is_up and host.incarnation == incarnation:
            self._replace_disk(host, self._cluster.stream(f"atlas.{host.number}.{incarnation}"))

    def met_damage(self, host: Host, error: Exception) -> None:
        """A running process found damage and ends; its next start repairs it."""
        self._check_is_lost(host, f"ends though nothing damaged its disk: {error}")

    def _check_is_lost(self, host: Host, problem: str) -> None:
        if host.number not in self._lost:
            raise Violation("recovery", f"{host.name} {problem}")

    def expect_loss(self, host: Host) -> None:
        """Let a scenario damage a machine beyond what the atlas allows."""
        self._lost[host.number] = host.machine.disk_uuid

    def is_lost(self, host: Host) -> bool:
        """Whether this machine's disk lost something and is still in use."""
        return host.number in self._lost

    def heal(self) -> None:
        """Lose nothing more; what is lost is still to be made good."""
        self._lossy = False


class CoreAtlas(Atlas):
    """For machines that repair nothing: one that meets damage gets an empty disk, and another id."""

    def met_damage(self, host: Host, error: Exception) -> None:
        """A running process found damage and ends; its operator does not wait for what a start would say."""
        super().met_damage(host, error)
        self._replace_later(host)
