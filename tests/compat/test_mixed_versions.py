"""Nodes of two versions in one cluster, as processes: the older one is taken from this repository's history.

Skipped where that history is not there (an sdist, a shallow clone).
"""

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.testing.cluster_process import ClusterProcess
from tests.processes import SKIP

ROOT = Path(__file__).resolve().parents[2]
# The last version whose nodes look at no group: its frames of forwarding and repair say group 0.
BEFORE_GROUPS = "aa24bd039abe"


def unpacked(commit: str, folder: Path) -> Path:
    """Return a folder with the package as it was at a commit.

    Raises:
        SkipTest: The commit is not here.
    """
    archive = ["git", "-C", str(ROOT), "archive", commit, "loghouse", "twisted"]
    try:
        done = subprocess.run(archive, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SkipTest(f"no history with {commit} here: {error}") from error
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


class MixedVersionsTests(SynchronousTestCase):
    """Two old nodes and a new one, and the way from one version to the other."""

    skip = SKIP

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="loghouse-mixed-")
        self.addCleanup(scratch.cleanup)
        folder = Path(scratch.name)
        self.old = unpacked(BEFORE_GROUPS, folder / "old")
        self.cluster = ClusterProcess(folder / "cluster")
        self.addCleanup(self.cluster.close)
        # Versions of before know no action `manage`: such a rule comes with the last node's upgrade.
        policy = folder / "cluster/certs/policy.csv"
        lines = policy.read_text().splitlines(keepends=True)
        policy.write_text("".join(line for line in lines if "manage" not in line))
        self.sent = []

    def transfer_to(self, node):
        """Let a node lead."""
        cluster = self.cluster
        leader = cluster.wait_leader()
        if leader is not node:
            with leader.channel() as channel:
                cluster_stub = log_pb2_grpc.ClusterStub(channel)
                cluster_stub.Transfer(log_pb2.TransferRequest(name=node.name), timeout=30)
        self.assertIs(cluster.wait_leader(), node)

    def append_through_each(self):
        """Append through every node; register a producer through every one, which the leader does, too."""
        for node in self.cluster.nodes:
            value = b"%d through %s" % (len(self.sent), node.name.encode())
            with self.cluster.stub(node) as stub:
                request = log_pb2.ProduceRequest(record=log_pb2.Record(value=value))
                self.assertEqual(stub.Produce(request, timeout=30).offset, len(self.sent))
                self.assertGreater(
                    stub.RegisterProducer(log_pb2.RegisterProducerRequest(), timeout=30).producer_id, 0
                )
            self.sent.append(value)

    def test_rolling(self):
        """Each version leads the other, forwards to it, and is replaced by it without a record lost."""
        cluster = self.cluster
        first, *rest = cluster.nodes
        for node in rest:
            node.python_path = (self.old,)
        cluster.start()
        cluster.wait_voters()
        for leader in (first, rest[0]):
            self.transfer_to(leader)
            self.append_through_each()
        for node in rest:  # the upgrade, one node after the other
            node.stop()
            node.python_path = ()
            node.start()
            cluster.wait_voters()
            self.append_through_each()
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertEqual(cluster.values(node), self.sent)
        for node in cluster.nodes:
            self.assertNotIn("Traceback", node.output())
