"""Where a client connects, such as `loghouse://a.example,b.example`, and the certificates it shows there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loghouse.client.fields import text_of
from loghouse.errors import CertificateError, InvalidRequestError, PortableError

SCHEME: Final = "loghouse://"
PORT_DEFAULT: Final = 8400
_PEM_MARK: Final = b"-----BEGIN "
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def parse_target(target: str) -> tuple[str, ...]:
    """Return the addresses of a target, each `host:port`, in their order and once each.

    The scheme may be left out, and so may a port that is 8400.

        >>> parse_target("loghouse://a.example:8400,b.example,[::1]:8401")
        ('a.example:8400', 'b.example:8400', '[::1]:8401')

    Raises:
        InvalidRequestError: It is not such a list.
    """
    listed = text_of("target", target).removeprefix(SCHEME).rstrip("/")
    if "/" in listed:
        raise InvalidRequestError("target", f"{target!r} is not of the form loghouse://HOST:PORT,HOST:PORT")
    return tuple(dict.fromkeys(_address(one.strip(), target) for one in listed.split(",")))


def _address(text: str, target: str) -> str:
    has_port = ":" in text and not text.endswith("]")
    try:
        host, port = split_address(text if has_port else f"{text}:{PORT_DEFAULT}")
    except _NoAddressError as error:
        raise InvalidRequestError("target", f"{error.part!r} in {target!r} {error.problem}") from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an address, the host without brackets.

    Raises:
        ValueError: It cannot be dialled; the text says why.
    """
    host, _, port_text = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        bare.encode("idna")  # as the resolver does, which refuses empty and overlong parts
    except UnicodeError:
        bare = ""
    if not bare or (":" in bare) != (bare != host) or any(c.isspace() or c in "[]@/" for c in bare):
        raise _NoAddressError(address.removesuffix(f":{PORT_DEFAULT}"), "is not an address; write HOST:PORT")
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text[:6]) < 65536):
        raise _NoAddressError(port_text, "is not a port from 1 to 65535")
    return bare, int(port_text)


class _NoAddressError(PortableError, ValueError):
    """A part of what should be an address is none."""

    def __init__(self, part: str, problem: str) -> None:
        super().__init__(f"{part[:80]!r} {problem}")
        self.part = part
        self.problem = problem


def is_dialable(address: str) -> bool:
    """Whether an address that a server told of names a host and a port."""
    try:
        split_address(address)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A client's certificates: each a path of a PEM file, or the PEM text itself as bytes.

        Tls(ca="certs/ca.pem", certificate="certs/root.pem", key="certs/root.key")

    `ca` signed the nodes; `certificate` says who the client is; `key` belongs to it.
    """

    ca: str | Path | bytes
    certificate: str | Path | bytes
    key: str | Path | bytes = field(repr=False)

    def pems(self) -> tuple[bytes, bytes, bytes]:
        """Read the files and return the PEM texts of CA, certificate and key, and nothing around them.

        Raises:
            CertificateError: A file cannot be read, or is not PEM.
        """
        return _pem("ca", self.ca), _pem("certificate", self.certificate), _pem("key", self.key)


def _pem(name: str, source: str | Path | bytes) -> bytes:
    """Return the PEM blocks and nothing else: TLS stacks do not agree about what may stand around."""
    if isinstance(source, bytes | bytearray | memoryview):
        text, where = bytes(source), "the bytes given"
    else:
        if not isinstance(source, str | os.PathLike):
            raise InvalidRequestError(
                f"tls.{name}", f"is a {type(source).__name__}; give a path, or the PEM text as bytes"
            )
        if "-----BEGIN " in str(source):
            raise InvalidRequestError(f"tls.{name}", "is PEM text as a str; give it as bytes, with .encode()")
        where = str(source)
        try:
            text = Path(source).read_bytes()
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or error
            raise CertificateError(f"tls.{name}: {source}: {problem}") from None
    blocks = [found[0] for found in _PEM_BLOCK.finditer(text)]
    if not blocks:
        raise CertificateError(f"tls.{name}: {where} hold no PEM text")
    if len(blocks) != text.count(_PEM_MARK):
        raise CertificateError(f"tls.{name}: {where} hold a PEM text that is cut off")
    return b"".join(block + b"\n" for block in blocks)
