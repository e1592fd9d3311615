"""One of the cluster's logs as other nodes have it: who they are, which one leads, and reading it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from loghouse.node.elsewhere import Elsewhere
from loghouse.node.remote_reads import RemoteReads
from loghouse.node.waiters import Waiters


class RemoteHost(Protocol):
    """The node that has no copy of the log, or is a member of its group and asks others all the same."""

    name: str
    elsewhere: Elsewhere | None


class RemoteLog:
    """A log on other nodes, by what the catalogue and its leader say. Without a way to them there is none."""

    def __init__(self, node: RemoteHost, name: str, group: int, waiters: Waiters) -> None:
        """Know of no copy yet."""
        self._node = node  # the node that serves the log here; fixed
        self.name = name  # the log's name; fixed
        self.group = group  # its Raft group; fixed
        self._waiters = waiters  # who waits for records of the log here; fixed
        # The nodes that have copies, or are to have some; follows the catalogue.
        self.replica_names: Sequence[str] = ()
        self._reads: RemoteReads | None = None  # made when the log is read there first
        self._is_gone = False  # set once, by `retire`

    def leader_after(self, term: int) -> str:
        """Return the node that says it leads in a later term than that; empty when none does."""
        elsewhere = self._node.elsewhere
        if elsewhere is None or self._is_gone:
            return ""
        leaders = elsewhere.leaders
        return leaders.leader_of(self.group) if leaders.term_of(self.group) > term else ""

    def leader_name(self) -> str:
        """Return the node that says it leads; empty when none does."""
        elsewhere = self._node.elsewhere
        return elsewhere.leaders.leader_of(self.group) if elsewhere is not None and not self._is_gone else ""

    @property
    def is_known(self) -> bool:
        """Whether others have the log: the catalogue names some, or one says that it leads."""
        return bool(self.replica_names) or bool(self.leader_name())

    def sources(self) -> Sequence[str]:
        """The nodes that have a copy, the leader first."""
        names = dict.fromkeys((self.leader_name(), *self.replica_names))
        return [name for name in names if name not in ("", self._node.name)]

    @property
    def reads(self) -> RemoteReads | None:
        """What reads the copies of other nodes; None where none is known to have one."""
        elsewhere = self._node.elsewhere
        if elsewhere is None or not self.is_known:
            return None
        if self._reads is None:
            self._reads = elsewhere.remote_reads(self, self._waiters)
        return self._reads

    def retire(self) -> None:
        """The log was deleted: nobody has it."""
        self._is_gone, self.replica_names = True, ()
