"""What a reader asks for: a range of offsets, from which end, and which of its records; and the answer. Pure.

The same records are in a range whichever way it is read. A read goes on where the last answer says: that is
the range's new beginning, or read backwards its new end. So a reader always knows where it stands, and comes
closer to the other end by each answer, also when no record in it was wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum

from loghouse.errors import InvalidRequestError, OffsetOutOfRangeError, UnavailableError
from loghouse.limits import READ_WAIT_MILLISECONDS_MAX, UINT64_MAX
from loghouse.protocol.entry import Buffer
from loghouse.protocol.record_filter import EVERYTHING, RecordFilter


class Consistency(IntEnum):
    """Whom a read asks what there is. ONLY APPEND TO THIS LIST."""

    CONFIRMED = 0
    """The leader, about what this replica does not have: it says where the log begins and ends now."""
    LOCAL = 1
    """Nobody: what this replica knows to be committed is all there is. More may be, elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRange:
    """The records from the offset `first` up to, not including, `end`; as far as there are any.

    Attributes:
        is_reverse: Whether the last ones come first.
        count_max: How many of those that `filter` takes are wanted; 0: all.
        size_max: Bytes of one answer, the first entry beyond it; 0: what the node takes.
        filter: Which of them.
        consistency: Whom to ask what there is.
        wait_milliseconds: How long to wait for the record at `first` when that is still to come. Then none is
            no error.
    """

    first: int = 0
    end: int = UINT64_MAX
    is_reverse: bool = False
    count_max: int = 0
    size_max: int = 0
    filter: RecordFilter = field(default=EVERYTHING)
    consistency: int = Consistency.CONFIRMED
    wait_milliseconds: int = 0

    def check(self) -> None:
        """Raise InvalidRequestError when it cannot be meant."""
        if self.first > self.end:
            raise InvalidRequestError("end", f"{self.end} is before the first offset, {self.first}")
        if self.consistency not in (Consistency.CONFIRMED, Consistency.LOCAL):
            raise InvalidRequestError(
                "consistency", f"{self.consistency} is unknown; allowed: 0 (confirmed), 1 (local)"
            )
        if self.wait_milliseconds > READ_WAIT_MILLISECONDS_MAX:
            raise InvalidRequestError(
                "wait_milliseconds",
                f"is {self.wait_milliseconds}; at most {READ_WAIT_MILLISECONDS_MAX} are allowed",
            )
        if self.wait_milliseconds and self.is_reverse:
            raise InvalidRequestError("wait_milliseconds", "goes with reading forwards alone")
        self.filter.check()

    @property
    def is_local(self) -> bool:
        """Whether nobody else is asked what there is."""
        return self.consistency == Consistency.LOCAL

    def is_hit(self, lowest: int, next_offset: int) -> bool:
        """Whether a log with these bounds holds where the read begins: it needs to ask nobody."""
        if self.is_reverse:
            return lowest < self.end <= next_offset
        return lowest <= self.first < next_offset

    def window(self, lowest: int, next_offset: int) -> tuple[int, int]:
        """Return the first offset of the range and the one behind its last that a log with these bounds has.

        Without a filter, no more than `count_max` of them.

        Raises:
            OffsetOutOfRangeError: It begins at records that the log has no more, or behind those to come.
            UnavailableError: It begins behind what this replica knows, and nobody else was asked.
        """
        if self.is_reverse:
            if self.is_local and next_offset < self.end < UINT64_MAX:
                raise self._behind(next_offset)
            if self.first < self.end <= lowest:
                raise OffsetOutOfRangeError(self.end - 1, lowest, next_offset)
            high = min(self.end, next_offset)
            low = min(max(self.first, lowest), high)
            if self.count_max and not self.filter:
                low = max(low, high - self.count_max)
            return low, high
        is_beyond = self.first > next_offset and not self.wait_milliseconds
        if self.first < lowest or (is_beyond and not self.is_local):
            raise OffsetOutOfRangeError(self.first, lowest, next_offset)
        if is_beyond:
            raise self._behind(next_offset)
        high = min(self.end, next_offset)
        if self.count_max and not self.filter:
            high = min(high, self.first + self.count_max)
        return self.first, max(self.first, high)

    def _behind(self, next_offset: int) -> UnavailableError:
        asked = self.end if self.is_reverse else self.first
        return UnavailableError(
            f"this replica has the records below offset {next_offset}, not yet those up to {asked}; "
            "try another node, or a confirmed read"
        )

    def rest(self, next_offset: int, count: int) -> RecordRange | None:
        """Return what is left behind an answer; None when that is nothing.

        Args:
            next_offset: Where the answer says to go on.
            count: How many wanted records it held.
        """
        is_enough = bool(self.count_max) and count >= self.count_max
        is_through = next_offset <= self.first if self.is_reverse else next_offset >= self.end
        if is_enough or is_through:
            return None
        left = self.count_max - count if self.count_max else 0
        if self.is_reverse:
            return replace(self, end=next_offset, count_max=left)
        return replace(self, first=next_offset, count_max=left)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPage:
    """What a read of a range gives: whole entry frames in the order of the log, and where to go on.

    Records between the beginning of the range (read backwards: its end) and `next_offset` were looked at.
    Frames without wanted records may be left out. `lowest` and `committed` bound what the replica that was
    read knows to be readable: the first offset, and the one behind the last. With `is_confirmed` the leader
    confirmed that there was no more; else there may be.
    """

    frames: Buffer
    next_offset: int
    lowest: int
    committed: int
    is_confirmed: bool
