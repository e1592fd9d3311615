"""`loghouse dissect` on the published vectors, on store files whole and damaged, and on nonsense."""

import json
from pathlib import Path

from loghouse.cli.output import ExitCode
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol import codec
from loghouse.protocol.link_messages import Ping
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
