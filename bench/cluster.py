"""Three nodes against the ceiling of the same job without consensus, and how long failures are felt.

    python -m bench.cluster [--rounds N] [--failovers N] [--memory-seconds S] [--only PART] [--json FILE]

Parts: appends, unary, failover, blackhole, handover, fetch, idle, memory, catchup. Rates are compared in
alternating runs, client and all on this machine: the ratios travel, the figures do not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.ceiling import run_ceiling
from bench.grpc_node import Client, EmptyServer
from bench.measure import Table, finish, median, ratio, rounds, scratch
from loghouse.limits import KIB, MIB
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.load import Load
from loghouse.testing.process import NodeProcess, wait_until

# size, window, count in a round, the ratios asked of the binary protocol and of gRPC
SHAPES = [
    (64 * KIB, 16, 2000, 0.7, 0.52),
    (256 * KIB, 8, 600, 0.7, 0.52),
    (1000, 64, 10_000, 0.9, 0.67),
    (1000, 1, 1000, 0.8, 0.6),
]
UNARY_COUNT = 6000
UNARY_SIZE = 100
UNARY_WINDOWS = (64, 256)
FETCH_SIZE = 128 * MIB
IDLE_SECONDS = 20.0
CATCH_UP_SHAPE = (1000, 500, 4)  # what appends meanwhile: size, count in a round, window
CATCH_UP_ROUNDS = 6
SAMPLE_SECONDS = 1.0


def append_load(
    node: NodeProcess | EmptyServer, api: str, size: int, count: int, window: int, logs: str = ""
) -> dict[str, float]:
    """Run one client process against a node; return what it measured. `logs` as in `bench.append_load`."""
    words = ["--api", api, "--address", node.address, "--certs", node.certificates.folder]
    words += ["--size", size, "--count", count, "--window", window, "--logs", logs]
    command = [sys.executable, "-m", "bench.append_load", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def bench_appends(table: Table, options: argparse.Namespace, cluster: ClusterProcess) -> None:
    leader = cluster.wait_leader()
    empty = EmptyServer(leader.certificates)
    for size, window, count, binary_bar, grpc_bar in SHAPES:
        p99: dict[str, list[float]] = {"ceiling": [], "binary": [], "batches": [], "nothing": []}

        def rate(side: str, found: dict[str, float], p99: dict[str, list[float]] = p99) -> float:
            p99[side].append(found["p99_seconds"])
            return found["batches_per_second"]

        theirs, binary, batches, nothing = rounds(
            options.rounds,
            lambda shape=(size, count, window): rate("ceiling", run_ceiling(*shape)),
            lambda shape=(size, count, window): rate("binary", append_load(leader, "binary", *shape)),
            lambda shape=(size, count, window): rate("batches", append_load(leader, "batches", *shape)),
            lambda shape=(size, count, window): rate("nothing", append_load(empty, "batches", *shape)),
        )
        name = f"{size // KIB} KiB" if size % KIB == 0 else f"{size / 1000:g} kB"
        name = f"{name} x {window}"
        table.add(f"{name} in flight: ceiling", median(theirs), "batches/s")
        table.add("  binary protocol", median(binary), "batches/s")
        table.add("  ratio to the ceiling", ratio(binary, theirs), "", bar=binary_bar)
        table.add("  p99, ratio", ratio(p99["binary"], p99["ceiling"]), "", bar=2, at_most=True)
        table.add("  gRPC batches", median(batches), "batches/s")
        table.add("  ratio to the ceiling", ratio(batches, theirs), "", bar=grpc_bar)
        table.add("  p99, ratio", ratio(p99["batches"], p99["ceiling"]), "", bar=2, at_most=True)
        # Nothing but gRPC: what no handler in Python can surpass.
        table.add("  gRPC alone, an empty handler of the same messages", median(nothing), "batches/s")
        table.add("  ratio to the ceiling", ratio(nothing, theirs), "")
    empty.close()


def bench_unary(table: Table, options: argparse.Namespace, cluster: ClusterProcess, folder: Path) -> None:
    """Three nodes against one; what does not run stands still, so that it costs nothing."""
    leader = cluster.wait_leader()
    alone = ClusterProcess(folder / "alone", node_count=1)
    try:
        alone.start()
        for window in UNARY_WINDOWS:
            ours, theirs = rounds(
                options.rounds,
                *(
                    lambda node=node, window=window: append_load(
                        node, "unary", UNARY_SIZE, UNARY_COUNT, window
                    )["batches_per_second"]
                    for node in (leader, alone.nodes[0])
                ),
            )
            table.add(f"unary Produce, {window} in flight, three nodes", median(ours), "calls/s")
            table.add("  one node", median(theirs), "calls/s")
            table.add("  ratio", ratio(ours, theirs), "", bar=0.85)
    finally:
        alone.close()


def gap_after(cluster: ClusterProcess, act, back, clients) -> float:
    """The longest time without an acknowledged append from the moment of `act` on.

    Args:
        act: What happens to the leader. `back` undoes it.
        clients: From the leader to the nodes that clients go to.
    """
    leader = cluster.wait_leader()
    cluster.wait_caught_up()
    load = Load(clients(leader), producer_count=2, reader_count=0, attempt_seconds=0.5)
    try:
        load.wait_acknowledged(50)
        since = time.monotonic()
        act(leader)
        load.wait_acknowledged(1)
        wait_until(lambda: load.answered_at[-1] > since + 0.05, "appends to go on")
        load.wait_acknowledged(50)
        gap = load.longest_gap_seconds(since)
    finally:
        load.stop()
        back(leader)
    return gap


def add_gaps(table: Table, name: str, gaps: list[float], *, p50: float, worst: float) -> None:
    table.add(f"{name}, gap in appends, p50 of {len(gaps)}", statistics.median(gaps) * 1e3, "ms", bar=p50,
              at_most=True)  # fmt: skip
    table.add("  max", max(gaps) * 1e3, "ms", bar=worst, at_most=True)


def bench_failover(table: Table, options: argparse.Namespace, cluster: ClusterProcess) -> None:
    gaps = [
        gap_after(cluster, NodeProcess.kill, NodeProcess.start, lambda leader: cluster.nodes)
        for _ in range(options.failovers)
    ]
    add_gaps(table, "leader killed", gaps, p50=1300, worst=3000)


def bench_handover(table: Table, options: argparse.Namespace, cluster: ClusterProcess) -> None:
    gaps = [
        gap_after(cluster, NodeProcess.stop, NodeProcess.start, lambda leader: cluster.nodes)
        for _ in range(options.failovers)
    ]
    add_gaps(table, "leader told to stop", gaps, p50=300, worst=300)


def bench_blackhole(table: Table, options: argparse.Namespace, folder: Path) -> None:
    cluster = ClusterProcess(folder / "proxied", is_proxied=True)
    try:
        cluster.start()
        cluster.wait_voters()
        gaps = [
            gap_after(cluster, cluster.cut_off, lambda _: cluster.heal(), cluster.others)
            for _ in range(options.failovers)
        ]
    finally:
        cluster.close()
    add_gaps(table, "leader in a black hole", gaps, p50=4000, worst=4000)


def bench_fetch(table: Table, options: argparse.Namespace, cluster: ClusterProcess) -> None:
    leader = cluster.wait_leader()
    follower = cluster.others(leader)[0]
    append_load(leader, "binary", 256 * KIB, FETCH_SIZE // (256 * KIB), 8)
    cluster.wait_caught_up()
    clients = [Client(node.address, cluster.certificates) for node in (follower, leader)]
    ours, theirs = rounds(
        options.rounds, *(lambda client=client: client.fetch(FETCH_SIZE)[0] for client in clients)
    )
    table.add("FetchStream from a follower", median(ours) / 1e6, "MB/s")
    table.add("  from the leader", median(theirs) / 1e6, "MB/s")
    table.add("  ratio", ratio(ours, theirs), "", bar=0.9)


def bench_catch_up(table: Table, options: argparse.Namespace, folder: Path) -> None:
    """A member whose disk was emptied fetches everything, while a client goes on appending."""
    cluster = ClusterProcess(folder / "catchup")
    size = options.catch_up_mib * MIB
    try:
        cluster.start()
        cluster.wait_voters()
        leader = cluster.wait_leader()
        node = cluster.others(leader)[0]
        append_load(leader, "binary", 256 * KIB, size // (256 * KIB), 8)
        cluster.wait_caught_up(seconds_max=300)

        def p99() -> float:
            return append_load(leader, "binary", *CATCH_UP_SHAPE)["p99_seconds"]

        before = [p99() for _ in range(CATCH_UP_ROUNDS)]
        node.kill()
        cluster.wipe(node)
        begin = time.monotonic()
        node.start(wait=False)
        during = [p99()]
        while cluster.roles_seen_by(leader).get(node.name) != "voter" or not cluster.roles_seen_by(node):
            during.append(p99())
        seconds = time.monotonic() - begin
        cluster.wait_caught_up()
    finally:
        cluster.close()
    table.add(f"a joiner fetches {options.catch_up_mib} MiB under load", size / seconds / 1e6, "MB/s", bar=20)
    table.add("  p99 of appends meanwhile, ratio", median(during) / median(before), "", bar=2, at_most=True)


def cpu_seconds(node: NodeProcess) -> float:
    """User and system time that a node used so far."""
    fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench_idle(table: Table, cluster: ClusterProcess) -> None:
    leader = cluster.wait_leader()
    before, begin = [cpu_seconds(node) for node in cluster.nodes], time.monotonic()
    time.sleep(IDLE_SECONDS)  # the point is that nothing happens
    elapsed = time.monotonic() - begin
    for node, start in zip(cluster.nodes, before, strict=True):
        role = "leader" if node is leader else "follower"
        share = 100 * (cpu_seconds(node) - start) / elapsed
        table.add(f"idle {role}", share, "% of a core", bar=1.5, at_most=True)


def bench_memory(table: Table, options: argparse.Namespace, cluster: ClusterProcess) -> None:
    """The slope of each node's private memory under load, after a tenth of the time to settle."""
    load = Load(cluster.nodes, producer_count=4, reader_count=2)
    samples: dict[str, list[tuple[float, float]]] = {node.name: [] for node in cluster.nodes}
    try:
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < options.memory_seconds:
            if now > options.memory_seconds / 10:
                for node in cluster.nodes:
                    samples[node.name].append((now / 60, node.anonymous_size() / MIB))
            time.sleep(SAMPLE_SECONDS)
    finally:
        load.stop()
    minutes = options.memory_seconds / 60
    for name, points in samples.items():
        slope = statistics.linear_regression(*zip(*points, strict=True)).slope
        table.add(f"{name}: memory after {minutes:g} minutes of load", points[-1][1], "MiB")
        table.add("  slope", slope, "MiB/minute")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs to run; medians are of these")
    parser.add_argument("--failovers", type=int, default=5, help="30 for the figures in docs/performance.md")
    parser.add_argument("--memory-seconds", type=float, default=60, help="600 for the figures")
    parser.add_argument("--catch-up-mib", type=int, default=1024, help="what a joiner has to fetch")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", default="", help="run only the parts whose name contains this")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    table = Table()
    with scratch() as name:
        folder = Path(name)
        cluster = ClusterProcess(folder / "three")
        parts = {
            "idle": lambda: bench_idle(table, cluster),
            "appends": lambda: bench_appends(table, options, cluster),
            "unary": lambda: bench_unary(table, options, cluster, folder),
            "fetch": lambda: bench_fetch(table, options, cluster),
            "failover": lambda: bench_failover(table, options, cluster),
            "handover": lambda: bench_handover(table, options, cluster),
            "memory": lambda: bench_memory(table, options, cluster),
        }
        try:
            cluster.start()
            cluster.wait_voters()
            for part, run in parts.items():
                if options.only in part:
                    run()
        finally:
            cluster.close()
        if options.only in "catchup":
            bench_catch_up(table, options, folder)
        if options.only in "blackhole":
            bench_blackhole(table, options, folder)
    finish(table, options)


if __name__ == "__main__":
    main()
