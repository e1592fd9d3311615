"""An event loop with a clock of its own: when nothing is left to do, the clock goes on to what is due next.

What takes seconds takes no time so, and each moment is exact.
"""

import asyncio
import functools
import random
import selectors

TURNS_MAX = 100_000


class _Selector(selectors.SelectSelector):
    """Waits for nothing: it sets the clock forward."""

    now = 0.0
    turns = 0

    def select(self, timeout=None):
        self.turns += 1
        if self.turns > TURNS_MAX:
            raise AssertionError(f"no end after {TURNS_MAX} turns of the loop, at {self.now} s")
        found = super().select(0)
        if not found and timeout is None:
            raise AssertionError("everybody waits, and nothing will ever come")
        if not found:
            self.now += max(0.0, timeout)
        return found


class ClockLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that begins at 0 s; sockets may be ready, but nobody waits for them."""

    def __init__(self):
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self):
        return self._clock.now

    def restart(self):
        """Let it turn on: as many times again."""
        self._clock.turns = 0


class Whole(random.Random):
    """Chance without chance: pauses are whole, and turns begin at the first."""

    def random(self):
        return 1.0

    def randrange(self, start, stop=None, step=1):
        return 0


def timed(method):
    """Run an async test method on a loop with a clock of its own; it must leave no task behind."""

    @functools.wraps(method)
    def run(self):
        loop = self.loop = ClockLoop()
        try:
            loop.run_until_complete(method(self))
            self.assertEqual({task for task in asyncio.all_tasks(loop) if not task.done()}, set())
        finally:
            loop.restart()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return run
