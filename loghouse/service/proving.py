"""Proves credentials before they are used: what a node cannot use itself, nobody can use with it.

The binary protocol and gRPC have TLS stacks of their own. A certificate that only one of them can use would
close one port in silence, or leave it open with what was in force before.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509

from loghouse.api.credentials import prove_grpc
from loghouse.auth.credentials import Credentials, Material, Owner, TlsPaths
from loghouse.config.settings import NodeConfig
from loghouse.errors import CertificateError
from loghouse.net.tls import prove_openssl


def credentials_of(config: NodeConfig) -> Credentials | None:
    """Read and prove the credentials that a node.yaml names; None without TLS.

    Raises:
        CertificateError: Names the files that cannot be used, and why.
    """
    paths = paths_of_tls(config)
    if paths is None:
        return None
    return Credentials(paths, Owner(cluster=config.cluster, node=config.name), prove=prove)


def paths_of_tls(config: NodeConfig) -> TlsPaths | None:
    """Return the files of TLS that a node.yaml names; None without TLS."""
    tls = config.tls
    if tls is None:
        return None
    return TlsPaths(certificate=tls.certificate, key=tls.key, ca=tls.ca, denylist=tls.denylist)


def prove(material: Material, paths: TlsPaths) -> None:
    """Shake hands with ourselves, as server and as client, on both stacks: some 20 ms, on any thread.

    Raises:
        CertificateError: Names the files that cannot be used, and why.
    """
    _check_dates(material, paths)
    prove_openssl(material, paths)
    prove_grpc(material, paths)


def _check_dates(material: Material, paths: TlsPaths) -> None:
    now = datetime.now(UTC)
    for certificate in x509.load_pem_x509_certificates(material.issued.certificate_pem):
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begin <= now <= end:
            verb, moment = ("expired", end) if now > end else ("does not count before", begin)
            raise CertificateError(
                f"{paths.certificate}: the certificate of {certificate.subject.rfc4514_string()}"
                f" {verb} {moment:%Y-%m-%d %H:%M:%S} UTC, and it is {now:%Y-%m-%d %H:%M:%S} here;"
                " replace the file, or correct the clock"
            )
