"""The ceiling of a replicated, durable, TLS append path in CPython: same bytes, same syncs, no consensus.

A client sends batches to a leader, which writes and fdatasyncs them and passes them to two followers,
which do the same; the client gets its ack when two of three have them on disk. Three server processes and
one client, on loopback, TLS 1.3. It is a yardstick, not a design: no terms, no checks, no recovery, no
coalescing. Compare a real cluster with it in the same run on the same machine.

    python -m bench.ceiling --size 65536 --count 3000 --window 16
"""

import argparse
import asyncio
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import uvloop
from fastcrc.crc32 import iscsi as crc32c
from twisted.internet import asyncioreactor, protocol, ssl

from bench.measure import scratch
from loghouse.testing.process import Certificates, free_port

U32, U64 = struct.Struct(">I"), struct.Struct(">Q")


def reactor():
    """The reactor, on uvloop."""
    if "twisted.internet.reactor" not in sys.modules:
        asyncio.set_event_loop(uvloop.new_event_loop())
        asyncioreactor.install(asyncio.get_event_loop())
    from twisted.internet import reactor as installed

    return installed


def listen(port, factory):
    options = ssl.CertificateOptions(
        privateKey=ssl.KeyPair.load(Path("certs/node-1.key").read_bytes(), 1).original,
        certificate=ssl.Certificate.loadPEM(Path("certs/node-1.pem").read_bytes()).original,
        raiseMinimumTo=ssl.TLSVersion.TLSv1_3,
    )
    reactor().listenSSL(port, factory, options, interface="127.0.0.1")
    print("listening", flush=True)


def connect(port, factory):
    root = ssl.Certificate.loadPEM(Path("certs/ca.pem").read_bytes())
    reactor().connectSSL("127.0.0.1", port, factory, ssl.optionsForClientTLS("localhost", trustRoot=root))


class Frames(protocol.Protocol):
    """Length-prefixed frames."""

    def connectionMade(self):
        self.buffer = bytearray()
        self.transport.setTcpNoDelay(True)
        self.up()

    def up(self):
        pass

    def dataReceived(self, data):
        buffer = self.buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= 4:
            (size,) = U32.unpack_from(buffer, start)
            if end - start < 4 + size:
                break
            with memoryview(buffer) as view:
                body = bytes(view[start + 4 : start + 4 + size])
            self.frame(body)
            start += 4 + size
        if start:
            del buffer[:start]

    def frame(self, body):
        raise NotImplementedError

    def send(self, body):
        self.transport.writeSequence((U32.pack(len(body)), body))


class Store:
    """Write at once, fdatasync in a thread; whatever arrives meanwhile is the next group."""

    def __init__(self, name, synced):
        self.fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.synced, self.count, self.busy = synced, 0, False

    def append(self, body):
        crc32c(body)
        os.write(self.fd, body)
        self.count += 1
        if not self.busy:
            self.sync()

    def sync(self):
        self.busy, upto = True, self.count
        reactor().callInThread(lambda: (os.fdatasync(self.fd), reactor().callFromThread(self.done, upto)))

    def done(self, upto):
        self.busy = False
        if self.count > upto:
            self.sync()
        self.synced(upto)


class Follower(Frames):
    def up(self):
        self.store = Store(f"follower-{os.getpid()}.log", lambda count: self.send(U64.pack(count)))

    def frame(self, body):
        self.store.append(body)

    def connectionLost(self, reason):
        reactor().stop()


class Leader(Frames):
    links, commit = [], 0

    def up(self):
        self.own = 0
        self.store = Store("leader.log", self.own_synced)
        for link in self.links:
            link.acked_by = self.advance

    def own_synced(self, count):
        self.own = count
        self.advance()

    def advance(self):
        majority = sorted([self.own, *(link.acked for link in self.links)])[1]
        if majority > self.commit:
            self.commit = majority
            self.send(U64.pack(majority))

    def frame(self, body):
        self.store.append(body)
        for link in self.links:
            link.send(body)

    def connectionLost(self, reason):
        for link in self.links:
            link.transport.loseConnection()
        reactor().callLater(0.2, reactor().stop)


class Link(Frames):
    acked = 0

    def up(self):
        Leader.links.append(self)
        if len(Leader.links) == 2:
            listen(options().port, protocol.Factory.forProtocol(Leader))

    def frame(self, body):
        (self.acked,) = U64.unpack(body)
        self.acked_by()


class Client(Frames):
    def up(self):
        self.sent = self.acked = 0
        self.body = os.urandom(options().size)
        self.sent_at, self.latencies = {}, []
        self.start = time.perf_counter()
        self.fill()

    def fill(self):
        while self.sent - self.acked < options().window and self.sent < options().count:
            self.sent += 1
            self.sent_at[self.sent] = time.perf_counter()
            self.send(self.body)

    def frame(self, body):
        (acked,) = U64.unpack(body)
        now = time.perf_counter()
        self.latencies += [now - self.sent_at.pop(n) for n in range(self.acked + 1, acked + 1)]
        self.acked = acked
        if acked < options().count:
            return self.fill()
        print(result(options().size, self.latencies, now - self.start), flush=True)
        self.transport.loseConnection()
        reactor().callLater(0.1, reactor().stop)


def result(size, latencies, seconds):
    """The line that the ceiling's and the cluster's clients print."""
    ordered, count = sorted(latencies), len(latencies)
    return json.dumps(
        {
            "size_per_second": size * count / seconds,
            "batches_per_second": count / seconds,
            "p50_seconds": ordered[count // 2],
            "p99_seconds": ordered[int(count * 0.99)],
        }
    )


def client_factory(kind):
    factory = protocol.ClientFactory()
    factory.protocol, factory.noisy = kind, False
    return factory


def serve():
    given = options()
    if given.role == "follower":
        listen(given.port, protocol.Factory.forProtocol(Follower))
    elif given.role == "leader":
        for port in given.followers:
            connect(port, client_factory(Link))
    else:
        connect(given.port, client_factory(Client))
    reactor().run()


def run_ceiling(size: int, count: int, window: int) -> dict[str, float]:
    """Run it once and return what its client measured."""
    with scratch() as folder:
        Certificates(Path(folder) / "certs")

        def spawn(role, *words):
            words = ["--size", size, "--count", count, "--window", window, *words]
            command = [sys.executable, "-m", "bench.ceiling", "--role", role, *map(str, words)]
            path = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
            process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
            )
            processes.append(process)
            return process

        processes: list[subprocess.Popen[bytes]] = []
        ports = [free_port() for _ in range(3)]
        try:
            for follower in [spawn("follower", "--port", port) for port in ports[1:]]:
                assert follower.stdout.readline()
            leader = spawn("leader", "--port", ports[0], "--followers", *ports[1:])
            assert leader.stdout.readline()
            found = json.loads(spawn("client", "--port", ports[0]).stdout.readline())
            for process in processes:
                process.wait(10)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                process.stdout.close()
    return found


def options() -> argparse.Namespace:
    if not _options:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--role", default="all")
        parser.add_argument("--port", type=int, default=0)
        parser.add_argument("--followers", type=int, nargs="*", default=[])
        parser.add_argument("--size", type=int, default=65536, help="bytes in a batch")
        parser.add_argument("--count", type=int, default=2000, help="batches")
        parser.add_argument("--window", type=int, default=16, help="batches in flight")
        _options.append(parser.parse_args())
    return _options[0]


_options: list[argparse.Namespace] = []


if __name__ == "__main__":
    if options().role == "all":
        print(run_ceiling(options().size, options().count, options().window))
    else:
        serve()
