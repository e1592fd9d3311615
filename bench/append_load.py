"""One client that appends to a node and prints what it measured, as `bench.ceiling`'s client does.

    python -m bench.append_load --api binary --address 127.0.0.1:8400 --certs dev/certs \\
        --size 65536 --count 2000 --window 16

APIs: binary (the binary protocol), batches (gRPC ProduceBatchStream), unary (gRPC Produce, several channels).
With `--logs a,b` the binary client asks the leader of each of these logs, with a window for each; the count
is of all together.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import deque
from itertools import cycle
from pathlib import Path
from typing import Any

from bench.ceiling import reactor, result
from bench.closed_loop import closed_loop
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.entry import DEFAULT_GROUP

RECORD_SIZE = 1000
WARM_UP_COUNT = 50
UNARY_CHANNELS = 4


def make_batch(size: int) -> tuple[bytes, int]:
    """A RecordBatch of about `size` random bytes in records of about 1 kB, and how many those are."""
    count = max(1, size // RECORD_SIZE)
    value_size = max(1, size // count - 6)  # 6: the tags and lengths around a value
    records = [log_pb2.Record(value=os.urandom(value_size)) for _ in range(count)]
    return encode_batch(records), count


class BinaryClient:
    """Keeps `window` appends to one log in flight on one connection."""

    def __init__(self, connection, options, group=DEFAULT_GROUP):
        self.connection, self.options, self.group = connection, options, group
        self.batch, self.record_count = make_batch(options.size)
        self.latencies: list[float] = []

    def run(self, count):
        from twisted.internet.defer import Deferred

        self.left, self.open, self.done = count, 0, Deferred()
        self.latencies = []
        for _ in range(min(self.options.window, count)):
            self.send()
        return self.done

    def send(self):
        self.left -= 1
        self.open += 1
        sent_at = time.perf_counter()
        asked = self.connection.produce(self.batch, record_count=self.record_count, group=self.group)
        asked.addCallbacks(lambda _: self.answered(sent_at), self.failed)

    def answered(self, sent_at):
        now = time.perf_counter()
        self.open -= 1
        self.latencies.append(now - sent_at)
        if self.left:
            self.send()
        elif not self.open:
            self.done.callback(None)

    def failed(self, failure):
        print(failure.getErrorMessage(), file=sys.stderr)
        os._exit(1)


def run_binary(options) -> None:
    loop = reactor()
    from loghouse.net.binary_client import ClientTls, connect

    tls = ClientTls(
        ca=options.certs / "ca.pem",
        certificate=options.certs / "root.pem",
        key=options.certs / "root.key",
    )

    connections: dict[str, Any] = {}

    async def connected(address):
        if address not in connections:
            host, _, port = address.rpartition(":")
            connections[address] = await connect(loop, host, int(port), tls)
        return connections[address]

    async def client_of(name):
        connection = await connected(options.address)
        if not name:
            return BinaryClient(connection, options)
        log = await connection.describe_log(name)
        (leader,) = [server for server in log.servers if server.name == log.leader]
        return BinaryClient(await connected(leader.address), options, log.group)

    async def work():
        clients = [await client_of(name) for name in options.logs.split(",")]
        for count in (WARM_UP_COUNT, options.count):
            begin = time.perf_counter()
            await gatherResults([client.run(max(count // len(clients), 1)) for client in clients])
            seconds = time.perf_counter() - begin
        latencies = [latency for client in clients for latency in client.latencies]
        print(result(len(clients[0].batch), latencies, seconds), flush=True)
        for connection in connections.values():
            await connection.close()

    from twisted.internet.defer import Deferred, gatherResults

    def start():
        working = Deferred.fromCoroutine(work())
        working.addErrback(lambda failure: failure.printTraceback())
        working.addBoth(lambda _: loop.stop())

    loop.callWhenRunning(start)
    loop.run()


def channel_of(options):
    import grpc

    credentials = grpc.ssl_channel_credentials(
        *((options.certs / name).read_bytes() for name in ("ca.pem", "root.key", "root.pem"))
    )
    settings = [
        ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
        ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.secure_channel(options.address, credentials, settings)


async def run_batches(options) -> None:
    batch, record_count = make_batch(options.size)
    request = log_pb2.ProduceBatchRequest(batch=batch, record_count=record_count)
    async with channel_of(options) as channel:
        for count in (WARM_UP_COUNT, options.count):
            room, sent_at, latencies = asyncio.Semaphore(options.window), deque(), []
            call = log_pb2_grpc.LogStub(channel).ProduceBatchStream()

            async def send(count=count, room=room, sent_at=sent_at, call=call):
                for _ in range(count):
                    await room.acquire()
                    sent_at.append(time.perf_counter())
                    await call.write(request)
                await call.done_writing()

            begin = time.perf_counter()
            sender = asyncio.ensure_future(send())
            async for _ in call:
                latencies.append(time.perf_counter() - sent_at.popleft())
                room.release()
            await sender
    print(result(len(batch), latencies, time.perf_counter() - begin), flush=True)


async def run_unary(options) -> None:
    channels = [channel_of(options) for _ in range(UNARY_CHANNELS)]
    stubs = [log_pb2_grpc.LogStub(channel) for channel in channels]
    request = log_pb2.ProduceRequest(record=log_pb2.Record(value=os.urandom(options.size)))
    for count in (max(WARM_UP_COUNT, options.window), options.count):
        latencies, turns = list[float](), cycle(stubs)
        begin = time.perf_counter()
        await closed_loop(lambda turns=turns: next(turns).Produce(request), options.window, count, latencies)
        seconds = time.perf_counter() - begin
    print(result(options.size, latencies, seconds), flush=True)
    for channel in channels:
        await channel.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", choices=["binary", "batches", "unary"], required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--certs", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--logs", default="", help="named logs, with commas between; of the binary protocol")
    options = parser.parse_args()
    if options.api == "binary":
        run_binary(options)
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_batches(options) if options.api == "batches" else run_unary(options))


if __name__ == "__main__":
    main()
