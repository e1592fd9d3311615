"""Clusters in memory behind real gRPC ports: an honest log, and nodes that fail as they are told."""

import asyncio
import functools
import time

import grpc
from grpc import aio
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from loghouse.api.status import answer_of
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client import AsyncClient
from loghouse.client.failures import LEADER_KEY
from loghouse.errors import ExpectOffsetError, LoghouseError, OffsetOutOfRangeError, UnavailableError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX, KIB, RECORD_SIZE_MAX
from loghouse.protocol.batch import check_batch, decode_batch, encode_batch
from loghouse.protocol.entry import CODEC_MASK, EntryKind, frame_seed, make_entry
from loghouse.protocol.log_state import LogState, ProducedBatch, Producer

FETCH_SIZE = 256 * KIB
LOST = object()
"""A fault: the call is carried out, and then its link breaks."""
BROKEN = object()
"""A fault: the link breaks, and nothing is carried out."""
HANG = object()
"""A fault: nothing is carried out and nothing answered."""


class FakeCluster:
    """One log and the nodes that serve it; `nodes[0]` leads at first."""

    def __init__(self, number=1):
        self.uuid = bytes([number]) * 16
        self.seed = frame_seed(self.uuid, 1)
        self.entries = []
        self.state = LogState()
        self.lowest = 0
        self.leader = None
        self.nodes = []
        self.changed = asyncio.Event()
        self.next_id = 1

    async def start(self, count=3):
        for number in range(1, count + 1):
            await self.add(f"n{number}")
        self.leader = self.nodes[0]
        return self

    async def add(self, name):
        node = FakeNode(self, name)
        await node.start()
        self.nodes.append(node)
        return node

    async def stop(self):
        for node in self.nodes:
            await node.stop()

    @property
    def target(self):
        return ",".join(node.address for node in self.nodes)

    @property
    def next_offset(self):
        return self.entries[-1].next_offset if self.entries else 0

    @property
    def values(self):
        return [
            record.value
            for entry in self.entries
            for record in decode_batch(entry.payload, entry.attributes & CODEC_MASK).records
        ]

    def append(self, payload, record_count, *, codec=0, producer_id=0, sequence=0):
        """Return the base offset; the cluster's own rule for producers.

        Raises:
            LoghouseError: It is not the producer's next.
        """
        if producer_id:
            found = self.state.find_batch(producer_id, "root", sequence)
            if found is not None:
                return found.base_offset
        offset = self.next_offset
        entry = make_entry(
            self.seed,
            index=len(self.entries) + 1,
            term=1,
            kind=EntryKind.RECORDS,
            base_offset=offset,
            timestamp=1_700_000_000_000_000 + len(self.entries),
            payload=payload,
            attributes=codec,
            record_count=record_count,
        )
        self.entries.append(entry)
        if producer_id:
            batches = self.state.producers[producer_id].batches
            batches.append(ProducedBatch(sequence, offset, record_count, entry.index))
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        return offset

    def add_values(self, *values):
        return self.append(encode_batch([log_pb2.Record(value=value) for value in values]), len(values))

    def register(self):
        producer_id, self.next_id = self.next_id, self.next_id + 1
        self.state.producers[producer_id] = Producer("root")
        return producer_id


class FakeNode(log_pb2_grpc.LogServicer, log_pb2_grpc.ClusterServicer):
    """One node. `faults` maps a method to what its next calls do: an error, LOST, BROKEN or HANG.

    `calls` notes every call; `is_mute` keeps new records from its readers.
    """

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.faults = {}
        self.calls = []
        self.open_streams = 0
        self.sent_size = 0
        self.is_mute = False
        self.is_alive = True
        self.grpc_address = ""
        self.port = 0
        self._server = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    async def start(self):
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
            ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
        ]
        self._server = aio.server(options=options)
        log_pb2_grpc.add_LogServicer_to_server(self, self._server)
        log_pb2_grpc.add_ClusterServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self):
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    def count(self, method):
        return self.calls.count(method)

    # --- faults -------------------------------------------------------------------------

    async def _begin(self, method, context):
        """Note a call; return whether its link shall break behind it."""
        self.calls.append(method)
        faults = self.faults.get(method)
        fault = faults.pop(0) if faults else None
        if fault is HANG:
            await asyncio.Event().wait()
        if fault is BROKEN:
            await self._break(context)
        if isinstance(fault, LoghouseError):
            await self._refuse(context, fault)
        return fault is LOST

    async def _break(self, context):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async def _refuse(self, context, error):
        answer = answer_of(error)
        await context.abort(answer.code, answer.text, answer.trailers)

    async def _append(self, context, *arguments, **fields):
        """Append, as the leader or through it; name it if it is another."""
        leader = self.cluster.leader
        if leader is None:
            await self._refuse(context, UnavailableError("no leader is known; nothing was done, try again"))
        if leader is not self:
            context.set_trailing_metadata(((LEADER_KEY, leader.name),))
        try:
            return self.cluster.append(*arguments, **fields)
        except LoghouseError as error:
            await self._refuse(context, error)

    # --- the service ----------------------------------------------------------------------

    async def Produce(self, request, context):
        is_lost = await self._begin("Produce", context)
        next_offset = self.cluster.next_offset
        if request.HasField("expect_offset") and request.expect_offset != next_offset:
            await self._refuse(context, ExpectOffsetError(request.expect_offset, next_offset))
        offset = await self._append(context, encode_batch([request.record]), 1)
        if is_lost:
            await self._break(context)
        return log_pb2.ProduceResponse(offset=offset)

    async def ProduceBatch(self, request, context):
        await self._begin("ProduceBatch", context)
        return await self._batch(request, context)

    async def _batch(self, request, context):
        try:
            check_batch(
                request.batch,
                record_count=request.record_count,
                codec=request.codec,
                payload_crc=request.batch_crc,
                record_size_max=RECORD_SIZE_MAX,
            )
        except LoghouseError as error:
            await self._refuse(context, error)
        offset = await self._append(
            context,
            request.batch,
            request.record_count,
            codec=request.codec,
            producer_id=request.producer_id,
            sequence=request.producer_sequence,
        )
        return log_pb2.ProduceBatchResponse(base_offset=offset, record_count=request.record_count)

    async def ProduceBatchStream(self, requests, context):
        self.open_streams += 1
        try:
            async for request in requests:
                is_lost = await self._begin("ProduceBatchStream", context)
                answer = await self._batch(request, context)
                if is_lost:
                    await self._break(context)
                yield answer
        finally:
            self.open_streams -= 1

    async def RegisterProducer(self, request, context):
        await self._begin("RegisterProducer", context)
        return log_pb2.RegisterProducerResponse(producer_id=self.cluster.register())

    async def GetServers(self, request, context):
        await self._begin("GetServers", context)
        servers = [
            log_pb2.Server(
                id=node.name,
                rpc_addr=node.address,
                grpc_addr=node.grpc_address,
                is_leader=node is self.cluster.leader,
                role="voter",
                is_alive=node.is_alive,
            )
            for node in self.cluster.nodes
        ]
        return log_pb2.GetServersResponse(
            servers=servers, cluster_uuid=self.cluster.uuid, cluster_name="fake"
        )

    async def Bounds(self, request, context):
        await self._begin("Bounds", context)
        return log_pb2.BoundsResponse(lowest=self.cluster.lowest, next=self.cluster.next_offset)

    async def FindOffset(self, request, context):
        await self._begin("FindOffset", context)
        for entry in self.cluster.entries:
            if entry.timestamp >= request.timestamp:
                return log_pb2.FindOffsetResponse(offset=entry.base_offset, timestamp=entry.timestamp)
        return log_pb2.FindOffsetResponse(offset=self.cluster.next_offset)

    async def FetchStream(self, request, context):
        offset = request.offset
        self.open_streams += 1
        try:
            while True:
                is_lost = await self._begin("FetchStream", context)
                while self.is_mute or self.cluster.next_offset <= offset:
                    await self.cluster.changed.wait()
                if offset < self.cluster.lowest:
                    error = OffsetOutOfRangeError(offset, self.cluster.lowest, self.cluster.next_offset)
                    await self._refuse(context, error)
                frames, size = [], 0
                for entry in self.cluster.entries:
                    if entry.next_offset > offset and size < FETCH_SIZE:
                        frames.append(entry.frame)
                        size += len(frames[-1])
                        next_offset = entry.next_offset
                offset = next_offset
                self.sent_size += size
                yield log_pb2.FetchResponse(frames=b"".join(frames), next_offset=offset)
                if is_lost:
                    await self._break(context)
        finally:
            self.open_streams -= 1

    async def Status(self, request, context):
        await self._begin("Status", context)
        return log_pb2.StatusResponse(node=self.name, leader=self.cluster.leader.name)

    async def Add(self, request, context):
        await self._begin("Add", context)
        return log_pb2.AddResponse()

    async def Leave(self, request, context):
        await self._begin("Leave", context)
        return log_pb2.LeaveResponse()

    async def Transfer(self, request, context):
        await self._begin("Transfer", context)
        self.cluster.leader = next(node for node in self.cluster.nodes if node.name == request.name)
        return log_pb2.TransferResponse(leader=request.name)


def asynchronous(method):
    """Run an async test on the reactor's loop; it must leave no task behind."""

    @functools.wraps(method)
    def run(self):
        return Deferred.fromFuture(asyncio.ensure_future(_run(self, method), loop=asyncio.get_event_loop()))

    return run


async def _run(test, method):
    before = asyncio.all_tasks()
    try:
        await method(test)
    finally:
        for close in reversed(test.closers):
            await close()
    await until(lambda: not {task for task in asyncio.all_tasks() - before if not task.done()})


async def until(condition, seconds_max=20.0):
    """Give the loop turns until a condition holds."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            names = [task.get_coro() for task in asyncio.all_tasks()]
            ours = [str(name) for name in names if "Aio" not in str(name)]
            raise AssertionError(f"the condition never came; tasks: {ours}")
        await asyncio.sleep(0.001)


class FakeCase(TestCase):
    """Tests with fake clusters and clients, all closed at the end."""

    timeout = 120

    def setUp(self):
        self.closers = []

    async def cluster(self, count=3, number=1):
        cluster = FakeCluster(number)
        self.closers.append(cluster.stop)
        return await cluster.start(count)

    def connect(self, target, **options):
        options.setdefault("timeout_seconds", 20.0)
        client = AsyncClient(target, **options)
        self.closers.append(client.close)
        return client

    async def raises(self, kind, work):
        """Await what must fail; return its error."""
        try:
            result = await work
        except kind as error:
            return error
        raise self.failureException(f"gave {result!r} instead of {kind.__name__}")
