"""The parts of a node one by one: a log that is not hosted here, who may ask for what, the address book."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import Identity
from loghouse.auth.policy import Action
from loghouse.catalogue.records import LogSettings
from loghouse.errors import (
    DiskFullError,
    IdentityError,
    InvalidRequestError,
    OutcomeUnknownError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import NAME_SIZE_MAX
from loghouse.node import gate as gates
from loghouse.node import served_log
from loghouse.node.address_book import AddressBookFile
from loghouse.node.api import LogDescription, ReplicaState, page_of, servers_of
from loghouse.node.forwarding import AdminOrder, AdminResult
from loghouse.node.gate import UNEXPECTED, Gate, proposal_alone, refusal_of
from loghouse.node.options import NoOthers
from loghouse.node.served_log import ServedLog
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.forward_messages import AdminOperation

ORDER = AdminOrder(operation=AdminOperation.TRIM, number=1)


class NotHostedTests(SynchronousTestCase):
    """A log of which this node has no copy."""

    def setUp(self):
        self.sent, self.left = [], []
        self.node = SimpleNamespace(
            name="n1",
            is_ending=False,
            forwarder=None,
            elsewhere=None,
            transport=SimpleNamespace(
                send_raft=self.sent.append, send=lambda *args: self.sent.append(args) or True
            ),
            fatal=lambda failure, group: self.left.append((failure, group)),
        )
        self.log = ServedLog(self.node, "orders", 7, monotonic=lambda: 0.0)

    def test_what_it_is(self):
        """It has no member, no leader, no configuration, and takes nothing."""
        log = self.log
        self.assertEqual((log.name, log.group, log.seed), ("orders", 7, 0))
        self.assertIsNone(log.driver)
        self.assertEqual((log.configuration, log.configuration_index), (Configuration(), 0))
        self.assertEqual(log.settled, (Configuration(), 0))
        self.assertEqual((log.member_id, log.leader_id, log.leader_name), (0, 0, ""))
        self.assertEqual([log.has_leader, log.is_writable, log.is_heard(1), log.is_caught_up(1)], [False] * 4)
        for nothing in (log.tick, log.look, log.stop, lambda: log.receive(None)):
            nothing()
        self.successResultOf(log.when_idle())

    def test_asked(self):
        """Reads and orders are refused, for a while; appends were certainly not made."""
        log, told = self.log, []
        for done in (log.fetch(0, 1), log.bounds(), log.find_offset(0), log.administer(ORDER)):
            error = self.failureResultOf(done, UnavailableError).value
            self.assertIn("has not joined its cluster yet", str(error))
        self.assertIsNone(log.propose("proposal", None, told.append))
        self.assertIn("has not joined its cluster yet; nothing was appended", str(told.pop()))
        self.node.is_ending = True
        self.assertIsNone(log.propose("proposal", None, told.append))
        self.assertIn("is stopping; nothing was appended", str(told.pop()))
        self.assertTrue(log.is_ending)

    def test_waiting(self):
        """Who waits for a record waits until it is readable, or the node stops."""
        first, second = self.log.wait_for(3), self.log.wait_for(4)
        self.log.readable_to(3)
        self.assertNoResult(first)
        self.log.readable_to(4)
        self.successResultOf(first)
        self.assertNoResult(second)
        self.log.release_waiters()
        self.failureResultOf(second, UnavailableError)

    def test_passed_on(self):
        """What its replica has to say goes out as of its group."""
        self.log.send_raft("envelope")
        self.assertTrue(self.log.send("n2", "message"))
        error = ValueError("broken")
        self.log.fatal(error)
        [(failure, group)] = self.left
        self.assertEqual(group, 7)
        self.assertEqual((self.sent, failure.value), (["envelope", ("n2", "message", 7)], error))
        changes = []
        self.log.role_changed(SimpleNamespace(leader=0))
        self.node.forwarder = SimpleNamespace(leader_changed=lambda *args: changes.append(args))
        self.log.role_changed(SimpleNamespace(leader=0))
        self.assertEqual(changes, [(7, "")])


class HostedTests(SynchronousTestCase):
    """A log of which this node has a copy, and maybe leads."""

    def setUp(self):
        self.raft = SimpleNamespace(
            id=1,
            leader=2,
            term=4,
            configuration=SimpleNamespace(
                member=lambda id_: SimpleNamespace(name="n2") if id_ == 2 else None
            ),
            configuration_index=9,
            settled=("configuration", 8),
            is_heard=lambda id_: id_ == 3,
            is_caught_up=lambda id_: id_ == 4,
        )
        self.driver = SimpleNamespace(raft=self.raft, readable_offset=5)
        self.proposed, self.forwarded = [], []
        self.replica = SimpleNamespace(
            driver=self.driver,
            leads=False,
            log=SimpleNamespace(seed=99),
            start=lambda: self.proposed.append("started"),
            propose=lambda *args: self.proposed.append(args),
            configuration="latest",
            has_leader=True,
            is_writable=True,
        )
        self.forwarder = SimpleNamespace(propose=self.forward, administer=self.forward)
        self.node = SimpleNamespace(name="n1", is_ending=False, forwarder=self.forwarder, elsewhere=None)
        self.log = ServedLog(self.node, "orders", 7, monotonic=lambda: 0.0)
        self.patch(served_log, "reads_of", lambda replica: None)
        self.log.host(self.replica)
        self.proposed.clear()

    def forward(self, *args):
        self.forwarded.append((args, Deferred()))
        return self.forwarded[-1][1]

    def test_what_it_is(self):
        """It is what its replica is."""
        log = self.log
        self.assertEqual((log.seed, log.configuration, log.configuration_index), (99, "latest", 9))
        self.assertEqual((log.settled, log.member_id, log.leader_id), (("configuration", 8), 1, 2))
        self.assertEqual((log.has_leader, log.is_writable), (True, True))
        self.assertEqual([log.is_heard(id_) for id_ in (3, 4)], [True, False])
        self.assertEqual([log.is_caught_up(id_) for id_ in (3, 4)], [False, True])

    def test_leader(self):
        """The leader by name, as far as the configuration knows it."""
        for leader, name in ((2, "n2"), (1, "n1"), (3, ""), (0, "")):
            self.raft.leader = leader
            self.assertEqual(self.log.leader_name, name)

    def test_append(self):
        """A follower passes it on and tells how that ends; the leader, or who has no way out, does it."""
        told = []
        passed_on = self.log.propose("p", told.append, told.append)
        [(args, done)] = self.forwarded
        self.assertIs(passed_on, done)
        self.assertEqual((args, self.proposed), (("n2", 7, "p"), []))
        done.callback("appended")
        self.log.propose("q", told.append, told.append)
        error = UnavailableError("x")
        self.forwarded[1][1].errback(error)
        self.assertEqual(told, ["appended", error])
        for change in ({"leads": True}, {"leads": False, "driver": None}):
            vars(self.replica).update(change)
            self.assertIsNone(self.log.propose("r", 1, 2))
        self.replica.driver, self.node.forwarder = self.driver, None
        self.log.propose("r", 1, 2)
        self.assertEqual((self.proposed, len(self.forwarded)), ([("r", 1, 2)] * 3, 2))

    def test_answer_that_raises(self):
        """A caller that fails over its answer is logged, and harms nobody."""
        events = []
        self.patch(ServedLog, "logger", Logger(observer=events.append))
        self.log.propose("p", lambda outcome: 1 // 0, None)
        self.forwarded[0][1].callback("appended")
        self.assertEqual(len(events), 1)

    def test_orders(self):
        """An order is carried out here by the leader, else passed on once, or refused."""
        here = []
        self.patch(self.log, "administer_here", lambda order: here.append(order) or succeed(1))
        self.log.administer(ORDER)
        self.assertEqual((self.forwarded[0][0], here), (("n2", 7, ORDER), []))
        self.raft.leader = 1
        self.successResultOf(self.log.administer(ORDER))
        self.replica.driver = None
        self.successResultOf(self.log.administer(ORDER))
        self.assertEqual(here, [ORDER, ORDER])
        self.replica.driver = self.driver
        for leader, forwarder in ((0, self.forwarder), (2, None)):
            self.raft.leader, self.node.forwarder = leader, forwarder
            error = self.failureResultOf(self.log.administer(ORDER), UnavailableError).value
            self.assertIn("no leader is known; nothing was done", str(error))
        self.assertEqual(len(self.forwarded), 1)

    def test_tick(self):
        """A tick of time is one of the replica, and of administration once there is a driver."""
        ticks = []
        self.replica.tick = lambda: ticks.append("replica")
        self.replica.disk_room = SimpleNamespace(look=lambda: ticks.append("room"))
        self.replica.stop = lambda: ticks.append("stop")
        self.log.administration = SimpleNamespace(
            tick=lambda: ticks.append("orders"), stop=lambda: ticks.append("no orders")
        )
        self.log.tick()
        self.replica.driver = None
        self.log.tick()
        self.log.look()
        self.log.stop()
        self.assertEqual(ticks, ["replica", "orders", "replica", "room", "stop", "no orders"])

    def test_waiting(self):
        """What is readable is waited for no longer."""
        self.successResultOf(self.log.wait_for(4))
        self.assertNoResult(self.log.wait_for(5))


class GateTests(SynchronousTestCase):
    """Who may ask for what."""

    def setUp(self):
        self.now = 10.0
        self.allowed = {("root", "*", "admin"), ("root", "default", "produce"), ("ann", "orders", "consume")}
        self.asked = []
        authorizer = SimpleNamespace(
            permits=self.permits,
            permits_anything=lambda subject: subject in {"root", "ann"},
            permits_on_any=lambda subject, action: any(
                (subject, action) == (one[0], one[2]) for one in self.allowed
            ),
            permits_some=lambda subject, log: any((subject, log) == one[:2] for one in self.allowed),
            check_anything=self.asked.append,
        )
        self.node = SimpleNamespace(log=lambda name: SimpleNamespace(name=f"log {name}", group=7))
        self.gate = Gate(self.node, authorizer, clock=lambda: self.now)

    def permits(self, subject, object_, action):
        self.asked.append((subject, object_, str(action)))
        return (subject, object_, str(action)) in self.allowed

    def who(self, subject):
        return Identity(subject=subject, expires_at=20.0)

    def test_permission(self):
        """The policy is asked; a stranger's invented logs are refused without."""
        self.gate.check_permission(self.who("ann"), "orders", Action.CONSUME)
        self.assertEqual(self.asked, [("ann", "orders", "consume")])
        for subject, object_, action, is_asked in (
            ("ann", "orders", Action.PRODUCE, True),
            ("ann", "other", Action.CONSUME, True),
            ("eve", "orders", Action.CONSUME, False),
            ("eve", "default", Action.CONSUME, True),
        ):
            self.asked.clear()
            error = self.assertRaises(
                PermissionDeniedError, self.gate.check_permission, self.who(subject), object_, action
            )
            self.assertIn(subject, str(error))
            self.assertEqual(bool(self.asked), is_asked, (subject, object_))

    def test_anything(self):
        """No action: any permission will do."""
        self.gate.check_permission(self.who("eve"), "*", None)
        self.assertEqual(self.asked, ["eve"])

    def test_expiry(self):
        """A certificate counts up to the moment at which it expires."""
        self.now = 19.9
        self.gate.check_permission(self.who("ann"), "orders", Action.CONSUME)
        self.now = 20.0
        self.assertRaisesRegex(
            UnauthenticatedError,
            "the certificate of 'ann' has expired",
            self.gate.check_permission,
            self.who("ann"),
            "orders",
            Action.CONSUME,
        )

    def test_record_sizes(self):
        """A record has a size of the node's, or a smaller one of its log's."""
        gate = Gate(self.node, self.gate.authorizer, clock=lambda: 0.0, record_size_max=50)
        for own, size_max in ((0, 50), (49, 49), (51, 50)):
            self.assertEqual(gate.record_size_max_of(SimpleNamespace(record_size_max=own)), size_max)

    def test_callers(self):
        """Who is looked at anew with each request may be refused whatever the policy says."""

        def check(identity):
            raise IdentityError("denied")

        gate = Gate(self.node, self.gate.authorizer, clock=lambda: 0.0, check_caller=check)
        self.assertRaises(IdentityError, gate.check_permission, self.who("root"), "*", Action.ADMIN)

    def test_any_log(self):
        """Before the request is read: what is allowed on any log, or on the cluster, may go on."""
        for subject, action, is_allowed in (
            ("root", Action.PRODUCE, True),
            ("root", Action.ADMIN, True),
            ("root", Action.CONSUME, True),  # as an administrator: the catalogue
            ("root", Action.MANAGE, True),
            ("ann", Action.CONSUME, True),  # of `orders`
            ("ann", Action.MANAGE, False),
            ("eve", Action.CONSUME, False),
            ("eve", Action.PRODUCE, False),
            ("eve", Action.ADMIN, False),
        ):
            if is_allowed:
                self.gate.check_any_log(self.who(subject), action)
            else:
                self.assertRaises(PermissionDeniedError, self.gate.check_any_log, self.who(subject), action)
        self.allowed.add(("ann", "*", "consume"))  # of every log
        self.gate.check_any_log(self.who("ann"), Action.CONSUME)
        self.assertRaises(PermissionDeniedError, self.gate.check_any_log, self.who("ann"), Action.PRODUCE)

    def test_logs(self):
        """The permission comes before the log; a name has a size."""
        found = self.gate.find_log(self.who("ann"), "orders", Action.CONSUME, 7)
        self.assertEqual(found.name, "log orders")
        self.assertEqual(self.gate.find_log(self.who("root"), "", Action.PRODUCE).name, "log ")
        self.assertEqual(self.asked[-1], ("root", "default", "produce"))
        name = "n" * NAME_SIZE_MAX
        self.assertRaises(PermissionDeniedError, self.gate.find_log, self.who("ann"), name, Action.CONSUME)
        error = self.assertRaises(
            InvalidRequestError, self.gate.find_log, self.who("ann"), f"{name}n", Action.CONSUME
        )
        self.assertIn(f"has {NAME_SIZE_MAX + 1} characters; at most {NAME_SIZE_MAX}", str(error))

    def test_another_log_of_that_name(self):
        """Who knows the log's number is not given another one that has its name by now."""
        error = self.assertRaises(
            UnknownLogError, self.gate.find_log, self.who("ann"), "orders", Action.CONSUME, 8
        )
        self.assertEqual(error.name, "orders")

    def test_describe(self):
        """The catalogue is on the members of the default log; of other logs, it says what they are."""
        here = [ReplicaState(node=name, member=id_, is_leader=id_ == 1, is_alive=True)
                for id_, name in ((1, "n1"), (2, "n2"))]  # fmt: skip
        settings = LogSettings(replicas=2, retention_bytes=70)
        default = LogDescription(
            name="default", group=1, epoch=3, settings=settings, replicas=tuple(here), leader="n1"
        )
        self.node.log = lambda name: SimpleNamespace(name=name, group=2, leader_name="n2")
        self.node.log_administration = SimpleNamespace(
            describe=lambda name: succeed(default if name == "default" else name)
        )
        self.assertEqual(self.successResultOf(gates.describe_log(self.node, "orders")), "orders")
        found = self.successResultOf(gates.describe_log(self.node, "_catalog"))
        self.assertEqual((found.name, found.group, found.epoch, found.leader), ("_catalog", 2, 0, "n2"))
        self.assertEqual(found.settings, LogSettings(replicas=2))
        told = [(one.node, one.member, one.is_leader, one.is_alive) for one in found.replicas]
        self.assertEqual(told, [("n1", 1, False, True), ("n2", 2, True, True)])

    def test_the_catalogue(self):
        """Who administers the cluster may read the catalogue; nobody changes it, whatever the rules say."""
        self.allowed |= {("ann", "_catalog", action) for action in ("consume", "produce", "manage")}
        self.gate.check_permission(self.who("root"), "_catalog", Action.CONSUME)
        for subject, action in (
            ("ann", Action.CONSUME),
            ("ann", Action.PRODUCE),
            ("ann", Action.MANAGE),
            ("root", Action.PRODUCE),
            ("root", Action.MANAGE),
            ("root", Action.ADMIN),
        ):
            self.assertRaises(
                PermissionDeniedError, self.gate.check_permission, self.who(subject), "_catalog", action
            )
        self.assertEqual([self.gate.may_see(self.who(s), "_catalog") for s in ("root", "ann")], [True, False])

    def test_management(self):
        """A log is managed by whoever has a rule for that, and by who administers the cluster."""
        self.allowed.add(("ann", "orders", "manage"))
        for log in ("default", "orders", "other"):
            self.gate.check_permission(self.who("root"), log, Action.MANAGE)
        self.gate.check_permission(self.who("ann"), "orders", Action.MANAGE)
        for log in ("default", "other"):
            self.assertRaises(
                PermissionDeniedError, self.gate.check_permission, self.who("ann"), log, Action.MANAGE
            )

    def test_what_may_be_seen(self):
        """A log is seen by whoever may do anything with it, and by who administers the cluster."""
        seen = [self.gate.may_see(self.who(subject), "orders") for subject in ("root", "ann", "eve")]
        self.assertEqual(seen, [True, True, False])
        self.assertFalse(self.gate.may_see(self.who("ann"), "other"))

    def test_alone(self):
        """What belongs to a whole entry makes one of its own, with all that it has."""
        share = SimpleNamespace(payload=b"p", payload_crc=3, record_count=2)
        plain = {"attributes": 0, "expect_offset": None, "producer_id": 0, "producer_sequence": 0}
        self.assertIsNone(proposal_alone(share, "ann", **plain))
        for fields in ({"attributes": 1}, {"expect_offset": 0}, {"producer_id": 5, "producer_sequence": 6}):
            given = plain | fields
            proposal = proposal_alone(share, "ann", **given)
            self.assertEqual({name: getattr(proposal, name) for name in given}, given)
            self.assertEqual((proposal.payload, proposal.payload_crc), (b"p", 3))
            self.assertEqual((proposal.record_count, proposal.subject), (2, "ann"))

    def test_refusals(self):
        """A refusal is told as it is; of a bug its caller learns no more than that, the diagnostics all."""
        events = []
        self.patch(gates, "_logger", Logger(observer=events.append))
        error = UnavailableError("x")
        self.assertIs(refusal_of(error, "asked", may_be_done=True), error)
        self.assertEqual(events, [])
        for may_be_done, kind in ((True, OutcomeUnknownError), (False, UnavailableError)):
            told = refusal_of(ValueError("secret"), "an append", may_be_done=may_be_done)
            self.assertIs(type(told), kind)
            self.assertEqual(str(told), UNEXPECTED)
            event = events.pop()
            self.assertEqual(
                (event["asked"], event["log_failure"].getErrorMessage()), ("an append", "secret")
            )


class AddressBookTests(SynchronousTestCase):
    """The address book on a disk that may be full."""

    def setUp(self):
        self.written, self.fatal, self.running = [], [], []
        directory = SimpleNamespace(write_members=self.written.append, read_members=lambda: b"read")
        disk = SimpleNamespace(run=self.run_later)
        self.book = AddressBookFile(directory, disk, self.fatal.append)

    def run_later(self, *job, fatal):
        self.running.append((*job, fatal))

    def end(self, error=None):
        work, done, failed, fatal = self.running.pop(0)
        try:
            done(work()) if error is None else failed(error)
        except OSError as raised:
            fatal(raised)

    def test_written(self):
        """Who wrote hears when it is durable."""
        done = []
        self.book.write(b"1", lambda: done.append(1))
        self.assertEqual(done, [])
        self.end()
        self.assertEqual((self.written, done, self.book.read()), ([b"1"], [1], b"read"))
        self.book.look()
        self.assertEqual(self.running, [])

    def test_full(self):
        """Without room it goes on without, and the newest is written once there is some."""
        done = []
        self.book.write(b"1", lambda: done.append(1))
        self.book.write(b"2", lambda: done.append(2))
        self.end(DiskFullError("d"))
        self.assertEqual(done, [1])
        self.end(DiskFullError("d"))
        self.book.look()
        self.end()
        self.assertEqual((self.written, done, self.fatal), ([b"1"], [1, 2], []))
        self.book.look()
        self.assertEqual(self.running, [])

    def test_newer(self):
        """What was written meanwhile is not written over by what had no room before."""
        self.book.write(b"1", lambda: None)
        self.end(DiskFullError("d"))
        self.book.write(b"2", lambda: None)
        self.end()
        self.book.look()
        self.assertEqual((self.written, self.running), ([b"2"], []))

    def test_broken(self):
        """Any other failure ends the process."""
        self.book.write(b"1", lambda: None)
        self.end(OSError(5, "broken"))
        [failure] = self.fatal
        self.assertIsInstance(failure, Failure)


class NoOthersTests(SynchronousTestCase):
    """A node that is alone."""

    def test_nobody(self):
        """There is nobody, nowhere, and nothing is sent."""
        others = NoOthers()
        self.assertIsNone(others.send_raft(None))
        self.assertIs(others.send("n2", None, 1), False)
        self.assertEqual((others.servers(), others.present(), others.strangers()), ((), (), ()))
        self.assertEqual((others.address_of(None), others.version_of(None)), ("", ""))
        self.assertIsNone(others.liveness_of(None))
        self.assertEqual(AdminResult(), AdminResult(name="", number=0, matches=()))


class PageTests(SynchronousTestCase):
    """Pages of a list of logs."""

    def test_pages(self):
        """A page holds what comes behind a name and may be seen, and says whether there is more."""
        logs = [
            LogDescription(name=name, group=1, epoch=0, settings=LogSettings(), replicas=())
            for name in ("c", "a", "d", "b")
        ]
        for after, count_max, hidden, expected in (
            ("", 2, "", ("ab", "b")),
            ("", 2, "a", ("bc", "c")),
            ("", 2, "ad", ("bc", "")),
            ("b", 5, "", ("cd", "")),
            ("d", 5, "", ("", "")),
            ("", 5, "abcd", ("", "")),
        ):
            page, following = page_of(logs, after, count_max, lambda name, hidden=hidden: name not in hidden)
            self.assertEqual(("".join(log.name for log in page), following), expected)


class ServersTests(SynchronousTestCase):
    """Which servers hold a log."""

    def test_servers(self):
        """Those that are known, in the log's order, as voters; who leads is alive."""
        servers = [
            DescribedServer(name=f"n{id_}", address=f"n{id_}:1", role=MemberRole.LEARNER, is_leader=True)
            for id_ in (1, 2, 3, 4)
        ]
        replicas = (
            ReplicaState(node="n3", member=1),
            ReplicaState(node="n9", member=2, is_alive=True),
            ReplicaState(node="n2", member=3, is_alive=True),
            ReplicaState(node="n1", member=4),
        )
        log = LogDescription(
            name="a", group=16, epoch=1, settings=LogSettings(), replicas=replicas, leader="n3"
        )
        self.assertEqual(
            [(one.name, one.role, one.is_leader, one.is_alive) for one in servers_of(log, servers)],
            [
                ("n3", MemberRole.VOTER, True, True),
                ("n2", MemberRole.VOTER, False, True),
                ("n1", MemberRole.VOTER, False, False),
            ],
        )
