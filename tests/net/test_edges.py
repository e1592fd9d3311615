"""The edges of links, splices and the port, one at a time: what happens late, twice, or not at all."""

import errno
import os
import socket
from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import Identity
from loghouse.errors import ConfigError, IdentityError, NotSupportedError, ProtocolError
from loghouse.limits import QUIET_SECONDS_MAX, QUIET_SIZE_MAX
from loghouse.net import accept as accept_module
from loghouse.net import link as link_module
from loghouse.net import listener as listener_module
from loghouse.net import one_port, private_directory, splice
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.net.callers import STEP, Callers
from loghouse.net.link import Link, LinkTimes
from loghouse.net.one_port import OnePort, OnePortOptions, connections_allowed, take_address
from loghouse.net.private_directory import PrivateDirectory, _is_ours
from loghouse.net.splice import SpliceFront, SpliceTarget
from loghouse.protocol.client_messages import Bounds
from loghouse.protocol.link_messages import Ping
from loghouse.protocol.session import RequestReceived
from loghouse.shares import Shares
from tests.net import test_accepting_parts as accepting
from tests.net.in_memory import Transport, hello_of
from tests.net.test_admission import AdmissionCase
from tests.net.test_link_parts import LinkCase, NotingLink


class LateLinkTests(LinkCase):
    """A link that has no session yet, is full, closes, or is gone."""

    def test_without_a_session(self):
        """Before it greets it is nobody's, and what comes is not read."""
        link = self.make(tls=object(), is_greeted=False)
        link.dataReceived(b"x")
        self.assertEqual((link.is_of_node, link.peer_name, link.events), (False, "192.0.2.7", []))

    def test_nothing_by_itself(self):
        """What becomes of a link is its subclass's: it greets, turns away and acts on events itself."""
        link = Link(self.watch, LinkTimes(), None)
        for call in (link.greet, link.turn_away, link.event_received):
            self.assertRaises(NotImplementedError, call, None)
        self.assertIsNone(link.check_identity(None))

    def test_written_when_it_is_empty_again(self):
        """What was queued while it was full leaves when it is not."""
        link = self.make()
        link.pauseProducing()
        link.session.ping(7)
        link.resumeProducing()
        self.assertEqual([kind for kind, _ in self.transport.take_frames()], [Ping.KIND])
        link.stopProducing()
        self.assertFalse(link.is_writable)

    def test_gone(self):
        """Once the connection is gone nothing is written, kept or closed."""
        link = self.make()
        link._write([bytes(2 << 20)], 2 << 20)
        link.session.ping(7)
        link.connectionLost(Failure(ConnectionDone()))
        link.flush()
        link.close()
        self.assertEqual((self.transport.value(), self.transport.take_calls()), (b"", []))
        self.assertEqual((len(link._unsent), link.is_writable), (0, False))

    def test_greeting_is_not_silence(self):
        """Who still greets is not asked for a sign of life."""
        link = NotingLink(self.watch, times=LinkTimes(greeting=50, silence=5))
        transport = Transport()
        link.makeConnection(transport)
        transport.clear()
        link.check_deadlines(self.clock.seconds() + 6)
        self.assertEqual(transport.take_frames(), [])

    def test_held_requests(self):
        """Requests that were held back are taken once, and not once the link closes or is gone."""
        for end, count in ((None, 1), ("close", 0), ("connectionLost", 0)):
            link = self.make()
            taken = []
            link.session.go_on = lambda taken=taken: taken.append(1) or []
            before = len(self.clock.getDelayedCalls())
            for _ in range(2):
                link._go_on(link.session)
            self.assertEqual(len(self.clock.getDelayedCalls()), before + 1)
            if end:
                getattr(link, end)()
            self.clock.advance(0)
            self.assertEqual(len(taken), count, end)
            link._go_on(link.session)
            self.clock.advance(0)
            self.assertEqual(len(taken), 2 * count)

    def test_held_half_a_frame(self):
        """The time of a frame that is incomplete begins when what was held before it is taken."""
        for size, since in ((3, 1000), (0, None)):
            link = self.make()
            with patch.object(type(link.session.frames), "pending_size", size):
                link._partial_since = 5
                link._take_held(link.session)
            self.assertEqual(link._partial_since, since)

    def test_held_broken_rule(self):
        """A rule that a held request breaks ends the link as if it had just come."""
        link = self.make()

        def go_on():
            error = ProtocolError("no such thing")
            link.session.fail(error)
            raise error

        link.session.go_on = go_on
        link._take_held(link.session)
        self.assertEqual((self.errors(), link.problem), (["no such thing"], "no such thing"))
        self.assertEqual(self.transport.take_calls(), ["no producer", "lose"])

    def test_watch_fails(self):
        """A bug while deadlines are looked at is in the diagnostics."""
        said = []
        self.watch.logger = SimpleNamespace(failure=lambda *what: said.append(what))
        link = self.make()

        def fail(now):
            raise ValueError("a bug")

        link.check_deadlines = fail
        self.clock.advance(1)
        [(text, failure)] = said
        self.assertEqual((text, failure.type), ("watching links", ValueError))

    def test_handshake(self):
        """The certificate is read from this link's transport, and its identity is looked at."""
        made = []
        identity = Identity(subject="root", expires_at=0.0)

        def shown(contexts, transport):
            made.append((contexts, transport))
            return SimpleNamespace(identity=identity)

        self.patch(link_module, "ShownCertificate", shown)
        tls = object()
        link = self.make(tls=tls, is_greeted=False)

        def refuse(one):
            raise IdentityError(f"{one.subject} is nobody")

        link.check_identity = refuse
        link.handshakeCompleted()
        self.assertEqual(made, [(tls, self.transport)])
        self.assertEqual((link.turned_away, link.greeted), (["root is nobody"], []))


class AcceptedTests(accepting.PortCase):
    """Accepted links and connections."""

    make = accepting.LinkTests.make

    def test_node_asks_for_more(self):
        """A node that asks for anything but a description is refused, should its session let that through."""
        link = self.make(hello=hello_of("n2"))
        refused = []
        link.session = SimpleNamespace(
            refuse=lambda stream, error: refused.append((stream, type(error), str(error)))
        )
        link.event_received(RequestReceived(request=Bounds(), group=1, stream=3))
        self.assertEqual(refused, [(3, NotSupportedError, "nodes may only describe")])

    def test_nameless(self):
        """A client without a subject is known by its host."""
        link = self.make("")
        link._shown = SimpleNamespace(identity=Identity(subject="", expires_at=0.0))
        self.assertEqual(link.peer_name, "2001:db8::7")

    def test_gone_before_it_greeted(self):
        """The cluster hears nothing of a link that never greeted."""
        self.make("").connectionLost()
        self.assertEqual((self.peers.lost, self.ticket.closed), ([], 1))

    def test_certified(self):
        """The session compares the Hello with the names of the certificate, and asks who may come."""
        made = []

        def session(hello, **fields):
            made.append(fields)
            return SimpleNamespace(bytes_to_send=list, state=None, is_held=False, peer=None)

        self.patch(accept_module, "Session", session)
        link = self.make("")
        certified = object()
        link.greet(certified)
        self.assertEqual(made, [{"is_dialler": False, "certified": certified, "admit": link._admit}])

    def test_gone_before_it_began(self):
        """A connection that ends before its ClientHello has no deadline any more."""
        connection = self.accept()
        connection.connectionLost()
        self.assertEqual((self.reactor.getDelayedCalls(), self.admission.all), ([], 0))
        self.assertEqual(listener_module.ACCEPTS_PER_TURN, 4)


class PlaceTests(AdmissionCase):
    """Places of strangers and of nodes."""

    def test_counted(self):
        """A stranger that makes room is counted."""
        for _ in range(3):
            self.enter("10.0.0.1")
        self.assertEqual((len(self.dropped), self.metrics.count("stranger_dropped")), (1, 1))

    def test_rules(self):
        """Rules are for clients: one is taken to have some, and a node needs none."""
        admission = Admission(ConnectionLimits(per_client_max=9, per_node_max=6))
        for is_node, fields in ((False, {}), (True, {"has_rule": False})):
            for _ in range(6):
                admission.enter("10.0.0.1").identify("one", is_node=is_node, **fields)
        self.assertEqual((admission.clients.held, admission.nodes.held), (6, 6))


class CountingTests(SynchronousTestCase):
    """Calls of a gRPC connection, several at once."""

    def setUp(self):
        self.bodies = Shares().bodies
        self.caller = Callers(self.bodies).add(SimpleNamespace(identify=lambda *what, **fields: None), None)
        self.caller.identify(Identity(subject="root", expires_at=0.0), has_rule=True)

    def test_several_read(self):
        """Bytes pass as long as one of several calls awaits a message."""
        caller = self.caller
        for _ in range(2):
            caller.call_begun()
            caller.read_begun()
        caller.read_ended()
        self.assertEqual(caller.pass_on(5 * QUIET_SIZE_MAX), 5 * QUIET_SIZE_MAX)
        caller.read_ended()
        self.assertEqual(caller.pass_on(5 * QUIET_SIZE_MAX), QUIET_SIZE_MAX)
        caller.read_begun()
        self.assertEqual(caller.pass_on(QUIET_SIZE_MAX + 1), QUIET_SIZE_MAX + 1)

    def test_nobody_reads_on(self):
        """A sign of a call of a connection that has no splice yet is nothing; one call is a call."""
        caller = self.caller
        caller.pass_on(QUIET_SIZE_MAX)
        caller.call_begun()
        self.assertTrue(caller.has_calls)
        caller.call_ended()
        self.assertFalse(caller.has_calls)

    def test_closed(self):
        """What comes behind the end is not charged to anybody."""
        caller = self.caller
        caller.call_begun()
        caller.read_begun()
        caller.pass_on(3 * STEP)
        caller.closed()
        self.assertEqual((self.bodies.held, caller._unread), (0, 0))


class SpliceTests(SynchronousTestCase):
    """A splice whose gRPC server is played by the test."""

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.connections = []
        self.patch(splice, "_Connector", self.connector)
        self.passed, self.sent, self.calls = [], [], []
        self.room = 10**9
        self.caller = SimpleNamespace(
            name="c-1",
            go_on=None,
            has_calls=False,
            pass_on=self.pass_on,
            sent=self.sent.append,
            note_sign=lambda: self.calls.append("sign"),
            closed=lambda: self.calls.append("closed"),
        )
        self.front = SpliceFront(self.reactor, "/grpc", b"first", self.caller)
        self.errors = []
        self.front.logger = SimpleNamespace(error=lambda *what, **fields: self.errors.append(fields))
        self.client = Transport()
        self.front.makeConnection(self.client)

    def connector(self, path, name, factory, reactor):
        self.assertEqual((path, name, reactor), ("/grpc", "c-1", self.reactor))
        return SimpleNamespace(connect=lambda: self.connections.append(factory))

    def pass_on(self, size):
        passed = min(size, self.room)
        self.room -= passed
        self.passed.append(passed)
        return passed

    def connect(self):
        """Let the gRPC server accept; returns its end."""
        target = self.connections[0].buildProtocol(None)
        self.server = Transport()
        target.makeConnection(self.server)
        return target

    def test_connected(self):
        """The client is not read until the server accepted; what came before goes first, counted."""
        self.assertFalse(self.connections[0].noisy)
        self.assertEqual(splice.CONNECT_SECONDS_MAX, 30)
        self.assertEqual(self.client.take_calls(), ["pause"])
        self.front.dataReceived(b" and more")
        self.assertEqual(self.passed, [])
        target = self.connect()
        self.assertIsInstance(target, SpliceTarget)
        self.assertEqual((self.server.value(), self.passed), (b"first and more", [14]))
        self.assertEqual(self.client.take_calls(), [("producer", True), "resume"])
        for transport in (self.client, self.server):
            self.assertGreater(transport.bufferSize, 65_536)
        target.dataReceived(b"back")
        self.assertEqual((self.client.value(), self.sent), (b"back", [4]))

    def test_gone_before(self):
        """A client that is gone is not connected any more; a server that refuses cuts off who is there."""
        self.front.connectionLost()
        self.connect()
        self.assertEqual((self.server.take_calls(), self.calls), (["abort"], ["closed"]))
        self.client.take_calls()
        refused = Failure(ConnectionDone())
        self.connections[0].clientConnectionFailed(None, refused)
        self.assertEqual(self.client.take_calls(), [])
        self.assertEqual(self.errors, [{"reason": refused.getErrorMessage()}])
        self.setUp()
        self.connections[0].clientConnectionFailed(None, refused)
        self.assertEqual(self.client.take_calls(), ["pause", "abort"])

    def hold(self, room):
        """Let the client send ten bytes, of which so many may pass."""
        self.connect()
        self.server.clear()
        self.client.take_calls()
        self.room = room
        self.front.dataReceived(b"0123456789")

    def test_held(self):
        """Bytes beyond what may pass wait, and the client is not read, until a call begins."""
        self.hold(4)
        self.assertEqual((self.server.value(), self.client.take_calls()), (b"0123", ["pause"]))
        self.front.dataReceived(b"ab")
        self.assertEqual(self.server.value(), b"0123")
        self.room = 100
        self.caller.go_on()
        self.assertEqual((self.server.value(), self.client.take_calls()), (b"0123456789ab", ["resume"]))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.caller.go_on()
        self.assertEqual(self.client.take_calls(), [])

    def test_all_held(self):
        """When nothing may pass nothing is written; a part that still may not is held again."""
        self.hold(0)
        self.assertEqual(self.server.sizes[1:], [])
        self.room = 1
        self.caller.go_on()
        self.assertEqual(
            (self.server.value(), self.client.take_calls()), (b"0", ["pause", "resume", "pause"])
        )
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)

    def test_held_long(self):
        """Without a call they wait 5 s, then the client is cut off; beside open calls they go on."""
        self.hold(4)
        self.client.take_calls()
        self.reactor.advance(QUIET_SECONDS_MAX - 0.1)
        self.assertEqual((self.client.take_calls(), self.calls), ([], []))
        self.reactor.advance(0.1)
        self.assertEqual((self.client.take_calls(), self.calls), (["abort"], []))
        self.front.connectionLost()
        self.caller.go_on()
        self.setUp()
        self.caller.has_calls = True
        self.hold(4)
        self.client.take_calls()
        self.reactor.advance(QUIET_SECONDS_MAX)
        self.assertEqual((self.client.take_calls(), self.calls), ([], ["sign"]))
        self.caller.go_on()  # its deadline is over already
        self.assertEqual(self.client.take_calls(), ["resume", "pause"])

    def test_lost_while_held(self):
        """The deadline goes with the client; nothing is read on."""
        self.hold(4)
        self.client.take_calls()
        self.front.connectionLost()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.caller.go_on()
        self.assertEqual((self.client.take_calls(), self.server.value()), ([], b"0123"))
        self.assertEqual(self.server.take_calls()[-1], "lose")

    def test_half_closed_and_lost(self):
        """The deadline of a half-closed splice goes with either end, and is over once."""
        target = self.connect()
        target.readConnectionLost()
        self.assertEqual(self.client.take_calls()[-1], "lose write")
        target.connectionLost()
        target.connectionLost()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.setUp()
        target = self.connect()
        target.readConnectionLost()
        self.reactor.advance(30)
        target.connectionLost()
        self.assertEqual(self.client.take_calls()[-2:], ["no producer", "lose"])


class OnePortTests(SynchronousTestCase):
    """The port of a node, bound and listening in memory."""

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.node = SimpleNamespace(
            name="n1", cluster_name="c1", cluster_uuid=b"c" * 16, disk_uuid=b"1" * 16, logs={}, servers=tuple
        )
        self.peers, self.authorizer, self.soon = object(), object(), lambda work: None
        self.shares = Shares()
        self.options = OnePortOptions(tls=None, anonymous="root", record_size_max=77)
        self.port = OnePort(
            self.reactor,
            self.node,
            self.authorizer,
            wall_clock=lambda: 5.0,
            options=self.options,
            peers=self.peers,
            soon=self.soon,
            shares=self.shares,
        )
        self.addCleanup(self.port.abort)

    def test_loopback(self):
        """Without TLS only this host is served."""
        error = self.assertRaises(ConfigError, self.port.bind, "0.0.0.0", 5)
        self.assertEqual(str(error), "0.0.0.0:5: without TLS only loopback addresses are allowed")
        self.port.tls = object()
        self.assertGreater(self.port.bind("0.0.0.0", 0), 0)

    def test_listen(self):
        """What serves gets what the node was made with; the socket is the reactor's from then on."""
        adopted = []
        self.reactor.adoptStreamPort = lambda number, family, factory: (
            adopted.append((os.fstat(number).st_ino, family, factory)) or SimpleNamespace(numberAccepts=9)
        )
        port = self.port.bind("127.0.0.1", 0)
        bound = self.port._socket
        inode = os.fstat(bound.fileno()).st_ino
        self.assertEqual(bound.getsockname(), ("127.0.0.1", port))
        backlogs = []
        self.port._socket = SimpleNamespace(
            getsockname=bound.getsockname,
            listen=lambda count: backlogs.append(count) or bound.listen(count),
            fileno=bound.fileno,
            family=bound.family,
            close=bound.close,
        )
        self.port.listen()
        [(number, family, listener)] = adopted
        self.assertEqual((number, family, backlogs), (inode, socket.AF_INET, [1024]))
        self.assertEqual(bound.fileno(), -1)
        self.assertIs(listener.port, self.port._port)
        self.assertEqual((listener.reactor, listener.callers), (self.reactor, self.port.callers))
        self.assertEqual(f"unix:{listener.grpc_path}", self.port.grpc_address)
        self.assertIs(listener.admission._metrics, self.options.metrics)
        links = listener.links
        self.assertEqual((links.watch, links.times, links.tls), (self.port.watch, self.options.times, None))
        self.assertEqual((links.anonymous, links.peers, links.soon), ("root", self.peers, self.soon))
        hello = links.hello()
        self.assertEqual((hello.node_name, hello.software[:9]), ("n1", "loghouse "))
        binary = links.binary
        self.assertEqual((binary.scheduler, binary.shares), (self.reactor, self.shares))
        gate = binary.gate
        self.assertEqual((gate.node, gate.authorizer), (self.node, self.authorizer))
        appends = binary.appends
        self.assertEqual((appends.bodies, appends.scheduler), (self.shares.bodies, self.reactor))
        self.assertIs(appends._soon, self.soon)
        self.assertIs(self.port.callers.bodies, self.shares.bodies)

    def test_directory(self):
        """The private directory is made when it is asked for, once, and goes at the end."""
        address = self.port.grpc_address
        self.assertEqual(self.port.grpc_address, address)
        folder = os.path.dirname(address.removeprefix("unix:"))
        self.assertTrue(os.path.isdir(folder))
        self.port.abort()
        self.assertFalse(os.path.exists(folder))

    def test_defaults(self):
        """A port may have shares of its own."""
        port = OnePort(self.reactor, None, None, wall_clock=lambda: 5.0, options=self.options)
        self.assertIsNot(port.shares, self.shares)
        self.assertIs(port.callers.bodies, port.shares.bodies)
        port.abort()

    def test_address(self):
        """An address that cannot be had leaves no socket behind, and says which it is."""
        made = []

        class Socket(socket.socket):
            def bind(self, address):
                made.append(self)
                raise OSError(errno.EADDRINUSE, "in use")

        self.patch(socket, "socket", Socket)
        error = self.assertRaises(ConfigError, take_address, "127.0.0.1", 5)
        self.assertTrue(str(error).startswith("127.0.0.1:5: cannot listen: "))
        self.assertEqual(made[0].fileno(), -1)

    def test_few_files(self):
        """However few files there may be, sixteen connections are tried."""
        self.patch(one_port.resource, "setrlimit", lambda what, limits: None)
        for soft, expected in ((256 + 3 * 15, 16), (256 + 3 * 17, 17), (10, 16)):
            self.patch(one_port.resource, "getrlimit", lambda what, soft=soft: (soft, soft))
            self.assertEqual(connections_allowed(), expected)


class DirectoryTests(SynchronousTestCase):
    """The private directory where something is wrong."""

    def setUp(self):
        self.place = self.mktemp()
        os.makedirs(self.place)

    def test_too_long(self):
        """A place whose path is too long for a socket is named with that."""
        long = "/" + "x" * 200
        self.patch(os, "environ", {"XDG_RUNTIME_DIR": long})

        def refuse(place):
            raise OSError(errno.EACCES, "no")

        self.patch(private_directory, "_make", refuse)
        error = self.assertRaises(ConfigError, PrivateDirectory)
        self.assertIn(f"gRPC's socket: {long}: too long for a socket's path, ", str(error))

    def test_lock_is_let_go(self):
        """A close lets the lock go with the directory; looking for dead ones keeps no file open."""
        held = private_directory._make(self.place)[1]
        os.close(held)
        before = os.listdir("/proc/self/fd")
        private_directory.remove_dead(self.place)
        self.assertEqual((os.listdir(self.place), os.listdir("/proc/self/fd")), ([], before))
        self.patch(os, "environ", {"XDG_RUNTIME_DIR": "/tmp"})
        made = PrivateDirectory()
        made.close()
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_not_for_certain(self):
        """Where the lock is a link to another file, nothing is removed: it is not a node's."""
        path = f"{self.place}/loghouse-x"
        os.mkdir(path)
        other = self.mktemp()
        open(other, "w").close()
        os.symlink(os.path.abspath(other), f"{path}/held")
        private_directory.remove_dead(self.place)
        self.assertEqual(os.listdir(path), ["held"])

    def test_gone_meanwhile(self):
        """What is gone, or is no directory, is nobody's."""
        self.assertFalse(_is_ours(f"{self.place}/loghouse-gone"))
        path = f"{self.place}/loghouse-x"
        os.symlink(self.place, path)
        open(f"{self.place}/held", "w").close()
        os.remove(path)
        self.assertTrue(_is_ours(self.place))
        link = self.mktemp()
        os.symlink(os.path.abspath(self.place), link)
        self.assertFalse(_is_ours(link))
