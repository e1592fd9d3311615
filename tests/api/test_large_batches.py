"""Batches above the usual limit of gRPC clients for a message: every stub reads them, as it comes."""

import random

import grpc

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.records import batches_of
from loghouse.limits import ENTRY_SIZE_MAX, GRPC_FRAMES_SIZE_MAX, MIB
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, decode_entries
from tests.api.doors import DoorCase
from tests.fakes.tasks import asynchronous

NOISE = random.Random(9)
VALUES = [NOISE.randbytes(MIB - 100) for _ in range(7)]


class LargeBatchTests(DoorCase):
    """A batch of 7 MiB between small ones, and stubs with default options."""

    async def fill(self, codec=Codec.NONE):
        stub = log_pb2_grpc.LogStub(self.channel())
        for values in ([b"before"], VALUES, [b"behind"]):
            payload = encode_batch([log_pb2.Record(value=value) for value in values])
            request = log_pb2.ProduceBatchRequest(
                batch=compress(payload, codec), codec=codec, record_count=len(values)
            )
            await stub.ProduceBatch(request)
        return stub

    def values_of(self, response, offset):
        found = batches_of(self.node.seed, response.frames, offset, response.next_offset, None)
        return [value for batch in found for value in batch.values()]

    @asynchronous
    async def test_fetch(self):
        """Any offset can be fetched; a message begins there and fits the default limit."""
        await self.check_fetch(Codec.NONE)

    @asynchronous
    async def test_fetch_packed(self):
        """The same when the batch is compressed, and hardly smaller by it."""
        await self.check_fetch(Codec.ZSTD)

    async def check_fetch(self, codec):
        stub, wanted = await self.fill(codec), [b"before", *VALUES, b"behind"]
        for offset in range(len(wanted)):
            for size_max in (0, 1000, 3 * MIB):
                response = await stub.Fetch(log_pb2.FetchRequest(offset=offset, size_max=size_max))
                self.assertLessEqual(response.ByteSize(), 4 * MIB)
                values = self.values_of(response, offset)
                self.assertEqual(values, wanted[offset : response.next_offset])
                self.assertTrue(values)
        [part] = decode_entries(self.node.seed, (await stub.Fetch(log_pb2.FetchRequest(offset=3))).frames)
        whole = self.node.entries[1]
        self.assertEqual(
            (part.index, part.term, part.timestamp, part.base_offset, part.record_count),
            (whole.index, whole.term, whole.timestamp, 3, 3),
        )

    @asynchronous
    async def test_follow(self):
        """A stream passes over it and goes on behind it."""
        stub = await self.fill()
        stream = stub.FetchStream(log_pb2.FetchRequest())
        values, offset = [], 0
        while offset < 9:
            response = await stream.read()
            values += self.values_of(response, offset)
            offset = response.next_offset
        stream.cancel()
        self.assertEqual(values, [b"before", *VALUES, b"behind"])

    @asynchronous
    async def test_whole_for_those_who_say_so(self):
        """A client that takes more and asks for more gets the bytes as they were appended."""
        await self.fill()
        options = [("grpc.max_receive_message_length", 16 * MIB)]
        stub = log_pb2_grpc.LogStub(self.channel(options=options))
        response = await stub.Fetch(log_pb2.FetchRequest(offset=1, size_max=ENTRY_SIZE_MAX))
        self.assertGreater(len(response.frames), GRPC_FRAMES_SIZE_MAX)
        self.assertEqual(next(decode_entries(self.node.seed, response.frames)), self.node.entries[1])

    @asynchronous
    async def test_the_limit_is_there(self):
        """A stub as it comes takes no message above 4 MiB: else this would prove nothing."""
        stub = await self.fill()
        fetch = stub.Fetch(log_pb2.FetchRequest(offset=1, size_max=8 * MIB))
        await self.refused(fetch, grpc.StatusCode.RESOURCE_EXHAUSTED)
