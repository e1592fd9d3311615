"""Authenticated clients that send rubbish, or open and reset, cost little and learn nothing."""

import asyncio
import os
import random

import grpc
from grpc import aio

from loghouse.api import guard
from loghouse.api.v1 import log_pb2
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX, MIB
from loghouse.protocol.varint import encode_varint
from tests.api.doors import DoorCase, batch, details_of, produce
from tests.api.test_door import every_rpc, invoke
from tests.fakes.secured import POLICY
from tests.fakes.tasks import asynchronous, until

ROUNDS = int(os.environ.get("LOGHOUSE_HOSTILE_ROUNDS", "15"))
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a stream from an offset far above waits
}


class HostileTests(DoorCase):
    """Whatever the bytes, the answer is a status of the table."""

    policy = POLICY + "p, root, *, admin\n"

    @asynchronous
    async def test_random_requests(self):
        """Random and mutilated messages to every call: never UNKNOWN or INTERNAL, and the door goes on."""
        noise = random.Random(20)
        seeds = [
            b"",
            produce(b"x" * 30, log="default", expect_offset=2**63).SerializeToString(),
            batch([b"a", b"b"], log="default", batch_crc=7, producer_id=1).SerializeToString(),
            log_pb2.FetchRequest(offset=2**64 - 1, size_max=2**32 - 1).SerializeToString(),
        ]
        channel = self.channel()
        for name, method in every_rpc():
            results = await asyncio.gather(
                *[self._code(channel, name, method, _mutilated(noise, seeds)) for _ in range(ROUNDS)]
            )
            self.assertLessEqual(set(results), EXPECTED, name)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual((await self.stub().Bounds(log_pb2.BoundsRequest())).next, self.node.next_offset)

    @asynchronous
    async def test_many_small_parts(self):
        """Requests of many fields or headers of two bytes are refused before they are parsed."""
        parsed = []
        real = guard.parse

        def parse(kind, message):
            parsed.append(message)
            return real(kind, message)

        self.patch(guard, "parse", parse)
        room = GRPC_MESSAGE_SIZE_MAX // 2 - 8
        header = b"\x32\0"  # field 6 of a record
        rows = [
            ("/log.v1.Log/Produce", b"\x0a\0" * room, "record"),
            ("/log.v1.Log/Produce", b"\x0a\0" * (MIB // 2), "request"),
            ("/log.v1.Log/Produce", b"\x0a" + encode_varint(MIB) + header * (MIB // 2), "record.headers"),
            (
                "/log.v1.Log/Produce",
                (b"\x0a" + encode_varint(MIB // 2) + header * (MIB // 4)) * 2,
                "record",
            ),
            ("/log.v1.Log/Produce", b"\x8a\0" + encode_varint(MIB) + header * (MIB // 2), "record"),
            ("/log.v1.Log/ProduceBatch", b"\x0a\0" * room, "request"),
            ("/log.v1.Log/Fetch", b"\x08\0" * room, "request"),
            ("/log.v1.Log/Bounds", b"\x40\0" * room, "request"),
            ("/log.v1.Log/Bounds", b"\xff" * MIB, "request"),
        ]
        for method, request, field in rows:
            call = self.channel().unary_unary(method)
            error = await self.refused(call(request), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(details_of(error)[0].metadata["field"], field, method)
        stream = self.channel().stream_stream("/log.v1.Log/ProduceStream")(iter([rows[2][1]]))
        error = await self.refused(stream.read(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details_of(error)[0].metadata["field"], "record.headers")
        self.assertEqual(parsed, [])
        # A value that looks like headers is none.
        answer = await self.stub().Produce(produce(b"2" * (MIB - 100), log="default"))
        self.assertEqual(answer.offset, 0)

    async def _code(self, channel, name, method, request):
        """The status of a call, or OK at its first answer; one that only waits is left after a moment."""
        work = asyncio.ensure_future(invoke(channel, name, method, request))
        done, _ = await asyncio.wait([work], timeout=0.3)
        if not done:
            work.cancel()
            return grpc.StatusCode.DEADLINE_EXCEEDED
        try:
            await work
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    @asynchronous
    async def test_opened_and_reset(self):
        """Hundreds of calls that are opened and reset at once leave no waiter, no task and no delay."""
        channel = self.channel()
        before = asyncio.all_tasks()
        follow = channel.unary_stream("/log.v1.Log/ConsumeStream")
        append = channel.stream_stream("/log.v1.Log/ProduceBatchStream")
        for _ in range(20):
            calls = [follow(b"") for _ in range(20)] + [append() for _ in range(20)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
        self.assertEqual((await self.stub().Produce(produce())).offset, 0)
        await until(lambda: not self.node.waiters)
        await until(lambda: not any("answer" in str(t) for t in asyncio.all_tasks() - before))


def _mutilated(noise, seeds):
    """A seed with some bytes changed, cut or added, or just noise."""
    if noise.random() < 0.3:
        return noise.randbytes(noise.randrange(64))
    message = bytearray(noise.choice(seeds))
    for _ in range(noise.randrange(4)):
        if message:
            message[noise.randrange(len(message))] = noise.randrange(256)
    return bytes(message[: noise.randrange(len(message) + 1)]) + noise.randbytes(noise.randrange(3))
