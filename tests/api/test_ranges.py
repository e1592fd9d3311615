"""Reads of a range by gRPC: `log.v1.Log/Read`, and batches that are too large for a message."""

import random

import grpc

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import GRPC_FRAMES_SIZE_MAX, MIB
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, decode_entries
from loghouse.shares import Shares
from tests.api.doors import DoorCase, details_of
from tests.fakes.tasks import asynchronous, until

NOISE = random.Random(9)
VALUES = [NOISE.randbytes(MIB - 100) for _ in range(7)]
Filter, Request = log_pb2.RecordFilter, log_pb2.ReadRequest


class ReadTests(DoorCase):
    """What is asked for, and what comes."""

    async def begin(self):
        self.shares = Shares()
        await self.open_door(shares=self.shares)

    def values_of(self, response):
        return [
            record.value
            for entry in decode_entries(self.node.seed, response.frames)
            for record in decode_batch(entry.payload, entry.attributes).records
        ]

    def fill(self):
        for number in range(4):
            header = [log_pb2.Header(key="h", value=b"v")] if number == 3 else []
            key = b"odd" if number % 2 else b"even"
            self.node.cluster.add_records(log_pb2.Record(value=b"%d" % number, key=key, headers=header))

    @asynchronous
    async def test_ranges(self):
        """Either way, bounded or not, with and without a filter."""
        self.fill()
        everything = [b"0", b"1", b"2", b"3"]
        for request, values, next_offset in (
            (Request(), everything, 4),
            (Request(first=1, end=3), [b"1", b"2"], 3),
            (Request(end=0), [], 0),
            (Request(reverse=True), everything, 0),
            (Request(reverse=True, count_max=1), [b"3"], 3),
            (Request(filter=Filter()), everything, 4),
            (Request(filter=Filter(keys=[b"odd"])), [b"1", b"3"], 4),
            (Request(filter=Filter(key_prefixes=[b"e"]), reverse=True, count_max=1), [b"2"], 2),
            (Request(filter=Filter(headers=[log_pb2.Header(key="h", value=b"v")])), [b"3"], 4),
            (Request(filter=Filter(keys=[b"no"])), [], 4),
        ):
            response = await self.root.Read(request)
            self.assertEqual((self.values_of(response), response.next_offset), (values, next_offset), request)
            self.assertEqual((response.group, response.lowest, response.committed), (1, 0, 4))

    @asynchronous
    async def test_what_is_known(self):
        """The answer tells whether the leader confirmed that there is no more."""
        self.fill()
        for consistency, is_confirmed in (
            (log_pb2.CONSISTENCY_CONFIRMED, True),
            (log_pb2.CONSISTENCY_LOCAL, False),
        ):
            response = await self.root.Read(Request(first=4, consistency=consistency))
            self.assertEqual(response.is_confirmed, is_confirmed)

    @asynchronous
    async def test_waiting(self):
        """A read waits for the record that it begins at, and no longer than it says."""
        self.fill()
        waiting = self.root.Read(Request(first=4, wait_milliseconds=20_000))
        await until(lambda: self.node.waiters)
        self.assertEqual(self.shares.followers.held, 1)
        self.node.cluster.add_values(b"4")
        self.assertEqual(self.values_of(await waiting), [b"4"])
        response = await self.root.Read(Request(first=5, wait_milliseconds=1))
        self.assertEqual((response.frames, response.next_offset), (b"", 5))
        await until(lambda: not self.node.waiters)
        self.assertEqual(self.shares.followers.held, 0)

    @asynchronous
    async def test_refused(self):
        """Each mistake by the name of its field."""
        self.fill()
        for request, field in (
            (Request(first=2, end=1), "end"),
            (Request(consistency=9), "consistency"),
            (Request(wait_milliseconds=30_001), "wait_milliseconds"),
            (Request(filter=Filter(keys=[b"k"] * 17)), "filter"),
            (Request(filter=Filter(keys=[bytes(4097)])), "filter"),
        ):
            error = await self.refused(self.root.Read(request), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(details_of(error)[0].metadata["field"], field)
        await self.refused(self.root.Read(Request(first=5)), grpc.StatusCode.OUT_OF_RANGE)
        local = Request(first=5, consistency=log_pb2.CONSISTENCY_LOCAL)
        await self.refused(self.root.Read(local), grpc.StatusCode.UNAVAILABLE)
        nobody = self.stub("nobody")
        await self.refused(nobody.Read(Request()), grpc.StatusCode.PERMISSION_DENIED)


class LargeBatchTests(DoorCase):
    """A batch of 7 MiB between small ones, for stubs with default options."""

    async def check(self, codec, **fields):
        stub, wanted = log_pb2_grpc.LogStub(self.channel()), [b"before", *VALUES, b"behind"]
        for values in ([b"before"], VALUES, [b"behind"]):
            payload = encode_batch([log_pb2.Record(value=value, key=b"k") for value in values])
            request = log_pb2.ProduceBatchRequest(
                batch=compress(payload, codec), codec=codec, record_count=len(values)
            )
            await stub.ProduceBatch(request)
        for reverse in (False, True):
            for place in range(len(wanted)):
                request = Request(first=place, **fields)
                if reverse:
                    request = Request(end=place + 1, reverse=True, **fields)
                response = await stub.Read(request)
                self.assertLessEqual(len(response.frames), GRPC_FRAMES_SIZE_MAX)
                low, high = (response.next_offset, place + 1) if reverse else (place, response.next_offset)
                self.assertLess(low, high)
                is_right = self.records(response, low, high) == wanted[low:high]
                self.assertTrue(is_right, (place, reverse))

    def records(self, response, low, high):
        """The values of the answer's records from one offset up to another."""
        return [
            record.value
            for entry in decode_entries(self.node.seed, response.frames)
            for offset, record in enumerate(
                decode_batch(entry.payload, entry.attributes).records, entry.base_offset
            )
            if low <= offset < high
        ]

    @asynchronous
    async def test_plain(self):
        """Any record is reached either way, in messages of the default limit."""
        await self.check(Codec.NONE)

    @asynchronous
    async def test_packed(self):
        """The same of a batch that is compressed, and with a filter that takes all of it."""
        await self.check(Codec.ZSTD, filter=Filter(keys=[b"k"]))
