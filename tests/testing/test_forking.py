"""Processes that are forked from one which has imported what nodes need."""

import os
import signal
import subprocess
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.forking import Forker
from tests.processes import CHILDREN

SECONDS_MAX = 60
SCRIPT = """
    import os, signal, sys
    from loghouse.service import node_service

    print(os.getpid(), os.getcwd(), dict(os.environ), sys.argv[1:], __name__, flush=True)
    print("twisted.internet.reactor" in sys.modules, file=sys.stderr)
    match sys.argv[1]:
        case "ends":
            sys.exit(3)
        case "fails":
            raise ValueError("of the script")
        case "waits":
            signal.pause()
"""


class ForkerTests(SynchronousTestCase):
    """Scripts as a node is one."""

    skip = CHILDREN

    def test_life(self):
        """Each is a process of its own, where and as it was asked for, and it is told how it ended."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.script = self.folder / "script"
        self.script.write_text(dedent(SCRIPT))
        self.forker = Forker()
        self.addCleanup(self.forker.close)
        self.check_exit()
        self.check_signals()
        self.check_end_of_all()

    def start(self, word):
        with open(self.folder / f"{word}.out", "wb") as output:
            return self.forker.start(
                [str(self.script), word], folder=self.folder, environment={"A": "b"}, output=output
            )

    def output(self, word):
        return (self.folder / f"{word}.out").read_text()

    def check_exit(self):
        process = self.start("ends")
        self.assertEqual(process.wait(SECONDS_MAX), 3)
        self.assertEqual((process.poll(), process.returncode), (3, 3))
        told = f"{process.pid} {self.folder} {{'A': 'b'}} ['ends'] __main__\nFalse\n"
        self.assertEqual(self.output("ends"), told)
        process.kill()  # no harm
        process = self.start("fails")
        self.assertEqual(process.wait(SECONDS_MAX), 1)
        self.assertIn("ValueError: of the script", self.output("fails"))

    def check_signals(self):
        for kill, number in (("kill", signal.SIGKILL), ("terminate", signal.SIGTERM)):
            process = self.start("waits")
            self.assertIsNone(process.poll())
            self.assertRaises(subprocess.TimeoutExpired, process.wait, 0)
            getattr(process, kill)()
            self.assertEqual(process.wait(), -number)

    def check_end_of_all(self):
        first, second = self.start("waits"), self.start("waits")
        self.forker.close()
        for process in (first, second):
            self.assertEqual(process.wait(SECONDS_MAX), -signal.SIGKILL)
            self.assertFalse(os.path.exists(f"/proc/{process.pid}"))
