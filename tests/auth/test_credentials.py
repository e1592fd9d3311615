"""What a node shows and whom it trusts: read whole, written anew, in force for all doors or none."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth import trust
from loghouse.auth.certificates import (
    load_certificates,
    make_ca,
    make_client_certificate,
    make_node_certificate,
    write_issued,
)
from loghouse.auth.credentials import Credentials, Owner, TlsPaths
from loghouse.auth.identity import identity_of_pem
from loghouse.errors import CertificateError, IdentityError
from tests.auth.issuing import CA_USAGE, issue, issued, pem

NOW = datetime.now(UTC)
NETSCAPE_CA = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("2.16.840.1.113730.1.1"), bytes.fromhex("03020007")
)


class CredentialsCase(SynchronousTestCase):
    """A CA and a node's certificate in files."""

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.ca = make_ca("a CA", now=NOW)
        self.paths = TlsPaths(
            certificate=self.folder / "n.pem",
            key=self.folder / "n.key",
            ca=self.folder / "ca.pem",
            denylist=self.folder / "denylist",
        )
        self.paths.ca.write_bytes(self.ca.certificate_pem)
        self.paths.denylist.touch()
        self.write_node()

    def write_node(self, node="n1", cluster="c1"):
        own = make_node_certificate(self.ca, cluster=cluster, node=node, hosts=[], now=NOW)
        write_issued(own, self.paths.certificate, self.paths.key, may_replace=True)

    def refused(self, path):
        """Reading fails, and names this file."""
        error = self.assertRaises(CertificateError, Credentials, self.paths)
        self.assertIn(str(path), str(error))
        return str(error)


class ReadingTests(CredentialsCase):
    """Files as they are found."""

    def test_written_anew(self):
        """Byte order marks, comments in any encoding and line ends are gone before a TLS stack sees them."""
        plain = Credentials(self.paths).material
        comment = "# Főtanúsítvány\r\n".encode()
        for path in (self.paths.ca, self.paths.certificate, self.paths.key):
            content = path.read_bytes().replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + comment + b"# caf\xe9\n" + content + comment)
        self.assertEqual(Credentials(self.paths).material, plain)

    def test_half_a_bundle(self):
        """A second certificate that is cut off, or in OpenSSL's own form, is not left out in silence."""
        second = make_ca("second", now=NOW).certificate_pem
        for bad in (
            second[:200],
            second[:-30],
            second.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
            second.replace(b"-----BEGIN", b"-- ---BEGIN"),
        ):
            self.paths.ca.write_bytes(self.ca.certificate_pem + bad)
            self.refused(self.paths.ca)

    def test_misspelt_lines(self):
        """A certificate whose first or last line is misspelt is not left out in silence, nor a CRL."""
        second = make_ca("second", now=NOW).certificate_pem
        for old, new in (
            (b"BEGIN C", b"BEGIN\tC"),
            (b"BEGIN C", "BEGIN\u00a0C".encode()),
            (b"BEGIN CERTIFICATE", b"begin certificate"),
            (b"-----BEGIN", b"----BEGIN"),
            (b"-----", "\u2013\u2013\u2013".encode()),
            (b"CERTIFICATE", b"PKCS7"),
            (b"CERTIFICATE", b"X509 CRL"),
        ):
            self.paths.ca.write_bytes(self.ca.certificate_pem + second.replace(old, new))
            self.refused(self.paths.ca)
        self.paths.ca.write_bytes(self.ca.certificate_pem + self.ca.key_pem + second)
        Credentials(self.paths)

    def test_unusable_keys(self):
        """A key that one of the stacks cannot use is refused, and the text says which are allowed."""
        for key in (
            ec.generate_private_key(ec.SECP256K1()),
            ec.generate_private_key(ec.BrainpoolP256R1()),
            ec.generate_private_key(ec.SECP521R1()),
            rsa.generate_private_key(65537, 1024),
        ):
            own = issued(issue(key=key), key)
            write_issued(own, self.paths.certificate, self.paths.key, may_replace=True)
            self.assertIn("allowed: P-256", self.refused(self.paths.certificate))

    def test_no_authorities(self):
        """A file of CAs holds CAs, with keys that count."""
        weak = rsa.generate_private_key(65537, 1024)
        for bad in (
            issue(),
            issue(ca=False),
            issue(ca=True, key_usage=None, key=weak),
            issue(ca=True, key_usage=CA_USAGE, usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
            issue(ca=True, key_usage=CA_USAGE, extensions=[NETSCAPE_CA]),
        ):
            self.paths.ca.write_bytes(self.ca.certificate_pem + pem(bad))
            self.refused(self.paths.ca)
        self.paths.ca.write_bytes(self.ca.certificate_pem + pem(issue(ca=True, key_usage=CA_USAGE)))
        Credentials(self.paths)

    def test_other_nodes_certificate(self):
        """Another node's certificate is refused at start, and on a reload the old one stays."""
        owner = Owner(cluster="c1", node="n1")
        self.write_node("n2")
        self.assertRaises(CertificateError, Credentials, self.paths, owner)
        self.write_node("n1")
        credentials = Credentials(self.paths, owner)
        before = credentials.material
        self.write_node("n1", cluster="c2")
        error = self.assertRaises(CertificateError, credentials.read)
        self.assertIn("cluster 'c2'", str(error))
        self.assertIs(credentials.material, before)


class ForceTests(CredentialsCase):
    """What is in force, for whom."""

    def test_proof_fails(self):
        """What cannot be proved is not put in force; the old stays for every door."""
        refusals = []

        def prove(material, paths):
            if refusals:
                raise CertificateError(refusals[0])

        credentials = Credentials(self.paths, prove=prove)
        before = credentials.material
        refusals.append("it cannot")
        self.write_node()
        self.assertRaises(CertificateError, credentials.read)
        self.assertIs(credentials.material, before)
        self.assertRaises(CertificateError, Credentials, self.paths, prove=prove)
        refusals.clear()
        self.assertTrue(credentials.take(credentials.read()))
        self.assertFalse(credentials.take(credentials.read()))

    def test_callers(self):
        """Whom a removed CA or the denylist means is refused at the next call; who is good stays good."""
        other = make_ca("another CA", now=NOW)
        self.paths.ca.write_bytes(self.ca.certificate_pem + other.certificate_pem)
        credentials = Credentials(self.paths)
        ours, theirs = (
            identity_of_pem(make_client_certificate(ca, name="root", now=NOW).certificate_pem)
            for ca in (self.ca, other)
        )
        for identity in (ours, theirs):
            credentials.check(identity)
        self.paths.ca.write_bytes(self.ca.certificate_pem)
        material = credentials.read()
        # Checked where the files were read, on a thread, and not for each caller on the reactor.
        self.assertEqual(list(material.anchors._good), [ours.names[-1]])
        credentials.take(material)
        credentials.check(ours)
        self.assertRaises(IdentityError, credentials.check, theirs)
        self.paths.denylist.write_text(ours.names[0])
        credentials.take(credentials.read())
        self.assertRaises(IdentityError, credentials.check, ours)

    def test_callers_are_bounded(self):
        """Callers that were found good are remembered up to a bound, the oldest forgotten first."""
        anchors = Credentials(self.paths).material.anchors
        certificate = load_certificates(
            make_client_certificate(self.ca, name="root", now=NOW).certificate_pem, self.paths.ca
        )[0]
        self.patch(trust, "CONNECTIONS_MAX", 3)
        for number in range(5):
            anchors.check(f"sha256:{number}", certificate)
        self.assertEqual(list(anchors._good), ["sha256:2", "sha256:3", "sha256:4"])
