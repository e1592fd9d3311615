"""Whole clusters under faults: a few seeds here, many in `python -m loghouse.testing.sim`."""

import os

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.cluster import SimCluster
from loghouse.testing.swarm import SwarmOptions, draw_options
from tests.processes import thorough
from tests.sim.seeds import SeedTests


class ClusterTests(SeedTests, SynchronousTestCase):
    """The real core on the real storage keeps every promise, whatever happens to it."""

    once_failing = "once_failing.txt"
    seed_count = int(os.environ.get("LOGHOUSE_SIM_SEEDS", "25"))
    fault_kinds_min = 15
    repeated_seed = "8"

    def run_seed(self, seed):
        return SimCluster(draw_options(seed)).run()

    @thorough
    def test_calm(self):
        """Without any fault every request of every client is answered, and all members end equal."""
        cluster = SimCluster(SwarmOptions(seed=1))
        result = cluster.run()
        self.assertIsNone(result.violation)
        self.assertEqual(result.counters["leaders"], 1)
        self.assertGreater(result.counters["acknowledged"], 100)
        self.assertEqual(result.faults.total(), 0)
