"""Consumers that nobody closes: they end with their client, together; those that are dropped let go."""

import asyncio
import gc
import subprocess
import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import asynchronous, blocking_consumer, connect_blocking
from loghouse.client.blocking_consumer import ConsumersEnd
from loghouse.client.open_consumers import OpenConsumers
from loghouse.errors import ClosedError, CursorHeldError
from tests.client.fake import FakeCase
from tests.client.test_group_consuming import GroupCase
from tests.fakes.node import HANG
from tests.fakes.tasks import asynchronous as on_loop
from tests.fakes.tasks import until
from tests.processes import in_children

NAMES = ("billing", "shipping", "audit")
SECONDS_MAX = 60


@contextmanager
def collected(kind=ResourceWarning):
    """Collect what is warned of, and garbage at the end."""
    told = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
        gc.collect()
        told += [str(one.message) for one in caught if one.category is kind]


class OpenCase(FakeCase):
    """Fake nodes whose log has records a and b."""

    async def begin(self):
        self.cluster_, self.log = await self.connected(1)
        self.kept = []
        await self.log.append_batch([b"a", b"b"])

    async def entered(self, client, name="billing", done=0, **options):
        """Return a consumer that has its cursor, and has done so many records."""
        consumer = await client.consumer(name, commit_seconds=3600, **options).__aenter__()
        await consumer.acquire()
        consumer.done(done)
        self.kept.append(consumer)
        return consumer

    async def cursor(self, name="billing"):
        found = await self.log.cursors().get(name)
        return found.position, found.holder


class CloseTests(OpenCase):
    """A client that closes before its consumers."""

    @on_loop
    async def test_committed(self):
        """What is done is committed, and each cursor free; leaving a consumer's block does nothing then."""
        other = self.connect(self.cluster_.target)
        consumers = [await self.entered(other, name, number) for number, name in enumerate(NAMES)]
        standing_by = await other.consumer("billing").__aenter__()
        await self.raises(CursorHeldError, standing_by.acquire(wait_seconds=0))
        await other.close()
        for number, name in enumerate(NAMES):
            self.assertEqual(await self.cursor(name), (number, ""))
        for consumer in (*consumers, standing_by):
            await self.raises(ClosedError, consumer.commit())
            with collected() as told:
                await consumer.__aexit__(None, None, None)
                consumer.__del__()
            self.assertEqual(told, [])
        self.assertEqual(len(other.calls.consumers), 0)

    @on_loop
    async def test_together(self):
        """All have one time together: each is asked for, and what could not be committed is told."""
        self.patch(asynchronous, "LEAVE_SECONDS", 0.3)
        other = self.connect(self.cluster_.target)
        for number, name in enumerate(NAMES):
            await self.entered(other, name, number)
        node = self.cluster_.nodes[0]
        node.faults["Advance"] = [HANG] * 100
        with self.assertLogs("loghouse.client", "ERROR") as logged:
            await other.close()
        self.assertEqual(node.count("Advance"), 2)  # of that which is at 0 there is nothing to commit
        for name in NAMES:
            is_told = f"not committed in cursor '{name}'" in logged.output[-1]
            self.assertEqual(is_told, name != "billing", logged.output)

    @on_loop
    async def test_lost(self):
        """A cursor that another one has by now is told of, with the reason."""
        other = self.connect(self.cluster_.target)
        await self.entered(other, done=1)
        await self.log.cursors().set("billing", 0)
        with self.assertLogs("loghouse.client", "ERROR") as logged:
            await other.close()
        self.assertRegex(logged.output[-1], r"not committed in cursor 'billing' \(.+\)")

    @on_loop
    async def test_of_another_client(self):
        """A cursor that another client's log keeps ends with that one, which commits it."""
        keeping, reading = self.connect(self.cluster_.target), self.connect(self.cluster_.target)
        await keeping.create_log("bills", replicas=1)
        await self.entered(reading, done=1, into=keeping.log("bills"))
        await reading.close()
        await keeping.close()
        self.assertEqual((await self.log.log("bills").cursors().get("billing")).position, 1)


class DropTests(OpenCase):
    """Consumers that are dropped."""

    @on_loop
    async def test_standing_by(self):
        """One that waits for the cursor warns, and does not take it once that is free."""
        holder = await self.entered(self.log)
        other = self.connect(self.cluster_.target)
        waiting = await other.consumer("billing").__aenter__()
        await self.raises(CursorHeldError, waiting.acquire(wait_seconds=0))
        with collected() as told:
            del waiting
        self.assertIn("'billing' was dropped", *told)
        await until(lambda: not other.calls.consumers and not other.calls._tasks)
        await holder.close()
        self.assertEqual(await self.cursor(), (0, ""))

    @on_loop
    async def test_acquisition_under_way(self):
        """One that is dropped while it asks for the cursor lets it go as soon as it has it."""
        self.cluster_.nodes[0].faults["Acquire"] = [HANG]
        other = self.connect(self.cluster_.target)
        waiting = await other.consumer("billing").__aenter__()
        asking = asyncio.ensure_future(waiting.acquire())
        await until(lambda: self.cluster_.nodes[0].count("Acquire"))
        asking.cancel()
        await asyncio.wait({asking})
        with collected() as told:
            del waiting, asking
        self.assertIn("'billing' was dropped", *told)
        await until(lambda: not other.calls.consumers)
        self.assertEqual(await self.cursor(), (0, ""))

    @on_loop
    async def test_reading(self):
        """What a consumer that is dropped was reading is read no more."""
        node = self.cluster_.nodes[0]
        consumer = await self.entered(self.log, done=2)
        reading = asyncio.ensure_future(anext(aiter(consumer)))
        await until(lambda: node.waiters)
        reading.cancel()
        await asyncio.wait({reading})
        with collected() as told:
            del self.kept, consumer, reading
            await asyncio.sleep(0)  # generators that were left are closed by the loop
        await until(lambda: not node.waiters and not self.log.calls.consumers)
        self.assertEqual(len(told), 1)
        self.assertEqual(await self.cursor(), (2, ""))

    @on_loop
    async def test_lost(self):
        """What a consumer that is dropped could not commit is told."""
        consumer = await self.entered(self.log, done=1)
        await self.log.cursors().set("billing", 0)
        with collected(), self.assertLogs("loghouse.client", "WARNING") as logged:
            del self.kept, consumer
            gc.collect()
            await until(lambda: not self.log.calls.consumers)
        self.assertIn("a consumer that was dropped could not commit", logged.output[-1])

    @on_loop
    async def test_never_used(self):
        """One that never asked for its cursor has nothing to warn of."""
        consumer = await self.log.consumer("billing").__aenter__()
        with collected() as told:
            del consumer
        self.assertEqual(told, [])
        await until(lambda: not self.log.calls.consumers)


class GroupDropTests(GroupCase):
    """Members of groups."""

    @on_loop
    async def test_without_logs(self):
        """A member that is dropped before it has any log takes none any more."""
        await self.begin(["orders-0"])
        other = self.connect(self.cluster_.target)
        async with self.member() as one:
            await self.has(one, 1)
            two = await self.member(client=other).__aenter__()
            self.assertEqual(two.logs, [])
            with collected() as told:
                del two
            self.assertIn("'billing' was dropped", *told)
            await until(lambda: not other.calls.consumers and not other.calls._tasks)
        cursor = await self.client.log("orders-0").cursors().get("billing")
        self.assertEqual(cursor.holder, "")

    @on_loop
    async def test_closed_with_its_client(self):
        """What a member has done is committed when its client closes, and its logs are free."""
        await self.begin(["orders-0", "orders-1"])
        other = self.connect(self.cluster_.target)
        for name in ("orders-0", "orders-1"):
            await self.client.log(name).append(b"a")
        one = await self.member(client=other, commit_seconds=3600).__aenter__()
        await self.has(one, 2)
        async for record in one:
            one.done(record)
            if set(one.positions.values()) == {1}:
                break
        await other.close()
        for name in ("orders-0", "orders-1"):
            cursor = await self.client.log(name).cursors().get("billing")
            self.assertEqual((cursor.position, cursor.holder), (1, ""))


class BlockingTests(OpenCase):
    """`Client`."""

    @on_loop
    async def test_closed(self):
        """A client that closes before its consumers commits what they did."""

        def work():
            client = connect_blocking(self.cluster_.target, timeout_seconds=20)
            for number, name in enumerate(NAMES):
                consumer = client.consumer(name, commit_seconds=3600)
                consumer.__enter__()
                consumer.acquire()
                consumer.done(number)
                kept.append(consumer)
            client.close()

        kept = []
        await asyncio.to_thread(work)
        for number, name in enumerate(NAMES):
            self.assertEqual(await self.cursor(name), (number, ""))

    @on_loop
    async def test_dropped_with_its_client(self):
        """When nobody has the client any more either, what was done is committed first."""

        def work():
            consumer = connect_blocking(self.cluster_.target).consumer("billing", commit_seconds=3600)
            consumer.__enter__()
            consumer.acquire()
            consumer.done(1)
            thread = consumer._loop.thread
            with collected() as told:
                del consumer
            thread.join(SECONDS_MAX)
            self.assertFalse(thread._thread.is_alive())
            return told

        self.assertIn("'billing' was dropped", *await asyncio.to_thread(work))
        self.assertEqual(await self.cursor(), (1, ""))


@in_children
class ExitTests(OpenCase):
    """The interpreter's end."""

    @on_loop
    async def test_beside_one_that_hangs(self):
        """Clients and producers that nobody answers leave time for consumers: what they did is committed."""
        silent = await self.cluster(1, number=2)
        for cluster in (silent, self.cluster_):
            cluster.nodes[0].faults["RegisterProducer"] = [HANG] * 100
        program = """
import sys
from loghouse.client import connect_blocking, exiting
exiting.EXIT_SECONDS = 2.0
producer = connect_blocking(sys.argv[2]).producer()
producer.append(b"a")
log = connect_blocking(sys.argv[1])
stuck = log.producer()
stuck.append(b"b")
consumers = [log.consumer(name, commit_seconds=3600) for name in ("billing", "shipping", "audit")]
for number, consumer in enumerate(consumers):
    consumer.__enter__()
    consumer.acquire()
    consumer.done(number)
class InOrder(dict):
    def discard(self, one):
        self.pop(one, None)
# The silent one first.
exiting._open = InOrder.fromkeys(sorted(exiting._open, key=lambda one: one is log._open))
"""
        words = [sys.executable, "-c", program, self.cluster_.target, silent.target]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=SECONDS_MAX
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 record was not acknowledged yet", done.stderr)
        self.assertNotIn("cursor", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        for number, name in enumerate(NAMES):
            self.assertEqual(await self.cursor(name), (number, ""))


class Work:
    def __init__(self, name, is_committed):
        self.name = name
        self.is_committed = is_committed


class EndTests(SynchronousTestCase):
    """`ConsumersEnd`."""

    def test_late(self):
        """When the time is over, those are named that have something to commit."""
        self.patch(blocking_consumer, "time", SimpleNamespace(monotonic=lambda: 10.0))
        begun = []
        thread = SimpleNamespace(begin=lambda work, ended: begun.append((work, ended)))
        consumers = OpenConsumers(None)
        consumers.add(Work("billing", is_committed=False))
        consumers.add(Work("audit", is_committed=True))
        end = ConsumersEnd(thread, consumers)
        end.begin(1.0)
        self.assertEqual(end.wait(9.0), "what is done is not committed in cursor 'billing'")
        [(work, ended)] = begun
        work.close()
        ended(SimpleNamespace(cancelled=lambda: True))
        self.assertEqual(end.wait(9.0), "")

    def test_closed(self):
        """Of a loop that is closed there is nothing left to tell: they were closed with it."""

        def begin(work, ended):
            work.close()
            raise ClosedError("the client is closed")

        end = ConsumersEnd(SimpleNamespace(begin=begin), OpenConsumers(None))
        end.begin(1.0)
        self.assertEqual(end.wait(0.0), "")
