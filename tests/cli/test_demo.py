"""`loghouse demo`: what it makes, and what it refuses."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from loghouse.auth.certificates import make_client_certificate, read_issued, write_issued
from loghouse.cli import certs, demo_nodes, demo_trip
from loghouse.cli import target as demo_target
from loghouse.cli.output import CommandError
from loghouse.config import settings as config
from loghouse.config.values import Address
from loghouse.testing.process import free_port
from tests.cli.support import CommandCase, NodeCase
from tests.processes import SKIP

LISTEN = Address("127.0.0.1", 8400)
ROOT = Path(__file__).resolve().parent.parent.parent


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


class PrepareTests(CommandCase):
    """The files of development nodes."""

    def prepare(self, listen, node_count=1):
        folder = self.folder / "dev"
        demo_nodes.prepare(folder, demo_nodes.demo_nodes(folder, listen, node_count))

    def test_files_are_accepted(self):
        """node.yaml and client.yaml are valid and name files that are there."""
        self.prepare(LISTEN)
        node = config.load("dev/node.yaml")
        self.assertEqual((node.listen, node.data_dir), (LISTEN, self.folder / "dev" / "data"))
        self.assertEqual(config.load_client("dev/client.yaml").tls.ca, node.tls.ca)

    def test_files_of_three(self):
        """Each of three nodes has a folder and a port of its own, and knows the others; one bootstraps."""
        self.prepare(LISTEN, 3)
        nodes = [config.load(f"dev/node-{number}/node.yaml") for number in (1, 2, 3)]
        self.assertEqual([node.listen.port for node in nodes], [8400, 8401, 8402])
        self.assertEqual([node.bootstrap for node in nodes], [True, False, False])
        self.assertEqual({node.join for node in nodes}, {tuple(node.listen for node in nodes)})
        self.assertEqual(nodes[1].data_dir, self.folder / "dev" / "node-2" / "data")
        self.assertTrue(nodes[2].tls.certificate.samefile("dev/certs/node-3.pem"))
        # Any one of them may be down, and commands still work.
        client = config.load_client("dev/client.yaml")
        self.assertEqual(client.server, tuple(node.listen for node in nodes))

    def test_again_keeps_certificates(self):
        """A second run keeps what clients already trust, and takes a new address."""
        self.prepare(LISTEN)
        before = Path("dev/certs/ca.pem").read_bytes()
        self.prepare(Address("127.0.0.1", 8500))
        self.assertEqual(Path("dev/certs/ca.pem").read_bytes(), before)
        self.assertEqual(config.load("dev/node.yaml").listen.port, 8500)

    def test_expired_certificates_are_made_anew(self):
        """A certificate that ends within a day means new ones for all."""
        self.prepare(LISTEN)
        folder = Path("dev/certs")
        before = (folder / "ca.pem").read_bytes()
        old = make_client_certificate(
            read_issued(folder / "ca.pem", folder / "ca.key"),
            name="root",
            now=datetime.now(UTC) - timedelta(days=2),
            days=1,
        )
        write_issued(old, folder / "root.pem", folder / "root.key", may_replace=True)
        self.prepare(LISTEN)
        self.assertNotEqual((folder / "ca.pem").read_bytes(), before)

    def test_policy_is_the_repositorys(self):
        """The policy in the package is the one in certs/."""
        self.assertEqual(certs.MODEL_TEXT, (ROOT / "certs" / "model.conf").read_text())
        self.assertEqual(certs.POLICY_TEXT, (ROOT / "certs" / "policy.csv").read_text())


class RefusalTests(CommandCase):
    """What stops a demo before anything runs."""

    def test_port_in_use(self):
        """A taken port is explained with the way out, and nothing is made."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            Path("input").write_text("a\n")
            code, out, err = self.run_command("demo", "--file", "input", "--listen", address)
        self.assertEqual((code, out), (1, ""))
        self.assertIn(f"{address} cannot be used: Address already in use", err)
        self.assertIn("make run LISTEN=", err)
        self.assertEqual(os.listdir("."), ["input"])

    def test_mistakes(self):
        """No file, or an address that others could reach: exit code 2."""
        for words, expected in [
            (["--file", "absent"], "absent: no such file"),
            (["--listen", "0.0.0.0:8400"], "allowed: a port of 127.0.0.1"),
            (["--listen", "127.0.0.1"], "has no port"),
            (["--listen", "127.0.0.1:65454", "--file", __file__], "leaves no port for node-3"),
        ]:
            code, out, err = self.run_command("demo", *words)
            self.assertEqual((code, out), (2, ""), words)
            self.assertIn(expected, err)


class ServingTests(CommandCase):
    """While it serves."""

    def test_a_node_ends(self):
        """One of two that ends is told with the way to start it; the last one's end is the demo's."""
        nodes = demo_nodes.demo_nodes(self.folder, LISTEN, 3)[:2]
        running = []
        for node in nodes:
            node.folder.mkdir()
            node.log_path.write_text("the reason\n")
            process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
            process.wait()
            running.append(demo_nodes.Running(node, process, 0))
        said = []
        error = self.assertRaises(CommandError, demo_nodes.serve_until_interrupted, running, said.append)
        self.assertIn("node-1 ended with exit code 3; node-1/node.log ends:\n  the reason", said[0])
        self.assertRegex(said[1], r"^  \S*twistd -n loghouse --config node-1/node.yaml$")
        self.assertIn("node-2 ended with exit code 3", str(error))


class RoundTripTests(NodeCase):
    """A file there and back."""

    def setUp(self):
        super().setUp()
        self.path = self.folder / "input"
        self.path.write_bytes(b"one\n\ntwo\xff\nthree")

    def client(self):
        args = argparse.Namespace(
            server=self.node.address,
            direct=False,
            log="",
            config=None,
            plaintext=True,
            timeout=10.0,
            transport="binary",
            ca=None,
            cert=None,
            key=None,
        )
        return demo_target.connect(args)

    def round_trip(self, log):
        appended = demo_trip.append_file(log, self.path)
        return demo_trip.figures(appended, demo_trip.compare_file(log, self.path, appended))

    def test_same_bytes(self):
        """Every line is appended, read back and counted; a second time goes behind the first."""
        for first in (0, 4):
            with self.client() as log:
                result = self.round_trip(log)
            self.assertEqual((result["records"], result["bytes"]), (4, 12))
            self.assertEqual((result["first_offset"], result["last_offset"]), (first, first + 3))

    def test_difference_is_found(self):
        """A byte that comes back different fails the demo."""
        append = self.cluster.append
        self.cluster.append = lambda payload, count, *_: append(
            bytes(payload).replace(b"three", b"thre3"), count
        )
        with self.client() as log:
            error = self.assertRaises(CommandError, self.round_trip, log)
        self.assertIn("offset 3 came back different", str(error))


class DemoTests(CommandCase):
    """The whole demo with real nodes under twistd."""

    skip = SKIP

    def setUp(self):
        super().setUp()
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT)  # children start elsewhere and must import this checkout
        self.addCleanup(
            os.environ.pop if before is None else os.environ.__setitem__,
            "PYTHONPATH",
            *([] if before is None else [before]),
        )
        Path("input").write_text("one\ntwo\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def demo(self, *words):
        return self.run_command("demo", "--nodes", "1", "--file", "input", "--listen", self.address, *words)

    def test_twice(self):
        """It runs, stops its node in order, and runs again on the same log."""
        for first in (0, 2):
            code, out, err = self.demo("--once", "--json")
            self.assertEqual((code, err), (0, ""))
            result = json.loads(out)
            self.assertEqual((result["records"], result["first_offset"]), (2, first))
        self.assertIn("log closed", Path("dev/node.log").read_text())

    def test_interrupted(self):
        """It prints what to try, serves until Ctrl-C, and ends with 0 and the node stopped."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "loghouse.cli.main", "demo", "--nodes", "1"),
                *("--file", "input", "--listen", self.address),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("serving until"):
                break
        # In use by the first: the second says so and does not offer to delete what runs.
        other = self.address.rpartition(":")[0] + ":" + str(int(self.address.rpartition(":")[2]) ^ 1)
        code, _, err = self.run_command(
            "demo", "--nodes", "1", "--file", "input", "--listen", other, "--once"
        )
        self.assertEqual(code, 1)
        self.assertIn("is in use by another process", err)
        self.assertNotIn("rm -r", err)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        self.assertEqual((process.returncode, err), (0, ""))
        self.assertIn("stopping the node", out)
        self.assertIn("consume --offset 0", "".join(shown))
        self.assertIn("log closed", Path("dev/node.log").read_text())

    def test_stale_data(self):
        """Data of another cluster: the reason, and how to start over."""
        self.assertEqual(self.demo("--once")[0], 0)
        self.patch(demo_nodes, "CLUSTER", "other")
        shutil.rmtree("dev/certs")
        code, _, err = self.demo("--once")
        self.assertEqual(code, 1)
        self.assertIn("'dev'", err)
        self.assertIn("to start over with an empty log: rm -r dev", err)

    def test_three(self):
        """The file comes back from each node, before and after the leader is killed and back; all stop."""
        first = free_ports(3)
        words = ["--file", "input", "--listen", f"127.0.0.1:{first}"]
        code, out, err = self.run_command("demo", "--once", "--json", *words)
        self.assertEqual((code, err), (0, ""))
        result = json.loads(out)
        self.assertEqual((result["records"], result["first_offset"]), (2, 0))
        self.assertEqual(result["after"]["records"], 2)
        self.assertNotEqual(result["killed"], result["leader"])
        self.assertEqual([node["node"] for node in result["nodes"]], ["node-1", "node-2", "node-3"])
        self.assertEqual(sorted(node["role"] for node in result["nodes"]), ["leader", "voter", "voter"])
        (end,) = {node["highest_offset"] for node in result["nodes"]}
        self.assertEqual(end, result["after"]["last_offset"])
        (term,) = {node["term"] for node in result["nodes"]}
        self.assertGreater(term, 1)
        for number in (1, 2, 3):
            self.assertIn("log closed", Path(f"dev/node-{number}/node.log").read_text())
