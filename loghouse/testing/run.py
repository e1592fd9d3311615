"""What the machines of a run share: time, chance, the oracle's books, and what was found."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.clock import SimClock
from loghouse.testing.disk import MappingFaultError
from loghouse.testing.streams import substream
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.trace import RunTrace


class Run:
    """One seed's run as its machines see it. `simulation.Simulation` lets it happen."""

    options: SwarmOptions
    nodes: dict[int, Any]
    network: Any
    atlas: Any
    nemesis: Any

    def __init__(self, options: SwarmOptions, write_trace: Callable[[str], object] | None = None) -> None:
        """Prepare; nothing runs yet. `write_trace` gets every step as a line."""
        self.options = options
        self.clock = SimClock()
        self.trace = RunTrace(self.clock.seconds, write_trace)
        self.oracle = Oracle()
        # The machine whose process is at work, or empty; and what was found first.
        self.current = ""
        self._violation: Violation | None = None

    def stream(self, name: str) -> random.Random:
        """Return the generator of one concern of this seed."""
        return substream(self.options.seed, name)

    @property
    def frame_seed(self) -> int:
        """The seed of the cluster's frames; 0 before there is a cluster."""
        raise NotImplementedError

    def books_of(self, group: int) -> Any:
        """The books of a group that has a name, where machines have such."""
        raise NotImplementedError

    def guarded(self, check: Callable[..., object], *args: Any) -> None:
        """Ask the oracle; what it finds ends the run, whoever catches the exception on its way."""
        try:
            check(*args)
        except Violation as violation:
            self.crashed("", violation)
            raise

    def crashed(self, name: str, error: BaseException | None) -> None:
        """A node met an error that nothing explains."""
        if self._violation is None:
            self._violation = violation_of(f"{name}: ", error)

    def check(self) -> None:
        """Raise the `Violation` that was found, if any was."""
        if self._violation is not None:
            raise self._violation


def violation_of(prefix: str, error: BaseException | None) -> Violation:
    """Return what an error, met in a process, breaks."""
    if isinstance(error, Violation):
        return error
    rule = "mapping" if isinstance(error, MappingFaultError) else "crash"
    violation = Violation(rule, f"{prefix}{type(error).__name__}: {error}")
    violation.__cause__ = error
    return violation
