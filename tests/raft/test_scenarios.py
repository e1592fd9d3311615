"""Every script in `scenarios/` leaves the trace written in it."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.raft.scenario import Script

SCRIPTS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
REWRITE = os.environ.get("LOGHOUSE_REWRITE_SCENARIOS") == "1"


class ScenarioTests(SynchronousTestCase):
    """One test for each script; its first line says what it shows."""

    maxDiff = None


def _test_of(path):
    text = path.read_text()

    def test(self):
        happened = Script().run(text)
        if REWRITE:
            path.write_text(happened)
        else:
            self.assertEqual(happened, text, path.name)

    test.__name__ = f"test_{path.stem}"
    test.__doc__ = text.splitlines()[0].lstrip("# ")
    return test


for _path in SCRIPTS:
    setattr(ScenarioTests, f"test_{_path.stem}", _test_of(_path))
