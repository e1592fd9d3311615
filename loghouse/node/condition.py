"""What keeps a node from serving its logs, for health checks: a reason, and the log it is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Protocol

from loghouse.node.served_log import ServedLog
from loghouse.raft.ready import Role


class Hindrance(Enum):
    """Why a log cannot be served here as it should be."""

    NO_LEADER = "no_leader"
    BEHIND = "behind"
    DISK_FULL = "disk_full"
    DISK_NOT_WRITABLE = "disk_not_writable"
    DAMAGED_LOG = "damaged_log"
    NOT_JOINED = "not_joined"


class Hosting(Protocol):
    """A node, as far as its condition depends on it."""

    @property
    def membership(self) -> ServedLog:
        """The log whose group says who is a member of the cluster."""

    @property
    def logs(self) -> Mapping[int, ServedLog]:
        """What is served, by group."""

    @property
    def set_aside(self) -> Mapping[int, str]:
        """Why logs cannot be opened here, by group."""


def hindrances_of(node: Hosting) -> Iterable[tuple[Hindrance, str]]:
    """Yield what keeps a node from serving, with the name of the log; nothing when all is well."""
    for log in node.logs.values():
        if log.replica is not None:
            for hindrance in _of_replica(log):
                yield hindrance, log.name
        elif log.group in node.set_aside:
            yield Hindrance.DAMAGED_LOG, log.name
        elif log is node.membership:
            yield Hindrance.NOT_JOINED, log.name


def _of_replica(log: ServedLog) -> Iterable[Hindrance]:
    replica = log.replica
    assert replica is not None
    driver = replica.driver
    if driver is None:
        yield Hindrance.NOT_JOINED
        return
    if not log.has_leader:
        yield Hindrance.NO_LEADER
    elif driver.raft.role is not Role.LEADER:
        behind = driver.raft.leader_commit - driver.readable_index
        if behind > driver.raft.config.inflight_entries_max:
            yield Hindrance.BEHIND
    if not log.is_writable:
        yield Hindrance.DISK_FULL
    elif driver.raft.is_stalled:
        yield Hindrance.DISK_NOT_WRITABLE
    if replica.damage_control.is_damaged:
        yield Hindrance.DAMAGED_LOG
