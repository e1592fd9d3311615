"""Timing and bounds of one group. Checked at birth; presets by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from loghouse.limits import MIB, PROPOSALS_MAX, PROPOSALS_SIZE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """How one member of a group behaves. Times are in ticks, sizes in bytes.

    `election_ticks`: a follower that hears no leader campaigns after this many to twice as many ticks. A
    leader steps down when it hears no quorum, or its disk finishes nothing, for as long; a leadership
    transfer and a follower's read give up after it.

    `heartbeat_ticks`: a leader sends heartbeats this often. Ten heartbeats to an election let some be lost.

    `snapshot_ticks`: how long a leader waits for the answer to a snapshot before it probes again.

    `append_size_max`: entries in one AppendEntries; a single larger entry goes alone.
    `inflight_entries_max`, `inflight_size_max`: sent to a follower and not acknowledged; a single larger
    message goes when nothing else is in flight. A follower refuses (drops) appends that would leave it
    with twice `inflight_size_max` bytes to write: only a leader with other bounds could send them.

    `proposals_max`, `proposals_size_max`: entries a leader appended and has not committed; more are refused.

    `committed_size_max`: committed entries in one `Ready`.

    `cache_size_max`: entries kept in memory although the disk has them, for followers close behind; of a log
    that got no entries for `quiet_ticks`, none.

    `reads_max`: ReadIndex requests waiting for an answer, on a leader and on a follower.
    """

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    snapshot_ticks: int = 20
    append_size_max: int = 1 * MIB
    inflight_entries_max: int = 4096
    inflight_size_max: int = 4 * MIB
    proposals_max: int = PROPOSALS_MAX
    proposals_size_max: int = PROPOSALS_SIZE_MAX
    committed_size_max: int = 8 * MIB
    cache_size_max: int = 16 * MIB
    quiet_ticks: int = 50
    reads_max: int = 16_384

    def __post_init__(self) -> None:
        if self.heartbeat_ticks < 1:
            raise ValueError("heartbeat_ticks must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ValueError("election_ticks must exceed heartbeat_ticks, or followers unseat live leaders")
        for name in (
            "snapshot_ticks",
            "append_size_max",
            "inflight_entries_max",
            "inflight_size_max",
            "proposals_max",
            "proposals_size_max",
            "committed_size_max",
            "cache_size_max",
            "quiet_ticks",
            "reads_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


LAN: Final = RaftConfig()
WAN: Final = replace(LAN, election_ticks=50, snapshot_ticks=100)
