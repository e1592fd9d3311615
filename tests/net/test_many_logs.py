"""Many logs on one binary connection: how they are found, who may know of them, and that they stay apart."""

from loghouse import errors
from loghouse.catalogue.records import LogSettings
from loghouse.protocol.session import LeaderNamed
from tests.fakes.node import FakeNode
from tests.net.test_binary_session import SessionCase, batch, refused
from tests.net.wire import asynchronous, until


class LogsCase(SessionCase):
    """A port of the first of three nodes; `ann` may consume the logs of her team alone."""

    policy = (
        "p, root, *, produce\np, root, *, consume\np, root, *, manage\n"
        "p, ann, team-a-*, consume\np, admin, *, admin\n"
    )

    def setUp(self):
        super().setUp()
        for number in (2, 3):
            FakeNode(self.node.cluster, f"n{number}", address=f"127.0.0.1:840{number}")
        self.admin = self.node.log_administration

    def create(self, name, **fields):
        self.successResultOf(self.admin.create(name, LogSettings(**fields), on=(), by="root"))
        return self.node.log(name)


class DescriptionTests(LogsCase):
    """DescribeLog and DescribeLogs."""

    @asynchronous
    async def test_one(self):
        """A log is described by its name: group, epoch, leader, and the nodes that hold it."""
        log = self.create("orders", replicas=2)
        told = await self.connection.describe_log("orders")
        expected = self.successResultOf(self.admin.describe("orders"))
        self.assertEqual((told.name, told.group, told.epoch), ("orders", log.group, expected.epoch))
        self.assertEqual(told.leader, expected.leader)
        self.assertEqual({server.name for server in told.servers}, {one.node for one in expected.replicas})
        self.assertEqual([server.name for server in told.servers if server.is_leader], [told.leader])
        self.assertEqual((await self.connection.describe_log("")).group, 1)
        error = await refused(self, self.connection.describe_log("nothing"), errors.UnknownLogError)
        self.assertEqual(error.name, "nothing")

    @asynchronous
    async def test_pages(self):
        """The logs come by name, a page at a time; Describe goes on to tell of the default one alone."""
        for name in ("c", "a", "b"):
            self.create(name)
        first = await self.connection.describe_logs(count_max=3)
        self.assertEqual(([log.name for log in first.found], first.next), (["a", "b", "c"], "c"))
        second = await self.connection.describe_logs(after=first.next)
        self.assertEqual(([log.group for log in second.found], second.next), ([1], ""))
        self.assertEqual((await self.connection.describe()).logs, ((1, "default"),))

    @asynchronous
    async def test_what_is_seen(self):
        """A client learns of the logs that it has any rule for, an administrator of all."""
        self.create("team-a-x")
        self.create("orders")
        ann, admin = await self.connect("ann"), await self.connect("admin")
        self.assertEqual([log.name for log in (await ann.describe_logs()).found], ["team-a-x"])
        self.assertEqual(len((await admin.describe_logs()).found), 3)
        for name in ("orders", "nothing", "", "_catalog"):
            error = await refused(self, ann.describe_log(name), errors.PermissionDeniedError)
            self.assertEqual(error.object, name or "default")
        nobody = await self.connect("nobody")
        await refused(self, nobody.describe_logs(), errors.PermissionDeniedError)


class GroupTests(LogsCase):
    """Requests about logs by their groups."""

    @asynchronous
    async def test_apart(self):
        """Each log has records, offsets and producers of its own, and does not wait for another one."""
        group = self.create("orders").group
        held = self.node.logs[group]
        held.hold()
        waiting = self.connection.produce(batch(b"o"), record_count=1, group=group)
        self.assertEqual((await self.connection.produce(batch(b"d"), record_count=1)).base_offset, 0)
        await until(lambda: held.held_count)
        self.assertFalse(waiting.called)
        held.release()
        self.assertEqual((await waiting).base_offset, 0)
        for one, value in ((group, b"o"), (1, b"d")):
            fetched = await self.connection.fetch(0, group=one)
            entries = list(self.connection.entries(fetched.frames, group=one))
            self.assertEqual([bytes(entry.payload) for entry in entries], [batch(value)])
            self.assertEqual((await self.connection.bounds(group=one)).next_offset, 1)
        self.assertEqual(await self.connection.register_producer(group=group), 1)
        self.assertEqual(await self.connection.register_producer(), 1)
        self.assertEqual((await self.connection.find_offset(0, group=group)).offset, 0)

    @asynchronous
    async def test_deleted(self):
        """The group of a deleted log is no log's, whichever has its name by now."""
        group = self.create("orders").group
        await self.connection.produce(batch(b"o"), record_count=1, group=group)
        self.successResultOf(self.admin.delete("orders", by="root"))
        again = self.create("orders").group
        self.assertNotEqual(again, group)
        for asked in (
            self.connection.produce(batch(b"o"), record_count=1, group=group),
            self.connection.fetch(0, group=group),
            self.connection.bounds(group=group),
            self.connection.register_producer(group=group),
        ):
            error = await refused(self, asked, errors.UnknownLogError)
            self.assertEqual(error.name, f"group {group}")
        self.assertEqual((await self.connection.bounds(group=again)).next_offset, 0)
        await self.connection.produce(batch(b"o"), record_count=1, group=again)
        self.assertEqual(set(self.listener.links.binary.appends._coalescers), {again})

    @asynchronous
    async def test_groups_tell_no_names(self):
        """A log that a client may not know of is to it as one that is not there."""
        hidden, seen = self.create("orders").group, self.create("team-a-x").group
        ann = await self.connect("ann")
        self.assertEqual((await ann.bounds(group=seen)).next_offset, 0)
        for group in (hidden, 99):
            error = await refused(self, ann.bounds(group=group), errors.UnknownLogError)
            self.assertEqual(error.name, f"group {group}")
            await refused(self, ann.produce(batch(b"x"), record_count=1, group=group), errors.UnknownLogError)
        error = await refused(
            self, ann.produce(batch(b"x"), record_count=1, group=seen), errors.PermissionDeniedError
        )
        self.assertEqual(error.object, "team-a-x")
        await refused(self, ann.bounds(), errors.PermissionDeniedError)
        nobody = await self.connect("nobody")
        await refused(self, nobody.bounds(group=99), errors.PermissionDeniedError)

    @asynchronous
    async def test_hints(self):
        """The leader of each log is named with its group."""
        group = self.create("orders").group
        log = self.node.logs[group]
        log.cluster.leader = next(node for node in log.cluster.nodes if node.name == "n2")
        named, taken = [], self.connection._event_received
        self.connection._event_received = lambda event: (
            named.append((event.name, event.group)) if isinstance(event, LeaderNamed) else taken(event)
        )
        await self.connection.produce(batch(b"o"), record_count=1, group=group)
        await self.connection.produce(batch(b"d"), record_count=1)
        await until(lambda: named)
        self.assertEqual(named, [("n2", group)])
