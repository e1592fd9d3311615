"""Cursors through clients: the calls, what is tried again, and batches that come with an advance."""

from loghouse.client import Advance, BlockingCursors, Cursor
from loghouse.client.cursors import AsyncCursors
from loghouse.errors import (
    CursorFencedError,
    CursorHeldError,
    CursorRewindError,
    InvalidRequestError,
    OutcomeUnknownError,
    UnknownCursorError,
)
from loghouse.limits import CURSOR_HOLDER_SIZE_MAX
from loghouse.protocol.cursor_messages import CursorOperation, CursorPage, DescribedCursor
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import BROKEN, LOST
from tests.fakes.tasks import asynchronous


class CursorTests(FakeCase):
    """A client of fake nodes."""

    async def begin(self):
        self.cluster_, self.log = await self.connected()
        self.cursors = self.log.cursors()
        self.leader = self.cluster_.nodes[0]

    @asynchronous
    async def test_each(self):
        """Every operation, and what it answers with."""
        await self.begin()
        cursors = self.cursors
        mine = await cursors.acquire("orders→bills", lease_seconds=2.5)
        expected = Cursor("orders→bills", 0, mine.epoch, cursors.holder, mine.subject, 2.5, 2.5, lag=0)
        self.assertEqual(mine, expected)
        moved = await cursors.advance("orders→bills", mine.epoch, 7)
        self.assertEqual((moved.position, moved.epoch), (7, mine.epoch))
        back = await cursors.advance("orders→bills", mine.epoch, 3, rewind=True)
        self.assertEqual(back, await cursors.renew("orders→bills", mine.epoch))
        self.assertEqual(back, await cursors.get("orders→bills"))
        free = await cursors.release("orders→bills", mine.epoch)
        self.assertEqual((free.holder, free.left_seconds, free.position), ("", 0, 3))
        await cursors.set("billing", 9)
        for name in "abc":
            await cursors.acquire(name)
        names = [one.name for one in await cursors.list()]
        self.assertEqual(names, ["a", "b", "billing", "c", "orders→bills"])
        self.assertIsNone(await cursors.delete("billing"))
        error = await self.raises(UnknownCursorError, cursors.get("billing"))
        self.assertEqual(error.name, "billing")

    @asynchronous
    async def test_refusals(self):
        """The leader's refusals come typed, with what they say."""
        await self.begin()
        mine = await self.cursors.acquire("billing")
        other = self.log.cursors()
        self.assertNotEqual(other.holder, self.cursors.holder)
        error = await self.raises(CursorHeldError, other.acquire("billing"))
        self.assertEqual((error.holder, error.milliseconds), (self.cursors.holder, 10_000))
        await other.acquire("billing", holder=self.cursors.holder)
        error = await self.raises(CursorFencedError, self.cursors.advance("billing", mine.epoch, 1))
        self.assertEqual(error.epoch, mine.epoch)
        error = await self.raises(CursorFencedError, self.cursors.renew("billing", mine.epoch))
        self.assertGreater(error.current, mine.epoch)

    @asynchronous
    async def test_wrong_arguments(self):
        """What cannot be meant is refused before anything is sent."""
        await self.begin()
        for work in (
            self.cursors.acquire(7),
            self.cursors.acquire("a", lease_seconds="long"),
            self.cursors.acquire("a", holder=b"x"),
            self.cursors.advance("a", True, 1),
            self.cursors.advance("a", 1, -1),
            self.cursors.advance("a", 1, 2**64),
            self.cursors.advance("a", 1, 2, rewind="no"),
            self.log.append_batch([b"a"], cursor=("a", 1, 2)),
            self.log.append_batch([b"a"], cursor=Advance("a", -1, 2)),
        ):
            await self.raises(InvalidRequestError, work)
        self.assertEqual((self.leader.orders, self.cluster_.entries), ([], []))

    @asynchronous
    async def test_tried_again(self):
        """What does no harm twice is asked for again after a lost answer; the rest is told to be unknown."""
        await self.begin()
        mine = await self.cursors.acquire("billing")
        for node in self.cluster_.nodes:
            node.faults["Advance"] = [LOST, BROKEN]
        moved = await self.cursors.advance("billing", mine.epoch, 5)
        self.assertEqual(moved.position, 5)
        for name, work in (
            ("Release", lambda: self.cursors.release("billing", mine.epoch)),
            ("Delete", lambda: self.cursors.delete("billing")),
        ):
            for node in self.cluster_.nodes:
                node.faults[name] = [LOST]
            await self.raises(OutcomeUnknownError, work())

    @asynchronous
    async def test_batch(self):
        """Records and an advance are one append, tried again after any failure, and done once."""
        await self.begin()
        mine = await self.cursors.acquire("billing")
        first = await self.log.append_batch([b"a"], cursor=Advance("billing", mine.epoch, 4))
        self.assertEqual(first, range(1))
        self.leader.faults["ProduceBatch"] = [LOST]
        for _ in range(2):
            offsets = await self.log.append_batch([b"b"], cursor=Advance("billing", mine.epoch, 8))
            self.assertEqual(offsets, range(1, 2))
        self.assertEqual(self.cluster_.values, [b"a", b"b"])
        found = await self.cursors.get("billing")
        self.assertEqual((found.position, found.lag), (8, None))  # it counts its maker's source
        late = self.log.append_batch([b"c"], cursor=Advance("billing", mine.epoch, 4))
        self.assertEqual((await self.raises(CursorRewindError, late)).current, 8)
        fenced = self.log.append_batch([b"c"], cursor=Advance("billing", mine.epoch + 1, 9))
        await self.raises(CursorFencedError, fenced)
        self.assertEqual(self.cluster_.values, [b"a", b"b"])


CursorGrpcTests = over_grpc(CursorTests)


class FlavourTests(FakeCase):
    """The same methods without an event loop."""

    def test_blocking(self):
        """Each runs the asyncio one to its end; names, arguments and answers are the same."""
        orders = []

        async def ask(order, timeout_seconds, is_safe):
            orders.append((order.operation, timeout_seconds, is_safe))
            if order.operation == CursorOperation.LIST:
                following = "" if order.name else "x"
                return CursorPage(cursors=(DescribedCursor(name="x", position=1, epoch=2),), next=following)
            return CursorPage(cursors=(DescribedCursor(name="x", position=1, epoch=2),))

        def run(work):
            try:
                work.send(None)
            except StopIteration as stop:
                return stop.value
            raise AssertionError("it waits")

        inner = AsyncCursors(ask)
        cursors = BlockingCursors(inner, run)
        self.assertEqual(cursors.holder, inner.holder)
        self.assertLessEqual(len(inner.holder.encode()), CURSOR_HOLDER_SIZE_MAX)
        found = Cursor("x", 1, 2, "", "", 0.0, 0.0)
        self.assertEqual(cursors.acquire("x", timeout_seconds=3), found)
        self.assertEqual(cursors.advance("x", 2, 3), found)
        self.assertEqual(cursors.renew("x", 2), found)
        self.assertEqual(cursors.release("x", 2), found)
        self.assertEqual(cursors.get("x"), found)
        self.assertEqual(cursors.set("x", 3), found)
        self.assertEqual(cursors.list(), [found, found])
        self.assertIsNone(cursors.delete("x"))
        unsafe = [operation for operation, _, is_safe in orders if not is_safe]
        self.assertEqual(unsafe, [CursorOperation.RELEASE, CursorOperation.DELETE])
        self.assertEqual(orders[0], (CursorOperation.ACQUIRE, 3, True))
        names = {name for name in vars(AsyncCursors) if not name.startswith("_")}
        self.assertEqual(names, {name for name in vars(BlockingCursors) if not name.startswith("_")})
        self.assertIn("`AsyncCursors.acquire`", BlockingCursors.acquire.__doc__)
