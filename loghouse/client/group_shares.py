"""How consumers of one name share logs among themselves. Pure: the time is handed in.

Each member looks at the cursors of all logs: who holds them, who waits for them. Nobody coordinates.

- A free log is for whoever has the fewest; when nobody of those takes it, for anybody.
- Whoever has at least two fewer than another member waits for logs of it, by asking for them in vain.
- Whoever has at least two more than one that waits for a log lets that log go.

Each move makes shares more even. In the end they differ by one at most: then nobody waits, and nothing moves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from loghouse.limits import WAIT_SECONDS

ASK_SECONDS: Final = 1.0
"""How often a member asks for the log that it waits for, and looks at the others if they are few."""
LOOKS_PER_SECOND: Final = 200
"""What all members of a group together look at, at most; beyond it each log is looked at less often."""


@dataclass(slots=True)
class _Log:
    """A log as this member saw its cursor last."""

    seen_at: float = -math.inf  # when; -inf: never
    holder: str = ""  # who has it; empty: nobody, or it was not heard within its lease
    until: float = math.inf  # when the holder's lease runs out, unless it renews it
    waiting: tuple[str, ...] = ()  # who asked for it in vain
    taken_at: float = -math.inf  # when this member took it, if it has it
    free_since: float = math.inf  # since when it was seen free each time
    let_go_for: str = ""  # the member that is to have it, until somebody has
    rests_until: float = -math.inf  # until then it is left alone, for it could not be asked about


@dataclass(frozen=True, slots=True)
class Turn:
    """What a member does next, all of it at once; then it asks again, and at `next_at` at the latest.

    Attributes:
        look: The logs whose cursors to look at.
        acquire: Those to ask for: free ones, or such as other members hold and may let go.
        let_go: Those to leave to others, once what was given out is done.
    """

    look: list[str] = field(default_factory=list)
    acquire: list[str] = field(default_factory=list)
    let_go: list[str] = field(default_factory=list)
    next_at: float = math.inf


class GroupShares:
    """One member's view of its group, and what follows from it.

    Args:
        me: The holder's name of this member.
        lease_seconds: How long a lease of this group is.
    """

    def __init__(self, me: str, lease_seconds: float) -> None:
        self._me = me  # fixed
        self._lease_seconds = lease_seconds  # fixed
        self._logs: dict[str, _Log] = {}  # every log of the group, as it was seen
        self._mine: set[str] = set()  # those that this member holds and keeps
        self._leaving: set[str] = set()  # those that it holds still, and will let go
        # The logs of other members that this one waits for, and when to ask for each again.
        self._ask_at: dict[str, float] = {}

    @property
    def logs(self) -> frozenset[str]:
        """The logs of the group."""
        return frozenset(self._logs)

    @property
    def mine(self) -> frozenset[str]:
        """The logs that this member holds and keeps."""
        return frozenset(self._mine)

    # --- what was seen ----------------------------------------------------------------------

    def set_logs(self, names: Iterable[str]) -> None:
        """These are the logs of the group now. Those that this member holds and that are gone are `lost`."""
        wanted = set(names)
        for name in [name for name in self._logs if name not in wanted]:
            del self._logs[name]
            self._mine.discard(name)
            self._leaving.discard(name)
        for name in sorted(wanted):
            self._logs.setdefault(name, _Log())

    def saw(
        self, name: str, now: float, *, holder: str, left_seconds: float, waiting: Iterable[str] = ()
    ) -> None:
        """The cursor of a log is held by `holder` for so many seconds still; or by nobody."""
        log = self._logs.get(name)
        if log is None:
            return
        is_free = not holder or left_seconds <= 0 or (holder == self._me and name not in self._mine)
        log.seen_at, log.waiting = now, tuple(waiting)
        if is_free:
            log.holder, log.until = "", math.inf
            log.free_since = min(log.free_since, now)
        else:
            log.holder, log.until = holder, now + left_seconds
            log.free_since, log.let_go_for = math.inf, ""

    def refused(self, name: str, now: float, *, holder: str, left_seconds: float) -> None:
        """A log that this member asked for is held by another one."""
        log = self._logs.get(name)
        if log is not None:
            waiting = log.waiting if self._me in log.waiting else (*log.waiting, self._me)
            self.saw(name, now, holder=holder, left_seconds=left_seconds, waiting=waiting)

    def missed(self, name: str, now: float) -> None:
        """A log could not be looked at, or asked for: it is left alone for a while."""
        log = self._logs.get(name)
        if log is not None:
            log.rests_until = now + ASK_SECONDS

    def took(self, name: str, now: float) -> None:
        """This member has a log from now on."""
        log = self._logs.get(name)
        if log is not None:
            self._mine.add(name)
            self.saw(name, now, holder=self._me, left_seconds=self._lease_seconds)
            log.taken_at = now

    def lost(self, name: str, now: float) -> None:
        """This member has a log no more: it let it go, or another one took it."""
        was_let_go = name in self._leaving
        self._mine.discard(name)
        self._leaving.discard(name)
        log = self._logs.get(name)
        if log is not None:
            # What was let go is free; of what was taken another look tells who has it.
            log.holder, log.until, log.waiting = "", math.inf, ()
            log.free_since = now if was_let_go else math.inf
            log.seen_at = now if was_let_go else -math.inf

    # --- what follows -----------------------------------------------------------------------

    def turn(self, now: float) -> Turn:
        """Return what to do now."""
        loads = self._loads()
        acquire = self._free_ones(loads, now)
        awaited = [] if acquire else self._to_wait_for(loads)
        self._ask_at = {name: self._ask_at.get(name, now) for name in awaited}
        for name, at in self._ask_at.items():
            if at <= now:
                acquire.append(name)
                self._ask_at[name] = now + ASK_SECONDS
        let_go = self._to_let_go(loads)
        rest = self._rest_seconds(len(loads))
        due = {
            name: max(log.rests_until, min(log.seen_at + rest, math.inf if name in self._mine else log.until))
            for name, log in self._logs.items()
            if name not in self._leaving and name not in acquire and name not in let_go
        }
        look = [name for name, at in due.items() if at <= now]
        next_at = min((at for at in due.values() if at > now), default=math.inf)
        next_at = min((next_at, *self._ask_at.values()))
        return Turn(look=look, acquire=acquire, let_go=let_go, next_at=next_at)

    def _loads(self) -> Counter[str]:
        """Count the logs of every member that is seen to hold or to wait for some, this one among them."""
        loads = Counter({self._me: len(self._mine)})
        for name, log in self._logs.items():
            for member in log.waiting:
                loads.setdefault(member, 0)
            if log.holder and log.holder != self._me:
                loads[log.holder] += 1
            elif log.let_go_for and name not in self._mine:
                loads[log.let_go_for] += 1
        return loads

    def _free_ones(self, loads: Counter[str], now: float) -> list[str]:
        """Return the free logs to ask for."""
        free = [
            name
            for name, log in self._logs.items()
            if not log.holder
            and log.seen_at > -math.inf
            and log.rests_until <= now
            and name not in self._leaving
            and name not in self._mine  # its own lease may have run out; it has the log still
        ]
        mine = loads[self._me]
        others = [load for member, load in loads.items() if member != self._me]
        if not others:
            return self._in_my_order(free)[: max(1, mine)]  # more each time, until others are seen
        has_fewest = mine <= min(others)
        late = now - WAIT_SECONDS
        free = [
            name
            for name in free
            if self._logs[name].free_since <= late or (has_fewest and not self._logs[name].let_go_for)
        ]
        return self._in_my_order(free)[: self._missing(loads)]

    def _missing(self, loads: Counter[str]) -> int:
        """Return how many more this member may ask for at once: as many as its share needs, at least one."""
        return max(1, len(self._logs) // len(loads) - loads[self._me])

    def _to_wait_for(self, loads: Counter[str]) -> list[str]:
        """Return logs of others to wait for: no more than its share, of those that have the most."""
        me, loads = self._me, loads.copy()
        for log in self._logs.values():
            if any(loads[one] < loads[me] and loads[one] + 2 <= loads[log.holder] for one in log.waiting):
                return []  # that one comes first
        held: dict[str, list[str]] = {}
        for name in self._in_my_order(self._logs):
            holder = self._logs[name].holder
            if holder not in ("", me):
                # Those that it waits for already are taken first, from the end.
                held.setdefault(holder, []).insert(len(self._logs) if name in self._ask_at else 0, name)
        chosen: list[str] = []
        for _ in range(self._missing(loads)):
            holder = max(
                held, key=lambda holder: (loads[holder], held[holder][-1] in self._ask_at), default=me
            )
            if loads[holder] < loads[me] + 2:
                break
            chosen.append(held[holder].pop())
            loads[holder] -= 1
            loads[me] += 1
            if not held[holder]:
                del held[holder]
        return chosen

    def _to_let_go(self, loads: Counter[str]) -> list[str]:
        """Return the logs to leave to members that wait for them: one for each that has two fewer."""
        let_go: list[str] = []
        for name in sorted(self._mine):
            log = self._logs[name]
            if log.seen_at < log.taken_at + WAIT_SECONDS:
                continue  # whoever asked for it together with this one is said to wait for so long
            for member in log.waiting:
                if loads[member] + 2 <= loads[self._me]:
                    loads[member] += 1
                    loads[self._me] -= 1
                    log.let_go_for = member
                    self._mine.discard(name)
                    self._leaving.add(name)
                    let_go.append(name)
                    break
        return let_go

    def _rest_seconds(self, member_count: int) -> float:
        """Return how often to look at a log."""
        wanted = len(self._logs) * member_count / LOOKS_PER_SECOND
        return min(max(ASK_SECONDS, wanted), max(ASK_SECONDS, self._lease_seconds / 2))

    def _in_my_order(self, names: Iterable[str]) -> list[str]:
        """Return names in an order of this member's own, so that members ask for different logs first."""
        return sorted(names, key=lambda name: (crc32(f"{self._me}\0{name}".encode()), name))
