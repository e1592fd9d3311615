"""What one client process does, with any system: `python -m MODULE SYSTEM JOB TARGET CERTS LOG NUMBERS...`.

Prints JSON. Jobs: `make`, `append SIZE WINDOW COUNT`, `fill SIZE COUNT`, `read SIZE COUNT`, `leader`, and
`gap PID`, which kills the leader itself and returns the longest pause between two acknowledgements after it.
Nothing of Loghouse is imported here, so that a Python that lacks it can run this.
"""

import asyncio
import json
import os
import signal
import ssl
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from pathlib import Path

from bench.closed_loop import closed_loop

WARM_UP_COUNT = 50
FILL_BYTES = 4 << 20  # what a client that fills a log has in flight, in 256 records at most
READ_SECONDS = 0.7  # whole passes over the records until so much time has gone
GAP_SIZE = 1024
GAP_BEFORE, GAP_AFTER = 100, 200  # acknowledgements
GAP_SECONDS_MAX = 90.0
PAUSE_SECONDS = 0.01


class Client(ABC):
    """One client of one log, over TLS with a certificate of its own."""

    # How long `gap` waits for one attempt before the next; None: the library tries again by itself.
    attempt_seconds: float | None = 0.5

    def __init__(self, target: str, certs: Path, log: str) -> None:
        self.targets, self.certs, self.log = target.split(","), certs, log

    def tls(self) -> ssl.SSLContext:
        """Return what libraries that take Python's TLS need."""
        context = ssl.create_default_context(cafile=self.certs / "ca.pem")
        context.load_cert_chain(self.certs / "root.pem", self.certs / "root.key")
        return context

    @abstractmethod
    async def open(self, window: int) -> None:
        """Connect, for so many appends at once."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def make(self) -> None:
        """Make the log, and return once its three replicas take part."""

    @abstractmethod
    async def append(self, body: bytes) -> None:
        """Return once the record is as durable as the peer's `durability` says."""

    async def measure(self, size: int, window: int, count: int) -> dict[str, float]:
        """Keep `window` appends in flight until `count` are answered."""
        body = os.urandom(size)
        latencies = list[float]()
        for number in (min(WARM_UP_COUNT, count), count):
            latencies.clear()
            begin = time.perf_counter()
            await closed_loop(lambda: self.append(body), window, number, latencies)
            seconds = time.perf_counter() - begin
        return figures_of(latencies, seconds)

    async def fill(self, size: int, count: int) -> None:
        """Append records as fast as may be, to have them there."""
        body = os.urandom(size)
        window = max(1, min(256, FILL_BYTES // size))
        await closed_loop(lambda: self.append(body), window, count, [])

    # A peer that has none of these three says so in `Peer.lacks`, and is never asked.

    async def read_bulk(self, count: int) -> int:
        """Read the first `count` records as the library does it most quickly; return the bytes of all."""
        raise NotImplementedError

    async def read_each(self, count: int) -> int:
        """Read the first `count` records one by one; return the bytes of all."""
        raise NotImplementedError

    async def leader(self) -> str:
        """Return who leads, as `Peer.pid_of` knows them."""
        raise NotImplementedError

    async def recover(self) -> None:  # noqa: B027 - most libraries do that themselves
        """Do what an attempt that failed makes necessary."""


def figures_of(latencies: list[float], seconds: float) -> dict[str, float]:
    """Return what `append` prints."""
    ordered, count = sorted(latencies), len(latencies)
    return {
        "per_second": count / seconds,
        "p50_seconds": ordered[count // 2],
        "p99_seconds": ordered[int(count * 0.99)],
    }


async def read(client: Client, size: int, count: int) -> dict[str, float]:
    """Read the log's first records again and again, in bulk and one by one."""
    rates, records = dict[str, float](), 0
    for name, passing in (("bulk", client.read_bulk), ("each", client.read_each)):
        await _pass(passing, size, count)  # connections and what else a first one needs
        passes, begin = 0, time.perf_counter()
        while passes == 0 or time.perf_counter() - begin < READ_SECONDS:
            await _pass(passing, size, count)
            passes += 1
        rates[name] = passes * count / (time.perf_counter() - begin)
        records += (passes + 1) * count
    return {
        "bulk_megabytes_per_second": rates["bulk"] * size / 1e6,
        "per_second": rates["each"],
        "records": records,
    }


async def _pass(passing: Callable[[int], Awaitable[int]], size: int, count: int) -> None:
    found = await passing(count)
    if found != size * count:
        raise RuntimeError(f"{count} records of {size} bytes came as {found} bytes")


async def gap(client: Client, pid: int) -> dict[str, float]:
    """Append one record after the other, kill a process, and return the longest pause after that."""
    body, answered, killed_at = os.urandom(GAP_SIZE), list[float](), 0
    begin = time.perf_counter()
    while not killed_at or len(answered) - killed_at < GAP_AFTER:
        try:
            await asyncio.wait_for(client.append(body), client.attempt_seconds)
        except Exception:
            if not killed_at:
                raise
            if time.perf_counter() - begin > GAP_SECONDS_MAX:
                raise
            await asyncio.sleep(PAUSE_SECONDS)
            await client.recover()
            continue
        answered.append(time.perf_counter())
        if len(answered) == GAP_BEFORE:
            os.kill(pid, signal.SIGKILL)
            killed_at = len(answered)
    return {"gap_seconds": longest_gap(answered[killed_at - 1 :])}


def longest_gap(times: list[float]) -> float:
    """Return the longest time between two that follow one another."""
    return max(later - earlier for earlier, later in pairwise(times))


async def run(client: Client, job: str, numbers: list[int]) -> dict[str, object]:
    """Do a job of one connection."""
    await client.open(numbers[1] if job == "append" else 1)
    try:
        if job == "make":
            await client.make()
        elif job == "append":
            return {**await client.measure(*numbers)}
        elif job == "fill":
            await client.fill(*numbers)
        elif job == "read":
            return {**await read(client, *numbers)}
        elif job == "leader":
            return {"leader": await client.leader()}
        elif job == "gap":
            return {**await gap(client, *numbers)}
        else:
            raise ValueError(f"no job: {job!r}")
        return {}
    finally:
        await client.close()


def main(systems: Mapping[str, type[Client]]) -> None:
    """Run what the command line says, on uvloop."""
    import uvloop

    system, job, target, certs, log, *numbers = sys.argv[1:]
    client = systems[system](target, Path(certs), log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(client, job, list(map(int, numbers))))))
