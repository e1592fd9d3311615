"""Which certificates count, by what they say themselves: the rule alone, row by row, without a handshake."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth import trust
from loghouse.auth.certificates import make_ca, make_client_certificate, make_node_certificate
from loghouse.auth.denylist import names_of
from loghouse.auth.identity import identity_of_certificate
from loghouse.auth.trust import (
    Anchors,
    authority_problem,
    certificate_problem,
    check_usable,
    key_problem,
    those_that_count,
)
from loghouse.errors import CertificateError, IdentityError
from tests.auth.issuing import CA_USAGE, LEAF_USAGE, issue, signed_anew

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
SHORT_RSA_KEY = rsa.generate_private_key(65537, 1024)
NETSCAPE = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), b"\x03\x02\x00\x80")
# The object identifier of keys on elliptic curves, and one that nobody knows.
OF_CURVES, OF_NOTHING = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")


def load(issued):
    return x509.load_pem_x509_certificate(issued.certificate_pem)


def unreadable(**fields):
    """Return a certificate whose key is of a kind that nobody knows."""
    der = signed_anew(issue(key=KEY, **fields), KEY, OF_CURVES, OF_NOTHING)
    return x509.load_der_x509_certificate(der)


class _SizedKey(rsa.RSAPublicKey):
    """An RSA key that has nothing but a size."""

    def __init__(self, size):
        self.size = size

    @property
    def key_size(self):
        return self.size


_SizedKey.__abstractmethods__ = frozenset()


class KeyTests(SynchronousTestCase):
    """Keys of leaves and of CAs."""

    def test_rsa(self):
        """RSA counts from 2048 to 8192 bits, both included."""
        for size, is_good in ((2047, False), (2048, True), (4096, True), (8192, True), (8193, False)):
            problem = key_problem(_SizedKey(size))
            self.assertEqual(problem == "", is_good, size)
            if problem:
                self.assertIn(
                    f"its key is RSA of {size} bits; allowed: P-256, P-384, RSA of 2048 to", problem
                )

    def test_curves(self):
        """P-256 and P-384 count; P-521 does of a CA alone."""
        for curve, of_leaf, of_ca in (
            (ec.SECP256R1, True, True),
            (ec.SECP384R1, True, True),
            (ec.SECP521R1, False, True),
            (ec.SECP256K1, False, False),
        ):
            public = ec.generate_private_key(curve()).public_key()
            found = key_problem(public) == "", key_problem(public, of_ca=True) == ""
            self.assertEqual(found, (of_leaf, of_ca), curve.name)
        problem = key_problem(ed25519.Ed25519PrivateKey.generate().public_key())
        self.assertIn("its key is of the kind Ed25519; allowed", problem)


class LeafTests(SynchronousTestCase):
    """What is wrong with a node's or client's certificate."""

    def test_problems(self):
        """Each certificate that one of the TLS stacks would refuse is refused, and the text says why."""
        many = [f"h{number}.example.com" for number in range(500)]
        for fields, told in (
            ({}, ""),
            ({"key_usage": LEAF_USAGE}, ""),
            ({"digest": hashes.SHA384}, ""),
            ({"digest": hashes.SHA512}, ""),
            ({"signer": RSA_KEY}, ""),
            ({"key": SHORT_RSA_KEY}, "its key is RSA of 1024 bits"),
            ({"hosts": many}, "bytes; at most"),
            ({"extensions": [NETSCAPE]}, "it has a Netscape certificate type"),
            ({"digest": hashes.SHA224}, "it is signed with SHA224; allowed: RSA or ECDSA with SHA-256"),
            ({"signer": ed25519.Ed25519PrivateKey.generate(), "digest": None}, "it is signed with ed25519"),
            ({"signer": SHORT_RSA_KEY}, "its CA's key is RSA of 1024 bits; allowed"),
            ({"key_usage": CA_USAGE}, "its key usage has no digitalSignature"),
        ):
            problem = certificate_problem(issue(**{"key": KEY, **fields}))
            self.assertEqual(bool(problem), bool(told), fields)
            self.assertIn(told, problem)

    def test_pss(self):
        """RSA-PSS counts with one digest, and a salt of its length."""
        for digest, inner, salt, is_good in (
            (hashes.SHA256, hashes.SHA256, 32, True),
            (hashes.SHA384, hashes.SHA384, 48, True),
            (hashes.SHA256, hashes.SHA256, 31, False),
            (hashes.SHA256, hashes.SHA384, 32, False),
        ):
            padded = padding.PSS(padding.MGF1(inner()), salt)
            certificate = issue(key=KEY, signer=RSA_KEY, digest=digest, rsa_padding=padded)
            self.assertEqual(certificate_problem(certificate) == "", is_good, (digest, inner, salt))

    def test_unreadable(self):
        """A key that nobody knows is a problem like any other, not an error of this program."""
        certificate = unreadable()
        self.assertIn("it cannot be read: ", certificate_problem(certificate))
        self.assertRaisesRegex(IdentityError, "cannot be used: it cannot be read", check_usable, certificate)
        self.assertRaisesRegex(IdentityError, "the certificate's key cannot be read", names_of, certificate)
        check_usable(issue(key=KEY))

    def test_extensions_twice(self):
        """Two extensions of one kind could be read in two ways: whose certificate it is cannot be said."""
        one, other = (x509.ObjectIdentifier(f"1.2.3.4.{last}") for last in (5, 6))
        extensions = [x509.UnrecognizedExtension(oid, b"\x05\x00") for oid in (one, other)]
        certificate = issue(key=KEY, extensions=extensions)
        der = signed_anew(certificate, KEY, bytes.fromhex("06042a030406"), bytes.fromhex("06042a030405"))
        twice = x509.load_der_x509_certificate(der)
        self.assertRaisesRegex(
            IdentityError, "has extensions that cannot be read", identity_of_certificate, twice
        )
        self.assertIn("it cannot be read: ", certificate_problem(twice))
        self.assertIn("cannot be read: ", authority_problem(twice))


class AuthorityTests(SynchronousTestCase):
    """What is wrong with the certificate of a CA."""

    def test_problems(self):
        """It says that it is one, may sign clients, and its key counts."""
        client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
        for fields, told in (
            ({}, ""),
            ({"key_usage": CA_USAGE}, ""),
            ({"usages": ()}, ""),
            ({"usages": (client,)}, ""),
            ({"key": ec.generate_private_key(ec.SECP521R1())}, ""),
            ({"ca": None}, "it has no basic constraints"),
            ({"ca": False}, "it may not sign others"),
            ({"key_usage": LEAF_USAGE}, "it may not sign others"),
            ({"usages": (server,)}, "its extended key usage has no clientAuth"),
            ({"extensions": [NETSCAPE]}, "has a Netscape certificate type"),
            ({"key": SHORT_RSA_KEY}, "its key is RSA of 1024 bits"),
        ):
            problem = authority_problem(issue(**{"key": KEY, "ca": True, **fields}))
            self.assertEqual(bool(problem), bool(told), fields)
            self.assertIn(told, problem)
        self.assertIn("cannot be read: ", authority_problem(unreadable(ca=True)))

    def test_those_that_count(self):
        """Of two certificates of one CA the one that counts now does, else the one that lasts longer."""
        day = timedelta(days=1)

        def ca(begins, ends, **fields):
            return issue(ca=True, begins=begins * day, ends=ends * day, **{"key": KEY, **fields})

        now = datetime.now(UTC)
        old, good, longer, later = ca(-9, -1), ca(-1, 5), ca(-2, 7), ca(2, 90)
        other = ca(-9, -2, key=ec.generate_private_key(ec.SECP256R1()))
        for given, kept in (
            ([old, good], [good]),
            ([good, old], [good]),
            ([good, longer], [longer]),
            ([later, good], [good]),
            ([old, later], [old]),
            ([old, other], [old, other]),
            ([good, ca(-1, 9, common_name="another")], 2),
            ([good, ca(-1, 9, issuer="another")], 2),
        ):
            found = those_that_count(given, now)
            self.assertEqual(len(found) if isinstance(kept, int) else found, kept)

    def test_remembered(self):
        """Who is good is remembered, so many at most; the one known longest is looked at anew."""
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = issue(key=ca_key, issuer="CA", common_name="CA", ca=True, key_usage=CA_USAGE, usages=())
        leaves = [issue(key=KEY, signer=ca_key, issuer="CA", common_name=name) for name in "abc"]
        self.patch(trust, "CONNECTIONS_MAX", 2)
        anchors = Anchors([ca])
        for name, leaf in zip("abc", leaves, strict=True):
            anchors.check(name, leaf)
        stranger = issue(key=KEY)
        for name in "bc":
            anchors.check(name, stranger)  # nobody looks again
        for name in "ad":
            self.assertRaisesRegex(
                IdentityError, "no CA of this node has signed it", anchors.check, name, stranger
            )
        empty, same = Anchors([]), Anchors([ca])
        empty.check_those_of(anchors)
        self.assertRaises(IdentityError, empty.check, "b", leaves[1])
        same.check_those_of(anchors)
        same.check("b", stranger)

    def test_constrained(self):
        """A CA that may sign certain names only signs nobody without names."""
        ca_key = ec.generate_private_key(ec.SECP256R1())
        limits = x509.NameConstraints([x509.DNSName("example.com")], None)
        ca = issue(
            key=ca_key,
            issuer="CA",
            common_name="CA",
            ca=True,
            key_usage=CA_USAGE,
            usages=(),
            extensions=[limits],
        )
        anchors = Anchors([ca])
        anchors.check("a", issue(key=KEY, signer=ca_key, issuer="CA", hosts=["a.example.com"]))
        for name, hosts in (("b", ()), ("c", ["a.example.org"])):
            leaf = issue(key=KEY, signer=ca_key, issuer="CA", hosts=hosts)
            self.assertRaises(IdentityError, anchors.check, name, leaf)

    def test_constrained_leaf(self):
        """What a leaf says of names is about whom it would sign: without names of its own it is taken."""
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = issue(key=ca_key, issuer="CA", common_name="CA", ca=True, key_usage=CA_USAGE, usages=())
        limits = x509.NameConstraints([x509.DNSName("example.com")], None)
        Anchors([ca]).check("a", issue(key=KEY, signer=ca_key, issuer="CA", extensions=[limits]))


class MadeTests(SynchronousTestCase):
    """What `loghouse certs` makes says exactly this."""

    def test_last_day_of_a_ca(self):
        """A CA signs as long as a day is left, and nothing that outlives it."""
        ca = make_ca("CA", now=NOW, days=10)
        for days, left in ((8, 2), (9, 1), (9.5, 0)):
            now = NOW + timedelta(days=days)
            if left:
                leaf = load(make_client_certificate(ca, name="root", now=now))
                self.assertEqual(leaf.not_valid_after_utc, now + timedelta(days=left))
            else:
                self.assertRaises(CertificateError, make_client_certificate, ca, name="root", now=now)
        identity = identity_of_certificate(load(make_client_certificate(ca, name="root", now=NOW)))
        self.assertNotIn("ertificate(", repr(identity))

    def test_extensions(self):
        """Each extension, its content, and whether who does not know it must refuse."""
        ca = make_ca("CA", now=NOW)
        usage = {"content_commitment": False, "key_encipherment": False, "data_encipherment": False,
                 "key_agreement": False, "encipher_only": False, "decipher_only": False}  # fmt: skip
        signs = x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage)
        proves = x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage)
        leaf = x509.BasicConstraints(ca=False, path_length=None)
        client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier("loghouse://c/node/n"), x509.DNSName("n"), x509.DNSName("h")]
        )
        for certificate, expected in (
            (ca, {(x509.BasicConstraints(ca=True, path_length=0), True), (signs, True)}),
            (
                make_client_certificate(ca, name="root", now=NOW),
                {(leaf, True), (proves, True), (x509.ExtendedKeyUsage([client]), False)},
            ),
            (
                make_node_certificate(ca, cluster="c", node="n", hosts=["h", "n"], now=NOW),
                {
                    (leaf, True),
                    (proves, True),
                    (x509.ExtendedKeyUsage([server, client]), False),
                    (names, False),
                },
            ),
        ):
            found = {(one.value, one.critical) for one in load(certificate).extensions}
            identifiers = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
            of_keys = {(value, critical) for value, critical in found if isinstance(value, identifiers)}
            self.assertEqual(found - of_keys, expected)
            self.assertEqual({critical for _, critical in of_keys}, {False})
        self.assertEqual(load(ca).not_valid_before_utc, NOW - timedelta(minutes=5))
        self.assertEqual(load(ca).not_valid_after_utc, NOW + timedelta(days=3650))
        own = load(make_client_certificate(ca, name="root", now=NOW))
        self.assertEqual(own.not_valid_after_utc, NOW + timedelta(days=365))
