"""Addresses and certificates that a client is given."""

import doctest
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import make_ca, make_client_certificate
from loghouse.client import Tls, target
from loghouse.client.connection import context_of
from loghouse.client.target import is_dialable, parse_target, split_address
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
            "[::1:8400",
            "::1]:8400",
            "[a]:1",
            "a:123456",
            f"a:{'9' * 5000}",
        ):
            error = self.assertRaises(InvalidRequestError, parse_target, text)
            self.assertIn("target", str(error), text)

    def test_what_is_wrong(self):
        """A text says which part is none, and what one looks like; long ones are cut off."""
        for text, problem in (
            ("http://a:8400", "'http://a:8400' is not of the form loghouse://HOST:PORT,HOST:PORT"),
            ("a/b", "'a/b' is not of the form loghouse://HOST:PORT,HOST:PORT"),
            ("a b", "'a b' in 'a b' is not an address; write HOST:PORT"),
            ("x,a:0", "'0' in 'x,a:0' is not a port from 1 to 65535"),
        ):
            self.assertEqual(self.assertRaises(InvalidRequestError, parse_target, text).problem, problem)
        error = self.assertRaises(ValueError, split_address, "a:" + "p" * 100)
        self.assertEqual(str(error), f"'{'p' * 80}' is not a port from 1 to 65535")
        self.assertEqual(split_address("[::1]:65535"), ("::1", 65535))

    def test_told_addresses(self):
        """What servers tell of is an address with a port, or is not dialled."""
        for text in ("a:1", "[::1]:8400", "a_b.example.:65535", "127.0.0.1:8400"):
            self.assertTrue(is_dialable(text), text)
        for text in ("", ":1", "a", "a:", "a:0", "a:65536", "a:99999999999", "a..b:1", "::1:8400", "unix:/a"):
            self.assertIs(is_dialable(text), False, text)


class TlsTests(SynchronousTestCase):
    """Certificates come as paths or as bytes."""

    def test_paths_and_bytes(self):
        """A path is read, bytes are taken; of both only the PEM blocks count, in their order."""
        path = Path(self.mktemp())
        blocks = [
            b"-----BEGIN %s-----\nAA==\n-----END %s-----\n" % (kind, kind)
            for kind in (b"CERTIFICATE", b"EC KEY")
        ]
        path.write_bytes(b"\xef\xbb\xbf# F\xc5\x91tan\xfa\r\n" + b"# next\n".join(blocks) + b"the end")
        tls = Tls(ca=path, certificate=str(path), key=b"  " + blocks[1])
        self.assertEqual(tls.pems(), (b"".join(blocks), b"".join(blocks), blocks[1]))
        self.assertNotIn("KEY", repr(tls))

    def test_commented_ca(self):
        """A CA file with a comment that is not ASCII serves both kinds of channel."""
        ca = make_ca("a CA", now=datetime.now(UTC))
        own = make_client_certificate(ca, name="root", now=datetime.now(UTC))
        commented = b"\xef\xbb\xbf# F\xc5\x91tan\n" + ca.certificate_pem
        tls = Tls(ca=commented, certificate=own.certificate_pem, key=own.key_pem)
        self.assertEqual(len(context_of(tls).get_ca_certs()), 1)
        self.assertEqual(tls.pems()[0], ca.certificate_pem)

    def test_missing_or_wrong(self):
        """The error names the setting and the file."""
        path = Path(self.mktemp())
        error = self.assertRaises(CertificateError, Tls(ca=path, certificate=b"", key=b"").pems)
        self.assertIn(f"tls.ca: {path}: No such file", str(error))
        error = self.assertRaises(CertificateError, Tls(ca="a\0b", certificate=b"", key=b"").pems)
        self.assertIn("embedded null byte", str(error))
        path.write_bytes(b"\x30\x82")
        error = self.assertRaises(CertificateError, Tls(ca=path, certificate=b"", key=b"").pems)
        self.assertIn("hold no PEM text", str(error))
        block = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
        path.write_bytes(block + block[:40])
        error = self.assertRaises(CertificateError, Tls(ca=path, certificate=b"", key=b"").pems)
        self.assertIn("cut off", str(error))


class ImportTests(SynchronousTestCase):
    """The client stands alone."""

    def test_without_the_server(self):
        """Importing the client loads neither Twisted nor any part of the server."""
        code = (
            "import sys, loghouse.client\n"
            "assert all(getattr(loghouse.client, name) for name in loghouse.client.__all__)\n"
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
