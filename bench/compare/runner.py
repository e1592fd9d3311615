"""Rounds of a peer and Loghouse in turn: the machine's speed drifts, so only pairs compare."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.compare.install import UnavailableError
from bench.compare.peer import ClientError, Peer, cpu_seconds, resident_mib
from bench.compare.shape import Shape
from loghouse.testing.process import Certificates


def measured(peer: Peer, shape: Shape) -> dict[str, float]:
    """Run one round; return what the client found, and what the servers took for it.

    That is `cpu_microseconds` of all servers for a record, if that means something, and `resident_mib` of all
    afterwards.
    """
    before = sum(map(cpu_seconds, peer.pids())) if shape.has_cost else 0.0
    found = shape.run(peer)
    if shape.has_cost:
        seconds = sum(map(cpu_seconds, peer.pids())) - before
        found["cpu_microseconds"] = 1e6 * seconds / found.pop("records")
    found["resident_mib"] = sum(map(resident_mib, peer.pids()))
    return found


def compare(
    ours: Peer,
    peers: Sequence[Peer],
    shapes: Sequence[Shape],
    rounds: int,
    folder: Path,
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Run every peer beside ours, one peer at a time, and return all figures.

    `cells` has one for each peer and shape, with its `pairs`; `unavailable` why some have none. `keep` gets
    what there is after each cell: who ends a long run early has that.
    """
    cells: list[dict[str, Any]] = []
    unavailable: list[str] = []
    found = {"cells": cells, "unavailable": unavailable}
    certificates = Certificates(folder / "certs")

    def leave_out(reason: str) -> None:
        unavailable.append(reason)
        print(f"not compared: {reason}", flush=True)

    for peer in peers:
        kinds = {shape.kind for shape in shapes}
        for kind in sorted(kinds & peer.lacks.keys()):
            leave_out(f"{peer.name}, {kind}: {peer.lacks[kind]}")
        taken = [shape for shape in shapes if shape.kind not in peer.lacks]
        if not taken:
            continue
        try:
            peer.install()
        except UnavailableError as error:
            leave_out(str(error))
            continue
        try:
            for side in (ours, peer):
                home = folder / f"{peer.name}-{side.name}"
                home.mkdir()
                side.start(home, certificates)
            for shape in taken:
                try:
                    cells.append(_cell(ours, peer, shape, rounds))
                except ClientError as error:  # the rest of an hour's work is worth having
                    leave_out(f"{peer.name}, {shape.title}: {error}")
                keep(found)
        except UnavailableError as error:
            leave_out(str(error))
        finally:
            for side in (ours, peer):
                side.stop()
            # The disk has room for one peer's records at a time, and the page cache for no dead ones.
            for side in (ours, peer):
                shutil.rmtree(folder / f"{peer.name}-{side.name}", ignore_errors=True)
    return found


def _cell(ours: Peer, peer: Peer, shape: Shape, rounds: int) -> dict[str, Any]:
    begin = time.monotonic()
    for side in (ours, peer):
        shape.prepare(side)
    pairs = [{"ours": measured(ours, shape), "theirs": measured(peer, shape)} for _ in range(rounds)]
    print(f"{peer.name} {shape.title}: {time.monotonic() - begin:.0f} s", flush=True)
    return {
        "peer": peer.name,
        "version": peer.version,
        "durability": peer.durability,
        "shape": shape.name,
        "pairs": pairs,
    }
