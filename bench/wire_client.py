"""One binary client in a process of its own, for `bench.wire`: does a task, prints one figure, ends.

python -m bench.wire_client TASK HOST:PORT CERTIFICATES [NUMBER]
"""

import sys
import time
from pathlib import Path

from loghouse.runtime import reactor as _reactor

_reactor.install()

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from loghouse.api.v1.log_pb2 import Record
from loghouse.limits import KIB
from loghouse.net.binary_client import ClientTls, connect
from loghouse.protocol.batch import encode_batch

VALUE = b"v" * 100


def tls_of(folder):
    path = Path(folder)
    return ClientTls(ca=path / "ca.pem", certificate=path / "root.pem", key=path / "root.key")


async def produce(connection, count):
    """Single records, 64 in flight: appends a second."""
    batch = encode_batch([Record(value=VALUE)])
    left = count

    async def caller():
        nonlocal left
        while left > 0:
            left -= 1
            await connection.produce(batch, record_count=1)

    await connection.produce(batch, record_count=1)
    begin = time.perf_counter()
    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(64)])
    return count / (time.perf_counter() - begin)


async def fill(connection, count):
    """Batches of 64 KiB, 16 in flight."""
    batch = encode_batch([Record(value=b"v" * 1000)] * (64 * KIB // 1003))
    for _ in range(count // 16):
        await gatherResults([connection.produce(batch, record_count=64 * KIB // 1003) for _ in range(16)])
    return 0.0


async def follow(connection, size):
    """Bytes a second of entry frames."""
    got = 0
    done = Deferred()
    begin = time.perf_counter()

    def take(reply):
        nonlocal got
        got += len(reply.frames)
        if got >= size and not done.called:
            done.callback(None)

    connection.follow(0, take, credit_size=16 << 20).addErrback(lambda failure: None)
    await done
    return got / (time.perf_counter() - begin)


async def latency(connection, count):
    """The 99th percentile of one append at a time, in milliseconds."""
    batch = encode_batch([Record(value=VALUE)])
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        await connection.produce(batch, record_count=1)
        times.append(time.perf_counter() - begin)
    return sorted(times)[int(0.99 * count)] * 1e3


async def idle(address, folder, count):
    """Hold so many connections until standard input closes."""
    host, port = address.rsplit(":", 1)
    tls = tls_of(folder)
    held = []
    while len(held) < count:
        held += await gatherResults([connect(reactor, host, int(port), tls) for _ in range(20)])
    print(len(held), flush=True)
    from twisted.internet.threads import deferToThread

    await deferToThread(sys.stdin.read)
    return 0.0


class Sink(Protocol):
    """Counts what comes, for the ceiling of `follow`: Twisted's TLS and nothing else."""

    def __init__(self, size, done):
        self.left, self.done = size, done
        self.begin = time.perf_counter()

    def dataReceived(self, data):
        self.left -= len(data)
        if self.left <= 0 and not self.done.called:
            self.done.callback(time.perf_counter() - self.begin)


async def sink(address, folder, size):
    """Bytes a second from a bare TLS source (`bench.wire_source`)."""
    host, port = address.rsplit(":", 1)
    done = Deferred()
    factory = ClientFactory.forProtocol(lambda: Sink(size, done))
    options = tls_of(folder).options("127.0.0.1")
    reactor.connectTCP(host, int(port), TLSMemoryBIOFactory(options, True, factory))
    return size / await done


async def run(task, address, folder, number=0):
    if task in ("idle", "sink"):
        print(await globals()[task](address, folder, int(number)), flush=True)
        return
    host, port = address.rsplit(":", 1)
    connection = await connect(reactor, host, int(port), tls_of(folder))
    print(await globals()[task](connection, int(number)), flush=True)


def main():
    def failed(failure):
        failure.printTraceback()

    def start():
        work = Deferred.fromCoroutine(run(*sys.argv[1:]))
        work.addErrback(failed).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(reactor.callLater, 0, start)
    reactor.run()


if __name__ == "__main__":
    main()
