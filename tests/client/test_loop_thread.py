"""The loop that blocking clients have in a thread of their own: interruptions and the end."""

import asyncio
import inspect
import signal
import threading

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import loop_thread
from loghouse.client.loop_thread import LoopThread
from loghouse.errors import UnavailableError

SECONDS_MAX = 20


async def nothing():
    pass


class Waiting:
    """A coroutine that waits for ever, and notes that it began and how it ended."""

    def __init__(self):
        self.began = threading.Event()
        self.ended = False

    async def wait(self):
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up takes more than one turn of the loop
            self.ended = True


class LoopThreadTests(SynchronousTestCase):
    """`LoopThread`."""

    def setUp(self):
        self.thread = LoopThread()
        self.addCleanup(self.thread.close, nothing)

    def test_results(self):
        """A result and an error come out as they are."""

        async def answer():
            return 42

        async def fail():
            raise KeyError("why")

        self.assertEqual(self.thread.run(answer()), 42)
        self.assertRaises(KeyError, self.thread.run, fail())

    def test_interrupted(self):
        """Ctrl-C ends the wait, but not before the coroutine has ended."""
        waiting = Waiting()
        main = threading.get_ident()

        def interrupt():
            waiting.began.wait(SECONDS_MAX)
            signal.pthread_kill(main, signal.SIGINT)

        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, previous)
        thread = threading.Thread(target=interrupt)
        thread.start()
        self.addCleanup(thread.join)
        self.assertRaises(KeyboardInterrupt, self.thread.run, waiting.wait())
        self.assertTrue(waiting.ended)

    def test_interrupted_before_it_began(self):
        """What was interrupted before it could begin is closed, and never will."""
        real, work = self.thread._soon, nothing()

        def interrupt(callback):
            self.patch(self.thread, "_soon", real)
            raise KeyboardInterrupt

        self.patch(self.thread, "_soon", interrupt)
        self.assertRaises(KeyboardInterrupt, self.thread.run, work)
        self.assertEqual(inspect.getcoroutinestate(work), inspect.CORO_CLOSED)
        self.assertEqual(self.thread._tasks, set())

    def test_refused(self):
        """What comes when the loop is closed is closed, too."""
        self.thread.close(nothing)
        for is_closing in (True, False):
            self.thread._is_closing = is_closing
            work = nothing()
            error = self.assertRaises(UnavailableError, self.thread.run, work)
            self.assertEqual(str(error), "the client is closed")
            self.assertEqual(inspect.getcoroutinestate(work), inspect.CORO_CLOSED)
        self.thread._is_closing = True

    def test_others_end_by_themselves(self):
        """The end cancels what callers wait for, but lets a task that gRPC began hear how its call ended."""
        closing = asyncio.Event()
        ends, tasks = [], []

        async def hear():
            try:
                await closing.wait()
                for _ in range(5):  # the news takes a few turns of the loop
                    await asyncio.sleep(0)
                ends.append("heard")
            except asyncio.CancelledError:
                ends.append("cancelled")

        async def begin():
            tasks.append(asyncio.get_running_loop().create_task(hear()))

        async def last():
            closing.set()

        self.thread.run(begin())
        self.thread.close(last)
        self.assertEqual(ends, ["heard"])

    def test_what_does_not_end(self):
        """A task that nobody waits for and that does not end by itself is cancelled at the end."""
        self.patch(loop_thread, "SETTLE_SECONDS", 0.01)
        waiting = Waiting()
        tasks = []

        async def begin():
            tasks.append(asyncio.get_running_loop().create_task(waiting.wait()))

        self.thread.run(begin())
        self.assertTrue(waiting.began.wait(SECONDS_MAX))
        self.thread.close(nothing)
        self.assertTrue(waiting.ended)
        self.assertTrue(tasks[0].cancelled())

    def test_generators(self):
        """An asynchronous generator that nobody finished is closed at the end."""
        ended, kept = [], []

        async def numbers():
            try:
                yield 1
            finally:
                ended.append(True)

        async def begin():
            kept.append(numbers())
            return await anext(kept[0])

        self.assertEqual(self.thread.run(begin()), 1)
        self.assertEqual(ended, [])
        self.thread.close(nothing)
        self.assertEqual(ended, [True])

    def test_thread(self):
        """The thread has a name that tells whose it is, and keeps no program from ending."""
        thread = self.thread._thread
        self.assertEqual((thread.name, thread.daemon), ("loghouse client", True))
        self.thread.close_soon(nothing)
        self.thread.join(SECONDS_MAX)
        self.assertFalse(thread.is_alive())
        self.assertTrue(self.thread.loop.is_closed())
        self.thread.close_soon(nothing)

    def test_closed_meanwhile(self):
        """Whoever waits while another thread closes is told, and does not wait for ever."""
        waiting = Waiting()
        errors = []

        def use():
            try:
                self.thread.run(waiting.wait())
            except UnavailableError as error:
                errors.append(error)

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        self.assertTrue(waiting.began.wait(SECONDS_MAX))
        self.thread.close(nothing)
        thread.join(SECONDS_MAX)
        self.assertEqual([str(error) for error in errors], ["the client was closed before the answer came"])
        self.assertTrue(waiting.ended)

    def test_closed_before(self):
        """A closed loop takes nothing more, and closing it again does nothing."""
        self.thread.close(nothing)
        self.thread.close(nothing)
        self.assertRaises(UnavailableError, self.thread.run, nothing())
