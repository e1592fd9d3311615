"""The service tree of a node: what starts after what, what a failed start leaves, how it stops."""

import contextlib
import io
import tempfile
from unittest import mock

from grpc import aio
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from loghouse.api.server import GrpcServer
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.config.settings import load
from loghouse.errors import (
    CertificateError,
    ConfigError,
    DirectoryInUseError,
    DiskFailedError,
    LoghouseError,
    OutcomeUnknownError,
    UnavailableError,
)
from loghouse.net.one_port import OnePort
from loghouse.node.node import Node
from loghouse.node.served_log import ServedLog
from loghouse.protocol.batch import encode_batch
from loghouse.runtime.bridge import from_asyncio
from loghouse.service.node_service import EXIT_DISK_FAILED, NodeService, make_service
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import OsFiles
from loghouse.testing.process import free_port
from tests.service.case import ServiceCase, authority, turn, until

BATCH = encode_batch([log_pb2.Record(value=b"x")])


class StartTests(ServiceCase):
    """What starts after what."""

    def test_nothing_is_opened_before(self):
        """Making a service opens and binds nothing, and it is of the reactor that runs."""
        self.make()
        service = make_service(load(self.folder / "node.yaml"))
        self.assertIsInstance(service, NodeService)
        self.assertFalse(self.data.exists())
        self.assertTrue(self.is_free(self.port))

    async def test_order(self):
        """All addresses are taken before the log is opened; it is open before anybody may connect."""
        steps = self.note_steps()
        self.start()
        self.assertEqual(steps, ["claim", "bind gRPC", "bind", "start the node", "listen", "serve gRPC"])

    async def test_http(self):
        """HTTP is served last of all, and at the end the first to hear of the stop and the last to go."""
        steps = self.note_steps()
        port = free_port()
        service = self.start(f"http_listen: 127.0.0.1:{port}")
        expected = ["claim", "bind gRPC", "bind", "bind HTTP", "start the node", "serve HTTP", "listen"]
        self.assertEqual(steps, [*expected, "serve gRPC"])
        await self.lead(service)
        del steps[:]
        await service.stopService()
        self.assertEqual((steps[0], steps[-4:-2]), ("tell HTTP", ["stop HTTP", "stop the node"]))
        self.assertTrue(self.is_free(port))

    async def test_both_protocols(self):
        """A node alone leads by itself, and serves both protocols on its port and gRPC at its second door."""
        second = free_port()
        service = self.start(f"grpc_listen: 127.0.0.1:{second}")
        await self.lead(service)
        connection = await self.connect()
        self.assertEqual((await connection.produce(BATCH, record_count=1)).base_offset, 0)
        for port in (self.port, second):
            self.assertEqual((await self.bounds_over_grpc(f"127.0.0.1:{port}")).next, 1)

    async def bounds_over_grpc(self, address):
        """Ask a node without TLS for its bounds over gRPC, while time passes."""

        async def ask():
            async with aio.insecure_channel(address) as channel:
                return await log_pb2_grpc.LogStub(channel).Bounds(log_pb2.BoundsRequest(), timeout=20)

        answer = from_asyncio(ask())
        while not answer.called:
            self.reactor.clock.advance(0.001)
            await turn()
        return await answer

    async def test_alone(self):
        """A node alone looks for nobody."""
        self.assertIsNone(self.start().node.forwarder)

    async def test_joins(self):
        """A node that is to join others looks for them as soon as it serves."""
        steps = self.note_steps()
        service = self.start(
            f"join: ['127.0.0.1:{free_port()}']", "bootstrap: false", security=self.write_tls_files()
        )
        self.assertEqual(steps[-2:], ["serve gRPC", "join"])
        self.assertIs(service.node.transport, service.cluster)
        self.assertFalse(service.node.is_in_cluster)

    async def test_forwarded_requests_are_checked(self):
        """What another node passes on is permitted to its subject by this node's own policy."""
        service = self.start()
        check = service.node.check_subject
        for log in ("default", "orders"):
            check("root", log)
            self.assertRaises(LoghouseError, check, "nobody", log)
        check("node n2", "_catalog")  # in a node's own name


class FailedStartTests(ServiceCase):
    """A start that fails says why, and leaves nothing: no lock, no port, no file, no thread."""

    def setUp(self):
        super().setUp()
        temporary = mock.patch.object(tempfile, "tempdir", str(self.folder / "tmp"))
        (self.folder / "tmp").mkdir()
        temporary.start()
        self.addCleanup(temporary.stop)

    def fails(self, error, *lines, **arguments):
        """Start a service that must fail; return the error after looking for what is left."""
        service = self.make(*lines, **arguments)
        before = self.data.exists()
        raised = self.assertRaises(error, service.startService)
        self.assertFalse(service.running)
        self.assertEqual(self.data.exists(), before)
        self.check_left()
        return str(raised)

    def check_left(self):
        self.assertTrue(self.is_free(self.port))
        self.assertEqual(list((self.folder / "tmp").iterdir()), [])
        self.assertEqual(self.reactor.clock.getDelayedCalls(), [])

    def test_policy(self):
        """A policy that cannot be read."""
        self.policy.write_text("p, root\n")
        self.assertIn("policy.csv", self.fails(ConfigError))

    def test_certificate(self):
        """A certificate of another node."""
        _, _, client = authority()
        lines = self.write_tls_files(node=client)
        self.assertIn("n1.pem", self.fails(CertificateError, security=lines))

    def test_directory_in_use(self):
        """A data directory that another process holds: that one goes on, its lock is not taken away."""
        self.start()
        self.assertRaises(DirectoryInUseError, self.make().startService)

    def test_port_taken(self):
        """An address that is taken; once it is free, the same settings start."""
        taken = free_port()
        with self.listening(taken):
            self.assertIn(str(taken), self.fails(ConfigError, f"grpc_listen: 127.0.0.1:{taken}"))
        with self.listening(self.port):
            service = self.make()
            self.assertIn(str(self.port), str(self.assertRaises(ConfigError, service.startService)))
        self.assertFalse(self.data.exists())
        self.check_left()
        self.start(f"grpc_listen: 127.0.0.1:{taken}")

    def test_every_step(self):
        """Whichever step fails, whatever with: the directory is free again, and a new start succeeds."""
        self.second = free_port()
        for error in (LoghouseError("no"), OSError("no"), KeyboardInterrupt()):
            for step in ("claim", "bind gRPC", "bind", "bind HTTP", "start the node"):

                def fail(*_, error=error):
                    raise error

                service = self.make(f"http_listen: 127.0.0.1:{self.second}")
                with self.replaced(step, fail):
                    self.assertIs(self.assertRaises(type(error), service.startService), error)
                self.assertFalse(service.node.running, step)
                self.check_left()
                self.assertTrue(self.is_free(self.second))
                self.claim_and_release()

    def claim_and_release(self):
        claimed = DataDirectory.claim(OsFiles(), str(self.data), cluster_name="c1", node_name="n1")
        if claimed is not None:
            claimed.close()

    async def test_after_the_node(self):
        """When an address is lost after the log was opened, the log is closed again, and starts again."""
        second = free_port()
        for step in ("serve HTTP", "listen"):
            service = self.make(f"http_listen: 127.0.0.1:{second}")

            def fail(*_):
                raise ConfigError(["somebody listens"])

            with self.replaced(step, fail):
                self.assertRaises(ConfigError, service.startService)
            await until(lambda: not self.reactor.clock.getDelayedCalls())
            self.check_left()
            await until(lambda: self.is_free(second))
        await self.lead(self.start())


class StopTests(ServiceCase):
    """The ordered stop."""

    async def test_order(self):
        """Leadership first, then the doors, the calls under way, the links of other nodes, the log last."""
        steps = self.note_steps()
        service = self.start()
        await self.lead(service)
        del steps[:]
        await service.stopService()
        self.assertEqual(
            steps,
            [
                "hand over",
                "release waiters",
                "stop accepting",
                "wait for clients",
                "stop gRPC",
                "settle",
                "leave nodes",
                "cut off",
                "stop the node",
                "settle",
                "release waiters",
            ],
        )
        self.assertTrue(self.is_free(self.port))
        self.assertEqual(self.reactor.clock.getDelayedCalls(), [])
        self.assertFalse(service.running)

    async def test_leaves_the_cluster(self):
        """A node among others tells them, once the answers to its clients have come over their links."""
        service = self.start(
            f"join: ['127.0.0.1:{free_port()}']", "bootstrap: false", security=self.write_tls_files()
        )
        steps = self.note_steps()
        await service.stopService()
        self.assertEqual(steps[steps.index("settle") :][:3], ["settle", "leave the cluster", "leave nodes"])

    async def test_readers_at_the_tail(self):
        """Somebody who waits for the next record holds up no stop: it is done before any time passes."""
        service = self.start()
        await self.lead(service)
        connection = await self.connect()
        following = self.assertFailure(connection.follow(0, lambda reply: None), UnavailableError)
        await connection.bounds()  # the node has both by then
        await service.stopService()
        await following

    async def test_patience(self):
        """Another leader is waited for two seconds, appends and links of nodes one, and no longer."""
        service = self.start()
        await self.lead(service)
        waits, settle, leave = {}, Node.when_settled, OnePort.leave_nodes
        go_on, gone_on = Node.release_waiters, []

        def note(name, work):
            return lambda owner, seconds: waits.setdefault(name, seconds) and work(owner, seconds)

        with contextlib.ExitStack() as stack:
            stack.enter_context(self.replaced("hand over", lambda _: Deferred()))
            stack.enter_context(self.replaced("settle", note("settle", settle)))
            stack.enter_context(self.replaced("leave nodes", note("leave nodes", leave)))
            stack.enter_context(
                self.replaced("release waiters", lambda node: gone_on.append(1) or go_on(node))
            )
            clock = self.reactor.clock
            end = clock.seconds() + 2
            stopping = service.stopService()
            clock.advance(1.9)
            await turn()
            self.assertEqual(gone_on, [])
            clock.advance(end - clock.seconds())  # not 0.1: sums of tenths may miss the end by a bit
            await stopping
        self.assertEqual(waits, {"settle": 1.0, "leave nodes": 1.0})

    async def test_grace(self):
        """A client that waits for an answer is cut off when the grace is over, and not before."""
        with mock.patch.object(ServedLog, "propose", return_value=None):
            service = self.start("shutdown: {drain_seconds: 7s}")
            await self.lead(service)
            connection = await self.connect()
            appending = self.assertFailure(connection.produce(BATCH, record_count=1), OutcomeUnknownError)
            await connection.bounds()  # the node has both by then
        stop_grpc, graces = GrpcServer.stop, []

        async def stop(server, seconds):
            await stop_grpc(server, 0)
            graces.append(seconds)

        with self.replaced("stop gRPC", stop):
            stopping = service.stopService()
            await until(lambda: graces)
        steps = self.note_steps()
        begin, grace = self.reactor.seconds(), 0.0
        while not stopping.called:
            if "settle" not in steps:
                grace = self.reactor.seconds() - begin
            self.reactor.clock.advance(0.25)
            await turn()
        self.assertEqual(graces, [7])
        self.assertTrue(6.5 <= grace <= 7.5, grace)
        await appending

    async def test_restart(self):
        """What was appended is there after the next start."""
        service = self.start()
        await self.lead(service)
        connection = await self.connect()
        await connection.produce(BATCH, record_count=1)
        await service.stopService()
        service = self.start()
        await self.lead(service)
        connection = await self.connect()
        self.assertEqual((await connection.bounds()).next_offset, 1)


class FatalTests(ServiceCase):
    """The end of a process whose disk failed."""

    def test_exit(self):
        """The process ends at once, with a code of its own and the reason on stderr."""
        service = self.make()
        errors = io.StringIO()
        with mock.patch("os._exit") as leave, contextlib.redirect_stderr(errors):
            service.node.fatal(Failure(DiskFailedError("the disk is gone")))
        leave.assert_called_once_with(EXIT_DISK_FAILED)
        self.assertIn("loghouse: ", errors.getvalue())
        self.assertIn("the disk is gone", errors.getvalue())
        self.assertEqual(len(self.flushLoggedErrors(DiskFailedError)), 1)

    async def test_grpc_does_not_start(self):
        """A gRPC server that cannot start ends the process: half a node serves nobody."""

        async def fail(*_):
            raise OSError("no gRPC")

        with mock.patch("os._exit") as leave, contextlib.redirect_stderr(io.StringIO()):
            with self.replaced("serve gRPC", fail):
                self.start()
            await until(lambda: leave.called)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
