"""Known bugs of what drives core and storage: the driver, its writes, reads and trims."""

from loghouse.testing.mutation import Edit, Mutant

DRIVING = "loghouse.replica.driver:RaftDriver."
UNSETTLED = "loghouse.replica.unsettled:Unsettled."
WRITE = "loghouse.replica.group_write:GroupWrite."
READS = "loghouse.replica.reads:LogReads."

DRIVER = (
    Mutant(
        name="vote-not-persisted",
        citation="PySyncObj#84, #202 (votedFor never stored)",
        description="The vote is not written with the term.",
        edits=(Edit(WRITE + "__init__", "vote=state.vote", "vote=0"),),
    ),
    Mutant(
        name="vote-forgotten-at-start",
        citation="PySyncObj (votedFor not restored)",
        description="A start restores the term without the vote.",
        edits=(
            Edit(
                "loghouse.replica.replica:Replica._make_driver",
                "hard_state=log.hard_state",
                "hard_state=type(log.hard_state)(log.hard_state.term, 0)",
            ),
        ),
        faults=(("crash_point", 3.0),),
        first_seed=12,
    ),
    Mutant(
        name="after-persist-sent-now",
        citation="Raft thesis 10.2.1; etcd Ready contract",
        description="Messages that wait for the disk leave with the others.",
        edits=(
            Edit(
                DRIVING + "_take",
                "in ready.messages_now:",
                "in ready.messages_now + ready.messages_after_persist:",
            ),
        ),
    ),
    Mutant(
        name="persisted-too-much",
        citation="etcd-io/raft async_storage_writes",
        description="The core is told that everything is durable when only the first group is.",
        edits=(Edit(DRIVING + "_finish_write", "group[-1].token", "self.raft._token"),),
        first_seed=4,
    ),
    Mutant(
        name="vote-after-entries",
        citation="design 5 (hard state before what follows)",
        description="A group's entries are written without its hard state.",
        edits=(
            Edit(
                WRITE + "__init__",
                "if ready.hard_state is not None:",
                "if ready.hard_state is not None and not ready.entries:",
            ),
        ),
        options=(("turn_seconds", 0.005),),
    ),
    Mutant(
        name="cut-skipped",
        citation="the Go original's DeleteRange; Kafka KIP-101",
        description="The driver writes over a conflicting suffix without cutting it.",
        edits=(Edit(WRITE + "__init__", "if ready.truncate_after is not None:", "if False:"),),
        faults=(("partition", 5.0), ("crash_point", 4.0)),
    ),
    Mutant(
        name="trim-by-own-state",
        citation="found here: a log's own state holds trims that are not committed",
        description="The log is trimmed by a trim that a new leader may cut again.",
        edits=(
            Edit(
                "loghouse.replica.disk_room:DiskRoom._trim",
                "log.trim_prefix(lowest, high_index)",
                "log.trim_prefix()",
            ),
        ),
        options=(("trim_seconds_mean", 0.3), ("disk.index_size", 24)),
    ),
    Mutant(
        name="ack-of-another-entry",
        citation="Redpanda#3003 (inconsistent offsets); Bufstream 0.1.0",
        description="A client is acknowledged when any entry is committed at its index.",
        edits=(
            Edit(UNSETTLED + "_settle_older", "if term <= self._committed_term:", "if True:"),
            Edit(UNSETTLED + "committed", "if waiting.ticket.term == term:", "if True:"),
        ),
        options=(("writers", 2), ("request_timeout_seconds", 3.0)),
        faults=(("partition", 4.0), ("pause", 4.0)),
        first_seed=4,
    ),
    Mutant(
        name="ack-of-uncommitted-retry",
        citation="design 6 (a retry of an uncommitted batch waits)",
        description="A retry of a batch that is not committed yet is acknowledged at once.",
        edits=(
            Edit(
                DRIVING + "_wait",
                "if ticket.index <= self.raft.commit_index:",
                "if ticket.duplicate:",
            ),
        ),
        options=(("request_timeout_seconds", 0.3), ("producers", 3)),
        faults=(("partition", 4.0), ("crash", 5.0)),
    ),
    Mutant(
        name="ack-at-append",
        citation="Kafka 2013, NATS#7564 (ack before the quorum)",
        description="A client is acknowledged when the leader appended, not when it is committed.",
        edits=(Edit(DRIVING + "_wait", "if ticket.index <= self.raft.commit_index:", "if True:"),),
        faults=(("partition", 4.0), ("crash", 5.0)),
    ),
    Mutant(
        name="dirty-read",
        citation="Redpanda 21.10.1 (aborted reads); the Go original reads locally",
        description="A node serves what is on its disk, committed or not.",
        edits=(
            Edit(READS + "fetch", "offset < driver.readable_offset", "offset < self._log.next_offset"),
            Edit(READS + "_read", "driver.readable_index", "self._log.durable_index"),
        ),
    ),
    Mutant(
        name="read-not-waiting",
        citation="etcd raft#105, #3879; rqlite#2747",
        description="A confirmed read is answered before this node has got that far.",
        edits=(Edit(DRIVING + "_until_readable", "if index <= self.readable_index:", "if True:"),),
    ),
)
