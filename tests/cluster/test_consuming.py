"""Consumers as programs on a real cluster: killed, interrupted, forked, and under leaders that die."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from loghouse.client import connect_blocking
from loghouse.testing.process import wait_until
from tests.cluster.case import OwnClusterCase
from tests.cluster.test_client import SECONDS_MAX, tls_of
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = 300  # records between two faults
LEASE_SECONDS = 2

PROGRAM = """
import asyncio, os, signal, sys
from loghouse.client import Tls, connect
from loghouse.errors import ClientUseError

job, target, folder = sys.argv[1:]
tls = Tls(ca=f"{folder}/ca.pem", certificate=f"{folder}/root.pem", key=f"{folder}/root.key")

def tell(*words):
    print(*words, flush=True)

async def pipeline(cluster):
    orders, bills = cluster.log("orders"), cluster.log("bills")
    async with orders.consumer("billing", into=bills, lease_seconds=2) as consumer:
        async for batch in consumer.batches():
            tell("had", batch.offset, batch.next_offset)
            await consumer.emit([b"bill of " + value for value in batch.values()])

async def share(cluster):
    options = {"into": cluster.log("bills"), "lease_seconds": 2, "holder": f"worker-{os.getpid()}"}
    async with cluster.consumer("billing", logs="orders-*", **options) as consumer:
        async for batch in consumer.batches():
            await consumer.emit([batch.log.encode() + b" " + value for value in batch.values()])

async def handle(cluster):
    async with cluster.log("orders").consumer("handling", commit_seconds=3600, lease_seconds=600) as consumer:
        async for record in consumer:
            consumer.done(record)
            tell("done", record.offset)
            if record.offset == 0 and job == "fork":
                fork(consumer, record)

def fork(consumer, record):
    child = os.fork()
    if not child:
        code = 0
        for use in (consumer.done, consumer.emit([b"x"]).send, consumer.commit().send):
            try:
                use(None)
            except ClientUseError:
                code += 1
        os._exit(code)
    tell("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

async def main():
    async with connect(target, tls=tls, timeout_seconds=120) as cluster:
        await {"pipeline": pipeline, "share": share}.get(job, handle)(cluster)

def stop(*_):
    raise SystemExit(3)

signal.signal(signal.SIGTERM, stop)
asyncio.run(main())
"""


class Worker:
    """A consumer's process, and what it told."""

    def __init__(self, case, job):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, job, case.target, str(case.cluster.certificates.folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self.lines = []
        self.taking = threading.Thread(target=self.take, daemon=True)
        self.taking.start()
        case.addCleanup(self.end)

    def take(self):
        for line in self.process.stdout:
            self.lines.append(line.split())

    def end(self):
        if self.process.stdout.closed:
            return ""
        self.process.kill()
        self.process.wait()
        self.taking.join()
        errors = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return errors

    def told(self, what):
        return [[int(word) for word in line[1:]] for line in list(self.lines) if line[0] == what]


class ConsumerProcessTests(OwnClusterCase):
    """Asyncio consumers on three nodes."""

    def setUp(self):
        super().setUp()
        self.cluster.start()
        self.cluster.wait_voters()
        self.target = ",".join(node.address for node in self.cluster.nodes)
        self.client = connect_blocking(
            self.target, tls=tls_of(self.cluster.certificates), timeout_seconds=SECONDS_MAX
        )
        self.addCleanup(self.client.close)
        for name in ("orders", "bills"):
            self.client.create_log(name)
        self.orders, self.bills = self.client.log("orders"), self.client.log("bills")
        self.appended = 0

    def append(self, count):
        with self.orders.producer(linger_ms=1, batch_bytes=150) as producer:
            for number in range(self.appended, self.appended + count):
                producer.append(b"order %d" % number)
        self.appended += count

    def billed(self):
        return self.bills.bounds().next_offset

    def wait_billed(self):
        wait_until(lambda: self.billed() >= self.appended, "a bill for each order", SECONDS_MAX)

    def leader_of(self, name):
        found = []
        wait_until(lambda: found.append(self.client.describe_log(name).leader) or found[-1], "a leader", 60)
        return self.cluster.node(found[-1])

    @long
    def test_exactly_once(self):
        """Leaders die, and the worker; the stand-by goes on: each order has one bill, in order."""
        worker = Worker(self, "pipeline")
        self.append(COUNT)
        wait_until(lambda: worker.told("had"), "the first worker at work", SECONDS_MAX)
        other = Worker(self, "pipeline")
        for log in (self.orders, self.bills):
            leader = self.leader_of(log.log_name)
            appending = threading.Thread(target=self.append, args=(COUNT,))
            appending.start()
            leader.kill()
            appending.join()
            self.wait_billed()
            leader.start()
        self.assertEqual(other.told("had"), [])
        appending = threading.Thread(target=self.append, args=(COUNT,))
        appending.start()
        worker.end()
        appending.join()
        self.wait_billed()
        self.assertNotEqual(other.told("had"), [])
        expected = [b"bill of order %d" % number for number in range(self.appended)]
        self.assertEqual([record.value for record in self.bills.read()], expected)
        handled = {
            offset
            for one in (worker, other)
            for first, end in one.told("had")
            for offset in range(first, end)
        }
        self.assertEqual(handled, set(range(self.appended)))

    @long
    def test_ends(self):
        """Interrupted, or told to end: what is done is committed, and the cursor free at once."""
        for number, (job, by, code) in enumerate(
            (("handle", signal.SIGINT, -signal.SIGINT), ("handle", signal.SIGTERM, 3)), 1
        ):
            worker = Worker(self, job)
            self.append(COUNT)
            wait_until(lambda w=worker: [self.appended - 1] in w.told("done"), "all done", SECONDS_MAX)
            worker.process.send_signal(by)
            worker.process.wait(SECONDS_MAX)
            self.assertEqual(worker.process.returncode, code, worker.end())
            cursor = self.orders.cursors().get("handling")
            self.assertEqual((cursor.position, cursor.holder), (number * COUNT, ""), by)

    @long
    def test_fork(self):
        """A forked child is told that the consumer is its parent's, which goes on."""
        worker = Worker(self, "fork")
        self.append(COUNT)
        wait_until(lambda: [COUNT - 1] in worker.told("done"), "all done", SECONDS_MAX)
        self.assertEqual(worker.told("child"), [[3]])
