"""`verify` and `inspect` to the word: each finding with its file, its byte and what it says."""

import errno
from unittest.mock import patch

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.limits import ENTRY_HEADER_SIZE, INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import Codec, EntryKind, make_entry
from loghouse.protocol.log_state import LogState
from loghouse.storage import verify as verify_module
from loghouse.storage.groups import GroupState, groups_file, groups_of
from loghouse.storage.inspect import dump, inspect
from loghouse.storage.log import Log
from loghouse.storage.start import write_start
from loghouse.storage.store import StoreHeader, Watermark
from loghouse.storage.verify import Checked, Finding, VerifyProgress, read_identity, verify
from loghouse.testing.disk import SimDisk
from tests.storage.test_damage import DIRECTORY, STORE
from tests.storage.test_damage import DamageCase as _DamageCase


def name_of(base, suffix):
    return f"{DIRECTORY}/{base:020d}.{suffix}"


class VerifyCase(_DamageCase):
    """A directory of some segments whose stores, with entries of known places, are harmed."""

    def setUp(self):
        self.make(30)
        self.bases = sorted(int(path[-26:-6]) for path in self.image if path.endswith(".store"))

    def steps(self):
        before = self.disk.contents()
        steps = list(verify(self.disk, "/data/"))
        self.assertEqual(self.disk.contents(), before)
        return steps

    def findings(self):
        return [step for step in self.steps() if isinstance(step, Finding)]

    def texts(self):
        """Return (file, byte, problem, whether it is damage) of each finding."""
        return [(one.file, one.position, one.problem, one.is_damage) for one in self.findings()]

    def put(self, path, content):
        self.disk.replace(path, content)

    def position(self, index):
        """Return the place of an entry in its store."""
        base = max(base for base in self.bases if base <= index)
        return STORE_HEADER_SIZE + sum(entry.size for entry in self.entries[base - 1 : index - 1])

    def write(self, path, position, content):
        old = self.disk.content(path)
        self.put(path, old[:position] + content + old[position + len(content) :])


class FindingTests(VerifyCase):
    """What is found."""

    def test_counts(self):
        """Segments, entries, records and bytes are counted; progress ends at the size of all stores."""
        steps = self.steps()
        size = sum(self.position(base - 1) + self.entries[base - 2].size for base in self.bases[1:])
        size += self.position(30) + self.entries[29].size
        self.assertEqual(
            steps[-1],
            Checked(len(self.bases), 30, self.entries[-1].next_offset, size),
        )
        progress = [step for step in steps if isinstance(step, VerifyProgress)]
        total = len(self.bases) * 5120
        self.assertEqual({step.total_size for step in progress}, {total})
        self.assertEqual([step.file for step in progress], [name_of(base, "store") for base in self.bases])
        self.assertEqual(
            [step.done_size for step in progress],
            [
                place * 5120 + self.position(last) + self.entries[last - 1].size
                for place, last in enumerate([*(base - 1 for base in self.bases[1:]), 30])
            ],
        )

    def test_many_reads(self):
        """However little is read at a time, the same is found, and progress never falls."""
        self.disk.flip(STORE, 8 * (self.position(2) + 70))
        wanted = self.findings(), self.steps()[-1]
        self.patch(verify_module, "SCAN_CHUNK_SIZE", 64)
        steps = self.steps()
        self.assertEqual(([step for step in steps if isinstance(step, Finding)], steps[-1]), wanted)
        done = [step.done_size for step in steps if isinstance(step, VerifyProgress)]
        self.assertEqual(done, sorted(done))
        self.assertGreater(len(done), 40)

    def test_two_logs(self):
        """What is counted of several logs is added up."""
        before = self.steps()[-1]
        self.disk.make_directory("/data/logs/7")
        self.disk.make_directory("/data/logs/7.new")
        Log.create(self.disk, "/data/logs/7", cluster=self.cluster, group=7)
        Log.open(
            self.disk, "/data/logs/7", cluster=self.cluster, group=7, segment_size=5120, reserve_size=0
        ).close()
        after = self.steps()[-1]
        self.assertEqual(groups_of(self.disk, "/data"), [1, 7])
        self.assertEqual(
            (after.segments, after.entries, after.records, after.size),
            (before.segments + 1, before.entries, before.records, before.size + STORE_HEADER_SIZE),
        )

    def test_lost_log(self):
        """A log that was born here and is gone is damage; one that died here is not missed."""
        good = self.steps()
        self.disk.replace("/data/groups", groups_file({1: GroupState.BORN, 16: GroupState.DEAD}))
        self.assertEqual(self.steps(), good)
        self.disk.replace("/data/groups", groups_file({1: GroupState.BORN, 16: GroupState.BORN}))
        self.assertIn(("/data/logs/16", 0, "log 16 was born here, and is gone", True), self.texts())
        self.disk.replace("/data/groups", b"nonsense")
        [found] = self.findings()
        self.assertEqual((found.file, found.is_damage), ("/data/groups", True))

    def test_no_log(self):
        """A data directory without a log is told; it counts nothing."""
        disk = SimDisk()
        disk.make_directory("/data")
        disk.replace("/data/node", self.disk.content("/data/node"))
        self.disk = disk
        self.assertEqual(self.steps(), [Finding("/data/logs", 0, "there is no log"), Checked(0, 0, 0, 0)])
        self.assertEqual(groups_of(disk, "/data"), [])

    def test_interrupted_new_cluster(self):
        """An interrupted `recover --new-cluster` is told."""
        self.put("/data/node.new", b"")
        self.assertEqual(
            self.texts(),
            [
                (
                    "/data/node.new",
                    0,
                    "`loghouse recover --new-cluster` was interrupted: no node starts until it is run again",
                    True,
                )
            ],
        )

    def test_identity(self):
        """What is no data directory, or cannot be read, is refused with what to do."""
        error = self.assertRaises(DataDirectoryError, read_identity, self.disk, "/other")
        self.assertEqual(
            str(error),
            "/other is no data directory: there is no file 'node' in it; "
            "give the directory that node.yaml calls data_dir",
        )
        self.assertRaises(DataDirectoryError, read_identity, self.disk, "/data/node")
        self.disk.fail(errno.EIO, kinds=("open",))
        error = self.assertRaises(DataDirectoryError, read_identity, self.disk, "/data")
        self.assertEqual(str(error), "/data/node cannot be read: Input/output error")
        self.assertEqual(read_identity(self.disk, "/data").cluster_uuid, self.cluster)

    def test_start_and_hard_state(self):
        """Without `start` or term and vote each is told once, and the rest is checked."""
        self.put(f"{DIRECTORY}/hard_state", b"x")
        self.put(f"{DIRECTORY}/start", b"x")
        self.assertEqual(
            self.texts(),
            [
                (f"{DIRECTORY}/hard_state", 0, "no valid slot with term and vote", True),
                (
                    f"{DIRECTORY}/start",
                    0,
                    "checksum does not match (damaged, or of another log)",
                    True,
                ),
            ],
        )
        self.assertEqual(self.steps()[-1].entries, 30)

    def test_leftovers(self):
        """What belongs to no segment is removed by the next start, or kept until damage is dealt with."""
        self.put(f"{DIRECTORY}/x.tmp", b"")
        removed = "belongs to no segment of the log; the next start removes it"
        self.assertEqual(self.texts(), [(f"{DIRECTORY}/x.tmp", 0, removed, False)])
        self.put(f"{DIRECTORY}/hard_state", b"x")
        kept = "belongs to no segment of the log; kept until the damage is dealt with"
        self.assertEqual(self.texts()[1:], [(f"{DIRECTORY}/x.tmp", 0, kept, False)])

    def test_being_installed(self):
        """While a start is being installed the segments of the old log are left over."""
        disk = SimDisk()
        for path in ("/data", "/data/logs", DIRECTORY):
            disk.make_directory(path)
        disk.replace("/data/node", self.disk.content("/data/node"))
        self.disk = disk
        Log.create(disk, DIRECTORY, cluster=self.cluster, group=1)
        self.assertEqual(self.steps(), [Checked(0, 0, 0, 0)])
        write_start(disk, DIRECTORY, self.seed, LogState(index=99, term=1, next_offset=500), installing=True)
        self.put(name_of(1, "index"), bytes(20))
        [finding] = self.findings()
        self.assertEqual((finding.file, finding.is_damage), (name_of(1, "index"), False))

    def test_missing_store(self):
        """The first store that is gone, alone or with all the others, is damage."""
        self.disk.unlink(STORE)
        files = [one[0] for one in self.texts() if one[3]]
        self.assertIn(STORE, files)
        for base in self.bases[1:]:
            self.disk.unlink(name_of(base, "store"))
        self.assertIn((STORE, 0, "the file is gone", True), self.texts())

    def test_gap(self):
        """Behind a store that is gone the next one does not join."""
        gone, following = self.bases[1:3]
        self.disk.unlink(name_of(gone, "store"))
        self.assertIn(
            (
                name_of(following, "store"),
                0,
                f"does not join entry {gone - 1}: entries between are missing",
                True,
            ),
            self.texts(),
        )

    def header(self, base, **fields):
        """Write another header into a store, with its checksum."""
        path = name_of(base, "store")
        old = StoreHeader.decode(self.disk.content(path))
        values = {
            name: getattr(old, name)
            for name in ("group", "cluster", "base_index", "base_offset", "previous_term")
        }
        self.write(path, 0, StoreHeader(**{**values, **fields}).encode())
        return path

    def test_headers(self):
        """A store of another log or another place is told by what its header says."""
        base = self.bases[1]
        for fields, problem in (
            ({"cluster": bytes(16)}, f"is of another log: cluster {'00' * 16}, group 1"),
            ({"group": 9}, f"is of another log: cluster {self.cluster.hex()}, group 9"),
            ({"base_index": 77}, f"its first index is 77, its name says {base}"),
            ({"base_offset": 1}, f"does not join entry {base - 1}: entries between are missing"),
            ({"previous_term": 0}, f"does not join entry {base - 1}: entries between are missing"),
        ):
            path = self.header(base, **fields)
            self.assertIn((path, 0, problem, True), self.texts(), fields)
            self.restore()
        self.disk.flip(self.header(base), 8 * 20)
        self.assertIn((name_of(base, "store"), 0, "store header checksum does not match", True), self.texts())
        # The segments behind are checked all the same, but not that one.
        self.assertEqual(self.steps()[-1].entries, 30 - (self.bases[2] - base))

    def test_state_file(self):
        """A state file that is gone, or does not join its store, is made anew."""
        base = self.bases[2]
        path = name_of(base, "state")
        problem = "missing or damaged; the next start makes it anew"
        for content in (None, b"", self.image[name_of(self.bases[1], "state")]):
            if content is None:
                self.disk.unlink(path)
            else:
                self.put(path, content)
            self.assertEqual(self.texts(), [(path, 0, problem, False)])

    def test_watermark(self):
        """A store without a good watermark is told; of a sealed one nothing else is lost by that."""
        for base in (self.bases[0], self.bases[-1]):
            path = name_of(base, "store")
            self.write(path, 1024, bytes(44))
            self.write(path, 2048, bytes(44))
            self.assertIn((path, 1024, "no valid watermark slot", True), self.texts())
            self.assertEqual(self.steps()[-1].entries, 30)
            self.restore()

    def test_torn_tail(self):
        """What is not good behind the watermark is cut by the next start: an entry, or other bytes."""
        path = name_of(self.bases[-1], "store")
        end = self.position(30) + self.entries[29].size
        for content, problem in (
            (b"x", "torn tail, the next start cuts it: no entry of this log starts here (header checksum)"),
            (bytes(80) + b"x", "torn tail, the next start cuts it"),
        ):
            self.write(path, end, content)
            self.assertEqual(self.texts(), [(path, end, problem, False)])
            self.restore()

    def test_before_the_watermark(self):
        """What is not good before the watermark is damage, zeroes among it."""
        path, at = name_of(self.bases[-1], "store"), self.position(30)
        self.write(path, at, bytes(5120 - at))
        self.assertEqual(self.texts(), [(path, at, "entries are missing", True)])
        self.write(path, at, b"x" * 64)
        self.assertEqual(
            self.texts(), [(path, at, "no entry of this log starts here (header checksum)", True)]
        )

    def test_end_of_a_file(self):
        """A file that ends inside an entry is told with how much is needed."""
        path, at = name_of(self.bases[-1], "store"), self.position(30)
        size = self.entries[29].size
        self.put(path, self.image[path][: at + size - 1])
        self.assertEqual(self.texts(), [(path, at, f"the file ends inside an entry of {size} bytes", True)])
        self.put(path, self.image[path][: at + 64])
        self.assertIn(f"the file ends inside an entry of {size} bytes", self.texts()[0][2])
        # One that ends within a header lacks the entry.
        self.put(path, self.image[path][: at + 63])
        self.assertEqual(self.texts(), [(path, at, "entries are missing", True)])

    def test_newer_entry(self):
        """An entry from the future is told as it is, and not called torn."""
        path = name_of(self.bases[-1], "store")
        end = self.position(30) + self.entries[29].size
        frame = make_entry(
            self.seed, index=31, term=1, kind=99, base_offset=self.entries[29].next_offset, timestamp=10**9
        ).frame
        self.write(path, end, frame)
        with patch.object(verify_module, "survey"):
            [(file, position, problem, is_damage)] = self.texts()
        self.assertEqual((file, position, is_damage), (path, end, True))
        self.assertIn("kind 99", problem)

    def test_index(self):
        """An index that does not fit is told with the place of the first entry that is wrong."""
        path = name_of(self.bases[1], "index")
        good = self.image[path]
        count = self.bases[2] - self.bases[1]
        problem = "does not fit its store; it is a cache and is made anew"
        for content, position in (
            (None, 0),
            (b"", 0),
            (good[:15], INDEX_ENTRY_SIZE),
            (good[: 2 * INDEX_ENTRY_SIZE], 2 * INDEX_ENTRY_SIZE),
            (b"\xff" + good[1:], 0),
            (good[:23] + b"\xff" + good[24:], INDEX_ENTRY_SIZE),
            (good[:24] + b"\xff" + good[25:], 2 * INDEX_ENTRY_SIZE),
        ):
            if content is None:
                self.disk.unlink(path)
            else:
                self.put(path, content)
            self.assertEqual(self.texts(), [(path, position, problem, False)])
        for content in (good[: count * INDEX_ENTRY_SIZE], good + b"more"):
            self.put(path, content)
            self.assertEqual(self.texts(), [])

    def test_batch_that_nobody_reads(self):
        """A batch that is as it was written, and that no reader could take, is no damage, but told."""
        log = self.boot().open_log()
        state = log.state
        bad = {
            "index": 31,
            "term": 1,
            "base_offset": state.next_offset,
            "timestamp": 10**9,
            "kind": EntryKind.RECORDS,
            "payload": b"no zstd",
            "record_count": 1,
        }
        for attributes, is_told in ((int(Codec.ZSTD), True), (0, False)):
            self.disk.stop_process()
            self.restore()
            path = name_of(self.bases[-1], "store")
            at = self.position(30) + self.entries[29].size
            self.write(path, at, make_entry(self.seed, **bad, attributes=attributes).frame)
            found = [one for one in self.findings() if one.is_unreadable]
            self.assertEqual(len(found), is_told)
            for one in found:
                self.assertEqual((one.file, one.position), (path, at))
                self.assertIs(one.is_damage, False)
                self.assertIn(
                    "entry 31 is as it was written, but no batch that every reader can read: ", one.problem
                )

    def test_what_a_start_refuses(self):
        """What only the start's own look finds is told, too, once."""
        self.disk.unlink(name_of(self.bases[-1], "store"))
        texts = self.texts()
        store = name_of(self.bases[-1], "store")
        [problem] = [text[2] for text in texts if text[0] == store]
        self.assertIn("the store is gone", problem)


class InspectTests(VerifyCase):
    """What `inspect` and `dump` say."""

    def log(self):
        [log] = inspect(self.disk, "/data/").logs
        return log

    def test_segments(self):
        """Each segment is described by its header, its frames' headers and its watermark."""
        log = self.log()
        self.assertEqual((log.group, log.first_index, log.first_offset, log.problems), (1, 1, 0, ()))
        self.assertEqual([one.base_index for one in log.segments], self.bases)
        last = log.segments[-1]
        first_entry = self.entries[last.base_index - 1]
        self.assertEqual(
            (last.file, last.last_index, last.file_size, last.base_offset, last.next_offset),
            (
                name_of(self.bases[-1], "store"),
                30,
                5120,
                first_entry.base_offset,
                self.entries[-1].next_offset,
            ),
        )
        self.assertEqual(
            (last.used_size, last.first_timestamp, last.last_timestamp),
            (
                self.position(30) + self.entries[-1].size,
                first_entry.timestamp,
                self.entries[-1].timestamp,
            ),
        )
        self.assertEqual((last.durable_index, last.commit_index, last.problem), (30, 30, ""))

    def test_without_watermark(self):
        """Without a watermark nothing is known of what is durable."""
        path = name_of(self.bases[-1], "store")
        self.write(path, 1024, bytes(44))
        self.write(path, 2048, Watermark(1, 1, 1, 4096, 1).encode(self.seed ^ 1))
        last = self.log().segments[-1]
        self.assertEqual((last.durable_index, last.commit_index, last.last_index), (0, 0, 30))

    def test_damaged_header(self):
        """A store without a header is told by its name alone."""
        self.disk.flip(STORE, 8 * 20)
        first = self.log().segments[0]
        self.assertEqual(
            (first.base_index, first.last_index, first.file_size, first.next_offset),
            (1, 0, 5120, 0),
        )
        self.assertEqual(first.problem, "store header checksum does not match")

    def test_problems(self):
        """What the next start refuses is told, each thing once; a running node's changes are no problem."""
        self.put(f"{DIRECTORY}/hard_state", b"x")
        log = self.log()
        self.assertIsNone(log.hard_state)
        self.assertEqual(len(log.problems), 1)
        self.assertIn("no valid slot", log.problems[0])
        self.restore()
        with patch("loghouse.storage.inspect.survey", side_effect=FileNotFoundError):
            self.assertEqual(self.log().problems, ())

    def test_being_installed(self):
        """A start that is being installed is told."""
        write_start(
            self.disk, DIRECTORY, self.seed, LogState(index=99, term=7, next_offset=5), installing=True
        )
        log = self.log()
        self.assertEqual((log.first_index, log.first_offset, log.segments), (100, 5, ()))
        self.assertIn("a start is being installed; the next start of the node finishes it", log.problems)

    def dumped(self, low, high):
        return [entry.index for _, _, entry in self.dump(low, high)]

    def dump(self, low, high):
        summary = inspect(self.disk, "/data")
        [log] = summary.logs
        return dump(self.disk, summary, log, low=low, high=high)

    def test_dump(self):
        """A range is dumped from its first entry up to, not including, its end, across segments."""
        second = self.bases[1]
        for low, high in ((1, 31), (0, 99), (second - 1, second), (second, second + 1), (second, second)):
            self.assertEqual(self.dumped(low, high), list(range(max(low, 1), min(high, 31))))
        for file, position, entry in self.dump(1, 31):
            base = max(base for base in self.bases if base <= entry.index)
            self.assertEqual((file, position), (name_of(base, "store"), self.position(entry.index)))

    def test_dump_of_damage(self):
        """A damaged entry ends a dump that needs to pass it, with its place."""
        at = self.position(2)
        self.disk.flip(STORE, 8 * (at + ENTRY_HEADER_SIZE + 3))
        error = self.assertRaises(DamageError, self.dumped, 1, 4)
        self.assertEqual((error.file, error.position), (STORE, at))
