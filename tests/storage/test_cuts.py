"""Cuts, checkpoints and starts of a log: what they leave in memory, in the watermark and in the index."""

import errno
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DiskFailedError,
    DiskFullError,
    EntryDamagedError,
    LoghouseError,
)
from loghouse.limits import INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import EntryKind, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.storage import log as log_module
from loghouse.storage import opening
from loghouse.storage.held import Held, outdated_problem, read_held
from loghouse.storage.opening import Survey, keep_aside, survey
from loghouse.storage.start import FLAG_BEHIND_STORE, STATE_MAGIC, encode_state_file
from loghouse.storage.store import newest_watermark
from loghouse.testing.disk import SimDisk
from tests.storage.entries import Writer, frames_of, open_directory

DIRECTORY = "/data/logs/1"
SEGMENT_SIZE = 4096 + 1024


class CutCase(SynchronousTestCase):
    """A log of some small segments on a simulated disk."""

    def setUp(self):
        self.disk = SimDisk()
        self.log = self.open()
        self.writer = Writer(seed=self.log.seed)

    def open(self, *, restart=False, **options):
        if restart:
            self.disk.stop_process()
        directory = open_directory(self.disk, segment_size=SEGMENT_SIZE, reserve_size=512)
        self.cluster = directory.identity.cluster_uuid
        return directory.open_log(**options)

    def fill(self, count=30, size=100, **fields):
        """Append so many entries, each of them synced and committed."""
        self.log.save_hard_state(term=9, vote=0)
        entries = [self.writer.records(2, size, **fields) for _ in range(count)]
        for entry in entries:
            self.log.append([entry])
            self.log.sync(entry.index)
        return entries

    def watermark(self, base):
        block = self.disk.content(f"{DIRECTORY}/{base:020d}.store")[:STORE_HEADER_SIZE]
        return newest_watermark(block, self.log.seed)

    def bases(self):
        return list(self.log.view.base_indexes)

    def look(self, **options):
        return survey(self.disk, DIRECTORY, cluster=self.cluster, group=1, **options)


class TruncateTests(CutCase):
    """`truncate_suffix`."""

    def test_into_a_sealed_segment(self):
        """The segment that becomes the last one takes appends again, and says how far it is durable."""
        entries = self.fill()
        base = self.bases()[2]
        before = self.watermark(base)
        self.log.truncate_suffix(base + 1)
        self.assertEqual((self.log.last_index, self.bases()[-1]), (base + 1, base))
        after = self.watermark(base)
        self.assertEqual(
            (after.counter, after.durable_index, after.durable_term, after.commit_index),
            (before.counter + 1, base + 1, 1, 30),
        )
        self.assertEqual(after.position, STORE_HEADER_SIZE + 2 * entries[0].size)
        self.assertEqual(self.log.commit_index, 30)
        self.log.append([Writer(self.log.state, self.log.seed).records(1, 50, term=9)])
        self.log.sync(base + 2)
        self.assertEqual(self.watermark(base).counter, before.counter + 2)
        self.assertEqual(self.open(restart=True).last_index, base + 2)

    def test_within_the_last_segment(self):
        """A cut there lowers the newest watermark, and never raises it."""
        self.fill()
        self.log.append([self.writer.records(2, 50), self.writer.records(2, 50)])
        newest = self.log._watermark
        self.assertEqual(newest.durable_index, 30)
        self.log.truncate_suffix(31)
        lowered = self.log._watermark
        self.assertEqual(
            (lowered.counter, lowered.durable_index, lowered.position),
            (newest.counter + 1, 30, newest.position),
        )
        self.assertEqual((self.log.durable_index, self.log.last_index), (30, 31))

    def test_damaged_watermark(self):
        """A sealed segment without a good watermark gets one that counts on."""
        self.fill()
        base = self.bases()[1]
        for position in (1030, 2054):
            self.disk.flip(f"{DIRECTORY}/{base:020d}.store", 8 * position)
        counter = self.log._watermark.counter
        self.log.truncate_suffix(base)
        self.assertEqual(self.watermark(base).counter, counter + 1)
        self.assertEqual(self.watermark(base).durable_index, base)

    def test_times(self):
        """After a cut the newest time is that of the last entry left."""
        entries = self.fill()
        self.log.truncate_suffix(17)
        self.assertEqual(self.log.index_of_time(entries[16].timestamp, 99), 17)
        self.assertIsNone(self.log.index_of_time(entries[16].timestamp + 1, 99))

    def test_nothing_to_cut(self):
        """At or behind the end nothing is cut, and nothing is done; below the beginning nobody cuts."""
        self.fill(5)
        operations = self.disk.operations
        self.log.truncate_suffix(5)
        self.log.truncate_suffix(99)
        self.assertEqual((self.disk.operations, self.log.last_index), (operations, 5))
        self.log.trim_prefix(0)
        self.assertRaises(AssertionError, self.log.truncate_suffix, -1)
        self.log.truncate_suffix(0)
        self.assertEqual(self.log.last_index, 0)

    def test_open_files(self):
        """Segments that are cut away, or take appends again, are no sealed ones that stay open."""
        self.fill()
        bases = self.bases()
        for base in bases[:-1]:
            self.log.entries(base, base + 1, 0)
        self.assertEqual(sorted(self.log._open_segments), bases[:-1])
        self.log.truncate_suffix(bases[2])
        self.assertEqual(sorted(self.log._open_segments), bases[:2])

    def test_index(self):
        """A segment whose index is gone or short takes appends again with one as large as before."""
        for content in (None, b"", bytes(INDEX_ENTRY_SIZE), b"\xff" * 640):
            self.setUp()
            entries = self.fill()
            base = self.bases()[2]
            path = f"{DIRECTORY}/{base:020d}.index"
            size = len(self.disk.content(path))
            for segment in self.log.view.segments[:-1]:
                segment.let_go()
            if content is None:
                self.disk.unlink(path)
            else:
                self.disk.replace(path, content)
            self.log.truncate_suffix(base + 1)
            self.assertEqual(len(self.disk.content(path)), size)
            self.assertEqual(self.log.term_at(base + 1), 1)
            writer = Writer(self.log.state, self.log.seed)
            more = [writer.records(1, 50) for _ in range(20)]
            self.log.append(more)
            self.assertEqual(frames_of(self.log), [entry.frame for entry in [*entries[: base + 1], *more]])

    def test_empty_index(self):
        """A cut at the beginning of a segment keeps its index file, or makes one when it is gone."""
        for is_gone in (False, True):
            self.setUp()
            self.fill()
            path = f"{DIRECTORY}/{1:020d}.index"
            size = len(self.disk.content(path))
            self.log.view.segments[0].let_go()
            if is_gone:
                self.disk.unlink(path)
            self.log.truncate_suffix(0)
            self.assertEqual(len(self.disk.content(path)), size)
            self.log.append([Writer(self.log.state, self.log.seed).records()])
            self.assertEqual(self.log.last_index, 1)

    def test_room(self):
        """The segment that was cut keeps its size, and its bytes behind the cut are zero."""
        self.fill()
        base = self.bases()[1]
        self.log.truncate_suffix(base)
        content = self.disk.content(f"{DIRECTORY}/{base:020d}.store")
        self.assertEqual(len(content), SEGMENT_SIZE)
        self.assertEqual(content[self.log.active_size :].strip(b"\0"), b"")


class CheckpointTests(CutCase):
    """A state that is kept so that little is folded."""

    def setUp(self):
        super().setUp()
        self.patch(log_module, "CHECKPOINT_ENTRIES", 4)

    def test_moves(self):
        """It moves once enough entries are behind it, and only to one that is committed."""
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint), (0, None))
        self.log.append([self.writer.records() for _ in range(3)])
        self.log.sync(0)
        self.assertIsNone(self.log._next_checkpoint)
        self.log.append([self.writer.records()])
        self.log.sync(0)
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint.index), (0, 4))
        self.log.append([self.writer.records()])
        self.log.sync(3)
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint.index), (0, 4))
        self.log.append([self.writer.records()])
        self.log.sync(4)
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint), (4, None))
        self.log.append([self.writer.records() for _ in range(2)])
        self.log.sync(5)
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint.index), (4, 8))

    def test_kept_apart(self):
        """It is a state of its own: what is appended, or asked for, does not change it."""
        self.fill(9)
        checkpoint = encode_log_state(self.log._checkpoint)
        self.fill(2)
        self.log.state_at(10)
        self.assertEqual(encode_log_state(self.log._checkpoint), checkpoint)
        self.assertEqual(self.log.state_at(7).index, 7)

    def test_cut(self):
        """A cut begins it anew at the end of the log."""
        self.fill(11)
        self.log.append([self.writer.records() for _ in range(4)])
        self.log.sync(11)
        self.log.truncate_suffix(3)
        self.assertEqual((self.log._checkpoint.index, self.log._next_checkpoint), (3, None))
        self.log.append([Writer(self.log.state, self.log.seed).records()])
        self.assertEqual((self.log._checkpoint.index, self.log.state_at(3).next_offset), (3, 6))


class WritingTests(CutCase):
    """What is refused, and what comes of errors."""

    def entry(self, **fields):
        state = self.log.state
        options = {"index": state.index + 1, "term": 1, "base_offset": state.next_offset, "timestamp": 10**9}
        return make_entry(self.log.seed, **{**options, **fields})

    def test_refused_entries(self):
        """An unknown producer, or a payload that its kind cannot have, is refused before it is written."""
        self.fill(2)
        before = self.disk.contents()
        for fields in (
            {"kind": EntryKind.RECORDS, "payload": b"x", "record_count": 1, "producer_id": 7},
            {"kind": EntryKind.CONFIGURATION, "payload": b"?"},
            {"kind": EntryKind.TRIM, "payload": b"?"},
            {"kind": EntryKind.PRODUCER, "payload": b""},
        ):
            error = self.assertRaises(LoghouseError, self.log.append, [self.entry(**fields)])
            if fields["kind"] == EntryKind.RECORDS:
                self.assertIsInstance(error, EntryDamagedError)
                self.assertIn("entry 3 is of unknown producer 7", str(error))
            self.assertEqual((self.disk.contents(), self.log.failure, self.log.last_index), (before, "", 2))

    def test_producer_among_them(self):
        """A producer that is registered by an entry before is known, whether it is written already or not."""
        producer = self.writer.producer("me")
        first = self.writer.records(1, 20, producer_id=producer.index, producer_sequence=0)
        self.log.append([producer, first])
        self.log.append([self.writer.records(1, 20, producer_id=producer.index, producer_sequence=1)])
        self.assertEqual(list(self.log.state.producers), [1])
        error = self.assertRaises(
            EntryDamagedError,
            self.log.append,
            [self.entry(kind=EntryKind.RECORDS, payload=b"x", record_count=1, producer_id=2)],
        )
        self.assertIn("unknown producer 2", str(error))

    def test_no_room_after_all(self):
        """A disk without room where there was some is a full one; what was written stays."""
        self.fill(2)
        free = self.disk.fill("segment")
        error = self.assertRaises(DiskFullError, self.log.append, [self.writer.records()])
        self.assertIn(DIRECTORY, str(error))
        self.assertEqual((self.log.last_index, self.log.failure), (2, ""))
        free()
        self.log.append([Writer(self.log.state, self.log.seed).records()])
        self.assertEqual(self.log.last_index, 3)

    def test_refused_since(self):
        """After a failure every writing call is refused with what failed."""
        self.fill(2)
        self.disk.fail(errno.EIO, kinds=("pwritev",))
        error = self.assertRaises(DiskFailedError, self.log.append, [self.writer.records()])
        self.assertIn(f"{DIRECTORY}: append: ", str(error))
        self.assertIn("; the node must stop, check the disk before a restart", str(error))
        for work in (
            lambda: self.log.sync(9),
            self.log.prepare,
            lambda: self.log.truncate_suffix(0),
            lambda: self.log.install_start(LogState(index=9, term=1)),
            lambda: self.log.save_hard_state(term=10, vote=0),
        ):
            error = self.assertRaises(DiskFailedError, work)
            self.assertIn(f"{DIRECTORY}: writing is refused since: append: ", str(error))

    def test_closed(self):
        """A clean stop makes all durable, says so, and refuses writing; nothing stays open."""
        self.fill(12)
        self.log.append([self.writer.records()])
        self.log.prepare()
        for base in self.bases()[:-1]:
            self.log.entries(base, base + 1, 0)
        syncs = []
        self.disk.on_operation = lambda kind, path, size: syncs.append((kind, path.rpartition("/")[2]))
        self.log.close()
        self.disk.on_operation = None
        store = f"{self.bases()[-1]:020d}.store"
        self.assertEqual(syncs.count(("fdatasync", store)), 2)  # entries, then the watermark
        self.assertEqual(self.watermark(self.bases()[-1]).durable_index, 13)
        self.assertEqual(
            read_held(self.disk, DIRECTORY, self.log.seed), Held(13, 1, HardState(9, 0), is_closed=True)
        )
        self.assertFalse([path for path in self.disk.contents() if "spare" in path])
        self.assertEqual(self.log.failure, "the log is closed")
        self.assertRaises(DiskFailedError, self.log.sync, 13)
        self.assertFalse(any(segment.is_open for segment in self.log.view.segments))

    def test_closed_after_a_failure(self):
        """A failed log is only let go, and keeps saying why it failed."""
        self.fill(3)
        self.disk.fail(errno.EIO, kinds=("fdatasync",))
        self.log.append([self.writer.records()])
        self.assertRaises(DiskFailedError, self.log.sync, 3)
        failure, operations = self.log.failure, self.disk.operations
        self.log.close()
        self.assertEqual((self.log.failure, self.disk.operations), (failure, operations))

    def test_sync_of_nothing(self):
        """A sync with nothing new does nothing; a commit index never falls, nor passes what is written."""
        self.fill(3)
        operations = self.disk.operations
        for commit_index in (0, 2, 3, 99):
            self.log.sync(commit_index)
        self.assertEqual((self.disk.operations, self.log.commit_index), (operations, 3))
        self.log.append([self.writer.records()])
        self.log.sync(1)
        self.assertEqual((self.log.commit_index, self.log.durable_index), (3, 4))
        self.log.sync(99)
        self.assertEqual(self.log.commit_index, 4)

    def test_sync_in_steps(self):
        """A sync in steps makes durable what was written when it began, and says so when it is finished."""
        self.fill(3)
        self.log.append([self.writer.records()])
        under_way = self.log.begin_sync(99)
        under_way.run()
        self.assertEqual((self.log.durable_index, self.log.commit_index), (3, 3))
        self.disk.fail(errno.ENOSPC, kinds=("pwritev",))
        self.assertRaises(DiskFullError, under_way.finish)
        self.assertEqual((self.log.failure, self.log.commit_index), ("", 3))
        again = self.log.begin_sync(3)
        again.run()
        again.finish()
        self.assertEqual((self.log.durable_index, self.log.commit_index), (4, 3))
        self.assertEqual(self.watermark(self.log.view.segments[-1].base_index).durable_index, 4)

    def test_failed_sync_in_steps(self):
        """A sync that failed fails the log for good, on whichever thread it was."""
        self.fill(3)
        self.log.append([self.writer.records()])
        under_way = self.log.begin_sync(3)
        self.disk.fail(errno.EIO, kinds=("fdatasync",))
        self.assertRaises(DiskFailedError, under_way.run)
        self.assertIn("sync", self.log.failure)
        self.assertRaises(DiskFailedError, under_way.finish)
        self.assertEqual(self.log.durable_index, 3)


class OpeningTests(CutCase):
    """What a start makes of what it finds."""

    def test_left(self):
        """Damage at the end of a sealed segment is left to mending when all its entries are committed."""
        self.fill()
        last = self.log.view.segments[-2]
        position = last.frame_header(last.end.count - 1).position
        self.disk.flip(last.path, 8 * (position + 20))
        for commit_index, is_left in ((last.last_index - 1, False), (last.last_index, True)):
            for _ in range(2):  # both slots
                self.log._watermark.commit_index = 0
                self.log._sync_store(self.log._active, commit_index)
            if is_left:
                found = self.look(leaves_damage=True)
                self.assertEqual(list(found.left), [last.base_index])
                segment = found.segments[-2]
                self.assertEqual(
                    (segment.end.count, segment.end.position, segment.end.term, segment.end.next_offset),
                    (last.end.count, last.size, 1, last.end.next_offset),
                )
                self.assertEqual(segment.newest_timestamp, last.newest_timestamp)
                self.assertFalse(segment.is_open)
            else:
                error = self.assertRaises(DamageError, self.look, leaves_damage=True)
                self.assertEqual((error.file, error.position), (last.path, position))
        self.assertRaises(DamageError, self.look)

    def test_left_with_one_entry(self):
        """The same for a segment of one entry."""
        self.log.append([self.writer.records(2, 900), self.writer.records(2, 900), self.writer.records()])
        self.log.save_hard_state(term=9, vote=0)
        self.log.sync(3)
        self.assertEqual(self.bases(), [1, 2, 3])
        self.disk.flip(f"{DIRECTORY}/{2:020d}.store", 8 * (STORE_HEADER_SIZE + 20))
        self.assertEqual(list(self.look(leaves_damage=True).left), [2])

    def test_last_store_without_a_header(self):
        """A last store that a crash left without a header is left over with its companions, and no other."""
        self.fill()
        base = 31
        store = f"{base:020d}.store"
        self.disk.replace(f"{DIRECTORY}/{store}", bytes(SEGMENT_SIZE))
        found = self.look()
        self.assertEqual([segment.base_index for segment in found.segments], self.bases())
        self.assertEqual(found.plan.bases, tuple(self.bases()))
        self.assertIn(store, found.plan.leftovers)
        index = f"{base:020d}.index"
        self.disk.replace(f"{DIRECTORY}/{index}", bytes(640))
        self.assertEqual({store, index} - set(self.look().plan.leftovers), set())

    def test_only_store_without_a_header(self):
        """The only store is the log: without a header it is damage."""
        self.fill(3)
        path = f"{DIRECTORY}/{1:020d}.store"
        self.disk.replace(path, bytes(SEGMENT_SIZE))
        error = self.assertRaises(DamageError, self.look)
        self.assertEqual((error.file, error.position), (path, 0))

    def test_misplaced(self):
        """A store of another cluster, group or place is refused by what is wrong with it."""
        self.fill(3)
        for options, problem in (
            ({"cluster": bytes(16), "group": 1}, "the segment is of another cluster"),
            ({"cluster": self.cluster, "group": 2}, "the segment is of another log (group 1)"),
        ):
            with patch.object(opening, "frame_seed", lambda *_: self.log.seed):
                error = self.assertRaises(
                    DamageError, survey, self.disk, DIRECTORY, remedy="do this", **options
                )
            self.assertIn(problem, error.problem)
            self.assertIn("do this", str(error))

    def test_state_that_does_not_join(self):
        """A segment's state file counts when it joins the segment: by term and by offset."""
        self.fill()
        segment = self.log.view.segments[2]
        good = segment.state_before()
        self.assertEqual(good.index, segment.base_index - 1)
        for change in ({"term": 2}, {"next_offset": good.next_offset + 1}, {"next_offset": 0}):
            other = good.copy()
            for name, value in change.items():
                setattr(other, name, value)
            self.disk.replace(
                f"{DIRECTORY}/{segment.base_index:020d}.state",
                encode_state_file(STATE_MAGIC, self.log.seed, other, FLAG_BEHIND_STORE),
            )
            self.assertIsNone(segment.state_before())
            found = self.look()
            self.assertEqual(
                encode_log_state(opening.state_before(self.disk, found, 2)), encode_log_state(good)
            )

    def test_fold(self):
        """A state is folded from where it is: the segment's beginning, the middle of it, or not at all."""
        entries = self.fill()
        segment = self.log.view.segments[2]
        first = segment.base_index
        for begin in (first - 1, first, first + 2):
            for end in (begin, begin + 1, segment.last_index):
                state = self.log.state_at(begin)
                folded = opening.fold(segment, state.copy(), end)
                self.assertEqual(
                    (folded.index, folded.next_offset, folded.timestamp),
                    (end, entries[end - 1].next_offset, entries[end - 1].timestamp),
                )

    def test_fold_of_the_beginning(self):
        """From a segment's beginning nothing but its frames is needed: no look at any entry's place."""
        self.fill()
        segment = self.log.view.segments[1]
        state = self.log.state_at(segment.base_index - 1)
        with patch.object(type(segment), "frame_header", side_effect=AssertionError):
            self.assertEqual(opening.fold(segment, state, segment.last_index).index, segment.last_index)

    def test_damage_on_the_way(self):
        """What a state cannot be folded over is damage, at its place."""
        self.fill()
        segment = self.log.view.segments[1]
        position = segment.frame_header(1).position
        state = self.log.state_at(segment.base_index - 1)
        self.disk.flip(segment.path, 8 * (position + 20))
        error = self.assertRaises(DamageError, opening.fold, segment, state, segment.last_index)
        self.assertEqual((error.file, error.position), (segment.path, position))

    def test_installed(self):
        """The start of a log that was being installed is finished, and leaves no file open twice."""
        state = LogState(index=9, term=2, next_offset=30, timestamp=500)
        self.fill(3)
        self.log.install_start(state)
        self.assertEqual((self.log.first_index, self.log.last_index, self.log.last_term), (10, 9, 2))
        self.assertIsNone(self.log.index_of_time(1, 99))
        log = self.open(restart=True)
        self.assertEqual((log.first_index, log.next_offset, log.state.timestamp), (10, 30, 500))

    def test_being_installed(self):
        """A survey of such a log finds the start and no segment."""
        state = LogState(index=9, term=2, next_offset=30)
        opening.write_start(self.disk, DIRECTORY, self.log.seed, state, installing=True)
        found = self.look()
        self.assertIsInstance(found, Survey)
        self.assertTrue(found.is_installing)
        self.assertEqual((found.segments, found.state.index, found.start_state.index), ([], 9, 9))
        self.assertIsNot(found.state, found.start_state)

    def test_kept_aside(self):
        """A copy of what is cut is whole, replaces an older one, and leaves no file open."""
        path = f"{DIRECTORY}/x"
        self.disk.replace(path, bytes(range(256)) * 8)
        source = opening.OpenFile.open(self.disk, path)
        self.patch(opening, "MIB", 100)
        count = len(self.disk._open)
        for begin, end in ((0, 2048), (100, 200), (7, 8), (5, 1000)):
            kept = keep_aside(self.disk, DIRECTORY, "copy", source, begin, end)
            self.assertEqual(kept, f"{DIRECTORY}/lost+found/copy")
            self.assertEqual(self.disk.content(kept), self.disk.content(path)[begin:end])
        self.assertEqual(len(self.disk._open), count)
        self.disk.fail(errno.EIO, kinds=("fsync",))
        self.assertRaises(OSError, keep_aside, self.disk, DIRECTORY, "copy", source, 0, 1)
        self.assertEqual(len(self.disk._open), count)

    def test_newer_entry(self):
        """An entry of a kind from the future ends a start with what to do."""
        self.fill(2)
        state = self.log.state
        frame = make_entry(
            self.log.seed,
            index=3,
            term=1,
            kind=99,
            base_offset=state.next_offset,
            timestamp=10**9,
            payload=b"",
        ).frame
        path, at = self.log.view.segments[-1].path, self.log.active_size
        content = self.disk.content(path)
        self.disk.replace(path, content[:at] + frame + content[at + len(frame) :])
        error = self.assertRaises(DataDirectoryError, self.look)
        self.assertIn(f"{path}: byte {at}: ", str(error))
        self.assertIn("use a newer Loghouse", str(error))


class OutdatedTests(SynchronousTestCase):
    """What tells that term and vote are an older copy."""

    def test_rows(self):
        """They are at least those of the last entry, and those of the last clean stop."""
        closed = Held(5, 3, HardState(4, 2), is_closed=True)
        crashed = Held(5, 3, HardState(4, 2), is_closed=False)
        for state, last_term, held, is_old in (
            (HardState(3, 0), 3, None, False),
            (HardState(2, 1), 3, None, True),
            (HardState(4, 2), 3, closed, False),
            (HardState(3, 2), 3, closed, True),
            (HardState(3, 0), 3, closed, True),
            (HardState(4, 0), 3, closed, True),
            (HardState(4, 1), 3, closed, True),
            (HardState(5, 0), 3, closed, False),
            (HardState(5, 1), 3, closed, False),
            (HardState(3, 0), 3, crashed, False),
            (HardState(4, 1), 3, Held(5, 3, HardState(4, 0), is_closed=True), False),
        ):
            problem = outdated_problem(state, last_term=last_term, held=held)
            self.assertEqual(bool(problem), is_old, (state, last_term, held))
        self.assertEqual(
            outdated_problem(HardState(2, 1), last_term=3, held=None),
            "term 2, but there are entries of term 3: it is an older copy",
        )
        self.assertEqual(
            outdated_problem(HardState(3, 1), last_term=3, held=closed),
            "term 3 and vote 1, but it was term 4 and vote 2 when the log was closed: it is an older copy",
        )
