"""Clusters in memory behind real ports: an honest log, and nodes that fail as they are told."""

import asyncio
import functools
import time

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from loghouse.api.v1 import log_pb2
from loghouse.client import AsyncClient
from loghouse.errors import ExpectOffsetError, LoghouseError, OffsetOutOfRangeError, UnavailableError
from loghouse.limits import KIB, RECORD_SIZE_MAX
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.checking import check_batch
from loghouse.protocol.entry import CODEC_MASK, EntryKind, frame_seed, make_entry
from loghouse.protocol.log_state import LogState, ProducedBatch, ProducerState
from tests.client.fake_doors import FakeDoors

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
        self.state.producers[producer_id] = ProducerState("root")
        return producer_id


class FakeNode:
    """One node. `faults` maps a method to what its next calls do: an error, LOST, BROKEN or HANG.

    `calls` notes every call by gRPC's name for it, whichever protocol it came by; `is_mute` keeps new records
    from its readers; `told_address` is what nodes tell clients instead of its address.
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
        self.told_address = None
        self.port = 0
        self._doors = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def shown_address(self):
        """What nodes tell of it."""
        return self.address if self.told_address is None else self.told_address

    async def start(self):
        self._doors = FakeDoors(self)
        self.port = await self._doors.open(self.port)

    async def stop(self):
        doors, self._doors = self._doors, None
        if doors is not None:
            await doors.close()

    def count(self, method):
        return self.calls.count(method)

    # --- what is served; `call` says how it came --------------------------------------------

    async def begin(self, method, call):
        """Note a call; return whether its link shall break behind it."""
        self.calls.append(method)
        faults = self.faults.get(method)
        fault = faults.pop(0) if faults else None
        if fault is HANG:
            await asyncio.Event().wait()
        if fault is BROKEN:
            await call.cut()
        if isinstance(fault, LoghouseError):
            raise fault
        return fault is LOST

    async def append(self, method, call, payload, record_count, *, crc, expect_offset=None, **fields):
        """Append, as the leader or through it, which is named then."""
        is_lost = await self.begin(method, call)
        next_offset = self.cluster.next_offset
        if expect_offset not in (None, next_offset):
            raise ExpectOffsetError(expect_offset, next_offset)
        check_batch(
            payload,
            record_count=record_count,
            codec=fields["codec"],
            payload_crc=crc,
            record_size_max=RECORD_SIZE_MAX,
        )
        leader = self.cluster.leader
        if leader is None:
            raise UnavailableError("no leader is known; nothing was done, try again")
        if leader is not self:
            call.name_leader(leader.name)
        offset = self.cluster.append(bytes(payload), record_count, **fields)
        if is_lost:
            await call.cut()
        return offset

    async def register(self, call):
        await self.begin("RegisterProducer", call)
        return self.cluster.register()

    async def bounds(self, call):
        await self.begin("Bounds", call)
        return self.cluster.lowest, self.cluster.next_offset

    async def find_offset(self, call, timestamp):
        await self.begin("FindOffset", call)
        for entry in self.cluster.entries:
            if entry.timestamp >= timestamp:
                return entry.base_offset, entry.timestamp
        return self.cluster.next_offset, 0

    async def follow(self, call, offset):
        """Yield frames and the offset behind them."""
        self.open_streams += 1
        try:
            while True:
                is_lost = await self.begin("FetchStream", call)
                while self.is_mute or self.cluster.next_offset <= offset:
                    await self.cluster.changed.wait()
                if offset < self.cluster.lowest:
                    raise OffsetOutOfRangeError(offset, self.cluster.lowest, self.cluster.next_offset)
                frames, size = [], 0
                for entry in self.cluster.entries:
                    if entry.next_offset > offset and size < FETCH_SIZE:
                        frames.append(entry.frame)
                        size += len(frames[-1])
                        next_offset = entry.next_offset
                offset = next_offset
                self.sent_size += size
                yield b"".join(frames), offset
                if is_lost:
                    await call.cut()
        finally:
            self.open_streams -= 1


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
    transport = "binary"

    def setUp(self):
        self.closers = []

    async def cluster(self, count=3, number=1):
        cluster = FakeCluster(number)
        self.closers.append(cluster.stop)
        return await cluster.start(count)

    def connect(self, target, **options):
        options.setdefault("timeout_seconds", 20.0)
        options.setdefault("transport", self.transport)
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
