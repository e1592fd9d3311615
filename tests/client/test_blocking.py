"""The client without a loop of one's own, part by part: what it hands to the other one, what it waits for.

Its loop is one with a clock of its own, in the same thread.
"""

import asyncio
import logging
import warnings
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import asynchronous, blocking, blocking_producer, exiting
from loghouse.client.asynchronous import AsyncClient, connect
from loghouse.client.batching import ProducerLedger
from loghouse.client.blocking import BlockingLog, Client, connect_blocking
from loghouse.client.blocking_producer import OpenClient, Pending
from loghouse.client.loop_thread import LoopThread
from loghouse.client.place import Place
from loghouse.errors import (
    ClosedError,
    InvalidRequestError,
    UnavailableError,
)
from tests.fakes.clock_loop import ClockLoop


class Thread:
    """In the place of `LoopThread`: runs what it is given at once, on a loop with a clock of its own."""

    def __init__(self):
        self.loop = ClockLoop()
        self.noted = []
        self.is_closed = False

    def run(self, work):
        if self.is_closed:
            work.close()
            raise ClosedError("the client is closed")
        self.loop.restart()
        return self.loop.run_until_complete(work)

    soon, _soon = LoopThread.soon, LoopThread._soon

    def begin(self, work, ended):
        self.loop.call_soon(lambda: self.loop.create_task(work).add_done_callback(ended))

    def close(self, last):
        self.noted.append(("close", last))
        self.is_closed = True

    def close_soon(self, last):
        self.noted.append(("close soon", last))

    def join(self, seconds):
        self.noted.append(("join", seconds))


class Inner:
    """In the place of `AsyncClient`: every call answers with its name and what it was given."""

    def __getattr__(self, name):
        async def call(*given, **options):
            return name, given, options

        return call

    def read_answers(self, *given, **options):
        self.asked = given, options
        self.has_ended = False
        return self._answers()

    async def _answers(self):
        try:
            for batches in ("ab", "", "c"):
                yield iter(batches)
        finally:
            self.has_ended = True


class ThreadCase(SynchronousTestCase):
    """Every blocking client's thread is a `Thread`."""

    def setUp(self):
        self.threads = []
        self.patch(blocking_producer, "LoopThread", self.make_thread)
        self.addCleanup(exiting._open.clear)
        self.addCleanup(self.end_threads)

    def make_thread(self):
        self.threads.append(Thread())
        return self.threads[-1]

    def end_threads(self):
        for loop in [thread.loop for thread in self.threads if not thread.loop.is_closed()]:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.restart()
            loop.run_until_complete(asyncio.sleep(1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def wrapped(self):
        client = connect_blocking("h1:1")
        client._client = Inner()
        self.addCleanup(client._dropped.detach)
        return client


class ClientTests(ThreadCase):
    """`Client`."""

    def test_calls(self):
        """Each call is the asyncio client's, with what it was given."""
        client = self.wrapped()
        for name in (
            "append", "bounds", "find_offset", "servers", "status", "add", "remove", "leave",
            "transfer", "trim",
        ):  # fmt: skip
            method = getattr(Client, name)
            is_of_log = hasattr(BlockingLog, name)
            owner, inner = ("BlockingLog", "AsyncLog") if is_of_log else ("Client", "AsyncClient")
            self.assertEqual(
                (method.__name__, method.__qualname__, method.__module__),
                (name, f"{owner}.{name}", "loghouse.client.blocking"),
            )
            self.assertTrue(method.__doc__.endswith(f"; see `{inner}.{name}`."))
            self.assertIs(method.__wrapped__, getattr(AsyncClient, name))
        self.assertEqual(
            client.append_batch((b"a", b"b")),
            (
                "append_batch",
                ([b"a", b"b"],),
                {"compression": "none", "expect_offset": None, "cursor": None, "timeout_seconds": None},
            ),
        )
        self.assertEqual(
            client.append_batch(iter([b"a"]), compression="zstd", expect_offset=7, timeout_seconds=2)[2],
            {"compression": "zstd", "expect_offset": 7, "cursor": None, "timeout_seconds": 2},
        )
        self.assertRaises(InvalidRequestError, client.append_batch, b"a")

    def test_calls_wait(self):
        """A call runs on the thread's loop, with all that it was given, and its result is returned."""
        client = connect_blocking("h1:1")
        self.addCleanup(client._dropped.detach)
        noted = []

        async def administer(*given, **options):
            noted.append((given, options))
            return SimpleNamespace(leader="n2", lowest=5)

        client._client._administer = administer
        self.assertEqual(client.transfer("n2", timeout_seconds=3), "n2")
        self.assertEqual(client.trim(4), 5)
        self.assertIsNone(client.add("n3", learner=True))
        self.assertEqual(
            [(given[0], given[2]) for given, _ in noted], [("Transfer", 3), ("Trim", None), ("Add", None)]
        )
        self.assertTrue(noted[2][0][1].learner)

    def test_reads(self):
        """Batches come as they are iterated; reading ends with the answers, or when it is left."""
        client = self.wrapped()
        self.assertEqual(list(client.read_batches()), ["a", "b", "c"])
        self.assertEqual(client._client.asked, (("earliest",), {}))
        self.assertTrue(client._client.has_ended)
        reading = client.read_batches(5, follow=True, timeout_seconds=3)
        self.assertEqual(next(reading), "a")
        self.assertEqual(client._client.asked, ((5,), {"follow": True, "timeout_seconds": 3}))
        self.assertFalse(client._client.has_ended)
        reading.close()
        self.assertTrue(client._client.has_ended)

    def test_records(self):
        """Records are those of the batches."""
        client = self.wrapped()
        given = []

        def read_batches(*asked, **options):
            given.append((asked, options))
            return iter(["ab", "c"])

        client.read_batches = read_batches
        self.assertEqual(list(client.read()), ["a", "b", "c"])
        self.assertEqual(list(client.read(3, follow=True, timeout_seconds=1)), ["a", "b", "c"])
        self.assertEqual(
            given,
            [
                (("earliest",), {}),
                ((3,), {"follow": True, "timeout_seconds": 1}),
            ],
        )

    def test_closed_while_reading(self):
        """Leaving a reading whose client is closed is no error."""
        client = self.wrapped()
        reading = client.read_batches()
        self.assertEqual(next(reading), "a")
        client._open.thread.is_closed = True
        reading.close()
        self.assertRaises(UnavailableError, next, client.read_batches())

    def test_close(self):
        """Its end is its block's; it is not closed once more when it is dropped, nor by the interpreter."""
        with connect_blocking("h1:1") as client:
            opened = client._open
            self.assertFalse(client._dropped.atexit)
            self.assertTrue(client._dropped.alive)
            self.assertEqual(exiting._open, {opened})
        self.assertFalse(client._dropped.alive)
        self.assertEqual(exiting._open, set())
        self.assertEqual([name for name, _ in opened.thread.noted], ["close", "join"])

    def test_dropped(self):
        """A client that is dropped closes by itself once all is sent."""
        client = connect_blocking("h1:1")
        opened = client._open
        del client
        self.assertEqual([name for name, _ in opened.thread.noted], ["close soon"])

    def test_settings(self):
        """What connects hands over every setting."""
        options = {
            "tls": "tls", "log": "l", "timeout_seconds": 3.0, "is_direct": True, "transport": "grpc",
            "cluster": "c", "tracing": True,
        }  # fmt: skip
        made = []

        def make(target, **given):
            made.append((target, given))
            return object()

        self.patch(asynchronous, "AsyncClient", make)
        connect("h1:1", **options)
        self.patch(blocking, "Client", make)
        connect_blocking("h2:2", **options)
        self.assertEqual(made, [("h1:1", options), ("h2:2", options)])
        made.clear()
        connect("h1:1")
        plain = {
            "tls": None, "log": "", "timeout_seconds": 30.0, "is_direct": False, "transport": "binary",
            "cluster": "", "tracing": False,
        }  # fmt: skip
        self.assertEqual(made, [("h1:1", plain)])


class Sending:
    """A producer's sending task: it runs until it is told to end."""

    def __init__(self):
        self.noted = []
        self.ends = asyncio.Event()

    async def run(self):
        self.noted.append("run")
        await self.ends.wait()

    def finish(self):
        self.noted.append("finish")
        self.ends.set()

    def wake(self):
        self.noted.append("wake")


class OpenTests(ThreadCase):
    """`OpenClient`, and what the interpreter's end does with it."""

    def opened(self):
        client = AsyncClient("h1:1")
        opened = OpenClient(client)
        self.pending = [Pending(ProducerLedger(100), Place()) for _ in range(2)]
        self.waits = []
        for number, pending in enumerate(self.pending):
            pending.wait = lambda until, number=number: self.waits.append((number, until)) or f"left {number}"
        return opened

    def turn(self, opened):
        opened.thread.run(asyncio.sleep(0.1))

    def test_tasks(self):
        """A producer's task is one of its client's, and is forgotten when it ends."""
        opened = self.opened()
        sending = Sending()
        task = opened.begin(self.pending[0], sending)
        self.turn(opened)
        self.assertEqual(
            (sending.noted, list(opened._running.values())), (["run"], [(self.pending[0], sending)])
        )
        self.assertIn(task, opened.client.calls._tasks)
        sending.ends.set()
        self.turn(opened)
        self.assertEqual((opened._running, task.done()), ({}, True))

    def test_flush(self):
        """Every producer is told to finish first, then each is waited for; what is left is told."""
        opened = self.opened()
        opened.finish(10.0)
        self.assertEqual(opened.flush(5.0), "")
        opened = self.opened()
        sendings = [Sending(), Sending()]
        for pending, sending in zip(self.pending, sendings, strict=True):
            opened.begin(pending, sending)
        opened.finish(10.0)
        self.assertEqual(opened.flush(5.0), "left 0; left 1")
        self.assertEqual(self.waits, [(0, 5.0), (1, 5.0)])
        self.turn(opened)
        self.assertEqual([sending.noted for sending in sendings], [["run", "finish"]] * 2)
        self.turn(opened)
        self.assertEqual((opened._running, opened._consumers_end.wait(6.0)), ({}, ""))

    def test_close(self):
        """The thread runs the client's own end; it is joined up to a moment, and not waited for otherwise."""
        self.patch(blocking_producer, "time", SimpleNamespace(monotonic=lambda: 10.0))
        for until, seconds in ((12.5, 2.5), (9.0, 0.0), (None, 0.0)):
            opened = self.opened()
            self.assertEqual(exiting._open, {opened})
            opened.close(*([] if until is None else [until]))
            [(_, last), joined] = opened.thread.noted
            if until is None:
                self.assertEqual(last, opened.client.close)
            else:
                self.assertEqual(
                    (last.func, last.args), (opened.client.cluster_calls.close_within, (seconds,))
                )
            self.assertEqual(joined, ("join", seconds))
            self.assertEqual(exiting._open, set())

    def test_elsewhere(self):
        """In a forked child nothing is closed: all is the parent's."""
        opened = self.opened()
        opened.client.calls.place = SimpleNamespace(is_elsewhere=True)
        opened.close()
        opened.close_soon()
        self.assertEqual((opened.thread.noted, exiting._open), ([], {opened}))

    def test_close_soon(self):
        """Once everything is sent the client closes, and is forgotten."""
        opened = self.opened()
        ended = []

        async def close():
            ended.append(sending.noted[-1])

        opened.client.close = close
        sending = Sending()
        opened.begin(self.pending[0], sending)
        opened.close_soon()
        ((name, last),) = opened.thread.noted
        self.assertEqual(name, "close soon")
        opened.thread.run(last())
        self.assertEqual((ended, opened._running, exiting._open), (["finish"], {}, set()))
        opened = self.opened()
        opened.client.close = lambda: asyncio.sleep(1.0)
        opened.thread.run(opened._send_and_close())
        self.assertEqual(opened.thread.loop.time(), 1.0)

    def test_loop_is_closed(self):
        """What is to be done on a loop that is closed is let be."""
        opened = self.opened()
        opened.thread.loop.close()
        opened.soon(print)

    def test_exit(self):
        """All clients together have ten seconds; what one leaves is said, and each is closed."""
        self.patch(exiting, "time", SimpleNamespace(monotonic=lambda: 100.0))
        noted, texts = [], []

        class Client:
            def __init__(self, left):
                self.left = left

            def finish(self, seconds):
                noted.append(("finish", seconds))

            def flush(self, until):
                noted.append(("flush", until))
                if isinstance(self.left, BaseException):
                    raise self.left
                return self.left

            def close(self, until):
                noted.append(("close", until))

        handler = logging.Handler()
        handler.emit = lambda record: texts.append((record.levelname, record.getMessage()))
        logging.getLogger("loghouse.client").addHandler(handler)
        self.addCleanup(logging.getLogger("loghouse.client").removeHandler, handler)
        for left, count in (("", 0), ("7 records were lost", 1), (KeyboardInterrupt(), 0)):
            noted.clear()
            texts.clear()
            exiting._open.clear()
            exiting.opened(Client(left))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    exiting.flush_all()
                except KeyboardInterrupt:
                    self.assertIsInstance(left, KeyboardInterrupt)
            self.assertEqual(noted, [("finish", 10.0), ("flush", 110.0), ("close", 110.0)])
            text = f"a producer or consumer was not closed before the interpreter ended: {left}"
            self.assertEqual(texts, [("ERROR", text)] * count)
            self.assertEqual(
                [(one.category, str(one.message)) for one in caught], [(ResourceWarning, text)] * count
            )
