"""Consumers of one log against fake nodes: where they go on, what they commit, and how they end."""

import asyncio
import gc
import warnings
import weakref
from contextlib import aclosing

from loghouse.client import AsyncConsumer, holding, keeping
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    CursorFencedError,
    CursorHeldError,
    CursorTrimmedError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    ResourceExhaustedError,
    UnknownCursorError,
)
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import BROKEN, LOST
from tests.fakes.tasks import asynchronous, until


class ConsumerCase(FakeCase):
    """Fake nodes whose log has records a, b and c."""

    async def begin(self, *values):
        self.cluster_, self.log = await self.connected()
        self.leader = self.cluster_.nodes[0]
        for value in values or (b"a", b"b", b"c"):
            await self.log.append(value)

    async def take(self, consumer, count):
        found = []
        async with asyncio.timeout(30), aclosing(consumer.__aiter__()) as records:
            async for record in records:
                found.append((record.offset, record.value))
                if len(found) == count:
                    break
        return found

    async def cursor(self, name="billing", log=None):
        return await (log or self.log).cursors().get(name)


class ConsumerTests(ConsumerCase):
    """What a consumer gives, and what it commits."""

    @asynchronous
    async def test_goes_on(self):
        """What is done is committed at the block's end; the next consumer goes on behind it."""
        await self.begin()
        async with self.log.consumer("billing") as consumer:
            self.assertIsInstance(consumer, AsyncConsumer)
            self.assertEqual(await self.take(consumer, 2), [(0, b"a"), (1, b"b")])
            consumer.done(1)
            self.assertEqual((consumer.position, consumer.committed, consumer.is_active), (1, 0, True))
            self.assertEqual(await consumer.lag(), 2)
        found = await self.cursor()
        self.assertEqual((found.position, found.holder), (1, ""))
        async with self.log.consumer("billing") as consumer:
            self.assertEqual(await self.take(consumer, 2), [(1, b"b"), (2, b"c")])

    @asynchronous
    async def test_iterated_anew(self):
        """A second iteration goes on behind what was given; the first gives nothing more of its batch."""
        await self.begin()
        await self.log.append_batch([b"d", b"e"])
        async with self.log.consumer("billing") as consumer, aclosing(consumer.__aiter__()) as records:
            found = [(await anext(records)).value for _ in range(4)]
            self.assertEqual(await self.take(consumer, 1), [(4, b"e")])
            await self.raises(ClientUseError, anext(records))
            self.assertEqual(found, [b"a", b"b", b"c", b"d"])

    @asynchronous
    async def test_commit(self):
        """Commit returns once it is durable, also over a lost answer; a record or a batch is what is done."""
        await self.begin()
        async with self.log.consumer("billing", commit_seconds=3600) as consumer:
            async with aclosing(consumer.batches()) as batches:
                async for batch in batches:
                    consumer.done(batch)
                    break
            for node in self.cluster_.nodes:
                node.faults["Advance"] = [LOST if self.transport == "grpc" else BROKEN]
            await consumer.commit()
            self.assertEqual((await self.cursor()).position, batch.next_offset)
            self.assertEqual(consumer.committed, batch.next_offset)

    @asynchronous
    async def test_emit(self):
        """Outputs and position go into another log together, once, in their order."""
        await self.begin()
        bills = self.connect(self.cluster_.target)
        await bills.create_log("bills")
        into = self.log.calls and bills.log("bills")
        async with self.log.consumer("billing", into=into) as consumer:
            async with aclosing(consumer.__aiter__()) as records:
                async for record in records:
                    await consumer.emit([b"bill " + record.value, b"copy"])
                    if record.offset == 2:
                        break
            with self.assertRaises(InvalidRequestError):
                await consumer.emit([b"again"])
        found = [record.value async for record in into.read()]
        self.assertEqual(found, [b"bill a", b"copy", b"bill b", b"copy", b"bill c", b"copy"])
        self.assertEqual((await self.cursor(log=into)).position, 3)

    @asynchronous
    async def test_emits_that_nobody_awaits(self):
        """They are taken in their order, and what is done behind them goes behind them."""
        self.patch(holding, "CONSUMER_BUFFER_SIZE", 1)
        await self.begin()
        self.leader.hold()
        async with self.log.consumer("billing", commit_seconds=3600) as consumer:
            await consumer.acquire()
            emits = [asyncio.ensure_future(consumer.emit([b"%d" % n], n)) for n in range(1, 6)]
            await until(lambda: len(consumer._keeper._waiting) == 4)
            for position in (5, 7, 6):
                consumer.done(position)
            emits.append(asyncio.ensure_future(consumer.emit([b"8"], 8)))
            twice = asyncio.ensure_future(consumer.emit([b"twice"], 8))
            emits[2].cancel()
            committing = asyncio.ensure_future(consumer.commit())
            await until(lambda: len(consumer._keeper._waiting) == 7)
            self.leader.release()
            await committing
            await self.raises(asyncio.CancelledError, emits.pop(2))
            await asyncio.gather(*emits)
            await self.raises(InvalidRequestError, twice)
            self.assertEqual((consumer.committed, consumer._keeper._waiting_size), (8, 0))
        values = [record.value async for record in self.log.read(3)]
        self.assertEqual(values, [b"1", b"2", b"4", b"5", b"8"])

    @asynchronous
    async def test_emits_that_wait_are_bounded(self):
        """Beyond a bound one more is refused; those that wait when the consumer ends are told so."""
        self.patch(holding, "CONSUMER_BUFFER_SIZE", 1)
        self.patch(keeping, "WAITING_APPENDS_MAX", 3)
        await self.begin()
        self.leader.hold()
        async with self.log.consumer("billing", commit_seconds=3600) as consumer:
            await consumer.acquire()
            emits = [asyncio.ensure_future(consumer.emit([b"%d" % n], n)) for n in range(1, 5)]
            await until(lambda: len(consumer._keeper._waiting) == 3)
            error = await self.raises(ResourceExhaustedError, consumer.emit([b"5"], 5))
            self.assertIn("wait for each before the next one", str(error))
            committing = asyncio.ensure_future(consumer.commit())
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(consumer.close())
            for emit in emits[1:]:
                await self.raises(ClosedError, emit)
            self.leader.release()
            await closing
            await self.raises(ClosedError, committing)
        self.assertEqual((await self.cursor()).position, 1)

    @asynchronous
    async def test_begins(self):
        """A cursor that is new begins where it is told, and one that is there does not."""
        await self.begin()
        async with self.log.consumer("late", from_="latest") as consumer:
            await consumer.acquire()
            reading = asyncio.ensure_future(self.take(consumer, 1))
            while not consumer.position:  # noqa: ASYNC110 - set by another task
                await asyncio.sleep(0.01)
            await self.log.append(b"d")
            self.assertEqual(await reading, [(3, b"d")])
        async with self.log.consumer("late", from_=1) as consumer:
            self.assertEqual(await self.take(consumer, 1), [(3, b"d")])
        async with self.log.consumer("second", from_=1) as consumer:
            self.assertEqual(await self.take(consumer, 1), [(1, b"b")])


class HolderTests(ConsumerCase):
    """Several consumers of one cursor."""

    @asynchronous
    async def test_stand_by(self):
        """A second one stands by, and takes over when the first one leaves."""
        await self.begin()
        other = self.connect(self.cluster_.target)
        async with other.consumer("billing") as second:
            async with self.log.consumer("billing") as first:
                await self.take(first, 1)
                first.done()
                error = await self.raises(CursorHeldError, second.acquire(wait_seconds=0))
                self.assertEqual(error.holder, first.holder)
                taking = asyncio.ensure_future(self.take(second, 1))
            self.assertEqual(await taking, [(1, b"b")])

    @asynchronous
    async def test_fenced(self):
        """One whose cursor was taken learns of it, and commits nothing any more."""
        await self.begin()
        async with self.log.consumer("billing", commit_seconds=3600) as consumer:
            await self.take(consumer, 2)
            await self.log.cursors().set("billing", 0)
            consumer.done()
            await self.raises(CursorFencedError, consumer.commit())
            for refused in (consumer.done, lambda: consumer.done(1)):
                with self.assertRaises(CursorFencedError):
                    refused()
            await self.raises(CursorFencedError, self.take(consumer, 1))
            await self.raises(CursorFencedError, consumer.emit([b"x"]))
            with self.assertRaises(CursorFencedError):
                await consumer.close()
        self.assertEqual((await self.cursor()).position, 0)

    @asynchronous
    async def test_trimmed(self):
        """Records that were trimmed are not skipped in silence."""
        await self.begin()
        await self.log.cursors().set("billing", 1)
        self.cluster_.forget(2)
        async with self.log.consumer("billing") as consumer:
            error = await self.raises(CursorTrimmedError, self.take(consumer, 1))
            self.assertEqual((error.name, error.position, error.lowest), ("billing", 1, 2))
        with self.assertLogs("loghouse.client", "WARNING") as written:
            async with self.log.consumer("billing", on_trimmed="earliest") as consumer:
                self.assertEqual(await self.take(consumer, 1), [(2, b"c")])
        self.assertIn("offsets 1 to 1 were not consumed", written.output[0])
        await self.log.cursors().set("billing", 9)
        async with self.log.consumer("billing") as consumer:
            await self.raises(OffsetOutOfRangeError, self.take(consumer, 1))

    @asynchronous
    async def test_begin(self):
        """Where a new cursor begins is found once, and committed; beyond the log's end none is made."""
        await self.begin()
        async with self.log.consumer("billing", from_=9) as consumer:
            await self.raises(OffsetOutOfRangeError, consumer.begin())
        await self.raises(UnknownCursorError, self.cursor())
        self.cluster_.forget(3)
        async with self.log.consumer("late", from_="latest") as consumer:
            self.assertEqual((await consumer.begin(), await consumer.begin()), (3, 3))
            self.assertEqual((await self.cursor("late")).position, 3)
            await self.log.append(b"d")
            self.assertEqual(await self.take(consumer, 1), [(3, b"d")])
        async with self.log.consumer("late", holder="other") as consumer:
            self.assertEqual(await consumer.begin(wait_seconds=0), 3)
            async with self.log.consumer("late") as second:
                await self.raises(CursorHeldError, second.begin(wait_seconds=0))

    @asynchronous
    async def test_held_and_left(self):
        """A cursor that was new and held begins where that was found, also if its holder took no record."""
        await self.begin()
        async with self.log.consumer("late", from_="latest") as consumer:
            self.assertEqual(await consumer.acquire(), 3)
            self.assertEqual((await self.cursor("late")).position, 3)
            await self.log.append(b"d")
        async with self.log.consumer("late", from_="latest") as consumer:
            self.assertEqual(await self.take(consumer, 1), [(3, b"d")])
        async with self.log.consumer("from 1", from_=1) as consumer:
            self.assertEqual(await consumer.acquire(), 1)
        async with self.log.consumer("from 1") as consumer:
            self.assertEqual(await self.take(consumer, 1), [(1, b"b")])

    @asynchronous
    async def test_latest_of_nothing(self):
        """The end of an empty log is its beginning, also when records come before the first one is taken."""
        self.cluster_, self.log = await self.connected()
        async with self.log.consumer("billing", from_="latest") as consumer:
            self.assertEqual(await consumer.begin(), 0)
            await self.log.append(b"a")
            self.assertEqual(await self.take(consumer, 1), [(0, b"a")])

    @asynchronous
    async def test_trimmed_to_the_end(self):
        """What was trimmed is told at once, also when the log holds nothing that could be read instead."""
        await self.begin()
        await self.log.cursors().set("billing", 1)
        self.cluster_.forget(3)
        async with self.log.consumer("billing") as consumer:
            error = await self.raises(CursorTrimmedError, self.take(consumer, 1))
            self.assertEqual((error.position, error.lowest), (1, 3))


class UseTests(ConsumerCase):
    """What cannot be meant, and how a consumer ends."""

    @asynchronous
    async def test_options(self):
        """Options that make no sense are refused at once."""
        await self.begin()
        for options in (
            {"lease_seconds": 0.5},
            {"commit_seconds": -1},
            {"commit_records": -1},
            {"on_trimmed": "skip"},
            {"from_": "now"},
            {"into": "bills"},
        ):
            with self.assertRaises(InvalidRequestError):
                self.log.consumer("billing", **options)

    @asynchronous
    async def test_outside(self):
        """Outside its block a consumer does nothing."""
        await self.begin()
        consumer = self.log.consumer("billing")
        with self.assertRaises(ClientUseError):
            consumer.done(1)
        async with consumer:
            with self.assertRaises(ClientUseError):
                consumer.done()
            with self.assertRaises(ClientUseError):  # it does not have its cursor
                consumer.done(1)
        with self.assertRaises(ClosedError):
            consumer.done(1)

    @asynchronous
    async def test_left_by_an_error(self):
        """However the block is left, what is done is committed and the cursor free; abort does neither."""
        await self.begin()

        async def work(error):
            async with self.log.consumer("billing") as consumer:
                await self.take(consumer, 1)
                consumer.done()
                raise error

        for number, error in enumerate((ZeroDivisionError(), asyncio.CancelledError()), 1):
            await self.raises(type(error), work(error))
            found = await self.cursor()
            self.assertEqual((found.position, found.holder), (number, ""))
        async with self.log.consumer("billing") as consumer:
            await self.take(consumer, 1)
            consumer.done()
            await consumer.abort()
        found = await self.cursor()
        self.assertEqual((found.position, found.holder), (2, consumer.holder))

    @asynchronous
    async def test_every_task_cancelled(self):
        """`asyncio.run` cancels all tasks at once after a SystemExit: what is done is committed."""
        await self.begin()

        async def work():
            async with self.log.consumer("billing", commit_seconds=3600) as consumer:
                await self.take(consumer, 2)
                consumer.done()
                self.assertEqual(consumer.committed, 0)
                tasks.append(consumer._keeper.task)
                await asyncio.sleep(3600)

        tasks = [asyncio.ensure_future(work())]
        await until(lambda: len(tasks) == 2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.assertTrue(tasks[0].cancelled())
        found = await self.cursor()
        self.assertEqual((found.position, found.holder), (2, ""))

    @asynchronous
    async def test_dropped(self):
        """One that is dropped warns; what was done is committed all the same."""
        await self.begin()
        consumer = await self.log.consumer("billing").__aenter__()
        await self.take(consumer, 1)
        consumer.done()
        await asyncio.sleep(0)  # generators that were left are closed by the loop
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del consumer
            gc.collect()
        self.assertIn(ResourceWarning, [one.category for one in caught])
        async with self.log.consumer("billing") as other:
            self.assertEqual(await self.take(other, 1), [(1, b"b")])

    @asynchronous
    async def test_failed_and_dropped(self):
        """What a consumer failed by, and raises each time, does not keep it once nobody has it any more."""
        await self.begin()
        consumer = await self.log.consumer("billing").__aenter__()
        await self.take(consumer, 1)
        await self.log.cursors().set("billing", 0)
        consumer.done()
        await self.raises(CursorFencedError, consumer.commit())
        await self.raises(CursorFencedError, self.take(consumer, 1))
        left = weakref.ref(consumer)
        del consumer
        gc.collect()
        self.assertIsNone(left())

    @asynchronous
    async def test_told_once(self):
        """An error that ends the block, and that its end has to tell as well, is told once."""
        await self.begin()
        with self.assertRaises(CursorFencedError) as raised:
            async with self.log.consumer("billing") as consumer:
                await self.take(consumer, 1)
                await self.log.cursors().set("billing", 0)
                consumer.done()
                await consumer.commit()
        self.assertEqual(getattr(raised.exception, "__notes__", []), [])


ConsumerGrpcTests = over_grpc(ConsumerTests)
