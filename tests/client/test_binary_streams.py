"""Streams of the binary protocol by themselves: what they ask of a connection, and in which order."""

import asyncio
from types import SimpleNamespace

from twisted.trial.unittest import TestCase

from loghouse.client.binary_channel import DIAL_SECONDS, BinaryChannel
from loghouse.client.channels import AppendAnswer, LogId
from loghouse.client.failures import CallFailedError
from loghouse.protocol.entry import DEFAULT_GROUP
from tests.fakes.tasks import asynchronous


class NotingConnection:
    """A connection that notes what it is asked for."""

    def __init__(self):
        self.calls = []
        self.lost = asyncio.get_running_loop().create_future()

    async def enter(self, seconds):
        self.calls.append(("enter", seconds))

    async def drain(self):
        self.calls.append("drain")

    def begin(self, request, group):
        self.calls.append((request, group))
        self.asked = SimpleNamespace(answer=asyncio.get_running_loop().create_future())
        return self.asked

    def forget(self, asked):
        self.calls.append(("forget", asked))

    def follow(self, offset, group):
        self.calls.append(("follow", offset, group))
        self.waiting = ["first", "second"]
        return self

    def take(self):
        return self.waiting.pop(0) if self.waiting else None

    async def read(self):
        return self.take()

    def cancel(self):
        self.calls.append("cancel")


class StreamTests(TestCase):
    """A channel that dials such a connection."""

    closers = ()

    def setUp(self):
        self.channel = BinaryChannel("a:1", None, self.fail, self.fail)
        self.channel.connection = self.dial
        self.made = None

    async def dial(self, seconds):
        self.made = NotingConnection()
        self.made.calls.append(("dial", seconds))
        return self.made

    def told(self):
        if self.made is None:
            return []
        calls, self.made.calls = self.made.calls, []
        return calls

    # --- tests ------------------------------------------------------------------------------

    @asynchronous
    async def test_answers(self):
        """A reader follows from its offset at its first read; what is here then is taken without waiting."""
        answers = self.channel.answers(7, LogId())
        self.assertIsNone(answers.take())
        answers.cancel()
        self.assertEqual(self.told(), [])
        self.assertEqual(await answers.read(), "first")
        self.assertEqual(
            self.told(), [("dial", DIAL_SECONDS), ("enter", DIAL_SECONDS), ("follow", 7, DEFAULT_GROUP)]
        )
        self.assertEqual((answers.take(), answers.take()), ("second", None))
        answers.cancel()
        self.assertEqual(self.told(), ["cancel"])

    @asynchronous
    async def test_appends(self):
        """Batches leave by one connection, and outcomes come in their order."""
        appends = self.channel.appends(LogId("orders", 16))
        appends.cancel()
        reading = asyncio.ensure_future(appends.read())
        await appends.write("one")
        first = self.made.asked
        await appends.write("two")
        second = self.made.asked
        entered = ["drain", ("enter", DIAL_SECONDS)]
        self.assertEqual(
            self.told(),
            [("dial", DIAL_SECONDS), *entered, ("one", 16), *entered, ("two", 16)],
        )
        second.answer.set_result(SimpleNamespace(base_offset=5, record_count=2))
        await asyncio.sleep(0)
        self.assertFalse(reading.done())
        first.answer.set_result(SimpleNamespace(base_offset=3, record_count=2))
        self.assertEqual(await reading, AppendAnswer(3, 2))
        appends.cancel()
        self.assertEqual(self.told(), [("forget", second)])
        self.assertEqual(await appends.read(), AppendAnswer(5, 2))
        appends.cancel()
        self.assertEqual(self.told(), [])

    @asynchronous
    async def test_lost(self):
        """Who waits for an outcome is told when the connection goes with nothing left to answer."""
        appends = self.channel.appends(LogId())
        await appends.write("one")
        self.made.asked.answer.set_result(SimpleNamespace(base_offset=0, record_count=1))
        await appends.read()
        reading = asyncio.ensure_future(appends.read())
        await asyncio.sleep(0)
        self.assertFalse(reading.done())
        self.made.lost.set_result(None)
        with self.assertRaises(CallFailedError) as caught:
            await reading
        self.assertEqual(str(caught.exception), "a:1: the connection is gone")
