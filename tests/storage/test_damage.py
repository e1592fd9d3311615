"""Flipped bits, cut files, missing and foreign files: wrong bytes are never served.

LOGHOUSE_BIT_FLIPS is the share of bits tried in the larger sweep: 1 tries every one.
"""

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.protocol.entry import crc32c, decode_entries, frame_seed, make_entry
from loghouse.storage.inspect import dump, inspect
from loghouse.storage.log import Log
from loghouse.storage.repair import accept_data_loss
from loghouse.storage.start import FLAG_BEHIND_STORE, STATE_MAGIC, encode_state_file
from loghouse.storage.verify import Checked, Finding, VerifyProgress, verify
from loghouse.testing.disk import SimDisk
from tests.processes import long
from tests.storage.entries import Writer, frames_of, open_directory

SHARE = float(os.environ.get("LOGHOUSE_BIT_FLIPS", "0.015"))
DIRECTORY = "/data/logs/1"
STORE = f"{DIRECTORY}/{1:020d}.store"


class DamageCase(SynchronousTestCase):
    """A data directory with a log of some small segments."""

    def make(self, count, *, unsynced=0, segment_size=4096 + 1024):
        self.segment_size = segment_size
        self.disk = SimDisk()
        directory = self.boot()
        log = directory.open_log()
        self.cluster, self.seed = directory.identity.cluster_uuid, log.seed
        log.save_hard_state(term=1, vote=1)
        writer = Writer(seed=log.seed)
        self.entries = [writer.records(1 + i % 3, 40 + i % 50) for i in range(count)]
        for entry in self.entries:
            log.append([entry])
            log.sync(entry.index)
        tail = [writer.records(1, 60) for _ in range(unsynced)]
        log.append(tail)
        self.synced = count
        self.entries += tail
        self.disk.stop_process()
        self.image = self.disk.contents()
        return log

    def boot(self):
        return open_directory(self.disk, segment_size=self.segment_size, reserve_size=512)

    def restore(self):
        self.disk.stop_process()
        for path in set(self.disk.contents()) - set(self.image):
            self.disk.unlink(path)
        for path, content in self.image.items():
            if not self.disk.exists(path) or self.disk.content(path) != content:
                self.disk.replace(path, content)

    def outcome(self):
        """Open and read everything: "refused", "damage on read", "torn", or "same"; fails on wrong data."""
        before = self.disk.contents()
        directory = None
        try:
            directory = self.boot()
            log = directory.open_log()
        except (DamageError, DataDirectoryError) as error:
            self.assertIn(": ", str(error))
            after = self.disk.contents()
            self.assertEqual({**before, "/data/lock": b""}, {**after, "/data/lock": b""})
            return "refused"
        frames = b"".join(entry.frame for entry in self.entries)
        offset, found = log.first_offset, b""
        try:
            while True:
                chunk, offset = log.read(offset, 300, 10**9)
                if not chunk:
                    break
                found += chunk
                self.assertTrue(frames.startswith(found))
        except DamageError:
            return "damage on read"
        if log.last_index == len(self.entries):
            self.assertEqual(found, frames)
            return "same"
        self.assertGreaterEqual(log.last_index, self.synced)
        return "torn" if log.warnings else "shorter"


class BitFlipTests(DamageCase):
    """One wrong bit anywhere."""

    def sweep(self, path, bits):
        outcomes = {}
        for bit in bits:
            self.disk.flip(path, bit)
            outcome = self.outcome()
            outcomes.setdefault(outcome, []).append(bit)
            self.restore()
        return {outcome: len(bits) for outcome, bits in outcomes.items()}

    def test_every_bit_of_an_acknowledged_segment(self):
        """Each bit of a segment whose entries are all acknowledged: the same data, or refused."""
        self.make(2)
        end = 4096 + sum(entry.size for entry in self.entries)
        frames = self.sweep(STORE, range(4096 * 8, end * 8))
        self.assertEqual(frames, {"refused": (end - 4096) * 8})
        header = self.sweep(STORE, range(60 * 8))
        self.assertEqual(header, {"refused": 480})
        slots = self.sweep(STORE, [*range(1024 * 8, 1068 * 8), *range(2048 * 8, 2092 * 8)])
        self.assertEqual(slots, {"same": 2 * 44 * 8})

    def test_every_bit_of_an_unacknowledged_tail(self):
        """Each bit behind the watermark: the tail is cut there, kept aside, with one warning."""
        self.make(1, unsynced=1)
        start = 4096 + self.entries[0].size
        found = self.sweep(STORE, range(start * 8, (start + self.entries[1].size) * 8))
        self.assertEqual(found, {"torn": self.entries[1].size * 8})

    def test_bits_of_the_small_files(self):
        """Each bit of start, state, hard state and index: the same data, or refused."""
        self.make(2)
        for name, size, allowed in (
            ("start", 0, {"refused"}),
            ("hard_state", 32, {"same"}),
            (f"{1:020d}.state", 0, {"same"}),
            (f"{1:020d}.index", 24, {"same"}),
        ):
            path = f"{DIRECTORY}/{name}"
            found = self.sweep(path, range(0, (size or len(self.image[path])) * 8, 3))
            self.assertEqual(set(found), allowed, name)
        found = self.sweep("/data/node", range(len(self.image["/data/node"]) * 8))
        self.assertEqual(set(found), {"refused"})

    @long
    def test_bits_of_several_segments(self):
        """Bits of sealed and active segments and of all their files: never a wrong byte."""
        self.make(30)
        rng, found = random.Random(3), {}
        for path in sorted(self.image):
            if path.endswith(("reserve", "lock")):
                continue
            used = len(self.image[path].rstrip(b"\0")) * 8
            for outcome, count in self.sweep(path, rng.sample(range(used), int(used * SHARE))).items():
                found[outcome] = found.get(outcome, 0) + count
        self.assertEqual(set(found), {"same", "refused", "damage on read"})


class TornTailTests(DamageCase):
    """What a torn tail leaves behind."""

    def test_whole_frames_behind_a_torn_one_never_come_back(self):
        """After a new entry fills the torn one's place exactly, the old frame behind it stays gone."""
        self.make(1, unsynced=2)
        torn = self.entries[1]
        self.disk.flip(STORE, (4096 + self.entries[0].size + 70) * 8)
        directory = self.boot()
        log = directory.open_log()
        self.assertEqual(log.last_index, 1)
        writer = Writer(log.state, seed=self.seed)
        entry = writer.records(1, len(torn.payload))
        self.assertEqual((entry.size, entry.index), (torn.size, torn.index))
        log.append([entry])
        log.close()
        directory.close()
        self.assertEqual(self.boot().open_log().last_index, 2)


class TruncationTests(DamageCase):
    """Files that end too early, or not where they should."""

    def test_every_truncation(self):
        """A store cut at any byte: refused before the watermark, a torn tail behind it."""
        self.make(2, unsynced=2)
        durable = 4096 + sum(entry.size for entry in self.entries[:2])
        end = 4096 + sum(entry.size for entry in self.entries)
        for size in [0, 1, 59, 1023, 1080, 4095, *range(4096, end + 10)]:
            self.disk.replace(STORE, self.image[STORE][:size])
            outcome = self.outcome()
            if size < durable:
                expected = "refused"
            elif size >= end:
                expected = "same"
            else:
                expected = "shorter" if size in (durable, end - self.entries[-1].size) else "torn"
            self.assertEqual(outcome, expected, size)
            self.restore()

    def test_truncation_between_frames_is_no_torn_frame(self):
        """A store that ends between two unacknowledged frames has a whole log, only a shorter one."""
        self.make(2, unsynced=2)
        size = 4096 + sum(entry.size for entry in self.entries[:3])
        self.disk.replace(STORE, self.image[STORE][:size])
        log = self.boot().open_log()
        self.assertEqual((log.last_index, log.warnings), (3, ()))

    def test_zero_tail(self):
        """Zeroes behind the last entry are the end, however many there are or are missing."""
        self.make(3)
        end = 4096 + sum(entry.size for entry in self.entries)
        for size in (end, end + 1, end + 63, end + 64, end + 4096):
            self.disk.replace(STORE, self.image[STORE][:end].ljust(size, b"\0"))
            self.assertEqual(self.outcome(), "same", size)
            self.restore()

    def test_sealed_store_cut(self):
        """A sealed store that is shorter than its entries is refused or found on reading, never skipped."""
        self.make(30)
        for size in range(0, 5000, 97):
            self.disk.replace(STORE, self.image[STORE][:size])
            self.assertEqual(self.outcome(), "refused", size)
            self.restore()


class FileTests(DamageCase):
    """Files that are gone, or belong elsewhere."""

    def refused_with(self, *parts):
        before = self.disk.contents()
        with self.assertRaises((DamageError, DataDirectoryError)) as caught:
            self.boot().open_log()
        for part in parts:
            self.assertIn(part, str(caught.exception))
        self.assertEqual(self.disk.contents(), before)
        return caught.exception

    def bases(self):
        return sorted(int(p[-26:-6]) for p in self.image if p.endswith(".store"))

    def test_missing_files(self):
        """With `node` there, a missing store, start or hard state is damage, never a new disk."""
        self.make(30)
        bases = self.bases()
        self.assertGreater(len(bases), 3)
        for name in ("start", "hard_state", f"{1:020d}.store", f"{bases[1]:020d}.store"):
            self.disk.unlink(f"{DIRECTORY}/{name}")
            self.refused_with("loghouse recover /data --accept-data-loss")
            self.restore()
        for base in bases:
            self.disk.unlink(f"{DIRECTORY}/{base:020d}.store")
        self.refused_with("the file is gone")

    def test_error_tells_what_was_there(self):
        """The refusal names the file, the byte, and the last entry that was acknowledged."""
        self.make(3)
        self.disk.flip(STORE, 4150 * 8)
        error = self.refused_with(STORE, "4096")
        self.assertEqual((error.file, error.position, error.last_index, error.last_term), (STORE, 4096, 3, 1))

    def test_segment_of_another_cluster(self):
        """A store swapped in from another cluster or another log is refused by name."""
        self.make(30)
        for cluster, group, word in ((bytes(16), 1, "another cluster"), (self.cluster, 2, "another log")):
            for path in ("/x", "/x/logs", f"/x/logs/{group}"):
                if not self.disk.exists(path):
                    self.disk.make_directory(path)
            Log.create(self.disk, f"/x/logs/{group}", cluster=cluster, group=group)
            log = Log.open(
                self.disk, f"/x/logs/{group}", cluster=cluster, group=group, segment_size=5120, reserve_size=0
            )
            writer = Writer(seed=frame_seed(cluster, group))
            log.append([writer.records(1, 40) for _ in range(8)])
            log.close()
            self.disk.replace(STORE, self.disk.content(f"/x/logs/{group}/{1:020d}.store"))
            self.disk.stop_process()
            self.refused_with(word)
            self.disk.replace(STORE, self.image[STORE])
            self.disk.crash(random.Random(1), keep=1.0)

    def test_segment_under_another_name(self):
        """A store that was copied over another is refused."""
        self.make(30)
        self.disk.replace(STORE, self.image[f"{DIRECTORY}/{self.bases()[1]:020d}.store"])
        self.refused_with("its name says 1")

    def test_index_is_a_cache(self):
        """An index that is missing, short, zeroed, or wrong anywhere changes nothing that is read."""
        self.make(40)
        for base in self.bases():
            path = f"{DIRECTORY}/{base:020d}.index"
            right = self.image[path]
            wrongs = [
                None,
                b"",
                right[:7],
                right[:24],
                bytes(len(right)),
                right[:12].ljust(len(right), b"\0"),
            ]
            wrongs += [b"\xff" * len(right), right[12:] + bytes(12), right[:24] + right[12:24] + right[36:]]
            for wrong in wrongs:
                if wrong is None:
                    self.disk.unlink(path)
                else:
                    self.disk.replace(path, wrong)
                self.assertEqual(self.outcome(), "same", (base, wrong))
                self.restore()

    def test_state_is_folded_when_its_file_is_lost(self):
        """Without state files the state is computed from the log's start."""
        self.make(30)
        for path in self.image:
            if path.endswith(".state"):
                self.disk.unlink(path)
        log = self.boot().open_log()
        self.assertEqual(log.state.index, 30)
        self.assertEqual(log.state_at(17).next_offset, self.entries[16].next_offset)
        log.truncate_suffix(3)
        self.assertEqual(log.next_offset, self.entries[2].next_offset)

    def test_crash_in_creation(self):
        """A last store without a valid header and without entries is removed."""
        self.make(30)
        path = f"{DIRECTORY}/{31:020d}.store"
        for content in (b"", bytes(5120), b"LOGHOUSE" + bytes(5112)):
            self.disk.replace(path, content)
            self.assertEqual(self.outcome(), "same")
            self.assertFalse(self.disk.exists(path))
            self.restore()
        self.disk.replace(path, bytes(5119) + b"x")
        self.refused_with(path)

    def test_crash_in_creation_of_an_older_version(self):
        """Versions before made a segment's state and index first: without entries they prove nothing."""
        log = self.make(30)
        state, index = (f"{DIRECTORY}/{31:020d}{suffix}" for suffix in (".state", ".index"))
        unmarked = encode_state_file(STATE_MAGIC, self.seed, log.state)
        for with_index in (False, True):
            self.disk.replace(state, unmarked)
            if with_index:
                self.disk.replace(index, bytes(640))
            self.assertEqual(self.outcome(), "same")
            self.assertFalse(self.disk.exists(state) or self.disk.exists(index))
            self.restore()
        self.disk.replace(state, encode_state_file(STATE_MAGIC, self.seed, log.state, FLAG_BEHIND_STORE))
        self.refused_with(f"{31:020d}.store", "is gone", f"{31:020d}.state proves")

    def test_other_names_are_left_alone(self):
        """Files that are not ours stay, whatever they are."""
        self.make(3)
        for name in ("README", "12.store", f"{1:020d}.bak"):
            self.disk.replace(f"{DIRECTORY}/{name}", b"mine")
        self.assertEqual(self.outcome(), "same")
        self.assertEqual(self.disk.content(f"{DIRECTORY}/README"), b"mine")

    def test_newer_kind(self):
        """A whole entry of a kind from the future is refused, not cut, even behind the watermark."""
        self.make(1)
        frame = make_entry(
            self.seed, index=2, term=1, kind=99, base_offset=1, timestamp=10**6, payload=b"?"
        ).frame
        content = bytearray(self.image[STORE])
        at = 4096 + self.entries[0].size
        content[at : at + len(frame)] = frame
        self.disk.replace(STORE, bytes(content))
        self.refused_with("kind 99", "newer")

    def test_newer_files(self):
        """Files of a newer format are refused by name; verify and recover do not take them for damage."""
        self.make(3)
        start = f"{DIRECTORY}/start"
        for path, header_size, crc_seed in ((STORE, 56, 0), (start, len(self.image[start]) - 4, self.seed)):
            content = self.image[path]
            fields = content[:8] + b"\0\2" + content[10:header_size]
            crc = crc32c(fields, crc_seed).to_bytes(4, "big")
            self.disk.replace(path, fields + crc + content[header_size + 4 :])
            self.refused_with(f"{path}: format 2", "newer")
            for work in (
                lambda: list(verify(self.disk, "/data")),
                lambda: accept_data_loss(self.disk, DIRECTORY, cluster=self.cluster, group=1),
            ):
                before = self.disk.contents()
                error = self.assertRaises(DataDirectoryError, work)
                self.assertIn(f"{path}: format 2", str(error))
                self.assertEqual(self.disk.contents(), before)
            self.restore()


class ToolTests(DamageCase):
    """Verify, inspect and recover."""

    def verified(self):
        before = self.disk.contents()
        steps = list(verify(self.disk, "/data"))
        self.assertEqual(self.disk.contents(), before)
        self.assertIsInstance(steps[-1], Checked)
        return steps

    def findings(self):
        return [step for step in self.verified() if isinstance(step, Finding)]

    def test_verify_clean(self):
        """A good directory has no findings, and everything in it was counted."""
        self.make(30)
        steps = self.verified()
        self.assertEqual([s for s in steps if isinstance(s, Finding)], [])
        self.assertEqual((steps[-1].entries, steps[-1].records), (30, self.entries[-1].next_offset))
        progress = [s for s in steps if isinstance(s, VerifyProgress)]
        self.assertEqual(progress[-1].total_size, sum(len(c) for p, c in self.image.items() if "store" in p))

    def test_verify_finds_each_kind_of_damage(self):
        """Each damaged file is named with the byte; what the next start mends is told apart."""
        self.make(30, unsynced=1)
        self.disk.flip(STORE, (4096 + 70) * 8)
        self.assertEqual([(f.file, f.position, f.is_damage) for f in self.findings()], [(STORE, 4096, True)])
        self.restore()
        for name, is_damage in (
            ("start", True),
            ("hard_state", True),
            (f"{1:020d}.index", False),
            (f"{1:020d}.state", False),
            (f"{1:020d}.store", True),
        ):
            self.disk.replace(f"{DIRECTORY}/{name}", b"rubbish")
            found = self.findings()
            self.assertIn((f"{DIRECTORY}/{name}", is_damage), [(f.file, f.is_damage) for f in found])
            self.restore()
        self.disk.replace(f"{DIRECTORY}/x.tmp", b"")
        self.assertEqual([(f.file, f.is_damage) for f in self.findings()], [(f"{DIRECTORY}/x.tmp", False)])

    def test_verify_torn_tail(self):
        """A torn tail is told, as something that the next start cuts."""
        self.make(2, unsynced=1)
        self.disk.flip(STORE, (4096 + sum(e.size for e in self.entries[:2]) + 70) * 8)
        self.assertEqual([f.is_damage for f in self.findings()], [False])

    def test_verify_goes_on_behind_a_damaged_payload(self):
        """Two damaged payloads in one store are both found."""
        self.make(3)
        second = 4096 + self.entries[0].size
        self.disk.flip(STORE, (4096 + 70) * 8)
        self.disk.flip(STORE, (second + 70) * 8)
        self.assertEqual([f.position for f in self.findings()], [4096, second])

    def test_verify_needs_a_directory(self):
        """What is no data directory is refused."""
        with self.assertRaises(DataDirectoryError):
            list(verify(SimDisk(), "/data"))

    def test_inspect(self):
        """Segments with their ranges and sizes, and the entries of a range, come out as they are."""
        self.make(30)
        summary = inspect(self.disk, "/data")
        (log,) = summary.logs
        self.assertEqual(log.hard_state.term, 1)
        self.assertEqual(log.segments[-1].last_index, 30)
        self.assertEqual([s.problem for s in log.segments], [""] * len(log.segments))
        self.assertEqual(log.segments[0].first_timestamp, self.entries[0].timestamp)
        self.assertEqual(log.segments[-1].last_timestamp, self.entries[-1].timestamp)
        for before, after in zip(log.segments, log.segments[1:], strict=False):
            self.assertEqual(
                (before.last_index + 1, before.next_offset), (after.base_index, after.base_offset)
            )
        dumped = [entry.frame for _, _, entry in dump(self.disk, summary, log, low=7, high=22)]
        self.assertEqual(dumped, [entry.frame for entry in self.entries[6:21]])

    def test_inspect_damaged(self):
        """A damaged directory can still be looked into."""
        self.make(30)
        self.disk.replace(f"{DIRECTORY}/start", b"x")
        self.disk.replace(f"{DIRECTORY}/hard_state", b"x")
        self.disk.replace(STORE, b"x")
        (log,) = inspect(self.disk, "/data").logs
        self.assertEqual(len(log.problems), 2)
        self.assertNotEqual(log.segments[0].problem, "")
        self.restore()
        self.disk.flip(STORE, (4096 + 70) * 8)
        summary = inspect(self.disk, "/data")
        with self.assertRaises(DamageError):
            list(dump(self.disk, summary, summary.logs[0], low=1, high=5))

    def recovered(self, last_index):
        before = self.disk.contents()
        repair = accept_data_loss(self.disk, DIRECTORY, cluster=self.cluster, group=1)
        self.assertEqual(repair.last_index, last_index)
        self.disk.crash(random.Random(1), keep=0.0)
        log = self.boot().open_log()
        self.assertEqual(log.last_index, last_index)
        self.assertEqual(frames_of(log), [entry.frame for entry in self.entries[:last_index]])
        kept = b"".join(c for p, c in self.disk.contents().items() if "lost+found" in p)
        writer = Writer(log.state, seed=self.seed)
        log.append([writer.records(2, 50) for _ in range(20)])
        log.close()
        self.assertEqual(self.boot_again().last_index, last_index + 20)
        return repair, before, kept

    def boot_again(self):
        self.disk.stop_process()
        return self.boot().open_log()

    def test_recover_cuts_at_the_damage(self):
        """The log ends before the damaged entry; everything behind it is kept aside."""
        self.make(30)
        self.disk.flip(STORE, (4096 + self.entries[0].size + self.entries[1].size + 70) * 8)
        repair, _, kept = self.recovered(2)
        self.assertEqual(repair.lost_index, 30)
        for entry in self.entries[3:]:
            self.assertIn(entry.frame, kept)
        self.assertIn("lost+found", " ".join(repair.actions))

    def test_recover_each_damage(self):
        """Whatever is damaged, the directory opens afterwards with what was before the damage."""
        rows = [
            ("hard state", lambda: self.disk.unlink(f"{DIRECTORY}/hard_state"), 30),
            ("start", lambda: self.disk.replace(f"{DIRECTORY}/start", b"x"), 30),
            ("first header", lambda: self.disk.flip(STORE, 3), 0),
            ("first store", lambda: self.disk.unlink(STORE), 0),
            ("slots", lambda: self.disk.replace(*self.without_slots()), 30),
            ("nothing", lambda: None, 30),
        ]
        for name, harm, last_index in rows:
            self.make(30)
            harm()
            repair, _, _ = self.recovered(last_index)
            self.assertEqual(bool(repair.actions), name != "nothing", name)

    def without_slots(self):
        path = max(p for p in self.image if p.endswith(".store"))
        content = self.image[path]
        return path, content[:1024] + bytes(2048) + content[3072:]

    def test_recover_missing_middle(self):
        """With a segment missing the log ends before it, and the later ones are kept aside."""
        self.make(30)
        bases = sorted(int(p[-26:-6]) for p in self.image if p.endswith(".store"))
        self.disk.unlink(f"{DIRECTORY}/{bases[2]:020d}.store")
        _, _, kept = self.recovered(bases[2] - 1)
        self.assertIn(self.entries[-1].frame, kept)

    def test_recover_knows_its_limits(self):
        """Without a start and without a state file nothing is done."""
        self.make(30)
        self.disk.unlink(f"{DIRECTORY}/start")
        self.disk.unlink(STORE)
        second = min(p for p in self.disk.contents() if p.endswith(".store"))
        self.disk.unlink(second.replace(".store", ".state"))
        before = self.disk.contents()
        with self.assertRaises(DamageError):
            accept_data_loss(self.disk, DIRECTORY, cluster=self.cluster, group=1)
        self.assertEqual(self.disk.contents(), before)

    def test_decoded_entries_join(self):
        """What is read decodes to the entries that were written."""
        self.make(5)
        log = self.boot().open_log()
        frames, next_offset = log.read(0, 10**6, 10**9)
        self.assertEqual([e.index for e in decode_entries(self.seed, frames)], [1, 2, 3, 4, 5])
        self.assertEqual(next_offset, log.next_offset)
