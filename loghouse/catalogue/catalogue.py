"""What the catalogue's log says: `Catalogue`, the fold of its records.

Every node that reads the log has the same catalogue at the same offset, so a change is a record that was
decided with all before it in view: appended with `expect_offset = next_offset`, it is in or decided again.
A record that does not fit what is there, which no decider of ours writes, changes nothing on any node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from loghouse.catalogue.records import (
    CataloguedLog,
    CataloguedNode,
    CatalogueRecord,
    Checkpoint,
    LogAltered,
    LogCreated,
    LogDeleted,
    LogPlaced,
    NodeSet,
    PlacedReplica,
    Tombstone,
)
from loghouse.limits import CATALOGUE_NODES_MAX, LOGS_MAX, TOMBSTONES_MAX, UINT32_MAX
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG

FIRST_GROUP: Final = 16
"""Of logs that were created; those below are the cluster's own: 1 is `default`, 2 the catalogue."""


class Catalogue:
    """Which nodes and logs there are, at one offset of the catalogue's log."""

    def __init__(self) -> None:
        """Begin before the first record."""
        self.next_offset = 0  # of the record that is to be applied next; rises with each
        self.checkpoint_offset = 0  # of the last checkpoint that counted; 0 before the first
        self.next_group = FIRST_GROUP  # of the next log; rises with each that is created
        self.nodes: dict[str, CataloguedNode] = {}  # the nodes that may hold logs, by name
        self.logs: dict[str, CataloguedLog] = {}  # the logs, by name
        self.names: dict[int, str] = {}  # the names of those logs, by group
        # When the log of each deleted group was deleted, the last one last. The oldest are forgotten: what a
        # node still has of them is kept there, as that of a group that nobody knows.
        self.tombstones: dict[int, int] = {}
        # The offset of each record that did not fit, and why; the last few.
        self.ignored: list[tuple[int, str]] = []

    def log_of(self, group: int) -> CataloguedLog | None:
        """Return the log of a group; None when it has none, or none any more."""
        name = self.names.get(group)
        return self.logs[name] if name is not None else None

    def placed_on(self, node: str, disk_uuid: bytes) -> dict[int, PlacedReplica]:
        """Return the replicas that belong on a node and disk, by group."""
        return {
            log.group: replica
            for log in self.logs.values()
            for replica in log.replicas
            if (replica.node, replica.disk_uuid) == (node, disk_uuid)
        }

    def load(self) -> dict[str, int]:
        """Return how many replicas belong on each node."""
        counts = dict.fromkeys(self.nodes, 0)
        for log in self.logs.values():
            for replica in log.replicas:
                counts[replica.node] = counts.get(replica.node, 0) + 1
        return counts

    def checkpoint(self, *, at: int = 0, by: str = "") -> Checkpoint:
        """Return the record that says all of this; it means something at `next_offset` alone."""
        return Checkpoint(
            at=at,
            by=by,
            offset=self.next_offset,
            next_group=self.next_group,
            nodes=tuple(self.nodes.values()),
            logs=tuple(self.logs.values()),
            tombstones=tuple(Tombstone(group=group, at=when) for group, when in self.tombstones.items()),
        )

    # --- folding --------------------------------------------------------------------------

    def apply(self, offset: int, record: CatalogueRecord) -> bool:
        """Take the record at an offset; False when it did not fit and changed nothing.

        Offsets must rise. Those that are left out were trimmed, and the first record behind them is the
        checkpoint that they came to.
        """
        assert offset >= self.next_offset, (offset, self.next_offset)
        problem = self._problem(offset, record)
        if problem:
            self.ignored = [*self.ignored[-9:], (offset, problem)]
        else:
            self._take(offset, record)
        self.next_offset = offset + 1
        return not problem

    def _problem(self, offset: int, record: CatalogueRecord) -> str:
        """Return why a record does not fit; empty when it does."""
        match record:
            case Checkpoint():
                return "" if record.offset == offset else f"it was made for offset {record.offset}"
            case _ if offset != self.next_offset:
                return f"records from {self.next_offset} on are missing"
            case NodeSet():
                is_known = record.node.name in self.nodes
                return "" if is_known or len(self.nodes) < CATALOGUE_NODES_MAX else "there are too many nodes"
            case LogCreated():
                return self._creation_problem(record)
            case LogPlaced(group=group, replicas=replicas):
                log = self.log_of(group)
                return f"there is no group {group}" if log is None else _placement_problem(log, replicas)
            case LogAltered(group=group) | LogDeleted(group=group):
                return "" if group in self.names else f"there is no group {group}"
        raise AssertionError(type(record).__name__)

    def _creation_problem(self, record: LogCreated) -> str:
        span = record.spans[-1]
        if record.name in self.logs:
            return f"there is a log {record.name} already"
        if record.name == DEFAULT_LOG:  # older than the catalogue, and its members with it
            return "" if span.group == DEFAULT_GROUP else f"group {span.group} is not that of the default log"
        if span.group != self.next_group or span.group == UINT32_MAX:
            return f"group {span.group} is not the next one, {self.next_group}"
        if len(self.logs) >= LOGS_MAX:
            return f"there are {LOGS_MAX} logs already"
        if [one.member for one in span.replicas] != list(range(1, len(span.replicas) + 1)):
            return "its members are not numbered from 1 on"
        return ""

    def _take(self, offset: int, record: CatalogueRecord) -> None:
        match record:
            case Checkpoint():
                self._restore(record)
                self.checkpoint_offset = offset
            case NodeSet():
                self.nodes[record.node.name] = record.node
            case LogCreated():
                span = record.spans[-1]
                self.next_group = max(self.next_group, span.group + 1)
                self._keep(
                    CataloguedLog(
                        name=record.name,
                        settings=record.settings,
                        spans=record.spans,
                        epoch=offset,
                        next_member=max(one.member for one in span.replicas) + 1,
                        created_at=record.at,
                        founders=span.replicas,
                    )
                )
            case LogAltered():
                self._keep(replace(self._known(record.group), settings=record.settings))
            case LogPlaced():
                log = self._known(record.group)
                span = replace(log.spans[-1], replicas=record.replicas)
                highest = max(one.member for one in record.replicas)
                self._keep(
                    replace(
                        log,
                        spans=(*log.spans[:-1], span),
                        epoch=offset,
                        next_member=max(log.next_member, highest + 1),
                    )
                )
            case LogDeleted():
                del self.logs[self.names.pop(record.group)]
                self.tombstones[record.group] = record.at
                if len(self.tombstones) > TOMBSTONES_MAX:
                    del self.tombstones[next(iter(self.tombstones))]

    def _known(self, group: int) -> CataloguedLog:
        return self.logs[self.names[group]]

    def _keep(self, log: CataloguedLog) -> None:
        self.logs[log.name] = log
        self.names[log.group] = log.name

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.next_group = checkpoint.next_group
        self.nodes = {node.name: node for node in checkpoint.nodes}
        self.logs = {log.name: log for log in checkpoint.logs}
        self.names = {log.group: log.name for log in checkpoint.logs}
        self.tombstones = {one.group: one.at for one in checkpoint.tombstones}


def _placement_problem(log: CataloguedLog, replicas: Iterable[PlacedReplica]) -> str:
    """Return why a log cannot be placed so: a member's id belongs to one node and disk for ever."""
    known = {one.member: one for one in log.replicas}
    for replica in replicas:
        if replica.member in known:
            if known[replica.member] != replica:
                return f"member {replica.member} is on another node or disk"
        elif replica.member < log.next_member:
            return f"member id {replica.member} was used before"
    return ""
