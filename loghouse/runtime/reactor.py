"""Install the asyncio reactor, once, on uvloop where it exists, with timers that no wall clock moves.

Imported before anything that imports `twisted.internet.reactor`.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple, cast

from twisted.internet import asyncioreactor
from twisted.python.log import callWithLogger

from loghouse.errors import ReactorError

Ts = TypeVarTuple("Ts")


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()

    class Loop(uvloop.Loop):
        """uvloop, for Twisted on top of it."""

        def add_reader(self, fd: Any, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
            # Twisted reads every socket within a logging context, a dozen calls more for each read. Only its
            # old log, which nobody here writes to, looks at that.
            if callback is callWithLogger:
                _, read, *rest = cast("tuple[Any, ...]", args)
                super().add_reader(fd, read, *rest)  # its `_readOrWrite`, which catches what is raised
            else:
                super().add_reader(fd, callback, *args)

        def call_later(
            self,
            delay: float,
            callback: Callable[[*Ts], object],
            *args: *Ts,
            context: Context | None = None,
        ) -> asyncio.TimerHandle:
            # Rounded up to its clock's milliseconds. uvloop rounds to the nearest, so half of all timers come
            # early. Twisted then finds nothing due and asks for the rest of the time, which is rounded to
            # nothing: it would ask again and again until the time has come, and use up a core meanwhile.
            return super().call_later(math.ceil(delay * 1000) / 1000, callback, *args, context=context)

    return Loop()


def install() -> None:
    """Install the asyncio reactor, or say why we cannot.

    Raises:
        ReactorError: Another reactor is already there.
    """
    if "twisted.internet.reactor" not in sys.modules:
        loop = _new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)
    from twisted.internet import reactor

    if not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise ReactorError(
            f"loghouse needs the asyncio reactor, found {type(reactor).__name__}; leave --reactor out"
        )
    if "seconds" not in vars(reactor):
        _leave_the_wall_clock(reactor)


def _leave_the_wall_clock(reactor: Any) -> None:
    """Let the reactor count seconds since the epoch by the monotonic clock, from its wall clock's time now.

    Twisted's own clock is `time.time`: when that steps back an hour, whatever waits in `callLater` (ticks,
    elections, timeouts, every LoopingCall) waits an hour longer. Calls that wait already stay right.
    """
    start = time.time() - time.monotonic()
    reactor.seconds = lambda: start + time.monotonic()
