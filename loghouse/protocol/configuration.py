"""Payloads of the entries that are not records: configuration, trim, producer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Final

from construct import ConstructError, Int8ub, Int64ub, Struct, Terminated

from loghouse.errors import MalformedMessageError
from loghouse.limits import MEMBERS_MAX, NAME_SIZE_MAX, SUBJECT_SIZE_MAX
from loghouse.protocol.fields import (
    SHORT_TEXT,
    U32,
    U64,
    Items32,
    ShortText,
    Uuid,
    plain,
    read_fields,
    struct_of,
)


class MemberRole(IntEnum):
    """A member's part in the quorum. ONLY APPEND TO THIS LIST."""

    VOTER = 1
    LEARNER = 2
    """Replicates, does not vote, and is promoted when it is caught up and a voter is wanted."""
    REPLICA = 3
    """A learner that is never promoted: a read replica by an operator's wish."""


ROLE_TEXTS: Final[Mapping[MemberRole | None, str]] = MappingProxyType(
    {
        MemberRole.VOTER: "voter",
        MemberRole.LEARNER: "learner",
        MemberRole.REPLICA: "replica",
        None: "none",
    }
)
"""How gRPC's messages and the Python client say a role; None is that of a node that is no member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node in the configuration: (name, disk uuid), with an id that is never reused."""

    id: U32
    role: Annotated[MemberRole, Int8ub]
    disk_uuid: Uuid
    name: ShortText


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the log is kept; 0 means without limit."""

    size_max: U64 = 0
    age_max_seconds: U64 = 0

    def __str__(self) -> str:
        """Return what is kept, in words for people."""
        limits = [f"{self.size_max} bytes"] * bool(self.size_max)
        limits += [f"{self.age_max_seconds} seconds"] * bool(self.age_max_seconds)
        return " and ".join(limits) or "everything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Who is in the group, and its replicated settings. `next_id` is the id of the next new member."""

    members: Items32[Member] = ()
    removed: Items32[ShortText] = ()
    next_id: U32 = 1
    retention: Retention = Retention()

    @property
    def voters(self) -> frozenset[int]:
        """Ids of the voting members."""
        return frozenset(member.id for member in self.members if member.role == MemberRole.VOTER)

    @property
    def learners(self) -> frozenset[int]:
        """Ids of the members that replicate and do not vote."""
        return frozenset(member.id for member in self.members if member.role != MemberRole.VOTER)

    def member(self, id_: int) -> Member | None:
        """Return the member with this id, or None."""
        for member in self.members:  # a generator costs twice as much, and every message asks
            if member.id == id_:
                return member
        return None

    def named(self, name: str) -> Iterable[Member]:
        """Return the members of this name: one, or a voter and the learner that is to replace it."""
        return [member for member in self.members if member.name == name]

    def with_member(self, name: str, disk_uuid: bytes, role: MemberRole) -> Configuration:
        """Return this configuration with one more member, under a new id."""
        member = Member(id=self.next_id, name=name, disk_uuid=disk_uuid, role=role)
        return replace(self, members=(*self.members, member), next_id=self.next_id + 1)

    def with_role(self, id_: int, role: MemberRole) -> Configuration:
        """Return this configuration with a member's role changed."""
        members = tuple(replace(member, role=role) if member.id == id_ else member for member in self.members)
        return replace(self, members=members)

    def without(self, id_: int) -> Configuration:
        """Return this configuration without a member."""
        return replace(self, members=tuple(member for member in self.members if member.id != id_))


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """Another group, which a log's entry brought into being: once it is committed, the group exists.

    Its log begins with `configuration` as its first entry, of this time: the same bytes on every founder.

    Attributes:
        group: The new group.
        index: The entry's own.
        timestamp: The entry's own, microseconds since the epoch.
    """

    group: U32
    index: U64
    timestamp: U64
    configuration: Configuration


# Not compiled: a compiled construct takes a truncated string or integer for a whole one, or raises
# struct.error. These are rare, so the slow parser that checks lengths is the right one.
_CONFIGURATION: Final = Struct(*struct_of(Configuration).subcons, Terminated)
_TRIM: Final = Struct("lowest_offset" / Int64ub, Terminated)
_PRODUCER: Final = Struct("subject" / SHORT_TEXT, Terminated)


@lru_cache(maxsize=16)
def encode_configuration(configuration: Configuration) -> bytes:
    """Return the payload of a configuration entry.

    The last few are remembered: each new segment's state has the same one, and an append waits for that.
    """
    return bytes(_CONFIGURATION.build(plain(configuration)))


def decode_configuration(payload: bytes) -> Configuration:
    """Parse the payload of a configuration entry.

    The last few are remembered: the logs of a node have few different ones, and each is read several times
    when a log is opened.

    Raises:
        MalformedMessageError: It is not one.
    """
    return _decoded(bytes(payload))


@lru_cache(maxsize=16)
def _decoded(payload: bytes) -> Configuration:
    if int.from_bytes(payload[:4], "big") > MEMBERS_MAX:
        raise MalformedMessageError(f"a configuration has at most {MEMBERS_MAX} members")
    try:
        configuration = read_fields(Configuration, _CONFIGURATION.parse(payload))
    except (ConstructError, UnicodeError, ValueError) as error:
        raise MalformedMessageError(f"configuration: {error}") from error
    if any(not 0 < len(m.name.encode()) <= NAME_SIZE_MAX for m in configuration.members):
        raise MalformedMessageError(f"a member's name has 1 to {NAME_SIZE_MAX} bytes")
    return configuration


def encode_birth(group: int, configuration: Configuration) -> bytes:
    """Return the payload of a birth entry: this group exists from here on, and begins with that."""
    return group.to_bytes(4, "big") + encode_configuration(configuration)


def decode_birth(payload: bytes, *, index: int, timestamp: int) -> Birth:
    """Parse the payload of a birth entry; `index` and `timestamp` are the entry's.

    Raises:
        MalformedMessageError: It is not one.
    """
    group, configuration = int.from_bytes(payload[:4], "big"), decode_configuration(payload[4:])
    if not group or not configuration.voters:
        raise MalformedMessageError(f"the birth of group {group} with {len(configuration.voters)} voters")
    return Birth(group=group, index=index, timestamp=timestamp, configuration=configuration)


def encode_trim(lowest_offset: int) -> bytes:
    """Return the payload of a trim entry: records below this offset may be deleted."""
    return bytes(_TRIM.build({"lowest_offset": lowest_offset}))


def decode_trim(payload: bytes) -> int:
    """Return the lowest offset that a trim entry keeps.

    Raises:
        MalformedMessageError: It is not a trim payload.
    """
    try:
        return int(_TRIM.parse(payload).lowest_offset)
    except ConstructError as error:
        raise MalformedMessageError(f"trim: {error}") from error


def encode_producer(subject: str) -> bytes:
    """Return the payload of a producer entry: its index becomes the id, for this subject only."""
    assert 0 < len(subject.encode()) <= SUBJECT_SIZE_MAX
    return bytes(_PRODUCER.build({"subject": subject}))


def decode_producer(payload: bytes) -> str:
    """Return the subject that a producer entry registers.

    Raises:
        MalformedMessageError: It is not a producer payload.
    """
    try:
        return str(_PRODUCER.parse(payload).subject)
    except (ConstructError, UnicodeError) as error:
        raise MalformedMessageError(f"producer: {error}") from error
