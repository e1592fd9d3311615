"""Workers on cursors whose steps are those of the client's own `client/holding.py`.

They handle or make records beside the steps: what is done waits for its commit, what is emitted is appended
together with its position, and a step that was not answered is asked for again as it was.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

from loghouse.client.cursors import Cursor
from loghouse.client.holding import HeldCursor, Step
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder, CursorPage
from loghouse.protocol.cursors import advance_with_records
from loghouse.testing.cursor_books import Claim
from loghouse.testing.cursor_workers import GONE, CursorScene, Worker
from loghouse.testing.history import Written
from loghouse.testing.workload import AcknowledgedAppend

LOOK_SECONDS: Final = 0.1
"""How often a holder looks for a step at least: what is done may be due earlier than what was."""


class HoldingWorker(Worker):
    """A worker that works and keeps its cursor side by side, as the client's consumers do."""

    def __init__(self, work: CursorScene, kind: str, cursor: str, name: str, rng: random.Random) -> None:
        super().__init__(work, kind, cursor, name, rng)
        self._held: HeldCursor | None = None  # while it has the cursor; anew each time
        # The records of the step that is asked for, when that was first, and the step; None: none is.
        self._appending: tuple[Step, Written, float] | None = None

    def took(self, page: CursorPage, holder: str, asked: float) -> None:
        """See `Holder.took`."""
        (told,) = page.cursors
        lease_seconds = told.lease_milliseconds / 1000
        cursor = Cursor(told.name, told.position, told.epoch, holder, told.subject, lease_seconds, 0.0)
        pause_seconds = self.work.pause_seconds
        self._held = HeldCursor(cursor, commit_seconds=pause_seconds, commit_records=8, now=asked)
        self._appending = None
        super().took(page, holder, asked)
        self.later(self._ask_next, 0.0)

    def _keep(self, epoch: int) -> None:
        """Its steps renew the lease."""

    def _lost(self) -> None:
        self._turn += 1  # it may be at work on a record
        super()._lost()

    @property
    def _holding(self) -> HeldCursor:
        assert self._held is not None
        return self._held

    # --- working ---------------------------------------------------------------------------------

    def _handled(self, start: int, end: int) -> None:
        super()._handled(start, end)
        self._holding.done(end, self.work.clock.seconds())

    def _commit(self) -> None:
        self._holding.hurry(self.work.clock.seconds())
        self._next()

    def _import(self, *, may_write: bool) -> None:
        held = self._holding
        if may_write and not self.work.is_last and held.has_room:
            for _ in range(self.rng.choice((1, 1, 3))):
                start, self.position = self.position, self.position + self.rng.choice((1, 1, 4))
                held.emit(b"%d-%d;" % (start, self.position), self.position - start, self.position)
        self._next()

    # --- its steps -------------------------------------------------------------------------------

    def _ask_next(self) -> None:
        """Ask for the step that is due, if any."""
        held, now = self._holding, self.work.clock.seconds()
        step = held.next_step(now)
        if step is None:
            self.later(self._ask_next, min(max(0.001, held.due_at(now) - now), LOOK_SECONDS))
        elif step.payload:
            self._append(step)
        else:
            self._move(step)

    def _move(self, step: Step) -> None:
        asked, number = self.work.clock.seconds(), 0
        order = CursorOrder(operation=CursorOperation.RENEW, name=self.cursor, epoch=self.epoch)
        if step.position is None:
            number = self.leader or self.some_node()  # as of `Holder._keep`
        else:
            order = replace(order, operation=CursorOperation.ADVANCE, position=step.position)

        def done(result: object) -> None:
            if isinstance(result, CursorPage):
                self.work.counts["committed"] += step.position is not None
                self._succeeded(step, asked, asked)
            else:
                self._failed(result)

        self.order(order, done, number=number, is_told=step.position is not None)

    def _append(self, step: Step) -> None:
        """Append what was emitted: its records claim together all that they were made of."""
        work, now = self.work, self.work.clock.seconds()
        is_first = self._appending is None or self._appending[0] is not step
        if is_first:
            ranges = [part.split(b"-") for part in step.payload.rstrip(b";").split(b";")]
            claim = Claim(self.cursor, int(ranges[0][0]), int(ranges[-1][1]))
            payload = claim.payload(f"by {self.name} {self.epoch}".encode())
            self._appending = step, work.history.write(payload, step.record_count), now
        assert self._appending is not None
        assert step.position is not None
        _, op, first_asked = self._appending
        change = advance_with_records(self.cursor, self.epoch, step.position)

        def done(result: object) -> None:
            if isinstance(result, AcknowledgedAppend):
                self._succeeded(step, now, first_asked)
            else:
                self._failed(result)

        self.append(op, change, done, is_first=is_first)

    def _succeeded(self, step: Step, asked: float, first_asked: float) -> None:
        held = self._holding
        held.succeeded(asked)
        self._committed = held.committed
        if step.position is not None:
            self._wrote(first_asked)  # a retry may be answered by a leader of before
        self.later(self._ask_next, 0.0)

    def _failed(self, result: object) -> None:
        if isinstance(result, GONE):
            self._lost()
        else:
            self._check_no_rewind(result)
            self.later(self._ask_next)
