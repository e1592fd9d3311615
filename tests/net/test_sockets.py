"""Sockets as busy links need them: written at once, read in large pieces, waiting for no acknowledgement."""

import contextlib
import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from loghouse.limits import KIB, MIB, SOCKET_BUFFER_SIZE
from loghouse.runtime.sockets import use_large_buffers, write_promptly
from tests.net.test_peer import PeerCase
from tests.net.wire import WireCase, asynchronous

SECONDS_MAX = 20


class Accepted(Protocol):
    """An accepted connection: tells when it is made and when it is lost, and notes what it reads."""

    def __init__(self):
        self.made, self.lost = Deferred(), Deferred()
        self.received = []
        self.received_something = Deferred()

    def connectionMade(self):
        self.made.callback(self)

    def dataReceived(self, data):
        self.received.append(data)
        if not self.received_something.called:
            self.received_something.callback(None)

    def connectionLost(self, reason):
        self.lost.callback(None)


class SocketTests(WireCase):
    """A real connection; the other end is a plain blocking socket."""

    async def open(self):
        self.accepted = Accepted()
        factory = Factory.forProtocol(lambda: self.accepted)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        self.plain = socket.create_connection(("127.0.0.1", port.getHost().port), SECONDS_MAX)
        self.addCleanup(self.plain.close)
        await self.accepted.made
        return self.accepted.transport

    async def close(self):
        self.plain.close()
        self.accepted.transport.abortConnection()
        await self.accepted.lost

    def read_exactly(self, size):
        received = b""
        while len(received) < size:
            data = self.plain.recv(MIB)
            if not data:
                break
            received += data
        return received

    @asynchronous
    async def test_leaves_at_once(self):
        """What a free socket takes is gone without a turn of the reactor, which is not asked to watch it."""
        transport = await self.open()
        write_promptly(transport, b"now")
        self.assertEqual(self.plain.recv(10), b"now")  # blocks the reactor: nothing else can have sent it
        self.assertNotIn(transport, reactor.getWriters())
        await self.close()

    @asynchronous
    async def test_order(self):
        """What a full socket does not take goes out behind it, in order, whoever wrote it and how."""
        transport = await self.open()
        pieces = [bytes([number]) * size for number, size in enumerate((9 * MIB, 3, 1, 2 * MIB, 5))]
        for number, piece in enumerate(pieces):
            (transport.write if number == 2 else lambda data: write_promptly(transport, data))(piece)
        everything = b"".join(pieces)
        self.assertEqual(await deferToThread(self.read_exactly, len(everything)), everything)
        write_promptly(transport, b"free again")
        self.assertEqual(self.plain.recv(100), b"free again")
        await self.close()

    @asynchronous
    async def test_cut_off(self):
        """Nothing leaves any more once the connection was cut off."""
        transport = await self.open()
        transport.abortConnection()
        write_promptly(transport, b"too late")
        await self.accepted.lost
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(self.plain.recv(10), b"")

    @asynchronous
    async def test_broken(self):
        """A connection that broke is found by Twisted, which tells its protocol as ever."""
        transport = await self.open()
        self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.plain.close()  # a reset
        write_promptly(transport, b"one")
        write_promptly(transport, b"two")
        self.assertFalse(self.accepted.lost.called)
        await self.accepted.lost

    @asynchronous
    async def test_large_reads(self):
        """A read takes more than Twisted's 64 KiB once a connection is known to be worth it."""
        transport = await self.open()
        transport.pauseProducing()
        use_large_buffers(transport)
        self.plain.setblocking(False)
        sent = self.plain.send(bytes(256 * KIB))
        self.assertGreater(sent, 100 * KIB)
        transport.resumeProducing()
        await self.accepted.received_something
        self.assertGreater(len(self.accepted.received[0]), 65_536)
        await self.close()


class LinkSocketTests(PeerCase):
    """Links between nodes, over real TLS."""

    @asynchronous
    async def test_both_ends(self):
        """Neither end lets a message wait until the one before is acknowledged; both have large buffers."""
        link = self.peer()
        await self.up(link)
        [accepted] = self.listener._connections
        for tcp in (link.link.transport.transport, accepted.transport):
            self.assertTrue(tcp.getTcpNoDelay())
            self.assertEqual(tcp.bufferSize, SOCKET_BUFFER_SIZE)


class BinaryClientSocketTests(WireCase):
    """A binary client, over real TLS."""

    @asynchronous
    async def test_client(self):
        """It does not wait for acknowledgements, either."""
        self.open_port()
        connection = await self.connect()
        tcp = connection.transport.transport
        self.assertTrue(tcp.getTcpNoDelay())
        self.assertEqual(tcp.bufferSize, SOCKET_BUFFER_SIZE)
