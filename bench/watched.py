"""What it costs a node to be watched: CPU time of an append, with `http_listen` and without.

    python -m bench.watched

Two nodes, each alone, take appends of 1 kB, 64 in flight, in short turns, so that they share the machine's
moods. Two processes of one program differ by some percent for as long as they live, by where their memory and
their threads happen to be: both nodes have the last processor and this client the first, memory is laid out
alike (`setarch -R`), each pair of turns belongs to a life, and it is lives that count. Shown is the median of
the lives' medians, and between which values the true one is, with 95 per cent. `--control` compares two nodes
that are not watched: the noise.
"""

import argparse
import math
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.append_load import BinaryClient
from bench.ceiling import reactor
from bench.measure import Table, median
from loghouse.testing.process import Certificates, NodeProcess, free_port

SIZE = 1000
WINDOW = 64
CPU_COUNT = os.cpu_count() or 1
SCRAPES = 20
SCRAPE_SECONDS = 15  # between two of Prometheus, as docs/monitoring.md has it


def cpu_seconds(node: NodeProcess) -> float:
    """What all threads of a node ran so far, also those that are gone: the kernel's clock of the process."""
    return time.clock_gettime(~node.pid << 3 | 2)


def interval(values: list[float]) -> tuple[float, float]:
    """Return between what the median is of which these are samples, with 95 per cent, however they spread."""
    ordered, count, outside, below = sorted(values), len(values), 0.0, 0
    while outside + math.comb(count, below) / 2**count <= 0.025:
        outside += math.comb(count, below) / 2**count
        below += 1
    return ordered[max(below - 1, 0)], ordered[-max(below, 1)]


class Side:
    """A node and the connection that appends to it."""

    def __init__(self, folder: Path, certificates: Certificates, settings: str) -> None:
        self.node = NodeProcess(folder, certificates, settings=settings)
        self.node.environment["PYTHONHASHSEED"] = "0"
        self.client: Any = None  # set once the node serves

    async def start(self, loop: Any) -> None:
        from loghouse.net.binary_client import ClientTls, connect

        self.node.start(prefix=("setarch", "-R", "taskset", "-c", str(CPU_COUNT - 1)))
        files = self.node.certificates.folder
        tls = ClientTls(ca=files / "ca.pem", certificate=files / "root.pem", key=files / "root.key")
        connection = await connect(loop, "127.0.0.1", self.node.port, tls)
        self.client = BinaryClient(connection, SimpleNamespace(size=SIZE, window=WINDOW))

    async def append(self, count: int) -> float:
        """Append so many records; return the node's CPU seconds for one."""
        before = cpu_seconds(self.node)
        for _ in range(count // WINDOW):
            await self.client.run(WINDOW)
        return (cpu_seconds(self.node) - before) / count

    async def close(self) -> None:
        if self.client is not None:
            await self.client.connection.close()
        self.node.close()


class Lives:
    """Figures of all lives so far: CPU seconds of an append, of a scrape, and a ratio for each life."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.plain: list[float] = []
        self.watched: list[float] = []
        self.ratios: list[float] = []
        self.scrapes: list[float] = []

    async def live(self, loop: Any, folder: Path, certificates: Certificates) -> None:
        """Start two nodes, let them take turns, and stop them."""
        options, port = self._options, free_port()
        http = "" if options.control else f"http_listen: 127.0.0.1:{port}\n"
        plain, watched = (
            Side(folder / name, certificates, settings)
            for name, settings in (("plain", ""), ("watched", http))
        )
        try:
            for side in (plain, watched):
                await side.start(loop)
                await side.append(options.count)  # warm
            ratios = []
            for turn in range(options.turns):
                both = (plain, watched) if turn % 2 else (watched, plain)
                took = {side: await side.append(options.count) for side in both}
                self.plain.append(took[plain])
                self.watched.append(took[watched])
                ratios.append(took[watched] / took[plain])
            self.ratios.append(median(ratios))
            print(f"life {len(self.ratios)}: {(self.ratios[-1] - 1) * 100:+.1f} %", flush=True)
            if http:
                self.scrapes.append(self._scrape(watched.node, port))
        finally:
            await plain.close()
            await watched.close()

    def _scrape(self, node: NodeProcess, port: int) -> float:
        before = cpu_seconds(node)
        for _ in range(SCRAPES):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
        return (cpu_seconds(node) - before) / SCRAPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=16, help="how often both nodes start (16)")
    parser.add_argument("--turns", type=int, default=40, help="pairs of turns in each life (40)")
    parser.add_argument("--count", type=int, default=1280, help="appends in a turn (1280)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no life after so many seconds")
    parser.add_argument("--control", action="store_true", help="watch neither")
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})
    loop = reactor()
    from twisted.internet.defer import Deferred

    lives, failures = Lives(options), []

    async def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            certificates = Certificates(Path(folder) / "certs")
            end = time.monotonic() + options.seconds
            for number in range(options.lives):
                if time.monotonic() > end:
                    break
                await lives.live(loop, Path(folder) / f"life-{number}", certificates)

    def start() -> None:
        working = Deferred.fromCoroutine(work())
        working.addErrback(failures.append)
        working.addBoth(lambda _: loop.stop())

    loop.callWhenRunning(start)
    loop.run()
    if failures:
        sys.exit(failures[0].getTraceback())
    table = Table()
    table.add("an append of 1 kB, 64 in flight, not watched", median(lives.plain) * 1e6, "CPU us")
    table.add("  watched", median(lives.watched) * 1e6, "CPU us")
    more = [(ratio - 1) * 100 for ratio in lives.ratios]
    table.add("  more, the median of the lives", median(more), "%", bar=2, at_most=True)
    for text, value in zip(("from", "to"), interval(more), strict=True):
        table.add(f"  {text}", value, "%")
    if lives.scrapes:
        scrape = median(lives.scrapes)
        table.add("a scrape", scrape * 1e3, "CPU ms")
        table.add(f"  one each {SCRAPE_SECONDS} s, of a core", scrape / SCRAPE_SECONDS * 100, "%")


if __name__ == "__main__":
    main()
