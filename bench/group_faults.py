"""A group of real processes under faults: is every record handled, exactly once, and are shares fair?

    python -m bench.group_faults [--seconds N] [--rest N] [--workers N] [--logs N] [--nodes N] [--seed N]

Workers consume logs of a cluster as one group, and emit what they read into another log. Meanwhile workers
and nodes are killed (SIGKILL) and started again, both at once at times: nodes most often for what they lead,
which is a log that some worker holds, the log that keeps the cursors, or the catalogue. Afterwards the other
log must have each record once, those of one log in their order; shares must be within one of fair ten seconds
after the last fault, and then nothing may move while there is none. Exit code 1: one of that was not so.
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
from loghouse.protocol.entry import CATALOGUE_LOG
from loghouse.testing.cluster_process import ClusterProcess

LEASE_SECONDS = 3.0
FAIR_SECONDS = 10.0
PAUSE_SECONDS = 0.05  # between two records of one log
CLIENT_SECONDS = 120.0  # what a call may take: nodes are away all the time
OUTPUT = "bills"
# Whose leader is killed, and how often; "any" is a node, whatever it leads.
TARGETS = {"a held log": 4, "the log of the cursors": 3, "the catalogue": 2, "any": 1}


def tls_of(folder):
    return Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")


async def work(target, folder, holder):
    """One worker: for each record of its logs, one into `bills` that names it."""
    async with connect(target, tls=tls_of(folder)) as cluster:
        options = {"into": cluster.log(OUTPUT), "lease_seconds": LEASE_SECONDS, "holder": holder}
        async with cluster.consumer("billing", logs="orders-*", **options) as consumer:
            async for batch in consumer.batches():
                await consumer.emit([f"{batch.log} ".encode() + value for value in batch.values()])


class Workers:
    """The processes of a group, by number."""

    def __init__(self, target, folder, count):
        self._target, self._folder = target, folder
        self._processes = {}
        self.count = count
        self.names = {}  # of those that are alive, or were last
        self.starts = 0

    def start(self, number):
        self.starts += 1
        self.names[number] = f"w{number}-{self.starts}"
        words = ("--worker", self._target, str(self._folder), self.names[number])
        self._processes[number] = subprocess.Popen([sys.executable, "-m", "bench.group_faults", *words])

    def kill(self, number):
        self.check()
        process = self._processes.pop(number)
        process.kill()
        process.wait()

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
    async with cluster.log(name).producer(timeout_seconds=CLIENT_SECONDS) as producer:
        while not stop.is_set():
            await producer.append(b"%d" % count)
            count += 1
            await asyncio.sleep(PAUSE_SECONDS)
    return count


class Faults:
    """What is broken, and how often each."""

    def __init__(self, cluster, place, workers, rng):
        self._cluster, self._place, self._workers, self._rng = cluster, place, workers, rng
        self._begun = time.monotonic()
        self.counts = Counter()

    async def run(self, seconds):
        """Break things, both kinds by themselves, until that is over and all is started again."""
        end = self._begun + seconds
        await asyncio.gather(self._break_workers(end), self._break_nodes(end))

    async def _break_workers(self, end):
        while await self._rest(end, 3, 9):
            some = self._rng.choice([1, 1, 1, 2])
            numbers = self._rng.sample(range(self._workers.count), min(some, self._workers.count))
            for number in numbers:
                self._workers.kill(number)
            self._tell("workers", len(numbers), ", ".join(self._workers.names[number] for number in numbers))
            await asyncio.sleep(self._rng.uniform(0, 2 * LEASE_SECONDS))
            for number in numbers:
                self._workers.start(number)

    async def _break_nodes(self, end):
        while await self._rest(end, 3, 10):
            kind = self._rng.choices(list(TARGETS), list(TARGETS.values()))[0]
            node = await self._leader(kind)
            node.kill()
            self._tell(kind, 1, node.name)
            await asyncio.sleep(self._rng.uniform(0, 4))
            await asyncio.to_thread(node.start)

    async def _rest(self, end, least, most):
        """Wait between two faults; return whether there is time for another one."""
        await asyncio.sleep(min(self._rng.uniform(least, most), max(0.0, end - time.monotonic())))
        return time.monotonic() < end

    async def _leader(self, kind):
        """Return the node that leads what is to be hit."""
        while kind != "any":
            name = {"the log of the cursors": OUTPUT, "the catalogue": CATALOGUE_LOG}.get(kind)
            if name is None:
                held = [name for name, (holder, _) in (await holders(self._cluster)).items() if holder]
                name = self._rng.choice(held or ["billing/" + OUTPUT]).partition("/")[2]
            if leader := (await self._cluster.log(name).status()).leader:
                return self._place.node(leader)
            await asyncio.sleep(0.1)  # it is just elected
        return self._rng.choice(self._place.nodes)

    def _tell(self, kind, count, what):
        self.counts[kind] += count
        print(f"{time.monotonic() - self._begun:6.1f} s  {kind}: {what}", flush=True)


async def holders(cluster):
    """Return who holds each log, and by which epoch."""
    found = await cluster.log(OUTPUT).cursors().list()
    return {cursor.name: (cursor.holder, cursor.epoch) for cursor in found}


def is_fair(held, workers, logs):
    """Whether the living workers have all logs, and as many as any other, or one more."""
    counts = Counter(holder for holder, _ in held.values())
    shares = [counts[name] for name in workers.names.values()]
    return sum(shares) == len(logs) and max(shares) - min(shares) <= 1


async def fair_after(cluster, workers, logs, seconds):
    """Wait for fair shares at most so long; return how long it took, None when too long."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if is_fair(await holders(cluster), workers, logs):
            return time.monotonic() - begun
        await asyncio.sleep(0.2)
    return None


async def settle(cluster, workers, logs, seconds):
    """Wait for fair shares, then look on while nothing may move; return what was wrong."""
    problems = []
    settled = await fair_after(cluster, workers, logs, FAIR_SECONDS)
    if settled is None:
        problems.append(f"shares are not fair {FAIR_SECONDS:g} s after the last fault")
        late = await fair_after(cluster, workers, logs, 60)
        problems.append("nor 60 s later" if late is None else f"they are {late:.1f} s later")
    else:
        print(f"shares fair {settled:.1f} s after the last fault", flush=True)
    before, begun = await holders(cluster), time.monotonic()
    print("shares", dict(Counter(holder for holder, _ in before.values())), flush=True)
    while time.monotonic() - begun < seconds:
        if (now := await holders(cluster)) != before:
            moved = sorted(set(now.items()) - set(before.items()))
            problems.append(f"moved without a fault after {time.monotonic() - begun:.1f} s: {moved}")
            break
        await asyncio.sleep(0.5)
    return problems


async def run(place, options):
    folder = place.folder / "certs"
    target = ",".join(node.address for node in place.nodes)
    logs = [f"orders-{number:02}" for number in range(options.logs)]
    async with connect(target, tls=tls_of(folder), timeout_seconds=CLIENT_SECONDS) as cluster:
        for name in (*logs, OUTPUT):
            await cluster.create_log(name)
        workers, stop = Workers(target, folder, options.workers), asyncio.Event()
        try:
            for number in range(options.workers):
                workers.start(number)
            producing = [asyncio.ensure_future(produce(cluster, name, stop)) for name in logs]
            faults = Faults(cluster, place, workers, random.Random(options.seed))
            await faults.run(options.seconds)
            print("killed", dict(faults.counts), flush=True)
            problems = await settle(cluster, workers, logs, options.rest)
            stop.set()
            counts = dict(zip(logs, await asyncio.gather(*producing), strict=True))
            problems += await judge(cluster, counts)
            workers.check()
        finally:
            workers.close()
    return problems


async def judge(cluster, counts):
    """Wait until all is handled; return what is wrong with what was emitted."""
    problems, until = [], time.monotonic() + 60
    while True:
        cursors = {one.name: one.position for one in await cluster.log(OUTPUT).cursors().list()}
        behind = {
            name: cursors.get(f"billing/{name}", 0)
            for name, count in counts.items()
            if cursors.get(f"billing/{name}") != count
        }
        if not behind:
            break
        if time.monotonic() > until:
            problems += [f"{name}: handled up to {at} of {counts[name]}" for name, at in behind.items()]
            break
        await asyncio.sleep(0.2)
    emitted = {name: [] for name in counts}
    async for record in cluster.log(OUTPUT).read():
        name, _, value = record.value.partition(b" ")
        emitted[name.decode()].append(int(value))
    print("records", sum(counts.values()), "emitted", sum(map(len, emitted.values())), flush=True)
    return problems + [
        f"{name}: {count} records, emitted {len(emitted[name])}, of them {len(set(emitted[name]))} different"
        for name, count in counts.items()
        if emitted[name] != list(range(count))
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="how long there are faults")
    parser.add_argument("--rest", type=float, default=60, help="how long nothing may move afterwards")
    parser.add_argument("--workers", type=int, default=5, help="members of the group")
    parser.add_argument("--logs", type=int, default=16, help="what they share")
    parser.add_argument("--nodes", type=int, default=3, help="of the cluster, at most 5")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        target, folder, holder = options.worker
        return asyncio.run(work(target, Path(folder), holder))
    with scratch() as folder:
        place = ClusterProcess(Path(folder), node_count=options.nodes, is_forked=False)
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
