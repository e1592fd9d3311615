"""Changes of the catalogue: the record that does what was asked for, or the error that says why not.

A record is right for the catalogue that it was decided with, and for no later one: whoever appends it
demands the catalogue's `next_offset`, and decides again when another record was first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.placement import choose_nodes
from loghouse.catalogue.records import (
    CataloguedLog,
    CataloguedNode,
    LogAltered,
    LogCreated,
    LogDeleted,
    LogPlaced,
    LogSettings,
    NodeSet,
    PlacedReplica,
    Span,
)
from loghouse.errors import InvalidRequestError, ResourceExhaustedError, UnknownLogError
from loghouse.limits import LOGS_MAX
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG
from loghouse.protocol.message import check_name


def register_node(catalogue: Catalogue, node: CataloguedNode, *, at: int, by: str) -> NodeSet | None:
    """Return the record by which a node may hold logs as it is now; None when it says so already."""
    return NodeSet(at=at, by=by, node=node) if catalogue.nodes.get(node.name) != node else None


def adopt_default_log(
    catalogue: Catalogue, settings: LogSettings, replicas: tuple[PlacedReplica, ...], *, at: int, by: str
) -> LogCreated | None:
    """Return the record of the log that is older than the catalogue; None when it is there."""
    if DEFAULT_LOG in catalogue.logs:
        return None
    span = Span(group=DEFAULT_GROUP, replicas=replicas)
    return LogCreated(at=at, by=by, name=DEFAULT_LOG, settings=settings, spans=(span,))


def create_log(
    catalogue: Catalogue,
    name: str,
    settings: LogSettings,
    *,
    alive: Iterable[str],
    on: Sequence[str] = (),
    at: int,
    by: str,
) -> LogCreated | None:
    """Return the record that creates a log; None when it is there already, with the same settings.

    Args:
        alive: The names of the nodes that could take a replica now.
        on: The names of the nodes that it is to be placed on; empty: chosen here.

    Raises:
        InvalidRequestError: No name for a log, other settings than it has, or nodes that cannot be meant.
        ResourceExhaustedError: Too many logs, or too few nodes.
    """
    try:
        check_name("log", name)
    except ValueError as error:
        raise InvalidRequestError("name", str(error)) from None
    known = catalogue.logs.get(name)
    if known is not None:
        if known.settings != settings:
            raise InvalidRequestError("name", f"log {name} exists, with other settings; alter it instead")
        if on and sorted(on) != sorted(one.node for one in known.replicas):
            raise InvalidRequestError("on", f"log {name} exists, on other nodes")
        return None
    if len(catalogue.logs) >= LOGS_MAX:
        raise ResourceExhaustedError("logs", f"there are {LOGS_MAX} already; delete one first")
    nodes = choose_nodes(catalogue, name, settings.replicas, alive, on)
    replicas = tuple(
        PlacedReplica(member=member, node=node.name, disk_uuid=node.disk_uuid)
        for member, node in enumerate(nodes, start=1)
    )
    span = Span(group=catalogue.next_group, replicas=replicas)
    return LogCreated(at=at, by=by, name=name, settings=settings, spans=(span,))


def alter_log(catalogue: Catalogue, name: str, *, at: int, by: str, **changes: Any) -> LogAltered | None:
    """Return the record that gives a log other settings; None when it has them.

    Args:
        changes: Fields of `LogSettings`, those alone that change.

    Raises:
        UnknownLogError: There is no such log.
        InvalidRequestError: A setting is not possible, or cannot change (`replicas`, as yet).
    """
    log = _log(catalogue, name)
    try:
        settings = replace(log.settings, **changes)
    except ValueError as error:
        raise InvalidRequestError("settings", str(error)) from None
    if settings.replicas != log.settings.replicas:
        raise InvalidRequestError("replicas", f"log {name} has {log.settings.replicas}; that cannot change")
    if settings == log.settings:
        return None
    return LogAltered(at=at, by=by, group=log.group, settings=settings)


def delete_log(catalogue: Catalogue, name: str, *, at: int, by: str) -> LogDeleted:
    """Return the record that deletes a log.

    Raises:
        UnknownLogError: There is no such log.
        InvalidRequestError: It is `default`, which the original's clients use without naming it.
    """
    if name == DEFAULT_LOG:
        raise InvalidRequestError("name", f"log {DEFAULT_LOG} cannot be deleted; trim it")
    return LogDeleted(at=at, by=by, group=_log(catalogue, name).group)


def replace_replica(catalogue: Catalogue, name: str, *, lost: str, new: str, at: int, by: str) -> LogPlaced:
    """Return the record that gives a log a replica on another node, in place of one that is lost for good.

    Raises:
        UnknownLogError: There is no such log.
        InvalidRequestError: It is not on the lost node, or cannot be placed on the new one.
    """
    log = _log(catalogue, name)
    kept = [one for one in log.replicas if one.node != lost]
    if len(kept) == len(log.replicas):
        raise InvalidRequestError("replace", f"log {name} has no replica on {lost}")
    names = [*(one.node for one in kept), new]
    node = next(one for one in choose_nodes(catalogue, name, len(names), (), names) if one.name == new)
    replica = PlacedReplica(member=log.next_member, node=node.name, disk_uuid=node.disk_uuid)
    return LogPlaced(at=at, by=by, group=log.group, replicas=(*kept, replica))


def renew_replica(catalogue: Catalogue, group: int, node: str, *, at: int, by: str) -> LogPlaced | None:
    """Return the record that gives a log a new replica on a node, for the one whose disk is gone.

    The new one is another member: the old one may have voted, and what it promised is lost with its disk.
    None when the log has no replica on another disk of that node than the one that the node has now.
    """
    log, known = catalogue.log_of(group), catalogue.nodes.get(node)
    if log is None or known is None or log.name == DEFAULT_LOG:
        return None
    lost = [one for one in log.replicas if one.node == node and one.disk_uuid != known.disk_uuid]
    if not lost:
        return None
    new = PlacedReplica(member=log.next_member, node=node, disk_uuid=known.disk_uuid)
    replicas = tuple(new if one in lost else one for one in log.replicas)
    return LogPlaced(at=at, by=by, group=group, replicas=replicas)


def complete_replicas(catalogue: Catalogue, alive: Iterable[str], *, at: int, by: str) -> LogPlaced | None:
    """Return the record that gives a log one more of the replicas that its settings ask for.

    None when no log lacks one, or no node could hold it now. Only a log that was restored from a backup lacks
    some: it begins on one node.
    """
    for log in catalogue.logs.values():
        if log.name == DEFAULT_LOG or len(log.replicas) >= log.settings.replicas:
            continue
        node = _one_more(catalogue, log, alive)
        if node is not None:
            replica = PlacedReplica(member=log.next_member, node=node.name, disk_uuid=node.disk_uuid)
            return LogPlaced(at=at, by=by, group=log.group, replicas=(*log.replicas, replica))
    return None


def _one_more(catalogue: Catalogue, log: CataloguedLog, alive: Iterable[str]) -> CataloguedNode | None:
    """Return the node that is best for one more replica of a log; None when none can hold it."""
    held, load = log.nodes, catalogue.load()
    racks = {catalogue.nodes[name].rack for name in held if name in catalogue.nodes}
    others = [catalogue.nodes[name] for name in alive if name in catalogue.nodes and name not in held]
    for node in sorted(others, key=lambda one: (one.rack in racks, load[one.name], one.name)):
        names = [*held, node.name]
        try:
            choose_nodes(catalogue, log.name, len(names), (), names)
        except (InvalidRequestError, ResourceExhaustedError):
            continue  # on a host that holds one, or full
        return node
    return None


def _log(catalogue: Catalogue, name: str) -> CataloguedLog:
    log = catalogue.logs.get(name)
    if log is None:
        raise UnknownLogError(name)
    return log
