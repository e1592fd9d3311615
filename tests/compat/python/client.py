"""A client made from the original's log.proto alone, with stock grpcio: it does every call that it knows.

Runs as a program of its own, because its generated messages have the same full names as Loghouse's: one
process cannot hold both. It writes what it saw as JSON lines for tests/compat/test_compat.py to judge, and
is the same scenario as the Go program beside it.

    client.py --addresses A,B,C --certs DIR --name TEXT
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import grpc
from api.v1 import log_pb2, log_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

CALL_SECONDS = 20
STREAM_LENGTH = 100
BEFORE_KILL = 50
AFTER_KILL = 50
PAUSE_SECONDS = 0.05


def tell(step, **seen):
    sys.stdout.write(json.dumps({"step": step, **seen}) + "\n")
    sys.stdout.flush()


def awaited(ask, what):
    """What `ask` returns, once that is something."""
    deadline = time.monotonic() + CALL_SECONDS
    while (found := ask()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {CALL_SECONDS} s for {what}")
        time.sleep(PAUSE_SECONDS)
    return found


class Node:
    """One node as this client holds it."""

    def __init__(self, address, certs, name="root"):
        self.address = address
        credentials = grpc.ssl_channel_credentials(
            (certs / "ca.pem").read_bytes(),
            (certs / f"{name}.key").read_bytes(),
            (certs / f"{name}.pem").read_bytes(),
        )
        self.log = log_pb2_grpc.LogStub(grpc.secure_channel(address, credentials))

    def servers(self):
        reply = self.log.GetServers(log_pb2.GetServersRequest(), timeout=CALL_SECONDS)
        return [
            {"id": server.id, "rpc_addr": server.rpc_addr, "is_leader": server.is_leader}
            for server in reply.servers
        ]

    def await_servers(self):
        """Ask until the node tells of one leader and where everybody is.

        A node that was just started may have to hear of it.
        """
        return awaited(self._whole_servers, f"one leader and every address, told by {self.address}")

    def _whole_servers(self):
        servers = self.servers()
        leader_count = sum(server["is_leader"] for server in servers)
        return servers if leader_count == 1 and all(server["rpc_addr"] for server in servers) else None

    def produce(self, value, **fields):
        record = log_pb2.Record(value=value.encode(), **fields)
        return self.log.Produce(log_pb2.ProduceRequest(record=record), timeout=CALL_SECONDS).offset

    def consume(self, offset):
        return self.log.Consume(log_pb2.ConsumeRequest(offset=offset), timeout=CALL_SECONDS).record


def facts_of(record, node):
    return {
        "from": node.address,
        "offset": record.offset,
        "value": record.value.decode(),
        "term": record.term,
        "type": record.type,
    }


def failure(call, *arguments):
    """How a refused call looks to a Python program."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        seen = {"code": error.code().value[0], "message": error.details()}
        for packed in rpc_status.from_call(error).details:
            reason, localized = error_details_pb2.ErrorInfo(), error_details_pb2.LocalizedMessage()
            if packed.Unpack(reason):
                seen.update(reason=reason.reason, metadata=dict(reason.metadata))
            elif packed.Unpack(localized):
                seen.update(locale=localized.locale, localized=localized.message)
        return seen
    return {"code": 0, "message": "not refused"}


def unary_calls(nodes, name):
    tell("servers", of={node.address: node.await_servers() for node in nodes})
    offsets = [
        node.produce(f"{name}/unary/{number}", offset=999, term=7, type=3)
        for number, node in enumerate(nodes)
    ]
    tell("produce", offsets=offsets)
    records = [facts_of(node.consume(offset), node) for node in nodes for offset in offsets]
    tell("consume", records=records)
    return offsets


def stream_calls(nodes, name, first):
    requests = [
        log_pb2.ProduceRequest(record=log_pb2.Record(value=f"{name}/stream/{number}".encode()))
        for number in range(STREAM_LENGTH)
    ]
    replies = nodes[0].log.ProduceStream(iter(requests), timeout=CALL_SECONDS)
    offsets = [reply.offset for reply in replies]
    tell("produce_stream", offsets=offsets)
    last = offsets[-1]
    tell("consume_stream", of={node.address: read_stream(node, first, last) for node in nodes})
    return last


def read_stream(node, first, last):
    stream = node.log.ConsumeStream(log_pb2.ConsumeRequest(offset=first), timeout=CALL_SECONDS)
    records = [facts_of(next(stream).record, node) for _ in range(first, last + 1)]
    stream.cancel()
    if stream.code() != grpc.StatusCode.CANCELLED:
        raise RuntimeError(f"a cancelled stream ended with {stream.code()}")
    return records


def refused_calls(nodes, stranger, next_offset):
    for node in nodes:
        tell("out_of_range", **failure(node.consume, next_offset))
    tell("empty_produce", **failure(nodes[0].log.Produce, log_pb2.ProduceRequest()))
    tell("denied", **failure(stranger.produce, "no"))


class Consumer:
    """Streams from a node on, and from the next one where it stopped whenever a stream breaks."""

    def __init__(self, nodes, at, next_offset):
        self.nodes, self.at, self.next_offset = nodes, at, next_offset
        self.target = None
        self.breaks = []  # why each broken stream broke
        self.read = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def is_done(self):
        return self.target is not None and self.next_offset > self.target

    def run(self):
        while not self.is_done:
            try:
                self.stream()
            except grpc.RpcError as error:
                self.breaks.append(f"{error.code().name}: {error.details()}")
                self.at = (self.at + 1) % len(self.nodes)
                time.sleep(PAUSE_SECONDS)

    def stream(self):
        stream = self.nodes[self.at].log.ConsumeStream(log_pb2.ConsumeRequest(offset=self.next_offset))
        for reply in stream:
            self.read.append({"offset": reply.record.offset, "value": reply.record.value.decode()})
            self.next_offset = reply.record.offset + 1
            if self.is_done:
                stream.cancel()
                return

    def facts(self):
        return {"breaks": self.breaks, "records": self.read}


class Producer:
    """Sends each value to the leader until one is acknowledged, as clients of the original do.

    What was sent twice may be in the log twice.
    """

    def __init__(self, nodes, at, name):
        self.nodes, self.at, self.name = nodes, at, name
        self.count = 0
        self.acked = []
        self.retried = []

    def step(self):
        value = f"{self.name}/failover/{self.count}"
        self.count += 1
        while True:
            try:
                offset = self.nodes[self.at].produce(value)
            except grpc.RpcError:
                self.retried.append(value)
                time.sleep(PAUSE_SECONDS)
                self.at = leader_of(self.nodes)
            else:
                self.acked.append({"offset": offset, "value": value})
                return offset


def leader_of(nodes):
    """The place of the leader, as the first node that answers and knows one tells it."""
    return awaited(lambda: told_leader(nodes), "any node to know a leader")


def told_leader(nodes):
    places = {node.address: place for place, node in enumerate(nodes)}
    for node in nodes:
        try:
            servers = node.servers()
        except grpc.RpcError:
            continue
        for server in servers:
            if server["is_leader"] and server["rpc_addr"] in places:
                return places[server["rpc_addr"]]
    return None


def failover(nodes, name):
    producer = Producer(nodes, leader_of(nodes), name)
    first = producer.step()
    consumers = [Consumer(nodes, place, first) for place in range(len(nodes))]
    # All stream before the leader dies.
    while producer.count < BEFORE_KILL or not all(consumer.read for consumer in consumers):
        producer.step()
    leader = nodes[leader_of(nodes)]
    tell("kill", address=leader.address)
    killed = threading.Event()
    threading.Thread(target=lambda: sys.stdin.readline() == "killed\n" and killed.set(), daemon=True).start()
    more = 0
    while more < AFTER_KILL:
        producer.step()
        more += killed.is_set()
    acked = list(producer.acked)
    for consumer in consumers:
        consumer.target = acked[-1]["offset"]
    producer.step()  # a consumer that waits at the tail learns of the target with this record
    for consumer in consumers:
        consumer.thread.join()
    tell(
        "failover",
        first=first,
        last=acked[-1]["offset"],
        acked=acked,
        retried=producer.retried,
        servers={node.address: node.await_servers() for node in nodes if node is not leader},
        streams={node.address: consumer.facts() for node, consumer in zip(nodes, consumers, strict=True)},
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addresses", default="")
    parser.add_argument("--certs", type=Path)
    parser.add_argument("--name", default="python")
    parser.add_argument("--descriptor", action="store_true", help="write the description of log.proto only")
    args = parser.parse_args()
    if args.descriptor:
        sys.stdout.buffer.write(log_pb2.DESCRIPTOR.serialized_pb)
        return
    nodes = [Node(address, args.certs) for address in args.addresses.split(",")]
    first = unary_calls(nodes, args.name)[0]
    last = stream_calls(nodes, args.name, first)
    refused_calls(nodes, Node(nodes[0].address, args.certs, "nobody"), last + 1)
    failover(nodes, args.name)


if __name__ == "__main__":
    main()
