"""What a client does: records of one size, so many in flight."""

import re
from dataclasses import dataclass

from loghouse.limits import KIB, MIB

_NAME = re.compile(r"([0-9]+)(b|k)([0-9]+)")
_ROUND_SIZE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Shape:
    """`size` bytes in a record, `window` records in flight. Its name says both: `1k64`, `100b1`."""

    size: int
    window: int

    @property
    def name(self) -> str:
        """As users type it."""
        size = f"{self.size // KIB}k" if self.size % KIB == 0 else f"{self.size}b"
        return f"{size}{self.window}"

    @property
    def title(self) -> str:
        """As users read it."""
        size = f"{self.size // KIB} KiB" if self.size % KIB == 0 else f"{self.size} B"
        return f"{size} x {self.window}"

    @property
    def count(self) -> int:
        """Records of a round: some seconds' worth, and never more than 64 MiB of them."""
        return max(200, min(10_000, 1000 + 150 * self.window, _ROUND_SIZE // self.size))


def shape_of(name: str) -> Shape:
    """Return the shape of a name.

    Raises:
        ValueError: It is none.
    """
    found = _NAME.fullmatch(name)
    if found is None or not int(found[1]) or not int(found[3]):
        raise ValueError(f"no shape: {name!r}; write size and records in flight, as in 1k64 or 100b1")
    return Shape(int(found[1]) * (KIB if found[2] == "k" else 1), int(found[3]))


# At 1 KiB against the records in flight; with 16 of them against the size.
_NAMES = ("1k1", "1k4", "1k16", "1k64", "1k256", "100b16", "16k16", "64k16", "256k8", "256k16")
SHAPES = tuple(map(shape_of, _NAMES))
