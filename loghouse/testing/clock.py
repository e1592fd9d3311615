"""Virtual time: a heap of calls, and an `IReactorTime` on top of it.

`twisted.internet.task.Clock` sorts all pending calls on every call; with a few
hundred of them it is a hundred times slower than a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

_HeapItem = tuple[float, int, Callable[..., object], tuple[Any, ...]]


@implementer(IDelayedCall)
class SimDelayedCall:
    """A call that can be cancelled or moved; its old place in the heap is skipped, not removed."""

    __slots__ = ("_called", "_cancelled", "_clock", "_ticket", "args", "function", "keywords", "when")

    def __init__(
        self,
        clock: SimClock,
        when: float,
        function: Callable[..., object],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        self._clock = clock
        self.when = when
        self.function = function
        self.args = args
        self.keywords = keywords
        self._called = False
        self._cancelled = False
        self._ticket = 0
        clock.at(when, self._fire, 0)

    def _fire(self, ticket: int) -> None:
        if self._cancelled or ticket != self._ticket:
            return
        self._called = True
        self._clock._pending.pop(self, None)
        self.function(*self.args, **self.keywords)

    def _check_active(self) -> None:
        if self._cancelled:
            raise AlreadyCancelled
        if self._called:
            raise AlreadyCalled

    def _move(self, when: float) -> None:
        self._check_active()
        self.when = when
        self._ticket += 1
        self._clock.at(when, self._fire, self._ticket)

    def getTime(self) -> float:  # noqa: N802
        """Return when the call is due, in seconds."""
        return self.when

    def cancel(self) -> None:
        """Never make the call."""
        self._check_active()
        self._cancelled = True
        self._clock._pending.pop(self, None)

    def delay(self, secondsLater: float) -> None:  # noqa: N803
        """Make the call so many seconds later than planned."""
        self._move(self.when + secondsLater)

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803
        """Make the call so many seconds from now."""
        self._move(self._clock.seconds() + secondsFromNow)

    def active(self) -> bool:
        """Return whether the call is still to come."""
        return not (self._called or self._cancelled)


@implementer(IReactorTime)
class SimClock:
    """Time that passes only when told to; calls due at the same time run in the order they were made."""

    def __init__(self) -> None:
        self._now = 0.0
        self._heap: list[_HeapItem] = []
        self._sequence = count()
        self._pending: dict[SimDelayedCall, None] = {}
        self.calls_made = 0

    def seconds(self) -> float:
        """Return the virtual time, in seconds since the start."""
        return self._now

    def at(self, when: float, function: Callable[..., object], *args: Any) -> None:
        """Call `function` at a time; it cannot be cancelled, which makes it the cheap way."""
        heapq.heappush(self._heap, (when, next(self._sequence), function, args))

    def after(self, delay_seconds: float, function: Callable[..., object], *args: Any) -> None:
        """Call `function` so many seconds from now; it cannot be cancelled."""
        heapq.heappush(self._heap, (self._now + delay_seconds, next(self._sequence), function, args))

    def callLater(  # noqa: N802
        self, delay: float, callable: Callable[..., Any], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call `callable` so many seconds from now, as `IReactorTime` says."""
        assert delay >= 0, f"{delay} seconds from now is in the past"
        call = SimDelayedCall(self, self._now + delay, callable, args, kw)
        self._pending[call] = None
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802
        """Return the calls made by `callLater` that are still to come."""
        return list(self._pending)

    def run_until(self, when: float) -> None:
        """Make every call due up to a time, then let it be that time."""
        heap = self._heap
        pop = heapq.heappop
        calls_made = 0
        try:
            while heap and heap[0][0] <= when:
                self._now, _, function, args = pop(heap)
                calls_made += 1
                function(*args)
        finally:
            self.calls_made += calls_made
        self._now = max(self._now, when)

    def make_next(self, until: float) -> bool:
        """Make the one call that is due next, if it is due by then; return whether there was one."""
        heap = self._heap
        if not heap or heap[0][0] > until:
            return False
        self._now, _, function, args = heapq.heappop(heap)
        self.calls_made += 1
        function(*args)
        return True

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.run_until(self._now + seconds)
