"""Reads of ranges by the Python client: backwards against forwards, and the server's filter against a loop.

    python -m bench.ranges [--rounds N] [--count N] [--json FILE]

Pairs alternate, client and nodes on this machine; the client is a process of its own. A filter keeps 1 % of
the records: scattered over all batches, or together in some of them.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from bench.client import tls_of
from bench.measure import Table, finish, median, ratio, rounds, scratch
from loghouse.client import connect
from loghouse.limits import KIB
from loghouse.testing.cluster_process import ClusterProcess

VALUE_SIZE = 100
BATCH_SIZE = 64 * KIB
HOT = b"sensor-7"
SHARE = 100  # one record of so many has the key


def keys_of(layout: str, count: int) -> list[bytes | None]:
    """Return the keys of all records: of none, of 1 % anywhere, or of 1 % one behind the other."""
    if layout == "plain":
        return [None] * count
    rng = random.Random(7)
    cold = [b"sensor-%d" % number for number in range(100, 200)]
    keys: list[bytes | None] = [rng.choice(cold) for _ in range(count)]
    places = rng.sample(range(count), count // SHARE)
    for place in range(count // 2, count // 2 + count // SHARE) if layout == "together" else places:
        keys[place] = HOT
    return keys


async def produce(log, options) -> dict[str, float]:
    value = random.Random(8).randbytes(VALUE_SIZE)
    async with log.producer(batch_bytes=BATCH_SIZE) as producer:
        for key in keys_of(options.layout, options.count):
            await producer.append(value, key=key)
    return {}


async def whole(log, options) -> dict[str, float]:
    begin, used, count = time.perf_counter(), time.process_time(), 0
    async for batch in log.read_batches(options.start, until=options.end, reverse=options.reverse):
        count += len(batch.values())
    seconds = time.perf_counter() - begin
    return {"per_second": count / seconds, "cpu_seconds": time.process_time() - used, "count": count}


async def filtered(log, options) -> dict[str, float]:
    """The records of one key, chosen here by a loop, or by the server."""
    begin, used, count = time.perf_counter(), time.process_time(), 0
    if options.by_server:
        async for record in log.read(options.start, until=options.end, key=HOT):
            count += len(record.value) > 0
    else:
        async for record in log.read(options.start, until=options.end):
            if record.key == HOT:
                count += len(record.value) > 0
    seconds = time.perf_counter() - begin
    looked = options.end - options.start
    return {"per_second": looked / seconds, "cpu_seconds": time.process_time() - used, "count": count}


JOBS = {"produce": produce, "whole": whole, "filtered": filtered}


def run_job(options) -> None:
    import uvloop

    async def work():
        async with connect(options.target, tls=tls_of(options.certs), timeout_seconds=120.0) as log:
            await log.bounds()
            print(json.dumps(await JOBS[options.job](log, options)), flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


class Ranges:
    """Client processes on one cluster, and records of one layout each."""

    def __init__(self, cluster: ClusterProcess, count: int) -> None:
        self.cluster = cluster
        self.count = count
        self.target = ",".join(node.address for node in cluster.nodes)

    def run(self, job: str, *more: object) -> dict[str, float]:
        words = ["--job", job, "--target", self.target, "--certs", self.cluster.certificates.folder, *more]
        command = [sys.executable, "-m", "bench.ranges", "--count", str(self.count), *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def fill(self, layout: str) -> tuple[object, ...]:
        """Append records; return the words that say where they are."""
        start = self.next_offset()
        self.run("produce", "--layout", layout)
        self.cluster.wait_caught_up()
        return "--start", start, "--end", self.next_offset()

    def next_offset(self) -> int:
        return self.cluster.bounds(self.cluster.wait_leader(), seconds_max=60)[1]


def bench(table: Table, options: argparse.Namespace, ranges: Ranges) -> None:
    where = ranges.fill("plain")
    forwards, backwards = rounds(
        options.rounds,
        lambda: ranges.run("whole", *where)["per_second"],
        lambda: ranges.run("whole", "--reverse", *where)["per_second"],
    )
    table.add("read_batches, 100-byte records, forwards", median(forwards), "records/s")
    table.add("  backwards", median(backwards), "records/s")
    table.add("  ratio", ratio(backwards, forwards), "", bar=0.5)
    for layout, text in (("scattered", "in every batch"), ("together", "in 1 % of the batches")):
        where = ranges.fill(layout)
        by_loop, by_server = rounds(
            options.rounds,
            lambda where=where: ranges.run("filtered", *where)["per_second"],
            lambda where=where: ranges.run("filtered", "--by-server", *where)["per_second"],
        )
        table.add(f"a loop that keeps 1 % of the records, {text}", median(by_loop), "records looked at/s")
        table.add("  by key, on the server", median(by_server), "records looked at/s")
        table.add("  ratio", ratio(by_server, by_loop), "", bar=3)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds to run; medians are of these")
    parser.add_argument("--count", type=int, default=500_000, help="records of each layout")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    job = parser.add_argument_group("one client, as this program starts it")
    job.add_argument("--job", choices=JOBS)
    job.add_argument("--target")
    job.add_argument("--certs", type=Path)
    job.add_argument("--layout", choices=("plain", "scattered", "together"), default="plain")
    job.add_argument("--start", type=int, default=0)
    job.add_argument("--end", type=int, default=0)
    job.add_argument("--reverse", action="store_true")
    job.add_argument("--by-server", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.job:
        run_job(options)
        return
    table = Table()
    with scratch() as name:
        cluster = ClusterProcess(Path(name) / "three")
        try:
            cluster.start()
            cluster.wait_voters()
            bench(table, options, Ranges(cluster, options.count))
        finally:
            cluster.close()
    finish(table, options)


if __name__ == "__main__":
    main()
