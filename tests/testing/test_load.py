"""The judge of real histories finds what is wrong, and only that; the frames of nodes are really compared."""

import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.load import Load, Recorder
from loghouse.testing.process import NodeProcess
from tests.processes import CHILDREN


class RecorderTests(SynchronousTestCase):
    """`Recorder.problems`, fault by fault."""

    def setUp(self):
        self.recorder = Recorder()

    def append(self, offset: int, *values: bytes):
        write = self.recorder.write(*values)
        self.recorder.acknowledge(write, offset)
        return write

    def assertProblem(self, expected: str, *values: bytes) -> None:
        problems = self.recorder.problems(values)
        self.assertTrue(any(expected in problem for problem in problems), problems)

    def test_good(self):
        """Acknowledged and unknown appends, a hit, a miss and a tail in their order: nothing is wrong."""
        self.recorder.tail(self.recorder.stamp(), 0)
        self.append(0, b"a")
        self.recorder.miss(self.recorder.stamp(), 1)
        self.recorder.write(b"unknown, but there")
        self.recorder.write(b"unknown, and not there")
        self.append(2, b"c", b"d")
        self.recorder.saw(self.recorder.stamp(), 3, b"d")
        self.recorder.tail(self.recorder.stamp(), 4)
        self.assertEqual(self.recorder.problems([b"a", b"unknown, but there", b"c", b"d"]), [])

    def test_lost(self):
        """An acknowledged record that is not there."""
        self.append(0, b"a")
        self.append(1, b"b")
        self.assertProblem("b'b' was acknowledged at offset 1, but is at None", b"a")

    def test_twice(self):
        """One value at two offsets."""
        self.append(0, b"a")
        self.assertProblem("b'a' is 2 times in the log", b"a", b"a")

    def test_moved(self):
        """A record at another offset than the acknowledged one."""
        self.append(0, b"a")
        self.recorder.write(b"b")
        self.assertProblem("b'a' was acknowledged at offset 0, but is at 1", b"b", b"a")

    def test_foreign(self):
        """A record that nobody wrote."""
        self.assertProblem("b'x' is in the log, but nobody wrote it", b"x")

    def test_refused_but_there(self):
        """A record whose every attempt was certainly not appended."""
        self.recorder.write(b"a").is_refused = True
        self.assertProblem("b'a' was refused, but is at offset 0", b"a")

    def test_torn_apart(self):
        """A batch with a stranger between its records."""
        self.append(0, b"a", b"b")
        self.recorder.write(b"x")
        self.assertProblem("are not together", b"a", b"x", b"b")

    def test_wrong_bytes(self):
        """A read that gave other bytes than the log holds."""
        self.append(0, b"a")
        self.recorder.saw(self.recorder.stamp(), 0, b"z")
        self.assertProblem("was read as b'z', but holds", b"a")

    def test_stale_answers(self):
        """A miss, or a tail, after the acknowledgement of what it denies."""
        self.append(0, b"a")
        self.recorder.miss(self.recorder.stamp(), 0)
        self.assertProblem("not linearizable", b"a")
        self.recorder.reads.clear()
        self.recorder.tail(self.recorder.stamp(), 0)
        self.assertProblem("not linearizable", b"a")


class RealNodeTests(SynchronousTestCase):
    """The load and the comparison of frames on one real node."""

    skip = CHILDREN

    def test_load_and_frames(self):
        """A killed node's history has no problems; a flipped byte or a missing entry in a copy is found."""
        cluster = ClusterProcess(Path(self.mktemp()).absolute(), node_count=1, is_forked=True)
        self.addCleanup(cluster.close)
        cluster.start()
        (node,) = cluster.nodes
        load = Load(cluster.nodes)
        self.addCleanup(load.stop)
        load.wait_acknowledged(50)
        node.kill()
        node.start()
        load.wait_acknowledged(50)
        load.stop()
        self.assertEqual(cluster.wait_caught_up(), len(cluster.values(node)))
        self.assertEqual(load.recorder.problems(cluster.values(node)), [])
        node.stop()

        copy = NodeProcess(cluster.folder / "copy", cluster.certificates, name="node-2")
        shutil.copytree(node.data_dir, copy.data_dir)
        self.assertEqual(cluster.frame_problems([node, copy]), [])
        frames = cluster.stored_frames(copy)
        (store,) = (copy.data_dir / "logs" / "1").glob("*.store")
        whole = store.read_bytes()
        last = whole.index(frames[max(frames)])
        store.write_bytes(whole[: last + 1] + bytes([whole[last + 1] ^ 1]) + whole[last + 2 :])
        (problem,) = cluster.frame_problems([node, copy])
        self.assertIn(f"node-2 1 to {max(frames) - 1}", problem)
