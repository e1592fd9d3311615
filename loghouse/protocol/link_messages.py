"""Kinds 0x00xx: what every connection needs. See `docs/wire_format.md`."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import ClassVar, Final

from construct import Bytes, Const, GreedyBytes, Int8ub, Int16ub, Int64ub, Prefixed, Struct

from loghouse.limits import HELLO_SIZE_MAX, TEXT_SIZE_MAX
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.failures import FailureFields
from loghouse.protocol.fields import SHORT_TEXT, U64, LongText, message
from loghouse.protocol.message import NO_UUID, Message, check_name, check_text

ALPN: Final = "loghouse/1"  # the protocol's name in a TLS handshake
MAGIC: Final = b"LGHS"
VERSION_MIN: Final = 1
VERSION_MAX: Final = 1


class LinkRole(IntEnum):
    """What the sender of a Hello is. ONLY APPEND TO THIS LIST."""

    NODE = 1
    CLIENT = 2


class Capability(IntFlag):
    """What the sender of a Hello can do beyond version 1 of the protocol. ONLY APPEND TO THIS LIST."""

    MANY_LOGS = 1
    """A node: it looks at the group of every frame. Only it is sent frames of groups above 1, and routing."""
    BEATS = 2
    """A node: it takes a beat in place of the heartbeats of logs that sleep. Only it is sent any."""
    RANGES = 4
    """A node: it reads a range for another one (`range_messages`). Only it is asked for one."""
    CURSORS = 8
    """A node: as a leader it carries out what is asked about cursors. Only it is sent such requests."""


@message(0x0001, HELLO_SIZE_MAX)
class Hello(Message):
    """The first frame, both ways: who I am and what I speak.

    `cluster_uuid` is zero while the sender belongs to no cluster (a joiner) or, from a client, does not mind
    which. `disk_uuid` and `node_name` are a node's; a client leaves them zero and empty. `entry_kinds` are
    the kinds of entry the sender can store or read. `capabilities` are bits of `Capability`, and of what
    later versions can do. `software` is for people, not for decisions.
    """

    EXTENSIBLE: ClassVar[bool] = True
    WIRE: ClassVar = Struct(
        "magic" / Const(MAGIC),
        "version_min" / Int16ub,
        "version_max" / Int16ub,
        "role" / Int8ub,
        "capabilities" / Int64ub,
        "cluster_uuid" / Bytes(16),
        "disk_uuid" / Bytes(16),
        "cluster_name" / SHORT_TEXT,
        "node_name" / SHORT_TEXT,
        "software" / SHORT_TEXT,
        "entry_kinds" / Prefixed(Int8ub, GreedyBytes),
    ).compile()

    role: int
    cluster_name: str = ""
    cluster_uuid: bytes = NO_UUID
    node_name: str = ""
    disk_uuid: bytes = NO_UUID
    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX
    capabilities: int = 0
    entry_kinds: bytes = bytes(EntryKind)
    software: str = ""

    def check(self) -> None:
        """Raise ValueError when a field is beyond what it may be."""
        if not 0 < self.version_min <= self.version_max:
            raise ValueError(f"versions {self.version_min} to {self.version_max} are not a range")
        is_node = LinkRole(self.role) == LinkRole.NODE
        check_name("cluster", self.cluster_name, empty=not is_node)
        check_text("software", self.software, 255)
        if is_node:
            check_name("node", self.node_name)
        elif self.node_name or self.disk_uuid != NO_UUID:
            raise ValueError("a client has no node name and no disk uuid")


@message(0x0002)
class Ping(Message):
    """Answer with a Pong of the same token, at once."""

    token: U64


@message(0x0003)
class Pong(Message):
    """The answer to a Ping."""

    token: U64


@message(0x0004)
class LinkError(FailureFields, Message):
    """The peer broke a rule: `code` and `text` say which. The sender closes the connection behind it."""


@message(0x0005)
class Goodbye(Message):
    """The sender takes no new requests, finishes those open, and closes. `reason` is for people."""

    reason: LongText = ""

    def check(self) -> None:
        """Raise ValueError when the reason is too long or unprintable."""
        check_text("reason", self.reason, TEXT_SIZE_MAX)
