"""What a node shows of itself and whom it trusts: read from files, for all servers at once.

Every server asks the one `Credentials` for what is in force, so that they never differ: new files are in use
on both servers, or on none. PEM is read once, here, and written anew: byte order marks, comments and whatever
else stands around the certificates are gone before the two TLS stacks, which do not agree about them, see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from twisted.logger import Logger

from loghouse.auth.certificates import (
    Issued,
    check_node_certificate,
    load_certificates,
    pem_of,
    read_issued,
    read_pem,
)
from loghouse.auth.denylist import parse_denylist
from loghouse.auth.identity import Identity
from loghouse.auth.trust import Anchors, authority_problem, certificate_problem, those_that_count
from loghouse.errors import CertificateError, IdentityError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPaths:
    """Files of this node's TLS. `denylist` is optional: certificates that count no more."""

    certificate: Path
    key: Path
    ca: Path
    denylist: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whom a node's certificate must name."""

    cluster: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the files held, checked and written anew."""

    issued: Issued
    ca_pem: bytes
    denied: frozenset[str]
    anchors: Anchors = field(compare=False, repr=False)


Prove: TypeAlias = Callable[[Material, TlsPaths], None]


def read_material(paths: TlsPaths, owner: Owner | None = None) -> Material:
    """Read the files.

    Args:
        owner: Refuse any other node's certificate; None takes whatever the files hold.

    Raises:
        CertificateError: Names the file that is missing, unreadable or does not fit.
    """
    issued = read_issued(paths.certificate, paths.key)
    leaf, *between = load_certificates(issued.certificate_pem, paths.certificate)
    if problem := certificate_problem(leaf):
        raise CertificateError(f"{paths.certificate}: {problem}")
    authorities = load_certificates(read_pem(paths.ca), paths.ca)
    for authority in authorities:
        if problem := authority_problem(authority):
            raise CertificateError(f"{paths.ca}: {authority.subject.rfc4514_string()!r}: {problem}")
    authorities = those_that_count(authorities, datetime.now(UTC))
    ca_pem = pem_of(authorities)
    if owner is not None:
        check_node_certificate(
            issued.certificate_pem,
            paths.certificate,
            ca_pem,
            paths.ca,
            cluster=owner.cluster,
            node=owner.node,
        )
    denied = parse_denylist(read_pem(paths.denylist), paths.denylist) if paths.denylist else frozenset()
    anchors = Anchors(authorities, between=between)
    return Material(issued=issued, ca_pem=ca_pem, denied=denied, anchors=anchors)


class Credentials:
    """The material in force: replaced as a whole, and to be looked at from any thread."""

    logger = Logger()

    def __init__(self, paths: TlsPaths, owner: Owner | None = None, *, prove: Prove | None = None) -> None:
        """Read the files.

        Args:
            prove: Raises CertificateError for what the TLS stacks cannot use.

        Raises:
            CertificateError: As `read_material`, or from `prove`.
        """
        self.paths = paths
        self._owner = owner
        self._prove = prove
        self._material: Material | None = None
        self._material = self.read()

    @property
    def material(self) -> Material:
        """What is in force."""
        assert self._material is not None
        return self._material

    def read(self, paths: TlsPaths | None = None) -> Material:
        """Read the files again and prove what they hold, which takes some milliseconds; on any thread.

        Args:
            paths: Where they are by now; None: where they were.

        Raises:
            CertificateError: Names the bad file.
        """
        paths = paths or self.paths
        material = read_material(paths, self._owner)
        if self._prove is not None:
            self._prove(material, paths)
        if self._material is not None:
            material.anchors.check_those_of(self._material.anchors)
        return material

    def take(self, material: Material, paths: TlsPaths | None = None) -> bool:
        """Put material in force, with the places that it came from; return whether it is another."""
        self.paths = paths or self.paths
        if material == self.material:
            return False
        self._material = material
        self.logger.info("new certificates are in use, from {file}", file=str(self.paths.certificate))
        return True

    def check(self, identity: Identity) -> None:
        """Raise when whom TLS has verified, maybe long ago, is denied, or no CA of the file has signed it.

        Raises:
            IdentityError: It is, or has not.
        """
        material, names = self.material, identity.names
        if material.denied and not material.denied.isdisjoint(names):
            raise IdentityError(f"the certificate {names[0]} is on the denylist")
        if identity.certificate is None:
            return
        try:
            material.anchors.check(names[-1], identity.certificate)
        except IdentityError as error:
            raise IdentityError(
                f"the certificate {names[0]}: {error}; if an intermediate CA did, put that one into"
                f" {self.paths.ca.name}"
            ) from None
