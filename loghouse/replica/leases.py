"""Who may still be at work on a cursor: leases, in a leader's memory alone.

A lease says nothing of what its holder may do: that is up to the epoch. It says how long others wait for a
holder that is silent. So it is counted on the leader's monotonic clock, and lost with the leadership; a new
leader gives every holder a whole lease from its own beginning on.
"""

from __future__ import annotations

from collections.abc import Callable

from loghouse.protocol.cursors import CursorState


class Leases:
    """The leases of one log's cursors, as its leader counts them."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic  # seconds that only rise; fixed
        self._begun = monotonic()  # since when this node has led; set anew by each leadership
        # By the cursor's name: its epoch, and when the lease of that runs out. Only of holders that this
        # leader heard; forgotten with the leadership, and with the cursor.
        self._heard: dict[str, tuple[int, float]] = {}

    def begin(self) -> None:
        """This node leads from now on: nobody has been silent yet."""
        self._begun = self._monotonic()
        self._heard.clear()

    def renew(self, cursor: CursorState) -> None:
        """Its holder was heard just now."""
        self._heard[cursor.name] = cursor.epoch, self._monotonic() + cursor.lease_milliseconds / 1000

    def forget(self, name: str) -> None:
        """There is no such cursor any more."""
        self._heard.pop(name, None)

    def left_milliseconds(self, cursor: CursorState) -> int:
        """Return how much of the lease is left; 0 when nobody holds the cursor, or its lease ran out."""
        if not cursor.holder:
            return 0
        epoch, until = self._heard.get(cursor.name, (0, 0.0))
        if epoch != cursor.epoch:
            until = self._begun + cursor.lease_milliseconds / 1000
        return max(0, round((until - self._monotonic()) * 1000))
