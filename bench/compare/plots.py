"""Draws the figures of a comparison: rate and p99 against records in flight, and against their size.

    python -m bench.compare.plots FIGURES.json FOLDER

Runs by the Python that has matplotlib (`requirements/compare.txt`).
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.compare.report import medians
from bench.compare.shape import shape_of

LINE_SIZE, LINE_WINDOW = 1024, 16
FIGURES = {"per_second": "records a second", "p99_seconds": "p99, seconds"}
AXES = {
    "window": f"records of {LINE_SIZE} bytes in flight",
    "size": f"bytes in a record, {LINE_WINDOW} in flight",
}

# matplotlib writes its black into each element.
DARK = "@media (prefers-color-scheme:dark){text{fill:#ddd!important}path,use{stroke:#999}}"


def lines(figures: dict[str, Any], figure: str, axis: str) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each system, along records in flight (`window`) or their `size`.

    Ours are the medians of all that was measured beside any peer.
    """
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in figures["cells"]:
        shape = shape_of(cell["shape"])
        if (shape.size != LINE_SIZE) if axis == "window" else (shape.window != LINE_WINDOW):
            continue
        at = float(getattr(shape, axis))
        for name, value in zip(("Loghouse", cell["peer"]), medians(cell, figure), strict=True):
            found[name][at].append(value)
    return {
        name: [(at, sum(values) / len(values)) for at, values in sorted(points.items())]
        for name, points in found.items()
    }


def dressed(drawing: str, title: str, description: str) -> str:
    """Return a drawing with words for those who do not see it, in light colours on a dark page, and small."""
    head, begin, rest = drawing.partition("<svg ")
    attributes, end, body = rest.partition(">")
    words = f"<title>{title}</title><desc>{description}</desc><style>{DARK}</style>"
    body = body[: body.index("<metadata>")] + body[body.index("</metadata>") + len("</metadata>") :]
    body = re.sub(r"\n\s+", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL))
    body = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", body)
    return f"{head}{begin}{attributes}{end}\n{words}{body}"


def draw(figures: dict[str, Any], folder: Path) -> list[str]:
    """Write an SVG for each figure and axis that has points; return their names."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file, a small one.
    matplotlib.rcParams.update({"svg.hashsalt": "loghouse", "svg.fonttype": "none"})
    from matplotlib import pyplot

    names = []
    for figure, unit in FIGURES.items():
        for axis, title in AXES.items():
            systems = lines(figures, figure, axis)
            if not systems:
                continue
            canvas, plot = pyplot.subplots(figsize=(7, 4))
            for name, points in systems.items():
                plot.plot(*zip(*points, strict=True), marker="o", label=name)
            plot.set(xscale="log", yscale="log", xlabel=title, ylabel=unit)
            plot.minorticks_off()
            plot.legend(frameon=False)
            names.append(f"compare-{figure.partition('_')[0]}-{axis}.svg")
            path = folder / names[-1]
            canvas.savefig(path, metadata={"Date": None}, bbox_inches="tight", transparent=True)
            pyplot.close(canvas)
            words = f"{unit} against {title}, of {', '.join(systems)}"
            path.write_text(dressed(path.read_text(), unit, words))
    return names


if __name__ == "__main__":
    print("\n".join(draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
