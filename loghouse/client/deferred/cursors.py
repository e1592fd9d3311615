"""Methods of the asyncio client that give Deferreds, and the cursors of a log made of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred

from loghouse.client.cursors import AsyncCursors

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A")


class RunOnLoop(Protocol):
    """What runs a coroutine on the client's loop."""

    def __call__(self, work: Coroutine[Any, Any, _T], size: int = 0) -> Deferred[_T]:
        """Return the coroutine's result; its arguments have so many bytes."""


class Wrapped(Protocol):
    """What has methods that give Deferreds: those of `_inner`, by `_run`."""

    _inner: Any
    _run: RunOnLoop


def deferred(
    owner: str,
    method: Callable[Concatenate[_A, _P], Coroutine[Any, Any, _T]],
    text: str,
    size: Callable[..., int] = lambda *_, **__: 0,
) -> Callable[Concatenate[Any, _P], Deferred[_T]]:
    """Return the method of the class `owner` that gives a Deferred of what one of an asyncio client returns.

    Args:
        text: Begins its docstring.
        size: Counts the bytes of the arguments.
    """

    @wraps(method)
    def start(self: Wrapped, /, *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        return self._run(method(self._inner, *args, **kwargs), size(*args, **kwargs))

    start.__qualname__ = f"{owner}.{start.__name__}"
    start.__doc__ = f"{text}; see `{method.__qualname__}`."
    return start


class DeferredCursors:
    """The cursors of a log, for Twisted programs; methods and errors are those of `AsyncCursors`."""

    def __init__(self, cursors: AsyncCursors, run: RunOnLoop) -> None:
        """Give Deferreds of what `cursors` does."""
        self.holder = cursors.holder
        self._inner = cursors
        self._run = run

    @property
    def log(self) -> str:
        """The log that keeps them; see `AsyncCursors.log`."""
        return self._inner.log

    acquire = deferred("DeferredCursors", AsyncCursors.acquire, "Have a cursor, and return it")
    advance = deferred("DeferredCursors", AsyncCursors.advance, "Move a cursor, and return it")
    renew = deferred("DeferredCursors", AsyncCursors.renew, "Begin the lease anew")
    release = deferred("DeferredCursors", AsyncCursors.release, "Let others have a cursor")
    get = deferred("DeferredCursors", AsyncCursors.get, "Return a cursor")
    list = deferred("DeferredCursors", AsyncCursors.list, "Return all cursors of the log")
    set = deferred("DeferredCursors", AsyncCursors.set, "Put a cursor somewhere")
    delete = deferred("DeferredCursors", AsyncCursors.delete, "Forget a cursor")
