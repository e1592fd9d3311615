"""Room for so many requests on one connection; whoever comes later waits, in order.

As `asyncio.Semaphore` with a timeout, for thousands who wait: each costs one future and one timer, and who
leaves hands the place to the next one without a look at the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class RequestRoom:
    """Places that are taken and given back."""

    __slots__ = ("_loop", "_waiting", "free")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()  # who waits, the first one first
        self.free = count  # places that nobody has; 0 while somebody waits

    def take(self) -> bool:
        """Take a place if there is one for who does not wait."""
        if not self.free:
            return False
        self.free -= 1
        return True

    async def wait(self, seconds: float) -> None:
        """Take a place behind those who wait.

        Raises:
            TimeoutError: There was none in so many seconds.
        """
        if self.take():
            return
        place = self._loop.create_future()
        self._waiting.append(place)
        alarm = self._loop.call_later(seconds, _give_up, place)
        try:
            await place
        except (asyncio.CancelledError, TimeoutError):
            if place.done() and not place.cancelled() and place.exception() is None:
                self.give_back()  # it came in the turn in which its taker was cancelled
            else:
                with suppress(ValueError):  # passed over already
                    self._waiting.remove(place)
            raise
        finally:
            alarm.cancel()

    def give_back(self) -> None:
        """Give a place to the next who waits, or to whoever comes."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.free += 1


def _give_up(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_exception(TimeoutError())
