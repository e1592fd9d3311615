"""`kill -9` under load: what was acknowledged is there, once, the same on every node."""

from tests.cluster.case import CYCLES, ClusterCase
from tests.processes import long

BETWEEN = 40  # acknowledged appends between two faults


class KillTests(ClusterCase):
    """Nodes that die without a word."""

    def test_leader(self):
        """The leader is killed: the others go on, and it comes back as one of them."""
        load = self.load()
        for _ in range(CYCLES):
            load.wait_acknowledged(BETWEEN)
            leader = self.cluster.wait_leader()
            leader.kill()
            others = self.cluster.others(leader)
            self.assertNotEqual(self.cluster.wait_leader(others).name, leader.name)
            load.wait_acknowledged(BETWEEN, "appends without the old leader")
            leader.start()
        self.judge(load)

    def test_follower(self):
        """A follower is killed: nobody waits for it, and it catches up."""
        load = self.load()
        for _ in range(CYCLES):
            leader = self.cluster.wait_leader()
            follower = self.cluster.others(leader)[0]
            load.wait_acknowledged(BETWEEN)
            follower.kill()
            load.wait_acknowledged(BETWEEN, "appends without a follower")
            self.assertEqual(
                self.cluster.leader_seen_by(leader), leader.name, "a follower's death elects nobody"
            )
            follower.start()
        self.judge(load)

    @long
    def test_each_in_turn(self):
        """Every node is killed while the one before it may still be catching up."""
        load = self.load()
        for _ in range(CYCLES):
            for node in self.cluster.nodes:
                load.wait_acknowledged(BETWEEN)
                node.kill()
                node.start()
        self.judge(load)

    def test_all_at_once(self):
        """All are killed together, as by a power cut without its loss of unwritten pages, and come back."""
        for _ in range(CYCLES):
            load = self.load()
            load.wait_acknowledged(BETWEEN)
            for node in self.cluster.nodes:
                node.kill()
            for node in self.cluster.nodes:
                node.start(wait=False)
            self.cluster.wait_leader()
            load.wait_acknowledged(BETWEEN)
            load.stop()
        self.judge()
