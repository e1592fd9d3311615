"""The broker for FastStream on clusters of fake nodes: what it appends, what it reads without a cursor."""

import subprocess
import sys

from faststream.exceptions import IncorrectState, SetupError
from faststream.message import AckStatus
from faststream.middlewares import AckPolicy
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DeadlineError, InvalidRequestError, UnknownLogError
from loghouse.integrations.faststream import LoghouseBroker, LoghouseRouter, producing
from loghouse.integrations.faststream import annotations as given
from loghouse.integrations.faststream import subscriber as subscriber_module
from loghouse.limits import FASTSTREAM_WORKERS_MAX
from tests.client.test_named_logs import NamedCase
from tests.fakes.tasks import asynchronous, until
from tests.processes import CHILDREN
from tests.test_tidy import ROOT


class BrokerCase(NamedCase):
    """A cluster with the log `orders`, and a broker that is closed at the end."""

    async def opened(self, **options):
        cluster, self.client = await super().opened()
        self.broker = self.another(cluster, **options)
        return cluster

    def another(self, cluster, **options):
        options.setdefault("logger", None)
        broker = LoghouseBroker(cluster.target, timeout_seconds=20.0, **options)
        self.closers.append(broker.stop)
        return broker

    async def records(self, log="orders"):
        return [record async for record in self.client.log(log).read()]


class PublishTests(BrokerCase):
    """What is appended."""

    @asynchronous
    async def test_publish(self):
        """A message is a record, with its key, headers and time; its offset is returned."""
        await self.opened()
        await self.broker.connect()
        offset = await self.broker.publish(
            {"amount": 3}, "orders", key=b"k", headers={"n": 7}, correlation_id="c-1", timestamp=9
        )
        bills = self.broker.publisher("orders", key=b"own", reply_to="default", batch=True)
        self.assertEqual(await bills.publish(["a", b"b"], correlation_id="c-2"), [1, 2])
        self.assertEqual(await self.broker.publish_batch("c", "d", log="orders"), [3, 4])
        first, second, *rest = await self.records()
        self.assertEqual((offset, first.value, first.key, first.timestamp), (0, b'{"amount":3}', b"k", 9))
        headers = {"content-type": b"application/json", "correlation_id": b"c-1", "n": b"7"}
        self.assertEqual(dict(first.headers), headers)
        self.assertEqual((second.key, dict(second.headers)["reply_to"]), (b"own", b"default"))
        self.assertEqual([record.value for record in rest], [b"b", b"c", b"d"])

    @asynchronous
    async def test_not_connected(self):
        """Who publishes before the broker is connected, or asks for its client, is told what is missing."""
        await self.opened()
        await self.raises(InvalidRequestError, self.broker.publish("a", "orders"))
        self.assertRaises(IncorrectState, lambda: self.broker.client)
        self.assertFalse(await self.broker.ping())
        async with self.broker:
            self.assertTrue(await self.broker.ping())
        await self.raises(InvalidRequestError, self.broker.publish("a", "orders"))
        self.assertFalse(await self.broker.ping())

    @asynchronous
    async def test_ping(self):
        """A ping that no node answers in its time is not well."""
        cluster = await self.opened()
        await self.broker.connect()
        for node in cluster.nodes:
            await node.stop()
        self.assertFalse(await self.broker.ping(timeout=0.2))

    @asynchronous
    async def test_producers(self):
        """Of logs that are published to the producers used last are kept open, and those that are at work."""
        await self.opened()
        self.patch(producing, "FASTSTREAM_PRODUCERS_MAX", 1)
        await self.broker.connect()
        producers = self.broker.config.producer._producers
        for number, log in enumerate(("orders", "default", "orders")):
            await self.broker.publish(b"%d" % number, log)
            self.assertEqual(len(producers), 1)
        self.assertEqual([record.value for record in await self.records()], [b"0", b"2"])
        self.assertEqual([record.value for record in await self.records("default")], [b"1"])

    @asynchronous
    async def test_unknown_log(self):
        """A log that is not there is the error of who publishes to it, and the next one goes on."""
        await self.opened()
        await self.broker.connect()
        await self.raises(UnknownLogError, self.broker.publish("a", "ordres"))
        self.assertEqual(await self.broker.publish("a", "orders"), 0)


class StartTests(BrokerCase):
    """How a broker starts."""

    @asynchronous
    async def test_unknown_log(self):
        """A program whose subscriber names no log that there is does not start."""
        await self.opened()

        @self.broker.subscriber("ordres")
        async def bill(order): ...

        await self.raises(UnknownLogError, self.broker.start())

    @asynchronous
    async def test_nobody(self):
        """Nor does one that reaches no node."""
        await self.opened()
        broker = LoghouseBroker("loghouse://127.0.0.1:1", timeout_seconds=0.2)
        await self.raises(DeadlineError, broker.start())
        await broker.stop()

    @asynchronous
    async def test_two_ways(self):
        """A handler that would answer twice into one log is refused at the start."""
        await self.opened()

        @self.broker.publisher("orders")
        @self.broker.subscriber("default", cursor="billing", into="orders")
        async def bill(order): ...

        error = await self.raises(SetupError, self.broker.start())
        self.assertIn("'orders' twice", str(error))


class ReadTests(BrokerCase):
    """Subscribers without a cursor."""

    @asynchronous
    async def test_from_now_on(self):
        """They get what is appended once the broker has started, unless they are told to begin elsewhere."""
        await self.opened()
        await self.client.log("orders").append(b"old")
        seen, all_seen = [], []

        @self.broker.subscriber("orders")
        async def note(body: str):
            seen.append(body)

        @self.broker.subscriber("orders", from_="earliest")
        async def note_all(body: str, message: given.LoghouseMessage):
            all_seen.append((message.offset, body))

        await self.broker.start()
        await self.client.log("orders").append_batch([b"new", b"newer"])
        await until(lambda: len(seen) == 2 and len(all_seen) == 3)
        self.assertEqual(seen, ["new", "newer"])
        self.assertEqual(all_seen, [(0, "old"), (1, "new"), (2, "newer")])

    @asynchronous
    async def test_begins(self):
        """What is appended once the start is over is read, though the reading begins later."""
        await self.opened()
        await self.client.log("orders").append(b"old")
        subscriber = self.broker.subscriber("orders")
        await self.broker.start()
        await self.client.log("orders").append(b"new")
        message = await subscriber.get_one()
        self.assertEqual(await message.decode(), b"new")

    @asynchronous
    async def test_again(self):
        """A record whose handler failed is handled again, before the next one."""
        await self.opened()
        seen = []

        @self.broker.subscriber("orders", retry_seconds=0.001)
        async def note(body: str):
            seen.append(body)
            if len(seen) < 3:
                raise ValueError(body)

        await self.broker.start()
        await self.client.log("orders").append_batch([b"a", b"b"])
        await until(lambda: len(seen) == 4)
        self.assertEqual(seen, ["a", "a", "a", "b"])

    @asynchronous
    async def test_get_one(self):
        """A subscriber without handlers is asked for one record at a time, or iterated."""
        await self.opened()
        await self.client.log("orders").append_batch([b"a", b"b"])
        subscriber = self.broker.subscriber("orders", from_="earliest")
        later = self.broker.subscriber("orders")
        await self.broker.start()
        message = await subscriber.get_one()
        self.assertEqual((await message.decode(), message.offset), (b"a", 0))
        await message.ack()
        self.assertIs(message.committed, AckStatus.ACKED)
        self.assertEqual((await subscriber.get_one()).offset, 1)
        self.assertIsNone(await later.get_one(timeout=0.01))
        await self.client.log("orders").append(b"c")
        self.assertEqual((await later.get_one()).offset, 2)
        async for message in self.broker.subscriber("orders", from_=1):
            self.assertEqual(message.offset, 1)
            break

    @asynchronous
    async def test_stopped_waiting(self):
        """Who waits for a record when the broker stops waits no longer."""
        await self.opened()
        subscriber = self.broker.subscriber("orders")
        await self.broker.start()
        self.assertIsNone(await subscriber.get_one(timeout=0.01))
        await self.broker.stop()
        await self.broker.start()
        await self.client.log("orders").append(b"a")
        self.assertEqual((await subscriber.get_one()).offset, 0)

    @asynchronous
    async def test_trimmed(self):
        """Records that were trimmed before they were read are passed, and the program's log tells so."""
        lines = []

        class Noting:
            def log(self, level, message, *args, **kwargs):
                lines.append(str(message))

        await self.opened(logger=Noting())
        self.patch(subscriber_module, "RESTART_SECONDS", 0.001)
        await self.client.log("orders").append_batch([b"a", b"b", b"c"])
        self.held.forget(2)
        seen = []

        @self.broker.subscriber("orders", from_=0)
        async def note(body: str):
            seen.append(body)

        await self.broker.start()
        await self.client.log("orders").append(b"d")
        await until(lambda: "d" in seen)
        self.assertEqual(seen, ["c", "d"])
        self.assertTrue(any("offset 0 is out of range" in line for line in lines), lines)


class MissingTests(SynchronousTestCase):
    """A machine without FastStream."""

    skip = CHILDREN

    def test_told(self):
        """Who imports the broker there is told what to install; the client does not need it."""
        missing = "import sys; sys.modules['faststream'] = None; import "
        for module, text in (
            ("loghouse.integrations.faststream", "pip install 'loghouse[faststream]'"),
            ("loghouse.client.asynchronous", ""),
        ):
            done = subprocess.run(
                [sys.executable, "-c", f"{missing}{module}"], cwd=ROOT, capture_output=True, text=True
            )
            self.assertEqual(done.returncode, 1 if text else 0, done.stderr)
            self.assertIn(text, done.stderr)


class SetupTests(SynchronousTestCase):
    """Subscribers that cannot be meant are refused where they are written."""

    def test_refusals(self):
        """Each refusal says what does not go together."""
        broker = LoghouseBroker()
        for logs, options, text in (
            ((), {}, "needs a log"),
            (("a", "b"), {}, "several logs only with a cursor"),
            (("a-*",), {}, "several logs only with a cursor"),
            (("a",), {"into": "b"}, "`into` only with a cursor"),
            (("a",), {"commit_seconds": 2}, "`commit_seconds` only with a cursor"),
            (("a", "b-*"), {"cursor": "c"}, "one pattern, or the names"),
            (("a",), {"max_workers": 2, "batch": True}, "`max_workers` or `batch`"),
            (("a",), {"max_workers": 2, "ack_policy": AckPolicy.MANUAL}, "MANUAL"),
            (("a",), {"max_workers": 2, "ack_policy": "manual"}, "MANUAL"),
            (("a",), {"cursor": "c", "into": "d", "ack_policy": AckPolicy.ACK_FIRST}, "first"),
        ):
            error = self.assertRaises(SetupError, broker.subscriber, *logs, **options)
            self.assertIn(text, str(error))
        by_hand = LoghouseBroker(ack_policy=AckPolicy.MANUAL)
        self.assertRaises(SetupError, by_hand.subscriber, "a", max_workers=2)
        for logs, options in (
            ((7,), {}),
            (("a",), {"max_workers": 0}),
            (("a",), {"max_workers": FASTSTREAM_WORKERS_MAX + 1}),
            (("a",), {"retry_seconds": 0}),
        ):
            self.assertRaises(InvalidRequestError, broker.subscriber, *logs, **options)
        self.assertRaises(SetupError, broker.include_router, LoghouseBroker)
        self.assertRaises(SetupError, LoghouseRouter().include_router, None)
