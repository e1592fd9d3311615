"""The two bridges carry results, errors and cancellations both ways."""

import asyncio

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from loghouse.runtime.bridge import from_asyncio, to_asyncio


class BridgeTests(TestCase):
    """`from_asyncio` and `to_asyncio` on the reactor's own loop."""

    timeout = 30

    async def test_from_asyncio(self):
        """A coroutine's result and its error come out of the Deferred."""

        async def double(number):
            await asyncio.sleep(0)
            return 2 * number if number else 1 / number

        self.assertEqual(await from_asyncio(double(4)), 8)
        await self.assertFailure(from_asyncio(double(0)), ZeroDivisionError)

    async def test_from_asyncio_cancelled(self):
        """Cancelling the Deferred cancels the task, which may clean up."""
        events = []

        async def wait():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                events.append("cleaned")

        async def turn():
            await asyncio.sleep(0)

        work = from_asyncio(wait())
        await from_asyncio(turn())
        work.cancel()
        await self.assertFailure(work, asyncio.CancelledError, CancelledError)
        await from_asyncio(turn())
        self.assertEqual(events, ["cleaned"])

    async def test_to_asyncio(self):
        """A Deferred's result and its error come out of the future."""

        async def go():
            fine, broken = Deferred(), Deferred()
            futures = [to_asyncio(fine), to_asyncio(broken)]
            fine.callback(1)
            broken.errback(KeyError("x"))
            return await asyncio.gather(*futures, return_exceptions=True)

        first, second = await from_asyncio(go())
        self.assertEqual((first, str(second)), (1, "'x'"))

    async def test_to_asyncio_cancelled(self):
        """Cancelling the future cancels the Deferred."""
        cancelled = []

        async def go():
            future = to_asyncio(Deferred(cancelled.append))
            future.cancel()
            await asyncio.gather(future, return_exceptions=True)

        await from_asyncio(go())
        self.assertEqual(len(cancelled), 1)
