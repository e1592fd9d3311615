"""A node in memory behind a real port, for tests of the command line."""

import contextlib
import socket
import threading
from concurrent import futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.failures import failure_of
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.checking import check_batch
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
    Produce,
    ProduceReply,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.entry import DEFAULT_GROUP, EntryKind, frame_seed, make_entry
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.session import CancelReceived, RequestReceived, Session

CLUSTER = bytes(range(16))


def refusal(code, message, reason="", **details):
    """Return a status with ErrorInfo, as a node makes it."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="loghouse", metadata=details))
    return rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message=message, details=[packed] if reason else [])
    )


class FakeNode(log_pb2_grpc.LogServicer):
    """Keeps entries in a list; `refuse` maps a call's name to (records in the log before, status)."""

    def __init__(self):
        self.address = ""
        self.producer_count = 0
        self.seed = frame_seed(CLUSTER, DEFAULT_GROUP)
        self.entries = []
        self.lowest = 0
        self.refuse = {}
        self.frames_hook = lambda frames: frames
        self.appended = threading.Condition()
        self.append(None)  # a no-op, as each start of a node writes one

    @property
    def next_offset(self):
        return self.entries[-1].next_offset if self.entries else 0

    def append(self, payload, record_count=0, codec=0):
        with self.appended:
            offset = self.next_offset
            self.entries.append(
                make_entry(
                    self.seed,
                    index=len(self.entries) + 1,
                    term=1,
                    kind=EntryKind.RECORDS if record_count else EntryKind.NOOP,
                    base_offset=offset,
                    timestamp=1_700_000_000_000_000 + len(self.entries),
                    payload=payload or b"",
                    attributes=codec,
                    record_count=record_count,
                )
            )
            self.appended.notify_all()
        return offset

    def records(self, *records):
        return self.append(encode_batch(records), len(records))

    def _check(self, call, context, answered=0):
        if call in self.refuse and answered >= self.refuse[call][0]:
            context.abort_with_status(self.refuse[call][1])

    def GetServers(self, request, context):
        self._check("GetServers", context)
        server = log_pb2.Server(
            id="node-1", rpc_addr=self.address, is_leader=True, role="voter", is_alive=True
        )
        return log_pb2.GetServersResponse(servers=[server], cluster_uuid=CLUSTER, cluster_name="fake")

    def Bounds(self, request, context):
        self._check("Bounds", context)
        return log_pb2.BoundsResponse(lowest=self.lowest, next=self.next_offset)

    def FindOffset(self, request, context):
        self._check("FindOffset", context)
        for entry in self.entries:
            if entry.record_count and entry.timestamp >= request.timestamp:
                return log_pb2.FindOffsetResponse(offset=entry.base_offset, timestamp=entry.timestamp)
        return log_pb2.FindOffsetResponse(offset=self.next_offset)

    def ProduceBatch(self, request, context):
        self._check("ProduceBatch", context, self.next_offset)
        return self._append(request)

    def RegisterProducer(self, request, context):
        self._check("RegisterProducer", context)
        self.producer_count += 1
        return log_pb2.RegisterProducerResponse(producer_id=self.producer_count)

    def ProduceBatchStream(self, requests, context):
        for request in requests:
            self._check("ProduceBatchStream", context, self.next_offset)
            yield self._append(request)

    def _append(self, request):
        check_batch(
            request.batch,
            record_count=request.record_count,
            codec=request.codec,
            payload_crc=request.batch_crc,
        )
        offset = self.append(request.batch, request.record_count, request.codec)
        return log_pb2.ProduceBatchResponse(base_offset=offset, record_count=request.record_count)

    def FetchStream(self, request, context):
        self._check("FetchStream", context)
        offset = request.offset
        while context.is_active():
            with self.appended:
                found = [entry for entry in self.entries if entry.next_offset > offset]
                if not found:
                    self.appended.wait(0.1)  # then look whether the client is still there
            if found:
                frames = self.frames_hook(b"".join(entry.frame for entry in found))
                offset = found[-1].next_offset
                yield log_pb2.FetchResponse(frames=frames, next_offset=offset)


class FakeCluster(log_pb2_grpc.ClusterServicer):
    """Three members of which n2 leads; notes what it is asked to change. `refuse` maps a call to a status."""

    def __init__(self):
        self.orders = []
        self.refuse = {}
        self.asked = 0
        self.status = log_pb2.StatusResponse(
            cluster_uuid=CLUSTER,
            cluster_name="fake",
            node="n1",
            version="0.1.0",
            term=4,
            leader="n2",
            commit_index=1000,
            lowest_offset=5,
            next_offset=990,
        )
        for number, match_index in ((1, 1000), (2, 1000), (3, 958)):
            self.status.members.add(
                name=f"n{number}",
                id=number,
                role="voter",
                liveness="alive",
                is_leader=number == 2,
                match_index=match_index,
                address=f"10.0.0.{number}:8400",
                version="loghouse 0.1.0",
            )

    def _check(self, call, context):
        if call in self.refuse:
            context.abort_with_status(self.refuse[call])

    def Status(self, request, context):
        self.asked += 1
        self._check("Status", context)
        return self.status

    def Add(self, request, context):
        self._check("Add", context)
        self.orders.append(("add", request.name, request.learner))
        return log_pb2.AddResponse()

    def Remove(self, request, context):
        self._check("Remove", context)
        self.orders.append(("remove", request.name))
        return log_pb2.RemoveResponse()

    def Leave(self, request, context):
        self._check("Leave", context)
        self.orders.append(("leave",))
        return log_pb2.LeaveResponse()

    def Transfer(self, request, context):
        self._check("Transfer", context)
        self.orders.append(("transfer", request.name))
        return log_pb2.TransferResponse(leader=request.name or "n3")

    def Trim(self, request, context):
        self._check("Trim", context)
        self.orders.append(("trim", request.offset, request.log))
        return log_pb2.TrimResponse(lowest=request.offset)


class FakeContext:
    """What the servicers need of a call that came by the binary protocol."""

    def __init__(self):
        self.is_open = True

    def is_active(self):
        return self.is_open

    def abort_with_status(self, status):
        raise RefusedError(status)


class RefusedError(Exception):
    """A call was refused with this gRPC status."""

    def __init__(self, status):
        error = aio.AioRpcError(
            status.code, aio.Metadata(), aio.Metadata(*status.trailing_metadata), status.details
        )
        super().__init__(status.details)
        self.error = failure_of(error, "").error


class FakeLink:
    """A connection of the binary protocol: one thread that reads, and one for each request."""

    def __init__(self, node, connection):
        self._node = node
        self._connection = connection
        self._lock = threading.Lock()
        hello = Hello(
            role=LinkRole.NODE,
            cluster_name="fake",
            cluster_uuid=CLUSTER,
            node_name="node-1",
            disk_uuid=CLUSTER,
        )
        self._session = Session(hello, is_dialler=False)
        self._contexts = {}

    def run(self):
        try:
            while data := self._connection.recv(65536):
                with self._lock:
                    events = self._session.receive(data)
                for event in events:
                    if isinstance(event, RequestReceived):
                        context = self._contexts[event.stream] = FakeContext()
                        served = (event.stream, event.request, context)
                        if isinstance(event.request, Follow):
                            threading.Thread(target=self._serve, args=served, daemon=True).start()
                        else:
                            self._serve(*served)
                    elif isinstance(event, CancelReceived):
                        self._contexts[event.stream].is_open = False
                self._send()
                if self._session.is_closed:
                    return
        finally:
            for context in self._contexts.values():
                context.is_open = False

    def _send(self, *answers):
        with self._lock, contextlib.suppress(OSError):
            for method, stream, message in answers:
                method(stream, message)
            self._connection.sendall(b"".join(self._session.bytes_to_send()))

    def _serve(self, stream, request, context):
        try:
            for reply in self._replies(request, context):
                self._send((self._session.answer, stream, reply))
        except RefusedError as refused:
            self._send((self._session.refuse, stream, refused.error))

    def _replies(self, request, context):
        node = self._node
        match request:
            case Produce():
                batch = log_pb2.ProduceBatchRequest(
                    batch=bytes(request.batch),
                    record_count=request.record_count,
                    codec=request.attributes,
                    batch_crc=request.batch_crc,
                )
                if request.producer_id:
                    (reply,) = node.ProduceBatchStream([batch], context)
                else:
                    reply = node.ProduceBatch(batch, context)
                yield ProduceReply(
                    base_offset=reply.base_offset, record_count=reply.record_count, timestamp=1
                )
            case RegisterProducer():
                reply = node.RegisterProducer(None, context)
                yield RegisterProducerReply(producer_id=reply.producer_id)
            case Bounds():
                reply = node.Bounds(None, context)
                yield BoundsReply(lowest=reply.lowest, next_offset=reply.next)
            case FindOffset():
                reply = node.FindOffset(request, context)
                yield FindOffsetReply(offset=reply.offset, timestamp=reply.timestamp)
            case Follow():
                for reply in node.FetchStream(request, context):
                    yield FollowFrames(next_offset=reply.next_offset, frames=reply.frames)
            case Describe():
                reply = node.GetServers(None, context)
                servers = tuple(
                    DescribedServer(name=one.id, address=one.rpc_addr, is_leader=True, is_alive=True)
                    for one in reply.servers
                )
                yield DescribeReply(
                    cluster_uuid=CLUSTER, cluster_name="fake", node_name="node-1", servers=servers
                )


class FakeServer:
    """Serves a `FakeNode` on a free port until `stop`: both protocols, or gRPC alone when with TLS."""

    def __init__(self, credentials=None):
        self.node = FakeNode()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        log_pb2_grpc.add_LogServicer_to_server(self.node, self._server)
        self.cluster = FakeCluster()
        log_pb2_grpc.add_ClusterServicer_to_server(self.cluster, self._server)
        self._door = None
        if credentials is None:
            self._grpc_port = self._server.add_insecure_port("127.0.0.1:0")
            self._door = socket.create_server(("127.0.0.1", 0))
            port = self._door.getsockname()[1]
            threading.Thread(target=self._accept, daemon=True).start()
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._open = set()
        self.address = self.node.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self):
        if self._door is not None:
            with contextlib.suppress(OSError):  # stopped before
                self._door.shutdown(socket.SHUT_RDWR)
            self._door.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.stop(None).wait()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._door.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        self._open.add(connection)
        with connection, contextlib.suppress(OSError):
            if connection.recv(1, socket.MSG_PEEK) == b"P":  # of HTTP/2's preface
                self._splice(connection)
            else:
                FakeLink(self.node, connection).run()
        self._open.discard(connection)

    def _splice(self, connection):
        with socket.create_connection(("127.0.0.1", self._grpc_port)) as inner:
            back = threading.Thread(target=_pass_on, args=(inner, connection), daemon=True)
            back.start()
            _pass_on(connection, inner)
            back.join()


def _pass_on(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
