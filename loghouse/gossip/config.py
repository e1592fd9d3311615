"""Timing and bounds of membership. Checked at birth; presets by name."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimConfig:
    """How one member behaves. Times are in ticks; figures in brackets are those of LAN, a tick being 100 ms.

    `probe_ticks`: one member is probed this often (1 s). Less finds failures sooner and costs messages.
    `timeout_ticks`: how long an ack may take before others are asked to probe, too (500 ms). It must be well
    above a round trip and well below `probe_ticks`, or there is no time left for the indirect probe.
    `indirect_probes`: how many others are asked.

    `suspicion_factor`: a suspect has at least `suspicion_factor * max(1, log10(members)) * probe_ticks` to
    refute. More of it means fewer false deaths and later true ones.
    `suspicion_max_factor`: without confirmations by others it has this many times as long.
    `awareness_max`: the worst local health; intervals and timeouts are stretched by 1 to 1 + this.

    `gossip_ticks`: while there is something to spread, it is sent this often (200 ms) to `fanout` members.
    `transmit_factor`: each member transmits a statement `transmit_factor * ceil(log10(members + 1))` times.
    `gossip_to_dead_ticks`: how long one that was declared dead gets statements, so that it can refute
    (30 s).

    `push_pull_ticks`: whole views are exchanged with one member this often (30 s), more rarely when there are
    more than 32 members.
    `reach_out_ticks_min`, `reach_out_ticks_max`: members believed dead, contacts of the address book and
    seeds are tried in this rhythm (1 s at the start, falling to 10 s), for ever, `fanout` at a time.
    `dead_reclaim_ticks`: after this a dead or gone member is no longer shown or spread (24 h); it is
    still remembered, and tried while it has an address.
    `book_ticks`: the address book is written at most this often when only addresses changed (1 s).
    """

    probe_ticks: int = 10
    timeout_ticks: int = 5
    indirect_probes: int = 3
    suspicion_factor: int = 4
    suspicion_max_factor: int = 6
    awareness_max: int = 8
    gossip_ticks: int = 2
    fanout: int = 3
    transmit_factor: int = 4
    gossip_to_dead_ticks: int = 300
    push_pull_ticks: int = 300
    reach_out_ticks_min: int = 10
    reach_out_ticks_max: int = 100
    dead_reclaim_ticks: int = 864_000
    book_ticks: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")
        if self.timeout_ticks >= self.probe_ticks:
            raise ValueError(
                "timeout_ticks must be below probe_ticks, or no time is left for indirect probes"
            )
        if self.reach_out_ticks_max < self.reach_out_ticks_min:
            raise ValueError("reach_out_ticks_max must not be below reach_out_ticks_min")
        if self.dead_reclaim_ticks < self.gossip_to_dead_ticks:
            raise ValueError("dead_reclaim_ticks must not be below gossip_to_dead_ticks")


LAN: Final = SwimConfig()
LOCAL: Final = replace(LAN, timeout_ticks=2, indirect_probes=1, suspicion_factor=3, push_pull_ticks=150)
WAN: Final = replace(
    LAN,
    probe_ticks=50,
    timeout_ticks=30,
    suspicion_factor=6,
    gossip_ticks=5,
    fanout=4,
    gossip_to_dead_ticks=600,
    push_pull_ticks=600,
)
