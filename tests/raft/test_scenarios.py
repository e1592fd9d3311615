"""Every script in `scenarios/` leaves the trace written in it."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.raft.scenario import Script
from tests.scripts import Scripts


class ScenarioTests(SynchronousTestCase):
    """One test for each script; its first line says what it shows."""

    maxDiff = None
    test = Scripts(Path(__file__).parent / "scenarios", lambda text: Script().run(text))
