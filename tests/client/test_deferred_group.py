"""Members of groups for Twisted programs, on both kinds of reactors."""

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.deferred import DeferredGroupConsumer
from loghouse.client.group_records import GroupBatch
from loghouse.errors import ClientUseError, ClosedError, InvalidRequestError
from tests.client.deferred_case import DeferredCase, in_a_thread
from tests.client.groups import LOGS, held_anew, look_often


class DoneTests(SynchronousTestCase):
    """What is done."""

    def test_held_anew(self):
        """What was done of a log that was lost and has come back does not hide what is done of it now."""
        told, soon = [], []
        inner = SimpleNamespace(cursor_name="billing", holder="me", done=told.append, check_open=lambda: None)
        loop = SimpleNamespace(soon=soon.append)
        opened = SimpleNamespace(run=None, check_here=lambda: None, loop=loop)
        consumer = DeferredGroupConsumer(opened, inner, None)
        before, again = held_anew()
        consumer.done(before)
        consumer.done(again)
        for work in soon:
            work()
        self.assertEqual(told, [before, again])


class GroupTests(DeferredCase):
    """`DeferredGroupConsumer`."""

    def setUp(self):
        super().setUp()
        look_often(self)

    async def started(self, logs=LOGS):
        """Return a cluster with some logs of two records, and a client of it."""
        cluster, client = await self.connected()
        for name in logs:
            await client.create_log(name, replicas=1)
            await client.log(name).append_batch([b"a", b"b"])
        return cluster, client

    async def position(self, client, name):
        found = await client.log(name).cursors().get("billing")
        return found.position, found.holder

    async def test_goes_on(self):
        """A member gives the records of its logs, and each log's cursor follows what is done in it."""
        _, client = await self.started()
        async with client.consumer("billing", logs="orders-*") as consumer:
            self.assertIsInstance(consumer, DeferredGroupConsumer)
            self.assertEqual(consumer.cursor_name, "billing")
            self.assertRaises(ClientUseError, consumer.done)
            seen = []
            async for record in consumer:
                seen.append((record.log, record.offset, record.value))
                if record.value == b"a":
                    consumer.done()
                if len(seen) == 2 * len(LOGS):
                    break
            self.assertEqual(sorted(seen), [(name, n, b"ab"[n : n + 1]) for name in LOGS for n in (0, 1)])
            self.assertEqual((consumer.logs, consumer.is_active), (LOGS, True))
            self.assertEqual(await consumer.lag(), len(LOGS))
            await consumer.commit()
            self.assertEqual(consumer.positions, dict.fromkeys(LOGS, 1))
            self.assertRaises(InvalidRequestError, consumer.done, 7)
        for name in LOGS:
            self.assertEqual(await self.position(client, name), (1, ""))

    async def test_emit(self):
        """Outputs go into one log with the position behind their source; without outputs it moves alone."""
        _, client = await self.started(LOGS[:2])
        await client.create_log("bills", replicas=1)
        bills = client.log("bills")
        async with client.consumer("billing", logs=LOGS[:2], into=bills) as consumer:
            taken = []
            async for batch in consumer.batches():
                self.assertIsInstance(batch, GroupBatch)
                taken.append(
                    await consumer.emit([value.upper() for value in batch.values()][: len(taken) * 2])
                )
                if len(taken) == 2:
                    break
            self.assertEqual(taken, [True, True])
            await consumer.commit()
            await self.raises(InvalidRequestError, consumer.emit([b"x"], 7))
        self.assertEqual([record.value async for record in bills.read()], [b"A", b"B"])
        cursors = {cursor.name: cursor.position for cursor in await bills.cursors().list()}
        self.assertEqual(cursors, {f"billing/{name}": 2 for name in LOGS[:2]})

    async def test_shares(self):
        """Members that come get their share, and one that leaves gives it back."""
        cluster, client = await self.started()
        other = self.connect(cluster.target)
        async with client.consumer("billing", logs="orders-*") as one:
            await self.until(lambda: one.logs == LOGS)
            async with other.consumer("billing", logs="orders-*") as two:
                await self.until(lambda: len(one.logs) == len(two.logs) == 2)
                self.assertEqual(sorted(one.logs + two.logs), LOGS)
                for member in (one, two):
                    seen = set()
                    async for record in member:
                        member.done(record)
                        seen.add((record.log, record.offset))
                        if len(seen) == 4:
                            break
                    self.assertEqual(seen, {(name, offset) for name in member.logs for offset in (0, 1)})
            await self.until(lambda: one.logs == LOGS)
        for name in LOGS:
            self.assertEqual(await self.position(client, name), (2, ""))

    async def test_closed_with_its_client(self):
        """A client that closes commits what its member did, and its logs are free."""
        cluster, client = await self.started(LOGS[:1])
        other = self.connect(cluster.target)
        member = await other.consumer("billing", logs=LOGS[:1], commit_seconds=3600).__aenter__()
        async for record in member:
            member.done(record)
            break
        await other.close()
        self.assertEqual(await self.position(client, LOGS[0]), (1, ""))
        self.assertRaises(ClosedError, member.done)
        await member.close()

    async def test_options(self):
        """What makes no sense is told at once."""
        _, client = await self.connected()
        for options in ({"logs": []}, {"logs": "x-*", "into": 7}, {"logs": "x-*", "lease_seconds": 0}):
            self.assertRaises(InvalidRequestError, client.consumer, "billing", **options)


GroupThreadTests = in_a_thread(GroupTests)
