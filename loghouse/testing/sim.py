"""Run the simulator: `python -m loghouse.testing.sim --help`.

One seed again, step by step:   --seed 17 --trace
The smallest schedule:          --seed 17 --shrink
Many cluster-hours:             --hours 50 --json report.json
What CI runs:                   --ci   (every planted bug, then clean seeds)

With --full the machines run whole production nodes; without, the core on its storage.
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
from contextlib import nullcontext
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import cast

from twisted.logger import ILogObserver, globalLogBeginner

from loghouse.testing.bank import Catch, hunt_all, hunt_table, options_for
from loghouse.testing.campaign import Summary, run_campaign
from loghouse.testing.mutation import Mutant, planted
from loghouse.testing.nemesis import plan_faults
from loghouse.testing.shrink import Shrinker
from loghouse.testing.simulation import RunResult
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.worlds import CORE, FULL, NAMED, World, named_world

# What the whole CI run should take, in CPU seconds: mutants first, then clean seeds. Twice that ends it:
# seconds of a CPU that others use weigh up to twice as much (their caches, their hyper-threads).
CI_SECONDS = 400.0
CI_HOURS_MIN = 2.0
CI_FAULTS_MIN = 20_000
# The share of whole nodes in that, beyond the figures above.
CI_FULL_HOURS_MIN = 0.5
MUTANTS = "tests.mutants"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loghouse.testing.sim", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--full", action="store_true", help="run whole production nodes")
    parser.add_argument(
        "--logs",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="the same with named logs, too: N of them, or as many as the seed says",
    )
    parser.add_argument("--seed", type=int, help="run this seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    parser.add_argument("--shrink", action="store_true", help="with --seed: find a small schedule that fails")
    parser.add_argument("--mutant", help="with --seed, --shrink or alone: plant this bug")
    parser.add_argument("--hours", type=float, help="run seeds until so many cluster-hours are simulated")
    parser.add_argument("--first", type=int, default=1_000_000, help="with --hours, --ci: the first seed")
    parser.add_argument("--ci", action="store_true", help="every planted bug, then clean seeds")
    parser.add_argument("--json", type=Path, help="write a report to this file")
    given = parser.parse_args(arguments)
    _hush_nodes()
    world = FULL if given.full else CORE
    if given.logs is not None:
        world = named_world(given.logs) if given.logs else NAMED
    if given.ci:
        return run_ci(given.first, given.json)
    if given.hours is not None:
        return run_hours(given.hours, given.first, given.json, world)
    mutant = None
    if given.mutant is not None:
        mutant = next((one for one in _bank(world) if one.name == given.mutant), None)
        if mutant is None:
            parser.error(f"no mutant is called {given.mutant!r}")
        if given.seed is None:
            (catch,) = hunt_all([mutant], seconds_each=120, world=world)
            print(hunt_table([catch]))
            return 0 if catch.rule else 1
    if given.seed is None:
        parser.error("one of --seed, --mutant, --hours, --ci is needed")
    options = options_for(mutant, given.seed, world) if mutant is not None else world.draw(given.seed)
    with planted(mutant) if mutant is not None else nullcontext():
        return run_one(options, trace=given.trace, shrink=given.shrink, world=world)


def _hush_nodes() -> None:
    """What simulated nodes write into their diagnostics is part of the trace, and nobody's else."""
    nobody = cast(ILogObserver, lambda event: None)
    try:
        globalLogBeginner.beginLoggingTo([nobody], redirectStandardIO=False, discardBuffer=True)
    except AssertionError:
        return  # a test runner began before


def _bank(world: World) -> Sequence[Mutant]:
    mutants = importlib.import_module(MUTANTS)
    banks = {CORE.flag: mutants.BANK, FULL.flag: mutants.FULL_BANK}
    bank: Sequence[Mutant] = banks.get(world.flag, mutants.NAMED_BANK)
    return bank


def run_one(options: SwarmOptions, *, trace: bool, shrink: bool, world: World) -> int:
    """Run a seed; say what came of it, and its trace hash."""
    result = world.run(options, None, print if trace else None)
    print(f"seed {options.seed}: {result.violation or 'clean'}")
    print(f"trace hash {result.digest}; {result.simulated_seconds:.1f} s simulated")
    print(f"faults {dict(sorted(result.faults.items()))}")
    print(f"counters {dict(sorted(result.counters.items()))}")
    if result.violation is None:
        return 0
    if result.violation.__cause__ is not None:
        traceback.print_exception(result.violation.__cause__)
    if shrink:
        shrunk = Shrinker(options, result.violation.rule, run=world.run).shrink()
        print(f"{len(plan_faults(options))} faults shrunk to {len(shrunk.faults)} in {shrunk.tries} tries:")
        for fault in shrunk.faults:
            print(f"  {fault}")
        print(f"ends after {shrunk.result.simulated_seconds:.3f} s: {shrunk.result.violation}")
    return 1


def _write_report(path: Path | None, report: dict[str, object]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")


def _tell_failure(world: World, result: RunResult) -> None:
    if result.violation is not None:
        print(f"FAILED seed {result.seed}: {result.violation}")
        print(f"  again: python -m loghouse.testing.sim {world.flag}--seed {result.seed} --trace", flush=True)


def run_hours(hours: float, first: int, path: Path | None, world: World = CORE) -> int:
    """Run seeds from `first` on until so many cluster-hours are simulated; write progress and a report."""
    last_told = time.monotonic()

    def progress(summary: Summary, result: RunResult) -> None:
        nonlocal last_told
        _tell_failure(world, result)
        if time.monotonic() - last_told > 10:
            last_told = time.monotonic()
            print(
                f"{summary.cluster_hours:8.2f} h, {summary.seeds} seeds, {summary.faults.total()} faults, "
                f"{len(summary.failures)} violations, {summary.cpu_seconds:.0f} CPU-s",
                flush=True,
            )
            _write_report(path, summary.report())

    summary = run_campaign(
        count(first), enough=lambda s: s.cluster_hours >= hours, progress=progress, world=world
    )
    report = summary.report()
    _write_report(path, report)
    print(json.dumps(report, indent=2))
    return 1 if summary.failures else 0


def _tell_catch(catch: Catch) -> None:
    outcome = f"caught by {catch.rule}" if catch.rule else "SURVIVED"
    print(f"{catch.mutant}: {outcome}, {catch.seeds_tried} seeds, {catch.cpu_seconds:.1f} s", flush=True)


def run_ci(first: int, path: Path | None) -> int:
    """Hunt every planted bug, then run clean seeds until there were enough hours and faults.

    `LOGHOUSE_SIM_SECONDS` of CPU are what both should take; at twice that, on whatever machine, it gives up.

    Must be run from the repository's root: the bugs are in `tests/mutants/`.
    """
    budget = float(os.environ.get("LOGHOUSE_SIM_SECONDS", CI_SECONDS))
    begin = time.process_time()
    catches = hunt_all(_bank(CORE), seconds_each=60, tell=_tell_catch)
    full_catches = hunt_all(_bank(FULL), seconds_each=60, tell=_tell_catch, world=FULL)
    print(hunt_table([*catches, *full_catches]))
    survivors = [catch.mutant for catch in [*catches, *full_catches] if not catch.rule]
    spent = time.process_time() - begin

    def is_over() -> bool:
        return time.process_time() - begin > 2 * budget

    full = run_campaign(
        count(first),
        enough=lambda s: s.cluster_hours >= CI_FULL_HOURS_MIN or is_over(),
        progress=lambda _, result: _tell_failure(FULL, result),
        world=FULL,
    )

    def enough(summary: Summary) -> bool:
        return (
            summary.cluster_hours >= CI_HOURS_MIN and summary.faults.total() >= CI_FAULTS_MIN
        ) or is_over()

    core = run_campaign(count(first), enough=enough, progress=lambda _, result: _tell_failure(CORE, result))
    report = core.report()
    report["full"] = full.report()
    report["mutant_cpu_seconds"] = round(spent, 1)
    print(json.dumps(report, indent=2))
    report["mutants"] = [asdict(catch) for catch in catches]
    report["full_mutants"] = [asdict(catch) for catch in full_catches]
    _write_report(path, report)
    for name in survivors:
        print(f"SURVIVED: mutant {name}")
    short = core.cluster_hours < CI_HOURS_MIN or core.faults.total() < CI_FAULTS_MIN
    short = short or full.cluster_hours < CI_FULL_HOURS_MIN
    if short:
        print(
            f"too little: {CI_HOURS_MIN} cluster-hours and {CI_FAULTS_MIN} faults are asked for, and "
            f"{CI_FULL_HOURS_MIN} hours of whole nodes"
        )
    return 1 if survivors or core.failures or full.failures or short else 0


if __name__ == "__main__":
    sys.exit(main())
