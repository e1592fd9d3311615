"""Draws the figures of a comparison: rate and p99 of appends, reads, and how long a failover takes.

    python -m bench.compare.plots FIGURES.json FOLDER

Runs by the Python that has matplotlib (`requirements/compare.txt`).
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.report import medians
from bench.compare.shape import Append, Failover, Read, Shape, shape_of

LINE_SIZE, LINE_WINDOW, LOG_WINDOW = 1024, 16, 64


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: a figure of the JSON against something that shapes differ in."""

    name: str
    figure: str
    unit: str
    axis: str
    title: str
    takes: Callable[[Shape], bool]


def _appends(axis: str, title: str, takes: Callable[[Append], bool]) -> list[Plot]:
    def chosen(shape: Shape) -> bool:
        return isinstance(shape, Append) and takes(shape)

    return [
        Plot(f"per-{axis}", "per_second", "records a second", axis, title, chosen),
        Plot(f"p99-{axis}", "p99_seconds", "p99, seconds", axis, title, chosen),
    ]


PLOTS = [
    *_appends(
        "window",
        f"records of {LINE_SIZE} bytes in flight",
        lambda shape: shape.size == LINE_SIZE and not shape.log_mib,
    ),
    *_appends(
        "size",
        f"bytes in a record, {LINE_WINDOW} in flight",
        lambda shape: shape.window == LINE_WINDOW and not shape.log_mib,
    ),
    *_appends(
        "log_mib",
        f"MiB that the log has at least; {LINE_SIZE} bytes, {LOG_WINDOW} in flight",
        lambda shape: (shape.size, shape.window) == (LINE_SIZE, LOG_WINDOW),
    ),
    Plot(
        "read-size",
        "bulk_megabytes_per_second",
        "MB a second, in bulk",
        "size",
        "bytes in a record that is read",
        lambda shape: isinstance(shape, Read),
    ),
]
FAILOVER = "compare-failover.svg"
POINTS_MIN = 3  # what has fewer is read in the table

# matplotlib writes its black into each element.
FONT = "text{font-family:'DejaVu Sans',sans-serif}"
DARK = "@media (prefers-color-scheme:dark){text{fill:#ddd!important}path,use{stroke:#999}}"


def lines(figures: dict[str, Any], plot: Plot) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each system, ours first. Ours are means of what was measured beside each peer."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in figures["cells"]:
        shape = shape_of(cell["shape"])
        if plot.takes(shape):
            at = float(getattr(shape, plot.axis))
            for name, value in zip(("Loghouse", cell["peer"]), medians(cell, plot.figure), strict=True):
                found[name][at].append(value)
    return {
        name: [(at, sum(values) / len(values)) for at, values in sorted(points.items())]
        for name, points in found.items()
    }


def gaps(figures: dict[str, Any]) -> dict[str, float]:
    """Return how long each system was without an acknowledgement, the shortest first."""
    found: dict[str, list[float]] = defaultdict(list)
    for cell in figures["cells"]:
        if isinstance(shape_of(cell["shape"]), Failover):
            for name, value in zip(("Loghouse", cell["peer"]), medians(cell, "gap_seconds"), strict=True):
                found[name].append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def dressed(drawing: str, title: str, description: str) -> str:
    """Return a drawing with words for those who do not see it, in light colours on a dark page, and small."""
    head, begin, rest = drawing.partition("<svg ")
    attributes, end, body = rest.partition(">")
    words = f"<title>{title}</title><desc>{description}</desc><style>{FONT}{DARK}</style>"
    body = body[: body.index("<metadata>")] + body[body.index("</metadata>") + len("</metadata>") :]
    body = re.sub(r"\n\s+", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL))
    body = re.sub(r"""(?<=<g) id="[^"]*"| clip-path="[^"]*"|; font-family: [^;"]*""", "", body)
    body = re.sub(r'(<use [^>]*) style="[^"]*"', r"\1", body)  # what it uses has the same
    body = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", body)
    return f"{head}{begin}{attributes}{end}\n{words}{body}"


def draw(figures: dict[str, Any], folder: Path) -> list[str]:
    """Write an SVG for each plot that has lines, and one of failovers; return their names."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file, a small one.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "loghouse", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}
    )
    from matplotlib import pyplot

    names = []

    def save(name: str, canvas: Any, title: str, words: str) -> None:
        path = folder / name
        canvas.savefig(path, metadata={"Date": None}, bbox_inches="tight", transparent=True)
        pyplot.close(canvas)
        path.write_text(dressed(path.read_text(), title, words))
        names.append(name)

    for plot in PLOTS:
        systems = lines(figures, plot)
        places = sorted({at for points in systems.values() for at, _ in points})
        if len(places) < POINTS_MIN:
            continue
        canvas, axes = pyplot.subplots(figsize=(7, 4))
        for name, points in systems.items():
            axes.plot(*zip(*points, strict=True), marker="x", label=name)
        axes.set(yscale="log", xlabel=plot.title, ylabel=plot.unit)
        axes.set_xscale("symlog" if plot.axis == "log_mib" else "log")
        axes.set_xticks(places)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(frameon=False)
        words = f"{plot.unit} against {plot.title}, of {', '.join(systems)}"
        save(f"compare-{plot.name.replace('_mib', '')}.svg", canvas, plot.unit, words)
    if times := gaps(figures):
        canvas, axes = pyplot.subplots(figsize=(7, 1 + len(times) / 3))
        axes.barh(list(times), list(times.values()))
        axes.invert_yaxis()
        axes.set(xlabel="seconds without an acknowledgement when the leader is killed")
        words = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
        save(FAILOVER, canvas, "failover", words)
    return names


if __name__ == "__main__":
    print("\n".join(draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
