"""The reactor's loop: timers that come when they are due and not before, reads by the short way."""

import asyncio
import signal
import socket
from unittest import SkipTest

from twisted.internet import reactor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.log import ILogContext, callWithLogger, context
from twisted.trial.unittest import SynchronousTestCase, TestCase

from loghouse.runtime import reactor as _reactor


class TimerTests(SynchronousTestCase):
    """Timers of the loop under the reactor."""

    def setUp(self):
        self.loop = _reactor._new_event_loop()
        self.addCleanup(self.loop.close)
        if isinstance(self.loop, asyncio.SelectorEventLoop):
            raise SkipTest("no uvloop here; asyncio's own timers are exact")

    def start(self, start, delay):
        """Start a timer while the loop's clock stands still; return it and the time."""
        while True:
            now = self.loop.time()
            handle = start(delay, list)
            if self.loop.time() == now:
                return handle, now
            handle.cancel()

    def start_at(self, delay, work):
        return self.loop.call_at(self.loop.time() + delay, work)

    def test_never_early(self):
        """A timer is due at its time or less than a millisecond behind it, never before."""
        for delay in (0.0001, 0.0004, 0.0005, 0.001, 0.0014, 0.0209):
            for start in (self.loop.call_later, self.start_at):
                handle, now = self.start(start, delay)
                late = handle.when() - now - delay
                self.assertTrue(-1e-9 <= late < 0.001 + 1e-9, (delay, late))
                handle.cancel()

    def test_no_time(self):
        """No time at all is the next turn of the loop."""
        ran = []
        self.loop.call_later(0, ran.append, 1)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.assertEqual(ran, [1])


class SignalTests(TestCase):
    """Signals to a run of the tests."""

    def test_they_end_the_run(self):
        """The reactor takes none for itself: it would stop in whichever test runs it next, and for good."""

        def check(_):
            handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            self.assertEqual(handlers, [signal.default_int_handler, signal.SIG_DFL])

        return deferLater(reactor, 0, lambda: None).addCallback(check)


class ReadTests(TestCase):
    """What the loop does when a socket has bytes."""

    def test_without_a_logging_context(self):
        """Twisted's readers are called as they would be, but not within a context of their own."""
        loop = _reactor._new_event_loop()
        self.addCleanup(loop.close)
        if isinstance(loop, asyncio.SelectorEventLoop):
            raise SkipTest("no uvloop here")
        seen = []

        class Reader:
            def logPrefix(self):
                return "reader"

        def read(reader, is_read):
            here.recv(1)
            seen.append((reader, is_read, context.get(ILogContext)["system"] == "reader"))
            loop.stop()

        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        reader = Reader()
        loop.add_reader(here.fileno(), callWithLogger, reader, read, reader, True)
        there.send(b"x")
        loop.run_forever()
        loop.remove_reader(here.fileno())
        self.assertEqual(seen, [(reader, True, False)])

    def test_error_of_a_protocol(self):
        """A protocol that raises loses its connection, and is logged; the reactor goes on."""
        if not isinstance(reactor, AsyncioSelectorReactor):
            raise SkipTest("another reactor")
        lost = Deferred()

        class Bad(Protocol):
            def dataReceived(self, data):
                raise ZeroDivisionError

            def connectionLost(self, reason):
                lost.callback(reason.type)

        port = reactor.listenTCP(0, Factory.forProtocol(Bad), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(client.close)
        client.send(b"x")

        def check(reason):
            self.assertIs(reason, ZeroDivisionError)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

        return lost.addCallback(check)
