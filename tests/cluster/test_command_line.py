"""`loghouse produce` and `loghouse consume --follow` while the leader dies."""

import os
import subprocess
import sys
from pathlib import Path

from loghouse.testing.process import wait_until
from tests.cluster.case import ClusterCase
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = 200  # on each side of the kill
SECONDS_MAX = 90


class CommandLineTests(ClusterCase):
    """The commands as a user starts them."""

    def start(self, *words):
        certificates = self.cluster.certificates
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "loghouse.cli.main", *words, "--timeout", "60s"],
                *["--server", ",".join(node.address for node in self.cluster.nodes)],
                *["--ca", str(certificates.path("ca")), "--cert", str(certificates.path("root"))],
                *["--key", str(certificates.key_path("root"))],
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=self.cluster.certificates.folder,  # no client.yaml of who runs the tests is found there
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    @long
    def test_leader_dies(self):
        """Lines from before and after the death are in the log once each, in order, and followed so."""
        leader = self.cluster.wait_leader()
        start = self.cluster.wait_caught_up()
        lines = [b"line %d" % number for number in range(2 * LINES)]
        writes = [self.recorder.write(line) for line in lines]
        consume = self.start("consume", "--from", str(start), "--follow", "--count", str(2 * LINES))
        produce = self.start("produce")
        produce.stdin.write(b"\n".join(lines[:LINES]) + b"\n")
        produce.stdin.flush()
        wait_until(lambda: self.cluster.confirmed_end(leader) == start + LINES, "the lines before the kill")
        leader.kill()
        _, err = produce.communicate(b"\n".join(lines[LINES:]), SECONDS_MAX)
        self.assertEqual((produce.returncode, err), (0, b""))
        out, err = consume.communicate(timeout=SECONDS_MAX)
        self.assertEqual((consume.returncode, err), (0, b""))
        self.assertEqual(out.splitlines(), lines)
        for offset, write in enumerate(writes, start):
            self.recorder.acknowledge(write, offset)
        leader.start()
        self.judge()
