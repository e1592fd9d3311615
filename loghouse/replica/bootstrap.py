"""The first entry of a new group: its configuration, whose only voter is the node that writes it."""

from __future__ import annotations

from collections.abc import Callable

from loghouse.protocol.configuration import Configuration, MemberRole, Retention
from loghouse.raft.membership import BOOTSTRAP_TERM, bootstrap_entry
from loghouse.storage.log import Log


def beginning(
    node_name: str, disk_uuid: bytes, retention: Retention, timestamp: int
) -> Callable[[Log], None]:
    """Return what writes that entry into a new log, for `DataDirectory.create`.

    Args:
        timestamp: Microseconds since the epoch.
    """

    def begin(log: Log) -> None:
        configuration = Configuration(retention=retention)
        configuration = configuration.with_member(node_name, disk_uuid, MemberRole.VOTER)
        log.save_hard_state(term=BOOTSTRAP_TERM, vote=0)
        log.append([bootstrap_entry(log.seed, configuration, timestamp)])
        log.sync(1)

    return begin
