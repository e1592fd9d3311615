"""The two bridges between Twisted and asyncio; nothing else mixes the worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def from_asyncio(work: Awaitable[T]) -> Deferred[T]:
    """Give Twisted code a Deferred for asyncio work such as `server.stop()`; cancelling it cancels the work.

    Works before the reactor runs, too: the work then starts with it.
    """
    return Deferred.fromFuture(asyncio.ensure_future(work, loop=_loop(work)))


def to_asyncio(work: Deferred[T]) -> asyncio.Future[T]:
    """Let a gRPC servicer await a Deferred; cancelling the future cancels the Deferred."""
    return work.asFuture(asyncio.get_running_loop())


def _loop(work: Awaitable[T]) -> asyncio.AbstractEventLoop | None:
    # A future knows its loop; a coroutine needs the one the reactor was installed on.
    return None if asyncio.isfuture(work) else asyncio.get_event_loop()
