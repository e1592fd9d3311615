"""Where the time of an append goes on three nodes: when it passes which place, on the leader and a follower.

    python -m bench.timeline [--window N] [--count N]

Appends of 1 KiB by the asyncio client. With one in flight it prints, for each place, the median time
since the call at which an append came by there for the first (and the last) time. With more in flight
it prints how often a place is passed for an append: how much the appends share. The notes themselves
(`bench/inside`) make an append slower, by some microseconds a place.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path

from bench.client import tls_of
from bench.closed_loop import closed_loop
from bench.measure import scratch
from loghouse.client import connect
from loghouse.limits import KIB
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import wait_until

WARM_UP_COUNT = 300
Span = tuple[int, int]  # of one append at the client, in nanoseconds
Notes = list[tuple[int, str]]


async def append(address: str, certificates: Path, window: int, count: int) -> list[Span]:
    """Keep so many appends in flight, and return from when to when each took."""
    value, spans = os.urandom(KIB), list[Span]()
    async with connect(address, tls=tls_of(certificates), timeout_seconds=60.0) as log:
        await log.bounds()

        async def one() -> None:
            begin = time.monotonic_ns()
            await log.append(value)
            spans.append((begin, time.monotonic_ns()))

        await closed_loop(one, window, count + WARM_UP_COUNT, [])
    return spans[WARM_UP_COUNT:]


def read_notes(path: Path) -> Notes:
    """Return when a node passed which place, in order."""
    lines = (line.split(" ", 1) for line in path.read_text().splitlines())
    return sorted((int(moment), name) for moment, name in lines)


def passed(notes: Notes, spans: list[Span]) -> dict[tuple[str, str], float]:
    """Return for each place the median microseconds at which an append came by first, and last.

    Only appends of which a place has notes count there; the last is told where there are several.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    place = 0
    for begin, end in spans:
        while place < len(notes) and notes[place][0] < begin:
            place += 1
        times: dict[str, list[int]] = defaultdict(list)
        while place < len(notes) and notes[place][0] <= end:
            times[notes[place][1]].append(notes[place][0] - begin)
            place += 1
        for name, moments in times.items():
            found[name, "first"].append(moments[0] / 1000)
            if len(moments) > 1:
                found[name, "last"].append(moments[-1] / 1000)
    half = len(spans) // 2
    return {key: statistics.median(times) for key, times in found.items() if len(times) >= half}


def tell_times(name: str, notes: Notes, spans: list[Span]) -> None:
    """Print the places of one node, in the order in which an append passes them."""
    for (place, which), moment in sorted(passed(notes, spans).items(), key=lambda item: item[1]):
        print(f"{name:<10} {place:<22} {which:<6} {moment:8.0f} us")


def tell_counts(name: str, notes: Notes, spans: list[Span]) -> None:
    """Print how often one node passes each place for an append."""
    counts = Counter(place for moment, place in notes if spans[0][0] <= moment <= spans[-1][1])
    for place, count in counts.most_common():
        print(f"{name:<10} {place:<22} {count / len(spans):8.3f} an append")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--window", type=int, default=1, help="appends in flight (1)")
    parser.add_argument("--count", type=int, default=2000, help="appends (2000)")
    options = parser.parse_args()
    with scratch() as folder:
        cluster = ClusterProcess(Path(folder) / "three")
        for node in cluster.nodes:
            node.python_path = (Path(__file__).with_name("inside"),)
            node.environment["LOGHOUSE_TIMESTAMPS"] = str(node.folder / "timestamps")
        try:
            cluster.start()
            cluster.wait_voters()
            leader = cluster.wait_leader()
            paths = [Path(node.environment["LOGHOUSE_TIMESTAMPS"]) for node in cluster.nodes]
            wait_until(lambda: all(path.exists() for path in paths), "the nodes to take notes")
            folder_of_certificates = cluster.certificates.folder
            spans = asyncio.run(append(leader.address, folder_of_certificates, options.window, options.count))
            sizes = {path: path.stat().st_size for path in paths}
            wait_until(
                lambda: all(path.stat().st_size > size for path, size in sizes.items()), "the last notes"
            )
        finally:
            cluster.close()
        took = statistics.median((end - begin) / 1000 for begin, end in spans)
        tell = tell_times if options.window == 1 else tell_counts
        for node, path in zip(cluster.nodes, paths, strict=True):
            tell("leader" if node is leader else node.name, read_notes(path), spans)
        print(f"{'client':<10} {'has the answer':<22} {'p50':<6} {took:8.0f} us")


if __name__ == "__main__":
    main()
