"""The wire: framing and decoding alone, gRPC through the one port, binary sessions, peer links, idle clients.

    python -m bench.wire [--rounds N] [--only PART]

Parts: codec, peer, port, binary, idle. Every ratio is of pairs measured in turn.
"""

import subprocess
import sys
import time
from pathlib import Path

from bench.grpc_node import UNARY_CALLS, Client
from bench.measure import Table, arguments, finish, median, ratio, rounds, scratch, seconds
from loghouse.limits import KIB, MIB
from loghouse.protocol import codec
from loghouse.protocol.client_messages import FetchReply
from loghouse.protocol.entry import frame_seed
from loghouse.protocol.framing import FrameBuffer
from loghouse.protocol.raft_messages import Envelope, Heartbeat
from loghouse.testing.process import Certificates, NodeProcess, free_port

FOLLOW_SIZE = 256 * MIB
IDLE_CLIENTS = 2000


def bench_codec(table, count):
    """Frames cut from a stream as TLS delivers it, and heartbeats to values."""
    small = b"".join(codec.encode(FetchReply(next_offset=1, frames=bytes(300 - 8))))
    beat = b"".join(
        codec.encode_envelope(
            Envelope(group=1, source=1, target=2, message=Heartbeat(term=3, commit_index=9, read_round=2))
        )
    )
    seed = frame_seed(bytes(16), 1)

    def cut(frame, total, decode):
        stream = frame * total
        reads = [stream[at : at + 16 * KIB] for at in range(0, len(stream), 16 * KIB)]
        buffer = FrameBuffer(codec.body_size_max)

        def work():
            for data in reads:
                for found in buffer.feed(data):
                    if decode:
                        codec.decode_envelope(found, seed)

        return total / seconds(work)

    [small_rate] = rounds(count, lambda: cut(small, 100_000, False))
    table.add("frame buffer, 300 byte frames in 16 KiB reads", median(small_rate), "frames/s", bar=150_000)
    [beat_rate] = rounds(count, lambda: cut(beat, 20_000, True))
    table.add("heartbeats, cut and fully decoded", median(beat_rate), "1/s", bar=20_000)


def client(task, address, certificates, number=0):
    """Run one task in a process of its own and return its figure."""
    command = [sys.executable, "-m", "bench.wire_client", task, address]
    done = subprocess.run(
        [*command, str(certificates.folder), str(number)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


class Helper:
    """A process that serves until its standard input closes."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first_line = self.process.stdout.readline().strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


def bench_peer(table, count, certificates):
    """A peer link against bare Twisted TLS with the same writes; both ends in one process, by CPU time."""

    def rate(kind):
        command = [sys.executable, "-m", "bench.wire_peer", kind, str(certificates.folder)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    ours, theirs = rounds(count, lambda: rate("peer"), lambda: rate("bare"))
    table.add("peer link, 64 KiB frames, both ends", median(ours) / 1e6, "MB/CPU s")
    table.add("  bare Twisted TLS, the same writes", median(theirs) / 1e6, "MB/CPU s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.8)


def bench_port(table, count, node, certificates, direct):
    """gRPC through the splice against the port for gRPC alone of the same node."""
    spliced = Client(node.address, certificates)
    straight = Client(direct, certificates)
    ours, theirs = rounds(
        count, lambda: spliced.unary(64, UNARY_CALLS)[-1], lambda: straight.unary(64, UNARY_CALLS)[-1]
    )
    table.add("unary Produce through the one port, 64 in flight, durable", median(ours), "calls/s")
    table.add("  through grpc_listen", median(theirs), "calls/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.7)
    ours, theirs = rounds(count, spliced.batches, straight.batches)
    table.add("ProduceBatchStream of 256 KiB through the one port", median(ours) / 1e6, "MB/s")
    table.add("  through grpc_listen", median(theirs) / 1e6, "MB/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.6)


def bench_binary(table, count, node, certificates, direct):
    """Binary sessions against gRPC, and following against bare TLS."""
    straight = Client(direct, certificates)
    ours, theirs = rounds(
        count,
        lambda: client("produce", node.address, certificates, 10_000),
        lambda: straight.unary(64, UNARY_CALLS)[-1],
    )
    table.add("binary produce, 64 in flight, durable", median(ours), "appends/s")
    table.add("  unary gRPC (grpc_listen)", median(theirs), "calls/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=2.0)
    client("fill", node.address, certificates, FOLLOW_SIZE // (64 * KIB) + 64)
    source = Helper("bench.wire_source", str(certificates.folder))
    ours, theirs = rounds(
        count,
        lambda: client("follow", node.address, certificates, FOLLOW_SIZE),
        lambda: client("sink", f"127.0.0.1:{source.first_line}", certificates, FOLLOW_SIZE),
    )
    source.close()
    bar = min(300.0, 0.7 * median(theirs) / 1e6)
    table.add("follow, from the page cache", median(ours) / 1e6, "MB/s", bar=bar)
    table.add("  bare Twisted TLS", median(theirs) / 1e6, "MB/s")


def bench_idle(table, node, certificates):
    """What idle clients cost an active one, and in memory."""
    client("latency", node.address, certificates, 500)
    alone = client("latency", node.address, certificates, 2000)
    before = node.anonymous_size()
    crowd = Helper("bench.wire_client", "idle", node.address, str(certificates.folder), str(IDLE_CLIENTS))
    time.sleep(2)
    size = (node.anonymous_size() - before) / IDLE_CLIENTS
    among = client("latency", node.address, certificates, 2000)
    crowd.close()
    table.add(
        f"private memory of an idle binary client ({IDLE_CLIENTS} of them)",
        size / KIB,
        "KiB",
        bar=128,
        at_most=True,
    )
    table.add("p99 of one append at a time, alone", alone, "ms")
    table.add("  among them", among, "ms")
    table.add("  ratio", among / alone, "", bar=2, at_most=True)


def main():
    options = arguments(__doc__)
    table = Table()

    def wanted(part):
        return options.only in part

    if wanted("codec"):
        bench_codec(table, options.rounds)
    with scratch() as folder:
        certificates = Certificates(Path(folder) / "certs")
        if wanted("peer"):
            bench_peer(table, options.rounds, certificates)
        direct = f"127.0.0.1:{free_port()}"
        node = NodeProcess(Path(folder) / "node", certificates, settings=f"grpc_listen: {direct}")
        if wanted("port") or wanted("binary") or wanted("idle"):
            node.start()
        try:
            if wanted("port"):
                bench_port(table, options.rounds, node, certificates, direct)
            if wanted("binary"):
                bench_binary(table, options.rounds, node, certificates, direct)
            if wanted("idle"):
                bench_idle(table, node, certificates)
        finally:
            node.close()
    finish(table, options)


if __name__ == "__main__":
    main()
