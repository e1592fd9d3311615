"""Nodes with many logs: making them, what idle and busy ones cost, where they are, how failures are felt.

    python -m bench.log_cluster [--only PART] [--logs N] [--rounds N] [--json FILE]

Real nodes on this machine.

idle    Three nodes, N logs, asked over gRPC. What is felt: after `kill -9` of all nodes, from the first start
        until every log took an append; after `kill -9` of the node that leads most, the same for each log
        it led.
busy    Three nodes, 16 logs, each asked by its leader, in the binary protocol, against `default` alone.
spread  Five nodes, 20 logs of three replicas: the share of all bytes that each node has.
"""

import argparse
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from bench.append_load import make_batch
from bench.cluster import append_load, cpu_seconds
from bench.measure import Table, finish, median, ratio, rounds, scratch
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import KIB, MIB
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import NodeProcess

Part = Callable[[Table, ClusterProcess, argparse.Namespace], None]

IDLE_SECONDS = 8.0
FELT_SECONDS_MAX = 60.0
ASKERS = 16
ATTEMPT_SECONDS = 0.05  # between two attempts; what they cost is taken from the nodes, on the same processors
BUSY_LOGS, BUSY_WINDOW, BUSY_COUNT = 16, 4, 8000  # the count is of a round, of all logs together
SPREAD_NODES, SPREAD_LOGS, SPREAD_SIZE = 5, 20, 4 * MIB  # the size is that of each log


class Asker:
    """Asks the nodes of a cluster, each on one channel."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self.channels = [node.channel() for node in nodes]
        self.logs = log_pb2_grpc.LogsStub(self.channels[0])
        self._stubs = [log_pb2_grpc.LogStub(channel) for channel in self.channels]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()

    def create(self, name: str) -> None:
        """Make a log; again while nobody can."""
        end = time.monotonic() + FELT_SECONDS_MAX
        while True:
            try:
                self.logs.Create(log_pb2.CreateLogRequest(name=name), timeout=30)
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def leaders(self) -> dict[str, str]:
        """Which node leads each log."""
        found: dict[str, str] = {}
        after = ""
        while True:
            page = self.logs.List(log_pb2.ListLogsRequest(after=after), timeout=10)
            found.update({log.name: log.leader for log in page.logs})
            after = page.next
            if not after:
                return found

    def appended_at(self, log: str) -> float:
        """Append to a log until that succeeds at any node; return when."""
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x"), log=log)
        end = time.monotonic() + FELT_SECONDS_MAX
        while time.monotonic() < end:
            for stub in self._stubs:
                try:
                    stub.Produce(request, timeout=1.0)
                    return time.monotonic()
                except grpc.RpcError:
                    time.sleep(ATTEMPT_SECONDS)
        raise SystemExit(f"{log} took no append for {FELT_SECONDS_MAX} s")

    def append_batch(self, request: log_pb2.ProduceBatchRequest) -> None:
        """Append a batch; again while nobody can."""
        end = time.monotonic() + FELT_SECONDS_MAX
        while True:
            try:
                self._stubs[0].ProduceBatch(request, timeout=30)
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def all_appended(self, logs: Sequence[str]) -> list[float]:
        with ThreadPoolExecutor(ASKERS) as pool:
            return list(pool.map(self.appended_at, logs))


def idle(nodes: Sequence[NodeProcess]) -> tuple[float, float]:
    """Return the share of a core and the private bytes that an idle node takes, the most of all."""
    before, begun = [cpu_seconds(node) for node in nodes], time.monotonic()
    threading.Event().wait(IDLE_SECONDS)
    elapsed = time.monotonic() - begun
    shares = [(cpu_seconds(node) - was) / elapsed for node, was in zip(nodes, before, strict=True)]
    return max(shares), max(node.anonymous_size() for node in nodes)


def idle_and_felt(table: Table, cluster: ClusterProcess, options: argparse.Namespace) -> None:
    count = options.logs
    asker = Asker(cluster.nodes)
    asker.appended_at("")
    one_share, one_size = idle(cluster.nodes)

    names = [f"log-{number:03d}" for number in range(count)]
    took = []
    asker.create("first")  # founds the catalogue
    for name in names:
        begun = time.monotonic()
        asker.create(name)
        took.append(time.monotonic() - begun)
    table.add("make a log: median", median(took), "s", bar=0.5, at_most=True)
    table.add("make a log: the longest", max(took), "s")
    asker.all_appended(names)
    time.sleep(7)  # caches of quiet logs are given back after five
    share, size = idle(cluster.nodes)
    table.add("idle with one log: of a core", one_share * 100, "%")
    table.add(f"idle with {count} logs: of a core", share * 100, "%")
    table.add(f"idle with {count} logs to one", share / one_share, "x", bar=3.0, at_most=True)
    table.add(
        f"private memory of {count} logs beyond one", (size - one_size) / MIB, "MiB", bar=10, at_most=True
    )

    back, failovers = [], []
    for _ in range(options.rounds):
        for node in cluster.nodes:
            node.kill()
        begun = time.monotonic()
        for node in cluster.nodes:
            node.start(wait=False)
        back.append(max(asker.all_appended(names)) - begun)
        cluster.wait_leader()

        leaders = asker.leaders()
        [(victim_name, _)] = Counter(leaders[name] for name in names).most_common(1)
        victim = cluster.node(victim_name)
        led = [name for name in names if leaders[name] == victim_name]
        others = Asker(cluster.others(victim))
        victim.kill()
        begun = time.monotonic()
        felt = [at - begun for at in others.all_appended(led)]
        others.close()
        failovers += felt
        print(f"{len(led)} logs lost their leader: median {median(felt):.2f} s, longest {max(felt):.2f} s")
        victim.start()
    table.add("kill -9 of all nodes, until all logs take appends", max(back), "s", bar=5.0, at_most=True)
    table.add(
        "kill -9 of a node, until what it led takes appends", max(failovers), "s", bar=3.0, at_most=True
    )
    asker.close()


def busy(table: Table, cluster: ClusterProcess, options: argparse.Namespace) -> None:
    """Many logs with few appends in flight each, and one log with all of them, in turn."""
    asker = Asker(cluster.nodes)
    names = [f"log-{number:02d}" for number in range(BUSY_LOGS)]
    for name in names:
        asker.create(name)
    asker.all_appended(names)
    asker.close()
    leader = cluster.wait_leader()
    used: dict[str, list[float]] = {"many": [], "one": []}

    def rate(side: str, window: int, logs: str) -> float:
        before = sum(map(cpu_seconds, cluster.nodes))
        found = append_load(leader, "binary", 1000, BUSY_COUNT, window, logs)
        used[side].append((sum(map(cpu_seconds, cluster.nodes)) - before) / BUSY_COUNT * 1e6)
        return found["batches_per_second"]

    many, one = rounds(
        options.rounds,
        lambda: rate("many", BUSY_WINDOW, ",".join(names)),
        lambda: rate("one", BUSY_LOGS * BUSY_WINDOW, ""),
    )
    table.add(f"{BUSY_LOGS} logs, 1 kB x {BUSY_WINDOW}", median(many), "appends/s")
    table.add(f"  to one log, 1 kB x {BUSY_LOGS * BUSY_WINDOW}", ratio(many, one), "x", bar=1.0)
    table.add("  processor time of all nodes", median(used["many"]), "us an append")
    table.add("  the same, one log", median(used["one"]), "us an append")


def spread(table: Table, cluster: ClusterProcess, _: argparse.Namespace) -> None:
    """Fill all logs alike, and see how much of it is where."""
    asker = Asker(cluster.nodes)
    names = [f"log-{number:02d}" for number in range(SPREAD_LOGS)]
    for name in names:
        asker.create(name)
        batch, record_count = make_batch(256 * KIB)
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=record_count, log=name)
        asker.appended_at(name)
        for _ in range(SPREAD_SIZE // len(batch)):
            asker.append_batch(request)
    asker.close()
    time.sleep(2)  # the last of them are on their way to who is behind
    sizes = [stored(node.data_dir / "logs") for node in cluster.nodes]
    whole = sum(sizes) / 3
    for name, share in (("least", min(sizes) / whole), ("most", max(sizes) / whole)):
        what = f"{SPREAD_NODES} nodes, {SPREAD_LOGS} logs x 3: the {name} of all bytes on a node"
        table.add(what, share, "", bar=0.6 * (0.85 if name == "least" else 1.15), at_most=name == "most")


def stored(folder: Path) -> int:
    """Bytes on the disk below a folder."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))


# What runs, and on how many nodes.
PARTS: dict[str, tuple[int, Part]] = {
    "idle": (3, idle_and_felt),
    "busy": (3, busy),
    "spread": (SPREAD_NODES, spread),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="run only the parts whose name contains this")
    parser.add_argument("--logs", type=int, default=100, help="how many logs beside the default one")
    parser.add_argument("--rounds", type=int, default=3, help="how often nodes are killed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    table = Table()
    for name, (node_count, part) in PARTS.items():
        if options.only not in name:
            continue
        with scratch() as folder:
            # A node that starts again finds its modules compiled, as in an installation.
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
            cluster = ClusterProcess(Path(folder), node_count=node_count)
            try:
                cluster.start()
                cluster.wait_voters()
                part(table, cluster, options)
            finally:
                cluster.close()
    finish(table, options)


if __name__ == "__main__":
    main()
