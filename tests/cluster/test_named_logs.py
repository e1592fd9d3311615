"""Many logs on a real cluster of three, by the commands and the client that people use."""

import json
import os
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

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 60


class CommandsCase(SynchronousTestCase):
    """Three nodes, the command line and a client."""

    skip = SKIP

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.cluster = ClusterProcess(self.folder, settings=SETTINGS, is_forked=True)
        self.addCleanup(self.cluster.close)
        self.cluster.start()
        self.cluster.wait_voters()

    def command(self, *words, stdin=None, code=0):
        """Run `loghouse WORDS` as root; return what it writes."""
        run = self.try_command(*words, stdin=stdin)
        self.assertEqual(run.returncode, code, run.stderr + self.cluster.outputs()[-3000:])
        return run.stdout + run.stderr

    def try_command(self, *words, stdin=None):
        """Run `loghouse WORDS` as root; return how it ended, and what it wrote."""
        certificates = self.cluster.certificates
        target = [
            "--ca", certificates.path("ca"),
            "--cert", certificates.path("root"),
            "--key", certificates.key_path("root"),
            "--timeout", "30s",
        ]  # fmt: skip
        if "--server" not in words:
            target += ["--server", ",".join(str(node.address) for node in self.cluster.nodes)]
        return self.run_words(*words, *map(str, target), stdin=stdin)

    def run_command(self, *words, stdin=None, code=0):
        """Run `loghouse WORDS`; return what it writes."""
        run = self.run_words(*words, stdin=stdin)
        self.assertEqual(run.returncode, code, run.stderr + self.cluster.outputs()[-3000:])
        return run.stdout + run.stderr

    def run_words(self, *words, stdin=None):
        """Run `loghouse WORDS`; return how it ended, and what it wrote."""
        return subprocess.run(
            [sys.executable, "-m", "loghouse.cli.main", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=self.folder,  # no client.yaml of who runs the tests is found there
        )

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


class NamedLogTests(CommandsCase):
    """Three nodes, and what an operator and a program do with their logs."""

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

    @long
    def test_replaced_and_back(self):
        """A replaced copy is given back, and made anew when the log returns; strays are kept and told."""
        stray = self.cluster.node("node-3").data_dir / "logs/99"
        stray.mkdir()
        (stray / "file").write_bytes(bytes(2048))
        self.command("log", "create", "orders", "--replicas", "2", "--on", "node-1,node-2")
        lines = "".join(f"{number}\n" for number in range(100))
        self.command("produce", "--log", "orders", stdin=lines)
        node = self.cluster.node("node-2")
        copy = node.data_dir / "logs/16"
        self.assertTrue(copy.exists())
        for lost, new, count in (("node-2", "node-3", 1), ("node-3", "node-2", 1), ("node-2", "node-3", 2)):
            self.command("log", "repair", "orders", "--replace", lost, "--with", new)
            wait_until(
                lambda new=new: copy.exists() == (new == "node-2"), "the copy", seconds_max=SECONDS_MAX
            )
            self.assertEqual(len(list(copy.parent.glob("gone-16-*"))), count)
            self.assertEqual(self.command("consume", "--log", "orders", "--server", node.address), lines)
        self.assertRegex(
            self.command("log", "list", "--strays"),
            r"NODE .*\nnode-3 +99 +- +2\.0 KiB +not in the catalogue\n",
        )
        strays = json.loads(self.command("log", "list", "--strays", "--json"))
        self.assertEqual(
            strays, {"strays": [{"node": "node-3", "group": 99, "log": "", "size": 2048}], "not_known_of": []}
        )
        status = self.command("cluster", "status", "--server", self.cluster.node("node-3").address)
        self.assertIn("Files of a log, number 99, are on node-3 (2.0 KiB): not in the catalogue", status)
        self.assertEqual((stray / "file").read_bytes(), bytes(2048))
