"""Who may speak as which member: what the own log says, and whom others vouch for. Pure.

    own log        the latest configuration and the last one known to be committed: MEMBER
    introductions  what the own log cannot know yet, told by those who may vouch: INTRODUCED
    everybody else STRANGER, whatever its certificate

A node that joins has no configuration, and one that was away may have an old one; the leader may be in
neither. Who may vouch is certain all the same: the members that the own log knows, and whoever answered at an
address of `join`, which an operator wrote. An introduction counts while it is of a configuration behind the
one that is known to be committed here; once the log is as far, it knows by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from loghouse.gossip.members import MemberKey
from loghouse.limits import MEMBERS_MAX, STRANGERS_DOUBTED_MAX
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.roster_messages import RosterEntry, RosterReply

ASK_SECONDS: Final = 0.5  # between two rounds of questions about strangers


class Standing(Enum):
    """What a node is to this one."""

    MEMBER = "member"
    INTRODUCED = "introduced"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class _Introduction:
    index: int
    members: frozenset[tuple[int, MemberKey]]

    @property
    def keys(self) -> frozenset[MemberKey]:
        return frozenset(key for _, key in self.members)


@dataclass(slots=True)
class _Doubt:
    """A stranger that spoke as a member. `is_denied`: one who may vouch answered, and does not know it."""

    is_denied: bool = False


class Roster:
    """What this node knows of who is a member."""

    def __init__(self) -> None:
        self._members: frozenset[tuple[int, MemberKey]] = frozenset()  # by the own log; set by `update`
        self._keys: frozenset[MemberKey] = frozenset()  # those of them, without their ids
        self._settled_index = 0  # where the last committed configuration is; set by `update`
        self._named: dict[str, MemberKey] = {}  # who answered last at each address of `join`
        # The newest answer of each node that may vouch; dropped when the own log is as far.
        self._introductions: dict[MemberKey, _Introduction] = {}
        # Strangers that spoke as members, the oldest first; one leaves when it is known.
        self._doubts: dict[MemberKey, _Doubt] = {}
        # Nodes that contradicted what is committed here, the oldest first; pushed out by newer ones only.
        self._contradicted: dict[MemberKey, None] = {}
        self._next_ask = 0.0  # no round of questions before this time; moved on by each round
        self._request_id = 0  # of the last round of questions

    # --- what is known ----------------------------------------------------------------

    def update(self, configurations: Iterable[Configuration], settled_index: int) -> None:
        """Take what the own log says now; `settled_index` is where the last committed configuration is."""
        self._members = frozenset(
            (member.id, MemberKey(member.name, member.disk_uuid))
            for configuration in configurations
            for member in configuration.members
        )
        self._keys = frozenset(key for _, key in self._members)
        self._settled_index = settled_index
        self._introductions = {
            voucher: introduction
            for voucher, introduction in self._introductions.items()
            if introduction.index > settled_index
        }
        for key in self.known & self._doubts.keys():
            del self._doubts[key]

    @property
    def members(self) -> frozenset[MemberKey]:
        """The members that the own log knows."""
        return self._keys

    @property
    def known(self) -> frozenset[MemberKey]:
        """The members, those who were introduced, and, where there is no configuration, who is at `join`."""
        known = self._keys
        for introduction in self._introductions.values():
            known |= introduction.keys
        return known if self._keys else known | set(self._named.values())

    @property
    def vouchers(self) -> frozenset[MemberKey]:
        """Whose word about other members counts."""
        return self._keys | set(self._named.values())

    def standing(self, key: MemberKey) -> Standing:
        """Return what a node is to this one, whatever id it speaks under."""
        if key in self._keys:
            return Standing.MEMBER
        return Standing.INTRODUCED if key in self.known else Standing.STRANGER

    def standing_as(self, key: MemberKey, id_: int) -> Standing:
        """Return what a node is that speaks as the member of this id."""
        if (id_, key) in self._members:
            return Standing.MEMBER
        if key in self._contradicted:
            return Standing.STRANGER
        if any((id_, key) in introduction.members for introduction in self._introductions.values()):
            return Standing.INTRODUCED
        if not self._keys and key in self._named.values():
            # Versions that introduce nobody: an operator wrote down where this one is, and it is there.
            return Standing.INTRODUCED
        return Standing.STRANGER

    # --- who vouches ------------------------------------------------------------------

    def answered_at(self, address: str, key: MemberKey) -> None:
        """Note who answered at an address of `join`."""
        self._named[address] = key

    def request(self, now: float) -> int | None:
        """Return the id of a question to those who may vouch, or None when it is too early for another."""
        if now < self._next_ask:
            return None
        self._next_ask = now + ASK_SECONDS
        self._request_id += 1
        return self._request_id

    def introduce(self, voucher: MemberKey, reply: RosterReply) -> bool:
        """Take an answer; False when nobody asked this one, or it is older than what is known here."""
        if voucher not in self.vouchers or not 0 < reply.request_id <= self._request_id:
            return False
        if reply.index > self._settled_index:
            members = frozenset((one.id, MemberKey(one.name, one.disk_uuid)) for one in reply.members)
            self._introductions[voucher] = _Introduction(reply.index, members)
        if reply.index >= self._settled_index:
            self._settle_doubts()
        return True

    def _settle_doubts(self) -> None:
        known = self.known
        for key, doubt in list(self._doubts.items()):
            if key in known:
                del self._doubts[key]
            else:
                doubt.is_denied = True

    # --- strangers ----------------------------------------------------------------------

    def doubt(self, key: MemberKey) -> bool:
        """Note that a stranger spoke as a member; return whether one who may vouch said that it is none."""
        doubt = self._doubts.get(key)
        if doubt is None:
            if len(self._doubts) >= STRANGERS_DOUBTED_MAX:
                del self._doubts[next(iter(self._doubts))]
            doubt = self._doubts[key] = _Doubt()
        return doubt.is_denied

    def contradicted(self, key: MemberKey) -> None:
        """Believe a node no more until the own log knows it: it contradicted what is committed here."""
        if len(self._contradicted) >= STRANGERS_DOUBTED_MAX:
            del self._contradicted[next(iter(self._contradicted))]
        self._contradicted[key] = None


def roster_reply(request_id: int, configurations: Iterable[Configuration], index: int) -> RosterReply:
    """Return who is a member by these configurations; `index` is that of the first, the latest one."""
    found: dict[tuple[int, str, bytes], None] = {}
    for configuration in configurations:
        for member in configuration.members:
            found[member.id, member.name, member.disk_uuid] = None
    members = [RosterEntry(id=id_, name=name, disk_uuid=disk) for id_, name, disk in found]
    return RosterReply(request_id=request_id, index=index, members=tuple(members[:MEMBERS_MAX]))
