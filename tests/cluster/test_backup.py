"""A cluster of three that is backed up under load, lost with all its nodes, and restored."""

import json
import threading

from loghouse.api.v1 import log_pb2
from loghouse.api.v1.log_pb2 import Record
from loghouse.protocol.batch import encode_batch
from loghouse.testing.patience import patiently
from loghouse.testing.process import wait_until
from tests.cluster.test_named_logs import SECONDS_MAX, CommandsCase
from tests.processes import long


class BackupTests(CommandsCase):
    """Three nodes, and the commands as an operator runs them at night, and on the day after."""

    def produce(self, producer_id, sequence, value):
        """Append to orders as a producer; return the offset."""
        request = log_pb2.ProduceBatchRequest(
            log="orders",
            batch=encode_batch([Record(value=value, key=b"k", timestamp=7)]),
            record_count=1,
            producer_id=producer_id,
            producer_sequence=sequence,
        )
        with self.cluster.stub(self.cluster.nodes[0]) as stub:
            reply = patiently(lambda: stub.ProduceBatch(request, timeout=SECONDS_MAX), is_repeatable=True)
        return reply.base_offset

    def records(self):
        """All records of both logs."""
        client = self.client()
        return {name: list(client.log(name).read()) for name in ("default", "orders")}

    @long
    def test_all_nodes_lost(self):
        """Everything comes back: offsets, times, keys, producers, trims, settings, replicas."""
        backup = str(self.folder / "backup")
        self.command("log", "create", "orders", "--retention-age", "7d")
        lines = "".join(f"{number}\n" for number in range(300))
        self.command("produce", stdin=lines)
        self.command("produce", "--log", "orders", stdin=lines)
        self.command("cluster", "trim", "--offset", "50")
        with self.cluster.stub(self.cluster.nodes[0]) as stub:
            registering = log_pb2.RegisterProducerRequest(log="orders")
            producer_id = patiently(
                lambda: stub.RegisterProducer(registering, timeout=SECONDS_MAX), is_repeatable=True
            ).producer_id
        self.produce(producer_id, 0, b"zero")
        load = self.client().log("orders")
        is_over = threading.Event()

        def append():
            while not is_over.is_set():
                load.append(b"under load")

        thread = threading.Thread(target=append)
        thread.start()
        try:
            self.assertRegex(
                self.command("backup", "--all", backup), r"orders: \d+ new records, offsets 0 to"
            )
            self.assertRegex(
                self.command("backup", "--all", backup), r"default: 0 new records, offsets 50 to 299"
            )
        finally:
            is_over.set()
            thread.join()
        last = self.produce(producer_id, 1, b"one")
        self.command("backup", "--log", "orders", "--log", "default", backup)
        self.assertIn("orders: offsets 0 to", self.run_command("backup", "verify", backup))
        before = self.records()
        uuid = json.loads(self.command("servers", "--json"))["cluster_uuid"]

        for node in self.cluster.nodes:
            node.kill()
            self.cluster.wipe(node)
        first = self.cluster.nodes[0]
        self.assertIn(
            "of a new cluster", self.run_command("restore", backup, "--config", str(first.config_path))
        )
        self.assertIn(
            "is the data directory of node",
            self.run_command("restore", backup, "--config", str(first.config_path), code=1),
        )
        self.cluster.start()
        self.cluster.wait_voters()
        client = self.client()
        wait_until(
            lambda: len(client.describe_log("orders").replicas) == 3, "replicas", seconds_max=SECONDS_MAX
        )
        self.assertNotEqual(json.loads(self.command("servers", "--json"))["cluster_uuid"], uuid)
        self.assertEqual(self.records(), before)
        self.assertEqual(client.bounds().lowest, 50)
        self.assertIn("keeps 7d", self.command("log", "describe", "orders"))
        self.assertEqual(self.produce(producer_id, 1, b"one"), last)
        self.assertEqual(self.produce(producer_id, 2, b"two"), last + 1)

        def has_voters():
            status = client.log("orders").status()
            return sum(member.role == "voter" for member in status.members) == 3

        wait_until(has_voters, "three voters of orders", seconds_max=SECONDS_MAX)
        first.kill()
        self.assertEqual(client.log("orders").append(b"without the first"), last + 2)
        self.assertIn("this backup is of the cluster", self.command("backup", "--all", backup, code=1))
