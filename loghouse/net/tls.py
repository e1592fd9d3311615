"""TLS contexts of this node, made of the credentials in force, and the certificate that a peer has shown.

TLS 1.3 only, certificates both ways, no resumption: a ticket would outlive a denied or expired certificate.
Twisted asks for each connection anew, so new credentials count for new connections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from loghouse.auth.certificates import find_expiring
from loghouse.auth.credentials import Credentials, Material, TlsPaths
from loghouse.auth.identity import Identity, identity_of_certificate
from loghouse.auth.trust import check_usable, make_partial
from loghouse.errors import CertificateError, IdentityError
from loghouse.limits import CERTIFICATES_SHOWN_SIZE_MAX, KIB
from loghouse.protocol import link_messages

ALPN: Final = link_messages.ALPN.encode()
ALPN_GRPC: Final = b"h2"
ALPN_HTTP: Final = b"http/1.1"
SECURITY_LEVEL: Final = b"DEFAULT:@SECLEVEL=2"  # 112 bits for every key and signature of a chain
HANDSHAKE_FLIGHTS_MAX: Final = 4  # TLS 1.3 takes two from each end, and one more to tell what came of it
_VERIFY: Final = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
# Of OpenSSL's X509_V_ERR_*, those that a node's own files can give; OpenSSL's own words are not to be had.
_VERDICTS: Final = {
    9: "certificate is not yet valid",
    10: "certificate has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    24: "invalid CA certificate",
    25: "path length constraint exceeded",
    26: "unsuitable certificate purpose: a node needs both serverAuth and clientAuth",
    34: "a critical extension that OpenSSL does not know",
    47: "a name that the CA may not sign (permitted subtrees)",
    48: "a name that the CA may not sign (excluded subtrees)",
    66: "the key of the certificate is too weak",
    67: "the key of a CA is too weak",
    68: "the signature is too weak",
}
EXPIRY_WARNING: Final = timedelta(days=14)
_PARTIAL_WRITES: Final = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE: a call for each record; see `bulk_tls`
_RELEASE_BUFFERS: Final = 0x10  # SSL_MODE_RELEASE_BUFFERS: an idle connection holds no record buffers


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class TlsContexts:
    """Makes TLS connections for both sides of a link."""

    logger = Logger()

    def __init__(self, credentials: Credentials, *, clock: Callable[[], float]) -> None:
        """Make the contexts. `clock` gives seconds since the epoch, to notice what expires.

        Raises:
            CertificateError: OpenSSL cannot use the credentials.
        """
        self.credentials = credentials  # what is in force; fixed
        self.clock = clock  # seconds since the epoch; fixed
        self._used = credentials.material  # what the contexts are made of; follows `credentials`
        self._server = _context(self._used, is_server=True)
        self._client = _context(self._used, is_server=False)

    def warn_of_expiry(self) -> None:
        """Log a warning for each file whose first certificate expires within two weeks.

        Raises:
            CertificateError: A file cannot be read.
        """
        now = datetime.fromtimestamp(self.clock(), UTC)
        paths = self.credentials.paths
        for expiry in find_expiring([paths.certificate, paths.ca], now=now, within=EXPIRY_WARNING):
            self.logger.warn(
                "{path}: the certificate of {subject} {verb} on {day}; replace the file",
                path=str(expiry.path),
                subject=expiry.subject,
                verb="expired" if expiry.expires_at <= now else "expires",
                day=f"{expiry.expires_at:%Y-%m-%d}",
            )

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Twisted asks for an accepted connection."""
        self._follow()
        return SSL.Connection(self._server, None)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Twisted asks for a dialled connection."""
        self._follow()
        return SSL.Connection(self._client, None)

    def _follow(self) -> None:
        material = self.credentials.material
        if material is not self._used:
            self._server = _context(material, is_server=True)
            self._client = _context(material, is_server=False)
            self._used = material


class CheckedBy(Protocol):
    """What a certificate is checked by: the credentials in force, and seconds since the epoch."""

    credentials: Credentials
    clock: Callable[[], float]


class ShownCertificate:
    """The certificate that the peer of a TLS connection has shown."""

    __slots__ = ("_contexts", "identity")

    def __init__(self, contexts: CheckedBy, transport: Any) -> None:
        """Read the certificate that the handshake has verified.

        Raises:
            IdentityError: It is denied, cannot be read, or names nobody or more than one.
        """
        self._contexts = contexts
        try:
            handle = transport.getHandle()
            certificate = handle.get_peer_certificate(as_cryptography=True)
            size = _size_of(handle)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise IdentityError(f"the peer's certificate cannot be read: {error}") from None
        if certificate is None:
            raise IdentityError("the peer has shown no certificate")
        if size > CERTIFICATES_SHOWN_SIZE_MAX:
            raise IdentityError(
                f"the peer's certificates have {size} bytes;"
                f" at most {CERTIFICATES_SHOWN_SIZE_MAX} are allowed"
            )
        check_usable(certificate)
        self.identity: Identity = identity_of_certificate(certificate)
        contexts.credentials.check(self.identity)

    def check_still_valid(self) -> None:
        """Check the certificate again, by the credentials in force now.

        Raises:
            IdentityError: It is denied, no CA of the file has signed it, or it has expired.
        """
        self._contexts.credentials.check(self.identity)
        if self.identity.has_expired(self._contexts.clock()):
            raise IdentityError(f"the certificate of {self.identity.subject!r} has expired")


def prove_openssl(material: Material, paths: TlsPaths) -> None:
    """Shake hands with this node itself in memory, as server and as client, each verifying the other.

    Raises:
        CertificateError: OpenSSL refuses; names the files and says why.
    """
    found: list[int] = []

    def keep(connection: Any, certificate: Any, number: int, depth: int, ok: int) -> bool:
        if not ok:
            found.append(number)
        return bool(ok)

    try:
        contexts = [_context(material, is_server=is_server) for is_server in (True, False)]
        for context in contexts:
            context.set_verify(_VERIFY, keep)
        ends = [SSL.Connection(context, None) for context in contexts]
        ends[0].set_accept_state()
        ends[1].set_connect_state()
        for _ in range(HANDSHAKE_FLIGHTS_MAX):
            for end, other in (ends[::-1], ends):
                _step(end, other)
    except (SSL.Error, CertificateError) as error:
        raise CertificateError(
            f"{paths.certificate} with {paths.ca}: the binary protocol's TLS (OpenSSL) cannot use them:"
            f" {_VERDICTS.get(found[0], f'verdict {found[0]}') if found else _reason(error)}"
        ) from None


def _step(end: SSL.Connection, other: SSL.Connection) -> None:
    """Continue the handshake of one end, and carry its bytes to the other."""
    with contextlib.suppress(SSL.WantReadError):
        end.do_handshake()
        end.recv(1)  # the server's verdict comes behind the client's part of the handshake
    with contextlib.suppress(SSL.WantReadError):
        other.bio_write(end.bio_read(64 * KIB))


def _reason(error: Exception) -> str:
    details = error.args[0] if error.args else ()
    if isinstance(details, list) and details:
        return str(details[-1][-1])
    return str(error) or type(error).__name__


def _size_of(handle: SSL.Connection) -> int:
    """Return the size in bytes of all certificates that a peer has shown."""
    chain = handle.get_peer_cert_chain() or ()
    return sum(len(crypto.dump_certificate(crypto.FILETYPE_ASN1, one)) for one in chain)


def http_context(material: Material) -> SSL.Context:
    """Return a context of an HTTP server: a client may show a certificate, which is then verified.

    Raises:
        CertificateError: OpenSSL cannot use the credentials.
    """
    context = _context(material, is_server=True)
    context.set_verify(SSL.VERIFY_PEER, lambda connection, certificate, number, depth, ok: bool(ok))
    context.set_alpn_select_callback(
        lambda connection, offered: ALPN_HTTP if ALPN_HTTP in offered else SSL.NO_OVERLAPPING_PROTOCOLS
    )
    return context


def _context(material: Material, *, is_server: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(_RELEASE_BUFFERS)
    context.clear_mode(_PARTIAL_WRITES)
    context.set_cipher_list(SECURITY_LEVEL)
    try:
        first, *chain = x509.load_pem_x509_certificates(material.issued.certificate_pem)
        context.use_certificate(first)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
        key: Any = serialization.load_pem_private_key(material.issued.key_pem, password=None)
        context.use_privatekey(key)
        store = context.get_cert_store()
        assert store is not None
        make_partial(store)
        for authority in x509.load_pem_x509_certificates(material.ca_pem):
            store.add_cert(crypto.X509.from_cryptography(authority))
    except (SSL.Error, crypto.Error, ValueError) as error:
        raise CertificateError(f"OpenSSL cannot use the certificates: {error}") from error
    context.set_verify(_VERIFY, lambda connection, certificate, number, depth, ok: bool(ok))
    if is_server:
        context.set_alpn_select_callback(
            lambda connection, offered: ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
        )
    else:
        context.set_alpn_protos([ALPN])
    return context
