"""Is a history of one log linearizable? Exact, in O(n log n).

In general the question is NP-hard. For one append-only log whose offsets are
known it is not: the final log fixes the order of the appends, so it is enough to
place each append as early as its past allows and to look whether anything then
comes too late.

Times are any increasing numbers (the recorder uses a counter, so no two are equal).
An append whose outcome is not known has the response time `NEVER`; if the final
log does not hold it, it is not part of the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Final

NEVER: Final = inf


@dataclass(frozen=True, slots=True)
class AppendOp:
    """An append that is in the final log: `count` records at `base_offset`."""

    invoked: float
    returned: float
    base_offset: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class ReadHit:
    """A read that was given the record at `offset`."""

    invoked: float
    returned: float
    offset: int


@dataclass(frozen=True, slots=True)
class ReadMiss:
    """A read that was told `offset` holds no record yet."""

    invoked: float
    returned: float
    offset: int


@dataclass(frozen=True, slots=True)
class TailOp:
    """A question for the next offset, and its answer."""

    invoked: float
    returned: float
    next_offset: int


Operation = AppendOp | ReadHit | ReadMiss | TailOp


def check_history(operations: Sequence[Operation]) -> str:
    """Return why no linearization exists, or the empty text when one does.

    Appends must be dense: each offset from 0 belongs to exactly one. (The cluster's checker
    looks at that first, with better words.)
    """
    appends = sorted((op for op in operations if type(op) is AppendOp), key=lambda op: op.base_offset)
    bounds = [0, *accumulate(op.count for op in appends)]
    if [op.base_offset for op in appends] != bounds[:-1]:
        return "the appends do not cover the offsets without gap or overlap"
    length = bounds[-1]
    # number[o] is the append, from 1, that holds offset o; its effect must precede any hit on o.
    number = [n for n, op in enumerate(appends, 1) for _ in range(op.count)]
    state_of_length = {bound: state for state, bound in enumerate(bounds)}

    # Append n may not take place before `not_before[n]`: a miss on one of its offsets was asked later.
    not_before = [-inf] * (len(appends) + 2)
    tails: list[list[TailOp]] = [[] for _ in bounds]
    hits: list[tuple[int, ReadHit]] = []
    for op in operations:
        if type(op) is ReadMiss:
            if op.offset < length:
                n = number[op.offset]
                if op.invoked > not_before[n]:
                    not_before[n] = op.invoked
        elif type(op) is TailOp:
            state = state_of_length.get(op.next_offset)
            if state is None:
                return f"{op} names a length the log never had"
            tails[state].append(op)
        elif type(op) is ReadHit:
            if not 0 <= op.offset < length:
                return f"{op} is of a record that is not in the log"
            hits.append((number[op.offset], op))
    return _place(appends, tails, hits, not_before)


def _place(
    appends: list[AppendOp],
    tails: list[list[TailOp]],
    hits: list[tuple[int, ReadHit]],
    not_before: list[float],
) -> str:
    placed = [-inf]  # when each append takes place, at the earliest; [0] stands for the empty log
    for state, here in enumerate(tails):
        now = placed[state]
        latest = now
        for tail in here:
            earliest = max(tail.invoked, now)
            if earliest > tail.returned:
                return f"{tail} answered before the log could be that long (not before {now})"
            latest = max(latest, earliest)
        if state == len(appends):
            break
        append = appends[state]
        when = max(latest, append.invoked, not_before[state + 1])
        if when > append.returned:
            return (
                f"{append} was acknowledged, but a later answer denies it (it took place at {when} or later)"
            )
        placed.append(when)
    for n, hit in hits:
        if placed[n] > hit.returned:
            return f"{hit} saw a record before it could exist (at {placed[n]})"
    return ""
