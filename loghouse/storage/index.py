"""The offset index of one segment: 12 bytes an entry, a cache that the store can always rebuild.

Entry *i* is Raft index base + *i*: u32 offset relative to the segment's base offset,
u64 position of the frame in the store. Read through a read-only map (or bytes),
written with pwrite.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Final

from loghouse.limits import INDEX_ENTRY_SIZE
from loghouse.storage.files import Mapping

INDEX_ENTRY: Final = struct.Struct(">IQ")
assert INDEX_ENTRY.size == INDEX_ENTRY_SIZE
RELATIVE_OFFSET_MAX: Final = 2**32 - 1


class OffsetIndex:
    """Look-ups in the index entries of one segment; the caller bounds them by what is written.

    `numbers` below are places in the segment: Raft index minus base index. `capacity` is how many entries
    the file has room for.
    """

    __slots__ = ("_entries", "capacity")

    def __init__(self, entries: Mapping) -> None:
        self._entries = entries
        self.capacity = len(entries) // INDEX_ENTRY_SIZE

    def relative_offset(self, number: int) -> int:
        """Return the entry's base offset, relative to the segment's."""
        relative, _ = self._entry(number)
        return relative

    def position(self, number: int) -> int:
        """Return where the entry's frame starts in the store."""
        _, position = self._entry(number)
        return position

    def _entry(self, number: int) -> tuple[int, int]:
        start = number * INDEX_ENTRY_SIZE
        entry: tuple[int, int] = INDEX_ENTRY.unpack(self._entries[start : start + INDEX_ENTRY_SIZE])
        return entry

    def last_at_offset(self, relative_offset: int, count: int) -> int:
        """Return the last of the first `count` entries whose base offset is not above; -1 when none is."""
        return bisect_right(range(count), relative_offset, key=self.relative_offset) - 1

    def last_ending_by(self, position: int, low: int, high: int, *, likely: int = 0) -> int:
        """Return the last place in [low, high) that starts at or before `position` (low - 1 when none).

        `likely` is looked at first: with entries of one size, whoever reads knows.
        """
        if low <= likely < high - 1 and self.position(likely) <= position < self.position(likely + 1):
            return likely
        step = 1
        # Reads are short: gallop from `low` instead of halving the whole segment.
        while low + step < high and self.position(low + step) <= position:
            step *= 2
        top = min(low + step, high)
        bottom = low + step // 2 if step > 1 else low
        return bisect_right(range(bottom, top), position, key=self.position) - 1 + bottom
