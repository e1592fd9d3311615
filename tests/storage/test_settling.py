"""A start to the word: what a crash left is settled, and what has no room is told."""

import errno

from loghouse.errors import (
    DamageError,
)
from loghouse.limits import INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.creation import LogSizes, Reserve, Rooms
from loghouse.storage.held import Held, read_held, write_held
from loghouse.storage.loss import Loss, write_loss
from loghouse.storage.opening import allocate_or_leave, replace_index, survey
from loghouse.storage.recovery import Tail
from loghouse.storage.start import write_start
from loghouse.storage.store import Watermark, newest_watermark
from loghouse.testing.disk import SimDisk
from tests.storage.test_damage import DIRECTORY, STORE
from tests.storage.test_damage import DamageCase as _DamageCase


class SettleCase(_DamageCase):
    """A log of some segments that was not closed."""

    def setUp(self):
        self.make(30, unsynced=2)
        self.bases = sorted(
            int(path[-26:-6]) for path in self.image if "/0" in path and path.endswith(".store")
        )

    def path(self, base, suffix="store"):
        return f"{DIRECTORY}/{base:020d}.{suffix}"

    def opened(self):
        self.disk.stop_process()
        return self.boot().open_log()

    def opened_without(self, part, **fault):
        """Open with no room for a part of the log, or with another fault of the disk."""
        self.disk.stop_process()
        directory = self.boot()
        if fault:
            self.disk.fail(errno.ENOSPC, path_part=part, **fault)
        else:
            self.disk.fill(part)
        return directory.open_log()

    def watermark(self, base):
        return newest_watermark(self.disk.content(self.path(base))[:STORE_HEADER_SIZE], self.seed)

    def write(self, path, position, content):
        old = self.disk.content(path)
        self.disk.replace(path, old[:position] + content + old[position + len(content) :])


class SettlingTests(SettleCase):
    """What a start does."""

    def test_behind_the_watermark(self):
        """Whole entries behind the watermark are written again, synced, and counted as durable."""
        last = self.bases[-1]
        before = self.watermark(last)
        written = []
        real = SimDisk.pwritev

        def pwritev(disk, fd, buffers, position):
            if disk._opened(fd)[1] == self.path(last):
                written.append((position, sum(map(len, buffers))))
            real(disk, fd, buffers, position)

        self.patch(SimDisk, "pwritev", pwritev)
        log = self.opened()
        end = log.active_size
        self.assertEqual(written[0], (before.position, end - before.position))
        self.assertEqual(self.watermark(last), Watermark(before.counter + 1, 32, 1, end, before.commit_index))
        self.assertEqual((log.durable_index, log.last_index, log.warnings), (32, 32, ()))
        # With nothing behind it only the watermark is written.
        written.clear()
        self.opened()
        self.assertEqual([size for _, size in written], [Watermark.SIZE])

    def test_much_behind_the_watermark(self):
        """However much it is, it is written piece by piece."""
        from loghouse.storage import opening

        self.patch(opening, "MIB", 100)
        content = self.disk.content(self.path(self.bases[-1]))
        self.assertEqual(self.opened().last_index, 32)
        self.assertEqual(
            self.disk.content(self.path(self.bases[-1]))[STORE_HEADER_SIZE:], content[STORE_HEADER_SIZE:]
        )

    def torn(self):
        """Damage the last entry's payload; return where the entry begins."""
        at = STORE_HEADER_SIZE + sum(entry.size for entry in self.entries[self.bases[-1] - 1 : 31])
        self.disk.flip(self.path(self.bases[-1]), 8 * (at + 70))
        return at

    def test_torn(self):
        """A torn tail is kept aside to its last byte that is not zero, and cut; the room stays."""
        last = self.bases[-1]
        at = self.torn()
        content = self.disk.content(self.path(last))
        end = len(content.rstrip(b"\0"))
        log = self.opened()
        name = f"{last:020d}-{at}.torn"
        self.assertEqual(
            log.warnings,
            (
                f"{self.path(last)}: torn tail at byte {at} cut, it was never acknowledged (kept as "
                f"lost+found/{name}): payload checksum of entry 32 does not match",
            ),
        )
        self.assertEqual(self.disk.content(f"{DIRECTORY}/lost+found/{name}"), content[at:end])
        self.assertEqual(self.disk.content(self.path(last))[at:], bytes(5120 - at))

    def test_torn_bytes(self):
        """Bytes behind zeroes are no entry: they are told as what they are."""
        last = self.bases[-1]
        end = STORE_HEADER_SIZE + sum(entry.size for entry in self.entries[last - 1 :])
        self.write(self.path(last), 5110, b"x")
        found = survey(self.disk, DIRECTORY, cluster=self.cluster, group=1)
        self.assertEqual((found.tail, found.tail_end), (Tail.TORN, 5111))
        [warning] = self.opened().warnings
        self.assertIn(f"torn tail at byte {end} cut", warning)
        self.assertTrue(warning.endswith("): bytes behind the end"))

    def test_torn_on_a_full_disk(self):
        """Without room to keep it aside it is cut all the same, and told."""
        self.torn()
        log = self.opened_without("lost+found", kinds=("create",), times=9)
        [warning] = [text for text in log.warnings if "torn" in text]
        self.assertIn("(not kept: the disk is full)", warning)

    def test_small_store(self):
        """A last store that is smaller than a first one gets its room; a larger one stays as it is."""
        last = self.bases[-1]
        content = self.disk.content(self.path(last))
        end = len(content.rstrip(b"\0"))
        for size, wanted in ((end, 5120), (5119, 5120), (5120, 5120), (6000, 6000)):
            self.disk.replace(self.path(last), content[:size].ljust(size, b"\0"))
            log = self.opened()
            self.assertEqual(len(self.disk.content(self.path(last))), wanted)
            self.assertEqual(log.view.segments[-1].size, wanted)
            self.restore()

    def test_missed(self):
        """What a start finds no room for it does without, and tells."""
        missed = f"{DIRECTORY}: no room for {{}}; appends wait for space"
        for part, what, harm in (
            ("watermark", "the watermark", lambda: None),
            ("reserve", "the reserve", lambda: self.disk.unlink("/data/reserve")),
            (
                "hard state",
                "the second copy of term and vote",
                lambda: self.disk.flip(f"{DIRECTORY}/hard_state", 8 * 20),
            ),
            ("state", "the state file", lambda: self.disk.unlink(self.path(self.bases[-1], "state"))),
        ):
            harm()
            log = self.opened_without(part)
            self.assertEqual(log.warnings, (missed.format(what),))
            self.assertEqual((log.last_index, log.state.next_offset), (32, self.entries[-1].next_offset))
            self.restore()

    def test_indexes(self):
        """An index of a sealed segment that leads nowhere is made anew and told; or missed, and removed."""
        base = self.bases[1]
        path = self.path(base, "index")
        good = self.image[path]
        count = self.bases[2] - base
        self.disk.replace(path, bytes(len(good)))
        self.assertEqual(self.opened().warnings, (f"{base:020d}.index: did not fit its store, was rebuilt",))
        self.assertEqual(self.disk.content(path), good[: count * INDEX_ENTRY_SIZE])
        self.disk.replace(path, bytes(len(good)))
        log = self.opened_without(".index", kinds=("allocate",), times=2)
        self.assertEqual(
            log.warnings, (f"{DIRECTORY}: no room for the index of segment {base}; appends wait for space",)
        )
        self.assertFalse(self.disk.exists(path))
        self.assertEqual(log.term_at(base + 1), 1)

    def test_active_index(self):
        """The last index is mended in place; one that is gone or too short is made in its size."""
        last = self.bases[-1]
        path = self.path(last, "index")
        good = self.image[path]
        entries = good.rstrip(b"\0")
        for content in (None, b"", good[:24], bytes(len(good)), good[:30] + b"\xff" + good[31:]):
            if content is None:
                self.disk.unlink(path)
            else:
                self.disk.replace(path, content)
            log = self.opened()
            self.assertEqual(log.warnings, ())
            found = self.disk.content(path)
            self.assertEqual((len(found), found[: len(entries)]), (len(good), entries))
            self.restore()
        longer = good + b"more"
        self.disk.replace(path, longer)
        self.opened()
        self.assertEqual(self.disk.content(path), longer)

    def test_index_taken_back(self):
        """An index whose name a cut took before a crash gets it back; a leftover beside a good one goes."""
        last = self.bases[-1]
        path = self.path(last, "index")
        content = self.disk.content(path)
        self.disk.rename(path, f"{path}.tmp")
        self.assertEqual(self.opened().last_index, 32)
        self.assertEqual((self.disk.content(path), self.disk.exists(f"{path}.tmp")), (content, False))
        self.disk.replace(f"{path}.tmp", b"old")
        self.opened()
        self.assertEqual((self.disk.content(path), self.disk.exists(f"{path}.tmp")), (content, False))

    def test_held(self):
        """What a clean stop wrote down goes with the first change; under repair it says what was lost."""
        write_held(self.disk, DIRECTORY, self.seed, Held(32, 1, HardState(1, 1), is_closed=True))
        self.opened()
        self.assertIsNone(read_held(self.disk, DIRECTORY, self.seed))
        write_loss(self.disk, DIRECTORY, self.seed, Loss(50, 1, is_cut=True))
        self.opened()
        self.assertEqual(read_held(self.disk, DIRECTORY, self.seed), Held(50, 1))
        self.opened_without("held", kinds=("create",), times=2)
        self.assertIsNone(read_held(self.disk, DIRECTORY, self.seed))

    def test_held_more(self):
        """A log that held more when it was closed lacks files, or this one is an older copy."""
        for held, loss, is_damage in (
            (Held(32, 1), None, False),
            (Held(33, 1), None, True),
            (Held(1, 2), None, True),
            (Held(33, 1), Loss(33, 1, is_cut=True), False),
            (Held(34, 1), Loss(33, 1, is_cut=True), True),
        ):
            write_held(self.disk, DIRECTORY, self.seed, held)
            if loss is not None:
                write_loss(self.disk, DIRECTORY, self.seed, loss)

            def look():
                return survey(self.disk, DIRECTORY, cluster=self.cluster, group=1)

            if is_damage:
                error = self.assertRaises(DamageError, look)
                self.assertEqual(
                    (error.file, error.last_index, error.last_term),
                    (self.path(self.bases[-1]), held.last_index, held.last_term),
                )
                self.assertIn(
                    f"the log ends here at entry 32, but held entry {held.last_index} of term "
                    f"{held.last_term} when it was closed: files are missing, or this one is an older copy",
                    error.problem,
                )
                self.assertIn("loghouse recover /data --accept-data-loss", str(error))
            else:
                self.assertEqual(look().state.index, 32)
            self.restore()

    def test_store_that_is_gone(self):
        """A trace of a store that is gone, or holds nothing, is damage, with what was once held."""
        last = self.bases[-1]
        for content, what in ((None, "is gone"), (bytes(5120), "holds nothing")):
            if content is None:
                self.disk.unlink(self.path(last))
            else:
                self.disk.replace(self.path(last), content)
            write_held(self.disk, DIRECTORY, self.seed, Held(32, 1))
            error = self.assertRaises(
                DamageError, survey, self.disk, DIRECTORY, cluster=self.cluster, group=1
            )
            self.assertEqual((error.file, error.last_index, error.last_term), (self.path(last), 32, 1))
            self.assertEqual(error.problem, f"the store {what}; {last:020d}.index proves that it was in use")
            self.restore()

    def test_installed_on_a_full_disk(self):
        """A start that is being installed is finished out of the reserve when the disk is full."""
        start = LogState(index=99, term=3, next_offset=500)
        for room in (None, 1000):
            disk = SimDisk()
            for path in ("/data", "/data/logs", DIRECTORY):
                disk.make_directory(path)
            from loghouse.storage.log import Log

            Log.create(disk, DIRECTORY, cluster=self.cluster, group=1)
            write_start(disk, DIRECTORY, self.seed, start, installing=True)
            disk.replace(f"{DIRECTORY}/reserve", bytes(100_000))
            disk.capacity = disk.used_size() + room if room else None
            log = Log.open(
                disk, DIRECTORY, cluster=self.cluster, group=1, segment_size=1 << 20, reserve_size=100_000
            )
            self.assertEqual((log.first_index, log.next_offset), (100, 500))
            self.assertEqual(log.view.segments[-1].size, 64 * 1024 if room else 1 << 20)
            self.assertEqual(log.commit_index, 0)

    def test_room_left(self):
        """A store that gets no room stays as it is; an error of the disk is told."""
        rooms = Rooms(
            self.disk,
            DIRECTORY,
            LogSizes(segment=1, index=1, first=1),
            Reserve(self.disk, "/data/reserve", 0),
        )
        fd = self.disk.open(STORE, write=True)
        self.assertEqual(allocate_or_leave(self.disk, rooms, fd, 5120, 6000), 6000)
        self.disk.fail(errno.ENOSPC, kinds=("allocate",))
        self.assertEqual(allocate_or_leave(self.disk, rooms, fd, 6000, 7000), 6000)
        self.disk.fail(errno.EIO, kinds=("allocate",))
        self.assertRaises(OSError, allocate_or_leave, self.disk, rooms, fd, 6000, 7000)
        count = len(self.disk._open)
        for size, wanted in ((0, 1), (30, 30)):
            replace_index(self.disk, rooms, DIRECTORY, 77, b"", size)
            self.assertEqual(self.disk.content(self.path(77, "index")), bytes(wanted))
        self.assertEqual(len(self.disk._open), count)
