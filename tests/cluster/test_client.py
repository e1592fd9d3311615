"""The Python client against real clusters, while nodes are killed, cut off and restarted.

What producers were told and what readers saw must be what is in the log: each record once, each producer's in
its order. Nothing here may end with an unknown outcome: the clients have minutes.
"""

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from itertools import count
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.client import Tls, connect, connect_blocking, reading, retrying, sending
from loghouse.client.loop_thread import LoopThread
from loghouse.errors import InvalidRequestError
from loghouse.limits import RECORD_SIZE_MAX
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import wait_until
from tests.cluster.case import CYCLES, SETTINGS
from tests.processes import SKIP, long

BETWEEN = 60  # acknowledged records between two faults
SECONDS_MAX = 300.0
ROOT = Path(__file__).resolve().parent.parent.parent


class Clusters:
    """Three nodes for these tests alone, once behind proxies and once with direct doors, started when needed.

    What the others' clients remember does not know of these; and a proxy that asks the kernel for each
    connection who made it is not made for a hundred clients.
    """

    def __init__(self):
        self.folders = {}
        self.clusters = {}
        atexit.register(self.close)

    def get(self, *, is_proxied):
        if is_proxied not in self.clusters:
            folder = self.folders[is_proxied] = Path(tempfile.mkdtemp(prefix="loghouse-clients-"))
            cluster = ClusterProcess(
                folder,
                settings=SETTINGS,
                is_proxied=is_proxied,
                has_grpc_ports=not is_proxied,
                is_forked=True,
            )
            self.clusters[is_proxied] = cluster
            cluster.start()
            cluster.wait_voters()
        return self.clusters[is_proxied]

    def drop(self, is_proxied):
        """The next test gets a new one: this one was left unwell."""
        cluster = self.clusters.pop(is_proxied, None)
        if cluster is not None:
            cluster.close()
            shutil.rmtree(self.folders.pop(is_proxied), ignore_errors=True)

    def close(self):
        for is_proxied in list(self.clusters):
            self.drop(is_proxied)


clusters = Clusters()


def tls_of(certificates):
    folder = certificates.folder
    return Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")


class Producing(threading.Thread):
    """Appends numbered records until stopped; `offsets` are those acknowledged, in order."""

    def __init__(self, name, target, tls, *, is_async=False):
        super().__init__(name=name, daemon=True)
        self.target_, self.tls = target, tls
        self.is_async = is_async
        self.stopping = threading.Event()
        self.offsets = []
        self.error = None
        self.start()

    def run(self):
        try:
            if self.is_async:
                thread = LoopThread()
                try:
                    thread.run(self.produce_async())
                finally:
                    thread.close(self.nothing)
            else:
                self.produce()
        except BaseException as error:  # told by `check`, in the test's thread
            self.error = error

    async def nothing(self):
        pass

    def value(self, number):
        return f"{self.name}/{number}".encode()

    def produce(self):
        numbers = count()
        with (
            connect_blocking(self.target_, tls=self.tls, timeout_seconds=SECONDS_MAX) as log,
            log.producer(linger_ms=1, batch_bytes=150) as producer,
        ):
            while not self.stopping.is_set():
                deliveries = [producer.append(self.value(next(numbers))) for _ in range(20)]
                self.offsets += [delivery.offset() for delivery in deliveries]

    async def produce_async(self):
        numbers = count()
        async with (
            connect(self.target_, tls=self.tls, timeout_seconds=SECONDS_MAX) as log,
            log.producer(linger_ms=1, batch_bytes=150, compression="zstd") as producer,
        ):
            while not self.stopping.is_set():
                deliveries = [await producer.append(self.value(next(numbers))) for _ in range(20)]
                self.offsets += [await delivery for delivery in deliveries]


class Reading(threading.Thread):
    """Follows the log from an offset on up to an end that is told later."""

    def __init__(self, target, tls, offset):
        super().__init__(daemon=True)
        self.target_, self.tls, self.offset = target, tls, offset
        self.end = None
        self.records = []
        self.error = None
        self.start()

    def run(self):
        try:
            with connect_blocking(self.target_, tls=self.tls, timeout_seconds=SECONDS_MAX) as log:
                for record in log.read(self.offset, follow=True):
                    self.records.append((record.offset, record.value))
                    if self.end is not None and record.offset >= self.end - 1:
                        return
        except BaseException as error:
            self.error = error


class ClientCase(SynchronousTestCase):
    """Clients on a real cluster of three."""

    skip = SKIP
    is_proxied = False

    def setUp(self):
        # A loaded machine is slow, but these faults hold for ever: find out sooner than a user would.
        self.patch(reading, "QUIET_SECONDS", 1.5)
        self.patch(sending, "ATTEMPT_SECONDS", 2.0)
        self.patch(retrying, "ATTEMPT_SECONDS", 2.0)
        self.is_well = False  # until the test is through
        self.addCleanup(lambda: self.is_well or clusters.drop(self.is_proxied))
        self.cluster = clusters.get(is_proxied=self.is_proxied)
        self.tls = tls_of(self.cluster.certificates)
        self.target = ",".join(node.address for node in self.cluster.nodes)

    def connect(self, **options):
        options.setdefault("timeout_seconds", SECONDS_MAX)
        log = connect_blocking(self.target, tls=self.tls, **options)
        self.addCleanup(log.close)
        return log


class FaultTests(ClientCase):
    """Producers and readers go on while the cluster suffers."""

    is_proxied = True

    def begin(self):
        self.log = self.connect()
        self.first = self.log.bounds().next_offset
        name = self.id().rpartition(".")[2]
        self.producers = [
            Producing(f"{name}-{number}", self.target, self.tls, is_async=bool(number)) for number in range(2)
        ]
        self.readers = [Reading(self.target, self.tls, self.first) for _ in range(2)]
        self.wait_progress()

    def wait_progress(self):
        """Wait until each producer has so many more records acknowledged, and each reader them read."""
        goals = [len(producer.offsets) + BETWEEN for producer in self.producers]
        seen = [len(reader.records) + BETWEEN for reader in self.readers]

        def is_reached():
            for worker in (*self.producers, *self.readers):
                if worker.error is not None:
                    raise worker.error
            return all(len(p.offsets) >= goal for p, goal in zip(self.producers, goals, strict=True)) and all(
                len(r.records) >= goal for r, goal in zip(self.readers, seen, strict=True)
            )

        wait_until(is_reached, "more records acknowledged and read", SECONDS_MAX)

    def finish(self):
        """Stop the clients; what they were told must be what is in the log."""
        for producer in self.producers:
            producer.stopping.set()
        for producer in self.producers:
            producer.join(SECONDS_MAX)
            self.assertEqual((producer.is_alive(), producer.error), (False, None))
        end = self.log.bounds().next_offset
        for reader in self.readers:
            reader.end = end
        self.log.append(b"the end")  # whoever has read everything already looks up
        values = [record.value for record in self.log.read(self.first)][: end - self.first]
        self.assertEqual([value for value, times in Counter(values).items() if times > 1], [])
        for producer in self.producers:
            offsets = producer.offsets
            self.assertEqual(offsets, sorted(set(offsets)), "acknowledged in order, each offset once")
            found = [values[offset - self.first] for offset in offsets]
            self.assertEqual(found, [producer.value(number) for number in range(len(offsets))])
        self.assertEqual(len(values), sum(len(producer.offsets) for producer in self.producers))
        for reader in self.readers:
            reader.join(SECONDS_MAX)
            self.assertEqual((reader.is_alive(), reader.error), (False, None))
            seen = reader.records[: end - self.first]
            self.assertEqual([offset for offset, _ in seen], list(range(self.first, end)))
            self.assertEqual([value for _, value in seen] == values, True, "read what is in the log")
        self.is_well = True

    @long
    def test_kills(self):
        """Leaders and followers are killed and come back."""
        self.begin()
        for _ in range(CYCLES):
            leader = self.cluster.wait_leader()
            leader.kill()
            self.wait_progress()
            leader.start()
            follower = self.cluster.others(self.cluster.wait_leader())[0]
            follower.kill()
            self.wait_progress()
            follower.start()
        self.cluster.wait_leader()
        self.finish()

    @long
    def test_orderly_restarts(self):
        """Every node is stopped and started again, as for an upgrade."""
        self.begin()
        for _ in range(CYCLES):
            for node in self.cluster.nodes:
                self.cluster.wait_leader()
                node.stop()
                self.wait_progress()
                node.start()
        self.cluster.wait_leader()
        self.finish()

    def test_partitions(self):
        """The leader is cut off from the others, then from the clients; then a follower is, which is read."""
        self.begin()
        for _ in range(CYCLES):
            leader = self.cluster.wait_leader()
            others = self.cluster.others(leader)
            self.cluster.cut_off(leader)
            self.cluster.wait_leader(others)
            self.wait_progress()
            self.cluster.heal()
            leader = self.cluster.wait_leader()
            self.cluster.client_link(leader).blackhole()
            self.wait_progress()
            self.cluster.heal()
            follower = self.cluster.others(self.cluster.wait_leader())[-1]
            self.cluster.cut_off(follower)
            self.wait_progress()
            self.cluster.heal()
        self.cluster.wait_leader()
        self.finish()


class LoadTests(ClientCase):
    """Many clients, small and large records, and what stays behind."""

    @long
    def test_hundred_clients(self):
        """A hundred clients append ten thousand records one by one; each gets an offset of its own."""
        before = self.descriptors()
        clients, each = 100, 100
        thread = LoopThread()
        self.addCleanup(thread.close, self.nothing)

        async def work(number):
            async with connect(self.target, tls=self.tls, timeout_seconds=SECONDS_MAX) as log:
                return [await log.append(f"{number}/{place}".encode()) for place in range(each)]

        async def everybody():
            tasks = asyncio.all_tasks()
            offsets = await asyncio.gather(*(work(number) for number in range(clients)))
            left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
            return offsets, [task for task in left if not task.done()]

        log = self.connect()
        first = log.bounds().next_offset
        offsets, left = thread.run(everybody())
        values = [record.value for record in log.read(first)]
        for number, found in enumerate(offsets):
            self.assertEqual(found, sorted(found))
            self.assertEqual(
                [values[at - first] for at in found], [f"{number}/{place}".encode() for place in range(each)]
            )
        self.assertEqual((len(values), left), (clients * each, []))
        log.close()
        thread.close(self.nothing)
        wait_until(lambda: self.descriptors() <= before, f"descriptors to fall to {before}")
        self.is_well = True

    async def nothing(self):
        pass

    def descriptors(self):
        return len(os.listdir("/proc/self/fd"))

    def test_large_records(self):
        """A record at the nodes' limit goes through every door of the client; one byte more is refused."""
        overhead = log_pb2.Record(value=bytes(RECORD_SIZE_MAX)).ByteSize() - RECORD_SIZE_MAX
        limit = RECORD_SIZE_MAX - overhead
        log = self.connect()
        first = log.bounds().next_offset
        largest, larger = os.urandom(limit), os.urandom(limit + 1)
        self.assertEqual(log.append(largest), first)
        self.assertEqual(log.append_batch([b"small", largest]), range(first + 1, first + 3))
        with log.producer(linger_ms=0) as producer:
            delivery, refused, last = (producer.append(value) for value in (largest, larger, b"last"))
            self.assertEqual((delivery.offset(), last.offset()), (first + 3, first + 4))
            error = self.assertRaises(InvalidRequestError, refused.offset)
            self.assertIn(str(RECORD_SIZE_MAX), str(error))
        for append in (log.append, lambda value: log.append_batch([value])):
            error = self.assertRaises(InvalidRequestError, append, larger)
            self.assertIn(str(RECORD_SIZE_MAX), str(error))
        sizes = [len(value) for batch in log.read_batches(first) for value in batch.values()]
        self.assertEqual(sizes, [limit, 5, limit, limit, 4])
        self.is_well = True

    def test_interrupted(self):
        """Ctrl-C ends a program that waits for the next record, or for room, at once."""
        program = (
            "import sys\n"
            "from loghouse.client import Tls, connect_blocking\n"
            "target, folder = sys.argv[1:]\n"
            "tls = Tls(ca=folder + '/ca.pem', certificate=folder + '/root.pem', key=folder + '/root.key')\n"
            "with connect_blocking(target, tls=tls) as log:\n"
            "    records = log.read('latest', follow=True)\n"
            "    log.append(b'x')\n"
            "    print('ready', flush=True)\n"
            "    for record in records:\n"
            "        print('read', flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, self.target, str(self.cluster.certificates.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "ready\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGINT, errors)
        self.assertIn("KeyboardInterrupt", errors)
        self.is_well = True

    def test_two_clusters(self):
        """Clients of two clusters in one process each keep to their own."""
        other = clusters.get(is_proxied=True)
        here = self.connect()
        target = ",".join(node.address for node in other.nodes)
        there = connect_blocking(target, tls=tls_of(other.certificates), timeout_seconds=SECONDS_MAX)
        self.addCleanup(there.close)
        firsts = here.bounds().next_offset, there.bounds().next_offset
        for number in range(10):
            self.assertEqual(here.append(b"here"), firsts[0] + number)
            self.assertEqual(there.append(b"there"), firsts[1] + number)
        self.assertEqual([record.value for record in here.read(firsts[0])], [b"here"] * 10)
        self.assertEqual([record.value for record in there.read(firsts[1])], [b"there"] * 10)
        self.assertNotEqual(here.servers().cluster_uuid, there.servers().cluster_uuid)
        self.assertTrue(all(server.grpc_address for server in here.servers().servers))
        self.is_well = True
