"""A channel made of gRPC: for servers and proxies that speak nothing else, and for the administration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from grpc import aio

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.balancing import ClusterView, Server
from loghouse.client.channels import (
    Answers,
    AppendAnswer,
    AppendStream,
    Channel,
    FetchAnswer,
    Hinted,
    LogId,
    Opening,
    seen,
)
from loghouse.client.cursor_calls import cursor_page, cursor_request
from loghouse.client.failures import (
    CallFailedError,
    CallFailure,
    Effect,
    failure_of,
    leader_named,
    lost_call,
    unmade_call,
)
from loghouse.client.proving import Prover
from loghouse.client.records import Bounds, split_answer
from loghouse.errors import NotSupportedError, UnavailableError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX, UINT64_MAX
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.protocol.varint import join_bytes_field

OPEN_SECONDS: Final = 3.0
"""How long a look at a server may take."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
    ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
    # Connections of this client only: another one in this process may have other certificates.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours: gRPC's own do not know what may be done twice.
    ("grpc.enable_retries", 0),
    # A node that comes back is dialled soon; a black hole is given up after a while.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A server that vanished is noticed; nodes allow a ping every ten seconds.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class Stubs:
    """A gRPC channel, and what calls the services by it."""

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        # The generated stubs carry no annotations.
        self.log: Any = log_pb2_grpc.LogStub(channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = log_pb2_grpc.ClusterStub(channel)  # type: ignore[no-untyped-call]
        self.logs: Any = log_pb2_grpc.LogsStub(channel)  # type: ignore[no-untyped-call]
        self.cursors: Any = log_pb2_grpc.CursorsStub(channel)  # type: ignore[no-untyped-call]
        # As bytes both: frames and batches are large, and a message would copy them.
        self.produce_batch_stream: Any = channel.stream_stream(
            "/log.v1.Log/ProduceBatchStream", response_deserializer=log_pb2.ProduceBatchResponse.FromString
        )
        self.fetch_stream: Any = channel.unary_stream(
            "/log.v1.Log/FetchStream", request_serializer=log_pb2.FetchRequest.SerializeToString
        )


class GrpcChannel(Channel):
    """A gRPC channel, made when it is needed.

    Args:
        prover: Looks at the server before it is spoken to; None without TLS.
        hinted: Called with the name and the group of a leader, when a node that is not it names it.
        interceptors: What its calls go through.
        make_appends: Makes a stream of appends, when it is not `GrpcAppends` itself.
    """

    def __init__(
        self,
        address: str,
        prover: Prover | None,
        hinted: Hinted,
        interceptors: Sequence[Any] = (),
        make_appends: Callable[[GrpcChannel, LogId], AppendStream] | None = None,
    ) -> None:
        super().__init__(address)
        self._make_appends = make_appends or GrpcAppends  # fixed
        self._prover = prover
        self._hinted = hinted
        self._more: dict[str, Any] = {"interceptors": list(interceptors)} if interceptors else {}
        self._stubs: Stubs | None = None
        self._opening = Opening(address, self._open)
        self._closing: list[Stubs] = []  # those before them

    async def stubs(self, seconds: float = OPEN_SECONDS) -> Stubs:
        """Return what calls are made with; everybody who needs it waits for the same look at the server.

        Raises:
            CallFailedError: The server is not there, or not one to talk to; nothing was asked.
        """
        if self._stubs is not None:
            return self._stubs
        return await self._opening.wait(seconds)

    async def _open(self) -> Stubs:
        if self._prover is None:
            made = Stubs(aio.insecure_channel(self.address, _OPTIONS, **self._more))
        else:
            credentials = await self._prover.credentials(self.address, OPEN_SECONDS)
            made = Stubs(aio.secure_channel(self.address, credentials, _OPTIONS, **self._more))
        self._stubs = made
        return made

    def judge(self, failure: CallFailure) -> CallFailure:
        """Return what a failure means here: a certificate that is not trusted any more is looked at anew."""
        if not (failure.is_permanent and self._stubs is not None):
            return failure
        old, self._stubs = self._stubs, None
        self._closing.append(old)
        return unmade_call(str(failure.error))

    async def append(self, request: Produce, log: LogId, seconds: float) -> AppendAnswer:
        """See `Channel.append`."""
        message = message_of(request, log)
        message.batch = bytes(request.batch)
        reply = await self._call("log", "ProduceBatch", message, seconds, led=log)
        return AppendAnswer(reply.base_offset, reply.record_count)

    async def append_with_cursor(
        self, request: Produce, cursor: CursorChange, log: LogId, seconds: float
    ) -> AppendAnswer:
        """See `Channel.append_with_cursor`.

        A node of before would append without a look at the cursor: it must have been asked about that first.
        """
        message = message_of(request, log)
        message.batch = bytes(request.batch)
        message.cursor.name, message.cursor.epoch = cursor.name, cursor.epoch
        message.cursor.position = cursor.position
        held = log_pb2.HeldCursorRequest(log=log.name, group=log.pin, name=cursor.name, epoch=cursor.epoch)
        await self._call("cursors", "Renew", held, seconds)
        reply = await self._call("log", "ProduceBatch", message, seconds, led=log)
        return AppendAnswer(reply.base_offset, reply.record_count)

    async def ask_cursor(self, order: CursorOrder, log: LogId, seconds: float) -> CursorPage:
        """See `Channel.ask_cursor`."""
        method, request = cursor_request(order, log)
        return cursor_page(await self._call("cursors", method, request, seconds, led=log))

    async def register_producer(self, log: LogId, seconds: float) -> int:
        """See `Channel.register_producer`."""
        request = log_pb2.RegisterProducerRequest(log=log.name, group=log.pin)
        reply = await self._call("log", "RegisterProducer", request, seconds, led=log)
        return int(reply.producer_id)

    async def bounds(self, log: LogId, seconds: float) -> Bounds:
        """See `Channel.bounds`."""
        request = log_pb2.BoundsRequest(log=log.name, group=log.pin)
        reply = await self._call("log", "Bounds", request, seconds)
        return Bounds(reply.lowest, reply.next)

    async def find_offset(self, timestamp: int, log: LogId, seconds: float) -> int:
        """See `Channel.find_offset`."""
        request = log_pb2.FindOffsetRequest(timestamp=timestamp, log=log.name, group=log.pin)
        return int((await self._call("log", "FindOffset", request, seconds)).offset)

    async def read_range(self, wanted: RecordRange, log: LogId, seconds: float) -> ReadPage:
        """See `Channel.read_range`."""
        filter_ = wanted.filter
        request = log_pb2.ReadRequest(
            first=wanted.first,
            end=wanted.end if wanted.end != UINT64_MAX else None,
            reverse=wanted.is_reverse,
            count_max=wanted.count_max,
            size_max=wanted.size_max,
            consistency=wanted.consistency,  # type: ignore[arg-type]  # the same numbers
            wait_milliseconds=wanted.wait_milliseconds,
            log=log.name,
            group=log.pin,
        )
        if filter_:
            headers = [log_pb2.Header(key=name, value=value) for name, value in filter_.headers]
            asked = log_pb2.RecordFilter(
                keys=filter_.keys, key_prefixes=filter_.key_prefixes, headers=headers
            )
            request.filter.CopyFrom(asked)
        reply = await self._call("log", "Read", request, seconds)
        return ReadPage(
            frames=reply.frames,
            next_offset=reply.next_offset,
            lowest=reply.lowest,
            committed=reply.committed,
            is_confirmed=reply.is_confirmed,
        )

    async def servers(self, seconds: float) -> ClusterView:
        """See `Channel.servers`."""
        return view_of(await self._call("log", "GetServers", log_pb2.GetServersRequest(), seconds))

    async def route(self, name: str, seconds: float) -> ClusterView:
        """See `Channel.route`."""
        reply = await self._call("log", "GetServers", log_pb2.GetServersRequest(log=name), seconds)
        if not reply.group:
            # It passed over the name, and told of the whole cluster.
            error = NotSupportedError(f"{self.address}: the node's version has the log 'default' alone")
            raise CallFailedError(CallFailure(error=error, effect=Effect.REFUSED))
        return view_of(reply)

    async def administer(self, service: str, method: str, request: Any, seconds: float) -> Any:
        """See `Channel.administer`."""
        return await self._call(service, method, request, seconds)

    def appends(self, log: LogId) -> AppendStream:
        """See `Channel.appends`."""
        return self._make_appends(self, log)

    def answers(self, offset: int, log: LogId) -> Answers:
        """See `Channel.answers`."""
        return _GrpcAnswers(self, offset, log)

    async def close(self) -> None:
        """See `Channel.close`."""
        await self._opening.cancel()
        for stubs in filter(None, (*self._closing, self._stubs)):
            await stubs.channel.close()

    async def _call(
        self, service: str, method: str, request: Any, seconds: float, *, led: LogId | None = None
    ) -> Any:
        """Make a call; of one that a log's leader carries out, learn from the trailers who that is."""
        stubs = await self.stubs(seconds)
        try:
            call = getattr(getattr(stubs, service), method)(request, timeout=seconds)
            reply = await call
            leader = leader_named(await call.trailing_metadata()) if led is not None else ""
        except aio.AioRpcError as error:
            raise CallFailedError(self.judge(failure_of(error, self.address))) from None
        except aio.UsageError:
            closed = UnavailableError(f"{self.address}: the channel was closed")
            raise CallFailedError(CallFailure(error=closed, effect=Effect.NOTHING)) from None
        if leader and led is not None:
            self._hinted(leader, led.group)
        return reply


class GrpcAppends(AppendStream):
    """A ProduceBatchStream."""

    def __init__(self, channel: GrpcChannel, log: LogId) -> None:
        self._message_of = message_of  # what a request is on the stream, but for its batch; fixed
        self._channel = channel
        self._log = log
        self._call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._call.add_done_callback(seen)

    async def write(self, request: Produce) -> None:
        """See `AppendStream.write`."""
        if not self._call.done():
            try:
                stubs = await self._channel.stubs()
            except CallFailedError as error:
                self._call.set_exception(error)  # the reader waits, too
                raise
            self._call.set_result(stubs.produce_batch_stream())
        number = log_pb2.ProduceBatchRequest.BATCH_FIELD_NUMBER
        rest = self._message_of(request, self._log).SerializeToString()
        await self._call.result().write(join_bytes_field(number, request.batch, rest))

    async def read(self) -> AppendAnswer:
        """See `AppendStream.read`."""
        reply = await _read(await asyncio.shield(self._call), self._channel)
        return AppendAnswer(reply.base_offset, reply.record_count)

    def cancel(self) -> None:
        """See `AppendStream.cancel`."""
        if self._call.done() and self._call.exception() is None:
            self._call.result().cancel()


class _GrpcAnswers(Answers):
    """A FetchStream."""

    def __init__(self, channel: GrpcChannel, offset: int, log: LogId) -> None:
        self._channel = channel
        self._offset = offset
        self._log = log
        self._call: Any = None
        self._reading = asyncio.ensure_future(self._read())

    async def read(self) -> FetchAnswer:
        answer = await asyncio.shield(self._reading)
        # gRPC's threads take the next one from the wire while this one is decoded.
        self._reading = asyncio.ensure_future(self._read())
        await asyncio.sleep(0)
        return answer

    async def _read(self) -> FetchAnswer:
        if self._call is None:
            stubs = await self._channel.stubs()
            log = self._log
            request = log_pb2.FetchRequest(offset=self._offset, log=log.name, group=log.pin)
            self._call = stubs.fetch_stream(request)
        answer = FetchAnswer(*split_answer(await _read(self._call, self._channel, self._offset)))
        self._offset = answer.next_offset
        return answer

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._reading.cancel()
        self._reading.add_done_callback(seen)


async def _read(call: Any, channel: GrpcChannel, offset: int = 0) -> Any:
    """Return the next message of a stream.

    Raises:
        CallFailedError: It is over.
    """
    try:
        message = await call.read()
    except aio.AioRpcError as error:
        raise CallFailedError(channel.judge(failure_of(error, channel.address, offset=offset))) from None
    if message is aio.EOF:
        raise CallFailedError(lost_call(f"{channel.address}: ended the stream without a reason"))
    return message


def message_of(request: Produce, log: LogId) -> log_pb2.ProduceBatchRequest:
    """Return a request but for the batch itself."""
    return log_pb2.ProduceBatchRequest(
        record_count=request.record_count,
        codec=request.attributes,  # type: ignore[arg-type]  # the same numbers
        batch_crc=request.batch_crc,
        log=log.name,
        group=log.pin,
        expect_offset=request.expect_offset,
        producer_id=request.producer_id,
        producer_sequence=request.producer_sequence,
    )


def view_of(reply: log_pb2.GetServersResponse) -> ClusterView:
    """Return what a server told of its cluster."""
    servers = tuple(
        Server(
            name=server.id,
            address=server.rpc_addr,
            grpc_address=server.grpc_addr,
            is_leader=server.is_leader,
            role=server.role or "voter",
            is_alive=server.is_alive,
        )
        for server in reply.servers
    )
    return ClusterView(
        cluster_uuid=bytes(reply.cluster_uuid),
        cluster_name=reply.cluster_name,
        servers=servers,
        group=reply.group or DEFAULT_GROUP,
        epoch=reply.epoch,
    )
