"""The node: the process that hosts logs, behind the seam of `node.api`.

It owns what logs share (data directory, identity, threads, the way to the others) and the ordered start and
stop. Each log is a `ServedLog` with its `Replica`. The reactor never waits for a disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.errors import (
    DamageError,
    LoghouseError,
    NotSupportedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import DISK_THREADS_MAX, MICROSECONDS, READER_THREADS_MAX, UUID_SIZE, WAITERS_MAX
from loghouse.node.address_book import AddressBookFile
from loghouse.node.administration import Administration
from loghouse.node.api import LogProblem, Reloaded, StrayLog
from loghouse.node.beats import Beats
from loghouse.node.catalogue_log import CatalogueLog
from loghouse.node.condition import Hindrance, hindrances_of
from loghouse.node.copy_watch import CopyWatch
from loghouse.node.elsewhere import ELSEWHERE_KINDS, Elsewhere
from loghouse.node.forwarding import Forwarder
from loghouse.node.hosted_logs import HostedLogs
from loghouse.node.identity import claim_directory, create_identity, lock_directory
from loghouse.node.log_administration import LogAdministration
from loghouse.node.named_logs import NamedLogs
from loghouse.node.options import NodeOptions, NoOthers, Transport
from loghouse.node.renewals import Renewals
from loghouse.node.served_log import ServedLog
from loghouse.node.wheel import Wheel
from loghouse.protocol.beat_messages import NodeBeat
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import Retention
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG, frame_seed
from loghouse.protocol.message import NO_UUID, Message
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.replica.budgets import Budgets
from loghouse.replica.damage import LogRepair
from loghouse.replica.replica import Replica, ReplicaOptions
from loghouse.runtime.lanes import NODE_LANE, DiskLanes
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue
from loghouse.shares import Budget
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

DISK_QUEUE: Final = "loghouse-disk"
READER_QUEUE: Final = "loghouse-reader"
HOUSEKEEPING_SECONDS: Final = 1.0
# What a stop waits for, before the links and the log close: another leader, then the appends under way.
HAND_OVER_SECONDS_MAX: Final = 2.0
SETTLE_SECONDS_MAX: Final = 1.0


def _forwarder_class(tracer: Tracer | None) -> Callable[..., Forwarder]:
    if tracer is None:
        return Forwarder
    from loghouse.node.traced_forwarding import TracedForwarder

    return partial(TracedForwarder, tracer=tracer)


class Node(Service):
    """The process: what it hosts, and the way to the others. `node.api.NodeLike` is what servers see."""

    logger = Logger()
    name: str  # the node's name in the cluster; fixed
    make_replica: Callable[..., Replica] = Replica  # what hosts a log; the simulator's is under watch

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
        """Build a node that is not yet started."""
        self.options = options  # its settings; others after `change`
        self.name = options.name
        self.cluster_name = options.cluster_name  # fixed
        self._files = files  # the file seam, `OsFiles` in production; fixed
        self._clocks = clocks  # time; fixed
        self._rng = rng  # makes uuids and election timeouts, `SystemRandom` in production; fixed
        # Called at the start as (name, most threads) for `DISK_QUEUE` and `READER_QUEUE`; fixed.
        self._make_queue = make_queue
        self._on_fatal = on_fatal  # called once: the process must end with a code that is not 0
        self.is_ending = False  # True from `stopService` or `fatal` on: nothing new is begun
        self._has_failed = False  # True from `fatal` on
        self._claimed: DataDirectory | None = None  # set by `claim` or the start, taken back by `release`
        self.transport: Transport = NoOthers()  # the way to the other nodes; nobody until `attach`
        # The way to leaders; None until `attach`, and on a node alone.
        self.forwarder: Forwarder | None = None
        # Who leads the logs that other nodes have, and the way to their copies; as `forwarder`.
        self.elsewhere: Elsewhere | None = None
        # Reads the settings again for whoever asks for it; nobody can until the service says how.
        self.reload_settings: Callable[[str], Deferred[Reloaded]] = _nothing_to_reload
        # What of node.yaml, as it was read last, needs a restart; the service sets it.
        self.waiting_settings: Sequence[str] = ()
        # Raises for a subject that may not append, also where another node passes its request on.
        self.check_subject: Callable[[str, str], None] = lambda subject, log: None
        # The same for cursors of the log; and that the subject may change those of others, when that is said.
        self.check_cursor: Callable[[str, str, bool], None] = lambda subject, log, is_admin: None
        self.cluster_uuid = NO_UUID  # read from the disk when the log is opened
        self.disk_uuid = NO_UUID  # read with it, or chosen at the start when the disk is empty
        self._budgets = Budgets.for_node(  # what all logs here share; fixed
            options.raft, cold_read_rate=options.cold_read_rate
        )
        self._waiting = Budget(WAITERS_MAX)  # who waits at the end of any of them; fixed
        # What is served, by group; another object whenever a log comes or goes: it may be looped over.
        self.logs: Mapping[int, ServedLog] = {}
        # By the names that requests use, the empty one for the default log; follows `logs`.
        self._logs_by_name: dict[str, ServedLog] = {}
        # The log whose group says who is a member of the cluster: the default one; fixed.
        self.membership = self._logs_by_name[""] = self.serve(DEFAULT_LOG, DEFAULT_GROUP)
        self._beats = Beats(self, options.raft, rng)  # has quiet logs sleep; fixed
        # The catalogue and the logs that it names; None until this node belongs to a cluster.
        self._named: NamedLogs | None = None
        self.log_administration = LogAdministration(self, clocks)  # what may be asked about logs; fixed
        self._copies = CopyWatch(self, clocks.monotonic)  # which copies of logs need attention; fixed
        self._renewals = Renewals(self, clocks.wall)  # new copies for those on lost disks; fixed
        self._has_pointed_out = False  # whether retention was compared with that of node.yaml

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
        """Open the logs and join their groups. Everything that can fail at boot fails here.

        Raises:
            StorageError: The data directory cannot be used; the text says why and what to do.
        """
        options = self.options
        # The data directory, locked until the node stops.
        self._directory = directory = self._claimed or lock_directory(self._files, options)
        self._claimed = directory
        opened: LogRepair | None = None
        try:
            if directory.is_empty and options.is_alone:
                self._create_identity(self._rng.randbytes(UUID_SIZE), bootstrap=True)
            if not directory.is_empty:
                opened = self._open_default_log()
        except LoghouseError:
            self.release()
            raise
        except BaseException:
            directory.close()
            raise
        # For what is written: one lane a log, which keeps its order, and one for what is the node's.
        self._disk = DiskLanes(self._make_queue(DISK_QUEUE, DISK_THREADS_MAX))
        self._readers = self._make_queue(READER_QUEUE, READER_THREADS_MAX)  # for what may wait for a disk
        # Where the others are, on the disk; written when gossip says so.
        self.address_book = AddressBookFile(directory, self._disk.lane(NODE_LANE), self.fatal)
        if opened is None:
            self.disk_uuid = self._rng.randbytes(UUID_SIZE)
        else:
            self._begin(opened)
        clock = self._clocks.scheduler
        self._ticking = Wheel(options.tick_seconds, self._begin_tick, clock)  # drives the cores
        self._housekeeping = Wheel(HOUSEKEEPING_SECONDS, self._keep_house, clock)  # stops before `_ticking`
        for wheel in (self._ticking, self._housekeeping):
            wheel.start(self.fatal)
        super().startService()  # type: ignore[no-untyped-call]

    def _create_identity(self, cluster_uuid: bytes, *, bootstrap: bool) -> None:
        """Make the empty disk this node's; with `bootstrap` as the only voter of a new group."""
        disk_uuid = self.disk_uuid if self.disk_uuid != NO_UUID else self._rng.randbytes(UUID_SIZE)
        create_identity(
            self._directory,
            self.options,
            cluster_uuid=cluster_uuid,
            disk_uuid=disk_uuid,
            bootstrap_at=int(self._clocks.wall() * MICROSECONDS) if bootstrap else None,
        )

    def _open_default_log(self) -> LogRepair:
        identity = self._directory.identity
        self.cluster_uuid, self.disk_uuid = identity.cluster_uuid, identity.disk_uuid
        opened = LogRepair(self._files, self._directory, self.membership.group)
        opened.open_log()
        return opened

    def _begin(self, opened: LogRepair) -> None:
        """Host the default log, and then what it and the catalogue name: this node belongs to a cluster."""
        hosted = HostedLogs(
            self._files,
            self._directory,
            self._disk,
            wall=self._clocks.wall,
            fatal=lambda error: self.fatal(Failure(error)),
            keep_deleted_seconds=self.options.keep_deleted_seconds,
        )
        self._named = NamedLogs(
            self, hosted, scheduler=self._clocks.scheduler, changed=self.log_administration.catalogue_changed
        )
        assert opened.log is not None
        has_named_logs = opened.log.state.birth is not None
        self.host(self.membership, opened)
        if has_named_logs:
            self.membership.stand_again()  # no named log is known before it has a leader

    # --- which logs there are (`named_logs.LogsOwner`) ------------------------------------------

    def serve(self, name: str, group: int) -> ServedLog:
        """Serve one more log, which is not hosted yet."""
        log = ServedLog(self, name, group, monotonic=self._clocks.monotonic, waiting=self._waiting)
        if self.cluster_uuid != NO_UUID:
            log.seed = frame_seed(self.cluster_uuid, group)
        self.logs = {**self.logs, group: log}
        self._logs_by_name[name] = log
        return log

    def forget(self, log: ServedLog) -> None:
        """Serve a log no more: it was deleted."""
        self.logs = {group: other for group, other in self.logs.items() if other is not log}
        if self._logs_by_name.get(log.name) is log:
            del self._logs_by_name[log.name]
        log.retire()

    def host(self, log: ServedLog, opened: LogRepair) -> None:
        """Host a log that was opened just now."""
        options = self.options
        replica = self.make_replica(
            log,
            opened,
            options=ReplicaOptions(
                node_name=self.name,
                disk_uuid=self.disk_uuid,
                data_dir=options.data_dir,
                raft=options.raft,
                scrub_rate=options.scrub_rate,
                metrics=options.metrics,
                log_name=log.name,
                tracer=options.tracer,
                member_min=log.placed_member,
            ),
            files=self._files,
            clocks=self._clocks,
            rng=self._rng,
            disk=self._disk.lane(log.group),
            readers=self._readers,
            budgets=self._budgets,
        )
        log.host(replica)

    def _begin_tick(self) -> list[Callable[[], None]]:
        if self._named is not None and self._named.log is None:
            self._named.look_for_birth()
        self._beats.tick()
        return [log.tick for log in self.logs.values() if not log.is_asleep]

    @property
    def catalogue_log(self) -> CatalogueLog | None:
        """The catalogue as this node knows it; None until it is known to exist."""
        return self._named.log if self._named is not None else None

    def leader_known(self, group: int) -> None:
        """A log has a leader now, as far as this node knows."""
        if group == DEFAULT_GROUP and self._named is not None:
            self._named.find_out()
            self._point_out_retention()

    def _point_out_retention(self) -> None:
        """Say once when node.yaml keeps something else than the log: it counts for a new cluster alone."""
        wanted, kept = self.options.retention, self.membership.configuration.retention
        if not self._has_pointed_out and wanted not in (kept, Retention()):
            self.logger.warn(
                "node.yaml keeps {wanted}, the log keeps {kept}: node.yaml counts for a new cluster alone; "
                "`loghouse log alter default` changes what is kept",
                wanted=str(wanted),
                kept=str(kept),
            )
        self._has_pointed_out = True

    async def strays(self) -> Sequence[StrayLog]:
        """Return the logs on this node's disk that do not belong here. See `NamedLogs.strays`."""
        if self._named is None:
            raise UnavailableError("this node has not joined its cluster yet; try another node")
        return await self._named.strays()

    def problems(self) -> Sequence[LogProblem]:
        """Return what needs attention of the copies of logs. See `LogAdmin.problems`."""
        if not self.knows_all_logs:
            raise UnavailableError("this node does not know all logs yet; try again")
        return self._copies.problems()

    @property
    def knows_all_logs(self) -> bool:
        """Whether this node knew all logs once. See `NamedLogs.catch_up`."""
        return self._named is not None and self._named.knows_all

    async def catch_up_with_logs(self) -> None:
        """Know all the logs that there are now. See `NamedLogs.catch_up`."""
        if self._named is None:
            raise UnavailableError("this node has not joined its cluster yet; try another node")
        await self._named.catch_up()

    def _keep_house(self) -> list[Callable[[], None]]:
        self.address_book.look()
        self._beats.look()
        if self.elsewhere is not None:
            self.elsewhere.news.look()
        if self._named is not None:
            self._named.look(self._clocks.monotonic(), self._clocks.wall())
            self.log_administration.look()
            self._renewals.look()
            self._copies.look()
        return [log.look for log in self.logs.values()]

    def when_settled(self, seconds_max: float) -> Deferred[None]:
        """Fire once the appends under way have their outcome, at the latest after so many seconds."""
        idle = gatherResults([log.when_idle() for log in self.logs.values()], consumeErrors=True)
        return idle.addCallback(lambda _: None).addTimeout(
            seconds_max, self._clocks.scheduler, lambda _, __: None
        )

    def release_waiters(self) -> None:
        """Tell everybody who waits at the end of a log to go on elsewhere; later waiters are told at once."""
        for log in self.logs.values():
            log.release_waiters()

    def stopService(self) -> Deferred[None]:
        """Refuse new proposals, finish those taken, close the logs clean."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.is_ending = True
        self._housekeeping.stop()
        self.log_administration.stop()
        if self._named is not None:
            self._named.stop()
        # Without a majority appends do not end; nobody waits for them longer than this.
        return self.when_settled(self.options.drain_seconds).addBoth(self._close)

    def _close(self, _: object) -> None:
        if self._ticking.running:
            self._ticking.stop()
        self.release_waiters()
        if self.forwarder is not None:
            self.forwarder.stop()
        if self.elsewhere is not None:
            self.elsewhere.stop()
        for log in self.logs.values():
            log.stop()
        self._disk.stop()
        self._readers.stop()
        if not self._has_failed:
            for log in self.logs.values():
                if log.replica is not None:
                    log.replica.log.close()
            self._directory.close()
        self.logger.info("log closed")

    def fatal(self, failure: Failure, group: int = DEFAULT_GROUP) -> None:
        """The process must end. When damage in a log is why, a member's next start repairs it."""
        if self._has_failed:
            return
        assert failure.value is not None
        if self._named is not None and self._named.fail(group, failure.value):
            return
        self._has_failed = self.is_ending = True
        because_of = self.logs.get(group)
        replica = because_of.replica if because_of is not None else None
        if replica is not None and replica.last_words(failure.value, self._end):
            return
        self._on_fatal(failure)
        for log in self.logs.values():
            if log.replica is not None:
                log.replica.stop()

    def _end(self, last: DamageError) -> None:
        self._on_fatal(Failure(last))

    # --- joining, and what the cluster asks ---------------------------

    def attach(self, transport: Transport) -> None:
        """Give the node its way to the others; before they can be heard."""
        self.transport = transport
        clock, metrics = self._clocks.scheduler, self.options.metrics
        elsewhere: Elsewhere
        self.forwarder = _forwarder_class(self.options.tracer)(
            transport.send,
            clock=clock,
            rng=self._rng,
            check_subject=self.check_subject,
            check_cursor=self.check_cursor,
            denied=lambda group, name, leader: elsewhere.denied(group, name, leader),
            metrics=metrics,
        )
        elsewhere = self.elsewhere = Elsewhere(
            self, clock=clock, soon=self._clocks.soon, ids=self.forwarder.ids, metrics=metrics
        )

    def begin_cluster(self) -> None:
        """Make a new cluster, with this node as its only voter; the disk was empty."""
        self._create_identity(self._rng.randbytes(UUID_SIZE), bootstrap=True)
        self._begin(self._open_default_log())

    def join_cluster(self, cluster_uuid: bytes) -> None:
        """Belong to a cluster from now on; the disk was empty."""
        self._create_identity(cluster_uuid, bootstrap=False)
        self._begin(self._open_default_log())

    @property
    def is_in_cluster(self) -> bool:
        """Whether there are other members; what a damaged log still knows does not count against that."""
        replica = self.membership.replica
        return replica is not None and (len(replica.configuration.members) > 1 or replica.damage is not None)

    def message_received(self, source: str, message: Message, group: int) -> None:
        """Take what a member says of logs: who leads, damaged entries, what is passed on, and answers."""
        log = self.logs.get(group)
        if isinstance(message, EntriesRequest | EntriesReply):
            if log is not None and log.replica is not None:
                log.replica.damage_control.message_received(source, message)
        elif isinstance(message, NodeBeat):
            self._beats.message_received(source, message)
        elif self.forwarder is not None:
            elsewhere = self.elsewhere if message.KIND in ELSEWHERE_KINDS else None
            if elsewhere is None or not elsewhere.message_received(source, message, group):
                self.forwarder.message_received(source, message, group, log)

    def peer_lost(self, name: str) -> None:
        """A link with that node is gone: its answers will not come. Raft and gossip ask again."""
        if self.forwarder is not None:
            self.forwarder.link_lost(name)
        if self.elsewhere is not None:
            self.elsewhere.node_lost(name)
        for log in self.logs.values():
            if log.driver is not None and name == log.leader_name and not log.is_asleep:
                log.driver.raft.leader_link_lost()
        self._beats.node_lost(name)

    # --- what servers ask (`node.api.NodeLike`) ------------------------------------------------

    @property
    def administration(self) -> Administration:
        """What an operator may ask of the cluster."""
        return self.membership.administration

    @property
    def is_serving(self) -> bool:
        """Whether every log here has a leader and a disk that takes appends."""
        hosted = [log for log in self.logs.values() if log is self.membership or log.replica is not None]
        return all(log.has_leader and log.is_writable for log in hosted)

    @property
    def budgets(self) -> Budgets:
        """What the logs here share."""
        return self._budgets

    @property
    def set_aside(self) -> Mapping[int, str]:
        """Why logs cannot be opened here, by group: their files stay until an operator has looked at them."""
        return self._named.hosted.damaged if self._named is not None else {}

    def hindrances(self) -> Iterable[tuple[Hindrance, str]]:
        """Return what keeps this node from serving, each with the name of a log."""
        return hindrances_of(self)

    def servers(self) -> Sequence[DescribedServer]:
        """Return the members; a node alone is the cluster."""
        if self.forwarder is None:
            return (self.options.as_server(is_leader=self.membership.has_leader),)
        return self.transport.servers()

    def reload(self, by: str) -> Deferred[Reloaded]:
        """Read the settings again, with certificates and policy; see `NodeLike.reload`."""
        return self.reload_settings(by)

    def change(self, options: NodeOptions) -> None:
        """Go on with other settings: bounds, rates and times count at once, the rest not before a start."""
        self.options = options
        self._budgets.under_way.resize(options.raft.proposals_size_max)
        self._budgets.cold_reads.change(options.cold_read_rate)
        if self._named is not None:
            self._named.hosted.keep_deleted_seconds = options.keep_deleted_seconds
        for log in self.logs.values():
            if log.replica is not None:
                log.replica.change(raft=options.raft, scrub_rate=options.scrub_rate)

    def log(self, name: str) -> ServedLog:
        """Return the log of that name; empty: the default one.

        Raises:
            UnknownLogError: This cluster has no such log.
            UnavailableError: This node does not know that yet: it has just started.
        """
        log = self._logs_by_name.get(name)
        if log is not None:
            return log
        if self._named is not None and not self._named.knows_all:
            raise UnavailableError(f"this node does not know yet whether log {name!r} exists; try again")
        raise UnknownLogError(name)


def _nothing_to_reload(by: str) -> Deferred[Reloaded]:
    return fail(NotSupportedError("this node has no settings file that it could read again"))
