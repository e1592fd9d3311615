"""Majorities: pure functions over sets of voters."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def majority(count: int) -> int:
    """Return how many of `count` voters are a majority."""
    return count // 2 + 1


def committed_index(matches: Collection[int]) -> int:
    """Return the highest index that a majority holds, given what each voter holds (Raft 5.3).

    Args:
        matches: One index per voter; at least one.
    """
    return sorted(matches, reverse=True)[majority(len(matches)) - 1]


def has_quorum(voters: frozenset[int], granted: Collection[int]) -> bool:
    """Return whether a majority of `voters` is among `granted`."""
    return len(voters.intersection(granted)) >= majority(len(voters))


def vote_result(voters: frozenset[int], votes: Mapping[int, bool]) -> bool | None:
    """Return True when a majority said yes, False when that became impossible, None while open."""
    needed = majority(len(voters))
    yes = sum(1 for voter in voters if votes.get(voter) is True)
    if yes >= needed:
        return True
    no = sum(1 for voter in voters if votes.get(voter) is False)
    return False if len(voters) - no < needed else None
