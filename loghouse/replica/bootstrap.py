"""The first entry of a new group: its configuration, in term 1."""

from __future__ import annotations

from collections.abc import Callable

from loghouse.protocol.configuration import Configuration, MemberRole, Retention
from loghouse.raft.membership import BOOTSTRAP_TERM, bootstrap_entry
from loghouse.storage.log import Log


def beginning(
    node_name: str, disk_uuid: bytes, retention: Retention, timestamp: int
) -> Callable[[Log], None]:
    """Return what makes a node the only voter of a new group, for `DataDirectory.create`.

    Args:
        timestamp: Microseconds since the epoch.
    """

    configuration = Configuration(retention=retention)
    return founding(configuration.with_member(node_name, disk_uuid, MemberRole.VOTER), timestamp)


def founding(configuration: Configuration, timestamp: int) -> Callable[[Log], None]:
    """Return what writes the first entry of a group with these founders into a new log.

    Args:
        timestamp: Microseconds since the epoch. It and the configuration are the same on every founder: what
            all of them have as their first entry is committed without a vote.
    """

    def begin(log: Log) -> None:
        log.save_hard_state(term=BOOTSTRAP_TERM, vote=0)
        log.append([bootstrap_entry(log.seed, configuration, timestamp)])
        log.sync(1)

    return begin
