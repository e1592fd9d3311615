"""The workload of cursors: who works on which, who moves them, and who takes over once all is quiet.

A cursor has a few workers (`cursor_workers.py`): one holds it, the others stand by. When the faults end, the
holder of each is killed, then its successor releases it: both times another one must have it within a bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder, CursorPage
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.cursor_groups import GroupDrill, GroupMember
from loghouse.testing.cursor_holders import HoldingWorker
from loghouse.testing.cursor_workers import (
    CONSUMER,
    GROUP,
    GROUP_LOGS,
    HELD_CONSUMER,
    HELD_IMPORTER,
    READERS,
    STAND_BY_SECONDS,
    CursorClient,
    CursorScene,
    Worker,
)
from loghouse.testing.history import History
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.workload import Servers


class CursorWork(CursorScene):
    """Starts all who work on cursors and whoever moves these; watches who takes over once all is quiet."""

    def __init__(self, clock: SimClock, servers: Servers, history: History, options: SwarmOptions) -> None:
        super().__init__(clock, servers, history, options)
        self.drills: list[Drill] = []
        self.groups: list[GroupDrill] = []

    def start(self, make_rng: Callable[[str], random.Random]) -> None:
        """Let every client begin."""
        for place, kind in enumerate(self.options.cursors):
            if kind == GROUP:
                self._start_group(f"{kind}{place}", make_rng)
            else:
                self._start_cursor(kind, f"{kind}{place}", make_rng)

    def _start_cursor(self, kind: str, name: str, make_rng: Callable[[str], random.Random]) -> None:
        make = HoldingWorker if kind in (HELD_CONSUMER, HELD_IMPORTER) else Worker
        workers = [
            make(self, kind, name, f"{name}.{number}", make_rng(f"{name}.{number}"))
            for number in range(self.options.cursor_workers)
        ]
        self.drills.append(Drill(self, name, workers))
        for worker in workers:
            worker.begin()
        Mover(self, kind, name, f"{name}.mover", make_rng(f"{name}.mover")).begin()

    def _start_group(self, name: str, make_rng: Callable[[str], random.Random]) -> None:
        logs = tuple(f"{name}.log{number}" for number in range(GROUP_LOGS))
        members = [
            GroupMember(self, logs, f"{name}.{number}", make_rng(f"{name}.{number}"))
            for number in range(self.options.cursor_workers)
        ]
        self.groups.append(GroupDrill(self, name, logs, members))
        for member in members:
            member.begin()

    def rest(self) -> None:
        """Faults are over: workers live from now on, and what befalls them is told below."""
        self.is_quiet = True
        for drill in self.drills:
            for worker in drill.workers:
                worker.wake()
        for group in self.groups:
            group.rest()

    def look(self, oracle: Oracle) -> bool:
        """Look at who took over; return whether all of it was seen.

        Raises:
            Violation: It took too long.
        """
        scenes: list[Drill | GroupDrill] = [*self.drills, *self.groups]
        for scene in scenes:
            scene.look(oracle.leader_count)
        return all(scene.is_over for scene in scenes)

    @property
    def _readers(self) -> list[Drill]:
        return [drill for drill in self.drills if drill.workers[0].kind in READERS]

    def is_drained(self, next_offset: int) -> bool:
        """Whether everything that is in the log was handled; nothing is asked any more once it was."""
        self.is_last = True
        if not self.stopped:
            self.stopped = all(
                any(one.is_at(next_offset) for one in drill.workers) for drill in self._readers
            )
        return self.stopped

    def check(self, oracle: Oracle) -> None:
        """Judge what was done and told by the whole log; Violation when something does not hold."""
        self.cursors.check(oracle, [drill.name for drill in self._readers], self.options.drift)


class Mover(CursorClient):
    """Looks at a cursor now and then; an operator who moves a consumer's back, or has it begin anew."""

    def begin(self) -> None:
        """Start looking."""
        self.later(self._look, self.rng.expovariate(0.1 / self.work.options.think_seconds_mean))

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

    def __init__(self, work: CursorScene, name: str, workers: list[Worker]) -> None:
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
            holder.let_go(away)
