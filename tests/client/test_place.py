"""Clients where they cannot work: in a forked child, on another loop, without a loop. They say so at once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import warnings

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import AsyncClient, connect_blocking, place
from loghouse.client.place import Place
from loghouse.errors import ClientUseError
from tests.client.fake import FakeCase
from tests.fakes.tasks import asynchronous, until

SECONDS = 20


def in_child(*uses):
    """Return (type name, text) of what each use raises in a forked child, or None."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a program with threads
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        told = []
        for use in uses:
            try:
                use()
                told.append(None)
            except BaseException as error:
                told.append((type(error).__name__, str(error)))
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung"
    return json.loads(told)


def step(coroutine):
    """Run a coroutine to its first wait, as whatever loop runs here would."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


class ForkTests(FakeCase):
    """A child that the parent's clients came along to by a fork."""

    def check(self, told, own=0):
        for one in told[: len(told) - own]:
            self.assertEqual(one and one[0], "ClientUseError", told)
            self.assertIn(f"belongs to process {os.getpid()}, which forked", one[1])
        self.assertEqual(told[len(told) - own :], [None] * own)

    @asynchronous
    async def test_blocking(self):
        """Calls, producers, deliveries and readers fail at once; closing in the child harms nobody."""
        cluster = await self.cluster(1)

        def use():
            with connect_blocking(cluster.target) as log:
                log.append(b"a")
                log.append(b"b")
                producer = log.producer(linger_ms=60_000)
                delivery = producer.append(b"c")
                records = log.read(0, follow=True)
                self.assertEqual(next(records).value, b"a")
                told = in_child(
                    lambda: log.append(b"x"),
                    log.bounds,
                    lambda: producer.append(b"x"),
                    producer.flush,
                    delivery.offset,
                    lambda: next(records),
                    lambda: next(log.read(0)),
                    log.producer,
                    producer.abort,
                    log.close,
                )
                self.check(told, own=2)
                producer.flush()
                self.assertEqual((delivery.offset(), next(records).value), (2, b"b"))

        await asyncio.to_thread(use)
        self.assertEqual(cluster.values, [b"a", b"b", b"c"])

    @asynchronous
    async def test_asyncio(self):
        """The same on a loop, in the child's own as in none."""
        _, log = await self.connected(1)
        await log.append(b"a")
        producer = log.producer(linger_ms=60_000)
        delivery = await producer.append(b"b")
        records = log.read(0, follow=True)
        await anext(records)

        async def wait_for(one):
            return await one

        def uses(run):
            return [
                lambda: run(log.append(b"x")),
                lambda: run(log.bounds()),
                lambda: run(producer.append(b"x")),
                lambda: run(producer.flush()),
                lambda: run(wait_for(delivery)),
                lambda: run(log.producer().append(b"x")),
                lambda: run(wait_for(anext(log.read(0)))),
                lambda: run(wait_for(anext(records))),
            ]

        self.check(in_child(*uses(step)[:-1]))
        await producer.flush()
        self.assertEqual(await delivery, 1)
        await records.aclose()

    @asynchronous
    async def test_child_makes_its_own(self):
        """A client that the child makes works, beside the parent's; at its end it flushes only its own."""
        cluster = await self.cluster(1)
        program = """
import os, sys
from loghouse.client import connect_blocking
log = connect_blocking(sys.argv[1])
log.append(b"parent")
producer = log.producer(linger_ms=60_000)
producer.append(b"parent, late")
if not os.fork():
    connect_blocking(sys.argv[1]).producer(linger_ms=60_000).append(b"child")
    sys.exit()
os.wait()
"""
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program, cluster.target], capture_output=True, timeout=60
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(cluster.values, [b"parent", b"child", b"parent, late"])


class LoopTests(FakeCase):
    """An asyncio client and the loops that there are."""

    def on_another_loop(self, work):
        """Run a coroutine function on a loop of another thread; return what it raises."""
        raised = []

        def run():
            try:
                asyncio.run(asyncio.wait_for(work(), SECONDS))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return raised[0] if raised else None

    @asynchronous
    async def test_another_loop(self):
        """Everything says at once that it belongs to the first loop, which goes on."""
        _, log = await self.connected(1)
        producer = log.producer(linger_ms=60_000)
        delivery = await producer.append(b"a")
        records = log.read(0, follow=True)
        reading = asyncio.ensure_future(anext(records))
        for work in (
            lambda: log.append(b"x"),
            log.bounds,
            log.servers,
            log.close,
            lambda: log.producer().append(b"x"),
            lambda: producer.append(b"x"),
            producer.flush,
            producer.close,
            lambda: anext(log.read(0)),
            lambda: asyncio.wait_for(delivery, 5),
        ):

            async def use(work=work):
                await work()

            error = await asyncio.to_thread(self.on_another_loop, use)
            self.assertIsInstance(error, ClientUseError)
            self.assertIn("on another asyncio loop before", str(error))
        await producer.flush()
        self.assertEqual((await delivery, (await reading).value), (0, b"a"))
        await records.aclose()

    def test_no_loop(self):
        """Where no loop runs, as on a reactor of another kind, the way out is named."""
        log = AsyncClient("127.0.0.1:1")
        producer = log.producer()
        for work in (log.append(b"x"), log.bounds(), log.servers(), producer.append(b"x"), producer.flush()):
            error = self.assertRaises(ClientUseError, step, work)
            self.assertIn("no asyncio loop runs here", str(error))
            self.assertIn("connect_blocking", str(error))
        self.assertIsInstance(error, RuntimeError)

    @asynchronous
    async def test_no_task(self):
        """Where a loop runs but no task of it, as in a coroutine of Twisted, the way out is named as well."""
        _, log = await self.connected(1)
        producer = log.producer(linger_ms=60_000)
        delivery = await producer.append(b"a")
        told = []

        def use():
            works = log.append(b"x"), log.bounds(), anext(log.read(0)), delivery, producer.flush()
            told.extend(self.assertRaises(ClientUseError, next, work.__await__()) for work in works)

        asyncio.get_running_loop().call_soon(use)
        await until(lambda: len(told) == 5)
        self.assertEqual({"loghouse.client.deferred.connect" in str(error) for error in told}, {True})
        await producer.close()


class ForkCountTests(SynchronousTestCase):
    """How a child is told from its parent."""

    def test_forked(self):
        """What was made before a fork is elsewhere after it; what is made in the child is at home."""
        self.patch(place, "_fork_count", place._fork_count)
        parents = Place()
        parents.check_process()
        place._forked()
        childs = Place()
        self.assertEqual((parents.is_elsewhere, childs.is_elsewhere), (True, False))
        childs.check_process()
        text = str(self.assertRaises(ClientUseError, parents.check_process))
        self.assertIn("which forked this one", text)
