"""Three nodes with many logs: making them, what idle ones cost, and how long failures are felt by each.

    python -m bench.log_cluster [--logs N] [--rounds N] [--json FILE]

Real nodes on this machine, asked over gRPC. What is felt: after `kill -9` of all nodes, from the first start
until every log took an append; after `kill -9` of the node that leads most, the same for each log it led.
"""

import argparse
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from bench.cluster import cpu_seconds
from bench.measure import Table, finish, median, scratch
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.limits import MIB
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import NodeProcess

IDLE_SECONDS = 8.0
FELT_SECONDS_MAX = 60.0
ASKERS = 16


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
                    time.sleep(0.02)
        raise SystemExit(f"{log} took no append for {FELT_SECONDS_MAX} s")

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


def bench(table: Table, cluster: ClusterProcess, count: int, rounds: int) -> None:
    cluster.start()
    cluster.wait_voters()
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
    for _ in range(rounds):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=100, help="how many logs beside the default one")
    parser.add_argument("--rounds", type=int, default=3, help="how often nodes are killed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    table = Table()
    with scratch() as folder:
        cluster = ClusterProcess(Path(folder))
        try:
            bench(table, cluster, options.logs, options.rounds)
        finally:
            cluster.close()
    finish(table, options)


if __name__ == "__main__":
    main()
