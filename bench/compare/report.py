"""What the figures of a comparison say: tables for people, and the section of docs/performance.md."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.shape import shape_of

BEGIN, END = "<!-- made by `make compare`: begin -->", "<!-- made by `make compare`: end -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """A column: what it is called, and how a figure of the JSON becomes text."""

    title: str
    name: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 0

    def text(self, cell: dict[str, Any]) -> str:
        """Return the medians of both sides."""
        ours, theirs = (f"{value * self.scale:,.{self.digits}f}" for value in medians(cell, self.name))
        return f"{ours} / {theirs}{self.unit}"


_CPU = Figure("CPU µs a record", "cpu_microseconds")
# The title of a kind of shapes, what its ratios are of, and what else stands beside.
TABLES: dict[str, tuple[str, dict[str, str], tuple[Figure, ...]]] = {
    "append": (
        "Appends",
        {"ratio": "per_second", "p99, ratio": "p99_seconds"},
        (
            Figure("records/s", "per_second"),
            Figure("p99", "p99_seconds", " ms", 1e3, 1),
            _CPU,
            Figure("memory of three nodes", "resident_mib", " MiB"),
        ),
    ),
    "read": (
        "Reads from the start of a log",
        {"in bulk, ratio": "bulk_megabytes_per_second", "one by one, ratio": "per_second"},
        (
            Figure("in bulk", "bulk_megabytes_per_second", " MB/s"),
            Figure("one by one, records/s", "per_second"),
            _CPU,
        ),
    ),
    "failover": (
        "Longest time without an acknowledgement",
        {"ratio": "gap_seconds"},
        (Figure("median", "gap_seconds", " s", 1.0, 2),),
    ),
}


def medians(cell: dict[str, Any], name: str) -> tuple[float, float]:
    """Return the median of a figure on either side, ours first."""
    return (
        statistics.median(pair["ours"][name] for pair in cell["pairs"]),
        statistics.median(pair["theirs"][name] for pair in cell["pairs"]),
    )


def ratios(cell: dict[str, Any], name: str) -> tuple[float, float, float]:
    """Return the median of ours to theirs, pair by pair, and the least and the largest."""
    found = [pair["ours"][name] / pair["theirs"][name] for pair in cell["pairs"]]
    return statistics.median(found), min(found), max(found)


def tables(figures: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Return a table for each kind of shapes that was measured, with its headings first."""
    found = {}
    for kind, (title, compared, beside) in TABLES.items():
        cells = [cell for cell in figures["cells"] if shape_of(cell["shape"]).kind == kind]
        if cells:
            headings = ("peer", "shape", *compared, *(f"{figure.title}, ours / peer's" for figure in beside))
            found[title] = [headings, *(_row(cell, compared.values(), beside) for cell in cells)]
    return found


def _row(cell: dict[str, Any], compared: Iterable[str], beside: Iterable[Figure]) -> tuple[str, ...]:
    return (
        f"{cell['peer']} {cell['version']}",
        shape_of(cell["shape"]).title,
        *(_with_range(ratios(cell, name)) for name in compared),
        *(figure.text(cell) for figure in beside),
    )


def _with_range(found: tuple[float, float, float]) -> str:
    middle, least, most = found
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def text(figures: dict[str, Any]) -> str:
    """Return the tables for a terminal."""
    lines: list[str] = []
    for title, table in tables(figures).items():
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append(f"{title}:")
        for row in table:
            padded = (word.ljust(width) for word, width in zip(row, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        lines.append("")
    return "\n".join([*lines, *map(_not_compared, figures["unavailable"])])


def markdown(figures: dict[str, Any], plots: Sequence[str]) -> str:
    """Return what stands between the markers; `plots` are addresses relative to docs/."""
    kinds = {f"{cell['peer']}: {cell['durability']}" for cell in figures["cells"]}
    lines = [
        f"Measured {figures['date']} by {figures['interpreter']}; after a warm one, {figures['rounds']}",
        "alternating pairs a row. A ratio is ours to the peer's: the median of the pairs, and their range.",
        f"What an acknowledgement means: {'; '.join(sorted(kinds))}.",
        "",
    ]
    for title, (headings, *rows) in tables(figures).items():
        lines += [f"{title}:", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
        lines += [*("| " + " | ".join(row) + " |" for row in rows), ""]
    lines += [*(f"- {_not_compared(reason)}" for reason in figures["unavailable"]), ""]
    lines += [f"![{Path(name).stem}]({name})" for name in plots]
    return "\n".join(lines).strip() + "\n"


def _not_compared(reason: str) -> str:
    return f"Not compared: {reason}"


def replaced(document: str, section: str) -> str:
    """Return a document with another text between the markers.

    Raises:
        ValueError: It has no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the figures: {BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n{section}{END}{after}"
