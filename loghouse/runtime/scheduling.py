"""Words for what happens later: at the end of a turn of the reactor, or after some seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias


class Cancellable(Protocol):
    """Work that was not done yet."""

    def cancel(self) -> object:
        """Do not do it."""


Soon: TypeAlias = Callable[[Callable[[], None]], Cancellable]
"""Runs work at the end of this turn of the reactor."""

Later: TypeAlias = Callable[[float, Callable[[], None]], Cancellable]
"""Runs work after so many seconds."""
