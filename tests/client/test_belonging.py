"""What belongs to whom: a producer keeps its client, and a client with connections its loop."""

import asyncio
import gc

from loghouse.client import connect_blocking
from loghouse.errors import ClientUseError, ClosedError, UnavailableError
from tests.client.fake import FakeCase
from tests.fakes.tasks import asynchronous

SECONDS_MAX = 60


class BelongingTests(FakeCase):
    """Clients that are dropped, or used elsewhere."""

    @asynchronous
    async def test_producer_keeps_its_client(self):
        """A client that nobody holds but its producer goes on for it."""
        cluster = await self.cluster(1)

        def work():
            producer = connect_blocking(cluster.target).producer(linger_ms=0)
            for offset in range(3):
                gc.collect()
                self.assertEqual(producer.append(b"a").offset(SECONDS_MAX), offset)
                self.assertFalse(producer._running.done())
            producer.close()

        await asyncio.to_thread(work)

    @asynchronous
    async def test_closed_on_another_loop(self):
        """A client that has connections, though nothing is under way, is closed on its own loop alone."""
        _, log = await self.connected(1)
        await log.append(b"a")
        self.assertFalse(log.calls._tasks)
        self.assertTrue(log.calls.channels.is_used)

        def elsewhere():
            return asyncio.run(log.close())

        error = await self.raises(ClientUseError, asyncio.to_thread(elsewhere))
        self.assertIn("on another asyncio loop before", str(error))
        self.assertEqual(await log.append(b"b"), 1)

    @asynchronous
    async def test_closed_where_it_was_not_used(self):
        """One that was never used has nothing that a loop would have to close."""
        log = self.connect((await self.cluster(1)).target)
        await asyncio.to_thread(lambda: asyncio.run(log.close()))
        self.assertTrue(log.calls.channels.is_closed)

    async def check_closed_reader(self):
        _, log = await self.connected(1)
        await log.append(b"a")
        records = log.read(follow=True)
        self.assertEqual((await anext(records)).value, b"a")
        reading = asyncio.ensure_future(anext(records))
        await asyncio.sleep(0)
        await log.close()
        error = await self.raises(UnavailableError, reading)
        self.assertIsInstance(error, ClosedError)

    @asynchronous
    async def test_closed_under_a_reader(self):
        """A reader whose client is closed is told that, and nothing of an outcome: it changes nothing."""
        await self.check_closed_reader()

    @asynchronous
    async def test_closed_under_a_reader_by_grpc(self):
        """The same by gRPC, whose calls are cancelled then."""
        self.transport = "grpc"
        await self.check_closed_reader()
