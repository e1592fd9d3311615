"""One of the cluster's logs as this node serves it: by its replica here, and through the log's leader."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.catalogue.records import CataloguedLog, LogSettings
from loghouse.errors import (
    NotLeaderError,
    NotSupportedError,
    RequestError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.gossip.members import MemberKey
from loghouse.limits import UINT64_MAX
from loghouse.node.administration import Administration, LogHost, check_known
from loghouse.node.forwarding import AdminOrder, AdminResult
from loghouse.node.reads import LogReads, reads_of
from loghouse.node.remote_log import RemoteLog
from loghouse.node.waiters import Waiters
from loghouse.protocol.configuration import Configuration, Retention
from loghouse.protocol.cursor_messages import CHANGES, CursorOrder, CursorPage
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.raft.ready import SoftState
from loghouse.replica.api import Fetched, LogBounds, OnAppended, OnFailed, Proposal
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.runtime.deferring import deferred
from loghouse.runtime.scheduling import Cancellable
from loghouse.shares import Budget, Pace

STAND_TICKS: Final = 10
"""How long the first replica of a new log stands for election: the others may be born a moment later."""
STAND_AGAIN_TICKS: Final = 100
"""The same of who stood last, after a restart: the others may start a while later."""


class ServedLog:
    """A log that this node serves (`node.api.LogLike`), and the owner of its replica.

    It is there whether or not this node has a copy, and may be kept. Where there is none, the log's leader is
    asked for appends and orders, and a node that has a copy for reads. Before this node belongs to the
    cluster, what is asked of it is refused, or waits.
    """

    logger = Logger()

    def __init__(
        self,
        node: LogHost,
        name: str,
        group: int,
        *,
        monotonic: Callable[[], float],
        waiting: Budget | None = None,
    ) -> None:
        """Serve a log that is not hosted yet.

        Args:
            monotonic: Seconds that only rise.
            waiting: Counts who waits at the end of any log of the node; None: this one is alone.
        """
        self._node = node  # the process; fixed
        self.name = name  # the log's name; fixed
        self.group = group  # its Raft group; fixed
        self.seed = 0  # the `frame_seed` of the log, to check fetched frames with; set with the replica
        # The copy on this node; None until this node belongs to the group, then set once.
        self.replica: Replica | None = None
        self.reads: LogReads | None = None  # reads that copy, for clients and other nodes; set with it
        self.catalogued: CataloguedLog | None = None  # what the catalogue says of it; None where it is older
        self.record_size_max = 0  # bytes that its records may have, by the catalogue; 0: as the node says
        self._growth: Pace | None = None  # how fast it may grow, by the catalogue; None: as fast as it can
        self._monotonic = monotonic  # fixed
        self._is_gone = False  # set once, by `retire`: the log was deleted
        self._stand_ticks = 0  # how long this node goes on to stand for election; counts down
        self._waiters = Waiters(waiting)  # readers at the end of the log; woken by each commit
        self._remote = RemoteLog(node, name, group, self._waiters)  # the log on other nodes; fixed
        # What operators and producers ask of the group.
        administration = self.administration = Administration(self, node, monotonic=monotonic)
        self.register_producer = administration.register_producer  # see `LogLike`
        self.trim = administration.trim  # see `LogLike`
        self.administer_here = administration.administer_here  # see `forwarding.Leading`

    # --- life -----------------------------------------------------------------------------

    def host(self, replica: Replica) -> None:
        """Serve from this copy on, and let it take part in its group."""
        self.replica, self.seed = replica, replica.log.seed
        self.reads = reads_of(replica)
        replica.start()

    def placed(self, log: CataloguedLog) -> None:
        """Take what the catalogue says of the log; called every second, mostly with what is known."""
        if log is self.catalogued:
            return
        self.catalogued = log
        settings = log.settings
        self.record_size_max = settings.record_bytes_max
        rate = settings.append_bytes_per_second_max
        if rate != (self._growth.rate if self._growth is not None else 0):
            self._growth = Pace(rate) if rate else None
        self._remote.replica_names = [replica.node for replica in log.replicas]

    def stand(self) -> None:
        """Be the first to stand for election in a group that has just begun: this node is to lead it."""
        self._stand_ticks = STAND_TICKS
        self._stand()

    def stand_again(self) -> None:
        """Stand for election at once if this node was the last to, as far as its disk tells.

        When all nodes start anew that is who led. Nobody need wait for a timeout, and no vote is split.
        """
        driver = self.driver
        if driver is not None and driver.raft.vote == driver.raft.id:
            self._stand_ticks = STAND_AGAIN_TICKS
            self._stand()

    def _stand(self) -> None:
        if self.driver is not None and not self.has_leader:
            self.driver.stand()
        else:
            self._stand_ticks = 0

    def unhost(self) -> None:
        """Have no replica any more: it was stopped. Its files are closed by whoever has them closed."""
        self.replica = self.reads = None
        remote = self._remote.reads
        if remote is not None:
            remote.take_over()

    def retire(self) -> None:
        """Serve no more: the log was deleted."""
        self._is_gone = True
        self.stop()
        self._remote.retire()
        self.unhost()
        self._waiters.close(UnknownLogError(self.name))

    def tick(self) -> None:
        """Let time pass."""
        if self.replica is not None:
            self.replica.tick()
            if self._stand_ticks:
                self._stand_ticks -= 1
                self._stand()
            if self.replica.driver is not None:
                self.administration.tick()

    def look(self) -> None:
        """Try again what found no room, and trim what is due; called every second."""
        replica = self.replica
        if replica is not None:
            replica.disk_room.look()
            if self.is_asleep:
                replica.damage_control.tick()  # damage is looked for in logs that sleep, too
            if self.catalogued is not None and replica.leads:
                self._look_at_settings(replica, self.catalogued.settings)

    def _look_at_settings(self, replica: Replica, settings: LogSettings) -> None:
        """Have the log keep as much as the catalogue says: trims are a function of the log alone."""
        kept = Retention(size_max=settings.retention_bytes, age_max_seconds=settings.retention_seconds)
        if replica.configuration.retention != kept:
            replica.change_configuration(dataclasses.replace(replica.configuration, retention=kept))

    def when_idle(self) -> Deferred[None]:
        """Fire once the appends under way have their outcome."""
        idle: Deferred[None] = Deferred()
        if self.replica is not None:
            self.replica.when_idle(lambda: idle.callback(None))
        else:
            idle.callback(None)
        return idle

    def release_waiters(self) -> None:
        """Tell everybody who waits at the end to go on elsewhere; later waiters are told at once."""
        self._waiters.close(UnavailableError("the node is stopping; go on at another node"))

    def stop(self) -> None:
        """Take part no more, and leave no order unanswered; the log stays open."""
        if self.replica is not None:
            self.replica.stop()
        self.administration.stop()

    # --- what it is -----------------------------------------------------------------------

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while this node is no member of the group."""
        return self.replica.driver if self.replica is not None else None

    @property
    def is_hosted(self) -> bool:
        """Whether there is a copy of it here."""
        return self.replica is not None

    @property
    def is_asleep(self) -> bool:
        """Whether it needs no ticks: nothing happens in it (`beats.Beats`)."""
        driver = self.driver
        return driver is not None and driver.is_asleep

    @property
    def is_busy(self) -> bool:
        """Whether something is under way beside the core that needs ticks."""
        return bool(self._stand_ticks) or self.administration.is_busy

    @property
    def placed_names(self) -> Sequence[str]:
        """The nodes that have it by the catalogue; none when that is not known."""
        return self._remote.replica_names

    @property
    def placed_member(self) -> int:
        """The member that the copy on this node is by the catalogue; 0 where that says nothing."""
        replicas = self.catalogued.replicas if self.catalogued is not None else ()
        own = (self._node.name, self._node.disk_uuid)
        return next((one.member for one in replicas if (one.node, one.disk_uuid) == own), 0)

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""
        return self.replica.configuration if self.replica is not None else Configuration()

    @property
    def configuration_index(self) -> int:
        """The index of the latest configuration, 0 while this node is no member of the group yet."""
        driver = self.driver
        return driver.raft.configuration_index if driver is not None else 0

    @property
    def settled(self) -> tuple[Configuration, int]:
        """The last configuration known to be committed, and its index. A new leader may cut a later one.

        Raises:
            DamageError: The disk damaged it.
        """
        driver = self.driver
        return driver.raft.settled if driver is not None else (Configuration(), 0)

    @property
    def member_id(self) -> int:
        """This node's id in the group, 0 while it has none."""
        driver = self.driver
        return driver.raft.id if driver is not None else 0

    @property
    def birth_index(self) -> int:
        """The index of the entry that brought the catalogue into being; 0 while there is none."""
        driver = self.driver
        birth = driver.raft.birth if driver is not None else None
        return birth.index if birth is not None else 0

    @property
    def has_cursors(self) -> bool:
        """Whether there ever was a cursor in the log, so that its entries are to be read."""
        driver = self.driver
        return driver is not None and driver.raft.cursors.last_index > 0

    @property
    def later_index(self) -> int:
        """The index of the last entry of a kind that older readers do not know. See `LogLike.later_index`."""
        driver = self.driver
        return driver.raft.later_index if driver is not None else UINT64_MAX

    @property
    def leader_id(self) -> int:
        """The member that leads, 0 when none is known."""
        driver = self.driver
        return driver.raft.leader if driver is not None else 0

    @property
    def leader_name(self) -> str:
        """The node that leads, as far as this one knows; else empty."""
        driver = self.driver
        if driver is None:
            return self._remote.leader_name()
        if not driver.raft.leader:
            # Whoever led in this term was lost, or has not been heard yet.
            return self._remote.leader_after(driver.raft.term)
        if driver.raft.leader == driver.raft.id:
            return self._node.name
        leader = driver.raft.configuration.member(driver.raft.leader)
        return leader.name if leader is not None else ""

    @property
    def has_leader(self) -> bool:
        """Whether a leader is known, so that appends and checked reads can be answered."""
        return self.replica.has_leader if self.replica is not None else bool(self.leader_name)

    @property
    def is_writable(self) -> bool:
        """Whether the disk takes appends now."""
        return self.replica is not None and self.replica.is_writable

    def is_heard(self, id: int) -> bool:
        """Whether a member answered this leader within an election timeout, or is this node."""
        driver = self.driver
        return driver is not None and driver.raft.is_heard(id)

    def is_caught_up(self, id: int) -> bool:
        """Whether a follower replicates close behind this leader."""
        driver = self.driver
        return driver is not None and driver.raft.is_caught_up(id)

    # --- the group, for the cluster ---------------------------------------------------------

    def receive(self, envelope: Envelope, *, is_member: bool = True) -> None:
        """Take a Raft message from a node that may send it. See `Replica.receive`."""
        if self.replica is not None:
            self.replica.receive(envelope, is_member=is_member)

    def change_configuration(self, configuration: Configuration) -> None:
        """Propose a configuration on the leader; what is refused is tried again by the next look."""
        assert self.replica is not None
        self.replica.change_configuration(configuration)

    # --- appending ------------------------------------------------------------------------

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> Cancellable | None:
        """Append a batch, here or on the leader. See `LogLike.propose`."""
        node, replica = self._node, self.replica
        if node.is_ending:
            failed(UnavailableError("the node is stopping; nothing was appended, try another node"))
        elif (
            (replica is not None and replica.leads)
            or node.forwarder is None
            or (self.driver is None and not self._remote.is_known)
        ):
            self.propose_here(proposal, appended, failed)
        else:
            forwarded = node.forwarder.propose(self.leader_name, self.group, proposal)
            forwarded.addCallbacks(appended, lambda failure: failed(failure.value)).addErrback(
                lambda failure: self.logger.failure("answering an append", failure)
            )
            return forwarded
        return None

    def propose_here(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Append a batch if this node leads; never passes it on."""
        if self._growth is not None and not self._growth.take(len(proposal.payload), self._monotonic()):
            limit = f"grows by at most {self._growth.rate} bytes a second"
            failed(ResourceExhaustedError(f"log {self.name}", f"{limit}; nothing was appended, send slower"))
        elif self.replica is not None:
            self.replica.propose(proposal, appended, failed)
        else:
            leader = self.leader_name
            failed(NotLeaderError(leader) if leader else self._not_here("nothing was appended"))

    # --- reading --------------------------------------------------------------------------

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read whole entry frames from the one that holds `offset` on. See `LogLike.fetch`."""
        reads = self.reads or self._remote.reads
        return reads.fetch(offset, size_max) if reads is not None else fail(self._not_here())

    def read_range(self, wanted: RecordRange) -> Deferred[ReadPage]:
        """Read some of a range of records. See `LogLike.read_range`."""
        reads = self.reads or self._remote.reads
        return reads.read_range(wanted) if reads is not None else fail(self._not_here())

    def read_state(self, offset: int) -> Deferred[Fetched]:
        """Read the replicated state before an offset, of the copy here. See `LogLike.read_state`."""
        return self.reads.read_state(offset) if self.reads is not None else fail(self._not_here())

    def bounds(self) -> Deferred[LogBounds]:
        """Return the readable range. See `LogLike.bounds`."""
        reads = self.reads or self._remote.reads
        return reads.bounds() if reads is not None else fail(self._not_here())

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time. See `LogLike.find_offset`."""
        reads = self.reads or self._remote.reads
        return reads.find_offset(timestamp) if reads is not None else fail(self._not_here())

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once the record at `offset` is readable. See `LogLike.wait_for`."""
        remote = self._remote.reads if self.replica is None else None
        if remote is not None:
            return remote.wait_for(offset)
        driver = self.driver
        if driver is not None and offset < driver.readable_offset:
            return succeed(None)
        return self._waiters.wait_for(offset)

    # --- administration ---------------------------------------------------------------------

    def administer(self, order: AdminOrder) -> Deferred[AdminResult]:
        """Carry out an order: here if this node leads, else the leader is asked, once."""
        forwarder, leader_name = self._node.forwarder, self.leader_name
        if leader_name == self._node.name or (self.driver is None and not self._remote.is_known):
            return self.administer_here(order)
        if forwarder is not None and leader_name:
            return forwarder.administer(leader_name, self.group, order)
        return fail(UnavailableError("no leader is known; nothing was done, try again"))

    # --- cursors ------------------------------------------------------------------------------

    def order_cursor(self, order: CursorOrder) -> Deferred[CursorPage]:
        """Do something about a cursor: here if this node leads, else the leader is asked, once."""
        forwarder, leader_name = self._node.forwarder, self.leader_name
        if self._node.is_ending:
            return fail(UnavailableError("the node is stopping; nothing was done, try another node"))
        if leader_name == self._node.name or (self.driver is None and not self._remote.is_known):
            return self.order_cursor_here(order)
        if forwarder is not None and leader_name:
            for member in self.configuration.named(leader_name):
                kinds = self._node.transport.entry_kinds_of(MemberKey(member.name, member.disk_uuid))
                if kinds and EntryKind.CURSOR not in kinds:
                    too_old = f"{leader_name} leads, and runs a version without cursors"
                    return fail(NotSupportedError(f"{too_old}; upgrade it, nothing was done"))
            return forwarder.order_cursor(leader_name, self.group, order)
        return fail(UnavailableError("no leader is known; nothing was done, try again"))

    def order_cursor_here(self, order: CursorOrder) -> Deferred[CursorPage]:
        """Do something about a cursor if this node leads; never passes it on."""
        replica = self.replica
        if replica is None:
            leader = self.leader_name
            return fail(NotLeaderError(leader) if leader else self._not_here("nothing was done"))
        try:
            if replica.leads and order.operation in CHANGES and not replica.member().raft.cursors.last_index:
                # The first one: from then on, every member must be able to read such entries.
                check_known(self._node, replica.configuration, EntryKind.CURSOR, "cursors")
        except RequestError:
            return fail()
        return deferred(partial(replica.cursors.carry_out, order))

    # --- what the replica tells (`replica.ReplicaOwner`) ------------------------------------

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._node.is_ending

    def send_raft(self, envelope: Envelope) -> None:
        """Send a Raft message to another member, or drop it."""
        self._node.transport.send_raft(envelope)

    def send(self, name: str, message: Message) -> bool:
        """Send another message to a node; False when it certainly was not sent."""
        return self._node.transport.send(name, message, self.group)

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""
        self.administration.look_at_hand_over()
        if state.leader:
            self._node.leader_known(self.group)
        if self._node.forwarder is not None:
            self._node.forwarder.leader_changed(self.group, self.leader_name)
        if self._node.elsewhere is not None:
            self._node.elsewhere.news.changed()

    def readable_to(self, next_offset: int) -> None:
        """Every record below `next_offset` is readable here."""
        self._waiters.wake(next_offset)

    def fatal(self, error: BaseException) -> None:
        """The process must end."""
        self._node.fatal(Failure(error), self.group)

    def _not_here(self, advice: str = "try another node") -> RequestError:
        """Return why nothing can be asked of the replica here: there is none."""
        if self._is_gone:
            return UnknownLogError(self.name)
        if self.catalogued is None:
            return UnavailableError(f"this node has not joined its cluster yet; {advice}")
        return UnavailableError(f"this node has no copy of log {self.name}; {advice}")
