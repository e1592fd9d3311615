"""Alert rules and the dashboard's queries, judged by Prometheus' own code, which is Go."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.http.test_deploy import ALERTS, expressions
from tests.processes import in_children

SOURCE = Path(__file__).resolve().parent / "go"
BUILD_SECONDS = 280


class PrometheusTests(SynchronousTestCase):
    """What `promtool check rules` checks, and whether each query can be read."""

    def setUp(self):
        go = shutil.which("go")
        if go is None:
            raise SkipTest("there is no Go here; tests/http/test_deploy.py judges the same files by itself")
        folder = tempfile.mkdtemp(prefix="loghouse-rules-")
        self.addCleanup(shutil.rmtree, folder)
        self.program = Path(folder, "rules")
        environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
        options = {"cwd": SOURCE, "env": environment, "capture_output": True, "text": True}
        try:
            # Only what is compiled is fetched; an older Go, or no way to the modules, is told here.
            listed = subprocess.run([go, "list", "-deps", "."], timeout=BUILD_SECONDS / 4, **options)
        except subprocess.TimeoutExpired:
            raise SkipTest("Prometheus' modules are not at hand, and take too long to come") from None
        if listed.returncode:
            raise SkipTest(f"Prometheus' modules cannot be had: {listed.stderr.strip()[-300:]}")
        command = [go, "build", "-o", self.program, "."]
        built = subprocess.run(command, timeout=BUILD_SECONDS, **options)
        self.assertEqual(built.returncode, 0, built.stderr)

    def problems(self, rules, queries):
        """Return what Prometheus has against rules and queries."""
        done = subprocess.run(
            [self.program, rules], input="\n".join(queries), capture_output=True, text=True, timeout=60
        )
        self.assertEqual(done.returncode, int(bool(done.stderr)))
        return done.stderr

    @in_children
    def test_rules(self):
        """It takes all rules and queries, and would not take worse ones."""
        queries = [query.replace("$__rate_interval", "5m") for query in expressions()]
        self.assertEqual(self.problems(ALERTS, queries), "")
        wrong = Path(self.mktemp())
        text = ALERTS.read_text()
        for before, after, problem in (
            ("[15m]", "[15x]", "could not parse expression"),
            ("$labels.instance }}", "$labels.instance }", "annotation"),
            ("for: 1m", "fore: 1m", "field fore not found"),
        ):
            self.assertIn(before, text)
            wrong.write_text(text.replace(before, after, 1))
            self.assertIn(problem, self.problems(wrong, ()))
        self.assertIn("rate(up): ", self.problems(ALERTS, ["rate(up)"]))
