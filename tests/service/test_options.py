"""What a node.yaml's settings become: the options of the node, of its cluster and of its servers."""

import time
from dataclasses import replace
from unittest import mock

from loghouse.config.settings import load
from loghouse.gossip import config as swim_config
from loghouse.limits import KIB, MIB
from loghouse.metrics import Metrics
from loghouse.net.one_port import replicas_allowed
from loghouse.node.options import NodeOptions
from loghouse.protocol.configuration import Retention
from loghouse.raft import config as raft_config
from loghouse.service import node_service
from loghouse.service.node_service import NodeService
from tests.service.case import ServiceCase

SETTINGS = (
    "advertise: n1.example:8400",
    "grpc_listen: 127.0.0.1:8402",
    "bootstrap: true",
    "storage: {segment_size: 1MiB, reserve_size: 2MiB, scrub_rate: 3MiB, cold_read_rate: 7MiB}",
    "retention: {bytes: 5MiB, age: 60s}",
    "limits: {record_bytes_max: 64KiB, proposals_bytes_max: 9MiB}",
    "shutdown: {drain_seconds: 4s}",
)


class OptionsTests(ServiceCase):
    """Every setting arrives where it counts."""

    def config(self, *lines):
        """Return the settings of a node.yaml with these lines."""
        self.write_tls_files()
        self.make(*lines, security="tls: {ca: ca.pem, certificate: n1.pem, key: n1.key}")
        return load(self.folder / "node.yaml")

    def test_node(self):
        """The node has its name, its disk, its bounds and its patience from the settings."""
        metrics = Metrics()
        config = self.config(*SETTINGS)
        expected = NodeOptions(
            name="n1",
            cluster_name="c1",
            data_dir=str(self.data),
            address="n1.example:8400",
            grpc_address=str(config.public_grpc_address),
            is_alone=True,
            segment_size=1 * MIB,
            reserve_size=2 * MIB,
            scrub_rate=3 * MIB,
            cold_read_rate=7 * MIB,
            replicas_max=replicas_allowed(2000),
            metrics=metrics,
            drain_seconds=4.0,
            raft=replace(raft_config.LAN, proposals_size_max=9 * MIB),
            retention=Retention(size_max=5 * MIB, age_max_seconds=60),
        )
        self.assertEqual(node_service._node_options(config, metrics, None), expected)
        self.assertTrue(expected.grpc_address)

    def test_alone(self):
        """Alone is who bootstraps and knows no address but its own."""
        for lines, is_alone in (
            (("bootstrap: true",), True),
            (("bootstrap: true", f"join: ['127.0.0.1:{self.port}']"), True),
            (("bootstrap: true", "join: ['127.0.0.1:1']"), False),
            (("bootstrap: false", "join: ['127.0.0.1:1']"), False),
        ):
            config = self.config(*lines)
            options = node_service._node_options(config, Metrics(), None)
            self.assertIs(options.is_alone, is_alone, lines)
            self.assertEqual(options.grpc_address, "")

    def test_cluster(self):
        """The others learn its addresses, and it those of `join`; the kind of network sets the patience."""
        metrics = Metrics()
        for network, swim, raft in (
            ("local", swim_config.LOCAL, raft_config.LAN),
            ("lan", swim_config.LAN, raft_config.LAN),
            ("wan", swim_config.WAN, raft_config.WAN),
        ):
            config = self.config(
                *SETTINGS, "join: ['127.0.0.1:1', '127.0.0.1:2']", f"timing: {{network: {network}}}"
            )
            options = node_service._cluster_options(config, metrics)
            self.assertEqual(options.address, "n1.example:8400")
            self.assertEqual(options.grpc_address, str(config.public_grpc_address))
            self.assertEqual(options.join, ("127.0.0.1:1", "127.0.0.1:2"))
            self.assertIs(options.bootstrap, True)
            self.assertEqual((options.swim, options.metrics), (swim, metrics))
            made = node_service._node_options(config, metrics, None)
            self.assertEqual(made.raft, replace(raft, proposals_size_max=9 * MIB))
        plain = node_service._cluster_options(self.config("bootstrap: false"), metrics)
        self.assertEqual((plain.bootstrap, plain.join, plain.grpc_address), (False, (), ""))

    def test_clocks(self):
        """Timestamps are the wall clock's, ages the monotonic clock's; every queue has its threads."""
        node = self.make().node
        self.assertIs(node._clocks.wall, time.time)
        self.assertIs(node._clocks.monotonic, time.monotonic)
        self.assertIs(node._clocks.scheduler, self.reactor)
        queue = node._make_queue("tried", 3)
        self.addCleanup(queue.stop)
        for _ in range(4):
            queue.submit(lambda: None, lambda outcome: None, None)
        self.assertEqual(sorted(thread.name for thread in queue._threads), ["tried-0", "tried-1", "tried-2"])

    def test_credentials(self):
        """With TLS every caller is looked at anew, and the files of the credentials are watched."""
        self.write_tls_files()
        (self.folder / "denied.txt").write_text("")
        tls = "tls: {ca: ca.pem, certificate: n1.pem, key: n1.key, denylist: denied.txt}"
        service = self.make(security=tls)
        with mock.patch.object(node_service, "GrpcServer") as grpc_server:
            authorizer, credentials = service._read_security()
            service._bind(authorizer, credentials)
        self.addCleanup(service._one_port.abort)
        fields = grpc_server.mock_calls[0].kwargs
        self.assertEqual((fields["credentials"], fields["check_caller"]), (credentials, credentials.check))
        policy, files = (watch._paths for watch in service._watches)
        self.assertEqual([path.name for path in policy], ["model.conf", "policy.csv"])
        self.assertEqual([path.name for path in files], ["n1.pem", "n1.key", "ca.pem", "denied.txt"])

    def test_servers(self):
        """Both servers know who calls, how large a record may be, and share what each caller may use."""
        metrics = Metrics()
        self.make("limits: {record_bytes_max: 64KiB}", "plaintext_subject: ann")
        service = NodeService(load(self.folder / "node.yaml"), self.reactor, metrics)
        with mock.patch.object(node_service, "GrpcServer") as grpc_server:
            authorizer, credentials = service._read_security()
            service._bind(authorizer, credentials)
        port = service._one_port
        self.addCleanup(port.abort)
        self.assertIsNone(credentials)
        [call] = grpc_server.mock_calls[:1]
        self.assertEqual(call.args, (service.node, authorizer))
        check_caller = call.kwargs.pop("check_caller")
        self.assertIsNone(check_caller("anybody"))
        self.assertEqual(
            call.kwargs,
            {
                "clock": time.time,
                "credentials": None,
                "anonymous": "ann",
                "record_size_max": 64 * KIB,
                "shares": port.shares,
                "callers": port.callers,
                "metrics": metrics,
                "tracer": None,
            },
        )
        self.assertIs(service.cluster.options.metrics, metrics)
        self.assertEqual(len(service._watches), 1)
        self.assertIs(service.node.options.metrics, metrics)
        self.assertIs(service.cluster.clock, self.reactor)
