"""A group of real processes on a real cluster: a member is killed, and the node that leads most of it."""

import threading
from collections import Counter

from loghouse.client import connect_blocking
from loghouse.testing.process import wait_until
from tests.cluster.case import OwnClusterCase
from tests.cluster.test_client import SECONDS_MAX, tls_of
from tests.cluster.test_consuming import Worker
from tests.processes import long

LOGS = [f"orders-{number}" for number in range(6)]
COUNT = 100  # records of each log between two faults


class GroupProcessTests(OwnClusterCase):
    """Three workers that share six logs of three nodes, and emit into a seventh."""

    def setUp(self):
        super().setUp()
        self.cluster.start()
        self.cluster.wait_voters()
        target = ",".join(node.address for node in self.cluster.nodes)
        self.target = target
        self.client = connect_blocking(
            target, tls=tls_of(self.cluster.certificates), timeout_seconds=SECONDS_MAX
        )
        self.addCleanup(self.client.close)
        for name in (*LOGS, "bills"):
            self.client.create_log(name)
        self.bills = self.client.log("bills")
        self.workers = []
        self.appended = 0

    def start_worker(self):
        self.workers.append(Worker(self, "share"))

    def append(self):
        """Append the next numbers to each log."""
        for name in LOGS:
            with self.client.log(name).producer(linger_ms=1, batch_bytes=150) as producer:
                for number in range(self.appended, self.appended + COUNT):
                    producer.append(b"%d" % number)
        self.appended += COUNT

    def append_during(self, fault):
        appending = threading.Thread(target=self.append)
        appending.start()
        fault()
        appending.join()

    def shares(self):
        """Return how many logs each living worker holds; None while some are free, or of a dead one."""
        counts = Counter(cursor.holder for cursor in self.bills.cursors().list())
        shares = [counts[f"worker-{worker.process.pid}"] for worker in self.workers]
        return sorted(shares) if sum(shares) == len(LOGS) else None

    def wait_shares(self, *shares):
        wait_until(lambda: self.shares() == list(shares), f"shares of {shares}", SECONDS_MAX)

    def wait_handled(self):
        """Wait until all that was appended is."""

        def is_handled():
            positions = {cursor.name: cursor.position for cursor in self.bills.cursors().list()}
            return positions == {f"billing/{name}": self.appended for name in LOGS}

        wait_until(is_handled, "all records to be handled", SECONDS_MAX)

    @long
    def test_kills(self):
        """A member dies, then the leader of the cursors: each record has one output, and shares are fair."""
        for _ in range(3):
            self.start_worker()
        self.append_during(lambda: self.wait_shares(2, 2, 2))
        self.append_during(self.workers.pop(0).end)
        self.wait_shares(3, 3)
        self.start_worker()
        self.wait_shares(2, 2, 2)
        leader = self.cluster.node(self.bills.status().leader)
        self.append_during(leader.kill)
        self.wait_handled()
        leader.start()
        self.wait_shares(2, 2, 2)
        emitted = {name: [] for name in LOGS}
        for record in self.bills.read():
            name, _, value = record.value.decode().partition(" ")
            emitted[name].append(int(value))
        self.assertEqual(emitted, {name: list(range(3 * COUNT)) for name in LOGS})
        self.assertEqual([worker.process.poll() for worker in self.workers], [None] * 3)
