"""Blocking consumers against fake nodes: the asyncio ones' behaviour, from any thread."""

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
import weakref
from types import SimpleNamespace

from loghouse.client import Consumer, GroupConsumer, connect_blocking
from loghouse.client.group_records import GroupBatch
from loghouse.client.place import Place
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    CursorFencedError,
    CursorHeldError,
    InvalidRequestError,
)
from tests.client.fake import FakeCase
from tests.client.groups import held_anew
from tests.fakes.tasks import asynchronous
from tests.processes import in_children

SECONDS_MAX = 60


class BlockingConsumerCase(FakeCase):
    """Fake nodes on the reactor's loop; the program is in a thread."""

    async def blocking(self, work):
        """Run a program in a thread, with a client of fake nodes whose log has records a, b and c."""
        cluster, log = await self.connected()
        await log.append_batch([b"a", b"b", b"c"])

        def program():
            with connect_blocking(cluster.target, timeout_seconds=20) as client:
                work(client)

        await asyncio.to_thread(program)
        return cluster


class ConsumerTests(BlockingConsumerCase):
    """`Consumer`."""

    @asynchronous
    async def test_goes_on(self):
        """What is done is committed at the block's end; the next consumer goes on behind it."""

        def work(log):
            with log.consumer("billing") as consumer:
                self.assertIsInstance(consumer, Consumer)
                for record in consumer:
                    consumer.done(record)
                    if record.offset == 1:
                        break
                self.assertEqual((consumer.position, consumer.is_active, consumer.lag()), (2, True, 1))
            self.assertEqual((log.cursors().get("billing").position, consumer.committed), (2, 2))
            with log.consumer("billing") as consumer:
                self.assertEqual((consumer.acquire(), consumer.begin()), (2, 2))
                batch = next(consumer.batches())
                self.assertEqual(list(batch.values()), [b"c"])
                consumer.done()
                consumer.commit()
                self.assertEqual(log.cursors().get("billing").position, 3)
            with log.consumer("late", from_="latest") as consumer:
                self.assertEqual(consumer.acquire(), 3)
                log.append(b"d")
            with log.consumer("late") as consumer:
                self.assertEqual(next(iter(consumer)).value, b"d")

        await self.blocking(work)

    @asynchronous
    async def test_emit(self):
        """Outputs and position go into another log together, once, in their order."""

        def work(client):
            client.create_log("bills")
            bills = client.log("bills")
            with client.consumer("billing", into=bills) as consumer:
                for record in consumer:
                    consumer.emit([b"bill " + record.value, b"copy"])
                    if record.offset == 2:
                        break
            values = [record.value for record in bills.read()]
            self.assertEqual(values, [b"bill a", b"copy", b"bill b", b"copy", b"bill c", b"copy"])
            self.assertEqual(bills.cursors().get("billing").position, 3)
            error = self.assertRaises(InvalidRequestError, client.consumer, "billing", into=7)
            self.assertEqual(error.field, "into")

        await self.blocking(work)

    @asynchronous
    async def test_threads(self):
        """Threads may share a consumer: the furthest of what they say is done counts, in any order."""

        def work(log):
            with log.consumer("billing", commit_seconds=3600) as consumer:
                records = []
                for record in consumer:
                    records.append(record)
                    if len(records) == 3:
                        break
                threads = [threading.Thread(target=consumer.done, args=(one,)) for one in reversed(records)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(consumer.position, 3)
            self.assertEqual(log.cursors().get("billing").position, 3)

        await self.blocking(work)

    @asynchronous
    async def test_done_too_early(self):
        """Before the cursor is acquired nothing can be done: that is an error at once, and not lost."""

        def work(log):
            with log.consumer("billing") as consumer:
                error = self.assertRaises(ClientUseError, consumer.done, 1)
                self.assertIn("does not have its cursor yet", str(error))
                self.assertEqual((consumer.acquire(), consumer.position), (0, 0))
                consumer.done(1)
            self.assertEqual(log.cursors().get("billing").position, 1)

        await self.blocking(work)

    @asynchronous
    async def test_fenced(self):
        """Who lost the cursor is told by whatever it does next, and commits nothing any more."""

        def work(log):
            with log.consumer("billing") as consumer:
                record = next(iter(consumer))
                with log.consumer("billing") as other:
                    self.assertRaises(CursorHeldError, other.acquire, wait_seconds=0)
                    other.abort()
                log.cursors().set("billing", 2)
                consumer.done(record)
                self.assertRaises(CursorFencedError, consumer.commit)
                for call in (consumer.done, consumer.commit, consumer.lag, lambda: next(iter(consumer))):
                    self.assertRaises(CursorFencedError, call)
                consumer.abort()
            self.assertEqual(log.cursors().get("billing").position, 2)

        await self.blocking(work)

    @asynchronous
    async def test_left_by_an_error(self):
        """An error of the block, Ctrl-C too, commits what is done and releases, and is the one told."""

        def work(log):
            for number, error in enumerate((KeyError("own"), KeyboardInterrupt())):
                with self.assertRaises(type(error)), log.consumer("billing") as consumer:
                    for record in consumer:
                        consumer.done(record)
                        raise error
                found = log.cursors().get("billing")
                self.assertEqual((found.position, found.holder), (number + 1, ""))

        await self.blocking(work)

    @asynchronous
    async def test_process(self):
        """The position is in the program's own database, with what was made of the records."""

        def work(log):
            database = sqlite3.connect(":memory:")
            database.execute("CREATE TABLE bills (value BLOB)")

            def bill(batch):
                rows = [(value,) for value in batch.values()]
                database.executemany("INSERT INTO bills VALUES (?)", rows)
                if rows == [(b"d",)] and not failed:
                    failed.append(True)
                    raise KeyError("own")
                if rows == [(b"e",)]:
                    raise EOFError

            failed = []
            log.append(b"d")
            with self.assertRaises(KeyError), log.consumer("bills") as consumer:
                consumer.process(database, bill)
            log.append(b"e")
            with self.assertRaises(EOFError), log.consumer("bills") as consumer:
                consumer.process(database, bill)
            values = [value for (value,) in database.execute("SELECT value FROM bills")]
            self.assertEqual(values, [b"a", b"b", b"c", b"d"])
            database.close()

        await self.blocking(work)

    @asynchronous
    async def test_not_open(self):
        """Outside of its block it says so; a client that is closed has closed it."""

        def work(log):
            consumer = log.consumer("billing")
            for call in (consumer.done, consumer.commit, consumer.lag, lambda: next(iter(consumer))):
                self.assertRaises(ClientUseError, call)
            with consumer:
                next(iter(consumer))
                log.close()
                self.assertRaises(ClosedError, consumer.commit)

        await self.blocking(work)

    @asynchronous
    async def test_dropped(self):
        """A consumer that is dropped warns, and what was done is committed."""

        def work(log):
            consumer = log.consumer("billing", commit_seconds=3600)
            consumer.__enter__()
            next(iter(consumer))
            consumer.done()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                consumer.lag()  # the loop has nothing left that holds it
                del consumer
                gc.collect()
            self.assertIn("'billing' was dropped", " ".join(str(one.message) for one in caught))
            with log.consumer("billing") as following:
                self.assertEqual(following.acquire(), 1)

        await self.blocking(work)

    @asynchronous
    async def test_failed_and_dropped(self):
        """What a consumer failed by, and raises each time, does not keep it once nobody has it any more."""

        def used(consumer):
            next(iter(consumer))

        def work(log):
            consumer = log.consumer("billing").__enter__()
            used(consumer)
            log.cursors().set("billing", 0)
            consumer.done()
            self.assertRaises(CursorFencedError, consumer.commit)
            self.assertRaises(CursorFencedError, used, consumer)
            log.bounds()  # the loop has nothing left that holds it
            left = weakref.ref(consumer)
            del consumer
            gc.collect()
            self.assertIsNone(left())

        await self.blocking(work)

    @asynchronous
    async def test_forked(self):
        """In a forked child the consumer says whose it is, and leaving its block there leaves it alone."""

        def work(log):
            with log.consumer("billing") as consumer:
                next(iter(consumer))
                child = os.fork()
                if not child:
                    code = 1
                    try:
                        consumer.__exit__(None, None, None)
                        consumer.commit()
                    except ClientUseError:
                        code = 7
                    finally:
                        os._exit(code)
                _, status = os.waitpid(child, 0)
                self.assertEqual(os.waitstatus_to_exitcode(status), 7)
                consumer.done()
            self.assertEqual(log.cursors().get("billing").position, 1)

        await self.blocking(work)


class GroupConsumerTests(BlockingConsumerCase):
    """`GroupConsumer`."""

    @asynchronous
    async def test_group(self):
        """A member gives the records of its logs, and each log's cursor follows what is done in it."""

        def work(client):
            names = ["orders-0", "orders-1"]
            for name in names:
                client.create_log(name)
                client.log(name).append_batch([name.encode(), b"more"])
            with client.consumer("billing", logs="orders-*") as consumer:
                self.assertIsInstance(consumer, GroupConsumer)
                found = []
                for record in consumer:
                    found.append((record.log, record.value))
                    consumer.done(record)
                    if len(found) == 4:
                        break
                self.assertEqual((consumer.logs, consumer.is_active), (names, True))
                consumer.commit()
                self.assertEqual(consumer.positions, dict.fromkeys(names, 2))
                self.assertEqual(consumer.lag(), 0)
                client.log("orders-1").append(b"last")
                batch = next(consumer.batches())
                self.assertIsInstance(batch, GroupBatch)
                self.assertTrue(consumer.emit([b"copy"], batch))
            self.assertEqual(sorted(found)[::2], [("orders-0", b"more"), ("orders-1", b"more")])
            positions = [client.log(name).cursors().get("billing").position for name in names]
            self.assertEqual(positions, [2, 3])
            self.assertRaises(InvalidRequestError, client.consumer, "billing", logs=[])

        await self.blocking(work)

    def test_held_anew(self):
        """What was done of a log that was lost and has come back does not hide what is done of it now."""
        told, soon = [], []
        inner = SimpleNamespace(cursor_name="billing", holder="me", failure=None, done=told.append)
        consumer = GroupConsumer(inner, SimpleNamespace(soon=soon.append), Place(), None)
        consumer._is_open = True
        before, again = held_anew()
        consumer.done(before)
        consumer.done(again)
        for work in soon:
            work()
        self.assertEqual(told, [before, again])


@in_children
class ExitTests(FakeCase):
    """The interpreter's end."""

    @asynchronous
    async def test_committed(self):
        """What a program has done, and did not close, is committed and released before it ends."""
        cluster, log = await self.connected()
        await log.append_batch([b"a", b"b"])
        program = """
import sys
from loghouse.client import connect_blocking
log = connect_blocking(sys.argv[1])
consumer = log.consumer("billing", commit_seconds=3600)
consumer.__enter__()
for record in consumer:
    consumer.done(record)
    break
"""
        words = [sys.executable, "-c", program, cluster.target]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=SECONDS_MAX
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        found = await log.cursors().get("billing")
        self.assertEqual((found.position, found.holder), (1, ""))
