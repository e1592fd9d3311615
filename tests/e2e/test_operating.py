"""What an operator does to a real `twistd loghouse` while it runs."""

import json
import os
import signal

import grpc

from loghouse.api.v1 import log_pb2
from loghouse.testing.process import NodeProcess, free_port, wait_until
from tests.e2e.test_node_process import ProcessTestCase, error_details


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
        # The lines come one by one; this is the last.
        last = "settings: timing.network: lan -> wan: needs a restart"
        wait_until(lambda: last in node.output(), "the reload")
        self.assertIn("asked for by SIGHUP: 1 changed, 1 wait", node.output())
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


class ClockTests(OperatingCase):
    """The doctor of a node that is to join another one."""

    def test_another_clock(self):
        """A clock that is an hour off is told, with what to do; one that says the same is not."""
        port = free_port()
        settings = f"http_listen: 127.0.0.1:{port}\n"
        node = self.make_node(settings=settings)
        node.add_hooks()
        node.start()
        joiner = NodeProcess(self.folder / "joiner", self.certificates, name="node-2", settings=settings)
        joiner.write_config(join=[node.address])

        def clocks():
            done = self.loghouse("doctor", "--config", joiner.config_path, "--json")
            found = json.loads(done.stdout)["findings"]
            return [one for one in found if one["area"] == "clock" and str(port) in one["text"]]

        self.assertEqual([(one["level"], "says the same" in one["text"]) for one in clocks()], [("ok", True)])
        for seconds in (3600, -3600):
            node.step_clock(seconds)
            [found] = clocks()
            self.assertEqual(found["level"], "warning")
            self.assertRegex(found["text"], "(1:00:0|0:59:5)")
            self.assertIn("ahead of" if seconds > 0 else "behind", found["text"])
            self.assertIn("timedatectl", found["remedy"])
        self.assertStopped(node)


class LifeTests(OperatingCase):
    """Quotas, the audit and the doctor, on one node that runs."""

    def test_audit_and_quotas(self):
        """Who appends beyond a quota is told when to come again; that is a line of the audit."""
        node = self.started(settings="audit: audit.log\nquotas: {root: {in: 64KiB}}\n")
        self.head = (node.folder / "node.yaml").read_text()
        stub = self.stub(node)
        self.produce(stub, b"x" * 400_000)
        error = self.assertStatus(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            stub.Produce,
            log_pb2.ProduceRequest(record=log_pb2.Record(value=b"y")),
        )
        details = error_details(error)
        self.assertEqual(details["reason"], "QUOTA_EXCEEDED")
        self.assertGreater(int(details["retry_milliseconds"]), 1000)
        self.assertStatus(
            grpc.StatusCode.PERMISSION_DENIED, self.stub(node, "nobody").Bounds, log_pb2.BoundsRequest()
        )
        path = node.folder / "audit.log"
        wait_until(lambda: path.read_text().count("\n") >= 2, "two lines of the audit")
        path.rename(node.folder / "audit.log.1")
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until(lambda: path.exists() and "SIGHUP" in path.read_text(), "the new file")
        lines = [json.loads(line) for line in (node.folder / "audit.log.1").read_text().splitlines()]
        self.assertEqual(
            {(line["kind"], line["who"]) for line in lines}, {("refusal", "root"), ("refusal", "nobody")}
        )
        done = self.loghouse("doctor", "--config", node.folder / "node.yaml", "--json")
        self.assertIn(done.returncode, (0, 6), done.stdout)
        found = {(one["area"], one["level"]) for one in json.loads(done.stdout)["findings"]}
        self.assertIn(("start", "ok"), found)
        self.assertIn(("certificates", "ok"), found)
        self.assertStopped(node)
