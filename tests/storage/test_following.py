"""A log followed while another process writes it: what may be read, and looks at a wrong time."""

from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.protocol.configuration import Configuration, MemberRole, encode_configuration
from loghouse.protocol.entry import EntryKind, decode_entries
from loghouse.protocol.log_state import LogState
from loghouse.storage import following
from loghouse.storage.following import ATTEMPTS_MAX, FollowedLog
from loghouse.storage.start import write_start
from loghouse.testing.disk import SimDisk
from tests.storage.entries import Writer, open_directory

DIRECTORY = "/data/logs/1"


class FollowingTests(SynchronousTestCase):
    """Small segments, a writer and a follower on one simulated disk."""

    def setUp(self):
        self.disk = SimDisk()
        self.log = open_directory(self.disk, segment_size=4096 + 1024, reserve_size=0).open_log()
        self.log.save_hard_state(term=1, vote=0)
        self.writer = Writer(seed=self.log.seed)

    def configuration(self, *names):
        configuration = Configuration()
        for name in names:
            configuration = configuration.with_member(name, bytes(16), MemberRole.VOTER)
        return self.writer._make(EntryKind.CONFIGURATION, encode_configuration(configuration), term=1)

    def configure(self, *names):
        self.append(self.configuration(*names))

    def append(self, *entries, commit=None):
        self.log.append(entries)
        self.log.sync(self.log.last_index if commit is None else commit)

    def records(self, count=1, size=100):
        return [self.writer.records(2, size) for _ in range(count)]

    def follow(self):
        return FollowedLog(self.disk, "/data/")

    def indexes(self, followed):
        """Return the indexes of all entries with records that can be read; each is checked."""
        offset, found = followed.lowest_offset, []
        while True:
            frames, offset = followed.log.read(offset, 300, 10**9)
            if not frames:
                self.assertEqual(offset, followed.next_offset)
                return found
            entries = decode_entries(followed.seed, frames)
            found += [entry.index for entry in entries if entry.record_count]

    def test_alone(self):
        """Of a lone voter all that is durable may be read, committed or not, and nothing else."""
        self.configure("n")
        followed = self.follow()
        self.append(*self.records(2), commit=1)
        self.assertIs(followed.refresh(), True)
        self.assertEqual((followed.lowest_offset, followed.next_offset), (0, 4))
        self.assertEqual(self.indexes(followed), [2, 3])
        self.assertIs(followed.refresh(), False)
        self.log.append(self.records())
        self.assertIs(followed.refresh(), False)
        self.log.sync(1)
        self.assertIs(followed.refresh(), True)
        self.assertEqual((followed.next_offset, self.indexes(followed)), (6, [2, 3, 4]))

    def test_group(self):
        """Of a group with other voters only what is known to be committed may be read."""
        self.configure("n", "o")
        self.append(*self.records(3), commit=2)
        followed = self.follow()
        self.assertEqual((followed.next_offset, self.indexes(followed)), (2, [2]))
        self.log.sync(3)
        self.assertIs(followed.refresh(), True)
        self.assertEqual((followed.next_offset, self.indexes(followed)), (4, [2, 3]))

    def test_damage_that_is_not_committed(self):
        """Of a group with other voters nothing behind the commits is looked at: it may be cut yet."""
        self.configure("n", "o")
        followed = self.follow()
        self.append(*self.records(1))
        position = self.log.active_size
        self.append(*self.records(1), commit=2)
        self.disk.flip(f"{DIRECTORY}/{1:020d}.store", 8 * (position + 70))
        self.assertIs(followed.refresh(), True)
        self.assertEqual((followed.next_offset, followed.log.last_index), (2, 2))

    def test_others_join(self):
        """What is durable behind the entry by which others joined is not committed for that."""
        self.configure("n")
        self.append(*self.records(1))
        followed = self.follow()
        self.log.append(self.records())
        self.log.append([self.configuration("n", "o")])
        self.append(*self.records(2), commit=3)
        self.assertIs(followed.refresh(), True)
        self.assertEqual((followed.next_offset, self.indexes(followed)), (4, [2, 3]))
        self.log.sync(5)
        self.assertIs(followed.refresh(), True)
        self.assertEqual((followed.next_offset, self.indexes(followed)), (6, [2, 3, 5]))
        self.log.sync(6)
        self.assertIs(followed.refresh(), True)
        self.assertEqual(followed.next_offset, 8)

    def test_others_join_uncommitted(self):
        """While not even that entry is committed there is nothing new to read."""
        self.configure("n")
        followed = self.follow()
        self.log.append(self.records())
        self.append(self.configuration("n", "o"), commit=1)
        self.append(*self.records(2), commit=1)
        self.assertIs(followed.refresh(), False)
        self.assertEqual((followed.next_offset, followed.log.last_index, followed.log.state.index), (0, 1, 1))
        self.assertEqual(len(followed.log.state.configuration.voters), 1)

    def test_rolls(self):
        """What the writer wrote last into a segment, and all that it began since, can be read."""
        self.configure("n")
        followed = self.follow()
        read = []
        for count in (1, 2, 30, 1):
            self.append(*self.records(count))
            self.assertIs(followed.refresh(), True)
            self.assertIs(followed.refresh(), False)
            read.append(self.indexes(followed)[-1])
        self.assertEqual(read, [2, 4, 34, 35])
        self.assertGreater(len(followed.log.view.segments), 3)
        self.assertEqual(followed.log.state.next_offset, self.log.next_offset)
        self.assertEqual(followed.log.last_index, 35)

    def test_trims(self):
        """A trim of the writer is followed: by the entry that says so, and by the files that go."""
        self.configure("n")
        self.append(*self.records(30))
        followed = self.follow()
        lowest = self.log.sealed_segments()[1].next_offset
        self.append(self.writer.trim(lowest + 1))
        followed.refresh()
        self.assertEqual((followed.lowest_offset, followed.log.first_offset), (lowest + 1, 0))
        self.log.trim_prefix()
        self.assertIs(followed.refresh(), False)
        self.assertEqual((followed.lowest_offset, followed.log.first_offset), (lowest + 1, lowest))
        self.assertEqual(self.indexes(followed)[-1], 31)

    def test_newest_timestamp(self):
        """A time is found in what was written since, too."""
        self.configure("n")
        self.append(*self.records(2))
        followed = self.follow()
        self.append(*self.records(1))
        followed.refresh()
        timestamp = self.writer.state.timestamp
        self.assertEqual(followed.log.index_of_time(timestamp, 10**9), 4)
        self.assertEqual(followed.log.index_of_time(timestamp - 1, 10**9), 4)
        self.assertIsNone(followed.log.index_of_time(timestamp + 1, 10**9))

    def test_files_come_and_go(self):
        """A look that meets files on their way is taken again, a few times."""
        self.configure("n")
        self.append(*self.records(3))
        for error in (DamageError("x", 0, "?"), FileNotFoundError("x")):
            looks = []
            real = following.survey

            def survey(*arguments, limit, error=error, looks=looks, real=real, **more):
                looks.append(1)
                if len(looks) <= limit:
                    raise error
                return real(*arguments, **more)

            with patch.object(
                following, "survey", lambda *a, s=survey, **k: s(*a, limit=ATTEMPTS_MAX - 1, **k)
            ):
                self.assertEqual(self.follow().next_offset, 6)
            self.assertEqual(len(looks), ATTEMPTS_MAX)
            looks.clear()
            with patch.object(following, "survey", lambda *a, s=survey, **k: s(*a, limit=99, **k)):
                self.assertRaises(type(error), self.follow)
            self.assertEqual(len(looks), ATTEMPTS_MAX)

    def test_being_made_anew(self):
        """A log whose start is being installed is not read."""
        write_start(self.disk, DIRECTORY, self.log.seed, LogState(index=9, term=1), installing=True)
        error = self.assertRaises(DataDirectoryError, self.follow)
        self.assertIn(f"{DIRECTORY}: the log is being made anew; try again", str(error))

    def test_damage(self):
        """Entries that the writer calls durable and that are not there are damage, at their place."""
        self.configure("n")
        followed = self.follow()
        position = self.log.active_size
        self.append(*self.records(2))
        path = f"{DIRECTORY}/{1:020d}.store"
        self.disk.flip(path, 8 * (position + 70))
        error = self.assertRaises(DamageError, followed.refresh)
        self.assertEqual((error.file, error.position), (path, position))
        self.assertIn("payload checksum of entry 2", error.problem)
        self.assertEqual((followed.next_offset, followed.log.last_index), (0, 1))
        self.disk.flip(path, 8 * (position + 70))
        self.assertIs(followed.refresh(), True)
        self.assertEqual(followed.next_offset, 4)

    def test_watermark_that_is_being_written(self):
        """Without a good watermark there is nothing new; the next look finds it."""
        self.configure("n")
        followed = self.follow()
        self.append(*self.records(1))
        path = f"{DIRECTORY}/{1:020d}.store"
        for position in (1030, 2054):
            self.disk.flip(path, 8 * position)
        self.assertIs(followed.refresh(), False)
        for position in (1030, 2054):
            self.disk.flip(path, 8 * position)
        self.assertIs(followed.refresh(), True)

    def test_nothing_is_copied_for_nothing(self):
        """A look that finds nothing new copies no state and reads no entries."""
        self.configure("n")
        self.append(*self.records(2))
        followed = self.follow()
        with patch.object(LogState, "copy", side_effect=AssertionError):
            self.assertIs(followed.refresh(), False)

    def test_nobody(self):
        """Where there is no data directory, there is nothing to follow."""
        self.assertRaises(DataDirectoryError, FollowedLog, SimDisk(), "/data")
