"""Named scenarios whose outcome is known: what a run may not lose, and what nothing can save."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.cluster import SimCluster
from loghouse.testing.nemesis import Fault, plan_faults
from loghouse.testing.shrink import Shrinker
from loghouse.testing.swarm import SwarmOptions

CALM = SwarmOptions(seed=7, safety_seconds=6.0)


def started(options=CALM, seconds=2.0):
    """Return a cluster that ran calmly for a while and has acknowledged something."""
    cluster = SimCluster(options, faults=())
    cluster.boot()
    cluster.clock.run_until(seconds)
    return cluster


class ScenarioTests(SynchronousTestCase):
    """One situation each, on three machines."""

    def test_stalled_leader_disk(self):
        """A leader whose disk stalls is replaced within three election timeouts (hashicorp/raft#503)."""
        cluster = started()
        leader = cluster.leader()
        leader.machine.stall(60.0)
        cluster.clock.advance(2 * 3 * cluster.options.election_seconds)
        self.assertIsNot(cluster.leader(), leader)
        acknowledged = cluster.work.acknowledged
        cluster.clock.advance(2.0)
        self.assertGreater(cluster.work.acknowledged, acknowledged)

    def test_minority_refuses(self):
        """A leader cut off from the others acknowledges nothing, and steps down."""
        cluster = started()
        leader = cluster.leader()
        for other in cluster.nodes:
            if other != leader.number:
                cluster.network.cut(leader.number, other)
                cluster.network.cut(other, leader.number)
        readable = leader.readable_index
        cluster.clock.advance(4 * cluster.options.election_seconds)
        self.assertIsNot(cluster.leader(), leader)
        self.assertLessEqual(leader.readable_index, readable + 1)

    def test_power_loss_of_all(self):
        """When all machines lose their power at once, nothing acknowledged is lost."""
        cluster = started()
        acknowledged = cluster.oracle.committed_index
        for node in cluster.nodes.values():
            node.crash(cluster.stream("power"))
            node.restart_after(0.1)
        cluster.clock.advance(5.0)
        self.assertGreaterEqual(cluster.leader().readable_index, acknowledged)

    def test_lying_disks(self):
        """Disks that say "synced" and are not lose acknowledged records, and the checkers say so."""
        cluster = SimCluster(replace(CALM, safety_seconds=20.0, faults=(("power_loss", 1.0),)))
        for node in cluster.nodes.values():
            node.machine.lie()
        result = cluster.run()
        self.assertIsNotNone(result.violation)
        found = result.violation.rule
        self.assertIn(found, ("durable-ack", "durable-promise", "durable-vote", "durable-term", "vote-once"))

    def test_damage_on_a_majority(self):
        """When a majority's logs are damaged, those nodes refuse to start and nothing is acknowledged."""
        cluster = started()
        damaged = list(cluster.nodes.values())[:2]
        for node in damaged:
            cluster.atlas.expect_loss(node)
            node.crash(cluster.stream("damage"))
            where = node.machine.rot_first_entry()
            self.assertTrue(where)
            node.start()
        self.assertEqual([node.is_up for node in damaged], [False, False])
        acknowledged = cluster.work.acknowledged
        cluster.clock.advance(0.5 * cluster.options.election_seconds)
        self.assertEqual(cluster.work.acknowledged, acknowledged)


class ShrinkTests(SynchronousTestCase):
    """A failing schedule is made small, and still fails."""

    def test_shrinks_to_what_matters(self):
        """Of many faults only the one that breaks the rule is left, and the time behind it is cut."""
        options = replace(
            CALM,
            safety_seconds=30.0,
            faults=(("crash", 1.0), ("pause", 1.0), ("clog", 1.0), ("transfer", 1.0)),
        )
        faults = plan_faults(options)
        culprit = next(fault for fault in faults if fault.kind == "transfer" and fault.at > 10)

        def run(options, faults):
            from loghouse.testing.checkers import Violation
            from loghouse.testing.simulation import RunResult

            struck = culprit in faults and culprit.at < options.safety_seconds
            violation = Violation("planted", "a transfer") if struck else None
            return RunResult(options.seed, violation, simulated_seconds=culprit.at)

        shrunk = Shrinker(options, "planted", run=run).shrink()
        self.assertGreater(len(faults), 50)
        self.assertEqual(shrunk.faults, (culprit,))
        self.assertLess(shrunk.options.safety_seconds, culprit.at + 0.01)

    def test_not_failing(self):
        """A seed that breaks nothing cannot be shrunk."""
        self.assertRaises(ValueError, Shrinker(CALM, "planted").shrink)

    def test_schedule_is_data(self):
        """Dropping one class of faults leaves the others as they were."""
        options = replace(CALM, faults=(("crash", 1.0), ("pause", 0.5)))
        only = replace(CALM, faults=(("pause", 0.5),))
        self.assertEqual([f for f in plan_faults(options) if f.kind == "pause"], list(plan_faults(only)))
        self.assertIsInstance(plan_faults(only)[0], Fault)
