"""The calls of `log.v1.Cluster`, and what a follower says of its leader, over real gRPC and TLS."""

import grpc
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from loghouse import __version__, errors
from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.node.api import CopyTrouble, LogProblem, Reloaded, StrayLog
from loghouse.protocol.configuration import ROLE_TEXTS, MemberRole
from loghouse.protocol.failures import LEADER_KEY
from loghouse.protocol.gossip_messages import LIVENESS_TEXTS, Liveness
from tests.api.doors import DoorCase, batch, details_of, produce
from tests.fakes.node import FakeNode
from tests.fakes.tasks import asynchronous, until

ADMIN = "p, root, *, admin\n"


class ClusterCase(DoorCase):
    """A door to a follower, and stubs of an administrator."""

    policy = ADMIN

    def setUp(self):
        super().setUp()
        self.node = FakeNode()
        self.node.cluster.leader = FakeNode(self.node.cluster, "n2")

    def cluster(self, client="root"):
        return log_pb2_grpc.ClusterStub(self.channel(client))


CALLS = (
    ("Status", log_pb2.StatusRequest(), ("status",)),
    ("Add", log_pb2.AddRequest(name="n4", learner=True), ("add", "n4", True)),
    ("Add", log_pb2.AddRequest(name="n4"), ("add", "n4", False)),
    ("Remove", log_pb2.RemoveRequest(name="n3"), ("remove", "n3")),
    ("Leave", log_pb2.LeaveRequest(), ("leave",)),
    ("Transfer", log_pb2.TransferRequest(name="n1"), ("transfer", "n1")),
    ("Transfer", log_pb2.TransferRequest(), ("transfer", "")),
    ("Trim", log_pb2.TrimRequest(offset=5, log="default"), ("trim", 5)),
    ("Reload", log_pb2.ReloadRequest(), ("reload", "root")),
)


class AdministrationTests(ClusterCase):
    """What reaches the node, and what comes back."""

    @asynchronous
    async def test_orders(self):
        """Each call reaches the node with its arguments."""
        cluster = self.cluster()
        answers = [await getattr(cluster, name)(request) for name, request, _ in CALLS]
        self.assertEqual(self.node.orders, [order for _, _, order in CALLS])
        self.assertEqual(
            {name for name, _, _ in CALLS},
            set(log_pb2.DESCRIPTOR.services_by_name["Cluster"].methods_by_name),
        )
        self.assertEqual([answer.leader for answer in answers[5:7]], ["n1", "n3"])
        self.assertEqual(answers[7].lowest, 4)
        self.assertEqual(answers[8], log_pb2.ReloadResponse(node="n1"))

    @asynchronous
    async def test_reload(self):
        """What became of the settings comes back line by line; why they were refused, too."""
        self.node.reloaded = Reloaded(changed=("a: 1 -> 2", "b: 1 -> 2"), waiting=("c",), warnings=("d",))
        answer = await self.cluster().Reload(log_pb2.ReloadRequest())
        lines = {"changed": ["a: 1 -> 2", "b: 1 -> 2"], "waiting": ["c"], "warnings": ["d"]}
        self.assertEqual(answer, log_pb2.ReloadResponse(node="n1", **lines))
        self.node.reloaded = errors.ReloadRefusedError("nothing was changed: x")
        error = await self.refused(
            self.cluster().Reload(log_pb2.ReloadRequest()), grpc.StatusCode.FAILED_PRECONDITION
        )
        self.assertEqual(details_of(error)[0].reason, "RELOAD_REFUSED")
        self.assertEqual(error.details(), "nothing was changed: x")

    @asynchronous
    async def test_status(self):
        """Every field of the status arrives, and who answered."""
        status = await self.cluster().Status(log_pb2.StatusRequest())
        self.assertEqual((status.node, status.version, status.leader), ("n1", __version__, "n2"))
        self.assertEqual((status.cluster_uuid, status.cluster_name), (self.node.cluster_uuid, "c1"))
        self.assertEqual((status.term, status.commit_index), (4, 9))
        self.assertEqual((status.lowest_offset, status.next_offset), (1, 7))
        self.assertEqual(list(status.removed), ["n4"])
        self.assertEqual(
            [(m.name, m.id, m.role, m.liveness, m.is_leader, m.match_index) for m in status.members],
            [
                ("n1", 1, "voter", "alive", False, 8),
                ("n2", 2, "voter", "suspect", True, 9),
                ("n3", 0, "none", "", False, 0),
            ],
        )
        self.assertEqual((status.members[1].address, status.members[0].version), ("127.0.0.1:8410", "0.1"))
        self.assertEqual((len(status.strays), status.knows_strays), (0, True))

    @asynchronous
    async def test_strays(self):
        """What does not belong on the node's disk is told, and whether the node knows."""
        admin = self.node.log_administration
        admin.stray_logs = [StrayLog(group=16, name="orders", size=7)]
        status = await self.cluster().Status(log_pb2.StatusRequest())
        (stray,) = status.strays
        self.assertEqual((stray.group, stray.name, stray.size), (16, "orders", 7))
        admin.stray_logs = errors.UnavailableError("it has just started")
        status = await self.cluster().Status(log_pb2.StatusRequest())
        self.assertEqual((len(status.strays), status.knows_strays, status.node), (0, False, "n1"))

    @asynchronous
    async def test_problems(self):
        """What needs attention of copies is told, of one log or all, and whether the node knows."""
        admin = self.node.log_administration
        admin.log_problems = [
            LogProblem(log="default", node="n3", trouble=CopyTrouble.BEHIND, entries=7),
            LogProblem(log="orders", node="n1", trouble=CopyTrouble.DAMAGED),
        ]
        for log, count in (("", 2), ("default", 1)):
            status = await self.cluster().Status(log_pb2.StatusRequest(log=log))
            self.assertEqual((len(status.problems), status.log_count), (count, 1))
            first = status.problems[0]
            told = first.log, first.node, first.reason, first.entries
            self.assertEqual(told, ("default", "n3", "behind", 7))
        admin.log_problems = errors.UnavailableError("it has just started")
        status = await self.cluster().Status(log_pb2.StatusRequest())
        self.assertEqual((len(status.problems), status.log_count), (0, 0))

    @asynchronous
    async def test_waiting_settings(self):
        """What of node.yaml needs a restart is told."""
        self.node.waiting_settings = ("timing.network", "host")
        status = await self.cluster().Status(log_pb2.StatusRequest())
        self.assertEqual(list(status.waiting_settings), ["timing.network", "host"])

    @asynchronous
    async def test_refused_change(self):
        """A change that would lose the quorum is FAILED_PRECONDITION, with the reason as it was given."""
        self.node.failure = errors.MembershipError("n3 is needed: without it 1 of 2 voters is alive")
        error = await self.refused(
            self.cluster().Remove(log_pb2.RemoveRequest(name="n3")), grpc.StatusCode.FAILED_PRECONDITION
        )
        self.assertEqual(details_of(error)[0].reason, "MEMBERSHIP")
        self.assertEqual(error.details(), str(self.node.failure))

    @asynchronous
    async def test_names(self):
        """A name that no node can have is refused before the node is asked."""
        cluster = self.cluster()
        for call in (
            cluster.Add(log_pb2.AddRequest()),
            cluster.Add(log_pb2.AddRequest(name="N3")),
            cluster.Remove(log_pb2.RemoveRequest(name="x" * 64)),
            cluster.Transfer(log_pb2.TransferRequest(name="../n3")),
        ):
            error = await self.refused(call, grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(details_of(error)[0].metadata["field"], "name")
        error = await self.refused(cluster.Trim(log_pb2.TrimRequest(log="other")), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(self.node.orders, [])

    @asynchronous
    async def test_permission(self):
        """Without the admin permission nothing reaches the node; one for a log allows its trim alone."""
        self.policy_path.write_text("p, root, *, produce\np, root, *, consume\np, nobody, default, admin\n")
        self.authorizer.take(self.authorizer.read())
        root, nobody = self.cluster(), self.cluster("nobody")
        for name, request, _ in CALLS:
            await self.refused(getattr(root, name)(request), grpc.StatusCode.PERMISSION_DENIED)
            if name != "Trim":
                await self.refused(getattr(nobody, name)(request), grpc.StatusCode.PERMISSION_DENIED)
        self.assertEqual((await nobody.Trim(log_pb2.TrimRequest(offset=3))).lowest, 2)
        self.assertEqual(self.node.orders, [("trim", 3)])


class LeaderTests(ClusterCase):
    """A follower names the leader in the trailers of appends."""

    policy = "p, root, *, produce\n"

    def leader_in(self, metadata):
        return [value for key, value in metadata if key == LEADER_KEY]

    @asynchronous
    async def test_appends(self):
        """Every kind of append through a follower names the leader; on the leader none does."""
        for leader, expected in (("n2", ["n2"]), ("n1", []), ("", [])):
            self.patch(FakeNode, "leader_name", leader)
            unary = [
                self.root.Produce(produce()),
                self.root.ProduceBatch(batch([b"x"])),
                self.root.RegisterProducer(log_pb2.RegisterProducerRequest()),
            ]
            for call in unary:
                await call
                self.assertEqual(self.leader_in(await call.trailing_metadata()), expected)
            for stream in (
                self.root.ProduceStream(iter([produce()])),
                self.root.ProduceBatchStream(iter([batch([b"x"])])),
            ):
                self.assertEqual(len([answer async for answer in stream]), 1)
                self.assertEqual(self.leader_in(await stream.trailing_metadata()), expected)

    @asynchronous
    async def test_failures(self):
        """A failed append names the leader beside the error's own details, a refused caller hears nothing."""
        rows = (
            (errors.UnavailableError("n2 cannot be reached"), grpc.StatusCode.UNAVAILABLE, ["n2"]),
            (errors.OutcomeUnknownError("n2 did not answer"), grpc.StatusCode.ABORTED, ["n2"]),
            (errors.ExpectOffsetError(1, 2), grpc.StatusCode.FAILED_PRECONDITION, []),
        )
        for failure, code, expected in rows:
            self.node.failure = failure
            error = await self.refused(self.root.Produce(produce()), code)
            self.assertEqual(self.leader_in(error.trailing_metadata()), expected)
            self.assertTrue(details_of(error)[0].reason)
        call = self.stub("nobody").Produce(produce())
        error = await self.refused(call, grpc.StatusCode.PERMISSION_DENIED)
        self.assertEqual(self.leader_in(error.trailing_metadata()), [])

    @asynchronous
    async def test_register_producer(self):
        """A producer is registered for the caller's own subject."""
        answer = await self.stub().RegisterProducer(log_pb2.RegisterProducerRequest())
        self.assertEqual(self.node.cluster.state.producers[answer.producer_id].subject, "root")
        error = await self.refused(
            self.stub().RegisterProducer(log_pb2.RegisterProducerRequest(log="other")),
            grpc.StatusCode.NOT_FOUND,
        )
        self.assertEqual(details_of(error)[0].metadata["log"], "other")

    @asynchronous
    async def test_a_caller_that_gives_up(self):
        """A cancelled call cancels what the node does for it."""
        asked, cancelled = [], []

        def register(subject):
            asked.append(subject)
            return Deferred(cancelled.append)

        self.node.register_producer = register
        call = self.stub().RegisterProducer(log_pb2.RegisterProducerRequest())
        await until(lambda: asked)
        call.cancel()
        await until(lambda: cancelled)


class TextTests(SynchronousTestCase):
    """Roles and liveness as gRPC's messages say them."""

    def test_texts(self):
        """Each is its name in lower case, by which clients know it; what is not known has a text, too."""
        for texts, values, none in ((ROLE_TEXTS, MemberRole, "none"), (LIVENESS_TEXTS, Liveness, "")):
            self.assertEqual(texts, {None: none, **{value: value.name.lower() for value in values}})
