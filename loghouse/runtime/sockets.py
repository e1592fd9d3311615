"""What Twisted's sockets do well for many small connections, done for few busy ones. See ADR 13."""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection

from loghouse.limits import SOCKET_BUFFER_SIZE


def write_promptly(transport: Any, data: bytes) -> None:
    """Write as `transport.write` does, but without waiting for the reactor to find the socket writable.

    A socket that nothing waits for nearly always takes what it is given. Twisted asks the reactor first: two
    changes of what is polled and a turn of the loop for every message. What the socket does not take at once,
    and every error, is left to Twisted.
    """
    if _is_clear(transport):
        try:
            sent = transport.socket.send(data)
        except OSError:  # full; or broken, which Twisted then finds itself
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)


def _is_clear(transport: Any) -> bool:
    """Whether nothing is on its way out of this socket."""
    return (
        isinstance(transport, Connection)
        and bool(transport.connected)
        and not transport.dataBuffer
        and not transport._tempDataBuffer
        and not transport._writeDisconnected
        and not transport._writeDisconnecting
        and not transport.disconnecting
        and not transport._aborting
    )


def use_large_buffers(transport: Any) -> None:
    """Read more at once, and hold more for a slow peer, than Twisted's 64 KiB.

    A batch of 64 KiB does not quite fit into those: it would come in two reads, the second of a few bytes,
    and would stop its writer for a turn.
    """
    tcp = getattr(transport, "transport", transport)  # TLS has the socket inside
    tcp.bufferSize = SOCKET_BUFFER_SIZE
