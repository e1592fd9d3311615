"""Certificates as other software makes them, or as an attacker writes them."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from loghouse.auth.certificates import Issued

# SEC 2, section 2
_ORDERS = {
    ec.SECP256R1: "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    ec.SECP384R1: "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    ec.SECP521R1: "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa"
    "51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
}
CURVE_ORDERS = {curve: int(digits, 16) for curve, digits in _ORDERS.items()}


def _usage(*, signs):
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


CA_USAGE, LEAF_USAGE = _usage(signs=True), _usage(signs=False)


def issue(
    *,
    common_name="root",
    key=None,
    signer=None,
    issuer="a CA",
    digest=hashes.SHA256,
    uri=None,
    hosts=(),
    usages=(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
    key_usage=None,
    ca=None,
    path_length=None,
    begins=timedelta(minutes=-5),
    ends=timedelta(days=1),
    extensions=(),
    rsa_padding=None,
):
    """Return a certificate of anything. `ca` True or False: with basic constraints that say so."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    names = [x509.UniformResourceIdentifier(uri)] if uri else []
    names += map(x509.DNSName, hosts)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = digest() if digest is not None else None
    return builder.sign(signer or key, algorithm, rsa_padding=rsa_padding)


def pem(*certificates):
    """Return certificates as PEM."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def issued(certificate, key, *chain):
    """Return a certificate, its chain and key as `Issued`."""
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(certificate_pem=pem(certificate, *chain), key_pem=key_pem)


def signed_anew(certificate, signer, old, new):
    """Return the DER of a P-256 CA's certificate in which some bytes of the contents are others."""
    contents = certificate.tbs_certificate_bytes
    skip = 2 + (contents[1] & 0x7F if contents[1] & 0x80 else 0)
    assert contents.count(old) == 1
    contents = element(0x30, contents[skip:].replace(old, new))
    algorithm = element(0x30, bytes.fromhex("06082a8648ce3d040302"))
    signature = signer.sign(contents, ec.ECDSA(hashes.SHA256()))
    return element(0x30, contents + algorithm + element(0x03, b"\0" + signature))


def pem_text(der):
    """Return bytes as a PEM certificate, whatever they are."""
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def rewritten(certificate, order):
    """Return a certificate with the other form of its ECDSA signature: no key is needed for that."""
    r, s = decode_dss_signature(certificate.signature)
    other = encode_dss_signature(r, order - s)
    der = certificate.public_bytes(serialization.Encoding.DER)
    contents = certificate.tbs_certificate_bytes
    behind = der.index(contents) + len(contents)
    algorithm = der[behind : behind + 2 + der[behind + 1]]
    return x509.load_der_x509_certificate(element(0x30, contents + algorithm + element(0x03, b"\0" + other)))


def element(tag, content):
    """Return a DER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(digits)]) + digits + content
