"""What subjects, and what logs, hold of a node at a time, counted one by one and in all. Pure.

One concept for whatever a client can make a node hold: a `Quota` (limits.py) says how much there is and what
one subject's share of it is; a `Ledger` counts who holds how much, and refuses what goes beyond. Both servers
of a node write into the same ledgers, so a subject gains nothing by using both. The logs of a node have a
`Budget` together for what each could otherwise have for itself, and a `Pace` for what they do.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import ANSWERS, BODIES, CALLS, FOLLOWERS, HOLDING_FREE, HOLDING_STEP, RATES_MAX, Quota

SLACK: Final = 4 * HOLDING_STEP  # kept while a connection is busy


class Ledger:
    """Who holds how much of one resource; whatever is taken must be given back once."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.held = 0
        self.refused_count = 0
        self._held_by: Counter[str] = Counter()

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
        left = self._held_by[subject] - amount
        assert left >= 0, (self.quota.what, subject, left)
        self.held -= amount
        if left:
            self._held_by[subject] = left
        else:
            del self._held_by[subject]  # whoever holds nothing costs nothing


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

    def take(self, amount: float, now: float) -> bool:
        """Do so much now, however large; False, and nothing is counted, while a second's worth is owed."""
        if self._free_at - now >= 1.0:
            return False
        self.due(amount, now)
        return True


class Shares:
    """The ledgers that the servers of one node share."""

    def __init__(
        self,
        *,
        calls: Quota = CALLS,
        followers: Quota = FOLLOWERS,
        bodies: Quota = BODIES,
        answers: Quota = ANSWERS,
    ) -> None:
        self.calls = Ledger(calls)
        self.followers = Ledger(followers)
        self.bodies = Ledger(bodies)
        self.answers = Ledger(answers)
