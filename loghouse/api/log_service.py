"""The service `Log`: the original's five calls, and those for batches.

Records are the unit of the first, entries of the second: a batch goes in and out as the bytes it came in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from twisted.internet.threads import deferToThread

from loghouse.api.gated_call import GatedCall
from loghouse.api.guard import Call, Rpc, Shape
from loghouse.api.pipeline import Pipeline
from loghouse.api.ranges import fitting_range, range_of, range_response, wait_at_most
from loghouse.api.unpacking import fitting, records_from
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action
from loghouse.errors import (
    InvalidRequestError,
    NotLeaderError,
    OutcomeUnknownError,
    UnavailableError,
    short_of,
)
from loghouse.limits import FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX, KIB, READER_SIZE_MIN, READERS_SIZE_MAX
from loghouse.metrics import DoorTally
from loghouse.node.api import LogLike, servers_of
from loghouse.node.gate import Gate, describe_log, proposal_alone
from loghouse.node.long_checks import LongChecks
from loghouse.protocol.checking import check_record_size, record_steps
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import ROLE_TEXTS
from loghouse.protocol.cursors import CursorChange, advance_with_records
from loghouse.protocol.entry import LATER_KINDS, Codec, decode_entries, index_of, without_kinds
from loghouse.protocol.record_range import ReadPage
from loghouse.protocol.varint import join_bytes_field
from loghouse.replica.api import Fetched
from loghouse.replica.coalescing import Coalescer
from loghouse.runtime.bridge import later, soon, to_asyncio

SERVICE: Final = "log.v1.Log"

CONSUME_SIZE: Final = 256 * KIB
"""Bytes of entries that a record stream takes at a time: what a reader who stops reading holds."""


FramesT = TypeVar("FramesT", Fetched, ReadPage)
_Behaviour = Callable[..., Awaitable[bytes | None]]
Answer = Callable[[int, int, int], bytes]
"""Makes the serialized answer of base offset, record count and timestamp."""


class LogService:
    """Answers the calls of `log.v1.Log` from the node behind the gate."""

    coalescer_class = Coalescer

    def __init__(self, gate: Gate, tally: DoorTally | None = None) -> None:
        self._gate = gate
        self._tally = tally  # counts appends and what is read; None when nobody asks for it
        self._node = gate.node
        # By group; one for each log that is appended to, as long as there is that log.
        self._coalescers: dict[int, Coalescer] = {}
        self._checks = LongChecks(deferToThread)
        # Makes what waits for an append's outcome; another one where appends are traced.
        self._make_share: Callable[[bytes, int | None, int, Answer], BatchShare] = BatchShare
        self._reader_count = 0

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        produce, consume, led = Action.PRODUCE, Action.CONSUME, self._naming_leader
        return {
            "Produce": Rpc(
                log_pb2.ProduceRequest, produce, led(self._submit_record), check=self._check_large_record
            ),
            "ProduceStream": Rpc(
                log_pb2.ProduceRequest,
                produce,
                led(self._produce_stream),
                Shape.STREAM,
                self._check_large_record,
            ),
            "Consume": Rpc(log_pb2.ConsumeRequest, consume, self._consume),
            "ConsumeStream": Rpc(log_pb2.ConsumeRequest, consume, self._consume_stream, Shape.SERVER_STREAM),
            "GetServers": Rpc(log_pb2.GetServersRequest, None, self._get_servers),
            "ProduceBatch": Rpc(log_pb2.ProduceBatchRequest, produce, led(self._produce_batch)),
            "ProduceBatchStream": Rpc(
                log_pb2.ProduceBatchRequest, produce, led(self._produce_batch_stream), Shape.STREAM
            ),
            "Fetch": Rpc(log_pb2.FetchRequest, consume, self._fetch),
            "FetchStream": Rpc(log_pb2.FetchRequest, consume, self._fetch_stream, Shape.SERVER_STREAM),
            "Read": Rpc(log_pb2.ReadRequest, consume, self._read_range),
            "Bounds": Rpc(log_pb2.BoundsRequest, consume, self._bounds),
            "FindOffset": Rpc(log_pb2.FindOffsetRequest, consume, self._find_offset),
            "RegisterProducer": Rpc(log_pb2.RegisterProducerRequest, produce, led(self._register_producer)),
        }

    # --- appending ------------------------------------------------------------------

    def _naming_leader(self, behaviour: _Behaviour) -> _Behaviour:
        """Return `behaviour`, which also names the leader in the trailers when that is another node.

        A client that asks it next time saves a hop, and finds its way after a failure. Who was refused is
        told nothing.
        """

        async def answer(call: GatedCall, *request: Any) -> bytes | None:
            try:
                response: bytes | None = await behaviour(call, *request)
            except (UnavailableError, NotLeaderError, OutcomeUnknownError):
                self._name_leader(call)
                raise
            self._name_leader(call)
            return response

        return answer

    def _name_leader(self, call: GatedCall) -> None:
        leader = call.log.leader_name if call.log is not None else ""
        if leader and leader != self._node.name:
            call.name_leader(leader)

    async def _produce_stream(self, call: Call) -> None:
        async def submit(request: Any) -> asyncio.Future[bytes]:
            return self._submit_record(call, request)

        await Pipeline(call, submit).run()

    def _submit_record(self, call: GatedCall, request: Any) -> asyncio.Future[bytes]:
        """Check a record and propose it, in a batch of its own or in company."""
        log = call.find_log(request.log, request.group)
        if not request.HasField("record"):
            raise InvalidRequestError("record", "is missing; an append needs one")
        record = request.record
        record.ClearField("offset")  # ours to give
        check_record_size(record.ByteSize(), self._gate.record_size_max_of(log))
        payload = log_pb2.RecordBatch(records=[record]).SerializeToString()
        return self._append(log, call, request, payload, 1, _record_answer)

    async def _check_large_record(self, call: GatedCall, message: bytes) -> None:
        steps = record_steps(message, self._gate.record_size_max)
        for _ in steps:
            await self._check_on(call.subject, steps)

    async def _produce_batch(self, call: GatedCall, request: Any) -> bytes:
        return await (await self._submit_batch(call, request))

    async def _produce_batch_stream(self, call: Call) -> None:
        await Pipeline(call, partial(self._submit_batch, call)).run()

    async def _submit_batch(self, call: GatedCall, request: Any) -> asyncio.Future[bytes]:
        """Check a batch and propose its bytes as they are."""
        log = call.find_log(request.log, request.group)
        if request.HasField("cursor"):
            call.check_also(log, Action.CONSUME)
        batch = request.batch
        payload_crc = request.batch_crc if request.HasField("batch_crc") else None
        steps = self._gate.check_batch(log, batch, request.record_count, request.codec, payload_crc)
        try:
            for _ in steps:
                await self._check_on(call.subject, steps)
        except MemoryError as error:
            raise short_of(error) or error from None
        cursor = None
        if request.HasField("cursor"):
            advance = request.cursor
            cursor = advance_with_records(advance.name, advance.epoch, advance.position)
        return self._append(
            log,
            call,
            request,
            batch,
            request.record_count,
            _batch_answer,
            request.codec,
            payload_crc,
            cursor=cursor,
        )

    async def _check_on(self, subject: str, steps: Iterator[int]) -> None:
        """Go on with a check that is too long for a turn of the loop."""
        checked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BaseException | None) -> None:
            if error is None:
                checked.set_result(None)
            else:
                checked.set_exception(error)

        check = self._checks.run(subject, steps, done)
        try:
            await checked
        finally:
            check.cancel()

    def _append(
        self,
        log: LogLike,
        call: GatedCall,
        request: Any,
        payload: bytes,
        record_count: int,
        answer: Answer,
        codec: int = Codec.NONE,
        payload_crc: int | None = None,
        *,
        cursor: CursorChange | None = None,
    ) -> asyncio.Future[bytes]:
        """Propose a checked batch; the future gives the serialized answer."""
        share = self._make_share(payload, payload_crc, record_count, answer)
        proposal = proposal_alone(
            share,
            call.subject,
            attributes=codec,
            expect_offset=request.expect_offset if request.HasField("expect_offset") else None,
            producer_id=request.producer_id,
            producer_sequence=request.producer_sequence,
            cursor=cursor,
        )
        coalescer = self._coalescers.get(log.group)
        if coalescer is None:
            logs = self._node.logs
            self._coalescers = {group: one for group, one in self._coalescers.items() if group in logs}
            coalescer = self._coalescers[log.group] = self.coalescer_class(
                log.propose,
                soon(),
                later=later(),
                tally=self._tally,
            )
        if proposal is None:
            # grpc hands over about one call a turn of the loop: waiting for its end would gather nothing.
            coalescer.submit(call.subject, share)
            return share.done
        dropped = coalescer.submit_alone(share, proposal)
        if dropped is not None:
            share.done.add_done_callback(lambda _: dropped.cancel())
        return share.done

    async def _register_producer(self, call: GatedCall, request: Any) -> bytes:
        log = call.find_log(request.log, request.group)
        producer_id = await to_asyncio(log.register_producer(call.subject))
        return bytes(log_pb2.RegisterProducerResponse(producer_id=producer_id).SerializeToString())

    # --- reading ----------------------------------------------------------------------

    async def _consume(self, call: GatedCall, request: Any) -> bytes:
        log = call.find_log(request.log, request.group)
        if call.quotas.is_used:
            await call.may_answer()
        fetched = await to_asyncio(log.fetch(request.offset, 1))
        for entry in decode_entries(log.seed, fetched.frames):
            async for record in records_from(entry, request.offset, lambda: 1):
                return bytes(log_pb2.ConsumeResponse(record=record).SerializeToString())
        raise AssertionError(f"a fetch at {request.offset} did not hold that offset")

    async def _consume_stream(self, call: Call, request: Any) -> None:
        log = call.find_log(request.log, request.group)
        offset = request.offset
        share = partial(self.share_of, CONSUME_SIZE)
        with self.reader(), call.following():
            while True:
                fetched = await self.read_on(call, log, offset, CONSUME_SIZE)
                with call.holding(len(fetched.frames)):
                    for entry in decode_entries(log.seed, fetched.frames):
                        async for record in records_from(entry, offset, share):
                            await call.write(log_pb2.ConsumeResponse(record=record).SerializeToString())
                offset = fetched.next_offset

    async def _fetch(self, call: GatedCall, request: Any) -> bytes:
        log = call.find_log(request.log, request.group)
        with self.reader():
            size_max = _fetch_size(request.size_max)
            if call.quotas.is_used:
                await call.may_answer()
                size_max = call.answer_size_max(size_max)
            fetched = await to_asyncio(log.fetch(request.offset, self.share_of(size_max)))
            fetched = _readable_by_all(log, fetched)
            fetched = await fitting(log.seed, fetched, request.offset, request.size_max)
        self.count_out(fetched)
        return _fetch_response(fetched, log.group)

    async def _read_range(self, call: GatedCall, request: Any) -> bytes:
        log = call.find_log(request.log, request.group)
        wanted = range_of(request)
        if wanted.wait_milliseconds:
            with call.following():
                await wait_at_most(log.wait_for(wanted.first), wanted.wait_milliseconds / 1000)
            call.find_log(log.name, log.group)
        with self.reader():
            size_max = _fetch_size(request.size_max)
            if call.quotas.is_used:
                await call.may_answer()
                size_max = call.answer_size_max(size_max)
            wanted = replace(wanted, size_max=self.share_of(size_max))
            page = _readable_by_all(log, await to_asyncio(log.read_range(wanted)))
            page = await fitting_range(log.seed, page, wanted, request.size_max)
        self.count_out(page)
        return range_response(page, log.group)

    def count_out(self, fetched: FramesT) -> FramesT:
        """Count what is read for a client; return it."""
        if self._tally is not None:
            self._tally.bytes_out += len(fetched.frames)
        return fetched

    async def _fetch_stream(self, call: Call, request: Any) -> None:
        log = call.find_log(request.log, request.group)
        offset = request.offset
        size_max = _fetch_size(request.size_max)
        with self.reader(), call.following():
            while True:
                fetched = await self.read_on(call, log, offset, size_max)
                fetched = _readable_by_all(log, fetched)
                with call.holding(len(fetched.frames)):
                    fetched = await fitting(log.seed, fetched, offset, request.size_max)
                    await call.write(_fetch_response(fetched, log.group))
                offset = fetched.next_offset

    async def read_on(self, call: GatedCall, log: LogLike, offset: int, size_max: int) -> Fetched:
        """Return entries from `offset` on, sleeping in the node while there are none."""
        if call.quotas.is_used:
            await call.may_answer(is_last=False)
            size_max = call.answer_size_max(size_max)
        await to_asyncio(log.wait_for(offset))
        call.find_log(log.name, log.group)  # it may have waited for days: is there still, and may the caller?
        return self.count_out(await to_asyncio(log.fetch(offset, self.share_of(size_max))))

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Be one of the readers within this block: what all take at a time is shared among them."""
        self._reader_count += 1
        try:
            yield
        finally:
            self._reader_count -= 1

    def share_of(self, size_max: int) -> int:
        """Return what one reader may take at a time: many who do not read on must not fill the memory."""
        return min(size_max, max(READER_SIZE_MIN, READERS_SIZE_MAX // self._reader_count))

    async def _bounds(self, call: GatedCall, request: Any) -> bytes:
        log = call.find_log(request.log, request.group)
        bounds = await to_asyncio(log.bounds())
        response = log_pb2.BoundsResponse(lowest=bounds.lowest, next=bounds.next_offset, group=log.group)
        return bytes(response.SerializeToString())

    async def _find_offset(self, call: GatedCall, request: Any) -> bytes:
        log = call.find_log(request.log, request.group)
        offset, timestamp = await to_asyncio(log.find_offset(request.timestamp))
        return bytes(log_pb2.FindOffsetResponse(offset=offset, timestamp=timestamp).SerializeToString())

    async def _get_servers(self, call: GatedCall, request: Any) -> bytes:
        if request.log:
            return await self._get_servers_of(call, request.log)
        call.check_cluster()
        return self._servers_response(self._node.servers())

    async def _get_servers_of(self, call: GatedCall, name: str) -> bytes:
        call.check_seen(name)
        log = await to_asyncio(describe_log(self._node, name))
        return self._servers_response(servers_of(log, self._node.servers()), log.group, log.epoch)

    def _servers_response(self, servers: Sequence[DescribedServer], group: int = 0, epoch: int = 0) -> bytes:
        listed = [
            log_pb2.Server(
                id=server.name,
                rpc_addr=server.address,
                is_leader=server.is_leader,
                role=ROLE_TEXTS[server.role],
                grpc_addr=server.grpc_address,
                is_alive=server.is_alive,
            )
            for server in servers
        ]
        response = log_pb2.GetServersResponse(
            servers=listed,
            cluster_uuid=self._node.cluster_uuid,
            cluster_name=self._node.cluster_name,
            group=group,
            epoch=epoch,
        )
        return bytes(response.SerializeToString())


class BatchShare:
    """A batch on its way into the log, alone or in company (`coalescing.Share`).

    `done` gives the serialized answer; who cancels it waits no more.
    """

    __slots__ = ("_answer", "done", "payload", "payload_crc", "record_count")

    def __init__(self, payload: bytes, payload_crc: int | None, record_count: int, answer: Answer) -> None:
        self.payload = payload
        self.payload_crc = payload_crc
        self.record_count = record_count
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answer = answer

    @property
    def is_wanted(self) -> bool:
        """Whether its caller still waits."""
        return not self.done.done()

    def appended(self, base_offset: int, timestamp: int) -> None:
        """It is durable: the answer says where."""
        self.done.set_result(self._answer(base_offset, self.record_count, timestamp))

    def failed(self, error: BaseException) -> None:
        """It was not appended, or nobody knows."""
        self.done.set_exception(error)


def _record_answer(base_offset: int, record_count: int, timestamp: int) -> bytes:
    return bytes(log_pb2.ProduceResponse(offset=base_offset).SerializeToString())


def _batch_answer(base_offset: int, record_count: int, timestamp: int) -> bytes:
    response = log_pb2.ProduceBatchResponse(
        base_offset=base_offset, record_count=record_count, timestamp=timestamp
    )
    return bytes(response.SerializeToString())


def _fetch_size(size_max: int) -> int:
    return min(size_max or FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX)


def _readable_by_all(log: LogLike, fetched: FramesT) -> FramesT:
    """Return what was fetched without entries of later kinds: a gRPC client does not say which it knows.

    They hold no records. Only what begins at or before the last of them is looked through.
    """
    if not fetched.frames or index_of(fetched.frames) > log.later_index:
        return fetched
    return replace(fetched, frames=without_kinds(fetched.frames, LATER_KINDS))


def _fetch_response(fetched: Fetched, group: int) -> bytes:
    # One copy; the generated message would make three of a megabyte.
    rest = log_pb2.FetchResponse(next_offset=fetched.next_offset, group=group).SerializeToString()
    return join_bytes_field(log_pb2.FetchResponse.FRAMES_FIELD_NUMBER, fetched.frames, bytes(rest))
