"""Ranges of a log, forwards and backwards, whole or by key: compared with a list of its records."""

import errno
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import DamageError, OffsetOutOfRangeError
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind, decode_entries
from loghouse.protocol.record_filter import EVERYTHING, RecordFilter
from loghouse.protocol.record_range import RecordRange
from loghouse.storage import range_scan
from loghouse.storage.index import INDEX_ENTRY
from loghouse.storage.range_scan import RangeScan
from loghouse.testing.disk import SimDisk
from tests.processes import thorough
from tests.storage.entries import SEED, Writer
from tests.storage.test_reading import DIRECTORY, filled, new_log

KEYS = (None, b"", b"a", b"b", b"ab")
COUNT = 40  # entries


class KeyedWriter(Writer):
    """Makes batches of records with keys in turn; each third entry is compressed, each fourth has none."""

    def __init__(self):
        super().__init__()
        self.made = []  # (offset, key) of each record

    def entry(self, number):
        if number % 4 == 3:
            return self.noop()
        first = len(self.made)
        count = 1 + number % 5
        keys = [KEYS[place * 3 % len(KEYS)] for place in range(first, first + count)]
        if number % 7 == 0:
            keys = [None] * count
        self.made += enumerate(keys, first)
        payload = encode_batch(Record(value=b"%d" % place, key=key) for place, key in enumerate(keys, first))
        attributes = Codec.NONE
        if number % 3 == 0:
            payload, attributes = compress(payload, Codec.ZSTD), Codec.ZSTD
        return self._make(EntryKind.RECORDS, payload, record_count=count, term=1, attributes=attributes)


class ScanCase(SynchronousTestCase):
    """A log of some segments with records of several keys."""

    def setUp(self):
        self.disk = SimDisk()
        self.log = new_log(self.disk)
        writer = KeyedWriter()
        self.entries = []
        for number in range(COUNT):
            entry = writer.entry(number)
            self.entries.append(entry)
            self.log.append([entry])
        self.log.sync(COUNT)
        self.made = writer.made
        self.next_offset = len(self.made)
        self.assertGreater(len(self.log.view.segments), 3)

    def scan(self, wanted, lowest=0):
        low, high = wanted.window(lowest, self.next_offset)
        return RangeScan(self.log, wanted, low, high, COUNT).run()

    def offsets(self, wanted):
        """The offsets of what a reader gets, answer by answer, in the order in which they come."""
        found, answers = [], 0
        while wanted is not None:
            scanned = self.scan(wanted)
            low, high = sorted((scanned.next_offset, min(wanted.end, self.next_offset)))
            if not wanted.is_reverse:
                low, high = wanted.first, scanned.next_offset
            entries = list(decode_entries(SEED, scanned.frames))
            self.assertEqual(entries, sorted(entries, key=lambda one: one.index))
            got = [
                offset
                for entry in entries
                for offset in range(max(low, entry.base_offset), min(high, entry.next_offset))
                if not wanted.filter or self.made[offset][1] in wanted.filter.keys
            ]
            found += got[::-1] if wanted.is_reverse else got
            wanted = wanted.rest(scanned.next_offset, len(got))
            answers += 1
            self.assertLess(answers, 200)
        return found


class RangeTests(ScanCase):
    """Whatever is asked for, a reader gets just that, and always gets on."""

    def expected(self, first, end, filter_, is_reverse, count):
        offsets = [o for o, key in self.made[first:end] if not filter_ or key in filter_.keys]
        return offsets[:: -1 if is_reverse else 1][: count or None]

    @thorough
    def test_all(self):
        """Any bounds, either way, any number, with and without a key, by large and by small answers."""
        total = self.next_offset
        for filter_ in (EVERYTHING, RecordFilter(keys=(b"a",)), RecordFilter(keys=(b"", b"b", b"ab"))):
            for is_reverse in (False, True):
                for count in (0, 1, 4):
                    for size_max in (1, 200, 10_000):
                        for first, end in (
                            (0, total),
                            (0, 1),
                            (5, 9),
                            (17, total),
                            (total - 1, total),
                            (9, 9),
                        ):
                            wanted = RecordRange(
                                first=first,
                                end=end,
                                is_reverse=is_reverse,
                                count_max=count,
                                size_max=size_max,
                                filter=filter_,
                            )
                            self.assertEqual(
                                self.offsets(wanted),
                                self.expected(first, end, filter_, is_reverse, count),
                                wanted,
                            )

    def test_small_answers(self):
        """Filtered, an answer ends when so much was looked through, and says how far."""
        filter_ = RecordFilter(keys=(b"nowhere",))
        for is_reverse in (False, True):
            wanted = RecordRange(end=self.next_offset, is_reverse=is_reverse, filter=filter_)
            with (
                patch.object(range_scan, "READ_SCAN_STEP_SIZE", 100),
                patch.object(range_scan, "READ_SCAN_SIZE_MAX", 500),
            ):
                places = []
                while wanted is not None:
                    scanned = self.scan(wanted)
                    self.assertEqual(bytes(scanned.frames), b"")
                    places.append(scanned.next_offset)
                    wanted = wanted.rest(scanned.next_offset, 0)
                    self.assertLess(len(places), 200)
            self.assertGreater(len(places), 3)
            self.assertEqual(places, sorted(set(places), reverse=is_reverse))

    def test_unpacked_bytes_count(self):
        """What a batch unpacks to is what is looked through, not the few bytes that it is stored as."""
        log, writer = new_log(SimDisk()), Writer()
        packed = compress(encode_batch([Record(value=bytes(100_000))]), Codec.ZSTD)
        for _ in range(8):
            log.append([writer._make(1, packed, record_count=1, term=1, attributes=Codec.ZSTD)])
        log.sync(8)
        wanted = RecordRange(filter=RecordFilter(keys=(b"k",)))
        with patch.object(range_scan, "READ_SCAN_SIZE_MAX", 250_000):
            self.assertEqual(RangeScan(log, wanted, 0, 8, 8).run().next_offset, 3)

    def test_steps(self):
        """A filtered read is in steps; a plain one is one read."""
        wanted = RecordRange(filter=RecordFilter(keys=(b"nowhere",)))
        with patch.object(range_scan, "READ_SCAN_STEP_SIZE", 100):
            scan = RangeScan(self.log, wanted, 0, self.next_offset, COUNT)
            self.assertTrue(scan.is_filtered)
            steps = 1
            while scan.step():
                steps += 1
        self.assertGreater(steps, 10)
        self.assertEqual(scan.scanned.next_offset, self.next_offset)
        plain = RangeScan(self.log, RecordRange(), 0, self.next_offset, COUNT)
        self.assertEqual((plain.is_filtered, plain.step()), (False, False))

    def test_behind_the_range(self):
        """Entries behind the range are not sent; of the entry at its edge all of it is."""
        scanned = self.scan(RecordRange(first=0, end=2))
        self.assertEqual([one.index for one in decode_entries(SEED, scanned.frames)], [1, 2])
        self.assertEqual(scanned.next_offset, 2)
        scanned = self.scan(RecordRange(first=2, end=4, is_reverse=True))
        self.assertEqual(next(decode_entries(SEED, scanned.frames)).index, 2)
        self.assertEqual(scanned.next_offset, 2)

    def test_unreadable_batch(self):
        """A batch that nobody can read is given, with or without a filter: its reader is to know."""
        log, writer = new_log(SimDisk()), Writer()
        log.append([writer._make(1, b"no zstd", record_count=2, term=1, attributes=Codec.ZSTD)])
        log.sync(1)
        for filter_ in (EVERYTHING, RecordFilter(keys=(b"k",))):
            scanned = RangeScan(log, RecordRange(filter=filter_), 0, 2, 1).run()
            self.assertEqual(len(list(decode_entries(SEED, scanned.frames))), 1)
            self.assertEqual(scanned.next_offset, 2)

    def test_left_out(self):
        """A batch whose values hold a key's bytes, and no key does, is left out."""
        log, writer = new_log(SimDisk()), Writer()
        for records in ([Record(value=b"of a")], [Record(value=b"v", key=b"a")], [Record(value=b"v")]):
            log.append([writer._make(1, encode_batch(records), record_count=1, term=1)])
        log.sync(3)
        for count in (0, 5):
            wanted = RecordRange(filter=RecordFilter(keys=(b"a",)), count_max=count)
            scanned = RangeScan(log, wanted, 0, 3, 3).run()
            self.assertEqual([one.index for one in decode_entries(SEED, scanned.frames)], [2])
            self.assertEqual(scanned.next_offset, 3)

    def test_what_is_not_committed(self):
        """Nothing behind the commit index is read, either way."""
        last = self.entries[9]
        high = last.next_offset
        for is_reverse in (False, True):
            wanted = RecordRange(is_reverse=is_reverse, size_max=10**6)
            scanned = RangeScan(self.log, wanted, 0, high, last.index).run()
            self.assertLessEqual(max(one.index for one in decode_entries(SEED, scanned.frames)), last.index)


class BackwardsTests(SynchronousTestCase):
    """`read_before`: whole entries up to an offset, found by the index."""

    @thorough
    def test_every_place(self):
        """At every offset and size: the entry before, those that fit before that one, of one segment."""
        log, entries = filled(SimDisk(), 30)
        bases = log.view.base_indexes
        for offset in range(1, entries[-1].next_offset + 1):
            last = next(one for one in entries if one.next_offset >= offset)
            base = max(one for one in bases if one <= last.index)
            for size_max in (0, 1, last.size, 2 * last.size, 300, 10**6):
                for low in (0, max(0, offset - 4), offset - 1):
                    taken, size = [last], last.size
                    for entry in reversed(entries[base - 1 : last.index - 1]):
                        size += entry.size
                        if size > size_max or entry.next_offset <= low:
                            break
                        taken.insert(0, entry)
                    frames, next_offset = log.read_before(offset, size_max, 30, low)
                    self.assertEqual(
                        frames, b"".join(entry.frame for entry in taken), (offset, size_max, low)
                    )
                    self.assertEqual(next_offset, taken[0].base_offset)

    def test_nothing_there(self):
        """Below what is held is an error; above what is readable is nothing."""
        log, entries = filled(SimDisk(), 30)
        self.assertRaises(OffsetOutOfRangeError, log.read_before, 0, 100, 30)
        self.assertEqual(
            log.read_before(entries[-1].next_offset + 1, 100, 30), (b"", entries[-1].next_offset + 1)
        )
        self.assertEqual(log.read_before(entries[9].next_offset, 100, 9), (b"", entries[9].next_offset))
        edge = log.sealed_segments()[0].next_offset
        log.trim_prefix(edge)
        self.assertRaises(OffsetOutOfRangeError, log.read_before, edge, 100, 30)

    def test_damage_before(self):
        """Frames behind a damaged one come one at a time, the damaged one never, those before it again."""
        disk = SimDisk()
        log, entries = filled(disk, 20)
        path = f"{DIRECTORY}/{1:020d}.store"
        disk.flip(path, (4096 + sum(entry.size for entry in entries[:2]) + 70) * 8)
        offset, got = entries[4].next_offset, []
        while offset > entries[2].next_offset:
            frames, offset = log.read_before(offset, 10**6, 20)
            got.append([one.index for one in decode_entries(SEED, frames)])
        self.assertEqual(got, [[5], [4]])
        self.assertRaises(DamageError, log.read_before, offset, 10**6, 20)
        frames, _ = log.read_before(entries[2].base_offset, 10**6, 20)
        self.assertEqual([one.index for one in decode_entries(SEED, frames)], [1, 2])

    def test_noted_damage(self):
        """What is known to be damaged is refused without a look."""
        disk = SimDisk()
        log, entries = filled(disk, 20)
        disk.flip(f"{DIRECTORY}/{1:020d}.store", (4096 + 70) * 8)
        self.assertRaises(DamageError, log.read_before, entries[0].next_offset, 0, 20)
        disk.fail(errno.EIO, kinds=["pread"])
        self.assertRaises(DamageError, log.read_before, entries[1].next_offset, 0, 20)

    def test_wrong_index(self):
        """An index that goes wrong changes nothing: what comes is checked, and no more than was asked for."""
        for position in (0, 1, 4096, 4100, 2**40, 2**64 - 1):
            disk = SimDisk()
            log, entries = filled(disk, 30)
            fd = disk.open(f"{DIRECTORY}/{1:020d}.index")
            disk.pwritev(fd, [INDEX_ENTRY.pack(entries[1].base_offset, position)], INDEX_ENTRY.size)
            for entry in entries[:6]:
                frames, _ = log.read_before(entry.next_offset, 400, 30)
                found = list(decode_entries(SEED, frames))
                self.assertEqual(found[-1].frame, entry.frame, position)
                self.assertLessEqual(sum(one.size for one in found), max(400, entry.size))

    def test_damage_within_a_scan(self):
        """A filtered read ends before damage that it comes by, and the next one tells of it."""
        disk = SimDisk()
        log, entries = filled(disk, 30, segment_size=2**16)
        flipped = entries[20]
        place = 4096 + sum(entry.size for entry in entries[:20])
        disk.flip(f"{DIRECTORY}/{1:020d}.store", (place + 70) * 8)
        wanted = RecordRange(filter=RecordFilter(keys=(b"k",)))
        high = entries[-1].next_offset
        with patch.object(range_scan, "READ_SCAN_STEP_SIZE", 200):
            scanned = RangeScan(log, wanted, 0, high, 30).run()
            self.assertEqual(scanned.next_offset, flipped.base_offset)
            self.assertRaises(DamageError, RangeScan(log, wanted, scanned.next_offset, high, 30).run)
            wanted = RecordRange(filter=wanted.filter, is_reverse=True)
            scanned = RangeScan(log, wanted, 0, high, 30).run()
            self.assertEqual(scanned.next_offset, flipped.next_offset)
            self.assertRaises(DamageError, RangeScan(log, wanted, 0, scanned.next_offset, 30).run)
