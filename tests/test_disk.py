"""Work runs on its own thread, in order, and answers on the caller's."""

import threading
from queue import SimpleQueue

from twisted.trial.unittest import SynchronousTestCase

from loghouse.runtime.deferring import run_on
from loghouse.runtime.threads import ThreadQueue


class ThreadQueueTests(SynchronousTestCase):
    """`ThreadQueue` runs work elsewhere and hands results back."""

    def setUp(self):
        self.answers = SimpleQueue()
        self.queue = ThreadQueue("test", self.answers.put)

    def run_answers(self):
        while not self.answers.empty():
            self.answers.get()()

    def test_order_and_thread(self):
        """With one thread, work is done in order, elsewhere, and answers wait for the caller's turn."""
        seen = []
        done = [run_on(self.queue, lambda n=n: seen.append((n, threading.get_ident()))) for n in range(100)]
        self.queue.stop()
        self.assertEqual([n for n, _ in seen], list(range(100)))
        self.assertNotIn(threading.get_ident(), {thread for _, thread in seen})
        for deferred in done:
            self.assertNoResult(deferred)
        self.run_answers()
        for deferred in done:
            self.successResultOf(deferred)

    def test_failure(self):
        """An exception of the work is the failure of its Deferred; the thread lives on."""
        failed, fine = run_on(self.queue, lambda: 1 // 0), run_on(self.queue, lambda: 7)
        self.queue.stop()
        self.run_answers()
        self.failureResultOf(failed, ZeroDivisionError)
        self.assertEqual(self.successResultOf(fine), 7)

    def test_submit(self):
        """Submitted work tells one of two callables, on the caller's turn: what came of it, in order."""
        told = []
        for work in (lambda: 1, lambda: 1 // 0, lambda: 3):
            self.queue.submit(work, told.append, lambda error: told.append(type(error)))
        self.queue.stop()
        self.assertEqual(told, [])
        self.run_answers()
        self.assertEqual(told, [1, ZeroDivisionError, 3])

    def test_run(self):
        """What `run` tells may raise: `fatal` gets that, and what the work raised if nobody else does."""
        told, fatal = [], []

        def stumble(outcome):
            told.append(type(outcome))
            raise LookupError

        queue = self.queue
        queue.run(lambda: 1, told.append, fatal=fatal.append)
        queue.run(lambda: 1, stumble, fatal=fatal.append)
        queue.run(lambda: 1 // 0, told.append, fatal=fatal.append)
        queue.run(lambda: 1 // 0, told.append, stumble, fatal=fatal.append)
        queue.run(lambda: 1 // 0, told.append, told.append, fatal=fatal.append)
        queue.stop()
        self.run_answers()
        self.assertEqual(told[:3], [1, int, ZeroDivisionError])
        self.assertEqual([type(error) for error in told[3:]], [ZeroDivisionError])
        self.assertEqual([type(error) for error in fatal], [LookupError, ZeroDivisionError, LookupError])

    def test_cancelled_wait(self):
        """Who cancels stops waiting; the work is done all the same and nothing is raised."""
        gate, done = threading.Event(), []
        run_on(self.queue, gate.wait)
        waiting = run_on(self.queue, lambda: done.append(1))
        waiting.cancel()
        self.failureResultOf(waiting)
        gate.set()
        self.queue.stop()
        self.run_answers()
        self.assertEqual(done, [1])

    def test_several_threads(self):
        """With several threads, slow work does not hold up other work."""
        queue = ThreadQueue("pool", self.answers.put, 2)
        gate = threading.Event()
        run_on(queue, gate.wait)
        run_on(queue, gate.set)
        queue.stop()
        self.queue.stop()
        self.assertTrue(gate.is_set())
