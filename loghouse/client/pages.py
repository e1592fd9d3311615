"""Answers to reads of a range, as a client has them: checked, and only the records that were wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loghouse.client.records import Batch, Bounds, PickedBatch, Record, batch_of, unpacked_entry
from loghouse.errors import ProtocolError
from loghouse.protocol.entry import Entry, EntryKind
from loghouse.protocol.record_range import ReadPage, RecordRange

if TYPE_CHECKING:
    from loghouse.protocol.record_matching import Matcher


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    """Some records of a range, and how far it was looked through. See `AsyncLog.read_page`.

    Attributes:
        batches: The batches with wanted records, and of them only those; read backwards, the last one first.
        next_offset: Where to go on: the next `from_`, or read backwards the next `until`.
        bounds: The offsets that the replica that answered knows to be readable.
        is_confirmed: Whether the leader confirmed that there were no more. If not, these may be old.
        is_reverse: Whether it was read backwards.
    """

    batches: list[Batch]
    next_offset: int
    bounds: Bounds
    is_confirmed: bool
    is_reverse: bool

    @property
    def records(self) -> list[Record]:
        """All records, in the order in which they were asked for."""
        return [record for batch in self.batches for record in in_order(batch, self.is_reverse)]


def in_order(batch: Batch, is_reverse: bool) -> Iterable[Record]:
    """Return the records of a batch, the last one first when it is read backwards."""
    return list(batch)[::-1] if is_reverse else batch


def batches_in_range(
    entries: Iterable[Entry], wanted: RecordRange, next_offset: int, committed: int, matcher: Matcher | None
) -> Iterator[Batch]:
    """Yield the batches of an answer with the records that were wanted, in the order in which they were.

    Args:
        entries: Of the answer, in the order of the log.
        next_offset: Where the answer says to go on.
        committed: The offset behind the last that whoever answered knows to be readable.
        matcher: For the range's filter; None when it has none.

    Raises:
        InvalidRequestError: A payload is no batch, or unpacks to too much.
        ProtocolError: Records are missing, or the answer goes on where it cannot.
    """
    is_reverse = wanted.is_reverse
    if is_reverse:
        entries = reversed(list(entries))
        low, high = next_offset, min(wanted.end, committed)
    else:
        low, high = wanted.first, next_offset
    if not min(wanted.first, high) <= next_offset <= wanted.end or low > high:
        raise ProtocolError(f"the server goes on at offset {next_offset}, outside of what was asked for")
    place = high if is_reverse else low  # where the next record belongs, when none may be left out
    for entry in entries:
        first, last = max(low, entry.base_offset), min(high, entry.next_offset)
        if entry.kind != EntryKind.RECORDS or first >= last:
            continue
        if matcher is not None:
            picked = _picked(entry, first, last, matcher)
            if picked is not None:
                yield picked
            continue
        found = last if is_reverse else first
        if found != place:
            raise ProtocolError(f"the server sent offset {found} where {place} belongs")
        place = first if is_reverse else last
        yield batch_of(entry, first, last)
    if matcher is None and place != next_offset:
        raise ProtocolError(f"the server's frames end at offset {place}, but it said {next_offset}")


def _picked(entry: Entry, first: int, last: int, matcher: Matcher) -> Batch | None:
    """Return the records of an entry that are wanted, None when none is."""
    unpacked = unpacked_entry(entry)
    if not matcher.may_be_in(unpacked):
        return None
    return PickedBatch.of(entry, unpacked, first, last, matcher.places)


def begin_of(wanted: RecordRange, answer: ReadPage) -> int:
    """Return where a range began, as far as whoever answered knows."""
    return min(wanted.end, answer.committed) if wanted.is_reverse else wanted.first


def decoded(
    entries: Iterable[Entry], wanted: RecordRange, answer: ReadPage, matcher: Matcher | None
) -> tuple[Iterator[Batch], int]:
    """Return the batches of an answer, and how many wanted records they have, where that matters.

    They are decoded as they are taken, unless it is to be known at once how many records there are.

    Raises:
        As `batches_in_range`, at once or while the batches are taken.
    """
    batches = batches_in_range(entries, wanted, answer.next_offset, answer.committed, matcher)
    if matcher is None or not wanted.count_max:
        return batches, abs(answer.next_offset - begin_of(wanted, answer))
    kept: list[Batch] = []
    left = wanted.count_max
    for batch in batches:
        if len(batch) > left:
            batch = batch.last_of(left) if wanted.is_reverse else batch.first_of(left)
        if len(batch):
            kept.append(batch)
            left -= len(batch)
    return iter(kept), wanted.count_max - left
