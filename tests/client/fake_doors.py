"""A fake node's one port: gRPC and the binary protocol, without TLS."""

import asyncio
import contextlib

import grpc
from grpc import aio

from loghouse.api.status import answer_of
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.errors import LoghouseError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Describe,
    DescribedServer,
    DescribeReply,
    FindOffset,
    FindOffsetReply,
    Follow,
    FollowFrames,
    LeaderHint,
    Produce,
    ProduceReply,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.failures import LEADER_KEY
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.session import CancelReceived, CreditReceived, RequestReceived, Session


class FakeDoors:
    """A node's one port: gRPC and the binary protocol, told apart by their first bytes, without TLS."""

    def __init__(self, node):
        self.node = node
        self._tasks = set()
        self._writers = set()

    async def open(self, port):
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
            ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
        ]
        self._grpc = aio.server(options=options)
        servicer = FakeServicer(self.node)
        log_pb2_grpc.add_LogServicer_to_server(servicer, self._grpc)
        log_pb2_grpc.add_ClusterServicer_to_server(servicer, self._grpc)
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", port)
        return self._server.sockets[0].getsockname()[1]

    async def close(self):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._grpc.stop(0)

    async def _accepted(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            first = await reader.read(65536)
            if first.startswith(b"PRI"):
                await self._splice(first, reader, writer)
            elif first:
                await FakeLink(self.node, reader, writer).run(first)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _splice(self, first, reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._grpc_port)
        inner_writer.write(first)

        async def pass_on(source, target):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()

        ways = {
            asyncio.ensure_future(pass_on(reader, inner_writer)),
            asyncio.ensure_future(pass_on(inner_reader, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            inner_writer.transport.abort()


class FakeLink:
    """A binary connection to a node: a call of its own for all that comes by it."""

    def __init__(self, node, reader, writer):
        self.node = node
        self._reader, self._writer = reader, writer
        hello = Hello(
            role=LinkRole.NODE,
            cluster_name="fake",
            cluster_uuid=node.cluster.uuid,
            node_name=node.name,
            disk_uuid=b"d" * 16,
        )
        self.session = Session(hello, is_dialler=False)
        self._tasks = {}
        self._credit = asyncio.Event()

    async def run(self, data):
        try:
            while data:
                for event in self.session.receive(data):
                    match event:
                        case RequestReceived():
                            task = asyncio.ensure_future(self._serve(event.stream, event.request))
                            self._tasks[event.stream] = task
                            task.add_done_callback(lambda _, stream=event.stream: self._tasks.pop(stream))
                        case CreditReceived():
                            self._credit.set()
                        case CancelReceived():
                            if event.stream in self._tasks:
                                self._tasks[event.stream].cancel()
                self._flush()
                if self.session.is_closed:
                    return
                data = await self._reader.read(65536)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _flush(self):
        self._writer.write(b"".join(self.session.bytes_to_send()))

    async def cut(self):
        self._writer.transport.abort()
        await asyncio.Event().wait()

    def name_leader(self, name):
        self.session.send(LeaderHint(name=name))

    async def _serve(self, stream, request):
        try:
            if isinstance(request, Follow):
                async with contextlib.aclosing(self.node.follow(self, request.offset)) as answers:
                    async for frames, next_offset in answers:
                        while self.session.served.open[stream].credit <= 0:
                            self._credit.clear()
                            await self._credit.wait()
                        self.session.answer(stream, FollowFrames(next_offset=next_offset, frames=frames))
                        self._flush()
                        await self._writer.drain()
            else:
                self.session.answer(stream, await self._answer(request))
        except LoghouseError as error:
            self.session.refuse(stream, error)
        self._flush()

    async def _answer(self, request):
        node = self.node
        match request:
            case Produce():
                offset = await node.append(
                    "ProduceBatchStream" if request.producer_id else "ProduceBatch",
                    self,
                    request.batch,
                    request.record_count,
                    crc=request.batch_crc,
                    expect_offset=request.expect_offset,
                    codec=request.attributes,
                    producer_id=request.producer_id,
                    sequence=request.producer_sequence,
                )
                return ProduceReply(base_offset=offset, record_count=request.record_count, timestamp=1)
            case RegisterProducer():
                return RegisterProducerReply(producer_id=await node.register(self))
            case Bounds():
                lowest, next_offset = await node.bounds(self)
                return BoundsReply(lowest=lowest, next_offset=next_offset)
            case FindOffset():
                offset, timestamp = await node.find_offset(self, request.timestamp)
                return FindOffsetReply(offset=offset, timestamp=timestamp)
            case Describe():
                await node.begin("GetServers", self)
                servers = tuple(
                    DescribedServer(
                        name=one.name,
                        address=one.shown_address,
                        grpc_address=one.grpc_address,
                        is_leader=one is node.cluster.leader,
                        is_alive=one.is_alive,
                    )
                    for one in node.cluster.nodes
                )
                return DescribeReply(
                    cluster_uuid=node.cluster.uuid, cluster_name="fake", node_name=node.name, servers=servers
                )


class GrpcCall:
    """One call by gRPC."""

    def __init__(self, context):
        self._context = context

    async def cut(self):
        await self._context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def name_leader(self, name):
        self._context.set_trailing_metadata(((LEADER_KEY, name),))

    @contextlib.asynccontextmanager
    async def refusing(self):
        try:
            yield self
        except LoghouseError as error:
            answer = answer_of(error)
            await self._context.abort(answer.code, answer.text, answer.trailers)


class FakeServicer(log_pb2_grpc.LogServicer, log_pb2_grpc.ClusterServicer):
    """A node's gRPC."""

    def __init__(self, node):
        self.node = node

    async def ProduceBatch(self, request, context):
        return await self._batch("ProduceBatch", request, context)

    async def ProduceBatchStream(self, requests, context):
        self.node.open_streams += 1
        try:
            async for request in requests:
                yield await self._batch("ProduceBatchStream", request, context)
        finally:
            self.node.open_streams -= 1

    async def _batch(self, method, request, context):
        async with GrpcCall(context).refusing() as call:
            offset = await self.node.append(
                method,
                call,
                request.batch,
                request.record_count,
                crc=request.batch_crc,
                expect_offset=request.expect_offset if request.HasField("expect_offset") else None,
                codec=request.codec,
                producer_id=request.producer_id,
                sequence=request.producer_sequence,
            )
            return log_pb2.ProduceBatchResponse(base_offset=offset, record_count=request.record_count)

    async def RegisterProducer(self, request, context):
        async with GrpcCall(context).refusing() as call:
            return log_pb2.RegisterProducerResponse(producer_id=await self.node.register(call))

    async def GetServers(self, request, context):
        cluster = self.node.cluster
        async with GrpcCall(context).refusing() as call:
            await self.node.begin("GetServers", call)
            servers = [
                log_pb2.Server(
                    id=node.name,
                    rpc_addr=node.shown_address,
                    grpc_addr=node.grpc_address,
                    is_leader=node is cluster.leader,
                    role="voter",
                    is_alive=node.is_alive,
                )
                for node in cluster.nodes
            ]
            return log_pb2.GetServersResponse(servers=servers, cluster_uuid=cluster.uuid, cluster_name="fake")

    async def Bounds(self, request, context):
        async with GrpcCall(context).refusing() as call:
            lowest, next_offset = await self.node.bounds(call)
            return log_pb2.BoundsResponse(lowest=lowest, next=next_offset)

    async def FindOffset(self, request, context):
        async with GrpcCall(context).refusing() as call:
            offset, timestamp = await self.node.find_offset(call, request.timestamp)
            return log_pb2.FindOffsetResponse(offset=offset, timestamp=timestamp)

    async def FetchStream(self, request, context):
        async with GrpcCall(context).refusing() as call:
            answers = self.node.follow(call, request.offset)
            async with contextlib.aclosing(answers):
                async for frames, next_offset in answers:
                    yield log_pb2.FetchResponse(frames=frames, next_offset=next_offset)

    async def Status(self, request, context):
        async with GrpcCall(context).refusing() as call:
            await self.node.begin("Status", call)
            return log_pb2.StatusResponse(node=self.node.name, leader=self.node.cluster.leader.name)

    async def Add(self, request, context):
        async with GrpcCall(context).refusing() as call:
            await self.node.begin("Add", call)
            return log_pb2.AddResponse()

    async def Leave(self, request, context):
        async with GrpcCall(context).refusing() as call:
            await self.node.begin("Leave", call)
            return log_pb2.LeaveResponse()

    async def Transfer(self, request, context):
        cluster = self.node.cluster
        async with GrpcCall(context).refusing() as call:
            await self.node.begin("Transfer", call)
            cluster.leader = next(node for node in cluster.nodes if node.name == request.name)
            return log_pb2.TransferResponse(leader=request.name)
