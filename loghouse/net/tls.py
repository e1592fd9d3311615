"""TLS contexts of this node, made from files and made again when they change; bad files keep the old.

TLS 1.3 only, certificates required both ways, no resumption (a denied or expired certificate must not live
on in a ticket). Twisted asks for a connection each time, so new files count for new connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from loghouse.auth.certificates import Issued, check_bundle, check_pair, find_expiring, read_pem
from loghouse.errors import CertificateError, IdentityError

ALPN: Final = b"loghouse/1"
ALPN_GRPC: Final = b"h2"
CertificateNames: TypeAlias = tuple[str, str]
EXPIRY_WARNING: Final = timedelta(days=14)
_PARTIAL_WRITES: Final = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE: a call for each record; see `bulk_tls`
_RELEASE_BUFFERS: Final = 0x10  # SSL_MODE_RELEASE_BUFFERS: an idle connection holds no record buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPaths:
    """Files of this node's TLS. `denylist` is optional: certificates that count no more."""

    certificate: Path
    key: Path
    ca: Path
    denylist: Path | None = None


@dataclass(frozen=True, slots=True)
class _Material:
    issued: Issued
    ca_pem: bytes
    denied: frozenset[str]


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class TlsContexts:
    """Makes TLS connections for both sides of a link from the files as they were last read well."""

    logger = Logger()

    def __init__(self, paths: TlsPaths, *, clock: Callable[[], float]) -> None:
        """Read the files. `clock` gives seconds since the epoch, to warn of expiry.

        Raises:
            CertificateError: Names the file that is missing, unreadable or does not fit.
        """
        self._paths = paths
        self._clock = clock
        self._material = _read(paths)
        self._server = _context(self._material, is_server=True)
        self._client = _context(self._material, is_server=False)

    def reload(self) -> bool:
        """Read the files again; return whether something changed. New connections use them.

        Raises:
            CertificateError: Names the bad file; what was read before stays in use.
        """
        material = _read(self._paths)
        if material == self._material:
            return False
        server = _context(material, is_server=True)
        client = _context(material, is_server=False)
        self._material, self._server, self._client = material, server, client
        self.logger.info("new certificates are in use, from {file}", file=str(self._paths.certificate))
        return True

    def warn_of_expiry(self) -> None:
        """Log a warning for each file whose first certificate expires within two weeks.

        Raises:
            CertificateError: A file cannot be read.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        for expiry in find_expiring(
            [self._paths.certificate, self._paths.ca], now=now, within=EXPIRY_WARNING
        ):
            self.logger.warn(
                "{path}: the certificate of {subject} {verb} on {day}; replace the file",
                path=str(expiry.path),
                subject=expiry.subject,
                verb="expired" if expiry.expires_at <= now else "expires",
                day=f"{expiry.expires_at:%Y-%m-%d}",
            )

    def check_not_denied(self, names: CertificateNames) -> None:
        """Raise when the denylist names this certificate.

        Raises:
            IdentityError: It does.
        """
        if not self._material.denied.isdisjoint(names):
            raise IdentityError(f"the certificate {names[0]} is on the denylist")

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Twisted asks for an accepted connection."""
        return SSL.Connection(self._server, None)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Twisted asks for a dialled connection."""
        return SSL.Connection(self._client, None)


def _read(paths: TlsPaths) -> _Material:
    issued = Issued(certificate_pem=read_pem(paths.certificate), key_pem=read_pem(paths.key))
    check_pair(issued, paths.certificate, paths.key)
    ca_pem = read_pem(paths.ca)
    check_bundle(ca_pem, paths.ca)
    denied = parse_denylist(read_pem(paths.denylist), paths.denylist) if paths.denylist else frozenset()
    return _Material(issued, ca_pem, denied)


def parse_denylist(content: bytes, path: Path) -> frozenset[str]:
    """Return the entries of a denylist: a line each, `serial:HEX` or `sha256:HEX`; # begins a comment.

    Raises:
        CertificateError: Names the first bad line: a list half understood would let somebody in.
    """
    denied = set()
    for number, raw in enumerate(content.decode("utf8", "replace").splitlines(), start=1):
        line = raw.partition("#")[0].strip().lower()
        if not line:
            continue
        kind, _, digits = line.partition(":")
        digits = digits.replace(":", "")
        is_hex = bool(digits) and set(digits) <= set("0123456789abcdef")
        if kind not in ("serial", "sha256") or not is_hex or (kind == "sha256" and len(digits) != 64):
            raise CertificateError(f"{path}:{number}: {raw.strip()!r} is not serial:HEX or sha256:HEX")
        denied.add(f"{kind}:{digits.lstrip('0') if kind == 'serial' else digits}")
    return frozenset(denied)


def _context(material: _Material, *, is_server: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(_RELEASE_BUFFERS)
    context.clear_mode(_PARTIAL_WRITES)
    try:
        first, *chain = x509.load_pem_x509_certificates(material.issued.certificate_pem)
        context.use_certificate(first)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
        key: Any = serialization.load_pem_private_key(material.issued.key_pem, password=None)
        context.use_privatekey(key)
        store = context.get_cert_store()
        assert store is not None
        for authority in x509.load_pem_x509_certificates(material.ca_pem):
            store.add_cert(crypto.X509.from_cryptography(authority))
    except (SSL.Error, crypto.Error, ValueError) as error:
        raise CertificateError(f"OpenSSL cannot use the certificates: {error}") from error
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _keep_verdict)
    if is_server:
        context.set_alpn_select_callback(_choose_protocol)
    else:
        context.set_alpn_protos([ALPN])
    return context


def _keep_verdict(connection: Any, certificate: Any, number: int, depth: int, ok: int) -> bool:
    return bool(ok)


def _choose_protocol(connection: Any, offered: list[bytes]) -> Any:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
