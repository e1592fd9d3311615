"""Random mutants of the product, judged by the tests that reach them. See docs/mutation.md."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

from bench.mutate.campaign import ROOT, Campaign, RandomMutant, Sources, Verdict, source_files
from bench.mutate.report import Score, written

RESULTS: Final = ROOT / "build/mutate"
REPORT: Final = ROOT / "docs/mutation.md"
FEWER: Final = {
    "LOGHOUSE_PROCESS_TESTS": "0",
    "LOGHOUSE_CRASH_STATES": "100",
    "LOGHOUSE_BIT_FLIPS": "0.003",
}
"""Knobs of tests: none of processes, which would not have the mutant, and some that are long in short."""


def parts() -> list[str]:
    """Return the parts of the product: folders, and modules beside them. What only tests use is none."""
    found = [path for path in sorted((ROOT / "loghouse").iterdir()) if not path.name.startswith("_")]
    names = [path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()]
    return [name for name in names if name != "testing"]


def changed_lines(base: str) -> dict[Path, set[int]]:
    """Return the lines of the product that are new since a commit; nothing when it is unknown."""
    command = ["git", "-C", str(ROOT), "diff", "--unified=0", "--no-color", base, "--", "loghouse"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines: dict[Path, set[int]] = defaultdict(set)
    file = ROOT
    for line in done.stdout.splitlines():
        if line.startswith("+++ "):
            file = ROOT / line.removeprefix("+++ b/")
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            lines[file].update(range(first, first + count))
    return {
        file: numbers
        for file, numbers in lines.items()
        if file.suffix == ".py" and file.exists() and "testing" not in file.parts and "v1" not in file.parts
    }


def again(sources: Sources, package: str) -> list[RandomMutant]:
    """Return what the last run over a part left over, as far as the product still has it."""
    left = {tuple(key) for key in json.loads((RESULTS / f"{package}.json").read_text())}
    files = source_files(package)
    return [mutant for file in files for mutant in sources.all_of(file) if mutant.key in left]


def left_over(verdicts: list[Verdict]) -> list[Verdict]:
    """Return the mutants that nothing caught."""
    return [verdict for verdict in verdicts if verdict.outcome in ("survived", "not covered")]


def draw(options: argparse.Namespace, sources: Sources, package: str) -> list[RandomMutant]:
    """Return the mutants that the command asks for."""
    seed = f"{options.seed} {package}"
    if options.changed:
        lines = changed_lines(options.changed)
        return sources.draw(sorted(lines), options.count, seed, lines)
    if options.again:
        return again(sources, package)
    if options.scope:
        found = [mutant for file in source_files(package) for mutant in sources.all_of(file)]
        return [mutant for mutant in found if re.fullmatch(options.scope, mutant.change.scope)]
    return sources.draw(source_files(package), options.count, seed)


def run(options: argparse.Namespace, package: str) -> Score:
    """Run one campaign over a part of the product, or over what changed; returns what came of it."""
    sources = Sources()
    mutants = draw(options, sources, package)
    if not mutants:
        print("nothing to mutate")
        return Score.of([])
    verdicts = Campaign(
        sources,
        mutants,
        seconds_each=options.seconds_each,
        seconds_in_all=options.seconds or float("inf"),
        only=options.tests,
        tell=lambda line: print(line, flush=True),
    ).run(options.jobs)
    score = Score.of(verdicts)
    print(f"\n{package or options.changed}: {score}")
    if package:
        RESULTS.mkdir(parents=True, exist_ok=True)
        keys = [verdict.mutant.key for verdict in left_over(verdicts)]
        (RESULTS / f"{package}.json").write_text(json.dumps(keys, indent=1))
    if package and options.report:
        REPORT.write_text(written(REPORT.read_text(), package, options.seed, score))
    return score


def main() -> int:
    """Run a campaign for each part; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutate", description=__doc__)
    parser.add_argument(
        "packages", nargs="*", metavar="PACKAGE", help="raft, storage, shares, ...; default all"
    )
    parser.add_argument("--changed", default="", metavar="COMMIT", help="only lines that are new since then")
    parser.add_argument("--again", action="store_true", help="what the last run over a package left over")
    parser.add_argument("--scope", default="", help="all mutants of these functions, a pattern: Log.open.*")
    parser.add_argument("--count", type=int, default=40, help="of mutants for each package")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--tests", nargs="*", default=(), metavar="MODULE", help="these judge, and no others")
    parser.add_argument("--seconds-each", type=float, default=30.0, help="of tests, for each mutant")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="in all for each package; default no bound"
    )
    parser.add_argument("--at-least", type=float, default=0.0, help="fail when fewer per cent are caught")
    parser.add_argument("--report", action="store_true", help="write the rows of docs/mutation.md")
    options = parser.parse_args()
    for name, value in FEWER.items():
        os.environ.setdefault(name, value)
    packages = [""] if options.changed else options.packages or parts()
    scores = [run(options, package) for package in packages]
    return 0 if all(score.percent >= options.at_least for score in scores) else 1


if __name__ == "__main__":
    sys.exit(main())
