"""The fault atlas of production nodes: as the core's, but damage is repaired by the nodes themselves."""

from __future__ import annotations

from typing import Any

from loghouse.testing.atlas import Atlas
from loghouse.testing.host import Host
from loghouse.testing.simulation import Simulation


class FullAtlas(Atlas):
    """Knows what is lost. A machine is whole again when its log holds what it held, or its new disk votes."""

    def __init__(self, cluster: Simulation[Any]) -> None:
        super().__init__(cluster)
        # What a damaged machine's member number was, and how far its promises went.
        self._rotten: dict[int, int] = {}
        # In which life the bit flipped: only a later one has read all from the disk.
        self._since: dict[int, int] = {}

    def _forget_repaired(self) -> None:
        super()._forget_repaired()
        for host_number, number in list(self._rotten.items()):
            host: Host = self._cluster.nodes[host_number]
            watch, raft = host.watch, host.raft
            if host_number not in self._lost:
                del self._rotten[host_number]
                continue
            if raft is None or watch is None or watch.number != number or raft.damage is not None:
                continue
            view = self._cluster.oracle.view(number)
            is_whole = (
                view.durable_index >= view.promised_index and host.incarnation > self._since[host_number]
            )
            if is_whole and view.chain_at(view.promised_index) in (view.promised_chain, None):
                # Its log has all again, read from its disk since.
                view.excused = False
                del self._rotten[host_number]
                del self._lost[host_number]

    def _rotted(self, host: Host) -> None:
        assert host.watch is not None
        self._rotten[host.number] = host.watch.number
        self._since[host.number] = host.incarnation
        self._excuse(host)
