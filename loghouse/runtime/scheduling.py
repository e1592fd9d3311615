"""Words for what happens later: at the end of a turn of the reactor, or after some seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Cancellable(Protocol):
    """Work that was not done yet."""

    def cancel(self) -> object:
        """Do not do it."""


class Scheduler(Protocol):
    """What `IReactorTime` has that a replica needs."""

    def seconds(self) -> float:
        """A time that only rises."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> Any:  # noqa: N802
        """Call something after so many seconds; returns what can be cancelled."""


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
