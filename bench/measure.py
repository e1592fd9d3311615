"""What every benchmark needs: alternating rounds, medians, ratios, and a table at the end."""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


class Table:
    """Figures of one run, against their bars."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(
        self, name: str, value: float, unit: str, *, bar: float | None = None, at_most: bool = False
    ) -> None:
        """Note a figure; `bar` is the least (or, `at_most`, the most) it should be."""
        ok = None if bar is None else (value <= bar if at_most else value >= bar)
        sign = "<=" if at_most else ">="
        self.rows.append({"name": name, "value": value, "unit": unit, "bar": bar, "ok": ok})
        verdict = "" if bar is None else f"   {'ok' if ok else 'MISSED'}: {sign} {bar:g}"
        print(f"{name:<66} {value:>10.3g} {unit}{verdict}", flush=True)


def rounds(count: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turn, `count` times; the machine's speed drifts, so only pairs compare."""
    results: list[list[float]] = [[] for _ in sides]
    for _ in range(count):
        for result, side in zip(results, sides, strict=True):
            result.append(side())
    return results


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios, pair by pair."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory on the disk to measure: BENCH_DIR, else the temporary one."""
    return tempfile.TemporaryDirectory(prefix="loghouse-bench-", dir=os.environ.get("BENCH_DIR"))


def arguments(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--rounds", type=int, default=5, help="pairs to run; medians are of these")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", default="", help="run only the parts whose name contains this")
    return parser.parse_args()


def finish(table: Table, options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(json.dumps(table.rows, indent=1))
    missed = [row["name"] for row in table.rows if row["ok"] is False]
    if missed:
        print(f"missed: {', '.join(map(str, missed))}")
    sys.exit(0)
