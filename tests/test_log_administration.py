"""What may be asked about which logs there are, on a node that the test plays."""

from types import SimpleNamespace

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import (
    CataloguedNode,
    LogAltered,
    LogCreated,
    LogDeleted,
    LogPlaced,
    LogSettings,
    NodeSet,
    PlacedReplica,
    Span,
    decode_record,
    encode_record,
)
from loghouse.errors import (
    InvalidRequestError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.gossip.members import MemberKey
from loghouse.node.api import LogDescription, ReplicaState
from loghouse.node.catalogue_log import CatalogueLog
from loghouse.node.forwarding import AdminOrder
from loghouse.node.log_administration import LogAdministration
from loghouse.protocol.configuration import Configuration, Member, MemberRole, Retention
from loghouse.protocol.forward_messages import AdminOperation
from loghouse.runtime.scheduling import Clocks
from tests.test_catalogue_log import PlayedLog

ONE = LogSettings(replicas=1)


def uuid_of(name):
    return name.encode().ljust(16, b"-")


def node_of(name):
    return CataloguedNode(name=name, disk_uuid=uuid_of(name), host=f"host-{name}", rack="r1", replicas_max=9)


def member_of(id_, name, role=MemberRole.VOTER):
    return Member(id=id_, name=name, disk_uuid=uuid_of(name), role=role)


class AdministrationCase(SynchronousTestCase):
    """Node n1 of a cluster of two, whose catalogue's log is played. It leads whatever is created."""

    def setUp(self):
        self.clock, self.played, self.caught_up, self.orders = Clock(), PlayedLog(), 0, []
        self.present = ["n1", "n2"]
        self.ordered = Deferred()  # the outcome of the next order
        retention = Retention(size_max=70, age_max_seconds=80)
        members = (member_of(1, "n1"), member_of(2, "n2"), member_of(3, "n9", MemberRole.LEARNER))
        self.node = SimpleNamespace(
            name="n1",
            disk_uuid=uuid_of("n1"),
            is_ending=False,
            options=SimpleNamespace(host="host-n1", rack="r1", replicas_max=9),
            transport=SimpleNamespace(
                present=lambda: [MemberKey(name, uuid_of(name)) for name in self.present]
            ),
            membership=SimpleNamespace(
                name="default",
                group=1,
                leader_name="n2",
                configuration=Configuration(members=members, retention=retention),
                administer=self.administer,
            ),
            logs={},
            catalogue_log=None,
            knows_all_logs=True,
            catch_up_with_logs=self.catch_up,
        )
        self.node.logs[1] = self.node.membership
        clocks = Clocks(
            self.clock,
            lambda work: self.clock.callLater(0, work),
            self.clock.callLater,
            lambda: 1000.5,
            self.clock.seconds,
        )
        self.admin = LogAdministration(self.node, clocks)
        self.served = SimpleNamespace(leader_name="n1")

    def administer(self, order):
        self.orders.append(order)
        return self.ordered

    async def catch_up(self):
        self.caught_up += 1

    def found(self):
        """Have a catalogue, in which this node is registered."""
        log = CatalogueLog(
            self.played,
            node_name="n1",
            scheduler=self.clock,
            changed=lambda: self.admin.catalogue_changed(log.catalogue),
        )
        self.node.catalogue_log = log
        log.start()
        self.addCleanup(log.stop)
        self.admin.catalogue_changed(log.catalogue)
        return log

    def founded(self):
        """Have a catalogue that knows both nodes."""
        log = self.found()
        self.add(NodeSet(node=node_of("n2")))
        self.node.logs[16] = self.served
        return log

    def add(self, record):
        self.played.add(encode_record(record))

    def records(self):
        return [decode_record(value) for value in self.played.values]

    def create(self, name="orders", settings=ONE, on=()):
        return self.admin.create(name, settings, on=on, by="root")

    def text(self, asked, error):
        return str(self.failureResultOf(asked, error).value)


class ChangeTests(AdministrationCase):
    """Creating, altering, deleting and replacing."""

    def test_create(self):
        """A log is made on the nodes that are named, by who asks, now."""
        self.founded()
        created = self.successResultOf(self.create(on=["n2"]))
        record = self.records()[-1]
        self.assertEqual((record.by, record.at, record.name), ("root", 1_000_500_000, "orders"))
        self.assertEqual(
            created,
            LogDescription(
                name="orders",
                group=16,
                epoch=3,
                settings=ONE,
                replicas=(ReplicaState(node="n2", member=1, is_leader=False, is_alive=True),),
                leader="n1",
                created_at=1_000_500_000,
            ),
        )
        self.text(self.create(on=["n1"]), InvalidRequestError)

    def test_alive(self):
        """Where no nodes are named, those that are here get replicas."""
        self.founded()
        self.present = []
        two = LogSettings(replicas=2)
        self.text(self.create(settings=two), ResourceExhaustedError)
        self.assertEqual(self.successResultOf(self.create()).replicas[0].node, "n1")
        self.present = ["n2"]
        self.node.logs[17] = self.served
        created = self.successResultOf(self.create("audit", two))
        self.assertEqual(sorted(one.node for one in created.replicas), ["n1", "n2"])

    def test_alter(self):
        """Settings change by who asks; without a name, those of the default log."""
        self.founded()
        for name in ("", "default"):
            altered = self.successResultOf(
                self.admin.alter(name, {"retention_bytes": 5 + len(name)}, by="me")
            )
            self.assertEqual((altered.name, altered.settings.retention_bytes), ("default", 5 + len(name)))
            record = self.records()[-1]
            self.assertEqual((record.by, record.at, record.group), ("me", 1_000_500_000, 1))
        self.text(self.admin.alter("nothing", {}, by="me"), UnknownLogError)

    def test_delete(self):
        """A log goes by who asks; what is gone is unknown."""
        self.founded()
        self.successResultOf(self.create())
        self.assertIsNone(self.successResultOf(self.admin.delete("orders", by="me")))
        record = self.records()[-1]
        self.assertEqual(record, LogDeleted(at=1_000_500_000, by="me", group=16))
        self.text(self.admin.delete("orders", by="me"), UnknownLogError)

    def test_replace(self):
        """A replica moves by who asks, under a new member id."""
        self.founded()
        self.successResultOf(self.create(on=["n1"]))
        replaced = self.successResultOf(self.admin.replace("orders", lost="n1", new="n2", by="me"))
        self.assertEqual([(one.node, one.member) for one in replaced.replicas], [("n2", 2)])
        record = self.records()[-1]
        self.assertEqual((record.at, record.by), (1_000_500_000, "me"))

    def test_deleted_just_now(self):
        """Who creates a log that somebody else deletes at once is told that there is none."""
        log = self.founded()
        self.patch(log, "change", lambda decide: succeed(True))
        self.assertIn("'orders'", self.text(self.create(), UnknownLogError))

    def test_without_a_catalogue(self):
        """There is nothing to delete or replace before the first log, after the cluster was asked."""
        self.assertIn("'orders'", self.text(self.admin.delete("orders", by="me"), UnknownLogError))
        self.text(self.admin.replace("orders", lost="n1", new="n2", by="me"), UnknownLogError)
        self.assertEqual((self.caught_up, self.orders), (2, []))
        asked = self.admin.delete("default", by="me")
        self.assertEqual(self.caught_up, 2)
        self.ordered.callback(None)
        self.founded()
        self.clock.advance(0.02)
        self.text(asked, InvalidRequestError)
        self.assertEqual(self.orders, [AdminOrder(operation=AdminOperation.FOUND_CATALOGUE)])
        self.successResultOf(self.admin.alter("default", {"retention_bytes": 5}, by="me"))
        self.assertEqual((self.caught_up, len(self.orders)), (2, 1))


class WaitTests(AdministrationCase):
    """How long one waits, and for what."""

    def test_led(self):
        """A new log is answered for as soon as it is led, or after ten seconds."""
        self.founded()
        for leader_name in ("", None):
            self.served.leader_name = leader_name
            asked = self.create(on=["n2"])
            self.clock.pump([0.25] * 39)
            self.assertNoResult(asked)
            self.clock.pump([0.25] * 2)
            text = "log orders is created and has no leader yet; a majority of n2 must be up"
            self.assertEqual(self.text(asked, UnavailableError), text)
        asked = self.create()
        self.served.leader_name = "n2"
        self.clock.advance(0.015)
        self.assertNoResult(asked)
        self.clock.advance(0.01)
        self.assertEqual(self.successResultOf(asked).leader, "n2")

    def test_not_served_yet(self):
        """A log that this node does not serve yet is not led; who stops says so at once."""
        self.founded()
        del self.node.logs[16]
        asked = self.create(settings=LogSettings(replicas=2))
        self.assertNoResult(asked)
        self.node.is_ending = True
        self.clock.advance(0.02)
        self.assertIn("no leader yet; a majority of ", self.text(asked, UnavailableError))
        self.node.is_ending = False
        self.assertEqual(self.records()[-1].name, "orders")

    def test_founded(self):
        """The first change has the catalogue founded, and waits ten seconds until it is known here."""
        self.patch(self.node.membership, "administer", lambda order: succeed(None))
        asked, ending = self.create(), self.create()
        self.clock.pump([0.25] * 39)
        self.assertNoResult(asked)
        self.clock.pump([0.25] * 2)
        text = "the catalogue takes too long to be known here; nothing was done, try again"
        self.assertEqual(self.text(asked, UnavailableError), text)
        self.text(ending, UnavailableError)
        ending = self.create()
        self.node.is_ending = True
        self.clock.advance(0.02)
        self.assertEqual(self.text(ending, UnavailableError), "the node is stopping; try another node")

    def test_registered(self):
        """A log waits until each member that is here is registered, a change for this node alone."""
        self.present = ["n2", "stranger"]
        self.found()
        self.successResultOf(self.admin.alter("default", {"retention_bytes": 70}, by="me"))
        asked, late = self.create(), self.create("audit")
        self.clock.advance(1)
        self.assertNoResult(asked)
        self.node.logs.update({16: self.served, 17: self.served})
        self.add(NodeSet(node=node_of("n2")))
        self.clock.advance(0.02)
        self.clock.advance(0.02)
        self.successResultOf(asked)
        self.successResultOf(late)

    def test_not_here(self):
        """A member that is not here is not waited for."""
        self.present = []
        self.found()
        self.node.logs[16] = self.served
        self.successResultOf(self.create())

    def test_not_led(self):
        """A catalogue that does not take this node within ten seconds has no leader."""
        self.present = ["n2"]
        self.found()
        asked = self.create()
        self.clock.pump([0.25] * 39)
        self.assertNoResult(asked)
        self.clock.pump([0.25] * 2)
        text = "the catalogue takes too long to be led; nothing was done, try again"
        self.assertEqual(self.text(asked, UnavailableError), text)

    def test_default_log_first(self):
        """Nothing is done before the catalogue has the default log."""
        configuration, self.node.membership.configuration = (
            self.node.membership.configuration,
            Configuration(),
        )
        log = self.found()
        self.assertEqual([type(one) for one in self.records()], [NodeSet])
        asked = self.create()
        self.clock.advance(1)
        self.assertNoResult(asked)
        self.assertEqual(len(self.played.values), 1)
        self.node.logs[16] = self.served
        self.node.membership.configuration = configuration
        self.present = []
        self.admin.catalogue_changed(log.catalogue)
        self.clock.advance(0.02)
        self.successResultOf(asked)

    def test_in_time(self):
        """There is an answer within fifteen seconds; and when the node stops; who gives up is told so."""
        self.patch(self.node.membership, "administer", lambda order: Deferred())
        asked = self.create()
        self.clock.advance(14.5)
        given_up = self.create()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.assertNoResult(asked)
        self.clock.advance(0.6)
        text = "no answer of the catalogue within 15 s; ask again: nothing is done twice"
        self.assertEqual(self.text(asked, OutcomeUnknownError), text)
        asked = self.create()
        self.node.is_ending = True
        self.admin.stop()
        text = "the node is stopping; ask another one: nothing is done twice"
        self.assertEqual(self.text(asked, OutcomeUnknownError), text)
        self.assertEqual((self.admin._asked, self.clock.getDelayedCalls()), (set(), []))


class CompletingTests(AdministrationCase):
    """Replicas that a restored log lacks, placed by the catalogue's leader."""

    def setUp(self):
        super().setUp()
        self.founded()
        self.successResultOf(self.create(on=["n2"]))
        self.add(LogAltered(group=16, settings=LogSettings(replicas=2)))
        self.catalogue = SimpleNamespace(leader_name="n1")
        self.node.logs[2] = self.catalogue

    def placed(self):
        return [record for record in self.records() if isinstance(record, LogPlaced)]

    def test_placed(self):
        """One look places what one log lacks; with all there, nothing more is written."""
        for _ in range(3):
            self.admin.look()
        (record,) = self.placed()
        self.assertEqual([(one.member, one.node) for one in record.replicas], [(1, "n2"), (2, "n1")])
        self.assertEqual((record.by, record.at), ("node n1", 1_000_500_000))

    def test_not_here(self):
        """Another leader does it, and a node that stops does not."""
        self.catalogue.leader_name = "n2"
        self.admin.look()
        self.catalogue.leader_name, self.node.is_ending = "n1", True
        self.admin.look()
        del self.node.logs[2]
        self.node.is_ending = False
        self.admin.look()
        self.assertEqual(self.placed(), [])
        self.node.logs[2], self.node.catalogue_log = self.catalogue, None
        self.admin.look()

    def test_one_at_a_time(self):
        """While a replica is being placed, no look places another one."""
        asked = []

        async def change(decide):
            asked.append(Deferred())
            return await asked[-1]

        self.patch(self.node.catalogue_log, "change", change)
        self.admin.look()
        self.admin.look()
        self.assertEqual(len(asked), 1)
        asked[0].callback(True)
        self.admin.look()
        self.assertEqual(len(asked), 2)

    def test_tried_again(self):
        """What found no leader is tried again by the next look."""
        self.played.problem = UnavailableError("no leader is known")
        self.admin.look()
        self.assertEqual(self.placed(), [])
        self.played.problem = None
        self.admin.look()
        self.assertEqual(len(self.placed()), 1)


class WatchTests(AdministrationCase):
    """Who waits for changes of the catalogue."""

    def test_without_a_catalogue(self):
        """Before there is a catalogue, its last record is that before the first."""
        self.assertEqual(self.successResultOf(self.admin.changed(-2)), -1)
        waiting = self.admin.changed(-1)
        self.assertNoResult(waiting)
        self.found()
        self.assertEqual(self.successResultOf(waiting), 0)

    def test_empty(self):
        """So it is while there is none in it."""
        self.node.is_ending = True  # it does not register
        self.found()
        self.assertEqual(self.successResultOf(self.admin.changed(-2)), -1)
        self.assertNoResult(self.admin.changed(-1))

    def test_above(self):
        """Each waits for a record above its own offset, and is told the last one."""
        self.found()
        self.assertEqual(len(self.played.values), 2)
        self.assertEqual(self.successResultOf(self.admin.changed(0)), 1)
        near, far, gone, other = (self.admin.changed(after) for after in (1, 2, 1, 1))
        gone.addErrback(lambda _: None)
        gone.cancel()
        self.assertNoResult(near)
        self.add(NodeSet(node=node_of("n2")))
        self.assertEqual((self.successResultOf(near), self.successResultOf(other)), (2, 2))
        self.assertNoResult(far)
        self.add(NodeSet(node=node_of("n3")))
        self.assertEqual(self.successResultOf(far), 3)

    def test_stop(self):
        """Who waits when the node stops is told so, once."""
        waiting = self.admin.changed(7)
        self.admin.stop()
        self.admin.stop()
        self.assertEqual(self.text(waiting, UnavailableError), "the node is stopping; try another node")


class RegisterTests(AdministrationCase):
    """What a node has the catalogue say of itself."""

    def test_registers(self):
        """A node is registered as it is, and the default log with the members that vote."""
        log = self.found()
        node, default = self.records()
        self.assertEqual(node, NodeSet(at=1_000_500_000, by="node n1", node=node_of("n1")))
        replicas = tuple(
            PlacedReplica(member=id_, node=name, disk_uuid=uuid_of(name))
            for id_, name in ((1, "n1"), (2, "n2"))
        )
        self.assertEqual(
            default,
            LogCreated(
                at=1_000_500_000,
                by="node n1",
                name="default",
                settings=LogSettings(replicas=2, retention_bytes=70, retention_seconds=80),
                spans=(Span(group=1, replicas=replicas),),
            ),
        )
        self.admin.catalogue_changed(log.catalogue)
        self.assertEqual((len(self.played.values), len(self.played.proposals)), (2, 2))
        self.node.options.rack = "r2"
        self.admin.catalogue_changed(log.catalogue)
        self.assertEqual(self.records()[-1].node.rack, "r2")
        self.assertEqual(len(self.played.values), 3)

    def test_known(self):
        """Who is in the catalogue as it is asks nothing of it; who was removed from it asks again."""
        log = self.found()
        self.patch(log, "change", lambda decide: self.fail("asked for nothing"))
        self.admin.catalogue_changed(log.catalogue)

    def test_ending(self):
        """A node that stops does not register."""
        self.node.is_ending = True
        self.found()
        self.assertEqual(self.played.values, [])

    def test_again(self):
        """Who finds no leader tries again with the next look, silently; one attempt at a time."""
        log = self.found()
        del log.catalogue.nodes["n1"]
        asked = []

        async def change(decide):
            asked.append(Deferred())
            return await asked[-1]

        self.patch(log, "change", change)
        for error in (UnavailableError("no leader"), ValueError("broken")):
            self.admin.catalogue_changed(log.catalogue)
            self.admin.catalogue_changed(log.catalogue)
            asked[-1].errback(error)
        self.assertEqual(len(asked), 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.admin.catalogue_changed(log.catalogue)
        self.assertEqual(len(asked), 3)


class DescribeTests(AdministrationCase):
    """Which logs there are."""

    def default(self, **changed):
        fields = {
            "name": "default",
            "group": 1,
            "epoch": 0,
            "settings": LogSettings(replicas=2, retention_bytes=70, retention_seconds=80),
            "replicas": (
                ReplicaState(node="n1", member=1, is_leader=False, is_alive=True),
                ReplicaState(node="n2", member=2, is_leader=True, is_alive=False),
            ),
            "leader": "n2",
        }
        return LogDescription(**{**fields, **changed})

    def test_without_a_catalogue(self):
        """The default log is what the membership says; others are unknown, after the cluster was asked."""
        self.present = []
        self.assertEqual(self.successResultOf(self.admin.list()), [self.default()])
        for name in ("", "default"):
            self.assertEqual(self.successResultOf(self.admin.describe(name)), self.default())
        self.assertEqual(self.caught_up, 0)
        self.assertIn("'orders'", self.text(self.admin.describe("orders"), UnknownLogError))
        self.assertEqual(self.caught_up, 1)

    def test_with_a_catalogue(self):
        """The catalogue says what there is; of the default log, not where its replicas are."""
        self.founded()
        self.successResultOf(self.create("audit", on=["n1"]))
        self.present = []
        default = self.default(epoch=1, created_at=1_000_500_000)
        self.node.membership.configuration = Configuration(
            members=self.node.membership.configuration.members[:2]
        )
        for name in ("", "default"):
            self.assertEqual(self.successResultOf(self.admin.describe(name)), default)
        audit, listed = self.successResultOf(self.admin.list())
        self.assertEqual(listed, default)
        [replica] = audit.replicas
        self.assertEqual((audit.name, replica.is_leader, replica.is_alive), ("audit", True, True))
        self.assertEqual(self.successResultOf(self.admin.describe("audit")), audit)
        self.assertEqual(self.caught_up, 0)
        del self.node.logs[16]
        described = self.successResultOf(self.admin.describe("audit"))
        self.assertEqual((described.leader, described.replicas[0].is_leader), ("", False))

    def test_not_served(self):
        """A catalogue that does not name the default log yet does not hide it."""
        self.node.is_ending = True
        self.found()
        self.assertEqual([one.name for one in self.successResultOf(self.admin.list())], ["default"])
        self.assertEqual(self.successResultOf(self.admin.describe("")).name, "default")
        self.assertEqual(self.caught_up, 0)

    def test_just_created(self):
        """A log that this node has not heard of yet is asked for."""

        async def catch_up():
            self.founded()
            self.successResultOf(self.create())

        self.node.catch_up_with_logs = catch_up
        self.assertEqual(self.successResultOf(self.admin.describe("orders")).group, 16)

    def test_list_of_a_node_that_just_started(self):
        """It is told once the node knows all logs, or fails: what is not in it counts as deleted."""
        self.node.knows_all_logs, waiting = False, [Deferred(), Deferred()]
        self.node.catch_up_with_logs = lambda: waiting[0]
        asked = self.admin.list()
        self.assertNoResult(asked)
        self.assertEqual([one.name for one in self.admin.known()], ["default"])
        self.founded()
        self.successResultOf(self.create())
        waiting.pop(0).callback(None)
        self.assertEqual([one.name for one in self.successResultOf(asked)], ["default", "orders"])
        waiting[0].errback(UnavailableError("no leader"))
        self.assertIn("no leader", self.text(self.admin.list(), UnavailableError))

    def test_sizes(self):
        """Settings of a default log that has no members, or more than a log can have, are possible ones."""
        for count, replicas in ((0, 1), (3, 3), (5, 5), (6, 5)):
            members = tuple(member_of(number, f"n{number}") for number in range(1, count + 1))
            self.node.membership.configuration = Configuration(members=members)
            described = self.successResultOf(self.admin.describe(""))
            self.assertEqual(
                (described.settings.replicas, len(described.replicas)), (replicas, min(count, 5))
            )
