"""Whole production nodes under faults: a few seeds here, many in `python -m loghouse.testing.sim --full`."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.full.cluster import FullCluster, run_full_seed
from loghouse.testing.full.swarm import FullOptions, draw_full_options
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS_FILE = ROOT / "tests" / "seeds" / "once_failing_full.txt"
SEED_COUNT = int(os.environ.get("LOGHOUSE_SIM_FULL_SEEDS", "8"))


class FullTests(SynchronousTestCase):
    """The node that users run keeps every promise, whatever happens to it."""

    def check_seed(self, seed):
        """A seed must be clean; the message says how to see it again."""
        result = run_full_seed(draw_full_options(seed))
        # What a node wrote about failures is judged by the run itself.
        self.flushLoggedErrors()
        again = f"seed {seed}; again: python -m loghouse.testing.sim --full --seed {seed} --trace"
        self.assertIsNone(result.violation, f"{result.violation}; {again}")
        return result

    def test_calm(self):
        """Three nodes find each other, elect once and answer; without any fault no node ever starts again."""
        cluster = FullCluster(FullOptions(seed=1, tick_seconds=0.1))
        result = cluster.run()
        self.assertIsNone(result.violation)
        self.assertEqual(result.counters["leaders"], 1)
        self.assertEqual(result.counters["restarts"], 0)
        self.assertGreater(result.counters["acknowledged"], 100)
        leader = cluster.leader()
        self.assertEqual(len(leader.raft.configuration.voters), 3)

    def test_seeds(self):
        """A few seeds of the swarm run clean, and faults of many kinds strike in them."""
        kinds = set()
        acknowledged = 0
        for seed in range(1, SEED_COUNT + 1):
            result = self.check_seed(seed)
            kinds |= set(result.faults)
            acknowledged += result.counters["acknowledged"]
        self.assertGreater(len(kinds), 10)
        self.assertGreater(acknowledged, 100)

    @long
    def test_once_failing_seeds(self):
        """Every seed that ever failed runs clean."""
        for line in SEEDS_FILE.read_text().splitlines():
            self.check_seed(int(line.split("#")[0]))

    def test_same_run_in_every_process(self):
        """A seed gives the same trace in two processes with different hash seeds."""
        outputs = set()
        for hash_seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-m", "loghouse.testing.sim", "--full", "--seed", "18"],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            )
            outputs.add(done.stdout)
        self.assertEqual(len(outputs), 1, outputs)
        self.assertIn("trace hash", outputs.pop())
