"""Real gRPC doors with real TLS on loopback, and what a test needs around them."""

from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from loghouse.api.server import GrpcServer
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.auth.credentials import Credentials
from tests.fakes.secured import SecuredCase, channel_to, client_certificate


class DoorCase(SecuredCase):
    """A test with a gRPC server of a `FakeNode`, and a stub of `root`."""

    async def begin(self):
        await self.open_door()

    async def open_door(self, **arguments):
        """Serve `self.node`; stopped at the test's end. Sets `self.server`, `self.port` and `self.root`."""
        if "credentials" not in arguments:
            self.credentials = Credentials(self.tls_paths())
            arguments["credentials"] = self.credentials
            arguments.setdefault("check_caller", self.credentials.check)
        server = GrpcServer(self.node, self.authorizer, clock=lambda: self.wall_clock(), **arguments)
        self.server = server
        self.port = server.bind("127.0.0.1:0")
        await server.start()
        self.closers.append(lambda: server.stop(0))
        self.root = self.stub()
        return self.port

    def channel(self, client="root", *, issued=None, ca=None, port=None, options=()):
        """A channel with a client's certificate; `client` None is none."""
        if client is not None:
            issued = issued or client_certificate(client)
        channel = channel_to(f"127.0.0.1:{port or self.port}", issued, options, ca)
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
