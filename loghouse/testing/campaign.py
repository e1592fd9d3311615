"""Many seeds, one after the other, within a budget; what they did, in numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loghouse.testing.simulation import RunResult
from loghouse.testing.worlds import CORE, World


@dataclass(slots=True)
class Summary:
    """The sum of many runs. `failures` lists (seed, what was broken)."""

    seeds: int = 0
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, result: RunResult) -> None:
        """Add one run."""
        self.seeds += 1
        self.simulated_seconds += result.simulated_seconds
        self.faults += result.faults
        self.counters += result.counters
        if result.violation is not None:
            self.failures.append((result.seed, str(result.violation)))

    @property
    def cluster_hours(self) -> float:
        """Simulated hours of clusters."""
        return self.simulated_seconds / 3600

    def report(self) -> dict[str, object]:
        """Return everything as plain values for JSON."""
        messages = self.counters["messages"]
        return {
            "seeds": self.seeds,
            "cluster_hours": round(self.cluster_hours, 3),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "times_real_time": round(self.simulated_seconds / max(self.cpu_seconds, 1e-9), 1),
            "messages_per_cpu_second": round(messages / max(self.cpu_seconds, 1e-9)),
            "faults_injected": self.faults.total(),
            "faults": dict(sorted(self.faults.items())),
            "counters": dict(sorted(self.counters.items())),
            "violations": len(self.failures),
            "failures": [{"seed": seed, "violation": text} for seed, text in self.failures],
        }


def run_campaign(
    seeds: Iterable[int],
    *,
    enough: Callable[[Summary], bool],
    progress: Callable[[Summary, RunResult], None] = lambda summary, result: None,
    world: World = CORE,
) -> Summary:
    """Run seeds in a world until `enough`, told `progress` after each; a failing one stops no other."""
    summary = Summary()
    for seed in seeds:
        begin = time.process_time()
        result = world.run(world.draw(seed))
        summary.cpu_seconds += time.process_time() - begin
        summary.add(result)
        progress(summary, result)
        if enough(summary):
            break
    return summary
