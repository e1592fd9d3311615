"""Groups: members that share several cursors of one name, each by what it sees (`client/group_shares.py`).

Every log of a group is a cursor here. Once all is quiet, members come to fair shares, and then nothing moves.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Final

from loghouse.client.group_shares import GroupShares
from loghouse.errors import CursorHeldError, UnknownCursorError
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder, CursorPage
from loghouse.testing.checkers import Violation
from loghouse.testing.cursor_workers import GROUP, CursorClient, CursorScene, Holder

PATIENCE_SECONDS: Final = 1.0
"""For the answer of one node about a log, before the log is left alone for a while."""
FATES: Final = (("die", 0.01), ("sleep", 0.02), ("leave", 0.03))
"""What befalls a member at a turn while faults strike: up to which share of all turns."""
REST_SECONDS: Final = 6.0
"""How long nothing moves once shares are fair."""
FAIR_SECONDS_MAX: Final = 25.0 + REST_SECONDS
"""A lease aside, until that was seen; most of it for requests that nodes which are down do not answer."""


class SharedCursor(Holder):
    """One cursor of a group, while a member works on it."""

    def __init__(self, member: GroupMember, cursor: str, rng: random.Random) -> None:
        super().__init__(member.work, GROUP, cursor, member.name, rng)
        self._member = member

    def _lost(self) -> None:
        super()._lost()
        self._member.lost(self.cursor)


class GroupMember(CursorClient):
    """One process after the other that is a member of a group."""

    def __init__(self, work: CursorScene, logs: tuple[str, ...], name: str, rng: random.Random) -> None:
        super().__init__(work, GROUP, "", name, rng)
        self._logs = logs
        self._lives = 0
        self._me = ""
        self._shares = GroupShares("", work.options.lease_seconds)
        self._held = {log: SharedCursor(self, log, rng) for log in logs}
        self._asked: set[str] = set()  # what it waits for an answer about
        self._turns = 0

    @property
    def epochs(self) -> dict[str, int]:
        """The cursors that it holds, and keeps."""
        return {log: self._held[log].epoch for log in self._shares.mine}

    def begin(self) -> None:
        """Be a new process."""
        self.end()
        self._lives += 1
        self._me = f"{self.name}.{self._lives}"
        self._shares = GroupShares(self._me, self.work.options.lease_seconds)
        self._shares.set_logs(self._logs)
        self._asked.clear()
        self.later(self._take_turn)

    def end(self) -> None:
        """Die, with all that it holds."""
        super().end()
        for holder in self._held.values():
            holder.end()

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while, on none of the logs."""
        super().sleep(seconds)
        for holder in self._held.values():
            holder.sleep(seconds)

    @property
    def _now(self) -> float:
        return self.work.clock.seconds()

    def lost(self, log: str) -> None:
        """A cursor was taken by another member."""
        self._shares.lost(log, self._now)
        self._take_turn()

    # --- a turn ------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        if self._befallen():
            return
        self._turns += 1
        turn, now = self._shares.turn(self._now), self._now
        for log in turn.let_go:
            self._held[log].release(partial(self.lost, log))
        for log in turn.acquire:
            if self._begin_asking(log):
                self._acquire(log)
        for log in turn.look:
            if self._begin_asking(log):
                self._look(log)
        seconds = max(0.05, min(turn.next_at - now, PATIENCE_SECONDS))
        self.later(partial(self._take_turn_if, self._turns), seconds)

    def _take_turn_if(self, turns: int) -> None:
        if turns == self._turns:
            self._take_turn()

    def _begin_asking(self, log: str) -> bool:
        if log in self._asked:
            return False
        self._asked.add(log)
        return True

    def _look(self, log: str) -> None:
        def done(result: object) -> None:
            self._asked.discard(log)
            if isinstance(result, CursorPage):
                (cursor,) = result.cursors
                left_seconds = cursor.left_milliseconds / 1000
                self._shares.saw(
                    log, self._now, holder=cursor.holder, left_seconds=left_seconds, waiting=result.waiting
                )
            elif isinstance(result, UnknownCursorError):
                self._shares.saw(log, self._now, holder="", left_seconds=0.0)
            else:
                self._shares.missed(log, self._now)
            self._soon()

        self.order(CursorOrder(operation=CursorOperation.GET, name=log), done, seconds_max=PATIENCE_SECONDS)

    def _acquire(self, log: str) -> None:
        def done(result: object, asked: float) -> None:
            self._asked.discard(log)
            if isinstance(result, CursorPage):
                self._held[log].took(result, self._me, asked)
                self._shares.took(log, self._now)
            elif isinstance(result, CursorHeldError):
                left_seconds = result.milliseconds / 1000
                self._shares.refused(log, self._now, holder=result.holder, left_seconds=left_seconds)
            else:
                self._shares.missed(log, self._now)
            self._soon()

        self._held[log].acquire(self._me, done, seconds_max=PATIENCE_SECONDS)

    def _soon(self) -> None:
        """Take a turn once everything that was asked is answered."""
        if not self._asked:
            self.later(self._take_turn, 0.0)

    # --- what befalls it -----------------------------------------------------------------------

    def _befallen(self) -> bool:
        fate = 1.0 if self.work.is_quiet else self.rng.random()
        lease = self.work.options.lease_seconds
        match next((what for what, share in FATES if fate < share), ""):
            case "die":
                self.end()
                self.later(self.begin, self.rng.uniform(0, 2 * lease))
            case "sleep":
                self.sleep(self.rng.uniform(0.5, 3) * lease)
                self.later(self._take_turn)
            case "leave":
                self._leave(self.rng.uniform(0, 2 * lease))
            case _:
                return False
        return True

    def _leave(self, seconds: float) -> None:
        """Let go of everything, and come back as a new process after a while."""
        self._turn += 1
        for log in sorted(self._shares.mine):  # a set's order is another one in each process
            self._held[log].release(lambda: None)
        self.later(self.begin, seconds)


class GroupDrill:
    """Once all is quiet: within a bound a group comes to fair shares, and nothing moves any more."""

    def __init__(
        self, work: CursorScene, name: str, logs: tuple[str, ...], members: list[GroupMember]
    ) -> None:
        """Watch the members of a group, which is called `name`."""
        self._work = work
        self.name = name
        self._logs = logs
        self._members = members
        self._leader_count = 0
        self._since = 0.0  # when it became quiet, or leadership changed last
        self._shares: list[dict[str, int]] = []  # who has what, by epochs
        self._unmoved_since = 0.0
        self.is_over = False

    def rest(self) -> None:
        """Nothing befalls members from now on."""
        self._since = self._work.clock.seconds()
        for member in self._members:
            member.begin()

    def look(self, leader_count: int) -> None:
        """See how the shares are.

        Raises:
            Violation: They are not fair after so long, or still move.
        """
        now, options = self._work.clock.seconds(), self._work.options
        if leader_count != self._leader_count:
            # Whoever waits is forgotten with a leader, and each holder has a lease more.
            self._leader_count, self._since = leader_count, now
        shares = [member.epochs for member in self._members]
        if shares != self._shares:
            self._shares, self._unmoved_since = shares, now
        counts = sorted(len(share) for share in shares)
        is_fair = sum(counts) == len(self._logs) and counts[-1] - counts[0] <= 1
        if is_fair and now >= self._unmoved_since + REST_SECONDS:
            self.is_over = True
        elif now > self._since + options.lease_seconds / (1 - options.drift) + FAIR_SECONDS_MAX:
            what = "still moves" if is_fair else "is not fair"
            raise Violation("cursor-shares", f"{self.name} {what}: {shares}")
