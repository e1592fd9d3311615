"""Where the time of an append goes on three nodes: alone, or with others that share its entry and its syncs.

    python -m bench.timeline [--in-flight N] [--count N] [--svg FILE]

Appends of 1 KiB by the asyncio client. Of each entry, from its first append's call to its last one's answer:
when it passed which place (median and p99), what each part of the way takes and waits for, what is under way
at a time, and what the threads do meanwhile. The notes themselves (`bench/inside`) cost some microseconds a
place. Sent is what the call of the kernel has returned from: a follower that it woke may have it before that.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.client import tls_of
from bench.closed_loop import closed_loop
from bench.measure import scratch
from bench.timeline_figure import draw
from bench.timeline_notes import (
    CLIENT,
    FOLLOWERS,
    LEADER,
    STAGES,
    AtWork,
    Entry,
    Note,
    Span,
    at_work,
    committed_by,
    entries_of,
    in_order_of_sending,
    quantile,
    read_notes,
    syncs_of,
    thread_times,
    under_way,
)
from loghouse.client import connect
from loghouse.limits import KIB
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import wait_until

WARM_UP_COUNT = 300
MICROSECOND, SECOND = 1000, 1_000_000_000


def note_of_thread() -> Note:
    """Return how long this thread ran and waited for a processor, as the nodes note it of theirs."""
    ran, waited, _ = map(int, Path("/proc/thread-self/schedstat").read_text().split())
    return Note(time.monotonic_ns(), "thread", (0, ran, waited))


async def append(
    address: str, certificates: Path, in_flight: int, count: int
) -> tuple[dict[int, Span], list[Note]]:
    """Keep so many appends in flight; return from when to when each took, by its offset.

    And two notes of the thread, before and after.
    """
    value, spans = os.urandom(KIB), dict[int, Span]()
    async with connect(address, tls=tls_of(certificates), timeout_seconds=60.0) as log:
        await log.bounds()

        async def one() -> None:
            begin = time.monotonic_ns()
            offset = await log.append(value)
            spans[offset] = begin, time.monotonic_ns()

        await closed_loop(one, in_flight, WARM_UP_COUNT, [])
        spans.clear()
        notes = [note_of_thread()]
        await closed_loop(one, in_flight, count, [])
        notes.append(note_of_thread())
    return spans, notes


def run(in_flight: int, count: int) -> tuple[dict[str, list[Note]], dict[int, Span]]:
    """Run three nodes and a client; return everybody's notes, and from when to when the appends took."""
    import uvloop

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
            certificates = cluster.certificates.folder
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                calls, of_client = runner.run(append(leader.address, certificates, in_flight, count))
            ended = time.monotonic_ns()
            wait_until(lambda: all(_last_moment(path) > ended for path in paths), "the last notes")
            notes = [read_notes(path.read_text()) for path in paths]
        finally:
            cluster.close()
    of_leader = notes[cluster.nodes.index(leader)]
    others = in_order_of_sending(of_leader, [found for found in notes if found is not of_leader])
    followers = dict(zip(FOLLOWERS, map(list, others), strict=True))
    return {CLIENT: of_client, LEADER: of_leader, **followers}, calls


def _last_moment(path: Path) -> int:
    """Return when the last whole line was noted; a node writes its threads' down ten times a second."""
    lines = path.read_text().splitlines()
    return max((int(line.split("\t")[0]) for line in lines[-10:-1]), default=0)


def tell_places(entries: Sequence[Entry]) -> None:
    """Print when an entry passes which place, since its first append was asked for."""
    begin = CLIENT, "asks, first"
    rows = {
        place: [entry.since(begin, place) / MICROSECOND for entry in entries]
        for place in dict.fromkeys(place for entry in entries for place in entry.passed)
        if all(place in entry.passed for entry in entries)
    }
    print(f"\n{'who':<12} {'passes':<26} {'p50':>8} {'p99':>8}  us since the first append's call")
    for (who, place), times in sorted(rows.items(), key=lambda row: statistics.median(row[1])):
        print(f"{who:<12} {place:<26} {statistics.median(times):8.0f} {quantile(times, 0.99):8.0f}")


def tell_stages(entries: Sequence[Entry], loops: dict[str, AtWork]) -> None:
    """Print how long each part of the way takes, and how long of it the reactor that ends it is at work."""
    print(f"\n{'stage':<30} {'p50':>8} {'p99':>8} {'mean':>8} {'at work':>8}  us; waits for")
    for stage in STAGES:
        times = [entry.since(stage.begin, stage.end) / MICROSECOND for entry in entries]
        p50, p99, mean, busy = statistics.median(times), quantile(times, 0.99), statistics.mean(times), "-"
        if stage.loop:
            spans = [sorted((entry.passed[stage.begin], entry.passed[stage.end])) for entry in entries]
            inside = statistics.mean(loops[stage.loop].within(*span) for span in spans) / MICROSECOND
            busy = f"{inside:.0f}"
        print(f"{stage.name:<30} {p50:8.0f} {p99:8.0f} {mean:8.0f} {busy:>8}  {stage.waits_for}")


def tell_under_way(
    entries: Sequence[Entry], notes: dict[str, list[Note]], calls: dict[int, Span], window: Span
) -> None:
    """Print how much is under way at a time."""

    def spans(begin: tuple[str, str], end: tuple[str, str]) -> list[Span]:
        return [(entry.passed[begin], entry.passed[end]) for entry in entries]

    proposed = LEADER, "proposed"
    syncs = {name: syncs_of(notes[name]) for name in (LEADER, *FOLLOWERS)}
    rows = {
        "appends, at the client": list(calls.values()),
        "entries, proposal to commit": spans(proposed, (LEADER, "committed")),
        "entries, proposal to last answer": spans(proposed, (CLIENT, "has the answer, last")),
        "entries on the wire or at a follower": spans(
            (LEADER, f"sent to {FOLLOWERS[0]}"), (LEADER, f"answer of {FOLLOWERS[0]}")
        ),
        **{f"syncs, {name}": found for name, found in syncs.items()},
        "syncs, three disks": [span for found in syncs.values() for span in found],
    }
    print(f"\n{'under way at a time':<38} {'mean':>6} {'p50':>4} {'p99':>4}")
    for name, found in rows.items():
        at = under_way(found, *window)
        print(f"{name:<38} {at.mean:6.2f} {at.p50:4} {at.p99:4}")
    for name, found in syncs.items():
        count = sum(window[0] <= begin < window[1] for begin, _ in found)
        print(f"{f'entries in a sync, {name}':<38} {len(entries) / count:6.2f}")
    print(f"{'appends in an entry':<38} {statistics.mean(entry.count for entry in entries):6.2f}")


def tell_threads(notes: dict[str, list[Note]], loops: dict[str, AtWork], window: Span) -> None:
    """Print what the busiest two threads of each process do, and all of them together."""
    sums = [0.0, 0.0]
    print(f"\n{'thread':<26} {'runs':>6} {'waits for a processor':>22} {'at work':>8}  of the time")
    for name, found in notes.items():
        times = sorted(thread_times(found, *window).items(), key=lambda item: (item[0] != 0, -item[1][0]))
        for place, (thread, (ran, waited)) in enumerate(times):
            sums = [sums[0] + ran, sums[1] + waited]
            busy = f"{loops[name].within(*window) / (window[1] - window[0]):8.2f}" if name in loops else ""
            if place < 2:
                what = f"{name}, {'disk' if thread else 'reactor'}"
                print(f"{what:<26} {ran:6.2f} {waited:22.2f} {'' if thread else busy}")
    print(f"{f'all, on {os.cpu_count()} processors':<26} {sums[0]:6.2f} {sums[1]:22.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=1, help="appends in flight (1)")
    parser.add_argument("--count", type=int, default=0, help="appends (2000, with more in flight 20000)")
    parser.add_argument("--svg", type=Path, help="draw some entries of about the median time into this file")
    options = parser.parse_args()
    notes, calls = run(options.in_flight, options.count or (2000 if options.in_flight == 1 else 20_000))
    entries = entries_of(notes[LEADER], [notes[name] for name in FOLLOWERS], calls)
    loops = {name: at_work(notes[name]) for name in (LEADER, *FOLLOWERS)}
    window = notes[CLIENT][0].moment, notes[CLIENT][-1].moment
    took = [(end - begin) / MICROSECOND for begin, end in calls.values()]
    rate = len(calls) / ((window[1] - window[0]) / SECOND)
    print(f"{len(calls)} appends, {options.in_flight} in flight: {rate:.0f} a second, ", end="")
    print(f"p50 {statistics.median(took):.0f} us, p99 {quantile(took, 0.99):.0f} us; ", end="")
    print(f"{len(entries)} entries of which all is known")
    tell_places(entries)
    tell_stages(entries, loops)
    tell_under_way(entries, notes, calls, window)
    tell_threads(notes, loops, window)
    print("\nwhat makes the majority:")
    for name, count in Counter(map(committed_by, entries)).most_common():
        print(f"{name:<26} {count / len(entries):6.2f}")
    if options.svg:
        options.svg.write_text(draw(entries, loops, options.in_flight))


if __name__ == "__main__":
    main()
