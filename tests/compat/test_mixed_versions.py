"""Nodes of two versions in one cluster, as processes: the older one is taken from this repository's history.

Skipped where that history is not there (an sdist, a shallow clone).
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.protocol.entry import EntryKind
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.patience import patiently
from loghouse.testing.process import wait_until
from tests.processes import SKIP, long

SECONDS_MAX = 60
ROOT = Path(__file__).resolve().parents[2]
# The last version whose nodes look at no group: its frames of forwarding and repair say group 0, and it knows
# the kinds of entry 1 to 5.
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


class MixedCase(SynchronousTestCase):
    """A cluster of three, not started, whose nodes and clients may run the older version."""

    skip = SKIP

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="loghouse-mixed-")
        self.addCleanup(scratch.cleanup)
        self.folder = folder = Path(scratch.name)
        self.old = unpacked(BEFORE_GROUPS, folder / "old")
        self.cluster = ClusterProcess(folder / "cluster", is_forked=True)
        self.addCleanup(self.cluster.close)
        # Versions of before know no action `manage`: such a rule comes with the last node's upgrade.
        policy = folder / "cluster/certs/policy.csv"
        lines = policy.read_text().splitlines(keepends=True)
        policy.write_text("".join(line for line in lines if "manage" not in line))
        self.sent = []

    def append_through_each(self):
        """Append through every node; register a producer through every one, which the leader does, too."""
        for node in self.cluster.nodes:
            value = b"%d through %s" % (len(self.sent), node.name.encode())
            with self.cluster.stub(node) as stub:
                request = log_pb2.ProduceRequest(record=log_pb2.Record(value=value))
                offset = patiently(
                    lambda stub=stub, request=request: stub.Produce(request, timeout=30)
                ).offset
                self.assertEqual(offset, len(self.sent))
                registering = log_pb2.RegisterProducerRequest()
                registered = patiently(
                    lambda stub=stub, request=registering: stub.RegisterProducer(request, timeout=30),
                    is_repeatable=True,
                )
                self.assertGreater(registered.producer_id, 0)
            self.sent.append(value)

    def upgrade(self, node):
        """Let a node run the new version from now on."""
        node.stop()
        node.python_path = ()
        node.start()

    def command(self, *words, server=None, timeout="30s", version=None, code=0):
        """Run `loghouse WORDS` of the new version, or of one in a folder; return what it writes."""
        certificates = self.cluster.certificates
        target = [
            "--direct", "--server", (server or self.cluster.nodes[0]).address,
            "--ca", certificates.path("ca"),
            "--cert", certificates.path("root"),
            "--key", certificates.key_path("root"),
            "--timeout", timeout,
        ]  # fmt: skip
        path = os.pathsep.join([str(version or ROOT), *sys.path])
        run = subprocess.run(
            [sys.executable, "-m", "loghouse.cli.main", *words, *map(str, target)],
            capture_output=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            timeout=SECONDS_MAX,
        )
        self.assertEqual(run.returncode, code, run.stdout + run.stderr + self.cluster.outputs()[-3000:])
        return run.stdout + run.stderr

    def kinds(self, node):
        """The kinds of the entries on a node's disk."""
        return {frame[9] for frame in self.cluster.stored_frames(node).values()}

    def transfer_to(self, node):
        """Let a node lead."""
        cluster = self.cluster
        leader = cluster.wait_leader()
        if leader is not node:
            with leader.channel() as channel:
                cluster_stub = log_pb2_grpc.ClusterStub(channel)
                request = log_pb2.TransferRequest(name=node.name)
                patiently(lambda: cluster_stub.Transfer(request, timeout=30), is_repeatable=True)
        self.assertIs(cluster.wait_leader(), node)

    def refuse_downgrade(self, node, kind):
        """The older version refuses the directory as it is, says why, and changes nothing of it."""
        node.stop()
        node.python_path = (self.old,)
        before = {path: path.read_bytes() for path in (node.data_dir / "logs/1").glob("*.store")}
        node.start(wait=False)
        self.assertEqual(node.wait(), 1)
        self.assertIn(f"kind {kind}, attributes 0x0000 is not known; use a newer Loghouse", node.output())
        self.assertEqual({path: path.read_bytes() for path in before}, before)


class MixedVersionsTests(MixedCase):
    """Two old nodes and a new one, and the way from one version to the other."""

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
            self.upgrade(node)
            cluster.wait_voters()
            self.append_through_each()
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertEqual(cluster.values(node), self.sent)
        for node in cluster.nodes:
            self.assertNotIn("Traceback", node.output())


class CursorTests(MixedCase):
    """The first cursor: an entry of a kind that the older version does not know."""

    @long
    def test_waits_for_the_last_upgrade(self):
        """There is none while a node is too old, and the refusal names it; then there is, and no way back."""
        cluster = self.cluster
        old = cluster.nodes[2]
        old.python_path = (self.old,)
        cluster.start()
        cluster.wait_voters()
        self.append_through_each()
        self.transfer_to(old)
        refused = self.command("cursor", "set", "billing", "--position", "2", code=1)
        self.assertIn(f"{old.name} leads, and runs a version without cursors; upgrade it", refused)
        self.transfer_to(cluster.nodes[0])
        refused = self.command("cursor", "set", "billing", "--position", "2", code=1)
        self.assertIn(f"{old.name} runs a version without cursors; upgrade it, nothing was done", refused)
        self.append_through_each()
        for node in cluster.nodes:
            self.assertNotIn(EntryKind.CURSOR, self.kinds(node))
        old.stop()
        old.python_path = ()
        old.start()
        cluster.wait_voters()
        self.assertIn("stands at 2", self.command("cursor", "set", "billing", "--position", "2"))
        self.append_through_each()
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertIn(EntryKind.CURSOR, self.kinds(node))
            self.assertEqual(cluster.values(node), self.sent)
        self.refuse_downgrade(old, 7)


class BirthTests(MixedCase):
    """The first named log: an entry of a kind that the older version does not know."""

    @long
    def test_waits_for_the_last_upgrade(self):
        """Nothing is born while a node is too old, and the refusal names it; then it is, and no way back."""
        cluster = self.cluster
        old = cluster.nodes[2]
        old.python_path = (self.old,)
        cluster.start()
        cluster.wait_voters()
        self.append_through_each()
        refused = self.command("log", "create", "orders", code=1)
        self.assertIn(f"{old.name} runs a version without named logs; upgrade it, nothing was done", refused)
        refused = self.command("log", "create", "orders", server=old, code=1)
        self.assertIn(f"{old.address}: Method not found! (every node of the cluster has to be", refused)
        self.append_through_each()
        for node in cluster.nodes:
            self.assertNotIn(EntryKind.BIRTH, self.kinds(node))
            self.assertFalse((node.data_dir / "logs/2").exists())
        self.assertNotIn("orders", self.command("log", "list"))
        old.stop()
        refused = self.command("log", "create", "orders", timeout="3s", code=3)
        self.assertIn(f"{old.name} is not reached: it must be known first whether its version", refused)
        old.python_path = ()
        old.start()
        cluster.wait_voters()
        self.assertIn("log orders is there", self.command("log", "create", "orders"))
        self.append_through_each()
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertIn(EntryKind.BIRTH, self.kinds(node))
            self.assertEqual(cluster.values(node), self.sent)
        self.refuse_downgrade(old, 6)
        self.refuse_joining(old)

    def refuse_joining(self, node):
        """A node of the older version is not let into a cluster that has named logs."""
        cluster = self.cluster
        leader = cluster.wait_leader(cluster.others(node))
        cluster.wipe(node)
        node.start(wait=False)

        def is_seen():
            with leader.channel() as channel:
                stub = log_pb2_grpc.ClusterStub(channel)
                request = log_pb2.StatusRequest()
                members = patiently(lambda: stub.Status(request, timeout=30), is_repeatable=True).members
            return [member.id for member in members if member.name == node.name]

        wait_until(lambda: 0 in is_seen(), "the emptied node to be seen")
        self.append_through_some(cluster.others(node))
        self.assertIn(0, is_seen())

    def append_through_some(self, nodes):
        """The cluster goes on without the others."""
        for node in nodes:
            with self.cluster.stub(node) as stub:
                request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x"))
                patiently(lambda stub=stub, request=request: stub.Produce(request, timeout=30))


class OldClientTests(MixedCase):
    """Clients of the older version and a cluster with named logs."""

    @long
    def test_reads_across_the_birth(self):
        """They read `default` to its end over both protocols, and append to it: births are left out."""
        cluster = self.cluster
        cluster.start()
        cluster.wait_voters()
        self.append_through_each()
        self.command("log", "create", "orders")
        self.append_through_each()
        cluster.wait_caught_up()
        for node in cluster.nodes:
            self.assertIn(EntryKind.BIRTH, self.kinds(node))
        for transport in ("grpc", "binary"):
            value = f"of an old client by {transport}"
            self.command("produce", "--transport", transport, "--value", value, version=self.old)
            self.sent.append(value.encode())
            read = self.command("consume", "--transport", transport, version=self.old)
            self.assertEqual(read.encode().splitlines(), self.sent)
