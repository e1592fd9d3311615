"""Our TLS transport against itself and against Twisted's own, over transports in memory."""

import random
from types import SimpleNamespace

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.credentials import Credentials
from loghouse.limits import KIB
from loghouse.net.tls import TlsContexts
from loghouse.runtime import bulk_tls
from loghouse.runtime.bulk_tls import (
    GATHERED_SIZE_MAX,
    WRITE_SIZE_MAX,
    BulkTlsFactory,
    BulkTlsTransport,
    write_at_once,
)
from tests.net.wire import WireCase

READ_SIZE = 64 * KIB  # what Twisted reads of a socket at once


class Noting(Protocol):
    """Writes `first` when connected, and notes what it gets."""

    first = b""
    reason = None

    def __init__(self):
        self.received = []

    def connectionMade(self):
        if self.first:
            self.transport.write(self.first)

    def dataReceived(self, data):
        self.received.append(data)

    def connectionLost(self, reason):
        self.reason = reason


class Pipe:
    """A client and a server, each behind TLS, and the wires between them."""

    def __init__(self, client_tls, server_tls, kinds, first=b""):
        self.clock = Clock()
        self.ends, self.transports = [], []
        for tls, is_client, kind in ((client_tls, True, kinds[0]), (server_tls, False, kinds[1])):
            factory = kind(tls, is_client, Factory.forProtocol(Noting), clock=self.clock)
            end = factory.buildProtocol(None)
            end.wrappedProtocol.first = first
            self.ends.append(end)
            self.transports.append(StringTransport())
        for end, transport in zip(self.ends, self.transports, strict=True):
            end.makeConnection(transport)
        self.client, self.server = (end.wrappedProtocol for end in self.ends)

    def pump(self):
        """Carry bytes to and fro until there are none."""
        moved = True
        while moved:
            self.clock.advance(0)
            moved = False
            for source, target in ((0, 1), (1, 0)):
                data = self.take(source)
                for at in range(0, len(data), READ_SIZE):
                    moved = True
                    self.ends[target].dataReceived(data[at : at + READ_SIZE])

    def take(self, source):
        """What an end wrote since the last time."""
        data = self.transports[source].value()
        self.transports[source].clear()
        return data


class BulkTlsTests(SynchronousTestCase):
    """`BulkTlsTransport`."""

    def setUp(self):
        case = WireCase("run")
        case.mktemp = self.mktemp
        case.setUp()
        self.contexts = [
            TlsContexts(Credentials(case.tls_paths(name)), clock=case.wall_clock) for name in ("n1", "n2")
        ]

    def pipe(self, *kinds, first=b""):
        return Pipe(*self.contexts, kinds or (BulkTlsFactory, BulkTlsFactory), first)

    def open_pipe(self, *kinds, **options):
        """Return a pipe whose handshake is done."""
        pipe = self.pipe(*kinds, **options)
        pipe.pump()
        return pipe

    def test_shorter_way(self):
        """Small writes gather until the end of the turn, by the shorter way to it where there is one."""
        clock, turns = Clock(), []
        factory = BulkTlsFactory(
            self.contexts[0], True, Factory.forProtocol(Noting), clock=clock, soon=turns.append
        )
        end, transport = factory.buildProtocol(None), StringTransport()
        end.makeConnection(transport)
        end.write(b"small")
        self.assertEqual((len(turns), clock.getDelayedCalls()), (1, []))

    def test_room_for_records(self):
        """Of OpenSSL is asked as much as a write can have become: all its records, and what else it says."""
        pipe = self.open_pipe()
        end, asked = pipe.ends[0], []
        taken = SimpleNamespace(sendall=lambda piece: None, bio_read=asked.append)
        self.patch(bulk_tls, "write_promptly", lambda *_: None)
        self.patch(end, "_tlsConnection", taken)
        for size in (1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 100 * KIB, WRITE_SIZE_MAX):
            end._write(bytes(size))
            records = -(-size // (16 * KIB))
            self.assertGreaterEqual(asked.pop(), size + 22 * records + 16 * KIB, size)
        end._write(bytes(2 * WRITE_SIZE_MAX + 1))
        self.assertEqual(len(asked), 3)
        self.assertEqual(asked[0], asked[1])

    def test_both_ways(self):
        """Small and large writes arrive whole and in order, also from and to Twisted's own transport."""
        for kinds in (
            (BulkTlsFactory, BulkTlsFactory),
            (BulkTlsFactory, TLSMemoryBIOFactory),
            (TLSMemoryBIOFactory, BulkTlsFactory),
        ):
            pipe = self.open_pipe(*kinds)
            sizes = (1, 300, 16 * KIB, 16 * KIB + 1, 3 * WRITE_SIZE_MAX + 7, 5)
            sent = [bytes([number]) * size for number, size in enumerate(sizes)]
            for data in sent:
                pipe.client.transport.write(data)
                pipe.server.transport.writeSequence([data[:100], data[100:]])
            pipe.pump()
            self.assertEqual(b"".join(pipe.server.received), b"".join(sent))
            self.assertEqual(b"".join(pipe.client.received), b"".join(sent))

    def test_when_writes_leave(self):
        """Small writes gather until the turn's end, or until they are many, or one is to leave at once."""
        pipe = self.open_pipe()
        pipe.client.transport.write(b"a")
        self.assertEqual(pipe.take(0), b"")
        pipe.pump()
        self.assertEqual(pipe.server.received, [b"a"])
        for _ in range(5):
            pipe.client.transport.write(bytes(GATHERED_SIZE_MAX // 4))
        self.assertGreater(len(pipe.take(0)), GATHERED_SIZE_MAX)

        pipe = self.open_pipe()
        pipe.client.transport.write(b"a")
        write_at_once(pipe.client.transport, (b"b", b"c"))
        pipe.ends[1].dataReceived(pipe.take(0))
        self.assertEqual(pipe.server.received, [b"abc"])
        pipe.pump()
        self.assertEqual(len(pipe.server.received), 1)

        plain = StringTransport()
        write_at_once(plain, (b"b", b"c"))
        self.assertEqual(plain.value(), b"bc")

    def test_at_once_before_the_handshake_and_behind_the_end(self):
        """What is to leave at once waits for the handshake like all else; behind the end it goes nowhere."""
        pipe = self.pipe()
        write_at_once(pipe.client.transport, (b"x",))
        pipe.pump()
        self.assertEqual(pipe.server.received, [b"x"])
        pipe.client.transport.abortConnection()
        pipe.ends[0].connectionLost(Failure(ConnectionAborted()))
        write_at_once(pipe.client.transport, (b"y",))
        self.assertEqual(pipe.server.received, [b"x"])

    def test_one_delivery_a_read(self):
        """All records of one read of the socket are delivered together."""
        pipe = self.open_pipe()
        pipe.client.transport.write(bytes(100 * KIB))
        pipe.pump()
        self.assertEqual(len(pipe.server.received), 2)

    def test_no_more_calls_than_records(self):
        """When a read ends where a record does, OpenSSL is not asked for another one."""
        pipe = self.open_pipe()
        connection = pipe.ends[1]._tlsConnection
        calls = []
        real = connection.recv
        self.patch(connection, "recv", lambda size: calls.append(size) or real(size))
        for sizes, expected in (([300], 1), ([300, 20 * KIB, 7], 4)):
            calls.clear()
            for size in sizes:
                pipe.client.transport.write(bytes(size))
                pipe.clock.advance(0)
            pipe.ends[1].dataReceived(pipe.take(0))
            self.assertEqual(len(calls), expected)

    def test_where_records_end(self):
        """Reads may end anywhere, in a record's header, too; only those that end with a record say so."""
        for seed in range(300):
            rng = random.Random(seed)
            ends, wire = [], b""
            for _ in range(rng.randrange(1, 8)):
                size = rng.randrange(40)
                wire += b"\x17\3\3" + size.to_bytes(2, "big") + bytes(size)
                ends.append(len(wire))
            end, start = object.__new__(BulkTlsTransport), 0
            while start < len(wire):
                stop = min(len(wire), start + rng.randrange(1, 60))
                ended = sum(start < place <= stop for place in ends)
                self.assertEqual(end._count_whole(wire[start:stop]), ended if stop in ends else 0)
                start = stop

    def test_before_the_handshake(self):
        """What is written before the handshake is done is sent behind it, once."""
        first = bytes(range(256)) * 5 * KIB
        pipe = self.open_pipe(first=first)
        self.assertEqual(b"".join(pipe.server.received), first)
        self.assertEqual(b"".join(pipe.client.received), first)

    def test_last_words(self):
        """Bytes in front of the end of TLS are delivered, though both came in one read."""
        pipe = self.open_pipe()
        pipe.client.transport.write(b"last words")
        pipe.client.transport.loseConnection()
        pipe.pump()
        self.assertEqual(pipe.server.received, [b"last words"])
        self.assertTrue(pipe.transports[1].disconnecting)

    def test_damaged_record(self):
        """A changed byte ends the connection; the records before it count, nothing behind it does."""
        pipe = self.open_pipe()
        pipe.client.transport.write(b"a" * 64_001)
        good = pipe.take(0)
        pipe.client.transport.write(b"b" * 64_001)
        bad = bytearray(pipe.take(0))
        bad[-1] ^= 1
        pipe.ends[1].dataReceived(good[:100])
        pipe.ends[1].dataReceived(good[100:] + bytes(bad) + good)
        received = b"".join(pipe.server.received)
        self.assertEqual(received, (b"a" * 64_001 + b"b" * 64_001)[: len(received)])
        self.assertGreaterEqual(len(received), 64_001)
        self.assertLess(len(received), 128_002)
        pipe.ends[1].connectionLost(None)
        self.assertTrue(pipe.server.reason.check(SSL.Error))

    def test_delivered_before_the_end(self):
        """What came in front of the end, clean or not, is delivered before the connection is closed."""
        for is_clean in (True, False):
            pipe = self.open_pipe()
            pipe.client.transport.write(b"last words" * 7_000)
            wire = pipe.take(0)
            if is_clean:
                pipe.client.transport.loseConnection()
                wire += pipe.take(0)
            else:
                wire += b"\x17\3\3\0\x20" + bytes(32)  # a record that nobody encrypted
            closing, received = [], []

            def note(data, pipe=pipe, closing=closing, received=received):
                received.append(data)
                closing.append(pipe.transports[1].disconnecting)

            pipe.server.dataReceived = note
            pipe.ends[1].dataReceived(wire)
            self.assertEqual((received, closing), ([b"last words" * 7_000], [False]))
            self.assertTrue(pipe.transports[1].disconnecting)

    def test_answer_to_the_end(self):
        """The end of TLS is answered with its own, before the connection is closed."""
        pipe = self.open_pipe()
        pipe.client.transport.loseConnection()
        pipe.ends[1].dataReceived(pipe.take(0))
        pipe.ends[0].dataReceived(pipe.take(1))
        self.assertTrue(pipe.transports[0].disconnecting)

    def test_write_that_fails(self):
        """A write that OpenSSL refuses ends the connection for that reason; the rest is not tried."""
        pipe = self.open_pipe()
        end, tried = pipe.ends[0], []

        def fail(piece):
            tried.append(len(piece))
            raise SSL.Error([("SSL routines", "", "refused")])

        real = end._tlsConnection
        self.patch(end, "_tlsConnection", SimpleNamespace(sendall=fail, bio_read=real.bio_read))
        write_at_once(pipe.client.transport, (bytes(WRITE_SIZE_MAX + 1),))
        self.assertEqual((tried, pipe.transports[0].disconnecting), ([WRITE_SIZE_MAX], True))
        write_at_once(pipe.client.transport, (b"more",))
        self.assertEqual(len(tried), 1)
        end.connectionLost(Failure(ConnectionDone()))
        self.assertIn("refused", str(pipe.client.reason.check(SSL.Error) and pipe.client.reason.value))

    def test_nothing_to_send_yet(self):
        """Where OpenSSL keeps what it took, nothing is written, and the next piece follows."""
        pipe = self.open_pipe()
        end, taken = pipe.ends[0], []

        def keep(size):
            raise SSL.WantReadError

        kept = SimpleNamespace(sendall=lambda piece: taken.append(len(piece)), bio_read=keep)
        self.patch(end, "_tlsConnection", kept)
        write_at_once(pipe.client.transport, (bytes(WRITE_SIZE_MAX + 1),))
        self.assertEqual((taken, pipe.take(0)), ([WRITE_SIZE_MAX, 1], b""))

    def test_aborted(self):
        """After an abort nothing more is delivered."""
        pipe = self.open_pipe()
        pipe.client.transport.write(b"x" * 64_001)
        pipe.server.transport.abortConnection()
        pipe.pump()
        self.assertEqual(pipe.server.received, [])
