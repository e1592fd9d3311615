"""Known bugs of cursors that a run shows: of who works with them over crashes, elections and clocks.

Those that one call shows are in `cursors.py`, each with the test that is named for it; some are in both.
"""

from tests.mutants.hunted import bug

CURSORS = "loghouse.protocol.cursors:Cursors."
BYTES = "loghouse.protocol.cursors:"
LED = "loghouse.replica.led_cursors:LedCursors."
LEASES = "loghouse.replica.leases:Leases."
SHARES = "loghouse.client.group_shares:GroupShares."
HELD = "loghouse.client.holding:HeldCursor."
FORWARDER = "loghouse.node.forwarding:Forwarder."
THREE = (("voters", 3), ("spares", 0))


def kinds(*names, lease_seconds=1.0):
    """Return the options of three nodes with cursors of these kinds."""
    return (*THREE, ("cursors", names), ("cursor_workers", 2), ("lease_seconds", lease_seconds))


EPOCHS = (
    bug(
        "epoch-not-compared",
        "Kleppmann 2016, How to do distributed locking: a token that nobody checks fences nobody",
        "Who was replaced while it was paused goes on.",
        (CURSORS + "check", "if cursor.epoch != change.epoch:", "if False:"),
        options=kinds("importer", "consumer"),
    ),
    bug(
        "epoch-not-in-the-snapshot",
        "what is not in a snapshot is another state on who begins with it",
        "A replica that began with a snapshot, or was started again, fences the current holder.",
        (BYTES + "encode_cursors", "_FIXED.pack(cursor.epoch,", "_FIXED.pack(0,"),
        options=kinds("consumer"),
        faults=(("crash", 3.0),),
    ),
    bug(
        "epoch-is-kept",
        "a lock service whose fencing tokens repeat",
        "Who takes a cursor over from a dead holder has its epoch.",
        (
            CURSORS + "apply",
            "holder, lease = change.holder, change.lease_milliseconds",
            "epoch, holder, lease = cursor.epoch or epoch, change.holder, change.lease_milliseconds",
        ),
        options=kinds("importer"),
    ),
    bug(
        "set-does-not-fence",
        "an operator's rewind that the running consumer takes back a second later",
        "Who held the cursor goes on over the position that was set.",
        (
            CURSORS + "apply",
            "if action == CursorAction.ADVANCE:\n",
            "if action in (CursorAction.ADVANCE, CursorAction.SET):\n",
        ),
        options=kinds("consumer", "consumer"),
    ),
    bug(
        "release-is-ignored",
        "Kafka before KIP-62: a member that leaves is waited for as one that died",
        "A cursor that was released is its holder's until the lease runs out.",
        (
            CURSORS + "apply",
            "if action == CursorAction.ADVANCE:\n",
            "if action in (CursorAction.ADVANCE, CursorAction.RELEASE):\n",
        ),
        options=kinds("importer", lease_seconds=20.0),
    ),
)

POSITIONS = (
    bug(
        "rewind-without-permission",
        "a commit that was late puts the consumer back",
        "A position goes back although nobody asked for a rewind.",
        (CURSORS + "check", "if change.position < lowest:", "if False:"),
        options=kinds("consumer"),
        first_seed=7,
    ),
    bug(
        "advance-without-its-records",
        "Kafka KIP-98: a position and its output are one, or neither",
        "The position is ahead of records that a new leader never had.",
        (CURSORS + "apply", "change.flags & WITH_RECORDS", "False"),
        options=kinds("importer", "pipeline"),
    ),
    bug(
        "records-without-their-advance",
        "the same, the other way round: output that the next holder writes again",
        "A node that does not lead passes records on, and not the advance that came with them.",
        (FORWARDER + "propose", "if proposal.cursor is not None:", "if False:"),
        options=kinds("importer"),
    ),
    bug(
        "retry-is-refused",
        "a retry must be answered as the first try was",
        "Whoever lost the answer is told that its cursor is ahead, and not where its records are.",
        (CURSORS + "find_batch", "return cursor if is_same else None", "return None"),
        options=(*kinds("importer"), ("request_timeout_seconds", 0.3)),
        first_seed=4,
    ),
    bug(
        "retry-is-done-twice",
        "Kafka KIP-98: output that is written twice",
        "Whoever lost the answer and asks again has its records in the log twice.",
        (CURSORS + "find_batch", "return cursor if is_same else None", "return None"),
        (CURSORS + "check", "cursor.position + 1 if change.flags & WITH_RECORDS else", ""),
        options=(*kinds("importer"), ("request_timeout_seconds", 0.3)),
        first_seed=4,
    ),
    bug(
        "position-lost-at-a-start",
        "a start folds plain records without a look at them",
        "What a start makes of an advance that came with records is that it had none.",
        (
            "loghouse.storage.recovery:FrameScan.feed",
            "cursors is not None and cursors.awaited is not None",
            "False",
        ),
        options=kinds("importer"),
        faults=(("crash", 3.0),),
    ),
    bug(
        "cursors-lost-by-compaction",
        "a state that a snapshot, or a trimmed log, does not hold any more",
        "Who begins with a snapshot or a state file knows no cursors.",
        (
            "loghouse.protocol.log_state:encode_log_state",
            "state.cursors.last_index > 0",
            "False",
        ),
        options=(*kinds("consumer"), ("trims", True)),
        faults=(("crash", 3.0),),
    ),
    bug(
        "awaited-not-in-the-snapshot",
        "a segment ends between an advance and its records",
        "After a restart the records are there, and the position is not.",
        (BYTES + "encode_cursors", "if awaited is not None:", "if False:"),
        (BYTES + "encode_cursors", 'awaited.name if awaited is not None else ""', '""'),
        options=(*kinds("importer", "importer"), ("disk.segment_size", 4096 + 400)),
        faults=(("crash", 3.0),),
    ),
)

LIVENESS = (
    bug(
        "lease-by-the-wall-clock",
        "Gray and Cheriton 1989: leases need clocks that run alike, not clocks that agree",
        "A clock that is set forward ends all leases, one that is set back makes them last.",
        ("loghouse.replica.replica:Replica.__init__", "clocks.monotonic)", "clocks.wall)"),
        options=kinds("importer", "consumer", lease_seconds=4.0),
        faults=(("clock_step", 2.0),),
    ),
    bug(
        "new-leader-without-grace",
        "Gray and Cheriton 1989: after a restart a server waits for the longest lease",
        "With each change of leaders every cursor is free for anybody.",
        (LEASES + "left_milliseconds", "self._begun + cursor.lease_milliseconds / 1000", "self._begun"),
        options=kinds("importer", "consumer", lease_seconds=4.0),
        faults=(("transfer", 3.0), ("crash", 4.0)),
    ),
    bug(
        "leads-again-with-old-leases",
        "the same, on a node that led before",
        "A leader goes on with leases that it counted before another one led.",
        (LED + "leads", "self._leases.begin()", "pass"),
        options=kinds("importer", "consumer", lease_seconds=4.0),
        faults=(("transfer", 2.0),),
        first_seed=4,
    ),
    bug(
        "work-does-not-renew",
        "a consumer that is busy is not silent",
        "A holder that advances all the time loses its cursor.",
        (LED + "_change", "self._leases.renew(after)", "pass"),
        options=kinds("consumer", "consumer"),
        first_seed=2,
    ),
    bug(
        "records-do-not-renew",
        "the same, of a pipeline",
        "A holder that appends all the time loses its cursor.",
        (LED + "advanced", "self._leases.renew(cursor)", "pass"),
        options=kinds("importer", "importer"),
        first_seed=5,
    ),
    bug(
        "lease-is-not-asked-for",
        "a lock that anybody may take",
        "A cursor can be acquired while another one works with it.",
        (LED + "_check_free", "if left:", "if False:"),
        options=kinds("importer"),
    ),
    bug(
        "lease-never-ends",
        "a lock that its dead holder keeps",
        "A holder that is silent for ever keeps its cursor.",
        (LEASES + "left_milliseconds", "return max(0,", "return max(1,"),
        options=kinds("importer"),
    ),
    bug(
        "told-before-it-is-committed",
        "a read of what is not committed",
        "A position is told that no majority has yet.",
        (LED + "_read", "elif index < last_index:", "elif False:"),
        options=(*kinds("importer", "importer", "importer"), ("think_seconds_mean", 0.02)),
        faults=(("partition", 3.0), ("crash", 3.0), ("disk_slow", 3.0)),
        first_seed=6,
    ),
)

SHARING = (
    bug(
        "nobody-hears-who-waits",
        "Kafka's group coordinator is what tells members of each other",
        "A leader does not tell the holder of a cursor that another member waits for it.",
        ("loghouse.replica.cursor_waits:CursorWaits.of", "tuple(self._waiting.get(name, ()))", "()"),
        options=kinds("group", lease_seconds=2.0),
        first_seed=3,
    ),
    bug(
        "shares-move-for-ever",
        "a rebalance storm: Kafka before KIP-429",
        "A member lets go of a log for one that has one fewer: so both change places, again and again.",
        (
            SHARES + "_to_let_go",
            "loads[member] + 2 <= loads[self._me]",
            "loads[member] + 1 <= loads[self._me]",
        ),
        (SHARES + "_to_wait_for", "if loads[holder] < loads[me] + 2:", "if loads[holder] < loads[me] + 1:"),
        options=kinds("group", lease_seconds=2.0),
    ),
    bug(
        "nothing-is-let-go",
        "a group whose first member keeps everything",
        "A member that has more than its share keeps it, whoever waits.",
        (SHARES + "_to_let_go", "for name in sorted(self._mine):", "for name in ():"),
        options=kinds("group", lease_seconds=2.0),
        first_seed=8,
    ),
    bug(
        "own-log-is-asked-for",
        "found by the simulator: a member that renewed late fenced itself at its own work",
        "A member whose lease ran out asks for the log that it has still.",
        (SHARES + "_free_ones", "and name not in self._mine", ""),
        options=(*kinds("group"), ("think_seconds_mean", 0.02)),
        faults=(("pause", 2.0), ("partition", 3.0)),
        first_seed=11,
    ),
)

HOLDING = (
    bug(
        "another-step-instead-of-a-retry",
        "a retry must be what the first try was: it may have been done",
        "A step that was not answered is forgotten for the next one, with the records that were in it.",
        (HELD + "next_step", "if self._under_way is None and self.due_at", "if self.due_at"),
        options=(*kinds("held-importer"), ("request_timeout_seconds", 0.3)),
    ),
    bug(
        "first-position-of-several",
        "records that are emitted twice after a crash",
        "Records of several emits are appended with the position behind the first of them.",
        (HELD + "_appending", "position=taken[-1].position", "position=taken[0].position"),
        options=kinds("held-importer"),
    ),
)

CONSUMING = (*EPOCHS, *POSITIONS, *LIVENESS, *SHARING, *HOLDING)
