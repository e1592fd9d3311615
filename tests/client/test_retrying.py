"""When a failed call is made again."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.calls import _worst
from loghouse.client.failures import CallFailure, Effect
from loghouse.client.retrying import ATTEMPT_SECONDS, PAUSE_SECONDS_MAX, Attempts, Pauses
from loghouse.errors import (
    DeadlineError,
    ExpectOffsetError,
    NotLeaderError,
    OutcomeUnknownError,
    QuotaExceededError,
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

    def test_absent_among_those_that_wait(self):
        """A server that is not there costs no pause behind one that is, and waits for a leader."""
        waiting = CallFailure(error=NotLeaderError(None), effect=Effect.NOTHING)
        pausing = Pauses(Whole())
        told = [waiting, waiting, AWAY, waiting, AWAY, AWAY, waiting]
        self.assertEqual([pausing.after(one) for one in told], [0.02, 0.04, 0.0, 0.08, 0.0, 0.16, 0.32])
        pausing.reset()
        self.assertEqual([pausing.after(one) for one in (AWAY, waiting, LOST)], [0.02, 0.04, 0.08])
        tried = attempts()
        self.assertGreater(tried.pause_after(waiting, 100.0), 0.0)
        self.assertEqual(tried.pause_after(AWAY, 100.1), 0.0)

    def test_unknown(self):
        """An unknown outcome ends an unsafe call, and only that."""
        self.assertRaises(OutcomeUnknownError, attempts().pause_after, LOST, 100.0)
        self.assertGreater(attempts(is_safe=True).pause_after(LOST, 100.0), 0.0)

    def test_told_time(self):
        """A quota that is used up says when to come again: not before, and not when that is too late."""
        used_up = QuotaExceededError(2500, "bytes in", "'ann' used its quota")
        failure = CallFailure(error=used_up, effect=Effect.NOTHING)
        self.assertEqual(attempts().pause_after(failure, 100.0), 2.5)
        error = self.assertRaises(QuotaExceededError, attempts(seconds=2.0).pause_after, failure, 100.0)
        self.assertIs(error, used_up)

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


class Whole(random.Random):
    """Chance that makes every pause whole."""

    def random(self):
        return 1.0


class MomentTests(SynchronousTestCase):
    """Exactly when there is no further attempt."""

    def last_moment(self, seconds):
        """Until when, after the beginning, one more attempt is begun; to the millisecond."""
        for milliseconds in range(int(seconds * 1000) + 2):
            tried = Attempts(begun_at=0.0, deadline=seconds, is_safe=False, rng=Whole())
            try:
                self.assertEqual(tried.pause_after(AWAY, milliseconds / 1000), 0.02)
            except DeadlineError:
                return milliseconds - 1
        raise self.failureException("it is tried for ever")

    def test_last_attempt(self):
        """An attempt has 100 ms at least behind its pause of 20 ms, of a short time a quarter."""
        for seconds, milliseconds in ((10.0, 9879), (1.0, 879), (0.4, 279), (0.2, 129), (0.08, 39)):
            self.assertEqual(self.last_moment(seconds), milliseconds)

    def test_pauses(self):
        """The pauses: 20 ms, doubled each time, up to 1 s."""
        pausing = Pauses(Whole())
        pauses = [pausing.next_seconds() for _ in range(8)]
        self.assertEqual(pauses, [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0])

    def test_one_attempt(self):
        """One server has 5 s for a call that can be made again."""
        self.assertEqual(attempts(is_safe=True).seconds_left(100.0), 5.0)

    def test_words(self):
        """The error tells how long it was tried, how often, and why the last one failed."""
        tried = attempts(seconds=2.0)
        tried.pause_after(AWAY, 100.5)
        error = self.assertRaises(DeadlineError, tried.pause_after, AWAY, 102.3)
        text = "gave up after 2.3 s and 2 attempts; the last one: h1: connection refused"
        self.assertEqual(str(error), text)
        error = self.assertRaises(DeadlineError, attempts(seconds=0.01).pause_after, AWAY, 99.0 + 1.0)
        self.assertIn("gave up after 0.0 s and 1 attempt; ", str(error))


class BackoffTests(SynchronousTestCase):
    """Pauses grow."""

    def test_growth(self):
        """They double up to their limit, each by chance between half and whole, and begin again."""
        pausing = Pauses(random.Random(3))
        pauses = [pausing.next_seconds() for _ in range(20)]
        self.assertTrue(all(0.01 * 2**n <= pause <= 0.02 * 2**n for n, pause in enumerate(pauses[:5])))
        self.assertTrue(all(PAUSE_SECONDS_MAX / 2 <= pause <= PAUSE_SECONDS_MAX for pause in pauses[8:]))
        self.assertGreater(len(set(pauses[8:])), 5)
        pausing.reset()
        self.assertLessEqual(pausing.next_seconds(), 0.02)


class WorstTests(SynchronousTestCase):
    """What a client is told when no server told of its cluster."""

    def failure(self, text, effect=Effect.NOTHING, *, is_permanent=False, kind=UnavailableError):
        return CallFailure(error=kind(text), effect=effect, is_permanent=is_permanent)

    def worst(self, *failures):
        found = _worst(list(failures))
        return str(found.error), type(found.error), found.effect

    def test_rows(self):
        """A refusal counts for all; what is hopeless counts for its server, and is told before the others."""
        lost = self.failure("lost", Effect.UNKNOWN, kind=OutcomeUnknownError)
        gone, refused = self.failure("gone"), self.failure("refused", Effect.REFUSED)
        hopeless = self.failure("hopeless", is_permanent=True)
        judged = self.failure("judged", Effect.REFUSED, is_permanent=True)
        for failures, text, effect in (
            ((gone,), "gone", Effect.NOTHING),
            ((lost, gone), "gone", Effect.NOTHING),
            ((gone, lost), "lost", Effect.NOTHING),
            ((gone, refused, lost), "refused", Effect.REFUSED),
            ((hopeless, refused), "refused", Effect.REFUSED),
            ((hopeless, gone), "hopeless", Effect.NOTHING),
            ((gone, judged), "judged", Effect.NOTHING),
            ((hopeless,), "hopeless", Effect.REFUSED),
            ((hopeless, judged), "hopeless", Effect.REFUSED),
        ):
            self.assertEqual(self.worst(*failures), (text, UnavailableError, effect))

    def test_kinds(self):
        """What a person has to mend keeps its kind; what nobody knows of a question is only unavailable."""
        for kind, told in (
            (NotLeaderError, NotLeaderError),
            (DeadlineError, DeadlineError),
            (OutcomeUnknownError, UnavailableError),
        ):
            self.assertEqual(self.worst(self.failure("x", kind=kind))[1:], (told, Effect.NOTHING))
