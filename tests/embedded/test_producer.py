"""Producers of an embedded log, and its form for asyncio."""

import asyncio
import gc
import warnings

from loghouse.embedded.asynchronous import AsyncEmbeddedLog
from loghouse.errors import ClientUseError, ClosedError, DiskFailedError, ExpectOffsetError, LoghouseError
from tests.embedded.case import EmbeddedTestCase


class ProducerTests(EmbeddedTestCase):
    """Records gather into batches and are appended once, in order."""

    def test_in_order(self):
        """All records are appended in order, in few batches; deliveries know their offsets."""
        with self.open() as log:
            with log.producer(linger_ms=1000) as producer:
                deliveries = [producer.append(b"%d" % number) for number in range(500)]
            self.assertTrue(all(one.is_done for one in deliveries))
            self.assertEqual([one.offset() for one in deliveries], list(range(500)))
            self.assertEqual(self.values(log), [b"%d" % number for number in range(500)])
            self.assertLess(len(list(log.read_batches())), 5)

    def test_linger_and_full_batches(self):
        """A batch is appended when it is full, or has lingered."""
        with self.open() as log, log.producer(linger_ms=1, batch_bytes=1000) as producer:
            self.assertEqual(producer.append(b"alone").offset(10), 0)
            for _ in range(10):
                last = producer.append(bytes(300))
            self.assertEqual(last.offset(10), 10)
            self.assertGreaterEqual(len(list(log.read_batches())), 4)

    def test_back_pressure(self):
        """`append` waits while more than the buffer takes is not durable; all of it is in the end."""
        with self.open() as log:
            with log.producer(buffer_bytes=1000, batch_bytes=500) as producer:
                for _ in range(200):
                    producer.append(bytes(100))
            self.assertEqual(log.bounds().next_offset, 200)

    def test_flush_and_errors(self):
        """A batch that fails is told by its delivery, or else by flush, once."""
        log = self.open()
        producer = log.producer()
        self.disk.fail(5, kinds=("fdatasync",))
        delivery = producer.append(b"x")
        self.assertRaises(LoghouseError, producer.flush)
        self.assertRaises(LoghouseError, delivery.offset)
        producer.append(b"y")
        self.assertRaises(DiskFailedError, producer.close)
        self.assertRaises(ClosedError, producer.append, b"z")

    def test_forked_child(self):
        """A forked child, in which no thread appends, is refused its parent's producer, and never waits."""
        with self.open() as log:
            producer = log.producer(linger_ms=60_000)
            delivery = producer.append(b"x")
            log.node._process += 1
            for use in (lambda: producer.append(b"y"), producer.flush, producer.close, delivery.offset):
                self.assertRaises(ClientUseError, use)
            producer.abort()  # does nothing
            log.node._process -= 1
            self.assertFalse(delivery.is_done)
            producer.close()
            self.assertEqual(delivery.offset(), 0)
            self.assertEqual(self.values(log), [b"x"])

    def test_abort(self):
        """What is gathered at an abort fails."""
        with self.open() as log:
            producer = log.producer(linger_ms=60_000)
            delivery = producer.append(b"x")
            producer.abort()
            self.assertRaises(ClosedError, delivery.offset)
            self.assertEqual(log.bounds().next_offset, 0)

    def test_the_block_fails(self):
        """An error of the block is the one that is raised; what was appended before it is there."""
        with self.open() as log:
            with self.assertRaises(ZeroDivisionError), log.producer() as producer:
                producer.append(b"x")
                raise ZeroDivisionError
            self.assertEqual(self.values(log), [b"x"])

    def test_dropped(self):
        """A producer that nobody closed warns, and its records are appended."""
        with self.open() as log:
            producer = log.producer(linger_ms=60_000)
            delivery = producer.append(b"x")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del producer
                gc.collect()
            self.assertEqual([one.category for one in caught], [ResourceWarning])
            self.assertEqual(delivery.offset(10), 0)


class AsyncTests(EmbeddedTestCase):
    """The same, for asyncio."""

    def run_with(self, story) -> None:
        async def main():
            async with AsyncEmbeddedLog(self.open()) as log:
                await asyncio.wait_for(story(log), 30)

        loop = asyncio.get_event_loop()
        try:
            asyncio.run(main())
        finally:
            asyncio.set_event_loop(loop)  # `asyncio.run` leaves none; the reactor of other tests is on it

    def test_append_and_read(self):
        """Tasks that append at once share entries, and each gets its offset."""

        async def story(log):
            offsets = await asyncio.gather(*(log.append(b"%d" % number) for number in range(50)))
            self.assertEqual(sorted(offsets), list(range(50)))
            self.assertEqual(await log.append_batch([b"a", b"b"], compression="zstd"), range(50, 52))
            self.assertEqual(len([record async for record in log.read()]), 52)
            self.assertLess(len([batch async for batch in log.read_batches()]), 10)
            self.assertEqual(await log.bounds(), (0, 52))
            self.assertEqual(await log.find_offset(0), 0)
            with self.assertRaises(ExpectOffsetError):
                await log.append(b"x", expect_offset=7)
            self.assertEqual(await log.trim(50), 50)

        self.run_with(story)

    def test_cancelled(self):
        """A cancelled append hinders nobody; it may be carried out."""

        async def story(log):
            first, second = (asyncio.ensure_future(log.append(b"x")) for _ in range(2))
            await asyncio.sleep(0)
            second.cancel()
            self.assertEqual(await first, 0)
            self.assertIn(await log.append(b"y"), (1, 2))

        self.run_with(story)

    def test_follow(self):
        """A reader that follows gets what is appended later; a close ends it."""

        async def story(log):
            seen = asyncio.Queue()

            async def follow():
                async for record in log.read(follow=True):
                    await seen.put(record.value)

            following = asyncio.ensure_future(follow())
            async with log.producer() as producer:
                delivery = await producer.append(b"a")
                self.assertEqual(await delivery, 0)
                self.assertEqual(await delivery, 0)
                self.assertTrue(delivery.is_done)
                await producer.append(b"b")
                await producer.flush()
            self.assertEqual((await seen.get(), await seen.get()), (b"a", b"b"))
            await log.close()
            with self.assertRaises(ClosedError):
                await following
            with self.assertRaises(ClosedError):
                await log.append(b"x")

        self.run_with(story)
