"""Tests of the splice: real gRPC through the one port, back-pressure, half-close and aborts passed on."""

import asyncio
import os
import shutil
import socket
import ssl
import tempfile
import time

import grpc
from grpc import aio
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import KIB, MIB, Quota
from loghouse.net import callers, splice
from loghouse.net.admission import ConnectionLimits
from loghouse.net.callers import Callers
from loghouse.runtime.bridge import from_asyncio
from loghouse.shares import Shares
from loghouse.testing.half_calls import HalfCalls, http2_frame
from tests.fakes.secured import authority, client_certificate
from tests.net.test_client_hello import real_hello
from tests.net.wire import WireCase, asynchronous, until


async def _call(stub_call):
    return await stub_call


class GrpcTests(WireCase):
    """gRPC and the binary protocol share the port."""

    @asynchronous
    async def test_both_protocols(self):
        """What was appended over gRPC is read over the binary protocol, on the same port."""
        await self.open_both()
        stub = log_pb2_grpc.LogStub(self.channel())
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"over gRPC"))
        reply = await from_asyncio(_call(stub.Produce(request, timeout=20)))
        connection = await self.connect()
        fetched = await connection.fetch(reply.offset)
        self.assertIn(b"over gRPC", bytes(fetched.frames))
        self.assertEqual(self.node.proposals[0].subject, "root")

    @asynchronous
    async def test_large_messages(self):
        """Messages of megabytes pass both ways."""
        await self.open_both()
        stub = log_pb2_grpc.LogStub(self.channel())
        records = log_pb2.RecordBatch(records=[log_pb2.Record(value=b"x" * 900_000)] * 4).SerializeToString()
        for _ in range(4):
            request = log_pb2.ProduceBatchRequest(batch=records, record_count=4)
            await from_asyncio(_call(stub.ProduceBatch(request, timeout=30)))
        reply = await from_asyncio(_call(stub.Fetch(log_pb2.FetchRequest(size_max=3 * MIB), timeout=30)))
        self.assertGreater(len(reply.frames), 3 * MIB)

    @asynchronous
    async def test_permission(self):
        """The client's own certificate reaches the gRPC server: nobody is nobody there, too."""
        await self.open_both()
        stub = log_pb2_grpc.LogStub(self.channel("nobody"))
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x"))
        try:
            await from_asyncio(_call(stub.Produce(request, timeout=20)))
            raise self.failureException("answered")
        except aio.AioRpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.PERMISSION_DENIED)

    @asynchronous
    async def test_plaintext(self):
        """Configured without TLS, the first bytes tell gRPC from frames."""
        await self.open_both(plaintext=True)
        stub = log_pb2_grpc.LogStub(self.channel(is_plain=True))
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x"))
        await from_asyncio(_call(stub.Produce(request, timeout=20)))
        connection = await self.connect()
        self.assertEqual((await connection.bounds()).next_offset, 1)

    @asynchronous
    async def test_gone_clients_leave_nothing(self):
        """When a channel closes, its splice is gone."""
        await self.open_both()
        channel = self.channel()
        stub = log_pb2_grpc.LogStub(channel)
        await from_asyncio(_call(stub.GetServers(log_pb2.GetServersRequest(), timeout=20)))
        self.assertEqual(self.admission.all, 1)
        await from_asyncio(channel.close())
        await until(lambda: self.admission.all == 0)


class CallerTests(WireCase):
    """Connections of gRPC clients: strangers until a call says whose they are, and counted from then on."""

    policy = "p, root, *, produce\np, root, *, consume\np, other, default, produce\n"

    def context(self, name):
        certificate, key = self.write(f"h2-{name}", client_certificate(name))
        context = ssl.create_default_context(cadata=authority().certificate_pem.decode())
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        return context

    async def servers_of(self, channel):
        stub = log_pb2_grpc.LogStub(channel)
        return await from_asyncio(_call(stub.GetServers(log_pb2.GetServersRequest(), timeout=20)))

    @asynchronous
    async def test_strangers_until_a_call(self):
        """A handshake alone makes nobody a client: the first call does, and counts as its subject's."""
        await self.open_both()
        channel = self.channel()
        ready = from_asyncio(_call(channel.channel_ready()))
        await until(lambda: self.admission.strangers == 1)
        await ready
        self.assertEqual(self.admission.strangers, 1)
        await self.servers_of(channel)
        self.assertEqual(self.admission.strangers, 0)
        self.assertEqual(self.admission.clients.held_by("root"), 1)
        await from_asyncio(channel.close())
        await until(lambda: self.admission.all == 0)
        self.assertEqual(self.admission.clients.held, 0)
        self.assertEqual(self.callers._callers, {})

    @asynchronous
    async def test_too_many_connections(self):
        """One connection more than a subject may have ends with its first call, which says why."""
        self.limits = ConnectionLimits(per_client_max=1)
        await self.open_both()
        await self.servers_of(self.channel())
        try:
            await self.servers_of(self.channel())
            raise self.failureException("answered")
        except aio.AioRpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("'root' holds 1 of its share of 1", error.details())
        await until(lambda: self.admission.all == 1)

    @asynchronous
    async def test_no_rule_no_request(self):
        """Who may not do it is told so when a call begins: no message is awaited, and no call stays open."""
        await self.open_both()
        half = await deferToThread(HalfCalls, ("127.0.0.1", self.port), self.context("nobody"))
        self.addCleanup(half.close)

        def begin():
            streams = {half.begin(f"/log.v1.Log/{name}") for name in ("Produce", "Fetch", "GetServers")}
            streams.add(half.begin("/log.v1.Log/ProduceBatch", b"\0" + (8 * MIB).to_bytes(4, "big")))
            streams.add(half.begin("/log.v1.Cluster/Status"))
            deadline = time.monotonic() + 20
            while half.ended != streams and time.monotonic() < deadline:
                half.listen(0.1)
            return streams

        self.assertEqual(half.ended, await deferToThread(begin))
        self.assertEqual(self.shares.calls.held, 0)

    @asynchronous
    async def test_share_of_calls(self):
        """A subject whose calls do not end has its share of them; another subject's call is taken."""
        self.shares = Shares(calls=Quota("calls", 6, 4))
        self.callers = Callers(self.shares.bodies)
        await self.open_both()
        half = await deferToThread(HalfCalls, ("127.0.0.1", self.port), self.context("other"))
        self.addCleanup(half.close)

        def begin():
            for _ in range(6):
                half.begin("/log.v1.Log/Produce")
            deadline = time.monotonic() + 20
            while len(half.ended) < 2 and time.monotonic() < deadline:
                half.listen(0.1)

        await deferToThread(begin)
        self.assertEqual((len(half.ended), self.shares.calls.held_by("other")), (2, 4))
        await self.servers_of(self.channel())
        half.close()
        await until(lambda: self.shares.calls.held == 0)

    @asynchronous
    async def test_endless_headers(self):
        """Of headers that never end gRPC gets as much as a call may have; then the connection is cut off."""
        self.patch(splice, "QUIET_SECONDS_MAX", 0.5)
        await self.open_both()
        half = await deferToThread(HalfCalls, ("127.0.0.1", self.port), self.context("nobody"))
        self.addCleanup(half.close)
        passed = []
        count = callers.Caller.pass_on
        self.patch(callers.Caller, "pass_on", lambda *args: passed.append(count(*args)) or passed[-1])
        await deferToThread(half.endless_headers, 16 * MIB)
        await until(lambda: self.admission.all == 0)
        self.assertLessEqual(sum(passed), callers.QUIET_SIZE_MAX)
        await self.servers_of(self.channel())

    @asynchronous
    async def test_quiet_beside_open_calls(self):
        """What comes beside open calls that await nothing is passed on slowly, and the connection stays."""
        self.patch(splice, "QUIET_SECONDS_MAX", 0.1)
        self.patch(callers, "QUIET_SIZE_MAX", 8 * KIB)
        await self.open_both()
        half = await deferToThread(HalfCalls, ("127.0.0.1", self.port), self.context("root"))
        self.addCleanup(half.close)
        request = log_pb2.ConsumeRequest(offset=0).SerializeToString()
        message = b"\0" + len(request).to_bytes(4, "big") + request

        def follow():
            half.begin("/log.v1.Log/ConsumeStream", message)
            half.push(20)

        await deferToThread(follow)
        await until(lambda: self.node.waiters)

        def prioritise():
            half._send(http2_frame(2, 0, 1, b"\0\0\0\0\x10") * 3000)
            half.begin("/log.v1.Log/ConsumeStream", message)
            half.push(20)

        await deferToThread(prioritise)
        await until(lambda: len(self.node.waiters) == 2)

    @asynchronous
    async def test_bursts_on_a_new_connection(self):
        """Many calls with large messages at once, the first on their connection, are all answered."""
        await self.open_both()
        stub = log_pb2_grpc.LogStub(self.channel())
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x" * 60_000))

        async def burst():
            return await asyncio.gather(*(stub.Produce(request, timeout=40) for _ in range(200)))

        for _ in range(2):
            replies = await from_asyncio(burst())
            self.assertEqual(len(replies), 200)

    @asynchronous
    async def test_unfinished_requests(self):
        """A subject whose requests do not end is cut off at its share of memory; another one is served."""
        self.shares = Shares(bodies=Quota("bytes", 8 * MIB, 2 * MIB))
        self.callers = Callers(self.shares.bodies)
        await self.open_both()
        half = await deferToThread(HalfCalls, ("127.0.0.1", self.port), self.context("other"))
        self.addCleanup(half.close)

        def greedy():
            half.begin("/log.v1.Log/ProduceBatch", b"\0" + (8 * MIB).to_bytes(4, "big") + bytes(8 * MIB - 1))
            sent = half.push(20)
            half.listen(20)
            return sent

        self.assertLess(await deferToThread(greedy), 6 * MIB)
        self.assertTrue(half.is_closed)
        await until(lambda: self.shares.bodies.held == 0)
        self.assertEqual(self.admission.clients.held_by("other"), 0)
        self.assertEqual(self.shares.bodies.refused_count, 1)
        stub = log_pb2_grpc.LogStub(self.channel())
        records = log_pb2.RecordBatch(records=[log_pb2.Record(value=b"x" * 900_000)] * 2).SerializeToString()
        for _ in range(4):
            request = log_pb2.ProduceBatchRequest(batch=records, record_count=2)
            await from_asyncio(_call(stub.ProduceBatch(request, timeout=30)))
        self.assertLess(self.shares.bodies.held, 2 * MIB)


class EchoServer(Protocol):
    """What is behind the splice in the tests of its edges: it notes what happens to it."""

    def connectionMade(self):
        self.factory.seen = self
        self.received = bytearray()
        self.end = None
        if self.factory.is_deaf:
            self.transport.pauseProducing()

    def dataReceived(self, data):
        self.received += data

    def connectionLost(self, reason):
        self.end = reason


class SpliceCase(WireCase):
    """A port with a splice to a server that is not gRPC."""

    is_deaf = False

    async def begin(self):
        runtime = tempfile.mkdtemp(prefix="lh-")
        self.addCleanup(shutil.rmtree, runtime)
        self.grpc_path = os.path.join(runtime, "s")
        self.patch(callers, "QUIET_SIZE_MAX", 2**40)  # no gRPC, so no calls
        self.server = Factory.forProtocol(EchoServer)
        self.server.seen = None
        self.server.is_deaf = self.is_deaf
        port = reactor.listenUNIX(self.grpc_path, self.server)
        self.closers.append(lambda: maybeDeferred(port.stopListening))
        self.open_port()
        self.hello = real_hello("h2")

    def dial(self):
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        self.addCleanup(plain.close)
        return plain

    async def greet(self):
        """Return a client whose ClientHello has reached the server."""
        plain = self.dial()
        await deferToThread(plain.sendall, self.hello)
        await until(lambda: self.server.seen)
        return plain


class EdgeTests(SpliceCase):
    """The splice's own promises."""

    @asynchronous
    async def test_bytes_pass_untouched(self):
        """Everything that came, the ClientHello included, reaches the server in order."""
        plain = self.dial()
        await deferToThread(plain.sendall, self.hello[:10])
        await deferToThread(plain.sendall, self.hello[10:] + b"and more")
        await until(lambda: self.server.seen and self.server.seen.received.endswith(b"more"))
        self.assertEqual(bytes(self.server.seen.received), self.hello + b"and more")
        self.server.seen.transport.write(b"back")
        self.assertEqual(await deferToThread(plain.recv, 10), b"back")

    @asynchronous
    async def test_half_close(self):
        """When the client ends its direction, the server can still answer; then both are closed."""
        plain = await self.greet()
        seen = self.server.seen
        seen.connectionLost = lambda reason: None
        halves = Deferred()
        from twisted.internet.interfaces import IHalfCloseableProtocol
        from zope.interface import directlyProvides

        directlyProvides(seen, IHalfCloseableProtocol)
        seen.readConnectionLost = lambda: halves.callback(None)
        seen.writeConnectionLost = lambda: None
        plain.shutdown(socket.SHUT_WR)
        await halves
        seen.transport.write(b"late answer")
        self.assertEqual(await deferToThread(plain.recv, 100), b"late answer")
        seen.transport.loseConnection()
        self.assertEqual(await deferToThread(plain.recv, 100), b"")
        await until(lambda: self.admission.all == 0)

    @asynchronous
    async def test_server_ends(self):
        """When the server closes, what it wrote still arrives, then the end; who stays is cut off in time."""
        plain = await self.greet()
        self.server.seen.transport.write(b"x" * MIB)
        self.server.seen.transport.loseConnection()

        def everything():
            size = 0
            while data := plain.recv(65_536):
                size += len(data)
            return size

        self.assertEqual(await deferToThread(everything), MIB)
        [connection] = self.listener._connections
        self.assertEqual(self.admission.all, 1)
        # However long the reading took: from here on the deadline is over.
        connection._inner.other._half_closed.reset(0)
        await until(lambda: self.admission.all == 0)

    @asynchronous
    async def test_client_breaks(self):
        """A reset by the client reaches the server as a loss, at once."""
        plain = await self.greet()
        import struct

        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        plain.close()
        await until(lambda: self.server.seen.end is not None)
        await until(lambda: self.admission.all == 0)

    @asynchronous
    async def test_server_not_there(self):
        """When nobody listens behind, the client is cut off, and the port stays open."""
        self.listener.grpc_path += "-missing"
        plain = self.dial()
        await deferToThread(plain.sendall, self.hello)

        def end():
            try:
                return plain.recv(10)
            except ConnectionError:
                return b""

        self.assertEqual(await deferToThread(end), b"")
        await until(lambda: self.admission.all == 0)


class BackPressureTests(SpliceCase):
    """A server that does not read stops the client, not our memory."""

    is_deaf = True

    @asynchronous
    async def test_pushing(self):
        """The client cannot push more than the kernel's and our own small buffers hold."""
        plain = await self.greet()
        plain.settimeout(0.5)

        def push():
            sent = 0
            try:
                while sent < 256 * MIB:
                    sent += plain.send(bytes(64 * KIB))
            except TimeoutError:
                pass
            return sent

        sent = await deferToThread(push)
        self.assertLess(sent, 64 * MIB)
        [connection] = self.listener._connections
        buffered = connection._inner.other.transport
        self.assertLess(len(buffered.dataBuffer) + sum(map(len, buffered._tempDataBuffer)), MIB)
        self.server.seen.transport.resumeProducing()
        plain.settimeout(20)
        await deferToThread(plain.sendall, b"end")
        await until(lambda: self.server.seen.received.endswith(b"end"))
        self.assertEqual(len(self.server.seen.received), len(self.hello) + sent + 3)
