"""Certificates are what TLS and the policy need them to be, and their files are private and whole."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import (
    Issued,
    KeyKind,
    check_node_certificate,
    check_same_holder,
    find_expiring,
    load_certificates,
    make_ca,
    make_client_certificate,
    make_node_certificate,
    read_expiry,
    read_issued,
    read_pem,
    write_issued,
)
from loghouse.auth.identity import identity_of_pem
from loghouse.errors import CertificateError
from loghouse.limits import CERTIFICATE_FILE_SIZE_MAX

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class MakeTests(SynchronousTestCase):
    """What the makers make."""

    def setUp(self):
        self.ca = make_ca("Loghouse CA", now=NOW)

    def load(self, issued):
        return x509.load_pem_x509_certificate(issued.certificate_pem)

    def test_ca_signs_leaves_only(self):
        """The CA is one, and none of its leaves can be."""
        constraints = self.load(self.ca).extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertTrue(constraints.critical)
        self.assertEqual((constraints.value.ca, constraints.value.path_length), (True, 0))
        client = self.load(make_client_certificate(self.ca, name="root", now=NOW))
        leaf = client.extensions.get_extension_for_class(x509.BasicConstraints).value
        self.assertFalse(leaf.ca)
        client.verify_directly_issued_by(self.load(self.ca))

    def test_node_certificate(self):
        """A node's certificate serves and dials, names its cluster and node, and its hosts."""
        issued = make_node_certificate(
            self.ca, cluster="c1", node="n1", hosts=["localhost", "127.0.0.1", "::1", "n1"], now=NOW
        )
        identity = identity_of_pem(issued.certificate_pem)
        self.assertEqual((identity.subject, identity.node, identity.cluster), ("node:n1", "n1", "c1"))
        extensions = self.load(issued).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["n1", "localhost"])
        self.assertEqual([str(a) for a in names.get_values_for_type(x509.IPAddress)], ["127.0.0.1", "::1"])
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usages), [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])

    def test_client_certificate(self):
        """A client's certificate cannot serve, and its common name is its subject."""
        issued = make_client_certificate(self.ca, name="root", now=NOW)
        identity = identity_of_pem(issued.certificate_pem)
        self.assertEqual((identity.subject, identity.is_node), ("root", False))
        usages = self.load(issued).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usages), [ExtendedKeyUsageOID.CLIENT_AUTH])

    def test_key_kinds(self):
        """P-256 is the default, RSA-2048 is offered."""
        default = self.load(make_client_certificate(self.ca, name="root", now=NOW)).public_key()
        self.assertIsInstance(default, ec.EllipticCurvePublicKey)
        large = self.load(make_client_certificate(self.ca, name="root", now=NOW, key=KeyKind.RSA2048))
        self.assertIsInstance(large.public_key(), rsa.RSAPublicKey)
        self.assertEqual((large.public_key().key_size, large.public_key().public_numbers().e), (2048, 65537))

    def test_a_leaf_never_outlives_its_ca(self):
        """The validity is cut to the CA's, and an expired CA signs nothing."""
        ca = make_ca("short", now=NOW, days=10)
        leaf = self.load(make_client_certificate(ca, name="root", now=NOW, days=100))
        self.assertEqual(leaf.not_valid_after_utc, NOW + timedelta(days=10))
        self.assertEqual(leaf.not_valid_before_utc, NOW - timedelta(minutes=5))
        with self.assertRaises(CertificateError):
            make_client_certificate(ca, name="root", now=NOW + timedelta(days=11))

    def test_foreign_authorities(self):
        """A CA made elsewhere signs without a key identifier; one with an unknown kind of key does not."""
        for private, works in (
            (ec.generate_private_key(ec.SECP256R1()), True),
            (Ed25519PrivateKey.generate(), False),
        ):
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elsewhere")])
            authority = (
                x509.CertificateBuilder()
                .subject_name(name)
                .issuer_name(name)
                .public_key(private.public_key())
                .serial_number(1)
                .not_valid_before(NOW)
                .not_valid_after(NOW + timedelta(days=400))
                .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                .sign(private, hashes.SHA256() if works else None)
            )
            key_pem = private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            ca = Issued(certificate_pem=authority.public_bytes(serialization.Encoding.PEM), key_pem=key_pem)
            if works:
                leaf = self.load(make_client_certificate(ca, name="root", now=NOW))
                leaf.verify_directly_issued_by(authority)
            else:
                with self.assertRaises(CertificateError):
                    make_client_certificate(ca, name="root", now=NOW)

    def test_refused_names(self):
        """What could be taken for somebody else, or cannot be written, is refused."""
        rows = [
            ("upper case", {"node": "N1"}),
            ("empty node", {"node": ""}),
            ("slash", {"node": "a/node/b"}),
            ("too long", {"node": "a" * 64}),
            ("cluster", {"cluster": "c_1"}),
            ("wildcard", {"hosts": ["*.example.org"]}),
            ("empty host", {"hosts": [""]}),
            ("not ASCII", {"hosts": ["büro"]}),
        ]
        for row, changed in rows:
            arguments = {"cluster": "c1", "node": "n1", "hosts": [], **changed}
            with self.assertRaises(CertificateError, msg=row):
                make_node_certificate(self.ca, now=NOW, **arguments)
        for name in ("", "node:n1", "a" * 65, "a\nb"):
            with self.assertRaises(CertificateError, msg=name):
                make_client_certificate(self.ca, name=name, now=NOW)


class FileTests(SynchronousTestCase):
    """Files of certificates."""

    def setUp(self):
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.certificate = self.directory / "root.pem"
        self.key = self.directory / "root.key"
        self.ca = make_ca("Loghouse CA", now=NOW)
        self.issued = make_client_certificate(self.ca, name="root", now=NOW, days=30)

    def test_round_trip_private(self):
        """What was written reads back, is its owner's only, and leaves nothing beside it."""
        previous = os.umask(0)
        try:
            write_issued(self.issued, self.certificate, self.key)
        finally:
            os.umask(previous)
        self.assertEqual(read_issued(self.certificate, self.key), self.issued)
        modes = {path.suffix: path.stat().st_mode & 0o777 for path in self.directory.iterdir()}
        self.assertEqual(modes, {".pem": 0o644, ".key": 0o600})
        self.assertEqual(sorted(p.name for p in self.directory.iterdir()), ["root.key", "root.pem"])

    def test_nothing_is_replaced_unasked(self):
        """A file that is there stays as it is, unless replacing was asked for."""
        write_issued(self.issued, self.certificate, self.key)
        other = make_client_certificate(self.ca, name="root", now=NOW)
        with self.assertRaises(CertificateError):
            write_issued(other, self.certificate, self.directory / "new.key")
        self.assertFalse((self.directory / "new.key").exists())
        self.assertEqual(read_issued(self.certificate, self.key), self.issued)
        write_issued(other, self.certificate, self.key, may_replace=True)
        self.assertEqual(read_issued(self.certificate, self.key), other)

    def test_another_holder(self):
        """A certificate's name, node and being a CA are its holder; only his own file is replaced."""
        client = make_client_certificate(self.ca, name="root", now=NOW)
        nodes = [
            make_node_certificate(self.ca, cluster=cluster, node="n1", hosts=hosts, now=NOW)
            for cluster, hosts in (("c1", ["n1"]), ("c1", ["n1", "localhost"]), ("c2", ["n1"]))
        ]
        other_client = make_client_certificate(self.ca, name="a", now=NOW)
        ca = make_ca("root", now=NOW)
        everybody = {"client": client, "node": nodes[0], "foreign": nodes[2], "ca": ca, "a": other_client}
        check_same_holder(client, self.directory / "absent.pem")
        for name, one in everybody.items():
            self.certificate.write_bytes(one.certificate_pem)
            for other_name, other in everybody.items():
                if name == other_name:
                    check_same_holder(other, self.certificate)
                else:
                    error = self.assertRaises(CertificateError, check_same_holder, other, self.certificate)
                    self.assertIn(f"{self.certificate} is the certificate of another", str(error))
        self.certificate.write_bytes(nodes[0].certificate_pem)
        check_same_holder(nodes[1], self.certificate)  # other hosts, the same node

    def test_a_foreign_key_is_found(self):
        """A key that is not the certificate's is refused, naming both files."""
        write_issued(self.issued, self.certificate, self.key)
        foreign = make_client_certificate(self.ca, name="root", now=NOW)
        self.key.write_bytes(foreign.key_pem)
        error = self.assertRaises(CertificateError, read_issued, self.certificate, self.key)
        self.assertIn(str(self.key), str(error))
        self.assertIn(str(self.certificate), str(error))

    def test_broken_files(self):
        """A missing, huge or senseless file is a certificate error that names it."""
        error = self.assertRaises(CertificateError, read_pem, self.directory / "absent")
        self.assertIn("absent", str(error))
        huge = self.directory / "huge"
        huge.write_bytes(b"x" * (CERTIFICATE_FILE_SIZE_MAX + 1))
        self.assertIn("huge", str(self.assertRaises(CertificateError, read_pem, huge)))
        self.assertIn("bad", str(self.assertRaises(CertificateError, load_certificates, b"", Path("bad"))))
        self.certificate.write_bytes(self.issued.certificate_pem)
        self.key.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
        self.assertRaises(CertificateError, read_issued, self.certificate, self.key)

    def test_unwritable(self):
        """A directory that is not there is an error that says so."""
        missing = self.directory / "absent" / "root.pem"
        error = self.assertRaises(CertificateError, write_issued, self.issued, missing, self.key)
        self.assertIn("absent", str(error))

    def test_expiry(self):
        """The first certificate to expire counts, and those within the time are listed soonest first."""
        bundle = self.directory / "bundle.pem"
        bundle.write_bytes(self.ca.certificate_pem + self.issued.certificate_pem)
        self.assertEqual(read_expiry(bundle).expires_at, NOW + timedelta(days=30))
        young = self.directory / "young.pem"
        young.write_bytes(make_client_certificate(self.ca, name="young", now=NOW, days=5).certificate_pem)
        paths = [bundle, young]
        self.assertEqual(find_expiring(paths, now=NOW, within=timedelta(days=4)), [])
        found = find_expiring(paths, now=NOW, within=timedelta(days=30))
        self.assertEqual([expiry.path for expiry in found], [young, bundle])
        self.assertEqual(found[0].subject, "CN=young")
        later = NOW + timedelta(days=6)
        self.assertEqual([e.path for e in find_expiring(paths, now=later, within=timedelta(0))], [young])


class NodeCertificateTests(SynchronousTestCase):
    """A node's certificate is this node's, and its CA signed it."""

    def setUp(self):
        self.ca = make_ca("Loghouse CA", now=NOW)

    def node(self, ca=None, cluster="c1", node="n1"):
        return make_node_certificate(ca or self.ca, cluster=cluster, node=node, hosts=[], now=NOW)

    def check(self, pem, ca_pem=None):
        check_node_certificate(
            pem,
            Path("n.pem"),
            ca_pem or self.ca.certificate_pem,
            Path("ca.pem"),
            cluster="c1",
            node="n1",
        )

    def test_right_one(self):
        """The node's own certificate passes, also when the bundle holds other CAs, too."""
        other = make_ca("other", now=NOW).certificate_pem
        self.check(self.node().certificate_pem)
        self.check(self.node().certificate_pem, other + self.ca.certificate_pem)

    def test_wrong_ones(self):
        """Certificates of others are refused: a node's, a cluster's, a client's, a CA's, a stranger's."""
        rows = [
            (self.node(node="n2"), "node 'n2' of cluster 'c1'"),
            (self.node(cluster="c2"), "node 'n1' of cluster 'c2'"),
            (make_client_certificate(self.ca, name="root", now=NOW), "client 'root'"),
            (self.ca, "client 'Loghouse CA'"),
            (self.node(make_ca("Loghouse CA", now=NOW)), "signed by no certificate of ca.pem"),
        ]
        for issued, expected in rows:
            error = self.assertRaises(CertificateError, self.check, issued.certificate_pem)
            self.assertIn(expected, str(error))
            self.assertIn("loghouse certs node n1 --cluster c1", str(error))
