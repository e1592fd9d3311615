"""Kinds 0x02xx: SWIM membership. Who sends is known from the link, so no message says it again.

A member is (name, disk uuid): a node whose disk was emptied is a new member of the same name.
See `docs/wire_format.md`; the rules are in `loghouse/gossip/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, PrefixedArray, Struct

from loghouse.limits import (
    ADDRESS_SIZE_MAX,
    GOSSIP_BROADCASTS_MAX,
    GOSSIP_MEMBERS_MAX,
    GOSSIP_SIZE_MAX,
    NAME_SIZE_MAX,
    PUSH_PULL_SIZE_MAX,
    TAGS_MAX,
)
from loghouse.protocol.message import LONG_TEXT, SHORT_TEXT, Message, check_name, check_text


class Liveness(IntEnum):
    """What is said of a member. ONLY APPEND TO THIS LIST."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


LIVENESS_TEXTS: Final[Mapping[Liveness | None, str]] = MappingProxyType(
    {
        Liveness.ALIVE: "alive",
        Liveness.SUSPECT: "suspect",
        Liveness.DEAD: "dead",
        Liveness.LEFT: "left",
        None: "",
    }
)
"""How gRPC's messages say what gossip says of a node; None is a node that gossip never saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Something said of a member: its `liveness` at `incarnation`; an accusation names its `accuser`.

    Addresses, versions and tags are the member's own words; they count only with ALIVE.
    """

    liveness: Liveness
    name: str
    disk_uuid: bytes
    incarnation: int
    accuser: str = ""
    address: str = ""
    grpc_address: str = ""
    version_min: int = 0
    version_max: int = 0
    tags: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        check_name("node", self.name)
        check_name("accuser", self.accuser, empty=self.liveness in (Liveness.ALIVE, Liveness.LEFT))
        check_text("address", self.address, ADDRESS_SIZE_MAX)
        check_text("address", self.grpc_address, ADDRESS_SIZE_MAX)
        if len(self.tags) > TAGS_MAX:
            raise ValueError(f"more than {TAGS_MAX} tags")
        for tag in self.tags:
            check_text("tag", tag, NAME_SIZE_MAX)


STATEMENT_WIRE: Final = Struct(
    "liveness" / Int8ub,
    "name" / SHORT_TEXT,
    "disk_uuid" / Bytes(16),
    "incarnation" / Int64ub,
    "accuser" / SHORT_TEXT,
    "address" / LONG_TEXT,
    "grpc_address" / LONG_TEXT,
    "version_min" / Int16ub,
    "version_max" / Int16ub,
    "tags" / PrefixedArray(Int8ub, SHORT_TEXT),
)


def statement_size(statement: Statement) -> int:
    """Return how many bytes a statement takes on the wire."""
    texts = (statement.name, statement.accuser, *statement.tags)
    addresses = (statement.address, statement.grpc_address)
    fixed = 1 + 16 + 8 + 2 + 2 + 1  # liveness, disk_uuid, incarnation, versions, number of tags
    return fixed + sum(1 + len(text.encode()) for text in texts) + sum(2 + len(a.encode()) for a in addresses)


def _statement_values(statement: Statement) -> dict[str, Any]:
    return {
        "liveness": int(statement.liveness),
        "name": statement.name,
        "disk_uuid": statement.disk_uuid,
        "incarnation": statement.incarnation,
        "accuser": statement.accuser,
        "address": statement.address,
        "grpc_address": statement.grpc_address,
        "version_min": statement.version_min,
        "version_max": statement.version_max,
        "tags": list(statement.tags),
    }


def _statements(parsed: list[Mapping[str, Any]]) -> tuple[Statement, ...]:
    return tuple(
        Statement(
            liveness=Liveness(item["liveness"]),
            name=item["name"],
            disk_uuid=item["disk_uuid"],
            incarnation=item["incarnation"],
            accuser=item["accuser"],
            address=item["address"],
            grpc_address=item["grpc_address"],
            version_min=item["version_min"],
            version_max=item["version_max"],
            tags=tuple(item["tags"]),
        )
        for item in parsed
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Carrier(Message):
    """A probe message: a sequence number that ties answers to questions, and broadcasts on its back."""

    sequence: int
    broadcasts: tuple[Statement, ...] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if len(self.broadcasts) > GOSSIP_BROADCASTS_MAX:
            raise ValueError(f"more than {GOSSIP_BROADCASTS_MAX} broadcasts")
        for statement in self.broadcasts:
            statement.check()

    def _values(self) -> dict[str, Any]:
        values = Message._values(self)
        values["broadcasts"] = [_statement_values(statement) for statement in self.broadcasts]
        return values

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        values = {name: value for name, value in parsed.items() if not name.startswith("_")}
        values["broadcasts"] = _statements(parsed["broadcasts"])
        return cls(**values)


_BROADCASTS: Final = "broadcasts" / PrefixedArray(Int8ub, STATEMENT_WIRE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimPing(_Carrier):
    """Are you alive? `name` and `disk_uuid` are who is meant: another member at that address must not ack."""

    KIND: ClassVar[int] = 0x0201
    SIZE_MAX: ClassVar[int] = GOSSIP_SIZE_MAX
    WIRE: ClassVar = Struct(
        "sequence" / Int32ub, "name" / SHORT_TEXT, "disk_uuid" / Bytes(16), _BROADCASTS
    ).compile()

    name: str
    disk_uuid: bytes

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        _Carrier.check(self)
        check_name("node", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimPingReq(_Carrier):
    """Ping that member for me, and pass its ack on; send a nack when it stays silent."""

    KIND: ClassVar[int] = 0x0202
    SIZE_MAX: ClassVar[int] = GOSSIP_SIZE_MAX
    WIRE: ClassVar = Struct(
        "sequence" / Int32ub, "name" / SHORT_TEXT, "disk_uuid" / Bytes(16), _BROADCASTS
    ).compile()

    name: str
    disk_uuid: bytes

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        _Carrier.check(self)
        check_name("node", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimAck(_Carrier):
    """The member that `sequence` asked for is alive."""

    KIND: ClassVar[int] = 0x0203
    SIZE_MAX: ClassVar[int] = GOSSIP_SIZE_MAX
    WIRE: ClassVar = Struct("sequence" / Int32ub, _BROADCASTS).compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimNack(_Carrier):
    """I am alive, but the member you asked me to ping did not answer me (Lifeguard)."""

    KIND: ClassVar[int] = 0x0204
    SIZE_MAX: ClassVar[int] = GOSSIP_SIZE_MAX
    WIRE: ClassVar = Struct("sequence" / Int32ub, _BROADCASTS).compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FullView(Message):
    """Everything the sender holds about every member."""

    members: tuple[Statement, ...]

    def check(self) -> None:
        """Raise ValueError when there are too many members or one is beyond what it may be."""
        if len(self.members) > GOSSIP_MEMBERS_MAX:
            raise ValueError(f"more than {GOSSIP_MEMBERS_MAX} members")
        for statement in self.members:
            statement.check()

    def _values(self) -> dict[str, Any]:
        return {"members": [_statement_values(statement) for statement in self.members]}

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        return cls(members=_statements(parsed["members"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPull(_FullView):
    """Here is my whole view, send yours: anti-entropy, and how a node joins."""

    KIND: ClassVar[int] = 0x0205
    SIZE_MAX: ClassVar[int] = PUSH_PULL_SIZE_MAX
    WIRE: ClassVar = Struct("members" / PrefixedArray(Int16ub, STATEMENT_WIRE)).compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPullReply(_FullView):
    """The answer to a PushPull."""

    KIND: ClassVar[int] = 0x0206
    SIZE_MAX: ClassVar[int] = PUSH_PULL_SIZE_MAX
    WIRE: ClassVar = Struct("members" / PrefixedArray(Int16ub, STATEMENT_WIRE)).compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimBroadcast(Message):
    """Statements on their own, when there are more than probes can carry, or one cannot wait (a leave)."""

    KIND: ClassVar[int] = 0x0207
    SIZE_MAX: ClassVar[int] = GOSSIP_SIZE_MAX
    WIRE: ClassVar = Struct("broadcasts" / PrefixedArray(Int8ub, STATEMENT_WIRE)).compile()

    broadcasts: tuple[Statement, ...]

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if not 0 < len(self.broadcasts) <= GOSSIP_BROADCASTS_MAX:
            raise ValueError(f"{len(self.broadcasts)} broadcasts, allowed: 1 to {GOSSIP_BROADCASTS_MAX}")
        for statement in self.broadcasts:
            statement.check()

    def _values(self) -> dict[str, Any]:
        return {"broadcasts": [_statement_values(statement) for statement in self.broadcasts]}

    @classmethod
    def _from_values(cls, parsed: Mapping[str, Any]) -> Self:
        return cls(broadcasts=_statements(parsed["broadcasts"]))


GOSSIP_MESSAGES: Final[tuple[type[Message], ...]] = (
    SwimPing,
    SwimPingReq,
    SwimAck,
    SwimNack,
    PushPull,
    PushPullReply,
    SwimBroadcast,
)
