"""Run the simulator: `python -m loghouse.testing.sim --help`.

One seed again, step by step:   --seed 17 --trace
The smallest schedule:          --seed 17 --shrink
Many cluster-hours:             --hours 50 --json report.json
What CI runs:                   --ci   (every planted bug, then clean seeds)
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from loghouse.testing.bank import Catch, hunt_all, hunt_table
from loghouse.testing.campaign import Summary, run_campaign
from loghouse.testing.cluster import RunResult, run_seed
from loghouse.testing.nemesis import plan_faults
from loghouse.testing.shrink import Shrinker
from loghouse.testing.swarm import draw_options

# What the whole CI run may take, in CPU seconds: mutants first, then clean seeds with what is left.
CI_SECONDS = 220.0
CI_HOURS_MIN = 2.0
CI_FAULTS_MIN = 20_000
MUTANTS = "tests.mutants"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loghouse.testing.sim", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, help="run this seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    parser.add_argument("--shrink", action="store_true", help="with --seed: find a small schedule that fails")
    parser.add_argument("--mutant", help="with --seed, --shrink or alone: plant this bug")
    parser.add_argument("--hours", type=float, help="run seeds until so many cluster-hours are simulated")
    parser.add_argument("--first", type=int, default=1_000_000, help="with --hours, --ci: the first seed")
    parser.add_argument("--ci", action="store_true", help="every planted bug, then clean seeds")
    parser.add_argument("--json", type=Path, help="write a report to this file")
    given = parser.parse_args(arguments)
    if given.ci:
        return run_ci(given.first, given.json)
    if given.hours is not None:
        return run_hours(given.hours, given.first, given.json)
    if given.mutant is not None:
        return run_mutant(given.mutant)
    if given.seed is None:
        parser.error("one of --seed, --mutant, --hours, --ci is needed")
    return run_one(given.seed, trace=given.trace, shrink=given.shrink)


def run_one(seed: int, *, trace: bool, shrink: bool) -> int:
    """Run a seed; say what came of it, and its trace hash."""
    result = run_seed(draw_options(seed), write_trace=print if trace else None)
    print(f"seed {seed}: {result.violation or 'clean'}")
    print(f"trace hash {result.digest}; {result.simulated_seconds:.1f} s simulated")
    print(f"faults {dict(sorted(result.faults.items()))}")
    print(f"counters {dict(sorted(result.counters.items()))}")
    if result.violation is None:
        return 0
    if result.violation.__cause__ is not None:
        traceback.print_exception(result.violation.__cause__)
    if shrink:
        options = draw_options(seed)
        shrunk = Shrinker(options, result.violation.rule).shrink()
        print(f"{len(plan_faults(options))} faults shrunk to {len(shrunk.faults)} in {shrunk.tries} tries:")
        for fault in shrunk.faults:
            print(f"  {fault}")
        print(f"ends after {shrunk.result.simulated_seconds:.3f} s: {shrunk.result.violation}")
    return 1


def _write_report(path: Path | None, report: dict[str, object]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")


def _tell_failure(_: Summary, result: RunResult) -> None:
    if result.violation is not None:
        print(f"FAILED seed {result.seed}: {result.violation}")
        print(f"  again: python -m loghouse.testing.sim --seed {result.seed} --trace", flush=True)


def run_hours(hours: float, first: int, path: Path | None) -> int:
    """Run seeds from `first` on until so many cluster-hours are simulated; write progress and a report."""
    last_told = time.monotonic()

    def progress(summary: Summary, result: RunResult) -> None:
        nonlocal last_told
        _tell_failure(summary, result)
        if time.monotonic() - last_told > 10:
            last_told = time.monotonic()
            print(
                f"{summary.cluster_hours:8.2f} h, {summary.seeds} seeds, {summary.faults.total()} faults, "
                f"{len(summary.failures)} violations, {summary.cpu_seconds:.0f} CPU-s",
                flush=True,
            )
            _write_report(path, summary.report())

    summary = run_campaign(count(first), enough=lambda s: s.cluster_hours >= hours, progress=progress)
    report = summary.report()
    _write_report(path, report)
    print(json.dumps(report, indent=2))
    return 1 if summary.failures else 0


def run_mutant(name: str) -> int:
    """Hunt one planted bug."""
    bank = [mutant for mutant in importlib.import_module(MUTANTS).BANK if mutant.name == name]
    if not bank:
        print(f"no mutant is called {name!r}")
        return 2
    catches = hunt_all(bank, seconds_each=120)
    print(hunt_table(catches))
    return 0 if all(catch.rule for catch in catches) else 1


def _tell_catch(catch: Catch) -> None:
    outcome = f"caught by {catch.rule}" if catch.rule else "SURVIVED"
    print(f"{catch.name}: {outcome}, {catch.seeds_tried} seeds, {catch.cpu_seconds:.1f} s", flush=True)


def run_ci(first: int, path: Path | None) -> int:
    """Hunt every planted bug, then run clean seeds until there were enough hours and faults.

    `LOGHOUSE_SIM_SECONDS` of CPU are what both should take; at twice that, on whatever machine, it gives up.

    Must be run from the repository's root: the bugs are in `tests/mutants/`.
    """
    budget = float(os.environ.get("LOGHOUSE_SIM_SECONDS", CI_SECONDS))
    begin = time.process_time()
    catches = hunt_all(importlib.import_module(MUTANTS).BANK, seconds_each=60, tell=_tell_catch)
    print(hunt_table(catches))
    survivors = [catch.name for catch in catches if not catch.rule]
    spent = time.process_time() - begin

    def enough(summary: Summary) -> bool:
        reached = summary.cluster_hours >= CI_HOURS_MIN and summary.faults.total() >= CI_FAULTS_MIN
        return reached or spent + summary.cpu_seconds > 2 * budget

    summary = run_campaign(count(first), enough=enough, progress=_tell_failure)
    report = summary.report()
    report["mutants"] = [catch.report() for catch in catches]
    report["mutant_cpu_seconds"] = round(spent, 1)
    _write_report(path, report)
    print(json.dumps({key: value for key, value in report.items() if key != "mutants"}, indent=2))
    for name in survivors:
        print(f"SURVIVED: mutant {name}")
    short = summary.cluster_hours < CI_HOURS_MIN or summary.faults.total() < CI_FAULTS_MIN
    if short:
        print(f"too little: {CI_HOURS_MIN} cluster-hours and {CI_FAULTS_MIN} faults are asked for")
    return 1 if survivors or summary.failures or short else 0


if __name__ == "__main__":
    sys.exit(main())
