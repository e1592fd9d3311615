"""Servers that will never do: told at once by their cause, not after many attempts; both transports."""

import time
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import make_node_certificate
from loghouse.client import Tls, connect_blocking
from loghouse.client.pin import CertifiedServer, ClusterPin
from loghouse.errors import (
    DeadlineError,
    IdentityError,
    LoghouseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from loghouse.testing.process import Certificates, NodeProcess, free_port
from tests.processes import CHILDREN

SECONDS = 25.0
AT_ONCE = 10.0


class StrangersTests(SynchronousTestCase):
    """A node with TLS and one without, and clients that do not fit."""

    skip = CHILDREN

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.ours = Certificates(self.folder / "ours")

    @cached_property
    def other_ca(self):
        """What a CA that is not the cluster's signed."""
        return Certificates(self.folder / "other-ca")

    @cached_property
    def node(self):
        """A node with TLS, which serves."""
        node = NodeProcess(self.folder / "node", self.ours, is_forked=True)
        self.addCleanup(node.close)
        node.start()
        return node

    def tls(self, ca=None, own=None, name="root"):
        ca, own = ca or self.ours, own or self.ours
        return Tls(ca=ca.path("ca"), certificate=own.path(name), key=own.key_path(name))

    def plain(self):
        plain = NodeProcess(self.folder / "plain", self.ours, name="node-2", is_forked=True)
        lines = [
            f"node: {plain.name}", f"cluster: {plain.cluster}", f"data_dir: {plain.data_dir}",
            f"listen: {plain.address}", "plaintext: true", "plaintext_subject: root",
            f"acl: {{model: {self.ours.folder}/model.conf, policy: {self.ours.folder}/policy.csv}}", "",
        ]  # fmt: skip
        plain.config_path.write_text("\n".join(lines))
        self.addCleanup(plain.close)
        plain.start(wait=False)
        with connect_blocking(plain.address, timeout_seconds=SECONDS) as log:
            log.bounds()
        return plain

    def check(self, target, tls, kind, *texts, transports=("binary", "grpc"), **options):
        """Every kind of use fails at once, in the same way."""
        for transport in transports:
            with connect_blocking(
                target, tls=tls, transport=transport, timeout_seconds=SECONDS, **options
            ) as log:
                producer = log.producer()
                for use in (
                    lambda log=log: log.append(b"a"),
                    lambda log=log: next(log.read(0, follow=True)),
                    lambda producer=producer: producer.append(b"b").offset(),
                ):
                    began = time.monotonic()
                    error = self.assertRaises(kind, use)
                    self.assertLess(time.monotonic() - began, AT_ONCE, (transport, str(error)))
                    for text in texts:
                        self.assertIn(text, str(error), transport)
                self.assertFalse(error.may_retry)
                self.assertIs(error.was_appended, False)
                producer.abort()

    def test_wrong_authority(self):
        """A node whose certificate another CA signed."""
        self.check(self.node.address, self.tls(ca=self.other_ca), IdentityError, self.node.address, "CA")

    def test_own_certificate_of_another_authority(self):
        """A node that does not accept this client's certificate."""
        tls = self.tls(own=self.other_ca)
        self.check(self.node.address, tls, UnauthenticatedError, "--cert", transports=("binary",))

    def test_without_tls(self):
        """A client without TLS at a node with it."""
        self.check(self.node.address, None, IdentityError, "speaks TLS", "--cert", transports=("binary",))

    def test_node_without_tls(self):
        """A client with TLS at a node without it."""
        plain = self.plain()
        self.check(plain.address, self.tls(), IdentityError, plain.address, transports=("binary",))
        self.check(plain.address, self.tls(), IdentityError, plain.address, transports=("grpc",))

    def test_not_permitted(self):
        """A client that no rule names."""
        tls = self.tls(name="nobody")
        self.check(self.node.address, tls, PermissionDeniedError, "'nobody' is not permitted")

    def test_one_of_several(self):
        """As long as another address might do, it is tried; the good one is found, or the cause told."""
        good, wrong, nowhere = self.node.address, self.plain().address, f"127.0.0.1:{free_port()}"
        for transport in ("binary", "grpc"):
            with connect_blocking(
                f"{wrong},{good}", tls=self.tls(), transport=transport, timeout_seconds=SECONDS
            ) as log:
                for _ in range(4):
                    log.append(b"a")
            with connect_blocking(
                f"{wrong},{nowhere}", tls=self.tls(), transport=transport, timeout_seconds=1.5
            ) as log:
                error = self.assertRaises(DeadlineError, log.append, b"a")
                self.assertIn(wrong, str(error))

    def other_cluster(self, name="node-9", port=None):
        """A node of another cluster of the same CA."""
        issued = make_node_certificate(
            self.ours.authority, cluster="other", node=name, hosts=["127.0.0.1"], now=datetime.now(UTC)
        )
        self.ours._write(name, issued)
        other = NodeProcess(self.folder / name, self.ours, name=name, cluster="other", is_forked=True)
        if port is not None:
            other.port = port
            other.write_config()
        self.addCleanup(other.close)
        other.start()
        return other

    def count(self, node):
        with connect_blocking(node.address, tls=self.tls(), timeout_seconds=SECONDS) as log:
            return log.bounds().next_offset

    def connect_all(self, target, **options):
        """Clients of both transports."""
        for transport in ("binary", "grpc"):
            log = connect_blocking(
                target, tls=self.tls(), transport=transport, timeout_seconds=SECONDS, **options
            )
            self.addCleanup(log.close)
            yield log

    def test_other_cluster_than_told(self):
        """A node of another cluster is not spoken to, whoever signed it; nothing is appended there."""
        other, told = self.other_cluster(), self.node.cluster
        texts = ("'node-9' of cluster 'other'", "--cluster")
        self.check(other.address, self.tls(), IdentityError, *texts, cluster=told)
        for log in self.connect_all(f"{other.address},{self.node.address}", cluster=told):
            for _ in range(4):
                log.append(b"a")
        self.assertEqual((self.count(other), self.count(self.node)), (0, 8))

    def test_other_cluster_than_learnt(self):
        """Another cluster's node at an address that was a node's is found out, though nothing was told."""
        clients = list(self.connect_all(self.node.address))
        for log in clients:
            log.append(b"a")
        port = self.node.port
        self.node.close()
        other = self.other_cluster(port=port)
        for log in clients:
            began = time.monotonic()
            error = self.assertRaises(IdentityError, log.append, b"b", timeout_seconds=SECONDS)
            self.assertLess(time.monotonic() - began, AT_ONCE)
            self.assertIn(f"'other', but this client talks to cluster '{self.node.cluster}'", str(error))
        self.assertEqual(self.count(other), 0)

    def test_renewed_certificate(self):
        """A node that comes back with another certificate of its own is found good again, by gRPC, too."""
        clients = list(self.connect_all(self.node.address))
        for log in clients:
            log.append(b"a")
        self.node.close()
        issued = make_node_certificate(
            self.ours.authority,
            cluster=self.node.cluster,
            node=self.node.name,
            hosts=["127.0.0.1"],
            now=datetime.now(UTC),
        )
        self.ours.path(self.node.name).unlink()
        self.ours.key_path(self.node.name).unlink()
        self.ours._write(self.node.name, issued)
        self.node.start()
        for log in clients:
            log.bounds()
            log.append(b"b")

    def test_certificates(self):
        """A certificate is of one node of the one cluster, and what its holder says of itself fits."""
        node = {"subjectAltName": (("DNS", "x"), ("URI", "loghouse://a/node/n1"))}
        for pin in (ClusterPin("a"), ClusterPin()):
            self.assertEqual(pin.check_certificate(node, "x:1"), ("a", "n1"))
            for names in (
                (),
                (("DNS", "loghouse://a/node/n1"),),
                (("URI", "loghouse://a/node/n1"), ("URI", "loghouse://a/node/n2")),
                (("URI", "loghouse://b/node/n1"),),
                (("URI", "loghouse://a/node/n1/x"),),
                (("URI", "LOGHOUSE://a/node/n1"),),
            ):
                self.assertRaises(IdentityError, pin.check_certificate, {"subjectAltName": names}, "x:1")
            self.assertRaises(IdentityError, pin.check_hello, "a", "n2", CertifiedServer("a", "n1"), "x:1")
            self.assertRaises(IdentityError, pin.check_hello, "b", "n1", None, "x:1")

    def test_producer_is_told_why(self):
        """A record that nobody took in time says why, also when its producer never got an id."""
        nowhere = f"127.0.0.1:{free_port()}"
        with connect_blocking(nowhere, tls=self.tls(), timeout_seconds=1.0) as log:
            producer = log.producer()
            error = self.assertRaises(LoghouseError, producer.append(b"a").offset)
            self.assertIsInstance(error, DeadlineError)
            self.assertIn(f"{nowhere}: ", str(error))
            self.assertIn("refused", str(error))
            producer.abort()
