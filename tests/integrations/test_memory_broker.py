"""The test broker for FastStream: handlers called without a cluster, as a program's tests call them."""

from faststream import BaseMiddleware, FastStream
from faststream.exceptions import (
    FeatureNotSupportedException,
    NackMessage,
    RejectMessage,
    SubscriberNotFound,
)
from faststream.middlewares import AckPolicy
from faststream.specification import AsyncAPI
from twisted.trial.unittest import TestCase

from loghouse.integrations.faststream import (
    LoghouseBroker,
    LoghouseMessage,
    LoghousePublisherRoute,
    LoghouseResponse,
    LoghouseRoute,
    LoghouseRouter,
    TestLoghouseBroker,
)
from loghouse.integrations.faststream import annotations as given
from tests.fakes.tasks import asynchronous


class MemoryCase(TestCase):
    """A broker of which no node is ever asked."""

    def setUp(self):
        self.closers = []
        self.broker = LoghouseBroker("loghouse://nobody.example:8400")
        self.test = TestLoghouseBroker(self.broker)

    def values(self, log):
        return [record.value for record in self.test.records(log)]

    async def raises(self, kind, work):
        try:
            await work
        except kind as error:
            return error
        raise self.failureException(f"no {kind.__name__}")


class MessageTests(MemoryCase):
    """What a handler gets of a record."""

    @asynchronous
    async def test_parts(self):
        """Key, headers, offset, time and correlation of a record are the message's; its body is decoded."""
        seen = []

        @self.broker.subscriber("orders", cursor="billing")
        async def bill(order: dict, message: given.LoghouseMessage):
            seen.append(message)
            self.assertEqual(order, {"amount": 3})

        async with self.test:
            offset = await self.broker.publish(
                {"amount": 3},
                "orders",
                key=b"customer-7",
                headers={"unit": "mm", "raw": b"\xff"},
                correlation_id="c-1",
                timestamp=1_700_000_000_000_000,
            )
        (message,) = seen
        self.assertIsInstance(message, LoghouseMessage)
        self.assertEqual((offset, message.offset, message.log), (0, 0, "orders"))
        self.assertEqual((message.key, message.timestamp), (b"customer-7", 1_700_000_000_000_000))
        self.assertEqual((message.headers["unit"], message.headers["raw"]), ("mm", b"\xff"))
        self.assertEqual((message.correlation_id, message.content_type), ("c-1", "application/json"))
        self.assertEqual((message.message_id, message.reply_to), ("orders-0", ""))

    @asynchronous
    async def test_kinds_of_bodies(self):
        """Bytes stay bytes, texts are texts, everything else is JSON; nothing is an empty record."""
        seen = []

        @self.broker.subscriber("orders")
        async def note(body):
            seen.append(body)

        async with self.test:
            for body in (b"\xff\xfe", "text", [1, 2], None):
                await self.broker.publish(body, "orders")
        self.assertEqual(seen, [b"\xff\xfe", "text", [1, 2], b""])
        self.assertEqual(self.values("orders"), [b"\xff\xfe", b"text", b"[1,2]", b""])

    @asynchronous
    async def test_batch(self):
        """A subscriber of batches gets what was appended together, each decoded by its own content type."""
        seen = []

        @self.broker.subscriber("orders", cursor="billing", batch=True)
        async def bill(orders: list[dict], message: given.LoghouseMessage):
            seen.append((orders, message.message_id, len(message.batch_headers)))

        async with self.test:
            await self.broker.publish_batch({"n": 1}, {"n": 2}, log="orders")
            self.assertEqual(await self.broker.publish_batch(log="orders"), [])
        self.assertEqual(seen, [([{"n": 1}, {"n": 2}], "orders-0-1", 2)])
        self.assertEqual(self.test.position("billing", "orders"), 2)

    @asynchronous
    async def test_foreign_headers(self):
        """Headers that FastStream reads count only where they are text."""
        seen = []

        @self.broker.subscriber("orders")
        async def note(message: given.LoghouseMessage):
            seen.append((message.reply_to, message.content_type))

        async with self.test:
            await self.broker.publish(b"{}", "orders", headers={"reply_to": b"\xff", "content-type": b"\xfe"})
        self.assertEqual(seen, [("", None)])


class PolicyTests(MemoryCase):
    """What becomes of a record, and of the cursor."""

    async def given(self, policy=None, error=None):
        """Have a record handled, with an error; return where the cursor stands then."""
        options = {} if policy is None else {"ack_policy": policy}

        @self.broker.subscriber("orders", cursor="billing", **options)
        async def bill(message: given.LoghouseMessage):
            if error is not None:
                raise error

        async with self.test:
            try:
                await self.broker.publish(b"", "orders")
            except ValueError:
                self.assertIsInstance(error, ValueError)
            return self.test.position("billing", "orders")

    @asynchronous
    async def test_handled(self):
        """The cursor passes what is handled."""
        self.assertEqual(await self.given(), 1)

    @asynchronous
    async def test_failed(self):
        """It does not pass what failed, unless the policy says so."""
        self.assertEqual(await self.given(error=ValueError()), 0)

    @asynchronous
    async def test_passing_policies(self):
        """It passes a failure when the policy acknowledges or rejects it."""
        for policy in (AckPolicy.ACK, AckPolicy.REJECT_ON_ERROR, AckPolicy.ACK_FIRST):
            self.setUp()
            self.assertEqual(await self.given(policy, ValueError()), 1, policy)

    @asynchronous
    async def test_said_by_handler(self):
        """A handler may say itself what becomes of its record, whatever the policy."""
        for error, position in ((NackMessage(), 0), (RejectMessage(), 1)):
            self.setUp()
            self.assertEqual(await self.given(error=error), position, error)

    @asynchronous
    async def test_manual(self):
        """By hand nothing is passed before a handler says so, and that passes all before it."""
        acknowledged = []

        @self.broker.subscriber("orders", cursor="billing", ack_policy=AckPolicy.MANUAL)
        async def bill(message: given.LoghouseMessage):
            if message.offset == 2:
                await message.ack()
            acknowledged.append(self.test.position("billing", "orders"))

        async with self.test:
            for _ in range(4):
                await self.broker.publish(b"", "orders")
        self.assertEqual(acknowledged, [0, 0, 3, 3])


class AnswerTests(MemoryCase):
    """Where answers go."""

    @asynchronous
    async def test_publisher(self):
        """A publisher appends what its handler answers, with the correlation of the record."""
        bills = self.broker.publisher("bills", key=b"k", headers={"by": "billing"})

        @bills
        @self.broker.subscriber("orders", cursor="billing")
        async def bill(order: dict) -> dict:
            return {"bill": order["amount"]}

        async with self.test:
            await self.broker.publish({"amount": 3}, "orders", correlation_id="c-1")
            bills.mock.assert_called_once_with({"bill": 3})
            bill.mock.assert_called_once_with({"amount": 3})
        (record,) = self.test.records("bills")
        self.assertEqual((record.value, record.key), (b'{"bill":3}', b"k"))
        headers = {"content-type": b"application/json", "correlation_id": b"c-1", "by": b"billing"}
        self.assertEqual(dict(record.headers), headers)

    @asynchronous
    async def test_into(self):
        """With `into` an answer is appended when its record is acknowledged, and not when that failed."""

        @self.broker.subscriber("orders", cursor="billing", into="bills")
        async def bill(order: dict):
            if order["amount"] < 0:
                raise ValueError(order)
            return LoghouseResponse(order, key=b"k", timestamp=7) if order["amount"] else None

        async with self.test:
            await self.broker.publish({"amount": 1}, "orders")
            await self.broker.publish({"amount": 0}, "orders")
            await self.raises(ValueError, self.broker.publish({"amount": -1}, "orders"))
            self.assertEqual(self.test.position("billing", "orders"), 2)
        (record,) = self.test.records("bills")
        self.assertEqual((record.value, record.key, record.timestamp), (b'{"amount":1}', b"k", 7))

    @asynchronous
    async def test_group_into(self):
        """Several logs answer into one; each has a position of its own."""

        @self.broker.subscriber("shop-*", cursor="billing", into="bills")
        async def bill(order: int, message: given.LoghouseMessage):
            return f"{message.log} {order}"

        async with self.test:
            for log, order in (("shop-1", 1), ("shop-2", 2), ("shop-1", 3)):
                await self.broker.publish(order, log)
        values = [record.value for record in self.test.records("bills")]
        self.assertEqual(values, [b"shop-1 1", b"shop-2 2", b"shop-1 3"])
        self.assertEqual([self.test.position("billing", f"shop-{number}") for number in (1, 2)], [2, 1])

    @asynchronous
    async def test_rejected_into(self):
        """What a handler published before it rejected its record is not appended."""
        bills = self.broker.publisher("bills")

        @self.broker.subscriber("orders", cursor="billing", into=bills)
        async def bill(order: dict):
            self.assertIsNone(await bills.publish(order))
            if order["amount"] < 0:
                raise RejectMessage

        async with self.test:
            await self.broker.publish({"amount": 1}, "orders")
            await self.broker.publish({"amount": -1}, "orders")
            self.assertEqual(self.test.position("billing", "orders"), 2)
            self.assertEqual(self.values("bills"), [b'{"amount":1}'])
            self.assertEqual(await bills.publish("outside"), 1)

    @asynchronous
    async def test_acknowledged_into(self):
        """An answer goes with the cursor also when its handler acknowledged the record before."""
        received = []

        @self.broker.subscriber("orders", cursor="billing", into="bills", ack_policy=AckPolicy.MANUAL)
        async def bill(order: int, message: given.LoghouseMessage) -> int:
            received.append(message.raw_message)
            if order:
                await message.ack()
            return order

        async with self.test:
            await self.broker.publish(1, "orders")
            await self.broker.publish(0, "orders")
        self.assertEqual([len(one.answers) for one in received], [1, 1])
        self.assertEqual((self.values("bills"), self.test.position("billing", "orders")), ([b"1"], 1))

    @asynchronous
    async def test_batch_into(self):
        """A handler of batches answers with a list, each element a record; nothing stands for no answer."""

        @self.broker.subscriber("orders", cursor="billing", into="bills", batch=True)
        async def bill(orders: list[int]) -> list[int]:
            return [10 * order for order in orders if order]

        async with self.test:
            await self.broker.publish_batch(1, 0, 2, log="orders")
            await self.broker.publish_batch(0, log="orders")
        self.assertEqual(self.values("bills"), [b"10", b"20"])
        self.assertEqual(self.test.position("billing", "orders"), 4)

    @asynchronous
    async def test_chain(self):
        """What goes into a log is handled by that log's subscribers."""
        seen = []

        @self.broker.subscriber("orders", cursor="billing", into="bills")
        async def bill(order: int) -> int:
            return order + 1

        @self.broker.subscriber("bills", cursor="mail")
        async def mail(bill: int):
            seen.append(bill)

        async with self.test:
            await self.broker.publish(1, "orders")
        self.assertEqual(seen, [2])

    @asynchronous
    async def test_reply(self):
        """An answer goes to the log that a record asks for, unless the subscriber gives none."""

        @self.broker.subscriber("questions")
        async def answer(question: str) -> str:
            return question.upper()

        @self.broker.subscriber("questions", no_reply=True)
        async def listen(question: str) -> str:
            return "never"

        async with self.test:
            await self.broker.publish("a", "questions", reply_to="answers", correlation_id="c-1")
            await self.raises(FeatureNotSupportedException, self.broker.request("a", "questions"))
        (record,) = self.test.records("answers")
        self.assertEqual((record.value, dict(record.headers)["correlation_id"]), (b"A", b"c-1"))

    @asynchronous
    async def test_one_of_a_cursor(self):
        """Of the subscribers of one cursor one gets a record; those of another, or of none, get it, too."""
        seen = []
        for cursor in ("a", "a", "b", None, None):

            @self.broker.subscriber("orders", cursor=cursor)
            async def note(body: str, cursor=cursor):
                seen.append(cursor)

        async with self.test:
            await self.broker.publish("x", "orders")
        self.assertEqual(sorted(map(str, seen)), ["None", "None", "a", "b"])


class ExtensionTests(MemoryCase):
    """What FastStream lets programs put in between."""

    @asynchronous
    async def test_middlewares(self):
        """A middleware sees each message, and each publication, also one that goes with a cursor."""
        seen = []

        class Noting(BaseMiddleware):
            async def consume_scope(self, call_next, msg):
                seen.append(("consumed", msg.log))
                return await call_next(msg)

            async def publish_scope(self, call_next, cmd):
                seen.append(("published", cmd.destination))
                cmd.headers["by"] = "middleware"
                return await call_next(cmd)

        self.broker.add_middleware(Noting)

        @self.broker.subscriber("orders", cursor="billing", into="bills")
        async def bill(order: int) -> int:
            return order

        async with self.test:
            await self.broker.publish(1, "orders")
            await self.broker.publish_batch(log="orders")
        expected = [("published", "orders"), ("consumed", "orders"), ("published", "bills")]
        self.assertEqual(seen[:3], expected)
        self.assertEqual(dict(self.test.records("bills")[0].headers)["by"], b"middleware")

    @asynchronous
    async def test_codec(self):
        """A codec makes the values, and reads them."""

        class Reversing:
            async def encode(self, msg, serializer=None):
                return msg[::-1].encode(), None

            async def decode(self, msg):
                return msg.body.decode()[::-1]

        broker = LoghouseBroker(codec=Reversing())
        test = TestLoghouseBroker(broker)
        seen = []

        @broker.subscriber("orders")
        async def note(order: str):
            seen.append(order)

        async with test:
            await broker.publish("abc", "orders")
        self.assertEqual((seen, test.records("orders")[0].value), (["abc"], b"cba"))

    @asynchronous
    async def test_filter(self):
        """Handlers of one subscriber share its records; one that none wants has failed."""
        seen = []
        subscriber = self.broker.subscriber("orders", cursor="billing")

        @subscriber(filter=lambda message: message.key == b"a")
        async def note_a(order: str):
            seen.append(("a", order))

        @subscriber(filter=lambda message: message.key == b"b")
        async def note_b(order: str):
            seen.append(("b", order))

        async with self.test:
            await self.broker.publish("x", "orders", key=b"b")
            await self.broker.publish("y", "orders", key=b"a")
            await self.raises(SubscriberNotFound, self.broker.publish("z", "orders"))
            self.assertEqual(self.test.position("billing", "orders"), 2)
        self.assertEqual(seen, [("b", "x"), ("a", "y")])


class RouterTests(MemoryCase):
    """Routers, and the schema."""

    @asynchronous
    async def test_router(self):
        """A router's logs have its prefix, those of its subscribers, publishers and `into`."""
        router = LoghouseRouter(prefix="eu-")

        @router.subscriber("orders", cursor="billing", into="bills")
        async def bill(order: int) -> int:
            return order + 1

        async def mail(bill: int) -> str:
            return f"bill {bill}"

        mailing = LoghouseRoute(mail, "bills", cursor="mail", publishers=[LoghousePublisherRoute("mails")])
        router.include_router(LoghouseRouter(handlers=[mailing]))
        self.broker.include_router(router)
        async with self.test:
            await self.broker.publish(1, "eu-orders")
        self.assertEqual((self.values("eu-bills"), self.values("eu-mails")), ([b"2"], [b"bill 2"]))

    @asynchronous
    async def test_pattern(self):
        """A pattern gets the records of every log that it names, and the message tells of which."""
        seen = []

        @self.broker.subscriber("orders-*", cursor="billing")
        async def bill(message: given.LoghouseMessage):
            seen.append(message.log)

        async with self.test:
            for log in ("orders-1", "bills-1", "orders-2"):
                await self.broker.publish(b"", log)
        self.assertEqual(seen, ["orders-1", "orders-2"])
        self.assertEqual(self.test.position("billing", "orders-2"), 1)

    @asynchronous
    async def test_schema(self):
        """AsyncAPI has a channel for each log, with the server and what the records are."""

        @self.broker.subscriber("orders-1", "orders-2", cursor="billing", title="Orders")
        async def bill(order: dict[str, int]):
            """Bill an order."""

        self.broker.publisher("bills", schema=int, title="Bills")
        app = FastStream(self.broker, specification=AsyncAPI())
        found = app.schema.to_specification().to_jsonable()
        server = found["servers"]["development"]
        self.assertEqual((server["host"], server["protocol"]), ("nobody.example:8400", "loghouse"))
        addresses = {name: channel["address"] for name, channel in found["channels"].items()}
        expected = {"Orders:orders-1": "orders-1", "Orders:orders-2": "orders-2", "Bills": "bills"}
        self.assertEqual(addresses, expected)
        self.assertIn("integer", str(found["components"]["schemas"]["Bills:Message:Payload"]))
