"""Channels lent to calls: one for each address, closed when nobody uses it any more."""

import asyncio
from types import SimpleNamespace

from twisted.trial.unittest import TestCase

from loghouse.client.channels import Channels, Opening
from loghouse.client.failures import CallFailedError, unreached
from loghouse.errors import ClosedError, InvalidRequestError, OutcomeUnknownError
from tests.fakes.tasks import asynchronous, until


class LendingTests(TestCase):
    """`Channels` over channels that only note that they were closed."""

    closers = ()

    def setUp(self):
        self.closed = []
        self.channels = Channels(self.make)

    def make(self, address):
        async def close():
            self.closed.append(address)

        return SimpleNamespace(address=address, use_count=0, is_retired=False, close=close)

    async def settled(self):
        await until(lambda: not self.channels._closing)
        closed, self.closed = self.closed, []
        return closed

    @asynchronous
    async def test_one_for_each_address(self):
        """Who calls the same address has the same channel, and it stays."""
        self.assertFalse(self.channels.is_used)
        with self.channels.lend("a") as first, self.channels.lend("a") as second:
            self.assertIs(first, second)
            self.assertEqual(first.use_count, 2)
        with self.channels.lend("b"):
            pass
        self.assertEqual((first.use_count, self.channels.addresses), (0, {"a", "b"}))
        self.assertTrue(self.channels.is_used)
        self.assertEqual(await self.settled(), [])

    @asynchronous
    async def test_retired(self):
        """One whose address is gone is closed once, by the last who uses it, and at once when nobody does."""
        with self.channels.lend("a") as used:
            with self.channels.lend("a"):
                self.channels.retire("a")
                self.assertEqual((self.channels.addresses, used.is_retired), (set(), True))
            self.assertEqual(await self.settled(), [])
            with self.channels.lend("a") as another:
                self.assertIsNot(another, used)
        self.assertTrue(self.channels.is_used)
        self.assertEqual(await self.settled(), ["a"])
        self.assertEqual(self.channels.addresses, {"a"})
        self.channels.retire("a")
        self.channels.retire("nowhere")
        self.assertTrue(self.channels.is_used)  # it is just being closed
        self.assertEqual(await self.settled(), ["a"])
        self.assertFalse(self.channels.is_used)

    @asynchronous
    async def test_kept(self):
        """All but those that are kept are retired."""
        for address in "abc":
            with self.channels.lend(address):
                pass
        self.channels.keep(["b", "d"])
        self.assertEqual(sorted(await self.settled()), ["a", "c"])
        self.assertEqual(self.channels.addresses, {"b"})

    @asynchronous
    async def test_closed(self):
        """A close ends all, those on their way as well, each once; nothing is lent behind it."""
        for address in "ab":
            with self.channels.lend(address):
                pass
        with self.channels.lend("c"):
            self.channels.retire("a")
            await self.channels.close()
            self.assertEqual(sorted(self.closed), ["a", "b", "c"])
            self.channels.retire("c")
        self.assertEqual(len(await self.settled()), 3)
        with self.assertRaises(ClosedError) as caught, self.channels.lend("a"):
            self.fail("lent")
        self.assertEqual(str(caught.exception), "the client is closed")

    @asynchronous
    async def test_errors(self):
        """An error of ours is told as it is; any other is a call that failed, with nothing known."""
        for error in (InvalidRequestError("a", "b"), unreached("a", "gone"), AssertionError()):
            with self.assertRaises(type(error)) as caught, self.channels.lend("a"):
                raise error
            self.assertIs(caught.exception, error)
        cause = KeyError("x")
        with self.assertRaises(CallFailedError) as caught, self.channels.lend("a") as channel:
            raise cause
        failure = caught.exception.failure
        self.assertIsInstance(failure.error, OutcomeUnknownError)
        self.assertEqual(str(failure.error), "a: KeyError: 'x'")
        self.assertIs(failure.error.__cause__, cause)
        self.assertEqual(channel.use_count, 0)


class OpeningTests(TestCase):
    """What is opened once for all who wait."""

    closers = ()

    def setUp(self):
        self.opened = []

    def opening(self):
        async def open_():
            future = asyncio.get_running_loop().create_future()
            self.opened.append(future)
            return await future

        return Opening("a", open_)

    @asynchronous
    async def test_once(self):
        """All who wait get the same; who comes later has it opened again."""
        opening = self.opening()
        waiting = [asyncio.ensure_future(opening.wait(20)) for _ in range(3)]
        await until(lambda: self.opened)
        self.opened[0].set_result("it")
        self.assertEqual(await asyncio.gather(*waiting), ["it"] * 3)
        later = asyncio.ensure_future(opening.wait(20))
        await until(lambda: len(self.opened) == 2)
        self.opened[1].set_exception(unreached("a", "gone"))
        with self.assertRaises(CallFailedError) as caught:
            await later
        self.assertEqual(str(caught.exception), "a: gone")

    @asynchronous
    async def test_too_slow(self):
        """Who waits in vain is told for how long; it goes on being opened for others."""
        opening = self.opening()
        with self.assertRaises(CallFailedError) as caught:
            await opening.wait(0.0123456)
        self.assertEqual(str(caught.exception), "a: no connection within 0.0123 s")
        waiting = asyncio.ensure_future(opening.wait(20))
        await asyncio.sleep(0)
        self.opened[0].set_result("it")
        self.assertEqual((await waiting, len(self.opened)), ("it", 1))

    @asynchronous
    async def test_cancelled(self):
        """A close ends what is being opened, and tells who waits."""
        opening = self.opening()
        await opening.cancel()
        waiting = asyncio.ensure_future(opening.wait(20))
        await until(lambda: self.opened)
        await opening.cancel()
        with self.assertRaises(ClosedError) as caught:
            await waiting
        self.assertEqual(str(caught.exception), "the client is closed")
