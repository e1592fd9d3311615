"""What the simulator found, as short tests of its own."""

import errno

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DiskFailedError
from loghouse.limits import INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.storage.log import Log
from loghouse.testing.disk import SimDisk
from tests.storage.entries import CLUSTER, GROUP, Writer, create_log

DIRECTORY = "/logs/1"


class FindingTests(SynchronousTestCase):
    """One test per bug that a seed found."""

    def open(self, disk, **sizes):
        """Open a log of segments of ten entries."""
        sizes = {"index_size": 120, "reserve_size": 0, **sizes}
        return Log.open(disk, DIRECTORY, cluster=CLUSTER, group=GROUP, **sizes)

    def make_log(self, disk, writer, count, **sizes):
        """Make a log of so many entries, all durable, and return it open."""
        disk.make_directory("/logs")
        disk.make_directory(DIRECTORY)
        disk.sync_directory("/")
        disk.sync_directory("/logs")
        create_log(disk, DIRECTORY)
        log = self.open(disk, **sizes)
        log.append([writer.records() for _ in range(count)])
        log.sync(count)
        return log

    def test_reading_up_to_damage_without_index(self):
        """With a damaged entry and no right index, what lies before it is read, the rest is refused."""
        disk = SimDisk()
        self.make_log(disk, Writer(), 25).close()
        store, index = (f"{DIRECTORY}/{11:020d}{suffix}" for suffix in (".store", ".index"))
        frame_size = 84
        disk.flip(store, (STORE_HEADER_SIZE + 5 * frame_size + 9) * 8)
        content = disk.content(index)
        disk.replace(index, bytes(7 * INDEX_ENTRY_SIZE) + content[7 * INDEX_ENTRY_SIZE :])
        log = self.open(disk)
        found = [entry.index for entry in log.entries(11, 21, 10_000)]
        while found[-1] < 15:
            found += [entry.index for entry in log.entries(found[-1] + 1, 21, 10_000)]
        self.assertEqual(found, [11, 12, 13, 14, 15])
        self.assertRaises(DamageError, log.entries, 16, 21, 10_000)

    def test_first_entry_larger_than_its_segment(self):
        """An empty segment too small for its first entry gives way; a trim does not take its successor."""
        disk, writer = SimDisk(), Writer()
        self.make_log(disk, writer, 11, segment_size=4296).close()
        log = self.open(disk, segment_size=4296)
        log.install_start(writer.state)
        log.append([writer.records(size=700)])
        log.append([writer.records(size=700), writer.trim(13)])
        log.sync(14)
        self.assertEqual(log.trim_prefix(lowest_offset=12), 13)
        self.assertEqual([entry.index for entry in log.entries(13, 14, 0)], [13])
        log.close()
        log = self.open(disk)
        self.assertEqual((log.first_index, log.last_index), (13, 14))

    def test_names_seen_at_open_are_durable(self):
        """A segment whose name was not durable when the process ended is made so by the next start."""
        disk, writer = SimDisk(), Writer()
        log = self.make_log(disk, writer, 10)
        # The roll's sync of the directory fails: the process ends, the machine and its caches stay.
        disk.fail(errno.EIO, kinds=["sync_directory"])
        state = writer.state.copy()
        self.assertRaises(DiskFailedError, log.append, [writer.records()])
        disk.stop_process()
        log, writer = self.open(disk), Writer(state)
        entries = [writer.records() for _ in range(3)]
        log.append(entries)
        log.sync(13)
        self.assertEqual(log.durable_index, 13)
        # Now the power goes, and everything not durable with it.
        disk.crash(NothingKept())
        self.assertEqual(self.open(disk).last_index, 13)


class NothingKept:
    """A generator by which a crash keeps nothing that was not synced."""

    def random(self):
        return 0.999
