"""What the servers may ask of a node: the seam between `loghouse.api`, `loghouse.net` and `loghouse.node`.

The gRPC and the binary server know a node only through `NodeLike`, and its logs through `LogLike`. Offsets
count records from 0 and have no gaps; times are microseconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred

from loghouse.catalogue.records import LogSettings
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.replica.api import (
    Appended,
    Fetched,
    LogBounds,
    OnAppended,
    OnFailed,
    Proposal,
    Propose,
)
from loghouse.runtime.deferring import deferred
from loghouse.runtime.scheduling import Cancellable


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """One node as the answering node sees it.

    `id` is 0 and `role` None for a node that gossip knows and the configuration does not. `liveness` is None
    when gossip never saw it. `match_index` is the last index the leader knows to be on its disk, 0 when that
    is not known here.
    """

    name: str
    id: int = 0
    role: MemberRole | None = None
    liveness: Liveness | None = None
    is_leader: bool = False
    match_index: int = 0
    address: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The cluster as one node sees it. `leader` is empty when none is known.

    `removed` are the names that are let in again only by `add`.
    """

    term: int
    leader: str
    commit_index: int
    lowest_offset: int
    next_offset: int
    members: tuple[MemberState, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What became of the settings that a node has read again, each a line for people: `setting: old -> new`.

    `changed` are in force now, `waiting` once the node is started again. `warnings` name what is right and
    does nothing.
    """

    changed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class GroupAdmin(Protocol):
    """What may be asked about the group of one log; every call works on every node."""

    def status(self) -> Deferred[ClusterStatus]:
        """The members, as this node sees them; fires also when there is no leader."""

    def transfer(self, name: str) -> Deferred[str]:
        """Hand leadership to a node (empty: the best candidate); fires with the new leader's name."""


class LogLike(Protocol):
    """A log as a node serves it, whether or not it hosts a copy.

    Every Deferred may be cancelled. Errors are `loghouse.errors.RequestError`s.
    """

    @property
    def name(self) -> str:
        """The log's name."""

    @property
    def group(self) -> int:
        """The number of its Raft group."""

    @property
    def seed(self) -> int:
        """The log's `frame_seed`, to check fetched frames with."""

    @property
    def record_size_max(self) -> int:
        """Bytes that one of its records may have; 0: as many as the node takes."""

    @property
    def later_index(self) -> int:
        """The index of the last entry of a kind that older readers do not know; 0: the log has none.

        Not below it where that is not known.
        """

    @property
    def leader_name(self) -> str:
        """The name of the node that leads, as far as this one knows; else empty."""

    @property
    def administration(self) -> GroupAdmin:
        """What may be asked about its group."""

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> Cancellable | None:
        """Append a batch, and tell one of two callables: a Deferred costs an append too much (ADR 16).

        Args:
            appended: Called when it is durable on a majority, which may be before this returns.
            failed: Called instead when it was not appended, or nobody knows. Neither may raise.

        Returns:
            What drops the answer, where that frees something: the records may still be appended. `failed`
            may be called all the same. None: whoever stops waiting need only ignore the answer.
        """

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read entry frames from the one that holds `offset` on, at least one, else at most `size_max` bytes.

        Raises (as failures):
            OffsetOutOfRangeError: `offset` is below the lowest or not below the next one.
        """

    def read_range(self, wanted: RecordRange) -> Deferred[ReadPage]:
        """Read some of a range: entries that hold wanted records, as many as fit, and where to go on.

        An answer may hold no record though more are there: then it says how far it looked. At the log's end
        there are none, which is no error. A local read asks no other node unless there is no copy here, and
        tells what the replica that was read knows.

        Raises (as failures):
            OffsetOutOfRangeError: The range begins at what is trimmed, or behind the next offset.
            UnavailableError: A local read begins behind what the replica has, or no leader confirms the end.
        """

    def read_state(self, offset: int) -> Deferred[Fetched]:
        """Read the encoded replicated state just before the entry that holds `offset`, as `Fetched.frames`.

        At the next offset: the state now. Its own next offset is `Fetched.next_offset`.

        Raises (as failures):
            OffsetOutOfRangeError: `offset` is below the lowest or above the next one.
            UnavailableError: This node has no copy of the log; another one has.
        """

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once the record at `offset` is readable; at once when it is (or was, and is trimmed).

        Cancelling forgets the waiter. Raises (as failure) ResourceExhaustedError when too many wait.
        """

    def bounds(self) -> Deferred[LogBounds]:
        """The readable range, confirmed by the leader."""

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """The first offset appended at or after `timestamp` and its append time; (next, 0) when none is.

        Never an offset that is trimmed. Without a leader only a record that is here is an answer.
        """

    def register_producer(self, subject: str) -> Deferred[int]:
        """Register a producer that only `subject` may use, for exactly-once appends; works on every node.

        Fires with its id once that is committed.
        """

    def trim(self, offset: int) -> Deferred[int]:
        """Let records below `offset` go; fires with the lowest offset once that is committed."""

    def order_cursor(self, order: CursorOrder) -> Deferred[CursorPage]:
        """Do something about a cursor of the log, on behalf of `order.subject`; works on every node.

        Fires with the cursor, or with several, once what was done is committed.

        Raises (as failures):
            CursorHeldError, CursorFencedError, CursorRewindError, UnknownCursorError, TooManyCursorsError,
            PermissionDeniedError, InvalidRequestError, UnavailableError: Nothing was done, and why.
            NotSupportedError: A member of the log is of a version without cursors; says which.
        """


class ClusterAdmin(GroupAdmin, Protocol):
    """What a node can be asked about the cluster and its members; every call works on every node.

    Errors are `RequestError`s. MembershipError says why a change was refused and what would work; after
    OutcomeUnknownError it may or may not have been done, and doing it again does no harm.
    """

    def add(self, name: str, learner: bool) -> Deferred[None]:
        """Let a node in, also one that was removed; as a learner that is never promoted when `learner`."""

    def remove(self, name: str) -> Deferred[None]:
        """Take a node out of the configuration and keep it out; fires when that is committed."""

    def leave(self) -> Deferred[None]:
        """Take this node out of the cluster; fires when that is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One copy of a log as the answering node sees it. `member` is its id in the log's group."""

    node: str
    member: int
    is_leader: bool = False
    is_alive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDescription:
    """A log as the catalogue has it, and what the answering node knows of it.

    Attributes:
        epoch: The catalogue's offset of the record that placed it last; of two answers that with the higher
            one is the newer.
        leader: The node that leads it, as far as the answering node knows; else empty.
        created_at: Microseconds since the epoch.
    """

    name: str
    group: int
    epoch: int
    settings: LogSettings
    replicas: tuple[ReplicaState, ...]
    leader: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayLog:
    """A directory of a log on this node's disk that does not belong here.

    Attributes:
        name: The log that has this group, on other nodes; empty: the catalogue knows no such group.
        size: Bytes of its files.
    """

    group: int
    name: str
    size: int


class CopyTrouble(Enum):
    """What may be wrong with a log, or with one copy of it; the worst of a copy comes first."""

    LOST = "lost"  # the disks of half of its copies and more are gone: nobody can lead it any more
    NO_LEADER = "no_leader"  # the answering node knows no leader
    DAMAGED = "damaged"  # nobody can mend the copy: it stays closed
    REPAIRING = "repairing"  # damage in the copy is being repaired
    NO_COPY = "no_copy"  # the node has none, or not all of it yet
    AWAY = "away"  # the node is
    BEHIND = "behind"  # the copy lacks entries and does not get on, or lacks very many


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProblem:
    """What needs attention of a log, or of one copy of it.

    Attributes:
        node: Whose copy it is; of a log that is lost or has no leader: the answering node.
        entries: How many committed entries the copy lacks, where that is known.
    """

    log: str
    node: str
    trouble: CopyTrouble
    entries: int = 0


class LogAdmin(Protocol):
    """What may be asked about which logs there are; every call works on every node.

    Errors are `RequestError`s. `by` is the subject that asks, for the catalogue's record. After
    OutcomeUnknownError it may or may not have been done, and doing it again does no harm.
    """

    def create(
        self, name: str, settings: LogSettings, *, on: Sequence[str], by: str
    ) -> Deferred[LogDescription]:
        """Create a log, and wait for a while until it is led; success when it is there with these settings.

        Args:
            on: The nodes that it is to be placed on; empty: chosen by load.

        Raises (as failures):
            InvalidRequestError: No name for a log, other settings than it has, or nodes that cannot be meant.
            ResourceExhaustedError: Too many logs, or too few nodes.
            NotSupportedError: A member of the cluster is of a version without named logs; says which.
            UnavailableError: The catalogue has no leader, or it is created and not led yet; says which.
        """

    def alter(self, name: str, changes: Mapping[str, object], *, by: str) -> Deferred[LogDescription]:
        """Change settings (fields of `LogSettings`) of a log; success when it has them already.

        Raises (as failures): UnknownLogError, and as `create`.
        """

    def delete(self, name: str, *, by: str) -> Deferred[None]:
        """Delete a log; fires when that is decided. The default one cannot be deleted.

        Raises (as failures): UnknownLogError, and as `create`.
        """

    def replace(self, name: str, *, lost: str, new: str, by: str) -> Deferred[LogDescription]:
        """Give a log a replica on another node, in place of one that is lost for good.

        Raises (as failures): UnknownLogError, and as `create`.
        """

    def list(self) -> Deferred[Sequence[LogDescription]]:
        """Return all logs by name, the default one among them; as this node knows them by now.

        A node that has just started finds out first which there are: what is not in the answer counts as
        deleted.

        Raises (as failures): UnavailableError, and OutcomeUnknownError after a while, if nobody can tell.
        """

    def known(self) -> Sequence[LogDescription]:
        """Return the logs that this node knows of, by name; one that has just started knows `default`."""

    def describe(self, name: str) -> Deferred[LogDescription]:
        """Return one log (empty: the default one). Raises (as failure) UnknownLogError."""

    def strays(self) -> Deferred[Sequence[StrayLog]]:
        """Return the logs on the disk of this node that do not belong there; they are kept, and not opened.

        Raises (as failure) UnavailableError: This node does not know all logs yet.
        """

    def problems(self) -> Deferred[Sequence[LogProblem]]:
        """Return what needs attention of the copies of logs, as far as this node knows.

        A leader knows of every copy of its log, another node of its own.

        Raises (as failure) UnavailableError: This node does not know all logs yet.
        """

    def changed(self, after: int) -> Deferred[int]:
        """Fire once the catalogue has a record at an offset above `after`, with the last one's offset."""


class NodeLike(Protocol):
    """A node as its servers see it."""

    @property
    def name(self) -> str:
        """The node's name in the cluster."""

    @property
    def cluster_uuid(self) -> bytes:
        """The cluster's uuid, 16 bytes."""

    @property
    def cluster_name(self) -> str:
        """The cluster's name."""

    @property
    def is_serving(self) -> bool:
        """Whether appends to every log can be answered: it has a leader, and the disk takes them."""

    @property
    def administration(self) -> ClusterAdmin:
        """What may be asked about the cluster and its members."""

    @property
    def log_administration(self) -> LogAdmin:
        """What may be asked about which logs there are."""

    @property
    def logs(self) -> Mapping[int, LogLike]:
        """The logs of the cluster, by group."""

    def log(self, name: str) -> LogLike:
        """Return the log of that name; empty means the default one. It may be kept.

        Raises:
            UnknownLogError: This cluster has no such log.
        """

    def servers(self) -> Sequence[DescribedServer]:
        """The nodes of the cluster, this one included."""

    @property
    def waiting_settings(self) -> Sequence[str]:
        """The settings of node.yaml, as it was read last, that the node has not until a restart: paths."""

    def reload(self, by: str) -> Deferred[Reloaded]:
        """Read the settings again, with certificates and policy, because somebody (`by`) asks for it.

        Raises (as a failure):
            ReloadRefusedError: They are wrong; nothing was changed.
        """


def page_of(
    logs: Sequence[LogDescription], after: str, count_max: int, may_see: Callable[[str], bool]
) -> tuple[list[LogDescription], str]:
    """Return the first logs behind a name that may be seen, by name, and behind which one to go on.

    That is empty when there are no more.
    """
    page: list[LogDescription] = []
    for log in sorted(logs, key=lambda log: log.name):
        if log.name > after and may_see(log.name):
            if len(page) == count_max:
                return page, page[-1].name
            page.append(log)
    return page, ""


def servers_of(log: LogDescription, servers: Sequence[DescribedServer]) -> list[DescribedServer]:
    """Return those of the cluster's nodes that hold a log, as voters, and which of them leads it."""
    known = {server.name: server for server in servers}
    return [
        replace(
            known[one.node],
            role=MemberRole.VOTER,
            is_leader=one.node == log.leader,
            is_alive=one.is_alive or one.node == log.leader,
        )
        for one in log.replicas
        if one.node in known
    ]


def proposing(propose: Propose, proposal: Proposal) -> Deferred[Appended]:
    """Propose, for those who want a Deferred: for what is asked now and then, not for every append."""
    return deferred(partial(propose, proposal))
