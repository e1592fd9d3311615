"""The one port of a real twistd: both protocols on `listen`, the second door, an ordered stop."""

import importlib.util
import os
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from loghouse.api.v1 import log_pb2
from loghouse.auth.certificates import make_ca, make_client_certificate, write_issued
from loghouse.client import Tls, connect_blocking
from loghouse.errors import LoghouseError
from loghouse.protocol.batch import decode_batch
from loghouse.testing.process import wait_until
from tests.auth.issuing import issue, issued
from tests.e2e.test_node_process import ProcessTestCase

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "raw_client.py"


def load_example():
    spec = importlib.util.spec_from_file_location("raw_client", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class OnePortTests(ProcessTestCase):
    """gRPC and the binary protocol against one real process."""

    def raw(self, node, subject="root"):
        paths = (
            self.certificates.path("ca"),
            self.certificates.path(subject),
            self.certificates.key_path(subject),
        )
        return load_example().connect(node.address, *map(str, paths))

    def test_both_protocols(self):
        """What goes in by one comes out by the other; a follower is told when the node stops."""
        node, stub = self.serving()
        self.assertEqual(self.produce(stub, b"over gRPC"), [0])
        client = self.raw(node)
        self.assertEqual(client.produce([b"over frames", b"and one more"]), 1)
        self.assertEqual(self.consume(stub, 2), b"and one more")
        found = [
            record.value
            for kind, _, _, _, _, payload in client.fetch(0)[0]
            if kind == 1
            for record in decode_batch(payload).records
        ]
        self.assertEqual(found[0], b"over gRPC")
        following = client.follow(3)
        other = self.raw(node)
        other.produce([b"followed"])
        other.sock.close()
        kinds = next(following)
        self.assertEqual(decode_batch(kinds[-1]).records[0].value, b"followed")
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(list, following)
            wait_until(lambda: not client.sock.pending(), "the follower waits")
            self.assertEqual(node.stop(), -signal.SIGTERM)
            self.assertIn("stopping", str(ended.exception(20)))
        self.assertIn("log closed", node.output())

    def test_servers_name_both_doors(self):
        """GetServers works through the splice."""
        node = self.started()
        servers = self.stub(node).GetServers(log_pb2.GetServersRequest(), timeout=20).servers
        self.assertEqual([server.rpc_addr for server in servers], [node.address])
        self.assertStopped(node)


class CredentialsTests(ProcessTestCase):
    """New files under a node that serves: in use on both doors, or on none."""

    def own_files(self):
        paths = self.certificates
        return [paths.path("ca"), paths.path("root"), paths.key_path("root")]

    def answers(self, node, files):
        """Whether (binary, gRPC) serve a client with these files."""
        tls = dict(zip(("ca", "certificate", "key"), files, strict=True))
        answers = []
        for transport in ("binary", "grpc"):
            try:
                with connect_blocking(
                    node.address, tls=Tls(**tls), transport=transport, timeout_seconds=3
                ) as log:
                    log.bounds()
                answers.append(True)
            except LoghouseError:
                answers.append(False)
        return tuple(answers)

    def test_ca_removed_with_a_mark(self):
        """A CA taken out by an editor that writes a byte order mark is gone for both; the rest goes on."""
        own = [
            self.certificates.path("ca"),
            self.certificates.path("root"),
            self.certificates.key_path("root"),
        ]
        other = make_ca("another CA", now=datetime.now(UTC))
        theirs = make_client_certificate(other, name="root", now=datetime.now(UTC))
        foreign = [own[0].read_bytes(), theirs.certificate_pem, theirs.key_pem]
        alone = own[0].read_bytes()
        own[0].write_bytes(alone + other.certificate_pem)
        node = self.started()
        self.assertEqual(self.answers(node, foreign), (True, True))
        own[0].write_bytes(b"\xef\xbb\xbf# Fo\xcc\x8btan\n" + alone)
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until(lambda: "certificates are in use" in node.output(), "the new file to be in use")
        self.assertEqual(self.answers(node, foreign), (False, False))
        self.assertEqual(self.answers(node, own), (True, True))

    def test_unusable_pair(self):
        """A pair that one stack cannot use is refused by name, and both doors go on with the old one."""
        own = [
            self.certificates.path("ca"),
            self.certificates.path("root"),
            self.certificates.key_path("root"),
        ]
        node = self.started()
        key = ec.generate_private_key(ec.SECP256K1())
        signer = load_pem_private_key(self.certificates.authority.key_pem, None)
        uri = "loghouse://test/node/node-1"
        bad = issue(key=key, signer=signer, issuer="test CA", uri=uri, hosts=["127.0.0.1"])
        paths = self.certificates.path("node-1"), self.certificates.key_path("node-1")
        write_issued(issued(bad, key), *paths, may_replace=True)
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until(lambda: "the new file is not used" in node.output(), "the pair to be refused")
        self.assertIn("node-1.pem: its key is on the curve secp256k1", node.output())
        self.assertEqual(self.answers(node, own), (True, True))
        node.stop()
        self.assertIn("node-1.pem: its key is on the curve secp256k1", self.refused(node))


def is_closed(one: socket.socket) -> bool:
    """Whether the node has closed this connection, on which it sent nothing."""
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class FileDescriptorTests(ProcessTestCase):
    """A node that has no file descriptors left for strangers goes on for those whom it has."""

    def crowd(self, node, count):
        """Open so many connections that say nothing, from several addresses; closed at the end."""
        sockets = []
        for number in range(count):
            one = socket.socket()
            self.addCleanup(one.close)
            one.bind((f"127.0.0.{2 + number % 32}", 0))
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", node.port))
            sockets.append(one)
        return sockets

    def open_files(self, node):
        return len(os.listdir(f"/proc/{node.pid}/fd"))

    def assertServes(self, node, offset, value):
        """A newcomer is served again, once the node has noticed that the crowd is gone."""
        stub = self.stub(node)

        def is_served():
            try:
                return self.consume(stub, offset) == value
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
                return False

        wait_until(is_served, "a newcomer to be served")

    def test_few_file_descriptors(self):
        """With few allowed, the oldest strangers go before they run out; all others are served meanwhile."""
        allowed = 400
        node = self.make_node(settings="storage:\n  segment_size: 256KiB\n")
        node.start(prefix=("prlimit", f"--nofile={allowed}:{allowed}"))
        stub = self.stub(node)
        self.assertEqual(self.produce(stub, b"before"), [0])
        crowd = self.crowd(node, 2 * allowed)
        wait_until(lambda: is_closed(crowd[0]), "the oldest stranger to go for a newer one")
        for _ in range(8):
            self.produce(stub, bytes(100_000))
        self.assertLess(self.open_files(node), allowed)
        self.assertServes(node, 8, bytes(100_000))

    def test_none_left(self):
        """When the kernel gives none (EMFILE), newcomers are let go and those who are in are served."""
        node, stub = self.serving()
        self.assertEqual(self.produce(stub, b"before"), [0])
        files = self.open_files(node)
        _, hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
        soft, _ = resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (files + 8, hard))
        crowd = self.crowd(node, 64)
        wait_until(lambda: "EMFILE" in node.output(), "the kernel to refuse")
        self.assertEqual(self.produce(stub, b"during"), [1])
        for one in crowd:
            one.close()
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (soft, hard))
        self.assertServes(node, 1, b"during")
