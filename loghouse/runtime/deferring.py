"""Deferreds for those who want them: of what answers by calling one of two callables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

from twisted.internet.defer import Deferred

from loghouse.runtime.scheduling import Cancellable
from loghouse.runtime.threads import WorkQueue

T = TypeVar("T")

Ask: TypeAlias = Callable[[Callable[[T], object], Callable[[BaseException], object]], Cancellable | None]
"""Asks for something: calls the first with the answer, or the second with why there is none."""


def deferred(ask: Ask[T]) -> Deferred[T]:
    """Ask, and return a Deferred of the answer; cancelling drops what was asked, where `ask` says how.

    For what is asked now and then, not for every append (ADR 16).
    """

    def drop(_: Deferred[T]) -> None:
        if dropped is not None:
            dropped.cancel()

    def answered(answer: T) -> None:
        if not waiting.called:  # else it was cancelled
            waiting.callback(answer)

    def failed(error: BaseException) -> None:
        if not waiting.called:
            waiting.errback(error)

    dropped: Cancellable | None = None
    waiting: Deferred[T] = Deferred(drop)
    dropped = ask(answered, failed)
    return waiting


def run_on(queue: WorkQueue, work: Callable[[], T]) -> Deferred[T]:
    """Run `work`; the Deferred fires with what it returned or raised; cancelling ends only the wait."""
    return deferred(partial(queue.submit, work))
