"""The calls of `log.v1.Log`, over real gRPC and TLS, against a node in memory."""

import asyncio

import grpc
from google.rpc import error_details_pb2

from loghouse.api import log_service, unpacking
from loghouse.api.v1 import log_pb2
from loghouse.limits import KIB
from loghouse.protocol.batch import decode_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import Codec, crc32c, decode_entries
from tests.api.doors import DoorCase, batch, details_of, produce
from tests.fakes.node import FakeNode
from tests.fakes.tasks import asynchronous, until


class UnaryTests(DoorCase):
    """One request, one answer."""

    @asynchronous
    async def test_produce_and_consume(self):
        """A record comes back as it was sent, with its offset and a time."""
        header = log_pb2.Header(key="h", value=b"1")
        sent = log_pb2.Record(value=b"hello", key=b"k", headers=[header], term=7, type=9, offset=55)
        first = await self.root.Produce(log_pb2.ProduceRequest(record=sent))
        second = await self.root.Produce(
            log_pb2.ProduceRequest(record=log_pb2.Record(timestamp=5), log="default")
        )
        self.assertEqual((first.offset, second.offset), (0, 1))
        record = (await self.root.Consume(log_pb2.ConsumeRequest(offset=0))).record
        self.assertEqual((record.value, record.key, record.headers[0]), (b"hello", b"k", header))
        self.assertEqual((record.offset, record.term, record.type), (0, 7, 9))
        self.assertEqual(record.timestamp, self.node.entries[0].timestamp)
        record = (await self.root.Consume(log_pb2.ConsumeRequest(offset=1))).record
        self.assertEqual((record.offset, record.timestamp, record.value), (1, 5, b""))

    @asynchronous
    async def test_out_of_range(self):
        """Below the lowest and at the next offset: OUT_OF_RANGE with the bounds and the original's text."""
        error = await self.refused(self.root.Consume(log_pb2.ConsumeRequest()), grpc.StatusCode.OUT_OF_RANGE)
        info, _ = details_of(error)
        self.assertEqual(dict(info.metadata), {"lowest": "0", "next": "0"})
        for _ in range(3):
            await self.root.Produce(produce())
        self.node.cluster.forget(1)
        for offset in (0, 3, 2**64 - 1):
            for call in (
                self.root.Consume(log_pb2.ConsumeRequest(offset=offset)),
                self.root.Fetch(log_pb2.FetchRequest(offset=offset)),
            ):
                error = await self.refused(call, grpc.StatusCode.OUT_OF_RANGE)
                info, rest = details_of(error)
                self.assertEqual((info.domain, info.reason), ("loghouse", "OFFSET_OUT_OF_RANGE"))
                self.assertEqual(dict(info.metadata), {"lowest": "1", "highest": "2", "next": "3"})
                message = error_details_pb2.LocalizedMessage()
                self.assertTrue(rest[0].Unpack(message))
                self.assertEqual(
                    (message.locale, message.message),
                    ("en-US", f"The requested offset is outside the log's range: {offset}"),
                )

    @asynchronous
    async def test_unary_produces_of_a_turn_share_an_entry(self):
        """Records that arrive together become few entries, each with its own offset."""
        self.node.hold()
        values = [b"%d" % number for number in range(64)]
        calls = asyncio.gather(*[self.root.Produce(produce(value)) for value in values])
        await until(lambda: self.node.checks == 64)
        self.assertLessEqual(self.node.held_count, 1)
        self.node.release()
        answers = await calls
        self.assertLessEqual(len(self.node.proposals), 2)
        for value, answer in zip(values, answers, strict=True):
            record = (await self.root.Consume(log_pb2.ConsumeRequest(offset=answer.offset))).record
            self.assertEqual((record.value, record.offset), (value, answer.offset))
        self.assertEqual(sorted(answer.offset for answer in answers), list(range(64)))

    @asynchronous
    async def test_bad_records(self):
        """No record, a too large one, no request at all, an unknown log: refused, nothing appended."""
        await self.open_door(record_size_max=1000)
        rows = [
            (log_pb2.ProduceRequest(), "record"),
            (produce(b"x" * 1001), "record"),
            (produce(log="x" * 64), "log"),
        ]
        for request, field in rows:
            error = await self.refused(self.root.Produce(request), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(details_of(error)[0].metadata["field"], field)
        raw = self.channel().unary_unary("/log.v1.Log/Produce")
        error = await self.refused(raw(b"\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details_of(error)[0].metadata["field"], "request")
        error = await self.refused(self.root.Produce(produce(log="other")), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(details_of(error)[0].metadata["log"], "other")
        self.assertEqual(self.node.proposals, [])
        self.assertEqual((await self.root.Produce(produce())).offset, 0)

    @asynchronous
    async def test_batches(self):
        """A batch's bytes are stored as they came, and fetched as whole frames."""
        request = batch([b"a", b"b", b"c"])
        request.batch_crc = crc32c(request.batch)
        answer = await self.root.ProduceBatch(request)
        self.assertEqual(
            (answer.base_offset, answer.record_count, answer.timestamp),
            (0, 3, self.node.entries[0].timestamp),
        )
        packed = batch([b"d" * 100, b"e" * 100])
        packed.batch, packed.codec = compress(packed.batch, Codec.ZSTD), log_pb2.CODEC_ZSTD
        self.assertEqual((await self.root.ProduceBatch(packed)).base_offset, 3)
        fetched = await self.root.Fetch(log_pb2.FetchRequest(offset=1))
        entries = list(decode_entries(self.node.seed, fetched.frames))
        self.assertEqual([bytes(entry.payload) for entry in entries], [request.batch, packed.batch])
        self.assertEqual(entries[0].payload_crc, request.batch_crc)
        self.assertEqual(fetched.next_offset, 5)
        self.assertEqual(decode_batch(entries[1].payload, 1).records[1].value, b"e" * 100)
        record = (await self.root.Consume(log_pb2.ConsumeRequest(offset=4))).record
        self.assertEqual((record.value, record.offset), (b"e" * 100, 4))
        one = await self.root.Fetch(log_pb2.FetchRequest(offset=0, size_max=1))
        self.assertEqual(one.next_offset, 3)

    @asynchronous
    async def test_small_entries_of_many_records(self):
        """An entry that unpacks to a hundred thousand records is read a piece at a time, from any offset."""
        self.node.cluster.lowest = self.node.cluster.next_offset = 7
        count = 100_000
        payload = b"\n\0" * (count - 1) + b"\n\x03\n\x01x"
        request = log_pb2.ProduceBatchRequest(batch=compress(payload, 1), codec=1, record_count=count)
        self.assertLess(len(request.batch), KIB)
        await self.root.ProduceBatch(request)
        made = []
        real = unpacking.parse

        def parse(form, piece):
            parsed = real(form, piece)
            made.append(len(parsed.records))
            return parsed

        self.patch(unpacking, "parse", parse)
        record = (await self.root.Consume(log_pb2.ConsumeRequest(offset=7 + count - 1))).record
        self.assertEqual((record.offset, record.value), (7 + count - 1, b"x"))
        self.assertEqual(made, [1])
        stream = self.root.ConsumeStream(log_pb2.ConsumeRequest(offset=7 + count - 3000))
        read = [(await stream.read()).record for _ in range(3000)]
        stream.cancel()
        self.assertEqual([r.offset for r in read], list(range(7 + count - 3000, 7 + count)))
        self.assertEqual([r.value for r in read[-2:]], [b"", b"x"])
        self.assertLessEqual(max(made) * unpacking.RECORD_COST, log_service.CONSUME_SIZE)

    @asynchronous
    async def test_expect_offset_and_producer(self):
        """Both reach the node unshared, and a conflict is FAILED_PRECONDITION with what was expected."""
        await self.root.Produce(produce(expect_offset=0))
        error = await self.refused(
            self.root.Produce(produce(expect_offset=0)), grpc.StatusCode.FAILED_PRECONDITION
        )
        self.assertEqual(dict(details_of(error)[0].metadata), {"expected": "0", "actual": "1"})
        await self.root.Produce(produce(producer_id=5, producer_sequence=6))
        await self.root.ProduceBatch(batch([b"a"], producer_id=7, producer_sequence=8, expect_offset=2))
        sent = [(p.expect_offset, p.producer_id, p.producer_sequence) for p in self.node.proposals]
        self.assertEqual(sent, [(0, 0, 0), (0, 0, 0), (None, 5, 6), (2, 7, 8)])
        self.assertEqual({p.subject for p in self.node.proposals}, {"root"})

    @asynchronous
    async def test_bounds_times_and_servers(self):
        """Bounds, the offset of a time, and the nodes."""
        for _ in range(3):
            await self.root.Produce(produce())
        self.node.cluster.forget(1)
        bounds = await self.root.Bounds(log_pb2.BoundsRequest())
        self.assertEqual((bounds.lowest, bounds.next), (1, 3))
        time = self.node.entries[1].timestamp
        found = await self.root.FindOffset(log_pb2.FindOffsetRequest(timestamp=time))
        self.assertEqual((found.offset, found.timestamp), (2, time))
        FakeNode(
            self.node.cluster,
            "n2",
            address="127.0.0.1:8410",
            grpc_address="127.0.0.1:8411",
            role=MemberRole.LEARNER,
            is_alive=False,
        )
        servers = await self.root.GetServers(log_pb2.GetServersRequest())
        self.assertEqual((servers.cluster_uuid, servers.cluster_name), (self.node.cluster_uuid, "c1"))
        self.assertEqual(
            [(s.id, s.rpc_addr, s.is_leader, s.role, s.grpc_addr, s.is_alive) for s in servers.servers],
            [
                ("n1", "127.0.0.1:8400", True, "voter", "", True),
                ("n2", "127.0.0.1:8410", False, "learner", "127.0.0.1:8411", False),
            ],
        )
