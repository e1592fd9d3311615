"""Certificates that count no more: the names by which a list means one, and how the list is written.

    key:HEX      SHA-256 of the public key (SubjectPublicKeyInfo, DER): every certificate of that key
    serial:HEX   the serial number, of whatever CA
    sha256:HEX   the certificate's fingerprint

A fingerprint covers the CA's signature, and anybody can write an ECDSA signature (r, s) as (r, n - s) too, n
being the order of the curve. So a certificate goes by the fingerprints of both: whoever is denied by one
does not come back with the other. Its contents, serial and key among them, are what was signed; nobody but
the CA can write them in another way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from loghouse.errors import CertificateError, IdentityError
from loghouse.text import split_lines, visible

_DIGEST_KINDS: Final = ("key", "sha256")
_ECDSA: Final = frozenset(
    value for name, value in vars(SignatureAlgorithmOID).items() if name.startswith("ECDSA_")
)
# Of the curves that a CA may sign with, whatever the certificate says of itself: a CA's key is not in it.
_CURVE_ORDERS: Final = tuple(
    int(digits, 16)
    for digits in (
        "ffffffffffffffffffffffffffff16a2e0b8f03e13dd29455c5c2a3d",  # P-224
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",  # P-256
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa"  # P-521
        "51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",  # secp256k1
        "a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7",  # brainpoolP256r1
        "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b31f166e6cac0425a7cf3ab6af6b7fc3103b883202e9046565",
        "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca70330870"  # brainpoolP512r1
        "553e5c414ca92619418661197fac10471db1d381085ddaddb58796829ca90069",
    )
)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return every name by which a denylist may mean a certificate, the serial number first.

    Raises:
        IdentityError: Its key or its serial number cannot be read.
    """
    try:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        serial = certificate.serial_number
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the certificate's key cannot be read: {error}") from None
    digests = [f"sha256:{_digest(der)}" for der in _spellings(certificate)]
    return f"serial:{serial:x}", f"key:{_digest(key)}", *digests


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _spellings(certificate: x509.Certificate) -> Iterable[bytes]:
    """Yield the certificate in every form in which its signature still holds."""
    der = certificate.public_bytes(Encoding.DER)
    yield der
    if certificate.signature_algorithm_oid not in _ECDSA:
        return
    try:
        r, s = decode_dss_signature(certificate.signature)
    except ValueError:
        return  # no signature at all; TLS does not take it
    contents = certificate.tbs_certificate_bytes
    behind = der.index(contents) + len(contents)
    algorithm = der[behind : behind + 2 + der[behind + 1]]  # a short SEQUENCE: an OID, no parameters
    for other in (s, *(order - s for order in _CURVE_ORDERS if max(r, s) < order)):
        signature = b"\0" + encode_dss_signature(r, other)
        yield _tlv(0x30, contents + algorithm + _tlv(0x03, signature))


def _tlv(tag: int, content: bytes) -> bytes:
    """Return a DER element."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(digits))) + digits + content


def parse_denylist(content: bytes, path: Path) -> frozenset[str]:
    """Return the entries of a denylist, a line each; # begins a comment.

    Raises:
        CertificateError: Names the first bad line: a list half understood would let somebody in.
    """
    try:
        lines = split_lines(content.decode("utf8", "replace"))
    except ValueError as error:
        raise CertificateError(f"{path}:{error}") from None
    denied = set()
    for number, raw in enumerate(lines, start=1):
        line = raw.partition("#")[0].strip().lower()
        if not line:
            continue
        kind, _, digits = line.partition(":")
        digits = digits.replace(":", "")
        is_hex = bool(digits) and set(digits) <= set("0123456789abcdef")
        if not is_hex or not (kind == "serial" or (kind in _DIGEST_KINDS and len(digits) == 64)):
            raise CertificateError(
                f"{path}:{number}: {raw.strip()!r} is not key:HEX, serial:HEX or sha256:HEX;"
                " `loghouse certs deny FILE` prints an entry"
            )
        denied.add(f"serial:{digits.lstrip('0') or '0'}" if kind == "serial" else f"{kind}:{digits}")
    return frozenset(denied)


def entry_of(certificate: x509.Certificate) -> str:
    """Return the line that denies a certificate, and every other one of its key.

    Raises:
        IdentityError: Its key cannot be read.
    """
    serial, key, *_ = names_of(certificate)
    return f"{key}  # {visible(certificate.subject.rfc4514_string())}, {serial}"


def add_to_denylist(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a list, which is made when it is not there.

    Raises:
        CertificateError: What stands there already is no denylist, or it cannot be written.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
        parse_denylist(content, path)
        begin = "\n" if content and not content.endswith(b"\n") else ""
        with path.open("a") as file:
            # At once: a node may read at any moment, and refuses half a line.
            file.write(begin + "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written: {error.strerror or error}") from None
