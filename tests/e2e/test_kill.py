"""`kill -9` of a real node under load, again and again: what was acknowledged is there, once."""

import contextlib
import os
import random
import signal
import threading
from pathlib import Path

import grpc
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.entry import EntryKind, decode_entries, frame_seed
from loghouse.testing.process import Certificates, NodeProcess, wait_until
from tests.processes import SKIP

CYCLES = int(os.environ.get("LOGHOUSE_KILL_CYCLES", "4"))
# Small segments, so that kills meet rolls too.
SETTINGS = "storage:\n  segment_size: 256KiB\n"


class Load:
    """Producers that append unique values until the node goes, and remember what was acknowledged."""

    def __init__(self, node: NodeProcess, cycle: int) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.sent: set[bytes] = set()
        self.channel = node.channel()
        self.stub = log_pb2_grpc.LogStub(self.channel)
        works = [self.single, self.single, self.single, self.stream]
        self.threads = [
            threading.Thread(target=self.run, args=(work, f"{cycle}-{number}"), daemon=True)
            for number, work in enumerate(works)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, work, name: str) -> None:
        # The node gets killed: the outcome of what is under way then is unknown.
        with contextlib.suppress(grpc.RpcError):
            work(name)

    def single(self, name: str) -> None:
        number = 0
        while True:
            value = f"{name}-{number}".encode()
            self.sent.add(value)
            reply = self.stub.Produce(log_pb2.ProduceRequest(record=log_pb2.Record(value=value)), timeout=30)
            self.note(reply.offset, value)
            number += 1

    def stream(self, name: str) -> None:
        sent: list[list[bytes]] = []

        def requests():
            number = 0
            while True:
                values = [f"{name}-{number}-{place}".encode() * 20 for place in range(50)]
                self.sent.update(values)
                sent.append(values)
                batch = encode_batch(log_pb2.Record(value=value) for value in values)
                yield log_pb2.ProduceBatchRequest(batch=batch, record_count=len(values))
                number += 1

        for number, reply in enumerate(self.stub.ProduceBatchStream(requests())):
            for place, value in enumerate(sent[number]):
                self.note(reply.base_offset + place, value)

    def note(self, offset: int, value: bytes) -> None:
        assert offset not in self.acknowledged, f"offset {offset} was given out twice"
        self.acknowledged[offset] = value

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a producer did not notice that the node is gone"
        self.channel.close()


def read_all(node: NodeProcess) -> list[bytes]:
    """Every record of the log, in order; their offsets must be dense from 0."""
    with node.channel() as channel:
        stub = log_pb2_grpc.LogStub(channel)
        seed = frame_seed(stub.GetServers(log_pb2.GetServersRequest()).cluster_uuid, 1)
        end = stub.Bounds(log_pb2.BoundsRequest()).next
        values: list[bytes] = []
        while len(values) < end:
            reply = stub.Fetch(log_pb2.FetchRequest(offset=len(values)))
            for entry in decode_entries(seed, reply.frames):
                if entry.kind == EntryKind.RECORDS:
                    assert entry.base_offset == len(values), f"a hole before offset {entry.base_offset}"
                    values += [record.value for record in decode_batch(entry.payload).records]
        return values


class KillTests(SynchronousTestCase):
    """A node killed at any moment keeps its promises."""

    skip = SKIP

    def test_kill_under_load(self):
        """After each kill and restart no acknowledged record is missing or doubled; offsets are dense."""
        folder = Path(self.mktemp()).absolute()
        node = NodeProcess(folder / "node", Certificates(folder / "certs"), settings=SETTINGS)
        self.addCleanup(node.close)
        rng = random.Random(20261123)
        acknowledged: dict[int, bytes] = {}
        sent: set[bytes] = set()
        node.start()
        for cycle in range(CYCLES):
            load = Load(node, cycle)
            enough = rng.randrange(1, 2500)
            wait_until(lambda load=load, enough=enough: len(load.acknowledged) >= enough, f"{enough} answers")
            node.kill()
            load.join()
            for offset in load.acknowledged.keys() & acknowledged.keys():
                self.fail(f"cycle {cycle}: offset {offset} was given out before")
            acknowledged.update(load.acknowledged)
            sent |= load.sent
            node.start()
            values = read_all(node)
            lost = [
                offset for offset, value in acknowledged.items() if values[offset : offset + 1] != [value]
            ]
            self.assertEqual(lost, [], f"cycle {cycle}: acknowledged, but not there")
            self.assertEqual(len(values), len(set(values)), f"cycle {cycle}: a record is there twice")
            self.assertLessEqual(set(values), sent, f"cycle {cycle}: a record that nobody sent")
        self.assertEqual(node.stop(), -signal.SIGTERM)
