"""Producers that nobody closes: what they took is sent, or somebody is told how much was not."""

import asyncio
import gc
import subprocess
import sys
import time
import warnings
import weakref
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import blocking_producer, connect_blocking, exiting
from loghouse.client.batching import OutgoingBatch, ProducerLedger
from loghouse.client.blocking_producer import Pending
from loghouse.errors import InvalidRequestError, LoghouseError, PermissionDeniedError, UnavailableError
from loghouse.limits import UNREPORTED_BATCHES_MAX
from tests.client.fake import FakeCase
from tests.fakes.node import HANG
from tests.fakes.tasks import asynchronous, until
from tests.processes import in_children

REFUSED = PermissionDeniedError("root", "produce", "default")
SECONDS_MAX = 60


class WarningsCase(FakeCase):
    """Resource warnings are collected."""

    def setUp(self):
        super().setUp()
        catching = warnings.catch_warnings(record=True)
        self.caught = catching.__enter__()
        self.addCleanup(catching.__exit__, None, None, None)
        warnings.simplefilter("always", ResourceWarning)

    @property
    def warned(self):
        gc.collect()
        return [str(one.message) for one in self.caught if "producer" in str(one.message)]


class AsyncDropTests(WarningsCase):
    """`AsyncProducer`."""

    @asynchronous
    async def test_dropped(self):
        """A warning says how many records were not acknowledged; they are sent nevertheless."""
        cluster, log = await self.connected()
        producer = log.producer(linger_ms=60_000)
        for _ in range(3):
            await producer.append(b"a")
        del producer
        (text,) = self.warned
        self.assertIn("3 records were not acknowledged yet", text)
        await until(lambda: cluster.values == [b"a"] * 3)
        await until(lambda: not log.calls._tasks)

    @asynchronous
    async def test_failure_that_nobody_was_told_of(self):
        """Records that were refused, and whose deliveries nobody read, are counted, too, with the reason."""
        cluster, log = await self.connected(1)
        cluster.nodes[0].faults["ProduceBatchStream"] = [REFUSED, REFUSED]
        producer = log.producer(linger_ms=0)
        told = await producer.append(b"a")
        await self.raises(PermissionDeniedError, told)
        unreported = await producer.append(b"b")
        await until(lambda: unreported.is_done)
        del producer
        (text,) = self.warned
        self.assertIn(f"1 record was not appended, and nobody was told: {REFUSED}", text)

    @asynchronous
    async def test_failed_and_dropped(self):
        """An error that a delivery raised does not keep the producer once nobody has it any more."""
        cluster, log = await self.connected(1)
        cluster.nodes[0].faults["ProduceBatchStream"] = [REFUSED]

        async def told(producer):
            await (await producer.append(b"a"))

        producer = log.producer(linger_ms=0)
        await self.raises(PermissionDeniedError, told(producer))
        left = weakref.ref(producer)
        del producer
        gc.collect()
        self.assertIsNone(left())

    @asynchronous
    async def test_nothing_to_warn_of(self):
        """No word when it was closed, aborted, told everything, or never used."""
        cluster, log = await self.connected(1)
        log.producer()
        async with log.producer() as producer:
            await producer.append(b"a")
        del producer
        producer = log.producer(linger_ms=60_000)
        await producer.append(b"b")
        await producer.abort()
        del producer
        producer = log.producer()
        await (await producer.append(b"c"))
        cluster.nodes[0].faults["ProduceBatchStream"] = [REFUSED]
        await producer.append(b"d")
        await self.raises(PermissionDeniedError, producer.flush())
        del producer
        self.assertEqual(self.warned, [])
        self.assertRaises(InvalidRequestError, log.producer, linger_ms=-1)
        self.assertEqual(self.warned, [])

    @asynchronous
    async def test_error_of_the_block(self):
        """Leaving the block by an error of its own, that error notes what the producer could not append."""
        cluster, log = await self.connected(1)
        cluster.nodes[0].faults["ProduceBatchStream"] = [REFUSED]
        with self.assertRaises(KeyError) as caught:
            async with log.producer() as producer:
                await producer.append(b"a")
                raise KeyError("own")
        self.assertIn(str(REFUSED), caught.exception.__notes__[0])


class BlockingDropTests(WarningsCase):
    """`Producer`, its client, and its deliveries."""

    async def blocking(self, work, count=1):
        cluster = await self.cluster(count)
        await asyncio.to_thread(work, cluster)
        return cluster

    @asynchronous
    async def test_dropped(self):
        """A warning says how many; they are sent nevertheless, and deliveries still tell of them."""

        def work(cluster):
            with connect_blocking(cluster.target) as log:
                producer = log.producer(linger_ms=60_000)
                deliveries = [producer.append(b"a") for _ in range(3)]
                del producer
                (text,) = self.warned
                self.assertIn("3 records were not acknowledged yet", text)
                self.assertEqual([delivery.offset(SECONDS_MAX) for delivery in deliveries], [0, 1, 2])

        await self.blocking(work)

    @asynchronous
    async def test_dropped_with_its_client(self):
        """When the client is dropped, too, everything is sent first; then its thread ends."""

        def work(cluster):
            producer = connect_blocking(cluster.target).producer(linger_ms=60_000)
            gc.collect()  # the client lives as long as its producer
            delivery = producer.append(b"a")
            thread = producer._client.thread._thread
            del producer
            self.assertIn("1 record was not", *self.warned)
            thread.join(SECONDS_MAX)
            self.assertFalse(thread.is_alive())
            self.assertEqual(delivery.offset(), 0)

        await self.blocking(work)
        self.assertEqual(exiting._open, set())

    @asynchronous
    async def test_dropped_on_its_own_loop(self):
        """A client that is dropped by its own loop's thread does not wait for itself."""

        def work(cluster):
            log = connect_blocking(cluster.target)
            log.bounds()
            thread = log._open.thread
            kept = [log]
            del log
            thread.loop.call_soon_threadsafe(kept.clear)
            thread.join(SECONDS_MAX)
            self.assertFalse(thread._thread.is_alive())

        await self.blocking(work)

    @asynchronous
    async def test_ends(self):
        """A block's error notes what could not be appended; an interruption does not wait for it."""

        def work(cluster):
            faults = cluster.nodes[0].faults
            with connect_blocking(cluster.target) as log:
                faults["ProduceBatchStream"] = [REFUSED]
                with self.assertRaises(KeyError) as caught, log.producer() as producer:
                    producer.append(b"a")
                    raise KeyError("own")
                self.assertEqual(caught.exception.__notes__, [f"its producer failed, too: {REFUSED}"])
                with self.assertRaises(KeyboardInterrupt), log.producer(linger_ms=60_000) as producer:
                    delivery = producer.append(b"b")
                    raise KeyboardInterrupt
                self.assertRaises(UnavailableError, delivery.offset)
                faults["ProduceBatchStream"] = [REFUSED]
                producer = log.producer()
                producer.append(b"c")
                self.assertRaises(PermissionDeniedError, producer.close)
                self.assertTrue(producer._running.done())
                self.assertRaises(UnavailableError, producer.append, b"d")
                producer.abort()

        self.assertEqual((await self.blocking(work)).values, [])

    @asynchronous
    async def test_client_closed_under_it(self):
        """A client that is closed before its producer: each delivery is told, or the warning counts them."""

        def work(cluster):
            log = connect_blocking(cluster.target)
            producer = log.producer(linger_ms=60_000)
            delivery, _ = producer.append(b"a"), producer.append(b"b")
            log.close()
            self.assertRaises(UnavailableError, delivery.offset)
            del producer, delivery, _
            self.assertEqual(self.warned, [])  # both were of one batch

            log = connect_blocking(cluster.target)
            producer = log.producer(linger_ms=60_000)
            producer.append(b"a")
            log.close()
            del producer
            self.assertIn(
                "1 record was not appended, and nobody was told: the producer was closed", *self.warned
            )

        await self.blocking(work)


@in_children
class ExitTests(FakeCase):
    """The interpreter's end: a program that appends, and ends."""

    async def run_program(self, cluster, text, *options):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, *options, "-c", text, cluster.target],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    @asynchronous
    async def test_sent(self):
        """What a program did not close is sent before it ends, and each record once, from threads, too."""
        cluster = await self.cluster()
        program = """
import sys, threading, time
from loghouse.client import connect_blocking
log = connect_blocking(sys.argv[1])
producer = log.producer(linger_ms=60_000)
dropped = connect_blocking(sys.argv[1]).producer(linger_ms=60_000)
dropped.append(b"dropped")
del dropped
started = threading.Event()
def late():
    started.set()
    threading.main_thread().join()
    for _ in range(100):
        producer.append(b"late")
threading.Thread(target=late).start()
def endless():
    while True:
        time.sleep(60)
threading.Thread(target=endless, daemon=True).start()
started.wait()
producer.append(b"main")
"""
        self.assertEqual(await self.run_program(cluster, program), "")
        self.assertEqual(sorted(cluster.values), sorted([b"dropped", b"main", *[b"late"] * 100]))

    @asynchronous
    async def test_without_a_connection(self):
        """Also when nothing was dialled yet, and names are looked up by threads that have ended by then."""
        cluster = await self.cluster()
        program = """
import asyncio, sys
sys.modules["uvloop"] = None
from loghouse.client import connect_blocking
producer = connect_blocking(sys.argv[1].replace("127.0.0.1", "localhost"), is_direct=True).producer()
producer.append(b"a")
import threading
threading._shutdown()  # as the interpreter does before its exit handlers
"""
        await self.run_program(cluster, program)
        self.assertEqual(cluster.values, [b"a"])

    @asynchronous
    async def test_bounded(self):
        """When nobody answers, the end is not held up for ever; how many records are lost is said."""
        cluster = await self.cluster()
        for node in cluster.nodes:
            node.faults["RegisterProducer"] = [HANG] * 100
        program = """
import sys
from loghouse.client import blocking_producer, connect_blocking, exiting
exiting.EXIT_SECONDS = 0.3
producer = connect_blocking(sys.argv[1]).producer()
for _ in range(7):
    producer.append(b"a")
"""
        began = time.monotonic()
        said = await self.run_program(cluster, program, "-Wdefault::ResourceWarning")
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn("not closed before the interpreter ended: 7 records were not acknowledged yet", said)
        self.assertIn("ResourceWarning", said)
        self.assertEqual(cluster.values, [])


class LedgerTests(SynchronousTestCase):
    """What a ledger remembers of failures is bounded; all of them are counted."""

    def failed(self, text):
        batch = OutgoingBatch(due_at=0.0, deadline=0.0)
        batch.record_count, batch.error = 2, LoghouseError(text)
        return batch

    def test_bound(self):
        """Beyond the bound failures are only counted; whoever was told does not take room."""
        ledger = ProducerLedger(100)
        reported = self.failed("told")
        reported.is_reported = True
        for batch in (reported, *(self.failed(str(number)) for number in range(UNREPORTED_BATCHES_MAX + 5))):
            ledger.taken += 2
            ledger.settle(batch)
        self.assertEqual(len(ledger._failed), UNREPORTED_BATCHES_MAX)
        self.assertEqual(
            ledger.unreported(),
            f"{2 * UNREPORTED_BATCHES_MAX + 10} records were not appended, and nobody was told: 0",
        )
        error = self.assertRaises(LoghouseError, ledger.raise_unreported)
        self.assertEqual((str(error), ledger.unreported()), ("0", ""))


class PendingTests(SynchronousTestCase):
    """Waiting until everything is settled, for a bounded time."""

    def test_wait(self):
        """It waits until a moment, and not at all when that is over; what is left is told."""
        ledger = ProducerLedger(100)
        pending = Pending(ledger, None)
        given = []
        pending.changed.wait_for = lambda condition, seconds: given.append((condition(), seconds))
        self.patch(blocking_producer, "time", SimpleNamespace(monotonic=lambda: 10.0))
        self.assertEqual(pending.wait(12.5), "")
        ledger.take(5)
        self.assertEqual(pending.wait(9.0), "1 record was not acknowledged yet")
        self.assertEqual(given, [(True, 2.5), (False, 0.0)])
        batch = OutgoingBatch(due_at=0.0, deadline=0.0)
        batch.record_count, batch.size, batch.base_offset = 1, 5, 0
        pending.settled(batch)
        self.assertEqual((pending.wait(9.0), ledger.room), ("", 100))
