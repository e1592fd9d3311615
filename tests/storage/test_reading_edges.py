"""Reading at its edges: the first and the last that fits, what is not there, and what stays open."""

import errno
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, OffsetOutOfRangeError
from loghouse.limits import INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import decode_entries
from loghouse.protocol.log_state import LogState
from loghouse.storage import reading
from loghouse.storage.reading import SealedSegment, make_view
from loghouse.storage.segment import End, FrameHeader, Segment
from loghouse.testing.disk import SimDisk, disk_error
from tests.storage.entries import Writer, open_directory

DIRECTORY = "/data/logs/1"


class ReadingCase(SynchronousTestCase):
    """A log of some segments: an entry of two records each, with no-ops at some places."""

    NOOPS = (4, 5, 17)

    def setUp(self):
        self.disk = SimDisk()
        self.log = open_directory(self.disk, segment_size=4096 + 1024, reserve_size=0).open_log()
        self.log.save_hard_state(term=9, vote=0)
        self.writer = Writer(seed=self.log.seed)
        self.entries = []
        for number in range(1, 31):
            entry = self.writer.noop() if number in self.NOOPS else self.writer.records(2, 60 + number)
            self.entries.append(entry)
            self.log.append([entry])
        self.log.sync(30)
        self.segments = self.log.view.segments
        self.bases = self.log.view.base_indexes

    def fresh(self, place):
        """Return a segment over the same files that opened nothing yet."""
        old = self.segments[place]
        return Segment(
            self.disk, DIRECTORY, old.header, end=self.log.view.end_of(place), size=old.size, remedy="none"
        )

    def entry(self, index):
        return self.entries[index - 1]

    def position(self, index):
        base = max(base for base in self.bases if base <= index)
        return STORE_HEADER_SIZE + sum(entry.size for entry in self.entries[base - 1 : index - 1])


class SegmentTests(ReadingCase):
    """One segment by itself."""

    def test_new(self):
        """A new one has nothing open, and opens what it needs when it needs it."""
        segment = self.fresh(1)
        self.assertEqual((segment.is_open, segment.newest_timestamp), (False, 0))
        self.assertEqual(segment.index().position(1), self.position(self.bases[1] + 1))
        self.assertIs(segment.index(), segment.index())
        self.assertTrue(segment.is_open)
        segment.let_go()
        self.assertFalse(segment.is_open)
        segment.store()
        self.assertTrue(segment.is_open)
        self.assertIs(segment.store(), segment.store())
        self.assertEqual(segment.last_index, self.bases[2] - 1)
        self.assertIsNone(segment.frames_behind(0, count=9, end=segment.end, size_max=1, mapped=False))

    def test_empty(self):
        """One without entries ends before its first."""
        segment = self.fresh(1).with_end(End(0, STORE_HEADER_SIZE, 1, 0))
        self.assertEqual(segment.last_index, self.bases[1] - 1)
        self.assertEqual((segment.remedy, segment.is_open), ("none", False))

    def test_short_index(self):
        """An index file with fewer places than entries is made anew, in memory."""
        segment = self.fresh(1)
        count = segment.end.count
        path = segment.index_path
        good = self.disk.content(path)
        for places in (0, 1, count - 1, count):
            self.disk.replace(path, good[: places * INDEX_ENTRY_SIZE])
            segment.let_go()
            self.assertEqual(segment.index().capacity, count)
            self.assertEqual(segment.index().position(count - 1), self.position(segment.last_index))
        self.assertEqual(segment.known_header(count - 1).index, segment.last_index)
        self.disk.unlink(path)
        self.assertIsNone(segment.known_header(0))
        self.assertEqual(self.fresh(1).index().capacity, count)

    def test_smallest_index(self):
        """An index file of one place does for one entry; an empty one does for none."""
        path = self.segments[1].index_path
        good = self.disk.content(path)
        end = End(1, self.position(self.bases[1] + 1), 1, 0)
        for places, has in ((0, False), (1, True), (2, True)):
            self.disk.replace(path, good[: places * INDEX_ENTRY_SIZE])
            segment = self.fresh(1).with_end(end)
            self.assertEqual(segment.known_header(0) is not None, has)
            empty = self.fresh(1).with_end(End(0, STORE_HEADER_SIZE, 1, 0))
            self.assertEqual(empty.index().capacity, places)

    def test_damaged_and_without_an_index(self):
        """An index that is made anew ends at damage, and is not kept."""
        segment = self.fresh(1)
        self.disk.unlink(segment.index_path)
        self.disk.flip(segment.path, 8 * (self.position(self.bases[1] + 2) + 20))
        self.assertEqual(segment.index().capacity, 2)
        self.assertIsNone(segment._index)

    def test_scan_headers(self):
        """As many headers as were asked for are walked."""
        for count in (1, 3, self.segments[1].end.count):
            scan = self.fresh(1).scan_headers(count)
            self.assertEqual((scan.count, len(scan.entries)), (count, count * INDEX_ENTRY_SIZE))

    def test_header(self):
        """A header says all that is in it, and where it is."""
        base = self.bases[1]
        entry = self.entry(base + 1)
        self.assertEqual(
            self.fresh(1).frame_header(1),
            FrameHeader(
                position=self.position(base + 1),
                length=entry.size,
                kind=entry.kind,
                record_count=2,
                index=base + 1,
                term=1,
                base_offset=entry.base_offset,
                timestamp=entry.timestamp,
                attributes=0,
                payload_crc=int.from_bytes(bytes(entry.head)[60:64], "big"),
            ),
        )
        self.assertEqual(self.fresh(1).frame_header(1).next_offset, entry.next_offset)

    def test_damaged_header(self):
        """A damaged header is told with its place, whether it is the one asked for or one before."""
        base = self.bases[1]
        at = self.position(base + 2)
        self.disk.flip(self.segments[1].path, 8 * (at + 20))
        segment = self.fresh(1)
        error = self.assertRaises(DamageError, segment.frame_header, 2)
        self.assertEqual((error.file, error.position), (segment.path, at))
        self.assertEqual((error.last_index, error.last_term), (segment.last_index, 1))
        self.assertIn("none", str(error))
        self.assertEqual(segment.frame_header(3).index, base + 3)

    def test_index_that_goes_wrong(self):
        """A sealed segment whose index leads elsewhere goes on with a right one: the store is walked once."""
        segment = self.fresh(1)
        content = self.disk.content(segment.index_path)
        fd = self.disk.open(segment.index_path, write=True)
        self.disk.pwritev(fd, [bytes(len(content))], 0)
        walks = []
        real = Segment.scan_headers
        with patch.object(
            Segment, "scan_headers", lambda segment, count: walks.append(count) or real(segment, count)
        ):
            for number in (0, 1, 2, 1):
                self.assertEqual(segment.frame_header(number).index, segment.base_index + number)
        self.assertEqual(walks, [1, segment.end.count])

    def test_let_go(self):
        """What is let go of is closed: store, index and map, of the segment that takes appends, too."""
        active = self.segments[-1]
        opened = {path for _, path in self.disk._open.values()}
        self.assertTrue({active.path, active.index_path} <= opened)
        active.let_go()
        opened = {path for _, path in self.disk._open.values()}
        self.assertFalse({active.path, active.index_path} & opened)

    def test_unreadable(self):
        """What cannot be read is damage there; what the process is short of, and what is gone, is not."""
        segment = self.fresh(1)
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            self.disk.fail(number, kinds=("open",))
            error = self.assertRaises(OSError, segment.read_bytes, 5000, 5010)
            self.assertEqual(error.errno, number)
        self.disk.fail(errno.EIO, kinds=("pread",))
        error = self.assertRaises(DamageError, segment.read_bytes, 5000, 5010)
        self.assertEqual((error.file, error.position), (segment.path, 5000))
        self.assertEqual(error.problem, f"cannot be read: {disk_error(errno.EIO)}")
        self.assertEqual(len(segment.read_bytes(5000, 5010)), 10)
        segment.let_go()
        self.disk.unlink(segment.path)
        self.assertRaises(FileNotFoundError, segment.read_bytes, 5000, 5010)

    def test_mapped(self):
        """Only the segment that takes appends has a map, and only who may uses it."""
        active = self.segments[-1]
        reads = []
        self.disk.on_operation = lambda kind, path, size: kind == "pread" and reads.append(size)
        self.assertEqual(
            active.read_bytes(4096, 4106, mapped=True), bytes(self.entry(self.bases[-1]).head)[:10]
        )
        self.assertEqual(reads, [])
        active.read_bytes(4096, 4106)
        self.assertEqual(reads, [10])
        self.segments[0].read_bytes(4096, 4106, mapped=True)
        self.assertEqual(reads, [10, 10])
        active.seal()
        active.read_bytes(4096, 4106, mapped=True)
        self.assertEqual(reads, [10, 10, 10])

    def test_last_fitting(self):
        """Frames are read while they fit to the byte, and the first one always."""
        segment = self.fresh(1)
        entries = self.entries[self.bases[1] - 1 : self.bases[2] - 1]
        end, count = segment.end, segment.end.count
        header = segment.frame_header(0)
        for fitting in range(1, count + 1):
            size = sum(entry.size for entry in entries[:fitting])
            for size_max, wanted in ((size - 1, max(fitting - 1, 1)), (size, fitting), (size + 1, fitting)):
                buffer, next_offset = segment.frames(
                    header, count=count, end=end, size_max=size_max, mapped=False
                )
                self.assertEqual(buffer, b"".join(entry.frame for entry in entries[:wanted]), size_max)
                self.assertEqual(next_offset, entries[wanted - 1].next_offset)
        self.assertEqual(segment._next_read, (next_offset, count, 1))
        for most in (1, 2, count):
            buffer, _ = segment.frames(header, count=most, end=end, size_max=1 << 20, mapped=False)
            self.assertEqual(len(list(decode_entries(segment.seed, buffer))), most)

    def test_times(self):
        """The first entry at or after a time is found among so many."""
        segment = self.fresh(1)
        entries = self.entries[self.bases[1] - 1 : self.bases[2] - 1]
        for place, entry in enumerate(entries):
            self.assertEqual(segment.first_at_time(entry.timestamp, len(entries)), place)
            self.assertEqual(segment.first_at_time(entry.timestamp - 1, len(entries)), place)
        self.assertEqual(segment.first_at_time(entries[-1].timestamp + 1, len(entries)), len(entries))
        self.assertEqual(segment.first_at_time(entries[3].timestamp, 2), 2)


class LogTests(ReadingCase):
    """The log as readers see it."""

    def test_terms(self):
        """The term of every entry is known, that of the one before the first, too; of others none."""
        for index in range(1, 31):
            self.assertEqual(self.log.term_at(index), 1)
        self.assertEqual(self.log.term_at(0), 0)
        for index in (-1, 31):
            error = self.assertRaises(LookupError, self.log.term_at, index)
            self.assertEqual(str(error), f"entry {index} is not in the log (1 to 30)")
        self.log.install_start(LogState(index=40, term=7, next_offset=90))
        self.assertEqual((self.log.term_at(40), self.log.last_term), (7, 7))
        self.assertRaises(LookupError, self.log.term_at, 39)
        self.assertRaises(LookupError, self.log.term_at, 41)

    def test_entries(self):
        """Entries end at their bound, at what fits, or at a segment's end, and are at least one."""
        second = self.bases[1]
        for low, high, size_max, wanted in (
            (1, 3, 1 << 20, [1, 2]),
            (1, 2, 0, [1]),
            (2, 31, self.entry(2).size, [2]),
            (2, 31, self.entry(2).size + self.entry(3).size, [2, 3]),
            (second - 1, second + 2, 1 << 20, [second - 1]),
            (30, 99, 1 << 20, [30]),
            (5, 5, 1 << 20, []),
            (5, 4, 1 << 20, []),
        ):
            found = self.log.entries(low, high, size_max)
            self.assertEqual([entry.index for entry in found], wanted, (low, high, size_max))
        for low in (0, 31):
            self.assertRaises(LookupError, self.log.entries, low, low + 1, 100)

    def test_states(self):
        """The state behind every entry is known, and before the first one; of others none."""
        for index in range(31):
            state = self.log.state_at(index)
            self.assertEqual(
                (state.index, state.next_offset), (index, self.entry(index).next_offset if index else 0)
            )
        for index in (-1, 31):
            error = self.assertRaises(LookupError, self.log.state_at, index)
            self.assertEqual(str(error), f"no state at {index}: the log holds 1 to 30")

    def test_state_at_the_end_of_a_segment(self):
        """It is that of the next one's file, without a look at the frames; without the file it is folded."""
        index = self.bases[1] - 1
        with patch.object(reading, "fold", side_effect=AssertionError):
            self.assertEqual(self.log.state_at(index).index, index)
        for base in self.bases[1:]:
            self.disk.unlink(f"{DIRECTORY}/{base:020d}.state")
        self.log._checkpoint = self.log.state_at(30)
        for place in range(len(self.bases)):
            state = self.log.state_at(self.bases[place] + 1)
            self.assertEqual(state.next_offset, self.entry(self.bases[place] + 1).next_offset)

    def test_checkpoint(self):
        """A checkpoint in the segment is where a fold begins; one behind the entry, or before, is none."""
        base = self.bases[1]
        folds = []
        real = reading.fold

        def fold(segment, state, index):
            folds.append(state.index)
            return real(segment, state, index)

        last = self.bases[2] - 2
        with patch.object(reading, "fold", fold):
            for at, begin in (
                (base + 1, base + 1),
                (base - 1, base - 1),
                (last, last),
                (last + 1, base - 1),
                (base - 2, base - 1),
            ):
                self.log._checkpoint = self.log.state_at(at)
                folds.clear()
                self.assertEqual(self.log.state_at(last).index, last)
                self.assertEqual(folds[-1], begin, at)

    def test_hot(self):
        """What is in the active segment, or still to come, is told."""
        last = self.bases[-1]
        self.assertEqual(
            [self.log.is_active(index) for index in (1, last - 1, last, 31)], [False, False, True, True]
        )
        edge = self.entry(last).base_offset
        self.assertEqual(
            [self.log.is_hot(offset) for offset in (edge - 1, edge, edge + 99)], [False, True, True]
        )
        self.assertEqual(self.log.active_size, self.position(30) + self.entry(30).size)

    def test_sealed(self):
        """Sealed segments are found by their first index alone, and described."""
        for place, base in enumerate(self.bases):
            found = self.log.sealed_segment(base)
            self.assertIs(found, self.segments[place] if base != self.bases[-1] else None)
            self.assertIsNone(self.log.sealed_segment(base + 1))
        self.assertIsNone(self.log.sealed_segment(0))
        self.assertIsNone(self.log.sealed_segment(99))
        second = self.bases[1]
        self.assertEqual(
            self.log.sealed_segments()[0],
            SealedSegment(
                1,
                0,
                self.entry(second).base_offset,
                self.position(second - 1) + self.entry(second - 1).size,
                self.entry(second - 1).timestamp,
            ),
        )
        self.assertEqual(len(self.log.sealed_segments()), len(self.bases) - 1)

    def test_end_found(self):
        """The end of a segment is taken over when it is sealed here, and is known then."""
        second = self.bases[1]
        self.log.unknown_ends = frozenset({second, 777})
        end = self.segments[1].end
        for base, left in ((777, {second, 777}), (self.bases[-1], {second, 777}), (second, {777})):
            self.log.end_found(base, end, 55)
            self.assertEqual(self.log.unknown_ends, left)
        self.assertEqual((self.segments[1].end, self.segments[1].newest_timestamp), (end, 55))
        self.assertNotEqual(self.segments[-1].newest_timestamp, 55)

    def test_reads(self):
        """A read begins with the entry that holds its offset, and ends at what is committed and durable."""
        for index in (1, 2, 30):
            entry = self.entry(index)
            for offset in (entry.base_offset, entry.base_offset + 1):
                self.assertEqual(self.log.read(offset, 0, 30), (entry.frame, entry.next_offset))
        self.assertEqual(self.log.read(self.log.next_offset, 0, 30), (b"", self.log.next_offset))
        self.assertEqual(self.log.read(0, 1 << 20, 0), (b"", 0))
        frames, next_offset = self.log.read(0, 1 << 20, 2)
        self.assertEqual((frames, next_offset), (self.entry(1).frame + self.entry(2).frame, 4))
        self.assertEqual(self.log.read(4, 100, 2), (b"", 4))

    def test_out_of_range(self):
        """Below what is held nothing is read, and what is there is told."""
        self.log.trim_prefix(self.entry(self.bases[1]).base_offset)
        first = self.log.first_offset
        self.assertEqual(first, self.entry(self.bases[1]).base_offset)
        for look in (lambda: self.log.read(first - 1, 10, 30), lambda: self.log.index_of_offset(first - 1)):
            error = self.assertRaises(OffsetOutOfRangeError, look)
            self.assertEqual((error.lowest, error.next_offset), (first, self.log.next_offset))
        self.assertEqual(self.log.index_of_offset(first), self.bases[1])
        self.assertEqual(self.log.lowest_offset, first)
        self.assertRaises(OffsetOutOfRangeError, self.log.index_of_offset, self.log.next_offset)

    def test_not_durable(self):
        """What is written and not synced is neither read nor found."""
        entry = self.writer.records(2, 60)
        self.log.append([entry])
        self.assertEqual((self.log.last_index, self.log.durable_index), (31, 30))
        self.assertEqual(self.log.read(entry.base_offset, 10, 99), (b"", entry.base_offset))
        self.assertRaises(OffsetOutOfRangeError, self.log.index_of_offset, entry.base_offset)
        self.assertIsNone(self.log.index_of_time(entry.timestamp, 99))
        self.log.sync(30)
        self.assertEqual(self.log.index_of_offset(entry.base_offset), 31)
        self.assertEqual(self.log.index_of_time(entry.timestamp, 99), 31)
        self.assertIsNone(self.log.index_of_time(entry.timestamp, 30))

    def test_damage_that_is_known(self):
        """Look-ups of damaged entries end at once: by index, by offset, and by header if that is bad."""
        from loghouse.storage.examination import DamagedEntries

        fields = {
            "seed": self.log.seed,
            "path": "/store",
            "base_index": 1,
            "segment_offset": 0,
            "position": 1,
            "end": 2,
            "previous_term": 1,
            "previous_timestamp": 1,
            "next_term": 1,
            "next_timestamp": 1,
            "problem": "wrong",
        }
        damage = DamagedEntries(
            **fields,
            first_index=2,
            last_index=3,
            base_offset=self.entry(2).base_offset,
            next_offset=self.entry(3).next_offset,
        )
        payload = DamagedEntries(
            **fields, first_index=7, last_index=7, base_offset=900, next_offset=901, head=bytes(64)
        )
        self.log.note_damaged([damage, payload])
        for index in (1, 4, 6, 8):
            self.log.check_not_damaged(index)
            self.assertEqual(self.log.term_at(index), 1)
        for index in (2, 3):
            self.assertRaises(DamageError, self.log.check_not_damaged, index)
            self.assertRaises(DamageError, self.log.term_at, index)
        self.assertRaises(DamageError, self.log.check_not_damaged, 7)
        self.assertEqual(self.log.term_at(7), 1)  # its header is good
        for offset, is_damaged in (
            (damage.base_offset - 1, False),
            (damage.base_offset, True),
            (damage.next_offset - 1, True),
            (damage.next_offset, False),
        ):
            if is_damaged:
                self.assertRaises(DamageError, self.log.read, offset, 0, 30)
            else:
                self.assertTrue(self.log.read(offset, 0, 30)[0])
        self.log.note_damaged([])
        self.log.check_not_damaged(2)

    def test_open_segments(self):
        """Of the sealed segments that were read so many stay open: those first looked at last."""
        self.patch(reading, "OPEN_SEGMENTS_MAX", 2)
        for base in (self.bases[0], self.bases[1], self.bases[0], self.bases[2]):
            self.log.entries(base, base + 1, 0)
            self.log.read(self.entry(base).base_offset, 0, 30)
        self.assertEqual(list(self.log._open_segments), [self.bases[1], self.bases[2]])
        self.assertEqual([segment.is_open for segment in self.segments[:3]], [False, True, True])

    def test_gone(self):
        """A file that is gone is damage, named; a look at a view that was swapped is taken again."""
        path = self.segments[0].path
        self.segments[0].let_go()
        self.disk.unlink(path)
        error = self.assertRaises(DamageError, self.log.entries, 1, 2, 0)
        self.assertEqual((error.position, error.problem), (0, "a file is gone"))
        self.assertIn("stop the node", str(error))
        error = FileNotFoundError(errno.ENOENT, "gone", path)
        with patch.object(Segment, "frame_header", side_effect=error):
            self.assertEqual(self.assertRaises(DamageError, self.log.entries, 1, 2, 0).file, path)
        with patch.object(Segment, "frame_header", side_effect=FileNotFoundError()):
            self.assertEqual(self.assertRaises(DamageError, self.log.entries, 1, 2, 0).file, DIRECTORY)

    def test_views(self):
        """A view ends where its last segment ends, and is durable no farther than another one."""
        whole = make_view(self.segments)
        self.assertEqual((whole.first_index, whole.last_index, whole.durable_index), (1, 30, 30))
        self.assertEqual(whole.durable_offset, self.log.next_offset)
        shorter = make_view(self.segments[:2])
        self.assertEqual((shorter.last_index, shorter.durable_index), (self.bases[2] - 1,) * 2)
        self.assertEqual(shorter.end_of(0), self.segments[0].end)
        self.assertEqual(shorter.end_of(1), shorter.end)
        bounded = make_view(self.segments, durable=shorter)
        self.assertEqual(
            (bounded.durable_index, bounded.durable_offset, bounded.last_index),
            (shorter.durable_index, shorter.durable_offset, 30),
        )
        self.assertEqual(make_view(self.segments[:2], durable=whole).durable_index, shorter.last_index)
        # What is appended since is not in a view of before.
        end = whole.end
        self.log.append([self.writer.records(1, 20)])
        self.assertEqual(whole.end_of(len(self.segments) - 1), end)
        self.assertEqual(self.segments[-1].end.count, end.count + 1)

    def test_times(self):
        """The first record at or after a time is found, behind what is trimmed and what has no records."""
        log = self.log
        for index in (1, 2, 29, 30):
            self.assertEqual(log.index_of_time(self.entry(index).timestamp, 30), index)
        self.assertIsNone(log.index_of_time(self.entry(30).timestamp + 1, 30))
        self.assertIsNone(log.index_of_time(self.entry(9).timestamp, 8))
        found = log.find_time(self.entry(4).timestamp, 30, 0)
        self.assertEqual(found, (self.entry(6).base_offset, self.entry(6).timestamp))
        self.assertIsNone(log.find_time(self.entry(4).timestamp, 5, 0))
        self.assertEqual(log.find_time(self.entry(4).timestamp, 6, 0), found)
        entry = self.entry(8)
        for lowest, offset, index in (
            (entry.base_offset, entry.base_offset, 8),
            (entry.base_offset + 1, entry.base_offset + 1, 8),
            (entry.next_offset, entry.next_offset, 9),
        ):
            self.assertEqual(log.find_time(0, 30, lowest), (offset, self.entry(index).timestamp))
        self.assertIsNone(log.find_time(0, 30, log.next_offset))
        self.assertIsNone(log.find_time(self.entry(30).timestamp + 1, 30, 0))
