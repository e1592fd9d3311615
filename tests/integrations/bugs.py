"""Known bugs of the broker for FastStream. Each names the test that must catch it.

`test_mutants.py` beside tries them.
"""

from tests.mutants.named import bug

HANDLING = "loghouse.integrations.faststream.handling:Handling."
SUBSCRIBER = "loghouse.integrations.faststream.subscriber:LoghouseSubscriber."
PUBLISHER = "loghouse.integrations.faststream.publisher:LoghousePublisher."
CURSORS = "integrations.test_cursors:"
MEMORY = "integrations.test_memory_broker:"

FASTSTREAM = (
    bug(
        "a-record-passes-those-before-it",
        "ADR 44, 5: several workers",
        "The cursor passes a record that is done, whatever is not done before it.",
        (HANDLING + "_passed", "if len(self._in_order)", "if False"),
        by=CURSORS + "ManyTests.test_gap",
    ),
    bug(
        "a-key-has-no-worker",
        "ADR 44, 5: several workers share the records by key",
        "Records go to the workers in turn, also those of one key.",
        (HANDLING + "_hand_out", "if key is None else", "if True else"),
        by=CURSORS + "ManyTests.test_keys",
    ),
    bug(
        "a-failed-record-is-passed",
        "ADR 44, 3: a record that failed is handled again",
        "A record that is not acknowledged is passed by the next one.",
        (HANDLING + "_handle", "received.status is not AckStatus.NACKED", "True"),
        by=CURSORS + "FailureTests.test_in_order",
    ),
    bug(
        "answers-of-a-failure-stay",
        "ADR 44, 4: what fails in between leaves neither",
        "What a handler published before it failed is appended when it succeeds, too.",
        ("loghouse.integrations.faststream.message:Received.reset", "self.answers = []", "pass"),
        by=CURSORS + "IntoTests.test_failed_first",
    ),
    bug(
        "a-rejected-record-answers",
        "ADR 44, 4: the answer goes with the acknowledgement",
        "What a handler published before it rejected its record is appended.",
        (HANDLING + "settle", "and passed.status is AckStatus.ACKED", ""),
        by=MEMORY + "AnswerTests.test_rejected_into",
    ),
    bug(
        "answers-overtake-each-other",
        "ADR 44, 5: the cursor passes a record when all before it are done",
        "Answers are appended as they come, so that a later one moves the cursor first.",
        (HANDLING + "settle", "self._passed(received)", "[received]"),
        by=CURSORS + "IntoTests.test_workers",
    ),
    bug(
        "an-acknowledged-record-answers-apart",
        "ADR 44, 4: the answer goes with the acknowledgement",
        "The answer of a record that its handler acknowledged is appended without the cursor.",
        (PUBLISHER + "_received", "not received.is_over", "received.status is None"),
        by=MEMORY + "AnswerTests.test_acknowledged_into",
    ),
    bug(
        "an-answer-goes-apart",
        "ADR 44, 4: the answer goes with the acknowledgement",
        "Answers are appended when handlers give them, and the cursor moves later.",
        (PUBLISHER + "_received", "received.into is self", "False"),
        by=CURSORS + "IntoTests.test_once",
    ),
    bug(
        "acknowledged-before-its-answer",
        "ADR 44, 4: one entry",
        "The cursor passes a record before its answer is appended.",
        (HANDLING + "acknowledged", "self._subscriber.into is None", "True"),
        by=CURSORS + "IntoTests.test_too_large",
    ),
    bug(
        "a-stop-interrupts",
        "docs/faststream.md: stopping",
        "A handler at work is cancelled when its program stops.",
        (SUBSCRIBER + "_stop", "await super().stop()", "super().stop().close()"),
        by=CURSORS + "ResumeTests.test_stop_waits",
    ),
    bug(
        "a-stop-interrupts-the-commit",
        "docs/faststream.md: stopping",
        "A consumer that is being left is cancelled before it has committed.",
        (SUBSCRIBER + "_stop", "await asyncio.wait([self._task])", "self._task.cancel()"),
        by=CURSORS + "ResumeTests.test_stop_of_one",
    ),
    bug(
        "a-failed-consumer-ends-it",
        "docs/faststream.md: a consumer that fails",
        "A subscriber whose consumer failed reads no more.",
        (SUBSCRIBER + "_run", "while self.running:", "for _ in range(1):"),
        by=CURSORS + "FailureTests.test_told",
    ),
    bug(
        "answers-twice",
        "docs/faststream.md: what does not go together is refused",
        "A handler answers into one log twice, by `into` and by a publisher.",
        (SUBSCRIBER + "_check_publishers", "if self.into is None:", "if True:"),
        by="integrations.test_broker:StartTests.test_two_ways",
    ),
    bug(
        "a-group-answers-itself",
        "docs/faststream.md: none of a group's logs gets its answers",
        "A group answers into one of its own logs, and answers that answer, without end.",
        (SUBSCRIBER + "_check_publishers", "if self.is_group and any(", "if False and any("),
        by=CURSORS + "IntoTests.test_group_into_itself",
    ),
    bug(
        "a-group-answers-into-each-log",
        "ADR 44, 4: the log of the answers keeps a cursor for each log",
        "Of several logs each gets its own answers, whatever `into` says.",
        (SUBSCRIBER + "_consumer", "self.into is not None", "self.into is not None and not self.is_group"),
        by=CURSORS + "IntoTests.test_group",
    ),
    bug(
        "producers-without-end",
        "limits.py (FASTSTREAM_PRODUCERS_MAX)",
        "A producer is kept for every log that a reply ever went to.",
        (
            "loghouse.integrations.faststream.producing:OpenProducers._close_idle",
            "in idle[",
            "in [][",
        ),
        by="integrations.test_broker:PublishTests.test_producers",
    ),
    bug(
        "what-begins-now-begins-later",
        "docs/faststream.md: subscribers",
        "A subscriber without a cursor misses what is appended before it first reads.",
        (
            "loghouse.integrations.faststream.following:LogFollower.begin",
            'if self._next == "latest":',
            "if False:",
        ),
        by="integrations.test_broker:ReadTests.test_begins",
    ),
)
