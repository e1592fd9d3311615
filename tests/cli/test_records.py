"""`loghouse produce`, `consume` and `servers` against a node in memory."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from loghouse.api.v1.log_pb2 import Header, Record
from loghouse.cli import consume
from loghouse.errors import OutcomeUnknownError, PermissionDeniedError, UnavailableError
from loghouse.protocol.compression import compress, decompress
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder
from loghouse.protocol.entry import Codec, EntryKind
from loghouse.testing.process import wait_until
from tests.cli.support import NodeCase
from tests.fakes.cursors import carry_out
from tests.fakes.node import BROKEN
from tests.fakes.served import reactor_thread
from tests.processes import in_children

ROOT = Path(__file__).resolve().parent.parent.parent


NOT_PERMITTED = PermissionDeniedError("nobody", "produce", "default")


class RecordsCase(NodeCase):
    """A node to talk to, and commands as processes."""

    def start(self, *arguments):
        """Start the command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "loghouse.cli.main", *arguments, *self.target],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def add_much(self):
        """Append more than a pipe holds."""
        for _ in range(3):
            self.add(*[Record(value=b"x" * 1000)] * 200)

    def assert_quiet_end(self, process):
        """Wait for a command whose reader went away: it ends with 0, and says nothing."""
        code, err = process.wait(timeout=60), process.stderr.read()
        self.assertEqual((code, err), (0, b""))
        process.stdin.close()
        process.stderr.close()


class ProduceTests(RecordsCase):
    """What is appended, and what is said about it."""

    def values(self):
        code, out, err = self.run_command("consume", "--json", *self.target)
        self.assertEqual((code, err), (0, ""))
        return [json.loads(line)["value"] for line in out.splitlines()]

    def test_values(self):
        """Each --value is one record."""
        code, out, _ = self.run_command("produce", "--value", "one", "--value", "zwölf", *self.target)
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^appended 2 records \(9 B\), offsets 0 to 1, in ")
        self.assertEqual(self.values(), ["one", "zwölf"])

    def test_lines_of_stdin(self):
        """Each line is one record, empty ones and a last one without newline included."""
        code, _, err = self.run_command("produce", *self.target, stdin=b"a\n\nb\r\nc")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(self.values(), ["a", "", "b\r", "c"])

    def test_file_in_batches(self):
        """--batch sends checked batches, cut by size, and reports in JSON what got which offsets."""
        lines = [f"line {number}" for number in range(1000)]
        (self.folder / "input").write_text("\n".join(lines) + "\n")
        for codec in ("none", "zstd"):
            self.clear()
            code, out, err = self.run_command(
                "produce", "--file", "input", "--batch", "2KiB", "--codec", codec, "--json", *self.target
            )
            self.assertEqual((code, err), (0, ""))
            result = json.loads(out)
            self.assertEqual(
                (result["records"], result["first_offset"], result["last_offset"]), (1000, 0, 999)
            )
            self.assertEqual(result["bytes"], sum(map(len, lines)))
            self.assertEqual(self.values(), lines)
            for entry in self.node.entries:
                self.assertEqual(entry.attributes, self.codec_of(entry, Codec[codec.upper()]))
            self.assertGreater(len(self.node.entries), 4)
            self.assertTrue(all(len(entry.payload) <= 2048 for entry in self.node.entries))

    def codec_of(self, entry, asked):
        """The codec that a batch has to have: one of few records, of a slow reader, may not shrink."""
        payload = decompress(entry.payload, entry.attributes)
        return asked if len(compress(payload, asked)) < len(payload) else Codec.NONE

    def test_nothing_to_append(self):
        """Empty input appends nothing and says so."""
        code, out, _ = self.run_command("produce", *self.target, stdin=b"")
        self.assertEqual((code, out), (0, "nothing to append\n"))

    def test_line_too_long(self):
        """A line no record can hold is an error that names it; the ones before are appended."""
        code, _, err = self.run_command("produce", *self.target, stdin=b"ok\n" + b"x" * (9 * 1024 * 1024))
        self.assertEqual(code, 2)
        self.assertIn("stdin: line 2 has more than 8388608 bytes", err)
        self.assertEqual(self.values(), ["ok"])

    def test_refused_midway(self):
        """What was acknowledged before a refusal is told, with the offset and the way on."""
        self.node.faults["ProduceBatch"] = [None, None, NOT_PERMITTED]
        values = [word for value in "abcd" for word in ("--value", value)]
        code, out, err = self.run_command("produce", *values, *self.target)
        self.assertEqual((code, out), (1, ""))
        self.assertIn("2 records acknowledged as durable, the last at offset 1\n", err)
        self.assertIn("'nobody' is not permitted to produce 'default'", err)
        self.assertIn("ask for a rule in the node's policy", err)

    def test_batch_refused(self):
        """A refused batch appends nothing, and nothing is claimed."""
        self.node.faults["ProduceBatchStream"] = [NOT_PERMITTED]
        code, out, err = self.run_command("produce", *self.target, stdin=b"a\nb\n")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("not permitted to produce 'default' (ask for a rule", err)
        self.assertEqual(len(err.splitlines()), 1, err)

    def test_outcome_unknown(self):
        """A link that breaks under a --value is an exit code of its own, and says that it may be there."""
        for fault in (OutcomeUnknownError("leader lost"), BROKEN):
            self.node.faults["ProduceBatch"] = [None, fault]
            code, _, err = self.run_command("produce", "--value", "a", "--value", "b", *self.target)
            self.assertEqual(code, 4)
            self.assertIn("1 record acknowledged as durable", err)
            self.assertIn("may or may not have been appended", err)

    def test_not_available(self):
        """A cluster without a leader is tried for the --timeout; then it is certain that nothing is there."""
        for call, words in (("ProduceBatch", ["--value", "x"]), ("RegisterProducer", [])):
            self.node.faults = {call: [UnavailableError("no leader is known")] * 1000}
            code, out, err = self.run_command(
                "produce", "--timeout", "2s", *words, *self.target, stdin=b"x\n"
            )
            self.assertEqual((code, out), (3, ""), err)
            self.assertIn("try again, or another --server", err)
            self.assertEqual(len(err.splitlines()), 1, err)
        self.assertEqual(self.values(), [])

    def test_error_as_json(self):
        """With --json an error is JSON, too, with its reason and details."""
        self.node.faults["ProduceBatch"] = [NOT_PERMITTED]
        code, out, err = self.run_command("produce", "--value", "x", "--json", *self.target)
        self.assertEqual((code, out), (1, ""))
        problem = json.loads(err.splitlines()[-1])
        self.assertEqual(
            (problem["reason"], problem["details"]),
            ("PERMISSION_DENIED", {"subject": "nobody", "action": "produce", "object": "default"}),
        )

    def test_mistakes(self):
        """A wrong command line is exit code 2 and says what is allowed, without a traceback."""
        for arguments, expected in [
            (["--file", "absent"], "--file: absent: No such file"),
            (["--file", str(self.folder)], "Is a directory"),
            (["--batch", "9MiB", "--value", "x"], "out of range; allowed: 1 to 8388608"),
            (["--batch", "much", "--value", "x"], "is not a size"),
            (["--codec", "zstd", "--value", "x"], "--codec is for batches"),
            (["--timeout", "soon", "--value", "x"], "is not a time span"),
        ]:
            code, out, err = self.run_command("produce", *arguments, *self.target)
            self.assertEqual((code, out), (2, ""), arguments)
            self.assertIn(expected, err, arguments)
            self.assertNotIn("Traceback", err)

    @in_children
    def test_interrupt_reports_and_ends(self):
        """Ctrl-C during input says what is durable and exits with 130, without a traceback."""
        process = self.start("produce")
        process.stdin.write(b"first\n")
        process.stdin.flush()
        end = time.monotonic() + 60
        while not self.node.next_offset and time.monotonic() < end:
            time.sleep(0.001)
        self.assertEqual(self.node.next_offset, 1)
        # The answer is on its way to the command; only that it ends well is certain, not that it was counted.
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, err)
        self.assertNotIn(b"Traceback", err)
        self.assertIn(b"may or may not have been appended", err)


class ConsumeTests(RecordsCase):
    """What is read, and where reading ends."""

    def setUp(self):
        super().setUp()
        self.add(Record(value=b"a"), Record(value=b"b"))
        reactor_thread().call(partial(self.cluster.append, b"", 0, kind=EntryKind.NOOP))
        self.add(Record(value=b"c"))

    def test_calls_end_before_the_loop(self):
        """A call that gRPC is still ending hears how it ended before the command's loop closes."""
        ends, tasks = [], []

        async def hear():
            for _ in range(5):  # the news takes a few turns of the loop
                await asyncio.sleep(0)
            ends.append("heard")

        async def run(args, output):
            tasks.append(asyncio.get_running_loop().create_task(hear()))

        self.patch(consume, "_run", run)
        code, _, err = self.run_command("consume", *self.target)
        self.assertEqual((code, err, ends), (0, "", ["heard"]))

    def test_reads_to_the_end(self):
        """Without --follow it ends where the log ended at the start."""
        code, out, err = self.run_command("consume", *self.target)
        self.assertEqual((code, out, err), (0, "a\nb\nc\n", ""))

    def test_range(self):
        """--offset and --count choose records, inside an entry too."""
        for arguments, expected in [
            (["--offset", "1"], "1\tb\n2\tc\n"),
            (["--offset", "1", "--count", "1"], "1\tb\n"),
            (["--offset", "earliest", "-n", "0"], ""),
            (["--offset", "latest"], ""),
            (["--offset", "3"], ""),
            (["--offset", "0", "--count", "99"], "0\ta\n1\tb\n2\tc\n"),
        ]:
            code, out, err = self.run_command("consume", "--offsets", *arguments, *self.target)
            self.assertEqual((code, out, err), (0, expected, ""), arguments)

    def test_out_of_range(self):
        """An offset beyond the end names what is held; --follow would wait for it."""
        code, out, err = self.run_command("consume", "--offset", "9", *self.target)
        self.assertEqual((code, out), (1, ""))
        self.assertIn("offset 9 is out of range; offsets held: 0 to 2", err)

    def test_json(self):
        """Every field of a record is there; bytes that are no text are base64."""
        self.add(
            Record(value=b"\xff", key=b"k", timestamp=5, headers=[Header(key="h", value=b"v")]),
            Record(value=b"text"),
        )
        code, out, _ = self.run_command("consume", "--offset", "3", "--json", *self.target)
        first, second = map(json.loads, out.splitlines())
        self.assertEqual(code, 0)
        self.assertEqual(
            first,
            {
                "offset": 3,
                "timestamp": 5,
                "time": "1970-01-01T00:00:00.000005Z",
                "value_base64": "/w==",
                "key": "k",
                "headers": [{"key": "h", "value": "v"}],
            },
        )
        self.assertEqual((second["value"], second["timestamp"]), ("text", self.node.entries[-1].timestamp))

    def test_damaged_frames(self):
        """A byte that changed on the way is noticed, its record is not printed, and it is exit code 5."""
        self.node.change_frames = lambda frames: frames[:-1] + bytes([frames[-1] ^ 1])
        code, out, err = self.run_command("consume", *self.target)
        self.assertEqual((code, out), (5, "a\nb\n"))
        self.assertIn("checksum", err)

    @in_children
    def test_follow(self):
        """--follow waits for what is appended later; --count ends it."""
        process = self.start("consume", "--offset", "2", "--follow", "--count", "2")
        self.assertEqual(process.stdout.readline(), b"c\n")
        self.add(Record(value=b"later"), Record(value=b"not read"))
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out, err), (0, b"later\n", b""))

    @in_children
    def test_interrupted(self):
        """Ctrl-C ends --follow quietly with 130."""
        process = self.start("consume", "--offset", "2", "--follow")
        self.assertEqual(process.stdout.readline(), b"c\n")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (130, b""))

    @in_children
    def test_closed_pipe(self):
        """A reader that has seen enough ends the command quietly with 0."""
        process = self.start("consume", "--follow", "--count", "100000")
        self.assertEqual(process.stdout.readline(), b"a\n")
        process.stdout.close()
        self.add_much()
        self.assert_quiet_end(process)

    @in_children
    def test_closed_pipe_at_the_tail(self):
        """A follower whose reader went away ends at once, although nothing more is appended."""
        process = self.start("consume", "--follow", "--offset", "2")
        self.assertEqual(process.stdout.readline(), b"c\n")
        process.stdout.close()
        self.assert_quiet_end(process)

    def test_mistakes(self):
        """A wrong number is exit code 2 and says what is allowed."""
        for arguments in (
            ["--offset", "-1"],
            ["--offset", "x"],
            ["--count", "1.5"],
            ["--offset", str(2**64)],
        ):
            code, _, err = self.run_command("consume", *arguments, *self.target)
            self.assertEqual(code, 2, arguments)
            self.assertIn("allowed", err, arguments)


class ServersTests(RecordsCase):
    """The nodes of the cluster."""

    def test_table_and_json(self):
        """Both forms name the cluster, the node and who leads."""
        code, out, _ = self.run_command("servers", *self.target)
        self.assertEqual(code, 0)
        self.assertIn("cluster c1 (000102030405060708090a0b0c0d0e0f)", out)
        self.assertRegex(out, rf"n1 +{self.node.address} +- +voter +leader +alive")
        code, out, _ = self.run_command("servers", "--json", *self.target)
        self.assertEqual(json.loads(out)["servers"][0]["is_leader"], True)

    def test_unreachable(self):
        """No node there: exit code 3, the address, the cause, and what to try."""
        self.run_there(self.node.stop)
        code, out, err = self.run_command("servers", *self.target)
        self.assertEqual((code, out), (3, ""))
        self.assertIn(self.node.address, err)
        self.assertIn("Connection refused", err)
        self.assertIn("is a node running", err)


class ConsumeCursorTests(RecordsCase):
    """`consume --cursor` goes on where it was."""

    def consume(self, *arguments):
        return self.run_command("consume", "--cursor", "billing", *arguments, *self.target)

    def setUp(self):
        super().setUp()
        self.run_command("produce", "--value", "a", "--value", "b", "--value", "c", *self.target)

    def test_goes_on(self):
        """What was written is not written again; the cursor is free afterwards."""
        self.assertEqual(self.consume("--count", "2"), (0, "a\nb\n", ""))
        self.assertEqual(self.consume(), (0, "c\n", ""))
        self.assertEqual(self.consume(), (0, "", ""))
        _, out, _ = self.run_command("cursor", "get", "billing", "--json", *self.target)
        told = json.loads(out)
        self.assertEqual((told["position"], told["lag"], told["holder"]), (3, 0, ""))

    def test_grep(self):
        """Records that are passed over are done, too."""
        self.assertEqual(self.consume("--grep", "b"), (0, "b\n", ""))
        self.assertEqual(self.consume(), (0, "", ""))

    def test_contradictions(self):
        """What does not go with a cursor is refused by name, before anything is asked."""
        for option in (["--last", "2"], ["--reverse"], ["--until", "2"], ["--local"]):
            code, _, err = self.consume(*option)
            self.assertEqual(code, 2)
            self.assertIn(f"--cursor does not go with {option[0]}", err)
        code, _, err = self.run_command("consume", "--wait", *self.target)
        self.assertEqual(code, 2)
        self.assertIn("--wait goes with --cursor", err)

    def order(self, operation, **fields):
        order = CursorOrder(operation=operation, name="billing", subject="root", **fields)
        reactor_thread().call(partial(carry_out, self.cluster, order))

    def position(self):
        return self.cluster.state.cursors.by_name["billing"].position

    def is_free(self):
        return not self.cluster.state.cursors.by_name["billing"].holder

    def test_new_cursor(self):
        """--from says where a cursor begins that is new; one that is there goes on where it stands."""
        self.assertEqual(self.consume("--from", "1", "--count", "1"), (0, "b\n", ""))
        self.assertEqual(self.consume("--from", "0"), (0, "c\n", ""))
        code, out, err = self.run_command("consume", "--cursor", "late", "--from", "9", *self.target)
        self.assertEqual((code, out), (1, ""))
        self.assertIn("offset 9 is out of range", err)
        self.assertEqual(
            self.run_command("consume", "--cursor", "late", "--from", "latest", *self.target), (0, "", "")
        )
        self.assertEqual(self.cluster.state.cursors.by_name["late"].position, 3)

    def test_trimmed(self):
        """Records that were trimmed unwritten are an error, also when nothing else is there."""
        self.order(CursorOperation.SET, position=1)
        for lowest in (2, 3):
            reactor_thread().call(partial(self.cluster.forget, lowest))
            code, out, err = self.consume()
            self.assertEqual((code, out), (1, ""))
            self.assertIn(f"stands at 1, but the log begins at {lowest}", err)
            self.assertIn(f"loghouse cursor set 'billing' --position {lowest}", err)
            self.assertEqual(self.position(), 1)

    def test_held(self):
        """A cursor that is held is exit code 3: it says who has it, for how long, and what to do."""
        self.order(CursorOperation.ACQUIRE, holder="host:7", lease_milliseconds=5000)
        code, out, err = self.consume()
        self.assertEqual((code, out), (3, ""))
        self.assertIn("held by 'host:7', whose lease has 5 s left", err)
        self.assertIn("--wait stands by", err)
        self.assertFalse(self.is_free())

    def test_time_spans(self):
        """--commit-every takes time spans, and says what is allowed."""
        self.assertEqual(self.consume("--commit-every", "500ms", "--count", "1"), (0, "a\n", ""))
        self.assertEqual(self.consume("--commit-every", "0", "--count", "1"), (0, "b\n", ""))
        for text in ("soon", "2h", "-1"):
            code, _, err = self.consume(f"--commit-every={text}")
            self.assertEqual(code, 2)
            self.assertIn("allowed", err)

    def start_here(self, *arguments):
        process = self.start("consume", "--cursor", "billing", "--follow", "--commit-every", "1h", *arguments)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    @in_children
    def test_interrupted(self):
        """Ctrl-C commits what was written, lets others have the cursor at once, and ends quietly with 130."""
        process = self.start_here()
        self.assertEqual([process.stdout.readline() for _ in range(3)], [b"a\n", b"b\n", b"c\n"])
        self.add(Record(value=b"later"))
        self.assertEqual(process.stdout.readline(), b"later\n")
        self.assertEqual((self.position(), self.is_free()), (0, False))  # in an hour
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (130, b""))
        self.assertEqual((self.position(), self.is_free()), (4, True))

    @in_children
    def test_terminated(self):
        """SIGTERM commits what was written and lets the cursor go; then it is the end that was asked for."""
        process = self.start_here()
        self.assertEqual([process.stdout.readline() for _ in range(3)], [b"a\n", b"b\n", b"c\n"])
        self.assertEqual((self.position(), self.is_free()), (0, False))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (-signal.SIGTERM, b""))
        self.assertEqual((self.position(), self.is_free()), (3, True))

    @in_children
    def test_stopped_while_it_stands_by(self):
        """Who stands by ends at once by Ctrl-C and by SIGTERM, and leaves the cursor to its holder."""
        self.order(CursorOperation.ACQUIRE, holder="host:7", lease_milliseconds=5000)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
            process = self.start_here("--wait")
            wait_until(lambda: len(self.cluster.waits.of("billing")) == 1, "somebody who stands by")
            process.send_signal(number)
            self.assertEqual(process.communicate(timeout=60), (b"", b""))
            self.assertEqual(process.returncode, code)
            self.assertEqual(self.cluster.state.cursors.by_name["billing"].holder, "host:7")
            self.cluster.waits.begin()  # who was seen is forgotten

    @in_children
    def test_closed_pipe_in_silence(self):
        """A reader that went away ends it also while no record comes; what it was given is committed."""
        process = self.start_here()
        self.assertEqual([process.stdout.readline() for _ in range(3)], [b"a\n", b"b\n", b"c\n"])
        process.stdout.close()
        self.assert_quiet_end(process)
        self.assertEqual((self.position(), self.is_free()), (3, True))

    @in_children
    def test_closed_pipe(self):
        """A reader that went away ends it with 0: only what it was given is committed."""
        process = self.start_here()
        self.assertEqual([process.stdout.readline() for _ in range(3)], [b"a\n", b"b\n", b"c\n"])
        process.stdout.close()
        self.add_much()
        self.assert_quiet_end(process)
        self.assertTrue(self.is_free())
        self.assertEqual(self.position(), 3)  # what came later was written to nobody

    @in_children
    def test_wait(self):
        """--wait stands by while another one holds the cursor, and goes on where that one stood."""
        self.order(CursorOperation.ACQUIRE, holder="host:7", lease_milliseconds=5000)
        process = self.start_here("--wait", "--count", "1")
        wait_until(lambda: self.cluster.waits.of("billing"), "somebody who stands by")
        self.order(CursorOperation.SET, position=2)  # and its holder is fenced: it is free
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out, err), (0, b"c\n", b""))
        self.assertEqual((self.position(), self.is_free()), (3, True))
