"""What is done, on its way from the thread that says so to the loop of its consumer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from loghouse.errors import LoghouseError


class DoneTaker(Protocol):
    """A consumer, which is told on its loop."""

    def done(self, done: Any, /) -> None:
        """All of this is handled."""


class DoneCrossing:
    """Passes on what is done: of each share the furthest, once for all that was said meanwhile.

    A share is a log as it is held: when it was lost and comes back, what was done before says nothing of it.

    Args:
        consumer: Whom it is passed on to.
        soon: Has something done on the consumer's loop.
        position_of: The position behind what is done.
    """

    def __init__(
        self,
        consumer: DoneTaker,
        soon: Callable[[Callable[[], None]], None],
        position_of: Callable[[Any], int],
    ) -> None:
        self._consumer = consumer
        self._soon = soon
        self._position_of = position_of
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, Any] = {}  # by share; under the lock

    def note(self, done: Any, share: Hashable = None) -> None:
        """This is done; any thread may say so.

        Raises:
            InvalidRequestError: It is nothing that can be done.
        """
        position = self._position_of(done)
        with self._lock:
            before = self._waiting.get(share)
            if before is None or position > self._position_of(before):
                self._waiting[share] = done
        if before is None:
            self._soon(self.pass_on)

    def pass_on(self) -> None:
        """Tell the consumer; on its loop."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            with contextlib.suppress(LoghouseError):  # it is lost, and says so to what is done next
                self._consumer.done(done)

    def forget(self) -> None:
        """Whatever waits does not count."""
        with self._lock:
            self._waiting.clear()

    def position(self, share: Hashable = None) -> int:
        """Return the position behind what waits; 0 when nothing does."""
        waiting = self._waiting.get(share)
        return 0 if waiting is None else self._position_of(waiting)
