"""Reads what a TLS client offers, before any handshake work: pure, bounded, from however many pieces.

Only what routing needs is looked at: the ALPN protocols and the TLS versions (RFC 8446 4.1.2, RFC 7301).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loghouse.errors import ProtocolError
from loghouse.limits import CLIENT_HELLO_SIZE_MAX

TLS_1_3: Final = 0x0304
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_RECORD_HEADER_SIZE: Final = 5
_RECORD_SIZE_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a TLS client offers: ALPN names in its order of preference, and version numbers."""

    protocols: tuple[bytes, ...]
    versions: tuple[int, ...]


class ClientHelloReader:
    """Collects the first bytes of a connection until they are a ClientHello.

    `received` is everything that came, to be given to whoever does the handshake.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self._message = bytearray()  # handshake bytes without the record layer
        self._position = 0  # where in `received` the next record begins

    def feed(self, data: bytes) -> ClientHello | None:
        """Add bytes; return the ClientHello once it is whole.

        Raises:
            ProtocolError: This is not a ClientHello, or it is larger than 16 KiB.
        """
        if len(self.received) + len(data) > 2 * CLIENT_HELLO_SIZE_MAX:
            raise ProtocolError(f"a ClientHello of more than {CLIENT_HELLO_SIZE_MAX} bytes")
        self.received += data
        self._take_records()
        if len(self._message) < 4:
            return None
        if self._message[0] != _CLIENT_HELLO:
            raise ProtocolError(f"TLS handshake message {self._message[0]} instead of a ClientHello")
        size = int.from_bytes(self._message[1:4], "big")
        if size > CLIENT_HELLO_SIZE_MAX:
            raise ProtocolError(f"a ClientHello of {size} bytes; at most {CLIENT_HELLO_SIZE_MAX} are allowed")
        if len(self._message) < 4 + size:
            return None
        return _parse(bytes(self._message[4 : 4 + size]))

    def _take_records(self) -> None:
        received = self.received
        while True:
            head = received[self._position : self._position + _RECORD_HEADER_SIZE]
            # The first byte tells at once whether this is TLS at all.
            if head and head[0] != _HANDSHAKE:
                raise ProtocolError("not TLS: the first record is no handshake")
            if len(head) > 1 and head[1] != 3:
                raise ProtocolError("not TLS: unknown record version")
            if len(head) < _RECORD_HEADER_SIZE:
                return
            size = int.from_bytes(head[3:5], "big")
            if not 0 < size <= _RECORD_SIZE_MAX:
                raise ProtocolError(f"a TLS record of {size} bytes")
            start = self._position + _RECORD_HEADER_SIZE
            if len(received) < start + size:
                return
            self._message += received[start : start + size]
            self._position = start + size
            if len(self._message) >= 4 + int.from_bytes(self._message[1:4], "big"):
                return


class _Fields:
    """Takes vectors off a ClientHello; running over the end is an error, never a crash."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def rest_size(self) -> int:
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        piece = self._data[self._position : self._position + size]
        if len(piece) < size:
            raise ProtocolError("a ClientHello that ends in the middle of a field")
        self._position += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> _Fields:
        return _Fields(self.take(self.number(length_size)))


def _parse(body: bytes) -> ClientHello:
    fields = _Fields(body)
    fields.take(2 + 32)  # legacy version, random
    fields.vector(1)  # legacy session id
    fields.vector(2)  # cipher suites
    fields.vector(1)  # legacy compression methods
    protocols: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    extensions = fields.vector(2) if fields.rest_size else _Fields(b"")
    while extensions.rest_size:
        kind = extensions.number(2)
        extension = extensions.vector(2)
        if kind == _ALPN:
            protocols = _protocols(extension.vector(2))
        elif kind == _SUPPORTED_VERSIONS:
            versions = _versions(extension.vector(1))
    return ClientHello(protocols, versions)


def _protocols(names: _Fields) -> tuple[bytes, ...]:
    found = []
    while names.rest_size:
        found.append(names.take(names.number(1)))
    return tuple(found)


def _versions(numbers: _Fields) -> tuple[int, ...]:
    found = []
    while numbers.rest_size:
        found.append(numbers.number(2))
    return tuple(found)
