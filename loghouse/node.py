"""The node: one log as a service, behind the seam of `node_api`.

All decisions are in pure code (`raft`, `retention`, `storage`); `replica` drives
the consensus core over the log, and this module puts doors, housekeeping and the
ordered start and stop around it. The reactor never waits for a disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.disk import WorkQueue
from loghouse.errors import (
    DiskFullError,
    OffsetOutOfRangeError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import FETCH_SIZE_MAX, WAITERS_MAX
from loghouse.node_api import Appended, Bounds, Fetched, Proposal, Server
from loghouse.protocol.configuration import (
    Configuration,
    Member,
    Retention,
    encode_configuration,
    encode_trim,
)
from loghouse.protocol.configuration import Role as MemberRole
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.config import LAN, RaftConfig
from loghouse.raft.core import Raft
from loghouse.raft.ready import HardState, Role, SoftState
from loghouse.raft.ready import Proposal as RaftProposal
from loghouse.replica import Replica
from loghouse.retention import AgeClock, SegmentSpan, trim_offset
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files
from loghouse.storage.log import Log

DEFAULT_LOG: Final = "default"
DEFAULT_GROUP: Final = 1
TICK_SECONDS: Final = 0.1
HOUSEKEEPING_SECONDS: Final = 1.0
RETENTION_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What a node must be told; addresses are for `servers`, sizes in bytes."""

    name: str
    cluster_name: str
    data_dir: str
    address: str = ""
    grpc_address: str = ""
    segment_size: int
    reserve_size: int
    proposals_size_max: int
    drain_seconds: float = 10.0
    tick_seconds: float = TICK_SECONDS
    retention: Retention = field(default_factory=Retention)
    raft: RaftConfig = LAN


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time, injected.

    `scheduler` is for what happens later, `soon` runs work at the end of this turn of the reactor, `wall` is
    for timestamps, `monotonic` for age; both in seconds.
    """

    scheduler: IReactorTime
    soon: Callable[[Callable[[], None]], object]
    wall: Callable[[], float]
    monotonic: Callable[[], float]


class Node(Service):
    """One log, replicated by its group; see `node_api.NodeLike` for what doors may call."""

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
        self.options = options
        self.name = options.name
        self.cluster_name = options.cluster_name
        self._files = files
        self._clocks = clocks
        self._rng = rng
        self._make_queue = make_queue
        self._on_fatal = on_fatal
        self._trimmed_to = 0
        self._trim_proposed = 0
        self._is_prepared = False
        self._waiters: dict[int, list[Deferred[None]]] = {}
        self._waiter_count = 0
        self._is_stopping = False
        self._is_releasing = False
        self._has_failed = False
        self.is_writable = False
        self.has_leader = False

    # --- start and stop -------------------------------------------------------

    def startService(self) -> None:
        """Open the log and join its group. Everything that can fail at boot fails here.

        Raises:
            StorageError: The data directory cannot be used; the text says why and what to do.
        """
        options = self.options
        self._directory = DataDirectory.open(
            self._files,
            options.data_dir,
            cluster_name=options.cluster_name,
            node_name=options.name,
            random_bytes=self._rng.randbytes,
            segment_size=options.segment_size,
            reserve_size=options.reserve_size,
        )
        try:
            self._open_log()
        except BaseException:
            self._directory.close()
            raise
        self._disk = self._make_queue("loghouse-disk", 1)
        self._readers = self._make_queue("loghouse-reader", 4)
        self.is_writable = True
        self._replica = self._make_replica()
        self._replica.start()
        self._last_retention = self._clocks.monotonic()
        self._is_paused_told = False
        self._ticking = self._every(options.tick_seconds, self._replica.tick)
        self._housekeeping = self._every(HOUSEKEEPING_SECONDS, self._keep_house)
        super().startService()  # type: ignore[no-untyped-call]

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
        self._log = directory.open_log(DEFAULT_GROUP)
        for warning in self._log.warnings:
            self.logger.warn("{warning}", warning=warning)
        self._age_clock = AgeClock(self._log.state.timestamp, self._clocks.wall(), self._clocks.monotonic())
        if self._log.last_index == 0:
            self._bootstrap(self._log)
        self.logger.info(
            "log open: offsets {lowest} to {next} (next), term {term}",
            lowest=self._log.lowest_offset,
            next=self._log.next_offset,
            term=self._log.hard_state.term,
        )

    def _bootstrap(self, log: Log) -> None:
        """Make this node the only voter of a new group: the log's first entry says so."""
        configuration = Configuration(retention=self.options.retention).with_member(
            self.name, self._directory.identity.disk_uuid, MemberRole.VOTER
        )
        log.save_hard_state(term=1, vote=0)
        entry = make_entry(
            self.seed,
            index=1,
            term=1,
            kind=EntryKind.CONFIGURATION,
            base_offset=0,
            timestamp=self._now(),
            payload=encode_configuration(configuration),
        )
        log.append([entry])
        log.sync(1)

    def _make_replica(self) -> Replica:
        log = self._log
        raft = Raft(
            self.options.raft,
            id=self._own_member().id,
            group=DEFAULT_GROUP,
            seed=self.seed,
            reader=log,
            hard_state=HardState(log.hard_state.term, log.hard_state.vote),
            rng=self._rng,
            commit_index=log.commit_index,
            now=self._now(),
        )
        return Replica(
            raft,
            log,
            disk=self._disk,
            soon=self._clocks.soon,
            wall=self._clocks.wall,
            owner=self,
        )

    def _own_member(self) -> Member:
        disk_uuid = self._directory.identity.disk_uuid
        members = self._log.state.configuration.named(self.name)
        return next(member for member in members if member.disk_uuid == disk_uuid)

    def stopService(self) -> Deferred[None]:
        """Refuse new proposals, finish those taken, close the log clean."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._is_stopping = True
        self._housekeeping.stop()
        idle = self._replica.when_idle()
        # Without a majority appends do not end; nobody waits for them longer than this.
        late = self._clocks.scheduler.callLater(self.options.drain_seconds, idle.cancel)
        return idle.addBoth(self._close, late)

    def release_waiters(self) -> None:
        """Tell everybody who waits at the tail to go on elsewhere; later waiters are told at once."""
        self._is_releasing = True
        self._wake(None)

    def _close(self, _: object, late: IDelayedCall) -> None:
        if late.active():
            late.cancel()
        if self._ticking.running:
            self._ticking.stop()
        self.release_waiters()
        self._replica.stop()
        self._disk.stop()
        self._readers.stop()
        if not self._has_failed:
            self._log.close()
            self._directory.close()
        self.logger.info("log closed")

    # --- what the replica tells -----------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        """A group of one sends nothing."""

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""
        self.has_leader = state.leader != 0
        self.logger.info("{role} in term {term}", role=state.role.value, term=state.term)

    def committed(self) -> None:
        """More is readable, or was trimmed."""
        self._wake(self._replica.readable_offset)
        lowest = self._replica.lowest_offset
        if lowest > self._trimmed_to:
            self._trimmed_to = lowest
            high_index = self._replica.readable_index
            self._disk.run(lambda: self._log.trim_prefix(lowest, high_index)).addErrback(self.fatal)
            self.logger.info("trimmed: the lowest offset is {lowest}", lowest=lowest)
        self._prepare()

    def disk_filled(self, is_full: bool) -> None:
        """The disk has no room for appends, or has room again."""
        if is_full and self.is_writable:
            self.logger.error("{problem}", problem=str(DiskFullError(self.options.data_dir)))
        elif not is_full and not self.is_writable:
            self.logger.info("disk has room again: appends resume")
        self.is_writable = not is_full

    def fatal(self, failure: Failure) -> None:
        """The process must end."""
        if not self._has_failed:
            self._has_failed = True
            self.is_writable = self.has_leader = False
            self._on_fatal(failure)
            self._replica.stop()

    # --- appending --------------------------------------------------------------------

    def propose(self, proposal: Proposal) -> Deferred[Appended]:
        """Append a batch; fires when it is durable on a majority. See `NodeLike.propose`."""
        if self._is_stopping or self._has_failed:
            return fail(UnavailableError("the node is stopping; nothing was appended, try another node"))
        if not self.is_writable:
            return fail(DiskFullError(self.options.data_dir))
        return self._replica.propose(
            RaftProposal(
                payload=proposal.payload,
                record_count=proposal.record_count,
                attributes=proposal.codec,
                payload_crc=proposal.payload_crc,
                producer_id=proposal.producer_id,
                producer_sequence=proposal.producer_sequence,
                subject=proposal.subject,
                expect_offset=proposal.expect_offset,
            )
        )

    def _prepare(self) -> None:
        """Take room for the next segment once the active one is half full, so that no append waits for it.

        That is where a full disk shows: while there still is half a segment of room for what was taken.
        """
        half_full = self._log.active_size >= self.options.segment_size // 2
        if half_full and not self._is_prepared:
            self._run_prepare()
        self._is_prepared = half_full

    def _run_prepare(self) -> None:
        self._disk.run(self._log.prepare).addCallbacks(
            lambda _: self.disk_filled(False), self._not_prepared
        ).addErrback(self.fatal)

    def _not_prepared(self, failure: Failure) -> None:
        failure.trap(DiskFullError)
        self.disk_filled(True)

    # --- reading ------------------------------------------------------------------------

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read whole entry frames from the one holding `offset` on. See `NodeLike.fetch`.

        A hit is committed and immutable, so it is served from here. A miss may only be this node's: it is
        told after the leader confirmed it.
        """
        if self._holds(offset):
            return self._read(offset, size_max)
        return self._replica.read_barrier().addCallback(lambda _: self._read_or_miss(offset, size_max))

    def _holds(self, offset: int) -> bool:
        return self._replica.lowest_offset <= offset < self._replica.readable_offset

    def _read_or_miss(self, offset: int, size_max: int) -> Deferred[Fetched]:
        if self._holds(offset):
            return self._read(offset, size_max)
        replica = self._replica
        return fail(OffsetOutOfRangeError(offset, replica.lowest_offset, replica.readable_offset))

    def _read(self, offset: int, size_max: int) -> Deferred[Fetched]:
        log, high_index = self._log, self._replica.readable_index
        size_max = min(size_max, FETCH_SIZE_MAX)

        def read() -> Fetched:
            frames, next_offset = log.read(offset, size_max, high_index)
            return Fetched(frames=frames, next_offset=next_offset)

        if log.is_hot(offset):
            return maybeDeferred(read)
        return self._readers.run(read)

    def bounds(self) -> Deferred[Bounds]:
        """Return the readable range. See `NodeLike.bounds`."""

        def look(_: int) -> Bounds:
            return Bounds(lowest=self._replica.lowest_offset, next_offset=self._replica.readable_offset)

        return self._replica.read_barrier().addCallback(look)

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time. See `NodeLike.find_offset`."""

        def find() -> tuple[int, int]:
            log, replica = self._log, self._replica
            found = log.find_time(timestamp, replica.readable_index)
            return found if found is not None else (replica.readable_offset, 0)

        return self._replica.read_barrier().addCallback(lambda _: self._readers.run(find))

    def _wake(self, next_offset: int | None) -> None:
        """Wake who waits for an offset below `next_offset`; None wakes everybody, because the node stops."""
        due = [offset for offset in self._waiters if next_offset is None or offset < next_offset]
        for offset in due:
            waiting = self._waiters.pop(offset)
            self._waiter_count -= len(waiting)
            for done in waiting:
                if next_offset is None:
                    done.errback(UnavailableError("the node is stopping; go on at another node"))
                else:
                    done.callback(None)

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once the record at `offset` is readable. See `NodeLike.wait_for`."""
        if offset < self._replica.readable_offset:
            return succeed(None)
        if self._is_releasing or self._has_failed:
            return fail(UnavailableError("the node is stopping; go on at another node"))
        if self._waiter_count >= WAITERS_MAX:
            return fail(ResourceExhaustedError("followers", f"{WAITERS_MAX} streams wait already"))
        done: Deferred[None] = Deferred(lambda cancelled: self._forget_waiter(offset, cancelled))
        self._waiters.setdefault(offset, []).append(done)
        self._waiter_count += 1
        return done

    def _forget_waiter(self, offset: int, done: Deferred[None]) -> None:
        waiting = self._waiters.get(offset, [])
        if done in waiting:
            waiting.remove(done)
            self._waiter_count -= 1
            if not waiting:
                del self._waiters[offset]

    # --- what it is -----------------------------------------------------------------------

    def servers(self) -> Sequence[Server]:
        """Return this node: it is the cluster."""
        options = self.options
        return (
            Server(
                name=options.name,
                address=options.address,
                grpc_address=options.grpc_address,
                is_leader=True,
            ),
        )

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
        if self._replica.is_full:
            self._replica.retry_write()
        elif not self.is_writable:
            self._run_prepare()
        now = self._clocks.monotonic()
        if now - self._last_retention >= RETENTION_SECONDS:
            self._last_retention = now
            self.apply_retention()

    def apply_retention(self) -> None:
        """Propose a trim when this node leads and retention asks for one."""
        raft, log = self._replica.raft, self._log
        if raft.role is not Role.LEADER:
            return
        retention = raft.configuration.retention
        age_now = self._age_clock.now(self._clocks.wall(), self._clocks.monotonic())
        if age_now is None and retention.age_max_seconds and not self._is_paused_told:
            self.logger.warn(
                "clock jumped: trimming by age is paused until it is right; check NTP, then restart"
            )
        self._is_paused_told = age_now is None
        spans = [SegmentSpan(s.size, s.next_offset, s.newest_timestamp) for s in log.sealed_segments()]
        lowest = trim_offset(retention, spans, log.active_size, age_now)
        if lowest is None or lowest <= max(self._replica.lowest_offset, self._trim_proposed):
            return
        self._trim_proposed = lowest
        proposal = RaftProposal(kind=EntryKind.TRIM, payload=encode_trim(lowest))
        self._replica.propose(proposal).addErrback(self._not_trimmed)

    def _not_trimmed(self, failure: Failure) -> None:
        self._trim_proposed = 0
        self.logger.warn("trim not proposed: {reason}", reason=failure.getErrorMessage())
