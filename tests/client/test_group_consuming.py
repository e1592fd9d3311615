"""Group consumers against fake nodes: which logs each member has, and what it gives of them."""

import asyncio
import gc
import warnings
import weakref
from contextlib import aclosing

from loghouse.client import AsyncGroupConsumer, membership
from loghouse.client.cursors import AsyncCursors
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    CursorFencedError,
    CursorTrimmedError,
    InvalidRequestError,
    PermissionDeniedError,
    UnknownLogError,
)
from tests.client.fake import FakeCase, over_grpc
from tests.client.groups import LOGS, look_often
from tests.fakes.tasks import asynchronous


class GroupCase(FakeCase):
    """Fake nodes with four logs, and members of the group `billing`, which look often."""

    def setUp(self):
        super().setUp()
        look_often(self)

    async def begin(self, logs=LOGS):
        self.cluster_, self.client = await self.connected()
        for name in logs:
            await self.client.create_log(name)
        return self.client

    def member(self, logs="orders-*", client=None, **options):
        return (client or self.client).consumer("billing", logs=logs, **options)

    async def until(self, condition, what="it"):
        """Wait until something holds."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - a condition of several members, which have no event in common
                await asyncio.sleep(0.01)

    async def has(self, consumer, count):
        await self.until(lambda: len(consumer.logs) == count)

    async def take(self, consumer, count):
        """Return the next records as (log, offset, value)."""
        found = []
        async with asyncio.timeout(30), aclosing(consumer.__aiter__()) as records:
            async for record in records:
                found.append((record.log, record.offset, record.value))
                if len(found) == count:
                    break
        return found


class GroupTests(GroupCase):
    """What a member gives, and what comes of it."""

    @asynchronous
    async def test_records(self):
        """One member has all logs, and gives the records of each in their order."""
        client = await self.begin()
        for name in LOGS:
            await client.log(name).append_batch([b"a", b"b"])
        async with self.member() as consumer:
            self.assertIsInstance(consumer, AsyncGroupConsumer)
            found = await self.take(consumer, 8)
            expected = [(name, offset, value) for name in LOGS for offset, value in enumerate((b"a", b"b"))]
            self.assertEqual(sorted(found), expected)
            for name in LOGS:
                self.assertEqual([one for _, one, _ in filter(lambda row: row[0] == name, found)], [0, 1])
            self.assertEqual((consumer.logs, consumer.is_active), (LOGS, True))
            self.assertEqual(await consumer.lag(), 8)
        for name in LOGS:
            cursor = await client.log(name).cursors().get("billing")
            self.assertEqual((cursor.position, cursor.holder), (0, ""))

    @asynchronous
    async def test_held_and_left(self):
        """A log that was new to the group begins where that was found, also if its member took no record."""
        client = await self.begin(LOGS[:1])
        log = client.log(LOGS[0])
        await log.append(b"a")
        async with self.member(from_="latest") as consumer:
            await self.has(consumer, 1)
            self.assertEqual(consumer.positions, {LOGS[0]: 1})
            await log.append(b"b")
        async with self.member(from_="latest") as consumer:
            self.assertEqual(await self.take(consumer, 1), [(LOGS[0], 1, b"b")])

    @asynchronous
    async def test_unanswered(self):
        """A member that had a new log without hearing of it asks again, and begins where it was to begin."""
        client = await self.begin(LOGS[:1])
        log = client.log(LOGS[0])
        await log.append(b"a")
        self.patch(membership, "CALL_SECONDS", 0.2)
        acquire, late = AsyncCursors.acquire, []

        async def acquired_late(cursors, name, **options):
            cursor = await acquire(cursors, name, **options)
            if not late:
                late.append(cursor)
                await log.append(b"b")
                await asyncio.get_running_loop().create_future()  # until it is given up
            return cursor

        self.patch(AsyncCursors, "acquire", acquired_late)
        async with self.member(from_="latest") as consumer:
            self.assertEqual(await self.take(consumer, 1), [(LOGS[0], 1, b"b")])

    @asynchronous
    async def test_done(self):
        """A record that is done is so in its own log; the next member goes on behind it."""
        client = await self.begin()
        for name in LOGS:
            await client.log(name).append_batch([b"a", b"b"])
        async with self.member() as consumer, aclosing(consumer.__aiter__()) as records:
            count = 0
            async for record in records:
                if record.value == b"a":
                    consumer.done(record)
                count += 1
                if count == 8:
                    break
            await consumer.commit()
            self.assertEqual(consumer.positions, dict.fromkeys(LOGS, 1))
            self.assertEqual((await client.log(LOGS[0]).cursors().get("billing")).position, 1)
        async with self.member() as consumer:
            self.assertEqual(sorted(await self.take(consumer, 4)), [(name, 1, b"b") for name in LOGS])

    @asynchronous
    async def test_batches(self):
        """Batches say which log they are of, and so do their records and parts."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append_batch([b"a", b"b", b"c"])
        async with self.member() as consumer, aclosing(consumer.batches()) as batches:
            async for batch in batches:
                self.assertEqual((batch.log, batch.values()), (LOGS[0], [b"a", b"b", b"c"]))
                self.assertIn(LOGS[0], repr(batch))
                self.assertEqual([record.log for record in batch], [LOGS[0]] * 3)
                for part in (batch.first_of(2), batch.before(2)):
                    self.assertEqual((part.log, part.next_offset), (LOGS[0], 2))
                self.assertEqual(batch.last_of(1).values(), [b"c"])
                consumer.done(batch.first_of(2))
                break
            self.assertEqual(consumer.positions, {LOGS[0]: 2})

    @asynchronous
    async def test_iterated_anew(self):
        """A second iteration goes on behind what the first one gave, within a batch, too."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append_batch([b"a", b"b", b"c"])
        async with self.member() as consumer:
            self.assertEqual(await self.take(consumer, 2), [(LOGS[0], 0, b"a"), (LOGS[0], 1, b"b")])
            self.assertEqual(await self.take(consumer, 1), [(LOGS[0], 2, b"c")])

    @asynchronous
    async def test_emit(self):
        """Outputs go into one log with the position behind their source, for each source a cursor there."""
        client = await self.begin([*LOGS, "bills"])
        for name in LOGS:
            await client.log(name).append_batch([b"a", b"b"])
        bills = client.log("bills")
        async with self.member(into=bills) as consumer, aclosing(consumer.batches()) as batches:
            count = 0
            async for batch in batches:
                if batch.log == LOGS[0]:
                    self.assertTrue(await consumer.emit([]))
                else:
                    self.assertTrue(
                        await consumer.emit([batch.log.encode() + value for value in batch.values()])
                    )
                count += 1
                if count == len(LOGS):
                    break
        found = sorted([record.value async for record in bills.read()])
        self.assertEqual(found, [name.encode() + value for name in LOGS[1:] for value in (b"a", b"b")])
        cursors = {cursor.name: cursor.position for cursor in await bills.cursors().list()}
        self.assertEqual(cursors, {f"billing/{name}": 2 for name in LOGS})
        with self.assertRaises(InvalidRequestError):
            self.member(into="bills")


class SharingTests(GroupCase):
    """Several members."""

    @asynchronous
    async def test_shares(self):
        """Members that come get their share, and one that leaves gives it back."""
        client = await self.begin()
        other = self.connect(self.cluster_.target)
        async with self.member() as one:
            await self.has(one, 4)
            async with self.member(client=other) as two:
                await self.until(lambda: len(one.logs) == len(two.logs) == 2)
                self.assertEqual(sorted(one.logs + two.logs), LOGS)
                for name in LOGS:
                    await client.log(name).append(b"x")
                self.assertEqual(sorted(log for log, _, _ in await self.take(one, 2)), one.logs)
                self.assertEqual(sorted(log for log, _, _ in await self.take(two, 2)), two.logs)
            await self.has(one, 4)

    @asynchronous
    async def test_lets_go_when_done(self):
        """A log is let go once what was given out of it is done; nothing is given twice then."""
        client = await self.begin(LOGS[:2])
        for name in LOGS[:2]:
            await client.log(name).append_batch([b"a", b"b"])
        other = self.connect(self.cluster_.target)
        async with self.member() as one, aclosing(one.__aiter__()) as records:
            given = {}
            async for record in records:
                given[record.log] = record
                if len(given) == 2:
                    break
            async with self.member(client=other) as two:
                leaving = lambda: [s for s in one._membership.shares.values() if s.is_leaving]  # noqa: E731
                await self.until(leaving)
                (share,) = leaving()
                for _ in range(10):  # longer than it takes to let go
                    cursor = await client.log(share.log).cursors().get("billing")
                    self.assertEqual((cursor.holder, two.logs), (one.holder, []))
                one.done(given[share.log])
                await self.has(two, 1)
                self.assertEqual(two.logs, [share.log])
                position = given[share.log].offset + 1
                self.assertEqual(two.positions, {share.log: position})

    @asynchronous
    async def test_let_go_after_all(self):
        """What is not done for long does not keep a log: the next member gets it again."""
        self.patch(membership, "LET_GO_SECONDS", 0.1)
        client = await self.begin(LOGS[:2])
        for name in LOGS[:2]:
            await client.log(name).append(b"a")
        other = self.connect(self.cluster_.target)
        with self.assertLogs("loghouse.client", "WARNING") as written:
            async with self.member() as one:
                await self.take(one, 2)
                async with self.member(client=other) as two:
                    ((log, offset, _),) = await self.take(two, 1)
                    self.assertEqual((two.logs, offset), ([log], 0))
        self.assertIn("were given out and are not done", written.output[0])

    @asynchronous
    async def test_lost(self):
        """Of a log that somebody else has, what is done or emitted comes to nothing; the rest goes on."""
        client = await self.begin(LOGS[:2])
        for name in LOGS[:2]:
            await client.log(name).append(b"a")
        async with self.member(lease_seconds=1) as one, aclosing(one.batches()) as batches:
            given = {}
            async for batch in batches:
                given[batch.log] = batch
                if len(given) == 2:
                    break
            holder = one.holder
            thief = client.log(LOGS[0]).cursors()
            stolen = await thief.acquire("billing", holder=holder)  # as another process of that name
            self.assertTrue(await one.emit([b"x"], given[LOGS[0]]))
            await self.until(
                lambda: one._membership.shares.get(LOGS[0]) is None or one.positions[LOGS[0]] == 0
            )
            self.assertFalse(await one.emit([b"x"], given[LOGS[0]]))
            one.done(given[LOGS[0]])
            one.done(given[LOGS[1]])
            await one.commit()
            self.assertEqual((await client.log(LOGS[1]).cursors().get("billing")).position, 1)
            self.assertEqual([record.value async for record in client.log(LOGS[0]).read()], [b"a"])
            self.assertLess(stolen.position, 1)

    @asynchronous
    async def test_had_anew(self):
        """What was given of a log that this member lost, and has again, is neither done nor emitted."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append(b"a")
        async with self.member() as consumer, aclosing(consumer.batches()) as batches:
            batch = await anext(batches)
            share = consumer._membership.shares[LOGS[0]]
            consumer._membership.lose(share, CursorFencedError(1, 2, "billing"))
            self.assertEqual(consumer.logs, [])
            again = await anext(batches)
            self.assertEqual((again.offset, again.epoch > batch.epoch), (0, True))
            consumer.done(batch)
            self.assertFalse(await consumer.emit([b"x"], batch))
            self.assertEqual(consumer.positions, {LOGS[0]: 0})

    @asynchronous
    async def test_lost_within_an_answer(self):
        """Nothing more is given of what was read of a log that is lost; the next holder gets that."""
        client = await self.begin(LOGS[:1])
        for value in (b"a", b"b"):
            await client.log(LOGS[0]).append_batch([value, value])
        async with self.member() as consumer:
            async with aclosing(consumer.answers()) as answers:
                answer = await anext(answers)
                batches = consumer.batches_in(answer)
                self.assertEqual(next(batches).offset, 0)
                consumer._membership.lose(answer[0], CursorFencedError(1, 2, "billing"))
                self.assertEqual(list(batches), [])
            async with aclosing(consumer.answers()) as answers:
                answer = await anext(answers)
                records = consumer.records_in(answer)
                self.assertEqual(next(records).offset, 0)
                consumer._membership.lose(answer[0], CursorFencedError(1, 2, "billing"))
                self.assertEqual(list(records), [])

    @asynchronous
    async def test_logs_come_and_go(self):
        """A log that is made later is found by the pattern; one that is deleted is dropped."""
        client = await self.begin(LOGS[:2])
        await client.create_log("other")
        async with self.member() as consumer:
            await self.has(consumer, 2)
            await client.create_log("orders-9")
            await client.log("orders-9").append(b"new")
            self.assertEqual(await self.take(consumer, 1), [("orders-9", 0, b"new")])
            await client.delete_log(LOGS[0])
            await self.until(lambda: consumer.logs == [LOGS[1], "orders-9"])
            await client.log(LOGS[1]).append(b"more")
            self.assertEqual(await self.take(consumer, 1), [(LOGS[1], 0, b"more")])

    @asynchronous
    async def test_list_of_a_server_that_is_behind(self):
        """A log that one server does not list and that is there is neither dropped nor refused."""
        client = await self.begin(LOGS[:2])
        async with self.member(LOGS[:2]) as consumer:
            await self.has(consumer, 2)
            epochs = {name: share.epoch for name, share in consumer._membership.shares.items()}
            logs, asked = client.logs, []

            async def behind(**options):
                asked.append(await logs(**options))
                return [log for log in asked[-1] if log.name != LOGS[0]]

            self.patch(client, "logs", behind)
            await self.until(lambda: len(asked) == 3)
            held = {name: share.epoch for name, share in consumer._membership.shares.items()}
            self.assertEqual(held, epochs)
        async with self.member(LOGS[:2]) as consumer:
            await self.has(consumer, 2)


class RefusalTests(GroupCase):
    """What cannot be."""

    @asynchronous
    async def test_options(self):
        """What cannot be meant is refused before anything is asked."""
        await self.begin([])
        for logs in ("", [], [b"orders"], 7, [""] * 0, [f"l{number}" for number in range(1025)]):
            with self.assertRaises(InvalidRequestError):
                self.member(logs)
        with self.assertRaises(InvalidRequestError):
            self.member(lease_seconds=0.5)
        with self.assertRaises(InvalidRequestError):
            self.client.consumer("billing", logs=["a"], into=7)

    @asynchronous
    async def test_unknown_log(self):
        """A log that is named and is not there is an error; a pattern waits for what comes, and says so."""
        client = await self.begin(LOGS[:1])
        error = await self.raises(UnknownLogError, self.member([LOGS[0], "typo"]).__aenter__())
        self.assertIn("typo", str(error))
        with self.assertLogs("loghouse.client", "WARNING") as written:
            async with self.member("bills-*") as consumer:
                await client.create_log("bills-1")
                await self.has(consumer, 1)
        self.assertIn("no log matches 'bills-*' yet", written.output[0])

    @asynchronous
    async def test_what_is_done(self):
        """What this consumer did not give cannot be done, nor anything outside its block."""
        await self.begin(LOGS[:1])
        consumer = self.member()
        with self.assertRaises(ClientUseError):
            consumer.done()
        async with consumer:
            with self.assertRaises(ClientUseError):
                consumer.done()
            for wrong in (7, "x"):
                with self.assertRaises(InvalidRequestError):
                    consumer.done(wrong)
        with self.assertRaises(ClosedError):
            consumer.done()
        await self.raises(ClosedError, anext(consumer.__aiter__()))

    @asynchronous
    async def test_trimmed(self):
        """What was trimmed before it was consumed is an error that says so, unless told otherwise."""
        client = await self.begin(LOGS[:1])
        held = next(iter(self.cluster_.named.values()))
        for value in (b"a", b"b", b"c"):
            await client.log(LOGS[0]).append(value)
        await client.log(LOGS[0]).cursors().set("billing", 1)
        held.forget(2)
        async with self.member() as consumer:
            error = await self.raises(CursorTrimmedError, self.take(consumer, 1))
            self.assertEqual((error.name, error.position, error.lowest), ("billing", 1, 2))
        async with self.member(on_trimmed="earliest") as consumer:
            self.assertEqual(await self.take(consumer, 1), [(LOGS[0], 2, b"c")])

    def deny(self):
        """Have every node refuse what is asked of its logs."""
        for node in self.cluster_.nodes:
            for log in node.logs.values():
                log._node.failure = PermissionDeniedError("root", "consume", LOGS[0])

    @asynchronous
    async def test_denied(self):
        """What asking again will not help ends the iteration."""
        await self.begin(LOGS[:1])
        self.deny()
        async with self.member() as consumer:
            await self.raises(PermissionDeniedError, self.take(consumer, 1))
            with self.assertRaises(PermissionDeniedError):
                consumer.done()

    @asynchronous
    async def test_failed_and_dropped(self):
        """What a member failed by, and raises each time, does not keep it once nobody has it any more."""
        await self.begin(LOGS[:1])
        self.deny()
        consumer = await self.member().__aenter__()
        await self.raises(PermissionDeniedError, self.take(consumer, 1))
        left = weakref.ref(consumer)
        del consumer
        gc.collect()
        self.assertIsNone(left())


class EndTests(GroupCase):
    """How a member ends."""

    @asynchronous
    async def test_left_by_an_error(self):
        """What is done is committed however the block is left, and the logs are free at once."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append_batch([b"a", b"b"])

        async def work():
            async with self.member() as consumer:
                async for record in consumer:
                    consumer.done(record)
                    raise ZeroDivisionError

        await self.raises(ZeroDivisionError, work())
        cursor = await client.log(LOGS[0]).cursors().get("billing")
        self.assertEqual((cursor.position, cursor.holder), (1, ""))

    @asynchronous
    async def test_cancelled(self):
        """So it is when its task is cancelled while it waits for records."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append(b"a")
        is_done = asyncio.Event()

        async def work():
            async with self.member() as consumer:
                async for record in consumer:
                    consumer.done(record)
                    is_done.set()

        task = asyncio.ensure_future(work())
        await is_done.wait()
        task.cancel()
        await self.raises(asyncio.CancelledError, task)
        cursor = await client.log(LOGS[0]).cursors().get("billing")
        self.assertEqual((cursor.position, cursor.holder), (1, ""))

    @asynchronous
    async def test_aborted(self):
        """Abort commits nothing, and releases nothing."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append(b"a")
        consumer = self.member()
        async with consumer:
            await self.take(consumer, 1)
            consumer.done()
            await consumer.abort()
        cursor = await client.log(LOGS[0]).cursors().get("billing")
        self.assertEqual((cursor.position, cursor.holder), (0, consumer.holder))

    @asynchronous
    async def test_dropped(self):
        """A consumer that is dropped warns; what was done is committed, and its logs are free."""
        client = await self.begin(LOGS[:1])
        await client.log(LOGS[0]).append(b"a")
        consumer = self.member()
        await consumer.__aenter__()
        await self.take(consumer, 1)
        consumer.done()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del consumer
            gc.collect()
        self.assertEqual([one.category for one in caught], [ResourceWarning])
        async with self.member() as other:
            await self.has(other, 1)
            self.assertEqual(other.positions, {LOGS[0]: 1})


GroupGrpcTests = over_grpc(GroupTests)
