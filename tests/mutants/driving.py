"""Known bugs of the real driver: replica, node, cluster. Each names the test that must catch it.

`tests/test_driving_mutants.py` tries them.
"""

from tests.mutants.named import bug

DRIVER = "loghouse.replica.driver:RaftDriver."
UNSETTLED = "loghouse.replica.unsettled:Unsettled."
CLUSTER = "loghouse.cluster.cluster:Cluster."
ROUTER = "loghouse.cluster.router:Router."
ROUTED_GROUP = "loghouse.cluster.router:RoutedGroup."
JOINING = "loghouse.cluster.discovery:Discovery."
REPLICA = "loghouse.replica.replica:Replica."
READS = "loghouse.node.reads:LogReads."
COLD_READS = "loghouse.replica.cold_reads:ColdReads."
JOINER = "loghouse.replica.coalescing:Coalescer."
PROPOSALS = "loghouse.raft.proposals:Proposals."
ADMINISTRATION = "loghouse.node.administration:Administration."

ORDER = (
    bug(
        "promise-before-disk",
        "Raft thesis 3.8; etcd Ready contract",
        "Messages that wait for the disk leave with the others.",
        (DRIVER + "_take", "in ready.messages_now:", "in ready.messages_now + ready.messages_after_persist:"),
        by="test_driver:CommitTests.test_acknowledgements_wait_for_the_disk",
    ),
    bug(
        "commit-never-told",
        "etcd-io/raft: readers on followers wait for a heartbeat",
        "The notification of a lone append's commit is left to the heartbeats.",
        (DRIVER + "_turn", "and self.raft.has_unnotified_commit:", "and False:"),
        by="test_commit_notification:CommitNotificationTests.test_a_lone_append",
    ),
    bug(
        "vote-before-disk",
        "Raft thesis 3.8",
        "A vote leaves before it is durable.",
        (DRIVER + "_take", "in ready.messages_now:", "in ready.messages_now + ready.messages_after_persist:"),
        by="test_driver:CommitTests.test_votes_wait_for_the_disk",
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
        by="test_driver:CommitTests.test_majority_of_disks",
    ),
    bug(
        "readable-before-durable",
        "storage: readers see min(commit, durable)",
        "What others committed is served before it is on this disk.",
        (DRIVER + "_publish", "and applied[0][0] <= self.raft.durable_index", ""),
        by="test_driver:CommitTests.test_committed_is_not_readable_before_it_is_durable_here",
    ),
    bug(
        "replaced-entries-served",
        "found here: a deposed leader served its own entries in the place of committed ones",
        "What is durable is asked of the log, which a cut that waits for the disk has not reached yet.",
        (DRIVER + "_publish", "self.raft.durable_index", "self._log.durable_index"),
        by="test_reads_behind:BehindTests.test_to_be_replaced",
    ),
    bug(
        "endless-group",
        "one sync of everything that waits stalls the leader for seconds",
        "A group of writes has no bound.",
        (DRIVER + "_write_next", "and size < SYNC_GROUP_SIZE_MAX", ""),
        by="test_driver:CommitTests.test_groups_are_bounded",
    ),
    bug(
        "failed-step-skipped",
        "after ENOSPC the rest of the group is written without it",
        "A step that found a full disk is not tried again.",
        (
            "loghouse.replica.group_write:GroupWrite._do_steps",
            "self._steps[0]()",
            "step = self._steps.popleft(); step(); self._steps.appendleft(step)",
        ),
        by="test_driver:FullDiskTests.test_retry_goes_on_where_it_stopped",
    ),
    bug(
        "divergence-ignored",
        "logs that contradict each other must stop the member",
        "A leader's entry that contradicts a committed one is only ignored.",
        (DRIVER + "receive", "self._owner.fatal(", "str("),
        by="test_driver:FatalTests.test_divergence",
    ),
)

ANSWERS = (
    bug(
        "success-of-anothers-entry",
        "hashicorp/raft: future resolved by index alone",
        "An append succeeded when any entry is committed in its place.",
        (UNSETTLED + "_settle_older", "if term <= self._committed_term:", "if True:"),
        (UNSETTLED + "committed", "if waiting.ticket.term == term:", "if True:"),
        by="test_driver:LostLeadershipTests.test_replaced_by_the_successor",
    ),
    bug(
        "cut-places-wait-for-ever",
        "found here: a leader that lost its suffix and led again",
        "An append waits for an entry at its own index, though a newer term settled it.",
        (UNSETTLED + "_settle_older", "if term <= self._committed_term:", "if True:"),
        by="test_driver:LostLeadershipTests.test_replaced_and_leading_again",
    ),
    bug(
        "never-given-up",
        "etcd#10289: proposals that hang after a lost leadership",
        "Appends whose leadership was lost wait for ever when nobody leads.",
        (DRIVER + "_count_lost_ticks", "if self._lost_ticks > 2", "if 0 > 2"),
        by="test_driver:LostLeadershipTests.test_not_settled_in_time",
    ),
    bug(
        "certain-behind-a-snapshot",
        "a snapshot says nothing of single appends",
        "An append below a snapshot is said not to have been appended.",
        (UNSETTLED + "skipped", "if place <= index", "if False"),
        by="test_driver:SnapshotTests.test_skipped_by_a_snapshot",
    ),
    bug(
        "read-before-readable",
        "ReadIndex without waiting for apply",
        "A read barrier fires before the entries are readable here.",
        (DRIVER + "when_readable", "if index <= self.readable_index:", "if True:"),
        by="test_driver:ReadTests.test_follower",
    ),
    bug(
        "answer-that-raises",
        "what Deferreds did for nothing, ADR 16",
        "A caller that raises in its answer takes the answers of the others with it.",
        (UNSETTLED + "_tell", "except Exception as error:", "except KeyboardInterrupt as error:"),
        by="test_answers:AnswerTests.test_a_caller_that_raises",
    ),
    bug(
        "bug-behind-a-write-ignored",
        "what Deferreds did for nothing, ADR 16",
        "The node goes on when what follows a write fails.",
        (DRIVER + "_written", "self._owner.fatal(error)", "pass"),
        by="test_answers:AnswerTests.test_a_bug_behind_a_write",
    ),
    bug(
        "stopped-takes-appends",
        "found here: a stopped replica took proposals",
        "An append that comes after the stop is taken and never answered.",
        (DRIVER + "propose", "if self._is_stopped:", "if False:"),
        by="test_driver:StopTests.test_proposal_after_the_stop",
    ),
    bug(
        "stopped-speaks",
        "a write that ends after the stop",
        "A stopped replica acknowledges what its disk finishes.",
        (DRIVER + "_finish_write", "if self._is_stopped:", "if False:"),
        by="test_driver:StopTests.test_follower",
    ),
    bug(
        "stopped-goes-on",
        "found here: answers first, without a look at the stop",
        "A stopped leader hands out what its core still had to send when its disk is through.",
        (DRIVER + "_written", "or self._is_stopped", ""),
        by="test_driver:StopTests.test_with_something_to_say",
    ),
    bug(
        "stop-forgets-reads",
        "grpc calls that hang until their deadline",
        "Reads that wait are not told of the stop.",
        (DRIVER + "stop", 'self._fail_reads("the node is stopping; go on at another node")', "pass"),
        by="test_driver:StopTests.test_while_reads_wait",
    ),
    bug(
        "stop-forgets-hand-overs",
        "found here: a transfer that was never answered",
        "Who waits for a hand-over is not told of the stop.",
        ("loghouse.node.served_log:ServedLog.stop", "self.administration.stop()", "pass"),
        by="test_administration:AdministrationTests.test_stop_during_a_transfer",
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
        by="test_cluster:ForwardingTests.test_exactly_once_across_failover",
    ),
)

JOINING_APPENDS = (
    bug(
        "producers-share",
        "Kafka KIP-98: sequences belong to whole batches",
        "A producer's batch shares an entry, which forgets its sequence: a retry is appended again.",
        ("loghouse.replica.coalescing:may_share", "and not producer_id", ""),
        by="test_coalescing:CoalescerTests.test_who_may_share",
    ),
    bug(
        "expectations-share",
        "optimistic locking by offset",
        "A batch that expects an offset shares an entry, and nobody looks at the offset.",
        ("loghouse.replica.coalescing:may_share", "and expect_offset is None", ""),
        by="test_coalescing:CoalescerTests.test_who_may_share",
    ),
    bug(
        "everybody-gets-the-first-offset",
        "offsets of records that share a batch",
        "All who share an entry are told its first offset.",
        (JOINER + "_appended", "base_offset += share.record_count", "pass"),
        by="test_coalescing:CoalescerTests.test_one_turn_one_entry",
    ),
    bug(
        "the-gone-are-not-counted",
        "offsets of records that share a batch",
        "The records of a caller who left are in the entry, and do not count in the offsets of the others.",
        (
            JOINER + "_appended",
            "if share.is_wanted:",
            "if not share.is_wanted:\n            continue\n        if True:",
        ),
        by="test_coalescing:CoalescerTests.test_a_caller_who_left_is_no_obstacle",
    ),
    bug(
        "checksum-of-the-first",
        "end-to-end checksums",
        "A joined entry carries the checksum of its first batch.",
        (
            JOINER + "_propose",
            'b"".join([share.payload for share in shares]), None',
            'b"".join([share.payload for share in shares]), payload_crc',
        ),
        by="test_coalescing:CoalescerTests.test_joined_checksum",
    ),
    bug(
        "small-ones-starve",
        "found here: large batches counted as joined ones",
        "Small batches wait until no large one is under way, which may be never.",
        (JOINER + "_propose_full", "self._propose(subject, 0)", "self._propose(subject, 1)"),
        by="test_coalescing:CoalescerTests.test_small_ones_get_their_turn",
    ),
    bug(
        "quick-and-small",
        "found here: unary appends on three nodes",
        "The last entry alone tells how many callers there are: small entries stay small.",
        (JOINER + "_end_entry", "max(seen, self._callers * (1 - CALLERS_FORGOTTEN))", "seen"),
        by="test_coalescing:LingerTests.test_small_entries_of_many_callers",
    ),
    bug(
        "last-wait-ends-the-next",
        "found here: waits that end early",
        "The timer of a wait that ended early ends the next one early, too.",
        (JOINER + "submit", "self._lingering.cancel()", "pass"),
        by="test_coalescing:LingerTests.test_everybody_is_there",
    ),
)

READING = (
    bug(
        "slow-disk-looks-quiet",
        "found here: readers far behind delayed appends (ADR 47)",
        "Readers far behind go at full speed while a slow disk has entries to write.",
        (COLD_READS + "must_give_way", "self._writing_count > 0 or ", ""),
        by="test_cold_reads:WatchedWritesTests.test_entries",
    ),
    bug(
        "readers-never-catch-up",
        "a fixed rate for readers is less than what a busy log grows",
        "What is appended earns readers nothing.",
        (COLD_READS + "write_ended", " + size", ""),
        by="test_cold_reads:PaceTests.test_appended_faster",
    ),
    bug(
        "debt-of-many-readers",
        "a queue without a bound: who comes last waits for all who came before",
        "However much is owed, reads that come wait for all of it.",
        (COLD_READS + "wait_seconds", "if owed >= COLD_READ_SECONDS_MAX:", "if False:"),
        by="test_cold_reads:PaceTests.test_many_readers",
    ),
    bug(
        "full-disk-looks-busy",
        "a counter that one way out does not count down",
        "A write that failed counts as under way for ever.",
        (
            "loghouse.replica.cold_reads:WatchedWrites.submit",
            "cold_reads.write_ended(0, seconds())",
            "pass",
        ),
        by="test_cold_reads:WatchedWritesTests.test_no_room",
    ),
    bug(
        "the-tail-is-paced",
        "reads at the end, and behind a new segment, are what others wait for",
        "Readers close behind the end give way, too.",
        (READS + "_read", "elif log.is_near(offset):", "elif False:"),
        by="test_cold_reads:FetchTests.test_near_the_end",
    ),
    bug(
        "trimmed-offset-found",
        "found from outside: consume --from TIME failed after a trim",
        "A time look-up does not ask what is trimmed.",
        (
            READS + "_find_offset",
            "log.find_time(timestamp, high_index, lowest)",
            "log.find_time(timestamp, high_index, 0)",
        ),
        by="test_reads:ReadsTests.test_find_offset_after_a_trim",
    ),
    bug(
        "trim-before-its-records",
        "found here: bounds with the lowest offset above the next one",
        "A committed trim counts before its entry is readable.",
        (
            DRIVER + "_apply",
            "trim = decode_trim(bytes(entry.payload)) if entry.kind == EntryKind.TRIM else 0",
            "trim = 0\n        if entry.kind == EntryKind.TRIM:\n            "
            "self.lowest_offset = decode_trim(bytes(entry.payload))",
        ),
        by="test_reads_behind:BehindTests.test_a_trim_counts_with_its_entry",
    ),
    bug(
        "nothing-without-a-leader",
        "found from outside: one node of three left could not be read",
        "A time look-up that this node can answer needs a majority.",
        (READS + "_find_offset_alone", "failure.trap(UnavailableError)", "failure.raiseException()"),
        by="test_administration:AdministrationTests.test_reads_without_a_majority",
    ),
)

MEMBERSHIP = (
    bug(
        "emptied-keeps-its-id",
        "found here; etcd: a member restarted with an empty disk under its old id",
        "Messages for a dead voter reach its emptied namesake, which goes on as that voter.",
        ("loghouse.cluster.peers:PeerSet._is_for", "hello.disk_uuid == key.disk_uuid", "True"),
        by="test_cluster:MembershipTests.test_emptied_namesake",
    ),
    bug(
        "hearsay-cuts-a-link",
        "found here: row 19 of the attacks",
        "What anybody says of a member's address cuts it off from those who hear that.",
        (
            "loghouse.cluster.peers:PeerSet._link_that_is_up",
            "if link.state is PeerState.UP or",
            "if link is not None or",
        ),
        by="test_cluster_parts:PeerSetTests.test_hearsay",
    ),
    bug(
        "id-of-a-former-life",
        "found here: removed and let in again while away",
        "A node believes its own log about its id rather than who added it again.",
        (
            REPLICA + "receive",
            "elif envelope.target > self.driver.raft.id:",
            "elif envelope.target > self.driver.raft.id and self._own_member() is None:",
        ),
        by="test_cluster:MembershipTests.test_lost_while_away",
    ),
    bug(
        "two-replicas",
        "found here: a message while the replica is renewed",
        "A message that comes while a replica is renewed begins another one.",
        (REPLICA + "receive", "if self._is_renewing:", "if False:"),
        by="test_cluster:MembershipTests.test_renewed_once",
    ),
    bug(
        "joiner-cannot-answer",
        "a learner whose log does not hold the leader yet",
        "A joiner answers only members that its own log knows.",
        (ROUTED_GROUP + "key_of", "return self.speakers.get(id_)", "return None"),
        by="test_cluster:BootstrapTests.test_three",
    ),
    bug(
        "removed-let-in",
        "serf: removed nodes that rejoin by themselves",
        "The door does not look at the list of removed nodes.",
        (CLUSTER + "_admit", "if self._is_removed(hello.node_name):", "if False:"),
        by="test_cluster:MembershipTests.test_removed_and_added",
    ),
    bug(
        "uncommitted-removal-counts",
        "found here: a leader's removal that was never committed kept the next leader out",
        "The door goes by the latest configuration, committed or not.",
        (CLUSTER + "_is_removed", "name in group.settled.removed and name in", "name in"),
        (
            CLUSTER + "_drop_removed",
            "self.router.group.settled.removed",
            "self.node.membership.configuration.removed",
        ),
        by="test_uncommitted_removal:UncommittedRemovalTests.test_removed_becomes_the_leader",
    ),
    bug(
        "uncommitted-id-counts",
        "found here: an id that a cut entry gave to one node, and the next leader to another",
        "Who a member is, a node that does not lead knows by its latest configuration, committed or not.",
        (
            ROUTED_GROUP + "authority",
            "return self.replica.configuration if self.leads else self.settled",
            "return self.replica.configuration",
        ),
        by="test_uncommitted_removal:UncommittedRemovalTests.test_id_given_twice",
    ),
    bug(
        "any-source-believed",
        "a member that speaks for another one votes twice",
        "Who speaks as another member is heard.",
        (ROUTER + "_raft_received", "if standing is Standing.STRANGER:", "if False:"),
        by="test_cluster:MembershipTests.test_wrong_source",
    ),
    bug(
        "bootstrap-while-one-is-silent",
        "RabbitMQ: peers that start at different times form several clusters",
        "The node that bootstraps does not wait for all addresses.",
        (JOINING + "look", "if self._may_bootstrap and not silent:", "if self._may_bootstrap:"),
        by="test_cluster:BootstrapTests.test_nobody_while_one_is_silent",
    ),
    bug(
        "old-answers-count",
        "a node may have joined a cluster since it was asked",
        "An answer once given counts for ever.",
        (JOINING + "look", "self._answers.get(address, oldest) <= oldest", "address not in self._answers"),
        by="test_cluster:BootstrapTests.test_an_old_answer_does_not_count",
    ),
    bug(
        "quorum-removed",
        "etcd: member remove with an unhealthy cluster",
        "A removal is not refused when the rest would have no majority.",
        (PROPOSALS + "check_voters", "if count - len(missing) < majority(count):", "if False:"),
        by="test_administration:AdministrationTests.test_remove_that_would_lose_the_quorum",
    ),
    bug(
        "heard-before-counts",
        "found here: a removal right after another voter died took the cluster down",
        "Voters that were heard before the removal was asked for count as there.",
        (ADMINISTRATION + "_problem_of", ", within_ticks=removal.ticks", ""),
        by="test_administration:AdministrationTests.test_remove_right_after_a_death",
    ),
    bug(
        "behind-counts",
        "etcd: strict reconfiguration check",
        "A voter that holds little of the log counts as one that can commit.",
        (PROPOSALS + "check_voters", "not (is_here and is_near)", "not is_here"),
        by="raft.test_voters:NewVotersTests.test_remove_beside_one_far_behind",
    ),
    bug(
        "silent-target",
        "etcd hands over to whoever is named",
        "Leadership is handed to a voter that is not heard: appends wait for nobody.",
        (PROPOSALS + "transfer_leadership", "if self._progress[target].silent_ticks >=", "if 0 >="),
        by="raft.test_voters:TransferTests.test_silent_target",
    ),
    bug(
        "transfer-cannot-be-taken-back",
        "etcd: a transfer to the leader itself ends the pending one",
        "A transfer to the leader itself changes nothing.",
        (PROPOSALS + "transfer_leadership", "self._transfer_target = NOBODY", "pass"),
        by="raft.test_voters:TransferTests.test_to_itself",
    ),
    bug(
        "failed-transfer-succeeds",
        "hashicorp/raft: LeadershipTransfer",
        "A hand-over that did not happen is said to have been done.",
        (ADMINISTRATION + "look_at_hand_over", "if raft.role is Role.LEADER else", "if False else"),
        by="test_administration:AdministrationTests.test_transfer_that_fails",
    ),
)

STRANGERS = (
    bug(
        "strangers-speak",
        "found here: one Raft frame of a node certificate that belongs to no member stopped every member",
        "Whoever has a node's certificate takes part in consensus.",
        (ROUTER + "_raft_received", "if key not in self.roster.members and", "if False and"),
        (ROUTER + "_raft_received", "if standing is Standing.STRANGER:", "if False:"),
        by="test_strangers:StrangerTests.test_raft_frames",
    ),
    bug(
        "strangers-ask-as-root",
        "found here: a node certificate that belongs to no member appended and trimmed",
        "Requests are taken from any node.",
        (ROUTER + "_message_received", "if SENDERS[message.KIND] is Sender.MEMBER and", "if False and"),
        by="test_strangers:StrangerTests.test_requests",
    ),
    bug(
        "strangers-vouch",
        "found here: a stranger introduces itself",
        "Anybody's answer about members counts.",
        ("loghouse.cluster.roster:Roster.introduce", "voucher not in self.vouchers or", ""),
        by="test_roster:RosterTests.test_strangers_do_not_vouch",
    ),
    bug(
        "own-log-alone",
        "found here: a voter that was away never hears of a leader that came meanwhile",
        "Only who is in this node's own log is heard.",
        (
            "loghouse.cluster.roster:Roster.standing_as",
            "if any((id_, key) in introduction.members",
            "if False and any((id_, key) in introduction.members",
        ),
        by="test_strangers:UnknownYetTests.test_all_others_were_replaced",
    ),
    bug(
        "introduced-ends-the-node",
        "found here: a conflict with one whom the log does not know is no proof of damage here",
        "A contradiction ends the node, whoever sent it.",
        (DRIVER + "receive", "if not is_member and", "if False and"),
        by="test_strangers:UnknownYetTests.test_conflict_of_an_introduced_one",
    ),
)

TWINS = (
    bug(
        "twin-is-let-in",
        "found here: an identity taken twice",
        "A machine with the name of a living voter becomes a learner, to take its place one day.",
        (
            "loghouse.cluster.reconcile:_add_learner",
            "if _living_voters(configuration, presence.name, here):",
            "if False:",
        ),
        by="test_reconcile:NextConfigurationTests.test_rows",
    ),
    bug(
        "twin-takes-the-place",
        "found here: an identity taken twice",
        "A machine that was seen beside the member takes its place when that is away.",
        ("loghouse.cluster.twins:Twins.__contains__", "node in self._known", "False"),
        by="test_twins:TwinTests.test_known_twin",
    ),
    bug(
        "remove-hits-the-member",
        "found here: an identity taken twice",
        "A removal by name takes the member, though another machine may be meant.",
        (ADMINISTRATION + "_remove", "self._check_is_one(driver, members[-1])", "pass"),
        by="test_twins:TwinTests.test_remove",
    ),
)

DRIVING = (*ORDER, *ANSWERS, *JOINING_APPENDS, *READING, *MEMBERSHIP, *STRANGERS, *TWINS)
