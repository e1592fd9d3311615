"""A work queue that does its next piece of work when a test says so."""

from collections import deque

from loghouse.runtime.threads import Job, WorkQueue, do


class ManualQueue(WorkQueue):
    """Stands for the disk thread, or for reader threads. Held, it does nothing in `settle`."""

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.is_held = False

    def submit(self, work, done, failed):
        """Take a piece of work."""
        self.waiting.append((work, done, failed))

    def step(self) -> None:
        """Do one piece of work and hand its result back."""
        tell, outcome = do(self.waiting.popleft())
        tell(outcome)

    def settle(self) -> bool:
        """Do what waits, unless held; return whether there was anything."""
        if self.is_held or not self.waiting:
            return False
        self.step()
        return True

    def drain(self) -> None:
        """Do all that waits, and what comes of it."""
        while self.waiting:
            self.step()

    def stop(self) -> None:
        """Do the rest, as the real queue does."""
        self.drain()
