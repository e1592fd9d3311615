"""Known bugs of what drives core and storage; the simulated node is driven as the real one is."""

from loghouse.testing.mutation import Edit, Mutant

NODE = "loghouse.testing.node:SimNode."
MACHINE = "loghouse.testing.machine:Machine."
READING = "loghouse.testing.reading:PendingReads."

DRIVER = (
    Mutant(
        name="vote-not-persisted",
        citation="PySyncObj#84, #202 (votedFor never stored)",
        description="The vote is not written with the term.",
        edits=(Edit(MACHINE + "write", "vote=what.vote", "vote=0"),),
    ),
    Mutant(
        name="vote-forgotten-at-start",
        citation="PySyncObj (votedFor not restored)",
        description="A start restores the term without the vote.",
        edits=(
            Edit(
                NODE + "_start_core",
                "HardState(log.hard_state.term, log.hard_state.vote)",
                "HardState(log.hard_state.term, 0)",
            ),
        ),
        faults=(("crash_point", 3.0),),
    ),
    Mutant(
        name="after-persist-sent-now",
        citation="Raft thesis 10.2.1; etcd Ready contract",
        description="Messages that wait for the disk leave with the others.",
        edits=(
            Edit(
                NODE + "_pump",
                "self._send(ready.messages_now)",
                "self._send(ready.messages_now + ready.messages_after_persist)",
            ),
        ),
    ),
    Mutant(
        name="persisted-too-much",
        citation="etcd-io/raft async_storage_writes",
        description="The core is told that everything is durable when only the first group is.",
        edits=(Edit(NODE + "_finish_group", "group[-1].token", "raft._token"),),
    ),
    Mutant(
        name="vote-after-entries",
        citation="design 5 (hard state before what follows)",
        description="A group's entries are written without its hard state.",
        edits=(
            Edit(
                MACHINE + "plan",
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
        edits=(Edit(MACHINE + "plan", "if ready.truncate_after is not None:", "if False:"),),
        faults=(("partition", 5.0), ("crash_point", 4.0)),
    ),
    Mutant(
        name="trim-by-own-state",
        citation="found here: a log's own state holds trims that are not committed",
        description="The log is trimmed by a trim that a new leader may cut again.",
        edits=(
            Edit(
                MACHINE + "write",
                "log.trim_prefix(lowest_offset=what[0], high_index=what[1])",
                "log.trim_prefix()",
            ),
        ),
        options=(("trim_seconds_mean", 0.3), ("disk.index_size", 24)),
    ),
    Mutant(
        name="ack-of-another-entry",
        citation="Redpanda#3003 (inconsistent offsets); Bufstream 0.1.0",
        description="A client is acknowledged when any entry is committed at its index.",
        edits=(Edit(NODE + "_settle", "if ticket.term in (term, 0):", "if True:"),),
        options=(("writers", 2), ("request_timeout_seconds", 3.0)),
        faults=(("partition", 4.0), ("pause", 4.0)),
    ),
    Mutant(
        name="ack-of-uncommitted-retry",
        citation="design 6 (a retry of an uncommitted batch waits)",
        description="A retry of a batch that is not committed yet is acknowledged at once.",
        edits=(
            Edit(
                NODE + "_propose",
                "if ticket.duplicate and (ticket.term == 0 or ticket.index <= raft.commit_index):",
                "if ticket.duplicate:",
            ),
        ),
        options=(("request_timeout_seconds", 0.3), ("producers", 3)),
        faults=(("partition", 4.0), ("crash", 5.0)),
        first_seed=19,
    ),
    Mutant(
        name="ack-at-append",
        citation="Kafka 2013, NATS#7564 (ack before the quorum)",
        description="A client is acknowledged when the leader appended, not when it is committed.",
        edits=(
            Edit(
                NODE + "_propose",
                "if ticket.duplicate and (ticket.term == 0 or ticket.index <= raft.commit_index):",
                "if True:",
            ),
        ),
        faults=(("partition", 4.0), ("crash", 5.0)),
    ),
    Mutant(
        name="dirty-read",
        citation="Redpanda 21.10.1 (aborted reads); the Go original reads locally",
        description="A node serves what is on its disk, committed or not.",
        edits=(
            Edit(
                READING + "_serve",
                "log.read(offset, 1, node.published_index)",
                "log.read(offset, 1, log.durable_index)",
            ),
        ),
    ),
    Mutant(
        name="read-not-waiting",
        citation="etcd raft#105, #3879; rqlite#2747",
        description="A confirmed read is answered before this node has got that far.",
        edits=(Edit(READING + "_confirm", "elif index <= self._node.published_index:", "elif True:"),),
    ),
    Mutant(
        name="emptied-disk-same-member",
        citation="etcd#2676, #2746; openraft#1535; vault-helm#908",
        description="A machine whose disk was emptied comes back as the voter it was.",
        edits=(
            Edit(
                "loghouse.testing.machine:Machine.new_disk",
                "(self._number, self._disks)",
                "(self._number, 1)",
            ),
            Edit("loghouse.testing.atlas:Atlas._replace_disk", "node.member = 0", "pass"),
        ),
        options=(("voters", 3), ("spares", 0)),
        faults=(("wipe", 4.0), ("crash", 5.0)),
    ),
)
