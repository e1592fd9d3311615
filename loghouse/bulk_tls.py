"""Twisted's TLS transport, with as few calls of OpenSSL as the bytes need.

Twisted gives OpenSSL 16 KiB at a time and passes on every record it gets, each time through a dozen calls; a
frame of a megabyte is 64 times that, on either side. OpenSSL cuts records itself, so here a write is one
call, and so is what a read of the socket brought. Two methods of its class are replaced by ones that do the
same in larger pieces; they use attributes of it that are not public. See ADR 11.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from loghouse.limits import KIB

WRITE_SIZE_MAX: Final = 256 * KIB  # given to OpenSSL at once; as much again holds its records
RECORD_SIZE: Final = 16 * KIB  # what one call of OpenSSL returns at most
RECORD_OVERHEAD: Final = 256  # a header, a tag and padding take 22 bytes
OTHER_SIZE: Final = 16 * KIB  # what else OpenSSL may have to say: tickets, key updates, an alert


class BulkTlsTransport(BufferingTLSTransport):
    """One TLS connection."""

    def _write(self, bytes: bytes) -> None:
        """Encrypt application bytes and write the records; keep what OpenSSL does not take yet."""
        view = memoryview(bytes)
        for sent in range(0, len(bytes), WRITE_SIZE_MAX):
            if self._lostTLSConnection:
                return
            piece = view[sent : sent + WRITE_SIZE_MAX]
            try:
                self._tlsConnection.sendall(piece)
            except WantReadError:
                # The handshake is not done, so nothing of it was taken: what OpenSSL writes to has no end.
                self._bufferedWrite(bytes[sent:])  # type: ignore[no-untyped-call]
                return
            except Error:
                self._tlsShutdownFinished(Failure())  # type: ignore[no-untyped-call]
                return
            records = len(piece) // RECORD_SIZE + 1
            self._pass_on(len(piece) + records * RECORD_OVERHEAD + OTHER_SIZE)

    def _pass_on(self, size_max: int) -> None:
        """Write the records that OpenSSL made."""
        try:
            records = self._tlsConnection.bio_read(size_max)
        except WantReadError:
            return
        transport: Any = self.transport
        transport.write(records)

    def _flushReceiveBIO(self) -> None:
        """Deliver, at once, the application bytes of all records that are whole by now."""
        pieces: list[bytes] = []
        while not self._lostTLSConnection:
            try:
                pieces.append(self._tlsConnection.recv(RECORD_SIZE))
            except WantReadError:
                break
            except ZeroReturnError:
                self._deliver(pieces)
                self._shutdownTLS()  # type: ignore[no-untyped-call]
                self._tlsShutdownFinished(None)  # type: ignore[no-untyped-call]
            except Error:
                failure = Failure()
                self._deliver(pieces)
                self._tlsShutdownFinished(failure)  # type: ignore[no-untyped-call]
        self._deliver(pieces)
        self._flushSendBIO()  # type: ignore[no-untyped-call]

    def _deliver(self, pieces: list[bytes]) -> None:
        if pieces and not self._aborted:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            ProtocolWrapper.dataReceived(self, data)


class BulkTlsFactory(TLSMemoryBIOFactory):
    """Adds TLS to the connections of another factory."""

    protocol = BulkTlsTransport
