"""Links that hold bytes back and tell nobody, and a process that stands still."""

import grpc

from loghouse.api.v1 import log_pb2
from loghouse.client.failures import Effect, failure_of
from loghouse.errors import UnavailableError
from loghouse.testing.patience import patiently
from tests.cluster.case import CYCLES, ClusterCase

BETWEEN = 40  # acknowledged appends between two faults


class PartitionTests(ClusterCase):
    """One side goes on; the other neither lies nor acknowledges."""

    def produce(self, node, value: bytes, timeout: float):
        write = self.recorder.write(value)
        with self.cluster.stub(node) as stub:
            try:
                request = log_pb2.ProduceRequest(record=log_pb2.Record(value=value))
                offset = stub.Produce(request, timeout=timeout).offset
            except grpc.RpcError as error:
                return failure_of(error, node.name)
        self.recorder.acknowledge(write, offset)
        return offset

    def test_leader_in_a_black_hole(self):
        """Nothing passes to or from the leader, and no connection breaks: the others elect and go on."""
        for _ in range(CYCLES):
            leader = self.cluster.wait_leader()
            others = self.cluster.others(leader)
            load = self.load(others, attempt_seconds=1.0)
            load.wait_acknowledged(BETWEEN)
            self.cluster.cut_off(leader)
            self.cluster.wait_leader(others)
            load.wait_acknowledged(BETWEEN, "appends without the leader that is cut off")
            self.cluster.heal()
            self.judge(load)

    def test_leader_cannot_hear(self):
        """A leader that is heard but hears nobody gives up, so that the others can go on."""
        for _ in range(CYCLES):
            leader = self.cluster.wait_leader()
            others = self.cluster.others(leader)
            load = self.load(others, attempt_seconds=1.0)
            load.wait_acknowledged(BETWEEN)
            for other in others:
                self.cluster.link(other, leader).blackhole()
            self.cluster.wait_leader(others)
            load.wait_acknowledged(BETWEEN, "appends without the deaf leader")
            self.cluster.heal()
            self.judge(load)

    def test_follower_cannot_be_heard(self):
        """A follower that hears but is not heard does not disturb the leader."""
        leader = self.cluster.wait_leader()
        others = self.cluster.others(leader)
        mute = others[0]
        load = self.load([leader, others[1]])
        load.wait_acknowledged(BETWEEN)
        for other in self.cluster.others(mute):
            self.cluster.link(mute, other).blackhole()
        load.wait_acknowledged(4 * BETWEEN)
        self.assertEqual(self.cluster.wait_leader([leader, others[1]]).name, leader.name)
        self.cluster.heal()
        self.judge(load)

    def test_minority_refuses(self):
        """A follower cut off from the others takes no appends and no reads of the end, and says why."""
        leader = self.cluster.wait_leader()
        lonely = self.cluster.others(leader)[0]
        self.cluster.cut_off(lonely)
        self.cluster.wait_leaderless(lonely)
        refused = self.produce(lonely, b"refused by the minority", 20)
        self.assertIsInstance(refused.error, UnavailableError, refused)
        self.assertIn("leader", str(refused.error))
        self.assertIs(refused.effect, Effect.NOTHING)
        self.recorder.writes[-1].is_refused = True
        with self.cluster.stub(lonely) as stub:
            error = self.assertRaises(grpc.RpcError, stub.Bounds, log_pb2.BoundsRequest(), timeout=20)
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE, error)
        with self.cluster.stub(leader) as stub:
            value = b"taken by the majority"
            write = self.recorder.write(value)
            request = log_pb2.ProduceRequest(record=log_pb2.Record(value=value))
            self.recorder.acknowledge(write, patiently(lambda: stub.Produce(request, timeout=20)).offset)
        self.cluster.heal()
        self.judge()

    def test_leader_stands_still(self):
        """A leader stopped in its tracks wakes up deposed: it answers nothing stale, and nothing is split."""
        for _ in range(CYCLES):
            leader = self.cluster.wait_leader()
            others = self.cluster.others(leader)
            load = self.load(attempt_seconds=1.0)
            load.wait_acknowledged(BETWEEN)
            leader.pause()
            self.cluster.wait_leader(others)
            load.wait_acknowledged(BETWEEN, "appends while the old leader stands still")
            leader.resume()
            # Its readers ask it at once, before it can have heard of its successor.
            early = self.load([leader], producer_count=1, reader_count=3, attempt_seconds=5.0)
            load.wait_acknowledged(BETWEEN)
            early.stop()
            self.judge(load)

    def test_bad_line(self):
        """Slow lines, lines cut in the middle of frames and resets lose nothing and double nothing."""
        links = [
            self.cluster.link(one, two) for one in self.cluster.nodes for two in self.cluster.others(one)
        ]
        load = self.load()
        for link in links:
            link.delay(0.005, 0.005)
        load.wait_acknowledged(BETWEEN)
        for number, link in enumerate(links):
            link.cut(1 + 37 * number)
            load.wait_acknowledged(5)
            link.drop()
            link.throttle(1 << 20)
        load.wait_acknowledged(BETWEEN)
        self.cluster.heal()
        self.judge(load)
