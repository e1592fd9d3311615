"""Nodes find each other: by a seed, and after a restart of all of them by what their disks remember."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.ready import EventKind
from tests.gossip.town import Town
from tests.processes import long, thorough

SIZES = (3, 10, 50)
CONVERGENCE_SECONDS_MAX = 30


@thorough
class JoinTests(SynchronousTestCase):
    """Nodes with one seed in common become one membership."""

    def test_join(self):
        """Three, ten and fifty nodes that start together know each other within seconds."""
        for count in SIZES:
            town = Town(count, seed=count)
            town.start_all()
            self.assertLess(town.run_until_agreed(10), 10, count)
            self.assertEqual(town.failures, [], count)

    def test_seed_starts_last(self):
        """A node whose seed is not there yet tries on, and joins when it is."""
        town = Town(3)
        for number in (2, 3):
            town[number].seeds = (town[1].address,)
            town[number].start()
        town.run(120)
        self.assertEqual(town[2].live_names(), {"node-2"})
        town[1].start()
        self.assertLess(town.run_until_agreed(30), 30)

    def test_late_joiner_is_announced_once(self):
        """A node that joins a running membership is one event on each of the others."""
        town = Town(10)
        for number in range(1, 10):
            town[number].seeds = (town[1].address,)
            town[number].start()
        town.run(20)
        town[10].seeds = (town[3].address,)
        town[10].start()
        town.run_until_agreed(10)
        town.run(60)
        for number in range(1, 10):
            self.assertEqual(town[number].kinds("node-10"), [EventKind.JOINED], number)


@thorough
class FullRestartTests(SynchronousTestCase):
    """All nodes restart at once, without seeds (memberlist #311, #345)."""

    def restart(self, count, seed, spread_seconds, **network):
        town = Town(count, seed=seed, **network)
        town.start_all()
        town.run_until_agreed(60, strictly=False)
        town.run(10)  # the address book is written at most every second
        for node in town:
            node.kill()
        town.run(5)
        for node in town:
            node.seeds = ()
            node.start(delay_seconds=town.rng.random() * spread_seconds)
        return town

    def test_restart(self):
        """With a tenth of all messages lost, everybody is alive for everybody within 30 seconds."""
        for count in SIZES:
            for seed in range(2):
                town = self.restart(count, seed, 2, loss=0.1)
                took = town.run_until_agreed(CONVERGENCE_SECONDS_MAX, strictly=False)
                self.assertLessEqual(took, CONVERGENCE_SECONDS_MAX, (count, seed))

    @long
    def test_restart_with_heavy_loss(self):
        """With a third of all messages lost, duplicates and stray old ones, the same."""
        for seed in range(2):
            town = self.restart(50, seed, 2, loss=0.33, duplicate=0.1, stray=0.05)
            took = town.run_until_agreed(CONVERGENCE_SECONDS_MAX, strictly=False)
            self.assertLessEqual(took, CONVERGENCE_SECONDS_MAX, seed)

    def test_restart_over_time(self):
        """Nodes that come back one by one, many after being declared dead, end up alive for everybody."""
        town = self.restart(10, 7, 90, loss=0.1)
        town.run(90)
        self.assertLessEqual(town.run_until_agreed(30, strictly=False), 30)
