"""What is measured: appends of one size, so many in flight; reads; how long a leader's death is felt."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from loghouse.limits import KIB, MIB

if TYPE_CHECKING:
    from bench.compare.peer import Peer

_APPEND = re.compile(r"([0-9]+)(b|k)([0-9]+)(?:@([0-9]+)m)?")
_READ = re.compile(r"read-([0-9]+)(b|k)")
_ROUND_SIZE = 64 * MIB
_READ_COUNT_MAX = 32_768
FILL_SIZE = 64 * KIB
LOG = "compare"


class Shape(ABC):
    """One kind of load. Users type its `name` and read its `title`."""

    kind: ClassVar[str]
    has_cost: ClassVar[bool] = True  # the servers' processor time for a record means something

    @property
    @abstractmethod
    def name(self) -> str:
        """As users type it."""

    @property
    @abstractmethod
    def title(self) -> str:
        """As users read it."""

    @abstractmethod
    def prepare(self, peer: Peer) -> None:
        """Do what comes once, before all rounds of a system."""

    @abstractmethod
    def run(self, peer: Peer) -> dict[str, float]:
        """Do one round; `records` says how many it were."""


@dataclass(frozen=True, slots=True)
class Append(Shape):
    """`size` bytes in a record, `window` records in flight, and `log_mib` in the log before: `1k64@512m`."""

    size: int
    window: int
    log_mib: int = 0

    kind = "append"

    @property
    def name(self) -> str:
        log = f"@{self.log_mib}m" if self.log_mib else ""
        return f"{_short(self.size)}{self.window}{log}"

    @property
    def title(self) -> str:
        log = f", {self.log_mib} MiB in the log" if self.log_mib else ""
        return f"{_long(self.size)} x {self.window}{log}"

    @property
    def count(self) -> int:
        """Records of a round: some seconds' worth, and never more than 64 MiB of them."""
        return max(200, min(8000, 800 + 110 * self.window, _ROUND_SIZE // self.size))

    def prepare(self, peer: Peer) -> None:
        if self.log_mib:
            peer.client("fill", LOG, FILL_SIZE, self.log_mib * MIB // FILL_SIZE)
        peer.append(self)  # what is cold is warm now

    def run(self, peer: Peer) -> dict[str, float]:
        return {**peer.append(self), "records": self.count}


@dataclass(frozen=True, slots=True)
class Read(Shape):
    """Records of `size` bytes from the start of a log, in bulk and one by one."""

    size: int

    kind = "read"

    @property
    def name(self) -> str:
        return f"read-{_short(self.size)}"

    @property
    def title(self) -> str:
        return _long(self.size)

    @property
    def count(self) -> int:
        """Records of a pass: 64 MiB at most."""
        return min(_READ_COUNT_MAX, _ROUND_SIZE // self.size)

    def prepare(self, peer: Peer) -> None:
        peer.client("make", self.name)
        peer.client("fill", self.name, self.size, self.count)
        self.run(peer)

    def run(self, peer: Peer) -> dict[str, float]:
        return peer.client("read", self.name, self.size, self.count)


@dataclass(frozen=True, slots=True)
class Failover(Shape):
    """The leader is killed (`kill -9`) under a client that appends one record after the other."""

    kind = "failover"
    has_cost = False

    @property
    def name(self) -> str:
        return "failover"

    @property
    def title(self) -> str:
        return "kill -9 of the leader"

    def prepare(self, peer: Peer) -> None:
        """Each leader dies once."""

    def run(self, peer: Peer) -> dict[str, float]:
        leader = str(peer.client("leader", LOG)["leader"])
        found = peer.client("gap", LOG, peer.pid_of(leader))
        peer.mend()
        return found


def _short(size: int) -> str:
    return f"{size // KIB}k" if size % KIB == 0 else f"{size}b"


def _long(size: int) -> str:
    return f"{size // KIB} KiB" if size % KIB == 0 else f"{size} B"


def shape_of(name: str) -> Shape:
    """Return the shape of a name.

    Raises:
        ValueError: It is none.
    """
    if name == "failover":
        return Failover()
    if found := _READ.fullmatch(name):
        if int(found[1]):
            return Read(_size(*found.groups()))
    elif (found := _APPEND.fullmatch(name)) and int(found[1]) and int(found[3]):
        return Append(_size(found[1], found[2]), int(found[3]), int(found[4] or 0))
    raise ValueError(
        f"no shape: {name!r}; write size and records in flight, as in 1k64 or 100b1, with 1k64@512m into a "
        "log of 512 MiB, read-1k, or failover"
    )


def _size(number: str, unit: str) -> int:
    return int(number) * (KIB if unit == "k" else 1)


# At 1 KiB against the records in flight; with 16 of them against the size; then what changes the nodes.
_NAMES = ("1k1", "1k4", "1k16", "1k64", "1k256", "100b16", "16k16", "64k16")
_NAMES += ("read-1k", "read-64k", "1k64@512m", "failover")
SHAPES = tuple(map(shape_of, _NAMES))
