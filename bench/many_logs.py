"""Many logs on one node: what busy ones get of the disk, and what idle ones cost.

    python -m bench.many_logs [--rounds N] [--only PART] [--json FILE]

Real replicas over real files in one process, each the only voter of its log: no network, so that the disk is
what counts. Rounds with lanes and with one thread for all logs take turns. Only ratios mean something on a
machine that others use, too.
"""

import asyncio
import gc
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.measure import Table, arguments, finish, median, ratio, rounds, scratch
from loghouse.limits import DISK_THREADS_MAX, KIB, MIB
from loghouse.metrics import NO_METRICS
from loghouse.protocol.configuration import Retention
from loghouse.raft.config import LAN
from loghouse.replica.api import Proposal
from loghouse.replica.bootstrap import beginning
from loghouse.replica.damage import LogRepair
from loghouse.replica.replica import Replica, ReplicaOptions
from loghouse.runtime.lanes import DiskLanes
from loghouse.runtime.reactor import install
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import ThreadQueue
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import OsFiles

BUSY_LOGS = 16
IN_FLIGHT = 4
IDLE_LOGS = 100
SECONDS = 2.0  # of one measurement
TICK_SECONDS = 0.1


class Host:
    """Hosts logs over lanes, as a node does, and takes whatever they tell it."""

    is_ending = False

    def __init__(self, folder: Path, count: int, thread_count: int) -> None:
        from twisted.internet import reactor

        self.loop = loop = asyncio.get_event_loop()
        self.threads = ThreadQueue("disk", loop.call_soon_threadsafe, thread_count)
        self.readers = ThreadQueue("reader", loop.call_soon_threadsafe, 4)
        self.lanes = DiskLanes(self.threads)
        self.clocks = Clocks(reactor, loop.call_soon, loop.call_later, time.time, time.monotonic)
        folder.mkdir()
        self.directories: list[DataDirectory] = []
        self.replicas = [self._open(folder / str(number), number) for number in range(count)]
        self.run(0.2)

    def _open(self, path: Path, number: int) -> Replica:
        files, uuid = OsFiles(), b"disk%012d" % number
        directory = DataDirectory.lock(files, str(path), segment_size=64 * MIB, reserve_size=0)
        self.directories.append(directory)
        if directory.is_empty:
            identity = DiskIdentity(
                cluster_uuid=bytes(16), disk_uuid=uuid, cluster_name="bench", node_name="a"
            )
            directory.create(identity, begin=beginning("a", uuid, Retention(), int(time.time() * 1e6)))
        opened = LogRepair(files, directory, 1)
        opened.open_log()
        replica = Replica(
            self,
            opened,
            options=ReplicaOptions(
                node_name="a",
                disk_uuid=uuid,
                data_dir=str(path),
                raft=LAN,
                scrub_rate=0,
                metrics=NO_METRICS,
            ),
            files=files,
            clocks=self.clocks,
            rng=random.Random(number),
            disk=self.lanes.lane(number),
            readers=self.readers,
        )
        replica.start()
        return replica

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def appends_a_second(self, size: int, in_flight: int, seconds: float = SECONDS) -> float:
        """Keep so many appends of every log under way; return how many were acknowledged a second."""
        proposal = Proposal(payload=bytes(size), record_count=1)
        load = SimpleNamespace(is_on=True, count=0)

        def append(replica: Replica) -> None:
            def appended(_: object) -> None:
                load.count += 1
                if load.is_on:
                    append(replica)

            replica.propose(proposal, appended, self.fatal)

        start = time.perf_counter()
        for replica in self.replicas:
            for _ in range(in_flight):
                append(replica)
        self.run(seconds)
        load.is_on = False
        rate = load.count / (time.perf_counter() - start)
        self.run(0.2)
        return rate

    def idle_share(self, seconds: float = SECONDS) -> float:
        """Return the share of a core that ticks take while nothing happens."""
        start, begun = time.process_time(), time.perf_counter()
        for _ in range(int(seconds / TICK_SECONDS)):
            for replica in self.replicas:
                replica.tick()
            self.run(TICK_SECONDS)
        return (time.process_time() - start) / (time.perf_counter() - begun)

    def stop(self) -> None:
        for replica in self.replicas:
            replica.stop()
        self.lanes.stop()
        self.readers.stop()
        self.run(0.0)
        for replica, directory in zip(self.replicas, self.directories, strict=True):
            replica.log.close()
            directory.close()

    # What a replica asks of its owner, and tells it.

    def send_raft(self, envelope: object) -> None:
        """There is nobody."""

    def send(self, name: str, message: object) -> bool:
        return False

    def role_changed(self, state: object) -> None:
        """One voter leads."""

    def readable_to(self, next_offset: int) -> None:
        """Nobody waits."""

    def fatal(self, error: BaseException) -> None:
        raise SystemExit(f"the disk failed: {error}")


def private_kib() -> int:
    """The private memory of this process."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def busy(table: Table, folder: Path, count: int) -> None:
    lanes = Host(folder / "lanes", BUSY_LOGS, DISK_THREADS_MAX)
    serial = Host(folder / "serial", BUSY_LOGS, 1)
    one = Host(folder / "one", 1, DISK_THREADS_MAX)
    with_lanes, with_one, single = rounds(
        count,
        lambda: lanes.appends_a_second(KIB, IN_FLIGHT),
        lambda: serial.appends_a_second(KIB, IN_FLIGHT),
        lambda: one.appends_a_second(KIB, BUSY_LOGS * IN_FLIGHT),
    )
    what = f"{BUSY_LOGS} logs, 1 kB x {IN_FLIGHT}"
    table.add(f"{what}: lanes", median(with_lanes), "appends/s")
    table.add(f"{what}: one thread", median(with_one), "appends/s")
    table.add(f"{what}: lanes to one thread", ratio(with_lanes, with_one), "x", bar=4.0)
    table.add(f"{what}: to one log, 1 kB x {BUSY_LOGS * IN_FLIGHT}", ratio(with_lanes, single), "x", bar=1.0)
    for host in (lanes, serial, one):
        host.stop()


def alone(table: Table, folder: Path, count: int) -> None:
    lanes, serial = Host(folder / "wide", 1, DISK_THREADS_MAX), Host(folder / "narrow", 1, 1)
    for in_flight in (1, 64):
        ours, theirs = rounds(
            count,
            lambda n=in_flight: lanes.appends_a_second(KIB, n),  # type: ignore[misc]
            lambda n=in_flight: serial.appends_a_second(KIB, n),  # type: ignore[misc]
        )
        table.add(f"a log alone, 1 kB x {in_flight}: most threads to one", ratio(ours, theirs), "x", bar=0.97)
    lanes.stop()
    serial.stop()


def idle(table: Table, folder: Path, _: int) -> None:
    before = private_kib()
    host = Host(folder / "idle", IDLE_LOGS, DISK_THREADS_MAX)
    table.add("memory of an idle log", (private_kib() - before) / IDLE_LOGS, "KiB", at_most=True, bar=100.0)
    disk = sum(file.stat().st_blocks * 512 for file in (folder / "idle").rglob("*"))
    table.add("disk of an empty log", disk / IDLE_LOGS / MIB, "MiB", at_most=True, bar=1.5)
    share, none = host.idle_share(), Host(folder / "none", 0, 1).idle_share()
    table.add("ticks of an idle leader", (share - none) / IDLE_LOGS * 100, "% of a core")
    host.stop()


PARTS: dict[str, Any] = {"idle": idle, "busy": busy, "alone": alone}  # memory first: it comes back late


def main() -> None:
    options = arguments(__doc__)
    install()
    table = Table()
    print(f"{os.cpu_count()} processors")
    with scratch() as folder:
        for name, part in PARTS.items():
            if options.only in name:
                part(table, Path(folder), options.rounds)
    finish(table, options)


if __name__ == "__main__":
    main()
