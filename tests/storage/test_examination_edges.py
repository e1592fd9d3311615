"""Damage in sealed segments at its edges: what a step reads, where a search ends, and what just fits."""

import errno
from dataclasses import replace
from unittest.mock import patch

from loghouse.errors import DamageError, EntryDamagedError
from loghouse.limits import ENTRY_HEADER_SIZE, ENTRY_SIZE_MAX, INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import crc32c, make_entry
from loghouse.storage import examination
from loghouse.storage.examination import DamagedEntries, Examination, write_over
from loghouse.testing.disk import SimDisk
from tests.storage.test_examination import ExaminationCase as _ExaminationCase


class StepTests(_ExaminationCase):
    """What one step reads, and what it says then."""

    def steps(self, exam):
        """Step until the end; return how many bytes each step read."""
        sizes = []
        while not (exam.is_done or exam.failure or exam.damage):
            sizes.append(exam.step())
        return sizes

    def test_sizes(self):
        """A step reads about so many bytes, or one entry that is larger; all of them are counted."""
        frames = self.segment.end.position - STORE_HEADER_SIZE
        index = self.segment.end.count * INDEX_ENTRY_SIZE
        exam = Examination(self.disk, self.segment)
        self.assertEqual(self.steps(exam), [frames, index])
        self.assertEqual(exam.size, frames + index)
        self.patch(examination, "SCRUB_STEP_SIZE", 200)
        exam = Examination(self.disk, self.segment)
        sizes = self.steps(exam)
        self.assertEqual(max(sizes[:-1]), 200)
        self.assertGreater(len(sizes), 5)
        self.assertEqual(exam.size, sum(sizes))
        self.patch(examination, "SCRUB_STEP_SIZE", 1)
        exam = Examination(self.disk, self.segment)
        entries = self.entries[self.segment.base_index - 1 : self.segment.last_index]
        # A header, then the whole entry.
        self.assertEqual(
            self.steps(exam)[:-1],
            [size for entry in entries for size in (ENTRY_HEADER_SIZE, entry.size)],
        )

    def test_done(self):
        """It is done once frames and index were read, not before, and reads no more."""
        exam = Examination(self.disk, self.segment)
        self.assertFalse(exam.is_done)
        exam.step()
        self.assertFalse(exam.is_done)
        exam.step()
        self.assertTrue(exam.is_done)
        size = exam.size
        self.assertEqual((exam.step(), exam.size), (0, size))

    def test_gone(self):
        """A segment that is gone is told as that."""
        self.disk.unlink(self.segment.path)
        self.assertRaises(FileNotFoundError, Examination(self.disk, self.segment).step)

    def test_search(self):
        """A search begins with the second entry behind the last good one, a piece of the index at a step."""
        first, behind = self.position(1), self.position(6)
        self.write(first, bytes(behind - first))
        self.patch(examination, "SEEK_MAX", 2)
        exam = Examination(self.disk, self.segment)
        looked = []
        real = Examination._index_part

        def index_part(exam, first, count):
            looked.append((first, count))
            return real(exam, first, count)

        with patch.object(Examination, "_index_part", index_part):
            while exam.damage is None:
                exam.step()
        self.assertEqual(looked, [(2, 2), (4, 2), (6, 2)])
        self.assertEqual((exam.damage.last_index, exam.damage.end), (self.segment.base_index + 5, behind))
        self.assertEqual(exam._seeking, 0)

    def test_search_to_the_end(self):
        """It ends behind the last entry; what is asked of the index is never behind that."""
        first, count = self.position(1), self.segment.end.count
        self.write(first, bytes(self.segment.end.position - first))
        for most in (1, 2, 3, count - 3, count - 2, count - 1, 4096):
            self.patch(examination, "SEEK_MAX", most)
            exam = Examination(self.disk, self.segment)
            looked = []
            real = Examination._index_part

            def index_part(exam, first, count, looked=looked, real=real):
                looked.append((first, first + count))
                return real(exam, first, count)

            with patch.object(Examination, "_index_part", index_part):
                exam.step()
                for _ in range(-(-(count - 2) // most)):
                    self.assertIsNone(exam.damage)
                    exam.step()
            self.assertEqual((looked[0][0], looked[-1][1]), (2, count))
            self.assertEqual(exam.damage.end, self.segment.end.position)
            self.assertTrue(exam.damage.is_end_exact)
            exam.skip()
            self.assertEqual((exam.step(), exam.is_done), (0, True))

    def test_last_entry(self):
        """Damage of the last entry needs no search."""
        last = self.segment.end.count - 1
        self.flip(self.position(last) + 20)
        exam = Examination(self.disk, self.segment)
        exam.step()
        exam.step()
        damage = exam.damage
        self.assertEqual((damage.first_index, damage.last_index), (self.segment.last_index,) * 2)
        self.assertEqual(
            (damage.next_term, damage.next_timestamp, damage.next_offset),
            (self.segment.end.term, self.segment.newest_timestamp, self.segment.end.next_offset),
        )

    def test_without_an_index(self):
        """Without an index damage goes to the end, whatever is good there."""
        self.flip(self.position(2) + 20)
        self.disk.unlink(self.segment.index_path)
        _, [damage] = self.examine()
        self.assertEqual(
            (damage.last_index, damage.end), (self.segment.last_index, self.segment.end.position)
        )
        self.assert_whole()

    def found(self, *, at=3, **fields):
        """Damage entry 2, put a header with these fields at entry `at`; say whether it is taken for good."""
        old = self.entry(at)
        names = ("index", "term", "kind", "base_offset", "timestamp", "payload", "record_count")
        values = {**{name: getattr(old, name) for name in names}, **fields}
        length = values.pop("length", None)
        frame = bytearray(make_entry(self.segment.seed, **values).frame)
        if length is not None:
            frame[4:8] = length.to_bytes(4, "big")
            frame[:4] = crc32c(bytes(frame[4:64]), self.segment.seed).to_bytes(4, "big")
        self.flip(self.position(2) + 20)
        position = self.position(at)
        self.write(position, bytes(frame[:ENTRY_HEADER_SIZE]))
        exam = Examination(self.disk, self.segment)
        while exam.damage is None:
            exam.step()
        damage = exam.damage
        self.write(STORE_HEADER_SIZE, self.good[STORE_HEADER_SIZE : self.segment.end.position])
        return damage.end == position and damage.last_index == self.segment.base_index + at - 1

    def test_good_headers(self):
        """A header ends the damage when it may be that entry's: by each of its fields."""
        old = self.entry(3)
        before = self.entry(1)  # the last good one
        end = self.segment.end
        room = end.position - self.position(3)
        self.assertTrue(self.found())
        for name, good, bad in (
            ("index", old.index, old.index + 1),
            ("term", end.term, end.term + 1),
            ("base_offset", before.next_offset, before.next_offset - 1),
            ("base_offset", end.next_offset - old.record_count, end.next_offset - old.record_count + 1),
            ("timestamp", before.timestamp, before.timestamp - 1),
            ("length", room, room + 1),
            ("length", ENTRY_HEADER_SIZE, ENTRY_HEADER_SIZE - 1),
        ):
            self.assertTrue(self.found(**{name: good}), (name, good))
            self.assertFalse(self.found(**{name: bad}), (name, bad))
        self.assertFalse(self.found(term=0))

    def test_longest(self):
        """A header of an entry that is larger than any may be is none, whatever the segment's size."""
        self.segment.end = replace(self.segment.end, position=self.segment.end.position + 2 * ENTRY_SIZE_MAX)
        exam = Examination(self.disk, self.segment)
        position = self.position(3)
        old = self.entry(3)
        for length, is_good in ((ENTRY_SIZE_MAX, True), (ENTRY_SIZE_MAX + 1, False)):
            head = bytearray(old.head)
            head[4:8] = length.to_bytes(4, "big")
            head[:4] = crc32c(bytes(head[4:64]), self.segment.seed).to_bytes(4, "big")
            self.write(position, bytes(head))
            store = self.segment.store()
            self.assertEqual(exam._good_header(store, 3, position) is not None, is_good)

    def test_places(self):
        """An index entry leads to a header only where the entries between have room, and it has itself."""
        exam = Examination(self.disk, self.segment)
        store, count = self.segment.store(), self.segment.end.count
        least = STORE_HEADER_SIZE + 3 * ENTRY_HEADER_SIZE
        head = bytes(self.entry(3).head)
        for position, is_good in ((least, True), (least - 1, False)):
            self.write(position, head)
            self.assertEqual(exam._good_header(store, 3, position) is not None, is_good)
        # An entry of a header alone, at the very end.
        end = self.segment.end
        last = make_entry(
            self.segment.seed,
            index=self.segment.last_index,
            term=end.term,
            kind=2,
            base_offset=end.next_offset,
            timestamp=self.segment.newest_timestamp,
        )
        for position, is_good in (
            (end.position - ENTRY_HEADER_SIZE, True),
            (end.position - ENTRY_HEADER_SIZE + 1, False),
        ):
            self.write(position, last.frame)
            self.assertEqual(exam._good_header(store, count - 1, position) is not None, is_good)

    def test_unreadable(self):
        """While a block cannot be read, a failed read is tried in smaller ones, then is damage."""
        reads = []
        read = SimDisk.pread

        def pread(disk, fd, size, position):
            if disk._opened(fd)[1] == self.segment.path:
                reads.append((position, size))
                if position < self.position_of_bad < position + size:
                    raise OSError(errno.EIO, "bad block")
            return read(disk, fd, size, position)

        second = self.position(1)
        self.position_of_bad = second + 10
        exam = Examination(self.disk, self.segment)
        with patch.object(SimDisk, "pread", pread):
            while exam.damage is None:
                exam.step()
        self.assertEqual(reads[0][0], STORE_HEADER_SIZE)
        # Frame by frame: the first one's header and the whole, then the second one's header.
        self.assertEqual(
            [size for _, size in reads[1:4]],
            [ENTRY_HEADER_SIZE, self.entry(0).size, ENTRY_HEADER_SIZE],
        )
        self.assertEqual(
            (exam.damage.first_index, exam.damage.position), (self.segment.base_index + 1, second)
        )
        self.assertIn("cannot be read: ", exam.damage.problem)

    def test_not_whole(self):
        """Behind damage that was skipped the index is not compared: it cannot be known."""
        self.flip(self.position(2) + 20)
        self.put(self.segment.index_path, 0, b"\xff" * 12)
        exam, met = self.examine(mends=False)
        self.assertEqual((len(met), exam.index_entries, exam.failure, exam.is_done), (1, None, "", True))


class DamageTests(_ExaminationCase):
    """What is said of damage, and what joins it."""

    def damage(self, **fields):
        values = {
            "seed": self.segment.seed,
            "path": "/store",
            "base_index": 1,
            "segment_offset": 0,
            "first_index": 4,
            "last_index": 6,
            "position": 5000,
            "end": 6000,
            "previous_term": 2,
            "previous_timestamp": 100,
            "base_offset": 10,
            "next_term": 4,
            "next_timestamp": 200,
            "next_offset": 16,
            "problem": "wrong",
        }
        return DamagedEntries(**{**values, **fields})

    def frame(self, index, size, **fields):
        values = {
            "index": index,
            "term": 2,
            "kind": 1,
            "base_offset": 10 + 2 * (index - 4),
            "timestamp": 150,
            "record_count": 2,
            "payload": bytes(size - ENTRY_HEADER_SIZE),
        }
        return make_entry(self.segment.seed, **{**values, **fields}).frame

    def test_names(self):
        """One entry or several are named, and so they are in the error."""
        self.assertEqual(self.damage().names, "entries 4 to 6")
        self.assertEqual(self.damage(last_index=4).names, "entry 4")
        error = self.damage().error()
        self.assertEqual(
            (error.file, error.position, error.problem), ("/store", 5000, "wrong (entries 4 to 6)")
        )

    def taken(self, *frames, **fields):
        """Return how many entries are taken, 0 when they are refused."""
        try:
            return self.damage(**fields).check(b"".join(frames))
        except EntryDamagedError as error:
            self.error = str(error)
            return 0

    def test_room(self):
        """All of them fill the place to the byte; a part leaves room for the rest, headers at least."""
        frames = [self.frame(4, 300), self.frame(5, 300), self.frame(6, 400)]
        self.assertEqual(self.taken(*frames), 3)
        for end in (5999, 6001):
            self.assertEqual(self.taken(*frames, end=end), 0)
            self.assertEqual(
                self.error,
                "entries 4 to 6 of 1000 bytes up to offset 16: "
                f"there is room for {end - 5000}, up to offset 16",
            )
        self.assertEqual(self.taken(*frames[:2], end=5600 + ENTRY_HEADER_SIZE), 2)
        self.assertEqual(self.taken(*frames[:2], end=5600 + ENTRY_HEADER_SIZE - 1), 0)
        self.assertEqual(self.taken(*frames[:1], end=5300 + 2 * ENTRY_HEADER_SIZE), 1)
        self.assertEqual(self.taken(*frames[:1], end=5300 + 2 * ENTRY_HEADER_SIZE - 1), 0)

    def test_end_that_is_a_bound(self):
        """Where only the file's size bounds the end, all of them may take less."""
        frames = [self.frame(4, 300), self.frame(5, 300), self.frame(6, 400)]
        for end, count in ((5999, 0), (6000, 3), (7000, 3)):
            self.assertEqual(self.taken(*frames, end=end, is_end_exact=False), count)

    def test_joined(self):
        """They may reach what is behind the damage by term, time and offset, and not pass it."""
        frames = [self.frame(4, 300), self.frame(5, 300)]
        last = {"term": 4, "timestamp": 200}
        self.assertEqual(self.taken(*frames, self.frame(6, 400, **last)), 3)
        for fields in ({"term": 5}, {"timestamp": 201}):
            self.assertEqual(self.taken(*frames, self.frame(6, 400, **{**last, **fields})), 0)
            self.assertEqual(self.error, "entry 6 does not join the one behind the damage")
        self.assertEqual(self.taken(*frames, self.frame(6, 400, record_count=3)), 0)
        self.assertEqual(self.taken(*frames, self.frame(6, 400, record_count=1)), 0)
        self.assertIn("up to offset 15: there is room for 1000, up to offset 16", self.error)
        # A part may end below: what is missing has the rest.
        self.assertEqual(self.taken(frames[0], self.frame(5, 300, record_count=4)), 2)
        self.assertEqual(self.taken(frames[0], self.frame(5, 300, record_count=5)), 0)

    def test_what_is_before(self):
        """They follow the entry before the damage by term and time."""
        self.assertEqual(self.taken(self.frame(4, 300, timestamp=100)), 1)
        for fields in ({"timestamp": 99}, {"term": 1}):
            self.assertEqual(self.taken(self.frame(4, 300, **fields)), 0)
            self.assertIn("no entries 4 to 6: entry 4 of term", self.error)

    def test_no_entries(self):
        """Bytes that are no whole entries are told as that."""
        for frames in (b"", self.frame(4, 300)[:-1], self.frame(4, 300) + b"x"):
            self.assertEqual(self.taken(frames), 0)
            self.assertEqual(self.error, "no entries 4 to 6: other bytes than whole entries")

    def test_head(self):
        """With a header that is known only its own entry is taken."""
        frame = self.frame(4, 300)
        self.assertEqual(self.taken(frame, head=frame[:64]), 1)
        self.assertEqual(self.taken(frame, head=frame[:63] + bytes([frame[63] ^ 1])), 0)
        self.assertEqual(self.error, "another entry 4 than the one whose header is here")

    def test_written_over(self):
        """What is written is durable, its cached pages are dropped, and it is read back."""
        base, position = self.segment, self.position(2)
        frames = self.entry(2).frame
        damage = self.damage(path=base.path, position=position)
        done = []
        self.disk.on_operation = lambda kind, path, size: done.append((kind, path, size))
        dropped = []
        with patch.object(SimDisk, "drop_cached", lambda _disk, _fd, *place: dropped.append(place)):
            write_over(self.disk, damage, frames)
        self.assertEqual(
            [kind for kind, path, _ in done if path == base.path], ["open", "pwritev", "fdatasync", "pread"]
        )
        self.assertEqual((dropped, done[-1][2]), ([(position, len(frames))], len(frames)))
        with patch.object(SimDisk, "pread", lambda *_: b"other"):
            error = self.assertRaises(DamageError, write_over, self.disk, damage, frames)
        self.assertEqual((error.file, error.position), (base.path, position))
        self.assertEqual(error.problem, "the disk does not keep what is written there (entries 4 to 6)")
