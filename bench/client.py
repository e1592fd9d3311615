"""The Python client on three nodes: what a program gets, against what the machine and the messages cost.

    python -m bench.client [--rounds N] [--count N] [--direct] [--only PART] [--json FILE]

Parts: produce (100-byte records), large (1 kB records beside the ceiling), consume, unary, appends (`append`
with many in flight, beside a bare connection). Rates are compared in alternating runs, client and nodes on
this machine. Each client is a process of its own, on uvloop.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.ceiling import run_ceiling
from bench.closed_loop import closed_loop
from bench.cluster import append_load, cpu_seconds
from bench.measure import Table, finish, median, ratio, rounds, scratch
from loghouse.api.v1.log_pb2 import RecordBatch
from loghouse.client import Tls, connect, connect_blocking
from loghouse.limits import KIB, REQUESTS_PER_CONNECTION_MAX
from loghouse.testing.cluster_process import ClusterProcess

SMALL_SIZE = 100
LARGE_SIZE = 1000
BATCH_SIZE = 256 * KIB
WINDOW = 8  # batches a producer has on their way
UNARY_COUNT = 1000
APPENDS_SIZE = KIB
APPENDS = ((64, 10_000), (8192, 40_000))  # in flight, and how many in a round
WARM_UP_COUNT = 100


# --- one client process ---------------------------------------------------------------


def tls_of(folder: Path) -> Tls:
    return Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")


async def produce(log, options) -> dict[str, float]:
    value = os.urandom(options.size)
    async with log.producer(batch_bytes=options.batch) as producer:
        for _ in range(WARM_UP_COUNT):
            await producer.append(value)
        await producer.flush()
        begin, used = time.perf_counter(), time.process_time()
        for _ in range(options.count):
            await producer.append(value)
        await producer.flush()
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": options.count / seconds, "cpu_seconds": used}


async def consume_batches(log, options) -> dict[str, float]:
    begin, used, count = time.perf_counter(), time.process_time(), 0
    async for batch in log.read_batches(options.start):
        count += len(batch.values())
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": count / seconds, "cpu_seconds": used, "count": count}


async def bare(log, options) -> dict[str, float]:
    """A bare loop over the bytes that `consume_batches` reads: parse, and take every value."""
    batches = log.read_batches(options.start)
    payloads = [RecordBatch(records=batch.messages).SerializeToString() async for batch in batches]
    begin, used, count = time.perf_counter(), time.process_time(), 0
    for payload in payloads:
        count += len([record.value for record in RecordBatch.FromString(payload).records])
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": count / seconds, "cpu_seconds": used, "count": count}


async def consume_records(log, options) -> dict[str, float]:
    begin, used, count = time.perf_counter(), time.process_time(), 0
    async for record in log.read(options.start):
        count += len(record.value) > 0
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": count / seconds, "cpu_seconds": used, "count": count}


async def unary(log, options) -> dict[str, float]:
    value = os.urandom(options.size)
    for _ in range(WARM_UP_COUNT):
        await log.append(value)
    latencies = []
    for _ in range(options.count):
        begin = time.perf_counter()
        await log.append(value)
        latencies.append(time.perf_counter() - begin)
    latencies.sort()
    return {
        "p50_seconds": latencies[len(latencies) // 2],
        "p99_seconds": latencies[int(len(latencies) * 0.99)],
    }


async def appends(log, options) -> dict[str, float]:
    """Keep `window` appends in flight on one connection."""
    value = os.urandom(options.size)
    for number in (max(WARM_UP_COUNT, options.window), options.count):
        begin, used = time.perf_counter(), time.process_time()
        await closed_loop(lambda: log.append(value), options.window, number, [])
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": options.count / seconds, "cpu_seconds": used}


JOBS = {
    "appends": appends,
    "bare": bare,
    "produce": produce,
    "consume_batches": consume_batches,
    "consume_records": consume_records,
    "unary": unary,
}


def blocking_produce(log, options) -> dict[str, float]:
    value = os.urandom(options.size)
    with log.producer(batch_bytes=options.batch) as producer:
        begin, used = time.perf_counter(), time.process_time()
        for _ in range(options.count):
            producer.append(value)
        producer.flush()
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"per_second": options.count / seconds, "cpu_seconds": used}


def blocking_unary(log, options) -> dict[str, float]:
    value = os.urandom(options.size)
    latencies = []
    for _ in range(WARM_UP_COUNT + options.count):
        begin = time.perf_counter()
        log.append(value)
        latencies.append(time.perf_counter() - begin)
    latencies = sorted(latencies[WARM_UP_COUNT:])
    return {
        "p50_seconds": latencies[len(latencies) // 2],
        "p99_seconds": latencies[int(len(latencies) * 0.99)],
    }


BLOCKING_JOBS = {"blocking_produce": blocking_produce, "blocking_unary": blocking_unary}


def run_job(options) -> None:
    tls = tls_of(options.certs)
    if options.job in BLOCKING_JOBS:
        with connect_blocking(options.target, tls=tls, timeout_seconds=120.0) as log:
            print(json.dumps(BLOCKING_JOBS[options.job](log, options)), flush=True)
        return
    import uvloop

    async def work():
        async with connect(options.target, tls=tls, timeout_seconds=120.0) as log:
            await log.bounds()
            print(json.dumps(await JOBS[options.job](log, options)), flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


# --- the comparison ---------------------------------------------------------------------


class Clients:
    """Client processes on one cluster."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.cluster = cluster
        self.target = ",".join(node.address for node in cluster.nodes)

    def run(
        self, job: str, *, size: int = SMALL_SIZE, count: int = 0, start: int = 0, window: int = 1
    ) -> dict[str, float]:
        """Run one client; its result, with the CPU time that the nodes used meanwhile."""
        words = ["--job", job, "--target", self.target, "--certs", self.cluster.certificates.folder]
        words += ["--size", size, "--count", count, "--start", start, "--batch", BATCH_SIZE]
        words += ["--window", window]
        command = [sys.executable, "-m", "bench.client", *map(str, words)]
        before = [cpu_seconds(node) for node in self.cluster.nodes]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
        found: dict[str, float] = json.loads(done.stdout)
        used = [cpu_seconds(node) - was for node, was in zip(self.cluster.nodes, before, strict=True)]
        found["node_cpu_seconds"] = sum(used)
        return found

    def next_offset(self) -> int:
        return self.cluster.bounds(self.cluster.wait_leader(), seconds_max=60)[1]


def add_costs(table: Table, found: dict[str, float], count: float) -> None:
    table.add("  CPU time of the client", found["cpu_seconds"] / count * 1e6, "us/record")
    table.add("  CPU time of the nodes together", found["node_cpu_seconds"] / count * 1e6, "us/record")


def bench_produce(table: Table, options: argparse.Namespace, clients: Clients) -> None:
    last: dict[str, dict[str, float]] = {}

    def rate(job: str) -> float:
        last[job] = clients.run(job, count=options.count)
        return last[job]["per_second"]

    ours, blocking = rounds(options.rounds, lambda: rate("produce"), lambda: rate("blocking_produce"))
    table.add("producer, 100-byte records, three nodes", median(ours), "records/s", bar=150_000)
    add_costs(table, last["produce"], options.count)
    table.add("  blocking client", median(blocking), "records/s")
    add_costs(table, last["blocking_produce"], options.count)


def bench_large(table: Table, options: argparse.Namespace, clients: Clients) -> None:
    count = options.count // 5
    theirs, ours = rounds(
        options.rounds,
        lambda: run_ceiling(BATCH_SIZE, count * LARGE_SIZE // BATCH_SIZE, WINDOW)["size_per_second"],
        lambda: clients.run("produce", size=LARGE_SIZE, count=count)["per_second"] * LARGE_SIZE,
    )
    table.add(f"ceiling, {BATCH_SIZE // KIB} KiB x {WINDOW}", median(theirs) / 1e6, "MB/s")
    table.add("producer, 1 kB records in batches of that size", median(ours) / 1e6, "MB/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.6)


def bench_consume(table: Table, options: argparse.Namespace, clients: Clients) -> None:
    start = clients.next_offset()
    clients.run("produce", count=options.count)
    clients.cluster.wait_caught_up()
    last: dict[str, dict[str, float]] = {}

    def rate(job: str) -> float:
        last[job] = clients.run(job, start=start)
        return last[job]["per_second"]

    bare_loop, batches, records = rounds(
        options.rounds,
        lambda: rate("bare"),
        lambda: rate("consume_batches"),
        lambda: rate("consume_records"),
    )
    table.add("bare loop over RecordBatch.FromString, values taken", median(bare_loop), "records/s")
    add_costs(table, last["bare"], last["bare"]["count"])
    table.add("read_batches, 100-byte records, warm follower", median(batches), "records/s")
    table.add("  ratio", ratio(batches, bare_loop), "", bar=0.6)
    add_costs(table, last["consume_batches"], last["consume_batches"]["count"])
    table.add("read, record by record", median(records), "records/s", bar=250_000)
    add_costs(table, last["consume_records"], last["consume_records"]["count"])


def bench_unary(table: Table, options: argparse.Namespace, clients: Clients) -> None:
    theirs, ours, blocking = rounds(
        options.rounds,
        lambda: run_ceiling(LARGE_SIZE, UNARY_COUNT, 1)["p50_seconds"],
        lambda: clients.run("unary", size=LARGE_SIZE, count=UNARY_COUNT)["p50_seconds"],
        lambda: clients.run("blocking_unary", size=LARGE_SIZE, count=UNARY_COUNT)["p50_seconds"],
    )
    table.add("ceiling, 1 kB x 1, p50", median(theirs) * 1e3, "ms")
    table.add("append, 1 kB, one in flight, p50", median(ours) * 1e3, "ms")
    table.add("  ratio", ratio(ours, theirs), "", bar=1.5, at_most=True)
    table.add("  blocking client, p50", median(blocking) * 1e3, "ms")


def bench_appends(table: Table, options: argparse.Namespace, clients: Clients) -> None:
    leader = clients.cluster.wait_leader()
    last: dict[str, float] = {}

    def rate(window: int, count: int) -> float:
        last.update(clients.run("appends", size=APPENDS_SIZE, count=count, window=window))
        return last["per_second"]

    # A bare connection refuses more open requests than earlier nodes allowed; the client lets them wait.
    for window, count in APPENDS:
        bare_window = min(window, REQUESTS_PER_CONNECTION_MAX)
        shape = (APPENDS_SIZE, count, bare_window)
        theirs, ours = rounds(
            options.rounds,
            lambda shape=shape: append_load(leader, "binary", *shape)["batches_per_second"],
            lambda window=window, count=count: rate(window, count),
        )
        table.add(f"bare connection, 1 KiB x {bare_window}", median(theirs), "appends/s")
        table.add(f"append, 1 KiB x {window}", median(ours), "appends/s")
        table.add("  ratio", ratio(ours, theirs), "", bar=0.9)
        add_costs(table, last, count)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds to run; medians are of these")
    parser.add_argument("--count", type=int, default=1_000_000, help="100-byte records of a round")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--direct", action="store_true", help="nodes with a second port for gRPC alone")
    parser.add_argument("--only", default="", help="run only the parts whose name contains this")
    job = parser.add_argument_group("one client, as this program starts it")
    job.add_argument("--job", choices=[*JOBS, *BLOCKING_JOBS])
    job.add_argument("--target")
    job.add_argument("--certs", type=Path)
    job.add_argument("--size", type=int, default=SMALL_SIZE)
    job.add_argument("--start", type=int, default=0)
    job.add_argument("--window", type=int, default=1, help="appends in flight")
    job.add_argument("--batch", type=int, default=BATCH_SIZE)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.job:
        run_job(options)
        return
    table = Table()
    with scratch() as name:
        cluster = ClusterProcess(Path(name) / "three", has_grpc_ports=options.direct)
        try:
            cluster.start()
            cluster.wait_voters()
            clients = Clients(cluster)
            parts = {
                "produce": bench_produce,
                "large": bench_large,
                "consume": bench_consume,
                "unary": bench_unary,
                "appends": bench_appends,
            }
            for part, run in parts.items():
                if options.only in part:
                    run(table, options, clients)
        finally:
            cluster.close()
    finish(table, options)


if __name__ == "__main__":
    main()
