"""Damage in sealed segments: found to the entry, and mended only by exactly the bytes that were there."""

import errno
import os
import random
from dataclasses import replace
from unittest.mock import patch

from loghouse.errors import DamageError, DiskFailedError, EntryDamagedError
from loghouse.limits import ENTRY_HEADER_SIZE, INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import make_entry
from loghouse.storage import examination
from loghouse.storage.examination import Examination
from loghouse.testing.disk import PowerLossError, SimDisk, disk_error
from tests.storage.test_damage import DamageCase

SHARE = float(os.environ.get("LOGHOUSE_BIT_FLIPS", "0.015"))


class ExaminationCase(DamageCase):
    """A log of some sealed segments, opened as a member's."""

    def setUp(self):
        self.make(40)
        self.log = self.boot().open_log(leaves_damage=True)
        self.segment = self.log.view.segments[1]
        self.good = self.disk.content(self.segment.path)

    def position(self, number: int) -> int:
        return self.segment.frame_header(number).position

    def entry(self, number: int):
        return self.entries[self.segment.base_index + number - 1]

    def write(self, position: int, content: bytes) -> None:
        """Put bytes into the segment's store behind everybody's back."""
        self.put(self.segment.path, position, content)

    def put(self, path: str, position: int, content: bytes) -> None:
        file = self.disk._file(path)
        for image in (file.seen, file.durable):
            image.write(position, content)

    def flip(self, position: int) -> None:
        self.disk.flip(self.segment.path, 8 * position + 2)

    def examine(self, *, mends: bool = True, is_end_exact: bool = True):
        """Read the segment, mending as it goes; return the exam and the damage that it met."""
        exam = Examination(self.disk, self.segment, is_end_exact=is_end_exact)
        met = []
        while not (exam.is_done or exam.failure):
            exam.step()
            if exam.damage is not None:
                met.append(exam.damage)
                if mends:
                    frames = self.frames(exam.damage)
                    exam.damage.check(frames)
                    self.assertTrue(self.log.mend(exam.damage, frames))
                    exam.resume()
                else:
                    exam.skip()
        return exam, met

    def frames(self, damage) -> bytes:
        entries = self.entries[damage.first_index - 1 : damage.last_index]
        return b"".join(entry.frame for entry in entries)

    def assert_whole(self) -> None:
        end = self.segment.end.position
        self.assertEqual(
            self.disk.content(self.segment.path)[STORE_HEADER_SIZE:end], self.good[STORE_HEADER_SIZE:end]
        )


class FindingTests(ExaminationCase):
    """What is damaged is told to the entry."""

    def test_good(self):
        """A good segment is read to its end, index and all."""
        exam, met = self.examine()
        self.assertEqual((met, exam.failure, exam.index_entries), ([], "", None))
        self.assertEqual(exam.found_end(), self.segment.end)
        self.assertEqual(exam.newest_timestamp, self.segment.newest_timestamp)

    def test_any_bit(self):
        """Any bit of any frame: just its entry is damaged, and the entry mends it."""
        rng = random.Random(3)
        first, end = STORE_HEADER_SIZE, self.segment.end.position
        for position in sorted(rng.sample(range(first, end), max(20, int(SHARE * (end - first))))):
            self.flip(position)
            _, met = self.examine()
            [damage] = met
            self.assertEqual(damage.first_index, damage.last_index)
            self.assertLessEqual(damage.position, position)
            self.assertLess(position, damage.end)
            self.assert_whole()

    def test_zeroed_block(self):
        """Entries that a zeroed block took are one damaged place, up to the next good one."""
        first, behind = self.position(2), self.position(5)
        self.write(first + 10, bytes(behind - first - 10))
        _, met = self.examine()
        base = self.segment.base_index
        self.assertEqual(
            [(d.first_index, d.last_index, d.position, d.end) for d in met],
            [(base + 2, base + 4, first, behind)],
        )
        self.assert_whole()

    def test_up_to_the_end(self):
        """Without a good entry behind it, damage goes to the segment's end."""
        first = self.position(3)
        self.write(first, bytes(self.segment.end.position - first))
        _, [damage] = self.examine()
        self.assertEqual(
            (damage.last_index, damage.end), (self.segment.last_index, self.segment.end.position)
        )
        self.assert_whole()

    def test_many_places(self):
        """Several places are told in their order; skipping them tells the same."""
        numbers = (0, 2, 5, self.segment.end.count - 1)
        for number in numbers:
            self.flip(self.position(number) + 9 + 60 * (number % 2))
        _, skipped = self.examine(mends=False)
        _, met = self.examine()
        base = self.segment.base_index
        self.assertEqual([d.first_index - base for d in met], list(numbers))
        self.assertEqual([d.first_index - base for d in skipped], list(numbers))
        self.assert_whole()

    def test_long_search(self):
        """The next good entry is looked for some index entries at a time."""
        first, behind = self.position(1), self.position(6)
        self.write(first, bytes(behind - first))
        self.patch(examination, "SEEK_MAX", 2)
        _, [damage] = self.examine()
        self.assertEqual(damage.end, behind)

    def test_index_that_lies(self):
        """An index entry that leads to no entry of that number is passed over."""
        for number in (3, 4):
            self.put(
                self.segment.index_path,
                INDEX_ENTRY_SIZE * number + 4,
                (self.position(5) + 10).to_bytes(8, "big"),
            )
        self.flip(self.position(2))
        exam, [damage] = self.examine()
        base = self.segment.base_index
        self.assertEqual((damage.first_index, damage.last_index), (base + 2, base + 4))
        self.assert_whole()
        self.assertIsNotNone(exam.index_entries)
        self.log.mend_index(base, exam.index_entries)
        self.assertIsNone(self.examine()[0].index_entries)

    def test_missing_index(self):
        """A missing index is no damage: it is made anew."""
        self.disk.unlink(self.segment.index_path)
        exam, met = self.examine()
        self.assertEqual(met, [])
        self.assertEqual(len(exam.index_entries), INDEX_ENTRY_SIZE * self.segment.end.count)

    def test_missing_index_on_a_full_disk(self):
        """Without room for it an index waits for the next look; the log goes on."""
        self.disk.unlink(self.segment.index_path)
        exam, _ = self.examine()
        self.disk.fail(errno.ENOSPC, kinds=("allocate",), times=9)
        self.log.mend_index(self.segment.base_index, exam.index_entries)
        self.assertEqual((self.log.failure, self.disk.exists(self.segment.index_path)), ("", False))
        self.disk.faults.clear()
        self.log.mend_index(self.segment.base_index, exam.index_entries)
        self.assertIsNone(self.examine()[0].index_entries)

    def test_short_file(self):
        """A file that lost its end is damaged from there on."""
        file, size = self.disk._file(self.segment.path), self.position(4) + 20
        for image in (file.seen, file.durable):
            image.truncate(size)
        _, [damage] = self.examine(mends=False)
        self.assertEqual(damage.first_index, self.segment.base_index + 4)

    def test_newer_entry(self):
        """A whole frame of a kind from the future is no damage: nothing is mended over it."""
        old = self.entry(3)
        head = bytearray(old.head)
        head[8] = 9
        newer = examination.crc32c(bytes(head[4:]), self.segment.seed).to_bytes(4, "big") + bytes(head[4:])
        self.write(self.position(3), newer)
        exam, met = self.examine()
        self.assertEqual(met, [])
        self.assertIn("newer", exam.failure)

    def test_does_not_join_the_next_segment(self):
        """A segment that is whole, but not the one before the next, is not to be mended entry by entry."""
        self.segment.end = replace(self.segment.end, next_offset=self.segment.end.next_offset + 1)
        exam, _ = self.examine()
        self.assertIn("does not join", exam.failure)

    def test_unreadable_block(self):
        """A block that cannot be read damages all entries that touch it, and no others are asked for."""
        bad = range(self.position(3) + 70, self.position(5) - 3)
        read = SimDisk.pread

        def pread(disk, fd, size, position):
            path = disk._opened(fd)[1]
            if path == self.segment.path and position < bad.stop and bad.start < position + size:
                raise disk_error(errno.EIO)
            return read(disk, fd, size, position)

        base = self.segment.base_index
        with patch.object(SimDisk, "pread", pread):
            _, met = self.examine(mends=False)
        self.assertEqual([(d.first_index, d.last_index) for d in met], [(base + 3, base + 4)])
        self.assertIn("cannot be read", met[0].problem)


class CheckTests(ExaminationCase):
    """Only the very entries are taken."""

    def damage_at(self, number: int, *, at: int):
        self.flip(self.position(number) + at)
        exam = Examination(self.disk, self.segment)
        while exam.damage is None:
            exam.step()
        return exam.damage

    def twin(self, number: int, **fields):
        """The entry of that number, with something else in it."""
        old = self.entry(number)
        values = {
            name: getattr(old, name)
            for name in ("index", "term", "kind", "base_offset", "timestamp", "payload", "record_count")
        }
        return make_entry(self.segment.seed, **{**values, **fields}).frame

    def assert_refused(self, damage, frames: bytes) -> None:
        with self.assertRaises(EntryDamagedError):
            damage.check(frames)

    def test_header_damaged(self):
        """Another index, term, offset, length or record count than fits the neighbours is refused."""
        damage, old = self.damage_at(3, at=20), self.entry(3)
        self.assertEqual(damage.check(old.frame), 1)
        for fields in (
            {"index": old.index + 1},
            {"index": old.index - 1},
            {"term": old.term + 1},
            {"base_offset": old.base_offset + 1},
            {"timestamp": old.timestamp + 1_000_000},
            {"timestamp": 0},
            {"payload": bytes(old.payload) + b"x"},
            {"payload": bytes(old.payload)[:-1]},
            {"record_count": old.record_count + 1},
        ):
            self.assert_refused(damage, self.twin(3, **fields))
        self.assert_refused(
            damage,
            make_entry(
                self.segment.seed ^ 1,
                index=old.index,
                term=1,
                kind=1,
                base_offset=old.base_offset,
                timestamp=old.timestamp,
                payload=old.payload,
                record_count=old.record_count,
            ).frame,
        )

    def test_payload_damaged(self):
        """While the header is good, only the entry with that very header is taken."""
        damage = self.damage_at(3, at=ENTRY_HEADER_SIZE + 5)
        self.assertEqual(damage.check(self.entry(3).frame), 1)
        other = bytes(len(self.entry(3).payload))
        self.assert_refused(damage, self.twin(3, payload=other))

    def test_bytes_that_are_no_whole_entries(self):
        """Nothing, a part, a damaged copy, more than was asked for: refused."""
        damage, frame = self.damage_at(3, at=20), self.entry(3).frame
        damaged = bytearray(frame)
        damaged[-1] ^= 1
        for frames in (
            b"",
            frame[:-1],
            frame[:10],
            bytes(damaged),
            frame + self.entry(4).frame,
            frame + b"x",
        ):
            self.assert_refused(damage, frames)

    def test_a_part(self):
        """The first of several entries are taken alone; not those behind, nor what leaves them no room."""
        first, second, behind = (self.position(number) for number in (2, 3, 5))
        self.write(first, bytes(behind - first))
        exam = Examination(self.disk, self.segment)
        while exam.damage is None:
            exam.step()
        damage = exam.damage
        frames = [self.entry(number).frame for number in (2, 3, 4)]
        self.assertEqual(damage.check(frames[0] + frames[1]), 2)
        for other in (frames[1], frames[0] + b"x", self.twin(2, index=damage.first_index + 1)):
            self.assert_refused(damage, other)
        self.assert_refused(damage, self.twin(2, payload=bytes(behind - first - 3 * ENTRY_HEADER_SIZE + 1)))
        self.log.mend(damage, frames[0])
        exam.resume()
        while exam.damage is None:
            exam.step()
        self.assertEqual((exam.damage.first_index, exam.damage.position), (damage.first_index + 1, second))


class WritingTests(ExaminationCase):
    """Written in place, durable, read back; a crash leaves no less than there was."""

    def damaged(self):
        """Damage two entries; return what is to be mended."""
        first, behind = self.position(2), self.position(4)
        self.write(first + 5, bytes(behind - first - 5))
        exam = Examination(self.disk, self.segment)
        while exam.damage is None:
            exam.step()
        return exam.damage

    def test_crash_anywhere(self):
        """A power loss at any step leaves the same damage, or none; the next look mends it."""
        outcomes = set()
        for after in range(3):
            for keep in (0.0, 0.3, 0.7, 1.0):
                self.disk.stop_process()
                for path, content in self.image.items():
                    self.disk.replace(path, content)  # the indexes durable, too: they are never synced
                log = self.log = self.boot().open_log(leaves_damage=True)
                self.segment = log.view.segments[1]
                damage = self.damaged()
                self.disk.fail(PowerLossError(), after=after, kinds=("pwritev", "fdatasync", "pread"))
                with self.assertRaises(PowerLossError):
                    log.mend(damage, self.frames(damage))
                self.disk.faults.clear()
                self.disk.crash(random.Random(after), keep=keep)
                self.log = self.boot().open_log(leaves_damage=True)
                self.segment = self.log.view.segments[1]
                _, met = self.examine()
                for one in met:
                    self.assertGreaterEqual(one.first_index, damage.first_index)
                    self.assertLessEqual(one.last_index, damage.last_index)
                outcomes.add(len(met))
                self.assert_whole()
        self.assertIn(0, outcomes, "once it was synced, it is mended")
        self.assertIn(1, outcomes)

    def test_disk_that_does_not_keep_it(self):
        """What is read back is compared."""
        damage = self.damaged()
        with patch.object(SimDisk, "pwritev", lambda *_: None), self.assertRaises(DamageError) as caught:
            self.log.mend(damage, self.frames(damage))
        self.assertIn("does not keep", str(caught.exception))
        self.assertEqual(self.log.failure, "")
        self.log.mend(damage, self.frames(damage))
        self.assert_whole()

    def test_disk_that_fails(self):
        """An error of write or sync is the log's end, as any other."""
        for kind in ("pwritev", "fdatasync"):
            self.restore()
            self.log = self.boot().open_log(leaves_damage=True)
            self.segment = self.log.view.segments[1]
            damage = self.damaged()
            self.disk.fail(errno.EIO, kinds=(kind,))
            with self.assertRaises(DiskFailedError):
                self.log.mend(damage, self.frames(damage))
            self.assertNotEqual(self.log.failure, "")

    def test_not_sealed_any_more(self):
        """A segment that was trimmed, or takes appends again, is left alone."""
        damage = self.damaged()
        frames = slice(STORE_HEADER_SIZE, self.segment.end.position)
        before = self.disk.content(self.segment.path)[frames]
        self.log.truncate_suffix(self.segment.last_index)
        self.assertFalse(self.log.mend(damage, self.frames(damage)))
        self.log.mend_index(self.segment.base_index, b"")
        self.assertEqual(self.disk.content(self.segment.path)[frames], before)

    def test_known_damage_is_refused_at_once(self):
        """Look-ups of what is known to be damaged end without a search; all else is served."""
        damage = self.damaged()
        self.log.note_damaged([damage])
        with patch.object(SimDisk, "pread", side_effect=AssertionError("read")):
            for look in (
                lambda: self.log.read(damage.base_offset, 1, self.log.last_index),
                lambda: self.log.read(damage.next_offset - 1, 1, self.log.last_index),
                lambda: self.log.entries(damage.first_index, damage.last_index, 1),
                lambda: self.log.term_at(damage.last_index),
                lambda: self.log.check_not_damaged(damage.first_index),
            ):
                with self.assertRaises(DamageError):
                    look()
        for offset in (damage.base_offset - 1, damage.next_offset):
            self.assertTrue(self.log.read(offset, 1, self.log.last_index)[0])
        self.log.check_not_damaged(damage.last_index + 1)


class OpeningTests(ExaminationCase):
    """A start that meets damage in a sealed segment."""

    def reopen(self, **options):
        self.disk.stop_process()
        return self.boot().open_log(**options)

    def damage_last(self) -> None:
        self.flip(self.position(self.segment.end.count - 1) + 20)

    def test_left_to_be_mended(self):
        """A member's log opens beside a last entry that is damaged, and everything else is read."""
        end, base = self.segment.end, self.segment.base_index
        self.damage_last()
        self.log = self.reopen(leaves_damage=True)
        self.segment = self.log.sealed_segment(base)
        self.assertEqual(self.log.unknown_ends, {base})
        with self.assertRaises(DamageError):
            self.log.read(end.next_offset - 1, 1, self.log.last_index)
        self.assertEqual(self.log.entries(base, base + 3, 1 << 20)[-1].index, base + 2)
        self.assertEqual(
            self.log.read(end.next_offset, 1, self.log.last_index)[0],
            self.entries[self.segment.last_index].frame,
        )
        exam, [damage] = self.examine(is_end_exact=False)
        self.assertEqual((damage.first_index, damage.last_index), (self.segment.last_index,) * 2)
        self.log.end_found(base, exam.found_end(), exam.newest_timestamp)
        self.assertEqual((self.segment.end, self.log.unknown_ends), (end, frozenset()))
        self.assert_whole()

    def test_refused_otherwise(self):
        """A lone node, an entry that may not be committed, or a lost state file: as before."""
        self.damage_last()
        with self.assertRaises(DamageError):
            self.reopen()
        following = self.log.view.segments[2].base_index
        name = f"{following:020d}.state"
        self.put(f"{self.log._directory}/{name}", 20, b"damaged")
        with self.assertRaises(DamageError):
            self.reopen(leaves_damage=True)

    def test_not_committed(self):
        """What the watermark does not call committed may be on this disk alone: it is not left to mending."""
        last = self.log.view.segments[-2]
        position = last.frame_header(last.end.count - 1).position
        self.disk.flip(last.path, 8 * (position + 20))
        for _ in range(2):  # both slots
            self.log._sync_store(self.log._active, last.last_index - 1)
        with self.assertRaises(DamageError):
            self.reopen(leaves_damage=True)
