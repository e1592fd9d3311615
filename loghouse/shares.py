"""What subjects, and what logs, hold of a node at a time, counted one by one and in all. Pure.

One concept for whatever a client can make a node hold: a `Quota` (limits.py) says how much there is and what
one subject's share of it is; a `Ledger` counts who holds how much, and refuses what goes beyond. Both servers
of a node write into the same ledgers, so a subject gains nothing by using both. The logs of a node have a
`Budget` together for what each could otherwise have for itself, and a `Pace` for what they do. What node.yaml
gives single subjects beside that is in `Quotas`, which every server asks, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final

from loghouse.errors import QuotaExceededError, ResourceExhaustedError
from loghouse.limits import (
    ANSWERS,
    BODIES,
    CALLS,
    FOLLOWERS,
    HOLDING_FREE,
    HOLDING_STEP,
    QUOTA_BURST_SECONDS,
    QUOTA_HOLD_SECONDS_MAX,
    QUOTA_RETRY_SECONDS,
    QUOTA_SUBJECTS_MAX,
    QUOTA_SUBJECTS_SHOWN_MAX,
    RATES_MAX,
    READER_SIZE_MIN,
    Quota,
)

SLACK: Final = 4 * HOLDING_STEP  # kept while a connection is busy


class Ledger:
    """Who holds how much of one resource; whatever is taken must be given back once."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.held = 0
        self.refused_count = 0
        self._held_by: dict[str, int] = {}

    def held_by(self, subject: str) -> int:
        """Return how much a subject holds."""
        return self._held_by.get(subject, 0)

    def take(self, subject: str, amount: int = 1, *, share: int | None = None) -> None:
        """Count `amount` more for a subject.

        Args:
            share: A smaller share than the quota's, for a subject that needs less.

        Raises:
            ResourceExhaustedError: Its share, or all there is, is used up; nothing was counted.
        """
        quota = self.quota
        share = quota.share if share is None else share
        held = self._held_by.get(subject, 0)
        if held + amount > share:
            self.refused_count += 1
            raise ResourceExhaustedError(
                quota.what, f"{subject!r} holds {held} of its share of {share}{_more(amount)}"
            )
        if self.held + amount > quota.total:
            self.refused_count += 1
            raise ResourceExhaustedError(
                quota.what, f"all subjects together hold {self.held} of {quota.total}"
            )
        self.held += amount
        self._held_by[subject] = held + amount

    def give_back(self, subject: str, amount: int = 1) -> None:
        """Count `amount` less for a subject."""
        left = self._held_by.get(subject, 0) - amount
        assert left >= 0, (self.quota.what, subject, left)
        self.held -= amount
        if left:
            self._held_by[subject] = left
        else:
            self._held_by.pop(subject, None)  # whoever holds nothing costs nothing


def _more(amount: int) -> str:
    return f" and asks for {amount} more" if amount > 1 else ""


class Holding:
    """What one connection holds of a ledger, counted in steps, so that small changes cost nothing."""

    __slots__ = ("_ledger", "_subject", "_taken")

    def __init__(self, ledger: Ledger, subject: str) -> None:
        self._ledger = ledger
        self._subject = subject
        self._taken = 0

    def hold(self, amount: int) -> None:
        """Hold so much from now on, instead of what it was.

        Raises:
            ResourceExhaustedError: There is not so much for this subject; it holds what it held.
        """
        missing = amount - HOLDING_FREE - self._taken
        if missing > 0:
            step = -(-missing // HOLDING_STEP) * HOLDING_STEP
            self._ledger.take(self._subject, step)
            self._taken += step
        else:
            self.shrink(amount)

    def shrink(self, amount: int) -> None:
        """Hold so much from now on, which is no more than it was."""
        if self._taken and (not amount or self._taken - amount > SLACK):
            kept = -(-max(0, amount - HOLDING_FREE) // HOLDING_STEP) * HOLDING_STEP
            self._ledger.give_back(self._subject, self._taken - kept)
            self._taken = kept

    def close(self) -> None:
        """Hold nothing."""
        self.shrink(0)


class Rate:
    """How often each subject may do what is not given back: often at once, then once in so many seconds."""

    def __init__(self, at_once_max: int, seconds: float) -> None:
        self._at_once_max = at_once_max
        self._seconds = seconds
        self._free_at: dict[str, float] = {}  # when a subject at rest has all turns again

    def take(self, subject: str, what: str, now: float) -> None:
        """Use one turn up.

        Raises:
            ResourceExhaustedError: It has none left.
        """
        free_at = max(now, self._free_at.get(subject, now)) + self._seconds
        if free_at - now > self._at_once_max * self._seconds:
            limit = f"{subject!r} asked for {self._at_once_max}; one more in {self._seconds:g} s"
            raise ResourceExhaustedError(what, limit)
        self._free_at[subject] = free_at
        if len(self._free_at) > RATES_MAX:
            self._free_at = {name: at for name, at in self._free_at.items() if at > now}


class Budget:
    """What the logs of a node hold of one resource together, so that many hold no more than one may.

    Nobody is refused here: a holder keeps to its `share`, or takes nothing that brings `held` above `total`.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self.share = total  # an equal part for each of those that hold something
        self._holder_count = 0

    def move(self, before: int, after: int) -> None:
        """Count that a holder which held `before` holds `after` from now on; one that is gone holds 0."""
        self.held += after - before
        if (before > 0) != (after > 0):
            self._holder_count += 1 if after else -1
            self.share = self.total // max(1, self._holder_count)


class Pace:
    """How much is done in a time, by one log or all of a node: one after the other, as they ask."""

    def __init__(self, rate: float) -> None:
        self.rate = rate  # a second
        self._free_at = 0.0  # when what was asked for so far has had its time

    def due(self, amount: float, now: float) -> float:
        """Return when so much may be done: now, or once what was asked for before has had its time."""
        due = max(now, self._free_at)
        self._free_at = due + amount / self.rate
        return due

    def owed(self, now: float) -> float:
        """Return how many seconds what was asked for so far still takes."""
        return max(0.0, self._free_at - now)

    def take(self, amount: float, now: float) -> bool:
        """Do so much now, however large; False, and nothing is counted, while a second's worth is owed."""
        if self._free_at - now >= 1.0:
            return False
        self.due(amount, now)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectQuota:
    """What node.yaml gives one subject of one node; 0: no less than everybody has.

    `bytes_in` of requests and `bytes_out` of answers are a second; `requests` are under way at a time.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    requests: int = 0
    connections: int = 0


class QuotaTally:
    """What counted against a subject's quotas since the node began, and what they refused it."""

    __slots__ = ("bytes_in", "bytes_out", "refusals")

    def __init__(self) -> None:
        self.bytes_in = 0  # of requests that were taken
        self.bytes_out = 0  # of answers
        self.refusals: dict[str, int] = {}  # by what it had used up

    def refuse(self, resource: str) -> None:
        """Count a refusal."""
        self.refusals[resource] = self.refusals.get(resource, 0) + 1


class SubjectUse:
    """What one subject has used lately, over all servers of a node.

    A second's worth of bytes is free at once. Beyond it whoever serves the subject waits: it does not read
    the connection, or holds the answer back. Only what would have to wait for too long is refused, with the
    time after which it may come again.
    """

    __slots__ = ("_in", "_out", "quota", "requests", "subject", "tally")

    def __init__(self, subject: str, quota: SubjectQuota, tally: QuotaTally) -> None:
        self.subject = subject
        self.requests = 0  # under way
        self.change(quota, tally)

    def change(self, quota: SubjectQuota, tally: QuotaTally) -> None:
        """Have another quota from now on, and count what it is used for there."""
        self.quota = quota
        self.tally = tally
        self._in, self._out = Pace(quota.bytes_in), Pace(quota.bytes_out)

    def is_at_rest(self, now: float) -> bool:
        """Whether nothing would be lost by forgetting this."""
        return not (self.requests or self._in.owed(now) or self._out.owed(now))

    def begin(self) -> None:
        """Count one more request that is under way; `end` follows.

        Raises:
            QuotaExceededError: There are as many as may be.
        """
        if 0 < self.quota.requests <= self.requests:
            limit = f"{self.subject!r} has {self.requests} under way, all that its quota allows"
            self.tally.refuse("requests")
            raise QuotaExceededError(round(1000 * QUOTA_RETRY_SECONDS), "requests", limit)
        self.requests += 1

    def end(self) -> None:
        """A request is answered, or given up."""
        self.requests -= 1

    def check_receive(self, now: float) -> None:
        """Raise when a request would have to wait for too long.

        Raises:
            QuotaExceededError: After which time to come again.
        """
        self._check(self._in, "bytes in", now)

    def receive(self, size: int, now: float) -> None:
        """Count the bytes of a request that came.

        Raises:
            QuotaExceededError: As `check_receive`; nothing was counted.
        """
        if self.quota.bytes_in:
            self._check(self._in, "bytes in", now)
            self._in.due(size, now)
            self.tally.bytes_in += size

    def hold_seconds(self, now: float) -> float:
        """Return for how long nothing more of the subject is to be read."""
        return min(QUOTA_HOLD_SECONDS_MAX, _wait_of(self._in, now))

    def send(self, size: int, now: float) -> None:
        """Count the bytes of an answer."""
        if self.quota.bytes_out:
            self._out.due(size, now)
            self.tally.bytes_out += size

    def check_send(self, now: float) -> None:
        """Raise when an answer would have to wait for too long.

        Raises:
            QuotaExceededError: After which time to ask again.
        """
        self._check(self._out, "bytes out", now)

    def receive_seconds(self, now: float) -> float:
        """Return after how long nothing of what came is owed any more but a burst."""
        return _wait_of(self._in, now)

    def send_seconds(self, now: float) -> float:
        """Return after how long the next answer may be made."""
        return _wait_of(self._out, now)

    def size_max(self, size: int) -> int:
        """Return how much of an answer of `size` bytes to make at a time: a second's worth."""
        rate = self.quota.bytes_out
        return min(size, max(rate, READER_SIZE_MIN)) if rate else size

    def _check(self, pace: Pace, what: str, now: float) -> None:
        wait = _wait_of(pace, now)
        if wait > QUOTA_HOLD_SECONDS_MAX:
            limit = f"{self.subject!r} used its quota of {pace.rate} bytes a second"
            self.tally.refuse(what)
            raise QuotaExceededError(ceil(1000 * wait), what, limit)


def _wait_of(pace: Pace, now: float) -> float:
    return max(0.0, pace.owed(now) - QUOTA_BURST_SECONDS)


class Quotas:
    """What each subject may use, by its name or a pattern, and what it has used.

    Attributes:
        is_used: Whether there is any quota: servers look at this before they ask for a subject's.
        seconds: The clock, which only rises.
        tallies: What counted against quotas so far, by subject: the first `QUOTA_SUBJECTS_SHOWN_MAX` to
            come, and `OTHERS` for the rest.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.is_used = False
        self.seconds = seconds
        self._rules: Mapping[str, SubjectQuota] = {}
        self._uses: dict[str, SubjectUse] = {}
        self.tallies: dict[str, QuotaTally] = {}
        self._untold = QuotaTally()  # of those without a quota: nothing is counted there

    def change(self, rules: Mapping[str, SubjectQuota]) -> None:
        """Let these rules count from now on: for a name, for what begins so (`team-*`), for all (`*`)."""
        self._rules = dict(rules)
        self.is_used = bool(rules)
        for use in self._uses.values():
            quota = self._quota_of(use.subject)
            if quota != use.quota:
                use.change(quota, self._tally_of(use.subject, quota))

    def of(self, subject: str) -> SubjectUse:
        """Return what a subject has used; not to be kept for longer than a request."""
        use = self._uses.get(subject)
        if use is None:
            quota = self._quota_of(subject)
            use = SubjectUse(subject, quota, self._tally_of(subject, quota))
            if len(self._uses) >= QUOTA_SUBJECTS_MAX:
                now = self.seconds()
                self._uses = {name: one for name, one in self._uses.items() if not one.is_at_rest(now)}
            if len(self._uses) < QUOTA_SUBJECTS_MAX:
                self._uses[subject] = use
        return use

    def connections_of(self, subject: str) -> int:
        """Return how many connections a subject may have; 0: as many as everybody."""
        return self.of(subject).quota.connections if self.is_used else 0

    def connection_refused(self, subject: str) -> None:
        """Count that a subject has all the connections that its quota allows."""
        self.of(subject).tally.refuse("connections")

    def uses_shown(self) -> Iterator[SubjectUse]:
        """Yield what the subjects use that have a tally of their own."""
        for subject in self.tallies:
            use = self._uses.get(subject)
            if use is not None and use.quota != NO_QUOTA:
                yield use

    def _tally_of(self, subject: str, quota: SubjectQuota) -> QuotaTally:
        if quota == NO_QUOTA:
            return self._untold
        tally = self.tallies.get(subject)
        if tally is None:
            name = subject if len(self.tallies) < QUOTA_SUBJECTS_SHOWN_MAX else OTHERS
            tally = self.tallies.setdefault(name, QuotaTally())
        return tally

    def _quota_of(self, subject: str) -> SubjectQuota:
        """Return the quota of the rule that fits best: the name itself, or the longest beginning of it."""
        rules = self._rules
        beginnings = (f"{subject[:size]}*" for size in range(len(subject), -1, -1))
        best = next((one for one in (subject, *beginnings) if one in rules), None)
        return rules[best] if best is not None else NO_QUOTA


NO_QUOTA: Final = SubjectQuota()
OTHERS: Final = "other"  # all subjects that have no tally of their own


class Shares:
    """The ledgers and quotas that the servers of one node share.

    Args:
        seconds: The clock for quotas, which only rises; without one there are none.
    """

    def __init__(
        self,
        *,
        seconds: Callable[[], float] = float,
        calls: Quota = CALLS,
        followers: Quota = FOLLOWERS,
        bodies: Quota = BODIES,
        answers: Quota = ANSWERS,
    ) -> None:
        self.calls = Ledger(calls)
        self.followers = Ledger(followers)
        self.bodies = Ledger(bodies)
        self.answers = Ledger(answers)
        self.quotas = Quotas(seconds)
