"""Machines that have a member's name and are not it: seen alive at the same time. Pure.

A member whose disk was emptied comes back under its name, and gets its place back. So does, by mistake, a
second machine with the certificate of a member that is away for a moment, unless it is known for what it is:
nothing of a disk that was emptied can be heard once its successor speaks, while a member goes on beside its
twin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from loghouse.gossip.members import MemberKey
from loghouse.limits import TWINS_MAX

APART_SECONDS: Final = 1.0  # what was under way when the successor spoke first has arrived by then


class Twins:
    """Which nodes, of those that have a member's name and another disk, a member was heard beside."""

    def __init__(self) -> None:
        self._heard: dict[MemberKey, float] = {}  # when each member was heard last
        # Since when each stranger with a member's name is there; forgotten when it goes.
        self._seen: dict[MemberKey, float] = {}
        # The strangers that are certainly twins; one leaves when its name or itself becomes a member's.
        self._known: set[MemberKey] = set()

    def heard(self, member: MemberKey, now: float) -> None:
        """Note that something came from a member over its own link."""
        self._heard[member] = now

    def look(
        self, members: Collection[MemberKey], strangers: Iterable[MemberKey], now: float
    ) -> list[MemberKey]:
        """Take who is there now; return the twins that are known since this look."""
        by_name = {member.name: member for member in members}
        alike = {stranger for stranger in strangers if stranger.name in by_name}
        self._seen = {twin: self._seen.get(twin, now) for twin in alike}
        self._heard = {member: at for member, at in self._heard.items() if member in members}
        # Remembered while it is not seen, too: what comes back after the member went away is still its twin.
        self._known = {twin for twin in self._known if twin.name in by_name and twin not in members}
        found = [
            twin
            for twin, first in self._seen.items()
            if twin not in self._known and self._heard.get(by_name[twin.name], 0.0) >= first + APART_SECONDS
        ]
        self._known.update(found[: TWINS_MAX - len(self._known)])
        return found

    def __contains__(self, node: MemberKey) -> bool:
        return node in self._known
