"""What every message of the wire has in common: a kind, a size cap, a declared layout, one encoding.

A message is a dataclass that nobody changes; its `WIRE` is the compiled `construct` declaration of its body,
made from its fields (`fields.py`). A value has exactly one encoding, and only that one is accepted: a body
that parses but would be encoded differently (a short string, bytes left over) is malformed.
`docs/wire_format.md` has the same in words.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from construct import Construct, ConstructError

from loghouse.errors import MalformedMessageError
from loghouse.limits import CONTROL_SIZE_MAX, NAME_SIZE_MAX, UUID_SIZE
from loghouse.protocol.entry import Buffer
from loghouse.protocol.fields import Reader, plain
from loghouse.protocol.layout import FixedLayout, fixed_layout

NO_UUID: Final = bytes(UUID_SIZE)

_NAME: Final = re.compile(rf"[a-z0-9](?:[a-z0-9-]{{0,{NAME_SIZE_MAX - 2}}}[a-z0-9])?")


class Message:
    """Base of every message.

    `KIND` is its number in the frame header (append-only, never reused). `SIZE_MAX` bounds its body in
    bytes and is checked before the body is buffered. When `TAIL` names a field, that field is the rest of
    the body: it is never copied, and decoded it is a view. When `EXTENSIBLE`, bytes behind the known fields
    are ignored, so that later versions can append fields.
    """

    __slots__ = ()

    KIND: ClassVar[int]
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar[Construct]
    READERS: ClassVar[Mapping[str, Reader]]
    TAIL: ClassVar[str] = ""
    EXTENSIBLE: ClassVar[bool] = False

    def encode(self) -> tuple[Buffer, ...]:
        """Return the body in pieces, to be written one behind the other."""
        layout = layout_of(type(self))
        if layout is not None:
            head = layout.packing.pack(*self._fixed(layout))
            return (head, getattr(self, self.TAIL)) if self.TAIL else (head,)
        values = self._values()
        if not self.TAIL:
            return (bytes(self.WIRE.build(values)),)
        tail: Buffer = values[self.TAIL]
        values[self.TAIL] = b""
        return (bytes(self.WIRE.build(values)), tail)

    @classmethod
    def decode(cls, body: Buffer) -> Self:
        """Return the message that `body` is.

        Raises:
            MalformedMessageError: It is not this message, or not in its one encoding.
        """
        layout = layout_of(cls)
        if layout is not None and len(body) != layout.size and (len(body) < layout.size or not cls.TAIL):
            raise MalformedMessageError(f"{cls.__name__}: {len(body)} bytes, expected {layout.size}")
        try:
            if layout is None:
                message = cls._from_values(cls.WIRE.parse(body))
                message.check()
                _check_canonical(message, body)
                return message
            # The bulk is a view of the body: it is only passed on, so nobody needs a copy.
            tail = memoryview(body)[layout.size :] if cls.TAIL else b""
            message = cls._from_fixed(layout, layout.packing.unpack_from(body), tail)
            message.check()
            return message
        # A compiled construct raises struct.error where an interpreted one raises StreamError.
        except (ConstructError, struct.error, UnicodeError, ValueError, OverflowError) as error:
            raise MalformedMessageError(f"{cls.__name__}: {error}") from error

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""

    def _fixed(self, layout: FixedLayout) -> Iterable[Any]:
        """Return the fields of fixed size, in the order of the layout."""
        return layout.values_of(self)

    @classmethod
    def _from_fixed(cls, layout: FixedLayout, fields: tuple[Any, ...], tail: Buffer) -> Self:
        """Return the message of these fields."""
        parsed = dict(zip(layout.names, fields, strict=True))
        if cls.TAIL:
            parsed[cls.TAIL] = tail
        return cls(**parsed)

    def _values(self) -> dict[str, Any]:
        return {name: plain(getattr(self, name)) for name in self.READERS}

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        return cls(**{name: read(parsed[name]) for name, read in cls.READERS.items()})


def _check_canonical(message: Message, body: Buffer) -> None:
    # The compiled parser reads strings without looking whether the body is long enough, so this is
    # also what finds a truncated body.
    encoded, *tail = message.encode()
    # A tail is the rest of the body as it came: its length says all, comparing megabytes nothing more.
    size = len(encoded) + sum(map(len, tail))
    is_whole = len(body) >= size if message.EXTENSIBLE else len(body) == size
    if not is_whole or encoded != body[: len(encoded)]:
        raise ValueError("truncated, or not in its one encoding")


_LAYOUTS: Final[dict[type[Message], FixedLayout | None]] = {}


def layout_of(cls: type[Message]) -> FixedLayout | None:
    """Return how a body is packed but for its tail, or None when its size depends on the values."""
    if cls not in _LAYOUTS:
        _LAYOUTS[cls] = None if cls.EXTENSIBLE else fixed_layout(cls.WIRE, cls.TAIL)
    return _LAYOUTS[cls]


def check_name(what: str, name: str, *, empty: bool = False) -> None:
    """Raise ValueError unless `name` can name a node, a cluster or a log.

    A DNS label in lower case: nothing that could break a log line, a path or a certificate's URI.
    """
    if empty and not name:
        return
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} is not 1 to {NAME_SIZE_MAX} of a-z, 0-9 and -, no - at either end")


def check_text(what: str, text: str, size_max: int) -> None:
    """Raise ValueError unless `text` is printable and at most `size_max` bytes long."""
    if len(text.encode()) > size_max:
        raise ValueError(f"{what} has more than {size_max} bytes")
    if not text.isprintable():
        raise ValueError(f"{what} holds unprintable characters")


class RequestIds:
    """Numbers of requests, 64 bits, from a random first one: no answer from before a restart fits."""

    __slots__ = ("following",)

    def __init__(self, first: int) -> None:
        self.following = first  # what `take` returns next

    def take(self) -> int:
        """Return the next number."""
        taken, self.following = self.following, (self.following + 1) % 2**64
        return taken
