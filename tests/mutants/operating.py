"""Known bugs of what operators rely on: quotas, the audit, what systemd is told.

Each names the test that must catch it. `tests/test_operating_mutants.py` tries them.
"""

from tests.mutants.named import bug

SHARES = "loghouse.shares:"
USE = SHARES + "SubjectUse."
QUOTAS = SHARES + "Quotas."
AUDIT = "loghouse.node.audit:"
FILE = "loghouse.runtime.line_file:LineFile."
NOTIFIER = "loghouse.service.systemd:SystemdNotifier."
TOLD = "service.test_systemd:NotifierTests."

QUOTA = (
    bug(
        "nobody-is-slowed-down",
        "docs/operations.md (Quotas): held back first",
        "What a subject owes keeps nobody from reading its connection.",
        (USE + "hold_seconds", "min(QUOTA_HOLD_SECONDS_MAX, _wait_of(self._in, now))", "0.0"),
        by="test_quotas:RateTests.test_burst",
    ),
    bug(
        "a-refusal-counts",
        "RFC 6585 4: a refused request was not done",
        "The bytes of a request that is refused count, so whoever comes again is refused again.",
        (USE + "receive", "self._in.due(size, now)", "pass"),
        (USE + "receive", "self._check(self._in,", "self._in.due(size, now), self._check(self._in,"),
        by="test_quotas:RateTests.test_refused",
    ),
    bug(
        "answers-are-free",
        "docs/operations.md (Quotas): bytes a second of answers",
        "Bytes that go out count against no quota.",
        (USE + "send", "self._out.due(size, now)", "pass"),
        by="test_quotas:RateTests.test_answers",
    ),
    bug(
        "requests-count-for-ever",
        "what is taken is given back once",
        "A request that was answered stays under way.",
        (USE + "end", "self.requests -= 1", "pass"),
        by="http.test_rest_endpoint:RestEndpointTests.test_counted_once",
    ),
    bug(
        "whoever-owes-is-forgotten",
        "limits.py (QUOTA_SUBJECTS_MAX)",
        "Many other subjects are enough to forget what one has used.",
        (USE + "is_at_rest", "self.requests or self._in.owed(now) or self._out.owed(now)", "self.requests"),
        by="test_quotas:TableTests.test_bound",
    ),
    bug(
        "the-table-grows",
        "limits.py (QUOTA_SUBJECTS_MAX)",
        "Every subject that ever came is remembered.",
        (QUOTAS + "of", "if len(self._uses) < QUOTA_SUBJECTS_MAX:", "if True:"),
        by="test_quotas:TableTests.test_full",
    ),
    bug(
        "the-widest-rule-counts",
        "docs/operations.md (Quotas): the rule that fits best",
        "A pattern counts before a name and before a longer pattern.",
        (QUOTAS + "_quota_of", "range(len(subject), -1, -1)", "range(len(subject) + 1)"),
        by="test_quotas:RuleTests.test_best_fit",
    ),
    bug(
        "new-rules-are-for-newcomers",
        "docs/operations.md (Quotas): from the next request on",
        "Other quotas do not count for whoever is there already.",
        (QUOTAS + "change", "use.change(quota, self._tally_of(use.subject, quota))", "pass"),
        by="test_quotas:RuleTests.test_change",
    ),
    bug(
        "series-for-every-subject",
        "200 kB (docs/monitoring.md)",
        "Every subject with a quota has series of its own.",
        (QUOTAS + "_tally_of", "len(self.tallies) < QUOTA_SUBJECTS_SHOWN_MAX", "True"),
        by="test_quotas:TallyTests.test_bounded",
    ),
    bug(
        "come-again-too-early",
        "RFC 9110 10.2.3: Retry-After has no fractions",
        "The time after which to come again is rounded down.",
        ("loghouse.api.rest.problems:refusal", "ceil(error.retry_seconds)", "int(error.retry_seconds)"),
        by="api.test_rest:AppendTests.test_retry_after",
    ),
)

AUDITED = (
    bug(
        "refused-and-not-told",
        "docs/operations.md (Audit)",
        "Only what the policy refuses is in the audit.",
        (AUDIT + "Audit.refused", "isinstance(error, _AUDITED)", "isinstance(error, PermissionDeniedError)"),
        by="test_audit:AuditTests.test_refusals",
    ),
    bug(
        "mistakes-are-refusals",
        "docs/operations.md (Audit)",
        "Every request that fails is in the audit, so nobody finds what matters.",
        (AUDIT + "Audit.refused", "isinstance(error, _AUDITED)", "True"),
        by="test_audit:AuditTests.test_others",
    ),
    bug(
        "a-failed-act-was-done",
        "docs/operations.md (Audit): outcome",
        "An act of administration that failed is told as one that was done.",
        (
            "loghouse.api.guard:_audited",
            """, outcome=f"{type(error).__name__.removesuffix('Error')}: {error}\"""",
            "",
        ),
        by="service.test_reload:AuditTests.test_file",
    ),
    bug(
        "left-out-in-silence",
        "limits.py (AUDIT_LINES)",
        "How many lines were left out is not said.",
        (AUDIT + "Audit._tell", "if self._left_out:", "if False:"),
        by="test_audit:AuditTests.test_flood",
    ),
    bug(
        "one-subject-takes-every-line",
        "limits.py (AUDIT_LINES)",
        "A subject that floods the audit leaves no line for others.",
        (AUDIT + "Audit._tell", "self._lines.take(who)", 'self._lines.take("")'),
        by="test_audit:AuditTests.test_flood",
    ),
    bug(
        "a-peer-s-text-whole",
        "CWE-779: logging of excessive data",
        "What a peer chooses is in the audit, however long it is.",
        (AUDIT + "_short", "len(text) <= LOG_TEXT_SIZE_MAX", "True"),
        by="test_audit:AuditTests.test_long",
    ),
    bug(
        "a-moved-file-goes-on",
        "logrotate(8)",
        "A file that was moved away is written on.",
        (FILE + "_append", "if self._must_reopen.is_set():", "if False:"),
        by="test_audit:LineFileTests.test_moved",
    ),
    bug(
        "lost-lines-in-silence",
        "limits.py (lines that wait)",
        "Lines that the disk was too slow for are lost, and nobody is told.",
        (FILE + "write", "self._count(1)", "pass"),
        by="test_audit:LineFileTests.test_slow_disk",
    ),
)

NOTIFIED = (
    bug(
        "a-sign-of-life-too-late",
        "sd_watchdog_enabled(3): half of the time",
        "A sign of life comes when the time is over, and systemd kills the node.",
        ("loghouse.service.systemd:_beat_seconds", "2e6", "1e6"),
        by=TOLD + "test_watchdog",
    ),
    bug(
        "another-process-s-watchdog",
        "sd_watchdog_enabled(3): WATCHDOG_PID",
        "A process gives signs of life in the place of the one that is watched.",
        (
            "loghouse.service.systemd:_beat_seconds",
            'process_id not in ("", str(os.getpid()))',
            "False",
        ),
        by=TOLD + "test_no_watchdog",
    ),
    bug(
        "a-refused-reload-has-no-end",
        "sd_notify(3): RELOADING is followed by READY",
        "After a reload that was refused systemd waits for ever.",
        (NOTIFIER + "reloading", "done.addBoth(self._reloaded)", "done.addCallback(self._reloaded)"),
        by=TOLD + "test_refused_reload",
    ),
    bug(
        "a-status-of-two-lines",
        "CWE-93: CRLF injection",
        "A name with the end of a line in it tells systemd something else.",
        (NOTIFIER + "ready", "visible(status)", "status"),
        by=TOLD + "test_status_is_one_line",
    ),
    bug(
        "ready-again-after-the-stop",
        "sd_notify(3): STOPPING",
        "A reload that ends while the node stops tells that it is ready.",
        (NOTIFIER + "_reloaded", "if not self._is_stopping:", "if True:"),
        by=TOLD + "test_stop_is_the_last",
    ),
    bug(
        "signs-of-life-of-the-dead",
        "sd_notify(3): WATCHDOG",
        "Signs of life go on when all is over.",
        (NOTIFIER + "end", "self._beats.stop()", "pass"),
        by=TOLD + "test_watchdog",
    ),
    bug(
        "systemd-s-absence-ends-the-node",
        "sd_notify(3): what goes wrong is to be ignored",
        "A message that cannot be sent is an error of the node.",
        (NOTIFIER + "_send", "except OSError as error:", "except ZeroDivisionError as error:"),
        by=TOLD + "test_nobody_listens",
    ),
    bug(
        "an-abstract-address-is-a-file",
        "sd_notify(3): NOTIFY_SOCKET that begins with @",
        "In a container systemd's abstract socket is looked for in the file system.",
        (NOTIFIER + "__init__", '"\\0" + address[1:]', "address"),
        by=TOLD + "test_life",
    ),
)
