"""A gRPC client that begins calls and does not end them: HTTP/2 by hand, over a blocking TLS socket.

No gRPC library sends half a message; an attacker does. Only what that needs is here: headers without
compression of their values, flow control, and frames of the server as they come.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Final

from loghouse.limits import KIB

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
_ACK: Final = 1
_END_HEADERS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW: Final = 65_535
_FRAME: Final = 16 * KIB


def http2_frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def call_headers(path: str) -> bytes:
    """Return an HPACK block that begins a gRPC call: literals that leave no trace in a table."""

    def text(value: str) -> bytes:
        assert len(value) < 127
        return bytes([len(value)]) + value.encode()

    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())


class HalfCalls:
    """One connection with calls that stay open. `ended` are those that the server answered."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, *, source: str = "") -> None:
        """Connect; `context` offers h2."""
        plain = socket.create_connection(address, 20, (source, 0) if source else None)
        self._tls = context.wrap_socket(plain, server_hostname=address[0])
        self._received = b""
        self._next_stream = 1
        self._initial_window = _WINDOW
        self._window = _WINDOW
        self._windows: dict[int, int] = {}
        self.left: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.is_closed = False
        self._send(_PREFACE + http2_frame(SETTINGS, 0, 0))

    def begin(self, path: str, body: bytes = b"") -> int:
        """Begin a call whose message is to be sent by `push`; return its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._windows[stream] = self._initial_window
        if body:
            self.left[stream] = body
        self._send(http2_frame(HEADERS, _END_HEADERS, stream, call_headers(path)))
        return stream

    def endless_headers(self, size: int) -> int:
        """Begin a header block and go on with it for so many bytes; return how many were sent."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._send(http2_frame(HEADERS, 0, stream, call_headers("/x")))
        piece = http2_frame(CONTINUATION, 0, stream, b"\0\1a\1b" * (_FRAME // 5))
        sent = 0
        while sent < size and not self.is_closed:
            self._send(piece)
            sent += len(piece)
        return sent

    def push(self, seconds: float) -> int:
        """Send what the server lets through, for so long or until all is sent; return how many bytes."""
        sent, end = 0, time.monotonic() + seconds
        while self.left and not self.is_closed and time.monotonic() < end:
            step = self._push_once()
            sent += step
            self.listen(0.0 if step else 0.05)
        return sent

    def _push_once(self) -> int:
        sent = 0
        for stream, body in list(self.left.items()):
            size = min(len(body), _FRAME, self._window, self._windows[stream])
            if size > 0:
                self._send(http2_frame(DATA, 0, stream, body[:size]))
                self._window -= size
                self._windows[stream] -= size
                sent += size
                self.left[stream] = body[size:]
                if size == len(body):
                    del self.left[stream]
        return sent

    def listen(self, seconds: float) -> None:
        """Take in what the server says within so many seconds."""
        end = time.monotonic() + seconds
        while not self.is_closed:
            for kind, flags, stream, body in self._frames():
                self._take(kind, flags, stream, body)
            wait = max(0.0, end - time.monotonic())
            if not self._tls.pending() and not select.select([self._tls], [], [], wait)[0]:
                return
            try:
                data = self._tls.recv(64 * KIB)
            except OSError:
                data = b""
            self._received += data
            self.is_closed = not data

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._received) >= 9:
            end = 9 + int.from_bytes(self._received[:3], "big")
            if len(self._received) < end:
                return
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big")
            body, self._received = self._received[9:end], self._received[end:]
            yield kind, flags, stream, body

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == SETTINGS and not flags & _ACK:
            for start in range(0, len(body), 6):
                if int.from_bytes(body[start : start + 2], "big") == _INITIAL_WINDOW_SIZE:
                    self._widen(int.from_bytes(body[start + 2 : start + 6], "big"))
            self._send(http2_frame(SETTINGS, _ACK, 0))
        elif kind == PING and not flags & _ACK:
            self._send(http2_frame(PING, _ACK, 0, body))
        elif kind == WINDOW_UPDATE:
            size = int.from_bytes(body, "big")
            if stream:
                self._windows[stream] += size
            else:
                self._window += size
        elif kind == RST_STREAM or (kind == HEADERS and flags & 1):
            self.ended.add(stream)
            self.left.pop(stream, None)

    def _widen(self, initial: int) -> None:
        for stream in self._windows:
            self._windows[stream] += initial - self._initial_window
        self._initial_window = initial

    def _send(self, data: bytes) -> None:
        try:
            self._tls.sendall(data)
        except OSError:
            self.is_closed = True

    def close(self) -> None:
        """Break the connection off."""
        self._tls.close()
