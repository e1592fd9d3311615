"""Spans of a real node, and of a client beside it."""

import os
import subprocess
import sys

from loghouse.client import Tls, connect_blocking
from tests.e2e.test_node_process import ProcessTestCase
from tests.tracing.spans import Spans


class TracingTests(ProcessTestCase):
    """A node with `tracing: true`, whose spans go to its output."""

    def traced_node(self):
        node = self.make_node(settings="tracing: true\n")
        node.environment["OTEL_TRACES_EXPORTER"] = "console"
        node.start()
        return node

    def test_append(self):
        """The node's spans of an append are in the client's trace; the last ones are sent at the stop."""
        node = self.traced_node()
        spans = Spans()
        certificates = self.certificates
        tls = Tls(
            ca=certificates.path("ca"),
            certificate=certificates.path("root"),
            key=certificates.key_path("root"),
        )
        with connect_blocking(node.address, tls=tls, tracing=spans.provider) as log:
            log.append(b"a")
        self.assertStopped(node)
        output = node.output()
        for name in ("serve append", "replicate", "sync", "commit"):
            self.assertIn(f'"name": "{name}"', output)
        trace_id = f"{spans.named('append').context.trace_id:#034x}"
        self.assertEqual(output.count(f'"trace_id": "{trace_id}"'), 4)

    def test_exporter_that_is_not_there(self):
        """A node does not start with an exporter that is not installed, and names those that are."""
        node = self.make_node(settings="tracing: true\n")
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "kafka"}
        command = [sys.executable, "-m", "twisted", "loghouse", "--config", str(node.config_path)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn("tracing: no exporter 'kafka' is installed", ran.stdout + ran.stderr)
