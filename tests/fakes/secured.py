"""Fake nodes with certificates and a policy, for tests of the servers themselves."""

import functools
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from grpc import aio
from twisted.trial.unittest import TestCase

from loghouse.auth.certificates import make_ca, make_client_certificate, make_node_certificate, write_issued
from loghouse.auth.credentials import TlsPaths
from loghouse.auth.policy import Authorizer
from tests.fakes.node import FakeNode
from tests.fakes.served import CERTS

POLICY = "p, root, *, produce\np, root, *, consume\n"
HOSTS = ["localhost", "127.0.0.1"]


@functools.cache
def authority():
    return make_ca("test CA", now=datetime.now(UTC))


@functools.cache
def foreign_authority():
    return make_ca("another CA", now=datetime.now(UTC))


@functools.cache
def node_certificate(node, cluster="c1", *, is_foreign=False):
    ca = foreign_authority() if is_foreign else authority()
    return make_node_certificate(ca, cluster=cluster, node=node, hosts=HOSTS, now=datetime.now(UTC))


@functools.cache
def client_certificate(name, *, is_foreign=False, day=0):
    """A client's certificate; `day` -400: expired, +400: not yet valid."""
    ca = foreign_authority() if is_foreign else authority()
    return make_client_certificate(ca, name=name, now=datetime.now(UTC) + timedelta(days=day), days=1)


def channel_to(address, issued, options=(), ca=None):
    """Return a gRPC channel of its own, since grpc shares those of equal settings."""
    credentials = grpc.ssl_channel_credentials(
        (ca or authority()).certificate_pem, *((issued.key_pem, issued.certificate_pem) if issued else ())
    )
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *options]
    return aio.secure_channel(address, credentials, options=own)


class SecuredCase(TestCase):
    """A test with a `FakeNode` and a policy. `closers` are awaited at its end, the last one first."""

    timeout = 60
    policy = POLICY

    def setUp(self):
        self.closers = []
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.node = FakeNode()
        self.policy_path = self.directory / "policy.csv"
        self.policy_path.write_text(self.policy)
        self.authorizer = Authorizer(CERTS / "model.conf", self.policy_path)
        self.wall_clock = time.time

    def write(self, name, issued):
        """Write a certificate and key; return their paths."""
        paths = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        write_issued(issued, *paths, may_replace=True)
        return paths

    def tls_paths(self, name="n1", issued=None, ca=None):
        certificate, key = self.write(name, issued or node_certificate(name))
        ca_path = self.directory / f"{name}-ca.pem"
        ca_path.write_bytes((ca or authority()).certificate_pem)
        denylist = self.directory / "denylist"
        denylist.touch()
        return TlsPaths(certificate=certificate, key=key, ca=ca_path, denylist=denylist)
