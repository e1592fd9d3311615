"""Known bugs of the production driver, forwarding, membership and gossip: whole nodes show them.

Those of the core and of storage are in the other banks. What only a crafted peer can show is tried in
`driving.py` and `gossip.py`, each by the test that is named for it.
"""

from tests.mutants.hunted import bug

DRIVER = "loghouse.replica.driver:RaftDriver."
UNSETTLED = "loghouse.replica.unsettled:Unsettled."
WRITE = "loghouse.replica.group_write:GroupWrite."
REPLICA = "loghouse.replica.replica:Replica."
READS = "loghouse.node.reads:LogReads."
CLUSTER = "loghouse.cluster.cluster:Cluster."
ROUTED_GROUP = "loghouse.cluster.router:RoutedGroup."
JOINING = "loghouse.cluster.discovery:Discovery."
FORWARDER = "loghouse.node.forwarding:Forwarder."
TAIL = "loghouse.node.waiters:Waiters."
OPENING = "loghouse.storage.opening:Settlement."
# Where members are taken out, no disk may be lost: operators wait for its replacement.
NO_LOSS = (("wipe", 0.0), ("bit_rot", 0.0))
THREE = (("voters", 3), ("spares", 0))


ORDER = (
    bug(
        "promise-before-disk",
        "Raft thesis 3.8; etcd Ready contract",
        "Messages that wait for the disk leave with the others.",
        (
            DRIVER + "_take",
            "in ready.messages_now:",
            "in ready.messages_now + ready.messages_after_persist:",
        ),
        first_seed=2,
    ),
    bug(
        "durable-when-handed-over",
        "etcd-io/raft async_storage_writes",
        "The core is told that a group is durable when its write begins.",
        (
            DRIVER + "_write_next",
            "self._writing = group",
            "self._writing = group; self.raft.persisted(group[-1].token)",
        ),
        options=THREE,
    ),
    bug(
        "write-without-sync",
        "NATS#7564 (fsync every two minutes)",
        "A group of writes ends without a sync.",
        (
            "loghouse.storage.writing:SyncUnderWay.sync",
            "sync_written(self._log._files, self._fd)",
            "pass",
        ),
    ),
    bug(
        "vote-lost-on-the-way",
        "PySyncObj#84, #202 (votedFor never stored)",
        "The vote is not written with the term.",
        (WRITE + "__init__", "vote=state.vote", "vote=0"),
        options=THREE,
    ),
    bug(
        "cut-skipped",
        "the Go original's DeleteRange; Kafka KIP-101",
        "The driver writes over a conflicting suffix without cutting it.",
        (WRITE + "__init__", "if ready.truncate_after is not None:", "if False:"),
        options=THREE,
        faults=(("partition", 5.0), ("crash_point", 4.0)),
        first_seed=7,
    ),
    bug(
        "all-on-disk-is-committed",
        "a lone voter's shortcut taken by all",
        "A member starts with everything on its disk as committed.",
        (
            REPLICA + "_make_driver",
            "log.last_index if is_lone else log.commit_index",
            "log.last_index",
        ),
        options=THREE,
        faults=(("crash", 4.0), ("partition", 5.0)),
        first_seed=7,
    ),
    bug(
        "all-on-disk-is-served",
        "a core that begins, and readers who wait for it",
        "A member serves everything on its disk from its start on.",
        (DRIVER + "__init__", "log.state_at(raft.commit_index)", "log.state_at(log.last_index)"),
        options=THREE,
        faults=(("crash", 4.0), ("partition", 5.0)),
    ),
    bug(
        "start-without-sync",
        "a process that was killed leaves entries in the page cache; its successor takes them for durable",
        "A start syncs nothing of what it finds behind the watermark.",
        (OPENING + "_settle_active", "files.fdatasync(store.fd)\n    newest", "pass\n    newest"),
        (OPENING + "_settle_active", "files.fdatasync(store.fd)\n    if not found", "if not found"),
        options=THREE,
        faults=(("crash", 4.0),),
    ),
    bug(
        "full-disk-for-ever",
        "a disk with room again, and nobody tells the node",
        "A write that found a full disk is not tried again.",
        (DRIVER + "retry_write", "if self.is_full and", "if False and"),
        faults=(("disk_full", 4.0),),
        first_seed=9,
    ),
    bug(
        "failed-step-skipped",
        "after ENOSPC the rest of the group is written without it",
        "A step that found a full disk is not tried again.",
        (
            WRITE + "_do_steps",
            "self._steps[0]()",
            "step = self._steps.popleft(); step(); self._steps.appendleft(step)",
        ),
        faults=(("disk_full", 3.0),),
        first_seed=9,
    ),
)

ANSWERS = (
    bug(
        "success-of-anothers-entry",
        "hashicorp/raft: future resolved by index alone",
        "An append succeeded when any entry is committed in its place.",
        (UNSETTLED + "_settle_older", "if term <= self._committed_term:", "if True:"),
        (UNSETTLED + "committed", "if waiting.ticket.term == term:", "if True:"),
        options=(*THREE, ("writers", 2), ("request_timeout_seconds", 3.0)),
        faults=(("partition", 4.0), ("pause", 4.0)),
        first_seed=9,
    ),
    bug(
        "ack-of-uncommitted-retry",
        "design 6 (a retry of an uncommitted batch waits)",
        "A retry of a batch that is not committed yet is acknowledged at once.",
        (
            DRIVER + "_wait",
            "if ticket.index <= self.raft.commit_index:",
            "if ticket.duplicate:",
        ),
        options=(*THREE, ("request_timeout_seconds", 0.3), ("producers", 3)),
        faults=(("partition", 4.0), ("crash", 5.0)),
        first_seed=11,
    ),
    bug(
        "behind-for-ever",
        "found here: a read at a node that was removed before it got that far",
        "Confirmed reads wait without bound for entries that never come.",
        (DRIVER + "_count_behind_ticks", "one.ticks_left -= 1", "pass"),
        options=(*THREE, ("readers", 3), ("think_seconds_mean", 0.05)),
        faults=(("membership", 1.5), ("disk_stall", 2.0), *NO_LOSS),
        first_seed=7,
    ),
    bug(
        "read-before-readable",
        "ReadIndex without waiting for apply",
        "A read barrier fires before the entries are readable here.",
        (DRIVER + "when_readable", "if index <= self.readable_index:", "if True:"),
        options=THREE,
        first_seed=5,
    ),
    bug(
        "miss-without-the-leader",
        "rqlite#2747; the Go original reads locally",
        "A follower tells what it does not have as if nobody had.",
        (READS + "_read_barrier", "return deferred(driver.read_barrier)", "return succeed(0)"),
        options=THREE,
    ),
    bug(
        "stop-forgets-reads",
        "grpc calls that hang until their deadline",
        "Reads that wait are not told of the stop.",
        (DRIVER + "stop", 'self._fail_reads("the node is stopping; go on at another node")', "pass"),
        options=(*THREE, ("readers", 3), ("think_seconds_mean", 0.02)),
        faults=(("stop", 2.0), ("partition", 4.0)),
        first_seed=6,
    ),
    bug(
        "tail-not-woken",
        "Kafka long poll that sleeps through the append",
        "Followers at the tail are woken one record late.",
        (TAIL + "wake", "offsets[0] < next_offset:", "offsets[0] < next_offset - 1:"),
    ),
    bug(
        "retry-is-another-batch",
        "Kafka KIP-98",
        "A producer's id gets lost on its way into the log: its retry is appended again.",
        (
            REPLICA + "propose",
            "self._budgets.under_way.propose(self.driver.propose, proposal, ",
            (
                "self._budgets.under_way.propose(self.driver.propose, "
                "__import__('dataclasses').replace(proposal, producer_id=0), "
            ),
        ),
        options=THREE,
    ),
)

FORWARDING = (
    bug(
        "forwarded-as-another-batch",
        "Kafka KIP-98",
        "A producer's id gets lost on its way to the leader.",
        (FORWARDER + "propose", "producer_id=proposal.producer_id", "producer_id=0"),
        options=(*THREE, ("request_timeout_seconds", 0.3)),
    ),
    bug(
        "lost-is-certain",
        "JetStream: a timeout told as a refusal, and the record there",
        "A request that left and was not answered is said not to have been done.",
        (
            "loghouse.node.forwarding:_lost",
            'return OutcomeUnknownError(\n            f"{leader}: the records',
            'return UnavailableError(\n            f"{leader}: the records',
        ),
        options=(*THREE, ("writers", 2), ("request_timeout_seconds", 3.0)),
        faults=(("link_reset", 2.0), ("crash", 5.0)),
        first_seed=7,
    ),
    bug(
        "forwards-never-expire",
        "grpc calls that hang until their deadline",
        "A leader that does not answer is waited for without bound.",
        (FORWARDER + "_ask", "deadline = self._clock.seconds() +", "deadline = 1e9 +"),
        options=(*THREE, ("writers", 2), ("request_timeout_seconds", 3.0)),
        faults=(("one_way_cut", 3.0), ("partition", 3.0)),
        first_seed=29,
    ),
    bug(
        "expectation-not-forwarded",
        "an append that was to be at one offset or nowhere",
        "The expected offset gets lost on its way to the leader.",
        (FORWARDER + "propose", "expect_offset=proposal.expect_offset", "expect_offset=None"),
        options=(*THREE, ("writers", 2)),
        first_seed=7,
    ),
)

MEMBERSHIP = (
    bug(
        "joiner-cannot-answer",
        "a learner whose log does not hold the leader yet",
        "A joiner answers only members that its own log knows.",
        (ROUTED_GROUP + "key_of", "return self.speakers.get(id_)", "return None"),
        options=THREE,
    ),
    bug(
        "bootstrap-while-one-is-silent",
        "RabbitMQ: peers that start at different times form several clusters",
        "The node that bootstraps does not wait for all addresses.",
        (JOINING + "look", "if self._may_bootstrap and not silent:", "if self._may_bootstrap:"),
        options=THREE,
        faults=(("wipe", 3.0), ("crash", 0.0)),
        first_seed=8,
    ),
    bug(
        "removed-comes-back",
        "serf: removed nodes that rejoin by themselves",
        "The leader makes removed nodes members again.",
        (
            "loghouse.cluster.reconcile:_add_learner",
            "in members or presence.name in configuration.removed:",
            "in members:",
        ),
        (
            CLUSTER + "_admit",
            "if self._is_removed(hello.node_name):",
            "if False:",
        ),
        options=(("voters", 4),),
        faults=(("membership", 2.0), *NO_LOSS),
    ),
)

GOSSIP = (
    bug(
        "nobody-tries-the-dead",
        "serf#333",
        "Members declared dead are not tried any more.",
        ("loghouse.gossip.core:Swim._tick_reach_out", "lost = list(self._lost())", "lost = []"),
        options=THREE,
        faults=(("pause", 3.0), ("partition", 3.0)),
    ),
)

FULL = (*ORDER, *ANSWERS, *FORWARDING, *MEMBERSHIP, *GOSSIP)
