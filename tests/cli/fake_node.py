"""A node in memory behind a real gRPC port, for tests of the command line."""

import threading
from concurrent import futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.reading import GROUP
from loghouse.protocol.batch import check_batch, encode_batch
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry

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
        self.seed = frame_seed(CLUSTER, GROUP)
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

    def Produce(self, request, context):
        self._check("Produce", context, self.next_offset)
        return log_pb2.ProduceResponse(offset=self.records(request.record))

    def RegisterProducer(self, request, context):
        self._check("RegisterProducer", context)
        self.producer_count += 1
        return log_pb2.RegisterProducerResponse(producer_id=self.producer_count)

    def ProduceBatchStream(self, requests, context):
        for request in requests:
            self._check("ProduceBatchStream", context, self.next_offset)
            check_batch(
                request.batch,
                record_count=request.record_count,
                codec=request.codec,
                payload_crc=request.batch_crc,
            )
            offset = self.append(request.batch, request.record_count, request.codec)
            yield log_pb2.ProduceBatchResponse(base_offset=offset, record_count=request.record_count)

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


class FakeServer:
    """Serves a `FakeNode` on a free port until `stop`."""

    def __init__(self, credentials=None):
        self.node = FakeNode()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        log_pb2_grpc.add_LogServicer_to_server(self.node, self._server)
        self.cluster = FakeCluster()
        log_pb2_grpc.add_ClusterServicer_to_server(self.cluster, self._server)
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = self.node.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait()
