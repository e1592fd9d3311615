"""What `inspect`, `verify` and `recover` say, word by word, of what the storage told them."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

from loghouse.cli import disk
from loghouse.cli.output import CommandError, ExitCode
from loghouse.errors import DamageError
from loghouse.protocol.entry import EntryKind, make_entry
from loghouse.storage.inspect import LogSummary, SegmentSummary
from loghouse.storage.new_cluster import NewCluster
from loghouse.storage.repair import Repair
from loghouse.storage.verify import Checked, Finding, VerifyProgress
from tests.cli.test_edges import SaidCase


def segment(number, **fields):
    """Return the segment of ten entries that begins at an index."""
    given = {
        "file": f"data/logs/1/{number}.store",
        "base_index": number,
        "last_index": number + 9,
        "file_size": 2048,
        "used_size": 1024,
        "durable_index": number + 9,
        "commit_index": number + 8,
    }
    return SegmentSummary(**{**given, **fields})


class Bar:
    """A progress bar that notes how far it was."""

    def __init__(self):
        self.total, self.n, self.steps = None, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, count=1):
        self.n += count
        self.steps.append((self.n, self.total))

    def clear(self):
        self.steps.append("clear")


class InspectTests(SaidCase):
    """Segments and entries."""

    def test_damage(self):
        """A torn tail is damage only up to the durable mark, and only of the last segment."""
        problem = {"problem": "torn"}
        for segments, damaged in (
            ((), []),
            ((segment(1), segment(11)), []),
            ((segment(1, **problem), segment(11)), ["1"]),
            ((segment(1), segment(11, **problem)), []),
            ((segment(1), segment(11, last_index=19, **problem)), ["11"]),
            ((segment(1, **problem), segment(11, last_index=19, **problem)), ["1", "11"]),
            ((segment(1, **problem),), []),
        ):
            told = [f"data/logs/1/{number}.store: torn" for number in damaged]
            self.assertEqual(disk._problems(segments), told)

    def test_log(self):
        """A row for each segment, what is durable of the last one, and what is damaged."""
        first = segment(1, next_offset=20, first_timestamp=1, last_timestamp=2_000_000)
        last = segment(11, last_index=10, base_offset=20, next_offset=20, durable_index=10, commit_index=9)
        log = LogSummary(group=3, first_index=1, first_offset=0, hard_state=None, segments=(first, last),
                         problems=("gone",))  # fmt: skip
        out, _ = self.said(disk._print_log, log)
        head, columns, *rows = out.strip("\n").splitlines()
        self.assertEqual(head, "log 3: begins at entry 1, offset 0; term and vote not known")
        self.assertEqual(columns.split(), ["SEGMENT", "ENTRIES", "OFFSETS", "USED", "FILE", "FIRST", "LAST"])
        self.assertEqual(
            " ".join(rows[0].split()),
            "1.store 1 to 10 0 to 19 1.0 KiB 2.0 KiB 1970-01-01T00:00:00.000001Z 1970-01-01T00:00:02.000000Z",
        )
        self.assertEqual(" ".join(rows[1].split()), "11.store none none 1.0 KiB 2.0 KiB - -")
        self.assertEqual(rows[2:], ["durable up to entry 10, committed up to 9", "DAMAGED: gone"])
        for vote, text in ((0, "none"), (2, "2")):
            state = SimpleNamespace(term=7, vote=vote)
            log = LogSummary(group=1, first_index=5, first_offset=4, hard_state=state, segments=())
            out, _ = self.said(disk._print_log, log)
            self.assertTrue(
                out.startswith(f"\nlog 1: begins at entry 5, offset 4; term 7, vote {text}\n"), out
            )
            self.assertNotIn("durable", out)

    def entry(self, **fields):
        given = {"index": 3, "term": 2, "kind": EntryKind.RECORDS, "base_offset": 7, "record_count": 2,
                 "timestamp": 1_000_001, "payload": b"xy", "payload_crc": 9}  # fmt: skip
        return make_entry(5, **{**given, **fields})

    def test_entries(self):
        """An entry's line has its offsets and producer, if there are some; its JSON has every field."""
        plain = self.entry()
        begin, end = "entry 3  term 2  ", f"  {plain.size} bytes at 64  1970-01-01T00:00:01.000001Z"
        for fields, what in (
            ({}, "records  offsets 7 to 8"),
            ({"producer_id": 4, "producer_sequence": 6}, "records  offsets 7 to 8  producer 4:6"),
            ({"kind": EntryKind.NOOP, "record_count": 0}, "noop"),
        ):
            self.assertEqual(disk._entry_as_text(64, self.entry(**fields)), f"{begin}{what}{end}")
        entry = self.entry(attributes=1, producer_id=4, producer_sequence=6)
        self.assertEqual(
            disk._entry_as_json("a.store", 64, entry),
            {
                "file": "a.store", "position": 64, "index": 3, "term": 2, "kind": "records", "attributes": 1,
                "record_count": 2, "base_offset": 7, "timestamp": 1_000_001, "producer_id": 4,
                "producer_sequence": 6, "payload_crc": 9, "size": entry.size,
            },
        )  # fmt: skip

    def test_which_entries(self):
        """Both ends of the range belong to it, of every log; an empty line is before them."""
        asked = []

        def dump(files, summary, log, *, low, high):
            asked.append((log.group, low, high))
            yield "a.store", 64, self.entry()

        bars = []

        def bar(*made, **fields):
            bars.append((made, fields))
            return Bar()

        self.patch(disk, "dump", dump)
        self.patch(disk, "progress_bar", bar)
        args = SimpleNamespace(data_dir="data", low=3, high=11, json=False)
        segments = (segment(1), segment(11), segment(21))
        logs = [
            LogSummary(group=group, first_index=1, first_offset=0, hard_state=None, segments=segments)
            for group in (1, 7)
        ]
        out, _ = self.said(disk._print_entries, None, args, SimpleNamespace(logs=logs))
        self.assertEqual(asked, [(1, 3, 12), (7, 3, 12)])
        line = disk._entry_as_text(64, self.entry())
        self.assertEqual(out, f"\n{line}\n{line}\n")
        self.assertEqual(bars, [((18, " entries", "writing"), {"is_alone": True})])
        args.json = True
        out, _ = self.said(disk._print_entries, None, args, SimpleNamespace(logs=logs[:1]))
        self.assertEqual(json.loads(out)["position"], 64)
        self.assertEqual(self.said(disk._print_entries, None, args, SimpleNamespace(logs=())), ("", ""))


class VerifyTests(SaidCase):
    """Findings and totals."""

    def verify(self, *steps, as_json=False):
        """Return the exit code, stdout, and the steps of the bar."""
        bar, codes = Bar(), []
        self.patch(disk, "progress_bar", lambda *what: bar)
        self.patch(disk, "verify", lambda files, path: iter(steps))
        args = SimpleNamespace(data_dir="data", json=as_json)
        out, _ = self.said(lambda: codes.append(disk.run_verify(args)))
        return codes[0], out, bar.steps

    def test_good(self):
        """The totals, counted; the bar goes as far as the check."""
        code, out, steps = self.verify(
            VerifyProgress("a", 10, 40), VerifyProgress("b", 30, 40), Checked(1, 2, 1, 1024)
        )
        self.assertEqual((code, steps), (ExitCode.OK, [(10, 40), (30, 40)]))
        self.assertEqual(out, "checked 1 segment, 2 entries, 1 record, 1.0 KiB: all good\n")

    def test_found(self):
        """Each finding by its kind; the worst decides what is said at the end, and the exit code."""
        damage = Finding("a", 5, "bad")
        note = Finding("b", 6, "missing", is_damage=False)
        unreadable = Finding("c", 7, "packed", is_damage=False, is_unreadable=True)
        for findings, verdict, is_damaged, is_unreadable in (
            ((), "all good", False, False),
            ((note,), "all good", False, False),
            ((note, unreadable), "UNREADABLE BATCHES", False, True),
            ((damage, note), "DAMAGED", True, False),
            ((unreadable, damage), "DAMAGED", True, True),
        ):
            code, out, steps = self.verify(*findings, Checked(2, 3, 4, 5))
            is_bad = is_damaged or is_unreadable
            self.assertEqual(code, ExitCode.DAMAGED if is_bad else ExitCode.OK)
            self.assertEqual(steps, ["clear"] * len(findings))
            marks = {damage: "DAMAGED", note: "note", unreadable: "UNREADABLE"}
            lines = [f"{marks[one]}: {one.file}: at byte {one.position}: {one.problem}" for one in findings]
            lines.append(f"checked 2 segments, 3 entries, 4 records, 5 B: {verdict}")
            self.assertEqual(out.splitlines()[: len(lines)], lines)
            self.assertEqual("recover data --accept-data-loss" in out, is_damaged)
            self.assertEqual("cluster trim" in out, is_unreadable)
            self.assertEqual(len(out.splitlines()), len(lines) + is_damaged + is_unreadable)
            code, out, steps = self.verify(*findings, Checked(2, 3, 4, 5), as_json=True)
            told = json.loads(out)
            self.assertEqual((told["is_damaged"], told["is_unreadable"]), (is_damaged, is_unreadable))
            self.assertEqual(
                [one["position"] for one in told["findings"]], [one.position for one in findings]
            )
            totals = {"segments": 2, "entries": 3, "records": 4, "size": 5}
            self.assertEqual({name: told[name] for name in totals}, totals)
            self.assertEqual(steps, [])


class RecoverTests(SaidCase):
    """What was done to a log."""

    def setUp(self):
        super().setUp()
        self.steps, self.repairs = [], {}
        self.args = SimpleNamespace(data_dir="data", new_cluster=False, accept_data_loss=True, json=False)
        self.patch(disk, "_locked", self.locked)
        self.patch(disk, "groups_of", lambda files, path: list(self.repairs))
        self.patch(disk, "_give_up", lambda files, directory, group: self.repairs[group])

    @contextmanager
    def locked(self, files, path):
        self.steps.append(path)
        yield SimpleNamespace(check_finished=lambda: self.steps.append("checked"))
        self.steps.append("let go")

    def test_logs(self):
        """Each log with what was done, where it ends, and how many entries are known to be lost."""
        self.repairs = {
            1: Repair(("cut at 5", "kept aside"), last_index=4, next_offset=8, lost_index=9),
            7: Repair((), last_index=3, next_offset=6, lost_index=3),
        }
        for self.args.data_dir, path in (("data", "data"), ("data//", "data"), ("/", "/")):
            self.steps.clear()
            out, _ = self.said(disk.run_recover, self.args)
            self.assertEqual(self.steps, [path, "checked", "let go"])
        lost = "acknowledged entries are known to be lost"
        self.assertEqual(
            out.splitlines(),
            [
                "cut at 5",
                "kept aside",
                f"log 1 ends at entry 4; the next record gets offset 8; 5 {lost}",
                "nothing to do: the log is as it should be",
                f"log 7 ends at entry 3; the next record gets offset 6; no {lost}",
            ],
        )
        self.args.json = True
        out, _ = self.said(disk.run_recover, self.args)
        told = json.loads(out)["logs"]
        self.assertEqual(
            [(one["group"], one["last_index"], one["lost_index"]) for one in told], [(1, 4, 9), (7, 3, 3)]
        )

    def test_no_log(self):
        """A directory without a log cannot be recovered."""
        for self.args.json in (True, False):
            error = self.assertRaises(CommandError, disk.run_recover, self.args)
            self.assertEqual(
                str(error), "data holds no log; restore it from a backup, or start with an empty directory"
            )
            self.assertEqual(error.exit_code, ExitCode.FAILED)

    def test_consent(self):
        """Without consent nothing is locked."""
        self.args.accept_data_loss = False
        for self.args.new_cluster in (True, False):
            error = self.assertRaises(CommandError, disk.run_recover, self.args)
            self.assertEqual((error.exit_code, self.steps), (ExitCode.USAGE, []))
        self.assertIn("to see what is damaged: loghouse verify data;", str(error))

    def test_new_cluster(self):
        """The new cluster, what is to be known of it, and where the old log is; the bar goes along."""
        bar, begun = Bar(), []
        made = NewCluster("u" * 32, 1, 9, 18, "data/logs.old", ("it was damaged",))

        class Made:
            total_size, done_size = 40, 30

            def __init__(self, files, path, *, group):
                begun.append((path, group))

            def run(self, uuid, timestamp, progress):
                begun.append((len(uuid), timestamp))
                progress()
                return made

        self.patch(disk, "progress_bar", lambda *what: bar)
        self.patch(disk, "Rewrite", Made)
        self.patch(disk.time, "time", lambda: 12.5)
        self.args.new_cluster, self.args.data_dir = True, "data/"
        out, _ = self.said(disk.run_recover, self.args)
        self.assertEqual((begun, bar.steps), ([("data", 1), (16, 12_500_000)], [(30, 40)]))
        self.assertEqual(
            out.splitlines(),
            [
                "note: it was damaged",
                f"new cluster {'u' * 32}: log 1 ends at entry 9; the next record gets offset 18",
                "the old log is in data/logs.old; remove it when all is well",
                "start this node, then every other one with an empty data directory",
            ],
        )
        self.args.json = True
        out, _ = self.said(disk.run_recover, self.args)
        self.assertEqual(json.loads(out)["kept"], "data/logs.old")


class GiveUpTests(SaidCase):
    """How a log is cut."""

    def test_member(self):
        """A member's log is cut so that it remembers; where even that is not known, as a lone node's."""
        calls = []
        repair = Repair(("cut",), 4, 8, 9)
        directory = SimpleNamespace(
            log_directory=lambda group: f"logs/{group}", identity=SimpleNamespace(cluster_uuid=b"u")
        )

        def cut(files, log, *, cluster, group):
            calls.append(("member", log, cluster, group))
            if "alone" in ways:
                raise DamageError("hard_state", 0, "gone")
            return repair

        def accept(files, log, *, cluster, group):
            calls.append(("alone", log, cluster, group))
            return repair

        self.patch(disk, "cut_for_refetch", cut)
        self.patch(disk, "accept_data_loss", accept)
        for knows, ways in ((False, ["alone"]), (True, ["member"]), (True, ["member", "alone"])):
            calls.clear()
            self.patch(disk, "knows_others", lambda files, directory, group, knows=knows: knows)
            done = disk._give_up(None, directory, 7)
            self.assertEqual(calls, [(way, "logs/7", b"u", 7) for way in ways])
            gets_back = ways == ["member"]
            self.assertEqual(len(done.actions), 1 + gets_back)
            self.assertEqual("gets what was cut from the others" in done.actions[-1], gets_back)
            self.assertEqual((done.last_index, done.lost_index), (4, 9))
