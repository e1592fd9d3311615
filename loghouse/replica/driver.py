"""One member of one group: the consensus core driven over its log.

The driver's whole duty is order. Messages that may leave at once do; what must be
durable first goes to the disk thread, one group of writes at a time; what arrives
meanwhile is the next group and shares its sync. Nothing here decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from loghouse.errors import (
    ConsensusError,
    DamageError,
    DiskFullError,
    EntryDamagedError,
    IdentityError,
    LoghouseError,
    OutcomeUnknownError,
    StorageError,
    UnavailableError,
)
from loghouse.limits import MICROSECONDS, SYNC_GROUP_SIZE_MAX
from loghouse.metrics import GroupTally
from loghouse.protocol.configuration import Configuration, decode_trim
from loghouse.protocol.entry import FILLING_KINDS, Entry, EntryKind
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.core import Raft
from loghouse.raft.ready import Proposal, ReadState, Ready, Role, SoftState, Ticket
from loghouse.replica.api import Appended, OnAppended, OnFailed
from loghouse.replica.group_write import GroupWrite
from loghouse.replica.pending_reads import BEHIND_ELECTIONS_MAX, BehindRead, PendingRead
from loghouse.replica.read_ahead import ReadAhead
from loghouse.replica.unsettled import Unsettled
from loghouse.runtime.events import Logger
from loghouse.runtime.scheduling import Cancellable, Later
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.log import Log

COMMIT_NOTIFICATION_SECONDS: Final = 0.002
"""How long a commit notification waits for the next entries to carry it to followers. See ADR 12."""

_BEYOND_REPAIR: Final = (EntryDamagedError, ConsensusError, StorageError)
"""The logs contradict each other, or this one is damaged: never guess."""


class ReplicaLike(Protocol):
    """A replica as its parts see it: the driver, damage control, and the keeper of the disk's room."""

    is_writable: bool

    @property
    def node_name(self) -> str:
        """The node's name."""

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while this node is no member."""

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""

    def restart_core(self, driver: RaftDriver, id_: int = 0) -> None:
        """Go on with what the disk holds, in the place of a driver that is stopped."""

    def send(self, envelope: Envelope) -> None:
        """Send a message to another member, or drop it: Raft sends again."""

    def send_to(self, name: str, message: Message) -> bool:
        """Send another message to a node; False when it certainly was not sent."""

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""

    def committed(self) -> None:
        """More is readable, or was trimmed; configurations count from their append, look at them, too."""

    def disk_filled(self, is_full: bool) -> None:
        """The disk has no room for appends, or has room again."""

    def damage_found(self, error: DamageError) -> None:
        """The core met damage in committed entries; what needs them waits."""

    def fatal(self, error: BaseException) -> None:
        """The process must end: the disk failed, or the log contradicts what is committed."""


class RaftDriver:
    """Drives one `Raft` over one `Log`.

    `readable_index` and `readable_offset` are min(commit, durable) here: what may be served.
    `lowest_offset` is that of the committed trims up to there, so it is never above `readable_offset`.
    """

    logger = Logger()

    def __init__(
        self,
        raft: Raft,
        log: Log,
        *,
        disk: WorkQueue,
        soon: Callable[[Callable[[], None]], object],
        later: Later,
        wall: Callable[[], float],
        owner: ReplicaLike,
        read_ahead: ReadAhead | None = None,
        tally: GroupTally | None = None,
    ) -> None:
        """Take over a core and its log; nothing happens before `start`."""
        self.raft = raft  # the core; the same one for life
        self._log = log  # the durable log; written through `_disk`
        self._disk = disk  # runs writes on the disk's thread, in order
        self._soon = soon  # runs work at the end of this turn of the reactor
        self._later = later  # runs work after so many seconds
        self._wall = wall  # seconds since the epoch, for timestamps
        self._tally = tally  # counts groups of writes; fixed, None when nobody asks for it
        self._queued_at = 0.0  # when the first of `_to_write` came, by the tally's clock
        # When a leader's own disk had which entry, until a majority has it; 0 while none is followed.
        self._durable_at, self._followed_index = 0.0, 0
        self._owner = owner  # is told of roles, commits, damage and full disks
        # The core's way to the log when that is not the log itself, else None.
        self._read_ahead = read_ahead
        if read_ahead is not None:
            read_ahead.wake = self._schedule
        self._is_scheduled = False  # a turn is due at the end of this turn of the reactor
        self._is_turning = False  # `_turn` is running: what it calls must not begin another
        self._is_stopped = False  # set once, by `stop`
        self._lost_ticks = 0  # how long appends wait without this node leading; 0 when none do
        self._notification: Cancellable | None = None  # sends commit notifications; None when none is due
        self._to_write: deque[Ready] = deque()  # what the core handed out behind `_writing`, oldest first
        self._writing: list[Ready] = []  # the group that is being written; empty when none is
        self._write: GroupWrite | None = None  # of that group; stays when the disk is full, to be tried again
        self._is_at_disk = False  # that write is with the disk thread, or will be this turn
        self._has_moved = False  # more is readable than readers were told; they are at the end of a turn
        self._unsettled = Unsettled()  # the appends without an outcome
        self._reads: dict[int, PendingRead] = {}  # reads without an index, by the core's id of them
        self._behind: list[BehindRead] = []  # reads with an index that is not readable here yet
        self._idle: list[Callable[[], object]] = []  # callers of `when_idle`, until nothing waits
        # Committed, not readable yet: index, next offset, and what a trim made the lowest offset (else 0).
        self._applied: deque[tuple[int, int, int]] = deque()
        state = log.state_at(raft.commit_index)
        self.readable_index = raft.commit_index  # last entry committed and durable here; never falls
        self.readable_offset = state.next_offset  # the offset behind that entry; never falls
        self.lowest_offset = max(state.lowest_offset, log.first_offset)  # raised by trims and snapshots
        self.is_full = False  # the last write found no room; False again when it succeeds
        self.is_asleep = False  # the core is not ticked: set by `Beats`, and False again by `wake`

    # --- in ---------------------------------------------------------------------------

    def start(self) -> None:
        """Do what the core has to do at its start; a lone voter leads when its disk has written that."""
        self._schedule()

    def stop(self) -> None:
        """Take no more turns; who waits gets no answer from here any more."""
        self._is_stopped = True
        self.raft.let_go()
        if self._read_ahead is not None:
            self._read_ahead.forget()
        if self._notification is not None:
            self._notification.cancel()
            self._notification = None
        self._unsettled.fail(OutcomeUnknownError("the node stopped before the append was acknowledged"))
        self._fail_reads("the node is stopping; go on at another node")
        self._become_idle()

    @property
    def must_go_back(self) -> bool:
        """Whether what waits for room is better forgotten.

        Not by a leader of several, since others may commit it, nor while anybody waits for its outcome.
        """
        if not self.is_full or self._is_at_disk or self._is_stopped:
            return False
        if not self.raft.is_alone:
            return self.raft.role is not Role.LEADER and self._unsettled.is_empty
        stuck = [entry.kind for ready in (*self._writing, *self._to_write) for entry in ready.entries]
        return not FILLING_KINDS.isdisjoint(stuck)

    def go_back(self, directory: str) -> None:
        """Stop, as a process does. What is not on the disk of who is alone is certainly not appended."""
        if self.raft.is_alone:
            self._unsettled.fail(DiskFullError(directory), after=self._log.last_index)
        self.stop()

    def when_idle(self, done: Callable[[], object]) -> None:
        """Call `done`, which may not raise, once nothing waits for the disk or for commits."""
        if self._is_idle or self._is_stopped:
            done()
        else:
            self._idle.append(done)

    @property
    def _is_idle(self) -> bool:
        return self._unsettled.is_empty and not (self._to_write or self._writing or self._is_scheduled)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing waits for the disk, for commits, for reads or for the leader."""
        reads = self._reads or self._behind or self._notification
        return self._is_idle and not reads and self.raft.is_at_rest

    def wake(self) -> None:
        """Need ticks again, if this one sleeps."""
        if self.is_asleep:
            self.is_asleep = False
            self.raft.wake()

    def leader_lost(self, elections: int = 1) -> None:
        """The leader's node, or the link with it, is gone. See `Raft.leader_link_lost`."""
        self.wake()
        self.raft.leader_link_lost(elections)

    def receive(self, envelope: Envelope, *, is_member: bool = True) -> None:
        """Take a message from another member.

        Args:
            is_member: Whether the own log knows it; else others vouched for it.

        Raises:
            MalformedMessageError: The sender breaks the rules; close its link.
            IdentityError: It is no member by the own log, and contradicts what is committed in that.
        """
        if self._is_stopped:
            return
        if self.is_asleep and not self.raft.is_late_reply(envelope.message):
            self.wake()
        try:
            self.raft.step(envelope)
        except _BEYOND_REPAIR as error:
            if not is_member and isinstance(error, ConsensusError | EntryDamagedError):
                raise IdentityError(f"is no member by this node's log and contradicts it: {error}") from error
            self._owner.fatal(error)
            return
        self._schedule()

    def tick(self) -> None:
        """Let a tick of time pass."""
        if not self._is_stopped:
            self.raft.tick(self._now())
            self._count_lost_ticks()
            if self._behind:
                self._count_behind_ticks()
            self._schedule()

    def _count_lost_ticks(self) -> None:
        """Give up on appends whose leadership was lost, when no new leader settled them in time.

        The new leader may or may not have their entries; what commits at their index tells. Until then their
        callers wait, but not longer than two elections take.
        """
        if self.raft.role is Role.LEADER or self._unsettled.is_empty:
            self._lost_ticks = 0
            return
        self._lost_ticks += 1
        if self._lost_ticks > 2 * self.raft.config.election_ticks:
            self._lost_ticks = 0
            self._unsettled.fail(
                OutcomeUnknownError("leadership was lost before the append was acknowledged")
            )

    def _count_behind_ticks(self) -> None:
        """Give up on confirmed reads that this node does not get to: it was cut off, or removed."""
        for one in self._behind:
            one.ticks_left -= 1
        late = [one for one in self._behind if one.ticks_left <= 0]
        self._behind = [one for one in self._behind if one.ticks_left > 0]
        for one in late:
            one.read.failed(UnavailableError("this node is behind the leader; go on at another node"))

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Append on the leader; calls `appended` when committed, or `failed`. Neither may raise.

        Fails with:
            NotLeaderError, UnavailableError, ...: As `Raft.propose`: certainly not appended.
            OutcomeUnknownError: Leadership was lost and it is not known what became of the entry.
        """
        if self._is_stopped:
            failed(UnavailableError("the node is stopping; nothing was appended, try another node"))
            return
        if self.is_asleep:
            self.wake()
        try:
            ticket = self.raft.propose(proposal, self._now())
        except LoghouseError as error:
            failed(error)
            return
        self._wait(ticket, appended, failed)

    def propose_configuration(
        self, configuration: Configuration, appended: OnAppended, failed: OnFailed
    ) -> None:
        """Change the configuration; as `propose`, and MembershipError when the change is refused."""
        if self._is_stopped:
            failed(UnavailableError("the node is stopping; nothing was changed, try another node"))
            return
        self.wake()
        try:
            ticket = self.raft.propose_configuration(configuration, self._now())
        except LoghouseError as error:
            failed(error)
            return
        self._wait(ticket, appended, failed)

    def stand(self) -> None:
        """Stand for election at once, where no leader is known."""
        self.wake()
        self.raft.stand()
        self._schedule()

    def transfer_leadership(self, target: int = 0) -> None:
        """Hand leadership to another voter, 0 for the best one; see `Raft.transfer_leadership` for errors."""
        self.wake()
        self.raft.transfer_leadership(target)
        self._schedule()

    def _wait(self, ticket: Ticket, appended: OnAppended, failed: OnFailed) -> None:
        if ticket.index <= self.raft.commit_index:
            appended(Appended.by(ticket, ticket.timestamp))  # a retry of a batch acknowledged before
            return
        self._unsettled.add(ticket, appended, failed)
        self._schedule()

    def read_barrier(self, done: Callable[[int], object], failed: OnFailed) -> None:
        """Call `done` with the commit index of now, once it is readable here (ReadIndex, thesis 6.4).

        Neither may raise. Fails with:
            UnavailableError: No leader, or it did not confirm.
            ResourceExhaustedError: Too many reads wait.
        """
        if self._is_stopped:
            failed(UnavailableError("the node is stopping; go on at another node"))
            return
        self.wake()
        try:
            id_ = self.raft.read_index()
        except LoghouseError as error:
            failed(error)
            return
        self._reads[id_] = PendingRead(done, failed)
        self._schedule()

    def when_readable(self, index: int, done: Callable[[int], object], failed: OnFailed) -> None:
        """Call `done` with an index once it is readable here; else `failed`, as `read_barrier` does."""
        if index <= self.readable_index:
            done(index)
        else:
            ticks = BEHIND_ELECTIONS_MAX * self.raft.config.election_ticks
            self._behind.append(BehindRead(index, PendingRead(done, failed), ticks))

    def _now(self) -> int:
        return int(self._wall() * MICROSECONDS)

    # --- a turn -------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._is_scheduled and not self._is_stopped:
            # Not at once: what else this turn of the reactor brings shares messages, write and sync.
            self._is_scheduled = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """Hand out everything the core has to do."""
        self._is_scheduled = False
        if self._is_stopped or self._is_turning:
            return
        self._is_turning = True
        try:
            if self._take_next() or self._to_write:
                # The disk's thread wakes up while this one looks for more.
                while self._write_next() or self._take_next():
                    pass
        except _BEYOND_REPAIR as error:
            self._owner.fatal(error)
        finally:
            self._is_turning = False
        if self._has_moved:
            self._wake_readers()
        unreadable = self.raft.take_unreadable()
        if unreadable is not None:
            self._owner.damage_found(unreadable)
        if self._notification is None and self.raft.has_unnotified_commit:
            self._notify_later()
        if self._is_idle:
            self._become_idle()

    def _notify_later(self) -> None:
        if not self._is_stopped:
            index = self.raft.commit_index
            self._notification = self._later(COMMIT_NOTIFICATION_SECONDS, lambda: self._notify_commit(index))

    def _notify_commit(self, index: int) -> None:
        self._notification = None
        if self.raft.notify_commit(index):
            self._schedule()
        elif self.raft.has_unnotified_commit:
            self._notify_later()  # of newer commits: they have their time, too

    def _take_next(self) -> bool:
        """Hand out the core's next Ready; False when there is none."""
        ready = self.raft.ready()
        if ready is not None:
            self._take(ready)
        return ready is not None

    def _take(self, ready: Ready) -> None:
        for envelope in ready.messages_now:
            self._owner.send(envelope)
        if ready.soft_state is not None:
            if self._read_ahead is not None:
                self._read_ahead.forget()
            self._durable_at = 0.0
            self._owner.role_changed(ready.soft_state)
        if ready.waits_for_disk:
            if self._tally is not None and not self._to_write:
                self._queued_at = self._tally.now()
            self._to_write.append(ready)
        if ready.snapshot is not None:
            self._unsettled.skipped(ready.snapshot.index, ready.snapshot.term)
            self._applied.clear()
        if ready.committed:
            self._apply(ready.committed)
        for state in ready.read_states:
            self._answer_read(state)

    # --- the disk -----------------------------------------------------------------------

    def _write_next(self) -> bool:
        """Begin the next group of writes; True when it was empty and the core may have more to do."""
        if self._writing or not self._to_write:
            return False
        group: list[Ready] = []
        size = 0
        must_persist = has_sent = False
        while self._to_write and size < SYNC_GROUP_SIZE_MAX:
            ready = self._to_write.popleft()
            for entry in ready.entries:
                size += entry.size
            must_persist = must_persist or ready.must_persist
            has_sent = has_sent or bool(ready.messages_now)
            group.append(ready)
        self._writing = group
        if not must_persist:
            self._finish_write()
            return True
        tally = self._tally
        if tally is None:
            self._write = GroupWrite(self._log, group)
        else:
            self._write = GroupWrite(self._log, group, tally.now)
            tally.queue.observe(tally.now() - self._queued_at)
            tally.entries.observe(self._write.entry_count)
            tally.bytes.observe(size)
        self._is_at_disk = True
        if has_sent:
            # Behind what was sent, which leaves at the end of this turn: others' disks then work beside this
            # one, and the disk thread, which needs the interpreter, is not in the way of the sending.
            self._soon(self._run_write)
        else:
            self._run_write()
        return False

    def _run_write(self) -> None:
        if self._is_stopped:
            return  # nobody was promised anything of it
        assert self._write is not None
        self._is_at_disk = True
        self._disk.submit(self._write, self._written, self._not_written)

    def _written(self, _: None) -> None:
        self._is_at_disk = False
        if self._tally is not None and self._write is not None:
            self._count_write(self._tally, self._write)
        try:
            if self.is_full:
                self.is_full = False
                self._owner.disk_filled(False)
            has_sent = self._finish_write()
            if not has_sent and (self._to_write or self._is_scheduled):
                self._turn()  # the disk goes on beside the answers
                return
            if not (has_sent or self._is_stopped):
                self._take_next()  # answers those whose entries are committed by now
            # Another member waits for what was sent, or a caller for an answer: the rest comes behind it.
            self._schedule()
        except Exception as error:
            self._owner.fatal(error)

    def _count_write(self, tally: GroupTally, write: GroupWrite) -> None:
        """Count a group that is durable now, and follow its last entry to a majority if none is followed."""
        tally.write.observe(write.write_seconds)
        tally.sync.observe(write.sync_seconds)
        if write.last_index and not self._durable_at and self.raft.role is Role.LEADER:
            if self.raft.commit_index >= write.last_index:
                tally.replication.observe(0.0)
            else:
                self._durable_at, self._followed_index = tally.now(), write.last_index

    def _not_written(self, error: BaseException) -> None:
        self._is_at_disk = False
        if not isinstance(error, DiskFullError):
            self._unsettled.fail(OutcomeUnknownError("the disk failed during the append"))
            self._owner.fatal(error)
        elif not self.is_full:
            self.is_full = True
            self._owner.disk_filled(True)

    def retry_write(self) -> None:
        """Try again to write what found a full disk; called now and then while `is_full`."""
        # Never twice at a time: the end of the second would pass for that of the next group.
        if self.is_full and self._write is not None and not (self._is_at_disk or self._is_stopped):
            self._run_write()

    def _finish_write(self) -> bool:
        """Tell the core that the group is durable, and send what waited for that; return whether any did."""
        group, self._writing = self._writing, []
        self._write = None
        if self._is_stopped:
            return False
        self.raft.persisted(group[-1].token)
        has_sent = False
        for ready in group:
            if ready.snapshot is not None:
                self._take_start()
            for envelope in ready.messages_after_persist:
                self._owner.send(envelope)
                has_sent = True
        self._publish()
        return has_sent

    # --- commits ------------------------------------------------------------------------

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            self._unsettled.committed(entry.index, entry.term, entry.timestamp)
            trim = decode_trim(bytes(entry.payload)) if entry.kind == EntryKind.TRIM else 0
            self._applied.append((entry.index, entry.next_offset, trim))
        if self._durable_at and entries[-1].index >= self._followed_index:
            assert self._tally is not None
            self._tally.replication.observe(self._tally.now() - self._durable_at)
            self._durable_at = 0.0
        self._publish()

    def _publish(self) -> None:
        """Let readers have what is committed and durable by now; the turn's end tells those who wait."""
        applied = self._applied
        # Not the log's own mark: until a cut is done, it still covers the entries that are to be replaced.
        while applied and applied[0][0] <= self.raft.durable_index:
            self.readable_index, self.readable_offset, trim = applied.popleft()
            if trim > self.lowest_offset:
                self.lowest_offset = trim
            self._has_moved = True

    def _take_start(self) -> None:
        """Let readers have what a snapshot, which is installed by now, begins with."""
        state = self._log.state_at(self._log.first_index - 1)
        if state.index > self.readable_index:
            self.readable_index, self.readable_offset = state.index, state.next_offset
            self.lowest_offset = max(state.lowest_offset, self._log.first_offset)
            self._has_moved = True

    def _wake_readers(self) -> None:
        """Tell those who wait for the tail, and who confirmed their reads, that more is readable."""
        self._has_moved = False
        due = [one for one in self._behind if one.index <= self.readable_index]
        self._behind = [one for one in self._behind if one.index > self.readable_index]
        self._owner.committed()
        for one in due:
            one.read.done(one.index)

    # --- answers ------------------------------------------------------------------------

    def _answer_read(self, state: ReadState) -> None:
        read = self._reads.pop(state.id, None)
        if read is None:
            return  # a stop within this turn told its caller
        if state.index is None:
            read.failed(UnavailableError("the leader did not confirm the read; try again"))
        else:
            self.when_readable(state.index, read.done, read.failed)

    def _fail_reads(self, text: str) -> None:
        reads, self._reads = self._reads, {}
        behind, self._behind = self._behind, []
        for read in [*reads.values(), *(one.read for one in behind)]:
            read.failed(UnavailableError(text))

    def _become_idle(self) -> None:
        idle, self._idle = self._idle, []
        for done in idle:
            done()
