"""Many logs on a real cluster of three, by the commands and the client that people use."""

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import Tls, connect_blocking
from loghouse.errors import UnknownLogError
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import wait_until
from tests.cluster.case import SETTINGS
from tests.processes import SKIP, long

SECONDS_MAX = 60


class NamedLogTests(SynchronousTestCase):
    """Three nodes, and what an operator and a program do with their logs."""

    skip = SKIP

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.cluster = ClusterProcess(self.folder, settings=SETTINGS)
        self.addCleanup(self.cluster.close)
        self.cluster.start()
        self.cluster.wait_voters()

    def command(self, *words, stdin=None, code=0):
        """Run `loghouse WORDS` as root; return what it writes."""
        certificates = self.cluster.certificates
        target = [
            "--server", ",".join(str(node.address) for node in self.cluster.nodes),
            "--ca", certificates.path("ca"),
            "--cert", certificates.path("root"),
            "--key", certificates.key_path("root"),
            "--timeout", "30s",
        ]  # fmt: skip
        run = subprocess.run(
            [sys.executable, "-m", "loghouse.cli.main", *words, *map(str, target)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )
        self.assertEqual(run.returncode, code, run.stderr + self.cluster.outputs()[-3000:])
        return run.stdout + run.stderr

    def client(self, **options):
        certificates = self.cluster.certificates
        tls = Tls(
            ca=certificates.path("ca"),
            certificate=certificates.path("root"),
            key=certificates.key_path("root"),
        )
        target = ",".join(str(node.address) for node in self.cluster.nodes)
        client = connect_blocking(target, tls=tls, timeout_seconds=30.0, **options)
        self.addCleanup(client.close)
        return client

    @long
    def test_life(self):
        """A log is made, listed, written, read, altered, deleted, and made again as another one."""
        self.assertIn("log orders is there", self.command("log", "create", "orders", "--retention-age", "7d"))
        self.command("log", "create", "orders", "--retention-age", "7d")  # no harm
        self.assertRegex(self.command("log", "list"), r"(?s)default .*\norders +16 .* 7d\n")
        lines = "".join(f"{number}\n" for number in range(1000))
        self.command("produce", "--log", "orders", stdin=lines)
        self.assertEqual(self.command("consume", "--log", "orders"), lines)
        self.assertEqual(self.command("consume"), "")
        self.assertIn("keeps 30d", self.command("log", "alter", "orders", "--retention-age", "30d"))
        self.assertIn("keeps 30d", self.command("log", "describe", "orders"))
        self.assertIn("log orders", self.command("cluster", "status", "--log", "orders"))
        pinned = {
            transport: self.client(transport=transport).log("orders") for transport in ("binary", "grpc")
        }
        for log in pinned.values():
            self.assertEqual(log.bounds().next_offset, 1000)
        self.command("log", "delete", "orders", "--yes")
        self.assertIn("no log named 'orders'", self.command("log", "describe", "orders", code=1))
        self.command("log", "create", "orders")
        for log in pinned.values():
            self.assertRaises(UnknownLogError, log.append, b"x")
            self.assertRaises(UnknownLogError, log.bounds)
            self.assertRaises(UnknownLogError, lambda log=log: list(log.read()))
        self.assertEqual(self.client().log("orders").append(b"x"), 0)

    @long
    def test_a_leader_dies(self):
        """A program goes on with a log whose leader is killed; each record is in it once, in order."""
        client = self.client()
        client.create_log("orders")
        orders = client.log("orders")
        with orders.producer(timeout_seconds=SECONDS_MAX) as producer:
            for number in range(200):
                producer.append(b"%d" % number)
            producer.flush()
            leader = self.cluster.node(client.describe_log("orders").leader)
            leader.kill()
            for number in range(200, 400):
                producer.append(b"%d" % number)
        leader.start()
        wait_until(lambda: orders.bounds().next_offset == 400, "all records", seconds_max=SECONDS_MAX)
        self.assertEqual([record.value for record in orders.read()], [b"%d" % n for n in range(400)])
