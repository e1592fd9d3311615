"""Checks that are too long for the reactor: one at a time, in turns among subjects, with rests between."""

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import InvalidRequestError
from loghouse.node import long_checks
from loghouse.node.long_checks import LongChecks


class LongCheckTests(SynchronousTestCase):
    """`LongChecks` with a thread that does its work when the test says so."""

    def setUp(self):
        self.threads, self.ended, self.rests = [], [], []
        self.checks = LongChecks(self.in_thread)
        self.patch(long_checks.time, "sleep", self.rests.append)

    def in_thread(self, work):
        done = Deferred()
        self.threads.append((work, done))
        return done

    def finish(self):
        [(work, done)] = self.threads
        self.threads.clear()
        try:
            done.callback(work())
        except Exception:
            done.errback(Failure())

    def run_check(self, subject, name, steps=()):
        return self.checks.run(subject, iter(steps), lambda error: self.ended.append((name, error)))

    def test_turns(self):
        """One runs at a time; a subject with many lets the others go before its second."""
        for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
            self.run_check(name[0], name)
        for _ in range(6):
            self.finish()
        self.assertEqual([name for name, _ in self.ended], ["a1", "b1", "c1", "a2", "b2", "a3"])
        self.assertEqual(self.threads, [])

    def test_rests(self):
        """After each step that took time the thread rests; an error is told, and ends nothing else."""

        def steps():
            yield 0
            yield 5
            yield 7
            raise InvalidRequestError("batch", "x")

        self.run_check("a", "bad", steps())
        self.run_check("a", "good")
        self.finish()
        self.finish()
        # As long as the work took and a bit: 0.4 us for each record.
        self.assertEqual([round(rest * 1e7) for rest in self.rests], [20, 28])
        [(_, error), (_, none)] = self.ended
        self.assertIsInstance(error, InvalidRequestError)
        self.assertIsNone(none)

    def test_given_up(self):
        """Who gives up is not told, and frees the thread after the step under way, or never takes it."""
        first = self.run_check("a", "first", (1 for _ in range(1000)))
        second = self.run_check("a", "second")
        self.run_check("a", "third")
        second.cancel()
        self.patch(long_checks.time, "sleep", lambda _: first.cancel())
        self.finish()
        self.finish()
        self.assertEqual(self.ended, [("third", None)])
        self.assertEqual(next(first.steps), 1)

    def test_given_up_before_its_turn(self):
        """A subject of which all gave up has no turn, and keeps none; the next one has it."""
        self.run_check("a", "a1")
        for name in ("b1", "b2"):
            self.run_check("b", name).cancel()
        self.run_check("c", "c1")
        self.finish()
        self.finish()
        self.assertEqual(self.ended, [("a1", None), ("c1", None)])
        self.run_check("b", "b3")
        self.finish()
        self.assertEqual(self.ended[-1], ("b3", None))
        self.assertEqual(self.threads, [])
