"""Real gRPC doors with real TLS on loopback, and what a test needs around them."""

import asyncio
import functools
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from loghouse.api.credentials import ServerCredentials
from loghouse.api.server import GrpcServer
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.auth.certificates import (
    make_ca,
    make_client_certificate,
    make_node_certificate,
    write_issued,
)
from loghouse.auth.credentials import Credentials, TlsPaths
from loghouse.auth.policy import Authorizer
from tests.fakes.node import FakeNode

MODEL = (Path(__file__).resolve().parent.parent.parent / "certs" / "model.conf").read_text()
POLICY = "p, root, *, produce\np, root, *, consume\n"
TIMEOUT_SECONDS = 20  # of any single call: a bound for a hang, never waited for


@functools.cache
def authority():
    """The CA of all tests here, and one node's and some clients' certificates; made once."""
    now = datetime.now(UTC)
    ca = make_ca("test CA", now=now)
    node = make_node_certificate(ca, cluster="c1", node="n1", hosts=["localhost", "127.0.0.1"], now=now)
    clients = {name: make_client_certificate(ca, name=name, now=now) for name in ("root", "nobody")}
    return ca, node, clients


def asynchronous(method):
    """Run an async test method on the reactor's loop, and fail if it leaves a task behind."""

    @functools.wraps(method)
    def run(self):
        loop = asyncio.get_event_loop()
        task = asyncio.ensure_future(_run(self, method), loop=loop)
        return Deferred.fromFuture(task)

    return run


async def _run(test, method):
    before = asyncio.all_tasks()
    try:
        await method(test)
    finally:
        for close in reversed(test.closers):
            await close()
    await no_tasks_but(before)


async def no_tasks_but(before):
    """Return when all tasks but those are done; grpc's own end some turns after their server."""
    deadline = time.monotonic() + 5
    while left := {task for task in asyncio.all_tasks() - before if not task.done()}:
        if time.monotonic() > deadline:
            raise AssertionError(f"tasks left behind: {left}")
        await asyncio.sleep(0)


async def until(condition):
    """Give the loop turns until a condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition never came")
        await asyncio.sleep(0.001)


class DoorCase(TestCase):
    """A test with a door to a `FakeNode` and stubs of `root`."""

    timeout = 60
    policy = POLICY

    def setUp(self):
        self.closers = []
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.node = FakeNode()
        (self.directory / "model.conf").write_text(MODEL)
        self.policy_path = self.directory / "policy.csv"
        self.policy_path.write_text(self.policy)
        self.authorizer = Authorizer(self.directory / "model.conf", self.policy_path)
        self.now = time.time

    def write_tls_files(self, ca=None, node=None):
        own_ca, own_node, _ = authority()
        files = TlsPaths(
            certificate=self.directory / "n1.pem", key=self.directory / "n1.key", ca=self.directory / "ca.pem"
        )
        write_issued(node or own_node, files.certificate, files.key, may_replace=True)
        files.ca.write_bytes((ca or own_ca).certificate_pem)
        return files

    async def open_door(self, **arguments):
        """Serve `self.node`; stopped at the test's end. Sets `self.server` and `self.port`."""
        if "credentials" not in arguments:
            self.credentials = Credentials(self.write_tls_files())
            arguments["credentials"] = ServerCredentials(self.credentials)
            arguments.setdefault("check_caller", self.credentials.check)
        self.server = GrpcServer(self.node, self.authorizer, clock=lambda: self.now(), **arguments)
        self.port = self.server.bind("127.0.0.1:0")
        await self.server.start()
        self.closers.append(lambda: self.server.stop(0))
        return self.port

    def channel(self, client="root", *, issued=None, ca=None, port=None, options=()):
        """A channel with a client's certificate; `client` None is none."""
        own_ca, _, clients = authority()
        if client is not None:
            issued = issued or clients[client]
        credentials = grpc.ssl_channel_credentials(
            (ca or own_ca).certificate_pem,
            issued.key_pem if issued else None,
            issued.certificate_pem if issued else None,
        )
        # Each test has its own connection: grpc shares one between channels of equal settings.
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *options]
        channel = aio.secure_channel(f"127.0.0.1:{port or self.port}", credentials, options=own)
        self.closers.append(lambda: channel.close())
        return channel

    def stub(self, client="root", **arguments):
        return log_pb2_grpc.LogStub(self.channel(client, **arguments))

    async def refused(self, call, code):
        """Await a call that must fail with this code; return its error."""
        try:
            await call
        except aio.AioRpcError as error:
            self.assertEqual(error.code(), code, error.details())
            return error
        raise self.failureException(f"answered instead of {code}")


def details_of(error):
    """Return the ErrorInfo of an error, and its other details."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            return info, status.details[1:]
    raise AssertionError("no details")


def produce(value=b"x", **fields):
    return log_pb2.ProduceRequest(record=log_pb2.Record(value=value), **fields)


def batch(values, **fields):
    records = log_pb2.RecordBatch(records=[log_pb2.Record(value=value) for value in values])
    fields.setdefault("record_count", len(values))
    return log_pb2.ProduceBatchRequest(batch=records.SerializeToString(), **fields)
