"""Consumers on three nodes: what exactly once costs a pipeline, commits a log, and a killed worker who waits.

    python -m bench.consumers [--rounds N] [--count N] [--only PART] [--json FILE]

pipeline    From one log into another, records and position in one step, against a producer that only appends:
            100-byte records, batches of 256 KiB, in alternating runs.
commits     The entries that the cursor of a consumer adds to a log of as many records.
takeover    From `kill -9` of a worker to the first record of the one that stands by.
cursors     An append of 1 kB to a log with 1,000 cursors, against one to a log without, in alternating runs.

Client and nodes share this machine; each client is a process of its own, on uvloop.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.client import BATCH_SIZE, LARGE_SIZE, SMALL_SIZE, UNARY_COUNT, WARM_UP_COUNT, tls_of
from bench.measure import Table, finish, median, ratio, rounds, scratch
from loghouse.client import AsyncClient, connect
from loghouse.client.log import AsyncLog
from loghouse.testing.cluster_process import ClusterProcess

LEASE_SECONDS = 2.0  # of the workers that are killed
CURSOR_COUNT = 1000
SECONDS_MAX = 120.0


# --- one client process ---------------------------------------------------------------


async def produce(cluster: AsyncClient, options: argparse.Namespace) -> dict[str, float]:
    """Append as many records as one program can."""
    value = os.urandom(options.size)
    async with cluster.log(options.log).producer(batch_bytes=BATCH_SIZE) as producer:
        for _ in range(WARM_UP_COUNT):
            await producer.append(value)
        await producer.flush()
        begin, used = time.perf_counter(), time.process_time()
        for _ in range(options.count):
            await producer.append(value)
        await producer.flush()
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": options.count / seconds, "cpu_seconds": used}


async def pipeline(cluster: AsyncClient, options: argparse.Namespace) -> dict[str, float]:
    """Make a record of each record, into another log, each once."""
    source, target = cluster.log(options.log), cluster.log(options.into)
    end = (await source.bounds()).next_offset
    async with source.consumer(options.cursor, into=target) as consumer:
        await consumer.acquire()
        begin, used = time.perf_counter(), time.process_time()
        async for batch in consumer.batches():
            await consumer.emit(map(bytes.swapcase, batch.values()))
            if batch.next_offset == end:
                break
        await consumer.commit()
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": end / seconds, "cpu_seconds": used}


async def consume(cluster: AsyncClient, options: argparse.Namespace) -> dict[str, float]:
    """Handle each record, and say so."""
    log = cluster.log(options.log)
    end, before = (await log.bounds()).next_offset, await entries_of(log)
    begin = time.perf_counter()
    async with log.consumer(options.cursor) as consumer:
        async for record in consumer:
            consumer.done(record)
            if record.offset + 1 == end:
                break
    seconds = time.perf_counter() - begin
    added = await entries_of(log) - before
    return {"per_second": end / seconds, "entries": before, "added": added}


async def entries_of(log: AsyncLog) -> int:
    status = await log.status()
    return int(status.commit_index)


async def work(cluster: AsyncClient, options: argparse.Namespace) -> dict[str, float]:
    """Consume until killed; say when the first record came, by the clock that all processes share."""
    async with cluster.log(options.log).consumer(options.cursor, lease_seconds=LEASE_SECONDS) as consumer:
        print("ready", flush=True)
        async for _ in consumer:
            print(json.dumps({"at": time.monotonic()}), flush=True)
            await asyncio.sleep(SECONDS_MAX)  # nothing is done: the next one begins with the same record
            break
    return {}


async def append(cluster: AsyncClient, options: argparse.Namespace) -> dict[str, float]:
    """Append records of 1 kB, one after the other."""
    log, value, latencies = cluster.log(options.log), os.urandom(LARGE_SIZE), []
    for _ in range(WARM_UP_COUNT + UNARY_COUNT):
        begin = time.perf_counter()
        await log.append(value)
        latencies.append(time.perf_counter() - begin)
    return {"p50_seconds": median(latencies[WARM_UP_COUNT:])}


async def fill(cluster: AsyncClient, options: argparse.Namespace) -> dict[str, float]:
    """Make cursors, and leave them."""
    cursors = cluster.log(options.log).cursors()
    for first in range(0, CURSOR_COUNT, 50):
        await asyncio.gather(*(cursors.acquire(f"cursor-{first + n}") for n in range(50)))
    return {"count": len(await cursors.list())}


JOBS = {
    "produce": produce,
    "pipeline": pipeline,
    "consume": consume,
    "work": work,
    "append": append,
    "fill": fill,
}


def run_job(options: argparse.Namespace) -> None:
    import uvloop

    async def run() -> None:
        tls = tls_of(options.certs)
        async with connect(options.target, tls=tls, timeout_seconds=SECONDS_MAX) as cluster:
            print(json.dumps(await JOBS[options.job](cluster, options)), flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# --- the comparison ---------------------------------------------------------------------


class Programs:
    """Client processes on one cluster."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.cluster = cluster
        self.target = ",".join(node.address for node in cluster.nodes)

    def start(self, job: str, **options: Any) -> subprocess.Popen[str]:
        """Start one client."""
        words = ["--job", job, "--target", self.target, "--certs", str(self.cluster.certificates.folder)]
        words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "bench.consumers", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(self, job: str, **options: Any) -> dict[str, float]:
        """Run one client to its end, and return what it found."""
        with self.start(job, **options) as program:
            text, _ = program.communicate(timeout=600)
        if program.returncode:
            raise RuntimeError(f"{job} ended with {program.returncode}")
        found: dict[str, float] = json.loads(text)
        return found

    def create(self, *names: str) -> None:
        """Make logs."""

        async def make() -> None:
            tls = tls_of(Path(self.cluster.certificates.folder))
            async with connect(self.target, tls=tls, timeout_seconds=SECONDS_MAX) as cluster:
                for name in names:
                    await cluster.create_log(name)

        asyncio.run(make())


def bench_pipeline(table: Table, options: argparse.Namespace, programs: Programs) -> None:
    last: dict[str, dict[str, float]] = {}
    turn = iter(range(options.rounds))

    def plain() -> float:
        last["plain"] = programs.run("produce", log="plain", count=options.count)
        return last["plain"]["per_second"]

    def piped() -> float:
        last["piped"] = programs.run("pipeline", log="orders", into="bills", cursor=f"bills-{next(turn)}")
        return last["piped"]["per_second"]

    programs.run("produce", log="orders", count=options.count)
    theirs, ours = rounds(options.rounds, plain, piped)
    table.add("producer, 100-byte records, one log", median(theirs), "records/s")
    table.add("  CPU time of the client", last["plain"]["cpu_seconds"] / options.count * 1e6, "us/record")
    table.add("pipeline, exactly once, from another log", median(ours), "records/s")
    table.add("  CPU time of the client", last["piped"]["cpu_seconds"] / options.count * 1e6, "us/record")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.8)


def bench_commits(table: Table, options: argparse.Namespace, programs: Programs) -> None:
    programs.run("produce", log="read", count=options.count)
    found = programs.run("consume", log="read", cursor="billing")
    table.add("consumer, record by record, each done", found["per_second"], "records/s")
    table.add("  entries that its cursor adds", found["added"], "")
    table.add(
        "  of the entries of the records", 100 * found["added"] / found["entries"], "%", bar=2, at_most=True
    )


def bench_takeover(table: Table, options: argparse.Namespace, programs: Programs) -> None:
    programs.run("produce", log="shared", count=1)
    seconds = []
    for number in range(options.rounds):
        names = {"log": "shared", "cursor": f"worker-{number}"}
        worker = programs.start("work", **names)
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdout.readline()  # it has the record
        other = programs.start("work", **names)
        assert other.stdout is not None
        other.stdout.readline()
        time.sleep(2 * LEASE_SECONDS)  # the lease is renewed meanwhile, and the other one stands by
        killed_at = time.monotonic()
        worker.kill()
        seconds.append(json.loads(other.stdout.readline())["at"] - killed_at)
        for program in (worker, other):
            program.kill()
            program.communicate()
    table.add(f"take-over after kill -9, lease of {LEASE_SECONDS:g} s", median(seconds), "s")
    table.add("  the longest", max(seconds), "s", bar=LEASE_SECONDS + 1, at_most=True)


def bench_cursors(table: Table, options: argparse.Namespace, programs: Programs) -> None:
    assert programs.run("fill", log="many")["count"] == CURSOR_COUNT
    without, with_ = rounds(
        options.rounds,
        lambda: programs.run("append", log="none")["p50_seconds"],
        lambda: programs.run("append", log="many")["p50_seconds"],
    )
    table.add("append, 1 kB, one in flight, p50, no cursors", median(without) * 1e3, "ms")
    table.add(f"  with {CURSOR_COUNT} cursors", median(with_) * 1e3, "ms")
    table.add("  ratio", ratio(with_, without), "")


PARTS = {
    "pipeline": bench_pipeline,
    "commits": bench_commits,
    "takeover": bench_takeover,
    "cursors": bench_cursors,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds to run; medians are of these")
    parser.add_argument("--count", type=int, default=1_000_000, help="100-byte records of a round")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", default="", help="run only the parts whose name contains this")
    job = parser.add_argument_group("one client, as this program starts it")
    job.add_argument("--job", choices=[*JOBS])
    job.add_argument("--target")
    job.add_argument("--certs", type=Path)
    job.add_argument("--size", type=int, default=SMALL_SIZE)
    job.add_argument("--log", default="")
    job.add_argument("--into", default="")
    job.add_argument("--cursor", default="")
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
            programs = Programs(cluster)
            programs.create("plain", "orders", "bills", "read", "shared", "none", "many")
            for part, run in PARTS.items():
                if options.only in part:
                    run(table, options, programs)
        finally:
            cluster.close()
    finish(table, options)


if __name__ == "__main__":
    main()
