"""Wall clocks that step while the nodes run: nothing waits for them, and nothing acknowledged is lost."""

from itertools import product

import grpc

from loghouse.api.v1 import log_pb2
from loghouse.cli.certs import POLICY_TEXT
from loghouse.testing.process import NodeProcess, wait_until
from tests.cluster.case import CYCLES, OwnClusterCase
from tests.processes import long

HOUR = 3600
DAY = 24 * HOUR
# How far a clock steps, and whether it is the leader's alone or everybody's.
EVERY_STEP = tuple(product((-HOUR, HOUR, 20 * DAY), (True, False)))
STEPS = EVERY_STEP if CYCLES > 1 else ((-HOUR, True), (HOUR, False), (20 * DAY, True))
# Far more than anything takes; a timer that follows the clock takes an hour.
SECONDS_MAX = 40


class StepTests(OwnClusterCase):
    """Three nodes whose wall clocks step. All steps share one cluster: processes are slow to start."""

    def setUp(self):
        super().setUp()
        for node in self.cluster.nodes:
            node.add_hooks()

    def step(self, nodes, seconds):
        for node in nodes:
            node.step_clock(seconds)

    def wait_told(self, node: NodeProcess, text: str) -> None:
        wait_until(lambda: text in node.output(), f"{node.name} to say {text!r}", SECONDS_MAX)

    def fail_over(self):
        """Kill the leader: the others elect one and take appends; then it comes back."""
        cluster = self.cluster
        leader = cluster.wait_leader(seconds_max=SECONDS_MAX)
        leader.kill()
        rest = cluster.others(leader)
        cluster.wait_leader(rest, seconds_max=SECONDS_MAX)
        load = self.load(rest)
        load.wait_acknowledged(5)
        load.stop()
        leader.start()
        cluster.wait_leader(seconds_max=SECONDS_MAX)

    def append(self):
        load = self.load()
        load.wait_acknowledged(5)
        load.stop()
        self.assertEqual(load.unknown, [], "appends whose outcome nobody told")

    def assertPolicyIsRead(self, node: NodeProcess) -> None:
        """A changed policy counts within seconds."""
        path = self.cluster.certificates.folder / "policy.csv"
        path.write_text(POLICY_TEXT + "p, nobody, *, consume\n")
        with self.cluster.stub(node, "nobody") as stub:

            def may_consume() -> bool:
                try:
                    stub.Bounds(log_pb2.BoundsRequest(), timeout=5)
                except grpc.RpcError:
                    return False
                return True

            wait_until(may_consume, "the new policy to count", SECONDS_MAX)

    @long
    def test_steps(self):
        """An hour back, an hour ahead, 20 days ahead, on one node and on all: no election or append waits."""
        cluster = self.cluster
        cluster.start()
        cluster.wait_voters()
        for seconds, is_one in STEPS:
            leader = cluster.wait_leader(seconds_max=SECONDS_MAX)
            stepped = [leader] if is_one else cluster.nodes
            is_first = (seconds, is_one) == (-HOUR, True)
            self.append()
            self.step(stepped, seconds)
            self.append()
            if is_first:
                self.wait_told(leader, "the wall clock stepped back by 1:00:00")
                self.wait_told(leader, "timestamps in the log never decrease")
                self.assertPolicyIsRead(leader)
                self.assertEqual(leader.output().count("never decrease"), 1)
            self.fail_over()
            self.step(stepped, 0)
            self.append()
        self.judge()
