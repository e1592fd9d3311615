"""What retention would trim."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.configuration import Retention
from loghouse.replica.retention import (
    CLOCK_DRIFT_MAX_SECONDS,
    MICROSECONDS,
    AgeClock,
    trim_offset,
)
from loghouse.storage.reading import SealedSegment

DAY = 86_400
YEAR = 365 * DAY


def span(number: int, *, size: int = 100, age_seconds: float = 0) -> SealedSegment:
    """A sealed segment of ten records, the `number`-th, whose newest entry was appended at `age_seconds`."""
    newest = int(age_seconds * MICROSECONDS)
    return SealedSegment(number + 1, 10 * number, 10 * (number + 1), size, newest)


class TrimOffsetTests(SynchronousTestCase):
    """`trim_offset` gives up whole sealed segments, oldest first."""

    def test_size_rows(self):
        """By bytes, as many segments go as bring the log under the bound; the active one stays."""
        spans = [span(0), span(1), span(2)]
        for name, size_max, expected in [
            ("no bound", 0, None),
            ("room left", 400, None),
            ("one byte over", 349, 10),
            ("two segments over", 200, 20),
            ("smaller than the active one", 10, 30),
        ]:
            lowest = trim_offset(Retention(size_max=size_max), spans, 50, None)
            self.assertEqual(lowest, expected, name)

    def test_age_rows(self):
        """By age, a segment goes once its newest entry is older than the bound."""
        spans = [span(0, age_seconds=100), span(1, age_seconds=200), span(2, age_seconds=300)]
        for name, now, expected in [
            ("nothing old", 1000, None),
            ("exactly as old as allowed", 1100, None),
            ("the first is older", 1101, 10),
            ("all sealed are older", 9999, 30),
        ]:
            lowest = trim_offset(Retention(age_max_seconds=1000), spans, 50, now * MICROSECONDS)
            self.assertEqual(lowest, expected, name)

    def test_age_paused(self):
        """While the age clock is paused, nothing goes by age, and size still works."""
        spans = [span(0, age_seconds=1)]
        self.assertIsNone(trim_offset(Retention(age_max_seconds=1), spans, 0, None))
        self.assertEqual(trim_offset(Retention(age_max_seconds=1, size_max=10), spans, 0, None), 10)

    def test_young_behind_old_stays(self):
        """A young segment stops the trim: offsets have no holes."""
        spans = [span(0, age_seconds=500), span(1, age_seconds=100)]
        self.assertIsNone(trim_offset(Retention(age_max_seconds=100), spans, 0, 550 * MICROSECONDS))


class AgeClockTests(SynchronousTestCase):
    """The age clock never believes a jump."""

    def test_start_up_one_year_ahead(self):
        """A start-up that meets a clock one year ahead sees the newest record as new."""
        newest = 1_000_000
        clock = AgeClock(newest * MICROSECONDS, wall=newest + YEAR, monotonic=5.0)
        now = clock.now(newest + YEAR + 1, 6.0)
        self.assertEqual(now, (newest + 1) * MICROSECONDS)
        spans = [span(0, age_seconds=newest - DAY)]
        self.assertIsNone(trim_offset(Retention(age_max_seconds=7 * DAY), spans, 0, now))

    def test_clock_behind_the_log(self):
        """A wall clock behind the newest record is the one believed: it ages less."""
        clock = AgeClock(2000 * MICROSECONDS, wall=1000, monotonic=0)
        self.assertEqual(clock.now(1010, 10), 1010 * MICROSECONDS)

    def test_empty_log(self):
        """Without records the age clock starts at the wall clock."""
        self.assertEqual(AgeClock(0, wall=50, monotonic=0).now(51, 1), 51 * MICROSECONDS)

    def test_jump_pauses_and_ends(self):
        """A jump of more than the allowed drift pauses; when the clock is back, time goes on."""
        clock = AgeClock(0, wall=1000, monotonic=0)
        for name, wall, expected in [
            ("no drift", 1100, 1100 * MICROSECONDS),
            ("as far as allowed", 1100 + CLOCK_DRIFT_MAX_SECONDS, 1100 * MICROSECONDS),
            ("forward too far", 1101 + CLOCK_DRIFT_MAX_SECONDS, None),
            ("backward too far", 1099 - CLOCK_DRIFT_MAX_SECONDS, None),
            ("back again", 1100, 1100 * MICROSECONDS),
        ]:
            self.assertEqual(clock.now(wall, 100), expected, name)
