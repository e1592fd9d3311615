"""A durable node's gRPC server against the same server with empty handlers.

    python -m bench.grpc_node [--rounds N]

Each round runs the node, the empty server and the bare disk in turn, with the same client.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
import uvloop

from bench.closed_loop import closed_loop
from bench.measure import Table, arguments, finish, median, ratio, rounds, scratch
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX, KIB
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.entry import decode_entries, frame_seed
from loghouse.testing.process import Certificates, NodeProcess, free_port

UNARY_CALLS = 6000
SINGLE_CALLS = 600
BATCH_SIZE = 256 * KIB
BATCHES = 600
BATCHES_IN_FLIGHT = 16
VALUE = b"v" * 100


class EmptyServer:
    """The ceiling's process."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        command = [sys.executable, "-m", "bench.empty_server", str(certificates.folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.address = f"127.0.0.1:{int(self.process.stdout.readline())}"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


class Client:
    """One channel and its loop; every method returns calls, batches or messages a second."""

    def __init__(self, address: str, certificates: Certificates) -> None:
        self.address, self.certificates = address, certificates

    def run(self, work):
        async def main():
            options = [
                ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
                ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
            ]
            credentials = self.certificates.channel_credentials("root")
            async with grpc.aio.secure_channel(self.address, credentials, options) as channel:
                return await work(log_pb2_grpc.LogStub(channel))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    def unary(self, in_flight: int, calls: int) -> list[float]:
        """Return each call's seconds, and append the whole's calls a second."""

        async def work(stub) -> list[float]:
            request = log_pb2.ProduceRequest(record=log_pb2.Record(value=VALUE))
            times = list[float]()
            await stub.Produce(request)
            begin = time.perf_counter()
            await closed_loop(lambda: stub.Produce(request), in_flight, calls, times)
            return [*sorted(times), calls / (time.perf_counter() - begin)]

        return self.run(work)

    def batches(self) -> float:
        """Bytes a second of `ProduceBatchStream`."""
        batch = encode_batch([log_pb2.Record(value=b"v" * 1000)] * (BATCH_SIZE // 1003))
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=BATCH_SIZE // 1003)

        async def work(stub) -> float:
            room = asyncio.Semaphore(BATCHES_IN_FLIGHT)
            call = stub.ProduceBatchStream()

            async def send() -> None:
                for _ in range(BATCHES):
                    await room.acquire()
                    await call.write(request)
                await call.done_writing()

            begin = time.perf_counter()
            sender = asyncio.ensure_future(send())
            async for _ in call:
                room.release()
            await sender
            return BATCHES * len(batch) / (time.perf_counter() - begin)

        return self.run(work)

    def fetch(self, size: int) -> tuple[float, list[int]]:
        """Bytes a second of `FetchStream` over `size` bytes, and the sizes of the messages."""

        async def work(stub) -> tuple[float, list[int]]:
            call = stub.FetchStream(log_pb2.FetchRequest(offset=0))
            sizes: list[int] = []
            got, begin = 0, time.perf_counter()
            async for message in call:
                sizes.append(len(message.frames))
                got += len(message.frames)
                if got >= size:
                    break
            elapsed = time.perf_counter() - begin
            call.cancel()
            return got / elapsed, sizes

        return self.run(work)

    def empty_stream(self, messages: int, size: int) -> float:
        async def work(stub) -> float:
            begin, got = time.perf_counter(), 0
            async for message in stub.FetchStream(log_pb2.FetchRequest(offset=messages, size_max=size)):
                got += len(message.frames)
            return got / (time.perf_counter() - begin)

        return self.run(work)


def sync_seconds(folder: str, size: int, count: int = 300) -> float:
    """The median of a bare `pwrite` + `fdatasync` of `size` bytes into a preallocated file."""
    fd = os.open(Path(folder) / "bare", os.O_RDWR | os.O_CREAT)
    data, times = os.urandom(size), []
    try:
        os.posix_fallocate(fd, 0, size * count)
        for number in range(count):
            begin = time.perf_counter()
            os.pwrite(fd, data, number * size)
            os.fdatasync(fd)
            times.append(time.perf_counter() - begin)
    finally:
        os.close(fd)
        os.unlink(Path(folder) / "bare")
    return median(times)


def bench_unary(table: Table, folder: str, node: Client, empty: Client, count: int) -> None:
    ours, theirs = rounds(
        count, lambda: node.unary(64, UNARY_CALLS)[-1], lambda: empty.unary(64, UNARY_CALLS)[-1]
    )
    table.add("unary Produce, 64 in flight, durable", median(ours), "calls/s")
    table.add("  the same, empty handler", median(theirs), "calls/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.7)

    def p50(client: Client) -> float:
        return median(client.unary(1, SINGLE_CALLS)[:-1])

    ours, theirs, syncs = rounds(
        count, lambda: p50(node), lambda: p50(empty), lambda: sync_seconds(folder, 4 * KIB)
    )
    bounds = [sync + 1.5 * call for sync, call in zip(syncs, theirs, strict=True)]
    table.add("unary Produce, 1 in flight, p50", median(ours) * 1e3, "ms")
    table.add("  empty handler, p50", median(theirs) * 1e3, "ms")
    table.add("  bare write and sync, p50", median(syncs) * 1e3, "ms")
    table.add("  ratio to 1 sync + 1.5 x the empty call", ratio(ours, bounds), "", bar=1.0, at_most=True)


def bench_streams(table: Table, folder: str, node: Client, empty: Client, count: int) -> None:
    group = 2
    ours, theirs, syncs = rounds(
        count,
        node.batches,
        empty.batches,
        lambda: group * BATCH_SIZE / sync_seconds(folder, group * BATCH_SIZE, 100),
    )
    lower = [min(a, b) for a, b in zip(theirs, syncs, strict=True)]
    table.add("ProduceBatchStream, 256 KiB batches, durable", median(ours) / 1e6, "MB/s")
    table.add("  the same messages, empty handler", median(theirs) / 1e6, "MB/s")
    table.add(f"  bare write and sync of {group} batches at a time", median(syncs) / 1e6, "MB/s")
    table.add("  ratio to the lower", ratio(ours, lower), "", bar=0.6)
    size = BATCHES * BATCH_SIZE
    _, sizes = node.fetch(size)
    typical = max(set(sizes), key=sizes.count)
    ours, theirs = rounds(
        count, lambda: node.fetch(size)[0], lambda: empty.empty_stream(size // typical, typical)
    )
    table.add("FetchStream", median(ours) / 1e6, "MB/s")
    table.add(f"  empty stream of {typical} byte messages", median(theirs) / 1e6, "MB/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.7)


def bench_decoding(table: Table, count: int) -> None:
    """Decoding fetched 100-byte records, checks included, against parsing bare batches."""
    from loghouse.protocol.entry import EntryKind, make_entry

    seed = frame_seed(bytes(16), 1)
    batch = encode_batch([log_pb2.Record(value=VALUE)] * 600)
    frames = b"".join(
        make_entry(
            seed,
            index=n + 1,
            term=1,
            kind=EntryKind.RECORDS,
            base_offset=600 * n,
            timestamp=1,
            payload=batch,
            record_count=600,
        ).frame
        for n in range(200)
    )

    def ours() -> float:
        begin, got = time.perf_counter(), 0
        for entry in decode_entries(seed, frames):
            for record in log_pb2.RecordBatch.FromString(bytes(entry.payload)).records:
                got += len(record.value)
        return got / (time.perf_counter() - begin)

    def bare() -> float:
        begin, got = time.perf_counter(), 0
        for _ in range(200):
            for record in log_pb2.RecordBatch.FromString(batch).records:
                got += len(record.value)
        return got / (time.perf_counter() - begin)

    mine, theirs = rounds(count * 2, ours, bare)
    table.add("decoding fetched 100-byte records", median(mine) / 100 / 1e6, "M records/s")
    table.add("  ratio to a bare loop over RecordBatch.FromString", ratio(mine, theirs), "", bar=0.7)


def main() -> None:
    options = arguments(__doc__)
    table = Table()
    with scratch() as folder:
        certificates = Certificates(Path(folder) / "certs")
        # gRPC alone: what the one port's splice costs is measured in `bench.wire`.
        direct = f"127.0.0.1:{free_port()}"
        server = NodeProcess(Path(folder) / "node", certificates, settings=f"grpc_listen: {direct}")
        empty_server = EmptyServer(certificates)
        server.start()
        try:
            node, empty = Client(direct, certificates), Client(empty_server.address, certificates)
            if options.only in "streams":
                bench_streams(table, folder, node, empty, options.rounds)
            if options.only in "unary":
                bench_unary(table, folder, node, empty, options.rounds)
            if options.only in "decoding":
                bench_decoding(table, options.rounds)
            memory = server.anonymous_size() / 2**20
            table.add("private anonymous memory after the load", memory, "MiB", bar=150, at_most=True)
        finally:
            server.stop()
            empty_server.close()
    finish(table, options)


if __name__ == "__main__":
    main()
