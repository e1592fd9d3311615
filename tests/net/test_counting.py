"""What is counted of connections, without any: bytes of gRPC callers, links, and known hosts."""

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import Identity
from loghouse.limits import ADDRESSES_KNOWN_MAX, KIB, QUIET_SIZE_MAX
from loghouse.net import admission as admission_module
from loghouse.net.admission import limits_for
from loghouse.net.appending import Appends
from loghouse.net.binary_server import describe
from loghouse.net.callers import ANSWER_OVERHEAD, MESSAGE_OVERHEAD, STEP, Callers
from loghouse.net.link import LinkWatch
from loghouse.net.listener import NO_TLS_ALERT, Listener
from loghouse.protocol.configuration import MemberRole
from loghouse.shares import Shares
from tests.fakes.node import FakeNode
from tests.net.test_admission import AdmissionCase


class Ticket:
    """A place among the connections: notes whose it becomes."""

    def __init__(self):
        self.noted = []

    def identify(self, subject, *, is_node, has_rule):
        self.noted.append((subject, is_node, has_rule))


class CallerTests(SynchronousTestCase):
    """Bytes that a gRPC client sent, and that no call has received yet."""

    def setUp(self):
        self.bodies = Shares().bodies
        self.callers = Callers(self.bodies)
        self.dropped = []
        self.ticket = Ticket()
        self.caller = self.callers.add(self.ticket, lambda: self.dropped.append(1))
        self.went_on = []
        self.caller.go_on = lambda: self.went_on.append(1)

    def identified(self):
        self.caller.identify(Identity(subject="root", expires_at=0.0), has_rule=True)
        return self.caller

    @property
    def charged(self):
        return self.bodies.held_by("root")

    def test_found_by_its_name(self):
        """Each is found by the address that gRPC gives it, until it is gone; no two have one name."""
        other = self.callers.add(Ticket(), lambda: None)
        self.assertNotEqual(self.caller.name, other.name)
        self.assertEqual(self.caller.name.rsplit("-", 1)[1], "1")
        self.assertIs(self.callers.find(f"unix-abstract:{self.caller.name}"), self.caller)
        self.assertIsNone(self.callers.find("unix:"))
        self.caller.closed()
        self.caller.closed()
        self.assertIsNone(self.callers.find(f"unix-abstract:{self.caller.name}"))
        self.assertIs(self.callers.find(f"unix-abstract:{other.name}"), other)

    def test_identity(self):
        """Its first call makes it a client's, of a subject with rules or without."""
        self.assertIsNone(self.caller.identity)
        identity = Identity(subject="root", expires_at=0.0)
        self.caller.identify(identity, has_rule=False)
        self.assertEqual((self.ticket.noted, self.caller.identity), ([("root", False, False)], identity))

    def test_charged_in_steps(self):
        """The first 64 KiB are free; beyond them whole steps are charged, until few are left."""
        caller = self.identified()
        caller.call_begun()
        caller.read_begun()
        for size, charged in ((STEP, 0), (1, STEP), (STEP - 1, STEP), (1, 2 * STEP)):
            self.assertEqual(caller.pass_on(size), size)
            self.assertEqual(self.charged, charged)
        unread = 2 * STEP + 1
        size = unread - STEP - MESSAGE_OVERHEAD - (STEP >> 8)
        caller.delivered(size - 300)
        self.assertEqual(self.charged, 2 * STEP)
        caller.delivered(50)
        self.assertEqual(self.charged, 0)

    def test_overhead(self):
        """A message counts with its headers and frames; a piece that was sent explains what comes back."""
        self.assertEqual((MESSAGE_OVERHEAD, ANSWER_OVERHEAD, STEP), (256, 128, 64 * KIB))
        for release in (lambda caller: caller.delivered(512), lambda caller: caller.sent(642 << 8)):
            caller = self.identified()
            caller.call_begun()
            caller.read_begun()
            caller.pass_on(STEP + 770)
            self.assertEqual(self.charged, STEP)
            release(caller)  # 512 + 2 + 256, and 642 + 128
            self.assertEqual(self.charged, 0)
            caller.pass_on(1)
            self.assertEqual(self.charged, STEP, "exactly the step was left")
            caller.call_ended()

    def test_without_a_call(self):
        """Without a call nothing is unread: after the last one all is given back, and so it is at the end."""
        caller = self.identified()
        caller.pass_on(STEP)
        self.assertEqual((self.charged, caller.has_calls), (0, False))
        for end in (caller.call_ended, caller.closed):
            for _ in range(2):
                caller.call_begun()
            caller.read_begun()
            self.assertTrue(caller.has_calls)
            caller.pass_on(3 * STEP)
            self.assertEqual(self.charged, 3 * STEP)
            caller.read_ended()
            caller.call_ended()
            self.assertEqual(self.charged, 3 * STEP)
            end()
            self.assertEqual((self.charged, caller.has_calls), (0, False))

    def test_more_than_its_share(self):
        """Beyond the share of its subject the connection is cut."""
        caller = self.identified()
        caller.call_begun()
        caller.read_begun()
        caller.pass_on(self.bodies.quota.share)
        self.assertEqual((self.dropped, self.charged), ([], self.bodies.quota.share))
        caller.pass_on(STEP + 1)
        self.assertEqual((self.dropped, self.charged), ([1], self.bodies.quota.share))

    def test_quiet(self):
        """Without a call that reads, only so many bytes pass; a sign lets as many pass again."""
        caller = self.identified()
        self.assertEqual(caller.pass_on(QUIET_SIZE_MAX - 1), QUIET_SIZE_MAX - 1)
        caller.note_sign()
        self.assertEqual((caller.pass_on(QUIET_SIZE_MAX + 5), self.went_on), (QUIET_SIZE_MAX, []))
        self.assertEqual(caller.pass_on(5), 0)
        for sign in (caller.note_sign, caller.call_begun, caller.read_begun):
            before = len(self.went_on)
            sign()
            self.assertEqual(len(self.went_on), before + 1)
            sign()
            self.assertEqual(len(self.went_on), before + 1)
            caller.read_ended() if sign == caller.read_begun else None
            if sign != caller.read_begun:
                self.assertEqual(caller.pass_on(QUIET_SIZE_MAX), QUIET_SIZE_MAX)
        self.assertEqual(caller.pass_on(10 * QUIET_SIZE_MAX), 10 * QUIET_SIZE_MAX)

    def test_a_single_byte(self):
        """One byte is explained as well as many; with a call whose bytes are all received nothing changes."""
        self.caller.pass_on(1)
        self.caller.sent(0)
        self.assertEqual(self.caller.pass_on(2 * QUIET_SIZE_MAX), QUIET_SIZE_MAX)
        caller = self.identified()
        caller.call_begun()
        caller.delivered(10)
        caller.sent(10)
        caller.read_begun()
        caller.pass_on(STEP)
        self.assertEqual(self.charged, 0)

    def test_answers_explain_bytes(self):
        """What is sent explains bytes that come back without a call, but not those of one that is held."""
        caller = self.caller
        caller.sent(0)
        caller.pass_on(1000)
        caller.sent(256 * 100)
        left = QUIET_SIZE_MAX - (1000 - 100 - 128)
        self.assertEqual(caller.pass_on(QUIET_SIZE_MAX), left)
        caller.sent(256 * 10_000)
        self.assertEqual(caller.pass_on(1), 0)


class AnyLink:
    """A link, of a node or of a client."""

    def __init__(self, *, is_of_node):
        self.is_of_node = is_of_node


class WatchTests(SynchronousTestCase):
    """Waiting until links have ended."""

    def test_of_clients_and_of_nodes(self):
        """Who waits for the links of clients does not wait for those of nodes; who waits for all does."""
        watch = LinkWatch(Clock())
        client, other, node = (AnyLink(is_of_node=is_of_node) for is_of_node in (False, False, True))
        for link in (client, other, node):
            watch.add(link)
        clients, everybody = watch.when_empty(nodes_too=False), watch.when_empty()
        for link, fired in ((client, [False, False]), (other, [True, False]), (node, [True, True])):
            watch.remove(link)
            self.assertEqual([clients.called, everybody.called], fired)
        self.assertTrue(watch.when_empty().called)

    def test_only_nodes_are_left(self):
        """With links of nodes alone, nobody waits for those of clients."""
        watch = LinkWatch(Clock())
        node = AnyLink(is_of_node=True)
        watch.add(node)
        self.assertEqual((watch.when_empty(nodes_too=False).called, watch.when_empty().called), (True, False))
        watch.remove(node)

    def test_gone(self):
        """Who does not wait any more is not told."""
        watch = LinkWatch(Clock())
        link = AnyLink(is_of_node=False)
        watch.add(link)
        waiting, staying = watch.when_empty(), watch.when_empty()
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        watch.remove(link)
        self.assertTrue(staying.called)


class KnownTests(AdmissionCase):
    """Hosts from which somebody with a certificate came."""

    def test_the_last_ones(self):
        """So many are known, the ones seen last: who comes again is as good as new."""
        self.patch(admission_module, "ADDRESSES_KNOWN_MAX", 2)
        for number in (1, 2, 1, 3):
            ticket = self.enter(f"10.0.0.{number}")
            ticket.identify(f"client-{number}", is_node=False)
            ticket.close()
        self.assertEqual(list(self.admission._known), ["10.0.0.1", "10.0.0.3"])
        self.assertGreater(ADDRESSES_KNOWN_MAX, limits_for(1000).clients_max // 1000)

    def test_closed_twice(self):
        """A place is given back once."""
        ticket = self.enter("10.0.0.1")
        ticket.identify("root", is_node=False)
        for _ in range(2):
            ticket.close()
        self.assertEqual(
            (self.admission.all, self.admission.clients.held, self.admission.strangers), (0, 0, 0)
        )


class AnswerTests(SynchronousTestCase):
    """What is told and held, piece by piece."""

    def test_describe(self):
        """A node tells its cluster, itself, its logs, and each server with all that is known of it."""
        shown = {"address": "h1:1", "grpc_address": "h1:2", "role": MemberRole.LEARNER, "is_alive": False}
        node = FakeNode(name="n7", **shown)
        reply = describe(node)
        self.assertEqual(
            (reply.cluster_uuid, reply.cluster_name, reply.node_name, reply.logs),
            (bytes(range(16)), "c1", "n7", ((1, "default"),)),
        )
        (server,) = reply.servers
        self.assertEqual((server.name, server.is_leader), ("n7", True))
        self.assertEqual({name: getattr(server, name) for name in shown}, shown)

    def test_a_batch_that_comes(self):
        """A batch counts from its first byte on, beside those that are not answered."""
        bodies = Shares().bodies
        appender = SimpleNamespace(bodies=bodies, scheduler=Clock())
        appends = Appends(appender, None, None, "root")
        for unanswered in (0, 1 << 20):
            appends._size = unanswered
            appends.expect(3 << 20)
            self.assertGreaterEqual(bodies.held_by("root"), unanswered + (3 << 20) - 64 * KIB)
        appends.close()
        self.assertEqual(bodies.held, 0)

    def test_full_port(self):
        """A port of which every place is taken accepts nothing until one is free; it says so once."""
        steps = []
        limits = SimpleNamespace(is_full=False, all=3)
        listener = Listener(None, None, limits, None)
        listener.connection_lost(None)  # nothing was paused
        listener.port = SimpleNamespace(
            stopReading=lambda: steps.append("stop"), startReading=lambda: steps.append("start")
        )
        listener.connection_lost(None)
        self.assertEqual(steps, [])
        for _ in range(2):
            listener._pause()
        self.assertEqual(steps, ["stop"])
        limits.is_full = True
        listener.connection_lost(None)
        self.assertEqual(steps, ["stop"])
        limits.is_full = False
        for _ in range(2):
            listener.connection_lost(None)
        self.assertEqual(steps, ["stop", "start"])
        listener.port = None
        listener._pause()
        listener.connection_lost(None)

    def test_listener(self):
        """Without callers of its own a listener has none; it says nothing of each connection by itself."""
        callers = Callers(Shares().bodies)
        self.assertIs(Listener(None, None, None, None, callers).callers, callers)
        self.assertIsNone(Listener(None, None, None, None).callers.find("unix:"))
        self.assertFalse(Listener.noisy)
        self.assertEqual(NO_TLS_ALERT.hex(), "15030300020246")
