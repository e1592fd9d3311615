"""Who gets in, what they may do, and what a hostile or broken client can cost."""

import asyncio
import socket
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from unittest import mock

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api import cluster_service, cursors_service, log_service, logs_service
from loghouse.api.server import GrpcServer
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.auth.certificates import make_ca, make_client_certificate, make_node_certificate
from loghouse.auth.credentials import Credentials
from loghouse.errors import CertificateError, ConfigError
from loghouse.limits import (
    GRPC_MESSAGE_SIZE_MAX,
    GRPC_STREAMS_PER_CONNECTION_MAX,
    MIB,
    PAYLOAD_SIZE_MAX,
    Quota,
)
from loghouse.node.gate import Gate
from loghouse.shares import Shares
from tests.api.doors import DoorCase, batch, details_of, produce
from tests.fakes.secured import authority, client_certificate, node_certificate
from tests.fakes.tasks import asynchronous, until


def every_rpc():
    """Every call of every service here, from the descriptors: (method, is request stream, request, shape)."""
    services = [
        *log_pb2.DESCRIPTOR.services_by_name.values(),
        *health_pb2.DESCRIPTOR.services_by_name.values(),
        *reflection_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    for service in services:
        for method in service.methods:
            if method.full_name != "grpc.health.v1.Health.List":  # of newer protocols; not served
                yield f"/{service.full_name}/{method.name}", method


def invoke(channel, name, method, request=b""):
    """Start any call with raw bytes; return an awaitable of its first answer."""
    if method.client_streaming:
        call = channel.stream_stream(name)()

        async def first():
            await call.write(request)
            await call.done_writing()
            return await call.read()

        return first()
    if method.server_streaming:
        return channel.unary_stream(name)(request).read()
    return channel.unary_unary(name)(request)


class HandshakeTests(DoorCase):
    """Certificates that do not get in."""

    async def assert_no_entry(self, stub):
        await self.refused(
            stub.GetServers(log_pb2.GetServersRequest(), timeout=10), grpc.StatusCode.UNAVAILABLE
        )

    @asynchronous
    async def test_strangers(self):
        """No certificate, a foreign CA's, an expired one: the handshake fails, and others go on."""
        own_ca = authority()
        now = datetime.now(UTC)
        foreign = make_client_certificate(make_ca("foreign", now=now), name="root", now=now)
        expired = make_client_certificate(own_ca, name="root", now=now - timedelta(days=9), days=8)
        await self.assert_no_entry(self.stub(None))
        await self.assert_no_entry(self.stub(issued=foreign))
        await self.assert_no_entry(self.stub(issued=expired))
        await self.stub().Produce(produce())
        self.assertEqual(self.node.next_offset, 1)

    @asynchronous
    async def test_nodes_and_those_who_pretend(self):
        """A node is `node:<name>`; a client whose common name says so is UNAUTHENTICATED."""
        self.policy_path.write_text("p, root, *, produce\np, node:n1, *, produce\n")
        self.authorizer.take(self.authorizer.read())
        own_ca = authority()
        now = datetime.now(UTC)
        node = make_node_certificate(own_ca, cluster="c1", node="n2", hosts=[], now=now)
        error = await self.refused(
            self.stub(issued=node).Produce(produce()), grpc.StatusCode.PERMISSION_DENIED
        )
        self.assertEqual(details_of(error)[0].metadata["subject"], "node:n2")
        with mock.patch("loghouse.auth.certificates.NODE_SUBJECT_PREFIX", "\0"):
            pretender = make_client_certificate(own_ca, name="node:n1", now=now)
        error = await self.refused(
            self.stub(issued=pretender).Produce(produce()), grpc.StatusCode.UNAUTHENTICATED
        )
        self.assertEqual(details_of(error)[0].reason, "BAD_CERTIFICATE")
        self.assertEqual(self.node.proposals, [])

    @asynchronous
    async def test_old_tls_gets_no_answer(self):
        """A TLS 1.2 client is told that it is too old; grpcio itself would have served it."""
        context = self._client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.assertIn(b"TLS 1.3 is needed", await self._raw_call(context))

    @asynchronous
    async def test_certificate_expires_on_an_open_connection(self):
        """Calls after its expiry are UNAUTHENTICATED although the connection is old."""
        await self.root.Produce(produce())
        later = datetime.now(UTC) + timedelta(days=400)
        self.wall_clock = later.timestamp
        await self.refused(self.root.Produce(produce()), grpc.StatusCode.UNAUTHENTICATED)
        self.assertEqual(self.node.next_offset, 1)

    @asynchronous
    async def test_new_certificates_without_restart(self):
        """After a reload new connections see the new certificate; a bad file keeps the old one."""
        self.assertEqual(await self._seen_serial(), self._serial(node_certificate("n1").certificate_pem))
        own_ca = authority()
        second = make_node_certificate(
            own_ca, cluster="c1", node="n1", hosts=["localhost"], now=datetime.now(UTC)
        )
        files = self.tls_paths(issued=second)
        self.credentials.take(self.credentials.read())
        self.assertEqual(await self._seen_serial(), self._serial(second.certificate_pem))
        files.certificate.write_bytes(b"broken")
        self.assertRaises(CertificateError, self.credentials.read)
        self.assertEqual(await self._seen_serial(), self._serial(second.certificate_pem))
        files.certificate.write_bytes(node_certificate("n1").certificate_pem)
        error = self.assertRaises(CertificateError, self.credentials.read)
        self.assertIn("is not the key of", str(error))
        self.assertEqual(await self._seen_serial(), self._serial(second.certificate_pem))
        await self.stub(options=[("grpc.ssl_target_name_override", "localhost")]).Produce(produce())

    def _client_context(self):
        certificate = self.directory / "client.pem"
        certificate.write_bytes(
            client_certificate("root").key_pem + client_certificate("root").certificate_pem
        )
        context = ssl.create_default_context(cadata=authority().certificate_pem.decode())
        context.load_cert_chain(certificate)
        context.set_alpn_protocols(["h2"])
        return context

    def _serial(self, pem):
        from cryptography import x509

        return x509.load_pem_x509_certificate(pem).serial_number

    async def _seen_serial(self):
        from cryptography import x509

        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self._client_context(), server_hostname="localhost"
        )
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        del reader
        return x509.load_der_x509_certificate(der).serial_number

    async def _raw_call(self, context):
        """Make a GetServers call over a hand-made HTTP/2 connection; return all that comes back."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost"
        )
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", b"/log.v1.Log/GetServers"),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        block = b"".join(
            b"\x00" + bytes([len(key)]) + key + bytes([len(value)]) + value for key, value in fields
        )
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        writer.write(_frame(1, 4, 1, block) + _frame(0, 1, 1, b"\x00" * 5))
        await writer.drain()
        received = b""
        while b"TLS" not in received and (chunk := await reader.read(65536)):
            received += chunk
        writer.close()
        return received


def _frame(kind, flags, stream, body):
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


class PermissionTests(DoorCase):
    """The policy guards every call."""

    @asynchronous
    async def test_nobody_may_do_nothing(self):
        """Every call of the descriptors is denied to a subject without rules, naming it."""
        channel = self.channel("nobody")
        calls = list(every_rpc())
        self.assertEqual(len(calls), 13 + 7 + 7 + 8 + 2 + 1)
        for name, method in calls:
            request = b"" if "Reflection" not in name else b"\x3a\x00"
            error = await self.refused(
                invoke(channel, name, method, request), grpc.StatusCode.PERMISSION_DENIED
            )
            self.assertEqual(details_of(error)[0].metadata["subject"], "nobody", name)
        self.assertEqual((self.node.proposals, self.node.fetches, self.node.checks), ([], 0, 0))

    def test_every_rpc_has_a_row(self):
        """The tables of the services hold exactly the calls of their descriptors."""
        gate = Gate(self.node, self.authorizer, clock=self.wall_clock)
        for name, service in (
            ("Log", log_service.LogService(gate)),
            ("Cluster", cluster_service.ClusterService(self.node)),
            ("Logs", logs_service.LogsService(gate)),
            ("Cursors", cursors_service.CursorsService()),
        ):
            described = log_pb2.DESCRIPTOR.services_by_name[name]
            self.assertEqual(set(service.rpcs()), {method.name for method in described.methods})

    @asynchronous
    async def test_denial_details(self):
        """`nobody` produces: subject, action and object are named, and nothing is appended."""
        error = await self.refused(self.stub("nobody").Produce(produce()), grpc.StatusCode.PERMISSION_DENIED)
        info, _ = details_of(error)
        self.assertEqual(info.reason, "PERMISSION_DENIED")
        self.assertEqual(dict(info.metadata), {"subject": "nobody", "action": "produce", "object": "default"})
        self.assertEqual(error.details(), "'nobody' is not permitted to produce 'default'")
        self.assertEqual(self.node.proposals, [])

    @asynchronous
    async def test_strangers_cost_little(self):
        """Who may do nothing is refused before its request is read, and makes casbin decide nothing."""
        channel = self.channel("nobody")
        stub = log_pb2_grpc.LogStub(channel)
        await self.refused(stub.ProduceStream().read(), grpc.StatusCode.PERMISSION_DENIED)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        await self.refused(reflection.ServerReflectionInfo().read(), grpc.StatusCode.PERMISSION_DENIED)
        decisions = len(self.authorizer._decisions)
        for number in range(20):
            error = await self.refused(
                stub.Produce(produce(log=f"log-{number}")), grpc.StatusCode.PERMISSION_DENIED
            )
            self.assertEqual(details_of(error)[0].metadata["object"], "default")
        self.assertEqual(len(self.authorizer._decisions), decisions)

    @asynchronous
    async def test_actions_are_separate(self):
        """A subject that may only consume may read, look and ask for servers, and nothing else."""
        self.policy_path.write_text("p, nobody, default, consume\n")
        self.authorizer.take(self.authorizer.read())
        stub = self.stub("nobody")
        await stub.Bounds(log_pb2.BoundsRequest())
        await stub.GetServers(log_pb2.GetServersRequest())
        await self.refused(stub.Produce(produce()), grpc.StatusCode.PERMISSION_DENIED)
        await self.refused(stub.ProduceBatch(batch([b"x"])), grpc.StatusCode.PERMISSION_DENIED)
        cluster = log_pb2_grpc.ClusterStub(self.channel("nobody"))
        await self.refused(cluster.Status(log_pb2.StatusRequest()), grpc.StatusCode.PERMISSION_DENIED)

    @asynchronous
    async def test_unknown_method(self):
        """A method that no service has is UNIMPLEMENTED."""
        call = self.channel().unary_unary("/log.v1.Log/Nothing")(b"")
        await self.refused(call, grpc.StatusCode.UNIMPLEMENTED)

    @asynchronous
    async def test_denials_in_the_diagnostics(self):
        """Each denial is written down on its subject's account, which `diagnostics` bounds."""
        from twisted.logger import globalLogPublisher

        events = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        stub = self.stub("nobody")
        for _ in range(3):
            await self.refused(stub.Produce(produce()), grpc.StatusCode.PERMISSION_DENIED)
        refused = [e["peer"] for e in events if e.get("method") == "/log.v1.Log/Produce"]
        self.assertEqual(refused, ["nobody"] * 3)


class PlaintextTests(DoorCase):
    """Without TLS."""

    async def plain_stub(self):
        channel = aio.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)])
        self.closers.append(lambda: channel.close())
        return log_pb2_grpc.LogStub(channel)

    @asynchronous
    async def test_everybody_is_anonymous(self):
        """Every caller is the configured subject, and only the policy lets it do anything."""
        await self.open_door(credentials=None, anonymous="anonymous")
        stub = await self.plain_stub()
        await self.refused(stub.Produce(produce()), grpc.StatusCode.PERMISSION_DENIED)
        self.policy_path.write_text("p, anonymous, *, produce\n")
        self.authorizer.take(self.authorizer.read())
        self.assertEqual((await stub.Produce(produce())).offset, 0)

    @asynchronous
    async def test_nobody_without_a_subject(self):
        """Without a configured subject no caller is anybody."""
        await self.open_door(credentials=None)
        await self.refused((await self.plain_stub()).Produce(produce()), grpc.StatusCode.UNAUTHENTICATED)

    def test_loopback_only(self):
        """Other addresses than loopback are refused before anything listens."""
        server = GrpcServer(self.node, self.authorizer, clock=self.wall_clock, credentials=None)
        for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0", ":0"):
            with self.assertRaises(ConfigError, msg=address):
                server.bind(address)
        self.assertGreater(server.bind("127.0.0.1:0"), 0)


class BindTests(DoorCase):
    """Listening fails at boot, synchronously."""

    def test_taken_port(self):
        """A port in use is an error that names it."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            credentials = Credentials(self.tls_paths())
            server = GrpcServer(self.node, self.authorizer, clock=self.wall_clock, credentials=credentials)
            error = self.assertRaises(ConfigError, server.bind, address)
        self.assertIn(address, str(error))

    def test_bad_files(self):
        """A missing file is an error at boot that names it."""
        files = self.tls_paths()
        files.ca.unlink()
        error = self.assertRaises(CertificateError, Credentials, files)
        self.assertIn("ca.pem", str(error))

    @asynchronous
    async def test_unix_socket(self):
        """The same door on a Unix socket asks for certificates just the same."""
        credentials = Credentials(self.tls_paths())
        server = GrpcServer(self.node, self.authorizer, clock=self.wall_clock, credentials=credentials)
        # Not below the checkout: the path of a socket has 107 bytes at most.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"unix:{folder.name}/s"
        server.bind(path)
        await server.start()
        self.closers.append(lambda: server.stop(0))
        for client, code in (("root", None), ("nobody", grpc.StatusCode.PERMISSION_DENIED)):
            issued = client_certificate(client)
            own = grpc.ssl_channel_credentials(
                authority().certificate_pem, issued.key_pem, issued.certificate_pem
            )
            options = [("grpc.ssl_target_name_override", "localhost")]
            async with aio.secure_channel(path, own, options) as channel:
                call = log_pb2_grpc.LogStub(channel).Produce(produce())
                if code is None:
                    self.assertEqual((await call).offset, 0)
                else:
                    await self.refused(call, code)


class LimitTests(DoorCase):
    """What is too large or too much is refused, and the next call is served."""

    @asynchronous
    async def test_message_too_large(self):
        """A message over the limit is RESOURCE_EXHAUSTED; the largest batch is taken."""
        channel = self.channel(options=[("grpc.max_send_message_length", -1)])
        raw = channel.unary_unary("/log.v1.Log/ProduceBatch")
        await self.refused(raw(bytes(GRPC_MESSAGE_SIZE_MAX + 1)), grpc.StatusCode.RESOURCE_EXHAUSTED)
        largest = batch([b"x" * (MIB - 16)] * 7 + [b"x" * (MIB - 80)])
        room = PAYLOAD_SIZE_MAX - len(largest.batch)
        self.assertGreaterEqual(room, 0)
        stub = log_pb2_grpc.LogStub(channel)
        self.assertEqual((await stub.ProduceBatch(largest)).record_count, 8)
        over = batch([b"x" * (MIB - 16)] * 8 + [b"x" * 200])
        error = await self.refused(stub.ProduceBatch(over), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details_of(error)[0].metadata["field"], "batch")

    @asynchronous
    async def test_metadata_too_large(self):
        """Headers over the limit are refused without reaching the node."""
        await self.refused(
            self.root.Produce(produce(), metadata=[("x", "y" * 40_000)]), grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        self.assertEqual(self.node.proposals, [])
        await self.root.Produce(produce(), metadata=[("x", "y" * 4_000)])

    @asynchronous
    async def test_compressed_requests_are_refused(self):
        """gRPC's own compression is not spoken: a small message must not become a large one."""
        await self.refused(
            self.root.Produce(produce(b"x" * 10_000), compression=grpc.Compression.Gzip),
            grpc.StatusCode.UNIMPLEMENTED,
        )
        await self.root.Produce(produce())

    @asynchronous
    async def test_calls_under_way(self):
        """One call more than allowed is RESOURCE_EXHAUSTED; when one ends there is room again."""
        await self.open_door(shares=Shares(calls=Quota("calls", 3, 3)))
        followers = [self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=0)) for _ in range(3)]
        await until(lambda: len(self.node.waiters) == 3)
        await self.refused(self.root.Produce(produce()), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.node.proposals, [])
        followers[0].cancel()
        await until(lambda: len(self.node.waiters) == 2)
        self.assertEqual((await self.root.Produce(produce())).offset, 0)
        for follower in followers:
            follower.cancel()

    @asynchronous
    async def test_streams_of_a_connection(self):
        """A connection has so many streams; the next waits for one to end, and other connections do not."""
        count = GRPC_STREAMS_PER_CONNECTION_MAX
        followers = [self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=0)) for _ in range(count + 1)]
        await until(lambda: len(self.node.waiters) == count)
        self.assertEqual((await self.stub().Bounds(log_pb2.BoundsRequest())).next, 0)
        self.assertEqual(len(self.node.waiters), count)
        checks = self.node.checks
        followers[0].cancel()
        await until(lambda: self.node.checks > checks)
        await until(lambda: len(self.node.waiters) == count)
        for follower in followers:
            follower.cancel()

    @asynchronous
    async def test_half_a_request(self):
        """A connection that dies in the middle of a message costs nothing and leaves nothing."""
        before = asyncio.all_tasks()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\x16\x03\x01\x07")  # the beginning of a ClientHello
        await writer.drain()
        writer.transport.abort()
        del reader
        call = self.stub().ProduceStream()
        await call.write(produce())
        await call.read()
        await self.closers.pop()()  # the channel, in the middle of the stream
        await until(lambda: not any("answer" in str(t) for t in asyncio.all_tasks() - before))
        self.assertEqual((await self.stub().Produce(produce())).offset, 1)

    @asynchronous
    async def test_our_bugs_are_internal(self):
        """An unexpected exception is INTERNAL, tells the client nothing, and the diagnostics everything."""
        self.node.failure = ZeroDivisionError("secret")
        error = await self.refused(self.stub().Produce(produce()), grpc.StatusCode.INTERNAL)
        self.assertNotIn("secret", error.details())
        self.assertEqual(details_of(error)[0].reason, "INTERNAL")
        self.node.fetch = lambda offset, size_max: 1 / 0
        self.node.cluster.next_offset = 1
        call = self.stub().ConsumeStream(log_pb2.ConsumeRequest())
        await self.refused(call.read(), grpc.StatusCode.INTERNAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class HealthTests(DoorCase):
    """The standard health service."""

    @asynchronous
    async def test_check(self):
        """SERVING while there is a leader and a disk that takes writes; unknown services are NOT_FOUND."""
        stub = health_pb2_grpc.HealthStub(self.channel())
        status = health_pb2.HealthCheckResponse
        for has_leader, is_writable, expected in (
            (True, True, status.SERVING),
            (False, True, status.NOT_SERVING),
            (True, False, status.NOT_SERVING),
        ):
            self.node.cluster.leader = self.node if has_leader else None
            self.node.is_writable = is_writable
            for service in ("", "log.v1.Log"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                self.assertEqual(answer.status, expected)
        await self.refused(stub.Check(health_pb2.HealthCheckRequest(service="x")), grpc.StatusCode.NOT_FOUND)

    @asynchronous
    async def test_watch(self):
        """A watcher hears every change, and NOT_SERVING when the door begins to stop."""
        stub = health_pb2_grpc.HealthStub(self.channel())
        status = health_pb2.HealthCheckResponse
        call = stub.Watch(health_pb2.HealthCheckRequest())
        self.assertEqual((await call.read()).status, status.SERVING)
        self.node.cluster.leader = None
        self.server.health.refresh()
        self.assertEqual((await call.read()).status, status.NOT_SERVING)
        self.node.cluster.leader = self.node
        self.assertEqual((await call.read()).status, status.SERVING)  # by the door's own look
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        self.assertEqual((await unknown.read()).status, status.SERVICE_UNKNOWN)
        stop = asyncio.ensure_future(self.server.stop(5))
        self.assertEqual((await call.read()).status, status.NOT_SERVING)
        call.cancel()
        unknown.cancel()
        await stop
        await until(lambda: not self.server.health._watchers)


class ReflectionTests(DoorCase):
    """The standard reflection service."""

    @asynchronous
    async def test_lists_and_describes(self):
        """Services are listed, and the file of a symbol is found."""
        stub = reflection_pb2_grpc.ServerReflectionStub(self.channel())
        request = reflection_pb2.ServerReflectionRequest
        call = stub.ServerReflectionInfo()
        await call.write(request(list_services=""))
        await call.write(request(file_containing_symbol="log.v1.Log"))
        await call.done_writing()
        listed = [s.name for s in (await call.read()).list_services_response.service]
        self.assertEqual(
            set(listed),
            {
                "log.v1.Log",
                "log.v1.Cluster",
                "log.v1.Logs",
                "log.v1.Cursors",
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
            },
        )
        files = (await call.read()).file_descriptor_response.file_descriptor_proto
        self.assertIn(b"ProduceBatchStream", b"".join(files))
        self.assertIs(await call.read(), aio.EOF)


class OriginalClientTests(SynchronousTestCase):
    """What clients of the original have compiled in."""

    def test_field_numbers(self):
        """The names and numbers of the original's messages are these."""
        original = {
            "Record": {"value": 1, "offset": 2, "term": 3, "type": 4},
            "ProduceRequest": {"record": 1},
            "ProduceResponse": {"offset": 1},
            "ConsumeRequest": {"offset": 1},
            "ConsumeResponse": {"record": 1},
            "GetServersResponse": {"servers": 1},
            "Server": {"id": 1, "rpc_addr": 2, "is_leader": 3},
        }
        for message, fields in original.items():
            numbers = {f.name: f.number for f in log_pb2.DESCRIPTOR.message_types_by_name[message].fields}
            self.assertLessEqual(fields.items(), numbers.items(), message)
