"""What the figures of a comparison say: a table for people, and the section of docs/performance.md."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.shape import shape_of

BEGIN, END = "<!-- made by `make compare`: begin -->", "<!-- made by `make compare`: end -->"
HEADINGS = (
    "peer",
    "shape",
    "ours/s",
    "peer's/s",
    "ratio",
    "p99, ratio",
    "CPU µs a record, ours / peer's",
    "memory of three nodes, ours / peer's",
)


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


def rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each cell, as `HEADINGS` say."""
    return [_row(cell) for cell in figures["cells"]]


def _row(cell: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = medians(cell, "per_second")
    cpu, peer_cpu = medians(cell, "cpu_microseconds")
    memory, peer_memory = medians(cell, "resident_mib")
    return (
        f"{cell['peer']} {cell['version']}",
        shape_of(cell["shape"]).title,
        f"{ours:,.0f}",
        f"{theirs:,.0f}",
        _with_range(ratios(cell, "per_second")),
        _with_range(ratios(cell, "p99_seconds")),
        f"{cpu:,.0f} / {peer_cpu:,.0f}",
        f"{memory:,.0f} / {peer_memory:,.0f} MiB",
    )


def _with_range(found: tuple[float, float, float]) -> str:
    middle, least, most = found
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def text(figures: dict[str, Any]) -> str:
    """Return the table for a terminal."""
    lines: Sequence[tuple[str, ...]] = [HEADINGS, *rows(figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*(line.rstrip() for line in table), *map(_not_compared, figures["unavailable"])])


def markdown(figures: dict[str, Any], plots: Sequence[str]) -> str:
    """Return what stands between the markers; `plots` are addresses relative to docs/."""
    kinds = {f"{cell['peer']}: {cell['durability']}" for cell in figures["cells"]}
    lines = [
        f"Measured {figures['date']} by {figures['interpreter']}; after a warm one,",
        f"{figures['rounds']} alternating pairs a row.",
        f"What an acknowledgement means: {'; '.join(sorted(kinds))}.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(row) + " |" for row in rows(figures)),
        "",
        *(f"- {_not_compared(reason)}" for reason in figures["unavailable"]),
        "",
        *(f"![{Path(name).stem}]({name})" for name in plots),
    ]
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
