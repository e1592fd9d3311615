"""What the calls of one client share: who is told of a leader, and which connections are still wanted.

Each log has calls of its own, with what they know of where it is (`calls.Calls`); one that is dropped leaves.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Protocol


class Route(Protocol):
    """Where a log is, as far as is known."""

    @property
    def group(self) -> int:
        """The log's number; 0 until it is known."""

    def hinted(self, leader_name: str) -> None:
        """Note that a node named the leader."""

    def addresses(self) -> Iterable[str]:
        """Return every address that may be chosen."""


class Routes:
    """The routes of one client."""

    def __init__(self) -> None:
        """Begin without any."""
        self._routes: weakref.WeakSet[Route] = weakref.WeakSet()

    def add(self, route: Route) -> None:
        """Keep a route as long as somebody uses it."""
        self._routes.add(route)

    def hinted(self, leader_name: str, group: int) -> None:
        """Note that a node named the leader of a log."""
        for route in self._routes:
            if route.group == group:
                route.hinted(leader_name)

    def addresses(self) -> set[str]:
        """Return every address that any of them may choose."""
        return {address for route in self._routes for address in route.addresses()}
