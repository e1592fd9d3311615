"""Alert rules and the dashboard's queries, judged by Prometheus' own code, which is Go."""

import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.deploy.recipes import go_program
from tests.http.test_deploy import ALERTS, expressions
from tests.processes import in_children


class PrometheusTests(SynchronousTestCase):
    """What `promtool check rules` checks, and whether each query can be read."""

    def setUp(self):
        self.program = go_program(self, "rules")

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
