"""A real `twistd loghouse`, started by the unit's own lines, and a socket that listens as systemd does."""

import os
import subprocess
import sys
from pathlib import Path

from loghouse.testing.process import wait_until
from tests.deploy.recipes import unit_settings
from tests.e2e.test_node_process import ProcessTestCase
from tests.service.notify_socket import NotifySocket


class SupervisedTests(ProcessTestCase):
    """Type=notify, with a watchdog."""

    def run_unit(self, is_abstract):
        """Return a node that the unit's ExecStart started, and what listens to it."""
        heard = NotifySocket(is_abstract)
        self.addCleanup(heard.close)
        node = self.make_node()
        [line] = unit_settings()["ExecStart"]
        twistd = f"{sys.executable} {Path(sys.executable).with_name('twistd')}"
        line = line.replace("/opt/loghouse/bin/twistd", twistd)
        environment = {"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "200000"}
        with open(node.output_path, "ab") as output:
            node.process = subprocess.Popen(
                line.replace("/etc/loghouse/node.yaml", str(node.config_path)).split(),
                stdout=output,
                stderr=output,
                cwd=node.folder,
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        wait_until(lambda: heard.listen() or node.process.poll() is not None, "READY=1")
        self.assertEqual(heard.heard[0]["READY"], "1", node.output())
        self.assertIn(f"serves on {node.address}", heard.heard[0]["STATUS"])
        return node, heard

    def count(self, heard, name):
        """Return how many messages say so, so far."""
        return sum(name in message for message in heard.listen())

    def test_life(self):
        """It is ready when it serves, gives signs of life, says that it reloads, and that it stops."""
        node, heard = self.run_unit(is_abstract=False)
        self.assertEqual(self.produce(self.stub(node), b"at once"), [0])
        wait_until(lambda: self.count(heard, "WATCHDOG") >= 3, "signs of life")
        [reload] = unit_settings()["ExecReload"]
        subprocess.run(reload.replace("$MAINPID", str(node.pid)).split(), check=True, timeout=60)
        wait_until(lambda: self.count(heard, "READY") == 2, "the end of the reload")
        told = [next(iter(message)) for message in heard.heard if "WATCHDOG" not in message]
        self.assertEqual(told, ["READY", "RELOADING", "READY"])
        self.assertStopped(node)
        self.assertEqual(self.count(heard, "STOPPING"), 1)

    def test_abstract_socket(self):
        """An address without a file is one, too."""
        node, _ = self.run_unit(is_abstract=True)
        self.assertStopped(node)
