"""`loghouse inspect`, `verify` and `recover` on real directories, whole and damaged."""

import json
import os
import shutil
from pathlib import Path

from loghouse.api.v1.log_pb2 import Record
from loghouse.cli import disk as disk_commands
from loghouse.cli.output import ExitCode, progress_bar
from loghouse.limits import KIB
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.configuration import Configuration, MemberRole, encode_configuration
from loghouse.protocol.entry import DEFAULT_GROUP, Codec, EntryKind, frame_seed, make_entry
from loghouse.storage.files import OsFiles
from loghouse.storage.loss import Loss
from loghouse.storage.verify import VerifyProgress, verify
from tests.cli.support import CommandCase
from tests.storage.entries import open_directory
from tests.vectors.payloads import WHOLE

ENTRIES = 40
RECORD_SIZE = 4000
OTHERS = encode_address_book(
    AddressBook(
        incarnation=1, contacts=(Contact(name="o", disk_uuid=bytes(16), incarnation=1, address="a:1"),)
    )
)


class DiskCase(CommandCase):
    """A data directory `data` with several segments of records."""

    def setUp(self):
        super().setUp()
        directory = self.open()
        log = directory.open_log()
        log.save_hard_state(term=1, vote=1)
        for number in range(ENTRIES):
            payload = encode_batch([Record(value=b"%04d" % number + bytes(RECORD_SIZE)), Record(value=b"x")])
            self.append(log, number, payload)
            log.sync(number)
        log.close()
        directory.close()

    def append(self, log, number, payload, **fields):
        """Append the entry of a number, of two records."""
        entry = make_entry(
            log.seed,
            index=number + 1,
            term=1,
            kind=EntryKind.RECORDS,
            base_offset=2 * number,
            timestamp=1_000_000 * (number + 1),
            payload=payload,
            record_count=2,
            **fields,
        )
        log.append([entry])

    def open(self):
        return open_directory(
            OsFiles(), "data", random_bytes=os.urandom, segment_size=64 * KIB, reserve_size=0
        )

    def stores(self):
        return sorted(Path("data/logs/1").glob("*.store"))

    def flip(self, path, position):
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    def snapshot(self):
        return {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}


class InspectTests(DiskCase):
    """What is in a directory."""

    def test_segments(self):
        """Whose it is, and for each segment its ranges; nothing is changed."""
        before = self.snapshot()
        code, out, err = self.run_command("inspect", "data")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("data: node n of cluster c", out)
        self.assertIn("log 1: begins at entry 1, offset 0; term 1, vote 1", out)
        self.assertEqual(out.count(".store"), len(self.stores()))
        self.assertIn("00000000000000000001.store", out)
        self.assertIn(f"durable up to entry {ENTRIES}", out)
        self.assertEqual(self.snapshot(), before)

    def test_json_and_entries(self):
        """--entries adds one line an entry, in the range asked for."""
        code, out, _ = self.run_command("inspect", "data", "--json", "--entries", "--from", 3, "--to", 5)
        summary, *entries = map(json.loads, out.splitlines())
        self.assertEqual((code, summary["node"]), (0, "n"))
        self.assertEqual(summary["logs"][0]["segments"][-1]["next_offset"], 2 * ENTRIES)
        self.assertEqual([entry["index"] for entry in entries], [3, 4, 5])
        self.assertEqual((entries[0]["base_offset"], entries[0]["kind"]), (4, "records"))
        _, out, _ = self.run_command("inspect", "data", "--entries", "--from", ENTRIES)
        self.assertRegex(
            out, rf"(?m)^entry {ENTRIES}  term 1  records  offsets 78 to 79  \d+ bytes at \d+  1970-"
        )

    def test_progress_on_a_terminal(self):
        """On a terminal stderr shows how far it is, to the end; of entries, too, that go into a file."""
        bars = []

        def bar(*made, **fields):
            bars.append(progress_bar(*made, **fields))
            return bars[-1]

        self.patch(disk_commands, "progress_bar", bar)
        code, out, err = self.run_command("inspect", "data", "--entries", terminal=True)
        self.assertEqual((code, len(bars)), (0, 2))
        reading, writing = bars
        self.assertEqual(reading.total, sum(store.stat().st_size for store in self.stores()))
        self.assertGreater(reading.n, reading.total / 2)
        self.assertLessEqual(reading.n, reading.total)
        self.assertEqual((writing.n, writing.total), (ENTRIES, ENTRIES))
        self.assertIn("reading", err)
        self.assertNotIn("reading:", out)

    def test_damage(self):
        """A damaged header is shown beside what is good, and is exit code 5."""
        self.flip(self.stores()[0], 4096 + 20)
        code, out, _ = self.run_command("inspect", "data")
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertRegex(out, r"DAMAGED: .*00000000000000000001\.store: .*checksum")

    def test_mistakes(self):
        """What is no data directory is one line, without a traceback."""
        Path("file").write_text("x")
        for command in ("inspect", "verify"):
            for path in ("absent", "file", "."):
                code, out, err = self.run_command(command, path)
                self.assertEqual((code, out), (1, ""), (command, path))
                self.assertIn("no data directory", err)
        self.assertEqual(self.run_command("inspect", "data", "--from", "x")[0], 2)


class VerifyTests(DiskCase):
    """Whether everything is as it was written."""

    def test_all_good(self):
        """A whole directory: the totals, exit code 0, nothing changed."""
        before = self.snapshot()
        code, out, err = self.run_command("verify", "data")
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(
            out,
            rf"checked {len(self.stores())} segments, {ENTRIES} entries, {2 * ENTRIES} records, .*: all good",
        )
        self.assertEqual(self.snapshot(), before)

    def test_damage_in_a_payload(self):
        """One bit of a payload is found and located; exit code 5 and the command to go on."""
        victim = self.stores()[1]
        self.flip(victim, 4096 + 64 + 1000)
        code, out, _ = self.run_command("verify", "data")
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertIn(f"DAMAGED: {victim}: at byte 4096: ", out)
        self.assertIn("loghouse recover data --accept-data-loss", out)
        code, out, _ = self.run_command("verify", "data", "--json")
        result = json.loads(out)
        self.assertEqual((code, result["is_damaged"]), (5, True))
        self.assertEqual(result["findings"][0]["file"], str(victim))

    def test_mendable_things_are_notes(self):
        """A missing index is told, and is no damage."""
        index = self.stores()[0].with_suffix(".index")
        index.unlink()
        code, out, _ = self.run_command("verify", "data")
        self.assertEqual(code, 0)
        self.assertRegex(out, rf"note: {index}: at byte 0: ")

    def test_batches_that_some_cannot_read(self):
        """A packed batch that only lenient readers read is found where it is; no data loss is advised."""
        directory = self.open()
        log = directory.open_log()
        for number, payload in enumerate((WHOLE, WHOLE + WHOLE[:9], WHOLE)):
            self.append(log, ENTRIES + number, payload, attributes=Codec.ZSTD)
            log.sync(ENTRIES + number + 1)
        log.close()
        directory.close()
        code, out, _ = self.run_command("verify", "data")
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertEqual(out.count("UNREADABLE: "), 1)
        self.assertRegex(out, rf"UNREADABLE: .*: entry {ENTRIES + 2} is as it was written, but .* 9 bytes")
        self.assertNotIn("recover", out)
        self.assertNotIn("all good", out)
        result = json.loads(self.run_command("verify", "data", "--json")[1])
        self.assertEqual((result["is_damaged"], result["is_unreadable"]), (False, True))

    def test_progress_on_a_terminal(self):
        """On a terminal stderr shows how far it is; stdout stays clean."""
        code, out, err = self.run_command("verify", "data", terminal=True)
        self.assertEqual(code, 0)
        self.assertIn("checking", err)
        self.assertNotIn("checking:", out)

    def test_progress_of_several_logs(self):
        """How far it is, is of all logs together."""
        for group in ("7", "19"):
            shutil.copytree("data/logs/1", f"data/logs/{group}")
        steps = [step for step in verify(OsFiles(), "data") if isinstance(step, VerifyProgress)]
        size = sum(path.stat().st_size for path in Path("data/logs").glob("*/*.store"))
        self.assertEqual({step.total_size for step in steps}, {size})
        done = [step.done_size for step in steps]
        self.assertEqual(done, sorted(done))
        self.assertGreater(done[-1], size * 2 / 3)


class RecoverTests(DiskCase):
    """Cutting at the damage."""

    def test_progress_on_a_terminal(self):
        """On a terminal stderr shows how far it is; stdout stays clean."""
        self.flip(self.stores()[1], 4096 + 64 + 1000)
        code, out, err = self.run_command("recover", "data", "--accept-data-loss", terminal=True)
        self.assertEqual(code, 0)
        self.assertIn("reading", err)
        self.assertNotIn("reading:", out)

    def test_needs_consent(self):
        """Without the flag it explains and changes nothing."""
        self.flip(self.stores()[1], 4096 + 64 + 1000)
        before = self.snapshot()
        code, out, err = self.run_command("recover", "data")
        self.assertEqual((code, out), (2, ""))
        self.assertIn("--accept-data-loss", err)
        self.assertEqual(self.snapshot(), before)

    def test_cuts_and_opens_again(self):
        """The log ends before the damage, what was cut is kept, and verify is happy."""
        victim = self.stores()[1]
        self.flip(victim, 4096 + 64 + 1000)
        last_good = int(victim.stem) - 1
        code, out, err = self.run_command("recover", "data", "--accept-data-loss")
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"ends at entry {last_good}; the next record gets offset {2 * last_good}", out)
        self.assertTrue(list(Path("data/logs/1/lost+found").iterdir()))
        self.assertEqual(self.run_command("verify", "data")[0], 0)
        directory = self.open()
        log = directory.open_log()
        self.assertEqual((log.last_index, log.next_offset), (last_good, 2 * last_good))
        log.close()
        directory.close()

    def test_nothing_to_do(self):
        """A good log is left as it is, and says so."""
        code, out, _ = self.run_command("recover", "data", "--accept-data-loss")
        self.assertEqual(code, 0)
        self.assertIn("nothing to do", out)
        self.assertIn("no acknowledged entries are known to be lost", out)
        code, out, _ = self.run_command("recover", "data", "--accept-data-loss", "--json")
        self.assertEqual(json.loads(out)["logs"][0]["last_index"], ENTRIES)

    def test_refuses_what_runs_or_is_not_there(self):
        """A directory in use is refused, and one that is not there is not made."""
        directory = self.open()
        try:
            code, _, err = self.run_command("recover", "data", "--accept-data-loss")
        finally:
            directory.close()
        self.assertEqual(code, 1)
        self.assertIn("in use by another process", err)
        self.assertEqual(self.run_command("recover", "absent", "--accept-data-loss")[0], 1)
        self.assertFalse(Path("absent").exists())


class NewClusterTests(DiskCase):
    """A survivor's log as a cluster of its own."""

    FLAGS = ("--new-cluster", "--accept-data-loss")

    def setUp(self):
        super().setUp()
        directory = self.open()
        log = directory.open_log()
        self.old_uuid = directory.identity.cluster_uuid
        configuration = Configuration()
        for name, disk in (("n", directory.identity.disk_uuid), ("gone-1", bytes(16)), ("gone-2", bytes(16))):
            configuration = configuration.with_member(name, disk, MemberRole.VOTER)
        entry = make_entry(
            log.seed,
            index=ENTRIES + 1,
            term=1,
            kind=EntryKind.CONFIGURATION,
            base_offset=log.next_offset,
            timestamp=1_000_000 * ENTRIES,
            payload=encode_configuration(configuration),
        )
        log.append([entry])
        log.sync(ENTRIES)
        log.close()
        directory.close()

    def test_needs_consent(self):
        """Without both flags it says what would be lost, and when not to do it; nothing is changed."""
        before = self.snapshot()
        code, out, err = self.run_command("recover", "data", "--new-cluster")
        self.assertEqual((code, out), (2, ""))
        for words in ("--accept-data-loss", "is lost", "only voter", "Stop every other node", "start them"):
            self.assertIn(words, err)
        self.assertEqual(self.snapshot(), before)

    def test_new_cluster(self):
        """Another uuid, the same records, and where the old log is; twice is a cluster of its own again."""
        code, out, err = self.run_command("recover", "data", *self.FLAGS)
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"ends at entry {ENTRIES + 2}; the next record gets offset {2 * ENTRIES}", out)
        self.assertIn(f"data/logs.{self.old_uuid.hex()[:8]}", out)
        self.assertEqual(self.run_command("verify", "data")[0], 0)
        code, out, _ = self.run_command("recover", "data", *self.FLAGS, "--json")
        made = json.loads(out)
        self.assertEqual((code, made["last_index"], made["next_offset"]), (0, ENTRIES + 3, 2 * ENTRIES))
        directory = self.open()
        self.assertEqual(directory.identity.cluster_uuid.hex(), made["cluster_uuid"])
        directory.close()

    def test_progress_on_a_terminal(self):
        """On a terminal stderr shows how far it is."""
        _, _, err = self.run_command("recover", "data", *self.FLAGS, terminal=True)
        self.assertIn("rewriting", err)

    def test_damage_first(self):
        """A damaged log is cut first, in a step of its own."""
        self.flip(self.stores()[1], 4096 + 64 + 1000)
        code, _, err = self.run_command("recover", "data", *self.FLAGS)
        self.assertEqual(code, ExitCode.DAMAGED)
        self.assertIn("loghouse recover data --accept-data-loss", err)

    def test_member_remembers(self):
        """Cutting a member's log keeps what it held, so that it votes for nobody who has less."""
        self.flip(self.stores()[1], 4096 + 64 + 1000)
        Path("data/members").write_bytes(OTHERS)
        code, out, _ = self.run_command("recover", "data", "--accept-data-loss")
        self.assertEqual(code, 0)
        self.assertIn("gets what was cut from the others", out)
        loss = Loss.decode(Path("data/logs/1/damage").read_bytes(), frame_seed(self.old_uuid, DEFAULT_GROUP))
        self.assertEqual(loss, Loss(ENTRIES + 1, 1, is_cut=True))
        code, out, _ = self.run_command("recover", "data", *self.FLAGS)
        self.assertEqual(code, 0, "and a damaged survivor can go on alone")
        self.assertIn(f"it once went to entry {ENTRIES + 1}", out)
        self.assertFalse(Path("data/logs/1/damage").exists())

    def test_member_without_its_vote(self):
        """A member that lost term and vote, too, is cut as a lone node is, and told to join anew."""
        Path("data/members").write_bytes(OTHERS)
        Path("data/logs/1/hard_state").unlink()
        code, out, _ = self.run_command("recover", "data", "--accept-data-loss")
        self.assertEqual(code, 0)
        self.assertIn("rejoin with an empty disk", out)

    def test_interrupted(self):
        """After an interruption nothing else may touch the log; the same command finishes."""
        node = Path("data/node").read_bytes()
        self.run_command("recover", "data", *self.FLAGS)
        new = Path("data/node").read_bytes()
        Path("data/node").write_bytes(node)  # as before the last step
        Path("data/node.new").write_bytes(new)
        code, _, err = self.run_command("recover", "data", "--accept-data-loss")
        self.assertEqual(code, 1)
        self.assertIn("run it again", err)
        code, out, _ = self.run_command("recover", "data", *self.FLAGS)
        self.assertEqual(code, 0)
        self.assertIn("is finished now", out)
        self.assertEqual(Path("data/node").read_bytes(), new)
        self.assertEqual(self.run_command("verify", "data")[0], 0)

    def test_refuses_what_runs_or_is_not_there(self):
        """A directory in use is refused, and one that is not there is not made."""
        directory = self.open()
        code, _, err = self.run_command("recover", "data", *self.FLAGS)
        directory.close()
        self.assertEqual(code, 1)
        self.assertIn("in use by another process", err)
        self.assertEqual(self.run_command("recover", "absent", *self.FLAGS)[0], 1)
        self.assertFalse(Path("absent").exists())
