"""For how long the cursors of a log have stood where they stand, as their leader saw it. Pure.

It is for those who watch, and lost with the leadership: a new leader knows of no move before its own
beginning. So what is told of a cursor is true, and may be more.
"""

from __future__ import annotations

from collections.abc import Callable


class CursorMoves:
    """When the cursors of one log moved last, as far as this node has seen while it led."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic  # seconds that only rise; fixed
        self._begun = monotonic()  # since when this node has led; set anew by each leadership
        self._moved: dict[str, float] = {}  # when, by the name of a cursor; forgotten with the leadership

    def begin(self) -> None:
        """This node leads from now on, and saw nothing yet."""
        self._begun = self._monotonic()
        self._moved.clear()

    def moved(self, name: str) -> None:
        """The cursor was made just now, or got another position."""
        self._moved[name] = self._monotonic()

    def forget(self, name: str) -> None:
        """There is no such cursor any more."""
        self._moved.pop(name, None)

    def idle_seconds(self, name: str) -> float:
        """Return for how long the cursor has certainly stood."""
        return self._monotonic() - self._moved.get(name, self._begun)
