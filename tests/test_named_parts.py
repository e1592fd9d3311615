"""The parts behind named logs one by one: what a node hosts by its catalogue, and each log's first steps."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import (
    CataloguedLog,
    LogAltered,
    LogCreated,
    LogDeleted,
    LogPlaced,
    LogSettings,
    PlacedReplica,
    Span,
    encode_record,
)
from loghouse.errors import (
    ConsensusError,
    DamageError,
    DataDirectoryError,
    DiskFullError,
    EntryDamagedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.node import served_log
from loghouse.node.hosted_logs import HostedLogs
from loghouse.node.named_logs import NamedLogs, configuration_of
from loghouse.node.served_log import ServedLog
from loghouse.protocol.configuration import Birth, Configuration, Member, MemberRole, Retention
from loghouse.replica.api import LogBounds
from tests.test_catalogue_log import PlayedLog, node_set

UUID = b"1" * 16


def placed(member, node, disk_uuid=UUID):
    return PlacedReplica(member=member, node=node, disk_uuid=disk_uuid)


def created(name, group, *replicas):
    span = Span(group=group, replicas=replicas)
    return LogCreated(at=44, by="root", name=name, settings=LogSettings(), spans=(span,))


class FakeServed:
    """A log that notes what becomes of it."""

    def __init__(self, name, group):
        self.name, self.group = name, group
        self.replica = self.catalogued = None
        self.stands = self.stands_again = 0

    def placed(self, log):
        self.catalogued = log

    def stand(self):
        self.stands += 1

    def stand_again(self):
        self.stands_again += 1

    def unhost(self):
        self.replica = None


class FakeCatalogueServed(PlayedLog, FakeServed):
    """The catalogue's log as it is served."""

    def __init__(self, name, group):
        PlayedLog.__init__(self)
        FakeServed.__init__(self, name, group)


class FakeHosted:
    """Notes which logs are to be opened, closed and buried."""

    def __init__(self):
        self.opens, self.closed, self.buried, self.looks, self.released = [], [], [], [], []
        self.damaged = {}
        self.sizes = {}  # of the logs on the disk
        self.measured = None  # tells the answer to `measure`
        self.is_busy = False

    def open(self, group, first, opened, *, name):
        self.opens.append((group, first, opened))

    def close(self, log):
        self.closed.append(log)

    def bury(self, group, log):
        if not self.is_busy:
            self.buried.append((group, log))
        return not self.is_busy

    @property
    def idle(self):
        return set() if self.is_busy else set(self.sizes)

    def release(self, group, log):
        del self.sizes[group]
        self.released.append((group, log))

    def measure(self, known, measured):
        sizes = {group: size for group, size in self.sizes.items() if group not in known}
        self.measured = lambda: measured(sizes)

    def look(self, now):
        self.looks.append(now)


class NamedCase(SynchronousTestCase):
    """Node n1, in whose default log the catalogue may be born."""

    def setUp(self):
        self.clock, self.hosted, self.changes, self.forgotten = Clock(), FakeHosted(), [], []
        self.raft = SimpleNamespace(birth=None)
        self.bounds = []
        self.membership = FakeServed("default", 1)
        self.membership.driver = SimpleNamespace(raft=self.raft)
        self.membership.bounds = lambda: self.bounds.append(1) or succeed(LogBounds(lowest=0, next_offset=0))
        self.node = SimpleNamespace(
            name="n1",
            disk_uuid=UUID,
            is_ending=False,
            forwarder=None,
            membership=self.membership,
            serve=self.serve,
            forget=self.forgotten.append,
            host=self.host,
        )
        self.served, self.events = {}, []
        self.patch(NamedLogs, "logger", Logger(observer=self.events.append))
        self.named = NamedLogs(self.node, self.hosted, scheduler=self.clock, changed=self.changes.append)
        self.addCleanup(self.named.stop)

    def serve(self, name, group):
        made = FakeCatalogueServed if group == 2 else FakeServed
        self.served[group] = made(name, group)
        return self.served[group]

    def host(self, served, opened):
        served.replica = SimpleNamespace(log=opened.log)

    def born(self, *founders):
        members = tuple(
            Member(id=1, name=name, disk_uuid=uuid, role=MemberRole.VOTER) for name, uuid in founders
        )
        configuration = Configuration(members=members, next_id=2)
        self.raft.birth = Birth(group=2, index=3, timestamp=33, configuration=configuration)
        self.named.look_for_birth()
        return configuration

    def add(self, record):
        self.served[2].add(encode_record(record))

    def open(self, at=-1, last_index=1):
        """Tell of an open log; returns it."""
        log = SimpleNamespace(last_index=last_index)
        self.hosted.opens[at][2](SimpleNamespace(log=log))
        return log


class BirthTests(NamedCase):
    """The catalogue begins with its birth in the default log."""

    def test_none(self):
        """Nothing is served before, nor on a node that stops."""
        self.named.look_for_birth()
        driver, self.membership.driver = self.membership.driver, None
        self.born(("n1", UUID))
        self.membership.driver, self.node.is_ending = driver, True
        self.named.look_for_birth()
        self.assertEqual((self.served, self.named.log), ({}, None))
        self.node.is_ending = False
        self.named.look_for_birth()
        self.named.look_for_birth()
        self.assertEqual((self.served[2].name, len(self.hosted.opens)), ("_catalog", 1))

    def test_founders(self):
        """A founder begins with the birth's entry; another node, or another disk, with nothing."""
        configuration = self.born(("n1", UUID))
        self.assertEqual(self.hosted.opens[0][:2], (2, (configuration, 33)))
        self.open()
        self.assertEqual(self.served[2].stands, 0)
        self.named.look(1.0, 2.0)
        self.assertEqual(len(self.hosted.opens), 1)

    def test_others(self):
        """Another node, or one with another disk, begins with nothing; what failed is tried again."""
        self.born(("n2", UUID), ("n1", b"2" * 16))
        self.assertEqual(self.hosted.opens[0][:2], (2, None))
        self.named.look(1.5, 2.0)
        self.assertEqual([group for group, _, _ in self.hosted.opens], [2, 2])
        self.assertEqual(self.hosted.looks, [1.5])

    def test_find_out(self):
        """A node finds out once which logs there are, one question at a time, and asks again after errors."""
        answers = []
        self.membership.bounds = lambda: answers.append(Deferred()) or answers[-1]
        self.node.is_ending = True
        self.named.find_out()
        self.assertEqual(answers, [])
        self.node.is_ending = False
        self.named.find_out()
        self.named.find_out()
        self.assertEqual((len(answers), self.named.knows_all), (1, False))
        answers[0].errback(UnavailableError("no leader"))
        self.assertFalse(self.named.knows_all)
        self.named.look(1.0, 2.0)
        self.assertEqual((len(answers), self.hosted.looks), (2, []))
        answers[1].callback(None)
        self.assertTrue(self.named.knows_all)
        self.named.find_out()
        self.assertEqual(len(answers), 2)

    def test_catch_up(self):
        """Who catches up finds the birth, and what the catalogue says."""
        configuration = Configuration()
        self.raft.birth = Birth(group=2, index=3, timestamp=33, configuration=configuration)
        self.patch(FakeCatalogueServed, "bounds", lambda log: fail(UnavailableError("no leader")))
        done = Deferred.fromCoroutine(self.named.catch_up())
        self.failureResultOf(done, UnavailableError)
        self.assertFalse(self.named.knows_all)
        self.assertIsNotNone(self.named.log)

    def test_look(self):
        """Each second the catalogue is followed and kept short; not by a node that stops."""
        self.born(("n1", UUID))
        looks = []
        self.patch(self.named.log, "look", looks.append)
        self.named.look(1.0, 2.5)
        self.assertEqual((looks, len(self.changes)), ([2_500_000], 1))
        self.assertIs(self.changes[0], self.named.log.catalogue)
        self.node.is_ending = True
        self.named.look(2.0, 3.5)
        self.assertEqual((looks, self.hosted.looks, len(self.changes)), ([2_500_000], [1.0], 1))


class FollowTests(NamedCase):
    """What the catalogue says is served, and hosted where it is placed."""

    def setUp(self):
        super().setUp()
        self.born(("n1", UUID))
        self.hosted.opens.clear()
        self.served[2].replica = SimpleNamespace(log=None)
        self.add(node_set("n1"))

    def test_first(self):
        """The first of a log's founders stands for election, where the log has just begun."""
        self.add(created("a", 16, placed(1, "n1"), placed(2, "n2")))
        [(group, first, _)] = self.hosted.opens
        self.assertEqual((group, first[1]), (16, 44))
        self.assertEqual([(one.id, one.name) for one in first[0].members], [(1, "n1"), (2, "n2")])
        log = self.open()
        self.assertIs(self.served[16].replica.log, log)
        self.assertEqual((self.served[16].stands, self.served[16].catalogued.name), (1, "a"))
        self.named.look(1.0, 2.0)
        self.assertEqual(len(self.hosted.opens), 1)
        self.add(created("b", 17, placed(1, "n1"), placed(2, "n2")))
        self.open(last_index=2)
        self.assertEqual((self.served[17].stands, len(self.changes)), (0, 4))
        self.assertEqual([self.served[group].stands_again for group in (16, 17)], [0, 1])
        self.assertIs(self.served[17].replica is None, False)

    def test_others(self):
        """Another founder does not stand; who is none begins with nothing, or has no copy at all."""
        self.add(created("a", 16, placed(1, "n2"), placed(2, "n1")))
        self.assertIsNotNone(self.hosted.opens[0][1])
        self.open()
        self.assertEqual(self.served[16].stands, 0)
        self.add(created("b", 17, placed(1, "n2"), placed(2, "n1", b"2" * 16)))
        self.assertEqual((len(self.hosted.opens), self.served[17].catalogued.group), (1, 17))
        self.add(LogPlaced(group=17, replicas=(placed(1, "n2"), placed(3, "n1"))))
        group, first, _ = self.hosted.opens[1]
        self.assertEqual((group, first), (17, None))
        self.open()
        self.assertEqual(self.served[17].stands, 0)

    def test_default(self):
        """The default log is told what the catalogue says of it, and never opened by it."""
        self.add(created("default", 1, placed(1, "n1")))
        self.add(created("a", 16, placed(1, "n1")))
        self.assertEqual(self.membership.catalogued.name, "default")
        self.assertEqual([group for group, _, _ in self.hosted.opens], [16])
        self.add(LogAltered(group=1, settings=LogSettings(retention_bytes=9)))
        self.assertEqual(self.membership.catalogued.settings.retention_bytes, 9)

    def test_deleted(self):
        """A deleted log is forgotten, and put away as soon as its group is not busy."""
        self.add(created("a", 16, placed(1, "n1")))
        log, served = self.open(), self.served[16]
        self.hosted.is_busy = True
        self.events.clear()
        self.add(LogDeleted(group=16))
        self.assertEqual((self.forgotten, self.hosted.buried), ([served], []))
        self.assertEqual([event["name"] for event in self.events], ["a"])
        self.hosted.is_busy = False
        for _ in range(2):
            self.named.look(1.0, 2.0)
        self.assertEqual(
            (self.hosted.buried, self.forgotten, self.hosted.closed), ([(16, log)], [served], [])
        )
        self.add(created("b", 17, placed(1, "n2")))
        self.add(LogDeleted(group=17))
        self.assertEqual(self.hosted.buried[1:], [(17, None)])

    def test_strays(self):
        """What is gone without a tombstone is closed, and stays."""
        catalogue = self.named.log.catalogue
        self.add(created("a", 16, placed(1, "n1")))
        log = self.open()
        self.add(created("b", 17, placed(1, "n2")))
        catalogue.logs.clear()
        catalogue.names.clear()
        for _ in range(2):
            self.named.look(1.0, 2.0)
        self.assertEqual((self.hosted.closed, self.hosted.buried), ([log], []))
        self.assertEqual(len(self.forgotten), 2)

    def test_deleted_meanwhile(self):
        """A log that is deleted while it is opened is closed again; so it is where the node stops."""
        self.add(created("a", 16, placed(1, "n1")))
        self.add(LogDeleted(group=16))
        first = self.open()
        self.add(created("b", 17, placed(1, "n1")))
        self.node.is_ending = True
        second = self.open()
        self.assertEqual(self.hosted.closed, [first, second])
        self.assertEqual((self.served[17].replica, self.served[17].stands), (None, 0))

    def test_configuration(self):
        """A log begins with its founders as voters."""
        self.assertEqual(
            configuration_of((placed(1, "n1"), placed(2, "n2"))),
            Configuration(
                members=(
                    Member(id=1, name="n1", disk_uuid=UUID, role=MemberRole.VOTER),
                    Member(id=2, name="n2", disk_uuid=UUID, role=MemberRole.VOTER),
                ),
                next_id=3,
            ),
        )


class FailTests(NamedCase):
    """Logs that are damaged, or contradict their group."""

    def setUp(self):
        super().setUp()
        self.born(("n1", UUID))
        self.add(created("a", 16, placed(1, "n1")))
        self.log, self.stops, self.noting, self.has_last_words = object(), [], [], True
        self.served[16].replica = self.served[2].replica = SimpleNamespace(
            log=self.log, last_words=self.last_words, stop=lambda: self.stops.append(1)
        )

    def last_words(self, error, done):
        self.noting.append((error, done))
        return self.has_last_words

    def test_ends_the_process(self):
        """A disk that fails, the catalogue, and what is not hosted here are the node's to fail of."""
        damage = EntryDamagedError("damaged")
        self.assertIs(self.named.fail(16, DiskFullError("full")), False)
        self.assertIs(self.named.fail(2, damage), False)
        self.assertIs(self.named.fail(17, damage), False)
        self.served[16].replica = None
        self.assertIs(self.named.fail(16, damage), False)
        self.assertEqual((self.noting, self.stops, self.hosted.closed), ([], [], []))

    def test_last_words(self):
        """A log that notes what it lost is closed behind that, and may be opened again."""
        error = DamageError("/f", 5, "damaged")
        self.events.clear()
        self.assertIs(self.named.fail(16, error), True)
        [(noted, done)] = self.noting
        self.assertIs(noted, error)
        self.assertEqual((self.hosted.closed, self.hosted.damaged, self.stops), ([], {}, []))
        self.assertIsNone(self.served[16].replica)
        done(error)
        self.assertEqual(self.hosted.closed, [self.log])
        [event] = self.events
        self.assertEqual((event["name"], event["error"]), ("a", str(error)))
        self.assertEqual(event["log_format"], "log {name} is closed: {error}")

    def test_nobody_can_mend(self):
        """One that nobody could mend is stopped, closed, and stays so."""
        self.has_last_words = False
        self.assertIs(self.named.fail(16, ConsensusError("contradicts")), True)
        self.assertEqual((self.hosted.closed, self.stops), ([self.log], [1]))
        self.assertEqual(self.hosted.damaged, {16: "contradicts"})
        self.assertIsNone(self.served[16].replica)


class ServedCase(SynchronousTestCase):
    """A log as it is served, with a replica that the test plays."""

    def setUp(self):
        self.calls, self.leaders = [], []
        self.node = SimpleNamespace(
            name="n1", is_ending=False, forwarder=None, elsewhere=None, leader_known=self.leaders.append
        )
        self.log = ServedLog(self.node, "orders", 7, monotonic=lambda: 0.0)
        self.patch(served_log, "reads_of", lambda replica: None)
        self.replica = SimpleNamespace(
            driver=SimpleNamespace(
                stand=self.note("stand"), is_asleep=False, raft=SimpleNamespace(vote=2, id=1)
            ),
            damage_control=SimpleNamespace(tick=self.note("damage")),
            log=SimpleNamespace(seed=9),
            leads=True,
            has_leader=False,
            configuration=Configuration(retention=Retention(size_max=1)),
            disk_room=SimpleNamespace(look=self.note("room")),
            tick=lambda: None,
            start=lambda: None,
            stop=self.note("stop"),
            receive=lambda envelope, *, is_member: self.calls.append((envelope, is_member)),
            change_configuration=self.note("configuration"),
        )
        self.log.administration = SimpleNamespace(
            tick=lambda: None, stop=self.note("no orders"), look_at_hand_over=self.note("hand over")
        )

    def note(self, what):
        return lambda *args: self.calls.append((what, *args) if args else what)

    def settings(self, **changed):
        replicas = (placed(1, "n1"),)
        return CataloguedLog(
            name="orders",
            settings=LogSettings(**changed),
            spans=(Span(group=7, replicas=replicas),),
            epoch=1,
            next_member=2,
            created_at=1,
            founders=replicas,
        )


class ServedTests(ServedCase):
    """A log as it is served, from its first steps to its end."""

    def test_stand(self):
        """The first replica of a new log stands, and ten ticks long again, until there is a leader."""
        self.log.host(self.replica)
        self.log.stand()
        self.assertEqual(self.calls, ["stand"])
        for _ in range(20):
            self.log.tick()
        self.assertEqual(self.calls, ["stand"] * 11)
        self.log.stand()
        self.log.tick()
        self.calls.clear()
        self.replica.has_leader = True
        self.log.tick()
        self.replica.has_leader = False
        self.log.tick()
        self.assertEqual(self.calls, [])
        self.replica.driver = None
        self.log.stand()
        self.log.tick()
        self.assertEqual(self.calls, [])

    def test_receive(self):
        """Who sends a message is a member, unless it is said otherwise."""
        self.log.receive("early")
        self.log.host(self.replica)
        self.log.receive("a")
        self.log.receive("b", is_member=False)
        self.assertEqual(self.calls, [("a", True), ("b", False)])

    def test_settings(self):
        """The leader has the log keep what the catalogue says, once."""
        self.log.host(self.replica)
        self.log.look()
        self.log.placed(self.settings(retention_bytes=5, retention_seconds=6))
        self.replica.leads = False
        self.log.look()
        self.assertEqual(self.calls, ["room", "room"])
        self.replica.leads = True
        self.calls.clear()
        self.log.look()
        kept = Configuration(retention=Retention(size_max=5, age_max_seconds=6))
        self.assertEqual(self.calls, ["room", ("configuration", kept)])
        self.replica.configuration = kept
        self.calls.clear()
        self.log.look()
        self.assertEqual(self.calls, ["room"])

    def test_not_here(self):
        """Why nothing can be asked of a log without a copy, in words; and when it was deleted."""
        told = []

        def refusal():
            self.log.propose_here(None, None, told.append)
            return str(told.pop()), str(self.failureResultOf(self.log.bounds()).value)

        text = "this node has not joined its cluster yet; "
        self.assertEqual(refusal(), (f"{text}nothing was appended", f"{text}try another node"))
        self.log.placed(self.settings())
        text = "this node has no copy of log orders; "
        self.assertEqual(refusal(), (f"{text}nothing was appended", f"{text}try another node"))
        waiting = self.log.wait_for(3)
        self.log.host(self.replica)
        self.log.retire()
        self.assertEqual((self.calls, self.log.replica), (["stop", "no orders"], None))
        self.assertEqual(refusal(), ("no log named 'orders' on this cluster",) * 2)
        self.failureResultOf(waiting, UnknownLogError)
        self.failureResultOf(self.log.wait_for(3), UnknownLogError)

    def test_leader_known(self):
        """The node is told when the log has a leader, not when it has lost it."""
        for leader in (0, 3):
            self.log.role_changed(SimpleNamespace(leader=leader))
        self.assertEqual((self.leaders, self.calls), ([7], ["hand over", "hand over"]))

    def test_waits_here(self):
        """Who has a copy asks nobody else to wait, and who has none, does."""
        self.patch(type(self.log._remote), "reads", SimpleNamespace(wait_for=lambda offset: succeed(offset)))
        self.assertEqual(self.successResultOf(self.log.wait_for(3)), 3)
        self.log.host(self.replica)
        self.replica.driver.readable_offset = 3
        self.assertNoResult(self.log.wait_for(3))
        self.assertIsNone(self.successResultOf(self.log.wait_for(2)))

    def test_release(self):
        """Who waits when the node stops is told where to go on."""
        waiting = self.log.wait_for(3)
        self.log.release_waiters()
        error = self.failureResultOf(waiting, UnavailableError).value
        self.assertEqual(str(error), "the node is stopping; go on at another node")


class Lane:
    """Does its work at once, as a lane does it later."""

    def __init__(self):
        self.error = None

    def run(self, work, done=lambda _: None, failed=None, *, fatal):
        if self.error is None:
            done(work())
        else:
            failed(self.error)


class HostedTests(SynchronousTestCase):
    """What of logs' files fails, and when dead ones are removed."""

    def setUp(self):
        self.lane, self.wall, self.removed, self.events, self.born = Lane(), 10_000.9, [], [], []
        lanes = SimpleNamespace(lane=lambda number: self.lane)
        self.patch(HostedLogs, "logger", Logger(observer=self.events.append))
        self.hosted = HostedLogs(
            None, None, lanes, wall=lambda: self.wall, fatal=self.fail, keep_deleted_seconds=60.0
        )

    def remove_gone(self, before):
        self.removed.append(before)
        return [f"gone-16-{before}"]

    def test_clean(self):
        """Dead logs are looked for each hour, once any log was born here."""
        self.hosted.look(0.0)
        self.hosted._groups = SimpleNamespace(remove_gone=self.remove_gone)
        for now in (0.5, 3600.4, 3600.5):
            self.hosted.look(now)
            self.assertEqual(self.removed, [9940] * (2 if now == 3600.5 else 1), now)
        self.assertEqual([event["name"] for event in self.events], ["gone-16-9940"] * 2)

    def test_errors(self):
        """A full disk is tried again; a log that is damaged or dead stays closed; other errors are raised."""
        self.lane.error = DiskFullError("full")
        self.hosted.open(16, None, self.fail)
        self.assertEqual((self.hosted.damaged, self.events), ({}, []))
        for group, error in ((16, DamageError("/f", 5, "damaged")), (17, DataDirectoryError("died here"))):
            self.lane.error = error
            self.hosted.open(group, None, self.fail)
            self.assertEqual(self.hosted.damaged[group], str(error))
            event = self.events.pop()
            self.assertEqual((event["group"], event["error"]), (group, str(error)))
            self.assertEqual(event["log_format"], "log {group} stays closed: {error}")
        self.lane.error = ValueError("broken")
        self.hosted.open(16, None, self.fail)
        self.assertRaises(ValueError, self.hosted.open, 18, None, self.fail)
        self.assertRaises(ValueError, self.hosted.bury, 18, None)
