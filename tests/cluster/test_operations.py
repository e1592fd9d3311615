"""What operators do to a cluster under load: restarts, more nodes, fewer nodes, emptied disks."""

from pathlib import Path

import grpc

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.patience import patiently
from loghouse.testing.process import Certificates, NodeProcess, wait_until
from tests.cluster.case import CYCLES, ClusterCase, OwnClusterCase
from tests.processes import long

BETWEEN = 40  # acknowledged appends between two faults


class RestartTests(ClusterCase):
    """Nodes that stop and start in order."""

    @long
    def test_rolling_restart(self):
        """Each node in turn is stopped and started: no append of a client that tries again fails."""
        load = self.load()
        for _ in range(CYCLES):
            for node in self.cluster.nodes:
                load.wait_acknowledged(BETWEEN)
                self.assertStopsInOrder(node)
                node.start()
                self.cluster.wait_leader()
        load.wait_acknowledged(BETWEEN)
        load.stop()
        self.assertEqual(load.unknown, [], "appends whose outcome nobody told")
        self.judge()


class RejoinTests(ClusterCase):
    """Nodes that lost their disk, or their seeds."""

    @long
    def test_wiped_node(self):
        """A node whose disk was emptied joins again and gets everything; the bootstrap node, too."""
        first, second, _ = self.cluster.nodes
        load = self.load()
        for node in (second, first):
            load.wait_acknowledged(BETWEEN)
            node.kill()
            self.cluster.wipe(node)
            node.start()
            self.cluster.wait_voters()
            roles = {other.name: "voter" for other in self.cluster.nodes}
            self.cluster.wait_roles(roles, seen_by=node)
        self.judge(load)

    def test_restart_without_seeds(self):
        """Started again with nothing in `join`, the nodes find each other by what they remember."""
        for node in self.cluster.nodes:
            node.stop()
            self.cluster.write_config(node, has_seeds=False)
            self.addCleanup(self.cluster.write_config, node)
        for node in self.cluster.nodes:
            node.start(wait=False)
        self.cluster.wait_leader()
        load = self.load()
        load.wait_acknowledged(BETWEEN)
        self.judge(load)


class StrangerTests(ClusterCase):
    """Nodes that do not belong here."""

    def test_two_clusters_do_not_merge(self):
        """A node of another cluster of the same name and CA is turned away, and says so; both go on."""
        folder = Path(self.mktemp()).absolute()
        certificates = self.cluster.certificates
        other = ClusterProcess(folder, node_count=1, certificates=certificates, is_forked=True)
        self.addCleanup(other.close)
        (stranger,) = other.nodes
        other.start()
        uuid = self.uuid_of(other)
        stranger.stop()
        stranger.write_config(join=[self.cluster.advertised(node) for node in self.cluster.nodes])
        stranger.start(wait=False)
        wait_until(
            lambda: "cluster" in stranger.output().rpartition("log closed")[2], "the stranger to be refused"
        )
        load = self.load()
        load.wait_acknowledged(BETWEEN)
        load.stop()
        self.assertEqual(self.uuid_of(other), uuid, "it still is of its own cluster")
        self.assertNotEqual(self.uuid_of(self.cluster), uuid)
        self.assertNoNewcomer()
        self.judge()

    def uuid_of(self, cluster: ClusterProcess) -> bytes:
        cluster.nodes[0].wait_serving()
        with cluster.stub(cluster.nodes[0]) as stub:
            request = log_pb2.GetServersRequest()
            return patiently(lambda: stub.GetServers(request, timeout=20), is_repeatable=True).cluster_uuid

    def test_foreign_certificate(self):
        """A node with a certificate of another CA is nobody here: it never becomes a member."""
        folder = Path(self.mktemp()).absolute()
        node = NodeProcess(folder / "node", Certificates(folder / "certs"), name="node-4", is_forked=True)
        self.addCleanup(node.close)
        node.write_config(join=[self.cluster.advertised(node) for node in self.cluster.nodes])
        node.start(wait=False)
        wait_until(lambda: "looking for" in node.output(), "the node to look for the cluster")
        load = self.load()
        load.wait_acknowledged(BETWEEN)
        load.stop()
        self.assertNoNewcomer()
        self.judge()

    def assertNoNewcomer(self) -> None:
        names = set(self.cluster.roles_seen_by(self.cluster.nodes[0]))
        self.assertEqual(names, {node.name for node in self.cluster.nodes})


class MembershipTests(OwnClusterCase):
    """A cluster that grows and shrinks."""

    @long
    def test_join_and_leave(self):
        """Under load two nodes join and become voters, and one of the first three leaves."""
        self.cluster.start()
        self.cluster.wait_voters()
        load = self.load()
        for _ in range(2):
            load.wait_acknowledged(BETWEEN)
            self.cluster.add().start()
        self.cluster.wait_voters()
        load.wait_acknowledged(BETWEEN)
        leaver = self.cluster.nodes[2]
        with leaver.channel() as channel:
            stub = log_pb2_grpc.ClusterStub(channel)
            patiently(lambda: stub.Leave(log_pb2.LeaveRequest(), timeout=30))
        rest = self.cluster.others(leaver)
        self.cluster.wait_leader(rest)
        wait_until(lambda: leaver.name not in self.cluster.roles_seen_by(rest[0]), "the leaver to be gone")
        load.stop()
        leaver.close()
        self.cluster.nodes.remove(leaver)
        self.judge()


class TwinTests(OwnClusterCase):
    """A second process with a member's certificate, and a disk and a port of its own."""

    @long
    def test_twin(self):
        """It is shown beside the member, which keeps its address and its vote; a removal does not hit it."""
        cluster = self.cluster
        cluster.start()
        cluster.wait_voters()
        cluster.wait_leader()
        member = next(node for node in cluster.nodes if cluster.leader_seen_by(node) != node.name)
        twin = cluster.add_twin(member)
        twin.start(wait=False)
        asked = next(node for node in cluster.nodes if node is not member)

        def shown() -> list[tuple[int, str]]:
            with asked.channel("root") as channel:
                stub = log_pb2_grpc.ClusterStub(channel)
                request = log_pb2.StatusRequest()
                members = patiently(lambda: stub.Status(request, timeout=5), is_repeatable=True).members
            return sorted((m.id, m.address) for m in members if m.name == member.name)

        wait_until(lambda: len(shown()) == 2, "the twin is seen")
        (twin_id, twin_address), (member_id, member_address) = shown()
        self.assertEqual((twin_id, twin_address), (0, str(twin.address)))
        self.assertGreater(member_id, 0)
        self.assertEqual(member_address, str(member.address))
        self.assertEqual(cluster.roles_seen_by(asked)[member.name], "voter")
        with asked.channel("root") as channel, self.assertRaises(grpc.RpcError) as caught:
            stub, request = log_pb2_grpc.ClusterStub(channel), log_pb2.RemoveRequest(name=member.name)
            patiently(lambda: stub.Remove(request, timeout=5), is_repeatable=True)
        self.assertIn("two machines call themselves", caught.exception.details())
        self.assertEqual(cluster.roles_seen_by(asked)[member.name], "voter")
        # The twin does not take the place of a member that it was seen beside.
        for node in cluster.others(member):
            wait_until(lambda node=node: "a second machine calls itself" in node.output(), "it is known")
        member.stop()
        member.start()
        cluster.wait_roles({node.name: "voter" for node in cluster.nodes}, seen_by=member)
        self.assertEqual(shown()[1:], [(member_id, str(member.address))])
        twin.kill()
