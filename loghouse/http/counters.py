"""What a node that is watched counts: one number for each event and label."""

from __future__ import annotations

import time
from collections.abc import Iterator

from loghouse.http.metric_table import VALUES_MAX
from loghouse.metrics import Metrics, Tallies

OTHER = "other"
"""In the place of a label's value when there are too many."""


class Counters(Metrics):
    """Counts every event that a node tells."""

    def __init__(self) -> None:
        self.tallies = Tallies(time.perf_counter)
        self._counts: dict[str, dict[str, int]] = {}  # by name and value of the only label, if there is one

    def of(self, name: str) -> Iterator[tuple[str, int]]:
        """Yield the counts of a metric with the value of its label; empty where it has none."""
        yield from self._counts.get(name, {}).items()

    def _add(self, name: str, value: str = "", count: int = 1) -> None:
        counts = self._counts.setdefault(name, {})
        if value not in counts and len(counts) >= VALUES_MAX:
            value = OTHER
        counts[value] = counts.get(value, 0) + count

    def raft_message_refused(self, reason: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_raft_messages_refused_total", reason)

    def gossip_message_refused(self, reason: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_gossip_messages_refused_total", reason)

    def forwarded_message_ignored(self, reason: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_forwarded_ignored_total", reason)

    def forwarded_answer_dropped(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_forwarded_answers_dropped_total")

    def frames_dropped(self, peer: str, count: int) -> None:
        """See `Metrics`."""
        self._add("loghouse_peer_frames_dropped_total", peer, count)

    def frame_coalesced(self, peer: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_peer_frames_coalesced_total", peer)

    def peer_dialled(self, peer: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_peer_dials_total", peer)

    def peer_link_up(self, peer: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_peer_link_ups_total", peer)

    def peer_link_failed(self, peer: str, problem: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_peer_link_failures_total", peer)

    def connection_refused(self, reason: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_connections_refused_total", reason)

    def stranger_dropped(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_strangers_dropped_total")

    def request_refused(self, error: str) -> None:
        """See `Metrics`."""
        self._add("loghouse_requests_refused_total", error)

    def leader_changed(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_leader_changes_total")

    def election_lost(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_elections_lost_total")

    def member_suspected(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_gossip_suspicions_total")

    def suspicion_refuted(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_gossip_refutations_total")

    def damage_found(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_damage_found_total")

    def damage_repaired(self, entry_count: int) -> None:
        """See `Metrics`."""
        self._add("loghouse_damage_repaired_entries_total", count=entry_count)

    def bytes_scrubbed(self, size: int) -> None:
        """See `Metrics`."""
        self._add("loghouse_scrub_bytes_total", count=size)

    def scrub_pass_ended(self) -> None:
        """See `Metrics`."""
        self._add("loghouse_scrub_passes_total")
