"""Known bugs of what drives core and storage: the driver, its writes, reads and trims."""

from tests.mutants.hunted import bug

DRIVING = "loghouse.replica.driver:RaftDriver."
UNSETTLED = "loghouse.replica.unsettled:Unsettled."
WRITE = "loghouse.replica.group_write:GroupWrite."
READS = "loghouse.node.reads:LogReads."

DRIVER = (
    bug(
        "vote-not-persisted",
        "PySyncObj#84, #202 (votedFor never stored)",
        "The vote is not written with the term.",
        (WRITE + "__init__", "vote=state.vote", "vote=0"),
    ),
    bug(
        "vote-forgotten-at-start",
        "PySyncObj (votedFor not restored)",
        "A start restores the term without the vote.",
        (
            "loghouse.replica.replica:Replica._make_driver",
            "hard_state=log.hard_state",
            "hard_state=type(log.hard_state)(log.hard_state.term, 0)",
        ),
        faults=(("crash_point", 3.0),),
        first_seed=12,
    ),
    bug(
        "after-persist-sent-now",
        "Raft thesis 10.2.1; etcd Ready contract",
        "Messages that wait for the disk leave with the others.",
        (
            DRIVING + "_take",
            "in ready.messages_now:",
            "in ready.messages_now + ready.messages_after_persist:",
        ),
    ),
    bug(
        "persisted-too-much",
        "etcd-io/raft async_storage_writes",
        "The core is told that everything is durable when only the first group is.",
        (DRIVING + "_finish_write", "group[-1].token", "self.raft._token"),
        first_seed=4,
    ),
    bug(
        "vote-after-entries",
        "design 5 (hard state before what follows)",
        "A group's entries are written without its hard state.",
        (
            WRITE + "__init__",
            "if ready.hard_state is not None:",
            "if ready.hard_state is not None and not ready.entries:",
        ),
        options=(("turn_seconds", 0.005),),
    ),
    bug(
        "cut-skipped",
        "the Go original's DeleteRange; Kafka KIP-101",
        "The driver writes over a conflicting suffix without cutting it.",
        (WRITE + "__init__", "if ready.truncate_after is not None:", "if False:"),
        faults=(("partition", 5.0), ("crash_point", 4.0)),
    ),
    bug(
        "trim-by-own-state",
        "found here: a log's own state holds trims that are not committed",
        "The log is trimmed by a trim that a new leader may cut again.",
        (
            "loghouse.replica.disk_room:DiskRoom._trim",
            "log.trim_prefix(lowest, high_index)",
            "log.trim_prefix()",
        ),
        options=(("trim_seconds_mean", 0.3), ("disk.index_size", 24)),
    ),
    bug(
        "ack-of-another-entry",
        "Redpanda#3003 (inconsistent offsets); Bufstream 0.1.0",
        "A client is acknowledged when any entry is committed at its index.",
        (UNSETTLED + "_settle_older", "if term <= self._committed_term:", "if True:"),
        (UNSETTLED + "committed", "if waiting.ticket.term == term:", "if True:"),
        options=(("writers", 2), ("request_timeout_seconds", 3.0)),
        faults=(("partition", 4.0), ("pause", 4.0)),
        first_seed=4,
    ),
    bug(
        "ack-of-uncommitted-retry",
        "design 6 (a retry of an uncommitted batch waits)",
        "A retry of a batch that is not committed yet is acknowledged at once.",
        (DRIVING + "_wait", "if ticket.index <= self.raft.commit_index:", "if ticket.duplicate:"),
        options=(("request_timeout_seconds", 0.3), ("producers", 3)),
        faults=(("partition", 4.0), ("crash", 5.0)),
        first_seed=11,
    ),
    bug(
        "ack-at-append",
        "Kafka 2013, NATS#7564 (ack before the quorum)",
        "A client is acknowledged when the leader appended, not when it is committed.",
        (DRIVING + "_wait", "if ticket.index <= self.raft.commit_index:", "if True:"),
        faults=(("partition", 4.0), ("crash", 5.0)),
    ),
    bug(
        "dirty-read",
        "Redpanda 21.10.1 (aborted reads); the Go original reads locally",
        "A node serves what is on its disk, committed or not.",
        (READS + "fetch", "offset < driver.readable_offset", "offset < self._log.next_offset"),
        (READS + "_read", "driver.readable_index", "self._log.durable_index"),
    ),
    bug(
        "read-not-waiting",
        "etcd raft#105, #3879; rqlite#2747",
        "A confirmed read is answered before this node has got that far.",
        (DRIVING + "when_readable", "if index <= self.readable_index:", "if True:"),
    ),
)
