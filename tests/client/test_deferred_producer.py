"""The producer for Twisted programs, on both kinds of reactors."""

import gc
import warnings

from twisted.internet.defer import CancelledError, Deferred

from loghouse.client.deferred import producer as producers
from loghouse.errors import (
    ClosedError,
    InvalidRequestError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.limits import MIB, WAITING_APPENDS_MAX, WAITING_SIZE_MAX
from tests.client.deferred_case import DeferredCase, in_a_thread


class ProducerTests(DeferredCase):
    """`DeferredProducer`."""

    async def test_batches(self):
        """Records go out in batches, in order, and each delivery tells its record's offset."""
        cluster, log = await self.connected()
        values = [b"%03d" % number for number in range(200)]
        async with log.producer(linger_ms=1000, batch_bytes=100) as producer:
            deliveries = [await producer.append(value) for value in values]
            self.assertEqual(await deliveries[3], 3)
        self.assertEqual([await delivery.offset() for delivery in deliveries], list(range(200)))
        self.assertEqual(cluster.values, values)
        self.assertTrue(10 <= len(cluster.entries) <= 30, len(cluster.entries))
        self.assertTrue(all(delivery.is_done for delivery in deliveries))

    async def test_linger(self):
        """A record that waits for others goes out by itself after its time."""
        cluster, log = await self.connected()
        async with log.producer(linger_ms=20) as producer:
            first, second = await producer.append(b"a"), await producer.append(b"b")
            self.assertFalse(first.is_done)
            self.assertEqual((await second, await first, len(cluster.entries)), (1, 0, 1))

    async def test_everything_of_a_record(self):
        """Keys, headers, timestamps and compression go along."""
        cluster, log = await self.connected()
        async with log.producer(compression="zstd") as producer:
            await producer.append(bytes(1000), key=b"k", headers={"unit": b"mm"}, timestamp=7)
        self.assertEqual(cluster.entries[0].attributes, 1)
        [record] = await log.newest(1)
        self.assertEqual((record.key, record.headers, record.timestamp), (b"k", (("unit", b"mm"),), 7))

    async def test_flush(self):
        """Flush returns when all before it are acknowledged, those that wait for room, too."""
        cluster, log = await self.connected()
        async with log.producer(linger_ms=60_000, batch_bytes=50, buffer_bytes=100) as producer:
            await producer.flush()
            taking = [producer.append(bytes(40)) for _ in range(9)]
            await producer.flush()
            self.assertEqual([(await one).is_done for one in taking], [True] * 9)
            self.assertEqual(len(cluster.values), 9)

    async def test_back_pressure(self):
        """Beyond its buffer `append` waits, in order; a cancelled one is not appended, nor waited for."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        producer = log.producer(linger_ms=0, batch_bytes=100, buffer_bytes=300)
        taking = [producer.append(b"%0100d" % number) for number in range(6)]
        self.assertEqual([one.called for one in taking], [True] * 3 + [False] * 3)
        flushing = producer.flush()
        taking[4].cancel()
        await self.raises(CancelledError, taking[4])
        await self.until(lambda: cluster.nodes[0].held_count == 3)
        self.assertFalse(taking[3].called or flushing.called)
        cluster.nodes[0].release()
        await flushing
        self.assertEqual([await (await taking[number]) for number in (0, 3, 5)], [0, 3, 4])
        self.assertEqual([int(value) for value in cluster.values], [0, 1, 2, 3, 5])
        await producer.close()

    async def test_nobody_waits(self):
        """Who does not wait for room is refused at a bound, by count and by bytes, and may go on later."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        large = bytes(7 * MIB)
        for value, count_max in ((b"x", WAITING_APPENDS_MAX), (large, WAITING_SIZE_MAX // len(large) + 1)):
            producer = log.producer(linger_ms=0, buffer_bytes=1)
            await producer.append(b"x")
            waiting = [producer.append(value) for _ in range(count_max)]
            error = await self.raises(ResourceExhaustedError, producer.append(value))
            self.assertIn("wait for the Deferred of each append", str(error))
            waiting[0].cancel()
            waiting.append(producer.append(value))
            self.assertFalse(waiting[-1].called)
            aborting = producer.abort()
            await self.raises(CancelledError, waiting[0])
            for one in waiting[1:]:
                await self.raises(ClosedError, self.outcome(one))
            await aborting
        cluster.nodes[0].release()

    async def outcome(self, taking):
        return await (await taking)

    async def test_callbacks_append(self):
        """Whoever hears of an offset may append at once, in the callback."""
        cluster, log = await self.connected()
        done = Deferred()
        async with log.producer(linger_ms=0) as producer:

            def again(offset):
                if offset == 9:
                    done.callback(None)
                else:
                    begin()

            def begin():
                producer.append(b"a").addCallback(lambda delivery: delivery.offset()).addCallback(again)

            begin()
            await done
        self.assertEqual(len(cluster.values), 10)

    async def test_refused(self):
        """A wrong record is refused alone; what the node refuses fails its batch, and is told once."""
        cluster, log = await self.connected()
        async with log.producer(linger_ms=0) as producer:
            await self.raises(InvalidRequestError, producer.append("text"))
            cluster.nodes[0].failure = InvalidRequestError("record", "is too large")
            delivery = await producer.append(b"a")
            await self.raises(InvalidRequestError, producer.flush())
            await producer.flush()
            await self.raises(InvalidRequestError, delivery)
            cluster.nodes[0].failure = None
            self.assertEqual(await (await producer.append(b"b")), 0)

    async def test_cancelled_wait(self):
        """A cancelled wait for an offset takes nothing back, and others still hear of it."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        async with log.producer(linger_ms=0) as producer:
            delivery = await producer.append(b"a")
            waiting, other = delivery.offset(), delivery.offset()
            await self.until(lambda: cluster.nodes[0].held_count)
            waiting.cancel()
            await self.raises(CancelledError, waiting)
            cluster.nodes[0].release()
            self.assertEqual((await other, await delivery), (0, 0))

    async def test_aborted(self):
        """What is not acknowledged fails; nothing is taken any more."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        producer = log.producer(linger_ms=0)
        sent = await producer.append(b"a")
        await self.until(lambda: cluster.nodes[0].held_count)
        kept = await log.producer(linger_ms=60_000).append(b"b")
        await producer.abort()
        self.assertTrue(sent.is_done)
        await self.raises(OutcomeUnknownError, sent)
        await self.raises(ClosedError, producer.append(b"c"))
        await producer.abort()
        cluster.nodes[0].release()
        self.assertFalse(kept.is_done)

    async def test_aborted_at_once(self):
        """One that is aborted before it could begin ends, too."""
        _, log = await self.connected()
        await log.producer().abort()

    async def test_block_with_an_error(self):
        """An error of the block sends the rest first, and is the one that is told."""
        cluster, log = await self.connected()

        async def fail():
            async with log.producer(linger_ms=60_000) as producer:
                await producer.append(b"a")
                raise KeyError("mine")

        await self.raises(KeyError, fail())
        self.assertEqual(cluster.values, [b"a"])

    async def test_closed_client(self):
        """Under a producer whose client is closed, everything fails, what waits for room, too."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        producer = log.producer(linger_ms=0, buffer_bytes=1)
        delivery, waiting = await producer.append(b"a"), producer.append(b"b")
        await self.until(lambda: cluster.nodes[0].held_count)
        flushing = producer.flush()
        closing = log.close()
        late = producer.append(b"c")
        await closing
        await self.raises(OutcomeUnknownError, delivery)
        for one in (waiting, late, producer.append(b"d")):
            await self.raises(UnavailableError, self.outcome(one))
        await self.raises(OutcomeUnknownError, flushing)
        await producer.close()

    async def test_fails_itself(self):
        """A producer that fails by a fault of its own tells everybody, and takes nothing any more."""
        _, log = await self.connected()
        async with log.producer(linger_ms=0) as producer:
            await (await producer.append(b"a"))

            def break_():
                raise MemoryError("no room")

            producer._outbox._sending._pull = break_
            delivery = await producer.append(b"b")
            error = await self.raises(UnavailableError, delivery)
            self.assertIn("MemoryError: no room", str(error))
            await self.until(lambda: producer._outbox.is_over)
            error = await self.raises(ClosedError, producer.append(b"c"))
            self.assertIn("MemoryError: no room", str(error))

    async def test_taken_while_it_ends(self):
        """A record that is taken when all before it was given up fails, too."""
        _, log = await self.connected()
        producer = log.producer(linger_ms=60_000)
        await (await self.settled(producer))
        outbox = producer._outbox
        give_up = outbox._sending._fail_everything
        late = []

        def fail(error):
            give_up(error)
            head_body = producers.encode_record(b"late", None, (), None)
            late.append(outbox._take(*head_body))

        outbox._sending._fail_everything = fail
        await producer.abort()
        await self.raises(ClosedError, late[0])

    async def settled(self, producer):
        delivery = await producer.append(b"a")
        await producer.flush()
        return delivery

    async def test_dropped(self):
        """One that nobody holds says what it leaves, and still sends it."""
        cluster, log = await self.connected()
        producer = log.producer(linger_ms=60_000)
        delivery = await producer.append(b"a")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del producer
            gc.collect()
        [warning] = [one for one in warned if one.category is ResourceWarning]
        self.assertIn("a producer was dropped, not closed: 1 record", str(warning.message))
        self.assertEqual(await delivery, 0)
        self.assertEqual(cluster.values, [b"a"])

    async def test_keeps_its_client(self):
        """A client that nobody holds but its producer goes on for it."""
        cluster = await self.cluster_alone()
        producer = self.connect(cluster.target).producer(linger_ms=0)
        self.closers.pop()
        for offset in range(3):
            gc.collect()
            self.assertEqual(await (await producer.append(b"a")), offset)
        opened = producer._owner._opened
        await producer.close()
        await opened.close()

    async def cluster_alone(self):
        cluster, log = await self.connected()
        await log.close()
        return cluster


ProducerThreadTests = in_a_thread(ProducerTests)
