"""What subjects hold of a node at a time, counted by subject and in all. Pure.

One concept for whatever a client can make a node hold: a `Quota` (limits.py) says how much there is and what
one subject's share of it is; a `Ledger` counts who holds how much, and refuses what goes beyond. Both doors
of a node write into the same ledgers, so a subject gains nothing by using both.
"""

from __future__ import annotations

from collections import Counter

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import BODIES, CALLS, FOLLOWERS, Quota


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
            raise ResourceExhaustedError(quota.what, f"{subject!r} holds {held} of its share of {share}")
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


class Shares:
    """The ledgers that the doors of one node share."""

    def __init__(self, *, calls: Quota = CALLS, followers: Quota = FOLLOWERS, bodies: Quota = BODIES) -> None:
        self.calls = Ledger(calls)
        self.followers = Ledger(followers)
        self.bodies = Ledger(bodies)
