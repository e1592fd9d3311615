"""The node: one log as a service, behind the seam of `node_api`.

All decisions are in pure code (`solo`, `retention`, `storage`); this driver
holds the order of things. One group of entries is on its way to the disk at a
time: what arrives meanwhile is the next group and shares its sync. The reactor
never waits for a disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.disk import WorkQueue
from loghouse.errors import (
    DiskFullError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    RequestError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import FETCH_SIZE_MAX, PROPOSALS_MAX, SYNC_GROUP_SIZE_MAX, WAITERS_MAX
from loghouse.node_api import Appended, Bounds, Fetched, Proposal, Server
from loghouse.protocol.configuration import Retention
from loghouse.protocol.entry import Entry, frame_seed
from loghouse.protocol.log_state import ProducedBatch
from loghouse.retention import AgeClock, SegmentSpan, trim_offset
from loghouse.solo import Solo
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files

T = TypeVar("T")

DEFAULT_LOG: Final = "default"
DEFAULT_GROUP: Final = 1
HOUSEKEEPING_SECONDS: Final = 1.0
RETENTION_SECONDS: Final = 60.0
# Entries of one write: bounds what one turn of the reactor spends on making frames.
GROUP_ENTRIES_MAX: Final = 512


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
    retention: Retention = field(default_factory=Retention)


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


@dataclass(slots=True)
class _Pending:
    """A proposal on its way, and who waits for it."""

    proposal: Proposal
    done: Deferred[Appended]


@dataclass(slots=True)
class _Group:
    """Entries that share one write and one sync, and what each answers when durable."""

    entries: list[Entry] = field(default_factory=list)
    answers: list[tuple[_Pending, Appended]] = field(default_factory=list)
    size: int = 0
    trims_to: int | None = None


class Node(Service):
    """One log, led by this node alone; see `node_api.NodeLike` for what doors may call."""

    logger = Logger()
    name: str

    def __init__(
        self,
        options: NodeOptions,
        *,
        files: Files,
        clocks: Clocks,
        random_bytes: Callable[[int], bytes],
        make_queue: Callable[[str, int], WorkQueue],
        on_fatal: Callable[[Failure], None],
    ) -> None:
        """Build a node that is not yet started.

        Args:
            files: The file seam; `OsFiles` in production.
            random_bytes: Makes uuids.
            make_queue: Called at the start as (name, thread count) for the disk and the readers' threads.
            on_fatal: Called once when the disk failed; the process must end with a code that is not 0.
        """
        self.options = options
        self.name = options.name
        self.cluster_name = options.cluster_name
        self._files = files
        self._clocks = clocks
        self._random_bytes = random_bytes
        self._make_queue = make_queue
        self._on_fatal = on_fatal
        self._pending: deque[_Pending] = deque()
        self._pending_size = 0
        self._group: _Group | None = None
        self._turn_scheduled = False
        self._trim_to: int | None = None
        self._waiters: dict[int, list[Deferred[None]]] = {}
        self._waiter_count = 0
        self._idle: list[Deferred[None]] = []
        self._prepared = False
        self._stopping = False
        self._releasing = False
        self._failed = False
        self.is_writable = False
        self.has_leader = False

    # --- start and stop -------------------------------------------------------

    def startService(self) -> None:
        """Open the log and lead it. Everything that can fail at boot fails here.

        Raises:
            StorageError: The data directory cannot be used; the text says why and what to do.
        """
        options = self.options
        self._directory = DataDirectory.open(
            self._files,
            options.data_dir,
            cluster_name=options.cluster_name,
            node_name=options.name,
            random_bytes=self._random_bytes,
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
        self.has_leader = True
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = self._clocks.scheduler
        self._last_retention = self._clocks.monotonic()
        self._paused_logged = False
        self._housekeeping.start(HOUSEKEEPING_SECONDS, now=False).addErrback(self._fatal)
        super().startService()  # type: ignore[no-untyped-call]

    def _open_log(self) -> None:
        directory, options = self._directory, self.options
        self.cluster_uuid = directory.identity.cluster_uuid
        self.disk_uuid = directory.identity.disk_uuid
        self.seed = frame_seed(self.cluster_uuid, DEFAULT_GROUP)
        log = self._log = directory.open_log(DEFAULT_GROUP)
        for warning in log.warnings:
            self.logger.warn("{warning}", warning=warning)
        # Paper, 5.2: a new term, and the vote in it, are durable before anything is written in it.
        term = max(log.hard_state.term, log.last_term) + 1
        log.save_hard_state(term=term, vote=1)
        self._solo = Solo(self.seed, log.state, term)
        self._age_clock = AgeClock(log.state.timestamp, self._clocks.wall(), self._clocks.monotonic())
        self.is_writable = True
        entries = self._solo.first_entries(
            options.name, directory.identity.disk_uuid, options.retention, self._now()
        )
        try:
            log.append(entries)
        except DiskFullError:
            # Reads go on without; writing resumes when there is room.
            self.logger.warn("disk full at start: serving reads only")
            self._solo.rewind(log.state)
            self.is_writable = False
        else:
            log.sync(entries[-1].index)
        self._commit(log.last_index, log.next_offset)
        self.logger.info(
            "log open: offsets {lowest} to {next} (next), term {term}",
            lowest=log.lowest_offset,
            next=log.next_offset,
            term=term,
        )

    def stopService(self) -> Deferred[None]:
        """Refuse new proposals, finish those taken, close the log clean."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = True
        if self._housekeeping.running:
            self._housekeeping.stop()
        idle = succeed(None) if self._group is None and not self._pending else self._when_idle()
        return idle.addBoth(self._close)

    def _when_idle(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._idle.append(done)
        return done

    def release_waiters(self) -> None:
        """Tell everybody who waits at the tail to go on elsewhere; later waiters are told at once."""
        self._releasing = True
        self._fire_waiters(None)

    def _close(self, _: object) -> None:
        self.release_waiters()
        self._disk.stop()
        self._readers.stop()
        if not self._failed:
            self._log.close()
            self._directory.close()
        self.logger.info("log closed")

    def _fatal(self, failure: Failure) -> None:
        if not self._failed:
            self._failed = True
            self.is_writable = self.has_leader = False
            self._on_fatal(failure)
            while self._pending:
                done = self._pending.popleft().done
                if not done.called:
                    done.errback(UnavailableError("the disk failed; nothing was appended, try another node"))
            self._become_idle()

    # --- appending --------------------------------------------------------------

    def propose(self, proposal: Proposal) -> Deferred[Appended]:
        """Append a batch; fires when it is durable. See `NodeLike.propose`."""
        if self._stopping or self._failed:
            return fail(UnavailableError("the node is stopping; nothing was appended, try another node"))
        size = len(proposal.payload)
        if self._pending_size + size > self.options.proposals_size_max or len(self._pending) >= PROPOSALS_MAX:
            limit = f"{self.options.proposals_size_max} bytes or {PROPOSALS_MAX} proposals are waiting"
            return fail(ResourceExhaustedError("proposals", f"{limit}; send slower, nothing was appended"))
        pending = _Pending(proposal, Deferred())
        self._pending.append(pending)
        self._pending_size += size
        if self._group is None and not self._turn_scheduled:
            # Not at once: what else this turn of the reactor brings shares the sync.
            self._turn_scheduled = True
            self._clocks.soon(self._turn)
        return pending.done

    def _turn(self) -> None:
        """Send the next group to the disk, unless one is on its way."""
        self._turn_scheduled = False
        if self._group is not None or self._failed:
            return
        group = self._make_group()
        if not group.entries:
            self._answer(group)
            self._become_idle()
            return
        self._group = group
        log, entries = self._log, group.entries

        def write() -> None:
            log.append(entries)
            # A lone voter's entry is committed once it is on its own disk.
            log.sync(entries[-1].index)

        self._disk.run(write).addCallbacks(self._written, self._not_written).addErrback(self._fatal)

    def _make_group(self) -> _Group:
        group, now = _Group(), self._now()
        if self._trim_to is not None:
            group.trims_to = self._trim_to
            group.entries.append(self._solo.trim(self._trim_to, now))
        elif not self.is_writable and not self._pending:
            group.entries.append(self._solo.noop(now))  # is there room again?
        while self._pending and group.size < SYNC_GROUP_SIZE_MAX and len(group.entries) < GROUP_ENTRIES_MAX:
            pending = self._pending[0]
            if group.entries and group.size + len(pending.proposal.payload) > SYNC_GROUP_SIZE_MAX:
                break
            self._pending.popleft()
            if pending.done.called:  # cancelled while it waited: certainly not appended
                self._pending_size -= len(pending.proposal.payload)
            else:
                self._add_to_group(group, pending, now)
        return group

    def _add_to_group(self, group: _Group, pending: _Pending, now: int) -> None:
        try:
            made = self._solo.propose(pending.proposal, now)
        except RequestError:
            self._pending_size -= len(pending.proposal.payload)
            pending.done.errback()
            return
        if isinstance(made, Entry):
            group.entries.append(made)
            group.size += made.size
            appended = Appended(
                base_offset=made.base_offset,
                record_count=made.record_count,
                timestamp=made.timestamp,
                index=made.index,
                term=made.term,
            )
        else:
            appended = _appended_before(made)
        group.answers.append((pending, appended))

    def _written(self, _: None) -> None:
        group = self._take_group()
        last = group.entries[-1]
        if not self.is_writable:
            self.is_writable = True
            self.logger.info("disk has room again: appends resume")
        self._commit(last.index, last.next_offset)
        self._answer(group)
        if group.trims_to is not None:
            self._trim(group.trims_to)
        self._turn()
        self._prepare()

    def _answer(self, group: _Group) -> None:
        for pending, appended in group.answers:
            self._pending_size -= len(pending.proposal.payload)
            pending.done.callback(appended)

    def _refuse(self, group: _Group, error: RequestError) -> None:
        for pending, _ in group.answers:
            self._pending_size -= len(pending.proposal.payload)
            pending.done.errback(error)

    def _not_written(self, failure: Failure) -> None:
        group = self._take_group()
        error = failure.value
        if not isinstance(error, DiskFullError):
            self._refuse(group, OutcomeUnknownError("the disk failed during the append"))
            self._fatal(failure)
            return
        if self.is_writable:
            self.is_writable = False
            self.logger.error("{problem}", problem=str(error))
        # Nothing of the group was written: the next one is made from where the log really ends.
        self._solo.rewind(self._log.state)
        self._refuse(group, error)
        if self._pending:
            self._turn()
        else:
            self._become_idle()

    def _take_group(self) -> _Group:
        group, self._group = self._group, None
        assert group is not None
        return group

    def _prepare(self) -> None:
        """Take room for the next segment once the active one is half full, so that no append waits for it."""
        half_full = self._log.active_size >= self.options.segment_size // 2
        if half_full and not self._prepared:
            # A full disk shows again, and is told, when an append needs the room.
            self._disk.run(self._log.prepare).addErrback(_ignore_full_disk).addErrback(self._fatal)
        self._prepared = half_full

    def _become_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for done in waiting:
            done.callback(None)

    # --- committing and reading ---------------------------------------------------

    def _commit(self, index: int, next_offset: int) -> None:
        self._commit_index = index
        self._next_offset = next_offset
        self._lowest_offset = self._log.lowest_offset
        self._fire_waiters(next_offset)

    def _fire_waiters(self, next_offset: int | None) -> None:
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

    def fetch(self, offset: int, size_max: int) -> Deferred[Fetched]:
        """Read whole entry frames from the one holding `offset` on. See `NodeLike.fetch`."""
        if not self._lowest_offset <= offset < self._next_offset:
            return fail(OffsetOutOfRangeError(offset, self._lowest_offset, self._next_offset))
        log, high = self._log, self._commit_index
        size_max = min(size_max, FETCH_SIZE_MAX)

        def read() -> Fetched:
            frames, next_offset = log.read(offset, size_max, high)
            return Fetched(frames=frames, next_offset=next_offset)

        if log.is_hot(offset):
            return maybeDeferred(read)
        return self._readers.run(read)

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once the record at `offset` is readable. See `NodeLike.wait_for`."""
        if offset < self._next_offset:
            return succeed(None)
        if self._releasing or self._failed:
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

    def bounds(self) -> Deferred[Bounds]:
        """Return the readable range. See `NodeLike.bounds`."""
        return succeed(Bounds(lowest=self._lowest_offset, next_offset=self._next_offset))

    def find_offset(self, timestamp: int) -> Deferred[tuple[int, int]]:
        """Return the first offset at or after a time. See `NodeLike.find_offset`."""
        log, next_offset, high = self._log, self._next_offset, self._commit_index

        def find() -> tuple[int, int]:
            found = log.find_time(timestamp, high)
            return found if found is not None else (next_offset, 0)

        return self._readers.run(find)

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
        if not self.is_writable and self._group is None and not self._pending:
            self._turn()
        now = self._clocks.monotonic()
        if now - self._last_retention >= RETENTION_SECONDS:
            self._last_retention = now
            self.apply_retention()

    def apply_retention(self) -> None:
        """Propose a trim when retention asks for one."""
        log = self._log
        retention = self._solo.state.configuration.retention
        age_now = self._age_clock.now(self._clocks.wall(), self._clocks.monotonic())
        if age_now is None and retention.age_max_seconds and not self._paused_logged:
            self.logger.warn(
                "clock jumped: trimming by age is paused until it is right; check NTP, then restart"
            )
        self._paused_logged = age_now is None
        spans = [SegmentSpan(s.size, s.next_offset, s.newest_timestamp) for s in log.sealed_segments()]
        lowest = trim_offset(retention, spans, log.active_size, age_now)
        if lowest is not None and lowest > self._lowest_offset and self._trim_to is None:
            self._trim_to = lowest
            if self._group is None:
                self._turn()

    def _trim(self, lowest: int) -> None:
        self._trim_to = None
        self._disk.run(self._log.trim_prefix).addCallbacks(
            lambda _: self.logger.info("trimmed: the lowest offset is {lowest}", lowest=lowest), self._fatal
        )


def _ignore_full_disk(failure: Failure) -> None:
    failure.trap(DiskFullError)


def _appended_before(batch: ProducedBatch) -> Appended:
    return Appended(
        base_offset=batch.base_offset,
        record_count=batch.record_count,
        timestamp=0,
        index=batch.index,
        term=0,
    )
