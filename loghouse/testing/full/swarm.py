"""What one seed of production nodes runs: the options of the core's swarm, and those of links and gossip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from loghouse.gossip.config import LAN, LOCAL, SwimConfig
from loghouse.testing.network import NetworkOptions
from loghouse.testing.streams import substream
from loghouse.testing.swarm import (
    FAULT_CLASSES,
    SwarmOptions,
    draw_cursors,
    draw_disk,
    draw_faults,
    draw_raft,
)

# Every class of fault a seed may have. ONLY APPEND: the order is the order of drawing.
FULL_FAULT_CLASSES: Final = (*FAULT_CLASSES, "link_reset", "stop")
# Where a process may lose its power; `swarm.CRASH_POINTS` says what they are.
FULL_CRASH_POINTS: Final = (
    "vote_sent",
    "mid_broadcast",
    "synced",
    "acknowledged",
    "elected",
    "committed",
    "first_commit",
    "disk_step",
    "disk_step",
)
NOT_WITH_NAMED_LOGS: Final = ("wipe", "bit_rot", "membership")
RARE: Final = ("power_loss", "rolling_restart", "wipe", "bit_rot", "disk_error", "disk_full")


@dataclass(frozen=True, slots=True, kw_only=True)
class FullOptions(SwarmOptions):
    """As `SwarmOptions`, where `drift` is of the machines' clocks. Sizes in bytes.

    `write_buffer_size` is what a connection takes before its writer is told to wait, `logs` how many logs
    there are beside the default one.
    """

    swim: SwimConfig = LAN
    write_buffer_size: int = 65_536
    trims: bool = False
    logs: int = 0


def draw_named_options(seed: int) -> FullOptions:
    """Return the options of a seed with named logs, as many as 1 to 8.

    Their replicas are where their disks are: without operators who replace them, no disk may be lost, and no
    node taken out.
    """
    options, rng = draw_full_options(seed), substream(seed, "named logs")
    faults = tuple((kind, mean) for kind, mean in options.faults if kind not in NOT_WITH_NAMED_LOGS)
    voters = max(3, options.voters)
    logs = rng.choice((1, 2, 3, 5, 8))
    # Most logs are quiet soon enough to sleep while faults strike.
    raft = replace(options.raft, quiet_ticks=rng.choice((1, 3, 10, 50)))
    return replace(options, logs=logs, voters=voters, spares=0, faults=faults, raft=raft)


def draw_full_options(seed: int) -> FullOptions:
    """Return the options of a seed."""
    rng = substream(seed, "full swarm")
    raft = draw_raft(
        rng,
        election_ticks=(5, 10),
        inflight_entries_max=(2, 8, 4096),
        inflight_size_max=(500, 4000, 1_000_000),
        proposals_max=(4, 64, 4096),
        proposals_size_max=(4000, 64_000),
    )
    tick_seconds = rng.choice((0.05, 0.1, 0.1))
    election_seconds = tick_seconds * raft.election_ticks
    voters = rng.choice((1, 2, 3, 3, 3, 3, 3, 3, 4, 5))
    return FullOptions(
        **draw_cursors(seed),
        seed=seed,
        voters=voters,
        spares=rng.choice((0, 0, 1)) if 1 < voters < 5 else 0,
        tick_seconds=tick_seconds,
        turn_seconds=rng.choice((0.0, 0.0, 0.0005, 0.005)),
        drift=rng.choice((0.0, 0.05, 0.2)),
        network=NetworkOptions(
            delay_seconds_min=0.0002,
            delay_seconds_mean=election_seconds * rng.choice((0.002, 0.005, 0.02, 0.1)),
            loss=rng.choice((0.0, 0.0, 0.01, 0.05)),
        ),
        disk=draw_disk(rng, tick_seconds, syncs=(0.01, 0.05, 0.3, 1.0)),
        raft=raft,
        safety_seconds=rng.choice((20.0, 30.0, 40.0)),
        liveness_seconds=120.0,
        producers=rng.choice((1, 2)),
        writers=rng.choice((0, 1, 2)),
        readers=rng.choice((1, 2)),
        think_seconds_mean=rng.choice((0.05, 0.1, 0.3)),
        request_timeout_seconds=rng.choice((0.3, 1.0, 3.0)),
        pipeline=rng.choice((1, 1, 4)),
        trims=rng.random() < 0.5,
        faults=draw_faults(
            rng, election_seconds, FULL_FAULT_CLASSES, shares=(0.2, 0.4, 0.7), rare=RARE, rarity=2
        ),
        crash_points=FULL_CRASH_POINTS,
        swim=rng.choice((LAN, LOCAL)),
        write_buffer_size=rng.choice((2000, 65_536)),
    )
