"""Makes certificates: a CA, nodes' certificates and clients' certificates, and tells when they expire.

Keys are P-256 by default; RSA-2048 is offered for software that cannot do better. Everything is PEM, key
files are unencrypted and readable by their owner only.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from loghouse.auth.identity import NODE_SUBJECT_PREFIX, identity_of_pem, node_uri
from loghouse.auth.trust import extension_of
from loghouse.errors import CertificateError, IdentityError
from loghouse.limits import CERTIFICATE_FILE_SIZE_MAX

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
CLOCK_SKEW: Final = timedelta(minutes=5)
"""A certificate counts from this long before it was made, for hosts whose clocks are behind."""

_CERTIFICATE_MARK: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_BLOCKS_BESIDE: Final = (b"CERTIFICATE", b"PRIVATE KEY", b"PARAMETERS")  # what people keep in one file
_LOOSE_LINE: Final = re.compile(rb"^[ \t]*[A-Za-z0-9+/]{60,}[ \t\r]*$", re.MULTILINE)
COMMON_NAME_SIZE_MAX: Final = 64  # X.520's upper bound, which OpenSSL enforces


class KeyKind(StrEnum):
    """What key a certificate has."""

    P256 = "p256"
    RSA2048 = "rsa2048"


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When the first certificate of a file expires, and whose it is."""

    path: Path
    subject: str
    expires_at: datetime


def make_ca(name: str, *, now: datetime, key: KeyKind = KeyKind.P256, days: int = CA_DAYS) -> Issued:
    """Make a self-signed CA that signs leaves only (path length 0), from five minutes before `now`.

    Raises:
        CertificateError: The name is not 1 to 64 printable characters.
    """
    private = _make_key(key)
    subject = _name(name)
    builder = _builder(subject, subject, private, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _issue(builder, private, private)


def make_node_certificate(
    ca: Issued,
    *,
    cluster: str,
    node: str,
    hosts: Sequence[str],
    now: datetime,
    key: KeyKind = KeyKind.P256,
    days: int = LEAF_DAYS,
) -> Issued:
    """Make a node's certificate: it may serve, and it may open the peer role on other nodes.

    Args:
        node: The node's name; it is also a DNS name of the certificate, by which peers check it.
        hosts: DNS names and IP addresses under which clients reach the node.
        days: How long it counts, at most as long as the CA.

    Raises:
        CertificateError: A name or host cannot be in a certificate, or the CA cannot sign.
    """
    try:
        uri = node_uri(cluster, node)
    except IdentityError as error:
        raise CertificateError(str(error)) from None
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [_host(host) for host in dict.fromkeys([node, *hosts])]
    builder = _leaf(ca, _name(node), private := _make_key(key), now, days)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return _issue(builder, private, _signing_key(ca))


def make_client_certificate(
    ca: Issued, *, name: str, now: datetime, key: KeyKind = KeyKind.P256, days: int = LEAF_DAYS
) -> Issued:
    """Make a client's certificate; `name` is its common name, and so the subject that policy rules name.

    Raises:
        CertificateError: The name cannot be a client's, or the CA cannot sign.
    """
    if name.startswith(NODE_SUBJECT_PREFIX):
        raise CertificateError(f"{name!r} cannot be a client's name; names that begin with node: are nodes'")
    builder = _leaf(ca, _name(name), private := _make_key(key), now, days)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return _issue(builder, private, _signing_key(ca))


def read_issued(certificate_path: Path, key_path: Path) -> Issued:
    """Read a certificate and its key back.

    Returns:
        Both written anew: nothing but the PEM of the certificates, in their order, and of the key.

    Raises:
        CertificateError: A file is missing, unreadable or too large, or the two do not belong together.
    """
    chain = load_certificates(read_pem(certificate_path), certificate_path)
    private = load_key(read_pem(key_path), key_path)
    try:
        belong_together = private.public_key() == chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{certificate_path}: its key cannot be read: {error}") from None
    if not belong_together:
        raise CertificateError(f"{key_path} is not the key of {certificate_path}; make or copy both together")
    return Issued(certificate_pem=pem_of(chain), key_pem=key_pem_of(private))


def pem_of(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return certificates as PEM, one after the other and nothing else."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def check_node_certificate(
    pem: bytes, path: Path, ca_pem: bytes, ca_path: Path, *, cluster: str, node: str
) -> None:
    """Raise unless `pem`, read from `path`, is this node's certificate and one of the CAs signed it.

    A node that shows another's certificate, or one that nobody accepts, would start, and then puzzle everyone
    who connects; so it is told apart before the first handshake.

    Raises:
        CertificateError: Says whose certificate it is, or who did not sign it, and how to make the right one.
    """
    remedy = f"make one with: loghouse certs node {node} --cluster {cluster} --host HOST"
    try:
        identity = identity_of_pem(pem)
    except IdentityError as error:
        raise CertificateError(f"{path}: names no node: {error}; {remedy}") from None
    if not identity.is_node:
        raise CertificateError(f"{path}: is the certificate of client {identity.subject!r}; {remedy}")
    if (identity.cluster, identity.node) != (cluster, node):
        raise CertificateError(
            f"{path}: is the certificate of node {identity.node!r} of cluster {identity.cluster!r}, but"
            f" node.yaml is for node {node!r} of cluster {cluster!r}; correct one of the two, or {remedy}"
        )
    # An intermediate CA may stand in either file.
    chain, authorities = load_certificates(pem, path), load_certificates(ca_pem, ca_path)
    if not any(_has_signed(authority, link) for link in chain for authority in authorities):
        raise CertificateError(
            f"{path}: is signed by no certificate of {ca_path}; copy the CA that made it, or {remedy}"
        )


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def write_issued(
    issued: Issued, certificate_path: Path, key_path: Path, *, may_replace: bool = False
) -> None:
    """Write both files, each whole or not at all; the key first, and readable by its owner only.

    Raises:
        CertificateError: A file is there already and `may_replace` is false, or it cannot be written.
    """
    for path in (key_path, certificate_path):
        if not may_replace and path.exists():
            raise CertificateError(f"{path} is there already; it was left as it is")
    _write(key_path, issued.key_pem, mode=0o600)
    _write(certificate_path, issued.certificate_pem, mode=0o644)


def check_same_holder(issued: Issued, certificate_path: Path) -> None:
    """Raise when a file holds anybody else's certificate: to make a new one of a name replaces its own only.

    Raises:
        CertificateError: Names the file and its holder.
    """
    if not certificate_path.exists():
        return
    new, old = (
        load_certificates(pem, certificate_path)[0]
        for pem in (issued.certificate_pem, read_pem(certificate_path))
    )
    if _holder(new) != _holder(old):
        raise CertificateError(
            f"{certificate_path} is the certificate of another, {old.subject.rfc4514_string()};"
            " choose another name or --dir, or remove it"
        )


def _holder(certificate: x509.Certificate) -> tuple[object, ...]:
    """Return what a certificate says of its holder: name, node, and whether it is a CA."""
    constraints = extension_of(certificate, x509.BasicConstraints)
    names = extension_of(certificate, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    return certificate.subject, constraints is not None and constraints.ca, uris


def read_pem(path: Path) -> bytes:
    """Read a PEM file, bounded.

    Raises:
        CertificateError: It is missing, unreadable, or too large to be one.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(CERTIFICATE_FILE_SIZE_MAX + 1)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(pem) > CERTIFICATE_FILE_SIZE_MAX:
        raise CertificateError(
            f"{path}: is larger than {CERTIFICATE_FILE_SIZE_MAX} bytes, so it is no certificate file"
        )
    return pem


def read_expiry(path: Path) -> Expiry:
    """Return which certificate of a file expires first, and when.

    Raises:
        CertificateError: The file is missing or holds no certificate.
    """
    certificates = load_certificates(read_pem(path), path)
    first = min(certificates, key=lambda certificate: certificate.not_valid_after_utc)
    return Expiry(path=path, subject=first.subject.rfc4514_string(), expires_at=first.not_valid_after_utc)


def find_expiring(paths: Iterable[Path], *, now: datetime, within: timedelta) -> list[Expiry]:
    """Return the files whose first certificate expires within that time, soonest first; expired ones, too.

    Raises:
        CertificateError: A file is missing or holds no certificate.
    """
    found = [expiry for expiry in map(read_expiry, paths) if expiry.expires_at <= now + within]
    return sorted(found, key=lambda expiry: expiry.expires_at)


# --- the parts of a certificate ---------------------------------------------------


def _make_key(kind: KeyKind) -> PrivateKey:
    if kind == KeyKind.RSA2048:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    if not 0 < len(common_name) <= COMMON_NAME_SIZE_MAX or not common_name.isprintable():
        raise CertificateError(
            f"{common_name!r} cannot name a certificate;"
            f" allowed: 1 to {COMMON_NAME_SIZE_MAX} printable characters"
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host or "*" in host:
        # A wildcard would let one node's certificate stand for all.
        raise CertificateError(f"{host!r} cannot be a host of a node; name every host")
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CertificateError(f"{host!r} is neither a DNS name (in ASCII) nor an IP address") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, private: PrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - CLOCK_SKEW)
        .not_valid_after(now.astimezone(UTC) + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )


def _leaf(
    ca: Issued, subject: x509.Name, private: PrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    authority = load_certificates(ca.certificate_pem, Path("the CA's certificate"))[0]
    left = (authority.not_valid_after_utc - now.astimezone(UTC)).days
    if left < 1:
        raise CertificateError(
            f"the CA {authority.subject.rfc4514_string()} expires {authority.not_valid_after_utc:%Y-%m-%d};"
            " make a new one"
        )
    builder = _builder(subject, authority.subject, private, now, min(days, left))
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(_authority_key_identifier(authority), critical=False)
    )


def _authority_key_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = extension_of(authority, x509.SubjectKeyIdentifier)
    if identifier is None:
        # A CA made elsewhere need not have one.
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(_public_key(authority))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _public_key(authority: x509.Certificate) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    public = authority.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise CertificateError(f"the CA's key is a {type(public).__name__}; allowed: elliptic curve or RSA")
    return public


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    # TLS 1.3 only signs; key_encipherment is for the RSA key exchange of older versions, so nobody needs it.
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issue(builder: x509.CertificateBuilder, private: PrivateKey, signer: PrivateKey) -> Issued:
    certificate = builder.sign(signer, hashes.SHA256())
    return Issued(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM), key_pem=key_pem_of(private)
    )


def key_pem_of(private: PrivateKey) -> bytes:
    """Return a private key as PEM and nothing else, not encrypted."""
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- reading and writing ------------------------------------------------------------


def _signing_key(ca: Issued) -> PrivateKey:
    return load_key(ca.key_pem, Path("the CA's key"))


def load_key(pem: bytes, path: Path) -> PrivateKey:
    """Return the private key of a PEM text.

    Raises:
        CertificateError: Names the file.
    """
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{path}: is not an unencrypted PEM private key: {error}") from None
    if not isinstance(private, PrivateKey):
        raise CertificateError(f"{path}: holds a {type(private).__name__}; allowed: elliptic curve or RSA")
    return private


def load_certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    """Return every certificate of a PEM text, at least one.

    Raises:
        CertificateError: There is none, or one that is cut off or in a form of its own, which would be left
            out in silence; or what nobody goes by, such as a list of revoked ones. Names the file.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError(f"{path}: holds no PEM certificate: {error}") from None
    begun = len(_CERTIFICATE_MARK.findall(pem))
    if begun != len(certificates):
        raise CertificateError(
            f"{path}: {begun} certificates begin in it, and only {len(certificates)} can be read; each goes"
            " from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
        )
    for block in _BLOCK.finditer(pem):
        if not block[1].endswith(_BLOCKS_BESIDE):
            raise CertificateError(
                f"{path}: holds {block[1].decode()}, which counts for nothing here; remove it"
            )
    if _LOOSE_LINE.search(_BLOCK.sub(b"", pem)):
        raise CertificateError(
            f"{path}: a certificate's text stands outside of the lines that begin and end one, which are"
            " -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----"
        )
    return certificates


def _write(path: Path, content: bytes, *, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        # A key is never readable by others, not even for a moment: its mode is there before the first byte.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written: {error.strerror or error}") from None
