"""Servers that will never do: told at once by their cause, not after many attempts; both transports."""

import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import Tls, connect_blocking
from loghouse.errors import (
    DeadlineError,
    IdentityError,
    LoghouseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from loghouse.testing.process import Certificates, NodeProcess, free_port

SECONDS = 25.0
AT_ONCE = 10.0


class StrangersTests(SynchronousTestCase):
    """A node with TLS and one without, and clients that do not fit."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.ours = Certificates(self.folder / "ours")
        self.other_ca = Certificates(self.folder / "other-ca")
        self.other_cluster = None
        self.node = NodeProcess(self.folder / "node", self.ours)
        self.addCleanup(self.node.close)
        self.node.start()

    def tls(self, ca=None, own=None, name="root"):
        ca, own = ca or self.ours, own or self.ours
        return Tls(ca=ca.path("ca"), certificate=own.path(name), key=own.key_path(name))

    def plain(self):
        plain = NodeProcess(self.folder / "plain", self.ours, name="node-2")
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
