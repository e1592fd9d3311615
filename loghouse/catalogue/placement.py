"""Which nodes are to hold a new log: apart from each other, and where the fewest replicas are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.records import CataloguedNode
from loghouse.errors import InvalidRequestError, ResourceExhaustedError
from loghouse.protocol.entry import crc32c


def choose_nodes(
    catalogue: Catalogue, log: str, count: int, alive: Iterable[str], on: Sequence[str] = ()
) -> list[CataloguedNode]:
    """Return the nodes for the replicas of a log, the one that should lead first.

    Two replicas never share a host; they share a rack only where there are fewer racks than replicas.

    Args:
        alive: The names of the nodes that could take a replica now.
        on: The names of the nodes that an operator chose; empty: any that are alive.

    Raises:
        InvalidRequestError: The nodes that were chosen are not known, not enough, or share a host.
        ResourceExhaustedError: Too few nodes of different hosts are alive, or have room for one more.
    """
    load = catalogue.load()
    full = {node.name for node in catalogue.nodes.values() if load[node.name] >= node.replicas_max}
    if on:
        nodes = _chosen(catalogue, count, on)
        held = set(catalogue.logs[log].nodes) if log in catalogue.logs else set()
        _check_room(sorted(full.intersection(on) - held))
    else:
        present = set(alive)
        candidates = [node for node in catalogue.nodes.values() if node.name in present - full]
        if len(candidates) < count:
            _check_room(sorted(full & present))
        nodes = _spread(candidates, load, log, count)
    leads = Counter(one.replicas[0].node for one in catalogue.logs.values())
    return sorted(nodes, key=lambda node: (leads[node.name], _chance(log, node)))


def _check_room(full: Sequence[str]) -> None:
    """Raise ResourceExhaustedError when nodes that are needed hold as many replicas as they may."""
    if full:
        raise ResourceExhaustedError(
            "replicas",
            f"{', '.join(full)} may hold no more: delete logs, add nodes, or raise limits.replicas_max "
            "there, and how many files it may have open",
        )


def _chosen(catalogue: Catalogue, count: int, on: Sequence[str]) -> list[CataloguedNode]:
    unknown = sorted(set(on) - catalogue.nodes.keys())
    if unknown:
        raise InvalidRequestError("on", f"{', '.join(unknown)} is no node of this cluster")
    if len(set(on)) != len(on) or len(on) != count:
        raise InvalidRequestError("on", f"{count} replicas need {count} different nodes, {len(on)} are named")
    nodes = [catalogue.nodes[name] for name in on]
    for host, number in Counter(_host_of(node) for node in nodes).items():
        if number > 1:
            raise InvalidRequestError("on", f"{number} of these nodes are on the host {host}")
    return nodes


def _spread(
    candidates: Sequence[CataloguedNode], load: Mapping[str, int], log: str, count: int
) -> list[CataloguedNode]:
    left = {node.name: node for node in candidates}
    racks: Counter[str] = Counter()
    chosen: list[CataloguedNode] = []
    while len(chosen) < count:
        if not left:
            raise ResourceExhaustedError(
                "nodes", f"{count} replicas need {count} nodes on different hosts; {len(chosen)} are alive"
            )
        best = min(left.values(), key=lambda node: (racks[node.rack], load[node.name], _chance(log, node)))
        chosen.append(best)
        # Nodes without a rack are no reason to stay away from each other.
        racks[best.rack] += bool(best.rack)
        left = {name: node for name, node in left.items() if _host_of(node) != _host_of(best)}
    return chosen


def _host_of(node: CataloguedNode) -> str:
    """Return the smallest thing that fails as a whole: the machine, or the node where it is not named."""
    return node.host or node.name


def _chance(log: str, node: CataloguedNode) -> int:
    """Return a number that orders nodes another way for each log, and the same way everywhere."""
    return crc32c(f"{log} {node.name}".encode())
