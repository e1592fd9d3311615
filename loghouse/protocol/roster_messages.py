"""Kinds 0x0190 and 0x0191: who is a member, asked of a member by a node whose own log cannot tell yet.

A node that joins, or was away while members changed, is spoken to by nodes that it does not know. It believes
them when a member that it knows, or a node at an address of its settings, names them. The kinds have the bit
that lets older versions drop them. See `docs/wire_format.md`; the rules are in `loghouse/cluster/roster.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from loghouse.limits import MEMBERS_MAX, UUID_SIZE
from loghouse.protocol.fields import U32, U64, Items8, ShortText, Uuid, message
from loghouse.protocol.message import Message, check_name


@message(0x0190)
class RosterRequest(Message):
    """Who is a member? Answered by RosterReply, or not at all."""

    request_id: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntry:
    """A member: its id, and the node that it is."""

    id: U32
    name: ShortText
    disk_uuid: Uuid


@message(0x0191)
class RosterReply(Message):
    """The members of the configuration at `index`, the latest in the log of who answers, committed or not."""

    request_id: U64
    index: U64
    members: Items8[RosterEntry] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if len(self.members) > MEMBERS_MAX:
            raise ValueError(f"{len(self.members)} members, at most {MEMBERS_MAX}")
        for member in self.members:
            check_name("node", member.name)
            if len(member.disk_uuid) != UUID_SIZE:
                raise ValueError("truncated in a disk's uuid")
