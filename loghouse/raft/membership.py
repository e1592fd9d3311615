"""Which configuration may follow which (Raft 6, with one server at a time; thesis 4.1)."""

from __future__ import annotations

from loghouse.errors import MembershipError
from loghouse.limits import MEMBERS_MAX
from loghouse.protocol.configuration import Configuration, encode_configuration
from loghouse.protocol.entry import Entry, EntryKind, make_entry

BOOTSTRAP_TERM = 1


def check_change(old: Configuration, new: Configuration) -> None:
    """Raise unless `new` may follow `old`: then a majority of one and a majority of the other always meet.

    Raises:
        MembershipError: More than one voter changes, no voter is left, an id is reused, or a member that
            stays became somebody else.
    """
    if len(old.voters ^ new.voters) > 1:
        raise MembershipError("only one voter can change at a time")
    if not new.voters:
        raise MembershipError("a configuration needs at least one voter")
    if len(new.members) > MEMBERS_MAX:
        raise MembershipError(f"a configuration has at most {MEMBERS_MAX} members")
    ids = [member.id for member in new.members]
    if len(set(ids)) != len(ids):
        raise MembershipError("two members have the same id")
    for member in new.members:
        before = old.member(member.id)
        if before is None:
            if not old.next_id <= member.id < new.next_id:
                raise MembershipError(
                    f"member {member.name!r} has id {member.id}: new ids go from {old.next_id} to next_id"
                )
        elif (before.name, before.disk_uuid) != (member.name, member.disk_uuid):
            raise MembershipError(f"member {member.id} cannot become {member.name!r}; a node's id is its own")
    if not old.next_id <= new.next_id <= 0xFFFF_FFFF:
        raise MembershipError("next_id must not go back: ids are never reused")


def bootstrap_entry(seed: int, configuration: Configuration, now: int) -> Entry:
    """Return the first entry of a new log: its configuration, in term 1.

    It is written, with a hard state of that term, before any core starts on the log: on one disk, or the
    same on each.
    """
    return make_entry(
        seed,
        index=1,
        term=BOOTSTRAP_TERM,
        kind=EntryKind.CONFIGURATION,
        base_offset=0,
        timestamp=now,
        payload=encode_configuration(configuration),
    )
