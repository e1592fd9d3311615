"""Real nodes whose disks lie, and the only one left of three."""

import os
import subprocess
import sys
from pathlib import Path

import grpc
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.limits import ENTRY_HEADER_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.entry import CODEC_MASK, DEFAULT_GROUP, EntryKind, decode_entries, decode_entry
from loghouse.storage.store import StoreHeader, newest_watermark
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.patience import patiently
from loghouse.testing.process import NodeProcess, wait_until
from tests.processes import SKIP, long

SETTINGS = "storage:\n  segment_size: 256KiB\n"
RECORD_SIZE = 20_000
RECORDS = 40  # a few segments
CALL_SECONDS = 20.0


class RepairTests(SynchronousTestCase):
    """A cluster whose disks give back other bytes than they were given."""

    skip = SKIP

    def setUp(self):
        self.cluster = ClusterProcess(Path(self.mktemp()).absolute(), settings=SETTINGS, is_forked=True)
        self.addCleanup(self.cluster.close)
        self.acknowledged: list[bytes] = []
        self.cluster.start()
        self.cluster.wait_voters()

    def produce(self, count: int) -> None:
        """Append records through the leader and remember what was acknowledged."""
        with self.cluster.stub(self.cluster.wait_leader()) as stub:
            for _ in range(count):
                value = b"%06d " % len(self.acknowledged) * (RECORD_SIZE // 7)
                batch = encode_batch([log_pb2.Record(value=value)])
                request = log_pb2.ProduceBatchRequest(batch=batch, record_count=1)
                reply = patiently(lambda request=request: stub.ProduceBatch(request, timeout=CALL_SECONDS))
                self.assertEqual(reply.base_offset, len(self.acknowledged))
                self.acknowledged.append(value)

    def flip(self, node: NodeProcess, number: int) -> int:
        """Flip a byte of a durable record in a node's store (-1: the active one); return its offset."""
        folder = node.data_dir / "logs" / str(DEFAULT_GROUP)
        store = sorted(folder.glob("[0-9]*.store"))[number]
        content = bytearray(store.read_bytes())
        seed = StoreHeader.decode(content[:STORE_HEADER_SIZE]).seed
        durable = newest_watermark(bytes(content[:STORE_HEADER_SIZE]), seed).position
        position = STORE_HEADER_SIZE
        while (entry := decode_entry(seed, content, position)).kind != EntryKind.RECORDS:
            position += entry.size
        self.assertLess(position, durable)
        content[position + ENTRY_HEADER_SIZE + 100] ^= 0x10
        store.write_bytes(content)
        return entry.base_offset

    def read(self, node: NodeProcess, offset: int) -> None:
        """Read one entry from a node; what it serves must be what was acknowledged."""
        with self.cluster.stub(node) as stub:
            reply = stub.Fetch(log_pb2.FetchRequest(offset=offset, size_max=1), timeout=CALL_SECONDS)
            seed = StoreHeader.decode(self.a_store(node).read_bytes()[:STORE_HEADER_SIZE]).seed
        for entry in decode_entries(seed, reply.frames):
            batch = decode_batch(entry.payload, entry.attributes & CODEC_MASK)
            values = [record.value for record in batch.records]
            self.assertEqual(values, self.acknowledged[entry.base_offset : entry.next_offset])

    def a_store(self, node: NodeProcess) -> Path:
        return min((node.data_dir / "logs" / str(DEFAULT_GROUP)).glob("[0-9]*.store"))

    def wait_repaired(self, node: NodeProcess) -> None:
        self.cluster.wait_leader()
        self.cluster.wait_caught_up()
        damage = node.data_dir / "logs" / str(DEFAULT_GROUP) / "damage"
        wait_until(lambda: not damage.exists(), f"{node.name} to be repaired")
        wait_until(lambda: "the damaged log is repaired" in node.output(), f"{node.name} to say so")

    def judge(self) -> None:
        """Every node serves exactly what was acknowledged, and has the same frames on its disk."""
        self.assertEqual(self.cluster.wait_caught_up(), len(self.acknowledged))
        for node in self.cluster.nodes:
            self.assertEqual(self.cluster.values(node) == self.acknowledged, True, node.name)
        self.assertEqual(self.cluster.frame_problems(), [])

    def damage_active(self, node: NodeProcess) -> None:
        """The active segment is checked at the start: the node starts, and is repaired."""
        self.produce(1)
        self.cluster.wait_caught_up()  # so that there is a record in every active segment
        node.kill()
        self.produce(3)
        self.flip(node, -1)
        node.start(wait=False)
        self.wait_repaired(node)
        node.output_path.unlink()
        self.judge()

    def damage_sealed(self, node: NodeProcess) -> None:
        """A sealed segment is checked when it is read: the entry is got back, and the node goes on."""
        node.kill()
        offset = self.flip(node, 1)
        node.start(wait=False)
        self.cluster.wait_leader()
        self.cluster.wait_caught_up()
        patiently(lambda: self.read(node, 0), is_repeatable=True)
        with self.assertRaises(grpc.RpcError) as refused:
            self.read(node, offset)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertIn("being repaired", refused.exception.details())
        wait_until(lambda: "repaired at byte" in node.output(), f"{node.name} to mend its segment")
        wait_until(lambda: "every entry is good" in node.output(), f"{node.name} to read its segment again")
        self.assertTrue(node.is_running)
        patiently(lambda: self.read(node, offset), is_repeatable=True)
        self.produce(3)
        self.judge()
        node.kill()
        node.output_path.unlink()
        node.start(wait=False)
        self.cluster.wait_leader()
        self.judge()
        self.assertNotIn("damaged", node.output())

    @long
    def test_new_cluster(self):
        """The last node left goes on as a new cluster with all records; an old one is no part of it."""
        self.produce(RECORDS)
        self.cluster.wait_caught_up()
        survivor, old, _lost = self.cluster.nodes
        for node in self.cluster.nodes:
            node.kill()
        command = ["recover", str(survivor.data_dir), "--new-cluster", "--accept-data-loss"]
        words = [sys.executable, "-m", "loghouse.cli.main", *command]
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, **path})
        self.assertIn(f"the next record gets offset {RECORDS}", done.stdout)
        survivor.start()
        self.assertEqual(self.cluster.wait_leader([survivor]), survivor)
        self.produce(2)
        old.start(wait=False)
        wait_until(lambda: "cluster has uuid" in old.output() + survivor.output(), "the old node's refusal")
        self.assertEqual(self.cluster.roles_seen_by(survivor), {survivor.name: "voter"})
        self.assertEqual(self.cluster.leader_seen_by(old), "")
        old.kill()
        self.cluster.wipe(old)
        old.start(wait=False)
        self.cluster.wait_leader([survivor, old])
        self.cluster.wait_caught_up([survivor, old])
        self.assertEqual(self.cluster.values(old) == self.acknowledged, True)
        self.assertEqual(self.cluster.frame_problems([survivor, old]), [])

    @long
    def test_flipped_bytes(self):
        """In the active and in a sealed segment, of a follower and of a former leader: all is repaired."""
        self.produce(RECORDS)
        leader = self.cluster.wait_leader()
        follower = self.cluster.others(leader)[0]
        for node in (follower, leader):
            self.damage_active(node)
            self.damage_sealed(node)
