"""examples/consumers as somebody runs them, and kills them: nothing is skipped, and nothing done twice."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from loghouse.client import connect_blocking
from loghouse.errors import UnknownCursorError
from loghouse.testing.process import wait_until
from tests.cluster.case import OwnClusterCase
from tests.cluster.test_client import tls_of
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = 3000


class ExampleTests(OwnClusterCase):
    """Each program on a node, killed once while it is at work."""

    node_count = 1

    def setUp(self):
        super().setUp()
        self.cluster.start()
        self.cluster.wait_voters()
        self.target = self.cluster.nodes[0].address
        self.client = connect_blocking(
            self.target, tls=tls_of(self.cluster.nodes[0].certificates), timeout_seconds=60
        )
        self.addCleanup(self.client.close)

    def make_log(self, name):
        self.client.create_log(name, replicas=1)
        return self.client.log(name)

    def start(self, name, *arguments):
        """Start an example; it is killed at the end."""
        environment = {
            **os.environ,
            "LOGHOUSE": f"loghouse://{self.target}",
            "CERTS": str(self.cluster.certificates.folder),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(ROOT / "examples" / "consumers" / name), *map(str, arguments)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def assertEnds(self, process):
        """SIGTERM ends it well."""
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (0, ""))

    def free(self, log, cursor):
        """Let the next one have the cursor of one that was killed, without its lease."""
        try:
            found = log.cursors().get(cursor)
        except UnknownCursorError:
            return
        log.cursors().set(cursor, found.position)

    def values(self, log):
        return [record.value for record in log.read("earliest")]

    @long
    def test_importer(self):
        """Each line of a file is in the log once, though its importer is killed; half a line is not."""
        orders = self.make_log("orders")
        lines = [b"order %d of a customer" % number * 20 for number in range(COUNT)]
        path = self.folder / "orders.txt"
        path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]) + lines[-1][:5])
        killed = self.start("importer.py", path)
        wait_until(lambda: orders.bounds().next_offset, "a line")
        killed.kill()
        killed.wait()
        self.free(orders, "import:orders.txt")
        for expected in (lines[:-1], lines):
            out, err = self.start("importer.py", path).communicate(timeout=60)
            size = sum(len(line) + 1 for line in expected)
            self.assertEqual((out, err), (f"imported up to byte {size}\n", ""))
            self.assertEqual(self.values(orders), expected)
            with path.open("ab") as file:
                file.write(lines[-1][5:] + b"\n")

    @long
    def test_pipeline(self):
        """Each order has one bill, though the pipeline is killed."""
        orders, bills = self.make_log("orders"), self.make_log("bills")
        killed = self.start("pipeline.py")
        for number in range(COUNT // 100):
            orders.append_batch([b"%d" % number] * 100)
            if number == COUNT // 200:
                wait_until(lambda: bills.bounds().next_offset, "a bill")
                killed.kill()
                killed.wait()
                self.free(bills, "billing")
                running = self.start("pipeline.py")
        wait_until(lambda: bills.bounds().next_offset >= COUNT, "all bills")
        self.assertEqual(self.values(bills), [b"bill of " + value for value in self.values(orders)])
        self.assertEnds(running)
        cursor = bills.cursors().get("billing")
        self.assertEqual((cursor.position, cursor.holder, cursor.lag), (COUNT, "", None))

    @long
    def test_own_database(self):
        """Each bill has one row, though what keeps the table is killed."""
        bills, path = self.make_log("bills"), self.folder / "bills.db"
        values = [b"bill %d" % number for number in range(COUNT)]
        killed = self.start("own_database.py", path)

        def rows():
            database = sqlite3.connect(path, timeout=60)
            try:
                return database.execute("SELECT number, bill FROM bills ORDER BY rowid").fetchall()
            except sqlite3.OperationalError:
                return []  # it has made no table yet
            finally:
                database.close()

        bills.append_batch(values[: COUNT // 2])
        wait_until(rows, "a row")
        killed.kill()
        killed.wait()
        self.free(bills, "table")
        running = self.start("own_database.py", path)
        bills.append_batch(values[COUNT // 2 :])
        wait_until(lambda: len(rows()) >= COUNT, "all rows")
        self.assertEqual(rows(), list(enumerate(values)))
        self.assertEnds(running)
        self.assertEqual(bills.cursors().get("table").position, COUNT)

    @long
    def test_workers(self):
        """Two workers share the logs; what the one leaves the other one handles, and nothing is left."""
        logs = [self.make_log(f"shop-{number}") for number in range(4)]
        workers = [self.start("workers.py", "shop-*") for _ in range(2)]

        def holders():
            return [holder_of(log, "workers") for log in logs]

        for log in logs:
            log.append_batch([b"%d" % number for number in range(100)])
        wait_until(lambda: all(holders()) and len(set(holders())) == 2, "two logs for each worker")
        self.assertEnds(workers[0])
        for log in logs:
            log.append(b"later")
        wait_until(lambda: len(set(holders())) == 1 and all(holders()), "all logs for one worker")
        wait_until(lambda: [log.cursors().get("workers").lag for log in logs] == [0] * 4, "all done")
        self.assertEnds(workers[1])
        self.assertEqual([log.cursors().get("workers").holder for log in logs], [""] * 4)


def holder_of(log, cursor):
    """Return who holds a cursor; "" when nobody does, or it is not there."""
    try:
        return log.cursors().get(cursor).holder
    except UnknownCursorError:
        return ""
