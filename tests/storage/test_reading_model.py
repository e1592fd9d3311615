"""Every look-up of a small log, at every place and bound, compared with a list of its entries."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import OffsetOutOfRangeError
from loghouse.storage.log import Log
from loghouse.testing.disk import SimDisk
from tests.storage.entries import CLUSTER, GROUP, Writer, create_log

DIRECTORY = "/log"
COUNT, DURABLE, TRIMMED = 34, 31, 9
SIZES = (0, 1, 124, 125, 400, 401, 700, 10**6)


class ModelCase(SynchronousTestCase):
    """A log of some segments, trimmed at its beginning, with entries at its end that are not durable."""

    def setUp(self):
        self.disk = SimDisk()
        self.disk.make_directory(DIRECTORY)
        create_log(self.disk, DIRECTORY)
        self.log = self.open()
        writer = Writer()
        entries = [writer.records(1 + i % 3, 60 + 37 * i % 200, term=1 + i // 9) for i in range(COUNT)]
        self.starts = []  # the first index of each segment
        for entry in entries:
            self.log.append([entry])
            if entry.index <= DURABLE:
                self.log.sync(entry.index - 1)
        self.log.trim_prefix(entries[TRIMMED].base_offset)
        self.bases = list(self.log.view.base_indexes)
        self.first = self.log.first_index
        self.assertGreater(len(self.bases), 3)
        self.assertGreater(self.first, 1)
        self.all = entries
        self.entries = entries[self.first - 1 :]

    def open(self):
        return Log.open(
            self.disk, DIRECTORY, cluster=CLUSTER, group=GROUP, segment_size=4096 + 1024, reserve_size=0
        )

    def segment_of(self, entry):
        return max(base for base in self.bases if base <= entry.index)

    def upto(self, begin, size_max, high):
        """The entries from `begin` on that one look gives."""
        found, size = [], 0
        for entry in self.entries[begin.index - self.first :]:
            size += entry.size
            if found and size > size_max:
                break
            if entry.index > high or self.segment_of(entry) != self.segment_of(begin):
                break
            found.append(entry)
        return found

    def read(self, offset, size_max, high):
        """What a read should give."""
        high = min(high, DURABLE)
        place = max(base for base in self.bases if self.all[base - 1].base_offset <= offset)
        known = [e for e in self.entries if e.index <= high and self.segment_of(e) == place]
        known = [entry for entry in known if entry.base_offset <= offset]
        if not known or known[-1].next_offset <= offset:
            return b"", offset
        found = self.upto(known[-1], size_max, high)
        return b"".join(entry.frame for entry in found), found[-1].next_offset


class LookUpTests(ModelCase):
    """No look-up is off by one."""

    def test_read(self):
        """A read gives the entry that holds the offset, and those behind it that fit and are durable."""
        last = self.entries[-1].next_offset
        for offset in range(self.entries[0].base_offset, last + 3):
            for size_max in SIZES:
                for high in (self.first, 17, DURABLE - 1, DURABLE, COUNT, 99):
                    found = self.log.read(offset, size_max, high)
                    self.assertEqual(found, self.read(offset, size_max, high), (offset, size_max, high))

    def test_read_on(self):
        """Reading on from where the last read ended gives everything, in pieces of every size."""
        for size_max in SIZES:
            offset, frames = self.entries[0].base_offset, b""
            while True:
                piece, behind = self.log.read(offset, size_max, 99)
                self.assertEqual((piece, behind), self.read(offset, size_max, 99), (offset, size_max))
                if not piece:
                    break
                frames, offset = frames + piece, behind
            wanted = b"".join(entry.frame for entry in self.entries if entry.index <= DURABLE)
            self.assertEqual(frames, wanted)

    def test_below(self):
        """Below what is held a read tells what is there."""
        for offset in (0, self.entries[0].base_offset - 1):
            with self.assertRaises(OffsetOutOfRangeError) as caught:
                self.log.read(offset, 1, 99)
            error = caught.exception
            bounds = (self.entries[0].base_offset, self.all[DURABLE - 1].next_offset)
            self.assertEqual((error.offset, (error.lowest, error.next_offset)), (offset, bounds))

    def test_entries(self):
        """Entries by index: at least one, up to the bounds and the segment's end."""
        for low in range(self.first, COUNT + 1):
            for size_max in SIZES:
                for high in (low, low + 1, low + 3, COUNT + 1, 99):
                    found = [entry.frame for entry in self.log.entries(low, high, size_max)]
                    wanted = self.upto(self.all[low - 1], size_max, high - 1)
                    self.assertEqual(found, [entry.frame for entry in wanted], (low, high, size_max))
        for low in (0, self.first - 1, COUNT + 1, COUNT + 2):
            self.assertRaises(LookupError, self.log.entries, low, 99, 1)

    def test_by_index(self):
        """Terms, headers and states of every entry, and of the one before the first where that is known."""
        for index in range(self.first, COUNT + 1):
            entry, header = self.all[index - 1], self.log.header_at(index)
            self.assertEqual(self.log.term_at(index), entry.term)
            self.assertEqual(
                (
                    header.index,
                    header.term,
                    header.base_offset,
                    header.next_offset,
                    header.timestamp,
                    header.length,
                ),
                (index, entry.term, entry.base_offset, entry.next_offset, entry.timestamp, entry.size),
            )
        for index in range(self.first - 1, COUNT + 1):
            entry, state = self.all[index - 1], self.log.state_at(index)
            self.assertEqual(
                (state.index, state.term, state.next_offset, state.timestamp),
                (index, entry.term, entry.next_offset, entry.timestamp),
            )
        self.assertEqual(self.log.term_at(self.first - 1), self.all[self.first - 2].term)
        for look in (self.log.term_at, self.log.state_at):
            for index in (self.first - 2, COUNT + 1):
                self.assertRaises(LookupError, look, index)
        for index in (self.first - 1, COUNT + 1):
            self.assertRaises(LookupError, self.log.header_at, index)

    def test_by_offset(self):
        """The entry of every record that is durable, and of no other."""
        for entry in self.entries:
            for offset in range(entry.base_offset, entry.next_offset):
                if entry.index <= DURABLE:
                    self.assertEqual(self.log.index_of_offset(offset), entry.index)
                else:
                    self.assertRaises(OffsetOutOfRangeError, self.log.index_of_offset, offset)
        for offset in (0, self.entries[0].base_offset - 1, self.entries[-1].next_offset):
            self.assertRaises(OffsetOutOfRangeError, self.log.index_of_offset, offset)

    def test_by_time(self):
        """The first entry at or after a time, among those that may be looked at."""
        for timestamp in range(0, self.entries[-1].timestamp + 20, 5):
            for high in (self.first - 1, self.first, 17, DURABLE, COUNT):
                known = [
                    e for e in self.entries if e.timestamp >= timestamp and e.index <= min(high, DURABLE)
                ]
                index = known[0].index if known else None
                self.assertEqual(self.log.index_of_time(timestamp, high), index, (timestamp, high))
                for lowest in (0, self.all[12].base_offset, self.all[13].base_offset + 1, 1000):
                    left = [entry for entry in known if entry.next_offset > lowest]
                    wanted = (max(left[0].base_offset, lowest), left[0].timestamp) if left else None
                    found = self.log.find_time(timestamp, high, lowest)
                    self.assertEqual(found, wanted, (timestamp, high, lowest))

    def test_where(self):
        """What is in the segment that takes appends is told from the rest, by index and by offset."""
        base = self.bases[-1]
        self.assertEqual([self.log.is_active(index) for index in (base - 1, base, 99)], [False, True, True])
        offset = self.all[base - 1].base_offset
        self.assertEqual([self.log.is_hot(one) for one in (offset - 1, offset, 999)], [False, True, True])
        sealed = [self.log.sealed_segment(index) for index in (self.bases[0], self.bases[0] + 1, base, 99)]
        self.assertEqual([one is not None for one in sealed], [True, False, False, False])
        spans = self.log.sealed_segments()
        for span, following in zip(spans, self.bases[1:], strict=True):
            last = self.all[following - 2]
            self.assertEqual((span.next_offset, span.newest_timestamp), (last.next_offset, last.timestamp))
            size = 4096 + sum(e.size for e in self.entries if self.segment_of(e) == span.base_index)
            self.assertEqual(span.size, size)


class ColdTests(LookUpTests):
    """The same after a restart that found no index: everything is made anew."""

    def setUp(self):
        super().setUp()
        self.disk.stop_process()
        tail = self.all[DURABLE:]
        for name in self.disk.list_directory(DIRECTORY):
            if name.endswith(".index"):
                self.disk.unlink(f"{DIRECTORY}/{name}")
        self.log = self.open()
        # What was written and not synced is there; so that the model holds it is written once more.
        self.log.truncate_suffix(DURABLE)
        self.log.append(tail)
