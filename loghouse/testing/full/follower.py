"""A client that follows the log to its end and waits there, at whatever node answers."""

from __future__ import annotations

import random
from typing import Final

from loghouse.errors import OffsetOutOfRangeError
from loghouse.protocol.entry import Entry
from loghouse.testing.checkers import Violation
from loghouse.testing.full.host import FullHost
from loghouse.testing.simulation import Simulation

PATIENCE_SECONDS: Final = 3.0  # at one node, before another one is tried
# A node wakes its readers at the end of the turn that made a record readable, which is the next turn where a
# sync made it so. This is longer than the longest of them (`turn_seconds` of full/swarm.py).
WAKE_SECONDS: Final = 0.02


class Follower:
    """Reads every record once, in order, and waits for more. `next_offset` is where it is."""

    def __init__(self, cluster: Simulation[FullHost], rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._number = 1
        self._turn = 0
        self.next_offset = 0

    def begin(self) -> None:
        """Start at the beginning, at some node."""
        self._move()

    def _move(self) -> None:
        """Go on at some node; what the one before still says does not count any more."""
        self._turn += 1
        numbers = self._cluster.numbers()
        self._number = self._rng.choice(numbers)
        self._cluster.clock.after(self._rng.expovariate(1 / 0.2), self._wait, self._turn)

    def _wait(self, turn: int) -> None:
        if turn != self._turn:
            return
        host, clock = self._cluster.nodes[self._number], self._cluster.clock

        def answered(result: object) -> None:
            if turn == self._turn:
                if result is None:
                    clock.after(0.0005, self._fetch, turn)
                else:
                    self._move()

        cancel = host.wait_for(self.next_offset, answered)

        life = host.life

        def is_asleep() -> bool:
            return turn == self._turn and host.life is life and host.is_asleep_at(self.next_offset)

        def lose_patience() -> None:
            if is_asleep():
                clock.after(WAKE_SECONDS, look_again)
            elif turn == self._turn:
                leave()

        def look_again() -> None:
            if is_asleep():
                problem = f"{host.name} holds {self.next_offset} and lets its follower sleep"
                raise Violation("asleep", problem)
            if turn == self._turn:
                leave()

        def leave() -> None:
            cancel()
            self._move()

        clock.after(PATIENCE_SECONDS, lose_patience)

    def _fetch(self, turn: int) -> None:
        def answered(result: object) -> None:
            if turn != self._turn:
                return
            if isinstance(result, Entry):
                # The oracle has looked at the entry itself.
                self.next_offset = result.next_offset
                self._turn += 1
                self._wait(self._turn)
            else:
                if isinstance(result, OffsetOutOfRangeError):
                    self.next_offset = max(self.next_offset, result.lowest)
                self._move()

        self._cluster.nodes[self._number].read(self.next_offset, answered)
