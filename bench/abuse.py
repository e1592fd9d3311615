"""One node under abuse: a subject at the bound of each resource, and what another one gets meanwhile.

    python -m bench.abuse [--seconds N] [--pairs N] [--only PART] [--json FILE]

For each resource an abuser takes all it can and holds it. A victim appends over the binary protocol before
and during that: rates and 99th percentiles are compared pair by pair. The node's private memory is read when
the abuser has all it gets; its reactor says how long its longest turn computed (`heartbeat`).
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench.measure import Table, finish, median, scratch
from loghouse.api.v1 import log_pb2
from loghouse.auth.certificates import make_client_certificate
from loghouse.cli.certs import POLICY_TEXT
from loghouse.client import Tls, connect
from loghouse.errors import ProtocolError
from loghouse.limits import MIB
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Fetch, Follow, Produce
from loghouse.protocol.codec import encode
from loghouse.protocol.framing import pack_header
from loghouse.protocol.link_messages import Hello, LinkError, LinkRole
from loghouse.testing.half_calls import HalfCalls
from loghouse.testing.process import Certificates, NodeProcess

IN_FLIGHT = 8
GROWTH_MAX = 256
GROWTH_WITHOUT_RULE_MAX = 512  # whatever all subjects without a rule do together
SUBJECTS_WITHOUT_RULE = 48
RATE_MIN = 0.7
TAIL_MAX = 3
TURN_MAX = 10
FAR = 2**40
PER_CONNECTION = 256
FRAME_SIZE = 8 * MIB


# --- the victim, in a process of its own ---------------------------------------------------


async def append(address: str, folder: Path, seconds: float) -> dict[str, float]:
    """Append small records with a few in flight; return how many a second, and the 99th percentile."""
    tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
    times: list[float] = []
    async with connect(f"loghouse://{address}", tls=tls) as log:
        await log.append(b"warm")
        end = time.monotonic() + seconds

        async def one() -> None:
            while (begin := time.monotonic()) < end:
                await log.append(b"v" * 100)
                times.append(time.monotonic() - begin)

        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    times.sort()
    return {"per_second": len(times) / seconds, "p99": times[len(times) * 99 // 100]}


# --- abusers ----------------------------------------------------------------------------------


class Abuser:
    """What one attack holds; everything is let go by `close`."""

    def __init__(self, node: NodeProcess) -> None:
        self.address = ("127.0.0.1", node.port)
        self._folder = node.certificates.folder
        self._held = contextlib.ExitStack()

    def context(self, name: str, protocol: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._folder / "ca.pem"))
        context.load_cert_chain(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        context.set_alpn_protocols([protocol])
        return context

    def half(self, context: ssl.SSLContext) -> HalfCalls:
        half = HalfCalls(self.address, context)
        self._held.callback(half.close)
        return half

    def link(self, context: ssl.SSLContext) -> ssl.SSLSocket | None:
        """Return a greeted link, or None when the node does not want it."""
        plain = socket.create_connection(self.address, 20)
        try:
            tls = context.wrap_socket(plain, server_hostname="127.0.0.1")
            tls.sendall(b"".join(encode(Hello(role=LinkRole.CLIENT))))
            kind = int.from_bytes(tls.recv(65_536)[4:6], "big")
        except OSError:
            return None
        self._held.callback(tls.close)
        return None if kind == LinkError.KIND else tls

    def plain(self, source: str) -> None:
        plain = socket.create_connection(self.address, 20, (source, 0))
        self._held.callback(plain.close)

    def close(self) -> None:
        self._held.close()


def send(link: ssl.SSLSocket | None, data: bytes) -> None:
    if link is not None:
        with contextlib.suppress(OSError):
            link.sendall(data)


def calls_without_a_rule(abuser: Abuser) -> None:
    context = abuser.context("nobody", "h2")
    for _ in range(17):
        half = abuser.half(context)
        for _ in range(PER_CONNECTION):
            half.begin("/log.v1.Log/Produce")
        half.listen(0.1)


def calls(abuser: Abuser) -> None:
    context = abuser.context("greedy", "h2")
    for _ in range(10):
        half = abuser.half(context)
        for _ in range(PER_CONNECTION):
            half.begin("/log.v1.Log/Produce")
        half.listen(0.1)


def unfinished_messages(abuser: Abuser) -> None:
    context = abuser.context("greedy", "h2")
    body = b"\0" + FRAME_SIZE.to_bytes(4, "big") + bytes(FRAME_SIZE - 1)
    for _ in range(8):
        half = abuser.half(context)
        for _ in range(4):
            half.begin("/log.v1.Log/ProduceBatch", body)
        half.push(2)


def unfinished_frames(abuser: Abuser) -> None:
    context = abuser.context("greedy", "loghouse/1")
    for _ in range(24):
        frame = pack_header(FRAME_SIZE, Produce.KIND, group=1, stream=1) + bytes(FRAME_SIZE - 1)
        send(abuser.link(context), frame)


def frames_without_a_rule(abuser: Abuser) -> None:
    context = abuser.context("nobody", "loghouse/1")
    for _ in range(24):
        frame = pack_header(FRAME_SIZE, Produce.KIND, group=1, stream=1) + bytes(FRAME_SIZE - 1)
        send(abuser.link(context), frame)


def followers(abuser: Abuser) -> None:
    context = abuser.context("greedy", "loghouse/1")
    for number in range(34):
        asked = [
            b"".join(encode(Follow(offset=FAR + number * 1000 + stream, credit=1), group=1, stream=stream))
            for stream in range(1, PER_CONNECTION + 1)
        ]
        send(abuser.link(context), b"".join(asked))


def connections(abuser: Abuser) -> None:
    context = abuser.context("greedy", "loghouse/1")
    refused = 0
    while refused < 3:
        refused += abuser.link(context) is None


def strangers(abuser: Abuser) -> None:
    for host in range(2, 10):
        for _ in range(100):
            abuser.plain(f"127.0.0.{host}")


def answers_not_taken(abuser: Abuser) -> None:
    context = abuser.context("greedy", "loghouse/1")
    link = abuser.link(context)
    payload = encode_batch([log_pb2.Record(value=b"x" * 1000)] * 8000)
    request = encode(Produce(batch=payload, record_count=8000), group=1, stream=1)
    send(link, b"".join(request))
    assert link is not None
    offset = int.from_bytes(link.recv(65_536)[16:24], "big")
    for _ in range(40):
        slow = abuser.link(context)
        for stream in range(1, 4):
            send(slow, b"".join(encode(Fetch(offset=offset, size_max=FRAME_SIZE), group=1, stream=stream)))


def log_lines(abuser: Abuser) -> None:
    context = abuser.context("nobody", "loghouse/1")
    error = b"".join(encode(LinkError.of(ProtocolError("A" * 2000))))
    for _ in range(300):
        send(abuser.link(context), error)


def endless_headers(abuser: Abuser) -> None:
    context = abuser.context("nobody", "h2")
    for _ in range(2):  # each blocks until the node has enough of it
        abuser.half(context).endless_headers(4 * MIB)


def headers_beside_a_call(abuser: Abuser) -> None:
    context = abuser.context("greedy", "h2")
    for _ in range(4):
        half = abuser.half(context)
        half.begin("/log.v1.Log/ProduceBatch")  # it awaits its message, so the connection is read
        half.listen(0.2)
        half.endless_headers(15 * MIB)


def all_without_a_rule(abuser: Abuser) -> None:
    frame = pack_header(FRAME_SIZE, Produce.KIND, group=1, stream=1) + bytes(FRAME_SIZE - 1)
    for number in range(SUBJECTS_WITHOUT_RULE):
        name = f"nobody-{number}"
        for _ in range(2):
            half = abuser.half(abuser.context(name, "h2"))
            for _ in range(PER_CONNECTION):
                half.begin("/log.v1.Log/Produce")
            half.listen(0.05)
        for _ in range(2):
            send(abuser.link(abuser.context(name, "loghouse/1")), frame)


def nothing(abuser: Abuser) -> None:
    """What is measured against itself shows the noise."""


ABUSES: dict[str, Callable[[Abuser], None]] = {
    "nothing": nothing,
    "strangers: 800 silent connections": strangers,
    "calls without a rule": calls_without_a_rule,
    "calls": calls,
    "unfinished messages (gRPC)": unfinished_messages,
    "unfinished frames": unfinished_frames,
    "unfinished frames without a rule": frames_without_a_rule,
    "followers": followers,
    "answers not taken": answers_not_taken,
    "log lines": log_lines,
    "endless headers": endless_headers,
    "headers beside a call": headers_beside_a_call,
    "all without a rule": all_without_a_rule,
    "connections": connections,
}


# --- the measurement ----------------------------------------------------------------------------


class Bench:
    """A node, its victim, and its heartbeat."""

    def __init__(self, folder: Path, seconds: float, pairs: int) -> None:
        self._pairs = pairs
        certificates = Certificates(folder / "certs")
        for name in ("greedy", *(f"nobody-{number}" for number in range(SUBJECTS_WITHOUT_RULE))):
            issued = make_client_certificate(certificates.authority, name=name, now=datetime.now(UTC))
            certificates.path(name).write_bytes(issued.certificate_pem)
            certificates.key_path(name).write_bytes(issued.key_pem)
        rules = "p, greedy, default, produce\np, greedy, default, consume\n"
        (certificates.folder / "policy.csv").write_text(POLICY_TEXT + rules)
        self._seconds = seconds
        self._beats = folder / "beats"
        self.node = NodeProcess(folder / "node", certificates)
        self.node.environment["LOGHOUSE_HEARTBEAT"] = str(self._beats)
        self.node.python_path = (Path(__file__).with_name("inside"),)

    def victim(self) -> dict[str, float]:
        folder = str(self.node.certificates.folder)
        command = [sys.executable, "-m", "bench.abuse", "--victim", self.node.address, folder]
        run = subprocess.run(
            [*command, "--seconds", str(self._seconds)], stdout=subprocess.PIPE, check=True, timeout=120
        )
        result: dict[str, float] = json.loads(run.stdout)
        return result

    def longest_turn(self, since: float) -> tuple[float, float]:
        """Return the milliseconds that the longest turn since then computed, and collected garbage."""
        worst = (0.0, 0.0)
        for line in self._beats.read_text().splitlines():
            at, _, used, collecting = map(float, line.split())
            if at > since:
                worst = max(worst, (used * 1000, collecting * 1000))
        return worst

    def run(self, table: Table, name: str, abuse: Callable[[Abuser], None]) -> None:
        rates, tails, growth, begin = [], [], 0.0, time.monotonic()
        for _ in range(self._pairs):
            before, size = self.victim(), self.node.anonymous_size()
            abuser = Abuser(self.node)
            try:
                abuse(abuser)
                growth = max(growth, (self.node.anonymous_size() - size) / MIB)
                during = self.victim()
                growth = max(growth, (self.node.anonymous_size() - size) / MIB)
            finally:
                abuser.close()
            rates.append(during["per_second"] / before["per_second"])
            tails.append(during["p99"] / before["p99"])
        table.add(f"{name}: another's appends, to those before", median(rates), "", bar=RATE_MIN)
        table.add("  their 99th percentile", median(tails), "x", bar=TAIL_MAX, at_most=True)
        growth_max = GROWTH_WITHOUT_RULE_MAX if abuse is all_without_a_rule else GROWTH_MAX
        table.add("  private memory of the node", growth, "MiB more", bar=growth_max, at_most=True)
        turn, collecting = self.longest_turn(begin)
        table.add("  longest turn of the reactor, all requests of it", turn, "ms")
        table.add("    of that, Python's garbage collector", collecting, "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a victim appends, each time")
    parser.add_argument("--pairs", type=int, default=3, help="how often each abuse is tried")
    parser.add_argument("--only", default="", help="run only the abuses whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--victim", nargs=2, metavar=("ADDRESS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        print(json.dumps(asyncio.run(append(options.victim[0], Path(options.victim[1]), options.seconds))))
        return
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    table = Table()
    with scratch() as folder:
        bench = Bench(Path(folder), options.seconds, options.pairs)
        bench.node.start()
        try:
            for name, abuse in ABUSES.items():
                if options.only in name:
                    bench.run(table, name, abuse)
        finally:
            print(os.linesep.join(bench.node.output().splitlines()[-3:]), file=sys.stderr)
            bench.node.stop()
    if any(row["ok"] is False and row["unit"] == "MiB more" for row in table.rows):
        sys.exit(
            "the node held more memory than one subject may make it hold"
        )  # no matter how busy a machine is
    finish(table, options)


if __name__ == "__main__":
    main()
