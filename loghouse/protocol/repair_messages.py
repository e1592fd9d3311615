"""Kinds 0x01A0 and 0x01A1: the exact bytes of committed entries, asked of another node and given by it.

A node whose disk damaged them writes the answer in their place. The kinds have the bit that lets older
versions drop them: a node that does not know them does not answer, and another one is asked. See
`docs/wire_format.md`; the rules are in `loghouse/replica/entry_repair.py`.
"""

from __future__ import annotations

from typing import Final

from loghouse.limits import ENTRIES_REPLY_SIZE_MAX
from loghouse.protocol.fields import U64, Rest, message
from loghouse.protocol.message import Message


@message(0x01A0)
class EntriesRequest(Message):
    """Give me these entries as you have them, if all are committed. Answered by EntriesReply, or not at all.

    `request_id` is the asking node's choice, as in the forwarded requests.
    """

    request_id: U64
    first_index: U64
    last_index: U64

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if not 1 <= self.first_index <= self.last_index:
            raise ValueError(f"entries {self.first_index} to {self.last_index}")


@message(0x01A1, ENTRIES_REPLY_SIZE_MAX)
class EntriesReply(Message):
    """Whole entry frames from `first_index` on: as many as fit, at least one; none when it cannot give that.

    What is in `frames` is checked by whoever asked for it, as if it came from its own disk.
    """

    request_id: U64
    frames: Rest = b""


REPAIR_BULK_KINDS: Final = frozenset((EntriesReply.KIND,))
