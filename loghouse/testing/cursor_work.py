"""The workers of cursors: they resume, handle and commit, die, dream and come back; and who moves cursors.

A cursor has a few workers: one holds it, the others stand by. What a cursor is for is its kind (`KINDS`):

    consumer   handles the records of the log; its position moves by entries of its own
    pipeline   handles them as well, and appends what comes of other clients' records, with its position
    importer   appends what it counts: its position is that of a source that never ends

When the faults end, each cursor's holder is killed, then its successor releases it: both times another worker
must have it within a bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import Final

from loghouse.errors import (
    CursorFencedError,
    CursorHeldError,
    CursorRewindError,
    OffsetOutOfRangeError,
    UnknownCursorError,
)
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder, CursorPage
from loghouse.protocol.cursors import CursorChange, advance_with_records
from loghouse.protocol.entry import Entry
from loghouse.raft.ready import Proposal
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.cursor_books import Claim, CursorHistory
from loghouse.testing.history import History, Written
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.workload import AcknowledgedAppend, Servers, SimClient, Workload

CONSUMER: Final = "consumer"
PIPELINE: Final = "pipeline"
IMPORTER: Final = "importer"
KINDS: Final = (CONSUMER, PIPELINE, IMPORTER)
STAND_BY_SECONDS: Final = 0.5
"""After so long a stand-by asks again, whatever is left of the holder's lease."""
FATES: Final = (("die", 0.008), ("dream", 0.016), ("release", 0.024), ("rewind", 0.03))
"""What befalls a worker at a step while faults strike: up to which share of all steps."""


class CursorWork(Workload):
    """Starts the workers of all cursors and whoever moves these; watches who takes over once all is quiet."""

    def __init__(self, clock: SimClock, servers: Servers, history: History, options: SwarmOptions) -> None:
        super().__init__(clock, servers, history, options)
        self.cursors = CursorHistory()
        self.drills: list[Drill] = []
        self.is_quiet = False  # no faults strike any more, workers live
        self.is_last = False  # nothing more is appended but what comes of what is there
        self.counts = dict.fromkeys(("acquired", "committed", "emitted", "fenced"), 0)

    def start(self, make_rng: Callable[[str], random.Random]) -> None:
        """Let every client begin."""
        options = self.options
        for place, kind in enumerate(options.cursors):
            name = f"{kind}{place}"
            workers = [
                Worker(self, kind, name, f"{name}.{number}", make_rng(f"{name}.{number}"))
                for number in range(options.cursor_workers)
            ]
            self.drills.append(Drill(self, name, workers))
            for worker in workers:
                worker.begin()
            Mover(self, kind, name, f"{name}.mover", make_rng(f"{name}.mover")).begin()

    @property
    def pause_seconds(self) -> float:
        """How long a worker waits at least between two entries that it has written."""
        return self.think_seconds_min / (4 if self.is_last else 1)

    def rest(self) -> None:
        """Faults are over: workers live from now on, and what befalls them is told below."""
        self.is_quiet = True
        for drill in self.drills:
            for worker in drill.workers:
                worker.wake()

    def look(self, oracle: Oracle) -> bool:
        """Look at who took over; return whether all of it was seen.

        Raises:
            Violation: It took too long.
        """
        for drill in self.drills:
            drill.look(oracle.leader_count)
        return all(drill.is_over for drill in self.drills)

    def is_drained(self, next_offset: int) -> bool:
        """Whether everything that is in the log was handled; nothing is asked any more once it was."""
        self.is_last = True
        if not self.stopped:
            readers = [drill.workers for drill in self.drills if drill.workers[0].kind != IMPORTER]
            self.stopped = all(any(one.is_at(next_offset) for one in workers) for workers in readers)
        return self.stopped

    def check(self, oracle: Oracle) -> None:
        """Judge what was done and told by the whole log; Violation when something does not hold."""
        readers = [drill.name for drill in self.drills if drill.workers[0].kind != IMPORTER]
        self.cursors.check(oracle, readers, self.options.drift)


class CursorClient(SimClient):
    """A client that asks about one cursor, and says what it was told."""

    work: CursorWork

    def __init__(self, work: CursorWork, kind: str, cursor: str, name: str, rng: random.Random) -> None:
        super().__init__(work, name, rng)
        self.kind = kind
        self.cursor = cursor
        # A client that dies hears no answer to what it asked before.
        self._turn = 0

    def later(self, then: Callable[[], None], seconds: float | None = None) -> None:
        """Do something after a while, unless this client dies before, or the run ends."""
        turn = self._turn

        def act() -> None:
            if turn == self._turn and not self.work.stopped:
                then()

        mean = self.work.options.think_seconds_mean
        self.work.clock.after(self.rng.expovariate(1 / mean) if seconds is None else seconds, act)

    def order(
        self,
        order: CursorOrder,
        done: Callable[[object], None],
        *,
        is_told: bool = True,
        seconds_max: float = inf,
    ) -> None:
        """Ask about the cursor; what is answered is noted, where it says how a cursor stands."""
        number = self.leader_or_some_node()
        work, turn = self.work, self._turn
        invoked = work.history.stamp()

        def answered(result: object) -> None:
            self.heard(number, result)
            if is_told:
                if isinstance(result, CursorPage):
                    cursor = result.cursors[0] if result.cursors else None
                    work.cursors.tell(self.cursor, invoked, work.history.stamp(), cursor)
                elif isinstance(result, UnknownCursorError) and order.operation == CursorOperation.GET:
                    work.cursors.tell(self.cursor, invoked, work.history.stamp(), None)
            if turn == self._turn:
                done(result)

        self.ask(lambda node, answer: node.order_cursor(order, answer), number, answered, seconds_max)


class Worker(CursorClient):
    """One process after the other that works on a cursor.

    `epoch` is 0 while it does not hold the cursor, as far as it knows.
    """

    def __init__(self, work: CursorWork, kind: str, cursor: str, name: str, rng: random.Random) -> None:
        super().__init__(work, kind, cursor, name, rng)
        self.epoch = 0
        self.position = 0  # the next one to handle
        self._lives = 0
        self._server = 0  # the node that gave it a record last
        self._holder = ""
        self._committed = 0  # the position that a majority has
        self._outputs = 0  # how many records of others were handled since
        self._written = -inf  # when it asked last for what is in the log
        self._away_until = 0.0  # while it is dead, or sleeps
        self.is_releasing = False

    @property
    def _lease_seconds(self) -> float:
        return self.work.options.lease_seconds

    def is_at(self, position: int) -> bool:
        """Whether this worker holds the cursor, and everything below a position is committed."""
        return bool(self.epoch) and self._committed == position

    def begin(self) -> None:
        """Be a new process."""
        self._turn += 1
        self._lives += 1
        self._holder = f"{self.name}.{self._lives}"
        self.epoch = 0
        self.later(self._acquire)

    def die(self, seconds: float) -> None:
        """End, as `kill -9` does, and begin again after a while."""
        self._turn += 1
        self.epoch = 0
        self._rest(self.begin, seconds)

    def _rest(self, then: Callable[[], None], seconds: float) -> None:
        self._away_until = self.work.clock.seconds() + seconds
        self.later(then, seconds)

    def wake(self) -> None:
        """Begin again now, if it would do nothing for a while."""
        if self._away_until > self.work.clock.seconds():
            self.begin()

    # --- having the cursor -----------------------------------------------------------------------

    def _acquire(self) -> None:
        order = CursorOrder(
            operation=CursorOperation.ACQUIRE,
            name=self.cursor,
            holder=self._holder,
            lease_milliseconds=round(self._lease_seconds * 1000),
        )
        asked = self.work.clock.seconds()

        def done(result: object) -> None:
            if isinstance(result, CursorPage):
                self._begin_work(result, asked)
            elif isinstance(result, CursorHeldError):
                self.later(self._acquire, min(result.milliseconds / 1000, STAND_BY_SECONDS))
            else:
                self.later(self._acquire)

        self.order(order, done)

    def _begin_work(self, page: CursorPage, asked: float) -> None:
        work, (cursor,) = self.work, page.cursors
        self.epoch = cursor.epoch
        self.position = self._committed = cursor.position
        self._outputs = 0
        work.counts["acquired"] += 1
        work.cursors.take(self.cursor, cursor.epoch, self._holder, work.clock.seconds())
        self._wrote(asked)
        self._next()
        self.later(lambda: self._keep(cursor.epoch), self._lease_seconds / 3)

    def _wrote(self, asked: float) -> None:
        """What was asked for at `asked` is in the log: the lease began anew then, or later."""
        self.work.cursors.sign(self.cursor, self.epoch, asked, self._lease_seconds)
        self._written = asked

    def _lost(self) -> None:
        """Somebody else has it, or an operator moved it: what was done and not committed is done again."""
        self.work.counts["fenced"] += 1
        self.epoch = 0
        self.later(self._acquire)

    def release(self, seconds: float) -> None:
        """Let another one have it at once, and want it again after a while."""
        order = CursorOrder(operation=CursorOperation.RELEASE, name=self.cursor, epoch=self.epoch)
        self._turn += 1
        self.is_releasing = True

        def done(result: object) -> None:
            if isinstance(result, CursorPage | CursorFencedError | UnknownCursorError):
                self.is_releasing = False
                self.epoch = 0
                self._rest(self._acquire, seconds)
            else:
                self.later(lambda: self.release(seconds))

        self.order(order, done)

    # --- working ---------------------------------------------------------------------------------

    def _next(self) -> None:
        """Go on with a step, in a moment."""
        is_reader = self.kind != IMPORTER
        self.later(self._step, 0.002 if self.work.is_last and is_reader else None)

    def _step(self) -> None:
        work, now = self.work, self.work.clock.seconds()
        fate = 1.0 if work.is_quiet else self.rng.random()
        befalls = next((what for what, share in FATES if fate < share), "")
        lease = self._lease_seconds
        if befalls == "die":
            self.die(self.rng.uniform(0, 2 * lease))
        elif befalls == "dream":
            self._rest(self._step, self.rng.uniform(0.5, 3) * lease)
        elif befalls == "release":
            self.release(self.rng.uniform(0, lease))
        elif befalls == "rewind" and self._committed:
            self._advance(self.rng.randrange(self._committed))
        elif self.kind == IMPORTER:
            self._import(now)
        elif self.position - self._committed >= 8 and self._may_write(now):
            self._commit()
        else:
            self._read(now)

    def _may_write(self, now: float) -> bool:
        return now - self._written >= self.work.pause_seconds

    def _keep(self, epoch: int) -> None:
        """Renew the lease beside the work, as long as the cursor is held by this epoch."""
        if epoch != self.epoch:
            return
        seconds = self._lease_seconds / 3
        asleep_seconds = self._away_until - self.work.clock.seconds()
        if asleep_seconds > 0:
            self.later(lambda: self._keep(epoch), asleep_seconds)
            return
        order = CursorOrder(operation=CursorOperation.RENEW, name=self.cursor, epoch=epoch)

        def done(result: object) -> None:
            # Who is fenced finds that out at its work.
            self.later(lambda: self._keep(epoch), 0.0 if result is None else seconds)

        # A renewal tells what the leader has, which may not be committed.
        self.order(order, done, is_told=False, seconds_max=seconds)

    def _read(self, now: float) -> None:
        start = self.position
        number = self._server = self._server or self.some_node()

        def done(result: object) -> None:
            if not isinstance(result, Entry):
                self._server = 0  # another one is asked next
            if isinstance(result, Entry):
                self._handled(start, result.next_offset)
                self._outputs += Claim.of(bytes(result.payload)) is None
            elif isinstance(result, OffsetOutOfRangeError):
                if start < result.lowest:
                    self._handled(start, result.lowest)  # it was trimmed: nobody can
                elif self.position > self._committed and self._may_write(now):
                    self._commit()
                    return
            self._next()

        turn = self._turn
        self.ask(
            lambda node, answer: node.read(start, answer),
            number,
            lambda result: done(result) if turn == self._turn else None,
        )

    def _handled(self, start: int, end: int) -> None:
        self.work.cursors.did(self.cursor, start, end)
        self.position = end

    def _import(self, now: float) -> None:
        if self.work.is_last or not self._may_write(now):
            self._next()
            return
        self.position += self.rng.choice((1, 1, 4))
        self._emit(self.position - self._committed)

    def _commit(self) -> None:
        """Have the position written, with what came of the records up to there."""
        if self.kind == PIPELINE and self._outputs:
            self._emit(self._outputs)
        else:
            self._advance(self.position)

    def _advance(self, position: int) -> None:
        """Move the cursor; back it does not go, as nobody asks for a rewind."""
        order = CursorOrder(
            operation=CursorOperation.ADVANCE, name=self.cursor, epoch=self.epoch, position=position
        )
        asked = self.work.clock.seconds()

        def done(result: object) -> None:
            if isinstance(result, CursorPage):
                self._moved(position, asked)
                self.work.counts["committed"] += 1
            elif isinstance(result, CursorFencedError | UnknownCursorError):
                self._lost()
            elif isinstance(result, CursorRewindError) and position < self._committed:
                self._next()
            else:
                self._check_no_rewind(result)
                self.later(lambda: self._advance(position))

        self.order(order, done)

    def _moved(self, position: int, asked: float) -> None:
        self._committed = position
        self._outputs = 0
        self._wrote(asked)
        self._next()

    def _check_no_rewind(self, result: object) -> None:
        """A holder that goes on, or repeats what was not answered, does not go back."""
        if isinstance(result, CursorRewindError):
            raise Violation("cursor-answer", f"{self._holder}, epoch {self.epoch}: {result}")

    # --- records and a position ------------------------------------------------------------------

    def _emit(self, record_count: int) -> None:
        claim = Claim(self.cursor, self._committed, self.position)
        payload = claim.payload(f"by {self._holder} {self.epoch}".encode() + b"." * self.rng.randrange(24))
        op = self.work.history.write(payload, record_count)
        change = advance_with_records(self.cursor, self.epoch, self.position)
        self._attempt(op, change, self.work.clock.seconds(), is_first=True)

    def _attempt(self, op: Written, change: CursorChange, asked: float, *, is_first: bool = False) -> None:
        number, work, turn = self.leader_or_some_node(), self.work, self._turn
        proposal = Proposal(payload=op.payload, record_count=op.record_count, cursor=change)

        def done(result: object) -> None:
            self.heard(number, result)
            is_fenced = isinstance(result, CursorFencedError | UnknownCursorError)
            if isinstance(result, AcknowledgedAppend):
                work.history.acknowledge(op, result.base_offset)
            elif is_fenced and is_first:
                work.history.refuse(op)
            if turn != self._turn:
                return
            if isinstance(result, AcknowledgedAppend):
                work.counts["emitted"] += 1
                # A retry may be answered by a leader of before: only the first try is known to be later.
                self._moved(change.position, asked)
            elif is_fenced:
                self._lost()
            else:
                self._check_no_rewind(result)
                self.later(lambda: self._attempt(op, change, asked))

        self.ask(lambda node, answer: node.propose(proposal, answer), number, done)


class Mover(CursorClient):
    """Looks at a cursor now and then; an operator who moves a consumer's back, or has it begin anew."""

    def begin(self) -> None:
        """Start looking."""
        self.later(self._look, self.rng.expovariate(1))

    def _look(self) -> None:
        def done(result: object) -> None:
            chance = 1.0 if self.work.is_quiet or self.kind != CONSUMER else self.rng.random()
            if isinstance(result, CursorPage) and chance < 0.08:
                self._change(result.cursors[0].position, is_end=chance < 0.02)
            else:
                self.begin()

        self.order(CursorOrder(operation=CursorOperation.GET, name=self.cursor), done)

    def _change(self, position: int, *, is_end: bool) -> None:
        operation, back = CursorOperation.DELETE, 0
        if not is_end:
            operation, back = CursorOperation.SET, self.rng.randrange(position + 1)
        order = CursorOrder(operation=operation, name=self.cursor, position=back)
        self.order(order, lambda result: self.begin())


class Drill:
    """Once all is quiet: the holder of a cursor is killed, then its successor lets go of it."""

    def __init__(self, work: CursorWork, name: str, workers: list[Worker]) -> None:
        """Plan it for a cursor and its workers, at least two."""
        self._work = work
        self.name = name
        self.workers = workers
        self._stages = ["killed", "released"]
        self._before: Worker | None = None  # who had it, and lost it
        self._epoch = 0  # the one of that holder
        self._since = 0.0  # when it lost it, or leadership changed last
        self._leader_count = 0
        self._seconds_max = 0.0  # until another one must have it

    @property
    def is_over(self) -> bool:
        """Whether both were seen."""
        return not self._stages and self._before is None

    def look(self, leader_count: int) -> None:
        """See whether another worker has it; if so, let that one lose it in the next way.

        Raises:
            Violation: It took too long.
        """
        now = self._work.clock.seconds()
        before = self._before
        if leader_count != self._leader_count or (before is not None and before.is_releasing):
            self._leader_count, self._since = leader_count, now
        holder = max(self.workers, key=lambda worker: worker.epoch)
        if holder.epoch > self._epoch:
            if before is not None:
                before.wake()
            self._before = None
            if self._stages:
                self._befall(holder, self._stages.pop(0), now)
        elif before is not None and now > self._since + self._seconds_max:
            late = f"{self._seconds_max:.2f} s after {before.name} went"
            raise Violation("cursor-takeover", f"nobody has {self.name} {late}")

    def _befall(self, holder: Worker, what: str, now: float) -> None:
        self._before, self._epoch, self._since = holder, holder.epoch, now
        options = self._work.options
        lease_seconds = options.lease_seconds / (1 - options.drift) if what == "killed" else 0.0
        slack = 2 * options.request_timeout_seconds + 4 * options.election_seconds
        self._seconds_max = lease_seconds + STAND_BY_SECONDS + slack
        # Who lost it stays away until another one has it.
        away = 4 * self._seconds_max
        if what == "killed":
            holder.die(away)
        else:
            holder.release(away)
