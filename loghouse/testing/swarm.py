"""What one seed runs: sizes, limits, and how often which fault strikes.

"Swarm testing": each seed draws its own options, so that some seeds have no
partitions but tiny batches, others many crashes and one huge window. Tiny limits
find more than long runs (measured with planted bugs), so they are common here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loghouse.raft.config import RaftConfig
from loghouse.testing.network import NetworkOptions
from loghouse.testing.streams import substream

# Every class of fault a seed may have. ONLY APPEND: the order is the order of drawing.
FAULT_CLASSES: Final = (
    "crash",
    "crash_point",
    "power_loss",
    "pause",
    "partition",
    "one_way_cut",
    "clog",
    "slow_link",
    "disk_slow",
    "disk_stall",
    "disk_error",
    "disk_full",
    "bit_rot",
    "clock_step",
    "transfer",
    "membership",
    "wipe",
    "rolling_restart",
)


# Where a node may be told to crash: exactly there, the next time it comes by.
CRASH_POINTS: Final = (
    "vote_sent",  # just after its granted vote left
    "mid_broadcast",  # a leader, when only some followers got its message
    "written",  # entries written, not synced
    "synced",  # synced, but neither the core nor anybody else knows
    "acknowledged",  # just after its acknowledgement left
    "elected",  # just after it won
    "committed",  # a leader, just after it committed, before it told anybody
    "noop_durable",  # a new leader that committed nothing yet, when its own disk has its first entry
    "first_commit",  # a leader, just after the first commit of its term
    "disk_step",  # inside some step of its storage: a cut, a roll, a start
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """How the disks of a seed behave. Times in seconds, sizes in bytes.

    At a crash each write not yet synced is kept (or torn) with probability `keep` and lost otherwise; in
    half of the crashes all are lost. An index of 120 bytes has room for ten entries: segments of ten.
    """

    sync_seconds_mean: float = 0.003
    keep: float = 0.3
    segment_size: int = 8192
    index_size: int = 1200
    reserve_size: int = 4096


SMALL: Final = RaftConfig(
    election_ticks=5,
    heartbeat_ticks=1,
    snapshot_ticks=10,
    append_size_max=1000,
    inflight_entries_max=8,
    inflight_size_max=4000,
    proposals_max=64,
    proposals_size_max=64_000,
    committed_size_max=2000,
    cache_size_max=2000,
    reads_max=64,
)
"""The core's timing and bounds, small on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmOptions:
    """Everything that is drawn for a seed before it runs. Times in seconds.

    `faults` maps a class of fault to the mean time between two of its kind. `drift` is how fast or slow the
    nodes' clocks may run, as a fraction, `large_share` how many batches fill a segment. `cursors` are the
    kinds of the cursors that there are (`cursor_work.KINDS`).
    """

    seed: int
    voters: int = 3
    spares: int = 0
    tick_seconds: float = 0.02
    turn_seconds: float = 0.0
    drift: float = 0.0
    wire: bool = False
    network: NetworkOptions = field(default_factory=NetworkOptions)
    disk: DiskOptions = field(default_factory=DiskOptions)
    raft: RaftConfig = SMALL
    safety_seconds: float = 20.0
    liveness_seconds: float = 60.0
    producers: int = 2
    writers: int = 1
    readers: int = 2
    think_seconds_mean: float = 0.1
    request_timeout_seconds: float = 1.0
    pipeline: int = 1
    cursors: tuple[str, ...] = ()
    cursor_workers: int = 2
    lease_seconds: float = 1.0
    trim_seconds_mean: float = 0.0
    large_share: float = 0.03
    faults: tuple[tuple[str, float], ...] = ()
    crash_points: tuple[str, ...] = CRASH_POINTS

    @property
    def election_seconds(self) -> float:
        """The shortest election timeout: the unit that faults are paced by."""
        return self.tick_seconds * self.raft.election_ticks


def draw_options(seed: int) -> SwarmOptions:
    """Return the options of a seed."""
    rng = substream(seed, "swarm")
    raft = draw_raft(rng)
    tick_seconds = rng.choice((0.02, 0.02, 0.05, 0.1))
    voters = rng.choice((1, 2, 3, 3, 3, 3, 3, 5, 5))
    return SwarmOptions(
        **draw_cursors(seed),
        seed=seed,
        voters=voters,
        spares=rng.choice((0, 0, 1, 2)),
        tick_seconds=tick_seconds,
        turn_seconds=rng.choice((0.0, 0.0, 0.0005, 0.005)),
        drift=rng.choice((0.0, 0.05, 0.3)),
        wire=rng.random() < 0.15,
        network=_draw_network(rng, tick_seconds * raft.election_ticks),
        disk=draw_disk(rng, tick_seconds, syncs=(0.01, 0.1, 0.5, 2.0), indexes=(60, 240, 1200, 12_000)),
        raft=raft,
        safety_seconds=rng.choice((20.0, 30.0, 40.0)),
        producers=rng.choice((1, 2, 3)),
        writers=rng.choice((0, 1, 2)),
        readers=rng.choice((1, 2, 3)),
        think_seconds_mean=rng.choice((0.02, 0.1, 0.1, 0.3)),
        request_timeout_seconds=rng.choice((0.3, 1.0, 3.0)),
        pipeline=rng.choice((1, 1, 4)),
        trim_seconds_mean=rng.choice((0.0, 0.3, 1.0, 5.0)),
        faults=draw_faults(
            rng,
            tick_seconds * raft.election_ticks,
            FAULT_CLASSES,
            shares=(0.3, 0.6, 0.9),
            rare=("power_loss", "rolling_restart", "wipe"),
            rarity=3,
        ),
    )


CURSOR_SHARE: Final = 0.16
"""How many seeds have cursors."""
HELD_SHARE: Final = 0.4
"""How many of these have workers that take the steps of the client's own code."""


def draw_cursors(seed: int) -> dict[str, Any]:
    """Return a seed's options about cursors, drawn from a stream of their own: most seeds have none."""
    rng = substream(seed, "cursors")
    if rng.random() >= CURSOR_SHARE:
        return {}
    choices = (("consumer",), ("importer",), ("consumer", "importer"), ("pipeline", "consumer"))
    kinds: tuple[str, ...] = rng.choice(choices)
    workers, lease_seconds = rng.choice((2, 2, 3)), rng.choice((1.0, 2.0, 4.0))
    if rng.random() < 0.2:
        kinds, lease_seconds = ("group",), max(2.0, lease_seconds)  # while all is quiet no lease may run out
    # A stream of its own: the other seeds stay what they were.
    if substream(seed, "holding").random() < HELD_SHARE:
        kinds = tuple(f"held-{kind}" if kind in ("consumer", "importer") else kind for kind in kinds)
    return {"cursors": kinds, "cursor_workers": workers, "lease_seconds": lease_seconds}


RAFT_CHOICES: Final[Mapping[str, Sequence[int]]] = {
    "election_ticks": (4, 5, 10),
    "heartbeat_ticks": (1, 1, 2),
    "snapshot_ticks": (5, 20),
    # An entry here has about 100 bytes: one, two or eight a message, or as many as there are.
    "append_size_max": (1, 220, 1000, 1_000_000),
    "inflight_entries_max": (1, 2, 8, 4096),
    "inflight_size_max": (1, 500, 4000, 1_000_000),
    "proposals_max": (1, 4, 64, 4096),
    "proposals_size_max": (2000, 64_000),
    "committed_size_max": (1, 2000, 1_000_000),
    "cache_size_max": (1, 2000, 1_000_000),
    "reads_max": (1, 8, 64),
}


def draw_raft(rng: random.Random, **others: Sequence[int]) -> RaftConfig:
    """Return one of the `RAFT_CHOICES` for each bound, or of what `others` has in their place."""
    choices = {**RAFT_CHOICES, **others}
    return RaftConfig(**{name: rng.choice(values) for name, values in choices.items()})


def _draw_network(rng: random.Random, election_seconds: float) -> NetworkOptions:
    return NetworkOptions(
        delay_seconds_min=0.0002,
        delay_seconds_mean=election_seconds * rng.choice((0.005, 0.02, 0.1, 0.3)),
        loss=rng.choice((0.0, 0.0, 0.01, 0.1, 0.3)),
        duplicate=rng.choice((0.0, 0.02, 0.2)),
        stray=rng.choice((0.0, 0.005, 0.03)),
        stray_seconds_max=election_seconds * rng.choice((3, 10, 60)),
        ordered=rng.random() < 0.4,
    )


def draw_disk(
    rng: random.Random, tick_seconds: float, *, syncs: Sequence[float], indexes: Sequence[int] = ()
) -> DiskOptions:
    """Return how the disks of a seed behave; `syncs` are in ticks, to choose from, as is `indexes`."""
    return DiskOptions(
        sync_seconds_mean=tick_seconds * rng.choice(syncs),
        keep=rng.choice((0.0, 0.3, 0.7)),
        segment_size=rng.choice((4096 + 400, 4096 + 1500, 4096 + 6000, 65536)),
        index_size=rng.choice(indexes) if indexes else DiskOptions().index_size,
        reserve_size=rng.choice((0, 4096)),
    )


def draw_faults(
    rng: random.Random,
    election_seconds: float,
    classes: Sequence[str],
    *,
    shares: Sequence[float],
    rare: Sequence[str],
    rarity: float,
) -> tuple[tuple[str, float], ...]:
    """Return which classes of fault a seed has, and the mean time between two of a class.

    Args:
        shares: Of the classes that a seed may have, to choose from.
        rare: The classes whose means are `rarity` times as long.
    """
    share = rng.choice(shares)
    pace = rng.choice((0.5, 1.0, 2.0))
    faults = []
    for name in classes:
        mean = election_seconds * rng.uniform(5, 40) * pace
        if name in rare:
            mean *= rarity
        if rng.random() < share:
            faults.append((name, mean))
    return tuple(faults)
