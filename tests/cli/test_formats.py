"""`loghouse produce`, `consume` and `bench`: formats, places, pace, figures; against a node in memory."""

import json
import os
from datetime import UTC, datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Header, Record
from loghouse.cli.bench import percentile
from loghouse.cli.record_input import paced
from loghouse.client.records import NewRecord
from tests.cli import test_records


class FormatTests(test_records.RecordsCase):
    """Every format in and out."""

    def records(self):
        """What is in the log, without what the node gave it."""
        code, out, err = self.run_command("consume", "--json", *self.target)
        self.assertEqual((code, err), (0, ""))
        given = ("offset", "timestamp", "time")
        return [
            {name: value for name, value in json.loads(line).items() if name not in given}
            for line in out.splitlines()
        ]

    def produce(self, *arguments, stdin=b""):
        code, _, err = self.run_command("produce", *arguments, *self.target, stdin=stdin)
        self.assertEqual((code, err), (0, ""))

    def test_files(self):
        """--format files makes each file a record, whatever is in it; several are taken in their order."""
        (self.folder / "one").write_bytes(b"a\nb\n")
        (self.folder / "two").write_bytes(b"")
        self.produce("--format", "files", "--file", "one", "--file", "two", "--file", "-", stdin=b"c\n")
        self.assertEqual([record["value"] for record in self.records()], ["a\nb\n", "", "c\n"])

    def test_lines_of_several_files(self):
        """Lines of one file come behind those of the file before."""
        (self.folder / "one").write_bytes(b"a\nb")
        (self.folder / "two").write_bytes(b"c\n")
        self.produce("--file", "one", "--file", "two")
        self.assertEqual([record["value"] for record in self.records()], ["a", "b", "c"])

    def test_length_prefixed_both_ways(self):
        """What consume writes length-prefixed, produce takes back, to the byte."""
        values = [b"", b"\n\xff", b"x" * 300_000, b"end"]
        framed = b"".join(len(value).to_bytes(4, "big") + value for value in values)
        self.produce("--format", "length-prefixed", stdin=framed)
        code, _, err = self.run_command(
            "consume", "--format", "length-prefixed", "--output", "out", *self.target
        )
        self.assertEqual((code, err), (0, ""))
        self.assertEqual((self.folder / "out").read_bytes(), framed)

    def test_terminal(self):
        """What a terminal would obey is shown, in every format; a file gets the bytes as they are."""
        hostile = "\x1b]0;owned\x07\x9b31m\u202e\u2028\r\x7fok"
        self.add(Record(value=hostile.encode(), key=b"\xc2\x9b", headers=[Header(key=hostile)]))
        for format_ in ("lines", "raw", "json", "hex", "length-prefixed"):
            master, slave = os.openpty()
            self.addCleanup(os.close, master)
            self.addCleanup(os.close, slave)
            words = ("consume", "--format", format_, "--output", os.ttyname(slave), *self.target)
            self.assertEqual(self.run_command(*words)[0], 0)
            shown = os.read(master, 65_536).decode().replace("\r\n", "\n")
            self.assertEqual([c for c in shown if not c.isprintable() and c != "\n"], [], format_)
            self.assertIn("6f6b" if format_ == "hex" else "ok", shown)
        _, out, _ = self.run_command("consume", "--output", "out", *self.target)
        self.assertEqual((self.folder / "out").read_bytes(), hostile.encode() + b"\n")
        _, out, _ = self.run_command("consume", "--json", *self.target)
        self.assertTrue(out.rstrip("\n").isprintable(), out)
        self.assertEqual(json.loads(out)["headers"][0]["key"], hostile)

    def test_json_both_ways(self):
        """What consume writes as JSON, produce takes back: values, keys, headers and times."""
        self.add(
            Record(value=b"\xff", key=b"k\xfe", timestamp=5, headers=[Header(key="h", value=b"\xfd")] * 2),
            Record(value="zw\u00f6lf".encode(), key=b"key"),
        )
        first = self.run_command("consume", "--json", "--output", "out", *self.target)
        self.assertEqual(first, (0, "", ""))
        self.produce("--format", "json", "--file", "out")
        found = self.records()
        self.assertEqual(found[2:], found[:2])
        self.assertEqual(self.node.entries[-1].record_count, 2)

    def test_json_by_hand(self):
        """Headers may be an object, fields may be left out, empty lines are skipped."""
        lines = b'{"value": "v", "key": "k", "headers": {"a": "1"}}\n\n{}\n{"value_base64": "/w=="}\n'
        self.produce("--format", "json", stdin=lines)
        self.assertEqual(
            self.records(),
            [
                {"value": "v", "key": "k", "headers": [{"key": "a", "value": "1"}]},
                {"value": ""},
                {"value_base64": "/w=="},
            ],
        )

    def test_key_and_headers(self):
        """--record-key fills in missing keys, --header comes to every record."""
        self.produce(
            "--format", "json", "--record-key", "k", "--header", "a=1=2", "--header", "b=",
            stdin=b'{"value": "v"}\n{"value": "w", "key": "own"}\n',
        )  # fmt: skip
        headers = [{"key": "a", "value": "1=2"}, {"key": "b", "value": ""}]
        self.assertEqual(
            self.records(),
            [
                {"value": "v", "key": "k", "headers": headers},
                {"value": "w", "key": "own", "headers": headers},
            ],
        )
        self.clear()
        self.produce("--value", "v", "--record-key", "k")
        self.assertEqual(self.records(), [{"value": "v", "key": "k"}])

    def test_empty_keys(self):
        """An empty key is told from none, there and back; --record-key fills in what is missing alone."""
        told = b'{"value": "v"}\n{"value": "w", "key": ""}\n'
        self.produce("--format", "json", stdin=told)
        self.assertEqual(self.records(), [{"value": "v"}, {"value": "w", "key": ""}])
        code, out, _ = self.run_command("consume", "--template", "%K:%k", *self.target)
        self.assertEqual((code, out), (0, "-1:\n0:\n"))
        self.clear()
        self.produce("--format", "json", "--record-key", "k", stdin=told)
        self.assertEqual(self.records(), [{"value": "v", "key": "k"}, {"value": "w", "key": ""}])
        self.clear()
        self.produce("--value", "v", "--record-key", "")
        self.assertEqual(self.records(), [{"value": "v", "key": ""}])

    def test_chosen(self):
        """The server chooses by key and headers, and reads backwards; what it leaves out does not count."""
        for number in range(6):
            key, header = "odd" if number % 2 else "even", [Header(key="n", value=b"%d" % (number % 3))]
            self.add(Record(value=b"%d" % number, key=key.encode(), headers=header))
        for options, lines in (
            (("--record-key", "odd"), "1 3 5"),
            (("--record-key", "odd", "--offsets"), "1\t1 3\t3 5\t5"),
            (("--record-key", "odd", "--last", "2"), "3 5"),
            (("--record-key", "odd", "--last", "2", "--until", "5"), "1 3"),
            (("--record-key", "odd", "--last", "0"), ""),
            (("--record-key", "odd", "--count", "2"), "1 3"),
            (("--record-key", "odd", "--count", "0"), ""),
            (("--record-key", "odd", "--from", "2", "--count", "1", "--grep", "5"), "5"),
            (("--record-key", "no"), ""),
            (("--header", "n=0"), "0 3"),
            (("--header", "n=0", "--record-key", "odd"), "3"),
            (("--reverse", "--count", "3"), "5 4 3"),
            (("--reverse", "--last", "2"), "5 4"),
            (("--reverse", "--from", "1", "--until", "4"), "3 2 1"),
            (("--reverse", "--record-key", "odd", "--template", "%o:%k"), "5:odd 3:odd 1:odd"),
            (("--local", "--from", "4"), "4 5"),
        ):
            code, out, err = self.run_command("consume", *options, *self.target)
            self.assertEqual(
                (code, out.split("\n")[:-1], err), (0, lines.split(" ") if lines else [], ""), options
            )

    def test_raw_and_hexadecimal(self):
        """raw writes the bytes alone, hex only digits, with offsets when they are wanted."""
        self.add(Record(value=b"a\n"), Record(value=b"\x00b"))
        self.assertEqual(self.run_command("consume", "--format", "raw", *self.target), (0, "a\n\x00b", ""))
        code, out, _ = self.run_command("consume", "--format", "hex", "--offsets", *self.target)
        self.assertEqual((code, out), (0, "0\t610a\n1\t0062\n"))

    def test_bad_input(self):
        """Input that is not of its format: exit code 2, the place is named; what was before is appended."""
        rows = [
            ("json", b'{"value": "v"}\nnot json\n', "stdin: line 2 is not JSON"),
            ("json", b'{"value": "v"}\n[1]\n', "line 2 is not a JSON object"),
            ("json", b'{"value": "v"}\n{"vlaue": "x"}\n', "line 2 has the field 'vlaue'; allowed: value, "),
            ("json", b'{"value": "v"}\n{"value": 1}\n', "line 2 has a value that is no text, but int"),
            ("json", b'{"value": "v"}\n{"key_base64": "%"}\n', "line 2 has a key_base64 that is no base64"),
            ("json", b'{"value": "v"}\n{"value": "", "value_base64": ""}\n', "both value and value_base64"),
            ("json", b'{"value": "v"}\n{"headers": [1]}\n', "line 2 has headers that are no list"),
            ("json", b'{"value": "v"}\n{"timestamp": -1}\n', "line 2 has a timestamp that is no number"),
            ("length-prefixed", b"\0\0\0\1v\0\0\0\5xy", "stdin ends within the record that begins at byte 5"),
            ("length-prefixed", b"\0\0\0\1v\xff\0\0\0", "the length at byte 5 says 4278190080 bytes"),
        ]
        for format_, stdin, expected in rows:
            self.clear()
            code, out, err = self.run_command("produce", "--format", format_, *self.target, stdin=stdin)
            self.assertEqual((code, out), (2, ""), stdin)
            self.assertIn(expected, err)
            self.assertIn("before it were appended", err)
            self.assertEqual([record["value"] for record in self.records()], ["v"])
        code, _, err = self.run_command(
            "produce", "--format", "files", *self.target, stdin=b"x" * (8 * 1024 * 1024 + 1)
        )
        self.assertEqual(code, 2)
        self.assertIn("stdin has more than 8388608 bytes, too many for one record", err)

    def test_mistakes(self):
        """Options that contradict each other or make no sense: exit code 2, one line, what is allowed."""
        for words, expected in [
            (["produce", "--rate", "0", "--value", "x"], "allowed: records a second, above 0"),
            (["produce", "--rate", "fast", "--value", "x"], "'fast' is no rate"),
            (["produce", "--header", "novalue", "--value", "x"], "allowed: NAME=TEXT"),
            (["produce", "--format", "json", "--value", "x"], "--value and --format json do not go together"),
            (["produce", "--format", "xml"], "invalid choice: 'xml'"),
            (["consume", "--from", "yesterday"], "allowed: an offset, earliest, latest, or a time such as"),
            (["consume", "--json", "--format", "raw"], "--json and --format raw contradict each other"),
            (["consume", "--offsets", "--format", "raw"], "--offsets goes with --format lines or hex"),
            (["consume", "--output", str(self.folder)], "Is a directory"),
            (["consume", "--output", "absent/out"], "--output: absent/out: No such file"),
            (["bench", "produce", "--records", "0"], "allowed: a number from 1"),
            (["bench", "produce", "--size", "9MiB"], "allowed: 0 to 8388608 bytes"),
            (["bench"], "ACTION"),
        ]:
            code, out, err = self.run_command(*words, *(self.target if len(words) > 1 else ()), stdin=b"")
            self.assertEqual((code, out), (2, ""), words)
            self.assertIn(expected, err, words)
            self.assertNotIn("Traceback", err)


class PlaceTests(test_records.RecordsCase):
    """Where reading begins, and which nodes are asked."""

    def setUp(self):
        super().setUp()
        for value in (b"a", b"b", b"c"):
            self.add(Record(value=value))
        self.moments = [entry.timestamp for entry in self.node.entries if entry.record_count]

    def test_times(self):
        """--from takes a time with and without a zone: the first record appended then or later."""
        between = self.moments[0] + 1
        moment = datetime.fromtimestamp(between // 1_000_000, UTC) + timedelta(
            microseconds=between % 1_000_000
        )
        for text in (moment.isoformat(), moment.astimezone().replace(tzinfo=None).isoformat()):
            code, out, err = self.run_command("consume", "--from", text, *self.target)
            self.assertEqual((code, out, err), (0, "b\nc\n", ""), text)
        code, out, _ = self.run_command("consume", "--from", "2100-01-01", *self.target)
        self.assertEqual((code, out), (0, ""), "nothing is that young")
        code, out, _ = self.run_command("consume", "--from", "1970-01-02T00:00:00Z", "-n", "1", *self.target)
        self.assertEqual((code, out), (0, "a\n"))

    def test_several_addresses(self):
        """One of several addresses that answers is enough; the scheme may be written, too."""
        for server in (f"127.0.0.1:1,{self.node.address}", f"loghouse://{self.node.address},127.0.0.1:1"):
            code, out, err = self.run_command("consume", "-n", "1", "--plaintext", "--server", server)
            self.assertEqual((code, out, err), (0, "a\n", ""))

    def test_direct(self):
        """--direct stays with the address given, where the node tells of one that nobody reaches."""
        self.node.show(address="127.0.0.1:1")
        code, out, err = self.run_command("consume", "--direct", *self.target)
        self.assertEqual((code, out, err), (0, "a\nb\nc\n", ""))

    def test_leave_wants_one_address(self):
        """The node that is to leave cannot be one of several."""
        servers = f"{self.node.address},127.0.0.1:1"
        code, _, err = self.run_command("cluster", "leave", "--plaintext", "--server", servers)
        self.assertEqual(code, 2)
        self.assertIn("give one --server: the node that is to leave", err)


class PaceTests(SynchronousTestCase):
    """`paced`, on a clock that only sleeping moves."""

    def pace(self, count, rate, pauses=()):
        now = 0.0

        def sleep(seconds):
            nonlocal now
            now += seconds

        def source():
            nonlocal now
            for number in range(count):
                now += dict(pauses).get(number, 0.0)
                yield NewRecord(b"")

        return [round(now, 6) for _ in paced(source(), rate, clock=lambda: now, sleep=sleep)]

    def test_rate(self):
        """Records come a period apart."""
        self.assertEqual(self.pace(4, 10), [0.0, 0.1, 0.2, 0.3])

    def test_no_burst(self):
        """After a pause of the source, at most a twentieth of a second is made up for."""
        times = self.pace(102, 100, pauses=[(1, 10.0)])
        late = [time for time in times if time <= 10.0 + 1e-9]
        self.assertEqual(len(late), 1 + 6)
        self.assertAlmostEqual(times[-1], 10.0 + (102 - 7) / 100, places=2)


class BenchTests(test_records.RecordsCase):
    """`loghouse bench`."""

    def test_produce_and_consume(self):
        """Both kinds of appending and reading give counts, rates and latencies, as text and as JSON."""
        for words in ([], ["--sync"]):
            code, out, err = self.run_command(
                "bench", "produce", "--records", "50", "--size", "10", "--json", *words, *self.target
            )
            self.assertEqual((code, err), (0, ""))
            result = json.loads(out)
            self.assertEqual((result["records"], result["bytes"]), (50, 500))
            latency = result["latency_seconds"]
            self.assertEqual(list(latency), ["p50", "p90", "p99", "p99.9", "max"])
            self.assertEqual(sorted(latency.values()), list(latency.values()))
            self.assertGreater(latency["p50"], 0)
        code, out, _ = self.run_command("bench", "produce", "--records", "5", *self.target)
        self.assertRegex(out, r"(?s)^appended 5 records \(500 B\) in .* records/s, .*/s\nlatency p50 .* ms")
        code, out, _ = self.run_command("bench", "consume", "--json", *self.target)
        self.assertEqual((code, json.loads(out)["records"]), (0, 105))
        code, out, _ = self.run_command("bench", "consume", "--records", "7", *self.target)
        self.assertRegex(out, r"^read 7 records \(70 B\) in ")

    def test_empty_log(self):
        """Reading an empty log is told, with what to do."""
        code, _, err = self.run_command("bench", "consume", *self.target)
        self.assertEqual(code, 1)
        self.assertIn("the log is empty; `loghouse bench produce` fills it", err)

    def test_percentiles(self):
        """The nearest rank: of a hundred values the 99th percentile is the 99th."""
        values = [float(number) for number in range(1, 101)]
        self.assertEqual([percentile(values, p) for p in (50, 90, 99, 99.9)], [50, 90, 99, 100])
        self.assertEqual(percentile([3.0], 50), 3.0)
