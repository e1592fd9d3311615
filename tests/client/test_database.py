"""Positions in a program's own database, and importers: whatever dies, nothing is done twice."""

import asyncio
import sqlite3
from io import BytesIO

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.database import DatabasePosition
from loghouse.errors import CursorFencedError, InvalidRequestError, PositionTakenError
from tests.client.fake import FakeCase
from tests.client.test_named_logs import NamedCase
from tests.fakes.tasks import asynchronous, until

SOURCE = "orders#16 by cursor 'billing'"
WORKER = "worker-1"  # comes again after a crash, and need not wait for itself


class DiedError(Exception):
    """The process is gone."""


class DyingConnection:
    """A database whose program dies just before, or just after, a commit."""

    def __init__(self, database, *, before=0, after=0):
        self._database = database
        self._before, self._after = before, after  # which commit, counted from 1
        self._count = 0

    def cursor(self):
        return self._database.cursor()

    def commit(self):
        self._count += 1
        if self._count == self._before:
            raise DiedError
        self._database.commit()
        if self._count == self._after:
            raise DiedError

    def rollback(self):
        self._database.rollback()


class PositionTests(SynchronousTestCase):
    """The row of a consumer."""

    def setUp(self):
        self.database = sqlite3.connect(":memory:")
        self.addCleanup(self.database.close)
        self.place = DatabasePosition(self.database, "billing")

    def test_goes_on(self):
        """It begins where it is told the first time, and where it stands from then on."""
        self.assertEqual(self.place.claim(5, 30, SOURCE), 30)
        self.place.move(5, 40)
        self.database.commit()
        self.assertEqual(self.place.claim(5, 99, SOURCE), 40)
        self.assertEqual(self.place.claim(8, 99, SOURCE), 40)
        self.assertEqual(DatabasePosition(self.database, "other").claim(2, 7, SOURCE), 7)

    def test_fenced(self):
        """An older epoch neither claims nor moves it; nobody moves a row that is gone."""
        self.place.claim(5, 0, SOURCE)
        self.place.claim(8, 0, SOURCE)
        error = self.assertRaises(CursorFencedError, self.place.move, 5, 10)
        self.assertEqual((error.epoch, error.current, error.name), (5, 8, "billing"))
        self.database.rollback()
        self.assertRaises(CursorFencedError, self.place.claim, 7, 0, SOURCE)
        self.assertFalse(self.database.in_transaction)  # others wait for nothing
        self.assertEqual(self.place.claim(8, 0, SOURCE), 0)
        self.database.execute("DELETE FROM loghouse_positions")
        self.assertRaises(CursorFencedError, self.place.move, 8, 10)

    def test_taken(self):
        """A row that holds another consumer's position is not touched, whichever epoch is higher."""
        self.place.claim(5, 30, SOURCE)
        for epoch in (4, 5, 9):
            other = DatabasePosition(self.database, "billing")
            refunds = "refunds#17 by cursor 'billing'"
            error = self.assertRaises(PositionTakenError, other.claim, epoch, 0, refunds)
            self.assertEqual((error.name, error.owner), ("billing", SOURCE))
            self.assertIn("give process() a name=", str(error))
            self.assertFalse(self.database.in_transaction)
        self.assertEqual(self.place.claim(5, 99, SOURCE), 30)

    def test_rolled_back(self):
        """The move is undone with the transaction that it is in."""
        self.place.claim(5, 0, SOURCE)
        self.place.move(5, 10)
        self.database.rollback()
        self.assertEqual(self.place.claim(5, 0, SOURCE), 0)

    def test_paramstyle(self):
        """Values go where the driver looks for them."""
        statements = []

        class Database:
            rowcount = 1

            def cursor(self):
                return self

            def execute(self, statement, values):
                statements.append((statement, values))

        DatabasePosition(Database(), "billing", paramstyle="pyformat").move(5, 10)
        expected = "UPDATE loghouse_positions SET position = %s WHERE name = %s AND epoch = %s"
        self.assertEqual(statements, [(expected, (10, "billing", 5))])
        for wrong in ("numeric", None):
            with self.assertRaises(InvalidRequestError) as caught:
                DatabasePosition(Database(), "billing", paramstyle=wrong)
            self.assertEqual(caught.exception.field, "paramstyle")


class ProcessTests(FakeCase):
    """Batches handled in transactions of SQLite."""

    VALUES = (b"a", b"b", b"c", b"d")

    async def begin(self):
        _, self.log = await self.connected()
        self.database = sqlite3.connect(":memory:")
        self.addCleanup(self.database.close)
        self.database.execute("CREATE TABLE bills (of BLOB)")
        self.finished = asyncio.Event()
        for value in self.VALUES:
            await self.log.append(value)

    def handle(self, batch):
        self.database.executemany("INSERT INTO bills VALUES (?)", [(value,) for value in batch.values()])
        if self.VALUES[-1] in batch.values():
            self.finished.set()

    @property
    def bills(self):
        return [bill for (bill,) in self.database.execute("SELECT of FROM bills ORDER BY rowid")]

    def consumer(self):
        return self.log.consumer("billing", holder=WORKER)

    async def dies(self, **when):
        """Let a consumer die at one of its commits; nothing of it is heard any more."""
        async with self.consumer() as consumer:
            await self.raises(
                DiedError, consumer.process(DyingConnection(self.database, **when), self.handle)
            )
            self.database.rollback()
            await consumer.abort()

    async def to_the_end(self):
        async with self.consumer() as consumer, asyncio.timeout(30):
            work = asyncio.ensure_future(consumer.process(self.database, self.handle))
            await self.finished.wait()
            await until(lambda: consumer.position == len(self.VALUES))
            work.cancel()
            await asyncio.wait({work})

    @asynchronous
    async def test_dies_at_each_commit(self):
        """Before or behind any commit, that of the claim included: each record has one bill, in order."""
        for number in range(1, len(self.VALUES) + 2):
            for when in ("before", "after"):
                self.finished.clear()
                self.database.execute("DELETE FROM bills")
                self.database.execute("DROP TABLE IF EXISTS loghouse_positions")
                self.database.commit()
                await self.log.cursors().set("billing", 0)
                await self.dies(**{when: number})
                committed = max(0, number - 2) if when == "before" else number - 1
                self.assertEqual(self.bills, list(self.VALUES[:committed]))
                if len(self.bills) < len(self.VALUES):
                    await self.to_the_end()
                self.assertEqual(self.bills, list(self.VALUES), (number, when))

    @asynchronous
    async def test_replaced(self):
        """Who was replaced, and does not know it yet, commits nothing any more."""
        async with self.consumer() as consumer:

            def handle(batch):
                self.handle(batch)
                # Somebody else acquired the cursor, and claimed the row, while this one was at work.
                self.database.execute("UPDATE loghouse_positions SET epoch = epoch + 1")

            await self.raises(CursorFencedError, consumer.process(self.database, handle))
        self.assertEqual(self.bills, [])

    @asynchronous
    async def test_database_counts(self):
        """It goes on where the database stands, before the cursor or behind it."""
        await self.dies(after=3)
        self.assertEqual(self.bills, [b"a", b"b"])
        await self.log.cursors().set("billing", 4)
        await self.to_the_end()
        self.assertEqual(self.bills, list(self.VALUES))
        self.assertEqual((await self.log.cursors().get("billing")).position, 4)

    @asynchronous
    async def test_handler_fails(self):
        """The handler's error is raised, and what it did undone; the next one gets the batch again."""

        def handle(batch):
            self.handle(batch)
            raise DiedError

        async with self.consumer() as consumer:
            await self.raises(DiedError, consumer.process(self.database, handle))
        self.assertEqual(self.bills, [])
        await self.to_the_end()
        self.assertEqual(self.bills, list(self.VALUES))

    @asynchronous
    async def test_one_row_for_two(self):
        """Of two cursors with one row the second one is told, and harms nothing; each with its own works."""
        await self.to_the_end()
        async with self.log.consumer("refunds", holder=WORKER) as consumer:
            error = await self.raises(
                PositionTakenError, consumer.process(self.database, self.handle, name="billing")
            )
        self.assertEqual(error.owner, "default#1 by cursor 'billing'")
        self.assertEqual(error.source, "default#1 by cursor 'refunds'")
        self.assertEqual(self.bills, list(self.VALUES))
        async with self.log.consumer("refunds", holder=WORKER) as consumer, asyncio.timeout(30):
            self.finished.clear()
            work = asyncio.ensure_future(consumer.process(self.database, self.handle))
            await self.finished.wait()
            work.cancel()
            await asyncio.wait({work})
        self.assertEqual(self.bills, list(self.VALUES) * 2)


class NamedTests(NamedCase):
    """Logs whose consumers share a database."""

    @asynchronous
    async def test_two_logs(self):
        """A log that has another name, or the same one anew, has no position in the row of the first."""
        _, client = await self.opened()
        database = sqlite3.connect(":memory:")
        self.addCleanup(database.close)

        async def taken(log):
            async with log.consumer("billing") as consumer:
                return (await self.raises(PositionTakenError, consumer.process(database, print))).source

        async def first(log):
            async with log.consumer("billing") as consumer:
                await self.raises(DiedError, consumer.process(database, dies))

        def dies(batch):
            raise DiedError

        await client.log("orders").append(b"a")
        await first(client.log("orders"))
        await client.create_log("refunds")
        self.assertRegex(await taken(client.log("refunds")), r"^refunds#[0-9]+ by cursor 'billing'$")
        self.assertRegex(await taken(client), r"^default#1 by cursor 'billing'$")
        await client.delete_log("orders")
        await client.create_log("orders")
        self.assertRegex(await taken(client.log("orders")), r"^orders#[0-9]+ by cursor 'billing'$")


class ImporterTests(FakeCase):
    """Lines of a file, whose place in it is a cursor of the log."""

    @asynchronous
    async def test_dies_anywhere(self):
        """However often it dies, each line is in the log once, in order."""
        cluster, log = await self.connected()
        lines = [b"line %d\n" % number for number in range(20)]
        content = b"".join(lines)

        async def import_(count):
            async with log.consumer("import", holder=WORKER) as importer:
                file = BytesIO(content)
                file.seek(await importer.acquire())
                for _ in range(count):
                    line = file.readline()
                    if not line:
                        return True
                    await importer.emit([line], done=file.tell())
                await importer.abort()  # some of it is appended, and some not
            return False

        lives = 0
        while not await import_(3 + lives):
            lives += 1
            self.assertLess(lives, 20)
        self.assertEqual(cluster.values, lines)
        found = await log.cursors().get("import")
        self.assertEqual((found.position, found.holder), (len(content), ""))
