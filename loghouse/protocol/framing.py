"""Frames on a link: header and body, cut out of a byte stream. Nothing is buffered that may not come.

The header is declared once (`WIRE`); `HEADER` is its `struct` twin for the hot path, held equal by a
property test. See `docs/wire_format.md`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from construct import Int16ub, Int32ub, Struct

from loghouse.errors import FrameTooLargeError, ProtocolError
from loghouse.limits import KIB, LINK_HEADER_SIZE
from loghouse.protocol.entry import Buffer

# Bits 0-7: a receiver that does not know a set one must close the link. Bits 8-15: it ignores them.
FLAGS_CRITICAL: Final = 0x00FF
FLAGS_KNOWN: Final = 0x0000

ROOM_SIZE: Final = 16 * KIB  # what one TLS record holds

WIRE: Final = Struct(
    "length" / Int32ub,
    "kind" / Int16ub,
    "flags" / Int16ub,
    "group" / Int32ub,
    "stream" / Int32ub,
).compile()

HEADER: Final = struct.Struct(">IHHII")
assert HEADER.size == LINK_HEADER_SIZE


class Frame(NamedTuple):
    """One frame: `kind` says what `body` is, `group` which log, `stream` which request (0: the link)."""

    kind: int
    flags: int
    group: int
    stream: int
    body: Buffer


def pack_header(length: int, kind: int, *, flags: int = 0, group: int = 0, stream: int = 0) -> bytes:
    """Return the header of a frame whose body has `length` bytes."""
    return HEADER.pack(length, kind, flags, group, stream)


class FrameBuffer:
    """Cut frames out of received bytes, however these are split.

    `size_max` gives the largest allowed body of a kind in bytes and may raise ProtocolError for a kind
    that may not come at all. It is asked as soon as a header is there; the answer may change between frames.
    Whoever is given to `ask` is asked once about each frame whose body is not here yet.
    """

    __slots__ = ("_ignored", "_large", "_large_filled", "_needed", "_received", "_room", "_takes", "size_max")

    def __init__(self, size_max: Callable[[int], int]) -> None:
        self.size_max = size_max
        self._takes: Callable[[int, int, int, int], bool] | None = None
        self._ignored = 0  # bytes still to come of a body that is not taken
        self._received = bytearray()
        self._needed = LINK_HEADER_SIZE  # bytes from which on something new can be said
        self._room: memoryview | None = None
        # A frame that is received where it stays, once its size is known.
        self._large: memoryview | None = None
        self._large_filled = 0

    @property
    def pending_size(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return self._large_filled or len(self._received) or self._ignored

    @property
    def awaited_size(self) -> int:
        """Bytes of the incomplete frame when it will be whole, as far as they are known."""
        return self._needed + self._ignored

    def ask(self, takes: Callable[[int, int, int, int], bool]) -> None:
        """Ask `takes` (of kind, length, group, stream) from now on, at once if a body is awaited already.

        When it says no, no byte of that body is kept, and the frame never comes out.
        """
        self._takes = takes
        received = self._received
        if self._needed > LINK_HEADER_SIZE and self._large is None:
            length, kind, _, group, stream = HEADER.unpack_from(received)
            if not takes(kind, length, group, stream):
                self._ignored = self._needed - len(received)
                self._needed = LINK_HEADER_SIZE
                received.clear()

    def feed(self, data: Buffer) -> Iterable[Frame]:
        """Add received bytes and return every frame now complete. Exhaust it before the next call.

        Raises (while it is exhausted):
            FrameTooLargeError: A header announces more than its kind may have.
            ProtocolError: A flag that must be understood is not known.
        """
        if self._ignored:
            ignored = min(self._ignored, len(data))
            self._ignored -= ignored
            data = data[ignored:]
        self._received += data
        # Most reads of a large frame end here.
        return self._cut() if len(self._received) >= self._needed else ()

    def room(self) -> memoryview:
        """Return where to receive the next bytes, for `fill`: those of a large frame, where they stay."""
        if self._large is not None:
            return self._large[self._large_filled :]
        received = self._received
        if self._needed > len(received) + ROOM_SIZE:  # a header is there, and its size is allowed
            self._large, self._large_filled = memoryview(bytearray(self._needed)), len(received)
            self._large[: len(received)] = received
            self._received = bytearray()
            return self._large[self._large_filled :]
        if self._room is None:
            self._room = memoryview(bytearray(ROOM_SIZE))
        return self._room

    def fill(self, size: int) -> Iterable[Frame]:
        """As `feed`, with so many bytes received into `room()`; a large frame's body is not copied."""
        large = self._large
        if large is None:
            assert self._room is not None
            return self.feed(self._room[:size])
        self._large_filled += size
        if self._large_filled < len(large):
            return ()
        self._large, self._large_filled, self._needed = None, 0, LINK_HEADER_SIZE
        _, kind, flags, group, stream = HEADER.unpack_from(large)
        return (Frame(kind, flags, group, stream, large[LINK_HEADER_SIZE:].toreadonly()),)

    def _cut(self) -> Iterator[Frame]:
        received = self._received
        position = 0
        needed = LINK_HEADER_SIZE
        unpack, new = HEADER.unpack_from, tuple.__new__  # a named tuple's own is Python
        try:
            while len(received) - position >= LINK_HEADER_SIZE:
                length, kind, flags, group, stream = unpack(received, position)
                size_max = self.size_max(kind)
                if length > size_max:
                    raise FrameTooLargeError(kind, length, size_max)
                if flags & FLAGS_CRITICAL & ~FLAGS_KNOWN:
                    raise ProtocolError(f"frame kind {kind:#06x} has unknown critical flags {flags:#06x}")
                start = position + LINK_HEADER_SIZE
                end = start + length
                if end > len(received):
                    # Here once for each such frame: the next time its body is here, too.
                    if self._takes is not None and not self._takes(kind, length, group, stream):
                        self._ignored = end - len(received)
                        position = len(received)
                        break
                    needed = LINK_HEADER_SIZE + length
                    break
                position = end
                # The view is gone at once: a bytearray with a live view cannot grow.
                body = bytes(memoryview(received)[start:end])
                yield new(Frame, (kind, flags, group, stream, body))
        finally:
            self._needed = needed
            del received[:position]  # once a read, in place
