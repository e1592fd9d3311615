"""What may be asked of one log: an append and its outcome, a read and what it gives.

Offsets count records from 0 and have no gaps. Times are microseconds since the epoch, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from loghouse.protocol.entry import Buffer
from loghouse.raft.ready import Proposal as Proposal
from loghouse.raft.ready import Ticket
from loghouse.runtime.scheduling import Cancellable


@dataclass(slots=True, kw_only=True)  # made for every append: not frozen
class Appended:
    """Where a proposal went; it is durable. Its records got `base_offset` and the offsets behind it."""

    base_offset: int
    record_count: int
    timestamp: int
    index: int
    term: int

    @classmethod
    def by(cls, ticket: Ticket, timestamp: int) -> Appended:
        """Return the outcome of a proposal that is committed where its ticket says."""
        return cls(
            base_offset=ticket.base_offset,
            record_count=ticket.record_count,
            timestamp=timestamp,
            index=ticket.index,
            term=ticket.term,
        )


OnAppended: TypeAlias = Callable[[Appended], object]
OnFailed: TypeAlias = Callable[[BaseException], object]


Propose: TypeAlias = Callable[[Proposal, OnAppended, OnFailed], Cancellable | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Whole entry frames, checked, one after the other; the first records entry holds the asked offset.

    `next_offset` is the offset of the first record behind them: where to go on.
    """

    frames: Buffer
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBounds:
    """`lowest` is the first readable offset, `next_offset` the next to be given out; equal: no records."""

    lowest: int
    next_offset: int
