"""The log on a real file system, against a list."""

import itertools
import os
import random
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import EntryDamagedError, OffsetOutOfRangeError
from loghouse.limits import KIB, STORE_HEADER_SIZE
from loghouse.protocol.cursors import WITH_RECORDS, CursorAction
from loghouse.protocol.entry import EntryKind, decode_entries
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.storage.files import OsFiles
from loghouse.storage.log import Log
from loghouse.storage.recovery import SPARE_PREFIX, STORE
from tests.storage.entries import CLUSTER, GROUP, SEED, Writer, create_log


def frames_of(log, size_max=5000, high=10**9):
    """Read everything that is readable, as a consumer would."""
    offset, found = log.first_offset, []
    while True:
        frames, next_offset = log.read(offset, size_max, high)
        if not frames:
            return found
        assert next_offset > offset
        found += list(decode_entries(SEED, frames))
        offset = next_offset


class LogCase(SynchronousTestCase):
    """A log with small segments in a temporary directory."""

    def setUp(self):
        self.directory = os.path.join(os.path.abspath(self.mktemp()), "logs", "1")
        os.makedirs(self.directory)
        create_log(OsFiles(), self.directory)
        self.log = self.open()

    def tearDown(self):
        self.log.close()

    def open(self, **sizes):
        options = {"segment_size": 16384, "reserve_size": 4096, **sizes}
        return Log.open(OsFiles(), self.directory, cluster=CLUSTER, group=GROUP, **options)

    def sizes(self, suffix):
        """Return the sizes of the files with that ending, in the order of their names."""
        folder = Path(self.directory)
        return [path.stat().st_size for path in sorted(folder.glob(f"0*.{suffix}"))]

    def reopen(self, **sizes):
        self.log.close()
        self.log = self.open(**sizes)

    def check(self, entries):
        """The log holds exactly these entries, every way of looking at it."""
        log = self.log
        self.assertEqual(log.last_index, entries[-1].index)
        self.assertEqual(log.next_offset, entries[-1].next_offset)
        records = [entry.frame for entry in entries if entry.kind == EntryKind.RECORDS]
        self.assertEqual([e.frame for e in frames_of(log) if e.kind == EntryKind.RECORDS], records)
        state = log.state_at(entries[0].index - 1)
        for entry in entries:
            state.apply(entry)
            self.assertEqual(log.term_at(entry.index), entry.term)
            self.assertEqual(log.entries(entry.index, entry.index + 1, 0)[0].frame, entry.frame)
            self.assertEqual(log.index_of_time(entry.timestamp, 10**9), entry.index)
            for offset in range(entry.base_offset, entry.next_offset):
                self.assertEqual(log.index_of_offset(offset), entry.index)
        for entry in entries[:: max(1, len(entries) // 10)]:
            self.assertEqual(log.state_at(entry.index).next_offset, entry.next_offset)
        self.assertEqual(encode_log_state(log.state), encode_log_state(state))


class LogTests(LogCase):
    """Append, read, look up, cut, trim and install, over several segments."""

    def fill(self, count=600):
        writer = Writer(self.log.state)
        entries = [writer.records(i % 4 + 1, i % 90) if i % 5 else writer.noop() for i in range(count)]
        self.log.append(entries)
        self.log.sync(entries[-1].index)
        return entries

    def test_reads_back_what_was_appended(self):
        """Everything appended is read back, by index, offset and time, before and after a reopening."""
        entries = self.fill()
        self.assertGreater(len(self.log.sealed_segments()), 3)
        self.check(entries)
        self.reopen()
        self.assertEqual(self.log.warnings, ())
        self.check(entries)

    def test_cursors(self):
        """Cursors come back with the state, also where a segment ends between an advance and its records."""
        writer = Writer(self.log.state)
        epoch = writer.cursor(CursorAction.ACQUIRE, holder="h", subject="ann")
        entries = [epoch]
        for number in range(1, 150):
            advance = {"epoch": epoch.index, "position": number, "flags": WITH_RECORDS}
            entries += [writer.cursor(CursorAction.ADVANCE, **advance), writer.records(2, 300)]
        self.log.append(entries)
        self.log.sync(entries[-1].index)
        for _ in range(2):
            self.check(entries)
            for entry in entries:
                position = self.log.state_at(entry.index).cursors.by_name["billing"].position
                self.assertEqual(position, (entry.index - epoch.index) // 2)
            self.reopen()
        awaited = [
            self.log.state_at(one.base_index - 1).cursors.awaited for one in self.log.sealed_segments()
        ]
        self.assertIn(True, [one is not None for one in awaited])
        self.log.truncate_suffix(entries[-2].index)
        self.assertEqual(self.log.state.cursors.by_name["billing"].position, 148)
        self.assertIsNotNone(self.log.state.cursors.awaited)

    def test_segments_grow(self):
        """A log begins with a small segment; each further one is twice as large, with its share of index."""
        self.reopen(segment_size=64 * KIB, first_size=8 * KIB)
        writer = Writer(self.log.state)
        self.log.append([writer.records(1, 1000) for _ in range(200)])
        self.assertEqual(self.sizes("store"), [16 * KIB, 32 * KIB, 64 * KIB, 64 * KIB, 64 * KIB])
        self.assertEqual(self.sizes("index"), [size // 8 for size in self.sizes("store")])

    def test_growth_goes_on(self):
        """After a start, a cut and a large entry the next segment is twice the last one."""
        self.reopen(segment_size=64 * KIB, first_size=8 * KIB)
        writer = Writer(self.log.state)
        self.log.append([writer.records(1, 1000) for _ in range(20)])
        self.reopen(segment_size=64 * KIB, first_size=8 * KIB)
        self.assertEqual(self.sizes("store"), [16 * KIB, 32 * KIB])
        self.log.truncate_suffix(1)
        writer = Writer(self.log.state)
        self.log.append([writer.records(1, 1000), writer.records(1, 40_000)])
        first, last = self.sizes("store")
        self.assertEqual((first, last), (16 * KIB, STORE_HEADER_SIZE + self.log.entries(3, 4, 0)[0].size))

    def test_room_for_the_next_segment(self):
        """Half of any segment in use makes the next one due, and it is made in its own size."""
        self.reopen(segment_size=64 * KIB, first_size=8 * KIB)
        self.log.truncate_suffix(0)
        self.log.append([Writer(self.log.state).records(1, 100)])
        self.assertFalse(self.log.is_half_full)
        self.log.append([Writer(self.log.state).records(1, 6000)])
        self.assertTrue(self.log.is_half_full)
        self.log.prepare()
        spare = Path(self.directory, f"{SPARE_PREFIX}0{STORE}")
        self.assertEqual(spare.stat().st_size, 2 * self.sizes("store")[0])

    def test_rolls_when_the_index_is_full(self):
        """A full index ends a segment although its store has room."""
        self.reopen(index_size=10 * 12)
        entries = self.fill(400)
        bases = [segment.base_index for segment in self.log.sealed_segments()][1:]
        self.assertGreater(len(bases), 5)
        self.assertEqual({after - before for before, after in itertools.pairwise(bases)}, {10})
        self.check(entries)

    def test_entry_larger_than_a_segment(self):
        """An entry that fits no segment gets one of its own size."""
        writer = Writer()
        entries = [writer.records(), writer.records(1, 50_000), writer.records()]
        self.log.append(entries)
        self.log.sync(3)
        self.check(entries)
        self.reopen()
        self.check(entries)

    def check_empty_segment_gives_way(self):
        """An entry that the empty last segment has no room for goes into one that takes its place."""
        writer = Writer(self.log.state)
        base = writer.state.index + 1
        entries = [writer.records(1, 20_000), writer.records(1, 20_000), writer.noop(), writer.records()]
        for entry in entries:
            self.log.append([entry])
            self.log.sync(entry.index)
        bases = [segment.base_index for segment in self.log.sealed_segments()]
        self.assertEqual([index for index in bases if index >= base], [base, base + 1])
        # Of two segments with the same files, a trim removed those of the one that held the entry.
        self.log.trim_prefix(entries[0].base_offset)
        self.assertEqual(self.log.first_index, base)
        self.check(entries)
        self.reopen()
        self.check(entries)
        self.log.trim_prefix(entries[1].base_offset)
        self.check(entries[1:])
        self.log.install_start(writer.state)
        self.assertEqual((self.log.first_index, self.log.last_index), (base + 4, base + 3))

    def test_first_entry_too_large_for_a_new_segment(self):
        """Behind a start, too, an entry may be larger than a segment is made."""
        self.fill(100)
        writer = Writer(self.log.state)
        for _ in range(50):
            writer.records()
        self.log.install_start(writer.state)
        self.check_empty_segment_gives_way()

    def test_first_entry_too_large_after_a_cut(self):
        """The same when everything was cut."""
        self.fill()
        self.log.truncate_suffix(0)
        self.check_empty_segment_gives_way()

    def test_reads_only_what_is_durable_and_committed(self):
        """A read ends at the durable end and at the caller's high index."""
        writer = Writer()
        self.log.append([writer.records(2), writer.records(3)])
        self.assertEqual(self.log.read(0, 1000, 9), (b"", 0))
        self.assertEqual(len(self.log.entries(1, 3, 1000)), 2)
        self.log.sync(1)
        frames, next_offset = self.log.read(0, 1000, 1)
        self.assertEqual(([e.index for e in decode_entries(SEED, frames)], next_offset), ([1], 2))
        self.assertEqual(self.log.read(2, 1000, 1), (b"", 2))
        self.assertEqual(self.log.read(2, 1000, 2)[1], 5)
        self.assertEqual(self.log.durable_index, 2)

    def test_size_max(self):
        """A read returns as many whole frames as fit, and at least one."""
        entries = self.fill(50)
        for size_max in (0, 64, 100, 500, 1000, 4000):
            frames, _ = self.log.read(0, size_max, 10**9)
            count = len(list(decode_entries(SEED, frames)))
            sizes = [entry.size for entry in entries[1:]]  # the first holds no record
            fitting = next((n for n in range(50) if sum(sizes[: n + 1]) > size_max), 49)
            self.assertEqual(count, max(fitting, 1), size_max)

    def test_out_of_range(self):
        """What is below the log, and looking up what is not there, are typed errors."""
        self.fill(10)
        with self.assertRaises(OffsetOutOfRangeError):
            self.log.index_of_offset(self.log.next_offset)
        with self.assertRaises(LookupError):
            self.log.term_at(11)
        with self.assertRaises(LookupError):
            self.log.state_at(11)
        with self.assertRaises(LookupError):
            self.log.entries(11, 12, 100)

    def test_refuses_what_does_not_join(self):
        """Entries that do not follow the last one are refused, and nothing is written."""
        entries = self.fill(10)
        stray = Writer(LogState(index=40)).records()
        with self.assertRaises(EntryDamagedError):
            self.log.append([Writer(self.log.state).records(), stray])
        self.check(entries)

    def test_cut(self):
        """A cut keeps exactly the entries up to an index, in any segment, and appends go on."""
        entries = self.fill()
        rng = random.Random(1)
        while len(entries) > 1:
            keep = rng.randrange(max(0, len(entries) - 150), len(entries))
            self.log.truncate_suffix(keep)
            entries = entries[:keep]
            writer = Writer(self.log.state)
            new = [writer.records(2, 30, term=writer.state.term + 1) for _ in range(3)]
            self.log.append(new)
            self.log.sync(0)
            entries += new
            self.check(entries)
            if rng.random() < 0.5:
                self.reopen()
                self.check(entries)
            entries = entries[: len(entries) - 3] if len(entries) > 20 else entries[:1]
            self.log.truncate_suffix(len(entries))

    def test_cut_everything(self):
        """A cut may leave nothing."""
        self.fill()
        self.log.truncate_suffix(0)
        self.assertEqual((self.log.first_index, self.log.last_index, self.log.next_offset), (1, 0, 0))
        self.check(self.fill(20))

    def test_trim(self):
        """A trim removes whole segments below the lowest offset, and no entry that must stay."""
        entries = self.fill()
        sealed = self.log.sealed_segments()
        self.assertEqual(self.log.trim_prefix(sealed[1].next_offset - 1), sealed[1].base_index)
        self.assertEqual(
            self.log.trim_prefix(sealed[2].next_offset, sealed[1].base_index), sealed[1].base_index
        )
        first = sealed[1].base_index
        self.assertEqual(self.log.first_offset, sealed[1].base_offset)
        self.check(entries[first - 1 :])
        with self.assertRaises(OffsetOutOfRangeError):
            self.log.read(0, 100, 10**9)
        self.reopen()
        self.assertEqual(self.log.first_index, first)
        self.check(entries[first - 1 :])
        self.assertEqual(self.log.term_at(first - 1), 1)

    def test_install_start(self):
        """Installing a start forgets the log and goes on behind the state."""
        entries = self.fill()
        state = self.log.state
        state.index, state.term, state.next_offset = 5000, 7, 9000
        self.log.install_start(state)
        self.assertEqual((self.log.first_index, self.log.last_index, self.log.last_term), (5001, 5000, 7))
        self.assertEqual(self.log.lowest_offset, 9000)
        writer = Writer(self.log.state)
        entries = [writer.records(term=8) for _ in range(5)]
        self.log.append(entries)
        self.log.sync(5000)
        self.reopen()
        self.check(entries)

    def test_find_time(self):
        """A time finds the first record at or after it, passing over entries without records."""
        entries = self.fill(30)
        self.assertEqual(self.log.find_time(0, 30, 0), (0, entries[1].timestamp))
        noop = entries[25]
        self.assertEqual(
            self.log.find_time(noop.timestamp, 30, 0), (entries[26].base_offset, entries[26].timestamp)
        )
        self.assertIsNone(self.log.find_time(noop.timestamp, 26, 0))
        self.assertIsNone(self.log.find_time(10**9, 30, 0))

    def test_find_time_above_a_lowest_offset(self):
        """Trimmed records are passed over, whole segments of them and within an entry."""
        entries = self.fill(30)
        for lowest in range(self.log.next_offset):
            holder = next(entry for entry in entries if entry.base_offset <= lowest < entry.next_offset)
            self.assertEqual(self.log.find_time(0, 30, lowest), (lowest, holder.timestamp))
            late = entries[28]
            self.assertEqual(
                self.log.find_time(late.timestamp, 30, lowest),
                (max(late.base_offset, lowest), max(late.timestamp, holder.timestamp)),
            )
        self.assertIsNone(self.log.find_time(0, 30, self.log.next_offset))

    def test_hard_state(self):
        """Term and vote are there after a reopening."""
        self.log.save_hard_state(term=3, vote=2)
        self.reopen()
        self.assertEqual((self.log.hard_state.term, self.log.hard_state.vote), (3, 2))
