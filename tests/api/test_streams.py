"""Streams: pipelines in order and bounded, followers that wait, stop, and leave nothing behind."""

import asyncio
import random
import resource

import grpc
from grpc import aio

from loghouse.api import log_service
from loghouse.api.log_service import CONSUME_SIZE
from loghouse.api.v1 import log_pb2
from loghouse.errors import OutcomeUnknownError
from loghouse.limits import (
    FETCH_SIZE_MAX,
    KIB,
    MIB,
    PIPELINE_MAX,
    PIPELINE_SIZE_MAX,
    PRODUCER_BATCHES_MAX,
    READERS_SIZE_MAX,
)
from loghouse.node.api import proposing
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.checking import UNPACKED_AT_ONCE_MAX
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind, decode_entries
from loghouse.replica.api import Proposal
from tests.api.doors import DoorCase, batch, details_of, produce
from tests.fakes.tasks import asynchronous, until


class PipelineTests(DoorCase):
    """`ProduceStream` and `ProduceBatchStream`."""

    @asynchronous
    async def test_answers_in_order(self):
        """Every record of a half-closed stream is answered, in order, and then the stream is OK."""
        for name, request in (("ProduceStream", produce), ("ProduceBatchStream", lambda v: batch([v, v]))):
            first = self.node.next_offset
            call = getattr(self.stub(), name)()
            for number in range(100):
                await call.write(request(b"%d" % number))
            await call.done_writing()
            answers = [answer async for answer in call]
            self.assertEqual(await call.code(), grpc.StatusCode.OK)
            step = 1 if name == "ProduceStream" else 2
            offsets = [a.offset if step == 1 else a.base_offset for a in answers]
            self.assertEqual(offsets, list(range(first, first + 100 * step, step)), name)
        values = []
        for entry in self.node.entries:
            values += [record.value for record in log_pb2.RecordBatch.FromString(entry.payload).records]
        expected = [b"%d" % number for number in range(100)]
        self.assertEqual(values[:100], expected)
        self.assertEqual(values[100::2], expected)

    @asynchronous
    async def test_lock_step(self):
        """A client of the original, which waits for each answer before the next request, is served."""
        call = self.stub().ProduceStream()
        for number in range(10):
            await call.write(produce())
            self.assertEqual((await call.read()).offset, number)
        await call.done_writing()
        self.assertIs(await call.read(), aio.EOF)

    @asynchronous
    async def test_empty_streams(self):
        """A stream that closes without a request is OK without an answer."""
        for name in ("ProduceStream", "ProduceBatchStream"):
            call = getattr(self.stub(), name)()
            await call.done_writing()
            self.assertIs(await call.read(), aio.EOF)
            self.assertEqual(await call.code(), grpc.StatusCode.OK)

    @asynchronous
    async def test_pipelines_without_waiting_for_answers(self):
        """Requests are proposed while earlier ones are not durable yet, and no answer overtakes."""
        self.node.hold()
        call = self.stub().ProduceBatchStream()
        for _ in range(10):
            await call.write(batch([b"x"], producer_id=7))  # an entry each: they do not share
        await until(lambda: self.node.held_count == 10)
        self.node.release(3)
        self.assertEqual([(await call.read()).base_offset for _ in range(3)], [0, 1, 2])
        self.node.release()
        await call.done_writing()
        self.assertEqual([a.base_offset for a in await self._read_all(call)], list(range(3, 10)))

    @asynchronous
    async def test_small_batches_share_entries(self):
        """Small plain batches of a stream share entries, each with its own answer in its turn."""
        self.node.hold()
        call = self.stub().ProduceBatchStream()
        for number in range(20):
            await call.write(batch([b"%d" % number] * 2))
        await until(lambda: self.node.checks == 20)
        self.assertEqual(self.node.held_count, 1)
        self.node.release()
        await call.done_writing()
        answers = await self._read_all(call)
        self.assertEqual([(a.base_offset, a.record_count) for a in answers], [(2 * n, 2) for n in range(20)])
        self.assertLessEqual(len(self.node.proposals), 2)

    @asynchronous
    async def test_window_is_bounded_by_count(self):
        """With the window full the stream is not read; an answer makes room for one more."""
        packed = compress(encode_batch([log_pb2.Record(value=b"x")]), Codec.ZSTD)
        alone = log_pb2.ProduceBatchRequest(batch=packed, record_count=1, codec=Codec.ZSTD)  # not shared
        await self._check_window(alone, PIPELINE_MAX)

    @asynchronous
    async def test_window_of_a_producer(self):
        """A producer has no more under way than the log takes of it: it is held back, and never refused."""
        await self._check_window(batch([b"x"], producer_id=7), PRODUCER_BATCHES_MAX)

    async def _check_window(self, request, count):
        self.node.hold()
        call = self.stub().ProduceBatchStream()
        sender = asyncio.ensure_future(self._send(call, [request] * (count + 20)))
        await until(lambda: self.node.held_count == count)
        await self._stays(lambda: self.node.held_count == count)
        self.node.release(1)
        await call.read()
        await until(lambda: self.node.held_count == count)
        self.node.release()
        await sender
        self.assertEqual(len(await self._read_all(call)), count + 19)

    @asynchronous
    async def test_window_is_bounded_by_bytes(self):
        """Large batches fill the window by their bytes, and the client is held back."""
        self.node.hold()
        call = self.stub().ProduceBatchStream()
        large = batch([b"x" * (512 * KIB)] * 8)
        fit = PIPELINE_SIZE_MAX // large.ByteSize()
        sender = asyncio.ensure_future(self._send(call, [large] * (fit + 12)))
        await until(lambda: self.node.held_count == fit)
        await self._stays(lambda: self.node.held_count == fit and not sender.done())
        self.node.release()
        await sender
        self.assertEqual(len([answer async for answer in call]), fit + 12)

    @asynchronous
    async def test_a_bad_request_ends_the_stream_after_earlier_answers(self):
        """What came before a bad request is answered first; then comes its error, and nothing behind it."""
        self.node.hold()
        call = self.stub().ProduceStream()
        for request in (produce(b"a"), produce(b"b"), log_pb2.ProduceRequest(), produce(b"c")):
            await call.write(request)
        await until(lambda: self.node.held_count > 0)
        self.node.release()
        self.assertEqual([(await call.read()).offset, (await call.read()).offset], [0, 1])
        error = await self.refused(call.read(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details_of(error)[0].metadata["field"], "record")
        self.assertEqual(self.node.next_offset, 2)

    @asynchronous
    async def test_a_failed_append_ends_the_stream(self):
        """A proposal that fails gives its own error, here ABORTED because the outcome is unknown."""
        self.node.hold()
        call = self.stub().ProduceStream()
        await call.write(produce())
        await until(lambda: self.node.held_count == 1)
        self.node.failure = OutcomeUnknownError("the leader stopped before the record was committed")
        self.node.release()
        error = await self.refused(call.read(), grpc.StatusCode.ABORTED)
        self.assertEqual(details_of(error)[0].reason, "OUTCOME_UNKNOWN")

    @asynchronous
    async def test_client_goes_away(self):
        """A cancelled stream leaves no task, and what was proposed may still become durable."""
        self.node.hold()
        before = asyncio.all_tasks()
        call = self.stub().ProduceBatchStream()
        await call.write(batch([b"x"]))
        await until(lambda: self.node.held_count == 1)
        call.cancel()
        await until(lambda: not any("answer" in str(t) for t in asyncio.all_tasks() - before))
        self.assertEqual((await self._bounds()).next, 0)

    @asynchronous
    async def test_deadline(self):
        """A produce that is not durable in time ends with DEADLINE_EXCEEDED; the next one is served."""
        self.node.hold()
        await self.root.Bounds(log_pb2.BoundsRequest())
        await self.refused(self.root.Produce(produce(), timeout=0.2), grpc.StatusCode.DEADLINE_EXCEEDED)
        await until(lambda: self.node.held_count == 1)
        self.node.release()
        self.assertEqual((await self.root.Produce(produce())).offset, 1)

    @asynchronous
    async def test_large_compressed_batches_keep_their_order(self):
        """Batches that are unpacked off the loop are appended in the order in which they were sent."""
        call = self.stub().ProduceBatchStream()
        noise = random.Random(7)
        sent = []
        for number in range(6):
            values = [noise.randbytes(100 * KIB)] if number % 2 else [b"small"]
            request = batch(values)
            request.batch, request.codec = compress(request.batch, Codec.ZSTD), log_pb2.CODEC_ZSTD
            self.assertEqual(len(request.batch) > UNPACKED_AT_ONCE_MAX, bool(number % 2))
            sent.append(request.batch)
            await call.write(request)
        await call.done_writing()
        self.assertEqual([a.base_offset for a in await self._read_all(call)], list(range(6)))
        self.assertEqual([bytes(entry.payload) for entry in self.node.entries], sent)
        follow = self.stub().ConsumeStream(log_pb2.ConsumeRequest())
        sizes = [len((await follow.read()).record.value) for _ in range(6)]
        self.assertEqual(sizes, [5, 100 * KIB] * 3)
        follow.cancel()

    async def _bounds(self):
        return await self.stub().Bounds(log_pb2.BoundsRequest())

    async def _send(self, call, requests):
        for request in requests:
            await call.write(request)
        await call.done_writing()

    async def _read_all(self, call):
        answers = []
        while (answer := await call.read()) is not aio.EOF:
            answers.append(answer)
        return answers

    async def _stays(self, condition):
        """The condition holds for many turns in which the server could have gone on."""
        for _ in range(3):
            await self._bounds()
            self.assertTrue(condition())


class FollowTests(DoorCase):
    """`ConsumeStream` and `FetchStream`."""

    @asynchronous
    async def test_consume_stream_follows(self):
        """It starts inside a batch, delivers everything in order, and wakes for what comes later."""
        await self.root.ProduceBatch(batch([b"0", b"1", b"2"]))
        call = self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=1))
        for expected in (1, 2):
            record = (await call.read()).record
            self.assertEqual((record.offset, record.value), (expected, b"%d" % expected))
            self.assertEqual(record.timestamp, self.node.entries[0].timestamp)
        await until(lambda: self.node.waiters)
        for number in range(3, 6):
            await self.root.Produce(produce(b"%d" % number))
            self.assertEqual((await call.read()).record.value, b"%d" % number)
        call.cancel()
        await until(lambda: not self.node.waiters)

    @asynchronous
    async def test_no_polling_at_the_tail(self):
        """A follower at the tail asks the node for nothing until there is something."""
        call = self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=0))
        await until(lambda: self.node.waiters)
        for _ in range(5):
            await self.root.Bounds(log_pb2.BoundsRequest())
        self.assertEqual(self.node.fetches, 0)
        await self.root.Produce(produce())
        await call.read()
        await until(lambda: self.node.waiters)
        self.assertEqual(self.node.fetches, 1)
        call.cancel()

    @asynchronous
    async def test_above_waits_and_below_is_the_error(self):
        """A stream from above the log waits for its offset; from below the lowest it is OUT_OF_RANGE."""
        for name in ("ConsumeStream", "FetchStream"):
            kind = log_pb2.ConsumeRequest if name == "ConsumeStream" else log_pb2.FetchRequest
            base = self.node.next_offset
            call = getattr(self.root, name)(kind(offset=base + 2))
            await until(lambda: self.node.waiters)
            await self.root.Produce(produce(b"0"))
            await self.root.Produce(produce(b"1"))
            self.assertTrue(self.node.waiters)
            await self.root.Produce(produce(b"2"))
            answer = await call.read()
            if name == "ConsumeStream":
                self.assertEqual((answer.record.offset, answer.record.value), (base + 2, b"2"))
            else:
                self.assertEqual(answer.next_offset, base + 3)
            call.cancel()
            self.node.cluster.forget(base + 1)
            error = await self.refused(
                getattr(self.root, name)(kind(offset=base)).read(), grpc.StatusCode.OUT_OF_RANGE
            )
            self.assertEqual(details_of(error)[0].metadata["lowest"], str(base + 1))

    @asynchronous
    async def test_births_are_left_out(self):
        """Clients of before know no births, and gRPC does not tell who is one: no client gets any."""
        cluster = self.node.cluster
        kinds = []
        cluster.add_values(b"0")
        self.node.later_index = cluster.append(b"birth", 0, kind=EntryKind.BIRTH).index
        cluster.add_values(b"1", b"2")
        cluster.append(b"", 0, kind=EntryKind.NOOP)
        answers = [await self.root.Fetch(log_pb2.FetchRequest(offset=offset)) for offset in (0, 1)]
        call = self.root.FetchStream(log_pb2.FetchRequest())
        answers.append(await call.read())
        call.cancel()
        for answer in answers:
            self.assertEqual(answer.next_offset, 3)
            kinds.append([entry.kind for entry in decode_entries(self.node.seed, answer.frames)])
        self.assertEqual(kinds, [[1, 1, 2], [1, 2], [1, 1, 2]])

    @asynchronous
    async def test_entries_behind_the_birth_are_not_looked_through(self):
        """What begins behind the birth is passed on as the same bytes, not walked through."""
        self.node.cluster.append(b"birth", 0, kind=EntryKind.BIRTH)
        self.node.later_index = 1
        self.node.cluster.add_values(b"0")
        self.patch(log_service, "without_kinds", None)
        answer = await self.root.Fetch(log_pb2.FetchRequest())
        self.assertEqual(len(list(decode_entries(self.node.seed, answer.frames))), 1)

    @asynchronous
    async def test_fetch_stream_follows(self):
        """Whole frames, at most the asked size where entries allow, then whatever is appended."""
        for number in range(10):
            await self.root.ProduceBatch(batch([b"%d" % number * 100]))
        frame = self.node.entries[0].size
        call = self.root.FetchStream(log_pb2.FetchRequest(offset=0, size_max=3 * frame))
        sizes, offsets = [], []
        for _ in range(4):
            answer = await call.read()
            sizes.append(len(answer.frames) // frame)
            offsets += [e.base_offset for e in decode_entries(self.node.seed, answer.frames)]
        self.assertEqual((sizes, offsets), ([3, 3, 3, 1], list(range(10))))
        await self.root.ProduceBatch(batch([b"more"]))
        self.assertEqual((await call.read()).next_offset, 11)
        call.cancel()
        await until(lambda: not self.node.waiters)

    @asynchronous
    async def test_a_slow_reader_holds_little(self):
        """A reader that stops reading stops the server's reading too; memory stays where it is."""
        payload = encode_batch([log_pb2.Record(value=b"x" * (64 * KIB - 64))])
        for _ in range(1024):
            proposing(self.node.propose, Proposal(payload=payload, record_count=1))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call = self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=0))
        await call.read()
        fetches = -1
        while fetches != self.node.fetches:
            fetches = self.node.fetches
            for _ in range(10):
                await self.root.Bounds(log_pb2.BoundsRequest())
        # 64 MiB are there to be read; windows of both sides hold a few MiB of them.
        self.assertLess(fetches * CONSUME_SIZE, 24 * MIB)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.assertLess((after - before) * KIB, 48 * MIB)
        received = 1
        while received < 1024:
            await call.read()
            received += 1
        call.cancel()

    @asynchronous
    async def test_readers_share_what_they_hold(self):
        """The more readers there are, the less each takes at a time: all together hold a bounded size."""
        await self.root.Produce(produce())
        calls = []
        for _ in range(64):
            call = self.root.FetchStream(log_pb2.FetchRequest(size_max=FETCH_SIZE_MAX))
            await call.read()
            calls.append(call)
        self.assertEqual(self.node.sizes, [min(FETCH_SIZE_MAX, READERS_SIZE_MAX // n) for n in range(1, 65)])
        for call in calls:
            call.cancel()
        await until(lambda: not self.node.waiters)
        await self.root.Fetch(log_pb2.FetchRequest(size_max=FETCH_SIZE_MAX))
        self.assertEqual(self.node.sizes[-1], FETCH_SIZE_MAX)

    @asynchronous
    async def test_many_followers_go_at_once(self):
        """A hundred followers whose connection closes leave no waiter and no task."""
        channel = self.channel()
        before = asyncio.all_tasks()
        follow = channel.unary_stream(
            "/log.v1.Log/ConsumeStream",
            request_serializer=log_pb2.ConsumeRequest.SerializeToString,
            response_deserializer=log_pb2.ConsumeResponse.FromString,
        )
        calls = [follow(log_pb2.ConsumeRequest(offset=0)) for _ in range(100)]
        await until(lambda: len(self.node.waiters) == 100)
        await channel.close()
        await until(lambda: not self.node.waiters)
        del calls
        await until(lambda: not any("answer" in str(t) for t in asyncio.all_tasks() - before))

    @asynchronous
    async def test_stop_ends_followers(self):
        """Stopping the door with no grace ends waiting streams and forgets their waiters."""
        call = self.stub().ConsumeStream(log_pb2.ConsumeRequest(offset=0))
        await until(lambda: self.node.waiters)
        await self.server.stop(0)
        await until(lambda: not self.node.waiters)
        try:
            await call.read()
        except aio.AioRpcError as error:
            self.assertIn(error.code(), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))
        else:
            raise self.failureException("the stream went on")

    @asynchronous
    async def test_stop_under_load(self):
        """Who calls while the door stops is told that nothing was done; nobody is left without an outcome."""
        codes = []

        async def append_until_refused(stub):
            answered = 0
            while True:
                try:
                    await stub.Produce(produce())
                except aio.AioRpcError as error:
                    codes.append(error.code())
                    return answered
                answered += 1

        clients = [append_until_refused(stub) for stub in [self.stub() for _ in range(8)] for _ in range(8)]
        clients = [asyncio.ensure_future(client) for client in clients]
        await until(lambda: self.node.next_offset > 200)
        await self.server.stop(30)
        self.assertEqual(sum([await client for client in clients]), self.node.next_offset)
        self.assertEqual(set(codes), {grpc.StatusCode.UNAVAILABLE})

    @asynchronous
    async def test_stop_ends_a_stream_that_never_ends(self):
        """A producer's stream ends with its next message, long before the grace is over."""
        call = self.stub().ProduceStream()
        await call.write(produce())
        await call.read()
        stop = asyncio.ensure_future(self.server.stop(1_000))
        await until(lambda: self.server.health.is_stopping)
        await call.write(produce())
        await self.refused(call.read(), grpc.StatusCode.UNAVAILABLE)
        await stop
        self.assertEqual(self.node.next_offset, 1)

    @asynchronous
    async def test_a_revoked_permission_ends_a_stream(self):
        """A follower whose permission went is refused at the next entry."""
        call = self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=0))
        await until(lambda: self.node.waiters)
        self.policy_path.write_text("p, root, *, produce\n")
        self.authorizer.take(self.authorizer.read())
        await self.root.Produce(produce())
        await self.refused(call.read(), grpc.StatusCode.PERMISSION_DENIED)
