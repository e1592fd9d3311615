"""Kinds 0x01Bx: which node leads which log, and reads that are passed on to a node that has a copy.

A node that has no copy of a log asks one that has. The frame's group says which log. Answers come on the
other link of the two nodes, as those of the forwarded requests do, and what fails is told by ForwardFailure.
The kinds have the bit that lets older versions drop them, and only nodes of `Capability.MANY_LOGS` are sent
any. See `docs/wire_format.md`; the rules are in `node/forwarded_reads.py` and `node/leaders.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loghouse.limits import FETCH_REPLY_SIZE_MAX, LEADS_SIZE_MAX, LOGS_MAX
from loghouse.protocol.fields import U32, U64, Items16, Rest, message
from loghouse.protocol.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """A group that the sender leads, and in which term."""

    group: U32
    term: U64


@message(0x01B0, LEADS_SIZE_MAX)
class Leads(Message):
    """All the groups that the sender leads and that not every member of the cluster is a member of.

    What an earlier message named and this one does not, the sender leads no more.
    """

    leads: Items16[Lead] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if len(self.leads) > LOGS_MAX:
            raise ValueError(f"{len(self.leads)} groups, at most {LOGS_MAX}")
        for lead in self.leads:
            if not lead.group or not lead.term:
                raise ValueError(f"leads group {lead.group} in term {lead.term}")


@message(0x01B1)
class ForwardRead(Message):
    """Read entry frames as Fetch does: from the one that holds `offset`, else at most `size_max` bytes.

    Answered by ForwardFrames or ForwardFailure, out of the receiver's own copy: it never passes it on.
    """

    request_id: U64
    offset: U64
    size_max: U32


@message(0x01B2, FETCH_REPLY_SIZE_MAX)
class ForwardFrames(Message):
    """Whole entry frames, of all kinds; go on at `next_offset`."""

    request_id: U64
    next_offset: U64
    frames: Rest


@message(0x01B3)
class ForwardWait(Message):
    """Tell when the record at `offset` is readable. Of one node, in a group, only the last is answered."""

    request_id: U64
    offset: U64


@message(0x01B4)
class ForwardWaitReply(Message):
    """Every record below `next_offset` is readable: after a while also when what was waited for is not."""

    request_id: U64
    next_offset: U64


@message(0x01B5)
class ForwardBounds(Message):
    """Ask for the readable range, confirmed by the leader."""

    request_id: U64


@message(0x01B6)
class ForwardBoundsReply(Message):
    """The lowest readable offset, and the next to be given out; equal: no records."""

    request_id: U64
    lowest: U64
    next_offset: U64


@message(0x01B7)
class ForwardFindOffset(Message):
    """Ask for the first offset appended at or after `timestamp`, in microseconds since the epoch."""

    request_id: U64
    timestamp: U64


@message(0x01B8)
class ForwardFindOffsetReply(Message):
    """That offset and when it was appended; the next offset and 0 when nothing is that young."""

    request_id: U64
    offset: U64
    timestamp: U64


ROUTING_BULK_KINDS: Final = frozenset((ForwardFrames.KIND,))
ROUTING_KINDS: Final = frozenset(
    one.KIND
    for one in (
        Leads,
        ForwardRead,
        ForwardFrames,
        ForwardWait,
        ForwardWaitReply,
        ForwardBounds,
        ForwardBoundsReply,
        ForwardFindOffset,
        ForwardFindOffsetReply,
    )
)
