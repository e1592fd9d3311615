"""The two bridges between Twisted and asyncio; nothing else mixes the worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred

from loghouse.runtime.scheduling import Later, Soon

T = TypeVar("T")


def from_asyncio(work: Awaitable[T]) -> Deferred[T]:
    """Give Twisted code a Deferred for asyncio work such as `server.stop()`; cancelling it cancels the work.

    Works before the reactor runs, too: the work then starts with it.
    """
    return Deferred.fromFuture(asyncio.ensure_future(work, loop=_loop(work)))


def to_asyncio(work: Deferred[T]) -> asyncio.Future[T]:
    """Let a gRPC servicer await a Deferred; cancelling the future cancels the Deferred."""
    return work.asFuture(asyncio.get_running_loop())


# Twisted's callLater and callFromThread go through its timer queue: a turn and about 30 us each, and an
# append takes all three ways, some of them several times.


def soon() -> Soon:
    """Return what runs work at the end of this turn of the loop; its handle can cancel it."""
    return asyncio.get_event_loop().call_soon


def soon_of(reactor: Any) -> Soon | None:
    """Return what runs work at the end of a turn of this reactor; None unless it runs on an asyncio loop."""
    if not isinstance(reactor, AsyncioSelectorReactor):
        return None
    return lambda work: asyncio.get_running_loop().call_soon(work)


def later() -> Later:
    """Return what runs work after so many seconds; its handle can cancel it."""
    return asyncio.get_event_loop().call_later


def call_from_thread() -> Callable[[Callable[[], None]], object]:
    """Return what other threads call to have work done on the reactor's thread."""
    return asyncio.get_event_loop().call_soon_threadsafe


def _loop(work: Awaitable[T]) -> asyncio.AbstractEventLoop | None:
    # A future knows its loop; a coroutine needs the one the reactor was installed on.
    return None if asyncio.isfuture(work) else asyncio.get_event_loop()
