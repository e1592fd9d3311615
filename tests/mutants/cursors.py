"""Known bugs of cursors: epochs, positions, records, leases; `tests/test_cursor_mutants.py` tries them."""

from tests.mutants.named import bug

CURSORS = "loghouse.protocol.cursors:Cursors."
BYTES = "loghouse.protocol.cursors:"
PROPOSALS = "loghouse.raft.proposals:Proposals."

CHANGES = "protocol.test_cursors:ChangeTests."
REFUSALS = "protocol.test_cursors:RefusalTests."
STATE = "protocol.test_cursors:ByteTests.test_state"
LEADER = "raft.test_cursors:"

EPOCHS = (
    bug(
        "epoch-not-compared",
        "Kleppmann 2016, How to do distributed locking: a token that nobody checks fences nobody",
        "Who was replaced while it was paused goes on.",
        (CURSORS + "check", "if cursor.epoch != change.epoch:", "if False:"),
        by=CHANGES + "test_advance",
    ),
    bug(
        "epoch-not-in-the-snapshot",
        "design of cursors: what is not in a snapshot is another state on who begins with it",
        "A replica that began with a snapshot, or was started again, fences the current holder.",
        (BYTES + "encode_cursors", "_FIXED.pack(cursor.epoch,", "_FIXED.pack(0,"),
        by=STATE,
    ),
    bug(
        "set-keeps-the-epoch",
        "an operator's rewind that the running consumer takes back a second later",
        "Who held the cursor goes on over the position that was set.",
        (
            CURSORS + "apply",
            "if action == CursorAction.ADVANCE:\n",
            "if action in (CursorAction.ADVANCE, CursorAction.SET):\n",
        ),
        by=CHANGES + "test_release_and_set",
    ),
)

POSITIONS = (
    bug(
        "rewind-without-permission",
        "a commit that was late puts the consumer back",
        "A position goes back although nobody asked for a rewind.",
        (CURSORS + "check", "if change.position < lowest:", "if False:"),
        by=CHANGES + "test_rewind",
    ),
    bug(
        "cursor-name-cap-not-checked",
        "CWE-770: allocation without limits",
        "Names of any size go into the state of every replica.",
        (BYTES + "check_texts", "len(text.encode()) > size_max", "False"),
        by=REFUSALS + "test_texts",
    ),
    bug(
        "cursors-without-end",
        "CWE-770: allocation without limits",
        "Cursors are made until the state fits no message any more.",
        (CURSORS + "check", "len(self.by_name) >= CURSORS_MAX", "False"),
        by=REFUSALS + "test_too_many",
    ),
    bug(
        "cursors-take-the-last-room",
        "ADR 18: what is kept free is for elections and trims",
        "A full disk takes advances until it has no room for the trims that free some.",
        (
            "loghouse.raft.replication:Replication._without_what_has_no_room",
            "entry.kind in FILLING_KINDS",
            "entry.kind == 1",
        ),
        by=LEADER + "FullDiskTests.test_takes_what_fits",
    ),
)

RECORDS = (
    bug(
        "a-pipeline-has-a-lag-after-all",
        "a position that is compared with the end of a log that it does not count",
        "A pipeline's position counts as one of this log's once another worker has it: its lag is made up.",
        (CURSORS + "apply", "batch_index=cursor.batch_index", "batch_index=0"),
        by=CHANGES + "test_lag",
    ),
    bug(
        "lag-of-an-earlier-end",
        "two looks at different times, told as one",
        "A cursor is told with the log's end of before its own entry counted: ahead of it, so it has no lag.",
        (
            "loghouse.replica.led_cursors:LedCursors._read",
            "done(self._page_of(driver, found[0]))",
            "done(found_page)",
        ),
        (
            "loghouse.replica.led_cursors:LedCursors._read",
            "term, last_index = raft.term, raft.cursors.last_index",
            "term, last_index, found_page = raft.term, raft.cursors.last_index, "
            "self._page_of(driver, found[0] if found else None)",
        ),
        by="test_cursors:CommittedTests.test_waits",
    ),
    bug(
        "advance-without-its-records",
        "Kafka KIP-98: a position and its output are one, or neither",
        "The position is ahead of records that a new leader never had.",
        (CURSORS + "apply", "change.flags & WITH_RECORDS", "False"),
        by=CHANGES + "test_without_its_records",
    ),
    bug(
        "advance-waits-for-other-records",
        "the same, with somebody else's records",
        "Records that come later, of whoever, count as those of the advance.",
        ("loghouse.protocol.log_state:LogState.apply", "self.cursors.awaited = None", "pass"),
        by=CHANGES + "test_without_its_records",
    ),
    bug(
        "advance-of-another-term",
        "the same, behind a change of leaders",
        "An advance counts with records of another leader.",
        (CURSORS + "take_records", "and awaited.term == term", ""),
        by=CHANGES + "test_without_its_records",
    ),
    bug(
        "awaited-not-in-the-snapshot",
        "a segment ends between an advance and its records",
        "After a restart the records are there, and the position is not.",
        (BYTES + "encode_cursors", "if awaited is not None:", "if False:"),
        (BYTES + "encode_cursors", 'awaited.name if awaited is not None else ""', '""'),
        by=STATE,
    ),
    bug(
        "position-lost-in-the-state-file",
        "found by the test: a start folds plain records without a look at them",
        "What a start, and a state file, make of an advance with records is that it had none.",
        (
            "loghouse.storage.recovery:FrameScan.feed",
            "cursors is not None and cursors.awaited is not None",
            "False",
        ),
        by="storage.test_log:LogTests.test_cursors",
    ),
    bug(
        "retry-of-an-advance-is-refused",
        "a retry must be answered as the first try was",
        "Whoever lost the answer is told that its cursor is ahead, and not where its records are.",
        (CURSORS + "find_batch", "return cursor if is_same else None", "return None"),
        by=LEADER + "BatchTests.test_retry",
    ),
    bug(
        "records-at-a-position-that-stands",
        "Kafka KIP-98: output that is written twice",
        "Other records at a position that stands are appended, too.",
        (CURSORS + "check", "cursor.position + 1 if change.flags & WITH_RECORDS else", ""),
        by=REFUSALS + "test_back",
    ),
)

LEASES = (
    bug(
        "lease-by-the-wall-clock",
        "Gray and Cheriton 1989: leases need clocks that run alike, not clocks that agree",
        "A clock that is set forward ends all leases, one that is set back makes them last.",
        ("loghouse.replica.replica:Replica.__init__", "clocks.monotonic)", "clocks.wall)"),
        by="test_cursors:LeaseTests.test_wall_clock",
    ),
    bug(
        "new-leader-without-grace",
        "Gray and Cheriton 1989: after a restart a server waits for the longest lease",
        "With each change of leaders every cursor is free for anybody.",
        (
            "loghouse.replica.leases:Leases.left_milliseconds",
            "self._begun + cursor.lease_milliseconds / 1000",
            "self._begun",
        ),
        by="test_cursors:LeaseTests.test_new_leader",
    ),
    bug(
        "leads-again-with-old-leases",
        "the same, on a node that led before",
        "A leader goes on with leases that it counted before another one led.",
        ("loghouse.replica.led_cursors:LedCursors.leads", "self._leases.begin()", "pass"),
        by="test_cursors:LeaseTests.test_leads_again",
    ),
    bug(
        "work-does-not-renew",
        "a consumer that is busy is not silent",
        "A holder that advances all the time loses its cursor.",
        ("loghouse.replica.led_cursors:LedCursors._change", "self._leases.renew(after)", "pass"),
        by="test_cursors:LeaseTests.test_work_renews",
    ),
    bug(
        "anybody-sets-cursors",
        "CWE-862: missing authorization",
        "Whoever may consume a log moves the cursors of others.",
        ("loghouse.replica.led_cursors:LedCursors._check_free", "not order.is_admin", "False"),
        by="test_cursors:ServedTests.test_cursors_of_others",
    ),
    bug(
        "list-of-what-may-be-lost",
        "a read of what is not committed",
        "A position is told that no majority has yet.",
        ("loghouse.replica.led_cursors:LedCursors._read", "elif index < last_index:", "elif False:"),
        by="test_cursors:CommittedTests.test_waits",
    ),
    bug(
        "asks-until-it-is-committed",
        "found by the simulator: a lone node that is asked for a cursor while it writes one hangs",
        "A look at a cursor asks again and again whether what it saw is committed.",
        (
            "loghouse.replica.led_cursors:LedCursors._read",
            "driver.when_readable(last_index, confirmed, failed)",
            "driver.read_barrier(confirmed, failed)",
        ),
        by="test_cursors:CommittedTests.test_asks_once",
    ),
)

WAITS = (
    bug(
        "waits-of-another-leadership",
        "what a leader remembers is of its own leadership",
        "Holders let go for somebody who was told by another leader long ago, and may have what it wanted.",
        ("loghouse.replica.led_cursors:LedCursors.leads", "self._waits.begin()", "pass"),
        by="test_cursors:WaitTests.test_leads_again",
    ),
    bug(
        "dead-waiters-are-remembered",
        "a process that died waits for nothing",
        "Holders let go for somebody who died, and nobody takes what is free.",
        (
            "loghouse.replica.cursor_waits:CursorWaits._forget_silent",
            "if self._until[key] > now:",
            "if True:",
        ),
        by="test_cursor_waits:WaitTests.test_silent",
    ),
    bug(
        "waits-for-what-it-has",
        "a consumer that got what it waited for",
        "A holder hears of itself among those that wait.",
        ("loghouse.replica.led_cursors:LedCursors._change", "self._waits.acquired(", "(lambda *_: 0)("),
        by="test_cursors:WaitTests.test_acquired",
    ),
    bug(
        "waits-without-end",
        "CWE-770: allocation without limits",
        "Whoever may consume fills the leader's memory with names.",
        (
            "loghouse.replica.cursor_waits:CursorWaits.refused",
            "len(self._until) >= WAITING_MAX",
            "False",
        ),
        by="test_cursor_waits:CapTests.test_log",
    ),
)

CURSOR_BUGS = EPOCHS + POSITIONS + RECORDS + LEASES + WAITS
