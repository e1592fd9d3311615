"""Threads that work for the reactor, and the reactor that is installed: what each promises, by itself."""

import asyncio
import sys
import threading
import time
import weakref
from functools import partial
from types import SimpleNamespace
from unittest import mock

from twisted.internet import asyncioreactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.python.log import callWithLogger
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ReactorError
from loghouse.limits import SOCKET_BUFFER_SIZE
from loghouse.runtime import bridge
from loghouse.runtime import reactor as _reactor
from loghouse.runtime.deferring import deferred, run_on
from loghouse.runtime.sockets import use_large_buffers, write_promptly
from loghouse.runtime.threads import ThreadQueue, WorkQueue, do

SECONDS_MAX = 20.0  # for a thread, which needs none


class QueueCase(SynchronousTestCase):
    """Queues whose outcomes are told when the test says so."""

    def setUp(self):
        self.told = []
        self.calls = []  # what the threads want to be run here
        self.has_call = threading.Condition()

    def call(self, work):
        with self.has_call:
            self.calls.append(work)
            self.has_call.notify()

    def queue(self, *count):
        queue = ThreadQueue("tried", self.call, *count)
        self.addCleanup(queue.stop)
        return queue

    def tell(self, count):
        """Run the calls of so many outcomes."""
        for _ in range(count):
            with self.has_call:
                self.assertTrue(self.has_call.wait_for(lambda: self.calls, SECONDS_MAX))
                call = self.calls.pop(0)
            call()


class QueueTests(QueueCase):
    """Work on threads."""

    def test_order(self):
        """One thread does one piece after the other, in order, and tells of each here, in order."""
        queue, threads = self.queue(), []
        for number in range(20):
            queue.submit(
                lambda number=number: threads.append(threading.current_thread()) or number,
                self.told.append,
                None,
            )
        self.tell(20)
        self.assertEqual(self.told, list(range(20)))
        [thread] = set(threads)
        self.assertEqual((thread.name, thread.daemon), ("tried-0", True))

    def test_several(self):
        """Several threads work beside each other."""
        meeting = threading.Barrier(3, timeout=SECONDS_MAX)
        queue = self.queue(3)
        for _ in range(3):
            queue.submit(meeting.wait, self.told.append, self.told.append)
        self.tell(3)
        self.assertEqual(sorted(self.told), [0, 1, 2])

    def test_threads_come_with_work(self):
        """A thread is there from the start, another one when those there are have work, up to the most."""
        queue, gate = self.queue(3), threading.Event()
        self.assertEqual(len(queue._threads), 1)
        for _ in range(3):  # one after the other
            queue.submit(lambda: None, self.told.append, None)
            self.tell(1)
        self.assertEqual(len(queue._threads), 1)
        counts = []
        for _ in range(4):
            queue.submit(gate.wait, self.told.append, None)
            counts.append(len(queue._threads))
        self.assertEqual(counts, [1, 2, 3, 3])
        gate.set()
        self.tell(4)

    def test_no_thread_to_give(self):
        """When the system has no further thread, those there are do all the work."""
        queue, gate = self.queue(2), threading.Event()
        self.patch(threading.Thread, "start", mock.Mock(side_effect=RuntimeError))
        for number in range(3):
            queue.submit(lambda number=number: gate.wait() and number, self.told.append, None)
        self.assertEqual(len(queue._threads), 1)
        gate.set()
        self.tell(3)
        self.assertEqual(self.told, [0, 1, 2])

    def test_errors(self):
        """What is raised is told as it is, and the thread goes on."""
        queue = self.queue()
        queue.submit(lambda: 1 // 0, None, self.told.append)
        queue.submit(lambda: 7, self.told.append, None)
        self.tell(2)
        self.assertIsInstance(self.told[0], ZeroDivisionError)
        self.assertEqual(self.told[1], 7)

    def test_stop(self):
        """A stop finishes what was given, and waits for it."""
        queue, done = ThreadQueue("tried", self.call, 2), []
        begun = threading.Event()
        queue.submit(lambda: begun.wait(SECONDS_MAX) and done.append(1), None, None)
        queue.submit(lambda: begun.set() or done.append(2), None, None)
        threads = list(queue._threads)
        queue.stop()
        self.assertEqual(sorted(done), [1, 2])
        self.assertEqual([thread.is_alive() for thread in threads], [False, False])

    def test_nothing_is_held(self):
        """While a thread waits it holds nothing of the piece before."""

        class Thing:
            pass

        thing, queue, is_gone = Thing(), self.queue(), threading.Event()
        gone = weakref.ref(thing, lambda _: is_gone.set())
        queue.submit(lambda thing=thing: None, self.told.append, None)
        del thing
        self.tell(1)
        self.assertTrue(is_gone.wait(SECONDS_MAX))
        self.assertIsNone(gone())

    def test_deferred(self):
        """`run_on` gives a Deferred of what came; who cancels it ends the wait, not the work."""
        queue = self.queue()
        good, bad, dropped = (
            run_on(queue, lambda: 5),
            run_on(queue, lambda: 1 // 0),
            run_on(queue, lambda: self.told.append(1)),
        )
        dropped.cancel()
        self.failureResultOf(dropped, CancelledError)
        self.tell(3)
        self.assertEqual(self.successResultOf(good), 5)
        self.failureResultOf(bad, ZeroDivisionError)
        self.assertEqual(self.told, [1])
        self.assertRaises(TypeError, WorkQueue)

    def test_all(self):
        """A piece of work has others done side by side, on as many threads as there may be, and waits."""
        queue, meeting = self.queue(3), threading.Barrier(3, timeout=SECONDS_MAX)
        queue.submit(lambda: queue.do_all([meeting.wait] * 3), self.told.append, self.told.append)
        self.tell(1)
        self.assertEqual(self.told, [[None] * 3])
        self.assertEqual(len(queue._threads), 3)
        self.assertEqual(self.calls, [])  # what helped is told to nobody

    def test_all_waits(self):
        """It is over when the last one is, whoever does that."""
        queue, gates = self.queue(3), [threading.Event() for _ in range(3)]
        queue.submit(
            lambda: queue.do_all([lambda gate=gate: gate.wait(SECONDS_MAX) for gate in gates]),
            self.told.append,
            self.told.append,
        )
        for gate in gates:
            self.assertEqual(self.calls, [])
            gate.set()
        self.tell(1)
        self.assertEqual(self.told, [[None] * 3])

    def test_all_errors(self):
        """Each of them is done, whatever others raise; who asks gets what each raised, in its place."""
        done = []
        calls = [lambda: done.append(1), lambda: 1 // 0, lambda: done.append(2), lambda: [][0]]
        for queue in (self.queue(2), HereQueue()):
            done.clear()
            for count in range(5):
                queue.submit(partial(queue.do_all, calls[:count]), self.told.append, None)
            if isinstance(queue, ThreadQueue):
                self.tell(5)
            kinds = [type(error) for error in self.told[-1]]
            self.assertEqual(kinds, [type(None), ZeroDivisionError, type(None), IndexError])
            self.assertEqual([len(raised) for raised in self.told[-5:]], [0, 1, 2, 3, 4])
            self.assertEqual(sorted(done), [1] * 4 + [2] * 2)

    def test_all_without_threads(self):
        """Where other threads have work, or none can be had, the asker does all of it."""
        queue = self.queue(2)
        self.patch(threading.Thread, "start", mock.Mock(side_effect=RuntimeError))
        queue.submit(lambda: queue.do_all([lambda: None] * 3), self.told.append, None)
        self.tell(1)
        self.assertEqual((self.told, len(queue._threads)), ([[None] * 3], 1))

    def test_all_in_a_stop(self):
        """What a piece of work has done during a stop is done, and no thread is started for it."""
        queue, begun, gate = ThreadQueue("tried", self.call, 4), threading.Event(), threading.Event()
        done = []

        def work():
            begun.set()
            gate.wait(SECONDS_MAX)
            return queue.do_all([lambda: done.append(1)] * 4)

        queue.submit(work, self.told.append, self.told.append)
        self.assertTrue(begun.wait(SECONDS_MAX))
        stop = threading.Thread(target=queue.stop)
        stop.start()
        while not queue._is_ending:
            stop.join(0.001)
        gate.set()
        stop.join(SECONDS_MAX)
        self.assertEqual((done, len(queue._threads), stop.is_alive()), ([1] * 4, 1, False))

    def test_do(self):
        """Who is to be told, and what."""
        done, failed = self.told.append, self.told.extend
        self.assertEqual(do((lambda: 3, done, failed)), (done, 3))
        tell, outcome = do((lambda: [][0], done, failed))
        self.assertEqual((tell, type(outcome)), (failed, IndexError))
        self.assertRaises(SystemExit, do, (sys.exit, done, failed))


class HereQueue(WorkQueue):
    """Does each piece of work at once."""

    def submit(self, work, done, failed):
        tell, outcome = do((work, done, failed))
        tell(outcome)

    def stop(self):
        """Nothing was begun."""


class RunTests(SynchronousTestCase):
    """`WorkQueue.run`: where who is told may fail."""

    def setUp(self):
        self.told, self.fatal = [], []

    def run_work(self, *arguments):
        HereQueue().run(*arguments, fatal=self.fatal.append)

    def test_told(self):
        """What work returned goes to one, what it raised to the other; without another it is fatal."""
        error = ValueError("x")

        def fail():
            raise error

        self.run_work(lambda: 3, self.told.append)
        self.run_work(fail, self.told.append, lambda raised: self.told.append(("failed", raised)))
        self.assertEqual((self.told, self.fatal), ([3, ("failed", error)], []))
        self.run_work(fail)
        self.run_work(lambda: 3)
        self.assertEqual((len(self.told), self.fatal), (2, [error]))

    def test_told_in_vain(self):
        """Who fails over what he is told ends the process: nobody else would hear of it."""
        first, second = ValueError("first"), ValueError("second")

        def fail(error):
            raise error

        self.run_work(lambda: first, fail)
        self.assertEqual(self.fatal, [first])
        self.run_work(lambda: fail(first), self.told.append, lambda raised: fail(second))
        self.assertEqual((self.told, self.fatal), ([], [first, second]))


class DeferredTests(SynchronousTestCase):
    """`deferred`, of what answers by calling one of two callables."""

    def ask(self, answered, failed):
        self.answered, self.failed = answered, failed
        return self.handle

    def setUp(self):
        self.dropped = []
        self.handle = SimpleNamespace(cancel=lambda: self.dropped.append(True))

    def test_cancel(self):
        """Who cancels drops what was asked, once, where that is possible; an answer of later is ignored."""
        for handle, count in ((self.handle, 1), (None, 0)):
            self.handle = handle
            for answer in ("answered", "failed"):
                self.dropped.clear()
                waiting = deferred(self.ask)
                self.assertEqual(self.dropped, [])
                waiting.cancel()
                self.failureResultOf(waiting, CancelledError)
                self.assertEqual(len(self.dropped), count)
                getattr(self, answer)(ValueError("too late"))

    def test_answer(self):
        """An answer is what it fires with, an error why it fails; neither drops anything."""
        waiting = deferred(self.ask)
        self.answered(None)
        self.assertIsNone(self.successResultOf(waiting))
        waiting = deferred(self.ask)
        self.failed(KeyError("x"))
        self.failureResultOf(waiting, KeyError)
        self.assertEqual(self.dropped, [])


class SocketTests(SynchronousTestCase):
    """What is written to a socket by the short way, and what is left to Twisted."""

    def setUp(self):
        self.written, self.sent, self.takes = [], [], [5]

        self.tcp = Connection.__new__(Connection)
        self.tcp.socket = SimpleNamespace(send=self.send)
        self.tcp.connected, self.tcp.dataBuffer, self.tcp._tempDataBuffer = True, b"", []
        self.tcp.write = self.written.append

    def send(self, data):
        self.sent.append(data)
        taken = self.takes.pop(0)
        if isinstance(taken, Exception):
            raise taken
        return taken

    def test_taken(self):
        """What a free socket takes goes there; what it does not take at once, or refuses, is Twisted's."""
        for takes, written in ((5, []), (2, [b"cde"]), (0, [b"abcde"]), (BlockingIOError(), [b"abcde"])):
            self.written.clear()
            self.takes = [takes]
            write_promptly(self.tcp, b"abcde")
            self.assertEqual((self.sent.pop(), self.written), (b"abcde", written))

    def test_not_clear(self):
        """Nothing passes by what is on its way, or leaves once the connection ends, of either direction."""
        for name, value in (
            ("connected", False),
            ("dataBuffer", b"x"),
            ("_tempDataBuffer", [b"x"]),
            ("_writeDisconnected", True),
            ("_writeDisconnecting", True),
            ("disconnecting", True),
            ("_aborting", True),
        ):
            before = getattr(self.tcp, name)
            setattr(self.tcp, name, value)
            write_promptly(self.tcp, b"abcde")
            self.assertEqual((self.sent, self.written), ([], [b"abcde"]), name)
            self.written.clear()
            setattr(self.tcp, name, before)

    def test_other_transports(self):
        """What is no socket is written to as ever."""
        transport = StringTransport()
        transport.connected = True
        write_promptly(transport, b"abc")
        self.assertEqual(transport.value(), b"abc")

    def test_large_buffers(self):
        """The socket has large buffers, also where TLS is around it."""
        inside, plain = SimpleNamespace(), SimpleNamespace()
        use_large_buffers(SimpleNamespace(transport=inside))
        use_large_buffers(plain)
        self.assertEqual((inside.bufferSize, plain.bufferSize), (SOCKET_BUFFER_SIZE,) * 2)


class ReactorTests(SynchronousTestCase):
    """The reactor of a node."""

    def test_installed(self):
        """Once it is there, installing it again changes nothing; another one is refused."""
        from twisted.internet import reactor

        seconds = reactor.seconds
        _reactor.install()
        self.assertIs(reactor.seconds, seconds)
        self.patch(sys.modules["twisted.internet"], "reactor", Clock())
        error = self.assertRaises(ReactorError, _reactor.install)
        self.assertIn("needs the asyncio reactor, found Clock; leave --reactor out", str(error))

    def test_first(self):
        """Where none is there, one is made on a loop of its own, which is the thread's loop."""
        made = []
        other = SimpleNamespace()
        self.patch(_reactor, "asyncioreactor", SimpleNamespace(
            install=made.append, AsyncioSelectorReactor=SimpleNamespace))  # fmt: skip
        self.patch(asyncio, "set_event_loop", made.append)
        self.patch(_reactor, "_new_event_loop", lambda: "loop")
        modules = dict(sys.modules)
        del modules["twisted.internet.reactor"]
        self.patch(_reactor, "sys", SimpleNamespace(modules=modules))
        self.patch(sys.modules["twisted.internet"], "reactor", other)
        _reactor.install()
        self.assertEqual(made, ["loop", "loop"])
        self.assertLess(abs(other.seconds() - time.time()), 60)

    def test_without_uvloop(self):
        """Where uvloop is not there, asyncio's own loop serves."""
        with mock.patch.dict(sys.modules, {"uvloop": None}):
            loop = _reactor._new_event_loop()
        self.addCleanup(loop.close)
        self.assertIsInstance(loop, asyncio.SelectorEventLoop)

    def test_on_uvloop(self):
        """On uvloop timers are rounded up to milliseconds, and Twisted's reads pass by its old log."""
        calls = []

        class Loop:
            def call_later(self, *args, **fields):
                calls.append((args, fields))
                return "timer"

            def add_reader(self, *args):
                calls.append(args)

        with mock.patch.dict(sys.modules, {"uvloop": SimpleNamespace(Loop=Loop)}):
            loop = _reactor._new_event_loop()
        for delay, rounded in ((0.0, 0.0), (0.0001, 0.001), (0.0011, 0.002), (0.25, 0.25), (9.9991, 10.0)):
            self.assertEqual(loop.call_later(delay, "work", 1, context="context"), "timer")
            self.assertEqual(calls.pop(), ((rounded, "work", 1), {"context": "context"}))
        loop.call_later(1, "work")
        self.assertEqual(calls.pop(), ((1.0, "work"), {"context": None}))
        loop.add_reader(7, callWithLogger, "logger", "read", "more", "and more")
        loop.add_reader(7, "other", "more")
        self.assertEqual(calls, [(7, "read", "more", "and more"), (7, "other", "more")])

    def test_wall_clock(self):
        """Its seconds go on from the wall clock's time, and follow no step of that."""
        times = {"wall": 1000.0, "steady": 5.0}
        self.patch(_reactor, "time", SimpleNamespace(
            time=lambda: times["wall"], monotonic=lambda: times["steady"]))  # fmt: skip
        clock = SimpleNamespace()
        _reactor._leave_the_wall_clock(clock)
        self.assertEqual(clock.seconds(), 1000.0)
        times.update(wall=-3600.0, steady=7.0)
        self.assertEqual(clock.seconds(), 1002.0)


class BridgeTests(SynchronousTestCase):
    """Short ways to the loop."""

    def test_soon_of(self):
        """Only a reactor on an asyncio loop has a short way to the end of a turn."""
        from twisted.internet import reactor

        self.assertIsNone(bridge.soon_of(Clock()))
        if isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
            self.assertIsNotNone(bridge.soon_of(reactor))

    def test_before_the_reactor_runs(self):
        """Work that is begun before the loop runs is done once it does; a future stays on its own loop."""
        loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
        self.addCleanup(loop.close)
        self.addCleanup(other.close)
        self.patch(asyncio, "get_event_loop", lambda: loop)

        async def work():
            return asyncio.get_running_loop()

        done = bridge.from_asyncio(work())
        future = other.create_future()
        elsewhere = bridge.from_asyncio(future)
        self.assertNoResult(done)
        loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(loop.stop)))
        loop.run_forever()
        self.assertIs(self.successResultOf(done), loop)
        self.assertNoResult(elsewhere)
        future.set_result(5)
        other.call_soon(other.stop)
        other.run_forever()
        self.assertEqual(self.successResultOf(elsewhere), 5)

    def test_ways(self):
        """At the end of this turn, after some seconds, from another thread: all on the thread's loop."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        self.patch(asyncio, "get_event_loop", lambda: loop)
        ran = []
        bridge.soon()(lambda: ran.append("soon"))
        bridge.soon()(lambda: ran.append("never")).cancel()
        bridge.call_from_thread()(lambda: ran.append("from a thread"))
        bridge.later()(0.001, lambda: ran.append("later") or loop.stop())
        loop.run_forever()
        self.assertEqual(ran, ["soon", "from a thread", "later"])
