"""How long one request can hold a node's reactor: the worst of each kind, sent alone to an idle node.

    python -m bench.turns [--rounds N] [--only PART] [--json FILE]

The node notes the longest delay of its own reactor (`bench/inside`), whatever caused it: a long turn, a
thread that holds the GIL, the garbage collector. Other processes of the machine add to it, so the least of
several rounds is what the request itself costs.
"""

import os
import signal
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import zstandard

from bench.abuse import Abuser
from bench.measure import Table, arguments, finish, median, scratch
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.cli.certs import POLICY_TEXT
from loghouse.limits import (
    FETCH_SIZE_MAX,
    GRPC_MESSAGE_SIZE_MAX,
    HEADERS_PER_RECORD_MAX,
    KIB,
    MIB,
    POLICY_RULES_MAX,
    RECORDS_PER_BATCH_MAX,
)
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Bounds, Describe, Fetch, FindOffset, Produce, RegisterProducer
from loghouse.protocol.codec import encode
from loghouse.protocol.framing import HEADER
from loghouse.protocol.message import Message
from loghouse.testing.process import Certificates, NodeProcess

DELAY_MAX = 10
QUIET_SECONDS = 0.3  # three lines of the heartbeat
ZSTD = 1

EMPTIES = b"\n\0" * RECORDS_PER_BATCH_MAX
HEADERS = encode_batch([log_pb2.Record(headers=[log_pb2.Header()] * HEADERS_PER_RECORD_MAX)])
SMALL = encode_batch([log_pb2.Record(value=b"v" * 95)] * 80_000)
LARGE = encode_batch([log_pb2.Record(value=b"v" * (MIB - KIB))] * 7)
PACK = zstandard.ZstdCompressor().compress

PLAIN: dict[str, tuple[bytes, int]] = {
    "as many empty records as a batch may hold": (EMPTIES, RECORDS_PER_BATCH_MAX),
    "a record with as many headers as it may have": (HEADERS, 1),
    "8 MiB of 100-byte records": (SMALL, 80_000),
    "8 MiB of 1 MiB records": (LARGE, 7),
}
BATCHES: dict[str, tuple[bytes, int, int]] = {
    **{name: (batch, count, 0) for name, (batch, count) in PLAIN.items()},
    **{f"{name}, packed": (PACK(batch), count, ZSTD) for name, (batch, count) in PLAIN.items()},
}
TOO_MANY = PACK(b"\n\0" * (4 * MIB))


class Node:
    """A node with a heartbeat, and the ways to ask it."""

    def __init__(self, folder: Path) -> None:
        certificates = Certificates(folder / "certs")
        self.policy = certificates.folder / "policy.csv"
        self.beats = folder / "beats"
        self.process = NodeProcess(folder / "node", certificates)
        self.process.environment["LOGHOUSE_HEARTBEAT"] = str(self.beats)
        self.process.python_path = (Path(__file__).with_name("inside"),)
        self.process.start()
        self._abuser = Abuser(self.process)
        link = self._abuser.link(self._abuser.context("root", "loghouse/1"))
        assert link is not None
        self.link: ssl.SSLSocket = link
        self._stream = 0
        channel = self.process.channel("root")
        self.log = log_pb2_grpc.LogStub(channel)
        self.cluster = log_pb2_grpc.ClusterStub(channel)
        self.log.GetServers(log_pb2.GetServersRequest(), timeout=20)

    def ask(self, message: Message) -> None:
        """Send a request of the binary protocol, and take its whole answer."""
        self._stream += 1
        for part in encode(message, group=1, stream=self._stream):
            self.link.sendall(part)
        answered = False
        while not answered:
            length, kind, _, _, stream = HEADER.unpack(self._take(HEADER.size))
            self._take(length)
            answered = stream == self._stream and kind != 0x0380

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            piece = self.link.recv(min(size - len(taken), 256 * KIB))
            if not piece:
                raise EOFError("the node closed the connection")
            taken += piece
        return bytes(taken)

    def delay(self, request: Callable[[], object]) -> tuple[float, float]:
        """Return the longest delay of the reactor meanwhile, and what collected garbage, in milliseconds."""
        time.sleep(QUIET_SECONDS)
        begin = time.monotonic()
        request()
        time.sleep(QUIET_SECONDS)
        lines = [tuple(map(float, line.split())) for line in self.beats.read_text().splitlines()]
        worst = max(line[1] for line in lines if len(line) == 4 and line[0] > begin)
        collecting = max(line[3] for line in lines if len(line) == 4 and line[0] > begin)
        return worst * 1000, collecting * 1000


def quietly(call: Callable[[], object]) -> Callable[[], None]:
    """A request that may be refused: that is an answer, too."""

    def ask() -> None:
        try:
            call()
        except grpc.RpcError as error:
            if error.code() not in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.OUT_OF_RANGE,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            ):
                raise

    return ask


def requests(node: Node) -> dict[str, Callable[[], object]]:
    """Every kind of request at its worst; those that read come behind those that wrote."""
    found: dict[str, Callable[[], object]] = {"nothing": lambda: None}
    for name, (batch, count, codec) in BATCHES.items():
        found |= _requests_of(node, name, batch, count, codec)
    bomb = Produce(batch=TOO_MANY, record_count=RECORDS_PER_BATCH_MAX, attributes=ZSTD)
    found["Produce (binary): four million empty records, packed"] = lambda: node.ask(bomb)
    same = log_pb2.ProduceBatchRequest(batch=TOO_MANY, record_count=RECORDS_PER_BATCH_MAX, codec=ZSTD)
    found["ProduceBatch (gRPC): four million empty records, packed"] = quietly(
        lambda: node.log.ProduceBatch(same, timeout=60)
    )
    record = log_pb2.Record(headers=[log_pb2.Header()] * (MIB // 2))
    large = log_pb2.ProduceRequest(record=record)
    found["Produce (gRPC): a record of 1 MiB of empty headers"] = quietly(
        lambda: node.log.Produce(large, timeout=60)
    )
    most = log_pb2.ProduceRequest(record=log_pb2.Record(value=bytes(GRPC_MESSAGE_SIZE_MAX - 64)))
    found["Produce (gRPC): a record as large as a message may be"] = quietly(
        lambda: node.log.Produce(most, timeout=60)
    )
    for small in (Bounds(), Describe(), FindOffset(timestamp=0), RegisterProducer()):
        found[f"{type(small).__name__} (binary)"] = lambda small=small: node.ask(small)
    found["GetServers (gRPC)"] = lambda: node.log.GetServers(log_pb2.GetServersRequest(), timeout=60)
    found["Status (gRPC)"] = lambda: node.cluster.Status(log_pb2.StatusRequest(), timeout=60)
    rules = "".join(f"p, subject-{number}, *, consume\n" for number in range(POLICY_RULES_MAX - 8))

    def reload() -> None:
        node.policy.write_text(f"{POLICY_TEXT}# {time.monotonic()}\n{rules}")
        os.kill(node.process.pid, signal.SIGHUP)
        node.log.GetServers(log_pb2.GetServersRequest(), timeout=60)

    found["a reload of certificates and of a policy of 1,000 rules"] = reload
    return found


def _requests_of(
    node: Node, name: str, batch: bytes, count: int, codec: int
) -> dict[str, Callable[[], object]]:
    """Append a batch by either protocol, and read it, which is appended once before, in every way."""
    request = log_pb2.ProduceBatchRequest(batch=batch, record_count=count, codec=codec)
    base = node.log.ProduceBatch(request, timeout=60).base_offset
    append = Produce(batch=batch, record_count=count, attributes=codec)
    fetch = log_pb2.FetchRequest(offset=base, size_max=FETCH_SIZE_MAX)
    last = log_pb2.ConsumeRequest(offset=base + count - 1)
    first = log_pb2.ConsumeRequest(offset=base)
    return {
        f"Produce (binary): {name}": lambda: node.ask(append),
        f"ProduceBatch (gRPC): {name}": quietly(lambda: node.log.ProduceBatch(request, timeout=60)),
        f"Fetch (binary): {name}": lambda: node.ask(Fetch(offset=base, size_max=FETCH_SIZE_MAX)),
        f"Fetch (gRPC): {name}": lambda: node.log.Fetch(fetch, timeout=60),
        f"Consume (gRPC), its last record: {name}": quietly(lambda: node.log.Consume(last, timeout=60)),
        f"ConsumeStream (gRPC), 2,000 records: {name}": quietly(
            lambda: _consume(node, first, min(count, 2000))
        ),
    }


def _consume(node: Node, request: log_pb2.ConsumeRequest, count: int) -> None:
    stream = node.log.ConsumeStream(request, timeout=60)
    for _ in range(count):
        next(stream)
    stream.cancel()


def main() -> None:
    options = arguments(__doc__)
    table = Table()
    with scratch() as folder:
        node = Node(Path(folder))
        try:
            for name, request in requests(node).items():
                if options.only not in name:
                    continue
                delays = [node.delay(request) for _ in range(options.rounds)]
                least, collecting = min(delays)
                table.add(name, least, "ms", bar=DELAY_MAX, at_most=True)
                print(
                    f"    median {median([delay for delay, _ in delays]):.1f},"
                    f" most {max(delays)[0]:.1f}; garbage collected in the least {collecting:.1f}",
                    file=sys.stderr,
                )
        finally:
            node.process.stop()
    finish(table, options)


if __name__ == "__main__":
    main()
