"""The node: one log as a service, behind the seam of `node.api`.

All decisions are in pure code (`raft`, `retention`, `storage`); `replica` drives
the consensus core over the log, and this module puts doors, housekeeping and the
ordered start and stop around it. The reactor never waits for a disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import (
    DamageError,
    DiskFullError,
    LoghouseError,
    MembershipError,
    RequestError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.node.administration import Administration
from loghouse.node.api import ServerView
from loghouse.node.core import make_driver
from loghouse.node.damage import DamageControl, LogRepair
from loghouse.node.disk_room import AddressBookFile, DiskRoom
from loghouse.node.forwarding import AdminOrder, AdminResult, Forwarder
from loghouse.node.identity import claim_directory, create_identity, lock_directory
from loghouse.node.options import Clocks, NodeOptions, Transport
from loghouse.protocol.configuration import Configuration, Member
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG, frame_seed
from loghouse.protocol.message import NO_UUID, Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.raft.ready import Damage, Role, SoftState
from loghouse.replica.api import OnAppended, OnFailed, Proposal
from loghouse.replica.driver import RaftDriver
from loghouse.replica.reads import LogReads
from loghouse.replica.under_way import UnderWay
from loghouse.replica.waiters import Waiters
from loghouse.runtime.scheduling import Cancellable
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.directory import UUID_SIZE, DataDirectory
from loghouse.storage.files import Files
from loghouse.storage.log import Log

HOUSEKEEPING_SECONDS: Final = 1.0
# What a stop waits for, before the links and the log close: another leader, then the appends under way.
HAND_OVER_SECONDS_MAX: Final = 2.0
SETTLE_SECONDS_MAX: Final = 1.0
# How lately the leader must have heard the voters that a change of its own accord would leave.
HEARD_TICKS: Final = 3


class Node(Service):
    """One log, replicated by its group; see `node.api.NodeLike` for what doors may call.

    Its parts are made with what they need: `Administration` with the node, `DamageControl`, `DiskRoom` with
    the open log. Each names in a protocol what it asks of the node, its owner.
    """

    logger = Logger()
    name: str

    def __init__(
        self,
        options: NodeOptions,
        *,
        files: Files,
        clocks: Clocks,
        rng: random.Random,
        make_queue: Callable[[str, int], WorkQueue],
        on_fatal: Callable[[Failure], None],
    ) -> None:
        """Build a node that is not yet started.

        Args:
            files: The file seam; `OsFiles` in production.
            rng: Makes uuids and election timeouts; `random.SystemRandom()` in production.
            make_queue: Called at the start as (name, thread count) for the disk and the readers' threads.
            on_fatal: Called once when the disk failed; the process must end with a code that is not 0.
        """
        # What the node is made with; it never changes.
        self.options = options
        self.name = options.name
        self.cluster_name = options.cluster_name
        self._files = files
        self._clocks = clocks
        self._rng = rng
        self._make_queue = make_queue
        self._on_fatal = on_fatal
        # What operators and servers ask of the node (`ClusterAdmin`, `ProducerRegistry`) its part answers.
        administration = self.administration = Administration(self, monotonic=clocks.monotonic)
        self.status, self.trim = administration.status, administration.trim
        self.add, self.remove, self.leave = administration.add, administration.remove, administration.leave
        self.transfer, self.hand_over = administration.transfer, administration.hand_over
        self.register_producer = administration.register_producer
        self._waiters = Waiters()  # readers at the end of the log; woken by each commit
        self._under_way = UnderWay(options.raft.proposals_size_max)  # counts appends until settled
        self._is_stopping = False  # True from `stopService` on
        self._is_renewing = False  # True while the disk thread syncs between one driver and the next
        self._has_failed = False  # True from `fatal` on
        # The four that follow the log: None until this node belongs to a cluster, set once. The driver comes
        # last, when the node knows its member id; each new id or go-back replaces it, with None in between.
        self._log: Log | None = None
        self.damage_control: DamageControl | None = None
        self._disk_room: DiskRoom | None = None
        self._replica: RaftDriver | None = None
        self._claimed: DataDirectory | None = None  # set by `claim` or the start, taken back by `release`
        # The way to the other nodes, and to the leader; None until `attach`, and for ever on a node alone.
        self.transport: Transport | None = None
        self._forwarder: Forwarder | None = None
        # Raises for a subject that may not append, also where another node passes its request on.
        self.check_subject: Callable[[str], None] = lambda subject: None
        self.is_writable = False  # whether the disk takes appends; set by the disk's room, False once failed
        self.has_leader = False  # whether a leader is known; set at each change of role
        # Read from the disk when the log is opened. `disk_uuid` is chosen before that if the disk is empty.
        self.cluster_uuid = NO_UUID
        self.disk_uuid = NO_UUID
        self.seed = 0

    # --- start and stop -------------------------------------------------------

    def claim(self) -> None:
        """Lock the data directory, if there is one, and check whose it is; changes nothing on the disk.

        For whoever wants to know before ports are bound. `startService` follows, or `release`.

        Raises:
            StorageError: It is in use, another node's, or cannot be read.
        """
        self._claimed = claim_directory(self._files, self.options)

    def release(self) -> None:
        """Let the data directory of a start that failed go, as it was before."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            claimed.undo()

    def startService(self) -> None:
        """Open the log and join its group. Everything that can fail at boot fails here.

        Raises:
            StorageError: The data directory cannot be used; the text says why and what to do.
        """
        options = self.options
        self._claimed = self._directory = self._claimed or lock_directory(self._files, options)
        try:
            if self._directory.is_empty and options.is_alone:
                self._create_identity(self._rng.randbytes(UUID_SIZE), bootstrap=True)
            if not self._directory.is_empty:
                self._open_log()
        except LoghouseError:
            self.release()
            raise
        except BaseException:
            self._directory.close()
            raise
        self._disk = self._make_queue("loghouse-disk", 1)  # one thread: what is written keeps its order
        self._readers = self._make_queue("loghouse-reader", 4)
        book = self._address_book = AddressBookFile(self._directory, self._disk, self.fatal)
        self.write_address_book, self.read_address_book = book.write, book.read
        reads = LogReads(
            self._readers,
            member=self._member,
            is_damaged=lambda: self.damage is not None,
            read_failed=self._read_failed,
        )
        self.fetch, self.bounds, self.find_offset = reads.fetch, reads.bounds, reads.find_offset
        if self._log is None:
            self.disk_uuid = self._rng.randbytes(UUID_SIZE)
        else:
            self._take_part()
        self._ticking = self._every(options.tick_seconds, self._tick)
        self._housekeeping = self._every(HOUSEKEEPING_SECONDS, self._keep_house)
        super().startService()  # type: ignore[no-untyped-call]

    def _create_identity(self, cluster_uuid: bytes, *, bootstrap: bool) -> None:
        """Make the empty disk this node's; with `bootstrap` as the only voter of a new group."""
        disk_uuid = self.disk_uuid if self.disk_uuid != NO_UUID else self._rng.randbytes(UUID_SIZE)
        create_identity(
            self._directory,
            self.options,
            cluster_uuid=cluster_uuid,
            disk_uuid=disk_uuid,
            bootstrap_at=self._now() if bootstrap else None,
        )

    def _take_part(self) -> None:
        """Run the core, if this node knows which member it is; else the leader's first message tells."""
        assert self._log is not None
        self.damage_control = DamageControl(
            self,
            self._log,
            self._log_repair,
            files=self._files,
            disk=self._disk,
            readers=self._readers,
            clocks=self._clocks,
            choose_id=lambda: self._rng.getrandbits(64),
            scrub_rate=self.options.scrub_rate,
            metrics=self.options.metrics,
        )
        self._disk_room = DiskRoom(
            self, self._log, disk=self._disk, clocks=self._clocks, options=self.options
        )
        self.is_writable = True
        member = self._own_member()
        if member is not None:
            self._begin_replica(member.id)

    def _begin_replica(self, id_: int) -> None:
        assert self._disk_room is not None
        self._replica = self._make_replica(id_)
        self._replica.raft.disk_is_full = not self.is_writable
        self._disk_room.driver_began(self._replica)
        self._replica.start()

    def _tick(self) -> None:
        if self._replica is not None:
            assert self._disk_room is not None
            assert self.damage_control is not None
            self._replica.tick()
            self._disk_room.look_at_stuck_write()
            self.damage_control.tick()
            self.administration.tick()

    def _every(self, seconds: float, work: Callable[[], None]) -> LoopingCall:
        loop = LoopingCall(work)
        loop.clock = self._clocks.scheduler
        loop.start(seconds, now=False).addErrback(self.fatal)
        return loop

    def _open_log(self) -> None:
        directory = self._directory
        self.cluster_uuid = directory.identity.cluster_uuid
        self.disk_uuid = directory.identity.disk_uuid
        self.seed = frame_seed(self.cluster_uuid, DEFAULT_GROUP)
        self._log_repair = LogRepair(self._files, directory, DEFAULT_GROUP)
        self._log = self._log_repair.open_log()

    def _make_replica(self, id_: int) -> RaftDriver:
        assert self._log is not None
        return make_driver(
            self._log,
            id_,
            self,
            config=self.options.raft,
            damage=self.damage,
            clocks=self._clocks,
            rng=self._rng,
            disk=self._disk,
            readers=self._readers,
            read_failed=self._read_failed,
            metrics=self.options.metrics,
        )

    def _own_member(self) -> Member | None:
        members = self.configuration.named(self.name)
        return next((member for member in members if member.disk_uuid == self.disk_uuid), None)

    def attach(self, transport: Transport) -> None:
        """Give the node its way to the others; before they can be heard."""
        self.transport = transport
        clock, metrics = self._clocks.scheduler, self.options.metrics
        self._forwarder = Forwarder(
            transport.send, clock=clock, rng=self._rng, check_subject=self.check_subject, metrics=metrics
        )

    # --- joining (`cluster.ClusterNode`) --------------------------------------------------

    def begin_cluster(self) -> None:
        """Make a new cluster, with this node as its only voter; the disk was empty."""
        self._create_identity(self._rng.randbytes(UUID_SIZE), bootstrap=True)
        self._open_log()
        self._take_part()

    def join_cluster(self, cluster_uuid: bytes) -> None:
        """Belong to a cluster from now on; the disk was empty."""
        self._create_identity(cluster_uuid, bootstrap=False)
        self._open_log()
        self._take_part()

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while this node is no member."""
        return self._replica

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""
        if self._replica is not None:
            return self._replica.raft.configuration
        return self._log.state.configuration if self._log is not None else Configuration()

    @property
    def configuration_index(self) -> int:
        """The index of the latest configuration, 0 while this node is no member of a group yet."""
        return self._replica.raft.configuration_index if self._replica is not None else 0

    @property
    def settled(self) -> tuple[Configuration, int]:
        """The last configuration known to be committed, and its index. See `cluster_node.ClusterNode`."""
        return self._replica.raft.settled if self._replica is not None else (Configuration(), 0)

    @property
    def is_in_cluster(self) -> bool:
        """Whether there are other members; what a damaged log still knows does not count against that."""
        return len(self.configuration.members) > 1 or self.damage is not None

    @property
    def leader_id(self) -> int:
        """The member that leads, 0 when none is known."""
        return self._replica.raft.leader if self._replica is not None else 0

    @property
    def leader_name(self) -> str:
        """The node that leads, empty when none is known."""
        if self._leads:
            return self.name
        leader = self.configuration.member(self.leader_id) if self.leader_id else None
        return leader.name if leader is not None else ""

    @property
    def member_id(self) -> int:
        """This node's id in the group, 0 while it has none."""
        return self._replica.raft.id if self._replica is not None else 0

    def receive(self, envelope: Envelope, *, is_member: bool = True) -> None:
        """Take a Raft message from a node that may send it. See `cluster.ClusterNode.receive`."""
        if self._log is None or self._is_stopping or self._has_failed or not envelope.target:
            return
        if self._is_renewing:
            return  # Raft says it again
        if self._replica is None:
            # The leader knows by which entry this node became a member; its own log may not hold that yet.
            self.logger.info("this node is member {id}", id=envelope.target)
            self._begin_replica(envelope.target)
        elif envelope.target > self._replica.raft.id:
            # Ids only rise, and its sender knows this disk as that member. The own log may not tell yet.
            self._renew_replica(envelope.target)
            return
        assert self._replica is not None
        self._replica.receive(envelope, is_member=is_member)

    def _renew_replica(self, id_: int) -> None:
        """Go on under a new id: this node was removed and is a member again."""
        replica = self._replica
        assert replica is not None
        replica.stop()
        self.logger.info("this node is member {id} from now on, no longer {old}", id=id_, old=replica.raft.id)
        self.restart_core(replica, id_)

    def restart_core(self, driver: RaftDriver, id_: int = 0) -> None:
        """Go on with what the disk holds, in the place of a driver that is stopped."""
        self._replica, self._is_renewing = None, True
        log, commit_index = self._log, driver.raft.commit_index
        assert log is not None

        def begin(_: object) -> None:
            self._is_renewing = False
            if not (self._is_stopping or self._has_failed):
                self._begin_replica(id_ or driver.raft.id)

        # Behind what the old one still writes; the new one takes all that the log holds for durable. It is,
        # also when only the watermark had no room.
        syncing = self._disk.run(lambda: log.sync(commit_index))
        syncing.addErrback(lambda failure: failure.trap(DiskFullError)).addCallbacks(begin, self.fatal)

    def change_configuration(self, configuration: Configuration) -> None:
        """Propose a configuration on the leader; what is refused is tried again by the next look."""
        assert self._replica is not None
        try:
            self._replica.raft.check_voters(configuration, within_ticks=HEARD_TICKS)
        except MembershipError:
            return
        self._replica.propose_configuration(configuration).addCallbacks(
            lambda appended: self.logger.info("configuration {index} is in force", index=appended.index),
            lambda failure: None if failure.check(RequestError) else self.fatal(failure),
        )

    def is_heard(self, id: int) -> bool:
        """Whether a member answered this leader within an election timeout."""
        return self._replica is not None and self._replica.raft.is_heard(id)

    def is_caught_up(self, id: int) -> bool:
        """Whether a follower replicates close behind this leader."""
        return self._replica is not None and self._replica.raft.is_caught_up(id)

    def message_received(self, source: str, message: Message) -> None:
        """Take a message about damaged entries, a forwarded request, or the answer to one."""
        if isinstance(message, EntriesRequest | EntriesReply):
            if self.damage_control is not None:
                self.damage_control.message_received(source, message)
        elif self._forwarder is not None:
            self._forwarder.message_received(source, message, self)

    def peer_lost(self, name: str) -> None:
        """A link with that node is gone: its answers will not come. Raft and gossip ask again."""
        if self._forwarder is not None:
            self._forwarder.link_lost(name)
        if self._replica is not None and name == self.leader_name:
            self._replica.leader_link_lost()

    def when_settled(self, seconds_max: float) -> Deferred[None]:
        """Fire once the appends under way have their outcome, at the latest after so many seconds."""
        replica = self._replica
        idle = succeed(None) if replica is None or replica.is_full else replica.when_idle()
        return idle.addTimeout(seconds_max, self._clocks.scheduler, lambda _, __: None)

    def stopService(self) -> Deferred[None]:
        """Refuse new proposals, finish those taken, close the log clean."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._is_stopping = True
        self._housekeeping.stop()
        # Without a majority appends do not end; nobody waits for them longer than this.
        return self.when_settled(self.options.drain_seconds).addBoth(self._close)

    def release_waiters(self) -> None:
        """Tell everybody who waits at the tail to go on elsewhere; later waiters are told at once."""
        self._waiters.close()

    def _close(self, _: object) -> None:
        if self._ticking.running:
            self._ticking.stop()
        self.release_waiters()
        if self._forwarder is not None:
            self._forwarder.stop()
        if self._replica is not None:
            self._replica.stop()
        self.administration.stop()
        self._disk.stop()
        self._readers.stop()
        if not self._has_failed:
            if self._log is not None:
                self._log.close()
            self._directory.close()
        self.logger.info("log closed")

    # --- damage, and the end of the process -------------------------------------------

    @property
    def damage(self) -> Damage | None:
        """What the log once held, while it is being repaired from the leader."""
        return self.damage_control.damage if self.damage_control is not None else None

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._is_stopping or self._has_failed

    def damage_found(self, error: DamageError) -> None:
        """The core met damage in committed entries; what needs them waits."""
        if self.damage_control is not None:
            self.damage_control.damage_found(error)

    def _read_failed(self, failure: Failure) -> Any:
        """Look at why a read failed, and say what to do; damaged bytes were not served."""
        return self.damage_control.read_failed(failure) if self.damage_control is not None else failure

    def fatal(self, failure: Failure) -> None:
        """The process must end. When damage is why, a member's next start repairs it."""
        if self._has_failed:
            return
        self._has_failed = True
        self.is_writable = self.has_leader = False
        error, control = failure.value, self.damage_control
        if isinstance(error, DamageError) and control is not None and control.is_member:
            # From here on nothing is acknowledged any more: what is durable now is all that was promised.
            if self._replica is not None:
                self._replica.stop()
            control.note(error).addCallback(lambda last: self._on_fatal(Failure(last)))
            return
        self._on_fatal(failure)
        if self._replica is not None:
            self._replica.stop()

    # --- what the replica tells -----------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        """Send a message to another member, or drop it."""
        if self.transport is not None:
            self.transport.send_raft(envelope)

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""
        self.has_leader = state.leader != 0
        self.logger.info("{role} in term {term}", role=state.role.value, term=state.term)
        self.administration.look_at_hand_over()
        if self._forwarder is not None:
            self._forwarder.leader_changed(self.leader_name)

    def committed(self) -> None:
        """More is readable, or was trimmed."""
        driver, _ = self._member()
        assert self._disk_room is not None
        self._waiters.wake(driver.readable_offset)
        self._disk_room.committed(driver)

    def disk_filled(self, is_full: bool) -> None:
        """The disk has no room for appends, or has room again."""
        assert self._disk_room is not None
        self._disk_room.disk_filled(is_full)

    def _member(self) -> tuple[RaftDriver, Log]:
        """Return the replica and its log.

        Raises:
            UnavailableError: This node is not a member of its cluster yet.
        """
        if self._replica is None or self._log is None:
            raise UnavailableError("this node has not joined its cluster yet; try another node")
        return self._replica, self._log

    # --- appending --------------------------------------------------------------------

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> Cancellable | None:
        """Append a batch, here or on the leader. See `NodeLike.propose`."""
        if self._is_stopping or self._has_failed:
            failed(UnavailableError("the node is stopping; nothing was appended, try another node"))
        elif self._replica is None or self._leads or self._forwarder is None:
            self.propose_here(proposal, appended, failed)
        else:
            forwarded = self._forwarder.propose(self.leader_name, proposal)
            forwarded.addCallbacks(appended, lambda failure: failed(failure.value)).addErrback(
                lambda failure: self.logger.failure("answering an append", failure)
            )
            return forwarded
        return None

    @property
    def _leads(self) -> bool:
        return self._replica is not None and self._replica.raft.role is Role.LEADER

    def propose_here(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Append a batch if this node leads; never passes it on."""
        if self._replica is None:
            failed(UnavailableError("this node has not joined its cluster yet; nothing was appended"))
        elif not self.is_writable:
            failed(DiskFullError(self.options.data_dir))
        else:
            self._under_way.propose(self._replica.propose, proposal, appended, failed)

    # --- administration -----------------------------------------------------------------

    def administer(self, order: AdminOrder) -> Deferred[AdminResult]:
        """Carry out an order: here if this node leads, else the leader is asked, once."""
        if self._replica is None or self._leads:
            return self.administer_here(order)
        if self._forwarder is not None and self.leader_name:
            return self._forwarder.administer(self.leader_name, order)
        return fail(UnavailableError("no leader is known; nothing was done, try again"))

    def administer_here(self, order: AdminOrder) -> Deferred[AdminResult]:
        """Carry out an order if this node leads; never passes it on."""
        return self.administration.administer_here(order)

    # --- reading ------------------------------------------------------------------------

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once the record at `offset` is readable. See `NodeLike.wait_for`."""
        if self._replica is not None and offset < self._replica.readable_offset:
            return succeed(None)
        return self._waiters.wait_for(offset)

    # --- what it is -----------------------------------------------------------------------

    def servers(self) -> Sequence[ServerView]:
        """Return the members; a node alone is the cluster."""
        if self.transport is not None:
            return self.transport.servers()
        return (self.options.as_server(is_leader=self.has_leader),)

    def check_log(self, name: str) -> None:
        """Raise unless the log is one of this cluster's.

        Raises:
            UnknownLogError: It is not.
        """
        if name not in ("", DEFAULT_LOG):
            raise UnknownLogError(name)

    # --- housekeeping -----------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clocks.wall() * 1_000_000)

    def _keep_house(self) -> None:
        self._address_book.look()
        if self._disk_room is not None:
            self._disk_room.look()
