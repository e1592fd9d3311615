"""Tests of loghouse.net.one_port: what `listen` refuses at boot, and what it leaves behind."""

import os
import resource
import socket
import stat

from twisted.internet import reactor

from loghouse.auth.credentials import Credentials
from loghouse.errors import ConfigError
from loghouse.limits import CONNECTIONS_MAX
from loghouse.net.one_port import (
    FILES_PER_CONNECTION,
    FILES_RESERVED,
    OnePort,
    OnePortOptions,
    connections_allowed,
)
from tests.net.wire import WireCase, asynchronous


class OnePortTests(WireCase):
    """Boot and stop."""

    def one_port(self, *, plaintext=False):
        port = OnePort(
            reactor,
            self.node,
            self.authorizer,
            wall_clock=lambda: self.now,
            options=OnePortOptions(
                tls=None if plaintext else Credentials(self.tls_paths()), anonymous="root"
            ),
        )
        self.addCleanup(port.abort)
        return port

    def setUp(self):
        super().setUp()
        self.now = 0.0

    def test_private_directory(self):
        """gRPC's socket is where only this user may go, its path is short, and nothing is left of it."""
        port = self.one_port()
        path = port.grpc_address.removeprefix("unix:")
        directory = os.path.dirname(path)
        self.assertEqual(stat.S_IMODE(os.stat(directory).st_mode), 0o700)
        self.assertLessEqual(len(path), 107)
        self.assertEqual(port.grpc_address, f"unix:{path}")
        port.abort()
        self.assertFalse(os.path.exists(directory))

    @asynchronous
    async def test_taken_port(self):
        """An address in use is an error at boot that names it."""
        first, second = self.one_port(), self.one_port()
        number = first.bind("127.0.0.1", 0)
        with self.assertRaises(ConnectionRefusedError):  # nobody waits for a node that opens its log
            socket.create_connection(("127.0.0.1", number))
        first.listen()
        error = self.assertRaises(ConfigError, second.bind, "127.0.0.1", number)
        self.assertIn(f"127.0.0.1:{number}", str(error))
        await first.stop_accepting()
        await first.when_clients_are_gone(5)

    def test_plaintext_is_for_loopback(self):
        """Without TLS no other address than a loopback one is bound."""
        port = self.one_port(plaintext=True)
        for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
            self.assertRaises(ConfigError, port.bind, host, 0)

    @asynchronous
    async def test_stop_before_listen(self):
        """A port that never listened stops, too."""
        port = self.one_port()
        await port.stop_accepting()
        await port.when_clients_are_gone(5)

    def test_file_descriptors(self):
        """As many connections are accepted as there are file descriptors for, and not more."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.patch(resource, "setrlimit", lambda what, limits: None)
        self.addCleanup(lambda: self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), before))
        for hard, expected in (
            (FILES_RESERVED + 100 * FILES_PER_CONNECTION, 100),
            (10, 16),
            (1_000_000, CONNECTIONS_MAX),
            (resource.RLIM_INFINITY, CONNECTIONS_MAX),
        ):
            self.patch(resource, "getrlimit", lambda what, hard=hard: (10, hard))
            self.assertEqual(connections_allowed(), expected, hard)
        self.patch(resource, "getrlimit", lambda what: before)
