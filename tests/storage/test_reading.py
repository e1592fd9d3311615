"""Readers beside a writer, segments that vanish under a reader, bad sectors, bounded handles."""

import errno
import os
import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError, OffsetOutOfRangeError
from loghouse.protocol.entry import EntryKind, decode_entries
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.storage import reading
from loghouse.storage.files import OsFiles, read_file
from loghouse.storage.index import INDEX_ENTRY, OffsetIndex
from loghouse.storage.log import Log
from loghouse.storage.start import read_start
from loghouse.testing.disk import SimDisk
from tests.processes import thorough
from tests.storage.entries import CLUSTER, GROUP, SEED, Writer, create_log

DIRECTORY = "/data/logs/1"


def new_log(disk, directory=DIRECTORY, **sizes):
    if isinstance(disk, SimDisk):
        for path in ("/data", "/data/logs", DIRECTORY):
            disk.make_directory(path)
            disk.sync_directory(path.rpartition("/")[0] or "/")
    create_log(disk, directory)
    return open_log(disk, directory, **sizes)


def open_log(disk, directory=DIRECTORY, **sizes):
    options = {"segment_size": 5120, "reserve_size": 0, **sizes}
    return Log.open(disk, directory, cluster=CLUSTER, group=GROUP, **options)


def filled(disk, count, **sizes):
    log = new_log(disk, **sizes)
    writer = Writer()
    entries = [writer.records(1 + i % 3, 60) for i in range(count)]
    log.append(entries)
    log.sync(count)
    return log, entries


class SpecifiedTests(SynchronousTestCase):
    """What docs/wire_client.md and docs/disk_format.md tell those who read a log."""

    def test_entries_between_answers(self):
        """A read begins at the entry that holds its offset; one without records before it may be left out."""
        log, writer = new_log(SimDisk()), Writer()
        log.append([writer.records(), writer.noop(), writer.records(), writer.noop(), writer.records()])
        log.sync(5)
        indexes = [
            [entry.index for entry in decode_entries(SEED, log.read(offset, size, 5)[0])]
            for offset, size in ((1, 4096), (0, 64), (1, 4096))
        ]
        # Whoever goes on where a read ended may get it, too.
        self.assertEqual(indexes, [[3, 4, 5], [1], [2, 3, 4, 5]])

    def test_index_behind_the_last_entry(self):
        """An index is as large from the start as it ever gets; a cut leaves its places as they were."""
        disk = SimDisk()
        log, _ = filled(disk, 6)
        index = read_file(disk, f"{DIRECTORY}/{1:020}.index", 8192)
        self.assertEqual(len(index), 5120 // 8)
        self.assertEqual(index[6 * INDEX_ENTRY.size :].strip(b"\0"), b"")
        log.truncate_suffix(2)
        self.assertEqual(read_file(disk, f"{DIRECTORY}/{1:020}.index", 8192), index)


class ConcurrentReaderTests(SynchronousTestCase):
    """Real threads read while one appends, cuts what is not committed, and trims."""

    @thorough
    def test_readers_see_whole_committed_entries(self):
        """Three readers following the log see every record once and in order, whatever the writer does."""
        directory = os.path.join(os.path.abspath(self.mktemp()), "logs", "1")
        os.makedirs(directory)
        log = new_log(OsFiles(), directory, segment_size=16384)
        total, committed, failures, seen = 1500, [0], [], [0, 0, 0]

        def follow(place):
            try:
                offset = 0
                while offset < total and not failures:
                    frames, next_offset = log.read(offset, 2000, committed[0])
                    for entry in decode_entries(SEED, frames):
                        if entry.kind == EntryKind.RECORDS and entry.base_offset >= offset:
                            assert entry.base_offset == offset, (entry.base_offset, offset)
                            offset += entry.record_count
                            seen[place] += entry.record_count
                    assert offset == next_offset, (offset, next_offset)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=follow, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        rng = random.Random(1)
        while log.next_offset < total and not failures:
            writer = Writer(log.state)
            left = total - log.next_offset
            log.append(
                [writer.records(1, rng.randrange(200)) for _ in range(min(left, rng.randrange(1, 20)))]
            )
            log.sync(committed[0])
            if rng.random() < 0.2 and log.last_index - committed[0] > 2:
                log.truncate_suffix(rng.randrange(committed[0], log.last_index))
            else:
                committed[0] = log.last_index
        committed[0] = log.last_index
        for thread in threads:
            thread.join()
        log.close()
        self.assertEqual(failures, [])
        self.assertEqual(seen, [total] * 3)


class VanishingTests(SynchronousTestCase):
    """A look at a segment that is removed before it is read."""

    def test_trimmed_between_look_and_read(self):
        """A reader that looked before a trim gets "out of range" after it, not a missing file."""
        disk = SimDisk()
        log, _ = filled(disk, 60)
        sealed = log.sealed_segments()
        real, done = log._segment, []

        def slow(view, place):
            if not done:
                done.append(True)
                log.trim_prefix(sealed[1].next_offset)
            return real(view, place)

        log._segment = slow
        with self.assertRaises(OffsetOutOfRangeError):
            log.read(0, 100, 60)
        done.clear()
        log._segment = real
        with self.assertRaises(LookupError):
            log.entries(1, 3, 100)

    def test_removed_by_somebody_else(self):
        """A store that disappears while the node runs is damage, named."""
        disk = SimDisk()
        log, _ = filled(disk, 60)
        disk.unlink(f"{DIRECTORY}/{1:020d}.store")
        with self.assertRaises(DamageError):
            log.read(0, 100, 60)

    def test_bad_sector(self):
        """A store that cannot be read is damage at that place."""
        disk = SimDisk()
        log, _ = filled(disk, 60)
        disk.fail(errno.EIO, kinds=["pread"])
        with self.assertRaises(DamageError) as caught:
            log.read(0, 100, 60)
        self.assertIn("cannot be read", str(caught.exception))
        self.assertEqual(log.read(0, 100, 60)[1], 1)

    def test_open_files_are_bounded(self):
        """However many segments are read, only so many stay open."""
        self.patch(reading, "OPEN_SEGMENTS_MAX", 3)
        disk = SimDisk()
        log, _ = filled(disk, 200)
        self.assertGreater(len(log.sealed_segments()), 10)
        for _ in range(2):
            for segment in log.sealed_segments():
                log.read(segment.base_offset, 100, 10**9)
        # Each sealed segment that is open has one file number (the index is mapped).
        self.assertLessEqual(len(disk._open), 3 + 4)

    def test_hot(self):
        """Only reads that touch the active segment alone are hot."""
        log, _ = filled(SimDisk(), 60)
        edge = log.sealed_segments()[-1].next_offset
        self.assertEqual([log.is_hot(edge - 1), log.is_hot(edge)], [False, True])


class DamagedReadTests(SynchronousTestCase):
    """What is damaged while the node runs."""

    def test_damage_in_the_middle_of_a_read(self):
        """Frames before a damaged one are served, the damaged one never, and those behind it are."""
        disk = SimDisk()
        log, entries = filled(disk, 20)
        path = f"{DIRECTORY}/{1:020d}.store"
        position = 4096 + sum(entry.size for entry in entries[:2])
        disk.flip(path, (position + 70) * 8)
        frames, next_offset = log.read(0, 10**6, 20)
        self.assertEqual([e.index for e in decode_entries(SEED, frames)], [1, 2])
        with self.assertRaises(DamageError) as caught:
            log.read(next_offset, 10**6, 20)
        self.assertEqual(caught.exception.position, position)
        frames, _ = log.read(entries[3].base_offset, 100, 20)
        self.assertEqual(next(decode_entries(SEED, frames)).frame, entries[3].frame)
        with self.assertRaises(DamageError):
            log.entries(3, 4, 100)

    def test_damaged_header(self):
        """A damaged header is told wherever it is needed, and other entries are still found."""
        disk = SimDisk()
        log, entries = filled(disk, 20)
        path = f"{DIRECTORY}/{1:020d}.store"
        disk.flip(path, (4096 + entries[0].size + 20) * 8)
        for look in (
            lambda: log.term_at(2),
            lambda: log.read(entries[1].base_offset, 100, 20),
            lambda: log.index_of_offset(entries[1].base_offset),
        ):
            with self.assertRaises(DamageError):
                look()
        self.assertEqual(log.term_at(3), 1)
        log.truncate_suffix(15)  # the state is folded from the checkpoint, not over the damage

    def test_index_changed_under_a_reader(self):
        """An index that goes wrong while the node runs is noticed and made anew, sealed or active."""
        disk = SimDisk()
        log, entries = filled(disk, 30)
        bases = [s.base_index for s in log.sealed_segments()] + [log.view.base_indexes[-1]]
        for base in bases:
            path = f"{DIRECTORY}/{base:020d}.index"
            fd = disk.open(path)
            disk.pwritev(fd, [bytes(disk.size(fd))], 0)
        for entry in entries:
            frames, _ = log.read(entry.base_offset, 0, 30)
            self.assertEqual(next(decode_entries(SEED, frames)).frame, entry.frame)
            self.assertEqual(log.entries(entry.index, entry.index + 1, 0)[0].frame, entry.frame)

    def test_index_goes_wrong_between_two_reads(self):
        """Reading on takes the place from the index; whatever that says, what comes is checked, and right."""
        for position in (0, 1, 4096, 4100, 2**40, 2**64 - 1):
            disk = SimDisk()
            log, entries = filled(disk, 30)
            fd = disk.open(f"{DIRECTORY}/{1:020d}.index")
            _, offset = log.read(0, 0, 30)
            self.assertEqual(offset, entries[1].base_offset)
            disk.pwritev(fd, [INDEX_ENTRY.pack(offset, position)], INDEX_ENTRY.size)
            frames, next_offset = log.read(offset, 0, 30)
            self.assertEqual(next(decode_entries(SEED, frames)).frame, entries[1].frame, position)
            self.assertEqual(next_offset, entries[2].base_offset)

    def test_last_entry_without_records(self):
        """Reading on stops before an entry without records, as a look-up does, and goes on behind it."""
        disk = SimDisk()
        log = new_log(disk)
        writer = Writer()
        first, empty, last = writer.records(2, 60), writer.noop(), writer.records(1, 60)
        log.append([first, empty])
        log.sync(2)
        self.assertEqual(log.read(0, 0, 2), (first.frame, 2))
        self.assertEqual(log.read(2, 0, 2), (b"", 2))
        log.append([last])
        log.sync(3)
        self.assertEqual(log.read(2, 10**6, 3), (last.frame, 3))


class ModelTests(SynchronousTestCase):
    """Random courses against plain lists."""

    def test_index(self):
        """Look-ups in an index agree with a list."""

        @settings(deadline=None, derandomize=True, max_examples=100)
        @given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 100))
        def check(steps, wanted):
            offsets, positions, offset, position = [], [], 0, 4096
            for step in steps:
                offsets.append(offset)
                positions.append(position)
                offset += step
                position += 64 + step
            index = OffsetIndex(b"".join(INDEX_ENTRY.pack(*p) for p in zip(offsets, positions, strict=True)))
            self.assertEqual(index.capacity, len(steps))
            below = [place for place, value in enumerate(offsets) if value <= wanted]
            self.assertEqual(index.last_at_offset(wanted, len(steps)), below[-1] if below else -1)
            limit = 4096 + 20 * wanted
            starting = [place for place, value in enumerate(positions) if value <= limit]
            for likely in (0, wanted, starting[-1]):
                found = index.last_ending_by(limit, 0, len(steps), likely=likely)
                self.assertEqual(found, starting[-1])

        check()

    @thorough
    def test_log(self):
        """Any course of appends, cuts, trims, votes, kills and power losses agrees with a list."""
        operation = st.tuples(st.sampled_from("aaaacstvkp"), st.integers(0, 2**16))

        @settings(deadline=None, derandomize=True, max_examples=250)
        @given(st.lists(operation, max_size=25))
        def check(course):
            disk = SimDisk()
            log, held, synced, term = new_log(disk), [], 0, 9
            for name, number in course:
                if name == "a":
                    writer = Writer(log.state)
                    new = [writer.records(1 + number % 3, number % 400) for _ in range(1 + number % 7)]
                    if number % 5 == 0:
                        new.append(writer.producer("alice"))
                    log.append(new)
                    held += new
                elif name == "c":
                    keep = number % (len(held) + 1)
                    if held and held[0].index <= log.first_index:
                        held = held[: max(keep, log.first_index - 1)]
                        log.truncate_suffix(len(held))
                        synced = min(synced, len(held))
                elif name == "s":
                    log.sync(0)
                    synced = len(held)
                elif name == "t":
                    log.trim_prefix(number % (log.next_offset + 1))
                elif name == "v":
                    term += 1
                    log.save_hard_state(term=term, vote=number)
                else:
                    if name == "k":
                        disk.stop_process()
                    else:
                        disk.crash(random.Random(number))
                    log = open_log(disk)
                    self.assertGreaterEqual(log.last_index, synced)
                    held = held[: log.last_index]
                    synced = len(held)
                self.compare(log, held, term)

        check()

    def test_recovery(self):
        """Whatever a crash leaves behind the last sync, a start keeps all that was synced, and a prefix."""
        noise = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=80)), max_size=4)

        @settings(deadline=None, derandomize=True, max_examples=150)
        @given(st.lists(st.integers(0, 200), max_size=12), st.integers(0, 12), noise)
        def check(sizes, synced, noise):
            disk = SimDisk()
            log, writer = new_log(disk, segment_size=65536), Writer()
            entries = [writer.records(1, size) for size in sizes]
            synced = min(synced, len(entries))
            log.append(entries[:synced])
            log.sync(synced)
            log.append(entries[synced:])
            disk.stop_process()
            path = f"{DIRECTORY}/{1:020d}.store"
            content = bytearray(disk.content(path))
            end = 4096 + sum(entry.size for entry in entries[:synced])
            for distance, wrong in noise:
                content[end + distance : end + distance + len(wrong)] = wrong
            disk.replace(path, bytes(content))
            log = open_log(disk, segment_size=65536)
            self.assertGreaterEqual(log.last_index, synced)
            self.compare(log, entries[: log.last_index], 9)
            more = Writer(log.state).records(1, 30)
            log.append([more])
            log.sync(more.index)
            self.compare(log, [*entries[: log.last_index - 1], more], 9)

        check()

    def compare(self, log, held, term):
        self.assertEqual((log.last_index, log.hard_state.term), (len(held), term))
        state = LogState()
        for entry in held:
            state.apply(entry)
        self.assertEqual(encode_log_state(log.state), encode_log_state(state))
        index, found = log.first_index, []
        while index <= log.last_index:
            entries = log.entries(index, log.last_index + 1, 700)
            found += [entry.frame for entry in entries]
            index += len(entries)
        self.assertEqual(found, [entry.frame for entry in held[log.first_index - 1 :]])


class SmallTests(SynchronousTestCase):
    """What the courses above do not meet."""

    def test_wrong_checksums_in_small_files(self):
        """A state file in the place of `start` is refused."""
        disk = SimDisk()
        filled(disk, 3)
        disk.stop_process()
        disk.replace(f"{DIRECTORY}/start", disk.content(f"{DIRECTORY}/{1:020d}.state"))
        with self.assertRaises(DamageError):
            read_start(disk, DIRECTORY, SEED, "")

    def test_real_files(self):
        """The real files answer as the seam says: short reads only at the end, bounded maps, room."""
        files, directory = OsFiles(), os.path.abspath(self.mktemp())
        files.make_directory(directory)
        fd = files.create(f"{directory}/a")
        files.pwritev(fd, [b"x"] * 2500, 0)
        self.assertEqual(
            (files.size(fd), files.pread(fd, 9, 2495), files.pread(fd, 9, 2500)), (2500, b"x" * 5, b"")
        )
        self.assertEqual(files.map(fd, 100)[98:], b"xx")
        self.assertGreater(files.free_size(directory), 0)
        self.assertEqual(files.list_directory(directory), ["a"])
        files.close(fd)

    def test_short_writes_go_on(self):
        """A write that the system cuts short is finished, and one without progress is an error."""
        files, fd = OsFiles(), OsFiles().create(os.path.abspath(self.mktemp()))
        self.patch(os, "pwritev", lambda fd, chunk, position: os.pwrite(fd, b"".join(chunk)[:3], position))
        files.pwritev(fd, [b"abc", b"defg"], 0)
        self.assertEqual(files.pread(fd, 10, 0), b"abcdefg")
        self.patch(os, "pwrite", lambda *_: 0)
        with self.assertRaises(OSError):
            files.pwritev(fd, [b"abc", b"defg"], 0)
        files.close(fd)

    def test_short_reads_go_on(self):
        """A read that the system cuts short is finished; the end of the file is the end."""
        files, fd = OsFiles(), OsFiles().create(os.path.abspath(self.mktemp()))
        files.pwritev(fd, [b"abcdefg"], 0)
        real = os.pread
        self.patch(os, "pread", lambda fd, size, position: real(fd, min(size, 3), position))
        self.assertEqual((files.pread(fd, 5, 0), files.pread(fd, 50, 0)), (b"abcde", b"abcdefg"))
        files.close(fd)

    def test_newer_store(self):
        """A store of a newer format is refused as that."""
        disk = SimDisk()
        filled(disk, 3)
        disk.stop_process()
        path = f"{DIRECTORY}/{1:020d}.store"
        content = disk.content(path)
        from loghouse.protocol.entry import crc32c

        fields = content[:8] + b"\0\2" + content[10:56]
        disk.replace(path, fields + crc32c(fields).to_bytes(4, "big") + content[60:])
        with self.assertRaises(DataDirectoryError):
            open_log(disk)
