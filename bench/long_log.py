"""Appends to a long log against appends to an empty one, and beside a reader that is far behind.

    python -m bench.long_log [--gib 20] [--nodes 1] [--rounds 9] [--only appends|reader] [--shape 0,1,2]
        [--keep DIR] [--json FILE]

Two clusters on this machine take turns, so that they share its moods: one whose log was filled beforehand,
with batches of 256 KiB, and one with next to nothing in its log. Shown are ratios of appends a second, of the
CPU of all nodes for an append, and of the 99th percentile. `BENCH_DIR` names a disk with room for `--gib`
times `--nodes`. With `--keep` the logs stay, and the next run fills up what is missing.
"""

import argparse
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from bench.cluster import append_load, cpu_seconds
from bench.grpc_node import Client
from bench.measure import Table, finish, median, scratch
from loghouse.limits import GIB, KIB
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import Certificates

FILL_SIZE = 256 * KIB
FILL_WINDOW = 8
# size, window, appends in a turn
SHAPES = [(1024, 1, 1500), (1024, 64, 20_000), (64 * KIB, 16, 1500)]


class Side:
    """A cluster, and what was measured of it in the shape under way."""

    def __init__(self, folder: Path, node_count: int, certificates: Certificates) -> None:
        self.cluster = ClusterProcess(folder, node_count=node_count, certificates=certificates)
        self.cluster.start()
        self.leader = self.cluster.wait_leader()
        self.begin()

    def begin(self) -> None:
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self.p99: list[float] = []

    def take_turn(self, size: int, window: int, count: int) -> None:
        def cpu() -> float:
            return sum(map(cpu_seconds, self.cluster.nodes))

        before = cpu()
        found = append_load(self.leader, "binary", size, count, window)
        self.cpu.append((cpu() - before) / count)
        self.rates.append(found["batches_per_second"])
        self.p99.append(found["p99_seconds"])


def fill(side: Side, size: int) -> None:
    segments = side.leader.data_dir.rglob("*.store")
    held = sum(path.stat().st_size for path in segments)  # a little more than the log has
    for part in range(held // GIB * GIB, size, GIB):
        append_load(side.leader, "binary", FILL_SIZE, min(GIB, size - part) // FILL_SIZE, FILL_WINDOW)
        print(f"filled {(part + GIB) / GIB:g} GiB", file=sys.stderr, flush=True)


def ratios(long: list[float], empty: list[float]) -> list[float]:
    return [one / other for one, other in zip(long, empty, strict=True)]


def bench_shapes(table: Table, options: argparse.Namespace, long: Side, empty: Side) -> None:
    for size, window, count in options.shapes:
        for side in (long, empty):
            side.begin()
        for number in range(options.rounds):
            for side in (long, empty) if number % 2 else (empty, long):
                side.take_turn(size, window, count)
        found = ratios(long.rates, empty.rates)
        table.add(f"{size // KIB} KiB x {window}: appends a second, ratio", median(found), "", bar=0.95)
        table.add("  the least and", min(found), "")
        table.add("  the most of the pairs", max(found), "")
        table.add("  CPU of an append, ratio", median(ratios(long.cpu, empty.cpu)), "")
        table.add("  p99, ratio", median(ratios(long.p99, empty.p99)), "")


def read_forever(side: Side, size: int) -> None:
    """Read the log's oldest bytes again and again, as one reader far behind; a process of its own."""
    reader = Client(side.leader.address, side.cluster.certificates)
    while True:
        reader.fetch(size)


def forget_pages(side: Side) -> None:
    """Let the kernel drop what it caches of the segments, so that reads are cold."""
    for node in side.cluster.nodes:
        for path in node.data_dir.rglob("*.store"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def spin() -> None:
    """Keep a processor busy, and nothing else: what any other process on this machine costs."""
    while True:
        pass


def bench_reader(table: Table, options: argparse.Namespace, long: Side) -> None:
    """Turns of appends alone, beside the reader, and beside a process that only spins."""
    fork = multiprocessing.get_context("fork")
    reader = fork.Process(target=read_forever, args=(long, options.gib * GIB // 2), daemon=True)
    spinner = fork.Process(target=spin, daemon=True)
    others = {"nobody": None, "reader": reader, "spinner": spinner}
    for process in (reader, spinner):
        process.start()
    try:
        for size, window, count in options.shapes:
            p99: dict[str, list[float]] = {name: [] for name in others}
            for _ in range(options.rounds):
                for name, other in others.items():
                    for process in (reader, spinner):
                        os.kill(process.pid or 0, signal.SIGCONT if process is other else signal.SIGSTOP)
                    if other is reader:
                        forget_pages(long)
                    long.begin()
                    long.take_turn(size, window, count)
                    p99[name].append(long.p99[0])
            name = f"{size // KIB} KiB x {window}, beside a reader far behind: p99, ratio"
            table.add(name, median(ratios(p99["reader"], p99["nobody"])), "", bar=1.5, at_most=True)
            table.add("  beside a process that only spins", median(ratios(p99["spinner"], p99["nobody"])), "")
    finally:
        for process in (reader, spinner):
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=20, help="what the long log holds (20)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of each cluster (1)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of turns (9)")
    parser.add_argument("--only", default="", help="appends or reader")
    parser.add_argument("--shape", default="0,1,2", help="which of them: 1 KiB x 1, 1 KiB x 64, 64 KiB x 16")
    parser.add_argument("--keep", type=Path, help="keep the logs here, and use those that are here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    options.shapes = [SHAPES[int(number)] for number in options.shape.split(",")]
    table = Table()
    with scratch() as folder:
        certificates = Certificates(Path(folder) / "certs")
        place = options.keep or Path(folder)
        long, empty = (Side(place / name, options.nodes, certificates) for name in ("long", "empty"))
        try:
            fill(long, options.gib * GIB)
            if "appends".startswith(options.only):
                bench_shapes(table, options, long, empty)
            if "reader".startswith(options.only):
                bench_reader(table, options, long)
        finally:
            long.cluster.close()
            empty.cluster.close()
    finish(table, options)


if __name__ == "__main__":
    main()
