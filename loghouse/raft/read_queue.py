"""Reads waiting for their index: plain bookkeeping, used by `reads.py`."""

from __future__ import annotations

from dataclasses import dataclass

from loghouse.raft.ready import ReadState


@dataclass(slots=True)
class AskedReads:
    """Reads a follower sent to its leader under one context."""

    ids: list[int]
    ticks: int = 0


class ReadQueue:
    """The reads of one member: its own (by id) and, on a leader, those of its followers (by context)."""

    def __init__(self, first_id: int) -> None:
        """Start numbering at a random `first_id`, so that no answer from before a restart fits."""
        self._next_id = first_id
        # On a leader: (member, context or id) that wait for a round, and that a round runs for.
        self.waiting: list[tuple[int, int]] = []
        self.running: list[tuple[int, int]] = []
        self.round = 0
        self.round_index: int  # what the running round's reads are answered with
        # On a follower: ids to ask for at the end of the turn, and what was asked, by context.
        self.to_ask: list[int] = []
        self.asked: dict[int, AskedReads] = {}
        self._asked_ids = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running) + len(self.to_ask) + self._asked_ids

    def new_id(self) -> int:
        """Return a number never returned before."""
        self._next_id += 1
        return self._next_id

    def ask(self) -> int:
        """Move the ids to ask for under a new context and return that."""
        context = self.new_id()
        self.asked[context] = AskedReads(self.to_ask)
        self._asked_ids += len(self.to_ask)
        self.to_ask = []
        return context

    def answered(self, context: int) -> list[int]:
        """Return the ids asked under `context`, once."""
        asked = self.asked.pop(context, None)
        if asked is None:
            return []
        self._asked_ids -= len(asked.ids)
        return asked.ids

    def tick(self, ticks_max: int) -> list[ReadState]:
        """Age what was asked and return the failures of what is too old."""
        late = []
        for context, asked in self.asked.items():
            asked.ticks += 1
            if asked.ticks >= ticks_max:
                late.append(context)
        return [ReadState(id_, None) for context in late for id_ in self.answered(context)]

    def fail_all(self, own_id: int) -> list[ReadState]:
        """Drop everything and return the failures of this member's own reads."""
        own = [id_ for member, id_ in self.running + self.waiting if member == own_id] + self.to_ask
        own += [id_ for asked in self.asked.values() for id_ in asked.ids]
        self.waiting, self.running, self.to_ask, self.asked, self._asked_ids = [], [], [], {}, 0
        self.round = 0
        return [ReadState(id_, None) for id_ in own]
