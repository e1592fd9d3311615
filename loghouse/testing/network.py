"""The simulated network: delay, loss, duplicates, reordering, stray late copies, one-way cuts and clogs.

It carries messages by reference between member numbers. Everything random comes
from one generator, so the same sends give the same fates.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loghouse.testing.clock import SimClock


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """How bad the network is, all the time; probabilities are per message.

    `ordered` keeps each direction of a link first in, first out, as one TCP connection does; without
    it messages overtake each other, as they do across reconnects. A `stray` copy arrives up to
    `stray_seconds_max` late.
    """

    delay_seconds_min: float = 0.0005
    delay_seconds_mean: float = 0.002
    loss: float = 0.0
    duplicate: float = 0.0
    stray: float = 0.0
    stray_seconds_max: float = 20.0
    ordered: bool = False

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "stray"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, from 0 to 1")


class LinkFaults:
    """What befalls the links between machines by their numbers: one-way cuts, clogs, slowness, delays."""

    def __init__(self, clock: SimClock, rng: random.Random, options: NetworkOptions) -> None:
        self.clock = clock
        self._random = rng.random
        self._options = options
        self._cut: set[tuple[int, int]] = set()
        self._clogged_until: dict[tuple[int, int], float] = {}
        self._slow: dict[int, float] = {}

    @property
    def options(self) -> NetworkOptions:
        """How bad the network is now."""
        return self._options

    def cut(self, source: int, target: int) -> None:
        """Let nothing pass from one machine to another, that in flight included."""
        self._cut.add((source, target))

    def mend(self, source: int, target: int) -> None:
        """End a cut."""
        self._cut.discard((source, target))

    def clog(self, source: int, target: int, seconds: float) -> None:
        """Hold everything sent from one machine to another back for a while, then deliver it."""
        self._clogged_until[(source, target)] = self.clock.seconds() + seconds

    def slow_down(self, node: int, delay_seconds: float) -> None:
        """Add a delay to everything a machine sends; 0 ends it."""
        self._slow[node] = delay_seconds

    def heal(self, delay_seconds_mean: float) -> None:
        """End every cut, clog and slowness; from now on lose and double nothing, with at most this delay."""
        self._clogged_until.clear()
        self._slow.clear()
        for source, target in sorted(self._cut):
            self.mend(source, target)
        options = self._options
        self._options = NetworkOptions(
            delay_seconds_min=options.delay_seconds_min,
            delay_seconds_mean=min(delay_seconds_mean, options.delay_seconds_mean),
            ordered=options.ordered,
        )

    def is_cut(self, source: int, target: int) -> bool:
        """Whether nothing passes from one machine to another now."""
        return (source, target) in self._cut

    def _draw_jitter(self) -> float:
        # The product of two uniforms has a long thin tail towards large values after the division.
        return self._options.delay_seconds_mean * (1.0 / (1.0 - 0.95 * self._random()) - 1.0) * 0.5


class SimNetwork(LinkFaults):
    """Carries messages between nodes, or does not."""

    def __init__(
        self,
        clock: SimClock,
        rng: random.Random,
        options: NetworkOptions,
        deliver: Callable[[int, int, Any], None],
    ) -> None:
        super().__init__(clock, rng, options)
        self._deliver = deliver
        self._last_arrival: dict[tuple[int, int], float] = {}
        self.sent = self.delivered = self.lost = self.duplicated = self.strayed = self.blocked = 0

    # --- carrying -----------------------------------------------------------------

    def send(self, source: int, target: int, message: Any) -> None:
        """Send a message; what becomes of it is drawn now."""
        self.sent += 1
        link = (source, target)
        if link in self._cut:
            self.blocked += 1
            return
        options = self._options
        draw = self._random
        if options.loss and draw() < options.loss:
            self.lost += 1
        else:
            self._carry(link, message, self._arrival(link))
        if options.duplicate and draw() < options.duplicate:
            self.duplicated += 1
            self._carry(link, message, self._arrival(link))
        if options.stray and draw() < options.stray:
            self.strayed += 1
            self._carry(link, message, self.clock.seconds() + draw() * options.stray_seconds_max)

    def _arrival(self, link: tuple[int, int]) -> float:
        options = self._options
        jitter = self._draw_jitter()
        when = self.clock.seconds() + options.delay_seconds_min + jitter
        if self._slow:
            when += self._slow.get(link[0], 0.0)
        if self._clogged_until:
            when = max(when, self._clogged_until.get(link, 0.0))
        if options.ordered:
            when = max(when, self._last_arrival.get(link, 0.0))
            self._last_arrival[link] = when
        return when

    def _carry(self, link: tuple[int, int], message: Any, when: float) -> None:
        self.clock.at(when, self._arrive, link, message)

    def _arrive(self, link: tuple[int, int], message: Any) -> None:
        if link in self._cut:
            self.blocked += 1
            return
        self.delivered += 1
        self._deliver(link[0], link[1], message)
