"""Addresses and certificates that a client is given."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import Tls, target
from loghouse.client.target import is_dialable, parse_target
from loghouse.errors import CertificateError, InvalidRequestError

ROOT = Path(__file__).resolve().parent.parent.parent


class TargetTests(SynchronousTestCase):
    """Targets are lists of addresses."""

    def test_examples(self):
        """The examples in the documentation are true."""
        result = doctest.testmod(target)
        self.assertEqual((result.failed, result.attempted > 0), (0, True))

    def test_without_scheme_port_and_twice(self):
        """Scheme and port may be left out, a last slash does not matter."""
        self.assertEqual(parse_target("a"), ("a:8400",))
        self.assertEqual(parse_target("loghouse://a:8400, b:1,a/"), ("a:8400", "b:1"))
        self.assertEqual(parse_target("loghouse://[fe80::1]"), ("[fe80::1]:8400",))

    def test_nonsense(self):
        """What is no list of addresses is refused, and the text quotes it."""
        for text in (
            "",
            "loghouse://",
            "http://a:8400",
            "loghouse://a:8400/log",
            "a:",
            "a:port",
            "a:0",
            "a:65536",
            "a,,b",
            "::1",
            "fe80::1:8400",
            "[::1",
            "a b:1",
            "user@a:1",
            "a:\uff11\uff12",
            "a..b:1",
            ".a:1",
            f"{'a' * 64}:1",
            "a/b:1",
        ):
            error = self.assertRaises(InvalidRequestError, parse_target, text)
            self.assertIn("target", str(error), text)

    def test_told_addresses(self):
        """What servers tell of is an address with a port, or is not dialled."""
        for text in ("a:1", "[::1]:8400", "a_b.example.:65535", "127.0.0.1:8400"):
            self.assertTrue(is_dialable(text), text)
        for text in ("", ":1", "a", "a:", "a:0", "a:65536", "a:99999999999", "a..b:1", "::1:8400", "unix:/a"):
            self.assertFalse(is_dialable(text), text)


class TlsTests(SynchronousTestCase):
    """Certificates come as paths or as bytes."""

    def test_paths_and_bytes(self):
        """A path is read; bytes are taken as they are."""
        path = Path(self.mktemp())
        path.write_bytes(b"-----BEGIN CERTIFICATE-----")
        tls = Tls(ca=path, certificate=str(path), key=b"-----BEGIN KEY-----")
        self.assertEqual(tls.pems(), (path.read_bytes(), path.read_bytes(), b"-----BEGIN KEY-----"))
        self.assertNotIn("KEY", repr(tls))

    def test_missing_or_wrong(self):
        """The error names the setting and the file."""
        path = Path(self.mktemp())
        error = self.assertRaises(CertificateError, Tls(ca=path, certificate=b"", key=b"").pems)
        self.assertIn(f"tls.ca: {path}: No such file", str(error))
        path.write_bytes(b"\x30\x82")
        error = self.assertRaises(CertificateError, Tls(ca=path, certificate=b"", key=b"").pems)
        self.assertIn("hold no PEM text", str(error))


class ImportTests(SynchronousTestCase):
    """The client stands alone."""

    def test_without_the_server(self):
        """Importing the client loads neither Twisted nor any part of the server."""
        code = (
            "import sys, loghouse.client\n"
            "print(*sorted({m.split('.')[0] for m in sys.modules}"
            " | {m for m in sys.modules if m.startswith('loghouse.')}))"
        )
        found = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout.split()
        self.assertIn("loghouse.client.blocking", found)
        allowed = (
            "loghouse.client",
            "loghouse.protocol",
            "loghouse.errors",
            "loghouse.limits",
            "loghouse.api",
        )
        foreign = [name for name in found if name.startswith("loghouse.") and not name.startswith(allowed)]
        self.assertEqual(foreign, [])
        self.assertEqual(
            [name for name in found if name.startswith("loghouse.api.") and ".v1" not in name], []
        )
        self.assertEqual({"twisted", "casbin", "yaml", "OpenSSL"} & set(found), set())
