"""Whole clusters under faults: a few seeds here, many in `python -m loghouse.testing.sim`."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.cluster import SimCluster, run_seed
from loghouse.testing.swarm import SwarmOptions, draw_options
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS_FILE = ROOT / "tests" / "seeds" / "once_failing.txt"
SEED_COUNT = int(os.environ.get("LOGHOUSE_SIM_SEEDS", "25"))


class ClusterTests(SynchronousTestCase):
    """The real core on the real storage keeps every promise, whatever happens to it."""

    def check_seed(self, seed):
        """A seed must be clean; the message says how to see it again."""
        result = run_seed(draw_options(seed))
        again = f"seed {seed}; again: python -m loghouse.testing.sim --seed {seed} --trace"
        self.assertIsNone(result.violation, f"{result.violation}; {again}")
        return result

    def test_calm(self):
        """Without any fault every request of every client is answered, and all members end equal."""
        cluster = SimCluster(SwarmOptions(seed=1))
        result = cluster.run()
        self.assertIsNone(result.violation)
        self.assertEqual(result.counters["leaders"], 1)
        self.assertGreater(result.counters["acknowledged"], 100)
        self.assertEqual(result.faults.total(), 0)

    def test_seeds(self):
        """A few seeds of the swarm run clean, and faults of many kinds strike in them."""
        kinds = set()
        acknowledged = 0
        for seed in range(1, SEED_COUNT + 1):
            result = self.check_seed(seed)
            kinds |= set(result.faults)
            acknowledged += result.counters["acknowledged"]
        self.assertGreater(len(kinds), 15)
        self.assertGreater(acknowledged, 100)

    @long
    def test_once_failing_seeds(self):
        """Every seed that ever failed runs clean."""
        seeds = [int(line.split("#")[0]) for line in SEEDS_FILE.read_text().splitlines() if line.strip()]
        self.assertGreater(len(seeds), 0)
        for seed in seeds:
            self.check_seed(seed)

    def test_same_run_in_every_process(self):
        """A seed gives the same trace in two processes with different hash seeds."""
        outputs = set()
        for hash_seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-m", "loghouse.testing.sim", "--seed", "8"],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            )
            outputs.add(done.stdout)
        self.assertEqual(len(outputs), 1, outputs)
        self.assertIn("trace hash", outputs.pop())
