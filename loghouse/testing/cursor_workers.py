"""Those who work on cursors: they resume, handle and commit, die, sleep and come back.

What a cursor is for is its kind:

    consumer   handles the records of the log; its position moves by entries of its own
    pipeline   handles them as well, and appends what comes of other clients' records, with its position
    importer   appends what it counts: its position is that of a source that never ends
    group      as an importer, several cursors that a group of members shares (`cursor_groups.py`)
    held-…     as a consumer or an importer, by the steps of the client (`cursor_holders.py`)
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
from loghouse.testing.checkers import Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.cursor_books import Claim, CursorHistory
from loghouse.testing.history import History, Written
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.workload import AcknowledgedAppend, Servers, SimClient, Workload

CONSUMER: Final = "consumer"
PIPELINE: Final = "pipeline"
IMPORTER: Final = "importer"
GROUP: Final = "group"
HELD_CONSUMER: Final = "held-consumer"
HELD_IMPORTER: Final = "held-importer"
KINDS: Final = (CONSUMER, PIPELINE, IMPORTER, GROUP, HELD_CONSUMER, HELD_IMPORTER)
READERS: Final = (CONSUMER, PIPELINE, HELD_CONSUMER)
GROUP_LOGS: Final = 5
"""How many cursors a group shares."""
STAND_BY_SECONDS: Final = 0.5
"""After so long a stand-by asks again, whatever is left of the holder's lease."""
FATES: Final = (("die", 0.008), ("sleep", 0.016), ("release", 0.024), ("rewind", 0.03))
"""What befalls a worker at a step while faults strike: up to which share of all steps."""
GONE: Final = (CursorFencedError, UnknownCursorError)


class CursorScene(Workload):
    """What all who work on cursors share."""

    def __init__(self, clock: SimClock, servers: Servers, history: History, options: SwarmOptions) -> None:
        super().__init__(clock, servers, history, options)
        self.cursors = CursorHistory()
        self.is_quiet = False  # no faults strike any more, workers live
        self.is_last = False  # nothing more is appended but what comes of what is there
        self.counts = dict.fromkeys(("acquired", "committed", "emitted", "fenced"), 0)

    @property
    def pause_seconds(self) -> float:
        """How long a worker waits at least between two entries that it has written."""
        if self.is_last:
            return self.think_seconds_min / 4
        return max(4 * self.options.think_seconds_mean, self.think_seconds_min)


class CursorClient(SimClient):
    """A client that asks about one cursor, and says what it was told."""

    work: CursorScene

    def __init__(self, work: CursorScene, kind: str, cursor: str, name: str, rng: random.Random) -> None:
        super().__init__(work, name, rng)
        self.kind = kind
        self.cursor = cursor
        # A client that dies hears no answer to what it asked before.
        self._turn = 0
        self._asleep_until = 0.0

    def end(self) -> None:
        """Die: what was to come does not."""
        self._turn += 1
        self._asleep_until = 0.0

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while, as after SIGSTOP; then go on as if nothing had been."""
        self._asleep_until = self.work.clock.seconds() + seconds

    @property
    def is_asleep(self) -> bool:
        """Whether it does nothing now."""
        return self._asleep_until > self.work.clock.seconds()

    def later(self, then: Callable[[], None], seconds: float | None = None) -> None:
        """Do something after a while, unless this client dies before, or the run ends."""
        turn, clock = self._turn, self.work.clock

        def act() -> None:
            if turn != self._turn or self.work.stopped:
                return
            if self.is_asleep:
                clock.at(self._asleep_until, act)
            else:
                then()

        mean = self.work.options.think_seconds_mean
        clock.after(self.rng.expovariate(1 / mean) if seconds is None else seconds, act)

    def order(
        self,
        order: CursorOrder,
        done: Callable[[object], None],
        *,
        number: int = 0,
        is_told: bool = True,
        seconds_max: float = inf,
    ) -> None:
        """Ask about the cursor; what is answered is noted, where it says how a cursor stands."""
        number = number or self.leader_or_some_node()
        work, turn = self.work, self._turn
        invoked = work.history.stamp()

        def answered(result: object) -> None:
            self.heard(number, result)
            if is_told:
                if isinstance(result, CursorPage):
                    cursor = result.cursors[0] if result.cursors else None
                    work.cursors.tell(order.name, invoked, work.history.stamp(), cursor)
                elif isinstance(result, UnknownCursorError) and order.operation == CursorOperation.GET:
                    work.cursors.tell(order.name, invoked, work.history.stamp(), None)
            if turn == self._turn:
                done(result)

        self.ask(lambda node, answer: node.order_cursor(order, answer), number, answered, seconds_max)

    def acquire(
        self, holder: str, done: Callable[[object, float], None], *, seconds_max: float = inf
    ) -> None:
        """Ask for the cursor; `done` is told the answer, and when it was asked for."""
        milliseconds = round(self.work.options.lease_seconds * 1000)
        order = CursorOrder(
            operation=CursorOperation.ACQUIRE,
            name=self.cursor,
            holder=holder,
            lease_milliseconds=milliseconds,
        )
        asked = self.work.clock.seconds()
        self.order(order, lambda result: done(result, asked), seconds_max=seconds_max)


class Holder(CursorClient):
    """A client that works on a cursor while it has it.

    Attributes:
        epoch: 0 while it does not hold the cursor, as far as it knows.
        position: The next one to handle.
        is_releasing: Whether it asked to let others have it, and was not answered.
    """

    def __init__(self, work: CursorScene, kind: str, cursor: str, name: str, rng: random.Random) -> None:
        super().__init__(work, kind, cursor, name, rng)
        self.epoch = 0
        self.position = 0
        self.is_releasing = False
        self._server = 0  # the node that gave it a record last
        self._committed = 0  # the position that a majority has
        self._outputs = 0  # how many records of others were handled since
        self._written = -inf  # when it asked last for what is in the log

    @property
    def _lease_seconds(self) -> float:
        return self.work.options.lease_seconds

    def is_at(self, position: int) -> bool:
        """Whether this one holds the cursor, and everything below a position is committed."""
        return bool(self.epoch) and self._committed == position

    def end(self) -> None:
        """Die, and hold nothing."""
        super().end()
        self.epoch = 0
        self.is_releasing = False

    # --- having the cursor -----------------------------------------------------------------------

    def took(self, page: CursorPage, holder: str, asked: float) -> None:
        """Begin to work: the cursor was acquired, which was asked for at `asked`."""
        work, (cursor,) = self.work, page.cursors
        self.epoch = cursor.epoch
        self.position = self._committed = cursor.position
        self._outputs = 0
        work.counts["acquired"] += 1
        work.cursors.take(self.cursor, cursor.epoch, holder, work.clock.seconds())
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

    def release(self, then: Callable[[], None]) -> None:
        """Let another one have it at once; `then` is called when that is so."""
        order = CursorOrder(operation=CursorOperation.RELEASE, name=self.cursor, epoch=self.epoch)
        self._turn += 1
        self.is_releasing = True

        def done(result: object) -> None:
            if isinstance(result, (CursorPage, *GONE)):
                self.is_releasing = False
                self.epoch = 0
                then()
            else:
                self.later(lambda: self.release(then))

        self.order(order, done)

    def _keep(self, epoch: int) -> None:
        """Renew the lease beside the work, as long as the cursor is held by this epoch."""
        if epoch != self.epoch:
            return
        seconds = self._lease_seconds / 3
        order = CursorOrder(operation=CursorOperation.RENEW, name=self.cursor, epoch=epoch)

        def done(result: object) -> None:
            # Who is fenced finds that out at its work.
            self.later(lambda: self._keep(epoch), 0.0 if result is None else seconds)

        # A renewal tells what the leader has, which may not be committed.
        number = self.leader or self.some_node()
        self.order(order, done, number=number, is_told=False, seconds_max=seconds)

    # --- working ---------------------------------------------------------------------------------

    def _next(self) -> None:
        """Go on with a step, in a moment."""
        self.later(self._step, 0.002 if self.work.is_last and self.kind in READERS else None)

    def _step(self) -> None:
        if self._befallen():
            return
        # All logs of a group together write as often as one cursor does: new members must catch up with them.
        pause_seconds = self.work.pause_seconds * (GROUP_LOGS if self.kind == GROUP else 1)
        may_write = self.work.clock.seconds() - self._written >= pause_seconds
        if self.kind not in READERS:
            self._import(may_write=may_write)
        elif self.position - self._committed >= 8 and may_write:
            self._commit()
        else:
            self._read(may_write=may_write)

    def _befallen(self) -> bool:
        """Whether something befalls it, so that it does not go on."""
        return False

    def _read(self, *, may_write: bool) -> None:
        start = self.position
        number = self._server = self._server or self.some_node()

        def done(result: object) -> None:
            if not isinstance(result, Entry):
                self._server = 0  # another one is asked next
            if isinstance(result, Entry):
                self._handled(start, result.next_offset)
                self._outputs += not Claim.of(bytes(result.payload))
            elif isinstance(result, OffsetOutOfRangeError):
                if start < result.lowest:
                    self._handled(start, result.lowest)  # it was trimmed: nobody can
                elif self.position > self._committed and may_write:
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

    def _import(self, *, may_write: bool) -> None:
        if self.work.is_last or not may_write:
            self._next()
        else:
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
            elif isinstance(result, GONE):
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
            raise Violation("cursor-answer", f"{self.name}, epoch {self.epoch}: {result}")

    # --- records and a position ------------------------------------------------------------------

    def _emit(self, record_count: int) -> None:
        claim = Claim(self.cursor, self._committed, self.position)
        payload = claim.payload(f"by {self.name} {self.epoch}".encode() + b"." * self.rng.randrange(24))
        op = self.work.history.write(payload, record_count)
        change = advance_with_records(self.cursor, self.epoch, self.position)
        self._attempt(op, change, self.work.clock.seconds(), is_first=True)

    def _attempt(self, op: Written, change: CursorChange, asked: float, *, is_first: bool = False) -> None:
        def done(result: object) -> None:
            if isinstance(result, AcknowledgedAppend):
                # A retry may be answered by a leader of before: only the first try is known to be later.
                self._moved(change.position, asked)
            elif isinstance(result, GONE):
                self._lost()
            else:
                self._check_no_rewind(result)
                self.later(lambda: self._attempt(op, change, asked))

        self.append(op, change, done, is_first=is_first)

    def append(
        self, op: Written, change: CursorChange, done: Callable[[object], None], *, is_first: bool
    ) -> None:
        """Ask for records and an advance in one; `done` hears the answer, unless this client died before."""
        number, work, turn = self.leader_or_some_node(), self.work, self._turn
        proposal = Proposal(payload=op.payload, record_count=op.record_count, cursor=change)

        def answered(result: object) -> None:
            self.heard(number, result)
            if isinstance(result, AcknowledgedAppend):
                work.history.acknowledge(op, result.base_offset)
            elif isinstance(result, GONE) and is_first:
                work.history.refuse(op)
            if turn == self._turn:
                work.counts["emitted"] += isinstance(result, AcknowledgedAppend)
                done(result)

        self.ask(lambda node, answer: node.propose(proposal, answer), number, answered)


class Worker(Holder):
    """One process after the other that works on a cursor alone, or stands by while another one does."""

    def __init__(self, work: CursorScene, kind: str, cursor: str, name: str, rng: random.Random) -> None:
        super().__init__(work, kind, cursor, name, rng)
        self._lives = 0
        self._away_until = 0.0  # while it is dead, or wants nothing

    def begin(self) -> None:
        """Be a new process."""
        self.end()
        self._lives += 1
        self._stand_by_soon()

    def die(self, seconds: float) -> None:
        """End, as `kill -9` does, and begin again after a while."""
        self.end()
        self._stay_away(self.begin, seconds)

    def let_go(self, seconds: float) -> None:
        """Let another one have the cursor, and want it again after a while."""
        self.release(lambda: self._stay_away(self._stand_by, seconds))

    def _stay_away(self, then: Callable[[], None], seconds: float) -> None:
        self._away_until = self.work.clock.seconds() + seconds
        self.later(then, seconds)

    def wake(self) -> None:
        """Begin again now, if it would do nothing for a while."""
        if self.is_asleep or self._away_until > self.work.clock.seconds():
            self.begin()

    def _stand_by(self) -> None:
        holder = f"{self.name}.{self._lives}"

        def done(result: object, asked: float) -> None:
            if isinstance(result, CursorPage):
                self.took(result, holder, asked)
            elif isinstance(result, CursorHeldError):
                self.later(self._stand_by, min(result.milliseconds / 1000, STAND_BY_SECONDS))
            else:
                self._stand_by_soon()

        self.acquire(holder, done)

    def _stand_by_soon(self) -> None:
        """Ask for the cursor after a while; once all is quiet, as soon as a client's consumer would."""
        seconds = self.rng.expovariate(1 / self.work.options.think_seconds_mean)
        self.later(self._stand_by, min(seconds, STAND_BY_SECONDS) if self.work.is_quiet else seconds)

    def _lost(self) -> None:
        super()._lost()
        self._stand_by_soon()

    def _befallen(self) -> bool:
        fate = 1.0 if self.work.is_quiet else self.rng.random()
        lease = self._lease_seconds
        match next((what for what, share in FATES if fate < share), ""):
            case "die":
                self.die(self.rng.uniform(0, 2 * lease))
            case "sleep":
                self.sleep(self.rng.uniform(0.5, 3) * lease)
                self._next()
            case "release":
                self.let_go(self.rng.uniform(0, lease))
            case "rewind" if self._committed:
                self._advance(self.rng.randrange(self._committed))
            case _:
                return False
        return True
