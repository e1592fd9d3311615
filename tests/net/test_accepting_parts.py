"""The accepting side without a network: what a port does with the first bytes, and how a link is judged."""

from dataclasses import replace
from types import SimpleNamespace

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import Identity
from loghouse.errors import IdentityError, ProtocolError, ResourceExhaustedError
from loghouse.limits import CLIENT_HELLO_SECONDS
from loghouse.net import accept as accept_module
from loghouse.net import listener as listener_module
from loghouse.net.accept import AcceptedLink, LinkContext, own_hello
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.net.client_hello import ClientHello
from loghouse.net.link import LinkTimes, LinkWatch
from loghouse.net.listener import ACCEPTS_PER_TURN, HTTP2_PREFACE, NO_TLS_ALERT, Listener
from loghouse.protocol.client_messages import Bounds, Describe, DescribeReply
from loghouse.protocol.gossip_messages import SwimNack
from loghouse.protocol.link_messages import Capability, LinkError, LinkRole
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.session import MessageReceived
from tests.net.in_memory import UUID, Transport, frame_of, hello_of


class Port:
    """Twisted's listening port."""

    def __init__(self):
        self.numberAccepts = 99
        self.calls = []

    def startReading(self):
        self.calls.append("start")

    def stopReading(self):
        self.calls.append("stop")


class Inner:
    """What speaks the protocol behind the port."""

    def __init__(self):
        self.received, self.lost = [], 0

    def makeConnection(self, transport):
        self.transport = transport

    def dataReceived(self, data):
        self.received.append(data)

    def connectionLost(self, reason):
        self.lost += 1


class Splice(Inner):
    """The same, of gRPC: keeps what it is made of."""

    made = []

    def __init__(self, *args):
        super().__init__()
        self.args = args
        self.read_ends = 0
        self.made.append(self)

    def readConnectionLost(self):
        self.read_ends += 1


class PortCase(SynchronousTestCase):
    """A listener in memory; `tls` is only asked whether it is there."""

    tls = object()
    limits = ConnectionLimits(all_max=3, per_address_max=3, strangers_max=3, strangers_per_address_max=2)

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.refused = []
        self.peers = SimpleNamespace(
            admitted=[],
            up=[],
            heard=[],
            lost=[],
            admit=lambda hello: self.peers.admitted.append(hello.node_name),
            link_up=lambda link: self.peers.up.append(link),
            event_received=lambda link, event: self.peers.heard.append(event),
            link_lost=lambda link: self.peers.lost.append(link),
        )
        self.rules = {"root"}
        node = SimpleNamespace(
            cluster_uuid=UUID,
            cluster_name="c1",
            name="n1",
            disk_uuid=b"1" * 16,
            logs={1: SimpleNamespace(name="default")},
            servers=tuple,
        )
        self.node = node
        self.audited = []  # subject and address of each refusal that the audit has
        gate = SimpleNamespace(
            node=node,
            authorizer=SimpleNamespace(permits_anything=lambda subject: subject in self.rules),
            audit=SimpleNamespace(
                refused=lambda error, *, who, what, where: self.audited.append((who, where))
            ),
        )
        links = LinkContext(
            binary=SimpleNamespace(gate=gate),
            watch=LinkWatch(self.reactor),
            times=LinkTimes(),
            hello=own_hello(node, "test"),
            tls=self.tls,
            anonymous="root",
            peers=self.peers,
            soon=lambda work: None,
        )
        self.admission = Admission(self.limits)
        self.listener = Listener(self.reactor, links, self.admission, "/grpc")
        self.listener.note_refusal = lambda address, reason: self.refused.append((address, reason))
        self.inners = []
        self.patch(Splice, "made", self.inners)
        self.patch(listener_module, "SpliceFront", Splice)

    def accept(self, host="192.0.2.7"):
        connection = self.listener.buildProtocol(SimpleNamespace(host=host))
        if connection is not None:
            connection.transport = None
            connection.makeConnection(Transport(host))
        return connection


class FirstBytesTests(PortCase):
    """With TLS: until the ClientHello is there."""

    def offer(self, connection, *protocols, versions=(0x0304,)):
        """Let the connection read a ClientHello that offers these."""
        connection._reader.feed = lambda data: ClientHello(protocols, versions)
        connection._reader.received += b"first"
        connection.dataReceived(b"first")

    def refusal(self, connection):
        [(host, reason)] = self.refused
        self.assertEqual((host, connection.transport.take_calls()[-1]), ("192.0.2.7", "abort"))
        return reason

    def test_too_late(self):
        """Who sends no ClientHello within 5 s is cut off, and not before; no delay is asked of the kernel."""
        self.assertEqual(CLIENT_HELLO_SECONDS, 5)
        connection = self.accept()
        self.assertEqual(connection.transport.take_calls(), [("no delay", True)])
        self.reactor.advance(4.9)
        self.assertEqual(self.refused, [])
        self.reactor.advance(0.1)
        self.assertEqual(self.refusal(connection), "no ClientHello within 5 s")
        connection.dataReceived(b"GET / HTTP/1.1")
        self.assertEqual(len(self.refused), 1)

    def test_refusals(self):
        """What does not fit is refused with the reason, and its deadline is gone."""
        for protocols, versions, reason in (
            ((b"loghouse/1",), (0x0303,), "the client does not offer TLS 1.3"),
            ((), (0x0304,), "no protocol of this port among those offered: []"),
            (
                (b"a", b"b", b"c", b"d", b"e"),
                (0x0303, 0x0304),
                "no protocol of this port among those offered: [b'a', b'b', b'c', b'd']",
            ),
        ):
            connection = self.accept()
            self.refused.clear()
            self.offer(connection, *protocols, versions=versions)
            self.assertEqual(self.refusal(connection), reason)
            self.assertEqual(self.reactor.getDelayedCalls(), [])
            connection.connectionLost()
        connection = self.accept()
        self.refused.clear()
        connection.dataReceived(b"GET / HTTP/1.1")
        self.assertEqual(self.refusal(connection), "not TLS: the first record is no handshake")

    def test_client_without_tls(self):
        """A client of ours without TLS gets an alert, and no other; it may also begin in the middle."""
        connection = self.accept()
        connection.dataReceived(frame_of(hello_of("")))
        self.assertEqual(connection.transport.value(), NO_TLS_ALERT)
        self.assertEqual(connection.transport.take_calls()[-1], "lose")
        self.assertEqual(self.refused, [("192.0.2.7", "the client does not speak TLS")])
        connection.connectionLost()
        connection = self.accept()
        connection._reader.received += b"\x16"
        connection.dataReceived(frame_of(hello_of("")))
        self.assertEqual(connection.transport.value(), b"")

    def test_grpc(self):
        """gRPC gets the bytes untouched, at its socket; later bytes go through; a place is kept."""
        connection = self.accept()
        self.offer(connection, b"h2")
        [inner] = self.inners
        reactor, path, first, caller = inner.args
        self.assertEqual((reactor, path, first), (self.reactor, "/grpc", b"first"))
        self.assertEqual((inner.received, inner.transport), ([], connection.transport))
        connection.dataReceived(b"more")
        self.assertEqual((inner.received, connection._reader.received), ([b"more"], b""))
        self.assertEqual((self.reactor.getDelayedCalls(), self.admission.strangers), ([], 1))
        caller.drop()
        self.assertEqual(connection.transport.take_calls()[-1], "abort")
        connection.connectionLost()
        self.assertEqual((inner.lost, self.admission.all, self.listener._connections), (1, 0, set()))

    def test_grpc_is_not_served(self):
        """Without a gRPC server it is refused."""
        self.listener.grpc_path = None
        connection = self.accept()
        self.offer(connection, b"h2")
        self.assertEqual(self.refusal(connection), "gRPC is not served here")

    def test_own_protocol(self):
        """`loghouse/1` is preferred, and its TLS ends here, with this connection's place."""
        made = []
        inner = Inner()
        self.listener.link_factory = lambda ticket: made.append(ticket) or inner
        connection = self.accept()
        self.offer(connection, b"h2", b"loghouse/1")
        self.assertEqual((made, inner.received), ([connection._ticket], [b"first"]))

    def test_link_factory(self):
        """The TLS around a link is a server's, quiet, with the contexts, the clock and the turn's end."""
        made = []

        class Tls:
            def __init__(self, *args, **fields):
                made.append((self, args, fields))

            def buildProtocol(self, address):
                return "protocol"

        self.patch(listener_module, "BulkTlsFactory", Tls)
        ticket = self.admission.enter("192.0.2.1")
        self.assertEqual(self.listener.link_factory(ticket), "protocol")
        [(factory, (tls, is_client, wrapped), fields)] = made
        self.assertEqual((tls, is_client, factory.noisy, wrapped.noisy), (self.tls, False, False, False))
        self.assertEqual(fields, {"clock": self.reactor, "soon": self.listener.links.soon})
        link = wrapped.buildProtocol(None)
        self.assertIs(link._ticket, ticket)

    def test_end_of_one_direction(self):
        """The end of the client's direction ends the connection, but for a splice, which passes it on."""
        connection = self.accept()
        connection.readConnectionLost()
        self.assertEqual(connection.transport.take_calls()[-1], "lose")

        connection._inner = inner = Splice()
        connection.readConnectionLost()
        self.assertEqual((inner.read_ends, connection.transport.take_calls()), (1, []))


class PlacesTests(PortCase):
    """A port has so many places."""

    def test_pause(self):
        """A full port accepts nothing, once, and begins again when one leaves."""
        self.listener.port = port = Port()
        said = []
        self.listener.logger = SimpleNamespace(warn=lambda format, **fields: said.append(fields))
        connections = [self.accept(f"192.0.2.{number}") for number in range(2)]
        self.assertEqual((port.calls, port.numberAccepts), ([], ACCEPTS_PER_TURN))
        connections.append(self.accept("192.0.2.9"))
        self.listener._pause()
        self.assertEqual((port.calls, said), (["stop"], [{"count": 3}]))
        connections[0].connectionLost()
        connections[1].connectionLost()
        self.assertEqual(port.calls, ["stop", "start"])
        self.accept("192.0.2.3")
        self.accept("192.0.2.4")
        self.assertEqual(port.calls, ["stop", "start", "stop"])

    def test_still_full(self):
        """A connection that leaves while every place is taken makes no room."""
        self.listener.port = port = Port()
        gone, *_ = [self.accept(f"192.0.2.{number}") for number in range(3)]
        self.admission.all += 1
        gone.connectionLost()
        self.assertEqual(port.calls, ["stop"])

    def test_too_many_of_one_host(self):
        """Who has too many is refused at once, with the reason, and takes no place."""
        self.admission._limits = ConnectionLimits(per_address_max=1)
        self.accept()
        self.assertIsNone(self.accept())
        [(host, reason)] = self.refused
        self.assertEqual(host, "192.0.2.7")
        self.assertIn("at most 1 are allowed", reason)
        self.assertEqual((self.admission.all, len(self.listener._connections)), (1, 1))

    def test_dropped_stranger(self):
        """A stranger whose place is needed is cut off, also before it is connected; no deadline is left."""
        first = self.accept()
        self.accept()
        self.accept()
        self.assertEqual(first.transport.take_calls()[-1], "abort")
        self.assertEqual(len(self.reactor.getDelayedCalls()), 2)
        second = self.listener.buildProtocol(SimpleNamespace(host="192.0.2.8"))
        second.transport = None
        second._drop()

    def test_abort_all(self):
        """All are cut off."""
        connections = [self.accept(f"192.0.2.{number}") for number in range(2)]
        self.listener.abort_all()
        self.assertEqual([one.transport.take_calls()[-1] for one in connections], ["abort", "abort"])

    def test_address(self):
        """Who has no address is `local`."""
        self.listener.buildProtocol(object())
        self.assertEqual(dict(self.admission._by_address), {"local": 1})


class PlainTests(PortCase):
    """Without TLS: the preface tells gRPC from frames."""

    tls = None

    def test_preface(self):
        """gRPC is known by the whole preface, byte by byte, and gets all that came."""
        connection = self.accept()
        for number in range(len(HTTP2_PREFACE)):
            self.assertEqual(self.inners, [])
            connection.dataReceived(HTTP2_PREFACE[number : number + 1])
        self.assertEqual(self.inners[0].args[2], HTTP2_PREFACE)
        connection = self.accept()
        connection.dataReceived(HTTP2_PREFACE + b"more")
        self.assertEqual((self.inners[1].args[2], connection._preface), (HTTP2_PREFACE + b"more", b""))

    def test_frames(self):
        """What is no preface goes to a link, from the first byte."""
        connection = self.accept()
        hello = frame_of(hello_of(""))
        connection.dataReceived(hello[:1])
        connection.dataReceived(hello[1:9])
        self.assertIsInstance(connection._inner, AcceptedLink)
        self.assertIs(connection._inner._ticket, connection._ticket)

    def test_node(self):
        """A node is refused without TLS: it cannot prove its name."""
        connection = self.accept()
        connection._inner = link = AcceptedLink(self.listener.links, connection._ticket)
        link.logger = SimpleNamespace(warn=lambda *what, **fields: None)
        link.makeConnection(connection.transport)
        link.dataReceived(frame_of(hello_of("n2")))
        self.assertEqual(
            link.problem, "without TLS a node cannot be told from another; nodes need certificates"
        )
        self.assertEqual(self.peers.admitted, [])


class LinkTests(PortCase):
    """A link of a node or a client, with a certificate."""

    def make(self, subject="node:n2", hello=None, peers=True):
        links = self.listener.links if peers else replace(self.listener.links, peers=None)
        self.ticket = SimpleNamespace(
            noted=[],
            closed=0,
            identify=lambda subject, **fields: self.ticket.noted.append((subject, fields)),
        )
        self.ticket.close = lambda: setattr(self.ticket, "closed", self.ticket.closed + 1)
        link = AcceptedLink(links, self.ticket)
        self.said = []
        link.logger = SimpleNamespace(warn=lambda format, **fields: self.said.append((format, fields)))
        self.transport = Transport("2001:db8::7")
        link.makeConnection(self.transport)
        if subject:
            link._shown = SimpleNamespace(identity=Identity(subject=subject, expires_at=0.0))
            link.greet(None)
        if hello is not None:
            link.dataReceived(frame_of(hello))
        return link

    def test_node(self):
        """A node is admitted, counted and announced; what it says goes to the cluster, as does its end."""
        link = self.make(hello=hello_of("n2"))
        self.assertEqual((self.peers.admitted, self.peers.up), (["n2"], [link]))
        self.assertEqual(self.ticket.noted, [("node:n2", {"is_node": True, "has_rule": True})])
        link.dataReceived(frame_of(SwimNack(sequence=7)))
        self.assertEqual(self.peers.heard, [MessageReceived(message=SwimNack(sequence=7), group=0, stream=0)])
        self.assertEqual((link.peer_name, link.log_account), ("n2", "node:n2"))
        link.connectionLost()
        self.assertEqual((self.peers.lost, self.ticket.closed), ([link], 1))

    def test_node_asks(self):
        """A node may describe."""
        link = self.make(hello=hello_of("n2"))
        self.transport.clear()
        link.dataReceived(frame_of(Describe(), group=1, stream=1))
        kind, body = self.transport.take_frames()[0]
        self.assertEqual((kind, DescribeReply.decode(body).logs), (DescribeReply.KIND, ((1, "default"),)))

    def test_joiner(self):
        """A node of no cluster yet is no peer: it is not announced."""
        self.make(hello=hello_of("n2", cluster_uuid=NO_UUID))
        self.assertEqual((self.peers.admitted, self.peers.up), (["n2"], []))

    def test_refused(self):
        """A node that the cluster refuses, and one beyond its share, is told why and cut."""

        def refuse(hello):
            raise IdentityError("n2 was removed")

        self.peers.admit = refuse
        link = self.make(hello=hello_of("n2"))
        self.assertEqual((link.problem, self.ticket.noted, self.peers.up), ("n2 was removed", [], []))
        link.connectionLost()
        self.assertEqual(self.peers.lost, [])
        self.peers.admit = lambda hello: None
        link = self.make()
        error = ResourceExhaustedError("connections", "enough")

        def full(*what, **fields):
            raise error

        self.ticket.identify = full
        link.dataReceived(frame_of(hello_of("n2")))
        kinds = [kind for kind, _ in self.transport.take_frames()]
        self.assertEqual((link.problem, kinds[-1]), (str(error), LinkError.KIND))

    def test_names(self):
        """A client is known by its subject and host, a stranger by its host, which has a network's share."""
        self.patch_server()
        link = self.make("root", hello_of(""))
        self.assertEqual((link.peer_name, link.log_account), ("root at 2001:db8::7", "root"))
        self.assertEqual(self.ticket.noted, [("root", {"is_node": False, "has_rule": True})])
        self.assertEqual(self.peers.up, [])
        link = self.make("nobody", hello_of(""))
        self.assertEqual(self.ticket.noted, [("nobody", {"is_node": False, "has_rule": False})])
        link = self.make("")
        self.assertEqual((link.peer_name, link.log_account), ("2001:db8::7", "2001:db8::/64"))

    def patch_server(self):
        self.served = []
        self.heard = []

        def make(server, link, identity):
            self.served.append((server, link, identity.subject))
            return SimpleNamespace(
                event_received=self.heard.append,
                write_resumed=lambda: self.heard.append("resumed"),
                link_lost=lambda: self.heard.append("lost"),
                counted=0,
            )

        self.patch(accept_module, "BinarySession", make)

    def test_client(self):
        """A client is served by a session of its own, which hears what happens; nodes hear nothing of it."""
        self.patch_server()
        link = self.make("root", hello_of(""))
        self.assertEqual(self.served, [(self.listener.links.binary, link, "root")])
        link.dataReceived(frame_of(Bounds(), group=1, stream=1))
        self.assertEqual(self.heard[0].stream, 1)
        link.write_resumed()
        link.connectionLost()
        self.assertEqual(self.heard[1:], ["resumed", "lost"])
        self.assertEqual((self.peers.heard, self.peers.lost), ([], []))

    def test_turned_away(self):
        """Who is turned away before a session hears why, and is closed; it is logged once if it lasts."""
        link = self.make("")
        link.turn_away(IdentityError("denied"))
        [(kind, body)] = self.transport.take_frames()
        self.assertEqual((kind, str(LinkError.decode(body).error())), (LinkError.KIND, "denied"))
        [(format, fields)] = self.said
        self.assertEqual((format, fields["problem"]), ("refused a link from {peer}: {problem}", "denied"))
        self.assertEqual(fields["lasting"], "2001:db8::/64: denied")
        self.assertEqual(self.transport.take_calls()[-1], "lose")
        link.write_resumed()
        link.connectionLost()
        self.assertEqual((self.peers.lost, self.ticket.closed), ([], 1))
        link = self.make("")
        link.turn_away(ProtocolError("ALPN"))
        self.assertNotIn("lasting", self.said[0][1])

    def test_no_cluster(self):
        """Without a cluster a node may come and only describe."""
        peers = self.peers
        link = self.make(hello=hello_of("n2"), peers=False)
        self.assertEqual((peers.admitted, link.session.state.value), ([], "up"))
        link.dataReceived(frame_of(SwimNack(sequence=7)))
        link.connectionLost()
        self.assertEqual((peers.heard, peers.lost, self.ticket.closed), ([], [], 1))

    def test_own_hello(self):
        """A node's Hello says who it is at that moment: its uuid may come late."""
        make = own_hello(self.node, "loghouse 9")
        self.assertEqual(make().cluster_uuid, UUID)
        self.node.cluster_uuid = NO_UUID
        hello = make()
        self.assertEqual((hello.role, hello.cluster_name, hello.cluster_uuid), (LinkRole.NODE, "c1", NO_UUID))
        self.assertEqual((hello.node_name, hello.disk_uuid), ("n1", b"1" * 16))
        capabilities = Capability.MANY_LOGS | Capability.BEATS | Capability.RANGES | Capability.CURSORS
        self.assertEqual((hello.capabilities, hello.software), (capabilities, "loghouse 9"))
