"""Zeroes written ahead of the log's end, so that its syncs need not change the file's map of blocks too."""

import errno
from unittest.mock import patch

from loghouse.errors import DiskFailedError, DiskFullError
from loghouse.limits import ENTRY_HEADER_SIZE, KIB, SEGMENT_SIZE_FIRST
from loghouse.storage.log import Log
from loghouse.storage.segment import CLEARED_GROUP_SIZES, CLEARED_GROUPS, CLEARED_SIZE_MIN
from loghouse.testing.disk import DiskFault, SimDisk, disk_error
from tests.storage.entries import CLUSTER, GROUP, frames_of
from tests.storage.test_log_edges import DIRECTORY, EdgeCase

GROUP_SIZE = 16 * KIB


class ClearingTests(EdgeCase):
    """What is written behind the end, when, and what comes of it."""

    def setUp(self):
        super().setUp()
        self.log = self.open(segment_size=SEGMENT_SIZE_FIRST)

    def cleared(self):
        """Return where zeroes were written since the last call, as (position, bytes)."""
        trace, self.disk.trace = self.disk.trace, []
        writes = [arguments for kind, arguments in trace or () if kind == "pwritev"]
        return [
            (position, len(content))
            for _, (content,), position in writes
            if len(content) > 10 * KIB and not content.strip(b"\0")
        ]

    def reopen(self):
        self.log.close()
        self.log = Log.open(
            self.disk, DIRECTORY, cluster=CLUSTER, group=GROUP, segment_size=SEGMENT_SIZE_FIRST
        )

    def test_ahead(self):
        """After a group they are written right behind it, and again when the next would not fit in."""
        self.cleared()
        self.append(GROUP_SIZE)
        end = self.log.active_size
        self.assertEqual(self.cleared(), [(end, CLEARED_SIZE_MIN)])
        self.append(*[GROUP_SIZE] * (CLEARED_SIZE_MIN // GROUP_SIZE - 1))
        self.assertEqual(self.cleared(), [])
        self.append(GROUP_SIZE)
        self.assertEqual(self.cleared(), [(end + CLEARED_SIZE_MIN, CLEARED_SIZE_MIN)])

    def test_large_groups(self):
        """They reach some large groups far: a sync seldom meets the disk writing zeroes."""
        size = 100 * KIB
        self.cleared()
        self.append(size)
        end = self.log.active_size
        self.assertEqual(self.cleared(), [(end, CLEARED_GROUPS * size)])
        self.append(*[size] * (CLEARED_GROUPS - 1))
        self.assertEqual(self.cleared(), [])
        self.append(size)
        end = self.log.active_size
        self.assertEqual(self.cleared(), [(end, SEGMENT_SIZE_FIRST - end)])

    def test_in_steps(self):
        """Behind a sync that is done in steps, too."""
        with patch.object(self.log, "sync", self.sync_in_steps):
            self.cleared()
            self.append(GROUP_SIZE)
            self.assertEqual(self.cleared(), [(self.log.active_size, CLEARED_SIZE_MIN)])
            self.append(CLEARED_GROUP_SIZES[0] - 1)
            self.assertEqual(self.cleared(), [])

    def sync_in_steps(self, commit_index):
        under_way = self.log.begin_sync(commit_index)
        under_way.run()
        under_way.finish()

    def test_behind_a_larger_group(self):
        """A group that reached beyond the zeroes is not written over: the next begin behind it."""
        self.append(GROUP_SIZE)
        self.append(400 * KIB)
        self.cleared()
        self.append(GROUP_SIZE)
        self.assertEqual(self.cleared(), [(self.log.active_size, CLEARED_SIZE_MIN)])
        sizes = [len(frame) for frame in frames_of(self.log)]
        self.assertEqual(sizes, [GROUP_SIZE, 400 * KIB, GROUP_SIZE])

    def test_group_sizes(self):
        """Small groups and large ones have none written: what they spare is less than they cost."""
        self.cleared()
        self.append(CLEARED_GROUP_SIZES[0] - 1, CLEARED_GROUP_SIZES[-1] + 1)
        self.assertEqual(self.cleared(), [])
        self.append(CLEARED_GROUP_SIZES[0])
        self.assertEqual(len(self.cleared()), 1)
        self.reopen()
        self.cleared()
        self.append(CLEARED_GROUP_SIZES[-1])
        self.assertEqual(len(self.cleared()), 1)

    def test_end_of_the_file(self):
        """They end where the file does, and there they end for good."""
        while self.log.active_size < SEGMENT_SIZE_FIRST - 3 * GROUP_SIZE:
            self.append(GROUP_SIZE)
        self.assertLessEqual(self.size_of(f"{1:020d}.store"), SEGMENT_SIZE_FIRST)
        self.cleared()
        self.append(GROUP_SIZE)
        self.assertEqual(self.cleared(), [])

    def test_whole_log(self):
        """What the log holds is what it held, over segments, and after a new start."""
        sizes = [ENTRY_HEADER_SIZE + 5000 + 977 * number % (60 * KIB) for number in range(60)]
        self.append(*sizes)
        frames = frames_of(self.log)
        self.assertEqual([len(frame) for frame in frames], sizes)
        self.reopen()
        self.assertEqual(frames_of(self.log), frames)
        self.append(GROUP_SIZE)
        self.assertEqual(frames_of(self.log)[:-1], frames)

    def prepare(self):
        """Fill half of the segment, have room taken for the next one; return where zeroes were written."""
        while not self.log.is_half_full:
            self.append(GROUP_SIZE)
        self.cleared()
        self.log.prepare()
        return self.cleared()

    def roll(self):
        bases = self.bases
        while self.bases == bases:
            self.append(GROUP_SIZE)

    def test_next_segment(self):
        """The next segment's first bytes have them since its room was taken: its first groups write none."""
        self.assertEqual(self.prepare(), [(0, CLEARED_SIZE_MIN)])
        self.log.prepare()
        self.assertEqual(self.cleared(), [])
        self.roll()
        self.cleared()
        self.append(*[GROUP_SIZE] * 8)
        self.assertEqual(self.cleared(), [])
        while self.log.active_size + GROUP_SIZE <= CLEARED_SIZE_MIN:
            self.append(GROUP_SIZE)
        self.assertEqual(self.cleared(), [(CLEARED_SIZE_MIN, CLEARED_SIZE_MIN)])
        self.assertEqual({len(frame) for frame in frames_of(self.log)}, {GROUP_SIZE})
        self.assertEqual(self.prepare(), [(0, CLEARED_SIZE_MIN)])

    def test_next_segment_of_small_groups(self):
        """Where groups have none written ahead, the next segment has none, either."""
        while not self.log.is_half_full:
            self.append(CLEARED_GROUP_SIZES[-1] + 1)
        self.cleared()
        self.log.prepare()
        self.assertEqual(self.cleared(), [])

    def test_spare_made_anew(self):
        """A spare that gives way to a larger one has none yet: they are written again."""
        self.assertEqual(self.prepare(), [(0, CLEARED_SIZE_MIN)])
        self.log._rooms.ensure_spares([2 * SEGMENT_SIZE_FIRST])
        self.cleared()
        self.log.prepare()
        self.assertEqual(self.cleared(), [(0, CLEARED_SIZE_MIN)])

    def test_next_segment_that_was_named(self):
        """A spare that has its name as a segment, and whose roll found no room then, is left as it is."""
        self.prepare()
        full = DiskFault(disk_error(errno.ENOSPC), kinds=frozenset({"sync_directory"}))
        self.disk.faults.append(full)
        refused = []
        with patch.object(self.writer, "records", self.kept(refused)):
            self.assertRaises(DiskFullError, self.roll)
        self.log._active.cleared_size *= 2
        self.cleared()
        self.log.prepare()
        self.assertEqual(self.cleared(), [])
        self.log.append(refused)
        self.log.sync(refused[0].index)
        self.assertEqual({len(frame) for frame in frames_of(self.log)}, {GROUP_SIZE})

    def kept(self, kept):
        """Return what makes records as the writer does, and leaves the last ones in a list."""
        records = self.writer.records

        def make(*arguments):
            kept[:] = [records(*arguments)]
            return kept[0]

        return make

    def test_no_room(self):
        """A disk that copies on write and is full takes none: the log goes on."""
        write = SimDisk.pwritev

        def refusing(disk, fd, buffers, position):
            if len(buffers) == 1 and len(buffers[0]) == CLEARED_SIZE_MIN:
                raise OSError(errno.ENOSPC, "no room")
            write(disk, fd, buffers, position)

        with patch.object(SimDisk, "pwritev", refusing):
            self.append(GROUP_SIZE, GROUP_SIZE)
        self.assertEqual(self.log.failure, "")
        self.assertEqual(len(frames_of(self.log)), 2)

    def test_disk_fails(self):
        """Any other error is the disk's failure, as with every write."""
        self.disk.faults.append(DiskFault(disk_error(errno.EIO), after=3, kinds=frozenset({"pwritev"})))
        self.assertRaises(DiskFailedError, self.append, GROUP_SIZE)
        self.assertIn("sync", self.log.failure)
