"""A log's own bounds: how much room it says it has, what a trim takes, and what a start replaces."""

import errno
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DiskFailedError, DiskFullError
from loghouse.limits import (
    CONTROL_SEGMENT_SIZE,
    ENTRY_HEADER_SIZE,
    INDEX_ENTRY_SIZE,
    KIB,
    SEGMENT_SIZE_FIRST,
    STORE_HEADER_SIZE,
)
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.storage.log import INDEX_SHARE, Log
from loghouse.storage.start import read_start
from loghouse.testing.disk import SimDisk
from tests.storage.entries import CLUSTER, GROUP, SEED, Writer, create_log, new_disk

DIRECTORY = "/data/logs/1"


class EdgeCase(SynchronousTestCase):
    """A log with small segments on a simulated disk."""

    def setUp(self):
        self.disk = new_disk(SimDisk, DIRECTORY)
        create_log(self.disk, DIRECTORY)
        self.log = self.open()
        self.writer = Writer()

    def open(self, **options):
        options = {"segment_size": 16 * KIB, "reserve_size": 4 * KIB, **options}
        return Log.open(self.disk, DIRECTORY, cluster=CLUSTER, group=GROUP, **options)

    def append(self, *sizes):
        """Append entries of so many bytes each, one at a time, all of them synced and committed."""
        for size in sizes:
            entry = self.writer.records(2, size - ENTRY_HEADER_SIZE)
            self.log.append([entry])
            self.log.sync(entry.index)

    def size_of(self, name):
        return len(self.disk.content(f"{DIRECTORY}/{name}"))

    @property
    def bases(self):
        return list(self.log.view.base_indexes)

    def spares(self):
        return {
            path.rpartition("/")[2]: len(content)
            for path, content in self.disk.contents().items()
            if "spare" in path
        }


class RoomTests(EdgeCase):
    """What there is room for."""

    def test_sizes(self):
        """The first segment is small, its index an eighth; both are bounded by what is asked for."""
        self.assertEqual(INDEX_SHARE, 8)
        for options, store, index in (
            ({"segment_size": 16 * KIB}, 16 * KIB, 2 * KIB),
            ({"segment_size": 16 * KIB, "first_size": 8 * KIB}, 8 * KIB, KIB),
            ({"segment_size": 16 * KIB, "first_size": 32 * KIB}, 16 * KIB, 2 * KIB),
            ({"segment_size": 16 * KIB, "index_size": 600}, 16 * KIB, 600),
            ({"segment_size": 4 * SEGMENT_SIZE_FIRST}, SEGMENT_SIZE_FIRST, SEGMENT_SIZE_FIRST // 8),
        ):
            self.disk = new_disk(SimDisk, DIRECTORY)
            create_log(self.disk, DIRECTORY)
            self.open(**options)
            self.assertEqual(
                (self.size_of(f"{1:020d}.store"), self.size_of(f"{1:020d}.index")), (store, index)
            )
            self.assertEqual(self.size_of("reserve"), 4 * KIB)

    def test_half_full(self):
        """Room for the next segment is due from half of this one on, its header included."""
        half = 8 * KIB - STORE_HEADER_SIZE
        self.append(half - 100)
        self.assertIs(self.log.is_half_full, False)
        self.append(99)
        self.assertIs(self.log.is_half_full, False)
        self.setUp()
        self.append(half - 100, 100)
        self.assertIs(self.log.is_half_full, True)

    def test_record_room(self):
        """Records have the bytes that are left but what is kept for control entries, or that many places."""
        size_kept, places_kept = self.log._rooms.sizes.kept
        room = 12 * KIB - size_kept
        places = 2 * KIB // INDEX_ENTRY_SIZE - places_kept
        self.assertEqual(self.log.record_room, min(room, places * ENTRY_HEADER_SIZE))
        self.append(1000)
        self.assertEqual(self.log.record_room, min(room - 1000, (places - 1) * ENTRY_HEADER_SIZE))
        self.append(8000)
        self.assertEqual(self.log.record_room, room - 9000)
        self.append(room - 9000 + 500)
        self.assertEqual(self.log.record_room, 0)

    def test_taken_before(self):
        """An append that leaves too little takes room for a whole segment first; one that does not, none."""
        size_kept, _ = self.log._rooms.sizes.kept
        self.append(12 * KIB - size_kept)
        self.assertEqual(self.spares(), {})
        self.setUp()
        self.append(12 * KIB - size_kept + 1)
        self.assertEqual(self.spares(), {"spare-0.store": 16 * KIB, "spare-0.index": 2 * KIB})

    def test_control_entries(self):
        """On a full disk records are refused, and control entries go on, out of what was kept."""
        self.append(12 * KIB - self.log._rooms.sizes.kept[0])
        self.disk.capacity = self.disk.used_size()
        self.assertRaises(DiskFullError, self.append, 900)
        self.writer = Writer(self.log.state)
        for _ in range(20):
            self.log.append([self.writer.noop()])
        self.assertEqual((self.log.last_index, self.bases), (21, [1]))
        self.assertEqual(self.log.failure, "")

    def test_control_segment(self):
        """When that is used up they have a small segment, of what the reserve had."""
        self.log = None
        self.disk = new_disk(SimDisk, DIRECTORY)
        create_log(self.disk, DIRECTORY)
        sizes = {"segment_size": 256 * KIB, "first_size": 128 * KIB, "reserve_size": 256 * KIB}
        self.log = self.open(**sizes)
        self.append(120 * KIB)
        self.disk.capacity = self.disk.used_size()
        count = 0
        while len(self.bases) == 1:
            self.log.append([self.writer.noop()])
            count += 1
        self.assertGreater(count, 10)
        self.assertEqual(self.log.view.segments[-1].size, CONTROL_SEGMENT_SIZE)
        self.assertFalse(self.disk.exists(f"{DIRECTORY}/reserve"))
        # Records wait until the reserve is there again.
        self.assertRaises(DiskFullError, self.append, 500)
        self.writer = Writer(self.log.state)
        self.disk.capacity = None
        self.append(500)
        self.assertEqual(self.size_of("reserve"), 256 * KIB)

    def test_prepared(self):
        """Room that is taken ahead fits the segment behind this one, and a small file could be made, too."""
        names = []
        self.disk.on_operation = lambda kind, path, size: kind == "create" and names.append(path)
        self.log.prepare()
        self.assertEqual(self.spares(), {"spare-0.store": 16 * KIB, "spare-0.index": 2 * KIB})
        self.assertIn(f"{DIRECTORY}/{1:020d}.state.tmp", names)
        self.disk.fail(errno.ENOSPC, kinds=("create",), path_part=".state")
        self.assertRaises(DiskFullError, self.log.prepare)
        self.assertEqual(self.log.failure, "")
        self.disk.fail(errno.EIO, kinds=("create",), path_part=".state")
        error = self.assertRaises(DiskFailedError, self.log.prepare)
        self.assertIn("preallocation: ", str(error))

    def test_nothing_to_append(self):
        """No entries are nothing to do, also when the log has failed."""
        operations = self.disk.operations
        self.log.append([])
        self.assertEqual(self.disk.operations, operations)

    def test_rolled(self):
        """A new segment has the time of the last entry before it, and knows what was committed."""
        self.append(7000, 7000)
        self.log.append([])
        self.assertEqual(self.bases, [1, 2])
        active = self.log.view.segments[-1]
        self.assertEqual(active.newest_timestamp, self.writer.state.timestamp)
        self.assertEqual(self.log.commit_index, 2)
        sealed = self.log.view.segments[0]
        self.assertFalse(sealed.is_open)
        self.log.append([self.writer.records(1, 12_000)])
        self.assertEqual(self.log.view.segments[-2].newest_timestamp, self.writer.state.timestamp - 10)
        self.assertEqual((self.log.durable_index, self.log.commit_index), (2, 2))

    def test_rolled_when_durable(self):
        """A full segment is synced before the next one begins if not all of it is durable, and only then."""
        synced = []
        self.disk.on_operation = lambda kind, path, size: kind == "fdatasync" and synced.append(path)
        self.append(7000)
        first = f"{DIRECTORY}/{1:020d}.store"
        self.assertEqual(synced, [first])
        self.append(7000)
        self.assertEqual(self.bases, [1, 2])
        self.assertEqual(synced.count(first), 1)
        for size in (2000, 11_000):
            self.log.append([self.writer.records(1, size)])
        self.assertEqual(self.bases, [1, 2, 4])
        self.assertEqual(synced.count(f"{DIRECTORY}/{2:020d}.store"), 2)
        self.assertEqual(self.log.durable_index, 3)


class TrimTests(EdgeCase):
    """`trim_prefix`."""

    def setUp(self):
        super().setUp()
        self.append(*[3000] * 20)
        self.offsets = self.log.view.base_offsets
        self.ends = [base - 1 for base in self.bases[1:]]

    def test_offsets(self):
        """A segment goes once the next one begins at the offset or below, and no sooner."""
        for place in (1, 2):
            self.assertEqual(self.log.trim_prefix(self.offsets[place] - 1), self.log.first_index)
            first = self.ends[place - 1] + 1
            self.assertEqual(self.log.trim_prefix(self.offsets[place]), first)
            self.assertEqual((self.log.first_index, self.log.first_offset), (first, self.offsets[place]))
        self.assertEqual(self.log.trim_prefix(10**9), self.ends[-1] + 1)
        self.assertEqual(len(self.bases), 1)

    def test_high_index(self):
        """Entries above an index stay, whatever is asked for."""
        for high, first in (
            (0, 1),
            (self.ends[0] - 1, 1),
            (self.ends[0], self.ends[0] + 1),
            (self.ends[1] - 1, self.ends[0] + 1),
            (self.ends[1], self.ends[1] + 1),
        ):
            self.assertEqual(self.log.trim_prefix(10**9, high), first)

    def test_files(self):
        """The files of what went are gone, and the start says where the log begins."""
        gone = self.bases[:2]
        for base in self.bases[:-1]:
            self.log.entries(base, base + 1, 0)
        self.log.trim_prefix(self.offsets[2])
        state, is_installing = read_start(self.disk, DIRECTORY, SEED, "")
        self.assertEqual(
            (state.index, state.next_offset, is_installing), (self.ends[1], self.offsets[2], False)
        )
        self.assertFalse([path for path in self.disk.contents() for base in gone if f"{base:020d}." in path])
        self.assertEqual(sorted(self.log._open_segments), self.bases[:-1])
        self.assertEqual(self.log.state_at(self.ends[1]).index, self.ends[1])
        self.assertRaises(LookupError, self.log.state_at, self.ends[1] - 1)

    def test_by_the_log(self):
        """Without an offset what the log's own trims say goes."""
        self.log.append([self.writer.trim(self.offsets[1])])
        self.log.sync(21)
        self.assertEqual(self.log.lowest_offset, self.offsets[1])
        self.assertEqual(self.log.trim_prefix(), self.ends[0] + 1)

    def test_no_room(self):
        """Without room to say so spares are given up for it; without even that nothing is removed."""
        self.log.prepare()
        self.disk.unlink(f"{DIRECTORY}/reserve")
        self.disk.fail(errno.ENOSPC, kinds=("create",), path_part="start", times=1)
        self.assertEqual(self.log.trim_prefix(self.offsets[1]), self.ends[0] + 1)
        self.assertEqual(self.spares(), {})
        self.disk.fail(errno.ENOSPC, kinds=("create",), path_part="start", times=9)
        self.assertRaises(DiskFullError, self.log.trim_prefix, self.offsets[2])
        self.assertEqual((self.log.first_index, self.log.failure), (self.ends[0] + 1, ""))
        self.disk.faults.clear()
        self.assertEqual(self.log.trim_prefix(self.offsets[2]), self.ends[1] + 1)


class StartTests(EdgeCase):
    """`install_start`."""

    STATE = LogState(index=50, term=4, next_offset=300, timestamp=9000, lowest_offset=100)

    def test_installed(self):
        """All that was is forgotten: files, checkpoints, what was open; the log goes on behind the state."""
        self.append(*[3000] * 12)
        for base in self.bases[:-1]:
            self.log.entries(base, base + 1, 0)
        self.log._next_checkpoint = self.log.state
        state = self.STATE.copy()
        self.log.install_start(state)
        state.index = 77
        self.assertEqual((self.log.first_index, self.log.last_index, self.log.durable_index), (51, 50, 50))
        self.assertEqual(
            (self.log.next_offset, self.log.lowest_offset, self.log.first_offset), (300, 300, 300)
        )
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint), (50, None))
        self.assertIsNot(self.log._checkpoint, self.log._state)
        self.assertIsNot(self.log._start_state, self.log._state)
        self.assertEqual(self.log._open_segments, {})
        self.assertEqual(self.log.view.segments[-1].newest_timestamp, 9000)
        found, is_installing = read_start(self.disk, DIRECTORY, SEED, "")
        self.assertEqual((encode_log_state(found), is_installing), (encode_log_state(self.STATE), False))
        names = [path.rpartition("/")[2] for path in self.disk.contents() if "/0" in path]
        self.assertEqual(sorted(names), [f"{51:020d}.{suffix}" for suffix in ("index", "state", "store")])
        self.writer = Writer(self.STATE)
        self.append(200)
        self.assertEqual((self.log.last_index, self.log.next_offset), (51, 302))
        self.assertEqual(self.log.state_at(50).next_offset, 300)

    def test_no_room_behind_the_start(self):
        """When the new segment finds no room after the old log is gone, the next start goes on there."""
        self.append(3000)
        with patch.object(type(self.log._rooms), "create_segment", side_effect=DiskFullError("/data")):
            error = self.assertRaises(DiskFailedError, self.log.install_start, self.STATE)
        self.assertIn("installing a start: ", str(error))
        self.assertNotEqual(self.log.failure, "")
        self.disk.stop_process()
        self.log = self.open()
        self.assertEqual((self.log.first_index, self.log.next_offset), (51, 300))

    def test_hard_state(self):
        """Term and vote are kept as they were saved, out of the reserve when the disk is full."""
        self.assertEqual(self.log.hard_state, HardState(9, 0))
        self.disk.fail(errno.ENOSPC, kinds=("pwritev",), path_part="hard_state")
        self.log.save_hard_state(term=10, vote=3)
        self.assertEqual(self.log.hard_state, HardState(10, 3))
        self.assertFalse(self.disk.exists(f"{DIRECTORY}/reserve"))
        self.disk.fail(errno.ENOSPC, kinds=("pwritev",), path_part="hard_state")
        self.assertRaises(DiskFullError, self.log.save_hard_state, term=11, vote=0)
        self.assertEqual((self.log.hard_state, self.log.failure), (HardState(10, 3), ""))

    def test_warnings(self):
        """A log that was closed opens without a word, and says which it is."""
        self.append(3000)
        self.log.close()
        self.disk.stop_process()
        log = self.open()
        self.assertEqual((log.warnings, log.cluster, log.group, log.failure), ((), CLUSTER, GROUP, ""))
        self.assertEqual((log.unknown_ends, log.commit_index), (frozenset(), 1))

    def test_damage_that_is_left(self):
        """Damage at the end of a sealed segment is left to mending only by who asks for that."""
        self.append(7000, 7000)
        self.disk.flip(f"{DIRECTORY}/{1:020d}.store", 8 * (STORE_HEADER_SIZE + 20))
        self.disk.stop_process()
        self.assertRaises(DamageError, self.open)
        self.disk.stop_process()
        self.assertEqual(self.open(leaves_damage=True).unknown_ends, {1})
