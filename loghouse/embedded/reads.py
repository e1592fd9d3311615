"""Reading an embedded log, whoever writes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from loghouse.client.fields import flag_of, seconds_of
from loghouse.client.records import Batch, Bounds, Record, batches_in
from loghouse.client.starts import Start, start_of
from loghouse.errors import OffsetOutOfRangeError
from loghouse.limits import KIB
from loghouse.protocol.entry import checked_entries

READ_SIZE_MAX: Final = 512 * KIB
"""Bytes taken from the files at once (a larger entry comes whole): they fit the processor's cache."""


class EmbeddedReads(ABC):
    """Methods of `loghouse.client.Client` that read."""

    # --- reading --------------------------------------------------------------------------

    def read(
        self, from_: Start = "earliest", *, follow: bool = False, timeout_seconds: float | None = None
    ) -> Iterator[Record]:
        """Yield records from `from_` on, up to where the log ends now, or for ever with `follow`.

            for record in log.read("earliest"):
                print(record.offset, record.value)

        Args:
            from_: An offset, "earliest", "latest" (the next record to be appended), or a datetime: the first
                record appended then or later.

        Raises:
            OffsetOutOfRangeError: `from_` is below the lowest offset held, or (without `follow`) beyond the
                next one; or the reader was so slow that its next record has been trimmed.
            DamageError: The disk does not give back what was written.
            ClosedError: The log was closed meanwhile.
        """
        for batch in self.read_batches(from_, follow=follow, timeout_seconds=timeout_seconds):
            yield from batch

    def read_batches(
        self, from_: Start = "earliest", *, follow: bool = False, timeout_seconds: float | None = None
    ) -> Iterator[Batch]:
        """As `read`, whole batches at a time: several times as fast."""
        if timeout_seconds is not None:
            seconds_of(timeout_seconds)
        offset, end = self.find_range(from_, follow=follow)
        while end is None or offset < end:
            frames, next_offset = self.fetch(offset)
            if next_offset == offset:
                self.wait_for(offset)
                continue
            yield from batches_in(checked_entries(frames), offset, next_offset, end)
            offset = next_offset

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
    def wait_for(self, offset: int) -> None:
        """Return once the record at `offset` is readable.

        Raises:
            ClosedError: The log was closed meanwhile.
        """

    @abstractmethod
    def bounds(self, *, timeout_seconds: float | None = None) -> Bounds:
        """Return the offsets that the log holds."""

    @abstractmethod
    def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset appended at or after a time, or else the next offset.

        Args:
            time: A datetime, or microseconds since the epoch.
        """
