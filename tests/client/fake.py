"""Clusters of fake nodes behind real servers, and clients of them."""

from twisted.trial.unittest import TestCase

from loghouse.client import AsyncClient
from tests.fakes.node import FakeCluster
from tests.fakes.served import ServedNode


class ServedCluster(FakeCluster):
    """Fake nodes on ports; `nodes[0]` leads at first."""

    async def start(self, count=3):
        for number in range(1, count + 1):
            await self.add(f"n{number}")
        self.leader = self.nodes[0]
        return self

    async def add(self, name):
        return await ServedNode(self, name).start()

    async def stop(self):
        for node in self.nodes:
            await node.stop()

    @property
    def target(self):
        return ",".join(node.address for node in self.nodes)


class FakeCase(TestCase):
    """Tests with fake clusters and clients, all closed at the end."""

    timeout = 120
    transport = "binary"

    def setUp(self):
        self.closers = []

    async def cluster(self, count=3, number=1):
        cluster = ServedCluster(bytes([number]) * 16)
        self.closers.append(cluster.stop)
        return await cluster.start(count)

    async def connected(self, count=3, **options):
        """Return a cluster, and a client of it."""
        cluster = await self.cluster(count)
        return cluster, self.connect(cluster.target, **options)

    def connect(self, target, **options):
        options.setdefault("timeout_seconds", 20.0)
        options.setdefault("transport", self.transport)
        client = AsyncClient(target, **options)
        self.closers.append(client.close)
        return client

    async def raises(self, kind, work):
        """Await what must fail; return its error."""
        try:
            result = await work
        except kind as error:
            return error
        raise self.failureException(f"gave {result!r} instead of {kind.__name__}")


def over_grpc(case):
    """Return the tests of a case once more, with clients that speak gRPC."""
    fields = {"transport": "grpc", "__module__": case.__module__, "__doc__": "The same by gRPC."}
    return type(case.__name__.replace("Tests", "GrpcTests"), (case,), fields)
