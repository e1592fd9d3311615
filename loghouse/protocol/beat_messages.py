"""Kind 0x01C0: one beat of a node to another, for all logs that sleep under its lead (ADR 37).

The kind has the bit that lets older versions drop it, and only nodes of `Capability.BEATS` are sent any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from loghouse.limits import BEAT_SIZE_MAX, LOGS_MAX
from loghouse.protocol.entry import Buffer
from loghouse.protocol.fields import U64, Rest, message
from loghouse.protocol.message import Message

_SLEEPING: Final = struct.Struct(">IQQ")


@message(0x01C0, BEAT_SIZE_MAX)
class NodeBeat(Message):
    """The sender is there, and leads logs in which nothing happens, of which the receiver has copies.

    `life` is a random number that the sender chose at its start. `sleeping` has for each of those logs group,
    term and last index (`encode_sleeping`), the groups rising.
    """

    life: U64
    sleeping: Rest = b""

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        size = len(self.sleeping)
        if size % _SLEEPING.size or size > LOGS_MAX * _SLEEPING.size:
            raise ValueError(f"{size} bytes are not logs of {_SLEEPING.size} bytes, at most {LOGS_MAX}")


def encode_sleeping(logs: Iterable[tuple[int, int, int]]) -> bytes:
    """Return logs, given as (group, term, last index) with the groups rising, as a beat has them."""
    return b"".join([_SLEEPING.pack(*log) for log in logs])


def decode_sleeping(sleeping: Buffer) -> dict[int, tuple[int, int]]:
    """Return term and last index of each log in a beat, by group."""
    return {group: (term, index) for group, term, index in _SLEEPING.iter_unpack(sleeping)}
