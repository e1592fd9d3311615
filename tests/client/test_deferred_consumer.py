"""The consumer for Twisted programs, on both kinds of reactors."""

from twisted.internet.defer import ensureDeferred

from loghouse.errors import ClientUseError, ClosedError
from tests.client.deferred_case import DeferredCase, in_a_thread


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

    async def test_closed_while_it_waits(self):
        """One that is closed while its iteration waits for records ends that."""
        cluster, log = await self.connected()
        async with log.consumer("billing") as consumer:
            waiting = ensureDeferred(anext(aiter(consumer)))
            await self.until(lambda: cluster.nodes[0].waiters)
            await consumer.close()
            await self.raises(ClosedError, waiting)


class StopTests(DeferredCase):
    """A consumer that is open when the reactor stops."""

    is_plain = True

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
