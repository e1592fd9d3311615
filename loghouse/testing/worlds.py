"""What a seed can be run in: the core on its storage, or whole production nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from loghouse.testing.cluster import SimCluster
from loghouse.testing.full.cluster import FullCluster
from loghouse.testing.full.swarm import draw_full_options, draw_named_options
from loghouse.testing.simulation import RunResult
from loghouse.testing.swarm import draw_options


@dataclass(frozen=True, slots=True)
class World:
    """How a seed's options are drawn, what runs them, and what must be on the command line to have that."""

    flag: str
    draw: Callable[[int], Any]
    cluster: Callable[..., SimCluster | FullCluster]

    def run(self, options: Any, *args: Any) -> RunResult:
        """Run a seed from boot to judgement; arguments as `SimCluster`."""
        return self.cluster(options, *args).run()


CORE: Final = World("", draw_options, SimCluster)
FULL: Final = World("--full ", draw_full_options, FullCluster)
NAMED: Final = World("--logs ", draw_named_options, FullCluster)


def named_world(log_count: int) -> World:
    """Return `NAMED` with so many named logs in every seed."""
    return World(
        f"--logs {log_count} ", lambda seed: replace(draw_named_options(seed), logs=log_count), FullCluster
    )
