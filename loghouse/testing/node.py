"""One machine of a simulated cluster: the real core on the real storage, driven as a node drives them.

The order of things is that of the production driver: `messages_now` leave at once,
one group of writes is on its way to the disk at a time, `messages_after_persist` leave
when the group is synced, and whatever arrives meanwhile is the next group.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loghouse.errors import (
    DamageError,
    DiskFailedError,
    DiskFullError,
    LoghouseError,
    OutcomeUnknownError,
    RequestError,
    UnavailableError,
)
from loghouse.protocol.configuration import MemberRole, decode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import AppendEntriesReply, Envelope, RequestVoteReply
from loghouse.raft.core import Raft
from loghouse.raft.ready import Proposal, Ready, Role, Ticket
from loghouse.replica.driver import COMMIT_NOTIFICATION_SECONDS
from loghouse.storage.log import Log
from loghouse.testing.checkers import Violation
from loghouse.testing.disk import MappingFaultError, PowerLossError
from loghouse.testing.machine import Machine
from loghouse.testing.reading import PendingReads
from loghouse.testing.workload import AcknowledgedAppend, Answer

if TYPE_CHECKING:
    from loghouse.testing.cluster import SimCluster

GROUP = 1


class SimNode:
    """A machine: its disk outlives its process. `number` is its place, `member` its id in the group."""

    def __init__(self, cluster: SimCluster, number: int, rng: random.Random) -> None:
        self.cluster = cluster
        self.number = number
        self.name = f"n{number}"
        self.rng = rng
        self.machine = Machine(cluster, number)
        self.member = 0
        self.is_up = False
        self.incarnation = 0
        self.paused_until = 0.0
        self.wall_offset_seconds = 0.0
        self.tick_seconds = cluster.options.tick_seconds * (
            1.0 + rng.uniform(-cluster.options.drift, cluster.options.drift)
        )
        self._point = ""
        self._point_count = 0
        self._point_rng = rng
        self._point_down = 0.0
        self.raft: Raft | None = None
        self.log: Log | None = None
        self._forget()

    def _forget(self) -> None:
        """Lose what only memory held."""
        self.raft = None
        self.log = None
        self._tick_waits = False
        self._turn_scheduled = False
        self._notification_scheduled = False
        # The commit index that leadership began with; -1 once it moved.
        self._led_from = -1
        self._pumping = False
        self._to_write: deque[Ready] = deque()
        self._trim_to: tuple[int, int] | None = None
        self._writing: list[Ready] | None = None
        self._waiting: dict[int, list[tuple[int, Ticket, Answer]]] = {}
        self._reads = PendingReads(self)
        self._routes: dict[int, int] = {}
        self._applied: deque[tuple[int, int]] = deque()
        self.published_index = 0
        self.published_offset = 0
        # Of committed trims only: the log's own state may hold trims that a new leader cuts again.
        self.lowest_offset = 0
        self.is_full = False

    @property
    def leads(self) -> bool:
        """Whether it runs and thinks that it leads."""
        return self.raft is not None and self.raft.role is Role.LEADER and self.is_up

    # --- life -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin the process: recover the log, then run the core on it, if this machine is a member yet."""
        assert not self.is_up
        self.incarnation += 1
        self.is_up = True
        cluster = self.cluster
        try:
            self.log = self.machine.open_log()
        except PowerLossError:
            self._power_off(self._point_rng, restart=True)
            return
        except DamageError as error:
            cluster.atlas.refused(self, error)
            self.is_up = False
            return
        except DiskFailedError as error:
            cluster.trace.note(f"{self.name} cannot start: {error}")
            self._exit()
            return
        cluster.trace.note(f"{self.name} starts as member {self.member}, incarnation {self.incarnation}")
        if self.member:
            self._guarded(self._start_core)

    def _start_core(self) -> None:
        assert self.log is not None
        log, cluster = self.log, self.cluster
        hard_state = HardState(log.hard_state.term, log.hard_state.vote)
        entries = self.machine.all_entries(log)
        cluster.oracle.opened(self.member, entries, log.first_index - 1, hard_state.term, hard_state.vote)
        self.raft = Raft(
            cluster.raft_config,
            id=self.member,
            group=GROUP,
            seed=cluster.frame_seed,
            reader=log,
            hard_state=hard_state,
            rng=random.Random(self.rng.getrandbits(64)),
            commit_index=log.commit_index,
            now=self.now(),
        )
        # What the watermark says was committed is served at once.
        self.published_index = self.raft.commit_index
        state = log.state_at(self.published_index)
        self.published_offset, self.lowest_offset = state.next_offset, state.lowest_offset
        first = self.tick_seconds * (1 + self.rng.random())
        cluster.clock.after(first, self._tick, self.incarnation)
        self._turn()

    def crash(self, rng: random.Random) -> None:
        """Cut the power: what was not synced is lost, kept or torn."""
        if self.is_up:
            self._power_off(rng, restart=False)

    def _power_off(self, rng: random.Random, *, restart: bool) -> None:
        self.is_up = False
        self._point = ""
        self.machine.lose_power(rng)
        self._fail_clients()
        self._forget()
        self.cluster.trace.note(f"{self.name} loses power")
        if restart:
            self.restart_after(self._point_down)

    def _exit(self) -> None:
        """End the process, as when the disk failed; the machine stays on and starts it again later."""
        self.is_up = False
        self._point = ""
        self.machine.process_exit()
        self._fail_clients()
        self._forget()
        self.cluster.trace.note(f"{self.name} exits")
        self.restart_after(self.cluster.options.election_seconds * 2)

    def _fail_clients(self) -> None:
        """A dead process answers nobody; clients find out by silence."""
        self._waiting.clear()

    def restart_after(self, seconds: float) -> None:
        """Start again after a while, unless something else did."""
        incarnation = self.incarnation

        def start() -> None:
            if not self.is_up and self.incarnation == incarnation:
                self.start()

        self.cluster.clock.after(seconds, start)

    def pause(self, seconds: float) -> None:
        """Stop the process for a while, as SIGSTOP does: everything comes late, nothing is lost."""
        self.paused_until = max(self.paused_until, self.cluster.clock.seconds() + seconds)

    def arm(self, point: str, count: int, rng: random.Random, down_seconds: float) -> None:
        """Crash when the node comes by `point` for the `count`th time."""
        self._point, self._point_count = point, count
        self._point_rng, self._point_down = rng, down_seconds
        if point == "disk_step":
            self.machine.crash_at_step(count * 3)

    def _reach(self, point: str) -> None:
        """Come by a crash point."""
        if self._point == point:
            self._point_count -= 1
            if self._point_count <= 0:
                self.cluster.nemesis.injected[f"crashed at {point}"] += 1
                raise PowerLossError

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        """Run a step of the process; a crash point or a failing disk inside ends it."""
        try:
            work(*args)
        except PowerLossError:
            self._power_off(self._point_rng, restart=True)
        except DiskFailedError as error:
            self.cluster.trace.note(f"{self.name}: {error}")
            self._exit()
        except DamageError as error:
            # Acknowledged bytes are wrong: never send them on, stop.
            self._exit()
            self.cluster.atlas.refused(self, error)
        except MappingFaultError as error:
            raise Violation(
                "mapping", f"{self.name} read behind the end of a mapped file: {error}"
            ) from error

    def _later(self, function: Callable[..., object], *args: Any) -> bool:
        """While paused, put a call off until the pause ends; return whether that was so."""
        if self.paused_until > self.cluster.clock.seconds():
            self.cluster.clock.at(self.paused_until, function, *args)
            return True
        return False

    def now(self) -> int:
        """Return this machine's wall clock, in microseconds since the epoch."""
        return int((1_700_000_000 + self.cluster.clock.seconds() + self.wall_offset_seconds) * 1e6)

    # --- in -------------------------------------------------------------------------

    def _tick(self, incarnation: int) -> None:
        if incarnation != self.incarnation or not self.is_up or self._later(self._tick, incarnation):
            return
        self.cluster.clock.after(self.tick_seconds, self._tick, incarnation)
        assert self.raft is not None
        self._guarded(self.raft.tick, self.now())
        self.wake()

    def receive(self, source: int, envelope: Envelope) -> None:
        """Take a message from the network. A machine learns its id from the first one that is for it."""
        if not self.is_up or self._later(self.receive, source, envelope):
            return
        if envelope.target != self.member and not self._take_id(envelope.target):
            return
        raft = self.raft
        if raft is None:
            return
        self._routes[envelope.source] = source
        self._guarded(raft.step, envelope)
        self.wake()

    def _take_id(self, id_: int) -> bool:
        """Become the member that a leader's configuration says this disk is; ids only go up."""
        if id_ < self.member or self.cluster.machine_of.get(id_) != (self.number, self.machine.disk_uuid):
            return False
        if self.member == 0:
            self.member = id_
            self._guarded(self._start_core)
            return self.is_up
        # Added again under a new id: the process starts over with it.
        self.member = id_
        self._exit()
        return False

    def wake(self) -> None:
        """Look for work: something was put into the core."""
        if not self.is_up:
            return  # what was put in ended the process
        if self.cluster.options.turn_seconds == 0.0:
            self._turn()
        elif not self._turn_scheduled:
            self._turn_scheduled = True
            self.cluster.clock.after(self.cluster.options.turn_seconds, self._late_turn, self.incarnation)

    def _late_turn(self, incarnation: int) -> None:
        if incarnation != self.incarnation or not self.is_up or self._later(self._late_turn, incarnation):
            return
        self._turn_scheduled = False
        self._turn()

    # --- the turn -------------------------------------------------------------------

    def _turn(self) -> None:
        self._guarded(self._pump)

    def _pump(self) -> None:
        """Take what the core has to say, and feed the disk, until neither has anything more."""
        if self._pumping:
            return
        self._pumping = True
        while (raft := self.raft) is not None:
            ready = raft.ready()
            unreadable = raft.take_unreadable()
            if unreadable is not None:
                raise unreadable  # this driver mends nothing: the node ends
            if ready is not None:
                self._note(ready)
                self._send(ready.messages_now)
                self._to_write.append(ready)
                self._apply(ready)
            if not self._write_next() and ready is None:
                break
        self._pumping = False
        if self.raft is not None and self.raft.has_unnotified_commit and not self._notification_scheduled:
            self._notification_scheduled = True
            index, incarnation = self.raft.commit_index, self.incarnation
            self.cluster.clock.after(COMMIT_NOTIFICATION_SECONDS, self._notify_commit, index, incarnation)

    def _notify_commit(self, index: int, incarnation: int) -> None:
        stale = incarnation != self.incarnation or not self.is_up
        if stale or self._later(self._notify_commit, index, incarnation):
            return
        self._notification_scheduled = False
        assert self.raft is not None
        self.raft.notify_commit(index)
        self.wake()

    def _note(self, ready: Ready) -> None:
        """Tell the oracle, before anybody else can know."""
        oracle, member, raft = self.cluster.oracle, self.member, self.raft
        assert raft is not None
        oracle.stepped(member, raft.term)
        if ready.snapshot is not None:
            oracle.installed(member, ready.snapshot)
        if ready.truncate_after is not None:
            oracle.truncated(member, ready.truncate_after)
        if ready.soft_state is not None:
            soft = ready.soft_state
            self.cluster.trace.note(f"{self.name} {soft.role.value} term {soft.term} leader {soft.leader}")
            if soft.role is Role.LEADER:
                self._led_from = oracle.view(member).commit_index
                oracle.elected(member, soft.term)
        leads = raft.role is Role.LEADER
        # A leader commits before it appends what that allows; a follower is told both at once.
        if ready.commit_index <= oracle.view(member).last:
            oracle.committed_to(member, ready.commit_index, raft.term if leads else 0)
        oracle.appended(member, ready.entries)
        oracle.committed_to(member, ready.commit_index, raft.term if leads else 0)
        if leads:
            oracle.check_quorum(member)
        if ready.committed:
            oracle.applied(member, ready.committed)
        if ready.soft_state is not None and leads:
            self._reach("elected")
        if leads and ready.commit_index > self._led_from and self._led_from >= 0:
            self._led_from = -1
            self._reach("first_commit")
        if ready.committed and leads:
            self._reach("committed")

    def _send(self, envelopes: tuple[Envelope, ...]) -> None:
        cluster, raft = self.cluster, self.raft
        assert raft is not None
        for envelope in envelopes:
            cluster.oracle.sent(envelope)
            target = self._route(envelope.target)
            if target:
                cluster.transmit(self.number, target, envelope)
            if self._point:
                self._reach_sending(envelope, raft)

    def _reach_sending(self, envelope: Envelope, raft: Raft) -> None:
        message = envelope.message
        if isinstance(message, RequestVoteReply):
            if message.granted and not message.pre_vote:
                self._reach("vote_sent")
        elif isinstance(message, AppendEntriesReply):
            self._reach("acknowledged")
        elif raft.role is Role.LEADER:
            self._reach("mid_broadcast")

    def _route(self, id_: int) -> int:
        """Return the machine of a member, as the configuration or the links say; 0 when unknown."""
        raft = self.raft
        member = raft.configuration.member(id_) if raft is not None else None
        if member is None:
            return self._routes.get(id_, 0)
        place = self.cluster.machine_of.get(id_)
        # Hello must show the disk that the configuration names; another one there gets nothing.
        return place[0] if place is not None and self.cluster.disk_at(place[0]) == member.disk_uuid else 0

    # --- the disk -------------------------------------------------------------------

    def _write_next(self) -> bool:
        """Begin the next group of writes, unless one is on its way; return whether one was done at once."""
        if self._writing is not None or not (self._to_write or self._trim_to):
            return False
        group = self._writing = list(self._to_write)
        self._to_write.clear()
        trim_to, self._trim_to = self._trim_to, None
        self.machine.plan(group, trim_to)
        if trim_to is None and not any(ready.must_persist for ready in group):
            self._finish_group()
            return True
        self._write(self.incarnation)
        return False

    def _write(self, incarnation: int) -> None:
        """Do a group's writes; the sync at its end takes the disk's time."""
        if incarnation != self.incarnation or not self.is_up or self._later(self._write, incarnation):
            return
        if not self.machine.is_awake(self._write, incarnation):
            return
        self._guarded(self._write_group)

    def _write_group(self) -> None:
        assert self.log is not None
        assert self._writing is not None
        log, machine = self.log, self.machine
        try:
            machine.write(log, self.cluster.oracle, self.member)
        except DiskFullError:
            # Nothing of that step was written; what came before it was. Try again when there may be room.
            self._note_full(True)
            self.cluster.clock.after(self.tick_seconds * 3, self._write, self.incarnation)
            return
        self._note_full(False)
        self._reach("written")
        machine.after_sync(self._sync, self.incarnation)

    def _note_full(self, is_full: bool) -> None:
        self.is_full = is_full
        if self.raft is not None:
            self.raft.disk_is_full = is_full

    def _sync(self, incarnation: int) -> None:
        if incarnation != self.incarnation or not self.is_up:
            return
        if not self.machine.is_awake(self._sync, incarnation):
            return
        self._guarded(self._sync_group)

    def _sync_group(self) -> None:
        assert self.log is not None
        assert self._writing is not None
        commit_index = max((ready.commit_index for ready in self._writing), default=0)
        self.log.sync(commit_index)
        self.machine.synced(self.log, self.cluster.oracle, self.member)
        self._reach("synced")
        self._written(self.incarnation)

    def _written(self, incarnation: int) -> None:
        """Tell the core and send what had to wait."""
        if incarnation != self.incarnation or not self.is_up or self._later(self._written, incarnation):
            return
        self._guarded(self._finish_group)
        self._turn()

    def _finish_group(self) -> None:
        group, self._writing = self._writing, None
        raft = self.raft
        assert group is not None
        if raft is not None and group:
            raft.persisted(group[-1].token)
            if self._led_from >= 0 and raft.role is Role.LEADER:
                self._reach("noop_durable")
            for ready in group:
                self._send(ready.messages_after_persist)
            self._publish()

    # --- what is committed ------------------------------------------------------------

    def _apply(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self._applied.append((ready.snapshot.index, ready.snapshot.next_offset))
            self.lowest_offset = ready.snapshot.lowest_offset
            for index in [index for index in self._waiting if index <= ready.snapshot.index]:
                for _, _, answer in self._waiting.pop(index):
                    answer(OutcomeUnknownError("the log was replaced by a snapshot"))
        for entry in ready.committed:
            waiting = self._waiting.pop(entry.index, None)
            if waiting is not None:
                self._settle(waiting, entry.index, entry.term)
            if entry.kind == EntryKind.TRIM:
                self.lowest_offset = max(self.lowest_offset, decode_trim(bytes(entry.payload)))
                self._trim_to = (self.lowest_offset, entry.index)
            self._applied.append((entry.index, entry.next_offset))
        self._publish()
        self._reads.answered(ready.read_states)

    def _settle(self, waiting: list[tuple[int, Ticket, Answer]], index: int, term: int) -> None:
        """Answer those whose entry is to be at `index`, now that the one of `term` is."""
        for _, ticket, answer in waiting:
            if ticket.term in (term, 0):
                answer(AcknowledgedAppend(index, ticket.base_offset))
            else:
                answer(UnavailableError("another leader took over; nothing was appended, try again"))

    def _publish(self) -> None:
        """Raise the index up to which this node serves reads: committed and durable."""
        raft, applied = self.raft, self._applied
        if raft is None or not applied or applied[0][0] > raft.durable_index:
            return
        while applied and applied[0][0] <= raft.durable_index:
            self.published_index, self.published_offset = applied.popleft()
        self._reads.published(self.published_index)

    # --- requests ---------------------------------------------------------------------

    def propose(self, proposal: Proposal, answer: Answer) -> None:
        """Append a batch, if this node leads; answers `AcknowledgedAppend` or an error."""
        if not self.is_up or self._later(self.propose, proposal, answer):
            return
        if self.raft is None:
            answer(UnavailableError("this node is no member; ask another"))
        else:
            self._guarded(self._propose, self.raft, proposal, answer)

    def _propose(self, raft: Raft, proposal: Proposal, answer: Answer) -> None:
        if self.is_full:
            answer(DiskFullError(self.name))
            return
        try:
            ticket = raft.propose(proposal, self.now())
        except RequestError as error:
            answer(error)
            self.wake()
            return
        if ticket.duplicate and (ticket.term == 0 or ticket.index <= raft.commit_index):
            answer(AcknowledgedAppend(ticket.index, ticket.base_offset))
        else:
            self._waiting.setdefault(ticket.index, []).append((raft.term, ticket, answer))
        self.wake()

    def read(self, offset: int, answer: Answer) -> None:
        """Answer the entry that holds `offset`; a miss only once a leader said where the end is."""
        if not self.is_up or self._later(self.read, offset, answer):
            return
        if self.raft is not None:
            self._guarded(self._reads.read, offset, answer)
            self.wake()

    def tail(self, answer: Answer) -> None:
        """Answer the next offset, as of now."""
        if not self.is_up or self._later(self.tail, answer):
            return
        if self.raft is not None:
            self._reads.tail(answer)
            self.wake()

    def transfer(self, rng: random.Random) -> str:
        """Hand leadership to some other voter."""
        raft = self.raft
        if raft is None:
            return ""
        others = sorted(
            m.id for m in raft.configuration.members if m.role == MemberRole.VOTER and m.id != self.member
        )
        if not others:
            return ""
        try:
            raft.transfer_leadership(rng.choice(others))
        except LoghouseError:
            return ""
        self.wake()
        return "transfer"

    def is_whole(self) -> bool:
        """Whether the node runs and its log holds all that it ever promised."""
        return self.is_up and self.raft is not None and self.raft.damage is None

    def describe(self) -> str:
        """Return one line about the node."""
        raft = self.raft
        if raft is None:
            return f"{self.name} {'waits to be added' if self.is_up else 'is down'}"
        return (
            f"{self.name}={self.member} {raft.role.value} term {raft.term} leader {raft.leader} "
            f"last {raft.last_index} durable {raft.durable_index} commit {raft.commit_index} "
            f"published {self.published_index}"
        )

    # --- the machine's faults -----------------------------------------------------------

    def slow_disk(self, factor: float, seconds: float) -> None:
        """Make syncs slower for a while."""
        self.machine.slow(factor, seconds)

    def stall_disk(self, seconds: float) -> None:
        """Let the disk finish nothing for a while."""
        self.machine.stall(seconds)

    def fail_disk(self, count: int, rng: random.Random, down_seconds: float) -> None:
        """Let one of the next writes or syncs fail; the process ends by it."""
        self._point_rng, self._point_down = rng, down_seconds
        self.machine.fail_at_step(count)

    def fill_disk(self, seconds: float) -> None:
        """Leave no room on the disk for a while."""
        self.machine.fill(seconds)
