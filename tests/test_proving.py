"""Credentials are proved before they are used: with handshakes of both TLS stacks, this node at both ends."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.credentials import prove_grpc
from loghouse.auth.certificates import make_ca, make_node_certificate, write_issued
from loghouse.auth.credentials import Credentials, TlsPaths, read_material
from loghouse.errors import CertificateError
from loghouse.net.tls import prove_openssl
from loghouse.service import proving
from loghouse.service.proving import prove
from tests.auth.issuing import CA_USAGE, issue, issued, pem

NOW = datetime.now(UTC)
URI = "loghouse://c1/node/n1"


class ProofTests(SynchronousTestCase):
    """What is proved, and how a refusal reads."""

    def setUp(self):
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        self.paths = TlsPaths(certificate=folder / "n.pem", key=folder / "n.key", ca=folder / "ca.pem")
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.authority = issue(
            key=self.ca_key, common_name="a CA", ca=True, key_usage=CA_USAGE, usages=(), path_length=0
        )

    def write(self, *chain, ca=None, **fields):
        fields = {"uri": URI, "hosts": ["n1"], **fields}
        own = issued(issue(key=self.key, signer=self.ca_key, **fields), self.key, *chain)
        write_issued(own, self.paths.certificate, self.paths.key, may_replace=True)
        self.paths.ca.write_bytes(pem(*(ca or [self.authority])))

    def refusal(self, prover=prove):
        """Prove what is in the files; return the refusal, which names them."""
        error = self.assertRaises(CertificateError, prover, read_material(self.paths), self.paths)
        self.assertIn(str(self.paths.certificate), str(error))
        return str(error)

    def test_good(self):
        """What `certs` makes is proved, whatever the kind of key."""
        for kind in ("p256", "rsa2048"):
            ca = make_ca("a CA", now=NOW, key=kind)
            own = make_node_certificate(ca, cluster="c1", node="n1", hosts=["::1"], now=NOW, key=kind)
            write_issued(own, self.paths.certificate, self.paths.key, may_replace=True)
            self.paths.ca.write_bytes(ca.certificate_pem)
            Credentials(self.paths, prove=prove)

    def test_place_of_the_socket(self):
        """The proof needs a socket, in whatever place: one that is missing or too long is passed over."""
        self.write()
        for place in ("/nowhere", "/tmp/" + "x" * 120):
            with mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": place}):
                prove(read_material(self.paths), self.paths)

    def test_purposes(self):
        """A node is a server and a client: a certificate for one of the two is refused by both stacks."""
        for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH):
            self.write(usages=(usage,))
            self.assertIn("unsuitable certificate purpose", self.refusal(prove_openssl))
            self.refusal(prove_grpc)

    def test_other_ca(self):
        """A CA that did not sign the node: both stacks say so."""
        other = issue(common_name="another", issuer="another", ca=True, key_usage=CA_USAGE, usages=())
        self.write(ca=[other])
        for prover in (prove_openssl, prove_grpc):
            self.assertIn("unable to get local issuer certificate", self.refusal(prover))

    def test_path_length(self):
        """A CA below one that allows none is refused, although gRPC would follow that chain."""
        below = ec.generate_private_key(ec.SECP256R1())
        between = issue(
            key=below, signer=self.ca_key, common_name="below", ca=True, key_usage=CA_USAGE, usages=()
        )
        own = issue(key=self.key, signer=below, issuer="below", uri=URI, hosts=["n1"])
        write_issued(issued(own, self.key, between), self.paths.certificate, self.paths.key)
        self.paths.ca.write_bytes(pem(self.authority))
        self.assertIn("path length constraint exceeded", self.refusal())

    def test_dates(self):
        """A certificate that has expired or does not count yet is refused with its date and ours."""
        day = timedelta(days=1)
        for begins, ends, verb in ((-2 * day, -day, "expired"), (day, 2 * day, "does not count before")):
            self.write(begins=begins, ends=ends)
            self.assertIn(verb, self.refusal())

    def test_dates_to_the_second(self):
        """A certificate counts from its first second to its last one, both included; the refusal has both."""
        self.write()
        own = x509.load_pem_x509_certificate(self.paths.certificate.read_bytes())
        begin, end = own.not_valid_before_utc, own.not_valid_after_utc
        second, form = timedelta(seconds=1), "{:%Y-%m-%d %H:%M:%S} UTC, and it is {:%Y-%m-%d %H:%M:%S} here"
        for now, told in (
            (begin, None),
            (end, None),
            (begin - second, "does not count before " + form.format(begin, begin - second)),
            (end + second, "expired " + form.format(end, end + second)),
        ):
            self.patch(proving, "datetime", SimpleNamespace(now=lambda zone, now=now: now.astimezone(zone)))
            if told is None:
                proving._check_dates(read_material(self.paths), self.paths)
            else:
                self.assertIn(told, self.refusal(proving._check_dates))

    def test_no_host(self):
        """A certificate that names no host is refused: no client could tell the node by it."""
        self.write(hosts=[])
        self.assertIn("--host", self.refusal())

    def test_intermediate_alone(self):
        """An intermediate CA as the only one of the file is good for both stacks."""
        below = ec.generate_private_key(ec.SECP256R1())
        between = issue(
            key=below, signer=self.ca_key, common_name="below", ca=True, key_usage=CA_USAGE, usages=()
        )
        own = issue(key=self.key, signer=below, issuer="below", uri=URI, hosts=["n1"])
        write_issued(issued(own, self.key), self.paths.certificate, self.paths.key)
        self.paths.ca.write_bytes(pem(between))
        prove(read_material(self.paths), self.paths)
