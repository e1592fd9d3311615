"""A channel made of gRPC: for doors and proxies that speak nothing else, and for the administration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import aio

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.balancing import ClusterView, Server
from loghouse.client.channels import Answer, Answers, Appended, Appends, Channel, NewBatch, seen
from loghouse.client.failures import CallFailedError, Effect, Failure, failure_of, leader_named
from loghouse.client.records import Bounds, split_answer
from loghouse.client.target import Tls
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX
from loghouse.protocol.varint import join_bytes_field

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


def credentials_of(tls: Tls | None) -> grpc.ChannelCredentials | None:
    """Return gRPC's form of a client's certificates.

    Raises:
        CertificateError: A certificate cannot be read.
    """
    if tls is None:
        return None
    ca, certificate, key = tls.pems()
    return grpc.ssl_channel_credentials(ca, key, certificate)


class GrpcChannel(Channel):
    """A gRPC channel and the stubs of both services.

    Args:
        hinted: Called with the name of the leader, when a node that is not the leader names it.
    """

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None, hinted: Callable[[str], None]
    ) -> None:
        super().__init__(address)
        self._hinted = hinted
        if credentials is None:
            self._aio = aio.insecure_channel(address, _OPTIONS)
        else:
            self._aio = aio.secure_channel(address, credentials, _OPTIONS)
        # The generated stubs carry no annotations.
        self._log: Any = log_pb2_grpc.LogStub(self._aio)  # type: ignore[no-untyped-call]
        self._cluster: Any = log_pb2_grpc.ClusterStub(self._aio)  # type: ignore[no-untyped-call]
        # As bytes both: frames and batches are large, and a message would copy them.
        self._produce_batch_stream: Any = self._aio.stream_stream(
            "/log.v1.Log/ProduceBatchStream",
            response_deserializer=log_pb2.ProduceBatchResponse.FromString,
        )
        self._fetch_stream: Any = self._aio.unary_stream(
            "/log.v1.Log/FetchStream", request_serializer=log_pb2.FetchRequest.SerializeToString
        )

    async def append(self, batch: NewBatch, log: str, seconds: float) -> Appended:
        """See `Channel.append`."""
        request = _request_of(batch, log)
        request.batch = batch.payload
        reply = await self._call(self._log.ProduceBatch, request, seconds, is_led=True)
        return Appended(reply.base_offset, reply.record_count)

    async def register_producer(self, log: str, seconds: float) -> int:
        """See `Channel.register_producer`."""
        request = log_pb2.RegisterProducerRequest(log=log)
        reply = await self._call(self._log.RegisterProducer, request, seconds, is_led=True)
        return int(reply.producer_id)

    async def bounds(self, log: str, seconds: float) -> Bounds:
        """See `Channel.bounds`."""
        reply = await self._call(self._log.Bounds, log_pb2.BoundsRequest(log=log), seconds)
        return Bounds(reply.lowest, reply.next)

    async def find_offset(self, timestamp: int, log: str, seconds: float) -> int:
        """See `Channel.find_offset`."""
        request = log_pb2.FindOffsetRequest(timestamp=timestamp, log=log)
        return int((await self._call(self._log.FindOffset, request, seconds)).offset)

    async def servers(self, seconds: float) -> ClusterView:
        """See `Channel.servers`."""
        return view_of(await self._call(self._log.GetServers, log_pb2.GetServersRequest(), seconds))

    async def administer(self, method: str, request: Any, seconds: float) -> Any:
        """See `Channel.administer`."""
        return await self._call(getattr(self._cluster, method), request, seconds)

    def appends(self, log: str) -> Appends:
        """See `Channel.appends`."""
        return _GrpcAppends(self._produce_batch_stream(), self.address, log)

    def answers(self, offset: int, log: str) -> Answers:
        """See `Channel.answers`."""
        call = self._fetch_stream(log_pb2.FetchRequest(offset=offset, log=log))
        return _GrpcAnswers(call, self.address, offset)

    async def close(self) -> None:
        """See `Channel.close`."""
        await self._aio.close()

    async def _call(self, method: Any, request: Any, seconds: float, *, is_led: bool = False) -> Any:
        """Make a call; of one that the leader carries out, learn from the trailers who that is."""
        try:
            call = method(request, timeout=seconds)
            reply = await call
            leader = leader_named(await call.trailing_metadata()) if is_led else ""
        except aio.AioRpcError as error:
            raise CallFailedError(failure_of(error, self.address)) from None
        except aio.UsageError:
            closed = UnavailableError(f"{self.address}: the channel was closed")
            raise CallFailedError(Failure(error=closed, effect=Effect.NOTHING)) from None
        if leader:
            self._hinted(leader)
        return reply


class _GrpcAppends(Appends):
    """A ProduceBatchStream."""

    def __init__(self, call: Any, address: str, log: str) -> None:
        self._call = call
        self._address = address
        self._log = log

    async def write(self, batch: NewBatch) -> None:
        number = log_pb2.ProduceBatchRequest.BATCH_FIELD_NUMBER
        rest = _request_of(batch, self._log).SerializeToString()
        await self._call.write(join_bytes_field(number, batch.payload, rest))

    async def read(self) -> Appended:
        reply = await _read(self._call, self._address)
        return Appended(reply.base_offset, reply.record_count)

    def cancel(self) -> None:
        self._call.cancel()


class _GrpcAnswers(Answers):
    """A FetchStream."""

    def __init__(self, call: Any, address: str, offset: int) -> None:
        self._call = call
        self._address = address
        self._offset = offset
        self._reading = asyncio.ensure_future(self._read())

    async def read(self) -> Answer:
        answer = await asyncio.shield(self._reading)
        # gRPC's threads take the next one from the wire while this one is decoded.
        self._reading = asyncio.ensure_future(self._read())
        await asyncio.sleep(0)
        return answer

    async def _read(self) -> Answer:
        answer = Answer(*split_answer(await _read(self._call, self._address, self._offset)))
        self._offset = answer.next_offset
        return answer

    def cancel(self) -> None:
        self._call.cancel()
        self._reading.cancel()
        self._reading.add_done_callback(seen)


async def _read(call: Any, address: str, offset: int = 0) -> Any:
    """Return the next message of a stream.

    Raises:
        CallFailedError: It is over.
    """
    try:
        message = await call.read()
    except aio.AioRpcError as error:
        raise CallFailedError(failure_of(error, address, offset=offset)) from None
    if message is aio.EOF:
        ended = OutcomeUnknownError(f"{address}: ended the stream without a reason")
        raise CallFailedError(Failure(error=ended, effect=Effect.UNKNOWN, is_link=True))
    return message


def _request_of(batch: NewBatch, log: str) -> log_pb2.ProduceBatchRequest:
    """Return the request but for the batch itself."""
    return log_pb2.ProduceBatchRequest(
        record_count=batch.record_count,
        codec=batch.codec,  # type: ignore[arg-type]  # an IntEnum of the same numbers
        batch_crc=batch.crc,
        log=log,
        expect_offset=batch.expect_offset,
        producer_id=batch.producer_id,
        producer_sequence=batch.producer_sequence,
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
        cluster_uuid=bytes(reply.cluster_uuid), cluster_name=reply.cluster_name, servers=servers
    )
