"""Who waits for a cursor that another one holds: in a leader's memory alone.

Whoever is refused a cursor waits for it, and is remembered while it keeps asking. The holder hears of it,
and may let go: that is how consumers share logs. Nothing is decided by it here; so it may be forgotten, with
the leadership or because there is no room.
"""

from __future__ import annotations

from collections.abc import Callable

from loghouse.limits import WAIT_SECONDS, WAITING_MAX, WAITING_PER_CURSOR_MAX


class CursorWaits:
    """Who waits for the cursors of one log, as its leader heard."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic  # seconds that only rise; fixed
        # By cursor and holder: when it is forgotten, unless it asks again. Whoever asked last is last.
        self._until: dict[tuple[str, str], float] = {}
        self._waiting: dict[str, dict[str, None]] = {}  # the same by cursor: its holders, as they first came

    def begin(self) -> None:
        """This node leads from now on: nobody has asked it yet."""
        self._until.clear()
        self._waiting.clear()

    def refused(self, name: str, holder: str) -> None:
        """The holder asked for a cursor in vain. Beyond the caps, one that is new is not remembered."""
        self._forget_silent()
        waiting = self._waiting.get(name, {})
        if holder in waiting:
            del self._until[name, holder]  # to stand last
        elif len(waiting) >= WAITING_PER_CURSOR_MAX or len(self._until) >= WAITING_MAX:
            return
        self._waiting.setdefault(name, waiting)[holder] = None
        self._until[name, holder] = self._monotonic() + WAIT_SECONDS

    def acquired(self, name: str, holder: str) -> None:
        """The holder has the cursor: it waits no more."""
        if self._until.pop((name, holder), None) is not None:
            self._drop(name, holder)

    def forget(self, name: str) -> None:
        """There is no such cursor any more."""
        for holder in self._waiting.pop(name, ()):
            del self._until[name, holder]

    def of(self, name: str) -> tuple[str, ...]:
        """Return who waits for a cursor, at most WAITING_PER_CURSOR_MAX; who came first is first."""
        self._forget_silent()
        return tuple(self._waiting.get(name, ()))

    def count(self, name: str) -> int:
        """Return how many wait for a cursor."""
        self._forget_silent()
        return len(self._waiting.get(name, ()))

    def _forget_silent(self) -> None:
        now = self._monotonic()
        while self._until:
            name, holder = key = next(iter(self._until))
            if self._until[key] > now:
                return
            del self._until[key]
            self._drop(name, holder)

    def _drop(self, name: str, holder: str) -> None:
        waiting = self._waiting[name]
        del waiting[holder]
        if not waiting:
            del self._waiting[name]
