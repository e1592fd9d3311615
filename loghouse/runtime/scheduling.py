"""Words for what happens later: at the end of a turn of the reactor, or after some seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from twisted.internet.interfaces import IReactorTime


class Cancellable(Protocol):
    """Work that was not done yet."""

    def cancel(self) -> object:
        """Do not do it."""


Soon: TypeAlias = Callable[[Callable[[], None]], Cancellable]
"""Runs work at the end of this turn of the reactor."""

Later: TypeAlias = Callable[[float, Callable[[], None]], Cancellable]
"""Runs work after so many seconds."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time, injected.

    `scheduler` is for what happens later, `later` (seconds, work) the shorter way for what every append asks
    for, `soon` runs work at the end of this turn of the reactor, `wall` is for timestamps, `monotonic` for
    age; both in seconds.
    """

    scheduler: IReactorTime
    soon: Callable[[Callable[[], None]], object]
    later: Later
    wall: Callable[[], float]
    monotonic: Callable[[], float]
