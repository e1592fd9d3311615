"""Tests of loghouse.net.tls: files read again, bad ones refused, expiry announced."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import make_ca, make_node_certificate, write_issued
from loghouse.errors import CertificateError
from loghouse.net.tls import TlsContexts, TlsPaths, parse_denylist
from tests.net.doors import WireCase, asynchronous, authority, node_certificate

HERE = Path("denylist")


class ReloadTests(SynchronousTestCase):
    """Contexts follow their files."""

    def setUp(self):
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.paths = TlsPaths(
            certificate=self.directory / "n.pem", key=self.directory / "n.key", ca=self.directory / "ca.pem"
        )
        write_issued(node_certificate("n1"), self.paths.certificate, self.paths.key)
        self.paths.ca.write_bytes(authority().certificate_pem)
        self.now = datetime.now(UTC).timestamp()
        self.contexts = TlsContexts(self.paths, clock=lambda: self.now)

    def subject(self):
        connection = self.contexts.serverConnectionForTLS(None)
        return connection.get_certificate().to_cryptography().subject.rfc4514_string()

    def test_nothing_changed(self):
        """Reading the same files again changes nothing."""
        self.assertFalse(self.contexts.reload())

    def test_new_certificate(self):
        """A new pair counts for the next connection."""
        self.assertEqual(self.subject(), "CN=n1")
        write_issued(node_certificate("n2"), self.paths.certificate, self.paths.key, may_replace=True)
        self.assertTrue(self.contexts.reload())
        self.assertEqual(self.subject(), "CN=n2")

    def test_bad_files_keep_the_old(self):
        """A mismatched pair, a truncated file, a missing CA are refused by name; the old stays in use."""
        good = {path: path.read_bytes() for path in (self.paths.certificate, self.paths.key, self.paths.ca)}
        rows = [
            (self.paths.key, node_certificate("n2").key_pem),
            (self.paths.certificate, good[self.paths.certificate][:100]),
            (self.paths.ca, b""),
            (self.paths.ca, b"x" * 1_000_000),
        ]
        for path, content in rows:
            path.write_bytes(content)
            error = self.assertRaises(CertificateError, self.contexts.reload)
            self.assertIn(path.name, str(error))
            self.assertEqual(self.subject(), "CN=n1")
            path.write_bytes(good[path])
        self.paths.key.unlink()
        self.assertRaises(CertificateError, self.contexts.reload)
        self.assertEqual(self.subject(), "CN=n1")

    def test_expiry_is_announced(self):
        """Two weeks before a certificate expires, and after it did, each look says so."""
        said = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        self.contexts.warn_of_expiry()
        self.assertEqual(said, [])
        made = datetime.now(UTC)
        soon = make_node_certificate(authority(), cluster="c1", node="n1", hosts=[], now=made, days=20)
        write_issued(soon, self.paths.certificate, self.paths.key, may_replace=True)
        for days, verb in ((5, None), (10, "expires"), (25, "expired")):
            said.clear()
            self.now = (made + timedelta(days=days)).timestamp()
            self.contexts.warn_of_expiry()
            self.assertEqual([event["verb"] for event in said], [verb] if verb else [])


class DenylistTests(SynchronousTestCase):
    """A denylist is understood whole or not at all."""

    def test_entries(self):
        """Serials and digests in the spellings that tools print; comments and blank lines."""
        digest = "ab" * 32
        text = f"# lost laptops\n\nserial:00AF  # joe\nsha256:{':'.join(['AB'] * 32)}\n"
        self.assertEqual(parse_denylist(text.encode(), HERE), {"serial:af", f"sha256:{digest}"})

    def test_nonsense(self):
        """A line that is neither is an error with its number."""
        for line in ("joe", "serial:", "serial:xyz", "sha256:abcd", "md5:" + "ab" * 16):
            error = self.assertRaises(CertificateError, parse_denylist, b"\n" + line.encode(), HERE)
            self.assertIn("denylist:2", str(error))


class LiveTests(WireCase):
    """Reloading under open connections."""

    @asynchronous
    async def test_open_connections_stay(self):
        """New certificates, even of a new CA, are for new connections; open ones go on."""
        self.open_door()
        connection = await self.connect()
        new_ca = make_ca("new CA", now=datetime.now(UTC))
        paths = self.tls_paths("n1", ca=new_ca)
        self.assertEqual(paths.ca.read_bytes(), new_ca.certificate_pem)
        self.assertTrue(self.tls.reload())
        self.assertEqual((await connection.bounds()).next_offset, 0)
        try:
            await self.connect("reader")
        except Exception as error:
            self.assertNotIsInstance(error, AssertionError)
        else:
            raise self.failureException("a client of the old CA was let in")
