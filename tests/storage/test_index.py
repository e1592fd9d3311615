"""The offset index by itself: places, and how few of them a look-up needs."""

import struct

from twisted.trial.unittest import SynchronousTestCase

from loghouse.storage.index import INDEX_ENTRY, RELATIVE_OFFSET_MAX, OffsetIndex


class Counting:
    """Index entries that count how often they are looked at."""

    def __init__(self, content):
        self.content = content
        self.looks = 0

    def __getitem__(self, where):
        self.looks += 1
        return self.content[where]

    def __len__(self):
        return len(self.content)


class IndexTests(SynchronousTestCase):
    """An entry every 100 bytes, with three records each."""

    def setUp(self):
        self.entries = Counting(b"".join(INDEX_ENTRY.pack(3 * n, 100 * n) for n in range(1000)))
        self.index = OffsetIndex(self.entries)

    def test_places(self):
        """Each place has its offset and its position."""
        self.assertEqual(self.index.capacity, 1000)
        self.assertEqual((self.index.relative_offset(7), self.index.position(7)), (21, 700))
        self.assertEqual(OffsetIndex(bytes(35)).capacity, 2)

    def test_last_at_offset(self):
        """An offset is in the last entry that does not begin behind it."""
        for offset, count, place in ((0, 9, 0), (2, 9, 0), (3, 9, 1), (99, 9, 8), (5, 0, -1), (5, 1, 0)):
            self.assertEqual(self.index.last_at_offset(offset, count), place, offset)
        shifted = OffsetIndex(INDEX_ENTRY.pack(5, 0))
        self.assertEqual(shifted.last_at_offset(4, 1), -1)

    def looks(self, *arguments, likely):
        """Return the place found, and how many were looked at."""
        self.entries.looks = 0
        return self.index.last_ending_by(*arguments, likely=likely), self.entries.looks

    def test_last_ending_by(self):
        """A position is in the last entry that does not begin behind it, wherever one begins to look."""
        for position, low, high, place in (
            (1000, 0, 1000, 10),
            (1099, 0, 1000, 10),
            (1100, 0, 1000, 11),
            (1000, 10, 1000, 10),
            (999, 10, 1000, 9),
            (1000, 0, 8, 7),
            (10**9, 3, 1000, 999),
            (500, 5, 5, 4),
            (600, 5, 6, 5),
            (0, 0, 1, 0),
        ):
            for likely in (-1, 0, 5, 9, 10, 11, 500, 999, 1000, 10**6):
                found, _ = self.looks(position, low, high, likely=likely)
                self.assertEqual(found, place, (position, low, high, likely))

    def test_likely(self):
        """A place that is guessed right costs two looks, the first and the last but one among them."""
        for place in (10, 11, 500, 998):
            self.assertEqual(self.looks(100 * place + 50, 10, 1000, likely=place), (place, 2))
            self.assertEqual(self.looks(100 * place, 10, 1000, likely=place), (place, 2))

    def test_near(self):
        """A place near the first one costs few looks, however many there are behind it."""
        for distance, most in ((0, 3), (1, 4), (3, 6), (20, 12)):
            found, looks = self.looks(100 * (10 + distance), 10, 1000, likely=0)
            self.assertEqual(found, 10 + distance)
            self.assertLessEqual(looks, most, distance)

    def test_offsets(self):
        """The largest offset, relative to its segment's, has all 32 bits."""
        packed = INDEX_ENTRY.pack(RELATIVE_OFFSET_MAX, 1)
        self.assertEqual(packed[:4], b"\xff" * 4)
        self.assertRaises(struct.error, INDEX_ENTRY.pack, RELATIVE_OFFSET_MAX + 1, 1)
