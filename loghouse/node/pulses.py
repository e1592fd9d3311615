"""What the beats of other nodes say: who is there, in which life, and which logs sleep. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from loghouse.protocol.beat_messages import decode_sleeping

LIVES_MAX: Final = 8
"""Lives of a node that are remembered to be over: a beat of one of them may still be on its way."""


class News(Enum):
    """What a beat has told that was not known."""

    NONE = "none"
    SAID = "said"
    """Other logs sleep."""
    BACK = "back"
    """The node is there again, in the same life: it may lack what happened meanwhile."""
    LIFE = "life"
    """It is there in a new life: what it knew of leaders is gone, and it leads nothing."""


@dataclass(slots=True)
class _Pulse:
    """One other node.

    `life` is that of its last beat, `over` those before. `silent_ticks` counts since that beat; at the bound
    the node is not there. `sleeping` is what the beat said, `said` the same by group.
    """

    life: int
    over: deque[int] = field(default_factory=lambda: deque(maxlen=LIVES_MAX))
    silent_ticks: int = 0
    sleeping: bytes = b""
    said: dict[int, tuple[int, int]] = field(default_factory=dict)


class Pulses:
    """The other nodes by their beats."""

    def __init__(self, silent_ticks_max: int) -> None:
        """Know nobody; a node without a beat for so many ticks is not there."""
        self._silent_ticks_max = silent_ticks_max  # fixed
        self._pulses: dict[str, _Pulse] = {}  # those that ever beat, by name

    def heard(self, name: str, life: int, sleeping: bytes) -> News:
        """Take a beat; return what is new in it."""
        pulse = self._pulses.get(name)
        if pulse is None:
            pulse = self._pulses[name] = _Pulse(life)
            news = News.LIFE
        elif life != pulse.life:
            if life in pulse.over:
                return News.NONE  # it was under way for long: that process is gone
            pulse.over.append(pulse.life)
            pulse.life = life
            news = News.LIFE
        elif pulse.silent_ticks >= self._silent_ticks_max:
            news = News.BACK
        else:
            news = News.SAID if sleeping != pulse.sleeping else News.NONE
        pulse.silent_ticks = 0
        if sleeping != pulse.sleeping:
            pulse.sleeping, pulse.said = sleeping, decode_sleeping(sleeping)
        return news

    def tick(self) -> list[str]:
        """Let one tick pass; return the names of those that are not there any more."""
        gone = []
        for name, pulse in self._pulses.items():
            pulse.silent_ticks += 1
            if pulse.silent_ticks == self._silent_ticks_max:
                gone.append(name)
        return gone

    def lost(self, name: str) -> None:
        """The link with a node is gone: it is not there before its next beat."""
        pulse = self._pulses.get(name)
        if pulse is not None:
            pulse.silent_ticks = max(pulse.silent_ticks, self._silent_ticks_max)

    def keep(self, names: Set[str]) -> None:
        """Forget all nodes but these."""
        for name in self._pulses.keys() - names:
            del self._pulses[name]

    def is_here(self, name: str) -> bool:
        """Whether a node beats."""
        pulse = self._pulses.get(name)
        return pulse is not None and pulse.silent_ticks < self._silent_ticks_max

    def said(self, name: str, group: int) -> tuple[int, int] | None:
        """Return term and last index of a log that sleeps under the lead of a node; None when none does."""
        pulse = self._pulses.get(name)
        if pulse is None or pulse.silent_ticks >= self._silent_ticks_max:
            return None
        return pulse.said.get(group)
