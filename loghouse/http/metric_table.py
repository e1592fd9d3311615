"""Every metric of a node, in one table: what it is called, what its labels are, and what it says.

Names and units are Prometheus' conventions. Labels take few values: `peer` is the name of a member, `log`
that of one of the first `LOGS_SHOWN_MAX` logs, or of one with a `cursor` that is among the first
`CURSORS_SHOWN_MAX`; everything else is a word of the code. docs/monitoring.md shows this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

LOGS_SHOWN_MAX: Final = 64  # with series of their own, by the number of their group: the oldest first
VALUES_MAX: Final = 80  # of one label; what comes later is `other`: MEMBERS_MAX names, or classes of errors

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. A counter's name ends in `_total`."""

    kind: str
    labels: tuple[str, ...]
    text: str


def _metric(kind: str, text: str, *labels: str) -> Described:
    return Described(kind, labels, text)


TABLE: Final[Mapping[str, Described]] = {
    # --- the process ------------------------------------------------------------------------
    "loghouse_build_info": _metric(GAUGE, "1, with the versions that run.", "version", "python"),
    "loghouse_event_loop_delay_seconds": _metric(
        HISTOGRAM, "How late a heartbeat of 100 ms came: what everybody waits who asks this node."
    ),
    "loghouse_gc_pause_seconds": _metric(HISTOGRAM, "How long Python's garbage collection stood still."),
    "loghouse_certificate_expiry_timestamp_seconds": _metric(
        GAUGE, "When the first certificate of a file expires, in seconds since the epoch.", "file"
    ),
    "loghouse_settings_waiting": _metric(
        GAUGE, "Settings of node.yaml, as it was read last, that count after a restart alone."
    ),
    # --- appends ----------------------------------------------------------------------------
    "loghouse_appends_total": _metric(
        COUNTER, "Appends by what became of them: appended, or the class of the error.", "api", "outcome"
    ),
    "loghouse_append_records_total": _metric(COUNTER, "Records appended.", "api"),
    "loghouse_append_bytes_total": _metric(COUNTER, "Bytes of batches appended, as they came.", "api"),
    "loghouse_append_seconds": _metric(
        HISTOGRAM, "From an append's arrival, checked, to its answer; with other nodes and disks.", "api"
    ),
    "loghouse_append_queue_seconds": _metric(
        HISTOGRAM, "How long the first entry of a group waited for the group before it."
    ),
    "loghouse_disk_write_seconds": _metric(HISTOGRAM, "How long the writes of a group took."),
    "loghouse_disk_sync_seconds": _metric(HISTOGRAM, "How long the sync of a group took."),
    "loghouse_replication_seconds": _metric(
        HISTOGRAM, "From a leader's own disk to a majority; one group at a time, 0: the others were faster."
    ),
    "loghouse_write_group_entries": _metric(HISTOGRAM, "Entries that shared a sync."),
    "loghouse_write_group_bytes": _metric(HISTOGRAM, "Bytes that shared a sync."),
    "loghouse_uncommitted_entries": _metric(GAUGE, "Entries here that no majority is known to have."),
    "loghouse_proposals_waiting_bytes": _metric(GAUGE, "Bytes of appends proposed here and not settled."),
    # --- reads ------------------------------------------------------------------------------
    "loghouse_fetch_bytes_total": _metric(COUNTER, "Bytes of entries given to clients.", "api"),
    "loghouse_reads_total": _metric(
        COUNTER, "Reads of a log, from the map of its active segment or by pread.", "source"
    ),
    "loghouse_read_bytes_total": _metric(COUNTER, "Bytes of those reads.", "source"),
    "loghouse_read_held_seconds_total": _metric(
        COUNTER, "Seconds that reads far behind gave way to appends."
    ),
    # --- what is served ---------------------------------------------------------------------
    "loghouse_ready": _metric(GAUGE, "1 while /readyz says so."),
    "loghouse_hindered_logs": _metric(GAUGE, "Logs that are not served as they should be.", "reason"),
    "loghouse_logs": _metric(GAUGE, "Copies of logs here, by the role of this node.", "role"),
    "loghouse_log_leader": _metric(GAUGE, "1 when this node leads the log.", "log"),
    "loghouse_log_term": _metric(GAUGE, "The log's term.", "log"),
    "loghouse_log_lowest_offset": _metric(GAUGE, "The lowest offset that is kept.", "log"),
    "loghouse_log_next_offset": _metric(GAUGE, "The offset behind the last one that can be read.", "log"),
    "loghouse_log_size_bytes": _metric(GAUGE, "Bytes in use of the copy here.", "log"),
    "loghouse_log_segments": _metric(GAUGE, "Segments of the copy here.", "log"),
    "loghouse_log_behind_entries": _metric(GAUGE, "Committed entries that the copy here lacks.", "log"),
    "loghouse_log_retention_bytes": _metric(GAUGE, "Bytes that are kept, at most; 0: all.", "log"),
    "loghouse_log_retention_seconds": _metric(GAUGE, "How long records are kept; 0: for ever.", "log"),
    "loghouse_cursors": _metric(GAUGE, "Cursors of the logs that this node leads."),
    "loghouse_cursors_not_shown": _metric(GAUGE, "Those of them without series of their own: beyond 64."),
    "loghouse_cursor_lag_records": _metric(
        GAUGE,
        "Records of the log from the cursor's position on; of one that counts something else there is none.",
        "log",
        "cursor",
    ),
    "loghouse_cursor_held": _metric(
        GAUGE, "1 while a holder of the cursor was heard within its lease.", "log", "cursor"
    ),
    "loghouse_cursor_idle_seconds": _metric(
        GAUGE, "How long the cursor has stood; at most as long as this node leads its log.", "log", "cursor"
    ),
    "loghouse_leader_changes_total": _metric(COUNTER, "Another node leads a log of this node."),
    "loghouse_elections_lost_total": _metric(COUNTER, "This node stood for election and does not lead."),
    "loghouse_raft_messages_refused_total": _metric(COUNTER, "Raft messages that did not fit.", "reason"),
    # --- other nodes ------------------------------------------------------------------------
    "loghouse_peer_lag_entries": _metric(
        GAUGE, "Entries that a follower lacks, of the log that this node leads where it lacks most.", "peer"
    ),
    "loghouse_peer_lag_bytes": _metric(GAUGE, "The same in bytes, by the log's mean entry.", "peer"),
    "loghouse_peer_silence_seconds": _metric(
        GAUGE, "How long a follower did not answer this leader, of the log where that is longest.", "peer"
    ),
    "loghouse_peer_link_up": _metric(GAUGE, "1 while there is a link to the node.", "peer"),
    "loghouse_peer_queue_bytes": _metric(GAUGE, "Bytes that wait for the link.", "peer"),
    "loghouse_peer_queue_frames": _metric(GAUGE, "Frames that wait for the link.", "peer"),
    "loghouse_peer_frames_dropped_total": _metric(COUNTER, "Frames lost before they left.", "peer"),
    "loghouse_peer_frames_coalesced_total": _metric(
        COUNTER, "Frames whose place a newer one took while they waited.", "peer"
    ),
    "loghouse_peer_dials_total": _metric(COUNTER, "Connections to the node that were begun.", "peer"),
    "loghouse_peer_link_ups_total": _metric(COUNTER, "Links to the node that came up.", "peer"),
    "loghouse_peer_link_failures_total": _metric(COUNTER, "Dials that failed, and links lost.", "peer"),
    "loghouse_forwarded_ignored_total": _metric(COUNTER, "Forwarded messages ignored.", "reason"),
    "loghouse_forwarded_answers_dropped_total": _metric(COUNTER, "Answers to other nodes not sent."),
    "loghouse_gossip_members": _metric(GAUGE, "Other nodes, by what gossip says of them.", "state"),
    "loghouse_gossip_suspicions_total": _metric(COUNTER, "Nodes believed alive that were suspected."),
    "loghouse_gossip_refutations_total": _metric(COUNTER, "This node said that it is not gone."),
    "loghouse_gossip_messages_refused_total": _metric(COUNTER, "Gossip that did not fit.", "reason"),
    # --- clients ----------------------------------------------------------------------------
    "loghouse_connections": _metric(GAUGE, "Open connections, by who is at the other end.", "kind"),
    "loghouse_connections_refused_total": _metric(COUNTER, "Connections over a limit.", "reason"),
    "loghouse_strangers_dropped_total": _metric(COUNTER, "Strangers that made room for another."),
    "loghouse_requests_refused_total": _metric(
        COUNTER, "Requests refused, by the class of the error.", "error"
    ),
    "loghouse_shares_held": _metric(
        GAUGE, "What clients hold: calls, followers, bytes of bodies and of answers not taken.", "resource"
    ),
    "loghouse_share_refusals_total": _metric(
        COUNTER, "Refusals because a subject, or all, held too much of it.", "resource"
    ),
    "loghouse_quota_bytes_total": _metric(
        COUNTER, "Bytes, in or out, that counted against a subject's quota.", "subject", "direction"
    ),
    "loghouse_quota_requests": _metric(GAUGE, "Requests under way of a subject with a quota.", "subject"),
    "loghouse_quota_wait_seconds": _metric(
        GAUGE,
        "How long until what a subject did, in or out, is within its quota again.",
        "subject",
        "direction",
    ),
    "loghouse_quota_refusals_total": _metric(
        COUNTER, "Refusals of a subject because its quota of something is used up.", "subject", "resource"
    ),
    # --- the disk ---------------------------------------------------------------------------
    "loghouse_disk_free_bytes": _metric(GAUGE, "Room on the disk of data_dir for this user."),
    "loghouse_disk_size_bytes": _metric(GAUGE, "The size of that disk."),
    "loghouse_entry_cache_bytes": _metric(GAUGE, "Entries kept in memory for followers close behind."),
    "loghouse_scrub_passes_total": _metric(COUNTER, "Every sealed segment of a log was read once more."),
    "loghouse_scrub_bytes_total": _metric(COUNTER, "Bytes that were read to find damage."),
    "loghouse_scrub_pass_ratio": _metric(
        GAUGE, "How far the passes under way are, the mean of the logs; 0 between passes."
    ),
    "loghouse_damage_found_total": _metric(COUNTER, "Damaged places that were met."),
    "loghouse_damage_repaired_entries_total": _metric(COUNTER, "Damaged entries that are whole again."),
    "loghouse_damaged_segments": _metric(GAUGE, "Segments that are being repaired, or wait for it."),
}
