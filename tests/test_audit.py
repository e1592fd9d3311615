"""The audit: which refusals and acts are told, how often, and how the lines get into their file."""

import json
import os
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.limits import AUDIT_LINES, LOG_TEXT_SIZE_MAX
from loghouse.node import audit
from loghouse.node.audit import Audit, left_out_line
from loghouse.runtime import line_file
from loghouse.runtime.line_file import LineFile


class AuditTests(SynchronousTestCase):
    """What is told."""

    def setUp(self):
        self.now = 1_700_000_000.25
        self.lines = []
        self.audit = Audit(lambda: self.now, self.lines.append)

    def told(self):
        """Return what was told since the last time."""
        told, self.lines[:] = [json.loads(line) for line in self.lines], []
        return told

    def test_refusals(self):
        """Refusals of an identity, a permission and a quota are told, with who, what and from where."""
        for error in (
            errors.PermissionDeniedError("eve", "produce", "default"),
            errors.UnauthenticatedError("no certificate"),
            errors.IdentityError("it is on the denylist"),
            errors.QuotaExceededError(100, "requests", "too many"),
        ):
            self.audit.refused(error, who="eve", what="Produce", where="10.0.0.1")
            expected = {
                "time": "2023-11-14T22:13:20.250Z",
                "kind": "refusal",
                "who": "eve",
                "what": "Produce",
                "from": "10.0.0.1",
                "outcome": str(error),
            }
            self.assertEqual(self.told(), [expected])

    def test_others(self):
        """A request that is only wrong, or cannot be done now, is no refusal."""
        for error in (errors.InvalidRequestError("a", "b"), errors.UnavailableError("x"), ValueError("y")):
            self.audit.refused(error, who="eve", what="Produce", where="10.0.0.1")
        self.assertEqual(self.told(), [])

    def test_acts(self):
        """An act of administration is told with its outcome."""
        self.audit.done(who="root", what="Remove n3", where="10.0.0.1")
        self.audit.done(who="", what="Remove n3", where="10.0.0.1", outcome="Membership: no")
        first, second = self.told()
        self.assertEqual((first["kind"], first["who"], first["outcome"]), ("administration", "root", "done"))
        self.assertEqual((second["who"], second["outcome"]), ("a stranger", "Membership: no"))

    def test_long(self):
        """What a peer chooses is cut off, and cannot begin a line of its own."""
        self.audit.done(who="a\n{}", what="x" * 10_000, where="y")
        [line] = self.lines
        self.assertNotIn("\n", line)
        [told] = self.told()
        self.assertEqual(told["what"], "x" * LOG_TEXT_SIZE_MAX + "...")

    def test_flood(self):
        """So many a second of one subject, and of all; the next second says how many were left out."""
        for _ in range(AUDIT_LINES.share + 7):
            self.audit.done(who="eve", what="x", where="y")
        self.audit.done(who="root", what="x", where="y")
        told = self.told()
        self.assertEqual(len(told), AUDIT_LINES.share + 1)
        self.assertEqual(told[-1]["who"], "root")
        for number in range(AUDIT_LINES.total):
            self.audit.done(who=f"s{number}", what="x", where="y")
        self.assertEqual(len(self.told()), AUDIT_LINES.total - AUDIT_LINES.share - 1)
        self.now += 1
        self.audit.done(who="root", what="x", where="y")
        first, second = self.told()
        self.assertEqual((first["kind"], first["count"]), ("left out", 7 + AUDIT_LINES.share + 1))
        self.assertEqual(second["who"], "root")

    def test_diagnostics(self):
        """Without a file the lines are in the diagnostics, as lines about a peer."""
        events = []
        self.patch(Audit, "logger", audit.Logger(observer=events.append))
        Audit(lambda: self.now).done(who="root", what="x", where="y")
        [event] = events
        self.assertEqual(json.loads(event["line"])["who"], "root")
        self.assertEqual(event["peer"], "root")


class LineFileTests(SynchronousTestCase):
    """Lines on their way to the disk."""

    def setUp(self):
        self.path = Path(self.mktemp())
        self.failures = []

    def open(self):
        opened = LineFile(self.path, lambda count: left_out_line(0.0, count), self.failures.append)
        self.addCleanup(opened.close, 5.0)
        return opened

    def test_appended(self):
        """Lines come behind what is there, in their order; who reads along is not everybody."""
        self.path.write_text("before\n")
        opened = self.open()
        for number in range(100):
            opened.write(str(number))
        opened.close(5.0)
        self.assertEqual(self.path.read_text().splitlines(), ["before", *map(str, range(100))])
        self.path.unlink()
        self.open()
        self.assertEqual(self.path.stat().st_mode & 0o007, 0)

    def test_moved(self):
        """A file that was moved away is written no more once it is opened anew."""
        opened = self.open()
        opened.write("one")
        opened.close(5.0)
        opened = self.open()
        moved = self.path.with_name("moved")
        os.rename(self.path, moved)
        opened.reopen()
        opened.write("two")
        opened.close(5.0)
        self.assertEqual((moved.read_text(), self.path.read_text()), ("one\n", "two\n"))

    def test_slow_disk(self):
        """While the disk hangs nobody waits: lines queue up to a bound, the rest is counted and said."""
        self.patch(line_file, "LINES_WAITING_MAX", 4)
        hanging, begun = threading.Event(), threading.Event()
        append = LineFile._append

        def slow(opened, content):
            begun.set()
            hanging.wait(20)
            append(opened, content)

        self.patch(LineFile, "_append", slow)
        opened = self.open()
        opened.write("first")
        begun.wait(20)
        for number in range(10):
            opened.write(str(number))
        self.assertEqual(opened.dropped_count, 6)
        hanging.set()
        opened.close(5.0)
        lines = self.path.read_text().splitlines()
        self.assertEqual(json.loads(lines[1])["count"], 6)
        self.assertEqual([lines[0], *lines[2:]], ["first", "0", "1", "2", "3"])

    def test_failing_disk(self):
        """What cannot be written is told once, counted, and said with the next line that can."""
        append, is_broken = LineFile._append, [True]

        def fail(opened, content):
            if is_broken:
                raise OSError(28, "No space left on device")
            append(opened, content)

        self.patch(LineFile, "_append", fail)
        opened = self.open()
        opened.write("one")
        opened.write("two")
        while len(self.failures) < 1 or opened._queue.qsize() or opened.dropped_count < 2:
            threading.Event().wait(0.001)
        is_broken.clear()
        opened.write("three")
        opened.close(5.0)
        self.assertEqual(len(self.failures), 1)
        told, last = self.path.read_text().splitlines()
        self.assertEqual((json.loads(told)["count"], last), (2, "three"))
