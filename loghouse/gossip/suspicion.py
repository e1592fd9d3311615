"""How long a suspect has to refute: Lifeguard's LHA-Suspicion, pure."""

from __future__ import annotations

from math import log, log10

from loghouse.gossip.config import SwimConfig


def suspicion_ticks_range(config: SwimConfig, live: int) -> tuple[int, int]:
    """Return the shortest and the longest time a suspect has, in ticks, among `live` members.

    The shortest grows with log10 of the number of members, as does the time gossip takes to reach them all.
    """
    low = round(config.suspicion_factor * max(1.0, log10(max(live, 1))) * config.probe_ticks)
    return low, low * config.suspicion_max_factor


def confirmations_expected(config: SwimConfig, live: int) -> int:
    """Return how many further accusers bring a suspicion to its shortest time; 0 if there are too few."""
    expected = config.suspicion_factor - 2
    # The suspect and the first accuser do not confirm.
    return expected if 0 < expected <= live - 2 else 0


def suspicion_ticks(confirmations: int, expected: int, low: int, high: int) -> int:
    """Return how long a suspect has from the first accusation on, in ticks.

    Falls from `high` to `low` with the logarithm of the confirmations, so that the first ones count most.

    Args:
        confirmations: Distinct further accusers, 0 or more.
        expected: How many drive it to `low`; 0 means no confirmation can come, and the time is `low`.
        low, high: Bounds, in ticks.
    """
    if expected < 1:
        return low
    share = log(min(confirmations, expected) + 1) / log(expected + 1)
    return max(low, int(high - share * (high - low)))


class Suspicion:
    """A suspicion under way: since when, and by whom."""

    __slots__ = ("_accusers", "_expected", "_high", "_low", "_since_tick")

    def __init__(self, config: SwimConfig, live: int, accuser: str, tick: int) -> None:
        self._low, self._high = suspicion_ticks_range(config, live)
        self._expected = confirmations_expected(config, live)
        self._accusers = {accuser}
        self._since_tick = tick

    def confirm(self, accuser: str) -> bool:
        """Count an accuser; return whether it is a new one, worth spreading (at most `expected` times)."""
        if accuser in self._accusers or len(self._accusers) > self._expected:
            return False
        self._accusers.add(accuser)
        return True

    def is_over(self, tick: int, stretch: int) -> bool:
        """Whether the suspect's time is over. `stretch`, 1 or more, is how far we mistrust ourselves.

        Stretching this, too, differs from the paper, where only probes are: a member that hears late hears
        refutations late.
        """
        allowed = suspicion_ticks(len(self._accusers) - 1, self._expected, self._low, self._high)
        return tick - self._since_tick >= allowed * stretch
