"""Tests of loghouse.net.tls: files read again, bad ones refused, expiry announced."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import crypto
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import make_ca, make_node_certificate, write_issued
from loghouse.auth.credentials import Credentials, TlsPaths
from loghouse.errors import CertificateError, IdentityError
from loghouse.net import tls
from loghouse.net.peer import PeerState
from loghouse.net.tls import ShownCertificate, TlsContexts
from tests.auth.issuing import CA_USAGE, issue, pem
from tests.fakes.secured import authority, node_certificate
from tests.net.wire import WireCase, asynchronous, until


def renewed(ca):
    """A new certificate of the same CA: its name and key."""
    key = load_pem_private_key(ca.key_pem, None)
    return pem(
        issue(key=key, common_name="test CA", issuer="test CA", ca=True, key_usage=CA_USAGE, usages=())
    )


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
        self.credentials = Credentials(self.paths)
        self.contexts = TlsContexts(self.credentials, clock=lambda: self.now)

    def subject(self):
        """Return whose certificate the next connection shows, the same on both sides."""
        contexts = self.contexts
        first, second = (
            make(None).get_certificate().to_cryptography().subject.rfc4514_string()
            for make in (contexts.clientConnectionForTLS, contexts.serverConnectionForTLS)
        )
        self.assertEqual(first, second)
        return first

    def test_one_at_a_time(self):
        """Either side follows the files alone, and contexts are made anew only for new files."""
        for number, ask in enumerate(("serverConnectionForTLS", "clientConnectionForTLS"), 2):
            before = (self.contexts._server, self.contexts._client)
            getattr(self.contexts, ask)(None)
            self.assertEqual((self.contexts._server, self.contexts._client), before)
            write_issued(
                node_certificate(f"n{number}"), self.paths.certificate, self.paths.key, may_replace=True
            )
            self.assertTrue(self.credentials.take(self.credentials.read()))
            shown = getattr(self.contexts, ask)(None).get_certificate().to_cryptography()
            self.assertEqual(shown.subject.rfc4514_string(), f"CN=n{number}")
            after = (self.contexts._server, self.contexts._client)
            self.assertTrue(after[0] is not before[0] and after[1] is not before[1])
            getattr(self.contexts, ask)(None)
            self.assertEqual((self.contexts._server, self.contexts._client), after)

    def test_nothing_changed(self):
        """Reading the same files again changes nothing."""
        self.assertFalse(self.credentials.take(self.credentials.read()))

    def test_new_certificate(self):
        """A new pair counts for the next connection."""
        self.assertEqual(self.subject(), "CN=n1")
        write_issued(node_certificate("n2"), self.paths.certificate, self.paths.key, may_replace=True)
        self.assertTrue(self.credentials.take(self.credentials.read()))
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
            error = self.assertRaises(CertificateError, self.credentials.read)
            self.assertIn(path.name, str(error))
            self.assertEqual(self.subject(), "CN=n1")
            path.write_bytes(good[path])
        self.paths.key.unlink()
        self.assertRaises(CertificateError, self.credentials.read)
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
        soon_ends = x509.load_pem_x509_certificate(soon.certificate_pem).not_valid_after_utc
        for days, verb in ((5, None), (10, "expires"), (25, "expired")):
            said.clear()
            self.now = (made + timedelta(days=days)).timestamp()
            self.contexts.warn_of_expiry()
            self.assertEqual([event["verb"] for event in said], [verb] if verb else [])
            for event in said:
                self.assertEqual((event["path"], event["subject"]), (str(self.paths.certificate), "CN=n1"))
                self.assertEqual(event["day"], f"{soon_ends:%Y-%m-%d}")


class ShownTests(SynchronousTestCase):
    """What is made of the certificate that a peer has shown."""

    def setUp(self):
        self.certificate = x509.load_pem_x509_certificate(node_certificate("n2").certificate_pem)
        self.chain = [self.certificate, x509.load_pem_x509_certificate(authority().certificate_pem)]
        self.handle = SimpleNamespace(
            get_peer_certificate=lambda as_cryptography: self.certificate,
            get_peer_cert_chain=lambda: [crypto.X509.from_cryptography(one) for one in self.chain],
        )
        self.checked = []
        self.now = datetime.now(UTC).timestamp()
        self.contexts = SimpleNamespace(
            credentials=SimpleNamespace(check=self.checked.append), clock=lambda: self.now
        )

    def shown(self):
        return ShownCertificate(self.contexts, SimpleNamespace(getHandle=lambda: self.handle))

    def refusal(self):
        return str(self.assertRaises(IdentityError, self.shown))

    def test_identity(self):
        """It names who it is for, and is looked up in the denylist, at once and each time again."""
        shown = self.shown()
        self.assertEqual((shown.identity.node, shown.identity.cluster), ("n2", "c1"))
        shown.check_still_valid()
        self.assertEqual(self.checked, [shown.identity] * 2)
        self.now = shown.identity.expires_at + 1
        error = self.assertRaises(IdentityError, shown.check_still_valid)
        self.assertEqual(str(error), f"the certificate of {shown.identity.subject!r} has expired")

    def test_none(self):
        """A peer without one is refused, and one that cannot be read."""
        self.certificate = None
        self.assertEqual(self.refusal(), "the peer has shown no certificate")

        def unreadable(as_cryptography):
            raise ValueError("bad DER")

        self.handle.get_peer_certificate = unreadable
        self.assertEqual(self.refusal(), "the peer's certificate cannot be read: bad DER")

    def test_size(self):
        """All certificates together may have so many bytes, to the byte."""
        size = sum(len(one.public_bytes(Encoding.DER)) for one in self.chain)
        self.patch(tls, "CERTIFICATES_SHOWN_SIZE_MAX", size)
        self.shown()
        self.patch(tls, "CERTIFICATES_SHOWN_SIZE_MAX", size - 1)
        text = f"the peer's certificates have {size} bytes; at most {size - 1} are allowed"
        self.assertEqual(self.refusal(), text)
        self.handle.get_peer_cert_chain = lambda: None
        self.shown()

    def test_usable(self):
        """A key that is too weak is refused, whoever has signed it."""
        looked = []
        self.patch(tls, "check_usable", looked.append)
        self.shown()
        self.assertEqual(looked, [self.certificate])


class LiveTests(WireCase):
    """Reloading under open connections."""

    async def not_let_in(self, name):
        try:
            await self.connect(name)
        except Exception as error:
            self.assertNotIsInstance(error, AssertionError)
        else:
            raise self.failureException(f"{name} was let in")

    @asynchronous
    async def test_more_trust_ends_nothing(self):
        """A CA that is added is for new connections; open ones go on."""
        self.open_port()
        connection = await self.connect()
        new_ca = make_ca("new CA", now=datetime.now(UTC))
        paths = self.tls_paths("n1")
        paths.ca.write_bytes(new_ca.certificate_pem + authority().certificate_pem)
        self.assertTrue(self.credentials.take(self.credentials.read()))
        self.listener.links.watch._look()
        self.assertEqual((await connection.bounds()).next_offset, 0)

    @asynchronous
    async def test_less_trust_ends_links(self):
        """A CA that is taken out ends the links of those whom it signed, in words; nobody of it comes in."""
        self.open_port()
        connection = await self.connect()
        new_ca = make_ca("new CA", now=datetime.now(UTC))
        paths = self.tls_paths("n1", ca=new_ca)
        self.assertEqual(paths.ca.read_bytes(), new_ca.certificate_pem)
        self.assertTrue(self.credentials.take(self.credentials.read()))
        await until(lambda: connection._lost is not None)
        self.assertIn("no CA of this node has signed it", str(connection._lost))
        await self.not_let_in("reader")

    @asynchronous
    async def test_same_ca_with_a_new_certificate(self):
        """A CA whose own certificate was renewed, with the same key, has signed what it signed."""
        self.open_port()
        connection = await self.connect()
        paths = self.tls_paths("n1")
        paths.ca.write_bytes(renewed(authority()))
        self.assertTrue(self.credentials.take(self.credentials.read()))
        self.listener.links.watch._look()
        self.assertEqual((await connection.bounds()).next_offset, 0)

    @asynchronous
    async def test_dialled_links_end_too(self):
        """A link that this node dialled ends once the other's certificate is denied."""
        self.open_port()
        events = []
        peer = self.peer(events=events)
        peer.dial()
        await until(lambda: peer.state is PeerState.UP)
        link = peer.link
        serial = x509.load_pem_x509_certificate(node_certificate("n1").certificate_pem).serial_number
        dialler = peer._context.tls.credentials
        # Of the two ends only the dialling one knows.
        dialler.take(replace(dialler.material, denied=frozenset({f"serial:{serial:x}"})))
        await until(lambda: peer.link is not link)
        self.assertIn("denylist", link.problem)
