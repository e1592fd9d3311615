"""Reads of a driver that wait: for their index, or until this node has got that far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loghouse.replica.api import OnFailed

# How long a confirmed read waits for its entries, in election timeouts: they may be on their way.
BEHIND_ELECTIONS_MAX: Final = 5


@dataclass(slots=True)
class PendingRead:
    """A read, and who is told the index at which it may be done, or why there is none."""

    done: Callable[[int], object]
    failed: OnFailed


@dataclass(slots=True)
class BehindRead:
    """A confirmed read that waits until this node has got as far as `index`."""

    index: int
    read: PendingRead
    ticks_left: int
