"""Logs by name, as clients use them: each with its own leader, servers and records."""

from contextlib import aclosing
from dataclasses import replace

from twisted.internet.defer import succeed

from loghouse.catalogue.records import LogSettings
from loghouse.client import connect_blocking
from loghouse.errors import (
    DeadlineError,
    NotSupportedError,
    PermissionDeniedError,
    UnavailableError,
    UnknownLogError,
)
from tests.cli.support import NodeCase
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.tasks import asynchronous, until


class NamedCase(FakeCase):
    """A cluster of four with the log `orders` on the last three, and a client."""

    async def opened(self, **options):
        cluster, client = await self.connected(count=4, **options)
        self.admin = cluster.nodes[0].log_administration
        self.make("n2", "n3", "n4")
        return cluster, client

    def make(self, *on):
        """Make the log `orders`; return its group."""
        settings = LogSettings(replicas=len(on))
        made = self.admin.create("orders", settings, on=on, by="root").result
        return made.group

    @property
    def held(self):
        """The log, of which `nodes` are the fake nodes as they serve it."""
        return self.admin.node.cluster.named[self.admin.describe("orders").result.group]

    def node(self, name):
        return next(node for node in self.held.nodes if node.name == name)


class UseTests(NamedCase):
    """What can be done with a log."""

    @asynchronous
    async def test_apart(self):
        """It has the methods of the client, and records of its own."""
        _, client = await self.opened()
        orders = client.log("orders")
        self.assertEqual(await orders.append(b"o"), 0)
        self.assertEqual(await orders.append_batch([b"p", b"q"]), range(1, 3))
        self.assertEqual(await client.append(b"d"), 0)
        async with orders.producer() as producer:
            delivery = await producer.append(b"r")
        self.assertEqual(await delivery, 3)
        self.assertEqual([record.value async for record in orders.read()], [b"o", b"p", b"q", b"r"])
        self.assertEqual([record.value async for record in client.read()], [b"d"])
        self.assertEqual((await orders.bounds(), await client.bounds()), ((0, 4), (0, 1)))
        self.assertEqual(await orders.find_offset(0), 0)
        self.assertEqual(await orders.trim(2), 1)
        self.assertEqual(self.held.state.producers[1].subject, "root")
        self.assertEqual((orders.log_name, client.log_name), ("orders", ""))

    @asynchronous
    async def test_default(self):
        """The log of the client itself has a name, too."""
        _, client = await self.opened()
        await client.log("default").append(b"d")
        self.assertEqual([record.value async for record in client.log("").read()], [b"d"])

    @asynchronous
    async def test_a_client_of_it(self):
        """A client may be made for a log, and then asks about the cluster as any other one."""
        cluster, client = await self.opened(log="orders")
        self.assertEqual(await client.append(b"o"), 0)
        self.assertEqual(len((await client.servers()).servers), 4)
        self.assertEqual(await client.log("default").append(b"d"), 0)
        self.assertEqual([log.name for log in await client.logs()], ["default", "orders"])
        self.assertEqual((self.held.next_offset, cluster.next_offset), (1, 1))
        await client.status()
        await client.transfer("n3")
        orders = [order for node in self.held.nodes for order in node.orders]
        self.assertEqual(sorted(orders), [("status",), ("transfer", "n3")])

    @asynchronous
    async def test_unknown(self):
        """A log that is not there is told so, at its first use, by every call."""
        _, client = await self.opened()
        for name in ("nothing", "No Name", "x" * 300, "a\nb"):
            log = client.log(name)
            for work in (log.append(b"x"), log.bounds(), anext(log.read()), log.trim(0)):
                self.assertEqual((await self.raises(UnknownLogError, work)).name, name)
        async with client.log("nothing").producer() as producer:
            delivery = await producer.append(b"x")
            await self.raises(UnknownLogError, delivery)
        self.make_again = await client.create_log("nothing")
        self.assertEqual(await client.log("nothing").append(b"x"), 0)

    @asynchronous
    async def test_denied(self):
        """What the cluster refuses is raised at once."""
        _, client = await self.opened()
        for node in self.admin.node.cluster.nodes:
            node.log_administration.failure = PermissionDeniedError("root", "consume", "orders")
        await self.raises(PermissionDeniedError, client.log("orders").append(b"x"))

    @asynchronous
    async def test_stranger(self):
        """Who may do nothing is refused before the log's name is read; the client knows which one it was."""
        _, client = await self.opened()
        for refused, told in (("default", "orders"), ("audit", "audit")):
            for node in self.admin.node.cluster.nodes:
                node.log_administration.failure = PermissionDeniedError("eve", "consume", refused)
            with self.assertRaises(PermissionDeniedError) as caught:
                await client.log("orders").append(b"x")
            error = caught.exception
            self.assertEqual((error.subject, error.action, error.object), ("eve", "consume", told))

    @asynchronous
    async def test_nodes_of_before(self):
        """Nodes that know no other logs say so; appending to the default one goes on."""
        cluster, client = await self.opened()
        for node in cluster.nodes:
            node.log_administration.failure = NotSupportedError("this node is too old")
        await self.raises(NotSupportedError, client.log("orders").append(b"x"))
        self.assertEqual(await client.append(b"d"), 0)


class RecreatedTests(NamedCase):
    """A log that is deleted, and another one that gets its name."""

    async def recreated(self):
        """Return a client, the log that it used, and the one that has its name by now."""
        _, client = await self.opened()
        orders = client.log("orders")
        await orders.append(b"o")
        self.admin.delete("orders", by="root")
        return client, orders, self.make("n1", "n2", "n3")

    @asynchronous
    async def test_never_goes_on(self):
        """No call goes on with the other log; who asks for it anew gets it."""
        client, orders, group = await self.recreated()
        for work in (orders.append(b"x"), orders.bounds(), anext(orders.read()), orders.trim(1)):
            self.assertEqual((await self.raises(UnknownLogError, work)).name, "orders")
        async with orders.producer() as producer:
            delivery = await producer.append(b"x")
            await self.raises(UnknownLogError, delivery)
        self.assertEqual(self.held.next_offset, 0)
        self.assertEqual(await client.log("orders").append(b"n"), 0)
        self.assertEqual(self.admin.describe("orders").result.group, group)

    @asynchronous
    async def test_readers(self):
        """Who follows a log that is deleted is told so, though another one has its name."""
        _, client = await self.opened()
        orders = client.log("orders")
        await orders.append(b"o")
        async with aclosing(orders.read(follow=True)) as records:
            self.assertEqual((await anext(records)).value, b"o")
            await until(lambda: any(node.waiters for node in self.held.nodes))
            self.admin.delete("orders", by="root")
            self.make("n1", "n2", "n3")
            self.held.add_values(b"n", b"m")
            await self.raises(UnknownLogError, anext(records))

    @asynchronous
    async def test_producers(self):
        """A producer at work does not put into the other log what was meant for the first one."""
        _, client = await self.opened()
        orders = client.log("orders")
        producer = orders.producer()
        await (await producer.append(b"o"))
        self.admin.delete("orders", by="root")
        self.make("n1", "n2", "n3")
        await self.raises(UnknownLogError, await producer.append(b"x"))
        await producer.abort()
        self.assertEqual(self.held.next_offset, 0)


class RouteTests(NamedCase):
    """Which node gets what."""

    @asynchronous
    async def test_leader(self):
        """Appends go to the log's own leader, and to the next one once a node names it."""
        _, client = await self.opened()
        orders = client.log("orders")
        first = self.held.leader
        await orders.append(b"a")
        self.assertEqual(first.count("ProduceBatch"), 1)
        second = self.held.leader = self.node("n2" if first.name != "n2" else "n3")
        await orders.append(b"b")
        self.assertEqual((first.count("ProduceBatch"), second.count("ProduceBatch")), (2, 0))
        await until(lambda: orders.calls.balancer.leads(self.address_of(second.name)))
        await orders.append(b"c")
        self.assertEqual((first.count("ProduceBatch"), second.count("ProduceBatch")), (2, 1))
        await client.append(b"d")
        self.assertTrue(client.calls.balancer.leads(self.address_of("n1")))

    def address_of(self, name):
        return next(node.address for node in self.admin.node.cluster.nodes if node.name == name)

    @asynchronous
    async def test_readers(self):
        """Reads go to the nodes that hold the log, and not to its leader while there are others."""
        _, client = await self.opened()
        self.held.add_values(b"a")
        orders = client.log("orders")
        for _ in range(6):
            self.assertEqual([record.value async for record in orders.read()], [b"a"])
        asked = {node.name for node in self.held.nodes if node.fetches}
        self.assertEqual(asked, {"n2", "n3", "n4"} - {self.held.leader.name})

    @asynchronous
    async def test_a_node_that_is_behind(self):
        """A node that does not know the log yet is no reason to believe that there is none."""
        cluster, client = await self.opened()
        orders = client.log("orders")
        await orders.append(b"a")
        leader = next(node for node in cluster.nodes if node.name == self.held.leader.name)
        group = orders.calls.group
        missing = leader.logs.pop(group)
        self.assertEqual(await orders.append(b"b"), 1)
        self.assertEqual([record.value async for record in orders.read()], [b"a", b"b"])
        leader.logs[group] = missing

    @asynchronous
    async def test_who_does_not_know_it(self):
        """To find the log, one node after the other is asked, until one has it."""
        cluster, client = await self.opened()
        for node in cluster.nodes[:3]:
            node.log_administration.failure = UnknownLogError("orders")
        self.assertEqual(await client.log("orders").append(b"a"), 0)
        cluster.nodes[3].log_administration.failure = UnavailableError("the catalogue is not here yet")
        error = await self.raises(UnknownLogError, client.log("orders").append(b"a"))
        self.assertEqual(error.name, "orders")

    @asynchronous
    async def test_older_epochs(self):
        """What a node tells of an older place is not believed."""
        cluster, client = await self.opened()
        orders = client.log("orders")
        await orders.append(b"a")
        told = self.admin.describe("orders").result
        placed = self.admin.replace("orders", lost="n4", new="n1", by="root").result
        await orders.calls.refresh(5.0)
        names = {server.name for server in orders.calls.balancer.view.servers}
        self.assertEqual(names, {one.node for one in placed.replicas})
        for node in cluster.nodes[:3]:
            node.log_administration.describe = lambda name: succeed(told)
        await orders.calls.refresh(5.0)
        self.assertEqual({server.name for server in orders.calls.balancer.view.servers}, names)
        cluster.nodes[3].log_administration.describe = lambda name: succeed(replace(told, group=15))
        await self.raises(DeadlineError, orders.calls.refresh(0.5))  # nobody tells anything newer
        self.assertEqual(await orders.append(b"b"), 1)

    @asynchronous
    async def test_the_first_address_is_gone(self):
        """A log is found by the nodes that the client has heard of since."""
        cluster = await self.cluster(count=4)
        client = self.connect(cluster.nodes[0].address)
        await client.servers()
        self.admin = cluster.nodes[1].log_administration
        self.make("n2", "n3", "n4")
        await cluster.nodes[0].stop()
        self.assertEqual(await client.log("orders").append(b"a"), 0)

    @asynchronous
    async def test_connections(self):
        """All logs of a client share its connections; none is closed that another log uses."""
        _, client = await self.opened()
        logs = [client.log("orders") for _ in range(3)]
        for log in logs:
            await log.append(b"a")
        await client.append(b"d")
        await client.servers()
        self.assertEqual(await logs[0].append(b"b"), 3)
        self.assertLessEqual(len(client.calls.channels.addresses), 4)


class BlockingTests(NodeCase):
    """The same for threads."""

    def test_use(self):
        """A log of a blocking client has its methods, and keeps it open while it is used alone."""
        client = connect_blocking(self.node.address, tls=None)
        client.create_log("orders", replicas=1)
        orders = client.log("orders")
        self.addCleanup(client.close)
        self.assertEqual(orders.append(b"a"), 0)
        self.assertEqual(orders.append_batch([b"b", b"c"]), range(1, 3))
        with orders.producer() as producer:
            delivery = producer.append(b"d")
        self.assertEqual(delivery.offset(), 3)
        self.assertEqual([record.value for record in orders.read()], [b"a", b"b", b"c", b"d"])
        self.assertEqual((orders.bounds(), client.bounds()), ((0, 4), (0, 0)))
        self.assertEqual(orders.find_offset(0), 0)
        self.assertEqual(orders.trim(1), 0)
        client.delete_log("orders")
        self.assertRaises(UnknownLogError, orders.append, b"x")


UseGrpcTests = over_grpc(UseTests)
RecreatedGrpcTests = over_grpc(RecreatedTests)
RouteGrpcTests = over_grpc(RouteTests)
