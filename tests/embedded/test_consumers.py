"""Consumers of an embedded log: on a thread of the log's own, or in the program's event loop."""

import gc
import threading
import warnings
from contextlib import aclosing

from twisted.trial.unittest import TestCase

from loghouse.embedded.asynchronous import AsyncEmbeddedLog
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    CursorFencedError,
    CursorHeldError,
    InvalidRequestError,
)
from tests.embedded.case import EmbeddedTestCase
from tests.fakes.tasks import asynchronous


def threads():
    return [one.name for one in threading.enumerate() if one.name == "loghouse client"]


class ConsumerTests(EmbeddedTestCase):
    """`EmbeddedLog.consumer`."""

    def test_goes_on(self):
        """What is done is committed at the block's end; the next consumer goes on behind it."""
        with self.open() as log:
            log.append_batch([b"a", b"b", b"c", b"d"])
            with log.consumer("billing") as consumer:
                for record in consumer:
                    if record.value == b"c":
                        break
                    consumer.done(record)
                self.assertEqual((consumer.position, consumer.is_active, consumer.lag()), (2, True, 2))
            self.assertEqual(log.cursors().get("billing").holder, "")
        with self.open() as again, again.consumer("billing") as consumer:
            self.assertEqual(consumer.acquire(), 2)
            batch = next(consumer.batches())
            self.assertEqual(list(batch.values()), [b"c", b"d"])
            consumer.done()
            consumer.commit()
            self.assertEqual(again.cursors().get("billing").position, 4)

    def test_held_and_left(self):
        """A cursor that was new and held begins where that was found, also if its holder took no record."""
        with self.open() as log:
            log.append(b"a")
            with log.consumer("late", from_="latest") as consumer:
                self.assertEqual(consumer.acquire(), 1)
                log.append(b"b")
        with self.open() as log, log.consumer("late") as consumer:
            self.assertEqual(next(iter(consumer)).value, b"b")

    def test_emit(self):
        """Outputs and position go into the log together; an input is handled once."""
        with self.open() as log:
            log.append_batch([b"a", b"b"])
            with log.consumer("copies") as consumer:
                for record in consumer:
                    consumer.emit([record.value.upper()])
                    if record.offset == 1:
                        break
                consumer.commit()
                self.assertEqual(consumer.committed, 2)
                error = self.assertRaises(InvalidRequestError, consumer.emit, [b"x"])
                self.assertEqual(error.field, "done")
            self.assertEqual(self.values(log), [b"a", b"b", b"A", b"B"])

    def test_follows(self):
        """A consumer waits for what another thread appends."""
        with self.open() as log, log.consumer("billing") as consumer:
            appending = threading.Timer(0, log.append, [b"late"])
            appending.start()
            self.assertEqual(next(iter(consumer)).value, b"late")
            appending.join()

    def test_one_holder(self):
        """Another consumer of the cursor waits; a holder that is fenced is told so by what it does next."""
        with self.open() as log:
            log.append(b"a")
            with log.consumer("billing") as first, log.consumer("billing") as second:
                record = next(iter(first))
                self.assertRaises(CursorHeldError, second.acquire, wait_seconds=0)
                log.cursors().set("billing", 0)
                first.done(record)
                self.assertRaises(CursorFencedError, first.commit)
                self.assertRaises(CursorFencedError, first.done, record)
                self.assertRaises(CursorFencedError, next, iter(first))
                self.assertEqual(next(iter(second)).value, b"a")
                second.abort()
                first.abort()
        self.assertEqual(threads(), [])

    def test_closed(self):
        """Closing the log commits what is done, and ends the thread; nothing works any more."""
        log = self.open()
        log.append_batch([b"a", b"b"])
        consumer = log.consumer("billing")
        self.assertRaises(ClientUseError, next, iter(consumer))
        consumer.__enter__()
        next(iter(consumer))
        consumer.done()
        log.close()
        self.assertEqual(threads(), [])
        self.assertRaises(ClosedError, consumer.commit)
        consumer.close()
        self.assertRaises(ClosedError, log.consumer, "billing")
        with self.open() as again:
            self.assertEqual(again.cursors().get("billing").position, 1)

    def test_dropped(self):
        """A consumer that is dropped warns, and what was done is committed."""
        with self.open() as log:
            log.append(b"a")
            consumer = log.consumer("billing")
            consumer.__enter__()
            next(iter(consumer))
            consumer.done()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                consumer.lag()  # the loop has nothing left that holds it
                del consumer
                gc.collect()
            self.assertIn("'billing' was dropped", str(caught[0].message))
            with log.consumer("billing") as following:
                self.assertEqual(following.acquire(), 1)

    def test_into(self):
        """The log that keeps the cursor is one of the same kind."""
        with self.open() as log:
            for into in (7, AsyncEmbeddedLog(log)):
                error = self.assertRaises(InvalidRequestError, log.consumer, "billing", into=into)
                self.assertEqual(error.field, "into")


class AsyncConsumerTests(EmbeddedTestCase, TestCase):
    """`AsyncEmbeddedLog.consumer`."""

    def setUp(self):
        EmbeddedTestCase.setUp(self)
        self.closers = []

    @asynchronous
    async def test_goes_on(self):
        """It is the client's, with the same methods."""
        async with AsyncEmbeddedLog(self.open()) as log:
            await log.append_batch([b"a", b"b"])
            async with log.consumer("billing") as consumer, aclosing(consumer.batches()) as batches:
                async for batch in batches:
                    await consumer.emit([b"sum"], batch)
                    break
            async with log.consumer("billing") as consumer, aclosing(consumer.__aiter__()) as records:
                async for record in records:
                    self.assertEqual((record.offset, record.value), (2, b"sum"))
                    break

    @asynchronous
    async def test_closed(self):
        """Closing the log commits first what is done in consumers that are open."""
        log = AsyncEmbeddedLog(self.open())
        await log.append_batch([b"a", b"b"])
        consumer = await log.consumer("billing", commit_seconds=3600).__aenter__()
        await consumer.acquire()
        consumer.done(1)
        await log.close()
        self.assertRaises(ClosedError, consumer.done, 2)
        with self.open() as again:
            found = again.cursors().get("billing")
            self.assertEqual((found.position, found.holder), (1, ""))
