"""A work queue that does its next piece of work when a test says so."""

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class ManualQueue:
    """Stands for the disk thread, or for reader threads. Held, it does nothing in `settle`."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()
        self.is_held = False

    def run(self, work):
        """Take a piece of work."""
        done = Deferred()
        self.waiting.append((work, done))
        return done

    def step(self) -> None:
        """Do one piece of work and hand its result back."""
        work, done = self.waiting.popleft()
        try:
            result = work()
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

    def settle(self) -> bool:
        """Do what waits, unless held; return whether there was anything."""
        if self.is_held or not self.waiting:
            return False
        self.step()
        return True

    def stop(self) -> None:
        """Do the rest, as the real queue does."""
        while self.waiting:
            self.step()
