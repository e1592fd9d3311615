"""`loghouse dissect` on the published vectors, on store files whole and damaged, and on nonsense."""

import json
from pathlib import Path

from loghouse.cli import dissect
from loghouse.cli.output import ExitCode, progress_bar
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol import codec
from loghouse.protocol.client_messages import Bounds, FollowFrames, Produce
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.framing import HEADER
from loghouse.protocol.link_messages import Hello, LinkRole, Ping
from tests.cli.support import CommandCase
from tests.cli.test_disk import ENTRIES, DiskCase
from tests.vectors.generate import DIRECTORY
from tests.vectors.messages import CLUSTER, ENTRY


class WireTests(CommandCase):
    """Bytes of the binary protocol."""

    def test_every_vector(self):
        """Every published message is named, and no field of it is a problem."""
        for name in ("wire.json", "wire_raft.json"):
            for vector in json.loads((DIRECTORY / name).read_text()):
                code, out, _ = self.run_command("dissect", "--json", vector["hex"])
                [item] = map(json.loads, out.splitlines())
                self.assertEqual(code, ExitCode.OK, vector["name"])
                self.assertTrue(item["what"].startswith(vector["message"]), item["what"])
                for field, value in vector["fields"].items():
                    if isinstance(value, int):
                        self.assertEqual(item[field], value, f"{vector['name']}: {field}")

    def test_refused_vectors(self):
        """What a receiver must refuse for the frame alone is a problem here; exit code 5."""
        for vector in json.loads((DIRECTORY / "wire_refused.json").read_text()):
            if vector["stage"] == "session" or vector["place"] in ("flags", "entries"):
                continue  # shown, not judged: what came before, and the cluster of the entries, are not known
            code, out, _ = self.run_command("dissect", "--as", "wire", vector["hex"])
            self.assertEqual(code, ExitCode.DAMAGED, vector["name"])
            self.assertIn("problem", out)

    def test_stream_of_frames(self):
        """Several frames from stdin, with spaces and colons, each at its position; a cut one is named."""
        frame = b"".join(codec.encode(Ping(token=7))).hex(":")
        code, out, _ = self.run_command("dissect", "-", stdin=f"{frame}\n {frame} {frame[:30]}".encode())
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertIn("@24 ", out)
        self.assertEqual(out.count("token: 7"), 2)
        self.assertIn("ends after", out)

    def test_file_of_frames(self):
        """A capture is read from a file."""
        Path("capture").write_bytes(b"".join(codec.encode(Ping(token=7))))
        code, out, _ = self.run_command("dissect", "capture")
        self.assertEqual((code, "Ping" in out), (ExitCode.OK, True))

    def test_progress_on_a_terminal(self):
        """What goes into a file is told how far it is, on a terminal that shows nothing else."""
        bars = []

        def bar(*made, **fields):
            bars.append(progress_bar(*made, **fields))
            return bars[-1]

        self.patch(dissect, "progress_bar", bar)
        frame = b"".join(codec.encode(Ping(token=7)))
        Path("capture").write_bytes(3 * frame)
        code, out, err = self.run_command("dissect", "capture", terminal=True)
        self.assertEqual((code, "reading" in err, "reading" in out), (ExitCode.OK, True, False))
        [shown] = bars
        self.assertEqual((shown.total, shown.n), (3 * len(frame), 2 * len(frame)))

    def test_nonsense(self):
        """Neither a file nor hex is a mistake in the command line."""
        code, _, err = self.run_command("dissect", "no such thing")
        self.assertEqual(code, ExitCode.USAGE)
        self.assertIn("neither a file nor hex", err)
        self.assertNotIn("Traceback", err)


class EntryTests(CommandCase):
    """Entry frames in hex."""

    def test_with_and_without_cluster(self):
        """Without the cluster the header is shown unchecked; with it, checked; with a wrong one, refused."""
        frame = ENTRY.frame.hex()
        code, out, _ = self.run_command("dissect", frame)
        self.assertEqual(code, ExitCode.OK)
        self.assertIn("entry 3, term 1, records, offsets 0 to 1", out)
        self.assertIn("not checked", out)
        code, out, _ = self.run_command("dissect", "--cluster", CLUSTER.hex(), frame)
        self.assertEqual((code, "not checked" in out), (ExitCode.OK, False))
        code, out, _ = self.run_command("dissect", "--cluster", "00" * 16, frame)
        self.assertEqual(code, ExitCode.DAMAGED)

    def test_damaged_payload(self):
        """A changed payload is named."""
        code, out, _ = self.run_command("dissect", ENTRY.frame[:-1].hex() + "00")
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertIn("payload checksum", out)


class ShownTests(CommandCase):
    """What is said of each frame, word by word."""

    def wire(self, encoded, kind=None, length=None, flags=0):
        """The bytes of a message, with another kind, length or flags in its header."""
        frame = b"".join(encoded)
        size, own, _, group, stream = HEADER.unpack_from(frame)
        header = HEADER.pack(size if length is None else length, kind or own, flags, group, stream)
        return header + frame[HEADER.size :]

    def shown(self, frame, *options):
        """The exit code, and the lines that are shown."""
        code, out, _ = self.run_command("dissect", frame.hex(), *options)
        return code, out.splitlines()

    def test_message(self):
        """A frame's line has its name, kind, size, group and stream; then come its fields, flags first."""
        ping = codec.encode(Ping(token=7))
        kind = HEADER.unpack_from(b"".join(ping))[1]
        line = f"Ping, kind {kind:#06x}, 8 bytes, group 0, stream 0"
        self.assertEqual(self.shown(self.wire(ping)), (0, [f"@0        {line}", "          token: 7"]))
        lines = [f"@0        {line}", "          flags: 0x0003", "          problem: "]
        code, out = self.shown(self.wire(ping, flags=3))
        self.assertEqual((out[:2], code in (0, ExitCode.DAMAGED)), (lines[:2], True))
        code, out = self.shown(self.wire(ping) * 2)
        self.assertEqual(out[2:], [f"@24       {line}", "          token: 7"])
        code, out = self.shown(b"".join(codec.encode(Bounds(), group=5, stream=6)))
        self.assertEqual((code, out), (0, ["@0        Bounds, kind 0x030b, 0 bytes, group 5, stream 6"]))

    def test_where_it_cannot_be_followed(self):
        """A header or a body that is cut off ends it, and so does one longer than may be."""
        ping = self.wire(codec.encode(Ping(token=7)))
        for frame, problem in (
            (ping[:15], "ends after 15 bytes of its header"),
            (ping[:17], "ends after 1 bytes of its body"),
            (self.wire(codec.encode(Ping(token=7)), length=8193), "at most 8192 bytes are allowed"),
            (self.wire(codec.encode(Ping(token=7)), length=8192), "ends after 8 bytes of its body"),
        ):
            for data in (frame, ping + frame):
                code, out = self.shown(data, "--as", "wire")
                self.assertEqual((code, out[-1]), (ExitCode.DAMAGED, f"          problem: {problem}"))

    def test_unknown(self):
        """A frame of a later version is shown by its bytes: 32 of them, and how many there are."""
        for size, shown in ((32, "61" * 32), (33, f"{'61' * 32}... (33 bytes)")):
            frame = HEADER.pack(size, 0x7E01, 0, 0, 0) + b"a" * size
            self.assertEqual(
                self.shown(frame, "--as", "wire"),
                (
                    0,
                    [
                        f"@0        unknown, kind 0x7e01, {size} bytes, group 0, stream 0",
                        f"          body: {shown}",
                    ],
                ),
            )

    def test_values(self):
        """Bytes are hex, flags and texts are as they are, a role is a number, nothing is None."""
        code, out = self.shown(self.wire(codec.encode(Produce(batch=b"ab", record_count=1, expect_offset=9))))
        self.assertEqual(code, 0)
        fields = dict(line.strip().split(": ", 1) for line in out[1:])
        self.assertEqual(
            [fields[name] for name in ("batch", "record_count", "batch_crc", "expect_offset", "producer_id")],
            ["6162", "1", "None", "9", "0"],
        )
        code, out = self.shown(self.wire(codec.encode(Hello(role=LinkRole.CLIENT))))
        self.assertEqual(code, 0)
        self.assertIn(f"          role: {int(LinkRole.CLIENT)}", out)

    def test_frames_within(self):
        """Entries that a message carries are told one by one, and what is wrong with them."""
        for frames, told in (
            (ENTRY.frame, "'entry 3, term 1, records, offsets 0 to 1, "),
            (ENTRY.frame[:50], "'entry (ends after 50 bytes of its header)'"),
        ):
            message = FollowFrames(frames=frames, next_offset=2)
            code, out = self.shown(self.wire(codec.encode(message)))
            (line,) = [line for line in out if "frames: " in line]
            self.assertEqual(code, 0)
            self.assertIn(f"frames: ['{len(frames)} bytes', {told}", line)

    def entry(self, **fields):
        given = {"index": 3, "term": 1, "kind": EntryKind.RECORDS, "base_offset": 7, "payload": b"\n\x00",
                 "timestamp": 1_700_000_000_000_000, "record_count": 1}  # fmt: skip
        return make_entry(frame_seed(CLUSTER, 1), **{**given, **fields}).frame

    def test_entries(self):
        """An entry's line has index, term, kind, offsets, size and time; then come checksums and producer."""
        for fields, first, more in (
            ({}, "entry 3, term 1, records, offsets 7 to 7, ", []),
            ({"record_count": 4}, "entry 3, term 1, records, offsets 7 to 10, ", []),
            ({"kind": EntryKind.NOOP, "record_count": 0, "payload": b""}, "entry 3, term 1, noop, ", []),
            ({"attributes": 1}, "entry 3, ", ["attributes: 0x0001"]),
            ({"producer_id": 5, "producer_sequence": 6}, "entry 3, ", ["producer: 5, sequence 6"]),
        ):
            frame = self.entry(**fields)
            code, out = self.shown(frame * 2, "--cluster", CLUSTER.hex())
            self.assertEqual((code, out[0][: 10 + len(first)]), (0, f"@0        {first}"))
            self.assertIn(f"{len(frame)} bytes, 2023-11-14", out[0])
            self.assertEqual(out[1].strip(), f"length: {len(frame)}")
            self.assertEqual(
                [line.strip().split(": ")[0] for line in out[2:4]], ["header_crc", "payload_crc"]
            )
            self.assertEqual([line.strip() for line in out[4 : 4 + len(more)]], more)
            self.assertEqual(out[len(out) // 2].split()[0], f"@{len(frame)}")
            self.assertNotIn("not checked", " ".join(out))

    def test_entries_that_are_none(self):
        """What is wrong with an entry is said, and nothing behind it is looked at."""
        frame = self.entry(producer_id=5, attributes=1)
        cluster = ["--as", "entries", "--cluster", CLUSTER.hex()]
        for changed, options, problem in (
            (frame[:63], cluster, "ends after 63 bytes of its header"),
            (frame[:-1], cluster, f"ends after {len(frame) - 1} of {len(frame)} bytes"),
            (frame[:8] + b"\x09" + frame[9:], cluster, f"no entry frame: version 9, length {len(frame)}"),
            (frame[:4] + bytes(4) + frame[8:], cluster, f"no entry frame: version {frame[8]}, length 0"),
            (
                frame,
                [*cluster, "--group", "2"],
                "header checksum does not match (damaged, or of another log)",
            ),
            (frame[:-1] + b"x", cluster, "payload checksum does not match"),
        ):
            code, out = self.shown(changed + (frame if len(changed) >= len(frame) else b""), *options)
            self.assertEqual((code, out[-1]), (ExitCode.DAMAGED, f"          problem: {problem}"))
        head = frame[:9] + b"\x63" + frame[10:]
        _, out = self.shown(head, "--as", "entries")
        self.assertIn("kind 99", out[0])

    def test_input(self):
        """What fits is guessed, what is said counts; more than 64 MiB are refused."""
        ping = self.wire(codec.encode(Ping(token=7)))
        for frame, options, first in (
            (ping, (), "Ping"),
            (ping, ("--as", "entries"), "entry"),
            (ENTRY.frame, (), "entry 3"),
            (ENTRY.frame, ("--as", "wire"), "unknown"),
            (ping[:10], (), "frame"),
            (self.wire(codec.encode(Ping(token=7)), length=8193), (), "entry"),
        ):
            _, out = self.shown(frame, *options)
            self.assertTrue(out[0].split(maxsplit=1)[1].startswith(first), (out, options))
        self.assertEqual(dissect.INPUT_SIZE_MAX, 64 << 20)
        self.patch(dissect, "INPUT_SIZE_MAX", len(ping))
        Path("capture").write_bytes(ping)
        self.assertEqual(self.run_command("dissect", "capture")[0], 0)
        Path("capture").write_bytes(ping + b"x")
        code, _, err = self.run_command("dissect", "capture")
        self.assertEqual(code, ExitCode.USAGE)
        self.assertIn(f"capture: has more than {len(ping)} bytes", err)
        for text in ("0x" + ping.hex(), ping.hex(":"), ping.hex(" ")):
            self.assertEqual(self.run_command("dissect", text)[0], 0)
        code, _, err = self.run_command("dissect", "z" * 50)
        self.assertIn(f"'{'z' * 40}' is neither a file nor hex: ", err)
        for text in ("", "00" * 15, "00" * 17, "x" * 32):
            code, _, err = self.run_command("dissect", "--cluster", text, ping.hex())
            self.assertEqual(code, ExitCode.USAGE)
            self.assertIn(f"{text!r} is not a uuid; allowed: 32 hex digits", err)


class StoreTests(DiskCase):
    """Store files."""

    def store(self):
        return sorted(self.folder.rglob("*.store"))[0]

    def test_whole(self):
        """Header, watermark and entries are shown with their positions."""
        count = 0
        for path in sorted(self.folder.rglob("*.store")):
            code, out, err = self.run_command("dissect", "--json", path)
            self.assertEqual((code, err), (ExitCode.OK, ""))
            items = list(map(json.loads, out.splitlines()))
            self.assertEqual(items[0]["what"], "store header")
            entries = [item for item in items if item["what"].startswith("entry")]
            self.assertEqual(entries[0]["position"], STORE_HEADER_SIZE)
            count += len(entries)
        self.assertEqual(count, ENTRIES)

    def test_damage(self):
        """A flipped bit below the watermark is damage, named with its position."""
        path = self.store()
        data = bytearray(path.read_bytes())
        data[STORE_HEADER_SIZE + 100] ^= 1
        path.write_bytes(data)
        code, out, _ = self.run_command("dissect", path)
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertIn(f"@{STORE_HEADER_SIZE}", out)
        self.assertIn("payload checksum does not match", out)

    def test_damaged_header(self):
        """A damaged store header is named, and nothing behind it is guessed."""
        path = self.store()
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
        code, out, _ = self.run_command("dissect", path)
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertIn("store header checksum", out)

    def test_torn_tail(self):
        """What a crash left behind the watermark is told as torn, and is no damage."""
        path = self.store()
        items = [json.loads(line) for line in self.run_command("dissect", "--json", path)[1].splitlines()]
        last = [item for item in items if item["what"].startswith("entry")][-1]
        with path.open("r+b") as file:
            file.seek(last["position"] + last["length"])
            file.write(ENTRY.frame[:60])
        code, out, _ = self.run_command("dissect", "--json", path)
        shown = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(code, ExitCode.OK)
        self.assertEqual(shown[:-1], items[:-1] if items[-1]["what"].startswith("end") else items)
        self.assertIn("(torn tail)", shown[-1]["what"])
        self.assertNotIn("problem", shown[-1])

    def test_positions(self):
        """The header is at 0, and the end is told where it is; as another form the file is no store."""
        path = self.store()
        items = [json.loads(line) for line in self.run_command("dissect", "--json", path)[1].splitlines()]
        self.assertEqual((items[0]["position"], items[0]["base_index"], items[0]["previous_term"]), (0, 1, 0))
        self.assertTrue(items[1]["what"].startswith("watermark: durable up to entry "))
        code, out, _ = self.run_command("dissect", "--as", "entries", path)
        self.assertEqual((code, "store header" in out), (ExitCode.DAMAGED, False))
