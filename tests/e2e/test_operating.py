"""What an operator does to a real `twistd loghouse` while it runs."""

import json
import os
import signal

from loghouse.testing.process import wait_until
from tests.e2e.test_node_process import ProcessTestCase


class OperatingCase(ProcessTestCase):
    """A node, and the command that speaks to it."""

    def command(self, node, *words, subject="root"):
        """Run `loghouse WORDS` against a node, as a subject."""
        certificates = self.certificates
        return self.loghouse(
            *words,
            "--server",
            node.address,
            "--ca",
            certificates.path("ca"),
            "--cert",
            certificates.path(subject),
            "--key",
            certificates.key_path(subject),
        )

    def rewrite(self, node, settings):
        """Put other settings in the place of those behind the last line that every node.yaml has."""
        path = node.folder / "node.yaml"
        path.write_text(self.head + settings)


class ReloadTests(OperatingCase):
    """Settings are read again by a signal and by a call."""

    def test_reload(self):
        """SIGHUP and `node reload` take what can change, name what waits, and refuse a wrong file whole."""
        node = self.started(settings="")
        self.head = (node.folder / "node.yaml").read_text()
        self.rewrite(node, "limits: {record_bytes_max: 64KiB}\ntiming: {network: wan}\n")
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until(lambda: "asked for by SIGHUP: 1 changed, 1 wait" in node.output(), "the reload")
        self.assertIn("settings: timing.network: lan -> wan: needs a restart", node.output())
        self.rewrite(node, "limits: {record_bytes_max: 64KiB}\nlogging: {level: debug}\n")
        done = self.command(node, "node", "reload", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["changed"], ["logging.level: info -> debug"])
        self.assertEqual(answer["needs_restart"], [])
        self.rewrite(node, "logging: {level: warn}\nlimits: {record_bytes_max: 1 parsec}\n")
        refused = self.command(node, "node", "reload")
        self.assertEqual(refused.returncode, 2)
        line = self.head.count("\n") + 2
        text = f"{node.folder / 'node.yaml'}: limits.record_bytes_max (line {line}): '1 parsec' is not a size"
        self.assertIn(text, refused.stderr)
        wait_until(lambda: text in node.output(), "the line in the log")
        denied = self.command(node, "node", "reload", subject="nobody")
        self.assertEqual(denied.returncode, 1)
        self.assertIn("not permitted", denied.stderr)
        health = self.command(node, "cluster", "health", "--wait", "20s")
        self.assertEqual((health.returncode, health.stdout), (0, "healthy\n"))
        self.assertStopped(node)
        unreached = self.command(node, "cluster", "health", "--timeout", "0.5")
        self.assertEqual(unreached.returncode, 3)
