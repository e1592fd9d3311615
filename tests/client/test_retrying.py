"""When a failed call is made again."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.failures import CallFailure, Effect
from loghouse.client.retrying import ATTEMPT_SECONDS, PAUSE_SECONDS_MAX, Attempts, backoff
from loghouse.errors import (
    DeadlineError,
    ExpectOffsetError,
    NotLeaderError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
)

AWAY = CallFailure(error=UnavailableError("h1: connection refused"), effect=Effect.NOTHING, is_link=True)
LOST = CallFailure(error=OutcomeUnknownError("h1: the link broke"), effect=Effect.UNKNOWN, is_link=True)
ELSEWHERE = CallFailure(error=NotLeaderError("n2"), effect=Effect.NOTHING, leader="n2")
REFUSED = CallFailure(error=ExpectOffsetError(1, 2), effect=Effect.REFUSED)
FULL = CallFailure(error=ResourceExhaustedError("proposals", "9 wait"), effect=Effect.NOTHING)


def attempts(*, is_safe=False, seconds=10.0):
    return Attempts(begun_at=100.0, deadline=100.0 + seconds, is_safe=is_safe, rng=random.Random(1))


class AttemptsTests(SynchronousTestCase):
    """Again when that is safe and there is time."""

    def test_certain(self):
        """What certainly did nothing is tried again, after a short pause."""
        for failure in (AWAY, FULL):
            self.assertTrue(0 < attempts().pause_after(failure, 100.0) <= PAUSE_SECONDS_MAX)

    def test_named_leader(self):
        """The first time that a node names the leader, the leader is asked at once; then there are pauses."""
        tried = attempts()
        self.assertEqual(tried.pause_after(ELSEWHERE, 100.0), 0.0)
        self.assertGreater(tried.pause_after(ELSEWHERE, 100.0), 0.0)

    def test_unknown(self):
        """An unknown outcome ends an unsafe call, and only that."""
        self.assertRaises(OutcomeUnknownError, attempts().pause_after, LOST, 100.0)
        self.assertGreater(attempts(is_safe=True).pause_after(LOST, 100.0), 0.0)

    def test_refused(self):
        """A refusal is final, though the call is safe."""
        self.assertRaises(ExpectOffsetError, attempts(is_safe=True).pause_after, REFUSED, 100.0)

    def test_deadline(self):
        """At the deadline it gives up, and says after how long, how often, and what came last."""
        tried = attempts()
        tried.pause_after(AWAY, 103.0)
        error = self.assertRaises(DeadlineError, tried.pause_after, AWAY, 109.999)
        self.assertIn("gave up after 10.0 s and 2 attempts; the last one: h1: connection refused", str(error))
        self.assertIsInstance(error, TimeoutError)
        error = self.assertRaises(DeadlineError, attempts(is_safe=True).pause_after, LOST, 110.0)
        self.assertIn("1 attempt; the last one: no answer (h1: the link broke)", str(error))

    def test_bound_reached_until_the_deadline(self):
        """A bound that stayed reached is told as what it is."""
        self.assertRaises(ResourceExhaustedError, attempts().pause_after, FULL, 110.0)

    def test_time_of_one_attempt(self):
        """A safe call gives each server a share of its time; an unsafe one all of it."""
        self.assertEqual(attempts(is_safe=True).seconds_left(100.0), ATTEMPT_SECONDS)
        self.assertEqual(attempts(is_safe=True).seconds_left(109.0), 1.0)
        self.assertEqual(attempts().seconds_left(100.0), 10.0)
        self.assertEqual(attempts().seconds_left(111.0), 0.0)


class BackoffTests(SynchronousTestCase):
    """Pauses grow."""

    def test_growth(self):
        """They double up to their limit, each by chance between half and whole, and begin again."""
        pausing = backoff(random.Random(3))
        pauses = [pausing.next_seconds() for _ in range(20)]
        self.assertTrue(all(0.01 * 2**n <= pause <= 0.02 * 2**n for n, pause in enumerate(pauses[:5])))
        self.assertTrue(all(PAUSE_SECONDS_MAX / 2 <= pause <= PAUSE_SECONDS_MAX for pause in pauses[8:]))
        self.assertGreater(len(set(pauses[8:])), 5)
        pausing.reset()
        self.assertLessEqual(pausing.next_seconds(), 0.02)
