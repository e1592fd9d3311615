"""Which certificates count here: one rule, for both TLS stacks.

OpenSSL ends TLS for the binary protocol, gRPC brings a BoringSSL of its own, and they do not take the same
certificates. What one of them would refuse is refused here for both, so that who is let in does not depend on
the protocol it speaks. Handshakes prove the rest: see `loghouse.service.proving`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, PublicKeyAlgorithmOID
from OpenSSL import crypto

from loghouse.errors import IdentityError
from loghouse.limits import CERTIFICATE_SIZE_MAX, CONNECTIONS_MAX, RSA_KEY_BITS_MAX, RSA_KEY_BITS_MIN

_LEAF_CURVES: Final = ("secp256r1", "secp384r1")  # of TLS 1.3's, those that BoringSSL verifies
_CA_CURVES: Final = (*_LEAF_CURVES, "secp521r1")
_DIGESTS: Final = ("sha256", "sha384", "sha512")
_KEYS_ALLOWED: Final = f"allowed: P-256, P-384, RSA of {RSA_KEY_BITS_MIN} to {RSA_KEY_BITS_MAX} bits"
_NETSCAPE_TYPE: Final = x509.ObjectIdentifier("2.16.840.1.113730.1.1")  # only OpenSSL goes by it
_KEY_OIDS: Final = (PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, PublicKeyAlgorithmOID.EC_PUBLIC_KEY)
_UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def key_problem(public: object, *, of_ca: bool = False) -> str:
    """Return why a key cannot be used by both stacks; empty when it can."""
    if isinstance(public, rsa.RSAPublicKey):
        if RSA_KEY_BITS_MIN <= public.key_size <= RSA_KEY_BITS_MAX:
            return ""
        return f"its key is RSA of {public.key_size} bits; {_KEYS_ALLOWED}"
    if isinstance(public, ec.EllipticCurvePublicKey):
        if public.curve.name in (_CA_CURVES if of_ca else _LEAF_CURVES):
            return ""
        return f"its key is on the curve {public.curve.name}; {_KEYS_ALLOWED}"
    return f"its key is of the kind {type(public).__name__.removesuffix('PublicKey')}; {_KEYS_ALLOWED}"


def certificate_problem(certificate: x509.Certificate) -> str:
    """Return why nobody can take a leaf's certificate, by what it says itself; empty when one can."""
    try:
        problem = key_problem(certificate.public_key())
        digest = certificate.signature_hash_algorithm
        usage = extension_of(certificate, x509.KeyUsage)
        has_plain_point = _has_plain_point(certificate)
        is_plainly_signed = _is_plainly_signed(certificate)
        is_of_netscape = _has_netscape_type(certificate)
    except _UNREADABLE as error:
        return f"it cannot be read: {error}"
    if problem:
        return problem
    size = len(certificate.public_bytes(Encoding.DER))
    if size > CERTIFICATE_SIZE_MAX:
        return f"it has {size} bytes; at most {CERTIFICATE_SIZE_MAX} are allowed"
    if not has_plain_point:
        return "its key's point is in the hybrid form"
    if is_of_netscape:
        return "it has a Netscape certificate type, which is out of use; make one without"
    if certificate.public_key_algorithm_oid not in _KEY_OIDS:
        return f"its key is for one scheme of signatures only; {_KEYS_ALLOWED}"
    if digest is None or digest.name not in _DIGESTS:
        name = digest.name.upper() if digest is not None else certificate.signature_algorithm_oid._name
        return f"it is signed with {name}; allowed: RSA or ECDSA with SHA-256, SHA-384 or SHA-512"
    if not is_plainly_signed:
        return "it is signed with RSA-PSS with two digests, or salt of another length than the digest"
    if _is_signed_with_short_rsa(certificate):
        return f"its CA's key is RSA of {8 * len(certificate.signature)} bits; {_KEYS_ALLOWED}"
    if usage is not None and not usage.digital_signature:
        return "its key usage has no digitalSignature, and TLS 1.3 only signs"
    return ""


def check_usable(certificate: x509.Certificate) -> None:
    """Raise for a certificate that one of the TLS stacks has let in and the other would not.

    Raises:
        IdentityError: Says what is wrong with its key or signature.
    """
    problem = certificate_problem(certificate)
    if problem:
        raise IdentityError(f"the certificate cannot be used: {problem}")


def extension_of(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return an extension of a certificate, None when it has none of that kind.

    Raises:
        ValueError, x509.DuplicateExtension: Its extensions cannot be read.
    """
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _has_netscape_type(certificate: x509.Certificate) -> bool:
    return any(one.oid == _NETSCAPE_TYPE for one in certificate.extensions)


def _has_plain_point(certificate: x509.Certificate) -> bool:
    """Whether an elliptic curve's key is written as its coordinates, or as one and a sign."""
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return True
    forms = (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)
    contents = certificate.tbs_certificate_bytes
    return any(b"\0" + public.public_bytes(Encoding.X962, form) in contents for form in forms)


def _is_plainly_signed(certificate: x509.Certificate) -> bool:
    """Whether RSA-PSS, if it is that, has the parameters of TLS 1.3, which alone BoringSSL takes."""
    parameters, digest = certificate.signature_algorithm_parameters, certificate.signature_hash_algorithm
    if not isinstance(parameters, padding.PSS) or digest is None:
        return True
    inner: hashes.HashAlgorithm = parameters.mgf._algorithm
    return inner.name == digest.name and parameters._salt_length == digest.digest_size


def _is_signed_with_short_rsa(certificate: x509.Certificate) -> bool:
    name = certificate.signature_algorithm_oid._name.lower()
    return "rsa" in name and 8 * len(certificate.signature) < RSA_KEY_BITS_MIN


def authority_problem(certificate: x509.Certificate) -> str:
    """Return why a certificate cannot stand in a file of CAs; empty when it can."""
    try:
        constraints = extension_of(certificate, x509.BasicConstraints)
        usage = extension_of(certificate, x509.KeyUsage)
        purposes = extension_of(certificate, x509.ExtendedKeyUsage)
        is_of_netscape = _has_netscape_type(certificate)
        problem = key_problem(certificate.public_key(), of_ca=True)
    except _UNREADABLE as error:
        return f"cannot be read: {error}"
    if constraints is None:
        return "is not the certificate of a CA: it has no basic constraints"
    if not constraints.ca or (usage is not None and not usage.key_cert_sign):
        return "is not the certificate of a CA: it may not sign others"
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        return "may not sign for clients: its extended key usage has no clientAuth"
    if is_of_netscape:
        return "has a Netscape certificate type, which is out of use; make one without"
    return problem


class Anchors:
    """The CAs of a file: who has a certificate that one of them signed.

    Each counts by itself, also one that another CA has signed, as gRPC has it. An intermediate CA has to be
    in the file, or behind the node's own certificate: gRPC does not tell which ones a client has shown, and
    follows chains that OpenSSL does not. So both servers ask this, with nothing that the client has shown but
    its own certificate.
    """

    def __init__(
        self, authorities: Sequence[x509.Certificate], between: Sequence[x509.Certificate] = ()
    ) -> None:
        """Make the store.

        Args:
            authorities: The CAs of the file.
            between: Intermediate CAs behind the node's own certificate.
        """
        self._between = [crypto.X509.from_cryptography(one) for one in between]
        self._store = crypto.X509Store()
        make_partial(self._store)
        for authority in authorities:
            self._store.add_cert(crypto.X509.from_cryptography(authority))
        self._good: dict[str, x509.Certificate] = {}

    def check(self, name: str, certificate: x509.Certificate) -> None:
        """Raise unless these CAs have signed a certificate; who is good is remembered by name.

        Raises:
            IdentityError: Says what OpenSSL finds.
        """
        if name in self._good:
            return
        leaf = crypto.X509.from_cryptography(certificate)
        try:
            chain = crypto.X509StoreContext(self._store, leaf, self._between).get_verified_chain()
        except crypto.X509StoreContextError as error:
            raise IdentityError(f"no CA of this node has signed it: {error}") from None
        above = [one.to_cryptography() for one in chain[1:]]
        is_constrained = any(extension_of(one, x509.NameConstraints) is not None for one in above)
        if is_constrained and extension_of(certificate, x509.SubjectAlternativeName) is None:
            raise IdentityError("its CA may sign certain names only, and it has no subject alternative name")
        if len(self._good) >= CONNECTIONS_MAX:
            # The oldest goes: it costs one check to know again, and nobody can make the table grow.
            del self._good[next(iter(self._good))]
        self._good[name] = certificate

    def check_those_of(self, other: Anchors) -> None:
        """Find out now, on whatever thread this is, which of another file's good ones are good here."""
        for name, certificate in list(other._good.items()):
            with contextlib.suppress(IdentityError):
                self.check(name, certificate)


def those_that_count(authorities: Sequence[x509.Certificate], now: datetime) -> list[x509.Certificate]:
    """Return the CAs without those of which a better one is there: one key, name and issuer, but other dates.

    BoringSSL takes any one of them, also one that has expired; OpenSSL looks for one that counts.
    """
    best: dict[tuple[bytes, x509.Name, x509.Name], x509.Certificate] = {}

    def rank(one: x509.Certificate) -> tuple[bool, datetime]:
        return one.not_valid_before_utc <= now, one.not_valid_after_utc

    for one in authorities:
        key = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        of = (key, one.subject, one.issuer)
        best[of] = max(best.get(of, one), one, key=rank)
    return list(best.values())


def make_partial(store: crypto.X509Store) -> None:
    """Let every certificate of a store be the end of a chain, whether or not another CA signed it."""
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
