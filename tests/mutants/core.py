"""Known bugs of the consensus core."""

from loghouse.testing.swarm import FAULT_CLASSES
from tests.mutants.hunted import bug

ELECTIONS = "loghouse.raft.elections:Elections."
REPLICATION = "loghouse.raft.replication:Replication."
READS = "loghouse.raft.reads:Reads."
QUEUE = "loghouse.raft.read_queue:ReadQueue."
PROPOSALS = "loghouse.raft.proposals:Proposals."
ROLES = "loghouse.raft.roles:Roles."
LOG = "loghouse.raft.raft_log:RaftLog."
PROGRESS = "loghouse.raft.progress:Progress."

# Old entries stay uncommitted for long, and leaders change often: what Raft's figure 8 needs.
SLOW_COMMIT = (("raft.append_size_max", 1), ("raft.inflight_entries_max", 1), ("voters", 5))
CHANGING_LEADERS = (("crash_point", 4.0), ("partition", 6.0), ("crash", 8.0))
# No fault but those named.
QUIET = tuple((name, 0) for name in FAULT_CLASSES)
READING = (("readers", 6), ("think_seconds_mean", 0.02), ("request_timeout_seconds", 3.0))


CORE = (
    bug(
        "vote-twice",
        "canonical/raft#386, camunda#1068, etcd#10000",
        "A member votes for whoever asks, even after it voted in that term.",
        (ELECTIONS + "_on_request_vote", " and self.vote in (NOBODY, source)", ""),
    ),
    bug(
        "vote-reset-in-term",
        "canonical/raft#386 (two leaders in one term)",
        "Following a leader of the same term forgets the vote given in it.",
        (ROLES + "_become_follower", "if term > self.term:", "if term >= self.term:"),
    ),
    bug(
        "vote-for-stale-log",
        "Raft 5.4.1; CORDS FAST'17",
        "A candidate whose log lacks committed entries gets votes.",
        (
            ELECTIONS + "_on_request_vote",
            "(message.last_log_term, message.last_log_index) >= self._vote_pair",
            "True",
        ),
        first_seed=3,
    ),
    bug(
        "vote-by-length",
        "Raft 5.4.1 (the later term is more up to date, whatever the length)",
        "Logs are compared by length only, not by the last term first.",
        (
            ELECTIONS + "_on_request_vote",
            "(message.last_log_term, message.last_log_index) >= self._vote_pair",
            "message.last_log_index >= self._log.last_index",
        ),
        options=(*SLOW_COMMIT, ("writers", 2), ("think_seconds_mean", 0.02), ("pipeline", 4)),
        faults=CHANGING_LEADERS,
        first_seed=93,
    ),
    bug(
        "pre-vote-counted",
        "canonical/raft#196",
        "An answer to a pre-vote counts as a vote.",
        (
            ELECTIONS + "_on_vote_reply",
            "elif self.role is Role.CANDIDATE and not message.pre_vote:",
            "elif self.role is Role.CANDIDATE:",
        ),
    ),
    bug(
        "votes-kept-between-terms",
        "etcd-io/raft quorum tests (votes of an older campaign)",
        "Votes collected in one campaign count in the next.",
        (ROLES + "_reset", "self._votes = {}", "pass"),
        (ELECTIONS + "_on_vote_reply", "message.term != expected_term or ", ""),
    ),
    bug(
        "answers-before-durable",
        "etcd#14370, etcd#10508 (ack before the log is durable)",
        "Votes and acknowledgements leave before the disk has what they promise.",
        (ROLES + "_send_after_persist", "self._messages_after_persist.append(", "self._messages_now.append("),
    ),
    bug(
        "ack-before-durable",
        "NATS#7564; etcd#14370",
        "A follower acknowledges entries as soon as it has them in memory.",
        (REPLICATION + "_acknowledge", "self._send_after_persist(", "self._send("),
    ),
    bug(
        "empty-append-acks",
        "yugabyte#32875",
        "The answer to an empty append covers entries that are not durable yet.",
        (
            REPLICATION + "_on_append_entries",
            "return self._acknowledge(source, max(last_new, log.commit_index))",
            "return self._acknowledge(source, last_new) if message.entries else self._send(\n"
            "        source, AppendEntriesReply(term=self.term, success=True, index=last_new))",
        ),
    ),
    bug(
        "old-term-commit",
        "Raft 5.4.2, figure 8; PySyncObj#169, #110",
        "A leader commits entries of older terms by counting replicas.",
        (
            REPLICATION + "_advance_commit",
            "if index >= self._term_start_index and self._log.commit(index) ",
            "if self._log.commit(index) ",
        ),
        options=(
            ("voters", 3),
            ("spares", 0),
            ("tick_seconds", 0.02),
            ("turn_seconds", 0.0),
            ("writers", 2),
            ("producers", 3),
            ("pipeline", 4),
            ("think_seconds_mean", 0.02),
            ("raft.election_ticks", 5),
            ("raft.append_size_max", 1),
            ("raft.inflight_entries_max", 1),
            ("raft.proposals_max", 64),
            ("network.delay_seconds_mean", 0.015),
            ("disk.sync_seconds_mean", 0.001),
            ("network.loss", 0.3),
            ("crash_points", ("first_commit", "noop_durable")),
        ),
        faults=(*QUIET, ("crash", 3.0), ("crash_point", 1.5)),
        first_seed=98,
    ),
    bug(
        "leader-counts-memory",
        "etcd#14370 (single node acks before the WAL is durable)",
        "A leader counts its own entry before its disk has it.",
        (
            REPLICATION + "_advance_commit",
            "self._log.durable_index if id_ == self.id",
            "self._log.last_index if id_ == self.id",
        ),
    ),
    bug(
        "leader-counts-sent",
        "Raft 5.3 (an entry is committed once a majority stored it)",
        "A leader counts what it sent to a follower as held by it.",
        (
            REPLICATION + "_send_append",
            "progress.next_index = entries[-1].index + 1",
            "progress.next_index = entries[-1].index + 1\n        progress.match_index = entries[-1].index",
        ),
    ),
    bug(
        "removed-leader-counts-itself",
        "etcd-io/raft confchange_v1_remove_leader; Raft 6",
        "A leader that is no voter any more counts itself for commits.",
        (
            REPLICATION + "_advance_commit",
            "for id_ in self._voters\n",
            "for id_ in self._voters | {self.id}\n",
        ),
        options=(("spares", 2),),
        faults=(("membership", 3.0), ("wipe", 0), ("bit_rot", 0)),
    ),
    bug(
        "append-commit-unclamped",
        "etcd-io/raft commit rules (follower commit not clamped)",
        "A follower commits up to the leader's index in a suffix that the append did not check.",
        # A leader that goes back all the way after a rejection is slow and right; it shows the bug.
        (REPLICATION + "_on_append_reply", "hint = message.hint_index", "hint = 0"),
        (
            REPLICATION + "_on_append_entries",
            "log.commit(min(message.commit_index, last_new))",
            "log.commit(min(message.commit_index, log.last_index))",
        ),
        options=SLOW_COMMIT,
        faults=CHANGING_LEADERS,
        first_seed=6,
    ),
    bug(
        "heartbeat-commit-unclamped",
        "etcd-io/raft (heartbeats carry min(match, commit))",
        "Heartbeats tell a follower to commit entries it is not known to hold.",
        (
            REPLICATION + "_broadcast_heartbeat",
            "min(progress.match_index, self._log.commit_index)",
            "self._log.commit_index",
        ),
        first_seed=14,
    ),
    bug(
        "commit-goes-back",
        "PySyncObj#166",
        "An older message lowers the commit index.",
        (LOG + "commit", "if index <= self.commit_index:", "if index == self.commit_index:"),
    ),
    bug(
        "conflict-ignored",
        "Raft 5.3, figure 7; KIP-101",
        "A follower keeps its own entries where the leader has others.",
        (
            REPLICATION + "_take",
            "if entry.index <= log.commit_index or log.term_at(entry.index) == entry.term:",
            "if True:",
        ),
        faults=CHANGING_LEADERS,
    ),
    bug(
        "previous-term-unchecked",
        "Raft 5.3 (consistency check); openraft#1795",
        "An append is taken wherever the follower has some entry before it.",
        (
            REPLICATION + "_on_append_entries",
            "if not log.matches(prev_index, message.prev_log_term):",
            "if prev_index > log.last_index:",
        ),
        faults=CHANGING_LEADERS,
    ),
    bug(
        "late-append-cuts",
        "Raft figure 2 (only a conflicting entry cuts); Kafka KIP-101",
        "A late append cuts entries that match, and that were acknowledged.",
        (
            REPLICATION + "_on_append_entries",
            "if message.entries and not log.matches(last_new, message.entries[-1].term):",
            "if log.last_index > max(last_new, log.commit_index):\n"
            "        log.truncate(max(last_new, log.commit_index))\n"
            "    if message.entries and not log.matches(last_new, message.entries[-1].term):",
        ),
        first_seed=4,
    ),
    bug(
        "aba-stable",
        "etcd-io/raft async_storage_writes_append_aba_race, etcd#1690",
        "The late completion of an overwritten write marks other entries durable.",
        (LOG + "truncate", "write.last_index = min(write.last_index, index)", "pass"),
        options=(*READING, ("disk.sync_seconds_mean", 0.02), ("raft.append_size_max", 220)),
        faults=(("partition", 4.0), ("pause", 5.0), ("disk_stall", 3.0)),
        first_seed=4,
    ),
    bug(
        "cut-stays-durable",
        "etcd-io/raft async_storage_writes (unstable entries); raft-wal#32",
        "A cut leaves the durable mark where it was.",
        (LOG + "truncate", "self.durable_index = min(self.durable_index, index)", "pass"),
        faults=CHANGING_LEADERS,
    ),
    bug(
        "producers-survive-cut",
        "design 6 (the table is a function of the log); Redpanda#3039",
        "A cut of the log does not roll the producer table back.",
        (
            LOG + "truncate",
            "self.state = self._state_at(index)",
            "kept = self.state.producers\n    self.state = self._state_at(index)\n"
            "    self.state.producers = kept",
        ),
        options=(("producers", 3), ("pipeline", 4), ("writers", 0)),
        faults=CHANGING_LEADERS,
    ),
    bug(
        "duplicates-appended",
        "Redpanda#3039 (duplicate writes); jetcd 0.8.2",
        "A producer's retry is appended again.",
        (PROPOSALS + "_append_proposal", "if original is not None:", "if False:"),
    ),
    bug(
        "wall-clock-timestamps",
        "ADR 22 (wall clock steps must change nothing)",
        "Entries get the wall clock's time although it went back.",
        (ROLES + "_append_own", "timestamp=max(now, state.timestamp)", "timestamp=now"),
        faults=(("clock_step", 5.0),),
    ),
    bug(
        "snapshot-keeps-conflict",
        "hashicorp/raft#697, #704; openraft#559",
        "A follower with another entry at a snapshot's index keeps its log.",
        (
            REPLICATION + "_on_install_snapshot",
            "if log.matches(state.index, state.term):",
            "if state.index <= log.last_index:",
        ),
        options=(
            ("voters", 3),
            ("writers", 2),
            ("producers", 3),
            ("pipeline", 4),
            ("think_seconds_mean", 0.02),
            ("raft.append_size_max", 1000),
            ("raft.inflight_entries_max", 8),
            ("trim_seconds_mean", 0.1),
            ("disk.index_size", 24),
        ),
        faults=(("partition", 4.0), ("pause", 5.0)),
        first_seed=5,
    ),
    bug(
        "stale-snapshot-taken",
        "etcd#1763 (stale snapshot truncates matched entries)",
        "A late snapshot throws away entries that came after it.",
        (REPLICATION + "_on_install_snapshot", "if state.index <= log.commit_index:", "if False:"),
        (REPLICATION + "_on_install_snapshot", "if log.matches(state.index, state.term):", "if False:"),
        (LOG + "restore", "assert state.index > self.commit_index", "pass"),
        options=(("trim_seconds_mean", 0.3), ("disk.index_size", 24), ("network.duplicate", 0.2)),
        first_seed=5,
    ),
    bug(
        "snapshot-wait-for-ever",
        "etcd#10308; hashicorp/raft#612",
        "A leader that sent a snapshot that was lost never sends anything again.",
        (REPLICATION + "_on_heartbeat_reply", "progress.waited_ticks >= self.config.snapshot_ticks", "False"),
        options=(("trim_seconds_mean", 0.3), ("disk.index_size", 24), ("network.loss", 0.3)),
        first_seed=30,
    ),
    bug(
        "probe-paused-for-ever",
        "etcd-io/raft heartbeat_resp_recovers_from_probing, etcd#14633",
        "A probe that was lost is never repeated.",
        (
            REPLICATION + "_on_heartbeat_reply",
            "progress.paused = progress.wants_look = False",
            "progress.wants_look = False",
        ),
        first_seed=4,
    ),
    bug(
        "transfer-stuck",
        "hashicorp/raft#696, #487, #493, #581; openraft#1747",
        "A leadership transfer that failed blocks proposals for ever.",
        (ELECTIONS + "_tick_leader", "self._transfer_target = NOBODY", "pass"),
        (ROLES + "_reset", "self._transfer_target = NOBODY", "pass"),
        options=(("network.loss", 0.3),),
        faults=(("transfer", 3.0), ("membership", 0)),
        first_seed=4,
    ),
    bug(
        "removed-voter-stuck",
        "qdrant#10691, scylla#10618; thesis 4.2.2",
        "A member that was just removed does not campaign, though only it could commit that.",
        (ELECTIONS + "may_campaign", "(self.is_voter or self._was_voter)", "self.is_voter"),
        options=(("voters", 2), ("spares", 1)),
        faults=(("membership", 3.0), ("crash", 4.0), ("one_way_cut", 4.0)),
        first_seed=59,
    ),
    bug(
        "change-before-own-commit",
        "Ongaro 2015, single-server membership bug; raft#372",
        "A new leader changes the members before it committed anything of its own term.",
        (PROPOSALS + "propose_configuration", "if not self.has_own_commit:", "if False:"),
        options=(("spares", 2),),
        faults=(("membership", 3.0), ("transfer", 5.0)),
    ),
    bug(
        "overlapping-changes",
        "etcd#12582, #7625, camunda#60086; Raft 6",
        "A second membership change begins before the first is committed.",
        (PROPOSALS + "propose_configuration", "if not self.configuration_is_committed:", "if False:"),
        options=(("spares", 2),),
        faults=(("membership", 2.0),),
    ),
    bug(
        "read-without-quorum",
        "hashicorp/raft#108, #603; consul#54",
        "A leader answers reads without asking whether it still leads.",
        (READS + "_confirm_reads", "if not has_quorum(self._voters, [*confirmed, self.id]):", "if False:"),
        options=(
            *READING,
            ("voters", 5),
            ("spares", 0),
            ("drift", 0.3),
            ("turn_seconds", 0.0),
            ("tick_seconds", 0.05),
            ("raft.election_ticks", 5),
            ("network.loss", 0.0),
            ("network.delay_seconds_mean", 0.003),
            ("disk.sync_seconds_mean", 0.002),
            ("writers", 2),
            ("producers", 3),
            ("raft.reads_max", 64),
            ("raft.proposals_max", 64),
        ),
        faults=(*QUIET, ("partition", 2.0)),
        first_seed=2,
    ),
    bug(
        "read-before-own-commit",
        "etcd#7331",
        "A new leader answers reads before it committed an entry of its own term.",
        (READS + "_flush_reads", " and self.has_own_commit:", ":"),
        options=(*READING, ("disk.sync_seconds_mean", 0.05)),
        faults=(("transfer", 5.0), ("partition", 5.0)),
        first_seed=4,
    ),
    bug(
        "read-confirmed-by-late-answer",
        "etcd#20418",
        "An answer to an older heartbeat confirms a newer read.",
        (
            REPLICATION + "_on_heartbeat_reply",
            "if progress.read_round < message.read_round <= self._reads.round:\n"
            "        progress.read_round = message.read_round",
            "progress.read_round = self._reads.round",
        ),
        options=(
            *READING,
            ("voters", 3),
            ("spares", 0),
            ("tick_seconds", 0.05),
            ("raft.election_ticks", 10),
            ("raft.reads_max", 64),
            ("network.stray", 0.5),
            ("network.stray_seconds_max", 2.0),
            ("network.delay_seconds_mean", 0.005),
        ),
        faults=(*QUIET, ("pause", 3.0), ("clog", 2.0), ("partition", 3.0)),
        first_seed=180,
    ),
    bug(
        "read-id-reused",
        "etcd#21399",
        "A follower asks under the same id again; a late answer to the first fits the second.",
        (QUEUE + "ask", "context = self.new_id()", "context = 1"),
        options=(*READING, ("network.stray", 0.05), ("network.duplicate", 0.2)),
        faults=(("clog", 4.0),),
        first_seed=38,
    ),
    bug(
        "read-round-not-first-index",
        "Raft thesis 6.4 (the index is taken before the round)",
        "Reads that come while a round runs are answered by that round.",
        (
            READS + "_confirm_reads",
            "running, reads.running = reads.running, []",
            "running, reads.running, reads.waiting = reads.running + reads.waiting, [], []",
        ),
        options=(
            ("voters", 3),
            ("readers", 10),
            ("writers", 2),
            ("producers", 3),
            ("think_seconds_mean", 0.01),
            ("tick_seconds", 0.05),
            ("raft.election_ticks", 10),
            ("network.delay_seconds_mean", 0.03),
            ("network.ordered", False),
        ),
        faults=(("slow_link", 5.0),),
        first_seed=3,
    ),
)
