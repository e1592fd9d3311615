"""What surrounds the port, without a network: addresses, expiry, the private directory, places, splices."""

import errno
import fcntl
import os
import socket
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import CertificateError, ConfigError, ResourceExhaustedError
from loghouse.limits import CONNECTIONS_MAX
from loghouse.net import one_port, private_directory
from loghouse.net.admission import Admission, ConnectionLimits, limits_for
from loghouse.net.one_port import OnePort, OnePortOptions, connections_allowed, take_address
from loghouse.net.private_directory import PrivateDirectory, remove_dead
from loghouse.net.splice import SpliceEnd
from loghouse.net.tls import _reason
from tests.net.in_memory import Transport
from tests.net.test_admission import AdmissionCase


class AddressTests(SynchronousTestCase):
    """Taking the address of `listen`."""

    def test_socket(self):
        """It blocks nobody, may be taken again at once after a restart, and has the family of its address."""
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            taken = take_address(host, 0)
            self.addCleanup(taken.close)
            self.assertEqual((taken.family, taken.getblocking()), (family, False))
            self.assertEqual(taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), 1)
            self.assertEqual(taken.getsockname()[0], host)

    def test_remedies(self):
        """Why an address cannot be had is said with what to do."""
        for number, remedy in (
            (errno.EADDRINUSE, "another process listens there: stop it, or choose another port"),
            (errno.EADDRNOTAVAIL, "it is not an address of this host"),
            (
                errno.EACCES,
                "a port below 1024 needs a right of its own (CAP_NET_BIND_SERVICE): choose another",
            ),
            (errno.ENOMEM, "is it in use, or not an address of this host?"),
            (None, "is it in use, or not an address of this host?"),
        ):
            error = OSError(number, "why") if number else OSError("why")

            def fail(error=error):
                with one_port.listening("h", 5):
                    raise error

            text = str(self.assertRaises(ConfigError, fail))
            self.assertIn(f"h:5: cannot listen: {error}; {remedy}", text)

    def test_loopback(self):
        """These are addresses of this host alone."""
        for host, expected in (
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("localhost", True),
            ("0.0.0.0", False),
            ("localhost.example", False),
            ("192.0.2.1", False),
        ):
            self.assertIs(one_port._is_loopback(host), expected, host)

    def test_files(self):
        """The limit is raised as far as it may be; where it may not, there are fewer connections."""
        wanted = one_port.FILES_RESERVED + one_port.FILES_PER_CONNECTION * CONNECTIONS_MAX
        self.assertEqual((one_port.FILES_RESERVED, one_port.FILES_PER_CONNECTION), (256, 3))
        unlimited = one_port.resource.RLIM_INFINITY
        for soft, hard, raised, expected in (
            (10, wanted + 5, [(wanted, wanted + 5)], CONNECTIONS_MAX),
            (10, unlimited, [(wanted, unlimited)], CONNECTIONS_MAX),
            (10, 556, [(556, 556)], 100),
            (wanted, wanted, [], CONNECTIONS_MAX),
            (wanted - 3, wanted - 3, [(wanted - 3, wanted - 3)], CONNECTIONS_MAX - 1),
            (unlimited, unlimited, [], CONNECTIONS_MAX),
        ):
            asked = []
            self.patch(one_port.resource, "getrlimit", lambda what, one=(soft, hard): one)
            self.patch(one_port.resource, "setrlimit", lambda what, limits, asked=asked: asked.append(limits))
            self.assertEqual((connections_allowed(), asked), (expected, raised), (soft, hard))

        def refuse(what, limits):
            raise OSError(1, "no")

        self.patch(one_port.resource, "setrlimit", refuse)
        self.patch(one_port.resource, "getrlimit", lambda what: (556, unlimited))
        self.assertEqual(connections_allowed(), 100)

    def test_files_of_logs(self):
        """Logs get what connections leave, at least for a few."""
        others = one_port.FILES_RESERVED + one_port.FILES_PER_CONNECTION * CONNECTIONS_MAX
        unlimited = one_port.resource.RLIM_INFINITY
        self.patch(one_port.resource, "setrlimit", lambda what, limits: None)
        for hard, count_max, expected in (
            (unlimited, 2000, 2000),
            (others + 5 * 2000, 2000, 2000),
            (others + 5 * 100 + 4, 2000, 100),
            (others - 1, 2000, 16),
            (others - 1, 3, 3),
        ):
            self.patch(one_port.resource, "getrlimit", lambda what, one=hard: (one, one))
            self.assertEqual(one_port.replicas_allowed(count_max), expected, hard)


class OnePortTests(SynchronousTestCase):
    """The port of a node that does not listen."""

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.now = 0.0
        self.port = OnePort(
            self.reactor,
            None,
            None,
            wall_clock=lambda: self.now,
            options=OnePortOptions(tls=None),
        )

    def test_expiry(self):
        """Certificates are looked at once a day, and a file that cannot be read is an error in the log."""
        looks, said = [], []
        self.port.warn_of_expiry()  # without TLS there are none

        def look():
            looks.append(self.now)
            raise CertificateError("n.pem is gone")

        self.port.tls = SimpleNamespace(warn_of_expiry=look)
        self.port.logger = SimpleNamespace(error=lambda format, **fields: said.append(fields))
        for self.now in (0.0, 1.0, 86_399.0, 86_400.0, 86_400.5, 3 * 86_400.0):
            self.port.warn_of_expiry()
        self.assertEqual(looks, [0.0, 86_400.0, 3 * 86_400.0])
        self.assertEqual(said, [{"error": "n.pem is gone"}] * 3)

    def test_stop(self):
        """A stop says goodbye to clients first, and at the end to nodes; each wait has its bound."""
        said, waits = [], []
        self.port.watch = SimpleNamespace(
            say_goodbye=lambda *what, **fields: said.append((what, fields)),
            when_empty=lambda **fields: waits.append((Deferred(), fields)) or waits[-1][0],
        )
        self.successResultOf(self.port.stop_accepting())
        self.assertEqual(said, [])
        stopping = Deferred()
        self.port._port = SimpleNamespace(stopListening=lambda: stopping)
        stopped = self.port.stop_accepting()
        self.assertEqual(said, [(("the node is stopping",), {"nodes_too": False})])
        self.assertNoResult(stopped)
        stopping.callback(None)
        self.successResultOf(stopped)
        clients, nodes = self.port.when_clients_are_gone(3), self.port.leave_nodes(5)
        self.assertEqual(said[1:], [(("the node is stopping",), {})])
        self.assertEqual([fields for _, fields in waits], [{"nodes_too": False}, {}])
        self.reactor.advance(3)
        self.assertIsNone(self.successResultOf(clients))
        self.assertNoResult(nodes)
        self.reactor.advance(2)
        self.assertIsNone(self.successResultOf(nodes))

    def test_abort(self):
        """All that is open goes: connections, the socket, the directory; a second time nothing."""
        calls = []
        self.port._listener = SimpleNamespace(abort_all=lambda: calls.append("connections"))
        self.port._socket = SimpleNamespace(close=lambda: calls.append("socket"))
        self.port._directory = SimpleNamespace(close=lambda: calls.append("directory"))
        self.port.abort()
        self.port.abort()
        self.assertEqual(calls, ["connections", "socket", "directory", "connections", "socket"])

    def test_soon(self):
        """Without a shorter way work waits for the end of the reactor's turn."""
        done = []
        self.port._soon(lambda: done.append(1))
        self.assertEqual(done, [])
        self.reactor.advance(0)
        self.assertEqual(done, [1])


class DirectoryTests(SynchronousTestCase):
    """The private directory: its places, its bounds, and what a failure leaves."""

    def setUp(self):
        self.place = tempfile.mkdtemp(prefix="p-")
        self.addCleanup(os.rmdir, self.place)

    def test_longest_place(self):
        """A path of just 107 bytes is taken, one more is not."""
        fixed = len("/loghouse-12345678/grpc")
        for size, is_taken in ((107 - fixed, True), (108 - fixed, False)):
            place = f"{self.place}/{'x' * (size - len(self.place) - 1)}"
            os.mkdir(place)
            self.addCleanup(os.rmdir, place)
            self.patch(os, "environ", {**os.environ, "XDG_RUNTIME_DIR": place})
            made = PrivateDirectory()
            self.assertEqual(made.socket_path.startswith(place), is_taken, size)
            if is_taken:
                self.assertEqual(len(made.socket_path), 107)
            made.close()

    def test_no_place(self):
        """Each place is named once with what is wrong there, and no empty one."""
        self.patch(os, "environ", {})
        self.patch(tempfile, "gettempdir", lambda: "/tmp")
        self.patch(private_directory, "_make", self.refuse)
        error = self.assertRaises(ConfigError, PrivateDirectory)
        remedy = "set XDG_RUNTIME_DIR to a directory of this user"
        self.assertIn(f"no place for gRPC's socket: /tmp: no; {remedy}", str(error))

    def refuse(self, *what):
        raise OSError(errno.EACCES, "no")

    def test_failure_leaves_nothing(self):
        """When the lock cannot be had, or the name, nothing is left."""
        for module, name in ((fcntl, "flock"), (os, "rename"), (os, "open")):
            patched = self.patch(module, name, self.refuse)
            self.assertRaises(OSError, private_directory._make, self.place)
            patched.restore()
            self.assertEqual(os.listdir(self.place), [], name)

    def test_held(self):
        """Its file is this user's alone, is not inherited, and is locked while its node runs."""
        path, held = private_directory._make(self.place)
        self.assertEqual(os.listdir(path), ["held"])
        self.assertEqual(stat.S_IMODE(os.stat(f"{path}/held").st_mode), 0o600)
        self.assertTrue(fcntl.fcntl(held, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
        other = os.open(f"{path}/held", os.O_RDWR)
        self.assertRaises(BlockingIOError, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        remove_dead(self.place)
        self.assertTrue(os.path.exists(path))
        os.close(held)
        remove_dead(self.place)
        self.assertFalse(os.path.exists(path))

    def test_not_of_this_user(self):
        """What has another name, another owner, or is no directory stays."""
        path, held = private_directory._make(self.place)
        os.close(held)
        user = os.geteuid()
        patched = self.patch(os, "geteuid", lambda: user + 1)
        remove_dead(self.place)
        patched.restore()
        self.assertTrue(os.path.exists(path))
        renamed = f"{self.place}/other-{os.path.basename(path)}"
        os.rename(path, renamed)
        remove_dead(self.place)
        self.assertTrue(os.path.exists(renamed))
        os.rename(renamed, path)
        file = Path(self.place) / "loghouse-file"
        file.touch()
        remove_dead(self.place)
        self.assertEqual(os.listdir(self.place), ["loghouse-file"])
        file.unlink()


class PlacesTests(AdmissionCase):
    """The bounds of places, each at just its number."""

    def test_parts(self):
        """The defaults; and each part of fewer places is in proportion, and one at least."""
        whole = ConnectionLimits()
        self.assertEqual(limits_for(CONNECTIONS_MAX), whole)
        self.assertEqual(whole.clients_max, 4096 - 256 - 256 - 1)
        self.assertEqual(
            limits_for(16),
            ConnectionLimits(
                all_max=16,
                per_address_max=10,
                strangers_max=1,
                strangers_per_address_max=1,
                nodes_max=1,
                per_client_max=8,
            ),
        )

    def test_one_address(self):
        """One address has so many, which are refused by number and counted; a close makes room."""
        self.enter("10.0.0.1")
        self.admission._by_address["10.0.0.1"] = 7
        ticket = self.enter("10.0.0.1")
        error = self.assertRaises(ResourceExhaustedError, self.enter, "10.0.0.1")
        self.assertIn("connections from 10.0.0.1", str(error))
        self.assertIn("at most 8 are allowed", str(error))
        self.assertEqual(self.metrics.last("connection_refused"), ("too many from one address",))
        ticket.close()
        self.enter("10.0.0.1")

    def test_without_rule(self):
        """Who may do nothing here has 4 connections, or its share if that is less; nodes have theirs."""
        self.enter("10.0.0.1").identify("n", is_node=True, has_rule=False)
        admission = Admission(ConnectionLimits(), self.metrics)
        for _ in range(4):
            admission.enter("10.0.0.1").identify("nobody", is_node=False, has_rule=False)
        late = admission.enter("10.0.0.1")
        self.assertRaises(ResourceExhaustedError, late.identify, "nobody", is_node=False, has_rule=False)
        self.assertEqual(admission.strangers, 1)
        self.assertEqual(self.metrics.last("connection_refused"), ("too many of one subject, or of all",))

    def test_given_back(self):
        """A close gives each place back once: the subject's, the address's, the stranger's."""
        ticket, stranger = self.enter("10.0.0.1"), self.enter("10.0.0.2")
        ticket.identify("root", is_node=False)
        self.assertEqual((self.admission.clients.held_by("root"), self.admission.strangers), (1, 1))
        for one in (ticket, ticket, stranger, stranger):
            one.close()
        self.assertEqual((self.admission.clients.held_by("root"), self.admission.strangers), (0, 0))
        self.assertEqual((self.admission.all, dict(self.admission._by_address)), (0, {}))
        self.assertEqual(dict(self.admission._strangers_by_address), {})
        error = self.assertRaises(ResourceExhaustedError, ticket.identify, "root", is_node=False)
        self.assertIn("this one was closed to make room for others", str(error))

    def test_full(self):
        """The port is full at just its number."""
        for number in range(11):
            self.assertFalse(self.admission.is_full)
            self.admission.all = number + 1
        self.assertTrue(self.admission.is_full)


class SpliceTests(SynchronousTestCase):
    """The two ends of a spliced connection."""

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.ends = [SpliceEnd(self.reactor) for _ in range(2)]
        self.transports = [Transport(), Transport()]
        for end, transport in zip(self.ends, self.transports, strict=True):
            end.makeConnection(transport)

    def calls(self):
        return [transport.take_calls() for transport in self.transports]

    def test_half_closed(self):
        """The end of one direction is passed on; with the other, or after 30 s, both ends go."""
        one, two = self.ends
        one.join(two)
        self.assertEqual(self.calls(), [[("producer", True)], [("producer", True)]])
        one.readConnectionLost()
        self.assertEqual(self.calls(), [[], ["lose write"]])
        self.reactor.advance(29.9)
        self.assertEqual(self.calls(), [[], []])
        self.reactor.advance(0.1)
        self.assertEqual(self.calls(), [["abort"], ["abort"]])

    def test_both_directions(self):
        """When both have ended, both ends close in order; the timer goes with the connection."""
        one, two = self.ends
        one.join(two)
        one.readConnectionLost()
        self.calls()
        two.readConnectionLost()
        self.assertEqual(self.calls(), [["lose"], ["lose"]])
        one.connectionLost()
        self.assertEqual((self.reactor.getDelayedCalls(), one.other, two.other), ([], None, None))
        self.assertEqual(self.calls(), [[], ["no producer", "lose"]])
        two.connectionLost()
        self.assertEqual(self.calls(), [[], []])

    def test_alone(self):
        """An end that is alone closes, and what it gets goes nowhere."""
        one, _ = self.ends
        one.dataReceived(b"lost")
        one.readConnectionLost()
        self.assertEqual(self.calls(), [["lose"], []])

    def test_bytes(self):
        """Bytes pass; an end that breaks aborts the other one."""
        one, two = self.ends
        one.join(two)
        one.dataReceived(b"abc")
        self.assertEqual(self.transports[1].value(), b"abc")
        self.calls()
        two.connectionLost(SimpleNamespace(check=lambda kind: None))
        self.assertEqual(self.calls(), [["no producer", "abort"], []])


class VerdictTests(SynchronousTestCase):
    """What OpenSSL's errors become."""

    def test_reason(self):
        """The last detail, else the text, else the kind."""
        for error, expected in (
            (SSL.Error([("lib", "f", "first"), ("lib", "f", "last")]), "last"),
            (SSL.Error([]), "[]"),
            (ValueError("text"), "text"),
            (ValueError(), "ValueError"),
        ):
            self.assertEqual(_reason(error), expected)
