"""One table of refusals, through gRPC and through the binary protocol: a client is told the same error.

`node.gate` decides for both. What each server sends is compared as our client reads it: the error's class,
text and details, and what is certain about the effect.
"""

import os
from unittest import mock

from grpc import aio
from twisted.internet.defer import fail, maybeDeferred

from loghouse import errors
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.api.v1.log_pb2 import Record
from loghouse.auth.certificates import load_certificates
from loghouse.auth.denylist import entry_of
from loghouse.client.failures import Effect, failure_of, failure_of_error
from loghouse.limits import MIB, PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.net.accept import AcceptedLink
from loghouse.node.gate import UNEXPECTED
from loghouse.protocol import checking
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import (
    Bounds,
    Describe,
    DescribeLog,
    DescribeLogs,
    Fetch,
    FetchState,
    FindOffset,
    Follow,
    Produce,
    RegisterProducer,
)
from loghouse.protocol.compression import compress
from loghouse.protocol.cursor_messages import REPLIES, AskCursor, ProduceWithCursor
from loghouse.protocol.entry import Codec
from loghouse.protocol.range_messages import Read
from loghouse.runtime.bridge import from_asyncio
from tests.fakes.secured import client_certificate
from tests.net.test_same_rule import ASK, CALL, BothDoorsCase, is_answered, is_answered_h2
from tests.net.wire import Stranger, asynchronous, until
from tests.vectors.payloads import PAYLOADS

ADDRESS = "n1:8400"
ONE = encode_batch([Record(value=b"x")])
LARGE = encode_batch([Record(value=bytes(MIB))])
ANY = None  # a text that a library makes: the same from both, whatever it says


def produce(batch=ONE, record_count=1, **fields):
    """A request to append, for both protocols."""
    return Produce(batch=batch, record_count=record_count, **fields)


def produce_with_cursor(epoch=7):
    """A request to append with an advance."""
    body = b"".join(map(bytes, produce().encode()))
    return ProduceWithCursor(cursor="billing", epoch=epoch, position=1, produce=body)


def call_of(stub, request, log="default"):
    """Return the gRPC call that asks for the same as a message of the binary protocol."""
    match request:
        case Produce():
            fields = {"expect_offset": request.expect_offset, "batch_crc": request.batch_crc}
            asked = log_pb2.ProduceBatchRequest(
                log=log,
                batch=request.batch,
                record_count=request.record_count,
                codec=request.attributes,
                producer_id=request.producer_id,
                producer_sequence=request.producer_sequence,
                **{name: value for name, value in fields.items() if value is not None},
            )
            return stub.ProduceBatch(asked, timeout=30)
        case Fetch() | FetchState():  # both need to consume; gRPC has no call for the state
            return stub.Fetch(log_pb2.FetchRequest(log=log, offset=request.offset), timeout=30)
        case Follow():
            return stub.FetchStream(log_pb2.FetchRequest(log=log, offset=request.offset), timeout=30).read()
        case Describe() | DescribeLogs():  # both need any permission at all
            return stub.GetServers(log_pb2.GetServersRequest(), timeout=30)
        case DescribeLog():
            return stub.GetServers(log_pb2.GetServersRequest(log=request.name), timeout=30)
        case Read():
            return stub.Read(log_pb2.ReadRequest(log=log), timeout=30)
        case FindOffset():
            return stub.FindOffset(
                log_pb2.FindOffsetRequest(log=log, timestamp=request.timestamp), timeout=30
            )
        case AskCursor():  # all of them need to consume
            cursors = log_pb2_grpc.CursorsStub(stub.channel)
            return cursors.Renew(
                log_pb2.HeldCursorRequest(log=log, name=request.name, epoch=request.epoch), timeout=30
            )
        case ProduceWithCursor():
            inner, change = request.request, request.change
            advance = log_pb2.CursorAdvance(name=change.name, epoch=change.epoch, position=change.position)
            asked = log_pb2.ProduceBatchRequest(
                log=log, batch=bytes(inner.batch), record_count=inner.record_count, cursor=advance
            )
            return stub.ProduceBatch(asked, timeout=30)
        case RegisterProducer():
            return stub.RegisterProducer(log_pb2.RegisterProducerRequest(log=log), timeout=30)
    return stub.Bounds(log_pb2.BoundsRequest(log=log), timeout=30)


async def answer_of(stub, request):
    """Return what gRPC answers to a message of the binary protocol."""
    return await call_of(stub, request)


def seen(error):
    """What a client sees of an error: class, text, details; each detail as text, as gRPC carries it."""
    details = {name: str(value) for name, value in vars(error).items()}
    return type(error), str(error).removeprefix(f"{ADDRESS}: "), details


class RefusalCase(BothDoorsCase):
    """Both protocols of one node, each with a client of its own."""

    policy = (
        "p, root, *, produce\np, root, *, consume\np, reader, default, consume\np, writer, default, produce\n"
    )

    async def begin(self):
        self.clients = {}
        await self.open_both()

    async def clients_of(self, name):
        """Return the gRPC and the binary client of a subject; it has one of each."""
        if name not in self.clients:
            channel = self.channel(name)
            stub = log_pb2_grpc.LogStub(channel)
            stub.channel = channel
            self.clients[name] = stub, await self.connect(name)
        return self.clients[name]

    async def refused_by_grpc(self, stub, request, log="default"):
        """Return the failure that a client makes of the call's refusal."""

        async def call():
            try:
                await call_of(stub, request, log)
            except aio.AioRpcError as error:
                return failure_of(error, ADDRESS, offset=getattr(request, "offset", 0))
            raise self.failureException(f"gRPC answered {type(request).__name__}")

        return await from_asyncio(call())

    async def refused_by_binary(self, asked):
        """The same of the binary protocol; `asked` gives the answer, or raises."""
        try:
            await maybeDeferred(asked)
        except errors.LoghouseError as error:
            return failure_of_error(error, ADDRESS)
        raise self.failureException("the binary protocol answered")

    async def refusals(self, request, name="root", group=1):
        """Return both refusals of a request; a group other than 1 is no log."""
        log = "default" if group == 1 else f"group {group}"
        stub, connection = await self.clients_of(name)
        by_binary = await self.refused_by_binary(
            lambda: connection._ask(
                request, group, is_produce=isinstance(request, Produce | ProduceWithCursor)
            )
        )
        return await self.refused_by_grpc(stub, request, log), by_binary

    async def check_same(self, expected, request, name="root", group=1):
        """Both refuse with this error."""
        by_grpc, by_binary = await self.refusals(request, name, group)
        for failure in (by_grpc, by_binary):
            self.assertEqual(seen(failure.error), seen(expected))
        self.assertIs(by_grpc.effect, by_binary.effect)


class RequestTests(RefusalCase):
    """Refused for who asks, for what is asked, or by the node behind the gate."""

    @asynchronous
    async def test_permission(self):
        """Every request without a rule, with one for another action, and of no log there is."""
        writing = [produce(), RegisterProducer(), produce_with_cursor()]
        reading = [Bounds(), Fetch(offset=0), Follow(offset=0, credit=MIB), FindOffset(timestamp=0)]
        reading += [FetchState(offset=0), Read(), AskCursor(operation=6, name="billing", epoch=7)]
        looking = [Describe(), DescribeLogs(), DescribeLog(name="default")]
        self.assertEqual({type(request) for request in [*writing, *reading, *looking]}, set(REPLIES))
        for name, action, requests in (
            ("nobody", "produce", writing),
            ("reader", "produce", writing),
            ("nobody", "consume", [*reading, *looking]),
            ("writer", "consume", reading),
        ):
            for request in requests:
                await self.check_same(errors.PermissionDeniedError(name, action, "default"), request, name)
        # A batch with an advance needs to consume the log as well.
        denied = errors.PermissionDeniedError("writer", "consume", "default")
        await self.check_same(denied, produce_with_cursor(), "writer")
        for request in writing + reading:
            await self.check_same(errors.UnknownLogError("group 2"), request, group=2)
        await self.check_same(errors.UnknownLogError("nothing"), DescribeLog(name="nothing"))
        refused = errors.PermissionDeniedError("reader", "consume", "orders")
        await self.check_same(refused, DescribeLog(name="orders"), "reader")
        self.assertEqual((self.node.proposals, self.node.waiters), ([], {}))

    @asynchronous
    async def test_cursors(self):
        """What the log refuses of its cursors, and of batches that come with an advance."""
        ask = AskCursor(operation=6, name="billing", epoch=7)
        for request in (ask, produce_with_cursor()):
            await self.check_same(errors.UnknownCursorError("billing"), request)
        _, connection = await self.clients_of("root")
        acquire = AskCursor(operation=1, name="billing", holder="h", lease_milliseconds=1000)
        made = await connection._ask(acquire, 1)
        self.assertEqual([cursor.name for cursor in made.cursors], ["billing"])
        for request in (ask, produce_with_cursor()):
            await self.check_same(errors.CursorFencedError(7, made.cursors[0].epoch, "billing"), request)

    @asynchronous
    async def test_batch(self):
        """A count, codec, checksum or size that is not what it says, and what is no batch at all."""
        allowed = f"allowed: 1 to {RECORDS_PER_BATCH_MAX}"
        packed = compress(LARGE, Codec.ZSTD)
        bomb = compress(bytes(256 * MIB), Codec.ZSTD)
        rows = [
            (produce(record_count=2), "record_count", "is 2, but the batch holds 1"),
            (produce(record_count=0), "record_count", f"is 0; {allowed}"),
            (produce(record_count=2**31), "record_count", f"is {2**31}; {allowed}"),
            (produce(attributes=5), "codec", "5 is unknown; allowed: 0 (none), 1 (zstd)"),
            (produce(attributes=1), "batch", ANY),
            (produce(b"\xff\xff"), "batch", "is not a serialized RecordBatch"),
            (produce(batch_crc=1), "batch_crc", "does not match the batch; it was damaged on the way"),
            (produce(LARGE), "record", f"has {MIB + 4} bytes; at most {MIB} are allowed"),
            (produce(packed, attributes=1), "record", f"has {MIB + 4} bytes; at most {MIB} are allowed"),
            (
                produce(bytes(PAYLOAD_SIZE_MAX + 1)),
                "batch",
                f"has {PAYLOAD_SIZE_MAX + 1} bytes; at most {PAYLOAD_SIZE_MAX} are allowed",
            ),
            (
                produce(bomb, attributes=1),
                "batch",
                f"unpacks to {256 * MIB} bytes; at most {PAYLOAD_SIZE_MAX} are allowed",
            ),
            (produce(b"\n\0" * 200_000, 3), "record_count", "is 3, but the batch holds more"),
        ]
        for request, field, problem in rows:
            if problem is ANY:
                by_grpc, by_binary = await self.refusals(request)
                self.assertEqual(seen(by_grpc.error), seen(by_binary.error))
                self.assertEqual(by_grpc.error.field, field)
            else:
                await self.check_same(errors.InvalidRequestError(field, problem), request)
        self.assertEqual(self.node.proposals, [])

    @asynchronous
    async def test_what_is_no_whole_frame(self):
        """Payloads that only some zstd decoders read are refused; those that all read are appended."""
        stub, connection = await self.clients_of("root")
        for payload in PAYLOADS:
            request = produce(payload.data, payload.record_count, attributes=payload.codec)
            if payload.is_taken:
                await from_asyncio(answer_of(stub, request))
                await connection._ask(request, 1, is_produce=True)
            else:
                for failure in await self.refusals(request):
                    self.assertIs(type(failure.error), errors.InvalidRequestError)
        taken = [payload.data for payload in PAYLOADS if payload.is_taken for _ in range(2)]
        self.assertEqual([bytes(proposal.payload) for proposal in self.node.proposals], taken)

    @asynchronous
    async def test_no_memory_for_a_check(self):
        """A batch that could not be checked for want of memory was not appended, and may be tried again."""
        short = errors.short_of(MemoryError())
        packed = compress(encode_batch([Record(value=os.urandom(200_000))]), Codec.ZSTD)
        for request in (produce(), produce(packed, attributes=1)):
            with mock.patch.object(checking, "parse", side_effect=MemoryError):
                await self.check_same(short, request)

    @asynchronous
    async def test_node(self):
        """What the node refuses an append or a read for: each error as it is, with its details."""
        for error in (
            errors.ExpectOffsetError(4, 7),
            errors.SequenceError(7, 9, 3),
            errors.SequenceReusedError(7, 8),
            errors.UnknownProducerError(7),
            errors.CursorFencedError(7, 9, "billing"),
            errors.CursorRewindError(3, 5, "billing"),
            errors.UnknownCursorError("billing"),
            errors.ResourceExhaustedError("proposals", "64 MiB are under way"),
            errors.DiskFullError("/srv/loghouse"),
            errors.NotLeaderError("n2"),
            errors.NotLeaderError(),
            errors.UnavailableError("the node is stopping"),
            errors.OutcomeUnknownError("not durable within 3 s; it may still be appended"),
        ):
            self.node.failure = error
            await self.check_same(error, produce(producer_id=7, producer_sequence=9))
            await self.check_same(error, produce())
            self.node.bounds = lambda error=error: fail(error)
            await self.check_same(error, Bounds())
        self.node.failure = None
        await self.check_same(errors.ExpectOffsetError(4, 0), produce(expect_offset=4))
        for offset in (0, 2**64 - 1):
            await self.check_same(errors.OffsetOutOfRangeError(offset, 0, 0), Fetch(offset=offset))

    @asynchronous
    async def test_producers(self):
        """What the log refuses to register is told as it is."""
        error = errors.ResourceExhaustedError("producers", "'root' asked for 100; one more in 60 s")
        self.node.register_producer = lambda subject: fail(error)
        await self.check_same(error, RegisterProducer())

    @asynchronous
    async def test_unexpected_failure(self):
        """A bug is told without a word of it: an append may have happened; the diagnostics have the rest."""
        self.node.failure = ZeroDivisionError("secret")
        self.node.bounds = lambda: fail(ZeroDivisionError("secret"))
        for request, by_binary_class in (
            (produce(), errors.OutcomeUnknownError),
            (produce(producer_id=7), errors.OutcomeUnknownError),
            (Bounds(), errors.UnavailableError),  # gRPC's INTERNAL does not tell a read from an append
        ):
            by_grpc, by_binary = await self.refusals(request)
            self.assertEqual(seen(by_binary.error), seen(by_binary_class(UNEXPECTED)))
            self.assertIs(type(by_grpc.error), errors.OutcomeUnknownError)
            self.assertFalse(by_grpc.is_link)
            self.assertIn("the node failed to answer", str(by_grpc.error))
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class CertificateTests(RefusalCase):
    """Refused for the certificate."""

    @asynchronous
    async def test_none(self):
        """Without a certificate neither protocol is spoken."""
        for alpn, request, is_served in (("h2", CALL, is_answered_h2), ("loghouse/1", ASK, is_answered)):
            received, _ = await Stranger(self.port, alpn=(alpn,)).talk(request)
            self.assertFalse(is_served(received, 1), alpn)

    @asynchronous
    async def test_expires(self):
        """A certificate that expires on an open connection, before the connection is looked at again."""
        stub, connection = await self.clients_of("root")
        await self.check_same(errors.UnknownLogError("group 2"), Bounds(), group=2)
        await connection.bounds()
        self.patch(AcceptedLink, "check_deadlines", lambda link, now: None)
        self.wall_clock = lambda: 2**40
        expected = errors.UnauthenticatedError("the certificate of 'root' has expired; get a new one")
        for request in (produce(), Bounds(), RegisterProducer()):
            by_grpc = await self.refused_by_grpc(stub, request)
            by_binary = await self.refused_by_binary(lambda request=request: connection._ask(request, 1))
            for failure in (by_grpc, by_binary):
                self.assertEqual(seen(failure.error), seen(expected))
            self.assertIs(by_grpc.effect, by_binary.effect)

    @asynchronous
    async def test_denied(self):
        """A certificate on the denylist: its holder is told which one it is."""
        denylist = self.directory / "denylist"
        [certificate] = load_certificates(client_certificate("root").certificate_pem, denylist)
        denylist.write_text(entry_of(certificate) + "\n")
        self.assertTrue(self.credentials.take(self.credentials.read()))
        by_grpc = await self.refused_by_grpc(log_pb2_grpc.LogStub(self.channel()), Bounds())
        by_binary = await self.refused_by_binary(self.connect)
        self.assertIs(type(by_grpc.error), errors.IdentityError)
        self.assertIn("is on the denylist", str(by_grpc.error))
        self.assertEqual(seen(by_grpc.error), seen(by_binary.error))


class StopTests(RefusalCase):
    """Refused because the node stops."""

    @asynchronous
    async def test_stopping(self):
        """What a client asks for on an open connection was not done, and may be asked of another node."""
        stub, connection = await self.clients_of("root")
        self.node.hold()
        appending = connection.produce(ONE, record_count=1)
        await until(lambda: self.node.held_count == 1)
        self.server._guard.is_stopping = True  # as `GrpcServer.stop` does, for a tenth of a second
        self.listener.links.watch.say_goodbye("the node is stopping")
        requests = (produce(), Bounds())
        # All before the client has heard the goodbye: it would send nothing any more.
        answers = [connection._ask(request, 1) for request in requests]
        for request, answer in zip(requests, answers, strict=True):
            by_binary = await self.refused_by_binary(lambda answer=answer: answer)
            by_grpc = await self.refused_by_grpc(stub, request)
            self.assertIn("this node is closing the connection", str(by_binary.error))
            self.assertIn("the node is stopping; nothing was done", str(by_grpc.error))
            for failure in (by_grpc, by_binary):
                self.assertIs(type(failure.error), errors.UnavailableError)
                self.assertIs(failure.effect, Effect.NOTHING)
        self.assertEqual(len(self.node.proposals), 1)
        self.node.release()
        self.assertEqual((await appending).base_offset, 0)
