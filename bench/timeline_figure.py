"""Draws some entries on their way through three nodes: a lane for each part of it, time to the right."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.timeline_notes import CLIENT, FOLLOWERS, LEADER, AtWork, Entry, Place

WIDTH, LEFT, TOP, LANE, BAR = 800, 168, 58, 30, 18
COLOURS = 3  # entries in turn: at most so many are under way at a time
AROUND = 1  # entries drawn whole before the typical one, and after it
MICROSECOND, MILLISECOND = 1000, 1_000_000

LEGEND = (
    "One colour is one entry. Of a disk, pale: it waits, or is on its way there and back; dark: its sync."
)
STYLE = """
.bg{fill:#fff}text{fill:#1f2328;font-size:12px}.b{font-weight:600}.work{fill:#8c959f}
.axis{stroke:#8c959f;stroke-dasharray:2 4;fill:none}
.e0{fill:#0b57a8}.e1{fill:#b45309}.e2{fill:#1a6b34}.w{opacity:.35}
@media (prefers-color-scheme:dark){.bg{fill:#0d1117}text{fill:#e6edf3}.axis{stroke:#6e7681}.work{fill:#6e7681}
.e0{fill:#79b8ff}.e1{fill:#f0a868}.e2{fill:#7ee2a0}}
"""


@dataclass(frozen=True, slots=True)
class Lane:
    """A row: from when to when an entry is there, and at what in that time (drawn darker)."""

    name: str
    begin: Place
    end: Place
    inner: tuple[Place, Place] | None = None


def _disk(who: str, begin: str, end: str) -> Lane:
    inner = (who, "sync begins"), (who, "sync ends")
    return Lane(f"{who}: disk" if who == LEADER else who, (who, begin), (who, end), inner)


LANES = (
    Lane("asked for, on the way", (CLIENT, "asks, first"), (LEADER, "taken, last")),
    Lane("gathers at the leader", (LEADER, "taken, first"), (LEADER, "proposed")),
    Lane("proposed, sent to both", (LEADER, "proposed"), (LEADER, f"sent to {FOLLOWERS[1]}")),
    *(_disk(name, "received", "answer sent") for name in FOLLOWERS),
    _disk(LEADER, "given to the disk", "back on the loop"),
    Lane("committed, answered", (LEADER, "committed"), (LEADER, "answers written")),
    Lane("answers on the way", (LEADER, "answers written"), (CLIENT, "has the answer, last")),
)


def typical(entries: Sequence[Entry]) -> int:
    """Return the place of one that takes the median time, with entries around it, from the middle on."""
    begin, end = (CLIENT, "asks, first"), (CLIENT, "has the answer, last")
    times = [entry.since(begin, end) for entry in entries]
    middle, median = len(entries) // 2, statistics.median(times)
    inside = range(AROUND, len(entries) - AROUND)
    # As far from the middle of the run as it must be for a hundredth of a difference from the median.
    return min(
        inside,
        key=lambda place: (round(abs(times[place] / median - 1) * 50), abs(place - middle)),
        default=middle,
    )


@dataclass(slots=True)
class _Drawing:
    begin: int
    end: int
    paths: dict[str, list[str]] = field(default_factory=dict)

    def x(self, moment: int) -> float:
        scale = (WIDTH - LEFT - 12) / (self.end - self.begin)
        return LEFT + (min(max(moment, self.begin), self.end) - self.begin) * scale

    def bar(self, style: str, row: int, begin: int, end: int) -> None:
        if end < self.begin or begin > self.end:
            return
        left = self.x(begin)
        width = max(1.0, self.x(end) - left)
        path = f"M{left:.1f} {TOP + row * LANE}h{width:.1f}v{BAR}h-{width:.1f}z"
        self.paths.setdefault(style, []).append(path)


def draw(entries: Sequence[Entry], loops: Mapping[str, AtWork], in_flight: int) -> str:
    """Return an SVG of an entry of about the median time, with those before and after it.

    Args:
        loops: When whose reactor was at work; the leader's is drawn.
    """
    place = typical(entries)
    shown = entries[max(0, place - AROUND) : place + AROUND + 1]
    drawing = _Drawing(
        min(entry.passed[LANES[0].begin] for entry in shown),
        max(entry.passed[LANES[-1].end] for entry in shown),
    )
    for entry in entries[max(0, place - 3 * AROUND) : place + 3 * AROUND + 1]:
        style = f"e{entry.index % COLOURS}"
        for row, lane in enumerate(LANES):
            begin, end = entry.passed[lane.begin], entry.passed[lane.end]
            drawing.bar(f"{style} w" if lane.inner else style, row, begin, end)
            if lane.inner:
                drawing.bar(style, row, *(entry.passed[inner] for inner in lane.inner))
    for begin, end in loops[LEADER].spans(drawing.begin, drawing.end):
        drawing.bar("work", len(LANES), begin, end)
    names = [*(lane.name for lane in LANES), "leader: reactor at work"]
    bottom = TOP + len(names) * LANE
    one = entries[place]
    took = one.since(LANES[0].begin, LANES[-1].end) / MILLISECOND
    title = f"Entries under way with {in_flight} appends in flight"
    words = (
        f"{len(shown)} entries from left to right; the one in the middle has {one.count} appends and takes "
        f"{took:.1f} ms from its first call to its last answer. Dark in a disk's lane: its sync."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" role="img" '
        'aria-labelledby="t d" font-family="system-ui, sans-serif">',
        f'<title id="t">{title}</title>',
        f'<desc id="d">{words}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="bg" width="{WIDTH}" height="{bottom + 30}" rx="8"/>',
        f'<text class="b" x="12" y="22">{title}</text>',
        f'<text x="12" y="42">{LEGEND}</text>',
    ]
    moments = range(0, drawing.end - drawing.begin + 1, MILLISECOND)
    for moment in moments:
        x = drawing.x(drawing.begin + moment)
        lines.append(f'<path class="axis" d="M{x:.1f} {TOP - 6}V{bottom}"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{moment // MILLISECOND} ms</text>'
        )
    for row, name in enumerate(names):
        lines.append(f'<text x="12" y="{TOP + row * LANE + 14}">{name}</text>')
    lines += [
        f'<path class="{style}" d="{"".join(paths)}"/>' for style, paths in sorted(drawing.paths.items())
    ]
    return "\n".join([*lines, "</svg>", ""])
