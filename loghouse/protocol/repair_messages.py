"""Kinds 0x01A0 and 0x01A1: the exact bytes of committed entries, asked of another node and given by it.

A node whose disk damaged them writes the answer in their place. The kinds have the bit that lets older
versions drop them: a node that does not know them does not answer, and another one is asked. See
`docs/wire_format.md`; the rules are in `loghouse/replica/entry_repair.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from construct import GreedyBytes, Int64ub, Struct

from loghouse.limits import CONTROL_SIZE_MAX, ENTRIES_REPLY_SIZE_MAX
from loghouse.protocol.entry import Buffer
from loghouse.protocol.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesRequest(Message):
    """Give me these entries as you have them, if all are committed. Answered by EntriesReply, or not at all.

    `request_id` is the asking node's choice, as in the forwarded requests.
    """

    KIND: ClassVar[int] = 0x01A0
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("request_id" / Int64ub, "first_index" / Int64ub, "last_index" / Int64ub).compile()

    request_id: int
    first_index: int
    last_index: int

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if not 1 <= self.first_index <= self.last_index:
            raise ValueError(f"entries {self.first_index} to {self.last_index}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesReply(Message):
    """Whole entry frames from `first_index` on: as many as fit, at least one; none when it cannot give that.

    What is in `frames` is checked by whoever asked for it, as if it came from its own disk.
    """

    KIND: ClassVar[int] = 0x01A1
    SIZE_MAX: ClassVar[int] = ENTRIES_REPLY_SIZE_MAX
    TAIL: ClassVar[str] = "frames"
    WIRE: ClassVar = Struct("request_id" / Int64ub, "frames" / GreedyBytes).compile()

    request_id: int
    frames: Buffer = b""


REPAIR_MESSAGES: Final[tuple[type[Message], ...]] = (EntriesRequest, EntriesReply)
REPAIR_BULK_KINDS: Final = frozenset((EntriesReply.KIND,))
