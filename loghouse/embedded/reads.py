"""Reading an embedded log, whoever writes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import datetime
from typing import Final, Unpack

from loghouse.client.choice import Choice, PageOptions, ReadOptions, Trust, choice_of
from loghouse.client.fields import flag_of, integer_of
from loghouse.client.pages import RecordPage, decoded, in_order
from loghouse.client.records import Batch, Bounds, Record, batches_in
from loghouse.client.starts import Start, start_of
from loghouse.errors import InvalidRequestError, OffsetOutOfRangeError
from loghouse.limits import KIB, UINT32_MAX, UINT64_MAX
from loghouse.protocol.entry import checked_entries
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.storage.reading import ReadableLog

READ_SIZE_MAX: Final = 512 * KIB
"""Bytes taken from the files at once (a larger entry comes whole): they fit the processor's cache."""


class EmbeddedReads(ABC):
    """Methods of `loghouse.client.Client` that read."""

    # --- reading --------------------------------------------------------------------------

    def read(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> Iterator[Record]:
        """Yield records from `from_` on, up to where the log ends now, or for ever with `follow`.

            for record in log.read("earliest"):
                print(record.offset, record.value)
            for record in log.read(reverse=True, limit=10, key=b"sensor-7"):
                ...  # its last ten records, the last one first

        Args:
            from_: An offset, "earliest", "latest" (the next record to be appended), or a datetime: the first
                record appended then or later.
            options: See `loghouse.client.ReadOptions`. Here "local" and "confirmed" mean the same.

        Raises:
            OffsetOutOfRangeError: `from_` is below the lowest offset held, or (without `follow`) beyond the
                next one; or the reader was so slow that its next record has been trimmed.
            DamageError: The disk does not give back what was written.
            ClosedError: The log was closed meanwhile.
        """
        is_reverse = bool(options.get("reverse"))
        for batch in self.read_batches(from_, **options):
            yield from in_order(batch, is_reverse)

    def read_batches(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> Iterator[Batch]:
        """As `read`, whole batches at a time: several times as fast.

        With `reverse` the last batch comes first, and a batch has its records in the order of the log.
        """
        choice = choice_of(**options)
        offset, end = self.offsets_of(from_, choice)
        if not choice.is_plain:
            yield from self._batches_of(offset, end, choice)
            return
        while end is None or offset < end:
            frames, next_offset = self.fetch(offset)
            if next_offset == offset:
                self.wait_for(offset)
                continue
            yield from batches_in(checked_entries(frames), offset, next_offset, end)
            offset = next_offset

    def _batches_of(self, offset: int, end: int | None, choice: Choice) -> Iterator[Batch]:
        wanted: RecordRange | None = choice.range(offset, UINT64_MAX if end is None else end)
        while wanted is not None and wanted.first < wanted.end:
            if choice.follow:
                self.wait_for(wanted.first)
            answer = self.read_range(wanted)
            batches, wanted = decoded_range(wanted, answer)
            yield from batches

    def newest(self, count: int, **options: Unpack[PageOptions]) -> list[Record]:
        """Return the last `count` records in the order of the log; see `AsyncLog.newest`."""
        count = integer_of("count", count, lowest=1, highest=UINT32_MAX)
        return [*self.read(limit=count, reverse=True, **options)][::-1]

    def read_page(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> RecordPage:
        """Return some of what `read` would yield, and where to go on; see `AsyncLog.read_page`."""
        choice = choice_of(**options)
        if choice.follow:
            raise InvalidRequestError("follow", "goes with read; a page is what there is now")
        offset, end = self.offsets_of(from_, choice)
        wanted = choice.range(offset, UINT64_MAX if end is None else end)
        answer = self.read_range(wanted)
        batches, _ = decoded_range(wanted, answer)
        return RecordPage(
            batches=list(batches),
            next_offset=answer.next_offset,
            bounds=Bounds(answer.lowest, answer.committed),
            is_confirmed=True,
            is_reverse=choice.is_reverse,
        )

    def offsets_of(self, from_: Start, choice: Choice) -> tuple[int, int | None]:
        """Return what `find_range` does, up to where the choice ends."""
        offset, end = self.find_range(from_, follow=choice.follow)
        until = choice.until
        if isinstance(until, datetime):
            until = self.find_offset(until)
        limit = offset + choice.limit if choice.limit and choice.is_plain else None
        return offset, min((one for one in (end, until, limit) if one is not None), default=None)

    def find_range(self, from_: Start, *, follow: bool = False) -> tuple[int, int | None]:
        """Return the first offset that `read` would give, and the first it would not: None with `follow`.

        Raises:
            InvalidRequestError: `from_` is nothing to begin at.
            OffsetOutOfRangeError: Without `follow`: it is beyond the next offset.
        """
        from_, follow = start_of(from_), flag_of("follow", follow)
        bounds = self.bounds()
        end = None if follow else bounds.next_offset
        if isinstance(from_, datetime):
            return self.find_offset(from_), end
        if not isinstance(from_, int):
            return (bounds.lowest if from_ == "earliest" else bounds.next_offset), end
        if from_ > bounds.next_offset and not follow:
            raise OffsetOutOfRangeError(from_, *bounds)
        return from_, end

    @abstractmethod
    def fetch(self, offset: int) -> tuple[bytes, int]:
        """Return whole entry frames from `offset` on, and where to go on; nothing at the log's end.

        Raises:
            OffsetOutOfRangeError: It is below the lowest offset held.
            DamageError: The disk does not give back what was written.
        """

    @abstractmethod
    def read_range(self, wanted: RecordRange) -> ReadPage:
        """Return some of a range.

        Raises:
            OffsetOutOfRangeError: It begins below the lowest offset held, or beyond the next one.
            DamageError: The disk does not give back what was written.
        """

    @abstractmethod
    def wait_for(self, offset: int) -> None:
        """Return once the record at `offset` is readable.

        Raises:
            ClosedError: The log was closed meanwhile.
        """

    @abstractmethod
    def bounds(self, *, consistency: Trust = "confirmed", timeout_seconds: float | None = None) -> Bounds:
        """Return the offsets that the log holds; `consistency` makes no difference."""

    @abstractmethod
    def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset appended at or after a time, or else the next offset.

        Args:
            time: A datetime, or microseconds since the epoch.
        """


def decoded_range(wanted: RecordRange, answer: ReadPage) -> tuple[Iterator[Batch], RecordRange | None]:
    """Return the batches of an answer, and what is left of the range behind it; None: nothing."""
    matcher = None
    if wanted.filter:
        from loghouse.protocol.record_matching import Matcher  # protobuf is slow to import

        matcher = Matcher(wanted.filter)
    batches, count = decoded(checked_entries(answer.frames), wanted, answer, matcher)
    return batches, wanted.rest(answer.next_offset, count)


def scanned(log: ReadableLog, wanted: RecordRange, lowest: int, committed: int, high_index: int) -> ReadPage:
    """Read some of a range of a log with these bounds; raises as `EmbeddedReads.read_range`."""
    from loghouse.storage.range_scan import RangeScan  # as above

    found = RangeScan(log, wanted, *wanted.window(lowest, committed), high_index).run()
    return ReadPage(
        frames=found.frames,
        next_offset=found.next_offset,
        lowest=lowest,
        committed=committed,
        is_confirmed=True,
    )
