"""What a leader knows of one follower, and how much it may send it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum


class ProgressState(Enum):
    """How a leader sends to a follower.

    PROBE: one append at a time, until the follower says where its log fits. REPLICATE: a stream, bounded by
    `Inflights`. SNAPSHOT: it was told where the log starts; nothing until it answers, or time passes.
    """

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """Appends sent and not acknowledged: each one's last index and bytes, oldest first."""

    __slots__ = ("_entries", "_sent", "entries_max", "size", "size_max")

    def __init__(self, entries_max: int, size_max: int) -> None:
        self.entries_max = entries_max
        self.size_max = size_max
        self.size = 0
        self._entries = 0
        self._sent: deque[tuple[int, int, int]] = deque()

    def __len__(self) -> int:
        return self._entries

    def room(self) -> tuple[int, int]:
        """Return how many more entries and bytes may be sent; zero or less means none."""
        return self.entries_max - self._entries, self.size_max - self.size

    def add(self, last_index: int, entries: int, size: int) -> None:
        """Note an append of this many entries and bytes, up to `last_index`."""
        self._sent.append((last_index, entries, size))
        self._entries += entries
        self.size += size

    def free_to(self, index: int) -> None:
        """Forget the appends that an acknowledgement of `index` covers."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            _, entries, size = sent.popleft()
            self._entries -= entries
            self.size -= size

    def clear(self) -> None:
        """Forget all: they are sent again or not at all."""
        self._sent.clear()
        self._entries = self.size = 0


@dataclass(slots=True, kw_only=True)
class Progress:
    """A follower, as its leader sees it.

    `match_index` is the highest entry it is known to hold durably, `next_index` the next to send; always
    match_index < next_index. `paused` stops a PROBE after its one message; an answer to it or to a heartbeat
    lifts it. `must_probe`: it answered a heartbeat, so entries in flight may be lost; the next turn sends an
    empty append behind them, which shows that, and clears it.
    `active` says whether it was heard since the last quorum check, `silent_ticks` how long ago it was.
    `waited_ticks` counts since a snapshot was sent. It is in a round: it gets what the log held `round_ticks`
    ago, up to `round_goal`; `caught_up_ticks` is how long its rounds have been short. While there are
    `no_room_ticks` its disk counts as full, and it is probed only when the leader `wants_look`. `timestamp`
    is its wall clock at its last heartbeat reply, microseconds since the epoch.
    """

    next_index: int
    inflights: Inflights
    match_index: int = 0
    state: ProgressState = ProgressState.PROBE
    paused: bool = False
    must_probe: bool = False
    active: bool = False
    silent_ticks: int = 0
    pending_snapshot: int = 0
    waited_ticks: int = 0
    round_goal: int = 0
    round_ticks: int = 0
    caught_up_ticks: int = 0
    no_room_ticks: int = 0
    wants_look: bool = False
    sent_commit: int = 0
    read_round: int = 0
    timestamp: int = 0

    def count_round(self, last_index: int, ticks_max: int) -> None:
        """Count a tick of keeping up with a log that ends at `last_index` now.

        What the log held when a round began, it is to have within `ticks_max` (Ongaro 2014, 4.2.1): however
        few entries it lacks, with a slow link to it they may take longer than an election.
        """
        self.round_ticks += 1
        if self.state is not ProgressState.REPLICATE or self.round_ticks > ticks_max:
            self.caught_up_ticks = 0
        if self.match_index >= self.round_goal:
            if self.state is ProgressState.REPLICATE and self.round_ticks <= ticks_max:
                self.caught_up_ticks += self.round_ticks
            self.round_goal, self.round_ticks = last_index, 0

    def become_probe(self) -> None:
        """Send one append at a time, behind what it is known to hold."""
        if self.state == ProgressState.SNAPSHOT:
            self.next_index = max(self.match_index, self.pending_snapshot) + 1
        else:
            self.next_index = self.match_index + 1
        self._reset(ProgressState.PROBE)

    def become_replicate(self) -> None:
        """Stream entries behind what it is known to hold."""
        self._reset(ProgressState.REPLICATE)
        self.next_index = self.match_index + 1

    def become_snapshot(self, index: int) -> None:
        """Wait until it took the snapshot at `index`."""
        self._reset(ProgressState.SNAPSHOT)
        self.pending_snapshot = index

    def _reset(self, state: ProgressState) -> None:
        self.state = state
        self.paused = False
        self.pending_snapshot = 0
        self.waited_ticks = 0
        self.inflights.clear()

    def acknowledge(self, index: int) -> bool:
        """Note that it holds everything up to `index`; return whether it held less before."""
        self.next_index = max(self.next_index, index + 1)
        if index <= self.match_index:
            return False
        self.match_index = index
        self.paused = False
        return True

    def reject(self, index: int, next_index: int) -> bool:
        """Note that an append behind `index` did not fit and `next_index` may; return False when stale."""
        if self.state == ProgressState.REPLICATE:
            if index <= self.match_index:
                return False
            self.become_probe()
            return True
        if self.next_index - 1 != index:
            return False
        self.next_index = max(min(index, next_index), self.match_index + 1)
        self.paused = False
        return True

    def lost(self, last_index: int) -> None:
        """Note that it holds less than it said: find its end again and send the rest once more."""
        self.match_index = last_index
        self.become_probe()
        self.next_index = last_index + 1
