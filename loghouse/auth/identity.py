"""Who a verified certificate says its holder is.

A node's certificate has exactly one URI SAN, `loghouse://<cluster>/node/<name>`, and its subject is
`node:<name>`. Any other certificate is a client's: its subject is its common name. TLS has verified the
certificate before anything here sees it; this only reads it, and refuses whatever could be read in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from loghouse.auth.denylist import names_of
from loghouse.auth.trust import check_usable, extension_of
from loghouse.errors import IdentityError, UnauthenticatedError
from loghouse.limits import NAME_SIZE_MAX, SUBJECT_SIZE_MAX

NODE_SUBJECT_PREFIX: Final = "node:"
"""Begins the casbin subject of a node; no client certificate may carry a name that begins so."""

_NAME_PATTERN: Final = rf"[a-z0-9](?:[a-z0-9-]{{0,{NAME_SIZE_MAX - 2}}}[a-z0-9])?"
_NAME: Final = re.compile(_NAME_PATTERN)
_NODE_URI: Final = re.compile(rf"loghouse://({_NAME_PATTERN})/node/({_NAME_PATTERN})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate's holder.

    `node` and `cluster` are empty for clients; `expires_at` is in seconds since the epoch. `names` are those
    by which a denylist may mean the certificate; see `denylist`.
    """

    subject: str
    node: str = ""
    cluster: str = ""
    expires_at: float
    names: tuple[str, ...] = ()
    certificate: x509.Certificate | None = field(default=None, repr=False, compare=False)

    @property
    def is_node(self) -> bool:
        """Whether the holder may speak as a node."""
        return self.node != ""

    def has_expired(self, now: float) -> bool:
        """Whether the certificate no longer counts at `now`, in seconds since the epoch."""
        return now >= self.expires_at


def is_name(text: str) -> bool:
    """Whether this can name a node, a cluster or a log: a DNS label in lower case, 1 to 63 characters."""
    return _NAME.fullmatch(text) is not None


def node_uri(cluster: str, node: str) -> str:
    """Return the URI that a node's certificate carries.

    Raises:
        IdentityError: A name is not a DNS label in lower case.
    """
    for name in (cluster, node):
        if not is_name(name):
            raise IdentityError(
                f"{name!r} cannot be in a certificate; allowed: 1 to {NAME_SIZE_MAX} of a-z, 0-9 and -,"
                " no - at either end"
            )
    return f"loghouse://{cluster}/node/{node}"


def identity_of_certificate(certificate: x509.Certificate) -> Identity:
    """Read a certificate that TLS has verified.

    Raises:
        IdentityError: It names nobody, or more than one, or a client that would pass for a node.
    """
    uris, names = _uris(certificate), names_of(certificate)
    if any(uri.lower().startswith("loghouse:") for uri in uris):
        cluster, node = _parse_node_uris(uris)
        subject = NODE_SUBJECT_PREFIX + node
    else:
        cluster, node = "", ""
        subject = _common_name(certificate)
    return Identity(
        subject=subject,
        node=node,
        cluster=cluster,
        expires_at=certificate.not_valid_after_utc.timestamp(),
        names=names,
        certificate=certificate,
    )


def identity_of_pem(pem: bytes) -> Identity:
    """Read the first certificate of a PEM text.

    Raises:
        IdentityError: As `identity_of_certificate`, or it is no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise IdentityError(f"the peer's certificate cannot be read: {error}") from None
    return identity_of_certificate(certificate)


class IdentityReader:
    """Reads identities out of gRPC's auth contexts, each certificate once.

    gRPC hands out the whole certificate with every call; parsing it costs far more than a small call, so
    the last `capacity` certificates are remembered, by all of their bytes.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._identities: dict[bytes, Identity] = {}

    def read(self, auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
        """Return who called.

        Raises:
            UnauthenticatedError: No certificate came with the connection.
            IdentityError: As `identity_of_certificate` and `check_usable`.
        """
        pem = next(iter(auth_context.get("x509_pem_cert", ())), None)
        if pem is None:
            raise UnauthenticatedError("no client certificate came with this call; every call needs one")
        identity = self._identities.get(pem)
        if identity is None:
            identity = identity_of_pem(pem)
            assert identity.certificate is not None
            check_usable(identity.certificate)
            if len(self._identities) >= self._capacity:
                # The oldest goes: it costs its holder one parse, and nobody can make the table grow.
                del self._identities[next(iter(self._identities))]
            self._identities[pem] = identity
        return identity


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = extension_of(certificate, x509.SubjectAlternativeName)
    except (ValueError, x509.DuplicateExtension) as error:
        raise IdentityError(f"the peer's certificate has extensions that cannot be read: {error}") from None
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def _parse_node_uris(uris: list[str]) -> tuple[str, str]:
    if len(uris) != 1:
        raise IdentityError(f"a node's certificate has exactly one URI, this one has {len(uris)}: {uris}")
    match = _NODE_URI.fullmatch(uris[0])
    if match is None:
        raise IdentityError(
            f"{uris[0]!r} names no node; expected loghouse://<cluster>/node/<name>, names in lower case"
        )
    return match[1], match[2]


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise IdentityError(f"a client's certificate has exactly one common name, this one has {len(names)}")
    name = names[0].value
    if not isinstance(name, str) or not 0 < len(name.encode()) <= SUBJECT_SIZE_MAX or not name.isprintable():
        raise IdentityError(
            f"the certificate's common name {name!r} is no subject;"
            f" allowed: 1 to {SUBJECT_SIZE_MAX} bytes, printable"
        )
    if name.startswith(NODE_SUBJECT_PREFIX):
        raise IdentityError(
            f"the certificate's common name {name!r} claims to be a node; only a URI SAN can say so"
        )
    return name
