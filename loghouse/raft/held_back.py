"""Which batch of a producer was refused because a bound was reached.

A producer has many batches on their way. When one is held back, those behind it must be held back, too: they
leave a gap that their producer did not make.
"""

from __future__ import annotations

from math import inf

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import PRODUCERS_MAX


class HeldBack:
    """The batch held back last, of each producer."""

    def __init__(self) -> None:
        self._sequences: dict[int, tuple[int, float]] = {}

    def note(self, producer_id: int, sequence: int, until: float = inf) -> None:
        """Remember, up to a time, that this batch, the producer's next one, was held back."""
        self._sequences.pop(producer_id, None)
        self._sequences[producer_id] = sequence, until
        if len(self._sequences) > PRODUCERS_MAX:
            del self._sequences[next(iter(self._sequences))]

    def forget(self, producer_id: int) -> None:
        """Nothing of this producer is held back any more."""
        self._sequences.pop(producer_id, None)

    def sequence_of(self, producer_id: int, now: float = 0.0) -> int | None:
        """Return which batch of the producer was held back; None when none was, or that is too long ago."""
        sequence, until = self._sequences.get(producer_id, (None, 0.0))
        return sequence if now < until else None


def held_back_error(producer_id: int, sequence: int) -> ResourceExhaustedError:
    """Return the refusal of a batch behind one that was held back."""
    return ResourceExhaustedError(
        f"producer {producer_id}", f"its batch {sequence} was held back; send it again, and then this one"
    )
