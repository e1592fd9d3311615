"""Who is known, and what of them. A member is (name, disk uuid): with an emptied disk it is another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from loghouse.gossip.suspicion import Suspicion
from loghouse.limits import GOSSIP_MEMBERS_MAX
from loghouse.protocol.gossip_messages import Liveness, Statement

LIVE: Final = (Liveness.ALIVE, Liveness.SUSPECT)


class MemberKey(NamedTuple):
    """What makes a member the same one: its name, and the disk that it has."""

    name: str
    disk_uuid: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a member says of itself."""

    address: str
    grpc_address: str = ""
    version_min: int = 0
    version_max: int = 0
    tags: tuple[str, ...] = ()


_PROFILE: Final = tuple(field.name for field in fields(Profile))  # a Statement has them, too


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """A member as shown to the outside. `profile` is None while only its death was heard of."""

    name: str
    disk_uuid: bytes
    liveness: Liveness
    incarnation: int
    profile: Profile | None


def profile_of(statement: Statement) -> Profile:
    """Return what the ALIVE statement of a member says it is."""
    return Profile(**{name: getattr(statement, name) for name in _PROFILE})


def alive_statement(key: MemberKey, incarnation: int, profile: Profile) -> Statement:
    """Return the statement by which a member describes itself."""
    return Statement(
        liveness=Liveness.ALIVE,
        name=key.name,
        disk_uuid=key.disk_uuid,
        incarnation=incarnation,
        **{name: getattr(profile, name) for name in _PROFILE},
    )


@dataclass(slots=True)
class KnownMember:
    """What is held of another member.

    `incarnation` never falls, but when the member itself says that hearsay was absurd. `accuser` is who said
    that it is suspect or dead. `is_forgotten`: not shown and not spread any more (or not yet heard of, only
    read in the address book). `address_before` is where it was before an address that others told us and
    that it did not confirm: both are tried. `is_proven`: something came over its own link; others cannot
    invent that.
    """

    key: MemberKey
    liveness: Liveness
    incarnation: int
    changed_tick: int
    profile: Profile | None = None
    accuser: str = ""
    suspicion: Suspicion | None = None
    address_before: str = ""
    is_forgotten: bool = False
    is_proven: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it counts as there: alive, or only suspect."""
        return self.liveness in LIVE

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to send to: two addresses while a change is not confirmed, none if only its end is known."""
        if self.profile is None:
            return ()
        if self.address_before:
            return (self.profile.address, self.address_before)
        return (self.profile.address,)

    def view(self) -> MemberView:
        """Return what is shown of it."""
        return MemberView(
            name=self.key.name,
            disk_uuid=self.key.disk_uuid,
            liveness=self.liveness,
            incarnation=self.incarnation,
            profile=self.profile,
        )

    def statement(self) -> Statement:
        """Return what is spread about it; an address only while it is alive."""
        if self.liveness is Liveness.ALIVE:
            assert self.profile is not None, f"{self.key.name} is alive nowhere"
            return alive_statement(self.key, self.incarnation, self.profile)
        return Statement(
            liveness=self.liveness,
            name=self.key.name,
            disk_uuid=self.key.disk_uuid,
            incarnation=self.incarnation,
            accuser=self.accuser if self.liveness is not Liveness.LEFT else "",
        )


class MemberTable:
    """The other members, at most `GOSSIP_MEMBERS_MAX` with this one."""

    __slots__ = ("_live", "_members")

    def __init__(self) -> None:
        self._members: dict[MemberKey, KnownMember] = {}
        self._live: list[KnownMember] | None = None

    def __iter__(self) -> Iterator[KnownMember]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def get(self, key: MemberKey) -> KnownMember | None:
        """Return a member, or None when it is not known."""
        return self._members.get(key)

    def live(self) -> list[KnownMember]:
        """Return the live members, this one not included. Not to be changed by the caller."""
        if self._live is None:
            self._live = [member for member in self._members.values() if member.is_live]
        return self._live

    @property
    def is_full(self) -> bool:
        """Whether another member has room only when one goes."""
        return len(self._members) >= GOSSIP_MEMBERS_MAX - 1

    def least(self, newcomer: KnownMember) -> KnownMember | None:
        """Return the member that has to go for a newcomer in a full table, or None: the newcomer has to.

        The one that matters least: without an address, then no longer shown, then longest gone. For a proven
        newcomer a live one that was never proven goes, too: inventions of others must not keep it out.
        """
        gone = [member for member in self._members.values() if not member.is_live]
        if not gone and newcomer.is_proven:
            gone = [member for member in self._members.values() if not member.is_proven]
        return min(
            gone, key=lambda one: (bool(one.addresses), not one.is_forgotten, one.changed_tick), default=None
        )

    def add(self, member: KnownMember) -> None:
        """Take a member in."""
        assert not self.is_full, "more members than there may be"
        self._members[member.key] = member
        self._live = None

    def drop(self, key: MemberKey) -> None:
        """Let a member go."""
        self._members.pop(key, None)
        self._live = None

    def move(self, member: KnownMember, liveness: Liveness, tick: int) -> None:
        """Note that a member is now alive, suspect, dead or gone; without suspicion."""
        member.liveness = liveness
        member.suspicion = None
        member.changed_tick = tick
        self._live = None

    def has_live_namesake(self, member: KnownMember) -> bool:
        """Whether a live member has the same name and another disk: then this one is gone for good."""
        return any(other.key.name == member.key.name and other is not member for other in self.live())
