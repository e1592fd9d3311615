"""Producers: batches, back-pressure, and each record once and in order, whatever breaks."""

import asyncio
import random
import threading

from loghouse.client import connect_blocking, retrying, sending, sequencing
from loghouse.errors import (
    ClosedError,
    DeadlineError,
    InvalidRequestError,
    LoghouseError,
    NotLeaderError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownProducerError,
)
from loghouse.limits import RECORD_SIZE_MAX
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import BROKEN, HANG, LOST
from tests.fakes.tasks import asynchronous, until


def value(number):
    return str(number).encode()


class EndedTests(FakeCase):
    """A producer whose task ends by a fault of its own ends loudly."""

    def break_(self, producer):
        def take(now):
            raise MemoryError("no room")

        producer._accumulator.take = take
        reported = []
        loop = producer._loop
        loop.call_soon_threadsafe(loop.set_exception_handler, lambda _, context: reported.append(context))
        self.addCleanup(loop.set_exception_handler, None)
        return reported

    @asynchronous
    async def test_asyncio(self):
        """Everybody who waits, and who comes later, is told why, by an error of ours."""
        cluster, log = await self.connected()
        producer = log.producer(buffer_bytes=1)
        await (await producer.append(b"a"))
        self.break_(producer)
        delivery = await producer.append(b"b")
        waiting = asyncio.ensure_future(producer.append(b"c"))
        for work in (delivery, waiting, producer.append(b"d")):
            error = await self.raises(UnavailableError, work)
            self.assertIn("MemoryError: no room", str(error))
            self.assertIsInstance(error.__cause__, MemoryError)
        self.assertEqual(cluster.values, [b"a"])

    @asynchronous
    async def test_blocking(self):
        """The same in a thread."""
        cluster = await self.cluster()

        def use():
            with connect_blocking(cluster.target) as log:
                producer = log.producer()
                producer.append(b"a").offset()
                self.break_(producer)
                delivery = producer.append(b"b")
                for fail in (delivery.offset, lambda: producer.append(b"c")):
                    error = self.assertRaises(UnavailableError, fail)
                    self.assertIn("MemoryError: no room", str(error))

        await asyncio.to_thread(use)

    @asynchronous
    async def test_taken_while_it_ends(self):
        """Behind the moment at which everything fails no record is taken, for nobody would tell of it."""
        cluster = await self.cluster()

        def use():
            with connect_blocking(cluster.target) as log:
                producer = log.producer(linger_ms=60_000)
                delivery = producer.append(b"a")
                fail, late = producer._sending._fail_everything, []

                def fail_and_append(error):
                    fail(error)
                    try:
                        late.append(producer.append(b"late"))
                    except ClosedError as error_:
                        late.append(error_)

                producer._sending._fail_everything = fail_and_append
                producer._running.get_loop().call_soon_threadsafe(producer._running.cancel)
                self.assertRaises(ClosedError, delivery.offset)
                producer.abort()
                self.assertIsInstance(late[0], ClosedError)

        await asyncio.to_thread(use)


class ProducingTests(FakeCase):
    """When nothing fails."""

    @asynchronous
    async def test_batches(self):
        """Records go out in batches, in order, and each delivery gives its record's offset."""
        cluster, log = await self.connected()
        cluster.add_values(b"before")
        async with log.producer(linger_ms=1000, batch_bytes=100) as producer:
            deliveries = [await producer.append(value(number)) for number in range(200)]
            self.assertEqual(await deliveries[3], 4)
        self.assertEqual([await delivery for delivery in deliveries], list(range(1, 201)))
        self.assertEqual(cluster.values[1:], [value(number) for number in range(200)])
        self.assertTrue(10 <= len(cluster.entries) <= 30, len(cluster.entries))
        self.assertTrue(all(delivery.is_done for delivery in deliveries))

    @asynchronous
    async def test_linger(self):
        """A record that waits for others goes out by itself after its time."""
        cluster, log = await self.connected()
        async with log.producer(linger_ms=20) as producer:
            self.assertEqual(await (await producer.append(b"a")), 0)
            first = await producer.append(b"b")
            second = await producer.append(b"c")
            self.assertEqual((await first, await second, len(cluster.entries)), (1, 2, 2))

    @asynchronous
    async def test_everything_of_a_record(self):
        """Keys, headers, timestamps and compression go along."""
        cluster, log = await self.connected()
        async with log.producer(compression="zstd") as producer:
            await producer.append(bytes(1000), key=b"k", headers=[("unit", b"mm")], timestamp=7)
            await producer.append(bytearray(b"plain"))
        self.assertEqual(cluster.entries[0].attributes, 1)
        first, second = [record async for record in log.read()]
        self.assertEqual((first.key, first.headers, first.timestamp), (b"k", (("unit", b"mm"),), 7))
        self.assertEqual((second.value, second.key), (b"plain", None))

    @asynchronous
    async def test_flush(self):
        """Flush returns when all before it are acknowledged, without waiting for the linger."""
        _, log = await self.connected()
        async with log.producer(linger_ms=60_000) as producer:
            await producer.flush()
            delivery = await producer.append(b"a")
            await producer.flush()
            self.assertTrue(delivery.is_done)

    @asynchronous
    async def test_back_pressure(self):
        """Beyond its buffer a producer waits, and goes on when there is room."""
        cluster, log = await self.connected()
        leader = cluster.nodes[0]
        leader.faults["RegisterProducer"] = [HANG]
        self.patch(retrying, "ATTEMPT_SECONDS", 0.5)
        taken = 0
        async with log.producer(batch_bytes=1000, buffer_bytes=5000) as producer:

            async def fill():
                nonlocal taken
                for _ in range(100):
                    await producer.append(bytes(200))
                    taken += 1

            filling = asyncio.ensure_future(fill())
            await until(lambda: leader.count("RegisterProducer"))
            self.assertEqual((taken, filling.done()), (25, False))
            await filling  # another attempt at the registration went through
        self.assertEqual(len(cluster.values), 100)

    @asynchronous
    async def test_settings(self):
        """Settings that make no sense are refused by name."""
        log = self.connect("127.0.0.1:1")
        for name, wrong in (
            ("linger_ms", -1),
            ("batch_bytes", 0),
            ("batch_bytes", 1 << 24),
            ("buffer_bytes", 0),
        ):
            error = self.assertRaises(InvalidRequestError, lambda n=name, w=wrong: log.producer(**{n: w}))
            self.assertIn(name, str(error))

    @asynchronous
    async def test_idle_stream(self):
        """A stream without work is closed, and the next record opens another one."""
        self.patch(sending, "IDLE_SECONDS", 0.05)
        cluster, log = await self.connected()
        async with log.producer(linger_ms=0) as producer:
            for number in range(3):
                self.assertEqual(await (await producer.append(b"a")), number)
                await until(lambda: not cluster.nodes[0].has_calls)
        self.assertEqual(cluster.nodes[0].count("RegisterProducer"), 1)


class FailingTests(FakeCase):
    """When something does."""

    @asynchronous
    async def test_broken_links(self):
        """Links break before and after the append, at every node: each record is there once, in order."""
        cluster, log = await self.connected(timeout_seconds=60.0)
        rng = random.Random(7)
        for node in cluster.nodes:
            node.faults["ProduceBatchStream"] = [rng.choice([LOST, BROKEN, None, None]) for _ in range(60)]
            node.faults["RegisterProducer"] = [BROKEN]
        async with log.producer(linger_ms=0, batch_bytes=200) as producer:
            deliveries = []
            for number in range(400):
                deliveries.append(await producer.append(value(number)))
                if number % 50 == 0:
                    await producer.flush()
        self.assertEqual([await delivery for delivery in deliveries], list(range(400)))
        self.assertEqual(cluster.values, [value(number) for number in range(400)])

    @asynchronous
    async def test_no_answer(self):
        """A server that takes batches and does not answer is left for another one."""
        self.patch(sending, "ATTEMPT_SECONDS", 0.2)
        self.patch(sending, "CHECK_SECONDS", 0.05)
        cluster, log = await self.connected()
        async with log.producer(linger_ms=0) as producer:
            await (await producer.append(b"a"))
            cluster.nodes[0].faults["ProduceBatchStream"] = [HANG]
            self.assertEqual(await (await producer.append(b"b")), 1)
        self.assertEqual(cluster.values, [b"a", b"b"])

    @asynchronous
    async def test_moves_to_the_leader(self):
        """A producer follows the leader, when an error names it and when it is learned by the way."""
        cluster, log = await self.connected()
        async with log.producer(linger_ms=0) as producer:
            await (await producer.append(b"a"))
            cluster.nodes[0].faults["ProduceBatchStream"] = [NotLeaderError("n2")]
            cluster.leader = cluster.nodes[1]
            self.assertEqual(await (await producer.append(b"b")), 1)
            self.assertEqual(cluster.nodes[1].count("ProduceBatchStream"), 1)
            cluster.leader = cluster.nodes[2]
            await log.servers()
            self.assertEqual(await (await producer.append(b"c")), 2)
            self.assertEqual(cluster.nodes[2].count("ProduceBatchStream"), 1)

    @asynchronous
    async def test_busy(self):
        """Bounds that are reached, and a missing leader, are waited out."""
        cluster, log = await self.connected()
        full = ResourceExhaustedError("proposals", "64 wait")
        cluster.nodes[0].faults["ProduceBatchStream"] = [full, UnavailableError("no leader"), full]
        async with log.producer(linger_ms=0) as producer:
            deliveries = [await producer.append(value(number)) for number in range(5)]
        self.assertEqual([await delivery for delivery in deliveries], list(range(5)))

    @asynchronous
    async def test_forgotten(self):
        """A producer that the cluster forgot registers again by itself."""
        cluster, log = await self.connected()
        async with log.producer(linger_ms=0) as producer:
            await (await producer.append(b"a"))
            cluster.state.producers.clear()
            self.assertEqual(await (await producer.append(b"b")), 1)
            cluster.nodes[0].faults["ProduceBatchStream"] = [UnknownProducerError(1)]
            self.assertEqual(await (await producer.append(b"c")), 2)

    @asynchronous
    async def test_disowned(self):
        """When nobody knows the producer any more of a batch that may be there, it asks for a while only."""
        self.patch(sequencing, "STALE_SECONDS", 0.3)
        cluster, log = await self.connected()
        for node in cluster.nodes:
            node.faults["ProduceBatchStream"] = [LOST] + [UnknownProducerError(1)] * 1000
        async with log.producer(linger_ms=0) as producer:
            delivery = await producer.append(b"a")
            await self.raises(OutcomeUnknownError, delivery)
        self.assertEqual(cluster.values[0], b"a")
        self.assertLess(sum(node.count("ProduceBatchStream") for node in cluster.nodes), 100)

    @asynchronous
    async def test_too_large(self):
        """A record beyond the nodes' limit fails alone and by name; those around it are appended."""
        cluster, log = await self.connected()
        producer = log.producer(linger_ms=0, batch_bytes=1000)
        sizes = [10, RECORD_SIZE_MAX - 20, RECORD_SIZE_MAX + 1, 10]
        deliveries = [await producer.append(bytes(size)) for size in sizes]
        self.assertEqual([await deliveries[0], await deliveries[1], await deliveries[3]], [0, 1, 2])
        error = await self.raises(InvalidRequestError, deliveries[2])
        self.assertIn("record", str(error))
        await producer.close()  # what was told is not told again
        self.assertEqual([len(found) for found in cluster.values], [10, RECORD_SIZE_MAX - 20, 10])

    @asynchronous
    async def test_failure_that_nobody_heard(self):
        """Flush raises a failure that no delivery told, once; so does the end of the block."""
        cluster, log = await self.connected()
        denied = PermissionDeniedError("root", "produce", "default")
        async with log.producer(linger_ms=0) as producer:
            for node in cluster.nodes:
                node.faults["ProduceBatchStream"] = [denied]
            await producer.append(b"a")
            await self.raises(PermissionDeniedError, producer.flush())
            await producer.flush()
            self.assertEqual(await (await producer.append(b"b")), 0)
        for node in cluster.nodes:
            node.faults["RegisterProducer"] = [denied]
        producer = log.producer(linger_ms=0)
        await producer.append(b"c")
        await self.raises(PermissionDeniedError, producer.close())
        await self.raises(UnavailableError, producer.append(b"d"))

    @asynchronous
    async def test_time_is_over(self):
        """At the deadline: unknown when it was sent, certain when it was not."""
        self.patch(sending, "CHECK_SECONDS", 0.05)
        cluster, log = await self.connected(1)
        node = cluster.nodes[0]
        async with log.producer(linger_ms=0) as producer:
            await (await producer.append(b"a"))
            node.faults["ProduceBatchStream"] = [HANG]
            delivery = await producer.append(b"b")
            await until(lambda: node.count("ProduceBatchStream") == 2)
            delivery._batch.deadline = 0.0
            await self.raises(OutcomeUnknownError, delivery)
        await cluster.stop()
        producer = log.producer(linger_ms=0, timeout_seconds=0.3)
        await self.raises(DeadlineError, await producer.append(b"c"))
        await producer.close()
        self.assertEqual(cluster.values, [b"a"])

    @asynchronous
    async def test_cancelled(self):
        """Cancelling a wait takes nothing back; cancelling the block ends the producer at once."""
        cluster, log = await self.connected()
        entered = asyncio.Event()

        async def work():
            async with log.producer(linger_ms=60_000) as producer:
                delivery = await producer.append(b"a")
                waiting = asyncio.ensure_future(self.awaited(delivery))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait({waiting})
                await producer.flush()
                self.assertEqual(await delivery, 0)
                self.delivery = await producer.append(b"b")
                entered.set()
                await asyncio.Event().wait()

        working = asyncio.ensure_future(work())
        await entered.wait()
        working.cancel()
        await self.raises(asyncio.CancelledError, working)
        await self.raises(LoghouseError, self.delivery)
        await until(lambda: not cluster.nodes[0].has_calls)
        self.assertEqual(cluster.values, [b"a"])

    async def awaited(self, delivery):
        return await delivery

    @asynchronous
    async def test_error_in_the_block(self):
        """An error in the block still lets out what was appended before it."""
        cluster, log = await self.connected()
        with self.assertRaises(ZeroDivisionError):
            async with log.producer(linger_ms=60_000) as producer:
                await producer.append(b"a")
                raise ZeroDivisionError
        self.assertEqual(cluster.values, [b"a"])

    @asynchronous
    async def test_closed_client(self):
        """A producer whose client is closed says so, for what it had and for what comes."""
        _, log = await self.connected()
        producer = log.producer(linger_ms=60_000)
        first = await producer.append(b"a")
        await producer.flush()
        second = await producer.append(b"b")
        await log.close()
        self.assertEqual(await first, 0)
        await self.raises(UnavailableError, producer.flush())
        await self.raises(UnavailableError, second)
        await self.raises(UnavailableError, producer.append(b"c"))
        await producer.abort()


class BlockingTests(FakeCase):
    """The same without a loop of one's own."""

    async def run_blocking(self, cluster, work):
        def connected():
            with connect_blocking(cluster.target, timeout_seconds=20.0) as log:
                return work(log)

        before = threading.active_count()
        result = await asyncio.to_thread(connected)
        await until(lambda: threading.active_count() <= before + 1)  # to_thread keeps its own
        return result

    @asynchronous
    async def test_producer(self):
        """Several threads share a producer; each record is there once, each thread's in its order."""
        cluster = await self.cluster()
        for node in cluster.nodes:
            node.faults["ProduceBatchStream"] = [None, LOST, BROKEN] * 5

        def work(log):
            found = {}

            def produce(name):
                deliveries = [producer.append(f"{name}{number}".encode()) for number in range(200)]
                found[name] = [delivery.offset() for delivery in deliveries]

            with log.producer(linger_ms=1, batch_bytes=300, buffer_bytes=1000) as producer:
                threads = [threading.Thread(target=produce, args=(name,)) for name in "abc"]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            return found

        found = await self.run_blocking(cluster, work)
        for name, offsets in found.items():
            self.assertEqual(offsets, sorted(offsets))
            self.assertEqual(
                [cluster.values[at] for at in offsets], [f"{name}{n}".encode() for n in range(200)]
            )
        self.assertEqual(len(cluster.values), 600)

    @asynchronous
    async def test_failures(self):
        """Flush and deliveries raise as they do with a loop; a wait may be shorter than the producer's."""
        cluster = await self.cluster()
        denied = PermissionDeniedError("root", "produce", "default")
        for node in cluster.nodes:
            node.faults["ProduceBatchStream"] = [denied]

        def work(log):
            with log.producer(linger_ms=60_000) as producer:
                delivery = producer.append(b"a")
                self.assertRaises(TimeoutError, delivery.offset, 0.01)
                self.assertRaises(PermissionDeniedError, producer.flush)
                self.assertRaises(PermissionDeniedError, delivery.offset)
                last = producer.append(b"b", key=b"k")
            self.assertRaises(UnavailableError, producer.append, b"c")
            return last.offset()

        self.assertEqual(await self.run_blocking(cluster, work), 0)

    @asynchronous
    async def test_calls(self):
        """Every call of the blocking client is the other client's."""
        cluster = await self.cluster()

        def work(log):
            self.assertEqual(log.append(b"a", key=b"k", expect_offset=0), 0)
            self.assertEqual(log.append_batch([b"b", b"c"]), range(1, 3))
            self.assertEqual(log.bounds(), (0, 3))
            self.assertEqual(log.find_offset(0), 0)
            self.assertEqual(log.servers().leader.name, "n1")
            self.assertEqual(log.status(server="n2").node, "n2")
            log.add("n4", learner=True)
            log.leave("n3")
            self.assertEqual(log.transfer("n2"), "n2")
            log.close()
            self.assertRaises(UnavailableError, log.bounds)

        await self.run_blocking(cluster, work)


ProducingGrpcTests = over_grpc(ProducingTests)
FailingGrpcTests = over_grpc(FailingTests)
