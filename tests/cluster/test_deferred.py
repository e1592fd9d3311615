"""A Twisted program on a real cluster, while the leader is killed: nothing is lost, nothing comes twice."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from loghouse.testing.process import wait_until
from tests.cluster.test_client import SECONDS_MAX, ClientCase
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
BETWEEN = 100

# Appends numbered records, and follows the log; a line for each that is acknowledged, and for each that came.
PROGRAM = """
import sys
from twisted.internet import epollreactor
epollreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from loghouse.client import Tls
from loghouse.client.deferred import connect

target, folder = sys.argv[1:]
tls = Tls(ca=f"{folder}/ca.pem", certificate=f"{folder}/root.pem", key=f"{folder}/root.key")
log = connect(target, tls=tls, timeout_seconds=120)
stopping = []

def tell(*words):
    print(*words, flush=True)

async def produce():
    producer = log.producer(linger_ms=1, batch_bytes=150)
    number = 0
    while not stopping:
        deliveries = []
        for _ in range(20):
            deliveries.append((number, await producer.append(b"twisted/%d" % number)))
            number += 1
        for number_, delivery in deliveries:
            tell("appended", number_, await delivery)
    await producer.close()

def ended(failure):
    if not stopping:
        failure.printTraceback()

def seen(record):
    tell("read", record.offset, record.value.decode())

def begin():
    log.read_each(seen, "latest", follow=True).addErrback(ended)
    ensureDeferred(produce()).addErrback(ended)

reactor.callWhenRunning(begin)
reactor.addSystemEventTrigger("before", "shutdown", lambda: stopping.append(True))
reactor.run()
"""


class DeferredFaultTests(ClientCase):
    """The client for Twisted programs, on the epoll reactor."""

    def setUp(self):
        super().setUp()
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.target, str(self.cluster.certificates.folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self.addCleanup(self.process.communicate)
        self.addCleanup(self.process.kill)
        self.taking = threading.Thread(target=self.take, daemon=True)
        self.taking.start()

    def take(self):
        for line in self.process.stdout:
            self.lines.append(line.split())

    def told(self, what):
        return [(int(line[1]), line[2]) for line in list(self.lines) if line[0] == what]

    def wait_progress(self):
        """Wait until so many more records are acknowledged, and read."""
        goals = {what: len(self.told(what)) + BETWEEN for what in ("appended", "read")}
        wait_until(
            lambda: all(len(self.told(what)) >= goal for what, goal in goals.items()),
            "more records acknowledged and read",
            SECONDS_MAX,
        )

    @long
    def test_kill(self):
        """Through the leader's death records go in once, in order, and the reader misses none."""
        self.wait_progress()
        leader = self.cluster.wait_leader()
        leader.kill()
        self.wait_progress()
        leader.start()
        self.wait_progress()
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(SECONDS_MAX), 0)
        self.taking.join(SECONDS_MAX)
        self.assertEqual(self.process.stderr.read(), "")
        appended, read = self.told("appended"), self.told("read")
        self.assertEqual([number for number, _ in appended], list(range(len(appended))))
        with self.connect() as log:
            found = {record.offset: record.value for record in log.read()}
        # The cluster's other tests have put their own into the log, which need not be text.
        values = {offset: value.decode() for offset, value in found.items() if value.startswith(b"twisted/")}
        mine = list(values.values())
        self.assertEqual(mine, [f"twisted/{number}" for number in range(len(mine))], "each once, in order")
        self.assertGreaterEqual(len(mine), len(appended))
        for number, offset in appended:
            self.assertEqual(values[int(offset)], f"twisted/{number}")
        first = read[0][0]
        self.assertEqual([offset for offset, _ in read], list(range(first, first + len(read))))
        self.assertEqual([values[offset] for offset, _ in read], [value for _, value in read])
        self.cluster.wait_leader()
        self.is_well = True
