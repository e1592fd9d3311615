"""Known bugs of what is counted, kept and reset, of the kinds that random mutants found to be weakly tested.

Each names the test that must catch it. `tests/test_keeping_mutants.py` tries them.
"""

from tests.mutants.named import bug

DRIVER = "loghouse.replica.driver:RaftDriver."
RAFT_LOG = "loghouse.raft.raft_log:RaftLog."
READ_QUEUE = "loghouse.raft.read_queue:ReadQueue."
MENDER = "loghouse.replica.entry_repair:EntryRepair."
APPENDS = "loghouse.net.appending:Appends."
HARD_STATE = "loghouse.storage.hard_state:"
CLEAR = "loghouse.storage.segment:Segment.clear_ahead"
ZERO = "loghouse.storage.segment:write_zeroes"
LEDGER = "loghouse.client.batching:ProducerLedger."

BEHIND = "test_driver_snapshots:SnapshotTests."
READS = "raft.test_bookkeeping:ReadRoomTests."
RESETS = "client.test_resets:"
BACK_OFF = "net.test_back_off:BackOffTests."
DEADLINES = "net.test_appending:DeadlineTests."
SLOTS = "storage.test_hard_state:SlotTests."
CLEARING = "storage.test_clearing:ClearingTests."

SNAPSHOTS = (
    bug(
        "members-of-the-old-log",
        "etcd-io/raft: the configuration in a snapshot's metadata counts",
        "Nobody is told to look at the members that a snapshot brought.",
        (DRIVER + "_take_start", "self._has_moved = True", "pass"),
        by=BEHIND + "test_membership",
    ),
    bug(
        "late-write-is-durable",
        "etcd-io/raft async_storage_writes",
        "A write of the log that a snapshot replaced counts for the new one.",
        (RAFT_LOG + "restore", "write.last_index = 0", "pass"),
        by="raft.test_bookkeeping:HandedTests.test_late_write",
    ),
    bug(
        "offsets-of-the-old-log",
        "found by hand: readers were told an old place after a newer one",
        "Entries committed before a snapshot are told to readers behind it.",
        (DRIVER + "_take", "self._applied.clear()", "pass"),
        (DRIVER + "_take_start", "if state.index > self.readable_index:", "if True:"),
        by=BEHIND + "test_slow_disk",
    ),
    bug(
        "index-without-its-offset",
        "found by hand: the offset behind a snapshot",
        "A snapshot moves the index up to which readers are served, not the offset.",
        (DRIVER + "_take_start", "state.index, state.next_offset", "state.index, self.readable_offset"),
        by=BEHIND + "test_membership",
    ),
)

GIVEN_BACK = (
    bug(
        "repair-slot-of-damage",
        "CWE-772: missing release of a resource",
        "Damage that is met while reading for another member keeps the slot: in the end nobody is helped.",
        (MENDER + "serve", "self._serving -= 1", "self._serving -= not isinstance(outcome, Failure)"),
        by="test_repair_slots:SlotTests.test_given_back",
    ),
    bug(
        "repair-slot-of-nothing",
        "CWE-772: missing release of a resource",
        "So do entries that were trimmed.",
        (
            MENDER + "serve",
            "self._serving -= 1",
            "self._serving -= not isinstance(outcome, Failure) or outcome.check(DamageError) is not None",
        ),
        by="test_repair_slots:SlotTests.test_trimmed",
    ),
    bug(
        "answered-reads-wait",
        "found by hand: a follower refused every read after its 16,384th",
        "Reads that the leader answered still count as waiting.",
        (READ_QUEUE + "answered", "self._asked_ids -= len(asked.ids)", "pass"),
        by=READS + "test_answered_by_the_leader",
    ),
    bug(
        "failed-reads-wait",
        "found by hand: a follower refused every read after its 16,384th",
        "Reads that failed because the leader was replaced still count as waiting.",
        (READ_QUEUE + "fail_all", "self._asked_ids = [], [], [], {}, 0", "_ = [], [], [], {}, 0"),
        by=READS + "test_not_answered",
    ),
    bug(
        "late-append-keeps-its-room",
        "limits.py (shares by subject)",
        "An append that was given up still counts against its subject.",
        (APPENDS + "_end", "self._holding.shrink(self._size + self._coming)", "pass"),
        by=DEADLINES + "test_each_when_it_is_due",
    ),
)

AT_MOST = (
    bug(
        "largest-entry-is-damage",
        "limits.py: ENTRY_SIZE_MAX is allowed",
        "An entry of exactly the largest size that is read back counts as damaged.",
        ("loghouse.storage.recovery:FrameScan.feed", "<= ENTRY_SIZE_MAX", "< ENTRY_SIZE_MAX"),
        by="storage.test_maximum:EntryTests.test_log",
    ),
    bug(
        "largest-entry-is-not-decoded",
        "limits.py: ENTRY_SIZE_MAX is allowed",
        "A follower refuses an entry of exactly the largest size.",
        ("loghouse.protocol.entry:decode_entry", "<= ENTRY_SIZE_MAX:", "< ENTRY_SIZE_MAX:"),
        by="storage.test_maximum:EntryTests.test_frame",
    ),
    bug(
        "largest-batch-is-not-passed-on",
        "limits.py: RECORDS_PER_BATCH_MAX is allowed",
        "A batch of exactly as many records as there may be is taken by the leader alone.",
        (
            "loghouse.protocol.forward_messages:ForwardProduce.check",
            "<= RECORDS_PER_BATCH_MAX",
            "< RECORDS_PER_BATCH_MAX",
        ),
        by="storage.test_maximum:BatchTests.test_records",
    ),
)

RESET = (
    bug(
        "second-failure-ends-a-reader",
        "found by hand: a reader survived one failure and died of the second",
        "A reader counts from its first failure on, whatever it read since.",
        ("loghouse.client.reading:Reader._went_well", "self._failing_since = None", "pass"),
        by=RESETS + "ReaderTests.test_failures_far_apart",
    ),
    bug(
        "pauses-grow-for-ever",
        "gRPC connection backoff: reset after a success",
        "The pauses of a producer do not begin again when a batch is acknowledged.",
        ("loghouse.client.sending:Sending._read", "self._pauses.reset()", "pass"),
        by=RESETS + "ProducerTests.test_failures_far_apart",
    ),
    bug(
        "second-error-swallowed",
        "found by hand: flush() raised the first error and no other",
        "What fails after the first `flush` that raised is told nobody.",
        (LEDGER + "raise_unreported", "self._failed, deque(), 0", "self._failed, deque(maxlen=0), 0"),
        by=RESETS + "LedgerTests.test_one_after_the_other",
    ),
    bug(
        "told-once-hides-the-next",
        "found by hand: flush() raised the first error and no other",
        "An error that its delivery told stands in the way of those behind it.",
        (
            LEDGER + "raise_unreported",
            "if not batch.is_reported:",
            "if batch.is_reported: break\n        else:",
        ),
        by=RESETS + "LedgerTests.test_told_by_its_delivery",
    ),
)

TWICE = (
    bug(
        "names-not-settled",
        "found here: a name seen after kill -9 need not be durable",
        "A start does not sync the directory whose names it builds on.",
        (
            "loghouse.storage.opening:Settlement.run",
            "files.sync_directory(directory)\n    self._if_room(",
            "self._if_room(",
        ),
        by="storage.test_scenes:SceneTests.test_opening",
    ),
    bug(
        "one-slot-twice",
        "disk_format.md: two slots for term and vote",
        "Term and vote are written to the first slot twice: one bad sector loses them.",
        (HARD_STATE + "HardStateFile.save", "[slot], place)", "[slot], first)"),
        by=SLOTS + "test_both",
    ),
    bug(
        "first-good-slot-counts",
        "disk_format.md: the higher counter counts",
        "Of two good slots the first one counts: after a crash a node forgets whom it voted for.",
        (HARD_STATE + "newest_slot", "key=lambda slot: slot.counter", "key=lambda slot: 0"),
        by=SLOTS + "test_newer",
    ),
    bug(
        "repaired-by-length",
        "Raft 5.4.1: the later term is more up to date",
        "A damaged log counts as repaired by its length alone, whatever the terms.",
        (
            "loghouse.raft.roles:Roles._forget_repaired_damage",
            "durable >= (damage.last_term, damage.last_index)",
            "durable_index >= damage.last_index",
        ),
        by="test_damage:DamageTests.test_newer_term_repairs_as_well",
    ),
    bug(
        "votes-by-length",
        "Raft 5.4.1: the later term is more up to date",
        "A member whose log is damaged votes for a log that is only as long as its own was.",
        (
            "loghouse.raft.elections:Elections._vote_pair",
            "max(pair, (self.damage.last_term, self.damage.last_index))",
            "(pair[0], max(pair[1], self.damage.last_index))",
        ),
        by="raft.test_bookkeeping:DamageTests.test_votes",
    ),
)

TIMES = (
    bug(
        "pauses-without-bound",
        "gRPC connection backoff: MAX_BACKOFF",
        "A node that was away for an hour is dialled again an hour later.",
        (
            "loghouse.protocol.backoff:Backoff.next_seconds",
            "min(self._seconds_max, self._seconds_min * 2 ** min(self.failures, 16))",
            "self._seconds_min * 2 ** min(self.failures, 16)",
        ),
        by=BACK_OFF + "test_bounds",
    ),
    bug(
        "all-dial-at-once",
        "gRPC connection backoff: JITTER",
        "Nodes that lost one another at the same moment dial again at the same moment.",
        ("loghouse.protocol.backoff:Backoff.next_seconds", "(0.5 + 0.5 * self._chance())", "1.0"),
        by=BACK_OFF + "test_bounds",
    ),
    bug(
        "link-up-forgives-nothing",
        "gRPC connection backoff: reset after a success",
        "The pauses of a link go on where they were, though it was up meanwhile.",
        ("loghouse.net.peer:PeerLink.link_up", "self._backoff.reset()", "pass"),
        by=BACK_OFF + "test_success",
    ),
    bug(
        "only-the-first-deadline",
        "limits.py (unanswered requests of one connection)",
        "Once an append was given up, the deadlines of the others are not looked at.",
        (APPENDS + "_expire", "(append.deadline for append in self._open.values())", "()"),
        by=DEADLINES + "test_each_when_it_is_due",
    ),
    bug(
        "a-client-may-wait-for-ever",
        "limits.py (unanswered requests of one connection)",
        "An append is kept as long as its client says.",
        (
            "loghouse.net.appending:Append.__init__",
            "min(asked_seconds or PRODUCE_SECONDS_DEFAULT, PRODUCE_SECONDS_MAX)",
            "asked_seconds or PRODUCE_SECONDS_DEFAULT",
        ),
        by=DEADLINES + "test_each_when_it_is_due",
    ),
    bug(
        "told-twice",
        "one answer for each request",
        "The outcome of an append that was given up is told, too.",
        (APPENDS + "_end", "append.is_wanted = False", "pass"),
        (APPENDS + "_end", "del self._open[append.stream]", "self._open.pop(append.stream, None)"),
        (APPENDS + "_expire", "append.forget()", "pass"),
        by=DEADLINES + "test_late_outcome",
    ),
    bug(
        "stop-without-the-appends",
        "found by hand: a stop closed the log under appends that it had taken",
        "A stop waits for the disk, not for what is to be committed.",
        (DRIVER + "_is_idle", "self._unsettled.is_empty and not (", "not ("),
        by="test_driver:CommitTests.test_idle",
    ),
    bug(
        "stop-at-once",
        "found by hand: a stop closed the log under appends that it had taken",
        "A stop waits for nothing.",
        ("loghouse.replica.replica:Replica.when_idle", "driver is None or driver.is_full", "True"),
        by="test_node:StopTests.test_stop_finishes_what_was_taken",
    ),
)

ZEROES = (
    bug(
        "zeroes-over-entries",
        "ADR 38 (only bytes behind the end are written)",
        "Zeroes go where the last ones ended, though entries are there by now.",
        (
            CLEAR,
            "start = max(self.end.position, self.cleared)",
            "start = self.cleared or self.end.position",
        ),
        by=CLEARING + "test_behind_a_larger_group",
    ),
    bug(
        "zeroes-beyond-the-file",
        "ADR 38 (only room that was taken)",
        "Zeroes make the file longer.",
        (CLEAR, "min(start + size, self.size)", "start + size"),
        by=CLEARING + "test_end_of_the_file",
    ),
    bug(
        "full-disk-of-zeroes",
        "ADR 38 (nobody waits for zeroes)",
        "A full disk that copies on write ends the log, though its entries are durable.",
        (ZERO, "if not is_full(error):", "if True:"),
        by=CLEARING + "test_no_room",
    ),
    bug(
        "sick-disk-of-zeroes",
        "fsyncgate",
        "A failed write of zeroes is taken for a full disk.",
        (ZERO, "if not is_full(error):", "if False:"),
        by=CLEARING + "test_disk_fails",
    ),
    bug(
        "zeroes-into-a-named-spare",
        "ADR 38 (only room that was taken)",
        "Zeroes are written into a spare that became a segment meanwhile: the disk seems to have failed.",
        ("loghouse.storage.creation:Rooms.clear_spare", "self._files.exists(path)", "True"),
        by=CLEARING + "test_next_segment_that_was_named",
    ),
    bug(
        "zeroes-of-another-spare",
        "ADR 38 (known bytes are those of this segment)",
        "A spare that is made anew is taken for one that has its zeroes.",
        ("loghouse.storage.creation:Rooms._make_spare", "if number == 0:", "if False:"),
        by=CLEARING + "test_spare_made_anew",
    ),
)

KEEPING = (*SNAPSHOTS, *GIVEN_BACK, *AT_MOST, *RESET, *TWICE, *TIMES, *ZEROES)
