"""Single calls find their server, and say what happened when they do not."""

import asyncio
import contextlib
import socket

from loghouse.client import AsyncClient, calls, retrying
from loghouse.client.balancing import Server
from loghouse.errors import (
    DeadlineError,
    ExpectOffsetError,
    IdentityError,
    InvalidRequestError,
    LoghouseError,
    MembershipError,
    NotLeaderError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.protocol.entry import Codec
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.node import BROKEN, HANG, LOST
from tests.fakes.tasks import asynchronous, until


class AppendTests(FakeCase):
    """Appends go to the leader, and are made again only when nothing was done."""

    @asynchronous
    async def test_finds_the_leader(self):
        """One address is enough: the others are found, and the leader appends."""
        cluster = await self.cluster()
        log = self.connect(cluster.nodes[2].address)
        self.assertEqual(await log.append(b"a"), 0)
        self.assertEqual(await log.append_batch([b"b", b"c"], compression="zstd"), range(1, 3))
        self.assertEqual(cluster.values, [b"a", b"b", b"c"])
        self.assertEqual([entry.attributes for entry in cluster.entries], [Codec.NONE, Codec.ZSTD])
        self.assertEqual([node.count("ProduceBatch") for node in cluster.nodes], [2, 0, 0])

    @asynchronous
    async def test_any_address_will_do(self):
        """Addresses where nobody listens are passed over."""
        cluster = await self.cluster()
        gone = await cluster.add("gone")
        await gone.stop()
        cluster.nodes.remove(gone)
        log = self.connect(f"{gone.address},{cluster.nodes[1].address}")
        self.assertEqual(await log.append(b"a"), 0)

    @asynchronous
    async def test_error_names_the_leader(self):
        """A node that does not lead any more names the leader, which is asked at once."""
        cluster, log = await self.connected()
        await log.append(b"a")
        cluster.nodes[0].faults["ProduceBatch"] = [NotLeaderError("n2")]
        cluster.leader = cluster.nodes[1]
        self.assertEqual(await log.append(b"b"), 1)
        await log.append(b"c")
        self.assertEqual([node.count("ProduceBatch") for node in cluster.nodes], [2, 2, 0])

    @asynchronous
    async def test_answer_names_the_leader(self):
        """A node that passes appends on names the leader, which gets the next one."""
        cluster, log = await self.connected()
        await log.append(b"a")
        cluster.leader = cluster.nodes[1]
        await log.append(b"b")
        await log.append(b"c")
        self.assertEqual([node.count("ProduceBatch") for node in cluster.nodes], [2, 1, 0])

    @asynchronous
    async def test_no_leader_for_a_while(self):
        """While nobody leads it is tried again and again, and nothing is appended twice."""
        cluster, log = await self.connected()
        cluster.leader = None
        appending = asyncio.ensure_future(log.append(b"a"))
        await until(lambda: sum(node.count("ProduceBatch") for node in cluster.nodes) >= 5)
        cluster.leader = cluster.nodes[1]
        self.assertEqual(await appending, 0)
        self.assertEqual(cluster.values, [b"a"])

    @asynchronous
    async def test_leader_is_gone(self):
        """When the leader's process ends, the append finds the next one."""
        cluster, log = await self.connected()
        await log.append(b"a")
        await cluster.nodes[0].stop()
        cluster.leader = cluster.nodes[1]
        # The link may break with the first request on it already.
        with contextlib.suppress(OutcomeUnknownError):
            await log.append(b"b")
        self.assertEqual(await log.append(b"c"), cluster.next_offset - 1)
        self.assertEqual(cluster.values[-1], b"c")

    @asynchronous
    async def test_unknown_outcome(self):
        """When the link breaks behind the request, nobody tries again, and the caller is told."""
        cluster = await self.cluster()
        for fault in (LOST, BROKEN, OutcomeUnknownError("leadership was lost")):
            log = self.connect(cluster.target)
            cluster.nodes[0].faults["ProduceBatch"] = [fault]
            await self.raises(OutcomeUnknownError, log.append(b"a"))
        self.assertEqual(cluster.values, [b"a"])
        self.assertEqual(sum(node.count("ProduceBatch") for node in cluster.nodes), 3)

    @asynchronous
    async def test_no_answer(self):
        """At the deadline of an append that was sent, nobody knows."""
        cluster, log = await self.connected()
        await log.append(b"a")
        cluster.nodes[0].faults["ProduceBatch"] = [HANG]
        await self.raises(OutcomeUnknownError, log.append(b"b", timeout_seconds=0.2))

    @asynchronous
    async def test_bound_reached(self):
        """A bound that is reached for a moment is waited out; one that stays is told."""
        self.patch(retrying, "ATTEMPT_SECONDS_MIN", 10.0)  # a quarter of the time, then: enough for an answer
        cluster, log = await self.connected()
        full = ResourceExhaustedError("proposals", "64 wait")
        cluster.nodes[0].faults["ProduceBatch"] = [full, full]
        self.assertEqual(await log.append(b"a"), 0)
        cluster.nodes[0].faults["ProduceBatch"] = [full] * 1000
        await self.raises(ResourceExhaustedError, log.append(b"b", timeout_seconds=2.0))
        self.assertEqual([node.count("ProduceBatch") for node in cluster.nodes][1:], [0, 0])

    @asynchronous
    async def test_expected_offset(self):
        """A conflict is typed and says what the next offset is."""
        _, log = await self.connected()
        self.assertEqual(await log.append(b"a", expect_offset=0), 0)
        error = await self.raises(ExpectOffsetError, log.append(b"b", expect_offset=0))
        self.assertEqual((error.expected, error.actual), (0, 1))

    @asynchronous
    async def test_refused(self):
        """A refusal comes at once and as what it is; what cannot be encoded is not even sent."""
        cluster, log = await self.connected()
        cluster.nodes[0].faults["ProduceBatch"] = [PermissionDeniedError("root", "produce", "default")]
        error = await self.raises(PermissionDeniedError, log.append(b"a"))
        self.assertEqual((error.subject, error.action, error.object), ("root", "produce", "default"))
        await self.raises(InvalidRequestError, log.append("text"))
        await self.raises(InvalidRequestError, log.append_batch([b"a"], compression="gzip"))
        self.assertEqual(sum(node.count("ProduceBatch") for node in cluster.nodes), 1)

    @asynchronous
    async def test_cancelled(self):
        """A cancelled append leaves nothing behind here, and ends at the node."""
        cluster, log = await self.connected()
        cluster.nodes[0].faults["ProduceBatch"] = [HANG]
        appending = asyncio.ensure_future(log.append(b"a"))
        await until(lambda: cluster.nodes[0].count("ProduceBatch"))
        appending.cancel()
        await self.raises(asyncio.CancelledError, appending)
        self.assertEqual(await log.append(b"b"), 0)


class ReadTests(FakeCase):
    """Calls that change nothing go anywhere, as often as needed."""

    @asynchronous
    async def test_followers_in_turn(self):
        """Followers answer in turn."""
        cluster, log = await self.connected()
        for _ in range(6):
            self.assertEqual(await log.bounds(), (0, 0))
        self.assertEqual([node.count("Bounds") for node in cluster.nodes], [0, 3, 3])

    @asynchronous
    async def test_broken_and_silent_servers(self):
        """A server that breaks or does not answer is left for another one, and left alone for a while."""
        self.patch(calls, "ASK_SECONDS", 0.2)
        self.patch(retrying, "ATTEMPT_SECONDS", 0.2)
        cluster, log = await self.connected()
        await log.bounds()
        for fault in (BROKEN, HANG):
            for node in cluster.nodes[1:]:
                node.faults["Bounds"] = [fault]
            self.assertEqual(await log.bounds(), (0, 0))

    @asynchronous
    async def test_time_is_over(self):
        """Without an answer from anybody the error says so, and names the last one asked."""
        cluster, log = await self.connected(1)
        await log.bounds()
        cluster.nodes[0].faults["Bounds"] = [HANG] * 10
        error = await self.raises(DeadlineError, log.bounds(timeout_seconds=0.3))
        self.assertIn(f"no answer ({cluster.nodes[0].address}: ", str(error))
        self.assertIsInstance(error, TimeoutError)


class ClusterTests(FakeCase):
    """What is known of the cluster is kept fresh."""

    @asynchronous
    async def test_servers(self):
        """Who is there, as asked just now."""
        cluster, log = await self.connected()
        view = await log.servers()
        self.assertEqual((view.cluster_uuid, view.cluster_name), (cluster.uuid, "c1"))
        first = Server(name="n1", address=cluster.nodes[0].address, is_leader=True)
        self.assertEqual((view.servers[0], view.leader, len(view.servers)), (first, first, 3))
        cluster.leader = cluster.nodes[1]
        self.assertEqual((await log.servers()).leader.name, "n2")

    @asynchronous
    async def test_removed_servers(self):
        """A server that left is not called any more, and its channel is closed."""
        cluster = await self.cluster()
        log = self.connect(cluster.nodes[0].address)
        for _ in range(4):
            await log.bounds()
        gone = cluster.nodes.pop()
        self.closers.append(gone.stop)
        await log.servers()
        count = gone.count("Bounds")
        for _ in range(4):
            await log.bounds()
        self.assertEqual(gone.count("Bounds"), count)
        self.assertNotIn(gone.address, log.calls.channels.addresses)

    @asynchronous
    async def test_leader_without_an_address(self):
        """A server that does not know where the leader is does not stop any call; another one is asked."""
        cluster = await self.cluster()
        for told in ("", "nowhere", ":8400", "a..b:1"):
            cluster.nodes[0].show(address=told)
            log = self.connect(cluster.nodes[1].address, timeout_seconds=10.0)
            await log.append(b"a")
            await log.bounds()
            self.assertEqual([record.value async for record in log.read("latest")], [])
            async with log.producer() as producer:
                await (await producer.append(b"b"))
        self.assertEqual(cluster.values, [b"a", b"b"] * 4)

    @asynchronous
    async def test_direct_door(self):
        """By gRPC an advertised direct door is used, and the one port when nobody is behind it."""
        cluster = await self.cluster()
        door = await cluster.add("door")
        cluster.nodes.remove(door)
        self.closers.append(door.stop)
        cluster.leader.show(grpc_address=door.address)
        log = self.connect(cluster.target, transport="grpc")
        await log.append(b"a")
        self.assertEqual((door.count("ProduceBatch"), cluster.leader.count("ProduceBatch")), (1, 0))
        await door.stop()
        # The link may break with the first request on it already.
        with contextlib.suppress(OutcomeUnknownError):
            await log.append(b"b")
        await log.append(b"c")
        self.assertEqual(cluster.values[-1], b"c")
        self.assertIn(cluster.leader.count("ProduceBatch"), (1, 2))

    @asynchronous
    async def test_silent_server_does_not_hold_up(self):
        """While one server is silent, the next one is asked for the cluster beside it."""
        cluster = await self.cluster()
        silent = []
        for _ in range(2):
            listening = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listening.close)
            silent.append(f"127.0.0.1:{listening.getsockname()[1]}")
        log = self.connect(",".join([*silent, cluster.nodes[2].address]))
        self.assertEqual(await log.append(b"a"), 0)

    @asynchronous
    async def test_not_permitted(self):
        """Who may not even ask for the servers is told so at once."""
        cluster, log = await self.connected(1)
        denied = PermissionDeniedError("nobody", "use", "GetServers")
        cluster.nodes[0].faults["GetServers"] = [denied] * 10
        error = await self.raises(PermissionDeniedError, log.append(b"a"))
        self.assertEqual(error.subject, "nobody")

    @asynchronous
    async def test_nobody_there(self):
        """When no address answers, the error says which were tried, and for how long."""
        cluster = await self.cluster(1)
        await cluster.stop()
        log = self.connect(cluster.target)
        error = await self.raises(DeadlineError, log.append(b"a", timeout_seconds=0.3))
        self.assertIn(cluster.nodes[0].address, str(error))
        self.assertIn("gave up after", str(error))

    @asynchronous
    async def test_two_clusters(self):
        """Two clusters in one process do not mix, nor does a server that changes sides."""
        first, second = await self.cluster(number=1), await self.cluster(number=2)
        one, two = self.connect(first.target), self.connect(second.target)
        for log, value in ((one, b"1"), (two, b"2")) * 3:
            await log.append(value)
        self.assertEqual((first.values, second.values), ([b"1"] * 3, [b"2"] * 3))
        for node in first.nodes:
            node.cluster = second
        error = await self.raises(IdentityError, one.servers())
        self.assertIn("belongs to cluster 0202", str(error))

    @asynchronous
    async def test_administration(self):
        """Orders go to the server that they are for, and their refusals come back."""
        cluster, log = await self.connected()
        self.assertEqual((await log.status(server="n3")).node, "n3")
        await log.leave("n2")
        self.assertEqual([node.count("Leave") for node in cluster.nodes], [0, 1, 0])
        self.assertIn("n9", str(await self.raises(UnavailableError, log.leave("n9"))))
        for node in cluster.nodes:
            node.faults["Add"] = [MembershipError("n4 is not there")]
        await self.raises(MembershipError, log.add("n4"))
        self.assertEqual(await log.transfer("n3"), "n3")
        await log.append(b"a")
        self.assertEqual(cluster.nodes[2].count("ProduceBatch"), 1)


class UnexpectedTests(FakeCase):
    """What is raised below and is no error of ours is a failed call: tried again where that is safe."""

    def broken(self, log, method, count):
        """Let the first `count` calls of a method on any channel raise."""
        left = [count]
        make = log.calls.channels._make

        def make_broken(address):
            channel = make(address)
            call = getattr(channel, method)

            def raise_first(*given):
                if left[0]:
                    left[0] -= 1
                    raise KeyError("broken below")
                return call(*given)

            setattr(channel, method, raise_first)
            return channel

        log.calls.channels._make = make_broken
        return left

    @asynchronous
    async def test_tried_again(self):
        """Reads, questions and batches of a producer go on after it."""
        cluster = await self.cluster()
        cluster.add_values(b"a")
        for method in ("servers", "bounds", "answers", "register_producer", "appends"):
            log = self.connect(cluster.target)
            left = self.broken(log, method, 2)
            self.assertEqual([record.offset async for record in log.read(0)][:1], [0], method)
            async with log.producer() as producer:
                await (await producer.append(b"b"))
            self.assertEqual(left, [0], method)

    @asynchronous
    async def test_for_ever(self):
        """When it does not end, each waiter is told of it by an error of ours, and the producer lives on."""
        _, log = await self.connected(timeout_seconds=1.5)
        left = self.broken(log, "servers", 10_000)
        self.assertIn("KeyError", str(await self.raises(DeadlineError, log.bounds())))
        left[0] = 0
        left = self.broken(log, "append", 10_000)
        self.assertIn("KeyError", str(await self.raises(OutcomeUnknownError, log.append(b"a"))))
        left = self.broken(log, "appends", 10_000)
        log.calls.channels.keep(())
        async with log.producer() as producer:
            delivery = await producer.append(b"a")
            error = await self.raises(LoghouseError, delivery)
            self.assertIn("KeyError", str(error))
            left[0] = 0
            self.assertEqual(await (await producer.append(b"b")), 0)


class CloseTests(FakeCase):
    """A closed client is closed."""

    @asynchronous
    async def test_calls_under_way(self):
        """Whoever waits is told; an append says that it may have happened."""
        cluster, log = await self.connected()
        await log.bounds()
        for node in cluster.nodes:
            node.faults["ProduceBatch"], node.faults["Bounds"] = [HANG], [HANG]
        appending = asyncio.ensure_future(log.append(b"a"))
        asking = asyncio.ensure_future(log.bounds())
        await until(lambda: cluster.nodes[0].count("ProduceBatch"))
        await until(lambda: sum(node.count("Bounds") for node in cluster.nodes) == 2)
        await log.close()
        await self.raises(OutcomeUnknownError, appending)
        await self.raises(UnavailableError, asking)
        error = await self.raises(UnavailableError, log.append(b"b"))
        self.assertIn("closed", str(error))
        await log.close()

    @asynchronous
    async def test_without_a_call(self):
        """A client that was never used can be closed."""
        async with AsyncClient("127.0.0.1:1"):
            pass


AppendGrpcTests = over_grpc(AppendTests)
ReadGrpcTests = over_grpc(ReadTests)
ClusterGrpcTests = over_grpc(ClusterTests)
UnexpectedGrpcTests = over_grpc(UnexpectedTests)
CloseGrpcTests = over_grpc(CloseTests)
