"""The fault atlas of production nodes: as the core's, but damage is repaired by the nodes themselves."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

from loghouse.testing.atlas import Atlas
from loghouse.testing.checkers import Violation

if TYPE_CHECKING:
    from loghouse.testing.cluster import SimCluster
    from loghouse.testing.full.cluster import FullCluster
    from loghouse.testing.full.host import Host


class FullAtlas(Atlas):
    """Knows what is lost. A machine is whole again when its log holds what it held, or its new disk votes."""

    def __init__(self, cluster: FullCluster) -> None:
        super().__init__(cast("SimCluster", cluster))
        self._full = cluster
        # What a damaged machine's member number was, and how far its promises went.
        self._rotten: dict[int, int] = {}
        # In which life the bit flipped: only a later one has read all from the disk.
        self._since: dict[int, int] = {}

    def _forget_repaired(self) -> None:
        super()._forget_repaired()
        for host_number, number in list(self._rotten.items()):
            host = self._full.nodes[host_number]
            node = host.node
            if host_number not in self._lost:
                del self._rotten[host_number]
                continue
            if node is None or node.raft is None or node.number != number or node.raft.damage is not None:
                continue
            view = self._full.oracle.view(number)
            is_whole = (
                view.durable_index >= view.promised_index and host.incarnation > self._since[host_number]
            )
            if is_whole and view.chain_at(view.promised_index) in (view.promised_chain, None):
                # Its log has all again, read from its disk since.
                view.excused = False
                del self._rotten[host_number]
                del self._lost[host_number]

    def wipe(self, rng: random.Random) -> str:
        """Put an empty disk into some machine: it must come back as another member."""
        host = self._host(rng)
        if host is None:
            return ""
        self._lost[host.number] = host.machine.disk_uuid
        self._replace(host, rng)
        return "wipe"

    def _host(self, rng: random.Random) -> Host | None:
        return cast("Host | None", self._victim(rng))

    def _replace(self, host: Host, rng: random.Random) -> None:
        self._excuse(host)
        host.crash(rng)
        host.is_on = False
        host.machine.new_disk()
        host.restart_after(self._full.options.election_seconds * 2)

    def _excuse(self, host: Host) -> None:
        for number in self._full.oracle.numbers_of(host.machine.disk_uuid):
            self._full.oracle.view(number).excused = True

    def rot(self, rng: random.Random) -> str:
        """Flip a bit on some machine's disk; it is noticed when it is read, or at the next start."""
        host = self._host(rng)
        if host is None or host.node is None or not host.node.number:
            return ""
        where = host.machine.rot(rng)
        if not where:
            return ""
        number = host.node.number
        self._lost[host.number] = host.machine.disk_uuid
        self._rotten[host.number] = number
        self._since[host.number] = host.incarnation
        self._excuse(host)
        self._full.trace.note(f"{host.name} rots: {where}")
        if rng.random() < 0.7:
            host.crash(rng)
            host.restart_after(self._full.options.election_seconds)
        return "bit rot"

    def met_damage(self, host: Host, error: Exception) -> None:
        """A running node found damage and ends; its next start repairs it."""
        if host.number not in self._lost:
            raise Violation(
                "recovery", f"{host.name} ends though nothing damaged its disk: {error}"
            ) from error

    def refused(self, host: Host, error: Exception) -> None:  # type: ignore[override]
        """A machine will not start on what its disk holds; then its operator gives it a new one."""
        if host.number not in self._lost:
            raise Violation(
                "recovery", f"{host.name} refuses to start though nothing damaged its disk: {error}"
            ) from error
        self._full.trace.note(f"{host.name} refuses to start: {error}")
        clock, incarnation = self._full.clock, host.incarnation
        clock.after(self._full.options.election_seconds, self._replace_refused, host, incarnation)

    def _replace_refused(self, host: Host, incarnation: int) -> None:
        if not host.is_up and host.incarnation == incarnation:
            self._replace(host, self._full.stream(f"atlas.{host.number}.{incarnation}"))
