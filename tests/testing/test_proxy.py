"""The bad network of the process tests does what it says, and nothing else."""

import os
import random
import socket
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.process import wait_until
from loghouse.testing.proxy import Proxies, process_of_socket


class Echo:
    """A server that keeps what each connection sent, and sends when told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.connections: list[socket.socket] = []
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(30)
            self.connections.append(connection)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(30)
        for connection in self.connections:
            connection.close()


def receive(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class ProxyCase(SynchronousTestCase):
    """A client, a proxy, a server."""

    def setUp(self):
        self.server = Echo()
        self.addCleanup(self.server.close)
        self.proxies = Proxies()
        self.addCleanup(self.proxies.close)
        self.proxy = self.proxies.add(self.server.address)
        self.link = self.proxy.link("")

    def dial(self, proxy=None) -> socket.socket:
        near = socket.create_connection((proxy or self.proxy).address, 30)
        self.addCleanup(near.close)
        return near

    def pair(self) -> tuple[socket.socket, socket.socket]:
        count = len(self.server.connections)
        near = self.dial()
        wait_until(lambda: len(self.server.connections) > count, "the proxy to connect")
        return near, self.server.connections[count]

    def assertReset(self, connection: socket.socket) -> None:
        self.assertRaises(ConnectionResetError, connection.recv, 1)

    def assertDialReset(self, proxy) -> None:
        def dial_and_read() -> None:
            self.dial(proxy).recv(1)  # the reset may come before connect() returns

        self.assertRaises(ConnectionResetError, dial_and_read)


class PassingTests(ProxyCase):
    """Without a fault the proxy is a wire."""

    def test_bytes_and_ends(self):
        """Megabytes pass both ways unchanged, and each side's end of stream arrives alone."""
        near, far = self.pair()
        sent = random.Random(1).randbytes(8 << 20)
        sender = threading.Thread(target=near.sendall, args=(sent,))
        sender.start()
        self.assertEqual(receive(far, len(sent)), sent)
        sender.join(30)
        near.shutdown(socket.SHUT_WR)
        self.assertEqual(far.recv(1), b"")
        far.sendall(b"still open this way")
        far.shutdown(socket.SHUT_WR)
        self.assertEqual(receive(near, 100), b"still open this way")
        wait_until(lambda: self.link.connection_count == 0, "the connection to be forgotten")
        self.assertEqual((self.link.forward.passed_size, self.link.backward.passed_size), (len(sent), 19))

    def test_reset_is_passed_on(self):
        """A reset by one side reaches the other."""
        near, far = self.pair()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        self.assertReset(near)

    def test_nobody_listens(self):
        """A target that is down resets the dialler."""
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = closed.getsockname()
        self.assertDialReset(self.proxies.add(address))

    def test_dialler_is_known(self):
        """The kernel tells which process dialled."""
        near = self.dial()
        own = os.getpid()
        self.assertEqual(process_of_socket(near.getsockname(), self.proxy.address, [1, own]), own)
        self.assertIsNone(process_of_socket(near.getsockname(), self.proxy.address, []))
        self.assertIsNone(process_of_socket(("127.0.0.2", 1), self.proxy.address, [own]))


class FaultTests(ProxyCase):
    """Each fault is what its name says."""

    def test_blackhole(self):
        """Held both ways: bytes reach the proxy and stay there, an end does not pass; then all goes on."""
        near, far = self.pair()
        self.link.blackhole()
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        far.sendall(b"answer")
        wait_until(lambda: self.link.forward.received_size == 8, "the question to reach the proxy")
        wait_until(lambda: self.link.backward.received_size == 6, "the answer to reach the proxy")
        for side in (near, far):
            side.setblocking(False)
            self.assertRaises(BlockingIOError, side.recv, 1)
            side.settimeout(30)
        self.link.restore()
        self.assertEqual((receive(far, 100), receive(near, 6)), (b"question", b"answer"))

    def test_blackhole_one_way(self):
        """Held forward only, the other direction goes on."""
        near, far = self.pair()
        self.link.blackhole(backward=False)
        near.sendall(b"lost for now")
        far.sendall(b"hello")
        self.assertEqual(receive(near, 5), b"hello")
        wait_until(lambda: self.link.forward.received_size == 12, "the bytes to reach the proxy")
        self.assertEqual(self.link.forward.passed_size, 0)

    def test_blackhole_hides_a_death(self):
        """The reset of a dying target is not passed on while its way is held."""
        near, far = self.pair()
        self.link.blackhole()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        near.sendall(b"anybody?")
        wait_until(lambda: self.link.forward.received_size == 8, "the question to reach the proxy")
        near.setblocking(False)
        self.assertRaises(BlockingIOError, near.recv, 1)
        near.settimeout(30)
        self.link.restore()
        self.assertReset(near)

    def test_blackhole_meets_new_connections(self):
        """A new connection into the hole is not passed on until the link is restored."""
        self.link.blackhole()
        near = self.dial()
        near.sendall(b"a")
        wait_until(lambda: self.link.connection_count == 1, "the proxy to accept")
        self.assertEqual(self.server.connections, [])
        self.link.restore()
        wait_until(lambda: len(self.server.connections) == 1, "the proxy to connect")
        self.assertEqual(receive(self.server.connections[0], 1), b"a")

    def test_back_pressure(self):
        """A held way takes a bounded number of bytes; then the sender waits."""
        near, _ = self.pair()
        self.link.blackhole()
        near.setblocking(False)
        taken = 0

        def is_stuck() -> bool:
            nonlocal taken
            try:
                taken += near.send(bytes(1 << 20))
            except BlockingIOError:
                return self.link.forward.received_size > 1 << 20
            return False

        wait_until(is_stuck, "the sender to meet back-pressure")
        self.assertLess(taken, 64 << 20)

    def test_drop_and_refuse(self):
        """`drop` resets what is open and takes new connections; `refuse` takes none."""
        near, far = self.pair()
        self.link.drop()
        self.assertReset(near)
        self.assertReset(far)
        near, _ = self.pair()
        self.link.refuse()
        self.assertReset(near)
        self.assertDialReset(self.proxy)
        self.link.restore()
        near, far = self.pair()
        near.sendall(b"a")
        self.assertEqual(receive(far, 1), b"a")

    def test_cut(self):
        """A cut passes exactly so many bytes, then ends that connection and no other."""
        near, far = self.pair()
        self.link.cut(5)
        near.sendall(b"0123456789")
        self.assertEqual(receive(far, 10), b"01234")
        near, far = self.pair()
        near.sendall(b"0123456789")
        self.assertEqual(receive(far, 10), b"0123456789")

    def test_delay(self):
        """Bytes arrive late, in order, and a delay does not lower the rate."""
        near, far = self.pair()
        self.link.delay(0.05, 0.01)
        begin = time.monotonic()
        for number in range(20):
            near.sendall(bytes([number]))
        self.assertEqual(receive(far, 20), bytes(range(20)))
        elapsed = time.monotonic() - begin
        self.assertGreaterEqual(elapsed, 0.05)
        self.assertLess(elapsed, 20 * 0.05, "each byte waited for the one before it")

    def test_throttle(self):
        """Not more than so many bytes a second pass."""
        near, far = self.pair()
        self.link.throttle(4 << 20)
        begin = time.monotonic()
        sender = threading.Thread(target=near.sendall, args=(bytes(1 << 20),))
        sender.start()
        receive(far, 1 << 20)
        sender.join(30)
        # The last chunk does not wait behind itself.
        self.assertGreaterEqual(time.monotonic() - begin, 0.25 * (1 - 1 / 16) - 0.01)


class DirectionTests(SynchronousTestCase):
    """One address, a link for each dialler."""

    def test_each_dialler_has_its_link(self):
        """A fault on the link of one dialler leaves the others alone."""
        server = Echo()
        self.addCleanup(server.close)
        proxies = Proxies()
        self.addCleanup(proxies.close)
        names: dict[int, str] = {}
        proxy = proxies.add(server.address, lambda peer, own: names[peer[1]])
        sockets = {}
        for name in ("a", "b"):
            near = socket.socket()
            self.addCleanup(near.close)
            near.settimeout(30)
            near.bind(("127.0.0.1", 0))
            names[near.getsockname()[1]] = name
            sockets[name] = near
        proxy.link("a").blackhole()
        for near in sockets.values():
            near.connect(proxy.address)
            near.sendall(b"x")
        wait_until(lambda: len(server.connections) == 1, "b's connection")
        self.assertEqual(receive(server.connections[0], 1), b"x")
        wait_until(lambda: proxy.link("a").connection_count == 1, "a's connection")
        self.assertEqual(sorted(link.source for link in proxy.links()), ["a", "b"])
        self.assertEqual(len(server.connections), 1)
