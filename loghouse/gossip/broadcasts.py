"""What is to be spread: at most one statement about each member, each transmitted so many times at most."""

from __future__ import annotations

from math import ceil, log10

from loghouse.gossip.members import MemberKey
from loghouse.protocol.gossip_messages import Statement


def transmit_limit(factor: int, live: int) -> int:
    """Return how often each member transmits a statement, among `live` members.

    `factor * ceil(log10(live + 1))`: so many that it reaches everybody with high probability (SWIM, 4.1).
    """
    return factor * ceil(log10(live + 1))


class Broadcasts:
    """The queue. A newer statement of a member replaces the older one, so the members bound it."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        # By member: how often it was transmitted, and the statement; the one queued last is last.
        self._queue: dict[MemberKey, tuple[int, Statement]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def queue(self, statement: Statement) -> None:
        """Queue a statement; what was queued about the same member is dropped."""
        key = MemberKey(statement.name, statement.disk_uuid)
        self._queue.pop(key, None)
        self._queue[key] = (0, statement)

    def drop(self, key: MemberKey) -> None:
        """Transmit nothing more about a member."""
        self._queue.pop(key, None)

    def take(self, count_max: int, limit: int) -> tuple[Statement, ...]:
        """Return those transmitted least often, counted once more each; at `limit` a statement is done."""
        if not self._queue:
            return ()
        # Sorting is stable: of those transmitted equally often the oldest goes first.
        chosen = sorted(self._queue.items(), key=lambda item: item[1][0])[:count_max]
        for key, (transmits, statement) in chosen:
            if transmits + 1 >= limit:
                del self._queue[key]
            else:
                self._queue[key] = (transmits + 1, statement)
        return tuple(statement for _, (_, statement) in chosen)
