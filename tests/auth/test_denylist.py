"""A denylist is understood whole or not at all, and whom it means cannot pass in another guise."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import KeyKind, make_ca, make_client_certificate
from loghouse.auth.denylist import add_to_denylist, entry_of, names_of, parse_denylist
from loghouse.errors import CertificateError
from tests.auth.issuing import CURVE_ORDERS, issue, rewritten

HERE = Path("denylist")
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def load(issued):
    return x509.load_pem_x509_certificate(issued.certificate_pem)


def fingerprint(certificate):
    return "sha256:" + certificate.fingerprint(hashes.SHA256()).hex()


class DenylistTests(SynchronousTestCase):
    """A denylist is understood whole or not at all."""

    def test_entries(self):
        """Serials and digests in the spellings that tools print; comments and blank lines."""
        digest = "ab" * 32
        text = f"# lost laptops\n\nserial:00AF  # joe\nsha256:{':'.join(['AB'] * 32)}\n"
        self.assertEqual(parse_denylist(text.encode(), HERE), {"serial:af", f"sha256:{digest}"})

    def test_nonsense(self):
        """A line that is neither is an error with its number."""
        for line in (
            "joe",
            "serial:",
            "serial:xyz",
            "sha256:abcd",
            "md5:" + "ab" * 16,
            "key:ab",
            "s\x85erial:1",
        ):
            error = self.assertRaises(CertificateError, parse_denylist, b"\n" + line.encode(), HERE)
            self.assertIn("denylist:2", str(error))

    def test_spellings_of_nothing(self):
        """A byte order mark and CR LF are no part of a line; serial 0 is a serial."""
        self.assertEqual(parse_denylist(b"\xef\xbb\xbfserial:0\r\n", HERE), {"serial:0"})

    def test_hidden_lines(self):
        """What no editor shows as a line is refused, with the number of the line that it shows."""
        for mark in "\x0b\x0c\r\x1c\x85\u2028\u2029\u202e":
            text = f"# one\n# two{mark}serial:af\n"
            error = self.assertRaises(CertificateError, parse_denylist, text.encode(), HERE)
            self.assertIn("denylist:2:", str(error))


class AddTests(SynchronousTestCase):
    """Lines that are added to a list."""

    def test_added(self):
        """Each on a line of its own, whether or not the last one was ended; the list is made if needed."""
        path = Path(self.mktemp())
        for before, after in (
            (None, b"serial:1\nserial:2\n"),
            (b"", b"serial:1\nserial:2\n"),
            (b"serial:3\n", b"serial:3\nserial:1\nserial:2\n"),
            (b"serial:3", b"serial:3\nserial:1\nserial:2\n"),
        ):
            path.unlink(missing_ok=True)
            if before is not None:
                path.write_bytes(before)
            add_to_denylist(path, ["serial:1", "serial:2"])
            self.assertEqual(path.read_bytes(), after)

    def test_refused(self):
        """What is no denylist is left as it is; what cannot be written is told."""
        path = Path(self.mktemp())
        path.write_bytes(b"joe\n")
        self.assertRaises(CertificateError, add_to_denylist, path, ["serial:1"])
        self.assertEqual(path.read_bytes(), b"joe\n")
        absent = path.with_name("absent") / "list"
        error = self.assertRaises(CertificateError, add_to_denylist, absent, ["serial:1"])
        self.assertEqual(str(error), f"{absent}: cannot be written: No such file or directory")


class GuiseTests(SynchronousTestCase):
    """One certificate in several forms."""

    def test_other_signature(self):
        """The (r, n - s) of an ECDSA signature, which anybody can write, goes by the same fingerprints."""
        for curve, order in CURVE_ORDERS.items():
            certificate = issue(signer=ec.generate_private_key(curve()))
            other = rewritten(certificate, order)
            self.assertNotEqual(fingerprint(certificate), fingerprint(other))
            self.assertEqual(certificate.tbs_certificate_bytes, other.tbs_certificate_bytes)
            self.assertIn(fingerprint(certificate), names_of(other))
            self.assertIn(fingerprint(other), names_of(certificate))
            self.assertEqual(names_of(certificate)[:2], names_of(other)[:2])

    def test_rsa(self):
        """An RSA signature has one form."""
        ca = make_ca("CA", now=NOW, key=KeyKind.RSA2048)
        certificate = load(make_client_certificate(ca, name="root", now=NOW))
        self.assertEqual(names_of(certificate)[2:], (fingerprint(certificate),))

    def test_key(self):
        """A new certificate of the same key, whoever signed it, goes by the same key and by nothing else."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [set(names_of(issue(key=key))) for _ in range(2)]
        shared = names[0] & names[1]
        self.assertEqual([name.partition(":")[0] for name in shared], ["key"])

    def test_entry(self):
        """The line that `certs deny` prints is one of a denylist and means that certificate's key."""
        certificate = issue(common_name="ev\x1bil # \u202e")
        line = entry_of(certificate)
        self.assertTrue(line.isprintable())
        [entry] = parse_denylist(line.encode(), HERE)
        self.assertIn(entry, names_of(certificate))
        der = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der)
        self.assertEqual(entry, "key:" + digest.finalize().hex())
