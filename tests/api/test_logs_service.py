"""The calls of `log.v1.Logs`, and named logs in those of `Log` and `Cluster`, over real gRPC and TLS."""

import grpc
from twisted.internet.defer import Deferred

from loghouse import errors
from loghouse.api import logs_service
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.catalogue.records import LogSettings
from loghouse.limits import REPLICAS_PER_LOG_MAX
from tests.api.doors import DoorCase, batch, details_of, produce
from tests.fakes.logs import CREATED_AT
from tests.fakes.node import FakeNode
from tests.fakes.tasks import asynchronous, until

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
NOT_FOUND = grpc.StatusCode.NOT_FOUND


class LogsCase(DoorCase):
    """A door to the first of four nodes; `root` may do everything with logs, `ann` with those of her team."""

    policy = (
        "p, root, *, produce\np, root, *, consume\np, root, *, manage\n"
        "p, ann, team-a-*, manage\np, ann, team-a-*, consume\n"
        "p, bob, orders, consume\n"
        "p, admin, *, admin\n"
    )

    def setUp(self):
        super().setUp()
        for number in range(2, 5):
            FakeNode(self.node.cluster, f"n{number}", address=f"127.0.0.1:840{number}")
        self.admin = self.node.log_administration
        self.patch(logs_service, "WATCH_REST_SECONDS", 0)

    def logs(self, client="root"):
        return log_pb2_grpc.LogsStub(self.channel(client))

    async def create(self, *names, **fields):
        logs = self.logs()
        fields.setdefault("settings", log_pb2.LogSettings())
        return [(await logs.Create(log_pb2.CreateLogRequest(name=name, **fields))).log for name in names]


class ChangeTests(LogsCase):
    """What reaches the node, and what comes back."""

    @asynchronous
    async def test_create(self):
        """A log is made with all its settings, in the name of who asks, and described."""
        settings = log_pb2.LogSettings(
            replicas=2,
            retention_bytes=2**40,
            retention_seconds=60,
            record_bytes_max=1000,
            append_bytes_per_second_max=2000,
            tags=["a", "b"],
        )
        (made,) = await self.create("orders", settings=settings, on=["n4", "n2"])
        self.assertEqual(
            (made.name, made.group, made.settings, made.created_at), ("orders", 16, settings, CREATED_AT)
        )
        self.assertEqual({(one.node, one.is_alive) for one in made.replicas}, {("n4", True), ("n2", True)})
        self.assertEqual([one.node for one in made.replicas if one.is_leader], [made.leader])
        self.assertEqual({one.member for one in made.replicas}, {1, 2})
        expected = LogSettings(
            replicas=2,
            retention_bytes=2**40,
            retention_seconds=60,
            record_bytes_max=1000,
            append_bytes_per_second_max=2000,
            tags=("a", "b"),
        )
        self.assertEqual(self.admin.orders, [("create", "orders", expected, ("n4", "n2"), "root")])

    @asynchronous
    async def test_create_by_default(self):
        """Without settings it has three replicas; made again it is the same log."""
        first, again = await self.create("orders", "orders")
        self.assertEqual((first.settings, len(first.replicas)), (log_pb2.LogSettings(replicas=3), 3))
        self.assertEqual(again, first)
        request = log_pb2.CreateLogRequest(name="orders", settings=log_pb2.LogSettings(replicas=1))
        error = await self.refused(self.logs().Create(request), INVALID)
        self.assertEqual(details_of(error)[0].metadata["field"], "name")
        self.assertIn("exists, with other settings", error.details())

    @asynchronous
    async def test_what_nothing_can_be_made_of(self):
        """Names, settings and nodes that cannot be meant are refused before the node is asked."""
        logs, settings = self.logs(), log_pb2.LogSettings
        names = [f"n{number}" for number in range(REPLICAS_PER_LOG_MAX + 1)]
        for call, field in (
            (logs.Create(log_pb2.CreateLogRequest()), "name"),
            (logs.Create(log_pb2.CreateLogRequest(name="_catalog")), "name"),
            (logs.Create(log_pb2.CreateLogRequest(name="x" * 64)), "name"),
            (logs.Create(log_pb2.CreateLogRequest(name="x", settings=settings(replicas=6))), "settings"),
            (logs.Create(log_pb2.CreateLogRequest(name="x", settings=settings(tags=["\n"]))), "settings"),
            (logs.Create(log_pb2.CreateLogRequest(name="x", on=["N1"])), "on"),
            (logs.Create(log_pb2.CreateLogRequest(name="x", on=names)), "on"),
            (logs.Alter(log_pb2.AlterLogRequest(name="x")), "changes"),
            (logs.Delete(log_pb2.DeleteLogRequest(name="../x")), "name"),
            (logs.Replace(log_pb2.ReplaceReplicaRequest(name="x", new="n4")), "lost"),
            (logs.Replace(log_pb2.ReplaceReplicaRequest(name="x", lost="n4")), "new"),
        ):
            error = await self.refused(call, INVALID)
            self.assertEqual(details_of(error)[0].metadata["field"], field)
        self.assertEqual(self.admin.orders, [])

    @asynchronous
    async def test_alter(self):
        """What is given changes, to nothing, too; the rest stays."""
        await self.create(
            "orders", settings=log_pb2.LogSettings(retention_bytes=5, retention_seconds=6, tags=["a"])
        )
        changes = log_pb2.LogChanges(retention_bytes=0, record_bytes_max=7, tags=log_pb2.LogTags())
        altered = await self.logs().Alter(log_pb2.AlterLogRequest(name="orders", changes=changes))
        self.assertEqual(
            altered.log.settings, log_pb2.LogSettings(replicas=3, retention_seconds=6, record_bytes_max=7)
        )
        self.assertEqual(
            self.admin.orders[-1],
            ("alter", "orders", {"retention_bytes": 0, "record_bytes_max": 7, "tags": ()}, "root"),
        )
        request = log_pb2.AlterLogRequest(name="orders", changes=log_pb2.LogChanges(replicas=1))
        error = await self.refused(self.logs().Alter(request), INVALID)
        self.assertIn("that cannot change", error.details())

    @asynchronous
    async def test_delete(self):
        """A deleted log is gone; made again it is another one; the default one cannot be deleted."""
        (first,) = await self.create("orders")
        await self.logs().Delete(log_pb2.DeleteLogRequest(name="orders"))
        self.assertEqual(self.admin.orders[-1], ("delete", "orders", "root"))
        for call in (
            self.logs().Delete(log_pb2.DeleteLogRequest(name="orders")),
            self.logs().Describe(log_pb2.DescribeLogRequest(name="orders")),
            self.root.Produce(produce(log="orders")),
        ):
            error = await self.refused(call, NOT_FOUND)
            self.assertEqual(details_of(error)[0].metadata["log"], "orders")
        (second,) = await self.create("orders")
        self.assertGreater(second.group, first.group)
        await self.refused(self.logs().Delete(log_pb2.DeleteLogRequest(name="default")), INVALID)

    @asynchronous
    async def test_replace(self):
        """A replica moves to another node, under a new member id, which makes a new epoch."""
        (made,) = await self.create("orders", on=["n1", "n2", "n3"])
        request = log_pb2.ReplaceReplicaRequest(name="orders", lost="n2", new="n4")
        placed = (await self.logs().Replace(request)).log
        kept = {(one.node, one.member) for one in made.replicas if one.node != "n2"}
        self.assertEqual({(one.node, one.member) for one in placed.replicas} - kept, {("n4", 4)})
        self.assertGreater(placed.epoch, made.epoch)
        self.assertEqual(self.admin.orders[-1], ("replace", "orders", "n2", "n4", "root"))

    @asynchronous
    async def test_refusals_of_the_node(self):
        """The node's own refusals are told as everywhere."""
        for failure, code in (
            (errors.ResourceExhaustedError("logs", "too many"), grpc.StatusCode.RESOURCE_EXHAUSTED),
            (errors.NotSupportedError("n3 is too old"), grpc.StatusCode.UNIMPLEMENTED),
            (errors.UnavailableError("created, not led yet"), grpc.StatusCode.UNAVAILABLE),
            (errors.OutcomeUnknownError("n2 did not answer"), grpc.StatusCode.ABORTED),
        ):
            self.admin.failure = failure
            error = await self.refused(self.logs().Create(log_pb2.CreateLogRequest(name="orders")), code)
            self.assertEqual(error.details(), str(failure))


class PermissionTests(LogsCase):
    """Who may change which logs, and who learns of which."""

    @asynchronous
    async def test_management(self):
        """A rule for `manage` covers the logs whose names begin so, and no other ones."""
        ann, settings = self.logs("ann"), log_pb2.LogSettings()
        await ann.Create(log_pb2.CreateLogRequest(name="team-a-x", settings=settings))
        changes = log_pb2.LogChanges(retention_seconds=5)
        await ann.Alter(log_pb2.AlterLogRequest(name="team-a-x", changes=changes))
        await ann.Delete(log_pb2.DeleteLogRequest(name="team-a-x"))
        for name in ("team-b-x", "default", "team-a"):
            for call in (
                ann.Create(log_pb2.CreateLogRequest(name=name)),
                ann.Alter(log_pb2.AlterLogRequest(name=name, changes=changes)),
                ann.Delete(log_pb2.DeleteLogRequest(name=name)),
                ann.Replace(log_pb2.ReplaceReplicaRequest(name=name, lost="n1", new="n4")),
            ):
                error = await self.refused(call, DENIED)
                metadata = details_of(error)[0].metadata
                self.assertEqual((metadata["action"], metadata["object"]), ("manage", name))
        self.assertEqual(len(self.admin.orders), 3)

    @asynchronous
    async def test_administrators(self):
        """Who administers the cluster may manage every log; who may only read and write, none."""
        await self.logs("admin").Create(log_pb2.CreateLogRequest(name="orders"))
        error = await self.refused(self.logs("bob").Delete(log_pb2.DeleteLogRequest(name="orders")), DENIED)
        self.assertEqual(details_of(error)[0].metadata["action"], "manage")

    @asynchronous
    async def test_what_is_seen(self):
        """A list holds what the asker has any rule for; administrators see all."""
        await self.create("orders", "team-a-x", "team-b-x")
        for client, expected in (
            ("root", ["default", "orders", "team-a-x", "team-b-x"]),
            ("admin", ["default", "orders", "team-a-x", "team-b-x"]),
            ("ann", ["team-a-x"]),
            ("bob", ["orders"]),
        ):
            listed = await self.logs(client).List(log_pb2.ListLogsRequest())
            self.assertEqual([log.name for log in listed.logs], expected, client)
        for name in ("orders", "no-such-log", "", "default", "_catalog"):
            request = log_pb2.DescribeLogRequest(name=name)
            error = await self.refused(self.logs("ann").Describe(request), DENIED)
            self.assertEqual(details_of(error)[0].metadata["object"], name or "default")
            request = log_pb2.GetServersRequest(log=name or "default")
            await self.refused(self.stub("ann").GetServers(request), DENIED)
        request = log_pb2.DescribeLogRequest(name="x" * 64)
        await self.refused(self.logs("ann").Describe(request), INVALID)
        described = await self.logs("bob").Describe(log_pb2.DescribeLogRequest(name="orders"))
        self.assertEqual(described.log.name, "orders")

    @asynchronous
    async def test_rules_for_one_log(self):
        """Whoever has rules for one log alone reads it, and no other one."""
        await self.create("orders")
        bob = self.stub("bob")
        self.assertEqual((await bob.Bounds(log_pb2.BoundsRequest(log="orders"))).next, 0)
        await self.refused(bob.Bounds(log_pb2.BoundsRequest()), DENIED)
        await self.refused(bob.Produce(produce(log="orders")), DENIED)


class LookTests(LogsCase):
    """Lists, descriptions, and the changes of both."""

    @asynchronous
    async def test_pages(self):
        """A list comes in pages, by name, and says where the next one begins."""
        await self.create("c", "a", "b")
        found, after = [], ""
        for _ in range(2):
            page = await self.logs().List(log_pb2.ListLogsRequest(after=after, count_max=2))
            found.append([log.name for log in page.logs])
            after = page.next
        self.assertEqual((found, after), ([["a", "b"], ["c", "default"]], ""))

    @asynchronous
    async def test_describe(self):
        """A log is described, the default one without its name."""
        (made,) = await self.create("orders")
        for name, expected in (("orders", made.group), ("", 1), ("default", 1)):
            described = await self.logs().Describe(log_pb2.DescribeLogRequest(name=name))
            self.assertEqual(described.log.group, expected)

    @asynchronous
    async def test_watch(self):
        """A watcher is told of all logs, then of each change, also of a log made again."""
        (first,) = await self.create("orders")
        watching = self.logs("bob").Watch(log_pb2.WatchLogsRequest())
        told = await watching.read()
        self.assertEqual([log.name for log in told.logs], ["orders"])
        offset = told.offset
        self.assertEqual(offset, self.node.cluster.catalogue.folded.next_offset - 1)
        await self.create("other")  # which bob does not see
        await self.logs().Delete(log_pb2.DeleteLogRequest(name="orders"))
        told = await watching.read()
        self.assertEqual(list(told.deleted), [log_pb2.DeletedLog(name="orders", group=first.group)])
        self.assertGreater(told.offset, offset)
        (second,) = await self.create("orders")
        told = await watching.read()
        self.assertEqual(([log.group for log in told.logs], list(told.deleted)), ([second.group], []))
        changes = log_pb2.LogChanges(retention_seconds=5)
        await self.logs().Alter(log_pb2.AlterLogRequest(name="orders", changes=changes))
        told = await watching.read()
        self.assertEqual([log.settings.retention_seconds for log in told.logs], [5])
        watching.cancel()
        await until(lambda: not self.server._guard.shares.followers.held)

    @asynchronous
    async def test_watch_what_was_replaced(self):
        """A log that was deleted and made again between two looks is told as both."""
        self.patch(logs_service, "WATCH_REST_SECONDS", 0.2)
        (first,) = await self.create("orders")
        watching = self.logs().Watch(log_pb2.WatchLogsRequest())
        await watching.read()
        admin = self.admin
        admin.delete("orders", by="root")
        admin.create("orders", LogSettings(), on=(), by="root")
        told = await watching.read()
        self.assertEqual([one.group for one in told.deleted], [first.group])
        self.assertEqual([log.group for log in told.logs], [first.group + 1])
        watching.cancel()

    @asynchronous
    async def test_watch_without_a_catalogue(self):
        """Before there is a catalogue a watcher is told what there is."""
        waiting = []
        self.admin.changed = lambda after: waiting.append(after) or Deferred()
        watching = self.logs().Watch(log_pb2.WatchLogsRequest())
        told = await watching.read()
        self.assertEqual(([log.name for log in told.logs], told.offset, waiting), (["default"], 0, [-1]))
        watching.cancel()

    @asynchronous
    async def test_a_permission_that_is_taken_back(self):
        """A watcher that may do nothing any more is ended by the next change."""
        await self.create("orders")
        watching = self.logs("bob").Watch(log_pb2.WatchLogsRequest())
        await watching.read()
        self.policy_path.write_text("p, root, *, manage\n")
        self.authorizer.take(self.authorizer.read())
        await self.create("other")
        await self.refused(watching.read(), DENIED)


class NamedTests(LogsCase):
    """Logs by name and number in the other services."""

    @asynchronous
    async def test_apart(self):
        """Each log has its own records, offsets and producers, and every answer says which it is of."""
        (made,) = await self.create("orders")
        self.assertEqual((await self.root.Produce(produce(b"o", log="orders"))).offset, 0)
        self.assertEqual((await self.root.ProduceBatch(batch([b"p", b"q"], log="orders"))).base_offset, 1)
        self.assertEqual((await self.root.Produce(produce(b"d"))).offset, 0)
        for log, group, count, value in (("orders", made.group, 3, b"o"), ("", 1, 1, b"d")):
            bounds = await self.root.Bounds(log_pb2.BoundsRequest(log=log))
            self.assertEqual((bounds.next, bounds.group), (count, group))
            fetched = await self.root.Fetch(log_pb2.FetchRequest(log=log))
            self.assertEqual(fetched.group, group)
            consumed = await self.root.Consume(log_pb2.ConsumeRequest(log=log))
            self.assertEqual(consumed.record.value, value)
        stream = self.root.FetchStream(log_pb2.FetchRequest(log="orders"))
        self.assertEqual((await stream.read()).group, made.group)
        stream.cancel()

    @asynchronous
    async def test_another_log_of_that_name(self):
        """Who says the number of a log that was deleted does not reach the one made in its place."""
        (first,) = await self.create("orders")
        following = self.root.FetchStream(log_pb2.FetchRequest(log="orders"))
        await self.root.Produce(produce(log="orders"))
        await following.read()
        self.admin.delete("orders", by="root")
        (second,) = await self.create("orders")
        for name, request in (
            ("Produce", produce(log="orders")),
            ("Consume", log_pb2.ConsumeRequest(log="orders")),
            ("ProduceBatch", batch([b"x"], log="orders")),
            ("Fetch", log_pb2.FetchRequest(log="orders")),
            ("Bounds", log_pb2.BoundsRequest(log="orders")),
            ("FindOffset", log_pb2.FindOffsetRequest(log="orders")),
            ("RegisterProducer", log_pb2.RegisterProducerRequest(log="orders")),
        ):
            request.group = first.group
            await self.refused(getattr(self.root, name)(request), NOT_FOUND)
        self.assertEqual(self.node.cluster.named[second.group].next_offset, 0)
        following.cancel()

    @asynchronous
    async def test_servers(self):
        """Asked for a log, a node tells who holds it, who leads it, and its number and epoch."""
        (made,) = await self.create("orders", on=["n4", "n2", "n3"])
        told = await self.root.GetServers(log_pb2.GetServersRequest(log="orders"))
        self.assertEqual((told.group, told.epoch), (made.group, made.epoch))
        self.assertEqual({server.id for server in told.servers}, {"n2", "n3", "n4"})
        self.assertEqual([server.id for server in told.servers if server.is_leader], [made.leader])
        self.assertEqual((told.cluster_uuid, told.cluster_name), (self.node.cluster_uuid, "c1"))
        told = await self.root.GetServers(log_pb2.GetServersRequest())
        self.assertEqual((len(told.servers), told.group, told.epoch), (4, 0, 0))
        request = log_pb2.GetServersRequest(log="no-such-log")
        await self.refused(self.root.GetServers(request), NOT_FOUND)

    @asynchronous
    async def test_status_and_transfer(self):
        """An administrator asks for the members of a log's group, and hands its leadership over."""
        await self.create("orders")
        cluster = log_pb2_grpc.ClusterStub(self.channel("admin"))
        log = self.node.log("orders")
        await cluster.Status(log_pb2.StatusRequest(log="orders"))
        await cluster.Transfer(log_pb2.TransferRequest(log="orders", name="n2"))
        self.assertEqual(log.orders, [("status",), ("transfer", "n2")])
        self.assertEqual(self.node.orders, [])
        await self.refused(cluster.Status(log_pb2.StatusRequest(log="no-such-log")), NOT_FOUND)
