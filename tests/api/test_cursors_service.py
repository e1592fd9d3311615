"""The calls of `log.v1.Cursors`, and a batch with an advance, over real gRPC and TLS."""

import grpc

from loghouse import errors
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import CURSOR_NAME_SIZE_MAX
from loghouse.protocol.cursor_messages import CursorOperation
from tests.api.doors import DoorCase, batch, details_of
from tests.fakes.node import FakeLog
from tests.fakes.tasks import asynchronous

DENIED, NOT_FOUND = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


class CursorsCase(DoorCase):
    """A door; `root` reads and writes, `admin` may administer, `ann` reads, `bob` writes."""

    policy = (
        "p, root, *, produce\np, root, *, consume\np, ann, default, consume\np, bob, default, produce\n"
        "p, admin, *, admin\np, admin, *, consume\n"
    )

    def cursors(self, client="root"):
        return log_pb2_grpc.CursorsStub(self.channel(client))

    async def acquire(self, client="root", **fields):
        request = log_pb2.AcquireCursorRequest(**{"name": "billing", "holder": "h1", **fields})
        return (await self.cursors(client).Acquire(request)).cursor

    @property
    def order(self):
        """What the node was asked last."""
        return self.node.orders[-1][1]


class CallTests(CursorsCase):
    """What reaches the node, and what comes back."""

    @asynchronous
    async def test_each(self):
        """Each call asks for its operation, in the name of who calls, and answers with the cursor."""
        stub = self.cursors()
        taken = await self.acquire(lease_milliseconds=3000)
        order = self.order
        self.assertEqual((order.operation, order.holder), (CursorOperation.ACQUIRE, "h1"))
        self.assertEqual((order.lease_milliseconds, order.subject, order.is_admin), (3000, "root", False))
        found = log_pb2.Cursor(
            name="billing",
            epoch=taken.epoch,
            holder="h1",
            subject="root",
            lease_milliseconds=3000,
            left_milliseconds=3000,
            lag=0,
        )
        self.assertEqual(taken, found)
        named = {"name": "billing", "epoch": taken.epoch}
        moved = await stub.Advance(log_pb2.AdvanceCursorRequest(**named, position=7))
        self.assertEqual((moved.cursor.position, self.order.flags), (7, 0))
        back = await stub.Advance(log_pb2.AdvanceCursorRequest(**named, position=5, rewind=True))
        self.assertEqual((back.cursor.position, self.order.flags), (5, 1))
        for call in (stub.Renew, stub.Release):
            self.assertEqual((await call(log_pb2.HeldCursorRequest(**named))).cursor.position, 5)
        put = await stub.Set(log_pb2.SetCursorRequest(name="billing", position=9))
        self.assertEqual((put.cursor.position, put.cursor.holder), (9, ""))
        got = await stub.Get(log_pb2.NamedCursorRequest(name="billing"))
        self.assertEqual(got, put)
        await stub.Delete(log_pb2.NamedCursorRequest(name="billing"))
        await self.refused(stub.Get(log_pb2.NamedCursorRequest(name="billing")), NOT_FOUND)

    @asynchronous
    async def test_defaults(self):
        """A lease that is not given is ten seconds."""
        self.assertEqual((await self.acquire()).lease_milliseconds, 10_000)

    @asynchronous
    async def test_list(self):
        """A list is a page, and where to go on."""
        for name in "abc":
            await self.acquire(name=name)
        stub = self.cursors()
        page = await stub.List(log_pb2.ListCursorsRequest(count_max=2))
        self.assertEqual(([one.name for one in page.cursors], page.next), (["a", "b"], "b"))
        page = await stub.List(log_pb2.ListCursorsRequest(after="b", count_max=2**32 - 1))
        self.assertEqual(([one.name for one in page.cursors], page.next), (["c"], ""))
        self.assertEqual(self.order.count_max, 2**16 - 1)

    @asynchronous
    async def test_refusals(self):
        """What the leader refuses is told with its details."""
        taken = await self.acquire()
        error = await self.refused(self.acquire(holder="h2"), FAILED)
        info, _ = details_of(error)
        self.assertEqual((info.reason, info.metadata["holder"]), ("CURSOR_HELD", "h1"))
        stub = self.cursors()
        wrong = log_pb2.AdvanceCursorRequest(name="billing", epoch=taken.epoch + 1, position=1)
        info, _ = details_of(await self.refused(stub.Advance(wrong), FAILED))
        self.assertEqual((info.reason, info.metadata["current"]), ("CURSOR_FENCED", str(taken.epoch)))
        for name in ("n" * (CURSOR_NAME_SIZE_MAX + 1), "a\nb"):
            await self.refused(stub.Get(log_pb2.NamedCursorRequest(name=name)), INVALID)
        await self.refused(self.acquire(lease_milliseconds=1), INVALID)

    @asynchronous
    async def test_batch(self):
        """A batch brings its advance along, and a retry is answered as the first one was."""
        taken = await self.acquire()
        advance = log_pb2.CursorAdvance(name="billing", epoch=taken.epoch, position=5)
        first = await self.root.ProduceBatch(batch([b"a"], cursor=advance))
        self.assertEqual(await self.root.ProduceBatch(batch([b"a"], cursor=advance)), first)
        self.assertEqual(self.node.proposals[-1].subject, "root")
        advance.epoch += 1
        await self.refused(self.root.ProduceBatch(batch([b"a"], cursor=advance)), FAILED)
        found = await self.cursors().Get(log_pb2.NamedCursorRequest(name="billing"))
        self.assertEqual(found.cursor.position, 5)

    @asynchronous
    async def test_in_a_stream(self):
        """A stream of batches takes advances, too."""
        taken = await self.acquire()
        call = self.root.ProduceBatchStream()
        for position in (1, 2):
            advance = log_pb2.CursorAdvance(name="billing", epoch=taken.epoch, position=position)
            await call.write(batch([b"a"], cursor=advance))
        self.assertEqual([(await call.read()).base_offset for _ in range(2)], [0, 1])
        await call.done_writing()


class PermissionTests(CursorsCase):
    """Cursors are for those who consume the log; those of others for administrators."""

    @asynchronous
    async def test_consume(self):
        """Every call needs to consume; a batch with an advance needs both."""
        stub = self.cursors("bob")
        for call, request in (
            (stub.Acquire, log_pb2.AcquireCursorRequest(name="a", holder="h")),
            (stub.Advance, log_pb2.AdvanceCursorRequest(name="a")),
            (stub.Renew, log_pb2.HeldCursorRequest(name="a")),
            (stub.Release, log_pb2.HeldCursorRequest(name="a")),
            (stub.Get, log_pb2.NamedCursorRequest(name="a")),
            (stub.List, log_pb2.ListCursorsRequest()),
            (stub.Set, log_pb2.SetCursorRequest(name="a")),
            (stub.Delete, log_pb2.NamedCursorRequest(name="a")),
        ):
            await self.refused(call(request), DENIED)
        self.assertEqual(self.node.orders, [])
        await self.acquire("ann")
        advance = log_pb2.CursorAdvance(name="billing", epoch=1, position=5)
        for client in ("ann", "bob"):
            await self.refused(self.stub(client).ProduceBatch(batch([b"a"], cursor=advance)), DENIED)
        self.assertEqual(self.node.proposals, [])

    @asynchronous
    async def test_admin(self):
        """The node is told who is an administrator where that matters: it knows whose cursor it is."""
        await self.acquire("ann")
        for client, is_admin in (("ann", False), ("admin", True)):
            stub = self.cursors(client)
            await stub.Set(log_pb2.SetCursorRequest(name="billing", position=1))
            self.assertEqual((self.order.subject, self.order.is_admin), (client, is_admin))
            await stub.Get(log_pb2.NamedCursorRequest(name="billing"))
            self.assertFalse(self.order.is_admin)
        self.node.failure = errors.PermissionDeniedError("ann", "admin", "*")
        await self.refused(self.cursors("ann").Delete(log_pb2.NamedCursorRequest(name="billing")), DENIED)

    @asynchronous
    async def test_catalogue(self):
        """The catalogue keeps none, also for administrators, who may read it."""
        self.node.logs[2] = FakeLog(self.node, "_catalog", 2)
        stub = self.cursors("admin")
        await self.refused(stub.Set(log_pb2.SetCursorRequest(log="_catalog", name="a")), INVALID)
        await self.refused(self.cursors("ann").Get(log_pb2.NamedCursorRequest(log="_catalog")), DENIED)
