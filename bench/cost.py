"""What an append costs the processors of a leader and of a follower, and a start those of a node.

    python -m bench.cost [--rounds N] [--check]

Three whole nodes of the simulator take appends of 1 kB, one at a time: the same work in every run, in one
thread, so that neither the kernel nor what else runs there has a say. Left out is what the simulator stands
for: sockets, TLS, disks, threads. Each figure is a ratio to a loop of plain Python in the same rounds. With
`--check`, which CI runs, a ratio above its range in three measurements is an error: a change made it dearer.
One below it is told, for what is expected here to follow it.
"""

import argparse
import ast
import asyncio
import compileall
import dataclasses
import gc
import inspect
import pickle
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import loghouse
from bench.measure import scratch
from loghouse.testing.fixtures.simulation import LoghouseSimulation, SimulatedCluster
from loghouse.testing.life import Life
from loghouse.testing.process import Certificates, NodeProcess

COUNT = 500
VALUE = bytes(1000)
LOOP_COUNT = 12
SIMULATED_SECONDS_MAX = 600.0
START_ROUNDS = 7


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """A ratio to the loop, and how far from it a run may end: as a part of it, up or down."""

    name: str
    ratio: float
    range: float

    def is_dearer(self, found: float) -> bool:
        """Whether a ratio is above the range."""
        return found > self.ratio * (1 + self.range)

    def verdict(self, found: float) -> str:
        """Return what to do about a ratio, or an empty text."""
        if self.is_dearer(found):
            return f"dearer by {found / self.ratio - 1:.0%}: look for what the last change added"
        if found < self.ratio * (1 - self.range):
            return f"cheaper by {1 - found / self.ratio:.0%}: write {found:.3g} into bench/cost.py"
        return ""


# Of 500 appends, and of one start, by CPython 3.11.
LEADER = Expected("500 appends, leader", 0.71, 0.08)
FOLLOWER = Expected("500 appends, follower", 0.184, 0.08)
START = Expected("start of an empty node", 1.75, 0.12)


def plain_loop() -> float:
    """Return the processor seconds of work in plain Python by the standard library.

    It goes through much code and memory, as a node does, so that other work on the machine slows both alike.
    """
    source = inspect.getsource(dataclasses)
    gc.collect()
    begin = time.process_time()
    for _ in range(LOOP_COUNT):
        tree = ast.parse(source)
        ast.unparse(tree)
        pickle._loads(pickle._dumps([(node.lineno, repr(node)) for node in tree.body]))
        re.purge()
        for number in range(10):
            re.compile(rf"([a-z0-9]{{1,{number + 2}}})-(?:[^\\s]+|x{{{number}}})*$")
            dataclasses.make_dataclass(f"Made{number}", ["a", "b", "c"])
    return time.process_time() - begin


def start_cost(node: NodeProcess) -> float:
    """Return the processor seconds of a node that has nothing, until it answers."""
    node.start()
    try:
        return time.clock_gettime(
            ~node.pid << 3 | 2
        )  # as clock_getcpuclockid(3): of the process, all threads
    finally:
        node.kill()


@contextmanager
def counted(seconds: Counter[str]) -> Iterator[None]:
    """Add what each simulated node does meanwhile to its processor seconds."""
    enter, entered = Life.enter, False

    def timed(life: Life, work: Callable[..., object], *args: Any) -> None:
        nonlocal entered
        if entered:  # what this starts at once is counted with it
            enter(life, work, *args)
            return
        entered, begin = True, time.process_time()
        try:
            enter(life, work, *args)
        finally:
            entered = False
            seconds[life.host.name] += time.process_time() - begin

    Life.enter = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Life.enter = enter  # type: ignore[method-assign]


def append_costs(count: int = COUNT) -> tuple[float, float]:
    """Return the processor seconds of the leader, and of one follower, for so many appends."""
    seconds: Counter[str] = Counter()

    async def scenario(cluster: SimulatedCluster) -> str:
        leader = await cluster.leader()
        async with cluster.connect() as log:
            await log.append(VALUE)  # what is done the first time is done
            gc.collect()
            gc.disable()  # when it runs depends on what ran before
            try:
                with counted(seconds):
                    for _ in range(count):
                        await log.append(VALUE)
            finally:
                gc.enable()
        await asyncio.sleep(0)
        return leader

    leader = LoghouseSimulation(1, seconds_max=SIMULATED_SECONDS_MAX).run(scenario)
    of_leader = seconds.pop(leader)
    return of_leader, statistics.mean(seconds.values())


def tell(expected: Expected, ours: list[float], loops: list[float]) -> str:
    """Print one figure; return what is wrong when it is dearer.

    It is the median of the rounds, each against the loops right before and after it.
    """
    found = statistics.median(
        cost / statistics.mean(around) for cost, around in zip(ours, pairwise(loops), strict=True)
    )
    verdict = expected.verdict(found)
    spread = f"{min(ours):.3f} to {max(ours):.3f} s"
    print(
        f"{expected.name:<24} {spread}, to the loop {found:.3f} (expected {expected.ratio:g}) {verdict}",
        flush=True,
    )
    return f"{expected.name}: {verdict}" if expected.is_dearer(found) else ""


def measure(rounds: int) -> list[str]:
    """Measure all, tell it, and return what is dearer."""
    leaders: list[float] = []
    followers: list[float] = []
    starts: list[float] = []
    loops = [plain_loop()]
    for _ in range(rounds):
        of_leader, of_follower = append_costs()
        leaders.append(of_leader)
        followers.append(of_follower)
        loops.append(plain_loop())
    # A tree where nobody may write bytecode would be compiled by every start: half as much again.
    compileall.compile_dir(Path(loghouse.__file__).parent, quiet=1)
    with scratch() as name:
        certificates = Certificates(Path(name) / "certs")
        start_loops = [plain_loop()]
        for number in range(START_ROUNDS):
            starts.append(start_cost(NodeProcess(Path(name) / f"node-{number}", certificates)))
            start_loops.append(plain_loop())
    told = [tell(LEADER, leaders, loops), tell(FOLLOWER, followers, loops), tell(START, starts, start_loops)]
    return [line for line in told if line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="medians are of these")
    parser.add_argument("--check", action="store_true", help="dearer in three measurements is an error")
    options = parser.parse_args()
    dearer = measure(options.rounds)
    # What else runs on the machine only adds: what one quiet measurement denies was not the code's.
    for _ in range(2):
        if options.check and dearer:
            print("again: was it something else that ran here?", flush=True)
            dearer = measure(options.rounds)
    if options.check and dearer:
        sys.exit("\n".join(dearer))


if __name__ == "__main__":
    main()
