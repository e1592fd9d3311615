"""`SimNetwork` loses, doubles, delays, reorders, cuts and clogs, and does so again from the same seed."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.clock import SimClock
from loghouse.testing.network import NetworkOptions, SimNetwork
from loghouse.testing.streams import substream


class SimNetworkTests(SynchronousTestCase):
    """What arrives, and when."""

    def run_network(self, options, seed=1, count=200, act=None):
        """Send `count` numbered messages from 1 to 2, a millisecond apart; return (arrivals, network)."""
        clock, arrived = SimClock(), []
        network = SimNetwork(
            clock,
            substream(seed, "network"),
            options,
            lambda source, target, message: arrived.append((clock.seconds(), message)),
        )
        if act is not None:
            act(clock, network)
        for number in range(count):
            clock.at(number * 0.001, network.send, 1, 2, number)
        clock.run_until(60)
        return arrived, network

    def test_good_network(self):
        """Without faults everything arrives once, not before the least delay."""
        arrived, _ = self.run_network(NetworkOptions(delay_seconds_min=0.01, ordered=True))
        self.assertEqual([m for _, m in arrived], list(range(200)))
        self.assertTrue(all(when >= m * 0.001 + 0.01 for when, m in arrived))

    def test_reorders(self):
        """Without order some message overtakes another, and nothing is lost."""
        arrived, _ = self.run_network(NetworkOptions(delay_seconds_mean=0.01))
        messages = [m for _, m in arrived]
        self.assertNotEqual(messages, sorted(messages))
        self.assertEqual(sorted(messages), list(range(200)))

    def test_loss_and_duplicates(self):
        """Some are lost, some come twice, and the counters say how many."""
        arrived, network = self.run_network(NetworkOptions(loss=0.2, duplicate=0.2))
        self.assertGreater(network.lost, 10)
        self.assertGreater(network.duplicated, 10)
        self.assertEqual(len(arrived), 200 - network.lost + network.duplicated)

    def test_strays(self):
        """A stray copy comes seconds later than its message."""
        arrived, network = self.run_network(NetworkOptions(stray=0.1, stray_seconds_max=20))
        self.assertGreater(network.strayed, 5)
        self.assertTrue(any(when > 1 for when, _ in arrived))

    def test_one_way_cut(self):
        """A cut loses one direction, what is in flight included, until it is mended."""

        def act(clock, network):
            clock.at(0.05, network.cut, 1, 2)
            clock.at(0.1, network.mend, 1, 2)
            for number in (1000, 1001):
                clock.at(0.06, network.send, 2, 1, number)

        options = NetworkOptions(delay_seconds_min=0.005, delay_seconds_mean=0.0)
        arrived, _network = self.run_network(options, act=act)
        missing = set(range(200)) - {m for _, m in arrived}
        self.assertTrue(missing.issuperset(range(50, 100)), missing)
        self.assertTrue(missing.issubset(range(44, 101)), missing)
        self.assertEqual({m for _, m in arrived if m >= 1000}, {1000, 1001})

    def test_clog(self):
        """A clog holds messages back and loses none."""
        arrived, _ = self.run_network(
            NetworkOptions(ordered=True), act=lambda clock, network: network.clog(1, 2, 5)
        )
        self.assertEqual([m for _, m in arrived], list(range(200)))
        self.assertTrue(all(when >= 5 for when, _ in arrived))

    def test_heal(self):
        """After `heal` nothing is lost, doubled, cut or slow."""

        def act(clock, network):
            network.cut(1, 2)
            network.slow_down(1, 3)
            network.heal(0.001)

        options = NetworkOptions(loss=0.5, duplicate=0.5, ordered=True)
        arrived, _ = self.run_network(options, act=act)
        self.assertEqual([m for _, m in arrived], list(range(200)))
        self.assertLess(arrived[-1][0], 1)

    def test_same_seed_same_fates(self):
        """One seed gives one run; another seed gives another."""
        options = NetworkOptions(loss=0.1, duplicate=0.1, stray=0.1)
        first, again, other = (self.run_network(options, seed)[0] for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
