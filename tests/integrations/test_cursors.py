"""Subscribers with a cursor, on clusters of fake nodes: what the cursor passes, and when."""

import asyncio

from faststream.exceptions import NackMessage, RejectMessage, SetupError, StopConsume
from faststream.middlewares import AckPolicy

from loghouse.catalogue.records import LogSettings
from loghouse.client.records import NewRecord
from loghouse.errors import UnknownCursorError
from loghouse.integrations.faststream import annotations as given
from loghouse.integrations.faststream import subscriber as subscriber_module
from tests.fakes.tasks import asynchronous, until
from tests.integrations.test_broker import BrokerCase


class CursorCase(BrokerCase):
    """A cluster with the logs `default` and `orders`, and a program on `orders` by the cursor `billing`."""

    async def opened(self, **options):
        cluster = await super().opened(**options)
        self.orders = self.client.log("orders")
        self.patch(subscriber_module, "RESTART_SECONDS", 0.001)
        return cluster

    async def cursor(self, log="orders"):
        return await self.client.log(log).cursors().get("billing")

    async def stopped(self, log="orders"):
        """Stop the program; return where its cursor stands, which nobody holds then."""
        await self.broker.stop()
        cursor = await self.cursor(log)
        self.assertEqual((cursor.holder, cursor.left_seconds), ("", 0))
        return cursor.position

    def make_shops(self):
        """Make two logs more."""
        for name in ("shop-1", "shop-2"):
            self.admin.create(name, LogSettings(replicas=1), on=("n1",), by="root")

    async def values(self, log):
        return [record.value for record in await self.records(log)]


class ResumeTests(CursorCase):
    """A program goes on where it was."""

    @asynchronous
    async def test_stop(self):
        """A program that stops commits what it handled, and releases the cursor; the next one goes on."""
        await self.opened()
        await self.orders.append_batch([b"a", b"b"])
        seen = []

        @self.broker.subscriber("orders", cursor="billing")
        async def bill(order: str):
            seen.append(order)

        await self.broker.start()
        await until(lambda: len(seen) == 2)
        self.assertEqual(await self.stopped(), 2)
        await self.orders.append(b"c")
        await self.broker.start()
        await until(lambda: len(seen) == 3)
        self.assertEqual(await self.stopped(), 3)
        self.assertEqual(seen, ["a", "b", "c"])

    @asynchronous
    async def test_stop_waits(self):
        """A handler at work may end before its program does, and what it did counts."""
        await self.opened()
        await self.orders.append_batch([b"a", b"b"])
        begun, may_end, seen = asyncio.Event(), asyncio.Event(), []

        @self.broker.subscriber("orders", cursor="billing")
        async def bill(order: str):
            begun.set()
            await may_end.wait()
            seen.append(order)

        await self.broker.start()
        await begun.wait()
        stopping = asyncio.ensure_future(self.stopped())
        await until(lambda: not bill_of(self.broker).running)
        may_end.set()
        self.assertEqual(await stopping, 1)
        self.assertEqual(seen, ["a"])

    @asynchronous
    async def test_stop_of_one(self):
        """A subscriber that is stopped alone has committed and released by then; its client stays open."""
        cluster = await self.opened()
        await self.client.append(b"a")
        seen = []

        @self.broker.subscriber("default", cursor="billing")
        async def bill(order: str):
            seen.append(order)

        await self.broker.start()
        await until(lambda: seen)
        await bill_of(self.broker).stop()
        # What the node has, without a call: a consumer that was cut off would commit in the meantime.
        cursor = cluster.state.cursors.by_name["billing"]
        self.assertEqual((cursor.position, cursor.holder), (1, ""))
        await self.broker.stop()

    @asynchronous
    async def test_stop_in_time(self):
        """One that takes longer than `graceful_timeout` is cancelled, and its record given again."""
        await self.opened(graceful_timeout=0.01)
        await self.orders.append(b"a")
        begun, cancelled = asyncio.Event(), []

        @self.broker.subscriber("orders", cursor="billing")
        async def bill(order: str):
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(order)
                raise

        await self.broker.start()
        await begun.wait()
        self.assertEqual(await self.stopped(), 0)
        self.assertEqual(cancelled, ["a"])

    @asynchronous
    async def test_stand_by(self):
        """Of two programs one is at work; the other one goes on when it stops."""
        cluster = await self.opened()
        other = self.another(cluster)
        seen = []
        for broker in (self.broker, other):

            @broker.subscriber("orders", cursor="billing")
            async def bill(order: str, broker: given.LoghouseBroker):
                seen.append((order, broker is other))

        await self.broker.start()
        await self.orders.append(b"a")
        await until(lambda: len(seen) == 1)
        await other.start()
        await self.broker.stop()
        await self.orders.append(b"b")
        await until(lambda: len(seen) == 2)
        self.assertEqual(seen, [("a", False), ("b", True)])

    @asynchronous
    async def test_stopped_by_its_handler(self):
        """A handler may end its subscriber; its record is passed as the policy says."""
        cluster = await self.opened()
        await self.orders.append_batch([b"a", b"b"])
        for workers in (1, 2):
            cursor = f"billing-{workers}"
            self.broker = self.another(cluster)

            @self.broker.subscriber(
                "orders", cursor=cursor, max_workers=workers, ack_policy=AckPolicy.REJECT_ON_ERROR
            )
            async def bill(order: str):
                raise StopConsume

            await self.broker.start()
            subscriber = bill_of(self.broker)
            await until(lambda subscriber=subscriber: not subscriber.running)
            await self.broker.stop()
            found = await self.orders.cursors().get(cursor)
            self.assertEqual((found.holder, found.position), ("", 1))


class FailureTests(CursorCase):
    """Handlers and consumers that fail."""

    @asynchronous
    async def test_in_order(self):
        """A record that failed is handled again before the next one; the cursor waits for it."""
        await self.opened()
        await self.orders.append_batch([b"a", b"b"])
        seen, positions = [], []

        @self.broker.subscriber("orders", cursor="billing", retry_seconds=0.001, commit_seconds=0)
        async def bill(order: str):
            seen.append(order)
            if len(seen) < 3:
                positions.append((await self.cursor()).position)
                raise NackMessage if len(seen) == 1 else ValueError

        await self.broker.start()
        await until(lambda: len(seen) == 4)
        self.assertEqual((seen, positions), (["a", "a", "a", "b"], [0, 0]))
        self.assertEqual(await self.stopped(), 2)

    @asynchronous
    async def test_stop_between(self):
        """A program stops at once while a record waits to be handled again, which it is by the next one."""
        await self.opened()
        await self.orders.append_batch([b"a", b"b"])
        failed = []

        @self.broker.subscriber("orders", cursor="billing", retry_seconds=1000)
        async def bill(order: str):
            if order == "b":
                failed.append(order)
                raise ValueError

        await self.broker.start()
        await until(lambda: failed)
        self.assertEqual(await self.stopped(), 1)

    @asynchronous
    async def test_fenced(self):
        """A program that lost its cursor says so and stands by for it; nothing that it did then counts."""
        await self.opened()
        await self.orders.append_batch([b"a", b"b"])
        seen = []

        @self.broker.subscriber("orders", cursor="billing", commit_seconds=0)
        async def bill(order: str):
            seen.append(order)
            if seen == ["a"]:
                await self.orders.cursors().set("billing", 1)

        await self.broker.start()
        await until(lambda: seen)
        while (await self.cursor()).position < 2:
            await self.orders.bounds()
        self.assertEqual(await self.stopped(), 2)
        self.assertEqual((seen[0], set(seen[1:])), ("a", {"b"}))

    @asynchronous
    async def test_told(self):
        """What failed is in the program's log, with the cursor and what comes next."""
        lines = []

        class Noted:
            def log(self, level, message, *args, **kwargs):
                lines.append(str(message))

        await self.opened(logger=Noted())
        await self.orders.append(b"a")
        seen = []

        @self.broker.subscriber("orders", cursor="billing")
        async def bill(order: str):
            seen.append(order)
            if len(seen) == 1:
                await self.orders.cursors().delete("billing")

        await self.broker.start()
        await until(lambda: len(seen) == 2)
        self.assertTrue(any("billing" in line and "goes on in 0.001 s" in line for line in lines), lines)
        await self.broker.stop()


class ManyTests(CursorCase):
    """Several records at a time."""

    @asynchronous
    async def test_keys(self):
        """Records of different keys are handled side by side, those of one key in order."""
        await self.opened()
        await self.orders.append_batch(
            [NewRecord(b"%d" % number, key=b"d" if number > 2 else b"a") for number in range(6)]
        )
        may_end, begun, seen = asyncio.Event(), [], []

        @self.broker.subscriber("orders", cursor="billing", max_workers=2)
        async def bill(order: int, message: given.LoghouseMessage):
            begun.append(message.key)
            await may_end.wait()
            seen.append((message.key, order))

        await self.broker.start()
        await until(lambda: len(begun) == 2)
        may_end.set()
        await until(lambda: len(seen) == 6)
        self.assertEqual(begun[:2], [b"a", b"d"])
        for key, expected in ((b"a", [0, 1, 2]), (b"d", [3, 4, 5])):
            self.assertEqual([order for one, order in seen if one == key], expected)
        self.assertEqual(await self.stopped(), 6)

    @asynchronous
    async def test_gap(self):
        """The cursor waits for the first record that is not handled, whatever is done behind it."""
        await self.opened()
        await self.orders.append_batch([b"%d" % number for number in range(4)])
        seen = []

        @self.broker.subscriber("orders", cursor="billing", max_workers=2, retry_seconds=1000)
        async def bill(order: int):
            seen.append(order)
            if order == 1:
                raise ValueError

        await self.broker.start()
        await until(lambda: len(seen) == 3)
        self.assertEqual(sorted(seen), [0, 1, 2])
        self.assertEqual(await self.stopped(), 1)

    @asynchronous
    async def test_batches(self):
        """A handler of batches passes each with all its records."""
        await self.opened()
        seen = []

        @self.broker.subscriber("orders", cursor="billing", batch=True)
        async def bill(orders: list[int]):
            seen.append(orders)

        await self.broker.start()
        for batch in ([b"1", b"2"], [b"3"]):
            await self.orders.append_batch(batch)
        await until(lambda: sum(map(len, seen)) == 3)
        self.assertEqual([order for orders in seen for order in orders], [1, 2, 3])
        self.assertEqual(await self.stopped(), 3)


class GroupTests(CursorCase):
    """Several logs, shared by a cursor's name."""

    @asynchronous
    async def test_two_logs(self):
        """A subscriber gets the records of all its logs, and is told of which; each log's cursor follows."""
        await self.opened()
        seen = []

        @self.broker.subscriber("default", "orders", cursor="billing")
        async def bill(order: str, message: given.LoghouseMessage):
            seen.append((message.log, order))

        await self.broker.start()
        await self.orders.append_batch([b"a", b"b"])
        await self.client.append(b"c")
        await until(lambda: len(seen) == 3)
        self.assertEqual(sorted(seen), [("default", "c"), ("orders", "a"), ("orders", "b")])
        self.assertEqual(await self.stopped(), 2)
        self.assertEqual((await self.cursor("default")).position, 1)


class IntoTests(CursorCase):
    """Answers that go with the cursor."""

    @asynchronous
    async def test_once(self):
        """Each answer is there once, with its headers, though its program lost the cursor meanwhile."""
        cluster = await self.opened()
        await self.orders.append_batch([b"1", b"2", b"3"])
        seen = []

        @self.broker.subscriber("orders", cursor="billing", into="default")
        async def bill(order: int):
            seen.append(order)
            if seen == [1, 2]:
                await until(lambda: cluster.values)
                await self.client.cursors().set("billing", 1)
            return {"bill": order}

        await self.broker.start()
        await until(lambda: seen.count(3) and seen.count(2) == 2)
        self.assertEqual(await self.stopped("default"), 3)
        self.assertEqual(await self.values("default"), [b'{"bill":1}', b'{"bill":2}', b'{"bill":3}'])
        headers = dict((await self.records("default"))[0].headers)
        self.assertEqual(headers["content-type"], b"application/json")
        await self.raises(UnknownCursorError, self.cursor())

    @asynchronous
    async def test_group(self):
        """Answers to several logs are there once, though another program takes a log over in between."""
        cluster = await self.opened()
        self.make_shops()
        shops = [self.client.log(name) for name in ("shop-1", "shop-2")]
        for shop in shops:
            await shop.append_batch([b"%d" % number for number in range(20)])
        programs = [self.broker, self.another(cluster)]
        seen = {program: [] for program in programs}
        for program in programs:

            @program.subscriber("shop-*", cursor="billing", into="orders", lease_seconds=1)
            async def bill(order: int, message: given.LoghouseMessage, broker: given.LoghouseBroker):
                seen[broker].append((message.log, order))
                return f"{message.log} {order}"

        await self.broker.start()
        await until(lambda: len(seen[self.broker]) > 3)
        await programs[1].start()
        cursors = self.orders.cursors()

        async def holders():
            return {(await cursors.get(f"billing/{shop.log_name}")).holder for shop in shops}

        while len(await holders() - {""}) < 2:
            pass  # the second one asks for its share, and the first one lets a log go
        for shop in shops:
            await shop.append(b"20")
        ends = {shop.log_name: (await shop.bounds()).next_offset for shop in shops}
        all_seen = {(name, number) for name, end in ends.items() for number in range(end)}
        await until(lambda: {one for each in seen.values() for one in each} == all_seen)
        for program in programs:
            await program.stop()
        values = [value.decode() for value in await self.values("orders")]
        for name, end in ends.items():
            expected = [f"{name} {number}" for number in range(end)]
            self.assertEqual([value for value in values if value.startswith(name)], expected)
            cursor = await cursors.get(f"billing/{name}")
            self.assertEqual((cursor.position, cursor.holder, cursor.lag), (end, "", None))

    @asynchronous
    async def test_group_into_itself(self):
        """A log that gets answers is none of those that are answered."""
        cluster = await self.opened()
        for logs in (("default", "orders"), ("ord*",)):
            broker = self.another(cluster)

            @broker.subscriber(*logs, cursor="billing", into="orders")
            async def bill(order: str): ...

            error = await self.raises(SetupError, broker.start())
            self.assertIn("'orders' gets the answers and is one of the logs", str(error))
            await broker.stop()

    @asynchronous
    async def test_failed_first(self):
        """Of a record that failed first only the answers of the time that went well are there."""
        await self.opened()
        await self.orders.append(b"1")
        bills = self.broker.publisher("default")
        seen = []

        @self.broker.subscriber("orders", cursor="billing", into=bills, retry_seconds=0.001)
        async def bill(order: int):
            seen.append(order)
            await bills.publish(len(seen))
            if len(seen) == 1:
                raise ValueError
            return 10 * order

        await self.broker.start()
        await until(lambda: len(seen) == 2)
        self.assertEqual(await self.stopped("default"), 1)
        self.assertEqual(await self.values("default"), [b"2", b"10"])

    @asynchronous
    async def test_workers(self):
        """Answers of several workers are in the order of what they answer."""
        await self.opened()
        await self.orders.append_batch([b"%d" % number for number in range(20)])
        first_may_end, seen = asyncio.Event(), []

        @self.broker.subscriber("orders", cursor="billing", into="default", max_workers=4)
        async def bill(order: int):
            if not order:
                await first_may_end.wait()
            seen.append(order)
            if order == 7:
                raise RejectMessage
            return order

        await self.broker.start()
        await until(lambda: len(seen) > 3)
        self.assertEqual(await self.values("default"), [])
        first_may_end.set()
        await until(lambda: len(seen) == 20)
        self.assertEqual(await self.stopped("default"), 20)
        self.assertEqual(
            await self.values("default"), [b"%d" % number for number in range(20) if number != 7]
        )

    @asynchronous
    async def test_too_large(self):
        """An answer that no batch holds is not passed: it is tried again, and the log says why."""
        await self.opened()
        await self.orders.append_batch([b"1", b"2"])
        seen = []

        @self.broker.subscriber("orders", cursor="billing", into="default")
        async def bill(order: int):
            seen.append(order)
            return bytes(9 << 20) if len(seen) == 1 else order

        await self.broker.start()
        await until(lambda: len(seen) == 3)
        self.assertEqual(await self.stopped("default"), 2)
        self.assertEqual((seen, await self.values("default")), ([1, 1, 2], [b"1", b"2"]))


def bill_of(broker):
    """Return the only subscriber of a broker."""
    (subscriber,) = broker.subscribers
    return subscriber
