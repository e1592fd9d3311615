"""Reads people ask for, of real nodes: limits, backwards, by key and header, and without a majority."""

import time

from loghouse.client import Tls, connect_blocking
from loghouse.errors import DeadlineError
from tests.cluster.test_named_logs import CommandsCase
from tests.processes import long

COUNT = 3000
HOT = b"sensor-7"


class RangeTests(CommandsCase):
    """Three nodes, a log that two of them hold, and clients of one node each."""

    def direct(self, node, **options):
        """A client that asks this node alone."""
        certificates = self.cluster.certificates
        tls = Tls(
            ca=certificates.path("ca"),
            certificate=certificates.path("root"),
            key=certificates.key_path("root"),
        )
        client = connect_blocking(str(node.address), tls=tls, is_direct=True, **options)
        self.addCleanup(client.close)
        return client

    def fill(self, log):
        with log.producer(batch_bytes=4096) as producer:
            for number in range(COUNT):
                key = HOT if number % 100 == 7 else b"other" if number % 3 else None
                headers = {"unit": b"mm"} if number % 500 == 7 else ()
                producer.append(b"%d" % number, key=key, headers=headers)

    def check(self, log):
        """The same is read as was written, each way."""
        hot = [number for number in range(COUNT) if number % 100 == 7]
        for options, expected in (
            ({"key": HOT}, hot),
            ({"key": HOT, "reverse": True, "limit": 3}, hot[:-4:-1]),
            ({"reverse": True}, [*range(COUNT)][::-1]),
            ({"until": 50, "reverse": True, "limit": 2}, [49, 48]),
            ({"limit": 5}, [*range(5)]),
            ({"key_prefix": b"sens", "headers": {"unit": b"mm"}}, [n for n in hot if n % 500 == 7]),
            ({"key": b"nowhere"}, []),
        ):
            self.assertEqual([int(record.value) for record in log.read(**options)], expected, options)
        self.assertEqual([record.offset for record in log.newest(2, key=HOT)], hot[-2:])
        self.assertEqual([one.key for one in log.read(6, limit=3)], [None, HOT, b"other"])

    @long
    def test_ranges(self):
        """Every node gives the same, also of a log of which it has no copy; one that is left, locally."""
        with self.client() as cluster:
            self.fill(cluster)
            cluster.create_log("orders", replicas=2)
            self.fill(cluster.log("orders"))
        self.cluster.wait_caught_up()
        for node in self.cluster.nodes:
            for transport in ("binary", "grpc"):
                client = self.direct(node, transport=transport, timeout_seconds=30.0)
                self.check(client)
                self.check(client.log("orders"))
        self.assertEqual(self.command("consume", "--record-key", HOT.decode(), "--last", "1"), "2907\n")
        self.assertEqual(
            self.command("consume", "--reverse", "--count", "2", "--log", "orders"), "2999\n2998\n"
        )
        self.lone_node()

    def lone_node(self):
        """Two of three nodes are gone: what the last one knows is read locally, and nothing is confirmed."""
        last = self.cluster.nodes[0]
        for node in self.cluster.others(last):
            node.kill()
        client = self.direct(last, timeout_seconds=3.0)
        begin = time.monotonic()
        hot = [record.offset for record in client.read(key=HOT, consistency="local")]
        newest = client.newest(2, consistency="local")
        bounds = client.bounds(consistency="local")
        page = client.read_page(reverse=True, limit=1, consistency="local")
        self.assertLess(time.monotonic() - begin, 3.0, "nobody was waited for")
        self.assertEqual((len(hot), [one.offset for one in newest]), (COUNT // 100, [COUNT - 2, COUNT - 1]))
        self.assertEqual((bounds, page.bounds, page.is_confirmed), ((0, COUNT), (0, COUNT), False))
        self.assertRaises(DeadlineError, client.newest, 2)
        self.assertRaises(DeadlineError, client.bounds)
