"""What a campaign found, as numbers and as a row of docs/mutation.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.mutate.campaign import Verdict


@dataclass(frozen=True, slots=True)
class Score:
    """How many mutants had which outcome; equivalent ones and those not tried are not judged."""

    caught: int
    hung: int  # of the caught: by the time limit
    survived: int
    not_covered: int
    equivalent: int
    not_tried: int

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Score:
        """Count verdicts."""
        count = Counter(verdict.outcome for verdict in verdicts)
        return cls(
            caught=count["caught"],
            hung=sum(verdict.is_hung for verdict in verdicts),
            survived=count["survived"],
            not_covered=count["not covered"],
            equivalent=count["equivalent"],
            not_tried=count["not tried"],
        )

    @property
    def judged(self) -> int:
        """All but equivalent ones and those not tried."""
        return self.caught + self.survived + self.not_covered

    @property
    def percent(self) -> float:
        """Caught of the judged; 100 when none was judged."""
        return 100 * self.caught / self.judged if self.judged else 100.0

    def __str__(self) -> str:
        """Return all in a line."""
        return (
            f"{self.judged} judged, {self.caught} caught ({self.hung} by time), {self.survived} survived, "
            f"{self.not_covered} not covered: {self.percent:.0f} %; "
            f"{self.equivalent} equivalent, {self.not_tried} not tried"
        )


def written(text: str, package: str, seed: int, score: Score) -> str:
    """Return a report's text with the row of a package put in its place, or added in alphabetical order."""
    numbers = (score.judged, score.caught, score.hung, score.survived, score.not_covered, score.equivalent)
    row = f"| {package} | {seed} | {' | '.join(map(str, numbers))} | {score.percent:.0f} % |"
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    end = next(
        (number for number in range(first, len(lines)) if not lines[number].startswith("|")), len(lines)
    )
    rows = [line for line in lines[first:end] if not line.startswith(f"| {package} |")]
    return "\n".join([*lines[:first], *sorted([*rows, row]), *lines[end:], ""])
