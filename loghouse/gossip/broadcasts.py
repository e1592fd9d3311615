"""What is to be told to others: at most one statement of each member, each a limited number of times."""

from __future__ import annotations

from math import ceil, log10

from loghouse.gossip.members import MemberKey
from loghouse.protocol.gossip_messages import Statement


def transmit_limit(factor: int, live: int) -> int:
    """Return how often each member tells a statement, among `live` members.

    `factor * ceil(log10(live + 1))`: so many that it reaches everybody with high probability (SWIM, 4.1).
    """
    return factor * ceil(log10(live + 1))


class Broadcasts:
    """The queue. A newer statement of a member replaces the older one, so the members bound it."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: dict[MemberKey, tuple[int, Statement]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def tell(self, statement: Statement) -> None:
        """Queue a statement; what was queued of the same member is dropped."""
        key = MemberKey(statement.name, statement.disk_uuid)
        self._queue.pop(key, None)
        self._queue[key] = (0, statement)

    def drop(self, key: MemberKey) -> None:
        """Tell nothing more of a member."""
        self._queue.pop(key, None)

    def take(self, count_max: int, limit: int) -> tuple[Statement, ...]:
        """Return the statements told least often, counted as told once more; at `limit` they are done."""
        if not self._queue:
            return ()
        # Sorting is stable: of those told equally often the oldest goes first.
        chosen = sorted(self._queue.items(), key=_told)[:count_max]
        for key, (told, statement) in chosen:
            if told + 1 >= limit:
                del self._queue[key]
            else:
                self._queue[key] = (told + 1, statement)
        return tuple(statement for _, (_, statement) in chosen)


def _told(item: tuple[MemberKey, tuple[int, Statement]]) -> int:
    return item[1][0]
