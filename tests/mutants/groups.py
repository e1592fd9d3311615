"""Known bugs of consumers and groups in the client: steps, leases, shares, what a member gives and lets go.

`tests/test_group_mutants.py` tries them, each by the test that is named for it.
"""

from tests.mutants.named import bug

HELD = "loghouse.client.holding:HeldCursor."
KEEPER = "loghouse.client.keeping:Keeper."
SHARES = "loghouse.client.group_shares:GroupShares."
MEMBER = "loghouse.client.membership:Membership."
GROUP = "loghouse.client.group_consuming:AsyncGroupConsumer."

STEPS_BY = "client.test_holding:StepTests."
TIMES_BY = "client.test_holding:TimeTests."
KEPT_BY = "client.test_keeping:KeepingTests."
RULES_BY = "client.test_group_shares:RuleTests."
SHARING_BY = "client.test_group_consuming:SharingTests."

STEPS = (
    bug(
        "another-step-instead-of-a-retry",
        "a retry must be what the first try was: it may have been done",
        "A step that was not answered is forgotten for the next one, with the records that were in it.",
        (HELD + "next_step", "if self._under_way is None and self.due_at", "if self.due_at"),
        by=STEPS_BY + "test_same_again",
    ),
    bug(
        "position-before-its-records",
        "Kafka KIP-98: a position and its output are one, or neither",
        "A position is committed while records that were made of what lies before it wait still.",
        (HELD + "next_step", "if self._outputs else", "if self.position == self.committed else"),
        by=STEPS_BY + "test_outputs_first",
    ),
    bug(
        "done-meanwhile-is-committed",
        "a commit covers what was done when it was sent",
        "What is done while a commit is on its way counts as committed.",
        (HELD + "succeeded", "self.committed = step.position", "self.committed = self.position"),
        by=STEPS_BY + "test_done_meanwhile",
    ),
    bug(
        "first-position-of-several",
        "records that are emitted twice after a crash",
        "Records of several emits are appended with the position behind the first of them.",
        (HELD + "_appending", "position=taken[-1].position", "position=taken[0].position"),
        by=STEPS_BY + "test_together",
    ),
    bug(
        "step-without-end",
        "limits.py: RECORDS_PER_BATCH_MAX",
        "All records that wait are appended at once, more than a batch may hold.",
        (
            HELD + "_appending",
            "if size > CONSUMER_STEP_SIZE or count > RECORDS_PER_BATCH_MAX:",
            "if False:",
        ),
        by=STEPS_BY + "test_no_more_than_fits",
    ),
    bug(
        "room-for-ever",
        "CWE-770: allocation without limits",
        "What was appended takes room still, until nothing can be emitted any more.",
        (HELD + "succeeded", "self.buffered_size -= len(step.payload)", "pass"),
        by=STEPS_BY + "test_room",
    ),
    bug(
        "settled-while-it-is-asked",
        "a release that overtakes a renewal",
        "A consumer that closes releases its cursor while a step is under way.",
        (HELD + "is_settled", " and self._under_way is None", ""),
        by=STEPS_BY + "test_under_way",
    ),
    bug(
        "done-goes-back",
        "a handler that says of an old record that it is done",
        "A position goes back to what was passed, and is refused for ever.",
        (HELD + "done", "if position <= self.position:", "if position == self.position:"),
        by="client.test_holding:PositionTests.test_back",
    ),
)

TIMES = (
    bug(
        "renews-when-it-is-over",
        "Gray and Cheriton 1989: a lease is renewed before it ends",
        "A holder that is silent renews when its lease ends, and not before.",
        (HELD + "_renew_at", "self.cursor.lease_seconds / RENEWALS_PER_LEASE", "self.cursor.lease_seconds"),
        by=TIMES_BY + "test_renews",
    ),
    bug(
        "commit-renews-nothing",
        "a consumer that is busy is not silent",
        "After a commit the lease counts from before it: a busy consumer renews all the time.",
        (
            HELD + "succeeded",
            "self._heard_at = asked_at",
            "if cursor is not None: self._heard_at = asked_at",
        ),
        by=TIMES_BY + "test_work_renews",
    ),
    bug(
        "each-record-puts-off-the-commit",
        "a debounce that never fires",
        "What is done is committed only once nothing is done for a while.",
        (HELD + "done", "if due_at is None:", "if True:"),
        by=TIMES_BY + "test_commits",
    ),
    bug(
        "lease-counts-from-the-answer",
        "Gray and Cheriton 1989: the holder counts from before it asked",
        "Answers that take long make a holder renew too late.",
        (
            KEEPER + "_carry_out",
            "holding.succeeded(asked_at, cursor)",
            "holding.succeeded(self._now, cursor)",
        ),
        by=KEPT_BY + "test_renews",
    ),
    bug(
        "waits-for-a-whole-lease",
        "Kafka before KIP-62: a member that leaves is waited for as one that died",
        "A stand-by asks again only when the lease ends, though the holder may let go at once.",
        ("loghouse.client.holding:stand_by_seconds", "STAND_BY_SECONDS_MAX)", "60.0)"),
        by="client.test_keeping:BeginningTests.test_stands_by",
    ),
)

KEPT = (
    bug(
        "unknown-outcome-ends-it",
        "a step that may have been done is done once however often it is asked for",
        "A consumer ends when nobody says whether its records were appended.",
        (
            KEEPER + "_carry_out",
            "if not (error.may_retry or isinstance(error, OutcomeUnknownError)):",
            "if not error.may_retry:",
        ),
        by=KEPT_BY + "test_asks_again",
    ),
    bug(
        "old-problem-fails-the-next-commit",
        "an error that is told twice hides that all is well",
        "Once a step came to nothing, every later commit fails with that.",
        (KEEPER + "_raise_problem", " and self._problem_count != failed_before", ""),
        by=KEPT_BY + "test_old_problem",
    ),
    bug(
        "released-before-it-is-committed",
        "what was handled is handled again by the next holder",
        "A consumer that closes lets its cursor go with what is done and not committed.",
        (
            KEEPER + "_keep",
            "while not (self.is_finishing and holding.is_settled):",
            "while not self.is_finishing:",
        ),
        by="client.test_keeping:EndTests.test_commits_and_releases",
    ),
)

SHARING = (
    bug(
        "first-member-takes-all",
        "a group that starts together: the first one took all, and gave most of it back",
        "A member that sees nobody else asks for all free logs at once.",
        (SHARES + "_free_ones", "[: max(1, mine)]", ""),
        by=RULES_BY + "test_alone",
    ),
    bug(
        "too-late-counts-as-waiting",
        "found by a model of many members: a log moved to whoever had asked for it too late",
        "A log that was just taken is let go for one that asked for it at the same moment.",
        (SHARES + "_to_let_go", "if log.seen_at < log.taken_at + WAIT_SECONDS:", "if False:"),
        by=RULES_BY + "test_asked_together",
    ),
    bug(
        "all-for-one-that-waits",
        "a rebalance that overshoots comes back",
        "A member lets go of every log that one other member waits for.",
        (SHARES + "_to_let_go", "loads[member] += 1\n", "pass\n"),
        (SHARES + "_to_let_go", "loads[self._me] -= 1\n", "pass\n"),
        by=RULES_BY + "test_keeps",
    ),
    bug(
        "missed-is-asked-at-once",
        "a retry storm at a node that has just failed",
        "A log that nobody serves is asked about again at once.",
        (SHARES + "missed", "now + ASK_SECONDS", "now"),
        by=RULES_BY + "test_missed",
    ),
    bug(
        "free-since-the-last-look",
        "a log that nobody has",
        "A free log that those with the fewest do not take is left free for ever.",
        (SHARES + "saw", "min(log.free_since, now)", "now"),
        by=RULES_BY + "test_nobody_else",
    ),
)

MEMBERS = (
    bug(
        "let-go-before-it-is-done",
        "what was given is handled twice at each move",
        "A log is let go though records were given out of it that are not done.",
        (MEMBER + "_leave", "await asyncio.wait_for(share.drained.wait(), LET_GO_SECONDS)", "pass"),
        by=SHARING_BY + "test_lets_go_when_done",
    ),
    bug(
        "done-of-an-earlier-holding",
        "Kleppmann 2016: a fencing token that the holder itself does not compare",
        "What was given before a log was lost counts for it when this member has it again.",
        (GROUP + "_share_of", "and share.epoch == done.epoch", ""),
        by=SHARING_BY + "test_had_anew",
    ),
    bug(
        "gives-what-it-lost",
        "two members that handle the same records though one knows better",
        "Batches of an answer are given although their log is lost meanwhile.",
        (GROUP + "batches_in", "if share.is_leaving:", "if False:"),
        by=SHARING_BY + "test_lost_within_an_answer",
    ),
    bug(
        "gives-records-that-it-lost",
        "the same, record by record",
        "Records of an answer are given although their log is lost meanwhile.",
        (GROUP + "records_in", "if share.is_leaving:", "if False:"),
        by=SHARING_BY + "test_lost_within_an_answer",
    ),
    bug(
        "one-list-is-believed",
        "found by killing leaders: a server that had just started listed no logs, and members dropped theirs",
        "What one server does not list counts as deleted.",
        ("loghouse.client.asynchronous:AsyncClient._log_names", "sorted(expected - names)", "()"),
        by=SHARING_BY + "test_list_of_a_server_that_is_behind",
    ),
)

GROUP_BUGS = (*STEPS, *TIMES, *KEPT, *SHARING, *MEMBERS)
