"""What a seed can be run in: the core on its storage, or whole production nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from loghouse.testing.cluster import run_seed
from loghouse.testing.full.cluster import run_full_seed
from loghouse.testing.full.swarm import draw_full_options
from loghouse.testing.simulation import RunResult
from loghouse.testing.swarm import draw_options


@dataclass(frozen=True, slots=True)
class World:
    """How a seed's options are drawn, how they are run, and what must be on the command line to have that."""

    flag: str
    draw: Callable[[int], Any]
    run: Callable[..., RunResult]


CORE: Final = World("", draw_options, run_seed)
FULL: Final = World("--full ", draw_full_options, run_full_seed)
