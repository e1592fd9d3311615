"""A binary channel without a network: what each call asks on the wire, and what it makes of the answer."""

import asyncio
import socket
import ssl

from loghouse.api.v1 import log_pb2
from loghouse.client import binary_channel
from loghouse.client.balancing import Server
from loghouse.client.binary_channel import BinaryChannel
from loghouse.client.channels import AppendAnswer, FetchAnswer, LogId
from loghouse.client.connection import dial
from loghouse.client.failures import Effect, unmade_call
from loghouse.client.following import Following
from loghouse.client.grpc_channel import view_of
from loghouse.client.pin import ClusterPin
from loghouse.client.records import Bounds as ClientBounds
from loghouse.errors import UnavailableError
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Describe,
    DescribedServer,
    DescribeReply,
    FindOffset,
    FindOffsetReply,
    Produce,
    ProduceReply,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.session import CancelReceived, RequestReceived, Session
from tests.client.test_connection import HELLO
from tests.client.test_connection_times import APPEND, Transport, WireCase, turn
from tests.fakes.clock_loop import timed


class Source:
    """Notes what a followed stream asks of its connection."""

    def __init__(self):
        self.noted = []

    def add_credit(self, stream, size):
        self.noted.append((stream, size))

    def stop_following(self, stream):
        self.noted.append(stream)


class FollowingTests(WireCase):
    """A followed stream: answers wait here until they are read."""

    @timed
    async def test_credit(self):
        """The bytes of an answer are given back once, when whoever read it asks for the next."""
        source = Source()
        following = Following(source, 7)
        for number, size in ((1, 10), (2, 20)):
            following.received(FetchAnswer(bytes(size), number))
        self.assertEqual((following.take().next_offset, source.noted), (1, []))
        self.assertEqual(((await following.read()).next_offset, source.noted), (2, [(7, 10)]))
        self.assertEqual((following.take(), source.noted), (None, [(7, 10), (7, 20)]))
        self.assertEqual((following.take(), len(source.noted)), (None, 2))
        following.cancel()
        self.assertEqual(source.noted[2:], [7])

    @timed
    async def test_end(self):
        """What came before the end is read first; then the end is told each time."""
        following = Following(Source(), 7)
        following.received(FetchAnswer(b"f", 1))
        failure = unmade_call("gone")
        following.failed(failure)
        self.assertEqual((await following.read()).next_offset, 1)
        for _ in range(2):
            self.assertIs(await self.failure(following.read()), failure)

    @timed
    async def test_waiting(self):
        """Who waits wakes with what comes; who went away does not matter."""
        following = Following(Source(), 7)
        gone = asyncio.ensure_future(following.read())
        await turn()
        gone.cancel()
        following.received(FetchAnswer(b"f", 1))
        self.assertEqual(following.take().next_offset, 1)
        reading = asyncio.ensure_future(following.read())
        await turn()
        following.received(FetchAnswer(b"f", 2))
        self.assertEqual((await reading).next_offset, 2)
        reading = asyncio.ensure_future(following.read())
        await turn()
        following.failed(unmade_call("gone"))
        await self.failure(reading)


class DialTests(WireCase):
    """Dialling: what is asked of the loop, and what its errors mean."""

    def loop_that(self, *does):
        """Let the loop's `create_connection` do so, one after the other; notes what it is given."""
        self.given = []
        steps = list(does)

        async def create_connection(factory, host, port, **settings):
            self.given.append((host, port, settings))
            step = steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            self.made = factory()
            self.transport = Transport()
            self.made.connection_made(self.transport)
            if step == "greets":
                self.node = Session(HELLO, is_dialler=False)
                self.heard()
                self.say()

        self.loop.create_connection = create_connection

    @timed
    async def test_plain(self):
        """Host and port are those of the address; without certificates nothing is said of TLS."""
        self.loop_that("greets")
        made = await dial("[::1]:8400", None, print, 3.0)
        self.assertTrue(made.is_up)
        self.assertEqual(self.given, [("::1", 8400, {})])

    @timed
    async def test_pin(self):
        """A node of another cluster than the one told is not talked to."""
        self.loop_that("greets")
        failure = await self.failure(dial("h1:1", None, print, 3.0, ClusterPin("c2")))
        self.assertIn("'c1', but this client talks to cluster 'c2'", str(failure.error))

    @timed
    async def test_tls(self):
        """With certificates the server's name is checked, and its time bounded."""
        self.loop_that("greets")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        await dial("a.example:1", context, print, 3.0)
        settings = {
            "ssl": context,
            "ssl_handshake_timeout": 3.0,
            "ssl_shutdown_timeout": 1.0,
            "server_hostname": "a.example",
        }
        self.assertEqual(self.given, [("a.example", 1, settings)])

    @timed
    async def test_no_hello(self):
        """A server that accepts and says nothing is cut off after the time."""
        self.loop_that("silent")
        failure = await self.failure(dial("h1:1", None, print, 3.0))
        self.check(failure, UnavailableError, "h1:1: no connection within 3 s", Effect.NOTHING)
        self.assertEqual((self.now, self.transport.ends), (3.0, ["abort"]))

    @timed
    async def test_errors(self):
        """Each error is told in words."""
        for error, text in (
            (ConnectionRefusedError(111, "Connection refused"), "h1:1: Connection refused"),
            (ValueError("no such name"), "h1:1: no such name"),
            (socket.gaierror(-2, "Name or service not known"), "h1:1: Name or service not known"),
        ):
            self.loop_that(error)
            failure = await self.failure(dial("h1:1", None, print, 3.0))
            self.check(failure, UnavailableError, text, Effect.NOTHING)
        failure = await self.failure(dial("nonsense", None, print, 3.0))
        self.assertIn("nonsense: ", str(failure.error))
        error = ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] alert unknown ca")
        error.reason = "TLSV1_ALERT_UNKNOWN_CA"
        self.loop_that(error)
        failure = await self.failure(dial("h1:1", None, print, 3.0))
        text = "h1:1 does not accept this client's certificate: TLS failed: tlsv1 alert unknown ca; check"
        self.assertIn(text, str(failure.error))
        self.assertTrue(failure.is_permanent)

    @timed
    async def test_threads_have_ended(self):
        """At the interpreter's end names are looked up without a thread."""
        self.loop_that(RuntimeError("can't start new thread"), "greets")
        looked_up = []

        def getaddrinfo(host, port, **options):
            looked_up.append((host, port, options))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", port))]

        self.patch(socket, "getaddrinfo", getaddrinfo)
        self.assertTrue((await dial("a.example:1", None, print, 3.0)).is_up)
        self.assertEqual(looked_up, [("a.example", 1, {"type": socket.SOCK_STREAM})])
        self.assertEqual([one[:2] for one in self.given], [("a.example", 1), ("10.0.0.7", 1)])

    @timed
    async def test_cancelled(self):
        """Whoever does not wait any more leaves no connection behind."""
        self.loop_that("silent")
        dialling = asyncio.ensure_future(dial("h1:1", None, print, 3.0))
        await turn()
        dialling.cancel()
        await asyncio.wait({dialling})
        self.assertEqual(self.transport.ends, ["abort"])


class ChannelTests(WireCase):
    """A binary channel: what each call asks on the wire, and what it makes of the answer."""

    def channel(self):
        self.dialled = []

        async def dial(*given):
            self.dialled.append(given)
            self.connect()
            return self.made

        self.patch(binary_channel, "dial", dial)
        return BinaryChannel("h1:1", "context", "hinted", self.make_other, "pin")

    def make_other(self, address):
        raise AssertionError(address)

    @timed
    async def test_calls(self):
        """Each call, its request, a reply, and what comes of it."""
        channel = self.channel()
        server = DescribedServer(
            name="n1",
            address="h1:1",
            grpc_address="h1:2",
            is_leader=True,
            role=MemberRole.LEARNER,
            is_alive=False,
        )
        for work, request, reply, result in (
            (channel.append(APPEND, LogId("default"), 1.5), Produce(batch=b"\n\x02\n\x00", record_count=1,
             timeout_milliseconds=1500), ProduceReply(base_offset=7, record_count=1, timestamp=5),
             AppendAnswer(7, 1)),
            (channel.register_producer(LogId(), 1.0), RegisterProducer(),
             RegisterProducerReply(producer_id=9), 9),
            (channel.bounds(LogId(), 1.0), Bounds(), BoundsReply(lowest=3, next_offset=8),
             ClientBounds(3, 8)),
            (channel.find_offset(55, LogId(), 1.0), FindOffset(timestamp=55),
             FindOffsetReply(offset=6, timestamp=7), 6),
            (channel.servers(1.0), Describe(), DescribeReply(cluster_uuid=b"u" * 16, cluster_name="c1",
             node_name="n1", servers=(server,)), None),
        ):  # fmt: skip
            calling = asyncio.ensure_future(work)
            await turn()
            (event,) = [event for event in self.heard() if isinstance(event, RequestReceived)]
            self.assertEqual(event.request, request)
            self.answer(event.stream, reply)
            found = await calling
            if result is not None:
                self.assertEqual((found, type(found)), (result, type(result)))
        self.assertEqual((found.cluster_uuid, found.cluster_name), (b"u" * 16, "c1"))
        self.assertEqual(
            found.servers,
            (
                Server(
                    name="n1",
                    address="h1:1",
                    grpc_address="h1:2",
                    is_leader=True,
                    role="learner",
                    is_alive=False,
                ),
            ),
        )
        self.assertEqual(self.dialled, [("h1:1", "context", "hinted", 3.0, "pin", None)])

    @timed
    async def test_endless_time(self):
        """A time that the wire has no room for is sent as the longest that it has."""
        channel = self.channel()
        calling = asyncio.ensure_future(channel.append(APPEND, LogId(), 1e8))
        await turn()
        (event,) = [event for event in self.heard() if isinstance(event, RequestReceived)]
        self.assertEqual(event.request.timeout_milliseconds, 2**32 - 1)
        self.answer(event.stream, ProduceReply(base_offset=7, record_count=1, timestamp=5))
        await calling

    @timed
    async def test_appends(self):
        """Batches go one behind the other; outcomes come in their order, or the end of the connection."""
        channel = self.channel()
        appends = channel.appends(LogId())
        first, second = (asyncio.ensure_future(appends.read()) for _ in range(2))
        del second
        await turn()
        for _ in range(2):
            await appends.write(APPEND)
        await turn()
        self.assertEqual([event.stream for event in self.heard()], [1, 2])
        self.answer(1, ProduceReply(base_offset=7, record_count=1, timestamp=5))
        self.assertEqual(await first, AppendAnswer(7, 1))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await turn()

    @timed
    async def test_appends_end(self):
        """Who waits for an outcome when the connection goes is told; cancelling cancels what was sent."""
        channel = self.channel()
        appends = channel.appends(LogId())
        await appends.write(APPEND)
        reading = asyncio.ensure_future(appends.read())
        await turn()
        self.heard()
        self.answer(1, ProduceReply(base_offset=7, record_count=1, timestamp=5))
        await reading
        reading = asyncio.ensure_future(appends.read())
        await turn()
        self.lose()
        self.check(
            await self.failure(reading), UnavailableError, "h1:1: the connection is gone", Effect.NOTHING
        )
        appends = channel.appends(LogId())
        await appends.write(APPEND)
        self.heard()
        appends.cancel()
        await turn()
        self.assertEqual([type(event) for event in self.heard()], [CancelReceived])
        self.assertEqual(len(self.dialled), 2)

    @timed
    async def test_close(self):
        """Closing it closes the connection and the other channel, which it made once."""

        class Other:
            closed = 0

            async def administer(self, service, method, request, seconds):
                return service, method, request, seconds

            async def close(self):
                self.closed += 1

        others = []
        self.make_other = lambda address: others.append((address, Other())) or others[-1][1]
        channel = self.channel()
        for _ in range(2):
            asked = ("cluster", "Add", "request", 2.0)
            self.assertEqual(await channel.administer(*asked), asked)
        made = await channel.connection(1.0)
        closing = asyncio.ensure_future(channel.close())
        await turn()
        self.lose()
        await closing
        self.assertEqual(([address for address, _ in others], others[0][1].closed), (["h1:1"], 1))
        self.assertEqual((made.is_up, channel._connections), (False, set()))

    def test_view_by_grpc(self):
        """By gRPC a view is the same; who says no role is a voter."""
        reply = log_pb2.GetServersResponse(cluster_uuid=b"u" * 16, cluster_name="c1")
        reply.servers.add(id="n1", rpc_addr="h1:1", grpc_addr="h1:2", is_leader=True, role="learner")
        reply.servers.add(id="n2", rpc_addr="h2:1", is_alive=True)
        view = view_of(reply)
        self.assertEqual((view.cluster_uuid, view.cluster_name), (b"u" * 16, "c1"))
        self.assertEqual(
            view.servers,
            (
                Server(
                    name="n1",
                    address="h1:1",
                    grpc_address="h1:2",
                    is_leader=True,
                    role="learner",
                    is_alive=False,
                ),
                Server(name="n2", address="h2:1", role="voter", is_alive=True),
            ),
        )
