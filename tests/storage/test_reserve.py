"""One reserve for all logs of a data directory: given back on a full disk, made again before appends."""

import contextlib
import os
import random
import tempfile
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DiskFullError, StorageError
from loghouse.limits import MIB
from loghouse.storage.creation import Reserve
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import OsFiles
from loghouse.storage.groups import BornGroups
from loghouse.storage.log import Log
from loghouse.testing.crash_states import crash_states
from loghouse.testing.disk import SimDisk, disk_error
from tests.storage.entries import CLUSTER, Writer, frames_of, open_directory

PATH = "/reserve"
SIZES = {"segment_size": 4096 + 1024, "reserve_size": 8192}
SHARED = "/data/reserve"
OLD = "/data/logs/1/reserve"


class Guard:
    """Lets the test do something once somebody is to be let in; notes whether anybody is in."""

    def __init__(self) -> None:
        self.before: Callable[[], object] = lambda: None
        self.is_in = False

    def __enter__(self) -> None:
        before, self.before = self.before, lambda: None
        before()
        assert not self.is_in
        self.is_in = True

    def __exit__(self, *_: object) -> None:
        self.is_in = False


class ReserveTests(SynchronousTestCase):
    """The file, and who gets its room."""

    def setUp(self):
        self.disk = SimDisk()
        self.guard = Guard()
        self.reserve = self.make()
        self.seen: list[bool] = []

    def make(self, size: int = 100) -> Reserve:
        return Reserve(self.disk, PATH, size, self.guard)

    def work(self, times: int = 1, error: int | None = None) -> Callable[[], str]:
        """Return work that finds no room so many times, and notes whether somebody else could come in."""
        left = [disk_error(error or 28)] * times

        def work() -> str:
            self.seen.append(self.guard.is_in)
            if left:
                raise left.pop()
            return "done"

        return work

    def test_made_once(self):
        """It is made when it is not there, with its room; one that is there is left as it is."""
        self.assertFalse(self.reserve.is_there)
        self.reserve.ensure()
        self.assertEqual((self.disk.content(PATH), self.reserve.is_there), (bytes(100), True))
        operations = self.disk.operations
        self.reserve.ensure()
        self.make(7).ensure()
        self.assertEqual((self.disk.operations, len(self.disk.content(PATH))), (operations, 100))

    def test_left_empty_by_a_crash(self):
        """One without its room, which a crash left, is made anew."""
        self.disk.replace(PATH, b"")
        self.reserve.ensure()
        self.assertEqual(len(self.disk.content(PATH)), 100)

    def test_none(self):
        """Without a size there is none, and nothing is missed."""
        reserve = self.make(0)
        reserve.ensure()
        self.assertTrue(reserve.is_there)
        self.assertFalse(self.disk.exists(PATH))
        self.assertRaises(DiskFullError, reserve.use_for, self.work(), "/log")

    def test_no_room_for_it(self):
        """That there is no room for it is told, and leaves nothing behind."""
        self.disk.capacity = 50
        self.assertRaises(OSError, self.reserve.ensure)
        self.assertFalse(self.reserve.is_there)
        self.assertFalse(self.disk.exists(PATH))

    def test_given_back(self):
        """Work that finds no room is done again once the room is given back, and nobody comes in between."""
        self.reserve.ensure()
        self.assertEqual(self.reserve.use_for(self.work(0), "/log"), "done")
        self.assertTrue(self.reserve.is_there)
        self.assertEqual(self.reserve.use_for(self.work(), "/log"), "done")
        self.assertEqual(self.seen, [False, False, True])
        self.assertFalse(self.reserve.is_there)
        self.assertFalse(self.disk.exists(PATH))
        self.assertRaises(DiskFullError, self.reserve.use_for, self.work(), "/log")

    def test_left_by_a_process_before(self):
        """One that nobody asked for yet is given back, too."""
        self.make().ensure()
        self.assertEqual(self.reserve.use_for(self.work(), "/log"), "done")

    def test_not_enough(self):
        """What finds no room twice is not done a third time."""
        self.reserve.ensure()
        self.assertRaises(DiskFullError, self.reserve.use_for, self.work(2), "/log")
        self.assertEqual((len(self.seen), self.guard.is_in), (2, False))

    def test_other_errors(self):
        """Other errors give nothing back: neither those of a disk that fails, nor of too many open files."""
        self.reserve.ensure()
        self.assertRaises(OSError, self.reserve.use_for, self.work(error=5), "/log")
        self.assertRaises(DiskFullError, self.reserve.use_for, self.work(error=24), "/log")
        self.assertTrue(self.disk.exists(PATH))

    def test_given_back_by_another_log(self):
        """Who waits while another log has it given back does its work in that room."""
        self.reserve.ensure()
        self.guard.before = lambda: self.reserve.use_for(self.work(), "/log")
        self.assertEqual(self.reserve.use_for(self.work(), "/log"), "done")

    def test_made_by_another_log(self):
        """Who waits while another log makes it finds it made."""
        self.guard.before = self.reserve.ensure
        self.reserve.ensure()
        self.assertEqual((self.reserve.is_there, len(self.disk.content(PATH))), (True, 100))


class DirectoryTests(SynchronousTestCase):
    """Two logs of one data directory."""

    def setUp(self):
        self.disk = SimDisk()
        self.directory = open_directory(self.disk, **SIZES)
        BornGroups(self.disk, self.directory, 0).bear(16, lambda log: None)
        self.logs = [self.directory.open_log(group) for group in (1, 16)]
        self.writers = [Writer(seed=log.seed) for log in self.logs]
        for log in self.logs:
            log.save_hard_state(term=1, vote=1)
            self.append(log)

    def append(self, log: Log, size: int = 100) -> None:
        writer = self.writers[self.logs.index(log)]
        entry = Writer(writer.state, seed=log.seed).records(1, size)
        log.append([entry])
        writer.records(1, size)
        log.sync(0)

    def fill(self) -> None:
        """Let both logs append until there is no room, and then leave not a byte."""
        self.disk.capacity = self.disk.used_size() + 40_000
        full: set[int] = set()
        while len(full) < len(self.logs):
            for log in self.logs:
                try:
                    self.append(log)
                except DiskFullError:
                    full.add(log.group)
        self.disk.capacity = self.disk.used_size()

    def test_one(self):
        """There is one reserve, and an empty log takes nothing of the disk for one."""
        self.assertEqual([path for path in self.disk.contents() if path.endswith("/reserve")], [SHARED])
        self.assertEqual(len(self.disk.content(SHARED)), 8192)

    def test_full(self):
        """On a full disk each log finds room for a trim; none takes appends until it could be made again."""
        self.fill()
        for log in self.logs:
            self.assertRaises(DiskFullError, self.append, log)
        self.assertTrue(self.disk.exists(SHARED))
        for log in self.logs:
            self.assertGreater(log.trim_prefix(log.next_offset // 2), 1)
            self.assertFalse(self.disk.exists(SHARED))
        self.disk.capacity = self.disk.used_size()
        for log in self.logs:
            while log.record_room > 200:
                log.append([Writer(log.state, seed=log.seed).records()])
            with self.assertRaises(DiskFullError):
                log.append([Writer(log.state, seed=log.seed).records()])
            self.assertEqual(log.failure, "")
        self.disk.capacity += 30_000
        for log in self.logs:
            log.append([Writer(log.state, seed=log.seed).records()])
            log.sync(0)
        self.assertTrue(self.disk.exists(SHARED))

    def test_first_boot_without_room(self):
        """What a first boot that finds no room made of it goes with the rest."""
        disk = SimDisk(capacity=20_000)
        with contextlib.suppress(StorageError):
            open_directory(disk, segment_size=4096 + 1024, reserve_size=15_000).open_log()
        disk.stop_process()
        names = {path for path in disk.contents() if path.startswith("/data/")}
        self.assertIn(names & {SHARED}, ({SHARED} if "/data/node" in names else set(), set()))


class UpgradeTests(SynchronousTestCase):
    """A data directory of a version that had a reserve for each log."""

    def old(self) -> tuple[SimDisk, list[bytes]]:
        disk = SimDisk()
        log = open_directory(disk, **SIZES).open_log()
        log.save_hard_state(term=1, vote=1)
        writer = Writer(seed=log.seed)
        log.append([writer.records() for _ in range(3)])
        log.close()
        frames = frames_of(log)
        disk.stop_process()
        disk.unlink(SHARED)
        disk.replace(OLD, bytes(8192))
        return disk, frames

    def check(self, disk: SimDisk, frames: list[bytes]) -> None:
        log = open_directory(disk, **SIZES).open_log()
        self.assertEqual(frames_of(log), frames)
        self.assertEqual((disk.exists(OLD), len(disk.content(SHARED))), (False, 8192))

    def test_upgrade(self):
        """The reserve of the log becomes that of the directory."""
        self.check(*self.old())

    def test_power_loss(self):
        """A power loss at any step of that leaves a directory that the next start makes whole."""
        disk, frames = self.old()
        image = disk.start_trace()
        open_directory(disk, **SIZES).open_log()
        trace, disk.trace = disk.trace, None
        states = list(crash_states(image, trace))
        self.assertGreater(len(states), 10)
        for _, state in random.Random(1).sample(states, min(len(states), 100)):
            self.check(state, frames)

    def test_full_disk(self):
        """On a full disk the room of the old one is there for the start, and for the new one."""
        disk, frames = self.old()
        disk.capacity = disk.used_size()
        log = open_directory(disk, **SIZES).open_log()
        self.assertEqual(frames_of(log), frames)
        self.assertFalse(disk.exists(OLD))
        log.save_hard_state(term=2, vote=1)

    def test_damaged_log(self):
        """A log that cannot be opened keeps what it has."""
        disk, _ = self.old()
        [store] = [path for path in disk.contents() if path.endswith(".store")]
        disk.flip(store, (4096 + 70) * 8)
        self.assertRaises(DamageError, open_directory(disk, **SIZES).open_log)
        self.assertTrue(disk.exists(OLD))


class RealDiskTests(SynchronousTestCase):
    """What empty logs take of a real disk."""

    def test_empty_log(self):
        """A log more takes less than 1.5 MiB, whatever the sizes of segments and reserve."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/data"
            directory = DataDirectory.lock(OsFiles(), path)
            self.addCleanup(directory.close)
            identity = DiskIdentity(
                cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n"
            )
            directory.create(identity)
            groups = BornGroups(OsFiles(), directory, 0)
            before = used(path)
            for group in range(16, 20):
                groups.bear(group, lambda log: log.save_hard_state(term=1, vote=0))
            logs = [directory.open_log(group) for group in range(16, 20)]
            self.assertLess((used(path) - before) / len(logs), 1.5 * MIB)
            for log in logs:
                log.close()


def used(path: str) -> int:
    """Return the bytes that a directory takes of the disk."""
    return sum(
        os.stat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(path)
        for name in names
    )
