"""What a client says of servers that it may not talk to: by certificates, names, and errors of TLS."""

import ssl

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.failures import Effect
from loghouse.client.pin import CertifiedServer, ClusterPin
from loghouse.client.tls import cause_of, failed_tls
from loghouse.errors import IdentityError, InvalidRequestError, UnauthenticatedError, UnavailableError


def certificate(*uris):
    return {"subjectAltName": (("DNS", "localhost"), *(("URI", uri) for uri in uris))}


class PinTests(SynchronousTestCase):
    """The one cluster of a client."""

    def refusal(self, work, *arguments):
        return str(self.assertRaises(IdentityError, work, *arguments))

    def test_names(self):
        """A name is what a node.yaml may have; an empty one is learnt."""
        for name in ("", "a", "a-b", "x" * 63):
            self.assertEqual(ClusterPin(name).cluster, name)
        for name in ("A", "-a", "a-", "a b", "x" * 200):
            error = self.assertRaises(InvalidRequestError, ClusterPin, name)
            self.assertIn(f"{name!r} is no cluster's name; it is in every node.yaml", str(error))

    def test_certificates(self):
        """A certificate is of a node by its only URI."""
        pin = ClusterPin()
        good = "loghouse://c1/node/n1"
        self.assertEqual(pin.check_certificate(certificate(good), "h:1"), CertifiedServer("c1", "n1"))
        for uris in ((), (good, good), ("loghouse://c1/user/n1",), (f"{good}/x",), (f"x{good}",)):
            self.assertEqual(
                self.refusal(pin.check_certificate, certificate(*uris), "h:1"),
                f"h:1: its certificate is of no Loghouse node: its URIs are {list(uris)}",
            )
        self.assertIn("its URIs are []", self.refusal(pin.check_certificate, {}, "h:1"))
        self.assertEqual(
            self.refusal(pin.check_certificate, certificate("loghouse://c2/node/n9"), "h:2"),
            "h:2 is node 'n9' of cluster 'c2', but this client talks to cluster 'c1', as h:1 is; "
            "check the addresses, and `cluster` (--cluster)",
        )

    def test_named(self):
        """A cluster that the client was told is not said to be another server's."""
        self.assertEqual(
            self.refusal(ClusterPin("c1").check_certificate, certificate("loghouse://c2/node/n9"), "h:2"),
            "h:2 is node 'n9' of cluster 'c2', but this client talks to cluster 'c1'; "
            "check the addresses, and `cluster` (--cluster)",
        )

    def test_hellos(self):
        """A server is who its certificate says; without one its word counts."""
        pin = ClusterPin()
        certified = CertifiedServer("c1", "n1")
        pin.check_hello("c1", "n1", certified, "h:1")
        for cluster, node in (("c1", "n2"), ("c2", "n1")):
            self.assertEqual(
                self.refusal(pin.check_hello, cluster, node, certified, "h:1"),
                f"h:1 says that it is node '{node}' of cluster '{cluster}', but its certificate is of "
                "node 'n1' of cluster 'c1'",
            )
        pin.check_hello("c1", "n2", None, "h:2")
        self.assertIn(
            "h:2 is node 'n2' of cluster 'c2'", self.refusal(pin.check_hello, "c2", "n2", None, "h:2")
        )
        pin.check_hello("", "n2", None, "h:2")

    def test_views(self):
        """What a server tells counts while no certificate said more."""
        pin = ClusterPin()
        pin.check_view("", "h:1")
        self.assertEqual(pin.cluster, "")
        pin.check_view("c1", "h:1")
        self.assertEqual(pin.cluster, "c1")
        self.assertIn("h:2 tells of cluster 'c2'", self.refusal(pin.check_view, "c2", "h:2"))
        pin.check_certificate(certificate("loghouse://c1/node/n1"), "h:1")
        pin.check_view("c2", "h:2")


def tls_error(reason, kind=ssl.SSLError):
    error = kind(1, f"[SSL: {reason}] text")
    error.reason = reason
    return error


class TlsTests(SynchronousTestCase):
    """Errors of TLS."""

    def test_hopeless(self):
        """Whose certificate is not accepted, here or there, and who speaks no TLS, never will do."""
        refused = tls_error("CERTIFICATE_VERIFY_FAILED", ssl.SSLCertVerificationError)
        refused.verify_message = "self-signed certificate"
        for error, kind, text in (
            (
                refused,
                IdentityError,
                "h:1: its certificate is not accepted: self-signed certificate; check the address, "
                "and the CA (`ca`, --ca)",
            ),
            *(
                (
                    tls_error(reason),
                    IdentityError,
                    "h:1 does not speak TLS; a node with plaintext: true wants a client without "
                    "(--plaintext)",
                )
                for reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
            ),
            *(
                (
                    tls_error(reason),
                    UnauthenticatedError,
                    f"h:1 does not accept this client's certificate: TLS failed: "
                    f"{reason.lower().replace('_', ' ')}; check --cert and --key",
                )
                for reason in (
                    "SSLV3_ALERT_BAD_CERTIFICATE",
                    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
                    "TLSV1_ALERT_UNKNOWN_CA",
                    "TLSV1_ALERT_ACCESS_DENIED",
                )
            ),
        ):
            failure = failed_tls(error, "h:1")
            self.assertEqual((type(failure.error), str(failure.error)), (kind, text))
            self.assertEqual(
                (failure.effect, failure.is_link, failure.is_permanent), (Effect.NOTHING, True, True)
            )

    def test_others(self):
        """Any other error may be gone at the next try."""
        for reason in ("TLSV1_ALERT_INTERNAL_ERROR", "NO_CERTIFICATE_SET", None):
            failure = failed_tls(tls_error(reason), "h:1")
            self.assertIsInstance(failure.error, UnavailableError)
            self.assertTrue(str(failure.error).startswith("h:1: TLS failed: "))
            self.assertEqual((failure.effect, failure.is_permanent), (Effect.NOTHING, False))

    def test_causes(self):
        """Why a connection failed is told in words, never in none."""
        for error, text in (
            (ConnectionResetError(), "the server cut the connection"),
            (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
            (OSError("strange"), "strange"),
            (OSError(), "OSError"),
            (ValueError("bad"), "bad"),
            (ValueError(), "ValueError"),
        ):
            self.assertEqual(cause_of(error), text)
