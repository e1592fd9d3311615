"""A gRPC channel without a network: what is asked of grpc, and what its answers and errors mean."""

import asyncio

from grpc import StatusCode, aio

from loghouse.api.status import answer_of
from loghouse.api.v1 import log_pb2
from loghouse.client import grpc_channel
from loghouse.client.channels import AppendAnswer, FetchAnswer, LogId
from loghouse.client.failures import Effect
from loghouse.client.grpc_channel import _OPTIONS, GrpcChannel
from loghouse.client.records import Bounds
from loghouse.errors import IdentityError, OffsetOutOfRangeError, OutcomeUnknownError, UnavailableError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.entry import Codec
from tests.client.test_connection_times import WireCase, turn
from tests.fakes.clock_loop import timed

BATCH = Produce(
    batch=b"batch", record_count=3, attributes=Codec.ZSTD, batch_crc=7, expect_offset=8, producer_id=9,
    producer_sequence=10,
)  # fmt: skip


def rpc_error(code, text, trailers=()):
    """An error as grpc raises it."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailers), text)


class Answer:
    """A unary call under way."""

    def __init__(self, result, trailers):
        self.result = result
        self.trailers = trailers

    def __await__(self):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result
        yield

    async def trailing_metadata(self):
        return self.trailers


class Stream:
    """A stream of either kind: gives `messages`, notes what is written."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.written = []
        self.is_cancelled = False

    async def read(self):
        if not self.messages:
            await asyncio.get_running_loop().create_future()
        message = self.messages.pop(0)
        if isinstance(message, Exception):
            raise message
        return message

    async def write(self, message):
        self.written.append(message)

    def cancel(self):
        self.is_cancelled = True


class Stubs:
    """What calls are made with; `results` are the answers by the name of the call."""

    def __init__(self, results):
        self.results = results
        self.noted = []
        self.closed = 0
        self.trailers = (("loghouse-leader", "n7"),)
        self.log = self.cluster = self
        self.channel = self

    async def close(self):
        self.closed += 1

    def __getattr__(self, name):
        def call(request=None, timeout=None):
            self.noted.append((name, request, timeout))
            found = self.results[name]
            return found if isinstance(found, Stream) else Answer(found, self.trailers)

        return call


class GrpcCase(WireCase):
    """A channel with stubs that do as a test says."""

    def channel(self, **results):
        self.hints = []
        self.stubs = Stubs(results)
        channel = GrpcChannel("h1:1", None, lambda *hint: self.hints.append(hint))
        channel._stubs = self.stubs
        return channel


class CallTests(GrpcCase):
    """One request, one answer."""

    @timed
    async def test_calls(self):
        """Each call's request and time, and what is made of its answer; who leads is learnt from appends."""
        response = log_pb2.ProduceBatchResponse(base_offset=4, record_count=3)
        channel = self.channel(
            ProduceBatch=response,
            RegisterProducer=log_pb2.RegisterProducerResponse(producer_id=5),
            Bounds=log_pb2.BoundsResponse(lowest=1, next=2),
            FindOffset=log_pb2.FindOffsetResponse(offset=6, timestamp=7),
            Status=log_pb2.StatusResponse(term=8),
        )
        sent = log_pb2.ProduceBatchRequest(
            batch=b"batch", record_count=3, codec=int(Codec.ZSTD), batch_crc=7, log="l", expect_offset=8,
            producer_id=9, producer_sequence=10,
        )  # fmt: skip
        status = log_pb2.StatusRequest()
        for work, noted, result, hints in (
            (channel.append(BATCH, LogId("l"), 1.5), ("ProduceBatch", sent, 1.5), AppendAnswer(4, 3),
             [("n7", 1)]),
            (channel.register_producer(LogId("l"), 2.0),
             ("RegisterProducer", log_pb2.RegisterProducerRequest(log="l"), 2.0), 5, [("n7", 1)]),
            (channel.bounds(LogId("l"), 3.0), ("Bounds", log_pb2.BoundsRequest(log="l"), 3.0),
             Bounds(1, 2), []),
            (channel.find_offset(7, LogId("l"), 4.0),
             ("FindOffset", log_pb2.FindOffsetRequest(timestamp=7, log="l"), 4.0), 6, []),
            (channel.administer("cluster", "Status", status, 5.0), ("Status", status, 5.0),
             log_pb2.StatusResponse(term=8), []),
        ):  # fmt: skip
            self.assertEqual(await work, result)
            self.assertEqual(self.stubs.noted, [noted])
            self.assertEqual(self.hints, hints)
            self.stubs.noted.clear()
            self.hints.clear()
        self.stubs.trailers = ()
        await channel.append(BATCH, LogId("l"), 1.5)
        self.assertEqual(self.hints, [])

    @timed
    async def test_errors(self):
        """grpc's errors are failures of the call; a channel that was closed did nothing."""
        channel = self.channel(Bounds=rpc_error(StatusCode.UNAVAILABLE, "Socket closed"))
        self.check(
            await self.failure(channel.bounds(LogId(), 1.0)),
            OutcomeUnknownError,
            "h1:1: Socket closed",
            Effect.UNKNOWN,
        )
        channel = self.channel(Bounds=aio.UsageError("closed"))
        self.check(
            await self.failure(channel.bounds(LogId(), 1.0)),
            UnavailableError,
            "h1:1: the channel was closed",
            Effect.NOTHING,
            is_link=False,
        )

    @timed
    async def test_certificate_changes(self):
        """A certificate that is not trusted any more is looked at anew: the old channel is left."""
        error = rpc_error(StatusCode.UNAVAILABLE, "Handshake: CERTIFICATE_VERIFY_FAILED")
        channel = self.channel(Bounds=error)
        old = self.stubs
        failure = await self.failure(channel.bounds(LogId(), 1.0))
        self.assertEqual((type(failure.error), failure.effect), (UnavailableError, Effect.NOTHING))
        self.assertEqual((failure.is_link, failure.is_permanent), (True, False))
        self.assertIsNone(channel._stubs)
        channel._stubs = self.stubs = Stubs({})
        await channel.close()
        self.assertEqual((old.closed, self.stubs.closed), (1, 1))

    @timed
    async def test_permanent_without_a_channel(self):
        """Without a channel there is nothing to look at anew."""
        channel = GrpcChannel("h1:1", None, print)
        failure = grpc_channel.failure_of(
            rpc_error(StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED"), "h1:1"
        )
        self.assertIsInstance(failure.error, IdentityError)
        self.assertIs(channel.judge(failure), failure)
        await channel.close()


class StreamTests(GrpcCase):
    """Streams of batches and of frames."""

    @timed
    async def test_appends(self):
        """Batches are written as they are, the rest behind them; outcomes come in their order."""
        stream = Stream(
            log_pb2.ProduceBatchResponse(base_offset=4, record_count=3),
            rpc_error(StatusCode.UNAVAILABLE, "Socket closed"),
        )
        channel = self.channel(produce_batch_stream=stream)
        appends = channel.appends(LogId("l"))
        reading = asyncio.ensure_future(appends.read())
        await turn()
        self.assertFalse(reading.done())
        for _ in range(2):
            await appends.write(BATCH)
        self.assertEqual(await reading, AppendAnswer(4, 3))
        self.assertEqual([name for name, *_ in self.stubs.noted], ["produce_batch_stream"])
        request = log_pb2.ProduceBatchRequest.FromString(stream.written[1])
        self.assertEqual((request.batch, request.log, request.producer_sequence), (b"batch", "l", 10))
        self.assertEqual((await self.failure(appends.read())).effect, Effect.UNKNOWN)
        appends.cancel()
        self.assertTrue(stream.is_cancelled)

    @timed
    async def test_appends_that_never_began(self):
        """A server that cannot be reached is told to the writer and to the reader; cancelling is harmless."""
        channel = self.channel()
        channel.appends(LogId("l")).cancel()

        async def stubs(seconds=3.0):
            raise grpc_channel.CallFailedError(grpc_channel.unmade_call("h1:1: gone"))

        channel.stubs = stubs
        appends = channel.appends(LogId("l"))
        for work in (appends.write(BATCH), appends.read()):
            self.check(await self.failure(work), UnavailableError, "h1:1: gone", Effect.NOTHING)
        appends.cancel()

    @timed
    async def test_answers(self):
        """Frames come one answer ahead; an end without a reason is a lost call."""
        messages = [
            log_pb2.FetchResponse(frames=b"f", next_offset=6).SerializeToString(),
            log_pb2.FetchResponse(frames=b"g", next_offset=7).SerializeToString(),
            aio.EOF,
        ]
        stream = Stream(*messages)
        channel = self.channel(fetch_stream=stream)
        answers = channel.answers(5, LogId("l"))
        self.assertIsNone(answers.take())
        self.assertEqual(await answers.read(), FetchAnswer(b"f", 6))
        await turn()
        self.assertEqual(len(stream.messages), 1, "the next one is taken meanwhile")
        self.assertEqual(self.stubs.noted, [("fetch_stream", log_pb2.FetchRequest(offset=5, log="l"), None)])
        self.assertEqual(await answers.read(), FetchAnswer(b"g", 7))
        self.check(
            await self.failure(answers.read()),
            OutcomeUnknownError,
            "h1:1: ended the stream without a reason",
            Effect.UNKNOWN,
        )
        answers.cancel()
        self.assertTrue(stream.is_cancelled)
        channel.answers(5, LogId("l")).cancel()
        await turn()

    @timed
    async def test_trimmed(self):
        """An offset that is out of range is that of the stream's place, not of its beginning."""
        details = log_pb2.FetchResponse(frames=b"f", next_offset=6).SerializeToString()
        error = rpc_error(StatusCode.OUT_OF_RANGE, "trimmed", out_of_range())
        answers = self.channel(fetch_stream=Stream(details, error)).answers(5, LogId("l"))
        await answers.read()
        failure = await self.failure(answers.read())
        self.assertEqual((failure.error.offset, failure.error.lowest), (6, 10))
        answers.cancel()

    def test_options(self):
        """Messages are as large as a node takes; retries are ours; silence is noticed in 30 s."""
        options = dict(_OPTIONS)
        sizes = {options[f"grpc.max_{way}_message_length"] for way in ("send", "receive")}
        self.assertEqual(sizes, {GRPC_MESSAGE_SIZE_MAX})
        self.assertEqual((options["grpc.enable_retries"], options["grpc.use_local_subchannel_pool"]), (0, 1))
        self.assertEqual(options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"], 30_000)
        self.assertEqual(options["grpc.keepalive_time_ms"], 2 * 10_000, "nodes allow one in ten seconds")
        backoff = [options[f"grpc.{name}_reconnect_backoff_ms"] for name in ("initial", "min", "max")]
        self.assertEqual(backoff, [100, 3000, 2000])


def out_of_range():
    """The trailers of a node that holds offsets from 10 to 20."""
    return answer_of(OffsetOutOfRangeError(6, 10, 20)).trailers
