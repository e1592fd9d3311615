"""The consumer for Twisted programs, on both kinds of reactors."""

import gc
import sqlite3
import weakref

from twisted.internet.defer import CancelledError, ensureDeferred

from loghouse.client.deferred import opened
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    CursorFencedError,
    CursorTrimmedError,
    ResourceExhaustedError,
)
from loghouse.limits import MIB, WAITING_APPENDS_MAX, WAITING_SIZE_MAX
from tests.client.deferred_case import DeferredCase, in_a_thread
from tests.client.test_open_consumers import collected
from tests.fakes.node import HANG


class ConsumerTests(DeferredCase):
    """`DeferredConsumer`."""

    async def test_resumes(self):
        """The next one goes on behind what was done; what was given and not done comes again."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b", b"c")
        async with log.consumer("billing") as consumer:
            async for record in consumer:
                if record.value == b"c":
                    break
                consumer.done(record)
            self.assertEqual((consumer.position, consumer.is_active), (2, True))
            self.assertEqual(await consumer.lag(), 1)
        self.assertEqual((await log.cursors().get("billing")).position, 2)
        async with log.consumer("billing") as consumer:
            async for batch in consumer.batches():
                self.assertEqual([record.value for record in batch], [b"c"])
                consumer.done()
                await consumer.commit()
                self.assertEqual(consumer.committed, 3)
                break

    async def test_iterated_anew(self):
        """A second iteration goes on behind the record that was given last, within its batch."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b", b"c")
        async with log.consumer("billing") as consumer:
            seen = []
            for _ in range(3):
                async for record in consumer:
                    seen.append(record.value)
                    break
        self.assertEqual(seen, [b"a", b"b", b"c"])

    async def test_exactly_once(self):
        """Records and the position behind what they were made of go into another log in one step."""
        cluster, log = await self.connected()
        await log.create_log("bills", replicas=1)
        cluster.add_values(b"a", b"b")
        async with log.consumer("billing", into=log.log("bills")) as consumer:
            async for batch in consumer.batches():
                await consumer.emit(value.upper() for value in batch.values())
                await consumer.commit()
                break
        self.assertEqual([record.value async for record in log.log("bills").read()], [b"A", b"B"])
        self.assertEqual((await log.log("bills").cursors().get("billing")).position, 2)

    async def test_misused(self):
        """What was given to nobody cannot be done, and a consumer is used within its block."""
        _, log = await self.connected()
        consumer = log.consumer("billing")
        self.assertRaises(ClientUseError, consumer.done)
        await self.raises(ClientUseError, consumer.emit([b"x"]))
        await self.raises(ClientUseError, consumer.commit())
        async with consumer:
            error = self.assertRaises(ClientUseError, consumer.done, 1)
            self.assertIn("does not have its cursor yet", str(error))

    async def test_emits_that_nobody_awaits(self):
        """Who does not wait for emits is refused at a bound, by count and by bytes, and may go on later."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        large = bytes(7 * MIB)
        for value, count_max in ((b"x", WAITING_APPENDS_MAX), (large, WAITING_SIZE_MAX // len(large) + 1)):
            consumer = await log.consumer("billing").__aenter__()
            begin = await consumer.acquire()
            emits = [consumer.emit([value], begin + number) for number in range(1, count_max + 1)]
            error = await self.raises(ResourceExhaustedError, consumer.emit([value], 9999))
            self.assertIn("wait for each before the next one", str(error))
            await emits[0]
            again = consumer.emit([value], 9999)
            self.assertFalse(again.called)
            aborting = consumer.abort()
            for emit in (*emits, again):
                emit.addErrback(lambda failure: failure.trap(ClosedError))
            await aborting
            await again
            self.assertEqual((consumer._emit_count, consumer._emit_size), (0, 0))
            await log.cursors().set("billing", 0)
        cluster.nodes[0].release()

    async def test_process(self):
        """The position is in the program's own database, with what was made of the records."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        database = sqlite3.connect(":memory:", check_same_thread=False)
        database.execute("CREATE TABLE bills (value BLOB)")

        def bill(batch):
            database.executemany("INSERT INTO bills VALUES (?)", [(value,) for value in batch.values()])

        async with log.consumer("bills") as consumer:
            processing = consumer.process(database, bill)
            await self.until(lambda: consumer.position == 2)
            processing.cancel()
            await self.raises(CancelledError, processing)
        async with log.consumer("bills") as consumer:
            cluster.add_values(b"c")
            processing = consumer.process(database, lambda batch: 1 // 0)
            await self.raises(ZeroDivisionError, processing)
        self.assertEqual(list(database.execute("SELECT value FROM bills")), [(b"a",), (b"b",)])
        database.close()

    async def test_furthest(self):
        """Of what is said to be done in one turn the furthest counts, in any order."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b", b"c")
        async with log.consumer("billing", commit_seconds=3600) as consumer:
            await consumer.acquire()
            for position in (1, 3, 2):
                consumer.done(position)
            self.assertEqual(consumer.position, 3)
            await consumer.commit()
            self.assertEqual(consumer.committed, 3)
        self.assertEqual((await log.cursors().get("billing")).position, 3)

    async def test_latest_of_nothing(self):
        """The end of an empty log is its beginning, also when records come before the first one is taken."""
        _, log = await self.connected()
        async with log.consumer("billing", from_="latest") as consumer:
            self.assertEqual(await consumer.begin(), 0)
            await log.append(b"a")
            self.assertEqual((await anext(aiter(consumer))).value, b"a")

    async def test_held_and_left(self):
        """A cursor that was new and held begins where that was found, also if its holder took no record."""
        cluster, log = await self.connected()
        cluster.add_values(b"a")
        async with log.consumer("late", from_="latest") as consumer:
            self.assertEqual(await consumer.acquire(), 1)
            await log.append(b"b")
        async with log.consumer("late") as consumer:
            self.assertEqual((await anext(aiter(consumer))).value, b"b")

    async def test_trimmed_to_the_end(self):
        """What was trimmed is told at once, also when the log holds nothing that could be read instead."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b", b"c")
        await log.cursors().set("billing", 1)
        cluster.forget(3)
        async with log.consumer("billing") as consumer:
            error = await self.raises(CursorTrimmedError, anext(aiter(consumer)))
            self.assertEqual((error.position, error.lowest), (1, 3))

    async def test_closed_while_it_waits(self):
        """One that is closed while its iteration waits for records ends that."""
        cluster, log = await self.connected()
        async with log.consumer("billing") as consumer:
            waiting = ensureDeferred(anext(aiter(consumer)))
            await self.until(lambda: cluster.nodes[0].waiters)
            await consumer.close()
            await self.raises(ClosedError, waiting)


class EndTests(DeferredCase):
    """Consumers that nobody closes."""

    async def entered(self, client, name="billing", done=0):
        """Return a consumer that has its cursor, and has done so many records."""
        consumer = await client.consumer(name, commit_seconds=3600).__aenter__()
        await consumer.acquire()
        consumer.done(done)
        return consumer

    async def is_free(self, client, name="billing"):
        """Return the position of a cursor, once it is free."""
        return (await client.cursors().acquire(name)).position

    async def test_closed_with_its_client(self):
        """A client that closes commits what they did and lets their cursors go; their ends do nothing."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        other = self.connect(cluster.target)
        consumers = [await self.entered(other, name, 1) for name in ("billing", "audit")]
        await other.close()
        for consumer in consumers:
            self.assertEqual(await self.is_free(log, consumer.cursor_name), 1)
            self.assertRaises(ClosedError, consumer.done, 2)
            await consumer.close()
            await consumer.abort()
            await consumer.__aexit__(None, None, None)

    async def test_dropped(self):
        """One that nobody has any more warns, commits what was done, and lets its cursor go."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        consumer = await self.entered(log, done=1)
        with collected() as told:
            await consumer.lag()  # the loop has nothing left that holds it
            del consumer
            gc.collect()
        self.assertIn("'billing' was dropped", *told)
        async with log.consumer("billing") as other:
            self.assertEqual(await other.acquire(), 1)

    async def test_failed_and_dropped(self):
        """What a consumer failed by, and raises each time, does not keep it once nobody has it any more."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        consumer = await self.entered(log, done=1)
        await log.cursors().set("billing", 0)
        await self.raises(CursorFencedError, consumer.commit())
        await self.raises(CursorFencedError, self.used(consumer))
        await log.bounds()  # the loop has nothing left that holds it
        left = weakref.ref(consumer)
        del consumer
        gc.collect()
        self.assertIsNone(left())

    async def used(self, consumer):
        await anext(aiter(consumer))

    async def test_dropped_with_its_client(self):
        """When nobody has the client any more either, what was done is committed first."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        other = self.connect(cluster.target)
        self.closers.pop()
        opened, consumer = other._opened, await self.entered(other, done=1)
        await consumer.lag()
        with collected() as told:
            del other, consumer
            gc.collect()
        self.assertIn("'billing' was dropped", *told)
        await self.until(lambda: opened._closed is not None)
        await opened.close()
        self.assertEqual(await self.is_free(log), 1)


class StopTests(DeferredCase):
    """A consumer that is open when the reactor stops."""

    is_plain = True

    async def test_together(self):
        """All have one time together, however many there are; what could not be committed is logged."""
        self.patch(opened, "EXIT_SECONDS", 0.3)
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        consumers = [log.consumer(name, commit_seconds=3600) for name in ("billing", "audit", "shipping")]
        for consumer in consumers:
            await consumer.__aenter__()
            await consumer.acquire()
            consumer.done(1)
        node = cluster.nodes[0]
        node.faults["Advance"] = [HANG] * 100
        with self.assertLogs("loghouse.client", "ERROR") as logged:
            await self.reactor.stopping()
        self.assertEqual(node.count("Advance"), 3)
        for consumer in consumers:
            self.assertIn(f"not committed in cursor '{consumer.cursor_name}'", logged.output[-1])

    async def test_beside_a_call(self):
        """A call that nobody answers leaves consumers half of the time; what they cannot commit is told."""
        self.patch(opened, "EXIT_SECONDS", 3.0)
        cluster, log = await self.connected()
        cluster.add_values(b"a")
        for name in ("billing", "audit"):
            consumer = await log.consumer(name, commit_seconds=3600).__aenter__()
            await consumer.acquire()
            consumer.done(1)
            self.kept = [consumer, *getattr(self, "kept", [])]
        await log.cursors().set("audit", 0)
        cluster.nodes[0].faults["Bounds"] = [HANG] * 100
        asking = log.bounds()
        await self.until(lambda: cluster.nodes[0].count("Bounds"))
        with self.assertLogs("loghouse.client", "ERROR") as logged:
            await self.reactor.stopping()
        self.assertEqual(["'audit' (" in text for text in logged.output], [True])
        await self.raises(ClosedError, asking)
        other = self.connect(cluster.target)
        self.assertEqual((await other.cursors().acquire("billing")).position, 1)

    async def test_out_of_time(self):
        """When a call took all of the time, too, nothing waits any longer: what is not committed is told."""
        self.patch(opened, "EXIT_SECONDS", 0.1)
        cluster, log = await self.connected()
        cluster.add_values(b"a")
        consumer = await log.consumer("billing", commit_seconds=3600).__aenter__()
        await consumer.acquire()
        consumer.done(1)
        cluster.nodes[0].faults.update(Bounds=[HANG] * 100, Advance=[HANG] * 100)
        asking = log.bounds()
        await self.until(lambda: cluster.nodes[0].count("Bounds"))
        with self.assertLogs("loghouse.client", "ERROR") as logged:
            await self.reactor.stopping()
        self.assertIn("not committed in cursor 'billing'", logged.output[-1])
        await self.raises(ClosedError, asking)

    async def test_stop(self):
        """It commits what is done, and others have the cursor at once."""
        cluster, log = await self.connected()
        other = self.connect(cluster.target)
        cluster.add_values(b"a", b"b")
        seen = []

        async def consume():
            async with log.consumer("billing", commit_seconds=60) as consumer:
                async for record in consumer:
                    consumer.done(record)
                    seen.append(record.value)

        consuming = ensureDeferred(consume())
        await self.until(lambda: len(seen) == 2)
        await self.reactor.triggers[0]()
        await self.raises(ClosedError, consuming)
        cursor = await other.cursors().acquire("billing")
        self.assertEqual(cursor.position, 2)


ConsumerThreadTests = in_a_thread(ConsumerTests)
EndThreadTests = in_a_thread(EndTests)
