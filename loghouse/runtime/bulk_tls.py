"""Twisted's TLS transport, with as few calls of OpenSSL as the bytes need.

Twisted gives OpenSSL 16 KiB at a time and passes on every record it gets, each time through a dozen calls; a
frame of a megabyte is 64 times that, on either side. OpenSSL cuts records itself, so here a write is one
call, and so is what a read of the socket brought. Two methods of its class are replaced by ones that do the
same in larger pieces; they use attributes of it that are not public. See ADR 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from loghouse.limits import KIB
from loghouse.protocol.entry import Buffer
from loghouse.runtime.scheduling import Cancellable, Soon
from loghouse.runtime.sockets import write_promptly

GATHERED_SIZE_MAX: Final = 32 * KIB  # of small writes before they leave within a turn: the peer can begin
WRITE_SIZE_MAX: Final = 256 * KIB  # given to OpenSSL at once; as much again holds its records
RECORD_SIZE: Final = 16 * KIB  # what one call of OpenSSL returns at most
HEADER_SIZE: Final = 5  # of a record: type, version, u16 length (RFC 8446, 5.1)
RECORD_OVERHEAD: Final = 256  # a header, a tag and padding take 22 bytes
OTHER_SIZE: Final = 16 * KIB  # what else OpenSSL may have to say: tickets, key updates, an alert


class BulkTlsTransport(BufferingTLSTransport):
    """One TLS connection."""

    _ahead = 0  # how far behind the end of what was received the next record begins
    _head = b""  # what was received of its header
    _whole_count = 0  # how many records the bytes at hand end, when they end with one

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gathering: Any = self._aggregator
        gathering.MAX_BUFFER_SIZE = gathering._bufferLeft = GATHERED_SIZE_MAX

    def write_at_once(self, pieces: Iterable[Buffer]) -> None:
        """Write these bytes, behind what gathered, now and not at the end of this turn of the reactor."""
        self._aggregator.flush()
        TLSMemoryBIOProtocol.write(self, b"".join(pieces))

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of the wire."""
        self._whole_count = self._count_whole(data)
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        self._whole_count = 0

    def _count_whole(self, data: bytes) -> int:
        """Return how many records these bytes end; 0 when they do not end where one does."""
        if self._head:
            data, self._head = self._head + data, b""
        start, size = self._ahead, len(data)
        count = 1 if 0 < start <= size else 0
        while start + HEADER_SIZE <= size:
            start += HEADER_SIZE + (data[start + 3] << 8 | data[start + 4])
            count += 1
        if start < size:
            self._head = data[start:]
        self._ahead = max(0, start - size)
        return count if start == size else 0

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
        write_promptly(self.transport, records)

    def _flushReceiveBIO(self) -> None:
        """Deliver, at once, the application bytes of all records that are whole by now."""
        pieces: list[bytes] = []
        while not self._lostTLSConnection:
            if pieces and len(pieces) == self._whole_count:
                # Nothing is left, and as each was one of the application's, OpenSSL has no answer to give.
                self._deliver(pieces)
                return
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
            data = b"".join(pieces)
            pieces.clear()
            ProtocolWrapper.dataReceived(self, data)


def write_at_once(transport: Any, pieces: Iterable[Buffer]) -> None:
    """Write to a connection now, if it can: who writes says that no more will come in this turn."""
    if isinstance(transport, BulkTlsTransport):
        transport.write_at_once(pieces)
    else:
        transport.write(b"".join(pieces))  # it takes nothing but bytes


class BulkTlsFactory(TLSMemoryBIOFactory):
    """Adds TLS to the connections of another factory.

    Args:
        clock: The reactor.
        soon: A shorter way to the end of this turn than the reactor's timers; small writes gather until then.
    """

    protocol = BulkTlsTransport

    def __init__(
        self,
        contexts: Any,
        is_client: bool,
        wrapped: IProtocolFactory,
        *,
        clock: IReactorTime,
        soon: Soon | None = None,
    ) -> None:
        super().__init__(contexts, is_client, wrapped, cast(IReactorTime, _Turns(soon)) if soon else clock)


class _Turns:
    """As much of a clock as Twisted's gathering of small writes asks for."""

    def __init__(self, soon: Soon) -> None:
        self._soon = soon

    def callLater(self, delay: float, work: Callable[[], None]) -> Cancellable:
        return self._soon(work)
