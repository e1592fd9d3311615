"""The three nodes of the compose file, as processes: certificates, settings, commands and health check."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.process import free_port, wait_until
from tests.deploy.recipes import COMPOSE, health_command, start_command
from tests.processes import SKIP, long

SECONDS_MAX = 60


class ComposedTests(SynchronousTestCase):
    """deploy/compose/, with a loopback address in the place of each container."""

    skip = SKIP

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.services = yaml.safe_load(COMPOSE.read_text())["services"]
        self.nodes = sorted(name for name in self.services if name.startswith("node-"))
        self.port, self.http_port = free_port(), free_port()
        tools = self.folder / "bin"
        tools.mkdir(parents=True)
        for name, module in (
            ("loghouse", "-m loghouse.cli.main"),
            ("twistd", "-c 'from twisted.scripts.twistd import run; run()'"),
            ("python", ""),
        ):
            (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
            (tools / name).chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LOGHOUSE_")},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }

    def here(self, text, node=""):
        """Return a recipe's text with addresses and folders of this machine, as in that node's container."""
        text = text.replace("/etc/loghouse", str(self.folder / (node or "etc")))
        text = text.replace("/var/lib/loghouse", str(self.folder / f"{node}-data"))
        for number, name in enumerate(self.nodes, 1):
            address = f"127.77.0.{number}"
            text = text.replace(f"{name}:8400", f"{address}:{self.port}")
            if name == node:
                text = text.replace("0.0.0.0:8400", f"{address}:{self.port}")
                text = text.replace("127.0.0.1:8480", f"{address}:{self.http_port}")
        return text

    def run_words(self, *words, **environment):
        return subprocess.run(
            words,
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )

    def start(self, name):
        """Start a node as its container would."""
        place = self.folder / name
        place.mkdir()
        (self.folder / f"{name}-data").mkdir()
        shutil.copytree(self.folder / "etc" / "certs", place / "certs")
        (place / "node.yaml").write_text(self.here(COMPOSE.with_name(f"{name}.yaml").read_text(), name))
        with open(place / "output", "ab") as output:
            process = subprocess.Popen(
                [self.here(word, name) for word in start_command()],
                stdout=output,
                stderr=output,
                env=self.environment,
                cwd=self.folder / f"{name}-data",
            )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    @long
    def test_cluster(self):
        """Three nodes form a cluster, the command reaches it, and the health check finds them well."""
        made = self.services["certificates"]
        [script] = made["command"]
        script = script.replace("$$node --host localhost", "$$(address $$node) --host localhost").replace(
            "$$", "$"
        )
        cases = " ".join(f"{name}) echo 127.77.0.{number};;" for number, name in enumerate(self.nodes, 1))
        script = f"address() {{ case $1 in {cases} esac; }}\n" + self.here(script)
        done = self.run_words(*made["entrypoint"], script)
        self.assertEqual(done.returncode, 0, done.stderr)
        processes = {name: self.start(name) for name in self.nodes}
        service = self.services["loghouse"]
        environment = {name: self.here(value) for name, value in service["environment"].items()}
        health = self.run_words(*service["entrypoint"], "cluster", "health", "--wait", "50s", **environment)
        outputs = "\n".join((self.folder / name / "output").read_text() for name in self.nodes)
        self.assertEqual((health.returncode, health.stdout), (0, "healthy\n"), health.stderr + outputs)
        command = partial(self.run_words, *service["entrypoint"], **environment)
        # The node that is asked now may hear of the others a moment after the one that said "healthy".
        wait_until(lambda: command(*service["command"]).returncode == 0, "a leader and a majority")
        done = command("produce", "--value", "hello")
        self.assertEqual(done.returncode, 0, done.stderr)
        for number, name in enumerate(self.nodes, 1):
            ready = f"http://127.77.0.{number}:{self.http_port}/readyz"
            done = self.run_words(*health_command(), LOGHOUSE_HEALTH=ready)
            self.assertEqual(done.returncode, 0, f"{name}: {done.stderr}")
        for name, process in processes.items():
            process.terminate()
            self.assertEqual(process.wait(SECONDS_MAX), -signal.SIGTERM, name)
