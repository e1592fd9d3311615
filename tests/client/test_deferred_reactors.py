"""The client for Twisted programs, each a process of its own, on the reactors that Twisted has.

And what becomes of the asyncio client there, where it cannot work.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.client.fake import FakeCase
from tests.fakes.tasks import asynchronous
from tests.processes import in_children

ROOT = Path(__file__).resolve().parent.parent.parent
REACTORS = ("select", "epoll", "asyncio")
SECONDS_MAX = 60

INSTALL = """
import sys, importlib
importlib.import_module(f"twisted.internet.{sys.argv[1]}reactor").install()
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, inlineCallbacks
from twisted.internet.task import react
target = sys.argv[2]
"""

EVERYTHING = """
import threading
from loghouse.client.deferred import connect
from loghouse.errors import ExpectOffsetError

async def main(reactor):
    async with connect(target) as log:
        await log.append(b"a")
        async with log.producer(linger_ms=1) as producer:
            for number in range(100):
                delivery = await producer.append(b"%d" % number)
        assert await delivery == 100
        values = [record.value async for record in log.read(1)]
        assert values == [b"%d" % number for number in range(100)], values
        assert [record.value for record in await log.newest(1)] == [b"99"]
        seen = []
        following = log.read_each(lambda record: seen.append(record.value), "latest", follow=True)
        while not seen:
            await log.append(b"z")
        following.cancel()
        await following.addErrback(lambda failure: failure.trap(CancelledError))
        await log.append(b"y", expect_offset=5).addErrback(lambda failure: failure.trap(ExpectOffsetError))
    assert [one for one in threading.enumerate() if one.name == "loghouse client"] == []
    print(type(reactor).__name__)

react(main)
"""

STOP = """
from loghouse.client.deferred import connect

async def main():
    log = connect(target)
    producer = log.producer(linger_ms=60_000)
    for number in range(3):
        await producer.append(b"%d" % number)
    log.read_each(lambda record: None, follow=True).addErrback(lambda failure: print(failure.type.__name__))
    log.append(b"under way").addCallback(lambda offset: print("appended"))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: log.append(b"last words"))
    await log.bounds()
    STOPPED_BY
    keep.append(producer)

keep = []
reactor.callWhenRunning(lambda: ensureDeferred(main()))
reactor.run()
print("stopped")
"""

MISUSED = """
import warnings
warnings.simplefilter("error")
from loghouse.client import connect
from loghouse.errors import ClientUseError

log = connect(target)
producer = connect(target).producer(linger_ms=0)

async def block():
    async with connect(target) as log:
        pass

async def read():
    async for record in log.read():
        pass

async def follow():
    async for record in log.read(0, follow=True):
        pass

async def produce():
    delivery = await producer.append(b"x")
    await delivery

async def fill():
    narrow = connect(target).producer(linger_ms=0, buffer_bytes=1)
    for _ in range(2):
        await narrow.append(b"x")

@inlineCallbacks
def yielded():
    yield log.append(b"x")

WAYS = {
    "append": lambda: log.append(b"x"),
    "bounds": lambda: log.bounds(),
    "servers": lambda: log.servers(),
    "cursors": lambda: log.cursors().list(),
    "newest": lambda: log.newest(1),
    "read_page": lambda: log.read_page(0, consistency="local"),
    "block": block, "read": read, "follow": follow, "produce": produce, "fill": fill,
    "flush": lambda: narrow_flush(),
    "yielded": yielded,
}

async def narrow_flush():
    one = connect(target).producer(linger_ms=60_000)
    await one.append(b"x")
    await one.flush()

async def main(reactor):
    for name, way in WAYS.items():
        begun = reactor.seconds()
        work = way()
        work = work if isinstance(work, Deferred) else ensureDeferred(work)
        try:
            await work
        except ClientUseError as error:
            assert "loghouse.client.deferred.connect" in str(error), error
        else:
            raise AssertionError(name)
        assert work.called
    print("told", len(WAYS))

react(main)
"""


MINE = """\
from twisted.trial.unittest import TestCase
from loghouse.client.deferred import connect

class Tests(TestCase):
    def setUp(self):
        self.log = connect("TARGET")
        self.addCleanup(self.log.close)

    async def test_append(self):
        offset = await self.log.append(b"a")
        [record] = [record async for record in self.log.read(offset, limit=1)]
        self.assertEqual(record.value, b"a")

    def test_callbacks(self):
        return self.log.append(b"b").addCallback(self.assertGreaterEqual, 0)
"""


class ReactorTests(FakeCase):
    """Each program on each reactor."""

    async def run_on(self, reactor, program, target):
        """Run a program on a reactor; return its lines."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", INSTALL + program, reactor, target],
            capture_output=True, text=True, timeout=SECONDS_MAX, cwd=ROOT,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (0, ""), reactor)
        return done.stdout.splitlines()

    def folder_with(self, tests):
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        (folder / "test_mine.py").write_text(tests)
        return folder

    @in_children
    @asynchronous
    async def test_everything(self):
        """Appends, producers, readings and errors; no thread is left."""
        names = []
        for reactor in REACTORS:
            cluster = await self.cluster(3, len(names) + 1)
            names += await self.run_on(reactor, EVERYTHING, cluster.target)
        self.assertEqual(names, ["SelectReactor", "EPollReactor", "AsyncioSelectorReactor"])

    @in_children
    @asynchronous
    async def test_stopped(self):
        """By reactor.stop and by a signal: what is under way and what was taken is in the log first."""
        ways = ("reactor.stop()", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
        number = 0
        for reactor in REACTORS:
            for way in ways:
                number += 1
                cluster = await self.cluster(1, number)
                lines = await self.run_on(reactor, STOP.replace("STOPPED_BY", way), cluster.target)
                self.assertEqual(sorted(lines[:-1]), ["ClosedError", "appended"], (reactor, way))
                self.assertEqual(lines[-1], "stopped")
                wanted = [b"0", b"1", b"2", b"last words", b"under way"]
                self.assertEqual(sorted(cluster.values), wanted, (reactor, way))

    @in_children
    @asynchronous
    async def test_misused(self):
        """The asyncio client in coroutines of Twisted, on any reactor: each way says at once what to use."""
        cluster = await self.cluster(1)
        for reactor in REACTORS:
            self.assertEqual(await self.run_on(reactor, MISUSED, cluster.target), ["told 13"])

    @in_children
    @asynchronous
    async def test_under_trial(self):
        """In somebody's tests under trial, on a reactor that trial chose: nothing is left behind."""
        cluster = await self.cluster(1)
        folder = self.folder_with(MINE.replace("TARGET", cluster.target))
        for reactor in REACTORS:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "twisted.trial", f"--reactor={reactor}", "test_mine"],
                capture_output=True, text=True, timeout=SECONDS_MAX, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("PASSED (successes=2)", done.stdout)
        self.assertEqual(sorted(cluster.values), [b"a"] * 3 + [b"b"] * 3)
