"""What the scenarios on real clusters share.

Starting three processes takes seconds, so the scenarios of one run share a cluster as long as it is well;
the history of its clients is one, and is judged as a whole after every scenario. A scenario that needs a
cluster of its own makes one.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.load import Load, Recorder
from loghouse.testing.process import NodeProcess
from tests.processes import SKIP

# How often each scenario of faults goes round; `make kill-cluster CYCLES=30` for the long proof.
CYCLES = int(os.environ.get("LOGHOUSE_CLUSTER_CYCLES", "1"))
# Small segments, so that faults meet rolls, too.
SETTINGS = "storage:\n  segment_size: 256KiB\n"


class SharedCluster:
    """Three nodes behind proxies, and everything their clients ever did."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="loghouse-cluster-"))
        self.cluster = ClusterProcess(self.folder, settings=SETTINGS, is_proxied=True, is_forked=True)
        self.recorder = Recorder()
        self.is_well = False

    def start(self) -> None:
        self.cluster.start()
        self.cluster.wait_voters()
        self.is_well = True

    def close(self) -> None:
        self.cluster.close()
        shutil.rmtree(self.folder, ignore_errors=True)


_shared: list[SharedCluster] = []


def shared_cluster() -> SharedCluster:
    """The cluster of this run; a new one when a scenario left the last one unwell."""
    if _shared and not _shared[-1].is_well:
        _shared.pop().close()
    if not _shared:
        shared = SharedCluster()
        _shared.append(shared)
        atexit.register(shared.close)  # neither runner has a hook for the end of all tests
        shared.start()
    return _shared[-1]


class ClusterCase(SynchronousTestCase):
    """Scenarios on the shared cluster: `self.cluster`, all nodes up and well when a test begins."""

    skip = SKIP

    def setUp(self):
        self.shared = shared_cluster()
        self.cluster, self.recorder = self.shared.cluster, self.shared.recorder
        self.shared.is_well = False  # until the scenario was judged
        self.load_count = 0

    def load(self, nodes=None, **options) -> Load:
        """Clients of these nodes (all), stopped at the end of the test at the latest."""
        self.load_count += 1
        name = f"{self.id().rpartition('.')[2]}-{self.load_count}"
        load = Load(nodes or self.cluster.nodes, name=name, recorder=self.recorder, **options)
        self.addCleanup(load.stop)
        return load

    def judge(self, load: Load | None = None) -> None:
        """All nodes up and healed: they must agree to the byte, and with what every client ever saw.

        A load that still runs is stopped first.
        """
        if load is not None:
            load.stop()
        cluster = self.cluster
        cluster.wait_leader()
        end = cluster.wait_caught_up()
        values = [cluster.values(node) for node in cluster.nodes]
        for node, found in zip(cluster.nodes, values, strict=True):
            self.assertEqual(len(found), end, f"{node.name} has holes")
            self.assertEqual(found == values[0], True, f"{node.name} serves other records than node-1")
        self.assertEqual(self.recorder.problems(values[0]), [])
        self.assertEqual(cluster.frame_problems(), [])
        self.shared.is_well = True

    def assertStopsInOrder(self, node: NodeProcess) -> None:
        node.stop()
        self.assertIn("log closed", node.output())


class OwnClusterCase(ClusterCase):
    """Scenarios that change the cluster for good: each has one of its own, not started yet."""

    is_proxied = False
    node_count = 3

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.cluster = self.make_cluster(self.folder)
        self.recorder = Recorder()
        self.load_count = 0
        self.shared = self  # judged as the shared one is

    def make_cluster(self, folder: Path, **options) -> ClusterProcess:
        options = {
            "node_count": self.node_count,
            "settings": SETTINGS,
            "is_proxied": self.is_proxied,
            "is_forked": True,
            **options,
        }
        cluster = ClusterProcess(folder, **options)
        self.addCleanup(cluster.close)
        return cluster
