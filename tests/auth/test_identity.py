"""A certificate says one thing, or it is refused."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.identity import (
    Identity,
    IdentityReader,
    identity_of_certificate,
    identity_of_pem,
    is_name,
    node_uri,
)
from loghouse.errors import IdentityError, UnauthenticatedError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(common_names=("root",), uris=()):
    """A self-signed certificate that says just this."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in common_names])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def pem(**arguments):
    return certificate(**arguments).public_bytes(serialization.Encoding.PEM)


class IdentityTests(SynchronousTestCase):
    """Reading certificates."""

    def test_client(self):
        """A client is its common name, and URIs of other schemes mean nothing."""
        identity = identity_of_certificate(certificate(uris=["spiffe://c/node/n1"]))
        self.assertEqual((identity.subject, identity.node, identity.cluster), ("root", "", ""))
        self.assertEqual(identity.expires_at, (NOW + timedelta(days=1)).timestamp())

    def test_node(self):
        """A node is its URI; the common name means nothing then."""
        identity = identity_of_certificate(certificate(uris=["loghouse://c1/node/n1"]))
        self.assertEqual((identity.subject, identity.node, identity.cluster), ("node:n1", "n1", "c1"))
        self.assertTrue(identity.is_node)

    def test_refused_uris(self):
        """More than one URI, a wildcard, a near miss: none of them is a node, and none is a client."""
        good = "loghouse://c/node/n"
        rows = [
            [good, good],
            [good, "loghouse://c/node/m"],
            [good, "spiffe://x/y"],
            ["loghouse://*/node/n"],
            ["loghouse://c/node/*"],
            ["loghouse://c/node/n/"],
            ["loghouse://c/node/n?x"],
            ["loghouse://c/node/n#x"],
            ["loghouse://c/node/"],
            ["loghouse://c/client/n"],
            ["loghouse:///node/n"],
            ["LOGHOUSE://c/node/n"],
            ["loghouse://C/node/n"],
            ["loghouse://c:1/node/n"],
            ["loghouse://u@c/node/n"],
            ["loghouse://c/node/n%31"],
            ["loghouse:c/node/n"],
            ["loghouse://c/node/" + "n" * 64],
        ]
        for uris in rows:
            with self.assertRaises(IdentityError, msg=str(uris)):
                identity_of_certificate(certificate(uris=uris))

    def test_refused_common_names(self):
        """None, two, or one that passes for a node: no subject."""
        for names in [(), ("a", "b"), ("node:n1",), ("node:",), ("a\nb",)]:
            with self.assertRaises(IdentityError, msg=str(names)):
                identity_of_certificate(certificate(common_names=names))

    def test_not_pem(self):
        """Bytes that are no certificate are refused as an identity."""
        self.assertRaises(IdentityError, identity_of_pem, b"nothing")

    def test_names(self):
        """A name is a DNS label in lower case."""
        for name in ("a", "n1", "a-b", "a" * 63):
            self.assertTrue(is_name(name), name)
        for name in ("", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "a\n"):
            self.assertFalse(is_name(name), name)
        self.assertRaises(IdentityError, node_uri, "c", "a/b")


class ExpiryTests(SynchronousTestCase):
    """How long an identity counts."""

    def test_expiry(self):
        """It has expired at that second, not before."""
        one = Identity(subject="root", expires_at=100.0)
        self.assertEqual(
            [one.has_expired(now) for now in (0.0, 99.9, 100.0, 200.0)], [False, False, True, True]
        )


class IdentityReaderTests(SynchronousTestCase):
    """Reading what gRPC knows about a connection."""

    def test_no_certificate(self):
        """A connection without a certificate has no identity."""
        reader = IdentityReader(capacity=2)
        self.assertRaises(UnauthenticatedError, reader.read, {})
        self.assertRaises(UnauthenticatedError, reader.read, {"x509_common_name": [b"root"]})
        self.assertRaises(UnauthenticatedError, reader.read, {"x509_pem_cert": []})

    def test_each_certificate_is_read_once(self):
        """The same bytes give the same object, and at most `capacity` are kept."""
        reader = IdentityReader(capacity=2)
        contexts = [{"x509_pem_cert": [pem(common_names=(name,))]} for name in ("a", "b", "c")]
        first = reader.read(contexts[0])
        self.assertIs(reader.read(contexts[0]), first)
        self.assertEqual([reader.read(context).subject for context in contexts], ["a", "b", "c"])
        again = reader.read(contexts[0])
        self.assertEqual(again, first)
        self.assertIsNot(again, first)
