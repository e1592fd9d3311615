"""What the leader changes in the configuration because of who is there. Pure.

Gossip only suggests; a node becomes a member by an entry in the log, one change at a
time. A node that failed stays a voter: failure never shrinks the quorum
(`design.md` 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Final

from loghouse.catalogue.records import PlacedReplica
from loghouse.gossip.members import MemberKey
from loghouse.limits import MEMBERS_MAX, VOTERS_MAX
from loghouse.protocol.configuration import Configuration, Member, MemberRole

# Promotion goes one by one up to here, then in pairs: an even quorum survives no more.
FIRST_VOTERS: Final = 3


def next_configuration(
    configuration: Configuration,
    present: Sequence[MemberKey],
    *,
    is_caught_up: Callable[[int], bool],
    is_heard: Callable[[int], bool] = lambda id_: False,
    voters_max: int = VOTERS_MAX,
) -> Configuration | None:
    """Return the next configuration the leader should propose, or None when it is as it should be.

    In this order: a learner goes that has the name of a voter that lives (a machine with its name and another
    disk is not it); a new node becomes a learner; a caught-up learner takes the place of the dead voter whose
    name it has (its disk was emptied); caught-up learners become voters.

    Args:
        is_heard: Whether a member answered the leader within an election timeout, whatever gossip says.
    """
    here = set(present) | {
        MemberKey(member.name, member.disk_uuid) for member in configuration.members if is_heard(member.id)
    }
    return (
        _drop_double(configuration, here)
        or _add_learner(configuration, present, here)
        or _replace_emptied(configuration, here, is_caught_up)
        or _promote(configuration, here, is_caught_up, voters_max)
    )


def next_configuration_of_catalogue(
    configuration: Configuration,
    cluster: Configuration,
    present: Sequence[MemberKey],
    *,
    is_caught_up: Callable[[int], bool],
    is_heard: Callable[[int], bool],
) -> Configuration | None:
    """Return what the catalogue's leader should propose next: its members are those of the cluster.

    Args:
        cluster: The configuration of the default log.
    """
    roles = {(one.name, one.disk_uuid): one.role for one in cluster.members}
    for member in sorted(configuration.members, key=lambda one: one.role is MemberRole.VOTER):
        role = roles.get((member.name, member.disk_uuid))
        if role is None and configuration.voters != {member.id}:
            return configuration.without(member.id)
        if role is MemberRole.REPLICA and member.role is MemberRole.LEARNER:
            return configuration.with_role(member.id, role)
    here = [key for key in present if key in roles]
    return next_configuration(configuration, here, is_caught_up=is_caught_up, is_heard=is_heard)


def next_configuration_of_log(
    configuration: Configuration,
    replicas: Sequence[PlacedReplica],
    present: Sequence[MemberKey],
    *,
    is_caught_up: Callable[[int], bool],
    is_heard: Callable[[int], bool],
) -> Configuration | None:
    """Return what the leader of a named log should propose next: its members are where it is placed.

    A new replica first learns everything. Then the voter that it replaces goes, if that is dead: it would
    count for the majority. One that lives goes when the new one votes; the two changes follow each other at
    once, which is when two voters may be in one rack. A node that is to come back before it has left goes
    first, for it is one member at a time.
    """
    wanted = {one.member for one in replicas}
    for replica in replicas:
        key = MemberKey(replica.node, replica.disk_uuid)
        if configuration.member(replica.member) is None and replica.member >= configuration.next_id:
            if key not in present:
                continue
            old = [one.id for one in configuration.members if (one.name, one.disk_uuid) == key]
            if old:
                # It would let go of its vote to be the new member, and the others may need that to commit.
                if configuration.voters <= set(old):
                    continue  # nobody else could hold the log meanwhile
                return configuration.without(old[0])
            member = Member(
                id=replica.member, name=key.name, disk_uuid=key.disk_uuid, role=MemberRole.LEARNER
            )
            members = (*configuration.members, member)
            return replace(configuration, members=members, next_id=replica.member + 1)
    extra = [one for one in configuration.members if one.id not in wanted]
    learners = [one for one in configuration.members if one.id in wanted and one.id in configuration.learners]
    for learner in learners:
        if is_caught_up(learner.id):
            dead = [one for one in extra if one.id in configuration.voters and not is_heard(one.id)]
            if dead and len(configuration.voters) > 1:
                return configuration.without(dead[0].id)
            return configuration.with_role(learner.id, MemberRole.VOTER)
    is_complete = wanted <= configuration.voters
    for member in sorted(extra, key=lambda one: one.role is MemberRole.VOTER):
        if is_complete or member.role is not MemberRole.VOTER:
            return configuration.without(member.id)
    return None


def _drop_double(configuration: Configuration, here: Set[tuple[str, bytes]]) -> Configuration | None:
    """Return the configuration without a learner taken for the emptied self of a voter, which lives."""
    for learner in configuration.members:
        if learner.role is not MemberRole.VOTER and _living_voters(configuration, learner.name, here):
            return configuration.without(learner.id)
    return None


def _living_voters(configuration: Configuration, name: str, here: Set[tuple[str, bytes]]) -> list[Member]:
    return [
        member
        for member in configuration.named(name)
        if member.role is MemberRole.VOTER and (member.name, member.disk_uuid) in here
    ]


def _add_learner(
    configuration: Configuration, present: Sequence[MemberKey], here: Set[tuple[str, bytes]]
) -> Configuration | None:
    members = {(member.name, member.disk_uuid) for member in configuration.members}
    for presence in present:
        if presence in members or presence.name in configuration.removed:
            continue
        if _living_voters(configuration, presence.name, here):
            continue
        namesakes = list(configuration.named(presence.name))
        stale = [member for member in namesakes if member.role is not MemberRole.VOTER]
        if stale:  # its disk was emptied again
            renewed = configuration.without(stale[0].id)
            return renewed.with_member(presence.name, presence.disk_uuid, stale[0].role)
        if len(configuration.members) < MEMBERS_MAX:
            return configuration.with_member(presence.name, presence.disk_uuid, MemberRole.LEARNER)
    return None


def _replace_emptied(
    configuration: Configuration, here: Set[tuple[str, bytes]], is_caught_up: Callable[[int], bool]
) -> Configuration | None:
    """Return the configuration without a voter whose emptied namesake is ready to take its place."""
    for learner in _ready_learners(configuration, here, is_caught_up):
        for voter in configuration.named(learner.name):
            is_alive = (voter.name, voter.disk_uuid) in here
            if voter.role is MemberRole.VOTER and not is_alive and len(configuration.voters) > 1:
                return configuration.without(voter.id)
    return None


def _promote(
    configuration: Configuration,
    here: Set[tuple[str, bytes]],
    is_caught_up: Callable[[int], bool],
    voters_max: int,
) -> Configuration | None:
    count = len(configuration.voters)
    ready = [
        learner
        for learner in _ready_learners(configuration, here, is_caught_up)
        if len(list(configuration.named(learner.name))) == 1
    ]
    if not ready or count >= voters_max:
        return None
    is_odd = count % 2 == 1
    if count >= FIRST_VOTERS and is_odd and (len(ready) < 2 or count + 2 > voters_max):
        return None  # a pair or none: four voters bear no more failures than three
    return configuration.with_role(ready[0].id, MemberRole.VOTER)


def _ready_learners(
    configuration: Configuration, here: Set[tuple[str, bytes]], is_caught_up: Callable[[int], bool]
) -> list[Member]:
    return [
        member
        for member in configuration.members
        if member.role is MemberRole.LEARNER
        and (member.name, member.disk_uuid) in here
        and is_caught_up(member.id)
    ]
