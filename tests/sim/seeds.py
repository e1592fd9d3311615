"""What each kind of simulated cluster is tried with: drawn seeds, those that once failed, a run again."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import in_children, long, thorough

ROOT = Path(__file__).resolve().parent.parent.parent


class SeedTests:
    """To be mixed into a test case; a class says how a seed is run, and which."""

    once_failing = ""  # the file of seeds, below tests/seeds
    options = ()  # of `loghouse.testing.sim`
    seed_count = 0
    fault_kinds_min = 0
    repeated_seed = ""

    def run_seed(self, seed):
        """Return the result of a drawn cluster."""
        raise NotImplementedError

    def check_seed(self, seed):
        """A seed must be clean; the message says how to see it again."""
        result = self.run_seed(seed)
        again = " ".join(("python -m loghouse.testing.sim", *self.options, f"--seed {seed} --trace"))
        self.assertIsNone(result.violation, f"{result.violation}; seed {seed}; again: {again}")
        return result

    @thorough
    def test_seeds(self):
        """A few seeds of the swarm run clean, and faults of many kinds strike in them."""
        kinds = set()
        acknowledged = 0
        for seed in range(1, self.seed_count + 1):
            result = self.check_seed(seed)
            kinds |= set(result.faults)
            acknowledged += result.counters["acknowledged"]
        self.assertGreater(len(kinds), self.fault_kinds_min)
        self.assertGreater(acknowledged, 100)

    @long
    def test_once_failing_seeds(self):
        """Every seed that ever failed runs clean."""
        lines = (ROOT / "tests" / "seeds" / self.once_failing).read_text().splitlines()
        seeds = [int(line.split("#")[0]) for line in lines if line.strip()]
        self.assertGreater(len(seeds), 0)
        for seed in seeds:
            self.check_seed(seed)

    @in_children
    def test_same_run_in_every_process(self):
        """A seed gives the same trace in two processes with different hash seeds."""
        outputs = set()
        for hash_seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-m", "loghouse.testing.sim", *self.options, "--seed", self.repeated_seed],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            )
            outputs.add(done.stdout)
        self.assertEqual(len(outputs), 1, outputs)
        self.assertIn("trace hash", outputs.pop())
