"""mTLS for the gRPC door: certificates from files, read again on request, never replaced by bad ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from twisted.logger import Logger

from loghouse.auth.certificates import Issued, check_bundle, check_node_certificate, check_pair, read_pem


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where a node's certificate, its key, and the CAs of those who may connect are."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whom a node's certificate must name."""

    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class _Material:
    """What the files held, checked."""

    issued: Issued
    ca_pem: bytes


class ServerCredentials:
    """grpc's server credentials over files.

    grpc asks at each handshake, so that new certificates count for new connections without a restart; the
    files are looked at only when `reload` is called.
    """

    logger = Logger()

    def __init__(self, files: TlsFiles, owner: Owner | None = None) -> None:
        """Read the files.

        Args:
            files: Where they are.
            owner: Refuse any other node's certificate; None takes whatever the files hold.

        Raises:
            CertificateError: Names the file that is missing, unreadable or does not fit.
        """
        self._files = files
        self._owner = owner
        self._material = _read(files, owner)

    def reload(self) -> None:
        """Read the files again; new connections get them.

        Raises:
            CertificateError: Names the bad file; the old certificate stays in use.
        """
        material = _read(self._files, self._owner)
        if material != self._material:
            self._material = material
            self.logger.info("new certificates are in use, from {file}", file=str(self._files.certificate))

    def grpc_credentials(self) -> Any:
        """Return credentials for one port; a client certificate is required and verified."""
        used = self._material

        def fetch() -> Any:
            # grpc calls this before each handshake, on threads of its own; None means nothing changed.
            nonlocal used
            if used is self._material:
                return None
            used = self._material
            return _configuration(used)

        return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch, True)


def _read(files: TlsFiles, owner: Owner | None) -> _Material:
    issued = Issued(certificate_pem=read_pem(files.certificate), key_pem=read_pem(files.key))
    check_pair(issued, files.certificate, files.key)
    ca_pem = read_pem(files.ca)
    check_bundle(ca_pem, files.ca)
    if owner is not None:
        pem = issued.certificate_pem
        check_node_certificate(
            pem, files.certificate, ca_pem, files.ca, cluster=owner.cluster, node=owner.node
        )
    return _Material(issued, ca_pem)


def _configuration(material: _Material) -> Any:
    pair = (material.issued.key_pem, material.issued.certificate_pem)
    return grpc.ssl_server_certificate_configuration([pair], material.ca_pem)
