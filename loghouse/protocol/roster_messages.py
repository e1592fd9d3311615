"""Kinds 0x0190 and 0x0191: who is a member, asked of a member by a node whose own log cannot tell yet.

A node that joins, or was away while members changed, is spoken to by nodes that it does not know. It believes
them when a member that it knows, or a node at an address of its settings, names them. The kinds have the bit
that lets older versions drop them. See `docs/wire_format.md`; the rules are in `loghouse/cluster/roster.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from construct import Bytes, Int8ub, Int32ub, Int64ub, PrefixedArray, Struct

from loghouse.limits import CONTROL_SIZE_MAX, MEMBERS_MAX
from loghouse.protocol.message import SHORT_TEXT, Message, check_name

UUID_SIZE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterRequest(Message):
    """Who is a member? Answered by RosterReply, or not at all."""

    KIND: ClassVar[int] = 0x0190
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct("request_id" / Int64ub).compile()

    request_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntry:
    """A member: its id, and the node that it is."""

    id: int
    name: str
    disk_uuid: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterReply(Message):
    """The members of the configuration at `index`, the latest in the log of who answers, committed or not."""

    KIND: ClassVar[int] = 0x0191
    SIZE_MAX: ClassVar[int] = CONTROL_SIZE_MAX
    WIRE: ClassVar = Struct(
        "request_id" / Int64ub,
        "index" / Int64ub,
        "members"
        / PrefixedArray(Int8ub, Struct("id" / Int32ub, "name" / SHORT_TEXT, "disk_uuid" / Bytes(UUID_SIZE))),
    ).compile()

    request_id: int
    index: int
    members: tuple[RosterEntry, ...] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if len(self.members) > MEMBERS_MAX:
            raise ValueError(f"{len(self.members)} members, at most {MEMBERS_MAX}")
        for member in self.members:
            check_name("node", member.name)
            if len(member.disk_uuid) != UUID_SIZE:
                raise ValueError("truncated in a disk's uuid")

    def _values(self) -> dict[str, Any]:
        values = Message._values(self)
        values["members"] = [
            {"id": member.id, "name": member.name, "disk_uuid": member.disk_uuid} for member in self.members
        ]
        return values

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        return cls(
            request_id=parsed["request_id"],
            index=parsed["index"],
            members=tuple(
                RosterEntry(id=item["id"], name=item["name"], disk_uuid=bytes(item["disk_uuid"]))
                for item in parsed["members"]
            ),
        )


ROSTER_MESSAGES: Final[tuple[type[Message], ...]] = (RosterRequest, RosterReply)
