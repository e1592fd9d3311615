"""Who waits at the tail of the log, and waking them."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from twisted.internet.defer import Deferred, fail

from loghouse.errors import RequestError, ResourceExhaustedError
from loghouse.limits import WAITERS_MAX
from loghouse.shares import Budget

SPARE_MAX: Final = 64


class Waiters:
    """Followers of the log, each waiting for one offset to become readable."""

    def __init__(self, waiting: Budget | None = None) -> None:
        """`waiting` is that of all logs of the node; None: this one has it for itself."""
        self._waiting = Budget(WAITERS_MAX) if waiting is None else waiting
        self._waiters: dict[int, list[Deferred[None]]] = {}
        self._offsets: list[int] = []  # a heap of them, with some that nobody waits for any more
        self._problem: RequestError | None = None  # what all are told; set once, by `close`
        self.count = 0

    def wait_for(self, offset: int) -> Deferred[None]:
        """Fire once `wake` says that the record at `offset` is readable; cancelling forgets the waiter.

        Raises (as failures):
            ResourceExhaustedError: `WAITERS_MAX` wait already, on all logs together.
            RequestError: That of `close`.
        """
        if self._problem is not None:
            return fail(self._problem)
        if self._waiting.held >= self._waiting.total:
            return fail(ResourceExhaustedError("followers", f"{self._waiting.total} streams wait already"))
        done: Deferred[None] = Deferred(lambda cancelled: self._forget(offset, cancelled))
        waiting = self._waiters.get(offset)
        if waiting is None:
            self._waiters[offset] = [done]
            self._note(offset)
        else:
            waiting.append(done)
        self._set_count(self.count + 1)
        return done

    @property
    def lowest(self) -> int | None:
        """The lowest offset that somebody waits for; None while nobody waits."""
        return min(self._waiters, default=None)

    def _set_count(self, count: int) -> None:
        self._waiting.move(self.count, count)
        self.count = count

    def wake(self, next_offset: int) -> None:
        """Wake who waits for an offset below `next_offset`."""
        offsets = self._offsets
        while offsets and offsets[0] < next_offset:
            waiting = self._waiters.pop(heappop(offsets), ())
            self._set_count(self.count - len(waiting))
            for done in waiting:
                done.callback(None)

    def _note(self, offset: int) -> None:
        if len(self._offsets) > 2 * len(self._waiters) + SPARE_MAX:
            self._offsets = list(self._waiters)  # who came and went often leaves little behind
            heapify(self._offsets)
        else:
            heappush(self._offsets, offset)

    def close(self, problem: RequestError) -> None:
        """Tell everybody, now and later, why nothing more is to be waited for here."""
        self._problem = problem
        waiters, self._waiters = self._waiters, {}
        self._offsets.clear()
        self._set_count(0)
        for waiting in waiters.values():
            for done in waiting:
                done.errback(problem)

    def _forget(self, offset: int, done: Deferred[None]) -> None:
        waiting = self._waiters.get(offset, [])
        if done in waiting:
            waiting.remove(done)
            self._set_count(self.count - 1)
            if not waiting:
                del self._waiters[offset]
