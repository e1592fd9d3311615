"""Pure parts of the commands: values at the edge, and what is said, word by word."""

import argparse
import io
import json
import os
import sys
from types import SimpleNamespace

from loghouse.api.v1 import log_pb2
from loghouse.cli import bench, cluster, output, produce
from loghouse.cli.failures import next_step
from loghouse.cli.options import number
from loghouse.cli.output import CommandError, bytes_as_json, count_text, size_text, time_text, write_table
from loghouse.cli.produce import AppendTotals
from loghouse.cli.record_input import paced, record_of_json, records_of_file, records_of_lengths
from loghouse.client.records import NewRecord
from loghouse.errors import OutcomeUnknownError, PermissionDeniedError, UnavailableError
from tests.cli.support import CommandCase


class SaidCase(CommandCase):
    """What is written to stdout and stderr."""

    def said(self, work, *given):
        """Return both."""
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        try:
            work(*given)
            return sys.stdout.getvalue(), sys.stderr.getvalue()
        finally:
            sys.stdout, sys.stderr = streams


class JsonTests(SaidCase):
    """A record as a line of JSON."""

    def test_taken(self):
        """Texts, base64, headers either way, any time; what consume writes beside them does not matter."""
        for told, record in (
            ({}, NewRecord(b"")),
            ({"value": "v", "key": "k", "timestamp": 0}, NewRecord(b"v", b"k", (), 0)),
            ({"value": None, "value_base64": "YQ=="}, NewRecord(b"a")),
            ({"timestamp": 2**64 - 1}, NewRecord(b"", None, (), 2**64 - 1)),
            ({"headers": {"a": "b", "c": "d"}}, NewRecord(b"", None, (("a", b"b"), ("c", b"d")))),
            ({"headers": [{"key": "a", "value_base64": "/w=="}, {"key": ""}]},
             NewRecord(b"", None, (("a", b"\xff"), ("", b"")))),
            ({"key": ""}, NewRecord(b"", b"")),
            ({"key": None, "key_base64": ""}, NewRecord(b"", b"")),
            ({"key": None}, NewRecord(b"", None)),
            ({"value": "v", "offset": 5, "headers": None, "timestamp": None}, NewRecord(b"v")),
        ):  # fmt: skip
            self.assertEqual(record_of_json(json.dumps(told).encode()), record, told)

    def test_refused(self):
        """Each mistake is told by the name of its field."""
        for told, text in (
            ([], "is not a JSON object such as {'value': 'text'}, but list"),
            ({"valeu": 1, "x": 2}, "has the field 'valeu'; allowed: "),
            ({"timestamp": -1}, "has a timestamp that is no number of microseconds since the epoch"),
            ({"timestamp": 2**64}, "has a timestamp that is no number"),
            ({"timestamp": 1.0}, "has a timestamp that is no number"),
            ({"timestamp": True}, "has a timestamp that is no number"),
            ({"value": 1}, "has a value that is no text, but int"),
            ({"key_base64": 1}, "has a key that is no text, but int"),
            ({"key": "a", "key_base64": "YQ=="}, "has both key and key_base64; give one"),
            ({"value": "\ud800"}, "has a value that is no valid text; value_base64 takes any bytes"),
            ({"value_base64": "a"}, "has a value_base64 that is no base64"),
            ({"value_base64": "Y Q=="}, "has a value_base64 that is no base64"),
            ({"headers": "a"}, "has headers that are no list of {'key': ..., 'value': ...}, nor an object"),
            ({"headers": ["a"]}, "has headers that are no list"),
            ({"headers": [{"value": "a"}]}, "has headers that are no list"),
            ({"headers": [{"key": "a"}, {"key": 1}]}, "has headers that are no list"),
            ({"headers": {"a": 1}}, "has a value that is no text, but int"),
        ):
            error = self.assertRaises(ValueError, record_of_json, json.dumps(told).encode())
            self.assertIn(text, str(error))
        self.assertIn("is not JSON (", str(self.assertRaises(ValueError, record_of_json, b"{")))
        self.assertIn("is not JSON (", str(self.assertRaises(ValueError, record_of_json, b"[" * 100_000)))


class InputTests(SaidCase):
    """Files of records."""

    def read(self, reader, content):
        with open("input", "wb") as file:
            file.write(content)
        descriptor = os.open("input", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        return [record.value for record in reader(descriptor, "input")]

    def test_lengths(self):
        """Empty records count, too; where a file is cut off is told by the record's first byte."""
        one, none = b"\0\0\0\x03abc", b"\0\0\0\0"
        self.assertEqual(self.read(records_of_lengths, one + none + one), [b"abc", b"", b"abc"])
        for content, start in ((one + one[:3], 7), (one + none + one[:-1], 11), (b"\0", 0)):
            error = self.assertRaises(CommandError, self.read, records_of_lengths, content)
            self.assertIn(f"input ends within the record that begins at byte {start};", str(error))
        error = self.assertRaises(CommandError, self.read, records_of_lengths, one + b"\xff\xff\xff\xff")
        self.assertIn("the length at byte 7 says 4294967295 bytes; at most 8388608 are allowed", str(error))

    def test_end_within_a_length(self):
        """A file that ends within a length is cut off there, whatever that length begins with."""
        for rest in (b"\xff", b"\xff\xff\xff", b"\0\0\0"):
            error = self.assertRaises(CommandError, self.read, records_of_lengths, b"\0\0\0\x01a" + rest)
            self.assertIn("input ends within the record that begins at byte 5;", str(error))

    def test_completed(self):
        """The command line's key is for records without one, its headers are behind each record's own."""
        bare, own = NewRecord(b"v"), NewRecord(b"v", b"own", (("a", b"1"),), 7)
        for key, headers, expected in (
            (None, [], [bare, own]),
            ("k", [], [NewRecord(b"v", b"k"), own]),
            (None, [("h", b"2")], [
                NewRecord(b"v", None, (("h", b"2"),)),
                NewRecord(b"v", b"own", (("a", b"1"), ("h", b"2")), 7),
            ]),
            ("k", [("h", b"2")], [
                NewRecord(b"v", b"k", (("h", b"2"),)),
                NewRecord(b"v", b"own", (("a", b"1"), ("h", b"2")), 7),
            ]),
        ):  # fmt: skip
            args = SimpleNamespace(record_key=key, header=headers)
            self.assertEqual(list(produce._completed(iter([bare, own]), args)), expected)

    def test_file(self):
        """A file of exactly as many bytes as a batch holds is one record; one more is too many."""
        self.assertEqual(self.read(records_of_file, b""), [b""])
        self.assertEqual([len(value) for value in self.read(records_of_file, bytes(8 << 20))], [8 << 20])
        error = self.assertRaises(CommandError, self.read, records_of_file, bytes((8 << 20) + 1))
        self.assertIn("input has more than 8388608 bytes, too many for one record", str(error))

    def test_pace(self):
        """Records go at their rate, the first at once; after a pause of the source only few go faster."""
        clock = [0.0]
        waits = []

        def sleep(seconds):
            waits.append(round(seconds, 3))
            clock[0] += seconds

        def source():
            for number_ in range(6):
                if number_ == 3:
                    clock[0] += 100.0
                yield NewRecord(b"%d" % number_)

        taken = [clock[0] for _ in paced(source(), 2.0, clock=lambda: clock[0], sleep=sleep)]
        self.assertEqual(waits[:2], [0.5, 0.5])
        self.assertEqual(taken[:3], [0.0, 0.5, 1.0])
        self.assertEqual(taken[3], 101.0)
        self.assertLess(taken[4] - taken[3], 0.5)
        self.assertGreater(taken[5] - taken[3], 0.3)


class OutputTests(SaidCase):
    """Numbers, times, bytes and tables for people."""

    def test_sizes(self):
        """Each unit goes up to 1024 of it."""
        for size, text in (
            (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**2 - 1, "1024.0 KiB"),
            (1024**2, "1.0 MiB"), (1536 * 1024, "1.5 MiB"), (1024**3, "1.0 GiB"),
            (1024**4, "1.0 TiB"), (1024**5, "1024.0 TiB"),
        ):  # fmt: skip
            self.assertEqual(size_text(size), text)
        self.assertEqual([count_text(count, "line") for count in (0, 1, 2)], ["0 lines", "1 line", "2 lines"])

    def test_times(self):
        """To the microsecond; what is beyond the calendar is a number."""
        for timestamp, text in (
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_700_000_000_000_001, "2023-11-14T22:13:20.000001Z"),
            (2**64 - 1, "18446744073709551615 us"),
        ):
            self.assertEqual(time_text(timestamp), text)
        self.assertEqual(bytes_as_json("k", "\u00e9".encode()), {"k": "\u00e9"})
        self.assertEqual(bytes_as_json("k", b"\xff"), {"k_base64": "/w=="})

    def test_table(self):
        """Columns are as wide as their widest cell, two spaces apart; nothing is behind the last."""
        out, _ = self.said(write_table, ["A", "LONG"], [["bbb", "c"], ["d", ""]])
        self.assertEqual(out, "A    LONG\nbbb  c\nd\n")

    def test_progress(self):
        """A bar is on stderr, for people who see nothing else there; bytes go up by 1024, records by 1000."""
        made = []
        self.patch(output, "tqdm", lambda **fields: made.append(fields))
        for is_terminal, is_alone, unit, divisor in (
            (True, True, "B", 1024),
            (True, False, "B", 1024),
            (False, True, " records", 1000),
        ):
            stream = SimpleNamespace(isatty=lambda is_terminal=is_terminal: is_terminal)
            self.patch(sys, "stderr", stream)
            output.progress_bar(7, unit, "reading", is_alone=is_alone)
            self.assertEqual(
                made.pop(),
                {
                    "total": 7, "unit": unit, "desc": "reading", "unit_scale": True, "unit_divisor": divisor,
                    "disable": not (is_terminal and is_alone), "leave": False, "file": stream,
                },
            )  # fmt: skip

    def test_numbers(self):
        """Both ends of a range belong to it; the complaint says what is allowed."""
        read = number("a count", lowest=1, highest=9)
        self.assertEqual([read("1"), read("9")], [1, 9])
        for text in ("0", "10", "-1", "x", "", "\u0663", "1.0"):
            error = self.assertRaises(argparse.ArgumentTypeError, read, text)
            self.assertEqual(str(error), f"{text!r} is not a count; allowed: a number from 1")
        error = self.assertRaises(argparse.ArgumentTypeError, number("it", allowed="some"), "x")
        self.assertEqual(str(error), "'x' is not it; allowed: some")
        self.assertEqual((number("it")("0"), number("it")(str(2**64 - 1))), (0, 2**64 - 1))
        self.assertRaises(argparse.ArgumentTypeError, number("it"), str(2**64))


class ReportTests(SaidCase):
    """What appending and measuring say at the end."""

    def test_appended(self):
        """Nothing, one record, several; no time at all is no mistake."""
        for totals, text in (
            (AppendTotals(), "nothing to append\n"),
            (AppendTotals(1, 3, 7, 7, 0.5), "appended 1 record (3 B), offset 7, in 0.500 s (6 B/s)\n"),
            (AppendTotals(2, 4096, 7, 8, 2.0),
             "appended 2 records (4.0 KiB), offsets 7 to 8, in 2.000 s (2.0 KiB/s)\n"),
            (AppendTotals(1, 3, 7, 7, 0.0), "appended 1 record (3 B), offset 7, in 0.000 s (0 B/s)\n"),
        ):  # fmt: skip
            self.assertEqual(self.said(produce._report, totals, False), (text, ""))
        out, _ = self.said(produce._report, AppendTotals(2, 4, 7, 8, 1.23456789), True)
        told = {"records": 2, "bytes": 4, "first_offset": 7, "last_offset": 8, "seconds": 1.234568}
        self.assertEqual(json.loads(out), told)

    def test_failed(self):
        """What is certain: how much is durable, and whether more may be."""
        unsure = "; those sent after may or may not have been appended"
        for totals, error, text in (
            (AppendTotals(), UnavailableError("no"), ""),
            (AppendTotals(), OutcomeUnknownError("?"), f"no record was acknowledged{unsure}\n"),
            (AppendTotals(), KeyboardInterrupt(), f"no record was acknowledged{unsure}\n"),
            (AppendTotals(1, 3, 7, 7), UnavailableError("no"),
             "1 record acknowledged as durable, the last at offset 7\n"),
            (AppendTotals(2, 3, 7, 8), OutcomeUnknownError("?"),
             f"2 records acknowledged as durable, the last at offset 8{unsure}\n"),
        ):  # fmt: skip
            self.assertEqual(self.said(produce._explain, error, totals), ("", text))

    def test_measured(self):
        """Rates and latencies: nearest ranks of 50, 90, 99 and 99.9 per cent, and the longest."""
        ordered = [number_ / 1000 for number_ in range(1, 1001)]
        for percent, value in (
            (50.0, 0.5),
            (90.0, 0.9),
            (99.0, 0.99),
            (99.9, 0.999),
            (0.0, 0.001),
            (100.0, 1.0),
        ):
            self.assertEqual(bench.percentile(ordered, percent), value)
        self.assertEqual([bench.percentile([7.0], percent) for percent in (0.0, 50.0, 100.0)], [7.0] * 3)
        args = SimpleNamespace(json=False, action="produce")
        out, _ = self.said(bench._report, args, 1000, 2048, 0.5, list(reversed(ordered)))
        self.assertEqual(
            out,
            "appended 1,000 records (2.0 KiB) in 0.500 s: 2,000 records/s, 4.0 KiB/s\n"
            "latency p50 500.00 ms, p90 900.00 ms, p99 990.00 ms, p99.9 999.00 ms, max 1000.00 ms\n",
        )
        args = SimpleNamespace(json=False, action="consume")
        out, _ = self.said(bench._report, args, 1, 1, 0.0, ())
        self.assertTrue(out.startswith("read 1 records (1 B) in 0.000 s: 1,000,000,000 records/s, "))
        self.assertEqual(out.count("\n"), 1)
        args = SimpleNamespace(json=True, action="produce")
        out, _ = self.said(bench._report, args, 3, 10, 4.0, [0.1234567])
        latency = dict.fromkeys(("p50", "p90", "p99", "p99.9", "max"), 0.123457)
        told = {"records": 3, "bytes": 10, "seconds": 4.0, "records_per_second": 0.8, "bytes_per_second": 2.5}
        self.assertEqual(json.loads(out), {**told, "latency_seconds": latency})
        out, _ = self.said(bench._report, args, 3, 10, 4.0, ())
        self.assertEqual(json.loads(out), told)


class ClusterTests(SaidCase):
    """What `cluster status` makes of a cluster's state."""

    def status(self, voters="", learners=0, leader="n1", **fields):
        """A status whose voters are alive (a), suspect (s) or dead (d), letter by letter."""
        words = {"a": "alive", "s": "suspect", "d": "dead"}
        members = [
            log_pb2.MemberStatus(name=f"n{place}", id=place, role="voter", liveness=words[letter])
            for place, letter in enumerate(voters, 1)
        ]
        members += [
            log_pb2.MemberStatus(name=f"l{place}", id=100 + place, role="learner", liveness="alive")
            for place in range(1, learners + 1)
        ]
        return log_pb2.StatusResponse(members=members, leader=leader, **fields)

    def test_can_append(self):
        """A leader is known, and more than half of the voters run."""
        for voters, leader, can in (
            ("a", "n1", True), ("d", "n1", False), ("aa", "n1", True), ("ad", "n1", False),
            ("aad", "n1", True), ("asd", "n1", True), ("add", "n1", False), ("aadd", "n1", False),
            ("aaadd", "n1", True),
            ("aaddd", "n1", False), ("aaaa", "", False),
        ):  # fmt: skip
            self.assertEqual(cluster.can_append(self.status(voters, leader=leader)), can, voters)

    def test_notes(self):
        """The worst comes first: no majority, no leader, one failure more, some that do not run."""
        nothing = "Nothing can be appended until enough of them run again"
        leaderless = (
            "No leader: nothing can be appended. While a majority of voters runs, one is elected in seconds"
        )
        for voters, leader, text in (
            ("aaa", "n1", None),
            ("aas", "n1", None),
            ("add", "n1", f"NO MAJORITY: 1 of 3 voters alive, 2 needed. {nothing}: n2, n3."),
            ("d", "", f"NO MAJORITY: 0 of 1 voter alive, 1 needed. {nothing}: n1."),
            ("aaa", "", f"{leaderless}."),
            ("asd", "", f"{leaderless}; not answering: n2 (suspect), n3 (dead)."),
            ("aad", "n1", "Not running: n3. One failure more and nothing can be appended: start it again, "
             "or, if it is gone for good, `loghouse cluster remove n3`."),
            ("aaaad", "n1", "Not running: n5."),
        ):  # fmt: skip
            notes = list(cluster.notes_on(self.status(voters, leader=leader)))
            self.assertEqual(notes, [] if text is None else [text], voters)

    def test_notes_on_others(self):
        """Learners that wait, replicas, a second machine of one name, and who was removed."""
        waits = "Waits without a vote: l1. {} voters bear no more failures than {}: "
        for voters, learners, begin in (
            ("aaa", 1, waits.format(4, 3)),
            ("aaaa", 3, None),
            ("aa", 1, None),
            ("a", 1, None),
            ("aaaa", 1, None),
            ("aaa", 2, None),
            ("aaaaa", 2, "Without a vote: l1, l2. At most 5 members vote; "),
        ):
            notes = list(cluster.notes_on(self.status(voters, learners)))
            self.assertEqual(len(notes), int(begin is not None), (voters, learners))
            if begin is not None:
                self.assertTrue(notes[0].startswith(begin), notes)
        status = self.status("aaa", removed=["n8", "n9"])
        status.members.add(name="r1", id=50, role="replica", liveness="alive")
        status.members.add(name="n1", address="h9:1")
        status.members.add(name="n2")
        status.members.add(name="stranger")
        self.assertEqual(
            list(cluster.notes_on(status)),
            [
                "Replicas (`cluster add --learner`), never given a vote: r1.",
                *(
                    f"A second machine calls itself {name}: at {place}, with another disk than the member. "
                    "It is not let in while that one lives: stop it, or rename it."
                    for name, place in (("n1", "h9:1"), ("n2", "an unknown address"))
                ),
                "Removed and kept out: n8, n9 (`loghouse cluster add NODE` lets a node back in).",
            ],
        )

    def shown(self, status, as_json=False):
        out, err = self.said(cluster.show, status, as_json)
        self.assertEqual(err, "")
        return out

    def test_table(self):
        """A member's row; what is not known of it is a dash, and who is no member is said to be none."""
        status = self.status("a", cluster_name="c1", cluster_uuid=b"\x0a\x0b", node="n1", term=3)
        status.commit_index, status.lowest_offset, status.next_offset = 9, 2, 7
        status.members[0].is_leader, status.members[0].match_index = True, 9
        status.members[0].address, status.members[0].version = "h1:1", "1.2"
        status.members.add(name="n2", id=2, role="learner")
        status.members.add(name="n3", liveness="dead", address="h3:1")
        head, state, _, columns, *rows = self.shown(status).splitlines()[:7]
        self.assertEqual(head, "cluster c1 (0a0b), as n1 sees it")
        self.assertEqual(state, "term 3, leader n1, committed up to index 9, offsets 2 to 6")
        self.assertEqual(
            columns.split(), ["NODE", "ID", "ROLE", "LEADS", "STATE", "BEHIND", "ADDRESS", "VERSION"]
        )
        self.assertEqual(
            [row.split() for row in rows],
            [
                ["n1", "1", "voter", "leader", "alive", "0", "entries", "h1:1", "1.2"],
                ["n2", "2", "learner", "not", "seen", "?", "-", "-"],
                ["n3", "-", "not", "a", "member", "dead", "-", "h3:1", "-"],
            ],
        )
        status.next_offset, status.leader = 2, ""
        state = self.shown(status).splitlines()[1]
        self.assertEqual(
            state, "term 3, no leader, committed up to index 9, no records, the next offset is 2"
        )

    def test_fields(self):
        """The fields of the JSON, in the order in which people read them."""
        told = json.loads(self.shown(self.status("a", cluster_uuid=b"\x0a"), as_json=True))
        self.assertEqual(
            list(told),
            [
                "cluster", "cluster_uuid", "node", "version", "term", "leader", "commit_index",
                "lowest_offset", "next_offset", "members", "removed", "strays", "waiting_settings", "logs",
                "notes",
            ],
        )  # fmt: skip
        self.assertEqual(
            list(told["members"][0]),
            [
                "name", "id", "role", "liveness", "is_leader", "match_index", "entries_behind", "address",
                "version",
            ],
        )  # fmt: skip

    def test_waiting_settings(self):
        """A node that runs with other settings than its file has is named, and what to do."""
        status = self.status("a", waiting_settings=["timing.network", "host"])
        status.node = "n1"
        note = (
            "n1 runs with other settings than its node.yaml has: timing.network, host. Restart it, or take "
            "them back (`loghouse node reload n1` tells both values)."
        )
        self.assertIn(note, self.shown(status).splitlines())
        told = json.loads(self.shown(status, as_json=True))
        self.assertEqual((told["waiting_settings"], told["notes"]), (["timing.network", "host"], [note]))

    def test_behind(self):
        """How many entries a member lacks, as far as it is known."""
        for id_, match, lag, text in (
            (1, 9, 0, "0 entries"), (1, 8, 1, "1 entry"), (1, 7, 2, "2 entries"), (1, 12, 0, "0 entries"),
            (1, 0, None, "?"), (0, 5, None, "-"),
        ):  # fmt: skip
            member = log_pb2.MemberStatus(name="n1", id=id_, match_index=match)
            self.assertEqual((cluster._lag(member, 9), cluster._lag_text(member, 9)), (lag, text))


class NextStepTests(SaidCase):
    """What to do about an error."""

    def test_unknown(self):
        """Of an error that nobody thought of nothing is said."""
        self.assertEqual(next_step(KeyError("x"), "produce"), "")
        # Whoever may do nothing at all is refused as one who may not consume: say what producing needs.
        self.assertIn("lets you produce", next_step(PermissionDeniedError("a", "consume", "b"), "produce"))
