"""Failures are found, and only failures: crashes, cuts, slow and paused nodes."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN, LOCAL, WAN
from loghouse.gossip.ready import EventKind
from loghouse.protocol.gossip_messages import Liveness
from tests.gossip.town import Town
from tests.processes import thorough


@thorough
class CrashTests(SynchronousTestCase):
    """A node that is gone is found to have failed by everybody, once."""

    def test_crash(self):
        """All others note the failure within the time that the suspicion takes, and nobody else fails."""
        for count, seconds_max in ((3, 20), (10, 45), (50, 120)):
            town = Town(count, seed=count)
            town.settle()
            town[2].kill()
            self.assertLess(town.run_until_agreed(seconds_max), seconds_max, count)
            self.assertEqual({name for _, _, name in town.failures}, {"node-2"})
            self.assertEqual(len(town.failures), count - 1)
            self.assertIs(town[1].member(town[2]).liveness, Liveness.DEAD)

    def test_restart_of_the_dead(self):
        """A node declared dead is alive again soon after it is back, under its own power."""
        town = Town(10)
        town.settle()
        town[2].kill()
        town.run_until_agreed(60)
        town[2].start()
        self.assertLess(town.run_until_agreed(10), 10)
        self.assertEqual(town[1].kinds("node-2")[-2:], [EventKind.FAILED, EventKind.JOINED])


@thorough
class PresetTests(SynchronousTestCase):
    """The presets work for the networks that they are named after."""

    # preset, mean delay in seconds, how long a failure may take to be found by all of ten
    ROWS = [(LOCAL, 0.0005, 40), (LAN, 0.002, 45), (WAN, 0.15, 330)]

    def test_rows(self):
        """Healthy nodes stay alive, and a failure is found in the time that the preset promises."""
        for config, delay_seconds_mean, seconds_max in self.ROWS:
            town = Town(10, seed=8, config=config, delay_seconds_mean=delay_seconds_mean)
            town.settle()
            town.run(120)
            self.assertEqual(town.failures, [])
            town[3].kill()
            self.assertLess(town.run_until_agreed(seconds_max), seconds_max)
            self.assertEqual({name for _, _, name in town.failures}, {"node-3"})


@thorough
class CutTests(SynchronousTestCase):
    """Links that fail are not nodes that fail."""

    def test_one_way_cut(self):
        """When one node cannot reach another, indirect probes keep both from even being suspected."""
        town = Town(5, seed=4)
        town.settle()
        before = [node.swim.incarnation for node in town]
        town.network.cut(1, 2)
        town.run(600)
        self.assertEqual(town.failures, [])
        self.assertEqual([node.swim.incarnation for node in town], before)

    def test_deaf_node(self):
        """A node that hears nothing is found to have failed, and its accusations kill nobody else."""
        town = Town(10, seed=5)
        town.settle()
        for number in range(2, 11):
            town.network.cut(number, 1)
        town.run(600)
        self.assertEqual({(name) for _, by, name in town.failures if by != 1}, {"node-1"})
        for number in range(2, 11):
            town.network.mend(number, 1)
        self.assertLess(town.run_until_agreed(60), 60)

    def test_mute_node(self):
        """A node that nobody hears is found to have failed; nobody else is, but perhaps by itself."""
        town = Town(10, seed=7)
        town.settle()
        for number in range(2, 11):
            town.network.cut(1, number)
        town.run(600)
        self.assertEqual({name for _, by, name in town.failures if by != 1}, {"node-1"})
        for number in range(2, 11):
            town.network.mend(1, number)
        self.assertLess(town.run_until_agreed(60), 60)

    def test_halves(self):
        """Two halves declare each other dead, and find each other when the cut is over."""
        town = Town(10, seed=6)
        town.settle()
        left, right = range(1, 6), range(6, 11)
        town.partition(left, right)
        town.run(300)
        self.assertEqual(town[1].live_names(), {f"node-{number}" for number in left})
        self.assertEqual(town[6].live_names(), {f"node-{number}" for number in right})
        town.mend(left, right)
        self.assertLess(town.run_until_agreed(60), 60)
