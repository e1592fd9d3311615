"""examples/faststream: its own tests pass without a cluster, and find what is broken in it."""

import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.fixtures.running import ROOT, run_pytest
from tests.processes import CHILDREN


class ExampleTests(SynchronousTestCase):
    """The example project, run as it is by pytest in a process of its own."""

    skip = CHILDREN

    def run_example(self, old="", new=""):
        """Run it, with a text of the program replaced if one is given; return pytest's output."""
        folder = Path(self.mktemp()).absolute()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "examples" / "faststream", folder, ignore=ignored)
        program = folder / "app.py"
        text = program.read_text()
        self.assertIn(old, text)
        program.write_text(text.replace(old, new, 1) if old else text)
        return run_pytest(folder, "-W", "error")[1]

    def test_passes(self):
        """They pass, and nothing warns."""
        self.assertIn("2 passed", self.run_example())

    def test_finds(self):
        """One fails when bills have no key, and one when a wrong order is passed."""
        for old, new, failed in (
            (", key=order.customer.encode()", "", "::test_bill"),
            ("into=bills)", 'into=bills, ack_policy="reject_on_error")', "::test_wrong_order"),
        ):
            output = self.run_example(old, new)
            self.assertIn("1 failed, 1 passed", output)
            self.assertRegex(output, f"FAILED .*{failed}")
