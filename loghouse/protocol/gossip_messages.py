"""Kinds 0x02xx: SWIM membership. Who sends is known from the link, so no message says it again.

A member is (name, disk uuid): a node whose disk was emptied is a new member of the same name.
See `docs/wire_format.md`; the rules are in `loghouse/gossip/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Annotated, Final

from construct import Int8ub

from loghouse.limits import (
    ADDRESS_SIZE_MAX,
    GOSSIP_BROADCASTS_MAX,
    GOSSIP_MEMBERS_MAX,
    GOSSIP_SIZE_MAX,
    NAME_SIZE_MAX,
    PUSH_PULL_SIZE_MAX,
    TAGS_MAX,
)
from loghouse.protocol.fields import U16, U32, U64, Items8, Items16, LongText, ShortText, Uuid, message
from loghouse.protocol.message import Message, check_name, check_text


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

    liveness: Annotated[Liveness, Int8ub]
    name: ShortText
    disk_uuid: Uuid
    incarnation: U64
    accuser: ShortText = ""
    address: LongText = ""
    grpc_address: LongText = ""
    version_min: U16 = 0
    version_max: U16 = 0
    tags: Items8[ShortText] = ()

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


def statement_size(statement: Statement) -> int:
    """Return how many bytes a statement takes on the wire."""
    texts = (statement.name, statement.accuser, *statement.tags)
    addresses = (statement.address, statement.grpc_address)
    fixed = 1 + 16 + 8 + 2 + 2 + 1  # liveness, disk_uuid, incarnation, versions, number of tags
    return fixed + sum(1 + len(text.encode()) for text in texts) + sum(2 + len(a.encode()) for a in addresses)


class _Carrier(Message):
    """A message with broadcasts."""

    __slots__ = ()

    broadcasts: Items8[Statement]

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if len(self.broadcasts) > GOSSIP_BROADCASTS_MAX:
            raise ValueError(f"more than {GOSSIP_BROADCASTS_MAX} broadcasts")
        for statement in self.broadcasts:
            statement.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe(_Carrier):
    """Ask after the member (`name`, `disk_uuid`); the answer has the same `sequence`."""

    sequence: U32
    name: ShortText
    disk_uuid: Uuid
    broadcasts: Items8[Statement] = ()

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        _Carrier.check(self)
        check_name("node", self.name)


@message(0x0201, GOSSIP_SIZE_MAX)
class SwimPing(_Probe):
    """Are you alive? `name` and `disk_uuid` are who is meant: another member at that address must not ack."""


@message(0x0202, GOSSIP_SIZE_MAX)
class SwimPingReq(_Probe):
    """Ping that member for me, and pass its ack on; send a nack when it stays silent."""


@message(0x0203, GOSSIP_SIZE_MAX)
class SwimAck(_Carrier):
    """The member that `sequence` asked for is alive."""

    sequence: U32
    broadcasts: Items8[Statement] = ()


@message(0x0204, GOSSIP_SIZE_MAX)
class SwimNack(_Carrier):
    """I am alive, but the member you asked me to ping did not answer me (Lifeguard)."""

    sequence: U32
    broadcasts: Items8[Statement] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FullView(Message):
    """Everything the sender holds about every member."""

    members: Items16[Statement]

    def check(self) -> None:
        """Raise ValueError when there are too many members or one is beyond what it may be."""
        if len(self.members) > GOSSIP_MEMBERS_MAX:
            raise ValueError(f"more than {GOSSIP_MEMBERS_MAX} members")
        for statement in self.members:
            statement.check()


@message(0x0205, PUSH_PULL_SIZE_MAX)
class PushPull(_FullView):
    """Here is my whole view, send yours: anti-entropy, and how a node joins."""


@message(0x0206, PUSH_PULL_SIZE_MAX)
class PushPullReply(_FullView):
    """The answer to a PushPull."""


@message(0x0207, GOSSIP_SIZE_MAX)
class SwimBroadcast(_Carrier):
    """Statements on their own, when there are more than probes can carry, or one cannot wait (a leave)."""

    broadcasts: Items8[Statement]

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if not 0 < len(self.broadcasts) <= GOSSIP_BROADCASTS_MAX:
            raise ValueError(f"{len(self.broadcasts)} broadcasts, allowed: 1 to {GOSSIP_BROADCASTS_MAX}")
        _Carrier.check(self)
