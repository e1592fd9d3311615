"""Whole production nodes under faults: a few seeds here, many in `python -m loghouse.testing.sim --full`."""

import os

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.full.cluster import FullCluster
from loghouse.testing.full.swarm import FullOptions, draw_full_options
from tests.processes import thorough
from tests.sim.seeds import SeedTests


class FullTests(SeedTests, SynchronousTestCase):
    """The node that users run keeps every promise, whatever happens to it."""

    once_failing = "once_failing_full.txt"
    options = ("--full",)
    seed_count = int(os.environ.get("LOGHOUSE_SIM_FULL_SEEDS", "8"))
    fault_kinds_min = 10
    repeated_seed = "18"

    def run_seed(self, seed):
        result = FullCluster(draw_full_options(seed)).run()
        # What a node wrote about failures is judged by the run itself.
        self.flushLoggedErrors()
        return result

    @thorough
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
