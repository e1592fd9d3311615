"""`Node` by itself: what it does at its start and stop, and which of its logs it gives what to."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, succeed
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DirectoryInUseError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.node.options import NoOthers
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import Configuration, Retention
from loghouse.protocol.forward_messages import ForwardReply
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.replica.damage import LogRepair
from tests.test_node import NodeTestCase

UUID = b"u" * 16


class FakeLog:
    """A log that notes what is asked of it; `settled` fires when its appends have their outcomes."""

    def __init__(self, leader_name=""):
        self.calls = []
        self.leader_name = leader_name
        self.settled = Deferred()
        self.has_leader = self.is_writable = True
        self.has_last_words, self.noting = False, []
        self.replica = SimpleNamespace(
            damage_control=SimpleNamespace(message_received=self.note("repair")),
            stop=self.note("replica stops"),
            last_words=self.last_words,
            log=SimpleNamespace(close=self.note("closed")),
        )
        raft = SimpleNamespace(leader_link_lost=self.note("leader lost"), leader=0, id=1)
        self.driver = SimpleNamespace(raft=raft, is_asleep=False, is_at_rest=False)
        self.is_asleep, self.is_hosted = False, True
        self.configuration, self.placed_names = Configuration(), ()
        for name in ("tick", "look", "release_waiters", "stop"):
            setattr(self, name, self.note(name))

    def note(self, what):
        return lambda *args: self.calls.append((what, *args) if args else what)

    def last_words(self, error, done):
        self.noting.append(done)
        return self.has_last_words

    def when_idle(self):
        return self.settled

    def taken(self):
        """What was asked since the last call."""
        calls, self.calls[:] = list(self.calls), []
        return calls


class RetentionTests(NodeTestCase):
    """What node.yaml says of retention counts for a new cluster alone."""

    def warnings(self):
        return [event["log_format"] for event in self.events if "node.yaml keeps" in event["log_format"]]

    def start_with(self, retention):
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        node = self.start(retention=retention)
        node.leader_known(1)  # again
        globalLogPublisher.removeObserver(self.events.append)
        self.stop(node)

    def test_pointed_out(self):
        """Another value at a later start is pointed out once; none, or the same, is not."""
        self.start_with(Retention(size_max=1000))
        self.assertEqual(self.warnings(), [])
        self.start_with(Retention(size_max=1000))
        self.assertEqual(self.warnings(), [])
        self.start_with(Retention())
        self.assertEqual(self.warnings(), [])
        self.start_with(Retention(size_max=2000, age_max_seconds=60))
        self.assertEqual(len(self.warnings()), 1)
        [event] = [event for event in self.events if "node.yaml keeps" in event["log_format"]]
        self.assertEqual((event["wanted"], event["kept"]), ("2000 bytes and 60 seconds", "1000 bytes"))
        self.assertEqual(str(Retention()), "everything")


class LogsCase(NodeTestCase):
    """A node that serves two logs, which the test plays; it is not alone."""

    def setUp(self):
        super().setUp()
        self.node = self.start()
        self.first, self.second = FakeLog("n2"), FakeLog("n3")
        self.patch(self.node, "logs", {1: self.first, 7: self.second})
        self.told = []
        self.forwarder = SimpleNamespace(
            message_received=lambda *args: self.told.append(args),
            link_lost=self.told.append,
            stop=lambda: self.told.append("stop"),
        )

    def both(self):
        return [self.first.taken(), self.second.taken()]


class LogsTests(LogsCase):
    """What each log is given."""

    def test_time(self):
        """Every log ticks as often as the settings say, and is looked after each second, in its own phase."""
        looks = []
        self.patch(self.node.address_book, "look", lambda: looks.append(self.clock.seconds()))
        tick = self.node.options.tick_seconds
        self.clock.advance(tick)
        self.assertEqual(self.both(), [["tick"], []])
        self.clock.advance(tick / 2)
        self.assertEqual(self.both(), [[], ["tick"]])
        self.clock.pump([tick / 2] * round(2 * (1.9 - 1.5 * tick) / tick))
        for calls in self.both():
            self.assertLess(abs(calls.count("tick") - (1.9 / tick - 1)), 1.5)
            self.assertEqual(calls.count("look"), 1)
        self.assertEqual(len(looks), 1)

    def test_messages(self):
        """Repairs go to the log that they are of; the rest is a forwarded request, or the answer to one."""
        request, reply = EntriesRequest.__new__(EntriesRequest), EntriesReply.__new__(EntriesReply)
        other = ForwardReply(request_id=1, base_offset=0, record_count=1, timestamp=1, index=1, term=1)
        self.node.message_received("n2", other, 1)  # a node alone has asked nobody
        self.node.forwarder = self.forwarder
        self.node.message_received("n2", request, 7)
        self.node.message_received("n3", reply, 1)
        self.node.message_received("n2", request, 9)
        expected = [[("repair", "n3", reply)], [("repair", "n2", request)]]
        self.assertEqual((self.both(), self.told), (expected, []))
        self.second.replica = None
        self.node.message_received("n2", request, 7)
        self.node.message_received("n2", other, 7)
        self.node.message_received("n2", other, 9)
        self.assertEqual(self.both(), [[], []])
        self.assertEqual(self.told, [("n2", other, 7, self.second), ("n2", other, 9, None)])

    def test_peer_lost(self):
        """Only where the node led is a leader lost; whoever it was owes answers that will not come."""
        self.node.peer_lost("n3")
        self.assertEqual(self.both(), [[], ["leader lost"]])
        self.node.forwarder = self.forwarder
        self.node.peer_lost("n2")
        self.node.peer_lost("n9")
        self.assertEqual((self.both(), self.told), ([["leader lost"], []], ["n2", "n9"]))
        self.first.driver = None
        self.node.peer_lost("n2")
        self.assertEqual(self.both(), [[], []])

    def test_serving(self):
        """A node serves while every log has a leader and a disk that takes appends."""
        for log in (self.first, self.second):
            for name in ("has_leader", "is_writable"):
                self.assertTrue(self.node.is_serving)
                setattr(log, name, False)
                self.assertFalse(self.node.is_serving)
                setattr(log, name, True)

    def test_settled(self):
        """It is settled when every log is, or when the time is over."""
        done = self.node.when_settled(2.0)
        self.first.settled.callback(None)
        self.assertNoResult(done)
        self.second.settled.callback(None)
        self.assertIsNone(self.successResultOf(done))
        self.second.settled = Deferred()
        late = self.node.when_settled(2.0)
        self.clock.advance(1.9)
        self.assertNoResult(late)
        self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(late))

    def test_waiters(self):
        """Who waits at the end of any log is told to go on elsewhere."""
        self.node.release_waiters()
        self.assertEqual(self.both(), [["release_waiters"]] * 2)

    def test_fatal(self):
        """The process ends once, for the first reason; replicas do nothing more."""
        first, second = Failure(OSError("first")), Failure(OSError("second"))
        self.node.fatal(first)
        self.node.fatal(second)
        self.assertEqual(self.fatal, [first])
        self.assertEqual(self.both(), [["replica stops"]] * 2)
        self.assertTrue(self.node.is_ending)

    def test_last_words(self):
        """Damage is noted on the disk first, so that the next start repairs it; then the process ends."""
        self.second.has_last_words = True
        self.node.fatal(Failure(DamageError("file", 0, "damaged")), 7)
        self.assertEqual((self.fatal, self.both()), ([], [[], []]))
        self.assertEqual(self.first.noting, [])
        [done] = self.second.noting
        done(OSError("noted"))
        [failure] = self.fatal
        self.assertEqual(str(failure.value), "noted")

    def test_fatal_before_joining(self):
        """So it is for a log of which there is no copy here yet."""
        self.first.replica = None
        self.node.fatal(Failure(OSError("gone")))
        self.assertEqual((len(self.fatal), self.both()), (1, [[], ["replica stops"]]))

    def test_stop(self):
        """A stop looks after nothing, waits for appends, then stops every log and closes it."""
        self.node.forwarder = self.forwarder
        stopping = self.node.stopService()
        self.assertTrue(self.node.is_ending)
        self.clock.advance(1.5)
        for calls in self.both():
            self.assertEqual(set(calls), {"tick"})
        for log in (self.first, self.second):
            self.assertNoResult(stopping)
            log.settled.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.both(), [["release_waiters", "stop", "closed"]] * 2)
        self.assertEqual((self.told, self.clock.getDelayedCalls()), (["stop"], []))

    def test_stop_in_time(self):
        """Appends that do not end are waited for as long as the settings say."""
        stopping = self.node.stopService()
        self.clock.advance(self.node.options.drain_seconds - 0.1)
        self.assertNoResult(stopping)
        self.clock.advance(0.1)
        self.successResultOf(stopping)

    def test_stop_of_a_broken_disk(self):
        """After a failed disk nothing is closed clean: what the disk holds is for the next start to see."""
        self.node.fatal(Failure(OSError("gone")))
        for log in (self.first, self.second):
            log.settled.callback(None)
        self.both()
        self.successResultOf(self.node.stopService())
        self.assertEqual(self.both(), [["release_waiters", "stop"]] * 2)

    def test_names(self):
        """A log is found by its name, the default log by none, too."""
        log = self.node.log("")
        self.assertIs(self.node.log("default"), log)
        self.assertIs(self.node.administration, log.administration)
        self.assertRaises(UnknownLogError, self.node.log, "orders")


class StartTests(NodeTestCase):
    """The start, and whose a disk becomes."""

    def make_queue(self, name, thread_count):
        self.thread_counts[name] = thread_count
        return super().make_queue(name, thread_count)

    def setUp(self):
        super().setUp()
        self.thread_counts = {}

    def test_alone(self):
        """A node alone makes a cluster of its own at the first start, and has it at the next."""
        node = self.start(address="h:1", grpc_address="h:2")
        uuids = node.cluster_uuid, node.disk_uuid
        self.assertEqual(len({*uuids, NO_UUID}), 3)
        self.assertEqual(self.thread_counts, {"loghouse-disk": 16, "loghouse-reader": 4})
        self.assertEqual([member.name for member in node.membership.configuration.members], ["node-1"])
        self.assertEqual(node.membership.configuration.members[0].disk_uuid, node.disk_uuid)
        self.assertEqual((node.is_in_cluster, node.is_ending, node.forwarder), (False, False, None))
        self.assertIsInstance(node.transport, NoOthers)
        for leads in (True, False):
            self.patch(node, "membership", SimpleNamespace(has_leader=leads))
            server = DescribedServer(name="node-1", address="h:1", grpc_address="h:2", is_leader=leads)
            self.assertEqual(node.servers(), (server,))
        self.stop(node)
        node = self.start()
        self.assertEqual((node.cluster_uuid, node.disk_uuid), uuids)

    def test_timestamp(self):
        """The first entry of a new group says when the cluster was made, in microseconds."""
        self.wall = 1234.5
        [first, *_] = self.start().membership.replica.log.entries(1, 2, 10_000)
        self.assertEqual(first.timestamp, 1_234_500_000)

    def test_joins(self):
        """One that joins others has a disk's name from the start on, and the same when it has joined."""
        node = self.start(is_alone=False)
        disk = node.disk_uuid
        self.assertEqual((node.cluster_uuid, node.membership.replica), (NO_UUID, None))
        self.assertNotEqual(disk, NO_UUID)
        self.assertFalse(node.is_in_cluster)
        node.join_cluster(UUID)
        self.assertEqual((node.cluster_uuid, node.disk_uuid), (UUID, disk))
        self.assertEqual(node.membership.configuration.members, ())
        self.stop(node)
        node = self.start(is_alone=False)
        self.assertEqual((node.cluster_uuid, node.disk_uuid), (UUID, disk))

    def test_begins(self):
        """One that begins a cluster for others is its only voter, under the disk that it said it has."""
        node = self.start(is_alone=False)
        disk = node.disk_uuid
        node.begin_cluster()
        self.assertEqual(len({node.cluster_uuid, node.disk_uuid, NO_UUID}), 3)
        [member] = node.membership.configuration.members
        self.assertEqual((member.name, member.disk_uuid, node.disk_uuid), ("node-1", disk, disk))

    def test_in_cluster(self):
        """A log with other members, or a damaged one that may have them, is of a cluster."""
        node = self.start()
        for members, damage, is_in_cluster in (
            ((), None, False),
            ((1,), None, False),
            ((1, 2), None, True),
            ((), "damage", True),
        ):
            replica = SimpleNamespace(configuration=SimpleNamespace(members=members), damage=damage)
            self.patch(node, "membership", SimpleNamespace(replica=replica))
            self.assertIs(node.is_in_cluster, is_in_cluster)

    def test_fails(self):
        """A start that fails, foreseen or not, lets the data directory go."""
        self.stop(self.start())
        for error in (UnavailableError("foreseen"), ZeroDivisionError()):

            def fail(repair, error=error):
                raise error

            with self.subTest(error=error):
                patch = self.patch(LogRepair, "open_log", fail)
                self.assertRaises(type(error), self.start)
                patch.restore()
                self.stop(self.start())

    def test_of_another(self):
        """A directory of another node or cluster is refused, claimed or not, and is free again."""
        self.stop(self.start())
        for names in ({"name": "node-2"}, {"cluster_name": "other"}):
            node = self.make(**names)
            [value] = names.values()
            for refuse in (node.claim, node.startService):
                error = self.assertRaises(DataDirectoryError, refuse)
                self.assertIn(value, str(error))
                self.assertFalse(node.running)
        self.start()

    def test_claimed(self):
        """A directory that is claimed is nobody else's until it is released."""
        self.stop(self.start())
        node, other = self.make(), self.make()
        node.claim()
        self.assertRaises(DirectoryInUseError, other.claim)
        node.release()
        node.release()
        other.claim()
        other.startService()
        self.finish(other.stopService())

    def test_segments(self):
        """Files that a claimed directory gets have the size of the settings, as those of any other start."""
        self.stop(self.start())
        sizes = []
        for claimed in (True, False):
            node = self.make(segment_size=1 << 17)
            if claimed:
                node.claim()
            node.startService()
            sizes.append(node._directory._segment_size)
            self.stop(node)
        self.assertEqual(sizes, [1 << 17] * 2)

    def test_reads_of_a_node_that_is_lost(self):
        """Who waits for what another node reads is told when the link with that one ends, not before."""
        node = self.start()
        node.attach(SimpleNamespace(servers=lambda: (), send=lambda *args: True))
        asked = [node.elsewhere.reads.bounds(name, 7) for name in ("n2", "n3")]
        node.peer_lost("n2")
        self.assertIn("was lost", str(self.failureResultOf(asked[0], UnavailableError).value))
        self.assertNoResult(asked[1])
        node.peer_lost("n3")
        self.failureResultOf(asked[1], UnavailableError)

    def test_others(self):
        """Once it has a way to others, these are the servers, and requests may be passed on that way."""
        node = self.start()
        sent = []
        checked = node.check_subject
        self.assertIsNone(checked("anybody", "default"))
        transport = SimpleNamespace(
            servers=lambda: ("n1", "n2"), send=lambda *args: sent.append(args) or False
        )
        node.attach(transport)
        self.assertEqual((node.servers(), node.transport), (("n1", "n2"), transport))
        order = SimpleNamespace(operation=1, name="", number=0)
        self.failureResultOf(node.forwarder.administer("n2", 1, order), UnavailableError)
        self.assertEqual(sent[0][0], "n2")


class DoneTests(NodeTestCase):
    """What is asked of a node that has nothing to do."""

    def test_settled(self):
        """It is settled at once."""
        node = self.start()
        self.patch(node, "logs", {1: SimpleNamespace(when_idle=lambda: succeed(None))})
        self.successResultOf(node.when_settled(1.0))
        self.patch(node, "logs", {})
        self.successResultOf(node.when_settled(1.0))
