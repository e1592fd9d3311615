"""What a read asks for: bounds, direction, how many, and what an answer leaves of it."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import InvalidRequestError, OffsetOutOfRangeError, UnavailableError
from loghouse.limits import READ_WAIT_MILLISECONDS_MAX, UINT64_MAX
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import Consistency, RecordRange

LOWEST, NEXT = 10, 20
KEYED = RecordFilter(keys=(b"k",))


def window(**fields):
    return RecordRange(**fields).window(LOWEST, NEXT)


class WindowTests(SynchronousTestCase):
    """What there is of a range in a log with records from 10 to 19."""

    def test_forwards(self):
        """It is cut at the log's end, and must begin where there are records, or at the next."""
        for first, end, found in (
            (10, UINT64_MAX, (10, 20)),
            (12, 15, (12, 15)),
            (12, 30, (12, 20)),
            (12, 12, (12, 12)),
            (20, UINT64_MAX, (20, 20)),
            (20, 30, (20, 20)),
        ):
            self.assertEqual(window(first=first, end=end), found)
        for first in (0, 9, 21):
            error = self.assertRaises(OffsetOutOfRangeError, window, first=first)
            self.assertEqual((error.offset, error.lowest, error.next_offset), (first, LOWEST, NEXT))

    def test_backwards(self):
        """It is cut at both ends of the log, but may not begin at what is trimmed."""
        for first, end, found in (
            (0, UINT64_MAX, (10, 20)),
            (12, 15, (12, 15)),
            (0, 11, (10, 11)),
            (15, 30, (15, 20)),
            (30, 40, (20, 20)),
            (UINT64_MAX, UINT64_MAX, (20, 20)),
            (5, 5, (5, 5)),
        ):
            self.assertEqual(window(first=first, end=end, is_reverse=True), found)
        for end in (1, 10):
            error = self.assertRaises(OffsetOutOfRangeError, window, end=end, is_reverse=True)
            self.assertEqual((error.offset, error.lowest, error.next_offset), (end - 1, LOWEST, NEXT))

    def test_count(self):
        """No more than are wanted, from where the reader begins; of some by a filter nobody knows where."""
        for is_reverse, count, found in ((False, 3, (12, 15)), (True, 3, (15, 18)), (True, 99, (12, 18))):
            fields = {"first": 12, "end": 18, "is_reverse": is_reverse, "count_max": count}
            self.assertEqual(window(**fields), found)
            self.assertEqual(window(**fields, filter=KEYED), (12, 18))

    def test_local(self):
        """Nobody knows whether there is what this replica does not have: another one may."""
        local = {"consistency": Consistency.LOCAL}
        self.assertEqual(window(first=20, **local), (20, 20))
        self.assertEqual(window(is_reverse=True, **local), (10, 20))
        self.assertEqual(window(end=20, is_reverse=True, **local), (10, 20))
        for fields in ({"first": 21}, {"end": 21, "is_reverse": True}):
            error = self.assertRaises(UnavailableError, window, **fields, **local)
            self.assertIn("below offset 20, not yet those up to 21", str(error))
        self.assertRaises(OffsetOutOfRangeError, window, first=9, **local)

    def test_waiting(self):
        """Whoever waits for a record that is still to come gets none, and no error."""
        for consistency in Consistency:
            wanted = {"first": 25, "wait_milliseconds": 1, "consistency": consistency}
            self.assertEqual(window(**wanted), (25, 25))

    def test_hit(self):
        """Nobody is asked where the log holds the record that comes first."""
        for fields, is_hit in (
            ({"first": 9}, False),
            ({"first": 10}, True),
            ({"first": 19, "end": 99}, True),
            ({"first": 20}, False),
            ({"end": 10, "is_reverse": True}, False),
            ({"end": 11, "is_reverse": True}, True),
            ({"end": 20, "is_reverse": True}, True),
            ({"end": 21, "is_reverse": True}, False),
            ({"is_reverse": True}, False),
        ):
            self.assertEqual(RecordRange(**fields).is_hit(LOWEST, NEXT), is_hit, fields)


class RestTests(SynchronousTestCase):
    """What is left behind an answer."""

    def test_goes_on(self):
        """The side that was read moves, and what came is wanted no more."""
        wanted = RecordRange(first=10, end=20, count_max=5)
        rest = wanted.rest(13, 2)
        self.assertEqual((rest.first, rest.end, rest.count_max), (13, 20, 3))
        rest = RecordRange(first=10, end=20, is_reverse=True).rest(17, 3)
        self.assertEqual((rest.first, rest.end, rest.count_max), (10, 17, 0))

    def test_is_over(self):
        """Nothing is left at the other side, nor behind the last record that is wanted."""
        for fields, next_offset, count in (
            ({}, 20, 0),
            ({"is_reverse": True}, 10, 0),
            ({"is_reverse": True}, 9, 0),
            ({"count_max": 2}, 15, 2),
        ):
            wanted = RecordRange(first=10, end=20, **fields)
            self.assertIsNone(wanted.rest(next_offset, count), fields)


class CheckTests(SynchronousTestCase):
    """What cannot be meant."""

    def test_taken(self):
        """Bounds at their ends."""
        RecordRange(first=5, end=5).check()
        RecordRange(wait_milliseconds=READ_WAIT_MILLISECONDS_MAX).check()

    def test_refused(self):
        """Each by the name of its field."""
        for fields, field in (
            ({"first": 6, "end": 5}, "end"),
            ({"consistency": 2}, "consistency"),
            ({"wait_milliseconds": READ_WAIT_MILLISECONDS_MAX + 1}, "wait_milliseconds"),
            ({"wait_milliseconds": 1, "is_reverse": True}, "wait_milliseconds"),
            ({"filter": RecordFilter(keys=(b"",) * 17)}, "filter"),
        ):
            error = self.assertRaises(InvalidRequestError, RecordRange(**fields).check)
            self.assertEqual(error.field, field)
