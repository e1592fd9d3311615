"""When all faults end, they end for everybody: what a run demands then can be had."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.entry import EntryKind
from loghouse.testing.cluster import SimCluster
from loghouse.testing.network import NetworkOptions
from loghouse.testing.swarm import SwarmOptions
from tests.processes import thorough


@thorough
class HealTests(SynchronousTestCase):
    """What was begun under a fault does not outlast it."""

    def test_sync_begun_on_slow_disk(self):
        """A sync that a slow disk would have taken minutes for is soon done when the disk is slow no more."""
        cluster = SimCluster(SwarmOptions(seed=1))
        machine, done = cluster.nodes[1].machine, []
        machine.slow(1_000_000.0, 1.0)
        machine.after_sync(lambda: done.append(1))
        cluster.clock.advance(30.0)
        self.assertEqual(done, [])
        machine.heal()
        cluster.clock.advance(cluster.options.election_seconds)
        self.assertEqual(done, [1])
        cluster.clock.advance(1_000_000.0)
        self.assertEqual(done, [1])

    def test_write_waiting_for_stalled_disk(self):
        """What waits for a stalled disk goes on when the disk is stalled no more."""
        cluster = SimCluster(SwarmOptions(seed=1))
        machine, done = cluster.nodes[1].machine, []
        machine.stall(1_000_000.0)
        self.assertFalse(machine.is_awake(lambda: done.append(1)))
        cluster.clock.advance(30.0)
        self.assertEqual(done, [])
        machine.heal()
        cluster.clock.advance(cluster.options.election_seconds)
        self.assertEqual(done, [1])
        self.assertTrue(machine.is_awake(lambda: done.append(1)))

    def test_group_after_slow_sync(self):
        """A group of two that waits for one disk's sync goes on after the faults (found by seed 900001)."""
        options = SwarmOptions(seed=1, voters=2, safety_seconds=5.0)
        cluster = SimCluster(options, faults=())
        for node in cluster.nodes.values():
            cluster.clock.at(4.5, node.machine.slow, 1_000_000.0, 0.5)
        result = cluster.run()
        self.assertIsNone(result.violation)
        self.assertLess(result.simulated_seconds, 5.0 + 10.0)

    def test_clients_links(self):
        """Requests and answers of clients are not lost any more, either."""
        cluster = SimCluster(SwarmOptions(seed=1, network=NetworkOptions(loss=1.0)), faults=())
        cluster.network.heal(0.001)
        answers = []
        for number in range(100):
            cluster.request(1, lambda _, back, number=number: back(number), answers.append)
        cluster.clock.advance(10.0)
        self.assertEqual(sorted(answers), list(range(100)))

    def test_trims_keep_the_clients_pace(self):
        """When clients write less often, so does what trims: a learner must be able to catch up with both."""
        options = SwarmOptions(seed=1, trim_seconds_mean=0.05, producers=0, writers=0)
        cluster = SimCluster(options, faults=())
        cluster.boot()

        def trims_in(seconds):
            before = len(cluster.oracle.committed)
            cluster.clock.advance(seconds)
            return sum(entry.kind == EntryKind.TRIM for entry in cluster.oracle.committed[before:])

        cluster.clock.advance(1.0)
        self.assertGreater(trims_in(20.0), 200)
        cluster.work.think_seconds_min = 1.0
        self.assertIn(trims_in(20.0), range(10, 40))
