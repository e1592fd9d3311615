"""The `struct` twin of a `construct` declaration whose fields all have fixed sizes.

Declarations say what the bytes are; the messages of every append go through the twin, which is made from the
declaration (so it cannot say something else) and takes a tenth of the time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from construct import Bytes, Construct, Flag, FormatField, Renamed


@dataclass(frozen=True, slots=True)
class FixedLayout:
    """Names and packing of the fields, in order.

    `values_of` takes them from a message.
    """

    names: tuple[str, ...]
    packing: struct.Struct
    values_of: Callable[[object], tuple[Any, ...]]

    @property
    def size(self) -> int:
        """Bytes of all fields."""
        return self.packing.size


def fixed_layout(wire: Construct, tail: str = "") -> FixedLayout | None:
    """Return the twin of a compiled declaration but for its field `tail`; None when it has other fields."""
    names: list[str] = []
    codes: list[str] = []
    for field in wire.defersubcon.subcons:  # what the compiled construct was made from
        if field.name == tail:
            continue
        code = _code_of(field)
        if code is None:
            return None
        names.append(field.name)
        codes.append(code)
    # Of two names or more, an attrgetter makes a tuple.
    getter: Any = attrgetter(*names) if len(names) > 1 else lambda one: tuple(getattr(one, n) for n in names)
    return FixedLayout(tuple(names), struct.Struct(">" + "".join(codes)), getter)


def _code_of(field: Any) -> str | None:
    subcon = field.subcon if isinstance(field, Renamed) else None
    if isinstance(subcon, FormatField) and subcon.fmtstr.startswith(">"):
        return str(subcon.fmtstr[1:])
    if subcon is Flag:
        return "?"
    if isinstance(subcon, Bytes) and isinstance(subcon.length, int):
        return f"{subcon.length}s"
    return None
