"""What the holder of a cursor asks for, step by step, and when."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.cursors import Cursor
from loghouse.client.holding import (
    RENEWALS_PER_LEASE,
    STAND_BY_SECONDS_MAX,
    STAND_BY_SECONDS_MIN,
    HeldCursor,
    Step,
    stand_by_seconds,
)
from loghouse.errors import CursorHeldError, InvalidRequestError
from loghouse.limits import CONSUMER_BUFFER_SIZE, CONSUMER_STEP_SIZE, RECORDS_PER_BATCH_MAX

LEASE = 6.0
THIRD = LEASE / RENEWALS_PER_LEASE
COMMIT = 1.0


def cursor(position=10, lease_seconds=LEASE):
    return Cursor("billing", position, 7, "me", "root", lease_seconds, lease_seconds)


class HoldingCase(SynchronousTestCase):
    """A cursor at 10, acquired at 100 s; `hold` makes another one."""

    def setUp(self):
        self.held = self.hold()

    def hold(self, commit_records=0):
        return HeldCursor(cursor(), commit_seconds=COMMIT, commit_records=commit_records, now=100.0)


class StepTests(HoldingCase):
    """Which step comes next."""

    def test_same_again(self):
        """A step is asked for again as it was until it is answered, whatever is done meanwhile."""
        self.held.emit(b"abc", 1, 11)
        step = self.held.next_step(100.0)
        self.assertEqual(step, Step(11, b"abc", 1))
        self.held.emit(b"de", 2, 12)
        self.held.done(20, 100.0)
        self.assertIs(self.held.next_step(105.0), step)
        self.assertEqual((self.held.due_at(105.0), self.held.committed), (105.0, 10))
        self.held.succeeded(105.0)
        self.assertEqual(self.held.next_step(105.0), Step(12, b"de", 2))

    def test_outputs_first(self):
        """A position is not committed before the records that were made of what lies before it."""
        self.held.emit(b"abc", 1, 11)
        self.held.done(15, 100.0)
        self.held.hurry(100.0)
        self.assertEqual(self.held.next_step(100.0), Step(11, b"abc", 1))
        self.held.succeeded(100.0)
        self.assertEqual((self.held.committed, self.held.is_settled), (11, False))
        self.assertEqual(self.held.next_step(100.0), Step(15))
        self.held.succeeded(100.0)
        self.assertEqual((self.held.committed, self.held.is_settled), (15, True))

    def test_done_meanwhile(self):
        """What is done while a step is under way is not committed by it."""
        self.held.done(11, 100.0)
        self.held.hurry(100.0)
        self.assertEqual(self.held.next_step(100.0), Step(11))
        self.held.done(12, 100.0)
        self.held.succeeded(100.0)
        self.assertEqual((self.held.committed, self.held.position, self.held.is_settled), (11, 12, False))

    def test_under_way(self):
        """As long as a renewal is not answered, not everything is settled."""
        self.assertTrue(self.held.is_settled)
        self.assertEqual(self.held.next_step(100.0 + THIRD), Step(None))
        self.assertFalse(self.held.is_settled)
        self.held.succeeded(100.0 + THIRD)
        self.assertTrue(self.held.is_settled)

    def test_together(self):
        """Records of several emits are appended together, with the position behind the last of them."""
        for number in range(3):
            self.held.emit(b"%d" % number, 2, 11 + number)
        self.assertEqual(self.held.next_step(100.0), Step(13, b"012", 6))

    def test_no_more_than_fits(self):
        """They are not, where that is more than a batch may hold: bytes, or records."""
        for size, count in ((CONSUMER_STEP_SIZE // 2 + 1, 1), (1, RECORDS_PER_BATCH_MAX // 2 + 1)):
            held = self.hold()
            for number in range(2):
                held.emit(bytes(size), count, 11 + number)
            for number in range(2):
                self.assertEqual(held.next_step(100.0), Step(11 + number, bytes(size), count))
                held.succeeded(100.0)
        held = self.hold()
        for number in range(2):
            held.emit(bytes(CONSUMER_STEP_SIZE // 2), RECORDS_PER_BATCH_MAX // 2, 11 + number)
        step = held.next_step(100.0)
        self.assertEqual((step.position, len(step.payload)), (12, CONSUMER_STEP_SIZE // 2 * 2))

    def test_room(self):
        """Records take room until they are appended."""
        self.held.emit(bytes(CONSUMER_BUFFER_SIZE), 1, 11)
        self.held.next_step(100.0)
        self.assertFalse(self.held.has_room)
        self.held.succeeded(100.0)
        self.assertEqual((self.held.has_room, self.held.buffered_size), (True, 0))


class PositionTests(HoldingCase):
    """What is done, and what cannot be."""

    def test_back(self):
        """What lies before the position changes nothing, and nothing is emitted for it."""
        for position in (9, 10):
            self.assertFalse(self.held.done(position, 100.0))
            with self.assertRaises(InvalidRequestError):
                self.held.emit(b"abc", 1, position)
        self.assertEqual((self.held.position, self.held.buffered_size), (10, 0))
        self.assertEqual(self.held.due_at(100.0), 100.0 + THIRD)


class TimeTests(HoldingCase):
    """When a step is due."""

    def test_renews(self):
        """A silent holder renews after each third of its lease, which counts from when it asked."""
        at = 100.0 + THIRD
        self.assertIsNone(self.held.next_step(at - 0.1))
        self.assertEqual((self.held.due_at(100.0), self.held.next_step(at)), (at, Step(None)))
        told = cursor(lease_seconds=3 * LEASE)
        self.held.succeeded(at, told)
        self.assertEqual(self.held.due_at(at + 1.0), at + 3 * THIRD)  # of the lease that it was told of
        self.assertIs(self.held.cursor, told)

    def test_work_renews(self):
        """A commit is a sign of life as well."""
        self.held.done(11, 101.0)
        self.assertEqual(self.held.next_step(102.0), Step(11))
        self.held.succeeded(101.5)
        self.assertEqual(self.held.due_at(102.0), 101.5 + THIRD)

    def test_commits(self):
        """What is done waits a while for its commit, counted from the first; who waits for it is served."""
        self.assertTrue(self.held.done(11, 100.0))
        self.assertFalse(self.held.done(12, 100.5))
        self.assertIsNone(self.held.next_step(100.9))
        self.assertEqual((self.held.due_at(100.5), self.held.next_step(101.0)), (101.0, Step(12)))
        self.held.succeeded(101.0)
        self.held.done(13, 101.0)
        self.held.hurry(101.0)
        self.assertEqual(self.held.next_step(101.0), Step(13))

    def test_many(self):
        """So many records do not wait."""
        held = self.hold(commit_records=3)
        self.assertTrue(held.done(12, 100.0))
        self.assertIsNone(held.next_step(100.0))
        self.assertTrue(held.done(13, 100.2))
        self.assertEqual((held.due_at(100.2), held.next_step(100.2)), (100.2, Step(13)))

    def test_stand_by(self):
        """Who waits for a holder asks again when its lease may be over, and not too often nor too seldom."""
        for milliseconds, expected in (
            (0, STAND_BY_SECONDS_MIN),
            (250, 0.25),
            (60_000, STAND_BY_SECONDS_MAX),
        ):
            self.assertEqual(stand_by_seconds(CursorHeldError(milliseconds, "billing", "one")), expected)
