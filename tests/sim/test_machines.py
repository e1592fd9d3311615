"""A simulated machine runs the production driver, and loses its power wherever a real one can."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.replica.driver import RaftDriver
from loghouse.testing.cluster import SimCluster
from loghouse.testing.queue import DiskQueue
from loghouse.testing.swarm import CRASH_POINTS, SwarmOptions
from tests.processes import thorough


class CrashPointTests(SynchronousTestCase):
    """Power is lost at each point that has a name."""

    @thorough
    def test_every_point_is_reached(self):
        """Machines lose their power at every crash point, and what is acknowledged survives it."""
        for point in set(CRASH_POINTS) - {"disk_step"}:
            options = SwarmOptions(
                seed=3,
                safety_seconds=20.0,
                faults=(("crash_point", 0.3), ("transfer", 0.4)),
                crash_points=(point,),
            )
            result = SimCluster(options).run()
            self.assertIsNone(result.violation, point)
            self.assertGreater(result.faults[f"crashed at {point}"], 0, point)

    def test_inside_steps_of_storage(self):
        """They lose it inside changing operations of the disk, too."""
        options = SwarmOptions(
            seed=3, safety_seconds=8.0, faults=(("crash_point", 0.3),), crash_points=("disk_step",)
        )
        result = SimCluster(options).run()
        self.assertIsNone(result.violation)
        self.assertGreater(result.counters["restarts"], 0)

    @thorough
    def test_disk_at_work(self):
        """A power loss finds the work of the disk's thread done up to some operation, and nobody is told."""
        found = set()
        for seed in range(30):
            cluster = SimCluster(SwarmOptions(seed=1), faults=())
            cluster.boot()
            node, steps, told = cluster.nodes[1], [], []

            def work(disk=node.machine.disk, steps=steps):
                for number in range(3):
                    disk.create(f"/logs/file{number}")
                    steps.append(number)

            queue = DiskQueue(node, node.life)
            queue.submit(work, told.append, told.append)
            queue.break_off(random.Random(seed))
            cluster.clock.advance(1.0)
            self.assertEqual(told, [])
            found.add(len(steps))
        self.assertEqual(found, {0, 1, 2, 3})


class DriverTests(SynchronousTestCase):
    """What runs is what ships."""

    def test_the_driver_is_the_production_one(self):
        """Every member is driven by a `RaftDriver`, which is made anew by each start."""
        cluster = SimCluster(SwarmOptions(seed=1), faults=())
        cluster.boot()
        node = cluster.nodes[1]
        first = node.driver
        self.assertIs(type(first), RaftDriver)
        node.crash(cluster.stream("test"))
        self.assertIsNone(node.driver)
        node.start()
        self.assertIs(type(node.driver), RaftDriver)
        self.assertIsNot(node.driver, first)

    def test_after_a_pause(self):
        """What came in during a pause is taken one by one, with a turn of the driver behind each."""
        cluster = SimCluster(SwarmOptions(seed=1), faults=())
        cluster.boot()
        cluster.clock.advance(2.0)
        leader, turns, answers = cluster.leader(), [], []
        leader.pause(0.01)
        for _ in range(3):
            leader.tail(lambda answer: answers.append(answer))
        ready = leader.raft.ready

        def counted():
            turns.append(cluster.clock.seconds())
            return ready()

        leader.raft.ready = counted
        cluster.clock.advance(0.0101)
        self.assertGreaterEqual(len({when for when in turns if when >= leader.paused_until}), 3)
        cluster.clock.advance(1.0)
        self.assertEqual(len(answers), 3)
