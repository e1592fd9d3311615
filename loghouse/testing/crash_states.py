"""What a power loss may leave of a `SimDisk`, at every point of a recorded trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from loghouse.testing.disk import CHANGING, SYNCS, SimDisk
from loghouse.testing.disk_nodes import SECTOR_SIZE, Change, FileChange, Node, tear


def crash_states(
    start: SimDisk,
    trace: Sequence[tuple[str, tuple[object, ...]]],
    *,
    changes_max: int = 5,
    sample: int = 24,
    rng: Random | None = None,
    expected: Callable[[int], object] = lambda done: None,
) -> Iterator[tuple[int, SimDisk]]:
    """Yield (operations done, disk after the power loss) for every prefix of a trace.

    For each prefix: every subset of the uncovered operations when there are at most `changes_max`
    (else none, all, each alone, all but each, and `sample` random subsets), and each write torn in
    several ways with the others kept. A disk of the same names and bytes as one that was yielded is
    yielded again only where `expected(operations done)`, what a loss there may leave, is another.
    """
    rng = rng or Random(0)
    disk = start.copy()
    expectation: object = None
    # Since the last sync, a choice of changes makes the same disk; `alive` keeps their ids from reuse.
    choices: set[tuple[object, ...]] = set()
    alive: list[object] = []
    digests: set[int] = set()
    for done in range(len(trace) + 1):
        kind, arguments = trace[done - 1] if done else ("create", ())
        if done:
            getattr(disk, kind)(*arguments)
        if kind not in CHANGING:
            continue
        if kind in SYNCS or expected(done) != expectation:
            choices.clear()
            alive.clear()
        if expected(done) != expectation:
            expectation = expected(done)
            digests.clear()
        pending = disk.pending_changes()
        alive.extend(pending)
        for name, kept in _choices(pending, changes_max, sample, rng):
            if name in choices:
                continue
            choices.add(name)
            crashed = disk.crashed(kept)
            digest = crashed.digest()
            if digest not in digests:
                digests.add(digest)
                yield done, crashed


def _choices(
    pending: Sequence[tuple[Node, Change]], changes_max: int, sample: int, rng: Random
) -> Iterator[tuple[tuple[object, ...], list[tuple[Node, Change]]]]:
    """Yield what a power loss may keep of the changes, each with a name that tells it from others."""
    count = len(pending)
    if count <= changes_max:
        masks = set(range(2**count))
    else:
        everything = 2**count - 1
        masks = {0, everything}
        masks |= {1 << place for place in range(count)}
        masks |= {everything ^ (1 << place) for place in range(count)}
        masks |= {rng.getrandbits(count) for _ in range(sample)}
    for mask in sorted(masks):
        kept = [item for place, item in enumerate(pending) if mask >> place & 1]
        yield (frozenset(id(change) for _, change in kept),), kept
    everyone = frozenset(id(change) for _, change in pending)
    for place, (node, change) in enumerate(pending):
        if not isinstance(change, FileChange) or change.kind != "write":
            continue
        sectors = (change.position + len(change.content) - 1) // SECTOR_SIZE - change.position // SECTOR_SIZE
        if not change.content or sectors < 1:
            continue
        for number, keep in enumerate(_ways_to_tear(sectors)):
            torn = [(node, part) for part in tear(change, keep)]
            yield (everyone, id(change), number), [*pending[:place], *torn, *pending[place + 1 :]]


def _ways_to_tear(last: int) -> tuple[Callable[[int], bool], ...]:
    """Return which sectors of a write stay, in several ways; `last` is the number of the last."""
    return (
        lambda number: number == 0,
        lambda number: number > 0,
        lambda number: number < last,
        lambda number: number % 2 == 0,
    )
