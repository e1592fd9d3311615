"""Lifeguard: a slow node must not take healthy ones down with it (consul #2430, #5928, #5567).

`LOGHOUSE_GOSSIP_HOURS` sets the simulated hours of each kind of slowness; 10 takes some minutes.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.streams import substream
from tests.gossip.town import Town
from tests.processes import thorough

HOURS = float(os.environ.get("LOGHOUSE_GOSSIP_HOURS", "0.25"))
PAUSES_SECONDS = (0.5, 1, 2, 4, 8, 16, 32)
AWAKE_SECONDS = (0.05, 0.2, 1, 4)
DELAYS_SECONDS = (0.2, 1, 2, 3, 5, 10, 30)


def suffer(town, number, *, pauses, delays):
    """Let a node be slow in one or both ways from now on."""
    rng = substream(town.seed, "slow")

    def pause():
        seconds = rng.choice(PAUSES_SECONDS)
        town[number].pause(seconds)
        town.clock.after(seconds + rng.choice(AWAKE_SECONDS), pause)

    def delay():
        town.network.slow_down(number, rng.choice(DELAYS_SECONDS))
        town.clock.after(60, delay)

    if pauses:
        pause()
    if delays:
        delay()


@thorough
class SlowNodeTests(SynchronousTestCase):
    """One of ten nodes is slow; nobody, not even the slow one, declares one of the other nine dead."""

    def run_town(self, seed, *, pauses, delays, **network):
        """Run; return how often each of the nine had to refute an accusation."""
        town = Town(10, seed=seed, **network)
        town.is_watched = False
        town.settle()
        town.run(10)
        before = {node.number: node.swim.incarnation for node in town}
        suffer(town, 10, pauses=pauses, delays=delays)
        town.run(HOURS * 3600)
        healthy = [failure for failure in town.failures if failure[2] != "node-10"]
        self.assertEqual(healthy, [], f"seed {seed}")
        return [node.swim.incarnation - before[node.number] for node in town][:9]

    def test_pauses(self):
        """The slow node gets no processor for up to 32 seconds at a time."""
        self.run_town(1, pauses=True, delays=False)

    def test_delays(self):
        """What the slow node sends arrives up to 30 seconds late; it accuses few, and kills nobody."""
        refutations = self.run_town(3, pauses=False, delays=True)
        # Without local health it accuses the healthy ones some twenty times as often.
        self.assertLess(sum(refutations), 400 * max(HOURS, 0.25))

    def test_both(self):
        """Both, and the network loses one message in a hundred."""
        self.run_town(2, pauses=True, delays=True, loss=0.01)

    def test_recovery(self):
        """Once it is no longer slow, it is alive for everybody within a minute."""
        town = Town(10, seed=4)
        town.settle()
        town.network.slow_down(10, 8)
        town.run(300)
        self.assertNotEqual(town.failures, [])
        town.network.slow_down(10, 0)
        self.assertLess(town.run_until_agreed(60), 60)
