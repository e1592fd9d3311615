"""The systemd unit: what systemd itself says of it, and what a node relies on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.config.settings import ShutdownConfig
from loghouse.node.node import HAND_OVER_SECONDS_MAX, SETTLE_SECONDS_MAX
from tests.deploy.recipes import UNIT, unit_settings
from tests.processes import in_children

EXPOSURE_MAX = 20  # tenths, by `systemd-analyze security`; 100: nothing is kept from it


class UnitTests(SynchronousTestCase):
    """deploy/systemd/loghouse.service."""

    def setUp(self):
        self.unit = unit_settings()

    def value(self, name):
        [value] = self.unit[name]
        return value

    def test_notify(self):
        """systemd hears of the start, of reloads and of life from the main process, twistd itself."""
        self.assertEqual((self.value("Type"), self.value("NotifyAccess")), ("notify", "main"))
        self.assertGreaterEqual(int(self.value("WatchdogSec")), 30)
        start = "/opt/loghouse/bin/twistd --nodaemon --pidfile= loghouse --config /etc/loghouse/node.yaml"
        self.assertEqual(self.value("ExecStart"), start)
        self.assertEqual(self.value("ExecReload"), "/bin/kill -HUP $MAINPID")
        self.assertEqual(self.value("Restart"), "on-failure")

    def test_stop(self):
        """A stop that uses all of its time is not cut short."""
        longest = HAND_OVER_SECONDS_MAX + ShutdownConfig().drain_seconds + SETTLE_SECONDS_MAX
        self.assertGreater(int(self.value("TimeoutStopSec")), longest)

    def test_places(self):
        """The only places to write to are the node's own."""
        self.assertEqual(self.value("ProtectSystem"), "strict")
        self.assertEqual(self.value("StateDirectory"), "loghouse")
        self.assertEqual(self.value("RuntimeDirectory"), "loghouse")
        self.assertIn("XDG_RUNTIME_DIR=%t/loghouse", self.unit["Environment"])
        self.assertGreaterEqual(int(self.value("LimitNOFILE")), 2 * 4096 + 5 * 2000)

    def analyze(self, *words):
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("no systemd-analyze here")
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        # A program that is not there would be the one complaint.
        twistd = Path(sys.executable).with_name("twistd")
        text, count = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={twistd}", UNIT.read_text())
        self.assertEqual(count, 1)
        path = folder / UNIT.name
        path.write_text(text)
        done = subprocess.run(["systemd-analyze", *words, path], capture_output=True, text=True, timeout=60)
        if "unrecognized option" in done.stderr:
            raise SkipTest(f"this systemd-analyze is too old: {done.stderr.strip()}")
        return done

    @in_children
    def test_verify(self):
        """`systemd-analyze verify` finds nothing wrong."""
        done = self.analyze("verify", "--man=no")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    @in_children
    def test_hardened(self):
        """`systemd-analyze security` finds it hardly exposed."""
        done = self.analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}")
        self.assertEqual(done.returncode, 0, done.stdout[-300:])
