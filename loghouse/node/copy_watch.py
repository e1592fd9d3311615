"""What needs attention of the copies of logs, as far as one node knows.

A leader knows of every copy of its log, any node of its own and of logs that nobody leads: whoever asks all
nodes knows all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Final, Protocol

from loghouse.gossip.members import MemberKey
from loghouse.limits import LAG_ENTRIES_MAX, LOGS_MAX
from loghouse.node.api import CopyTrouble, LogProblem
from loghouse.node.options import Transport
from loghouse.node.served_log import ServedLog
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import CATALOGUE_GROUP, DEFAULT_GROUP
from loghouse.protocol.gossip_messages import Liveness

STUCK_SECONDS: Final = 10.0
"""So long a copy may lack entries and get no further; then it is told."""


class WatchedNode(Protocol):
    """What this part asks of the node."""

    name: str
    disk_uuid: bytes
    transport: Transport
    membership: ServedLog
    logs: Mapping[int, ServedLog]

    @property
    def set_aside(self) -> Mapping[int, str]:
        """Why logs cannot be opened here, by group."""


class CopyWatch:
    """Looks at the logs of one node, and says which copies need attention."""

    def __init__(self, node: WatchedNode, now: Callable[[], float]) -> None:
        """Have seen nothing yet."""
        self._node = node  # the process; fixed
        self._now = now  # seconds that only rise; fixed
        # How far each follower is that is behind in a log led here, by group and member, and since when it is
        # no further; made anew by each look.
        self._behind: dict[tuple[int, int], tuple[int, float]] = {}

    def look(self) -> None:
        """Note which followers get on; called every second."""
        now = self._now()
        behind = {}
        for log in self._node.logs.values():
            raft = log.driver.raft if log.driver is not None else None
            if raft is None or raft.leader != raft.id:
                continue
            for id_, progress in raft.followers.items():
                if id_ != raft.id and progress.match_index < raft.commit_index:
                    at, since = self._behind.get((log.group, id_), (-1, now))
                    is_further = at != progress.match_index
                    behind[log.group, id_] = (progress.match_index, now if is_further else since)
        self._behind = behind

    def problems(self) -> Sequence[LogProblem]:
        """Return what needs attention now."""
        members = self._node.membership.configuration.members
        disks = {MemberKey(one.name, one.disk_uuid) for one in members}
        found = [problem for log in self._node.logs.values() for problem in self._of_log(log, disks)]
        return found[:LOGS_MAX]

    def _of_log(self, log: ServedLog, disks: Set[MemberKey]) -> Iterator[LogProblem]:
        node, replica, copies = self._node, log.replica, self._copies(log)

        def here(trouble: CopyTrouble) -> LogProblem:
            return LogProblem(log=log.name, node=node.name, trouble=trouble)

        if log.group in node.set_aside:
            yield here(CopyTrouble.DAMAGED)
        elif replica is None and MemberKey(node.name, node.disk_uuid) in copies.values():
            yield here(CopyTrouble.NO_COPY)
        elif replica is not None and replica.damage_control.is_damaged:
            yield here(CopyTrouble.REPAIRING)
        if log.group != DEFAULT_GROUP:  # of that one the cluster's status tells
            lost_count = sum(key not in disks for key in copies.values())
            if 2 * lost_count >= len(copies) > 0:
                yield here(CopyTrouble.LOST)
            elif not log.leader_name:
                yield here(CopyTrouble.NO_LEADER)
        if replica is not None and replica.leads:
            yield from self._of_copies(log, copies, disks)

    def _copies(self, log: ServedLog) -> Mapping[int, MemberKey]:
        """Return on which node and disk each copy of a log belongs, by the member that it is."""
        if log.group == CATALOGUE_GROUP:
            # Where the cluster's voters are, under ids of its own. A negative number is no member's.
            ids = {MemberKey(one.name, one.disk_uuid): one.id for one in log.configuration.members}
            members = self._node.membership.configuration.members
            keys = [MemberKey(one.name, one.disk_uuid) for one in members if one.role is MemberRole.VOTER]
            return {ids.get(key, -number): key for number, key in enumerate(keys, start=1)}
        if log.group == DEFAULT_GROUP or log.catalogued is None:
            return {one.id: MemberKey(one.name, one.disk_uuid) for one in log.configuration.members}
        return {one.member: MemberKey(one.node, one.disk_uuid) for one in log.catalogued.replicas}

    def _of_copies(
        self, log: ServedLog, copies: Mapping[int, MemberKey], disks: Set[MemberKey]
    ) -> Iterator[LogProblem]:
        """Judge the copies of a log that this node leads."""
        assert log.driver is not None
        raft, voters, now = log.driver.raft, log.configuration.voters, self._now()
        names = {key.name for key in disks}
        for member, key in copies.items():
            progress = raft.followers.get(member)
            lag = max(0, raft.commit_index - progress.match_index) if progress is not None else 0
            _, since = self._behind.get((log.group, member), (0, now))
            is_alive = self._node.transport.liveness_of(key) is Liveness.ALIVE
            if member == raft.id:
                continue
            if log.group == DEFAULT_GROUP:
                trouble = CopyTrouble.BEHIND if is_alive and now - since >= STUCK_SECONDS else None
            elif key not in disks and key.name in names:
                trouble = CopyTrouble.NO_COPY  # the node is a member with another disk
            elif not is_alive:
                trouble = CopyTrouble.AWAY
            elif member not in voters:
                trouble = CopyTrouble.NO_COPY
            else:
                is_behind = lag > LAG_ENTRIES_MAX or now - since >= STUCK_SECONDS
                trouble = CopyTrouble.BEHIND if is_behind else None
            if trouble is not None:
                yield LogProblem(log=log.name, node=key.name, trouble=trouble, entries=lag)
