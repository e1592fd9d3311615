"""Certificates that are not this node's: refused at start and on a reload."""

from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.credentials import Owner, ServerCredentials, TlsFiles
from loghouse.auth.certificates import make_ca, make_node_certificate, write_issued
from loghouse.errors import CertificateError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class CertificateCase(SynchronousTestCase):
    """A CA and a node's certificate in files."""

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.ca = make_ca("a CA", now=NOW)
        write_issued(self.ca, self.folder / "ca.pem", self.folder / "ca.key")
        self.certificate, self.key = self.folder / "n.pem", self.folder / "n.key"
        self.files = TlsFiles(certificate=self.certificate, key=self.key, ca=self.folder / "ca.pem")

    def write_node(self, node="n1", cluster="c1", days=365):
        issued = make_node_certificate(self.ca, cluster=cluster, node=node, hosts=[], now=NOW, days=days)
        write_issued(issued, self.certificate, self.key, may_replace=True)


class OwnerTests(CertificateCase):
    """Credentials of a named owner."""

    def test_other_nodes_certificate(self):
        """Another node's certificate is refused at start, and on a reload the old one stays."""
        self.write_node("n2")
        owner = Owner(cluster="c1", node="n1")
        self.assertRaises(CertificateError, ServerCredentials, self.files, owner)
        self.write_node("n1")
        credentials = ServerCredentials(self.files, owner)
        self.write_node("n1", cluster="c2")
        error = self.assertRaises(CertificateError, credentials.reload)
        self.assertIn("cluster 'c2'", str(error))
