"""Damaged backups, hostile nodes, full disks and power losses."""

import os
import random

from loghouse.errors import BackupError, DamageError, DataDirectoryError, ProtocolError
from loghouse.limits import BACKUP_GAP_MAX
from loghouse.protocol.entry import make_entry
from loghouse.storage.directory import DiskIdentity
from loghouse.testing.crash_states import crash_states
from tests.backup.case import DATA, DISK, NEW, PATH, BackupCase
from tests.processes import long

STATES_MAX = int(os.environ.get("LOGHOUSE_CRASH_STATES", "250"))
FOLDER = f"{PATH}/logs/orders"


class DamageTests(BackupCase):
    """A damaged backup is refused with the file and the place of the damage."""

    def setUp(self):
        super().setUp()
        self.source.fill(25)
        self.back_up(part_size=700)
        self.source.fill(25)
        self.back_up(part_size=700)

    def files(self):
        return [f"{PATH}/backup", *(f"{FOLDER}/{name}" for name in self.disk.list_directory(FOLDER))]

    def check(self, path, about):
        """Check and restore refuse, and name the file."""
        try:
            _, problems = self.verify()
        except DamageError as error:
            problems = [error]
        self.assertTrue(problems, about)
        for problem in problems:
            self.assertIsInstance(problem, DamageError, about)
        self.assertIn(path, [problem.file for problem in problems], about)
        with self.assertRaises(DamageError, msg=about):
            self.restore()
        self.assertLessEqual(set(self.disk.list_directory(DATA)), {"lock"}, about)
        return problems

    def test_every_file_and_byte(self):
        """A bit that flips anywhere is found, and the byte that is named is not behind it."""
        rng = random.Random(8)
        for path in self.files():
            size = len(self.disk.contents()[path])
            places = sorted({0, 9, size - 1, *(rng.randrange(size) for _ in range(25))})
            for place in places:
                self.flip(path, place, 1 << rng.randrange(8))
                (problem, *_) = self.check(path, (path, place))
                self.assertLessEqual(problem.position, place)
                self.flip(path, place)
            self.assertEqual(self.verify()[1], [])

    def flip(self, path, place, bit=0):
        """Flip a bit, or put the byte back."""
        if bit:
            self.kept = self.disk.contents()[path][place]
        fd = self.disk.open(path, write=True)
        self.disk.pwritev(fd, [bytes([self.kept ^ bit])], place)
        self.disk.close(fd)

    def test_cut_off_and_gone(self):
        """A file that is cut, longer or gone is found."""
        for path in self.files()[1:]:
            content = self.disk.contents()[path]
            for changed in (content[:-1], content[: len(content) // 2], b"", content + b"\0"):
                self.write(path, changed)
                self.check(path, (path, len(changed)))
            if path.endswith("part"):
                self.disk.unlink(path)
                self.check(path, path)
            self.write(path, content)
        self.assertEqual(self.verify()[1], [])

    def write(self, path, content):
        if self.disk.exists(path):
            self.disk.unlink(path)
        fd = self.disk.create(path)
        self.disk.pwritev(fd, [content], 0)
        self.disk.close(fd)

    def test_parts_of_others(self):
        """A part that has another part's name, or is of another log, is refused."""
        one, other = [path for path in self.files() if path.endswith("part")][:2]
        content = self.disk.contents()[other]
        self.write(one, content)
        self.check(one, "renamed")

    def test_a_run_over_damage(self):
        """A run does not go on behind damage that it sees, and says where it is."""
        part = next(path for path in self.files() if path.endswith("part"))
        self.flip(part, len(self.disk.contents()[part]) - 3, 4)
        with self.assertRaisesRegex(DamageError, part):
            self.back_up()

    def test_newer(self):
        """A backup of a newer format is not called damaged."""
        path = f"{PATH}/backup"
        content = self.disk.contents()[path]
        from loghouse.protocol.entry import with_crc

        self.write(path, with_crc(content[:9] + b"\2" + content[10:-4]))
        with self.assertRaisesRegex(BackupError, "use a newer Loghouse"):
            self.verify()


class HostileNodeTests(BackupCase):
    """What a node answers is checked before it is written."""

    def setUp(self):
        super().setUp()
        self.source.fill(30)
        self.back_up()
        self.source.fill(30)

    def check(self, text):
        with self.assertRaisesRegex(ProtocolError, text):
            self.back_up()
        self.source.change = lambda entries: entries
        self.source.change_state = lambda state: state
        self.assertEqual(self.verify()[1], [])
        self.back_up()
        self.assertEqual(self.verify()[1], [])
        self.restore()
        self.assertIsRestored()

    def change_third(self, change):
        """Have the third record from the end be another one."""
        wanted = [entry for entry in self.source.entries if entry.record_count][-3]

        def changed(entries):
            return [change(entry) if entry is wanted else entry for entry in entries]

        self.source.change = changed

    def remade(self, entry, **fields):
        names = ("index", "term", "kind", "base_offset", "timestamp", "record_count", "payload")
        values = {name: getattr(entry, name) for name in names}
        return make_entry(self.source.writer.seed, **{**values, **fields})

    def test_offset(self):
        """An entry at another offset."""
        self.change_third(lambda entry: self.remade(entry, base_offset=entry.base_offset + 1))
        self.check("base offset")

    def test_index(self):
        """An entry with an index that was, or far away: a restore writes as many."""
        self.change_third(lambda entry: self.remade(entry, index=entry.index + BACKUP_GAP_MAX + 9))
        self.check("does not follow")

    def test_time(self):
        """An entry that goes back in time."""
        self.change_third(lambda entry: self.remade(entry, timestamp=3))
        self.check("back in term or time")

    def test_state(self):
        """A state that is none, or that of another place."""
        self.source.change_state = lambda state: state[:-1]
        self.check("log state")

    def test_state_elsewhere(self):
        """The state of another offset."""
        self.source.change_state = lambda state: state[:31] + b"\x09" + state[32:]
        self.check("does not follow")


class InterruptedTests(BackupCase):
    """Runs that end in the middle."""

    def test_garbage_behind(self):
        """What a write that was cut off left behind the last good frame is cut off."""
        self.source.fill(60)
        answers = iter(range(12))
        self.source.before_answer = lambda: next(answers)
        self.assertRaises(RuntimeError, self.back_up)
        (path,) = [f"{FOLDER}/{name}" for name in self.disk.list_directory(FOLDER)]
        size = len(self.disk.contents()[path])
        fd = self.disk.open(path, write=True)
        self.disk.pwritev(fd, [random.Random(1).randbytes(20_000)], size)
        self.disk.close(fd)
        self.source.before_answer = lambda: None
        self.back_up()
        self.assertEqual(self.verify()[1], [])
        self.restore()
        self.assertIsRestored()


class FullDiskTests(BackupCase):
    """A target without room."""

    def test_goes_on(self):
        """Whatever step finds no room: it says so, what is there stays good, and the next run goes on."""
        self.source.fill(60)
        size = 600
        ran_out = 0
        while True:
            self.disk.capacity = sum(map(len, self.disk.contents().values())) + size
            try:
                self.back_up(part_size=1500)
                break
            except BackupError as error:
                self.assertRegex(str(error), "no room.*run the same command again")
                ran_out += 1
        self.assertGreater(ran_out, 4)
        self.disk.capacity = None
        self.assertEqual(self.verify()[1], [])
        self.restore()
        self.assertIsRestored()

    def test_restore(self):
        """A restore that does not fit is refused, or says so; done again with more room it is whole."""
        self.source.fill(60)
        self.back_up()
        used = sum(map(len, self.disk.contents().values()))
        for room in (100, 20_000, 60_000):
            self.disk.capacity = used + room
            with self.assertRaisesRegex(DataDirectoryError, "room"):
                self.restore()
        self.disk.capacity = None
        self.restore()
        self.assertIsRestored()


class PowerLossTests(BackupCase):
    """The power goes, or the process is killed, at any step; of so many states LOGHOUSE_CRASH_STATES."""

    def states(self, work):
        """Yield a disk for each state that a power loss may leave while `work` runs."""
        self.disk.stop_process()
        start = self.disk.copy()
        self.disk.start_trace()
        work()
        found = list(crash_states(start, self.disk.trace, rng=random.Random(3)))
        chosen = random.Random(4).sample(found, min(len(found), STATES_MAX))
        for done, disk in chosen:
            disk.stop_process()
            yield done, disk

    @long
    def test_backup(self):
        """The next run goes on, and the backup of before is whole all the time."""
        self.source.fill(20)
        self.back_up(part_size=500)
        before = self.source.next_offset
        self.source.fill(25)
        after = self.source.next_offset
        for done, disk in self.states(lambda: self.back_up(part_size=500)):
            (good,), problems = self.verify(disk=disk)
            self.assertEqual(problems, [], done)
            self.assertIn(good.next_offset, (before, after), done)
            self.back_up(disk=disk, part_size=500)
            self.assertEqual(self.verify(disk=disk)[1], [], done)
            self.restore(disk=disk)
            self.assertIsRestored(disk=disk, about=done)

    @long
    def test_first_backup(self):
        """So it is with the first run of all, before which there is nothing."""
        self.source.fill(25)
        for done, disk in self.states(lambda: self.back_up(part_size=500)):
            self.back_up(disk=disk, part_size=500)
            self.assertEqual(self.verify(disk=disk)[1], [], done)
            self.restore(disk=disk)
            self.assertIsRestored(disk=disk, about=done)

    @long
    def test_restore(self):
        """Nothing opens what a restore left half done; done again it is whole."""
        self.source.fill(25)
        self.back_up()
        for done, disk in self.states(self.restore):
            self.assertNotOpened(disk, done)
            directory = self.open(disk)
            is_there = not directory.is_empty
            directory.close()
            disk.stop_process()
            if not is_there:
                self.restore(disk=disk)
                self.assertIsRestored(disk=disk, about=done)

    def assertNotOpened(self, disk, about):
        """A node refuses, unless everything is there, or nothing."""
        from loghouse.storage.directory import DataDirectory

        try:
            directory = DataDirectory.claim(disk, DATA, cluster_name="c", node_name="n")
        except DataDirectoryError as error:
            self.assertRegex(str(error), "`loghouse restore` was interrupted")
        else:
            if directory is not None and not directory.is_empty:
                identity = DiskIdentity(cluster_uuid=NEW, disk_uuid=DISK, cluster_name="c", node_name="n")
                self.assertEqual(directory.identity, identity)
                directory.open_log(16).close()
            elif directory is not None:
                self.assertFalse(disk.exists(f"{DATA}/logs"), about)
            if directory is not None:
                directory.close()
        disk.stop_process()
