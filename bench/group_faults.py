"""A group of real processes under faults: is every record handled, exactly once, and are shares fair?

    python -m bench.group_faults [--seconds N] [--rest N] [--seed N]

Five workers consume 16 logs of three nodes as one group, and emit what they read into another log. Meanwhile
workers and nodes are killed (SIGKILL) and started again. Afterwards the other log must have each record once,
those of one log in their order; shares must be within one of fair ten seconds after the last fault, and then
nothing may move for a minute. Exit code 1 says which of that was not so.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from bench.measure import scratch
from loghouse.client import Tls, connect
from loghouse.errors import LoghouseError
from loghouse.testing.cluster_process import ClusterProcess

LOGS = [f"orders-{number:02}" for number in range(16)]
WORKERS = 5
LEASE_SECONDS = 3.0
FAIR_SECONDS = 10.0
PAUSE_SECONDS = 0.05  # between two records of one log


def tls_of(folder):
    return Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")


async def work(target, folder, holder):
    """One worker: for each record of its logs, one into `bills` that names it."""
    async with connect(target, tls=tls_of(folder)) as cluster:
        options = {"into": cluster.log("bills"), "lease_seconds": LEASE_SECONDS, "holder": holder}
        async with cluster.consumer("billing", logs="orders-*", **options) as consumer:
            async for batch in consumer.batches():
                await consumer.emit([f"{batch.log} ".encode() + value for value in batch.values()])


class Workers:
    """The processes of a group, by number."""

    def __init__(self, target, folder):
        self._target, self._folder = target, folder
        self._processes = {}
        self.names = {}  # of those that are alive
        self.starts = 0

    def start(self, number):
        self.starts += 1
        self.names[number] = f"w{number}-{self.starts}"
        words = ("--worker", self._target, str(self._folder), self.names[number])
        self._processes[number] = subprocess.Popen([sys.executable, "-m", "bench.group_faults", *words])

    def kill(self, number):
        self._processes[number].kill()
        self._processes[number].wait()

    def check(self):
        for number, process in self._processes.items():
            if process.poll() is not None:
                raise SystemExit(f"worker {number} ended by itself, with {process.returncode}")

    def close(self):
        for process in self._processes.values():
            process.kill()
            process.wait()


async def produce(cluster, name, stop):
    """Append numbers to a log, each exactly once; return how many there are."""
    count = 0
    async with cluster.log(name).producer(timeout_seconds=120) as producer:
        while not stop.is_set():
            await producer.append(b"%d" % count)
            count += 1
            await asyncio.sleep(PAUSE_SECONDS)
    return count


async def break_things(place, workers, seconds, rng):
    """Kill a worker or a node every few seconds, and start it again; return how often each."""
    kills = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(rng.uniform(2, 6))
        workers.check()
        if rng.random() < 0.6:
            number = rng.randrange(WORKERS)
            workers.kill(number)
            await asyncio.sleep(rng.uniform(0, 2 * LEASE_SECONDS))
            workers.start(number)
            kills["workers"] += 1
        else:
            node = rng.choice(place.nodes)
            node.kill()
            await asyncio.sleep(rng.uniform(0, 4))
            await asyncio.to_thread(node.start)
            kills["nodes"] += 1
    return kills


async def holders(cluster):
    """Return who holds each log, and by which epoch."""
    found = await cluster.log("bills").cursors().list()
    return {cursor.name: (cursor.holder, cursor.epoch) for cursor in found}


def is_fair(held, workers):
    """Whether the living workers have all logs, and as many as any other, or one more."""
    counts = Counter(holder for holder, _ in held.values())
    shares = [counts[name] for name in workers.names.values()]
    return sum(shares) == len(LOGS) and max(shares) - min(shares) <= 1


async def fair_after(cluster, workers, seconds):
    """Wait for fair shares at most so long; return how long it took, None when too long."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if is_fair(await holders(cluster), workers):
            return time.monotonic() - begun
        await asyncio.sleep(0.2)
    return None


async def run(place, options):
    folder = place.folder / "certs"
    target = ",".join(node.address for node in place.nodes)
    rng = random.Random(options.seed)
    problems = []
    async with connect(target, tls=tls_of(folder)) as cluster:
        for name in (*LOGS, "bills"):
            await cluster.create_log(name)
        workers, stop = Workers(target, folder), asyncio.Event()
        try:
            for number in range(WORKERS):
                workers.start(number)
            producing = [asyncio.ensure_future(produce(cluster, name, stop)) for name in LOGS]
            kills = await break_things(place, workers, options.seconds, rng)
            print("killed", dict(kills), flush=True)
            settled = await fair_after(cluster, workers, FAIR_SECONDS)
            if settled is None:
                problems.append(f"shares are not fair {FAIR_SECONDS:g} s after the last fault")
                await fair_after(cluster, workers, 60)
            else:
                print(f"shares fair {settled:.1f} s after the last fault", flush=True)
            before, end = await holders(cluster), time.monotonic() + options.rest
            print("shares", dict(Counter(holder for holder, _ in before.values())), flush=True)
            while time.monotonic() < end:
                if (now := await holders(cluster)) != before:
                    problems.append(
                        f"a log moved without a fault: {sorted(set(now.items()) - set(before.items()))}"
                    )
                    break
                await asyncio.sleep(0.5)
            stop.set()
            counts = dict(zip(LOGS, await asyncio.gather(*producing), strict=True))
            problems += await judge(cluster, counts)
            workers.check()
        finally:
            workers.close()
    return problems


async def judge(cluster, counts):
    """Wait until all is handled; return what is wrong with what was emitted."""
    async with asyncio.timeout(60):
        while True:
            cursors = {one.name: one.position for one in await cluster.log("bills").cursors().list()}
            if all(cursors.get(f"billing/{name}") == count for name, count in counts.items()):
                break
            await asyncio.sleep(0.2)
    emitted = {name: [] for name in counts}
    async for record in cluster.log("bills").read():
        name, _, value = record.value.partition(b" ")
        emitted[name.decode()].append(int(value))
    print("records", sum(counts.values()), "emitted", sum(map(len, emitted.values())), flush=True)
    return [
        f"{name}: {count} records, emitted {len(emitted[name])}, of them {len(set(emitted[name]))} different"
        for name, count in counts.items()
        if emitted[name] != list(range(count))
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="how long there are faults")
    parser.add_argument("--rest", type=float, default=60, help="how long nothing may move afterwards")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        target, folder, holder = options.worker
        return asyncio.run(work(target, Path(folder), holder))
    with scratch() as folder:
        place = ClusterProcess(Path(folder), is_forked=False)
        try:
            place.start()
            place.wait_voters()
            problems = asyncio.run(run(place, options))
        except (LoghouseError, TimeoutError) as error:
            problems = [f"{type(error).__name__}: {error}"]
        finally:
            place.close()
    print("\n".join(problems) or "ok")
    return sys.exit(bool(problems))


if __name__ == "__main__":
    main()
