"""The one port of a real twistd: both protocols on `listen`, the second door, an ordered stop."""

import importlib.util
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loghouse.api.v1 import log_pb2
from loghouse.protocol.batch import decode_batch
from loghouse.testing.process import wait_until
from tests.e2e.test_node_process import ProcessTestCase

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "raw_client.py"


def load_example():
    spec = importlib.util.spec_from_file_location("raw_client", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class OnePortTests(ProcessTestCase):
    """gRPC and the binary protocol against one real process."""

    def raw(self, node, subject="root"):
        paths = (
            self.certificates.path("ca"),
            self.certificates.path(subject),
            self.certificates.key_path(subject),
        )
        return load_example().connect(node.address, *map(str, paths))

    def test_both_protocols(self):
        """What goes in by one comes out by the other; a follower is told when the node stops."""
        node = self.make_node()
        node.start()
        stub = self.stub(node)
        self.assertEqual(self.produce(stub, b"over gRPC"), [0])
        client = self.raw(node)
        self.assertEqual(client.produce([b"over frames", b"and one more"]), 1)
        self.assertEqual(self.consume(stub, 2), b"and one more")
        found = [
            record.value
            for kind, _, _, _, _, payload in client.fetch(0)[0]
            if kind == 1
            for record in decode_batch(payload).records
        ]
        self.assertEqual(found[0], b"over gRPC")
        following = client.follow(3)
        other = self.raw(node)
        other.produce([b"followed"])
        other.sock.close()
        kinds = next(following)
        self.assertEqual(decode_batch(kinds[-1]).records[0].value, b"followed")
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(list, following)
            wait_until(lambda: not client.sock.pending(), "the follower waits")
            self.assertEqual(node.stop(), -signal.SIGTERM)
            self.assertIn("stopping", str(ended.exception(20)))
        self.assertIn("log closed", node.output())

    def test_servers_name_both_doors(self):
        """GetServers works through the splice."""
        node = self.make_node()
        node.start()
        servers = self.stub(node).GetServers(log_pb2.GetServersRequest(), timeout=20).servers
        self.assertEqual([server.rpc_addr for server in servers], [node.address])
        self.assertStopped(node)
