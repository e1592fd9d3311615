"""Rounds of a peer and Loghouse in turn: the machine's speed drifts, so only pairs compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.peer import Peer, UnavailableError, cpu_seconds, resident_mib
from bench.compare.shape import Shape
from loghouse.testing.process import Certificates


def measured(peer: Peer, shape: Shape) -> dict[str, float]:
    """Run one round; return what the client found, and what the servers took for it.

    With it `cpu_microseconds` of all servers for a record, and `resident_mib` of all afterwards.
    """
    before = sum(map(cpu_seconds, peer.pids()))
    found = peer.append(shape)
    found["cpu_microseconds"] = 1e6 * (sum(map(cpu_seconds, peer.pids())) - before) / shape.count
    found["resident_mib"] = sum(map(resident_mib, peer.pids()))
    return found


def compare(
    ours: Peer, peers: Sequence[Peer], shapes: Sequence[Shape], rounds: int, folder: Path
) -> dict[str, Any]:
    """Run every peer beside ours, one peer at a time, and return all figures.

    `cells` has one for each peer and shape, with its `pairs`; `unavailable` why some have none.
    """
    cells: list[dict[str, Any]] = []
    unavailable: list[str] = []
    certificates = Certificates(folder / "certs")
    for peer in peers:
        try:
            peer.install()
        except UnavailableError as error:
            unavailable.append(str(error))
            print(f"not compared: {error}", flush=True)
            continue
        try:
            for side in (ours, peer):
                home = folder / f"{peer.name}-{side.name}"
                home.mkdir()
                side.start(home, certificates)
            for shape in shapes:
                for side in (ours, peer):
                    side.append(shape)  # what is cold is warm now
                pairs = [
                    {"ours": measured(ours, shape), "theirs": measured(peer, shape)} for _ in range(rounds)
                ]
                cells.append(
                    {
                        "peer": peer.name,
                        "version": peer.version,
                        "durability": peer.durability,
                        "shape": shape.name,
                        "pairs": pairs,
                    }
                )
                print(f"{peer.name} {shape.title}: done", flush=True)
        finally:
            for side in (ours, peer):
                side.stop()
    return {"cells": cells, "unavailable": unavailable}
