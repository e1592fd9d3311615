"""Making a failing seed small: fewer classes of faults, fewer faults, less time.

Everything but the schedule of faults stays as the seed drew it. Each try runs the whole
thing again, so there is a budget of tries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loghouse.testing.nemesis import Fault, plan_faults
from loghouse.testing.simulation import RunResult
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.worlds import CORE


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest failing run found: its options, its schedule, what it broke."""

    options: SwarmOptions
    faults: tuple[Fault, ...]
    result: RunResult
    tries: int


class Shrinker:
    """Tries smaller schedules; keeps each that still breaks the same rule."""

    def __init__(
        self,
        options: SwarmOptions,
        rule: str,
        tries_max: int = 200,
        run: Callable[[SwarmOptions, tuple[Fault, ...]], RunResult] = CORE.run,
    ) -> None:
        self._options = options
        self._faults = plan_faults(options)
        self._rule = rule
        self._tries_left = tries_max
        self._tries_max = tries_max
        self._run = run
        self._result: RunResult | None = None

    def _still_fails(self, options: SwarmOptions, faults: tuple[Fault, ...]) -> bool:
        if self._tries_left <= 0:
            return False
        self._tries_left -= 1
        result = self._run(options, faults)
        if result.violation is None or result.violation.rule != self._rule:
            return False
        self._options, self._faults, self._result = options, faults, result
        return True

    def shrink(self) -> Shrunk:
        """Return the smallest failing run found within the budget.

        Raises:
            ValueError: The seed does not break the rule as it is.
        """
        if not self._still_fails(self._options, self._faults):
            raise ValueError(f"seed {self._options.seed} does not break {self._rule!r}")
        self._cut_time()
        self._drop_classes()
        self._drop_faults()
        self._cut_time()
        assert self._result is not None
        return Shrunk(self._options, self._faults, self._result, self._tries_max - self._tries_left)

    def _cut_time(self) -> None:
        """End the safety phase just behind the violation."""
        assert self._result is not None
        end = self._result.simulated_seconds + 0.001
        if end < self._options.safety_seconds:
            faults = tuple(fault for fault in self._faults if fault.at < end)
            self._still_fails(replace(self._options, safety_seconds=end), faults)

    def _drop_classes(self) -> None:
        for kind in sorted({fault.kind for fault in self._faults}):
            self._still_fails(self._options, tuple(fault for fault in self._faults if fault.kind != kind))

    def _drop_faults(self) -> None:
        """Delta debugging: leave out ever smaller pieces of the schedule."""
        pieces = 2
        while len(self._faults) >= 1 and self._tries_left > 0:
            size = max(1, len(self._faults) // pieces)
            dropped = False
            for start in range(0, len(self._faults), size):
                rest = self._faults[:start] + self._faults[start + size :]
                if self._still_fails(self._options, rest):
                    dropped = True
                    break
            if dropped:
                pieces = max(2, pieces - 1)
            elif size == 1:
                break
            else:
                pieces *= 2
