"""Strangers and attackers at the real port: the right refusal, nothing changed, an honest client served.

The rows of the reliability notes that concern TLS, framing, handshake, identity and flooding.
"""

import resource
import socket
import ssl
import time
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet.threads import deferToThread

from loghouse.api.v1.log_pb2 import Record
from loghouse.limits import MIB
from loghouse.net import admission, listener
from loghouse.net.accept import AcceptedLink
from loghouse.net.admission import ConnectionLimits
from loghouse.net.link import LinkTimes
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Bounds, Failure, Follow, Produce
from loghouse.protocol.codec import encode
from loghouse.protocol.framing import pack_header
from loghouse.protocol.gossip_messages import SwimNack
from loghouse.protocol.link_messages import Hello, LinkError, LinkRole, Ping
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.raft_messages import RequestVote
from tests.fakes.secured import authority, client_certificate, node_certificate
from tests.net.client_certificates import certificate_with_uris
from tests.net.wire import Stranger, WireCase, asynchronous, frames_in, until

CLUSTER = bytes(range(16))
CLIENT = Hello(role=LinkRole.CLIENT)
NODE = Hello(role=LinkRole.NODE, cluster_name="c1", cluster_uuid=CLUSTER, node_name="n2", disk_uuid=b"2" * 16)
GROWTH_MAX = 16 * MIB


def wire(message, **fields):
    return b"".join(encode(message, **fields))


def resident_size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class AttackCase(WireCase):
    """After each attack the node holds what it held, and an honest client is served."""

    times = LinkTimes(greeting=30, frame=30)

    async def run_and_close(self, method):
        self.open_port()
        self.honest = await self.connect()
        await self.honest.produce(encode_batch([Record(value=b"before")]), record_count=1)
        before = resident_size()

        async def attack(test):
            await method(test)
            bounds = await self.honest.bounds()
            self.assertEqual((bounds.lowest, bounds.next_offset), (0, 1), "state changed")
            self.assertLess(resident_size() - before, GROWTH_MAX, "memory grew")

        await super().run_and_close(attack)

    def stranger(self, issued=None, **fields):
        return Stranger(self.port, issued=issued, directory=self.directory, **fields)

    async def turned_away(self, issued, *pieces, **fields):
        """Talk, and return the code of the one LinkError that came; nothing else may come."""
        received, _ = await self.stranger(issued, **fields).talk(*pieces)
        frames = frames_in(received)
        errors = [LinkError.WIRE.parse(body).code for kind, body in frames if kind == LinkError.KIND]
        self.assertEqual([kind for kind, _ in frames if kind not in (1, 3, 4)], [], "answered")
        self.assertEqual(len(errors), 1, frames)
        return errors[0]

    async def not_let_in(self, issued, **fields):
        """TLS itself refuses: no byte of the protocol comes."""
        received, error = await self.stranger(issued, **fields).talk(wire(CLIENT), wire(Bounds(), stream=1))
        self.assertEqual(received, b"")
        self.assertIsInstance(error, ssl.SSLError | ConnectionError)


class CertificateTests(AttackCase):
    """Rows 1 to 7: who has no good certificate gets no byte."""

    @asynchronous
    async def test_no_certificate(self):
        """Row 1: no certificate."""
        await self.not_let_in(None)

    @asynchronous
    async def test_foreign_authority(self):
        """Rows 2 and 3: a certificate of another CA."""
        await self.not_let_in(client_certificate("root", is_foreign=True))

    @asynchronous
    async def test_expired_and_early(self):
        """Row 4: expired, and not yet valid."""
        await self.not_let_in(client_certificate("root", day=-400))
        await self.not_let_in(client_certificate("root", day=400))

    @asynchronous
    async def test_denied(self):
        """Row 5: a certificate on the denylist; links that are open already end, too."""
        issued = client_certificate("root")
        serial = x509.load_pem_x509_certificate(issued.certificate_pem).serial_number
        victim = await self.connect("reader")
        reader = x509.load_pem_x509_certificate(client_certificate("reader").certificate_pem)
        digest = reader.fingerprint(hashes.SHA256()).hex()
        other = client_certificate("other")
        other_serial = x509.load_pem_x509_certificate(other.certificate_pem).serial_number
        self.assertNotEqual(serial, other_serial)
        (self.directory / "denylist").write_text(f"# lost\nserial:{other_serial:x}\nsha256:{digest}\n")
        self.assertTrue(self.credentials.take(self.credentials.read()))
        self.assertEqual(await self.turned_away(other, wire(CLIENT)), 4)
        await until(lambda: victim._lost is not None)
        self.assertIn("denylist", str(victim._lost))

    @asynchronous
    async def test_old_tls(self):
        """Row 6: TLS 1.2 is closed at the ClientHello, before any handshake work."""
        await self.not_let_in(client_certificate("root"), maximum=ssl.TLSVersion.TLSv1_2)

    @asynchronous
    async def test_wrong_protocols(self):
        """No ALPN, or only strange ones, is closed; gRPC too, when it is not served here."""
        for alpn in ((), ("http/1.1",), ("h2",)):
            await self.not_let_in(client_certificate("root"), alpn=alpn)

    @asynchronous
    async def test_no_resumption(self):
        """A session cannot be resumed: each connection shows its certificate."""
        stranger = self.stranger(client_certificate("root"))

        def twice():
            sessions = []
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", self.port), 10) as plain:
                    plain.settimeout(10)
                    tls = stranger.context.wrap_socket(plain, session=sessions[0] if sessions else None)
                    tls.sendall(wire(CLIENT))
                    tls.recv(65_536)  # any ticket came before it
                    sessions.append(tls.session)
                    reused = tls.session_reused
            return reused

        self.assertFalse(await deferToThread(twice))


class IdentityTests(AttackCase):
    """Rows 8 to 13 and 21: nobody passes for another."""

    @asynchronous
    async def test_client_as_node(self):
        """Row 8: a client's certificate cannot open the node role."""
        self.assertEqual(await self.turned_away(client_certificate("n2"), wire(NODE)), 4)

    @asynchronous
    async def test_node_of_another_cluster(self):
        """Row 9: a node's certificate of another cluster, of the same CA."""
        issued = node_certificate("n2", "c2")
        self.assertEqual(await self.turned_away(issued, wire(NODE)), 4)
        self.assertEqual(await self.turned_away(issued, wire(replace(NODE, cluster_name="c2"))), 4)

    @asynchronous
    async def test_another_node(self):
        """Row 10: one node's certificate, another's name; and this node's own name."""
        self.assertEqual(await self.turned_away(node_certificate("n3"), wire(NODE)), 4)
        own = replace(NODE, node_name="n1")
        self.assertEqual(await self.turned_away(node_certificate("n1"), wire(own)), 4)

    @asynchronous
    async def test_strange_certificates(self):
        """Row 12: two URIs, a wildcard, a path, a query, another scheme's spelling: none is a node."""
        for uris in (
            ["loghouse://c1/node/n2", "loghouse://c1/node/n3"],
            ["loghouse://c1/node/*"],
            ["loghouse://c1/node/n2/x"],
            ["loghouse://c1/node/n2?x"],
            ["LOGHOUSE://c1/node/n2"],
            ["loghouse://c1/client/n2"],
            ["https://example.org", "loghouse://c1/node/n2"],
        ):
            issued = certificate_with_uris(authority(), "n2", uris)
            self.assertEqual(await self.turned_away(issued, wire(NODE)), 4, uris)

    @asynchronous
    async def test_common_name_is_no_node(self):
        """Row 12: a client called `node:n2` is nobody at all."""
        issued = certificate_with_uris(authority(), "node:n2", [])
        self.assertEqual(await self.turned_away(issued, wire(CLIENT)), 4)

    @asynchronous
    async def test_two_clusters_of_one_name(self):
        """Row 21: nodes of another uuid are refused; one without a uuid may not speak Raft or gossip."""
        issued = node_certificate("n2")
        moved = replace(NODE, cluster_uuid=b"x" * 16)
        self.assertEqual(await self.turned_away(issued, wire(moved)), 4)
        joiner = wire(replace(NODE, cluster_uuid=NO_UUID))
        self.assertEqual(await self.turned_away(issued, joiner, wire(SwimNack(sequence=1))), 1)
        vote = wire_of_raft(RequestVote(term=2**63, last_log_index=1, last_log_term=1))
        self.assertEqual(await self.turned_away(issued, joiner, vote), 1)

    @asynchronous
    async def test_client_speaks_raft(self):
        """Row 15: Raft and gossip from a client close its link."""
        issued = client_certificate("root")
        vote = wire_of_raft(RequestVote(term=2**63, last_log_index=1, last_log_term=1))
        self.assertEqual(await self.turned_away(issued, wire(CLIENT), vote), 1)
        self.assertEqual(await self.turned_away(issued, wire(CLIENT), wire(SwimNack(sequence=1))), 1)


def wire_of_raft(message):
    from loghouse.protocol.codec import encode_envelope
    from loghouse.protocol.raft_messages import Envelope

    return b"".join(encode_envelope(Envelope(group=1, source=2, target=1, message=message)))


class FrameTests(AttackCase):
    """Rows 22, 23, 36, 39, 40, 45: bytes that are no frames."""

    @asynchronous
    async def test_lengths(self):
        """Row 22: a length beyond the kind's cap is refused by its header, for every kind."""
        issued = client_certificate("root")
        for kind, size_max in ((0x0301, 8 * MIB + 64), (0x0303, 8192), (0x0002, 8192), (0x00F0, 65_536)):
            for length in (size_max + 1, 2**31 - 1, 2**31, 2**32 - 1):
                code = await self.turned_away(issued, wire(CLIENT), pack_header(length, kind, stream=1))
                self.assertEqual(code, 2, (kind, length))

    @asynchronous
    async def test_lengths_0_and_1(self):
        """Row 22: a body that is too short for its kind is malformed."""
        issued = client_certificate("root")
        for length in (0, 1):
            for kind in (0x0301, 0x0303, 0x0305, 0x0002):
                frame = pack_header(length, kind, stream=1) + bytes(length)
                self.assertEqual(await self.turned_away(issued, wire(CLIENT), frame), 3, (kind, length))

    @asynchronous
    async def test_large_hello(self):
        """A Hello of more than 4 KiB, and any other frame before Hello, is refused by its header."""
        issued = client_certificate("root")
        self.assertEqual(await self.turned_away(issued, pack_header(4097, 1)), 2)
        self.assertEqual(await self.turned_away(issued, pack_header(8 * MIB, 0x0301)), 1)

    @asynchronous
    async def test_names(self):
        """Rows 36 and 45: path-like, long, NUL, confusable names, and newlines, are malformed."""
        issued = node_certificate("n2")
        for name in ("../../etc", "n" * 64, "n\0", "n\n2", "\u0430", "N2", "-n", ""):
            hello = replace(NODE, node_name=name)
            if len(name) < 255:
                self.assertEqual(await self.turned_away(issued, wire(hello)), 3, name)

    @asynchronous
    async def test_random_bytes_inside(self):
        """Row 39: random bytes inside TLS end the link with an error."""
        issued = client_certificate("root")
        for seed in range(5):
            noise = bytes((seed * 7919 + n * n * 31 + n // 7) % 256 for n in range(2000))
            await self.turned_away(issued, noise)
            await self.turned_away(issued, wire(CLIENT), noise)

    @asynchronous
    async def test_random_bytes_before(self):
        """Row 39: random bytes instead of TLS are cut off without an answer."""

        def throw(data):
            with socket.create_connection(("127.0.0.1", self.port), 10) as plain:
                plain.sendall(data)
                try:
                    return plain.recv(100)
                except ConnectionError:
                    return b""

        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(1000),
            b"\x16\x03\x01\xff\xff",
            b"PRI * HTTP/2.0\r\n\r\n",
        ):
            self.assertEqual(await deferToThread(throw, data), b"")

    @asynchronous
    async def test_cut_off(self):
        """Row 40: a connection cut in the middle of a frame, without a TLS goodbye, leaves nothing behind."""
        stranger = self.stranger(client_certificate("root"))
        body = encode_batch([Record(value=b"x" * 5000)])
        frame = wire(Produce(batch=body, record_count=1), stream=1)

        def cut():
            plain = socket.create_connection(("127.0.0.1", self.port), 10)
            tls = stranger.context.wrap_socket(plain)
            tls.sendall(wire(CLIENT) + frame[:-1])
            tls.recv(65_536)
            descriptor = tls.detach()
            socket.close(descriptor)

        await deferToThread(cut)
        await until(lambda: self.admission.all == 1)
        self.assertEqual(len(self.node.proposals), 1)


class FloodTests(AttackCase):
    """Rows 26 to 28, 31 and 33: many, slow, greedy."""

    limits = ConnectionLimits(strangers_max=40, strangers_per_address_max=20)

    async def honest_seconds(self, count=30):
        """Return the slowest of some requests."""
        slowest = 0.0
        for _ in range(count):
            begin = time.monotonic()
            await self.honest.bounds()
            slowest = max(slowest, time.monotonic() - begin)
        return slowest

    @asynchronous
    async def test_idle_connects(self):
        """Row 27: of a crowd of idle connections few are held, and not for long; the honest is served."""
        self.patch(listener, "CLIENT_HELLO_SECONDS", 0.5)
        before = await self.honest_seconds()

        def crowd():
            return [socket.create_connection(("127.0.0.1", self.port), 10) for _ in range(150)]

        idle = await deferToThread(crowd)
        self.addCleanup(lambda: [one.close() for one in idle])
        await until(lambda: self.metrics.count("stranger_dropped") > 50)
        self.assertLessEqual(self.admission.strangers, 20)
        # The half second is what a busy machine may cost; a held reactor costs more.
        self.assertLess(await self.honest_seconds(), 2 * before + 0.5)
        await until(lambda: self.admission.all == 1)

    @asynchronous
    async def test_slow_client_hello(self):
        """Row 26: a ClientHello that dribbles in is cut off at its deadline."""
        self.patch(listener, "CLIENT_HELLO_SECONDS", 0.3)

        def dribble():
            with socket.create_connection(("127.0.0.1", self.port), 10) as plain:
                begin = time.monotonic()
                try:
                    for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(1000):
                        plain.sendall(bytes([byte]))
                        plain.settimeout(0.02)
                        try:
                            if plain.recv(1) == b"":
                                break
                        except TimeoutError:
                            pass
                except ConnectionError:
                    pass
                return time.monotonic() - begin

        self.assertLess(await deferToThread(dribble), 5)
        await until(lambda: self.admission.all == 1)

    @asynchronous
    async def test_handshake_flood(self):
        """Row 28: connections that break off in the handshake leave nothing behind."""
        from tests.net.test_client_hello import real_hello

        hello = real_hello("loghouse/1")

        def flood():
            for _ in range(100):
                with socket.create_connection(("127.0.0.1", self.port), 10) as plain:
                    plain.sendall(hello)

        await deferToThread(flood)
        await until(lambda: self.admission.all == 1)
        self.assertEqual(self.admission.strangers, 0)

    @asynchronous
    async def test_pings_without_reading(self):
        """Row 31: who sends pings and reads no answer is not read either; memory stays bounded."""
        taken, take = [], AcceptedLink.dataReceived

        def counted(link, data):
            taken.append(len(data))
            take(link, data)

        self.patch(AcceptedLink, "dataReceived", counted)
        connection = await self.connect()
        transport = connection.transport
        transport.pauseProducing()
        flood = wire(Ping(token=1)) * 8000
        for _ in range(50):
            transport.write(flood)
            await self.honest.bounds()
        # 50 x 192 kB of pings were written; the server took in what its answers' buffers allow.
        self.assertLess(sum(taken), 8 * MIB)

    @asynchronous
    async def test_many_follows(self):
        """A client that follows more than allowed on a connection is refused the rest, and goes on."""
        issued = client_certificate("root")
        frame = b"".join(wire(Follow(offset=0, credit=1), group=1, stream=n) for n in range(1, 301))
        talking = self.stranger(issued).talk(wire(CLIENT), frame, pack_header(0, 1))
        received, _ = await talking
        failures = [body for kind, body in frames_in(received) if kind == 0x030F]
        self.assertEqual(len(failures), 300 - 256)
        self.assertEqual({Failure.WIRE.parse(body).code for body in failures}, {24})


class DeadlineTests(AttackCase):
    """Row 26: who is slow inside TLS."""

    times = LinkTimes(greeting=3.0, frame=1.0, silence=60, silence_max=120, close_max=1)

    @asynchronous
    async def test_no_hello(self):
        """A client that is authenticated and says nothing is told why, and closed."""
        self.assertEqual(await self.turned_away(client_certificate("root")), 6)

    @asynchronous
    async def test_half_a_frame(self):
        """A frame that does not become whole in its time ends the link."""
        frame = wire(Bounds(), stream=1)
        self.assertEqual(await self.turned_away(client_certificate("root"), wire(CLIENT), frame[:-1]), 6)


class SilenceTests(AttackCase):
    """A silent peer is asked, and then given up."""

    times = LinkTimes(silence=1.0, silence_max=4.0, close_max=1)

    @asynchronous
    async def test_silent(self):
        """One that answers pings stays; one that does not is closed."""

        async def keep_honest():
            for _ in range(4):
                await self.honest.bounds()

        await keep_honest()
        received, _ = await self.stranger(client_certificate("root")).talk(wire(CLIENT))
        kinds = [kind for kind, _ in frames_in(received)]
        self.assertEqual(kinds, [Hello.KIND, Ping.KIND, LinkError.KIND])
        self.assertEqual((await self.honest.bounds()).next_offset, 1)


class LimitTests(AttackCase):
    """Connection limits."""

    limits = ConnectionLimits(all_max=10, strangers_max=3, nodes_max=1, per_client_max=3)

    @asynchronous
    async def test_per_identity(self):
        """One identity may have so many connections; the next is refused with the reason."""
        others = [await self.connect(), await self.connect()]
        self.assertEqual(await self.turned_away(client_certificate("root"), wire(CLIENT)), 1)
        others[0].abort()
        await until(lambda: self.admission.all == 2)
        await self.connect()

    @asynchronous
    async def test_clients_leave_places(self):
        """When clients have all of their places the next is told so, and a node still gets in."""
        readers = [await self.connect("reader") for _ in range(3)]
        await self.connect()
        self.assertEqual(await self.turned_away(client_certificate("nobody"), wire(CLIENT)), 1)
        self.assertFalse(self.admission.is_full)
        peer = self.peer()
        peer.dial()
        await until(lambda: self.recorded[peer].count("peer_link_up") > 0)
        readers[0].abort()
        await until(lambda: self.admission.clients.held == 4)
        await self.connect("nobody")

    @asynchronous
    async def test_without_a_rule(self):
        """Who may do nothing here has few connections."""
        self.patch(admission, "CONNECTIONS_WITHOUT_RULE_MAX", 1)
        await self.connect("nobody")
        self.assertEqual(await self.turned_away(client_certificate("nobody"), wire(CLIENT)), 1)
