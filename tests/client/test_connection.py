"""Connections of the binary protocol on asyncio: how they begin, what they bound, and how they end."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime

from loghouse.auth.certificates import make_ca, make_client_certificate, make_node_certificate
from loghouse.client import AsyncClient, Tls, connection
from loghouse.client.binary_channel import BinaryChannel
from loghouse.client.channels import LogId
from loghouse.client.connection import context_of, dial
from loghouse.client.failures import CallFailedError, Effect
from loghouse.errors import (
    CertificateError,
    OutcomeUnknownError,
    ProtocolError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import REQUESTS_PER_CONNECTION_MAX
from loghouse.protocol.client_messages import Bounds, BoundsReply, Produce
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.session import CancelReceived, RequestReceived, Session
from loghouse.protocol.streams import STREAM_MAX
from tests.client.fake import FakeCase
from tests.fakes.tasks import asynchronous, until

HELLO = Hello(
    role=LinkRole.NODE,
    cluster_name="c1",
    cluster_uuid=b"c" * 16,
    node_name="n1",
    disk_uuid=b"d" * 16,
)
APPEND = Produce(batch=b"\n\x02\n\x00", record_count=1)


class Node:
    """The other end: it greets, and notes what comes; a test answers."""

    def __init__(self, *, greets=True):
        self.greets = greets
        self.session = None
        self.writer = None
        self.requests = []
        self.cancelled = []
        self.connections = 0
        self.address = ""
        self._server = None

    async def open(self, context=None):
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=context)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def close(self):
        self._server.close()
        if self.writer is not None:
            self.writer.transport.abort()

    async def _accepted(self, reader, writer):
        self.connections += 1
        self.writer = writer
        self.session = Session(HELLO, is_dialler=False)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self.greets:
                    continue
                for event in self.session.receive(data):
                    if isinstance(event, RequestReceived):
                        self.requests.append(event)
                    elif isinstance(event, CancelReceived):
                        self.cancelled.append(event.stream)
                self.flush()
                if self.session.is_closed:
                    break
        writer.close()

    def answer(self, request):
        self.session.answer(request.stream, BoundsReply(lowest=0, next_offset=request.stream))
        self.flush()

    def flush(self):
        self.writer.write(b"".join(self.session.bytes_to_send()))


class NotedTransport:
    """A transport that counts what is written to it."""

    def __init__(self, transport):
        self._transport = transport
        self.write_count = 0

    def write(self, data):
        self.write_count += 1
        self._transport.write(data)

    def __getattr__(self, name):
        return getattr(self._transport, name)


class ConnectionCase(FakeCase):
    """A node to connect to."""

    async def node(self, context=None, **options):
        node = await Node(**options).open(context)
        self.closers.append(node.close)
        return node

    async def dial(self, node, context=None, seconds=10.0):
        """Return a connection; the names of leaders that come are in `self.hints`."""
        self.hints = []
        made = await dial(node.address, context, lambda *hint: self.hints.append(hint), seconds)
        self.closers.append(made.close)
        return made

    async def dialled(self):
        """Return a node, and a connection to it."""
        node = await self.node()
        return node, await self.dial(node)

    async def failure(self, work):
        """Await what must fail; return what it means."""
        return (await self.raises(CallFailedError, work)).failure


class BeginningTests(ConnectionCase):
    """Who cannot be reached is told why, and that nothing was done."""

    async def unreached(self, node, words, **options):
        failure = await self.failure(self.dial(node, **options))
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))
        self.assertIsInstance(failure.error, UnavailableError)
        self.assertIn(node.address, str(failure.error))
        self.assertIn(words, str(failure.error))

    @asynchronous
    async def test_nobody_listens(self):
        """A port where nobody listens."""
        node = await self.node()
        await node.close()
        await self.unreached(node, "Connect")

    @asynchronous
    async def test_no_hello(self):
        """A server that accepts and stays silent is given up in time."""
        await self.unreached(await self.node(greets=False), "no connection within 0.1 s", seconds=0.1)

    @asynchronous
    async def test_closed_before_hello(self):
        """A server that closes at once."""
        node = await self.node(greets=False)
        dialling = asyncio.ensure_future(self.dial(node))
        await until(lambda: node.writer is not None)
        node.writer.transport.abort()
        failure = await self.failure(dialling)
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))

    @asynchronous
    async def test_some_other_server(self):
        """What does not greet as a node is told apart at its first bytes, and the connection is cut."""
        node = await self.node(greets=False)
        dialling = asyncio.ensure_future(self.dial(node))
        await until(lambda: node.writer is not None)
        node.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        failure = await self.failure(dialling)
        self.assertEqual(failure.effect, Effect.NOTHING)
        self.assertIn("before Hello", str(failure.error))

    @asynchronous
    async def test_cancelled(self):
        """A dialling that is cancelled leaves no connection behind."""
        node = await self.node(greets=False)
        dialling = asyncio.ensure_future(self.dial(node))
        await until(lambda: node.writer is not None)
        dialling.cancel()
        await asyncio.wait({dialling})
        await until(lambda: node.writer.transport.is_closing())


class TlsTests(ConnectionCase):
    """Certificates are checked both ways; what fails says which side did not like what."""

    def setUp(self):
        super().setUp()
        now = datetime.now(UTC)
        self.ca, other = (make_ca(name, now=now) for name in ("test", "other"))
        issued = make_node_certificate(
            self.ca, cluster="c1", node="n1", hosts=["localhost", "127.0.0.1"], now=now
        )
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own = self.mktemp()
        with open(own, "wb") as file:
            file.write(issued.certificate_pem + issued.key_pem)
        self.server.load_cert_chain(own)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.server.load_verify_locations(cadata=self.ca.certificate_pem.decode())
        self.server.set_alpn_protocols([connection.ALPN])
        self.client, self.stranger = (
            make_client_certificate(ca, name="root", now=now) for ca in (self.ca, other)
        )
        self.other = other

    def context(self, *, ca=None, client=None):
        issued = client or self.client
        return context_of(
            Tls(ca=(ca or self.ca).certificate_pem, certificate=issued.certificate_pem, key=issued.key_pem)
        )

    @asynchronous
    async def test_greets(self):
        """With certificates of one CA they greet, by TLS 1.3 and nothing older."""
        node = await self.node(self.server)
        made = await self.dial(node, self.context())
        self.assertTrue(made.is_up)
        self.assertEqual(node.writer.get_extra_info("ssl_object").version(), "TLSv1.3")
        self.server.maximum_version = ssl.TLSVersion.TLSv1_2
        old = await self.node(self.server)
        failure = await self.failure(self.dial(old, self.context()))
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))

    @asynchronous
    async def test_server_is_not_trusted(self):
        """A server of another CA is not talked to."""
        node = await self.node(self.server)
        failure = await self.failure(self.dial(node, self.context(ca=self.other)))
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))
        self.assertIn("certificate is not accepted", str(failure.error))

    @asynchronous
    async def test_client_is_not_trusted(self):
        """A client of another CA is turned away, and hears it."""
        node = await self.node(self.server)
        failure = await self.failure(self.dial(node, self.context(client=self.stranger)))
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))

    @asynchronous
    async def test_door_of_something_else(self):
        """A TLS server that does not speak the protocol is told from a node, and the way out is named."""
        self.server.set_alpn_protocols(["h2"])
        node = await self.node(self.server)
        failure = await self.failure(self.dial(node, self.context()))
        self.assertEqual(failure.effect, Effect.REFUSED)
        self.assertIn("--transport grpc", str(failure.error))

    def test_context(self):
        """The server's name and its chain are checked, by TLS 1.3; a CA may stand without its own."""
        own = {"certificate": self.client.certificate_pem, "key": self.client.key_pem}
        context = context_of(Tls(ca=self.ca.certificate_pem, **own))
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.assertEqual(context.verify_flags, plain.verify_flags | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN)
        self.assertEqual(context.minimum_version, ssl.TLSVersion.TLSv1_3)
        self.assertEqual((context.check_hostname, context.verify_mode), (True, ssl.CERT_REQUIRED))
        self.assertIsNone(context_of(None))

    def test_certificates_do_not_fit(self):
        """A key of another certificate, and a CA that is none, are errors before anything is dialled."""
        mixed = {"certificate": self.client.certificate_pem, "key": self.stranger.key_pem}
        with self.assertRaises(CertificateError):
            context_of(Tls(ca=self.ca.certificate_pem, **mixed))
        fine = {"certificate": self.client.certificate_pem, "key": self.client.key_pem}
        with self.assertRaises(CertificateError):
            context_of(Tls(ca=b"-----BEGIN CERTIFICATE-----\nnothing\n", **fine))


class RequestTests(ConnectionCase):
    """Requests share the connection, up to its bound; each gets its own answer, or knows why not."""

    @asynchronous
    async def test_company_shares_a_write(self):
        """Who asks alone is sent at once; who asks in company, with the others of the turn."""
        node, made = await self.dialled()
        made._transport = noted = NotedTransport(made._transport)
        asked = [asyncio.ensure_future(made.ask(Bounds(), 1, 10.0)) for _ in range(20)]
        await until(lambda: len(node.requests) == 20)
        self.assertEqual(noted.write_count, 2)
        for request in reversed(node.requests):
            node.answer(request)
        replies = await asyncio.gather(*asked)
        self.assertEqual([reply.next_offset for reply in replies], list(range(1, 21)))

    @asynchronous
    async def test_bound(self):
        """More than a connection may have wait outside, in order; who waits for too long is told."""
        node, made = await self.dialled()
        count = REQUESTS_PER_CONNECTION_MAX
        asked = [asyncio.ensure_future(made.ask(Bounds(), 1, 20.0)) for _ in range(count + 2)]
        await until(lambda: len(node.requests) == count)
        failure = await self.failure(made.ask(Bounds(), 1, 0.05))
        self.assertIsInstance(failure.error, ResourceExhaustedError)
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, False))
        node.answer(node.requests[3])
        await until(lambda: len(node.requests) == count + 1)
        asked[0].cancel()
        await until(lambda: len(node.requests) == count + 2)
        self.assertEqual(node.cancelled, [1])
        for request in node.requests[1:3] + node.requests[4:]:
            node.answer(request)
        replies = await asyncio.gather(*asked[1:])
        self.assertEqual([reply.next_offset for reply in replies], list(range(2, count + 3)))

    @asynchronous
    async def test_bound_and_a_broken_connection(self):
        """Whoever waits for room on a connection that breaks is told so at once, nobody is forgotten."""
        node, made = await self.dialled()
        count = REQUESTS_PER_CONNECTION_MAX
        asked = [asyncio.ensure_future(made.ask(Bounds(), 1, 20.0)) for _ in range(count + 5)]
        await until(lambda: len(node.requests) == count)
        asked[count].cancel()
        node.writer.transport.abort()
        await asyncio.wait(asked)
        failures = [one.exception().failure for one in asked if not one.cancelled()]
        self.assertEqual({failure.effect for failure in failures}, {Effect.NOTHING})
        self.assertEqual(len(failures), count + 4)

    @asynchronous
    async def test_numbers_are_used_up(self):
        """A connection without a number left for another request gives way to a new one."""
        node = await self.node()
        channel = BinaryChannel(node.address, None, lambda name, group: None, lambda address: None)
        self.closers.append(channel.close)
        first = await channel.connection(10.0)
        first._session.asked._last = STREAM_MAX
        self.assertIsNot(await channel.connection(10.0), first)
        self.assertEqual(node.connections, 2)

    @asynchronous
    async def test_no_answer(self):
        """A request without an answer is given up and cancelled; nobody knows what it did."""
        node, made = await self.dialled()
        failure = await self.failure(made.ask(APPEND, 1, 0.05))
        self.assertEqual((failure.effect, failure.is_link), (Effect.UNKNOWN, True))
        await until(lambda: node.cancelled == [1])
        node.answer(node.requests[0])  # too late; dropped
        asked = asyncio.ensure_future(made.ask(Bounds(), 1, 10.0))
        await until(lambda: len(node.requests) == 2)
        node.answer(node.requests[1])
        self.assertEqual((await asked).next_offset, 2)

    @asynchronous
    async def test_connection_breaks(self):
        """An append on a connection that breaks may have been done; a read was not."""
        node, made = await self.dialled()
        following = made.follow(0, 1)
        asked = [asyncio.ensure_future(made.ask(request, 1, 10.0)) for request in (APPEND, Bounds())]
        await until(lambda: len(node.requests) == 3)
        node.writer.transport.abort()
        append, read = [await self.failure(one) for one in asked]
        self.assertEqual((append.effect, append.is_link), (Effect.UNKNOWN, True))
        self.assertIsInstance(append.error, OutcomeUnknownError)
        self.assertEqual((read.effect, read.is_link), (Effect.NOTHING, True))
        self.assertEqual((await self.failure(following.read())).effect, Effect.NOTHING)
        self.assertEqual((await self.failure(made.ask(APPEND, 1, 10.0))).effect, Effect.NOTHING)

    @asynchronous
    async def test_node_breaks_a_rule(self):
        """A frame that may not come ends the connection, with the rule in everybody's error."""
        node, made = await self.dialled()
        asked = asyncio.ensure_future(made.ask(Bounds(), 1, 10.0))
        await until(lambda: len(node.requests) == 1)
        node.writer.write(bytes.fromhex("00000000 0308 0000 00000001 00000001".replace(" ", "")))
        failure = await self.failure(asked)
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))
        self.assertIn("0x0308", str(failure.error))
        await until(lambda: made.lost.done())

    @asynchronous
    async def test_node_fails_the_link(self):
        """What a node says before it closes is the reason that everybody gets."""
        node, made = await self.dialled()
        asked = asyncio.ensure_future(made.ask(Bounds(), 1, 10.0))
        await until(lambda: len(node.requests) == 1)
        node.session.fail(ProtocolError("too much of it"))
        node.flush()
        self.assertIn("too much of it", str((await self.failure(asked)).error))

    @asynchronous
    async def test_silent_node(self):
        """A node that is silent while something is asked is pinged; without a pong it is gone."""
        self.patch(connection, "LIVENESS_SECONDS", 0.25)
        node, made = await self.dialled()
        following = made.follow(0, 1)
        reading = asyncio.ensure_future(following.read())
        await until(lambda: node.session.frame_count >= 4)  # Hello, Follow, two Pings that were answered
        self.assertFalse(reading.done())
        node.greets = False
        failure = await self.failure(reading)
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))
        self.assertIn("silent", str(failure.error))


class EndingTests(ConnectionCase):
    """A connection's end leaves nobody waiting."""

    def channel(self, node):
        channel = BinaryChannel(node.address, None, lambda name, group: None, lambda address: None)
        self.closers.append(channel.close)
        return channel

    @asynchronous
    async def test_goodbye(self):
        """A node that says goodbye answers what is open; what is new goes by another connection."""
        node = await self.node()
        channel = self.channel(node)
        asked = asyncio.ensure_future(channel.bounds(LogId(), 10.0))
        await until(lambda: len(node.requests) == 1)
        old, writer = node.session, node.writer
        old.say_goodbye("restarting")
        node.flush()
        made = await channel.connection(10.0)
        await until(lambda: not made.is_up)
        again = asyncio.ensure_future(channel.bounds(LogId(), 10.0))
        await until(lambda: len(node.requests) == 2)
        self.assertEqual(node.connections, 2)
        old.answer(1, BoundsReply(lowest=0, next_offset=41))
        writer.write(b"".join(old.bytes_to_send()))
        self.assertEqual((await asked).next_offset, 41)
        node.answer(node.requests[1])
        await again
        await until(lambda: made.lost.done())

    @asynchronous
    async def test_close(self):
        """Closing tells the node, and everybody who waits for an answer."""
        node = await self.node()
        channel = self.channel(node)
        made = await channel.connection(10.0)
        following = made.follow(0, 1)
        asked = [asyncio.ensure_future(made.ask(request, 1, 10.0)) for request in (APPEND, Bounds())]
        await until(lambda: len(node.requests) == 3)
        await channel.close()
        append, read = [await self.failure(one) for one in asked]
        self.assertEqual((append.effect, read.effect), (Effect.UNKNOWN, Effect.NOTHING))
        self.assertIn("the client was closed", str(append.error))
        await self.failure(following.read())
        await until(lambda: node.session.state.value in ("closing", "closed"))
        self.assertTrue(made.lost.done())

    @asynchronous
    async def test_everybody_waits_for_one_dialling(self):
        """Calls of one moment share the connection that the first of them dials."""
        node = await self.node()
        channel = self.channel(node)
        asked = [asyncio.ensure_future(channel.bounds(LogId(), 10.0)) for _ in range(5)]
        await until(lambda: len(node.requests) == 5)
        self.assertEqual(node.connections, 1)
        for request in node.requests:
            node.answer(request)
        await asyncio.gather(*asked)

    @asynchronous
    async def test_unknown_log(self):
        """A log that no cluster has is refused here, for every kind of call."""
        cluster, log = await self.connected(1, log="other")
        await self.raises(UnknownLogError, log.append(b"a"))
        await self.raises(UnknownLogError, log.bounds())
        await self.raises(UnknownLogError, anext(log.read(0, follow=True)))
        producer = log.producer()
        delivery = await producer.append(b"a")

        async def outcome():
            return await delivery

        await self.raises(UnknownLogError, outcome())
        await producer.abort()
        self.assertEqual(cluster.values, [])

    def test_unknown_transport(self):
        """There are two, and no others."""
        with self.assertRaisesRegex(Exception, "binary, grpc"):
            AsyncClient("127.0.0.1:1", transport="http")
