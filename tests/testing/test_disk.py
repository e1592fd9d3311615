"""The simulated disk itself: what it loses, keeps, refuses and counts."""

import errno
import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.crash_states import crash_states
from loghouse.testing.disk import MappingFaultError, PowerLossError, SimDisk


def file_with(disk, path, *contents):
    fd = disk.create(path)
    for content in contents:
        disk.pwritev(fd, [content], disk.size(fd))
    return fd


class SimDiskTests(SynchronousTestCase):
    """`SimDisk` keeps what was synced and nothing else for certain."""

    def setUp(self):
        self.disk = SimDisk()

    def test_synced_bytes_need_a_synced_name(self):
        """A synced file whose directory was not synced may be gone."""
        fd = file_with(self.disk, "/a", b"one")
        self.disk.fsync(fd)
        self.assertFalse(self.disk.crashed([]).exists("/a"))
        self.disk.sync_directory("/")
        self.assertEqual(self.disk.crashed([]).content("/a"), b"one")

    def test_unsynced_bytes_may_be_lost_or_torn(self):
        """Over many crashes every outcome of an unsynced write appears, by sectors of 512 bytes."""
        outcomes = set()
        for seed in range(60):
            disk = SimDisk()
            fd = file_with(disk, "/a", bytes(1024))
            disk.fsync(fd)
            disk.sync_directory("/")
            disk.pwritev(fd, [b"x" * 1024], 0)
            disk.crash(random.Random(seed))
            content = disk.content("/a")
            outcomes.add((content[:512], content[512:]))
        zero, written = bytes(512), b"x" * 512
        self.assertEqual(outcomes, {(zero, zero), (zero, written), (written, zero), (written, written)})

    def test_failed_sync(self):
        """After a failed fsync the bytes are readable, a later sync succeeds, and a crash loses them."""
        fd = file_with(self.disk, "/a", b"old")
        self.disk.fsync(fd)
        self.disk.sync_directory("/")
        self.disk.pwritev(fd, [b"new"], 0)
        self.disk.fail(errno.EIO, kinds=["fdatasync"])
        with self.assertRaises(OSError):
            self.disk.fdatasync(fd)
        self.disk.fdatasync(fd)
        self.assertEqual(self.disk.pread(fd, 3, 0), b"new")
        self.disk.crash(random.Random(0), keep=1.0)
        self.assertEqual(self.disk.content("/a"), b"old")

    def test_capacity(self):
        """What does not fit is refused with ENOSPC; a write leaves half, an allocation nothing."""
        disk = SimDisk(capacity=1000)
        fd = file_with(disk, "/a", bytes(600))
        with self.assertRaises(OSError) as caught:
            disk.allocate(fd, 0, 1001)
        self.assertEqual((caught.exception.errno, disk.size(fd)), (errno.ENOSPC, 600))
        with self.assertRaises(OSError):
            disk.pwritev(fd, [b"x" * 401], 600)
        self.assertEqual(disk.size(fd), 800)
        disk.unlink("/a")
        self.assertEqual(disk.free_size("/"), 200)
        disk.close(fd)
        self.assertEqual(disk.free_size("/"), 1000)

    def test_faults_choose_operations(self):
        """A fault strikes the operation that it names, and only as often as it says."""
        self.disk.fail(errno.EIO, after=1, kinds=["create"], path_part="b")
        self.disk.create("/a")
        self.disk.create("/b1")
        with self.assertRaises(OSError):
            self.disk.create("/b2")
        self.disk.create("/b2")
        self.disk.fail(PowerLossError())
        with self.assertRaises(PowerLossError):
            self.disk.unlink("/a")

    def test_rename_and_unlink_are_changes_of_names(self):
        """A rename is kept or lost as a whole; an unlinked file stays readable where it is open."""
        fd = file_with(self.disk, "/new", b"2")
        self.disk.fsync(fd)
        self.disk.fsync(file_with(self.disk, "/it", b"1"))
        self.disk.sync_directory("/")
        self.disk.rename("/new", "/it")
        found = set()
        for kept in ([], self.disk.pending_changes()):
            found.add(tuple(sorted(self.disk.crashed(kept).contents().items())))
        self.assertEqual(found, {(("/it", b"1"), ("/new", b"2")), (("/it", b"2"),)})
        self.disk.unlink("/it")
        self.assertFalse(self.disk.exists("/it"))
        self.assertEqual(self.disk.pread(fd, 1, 0), b"2")

    def test_numbers_and_locks_end_with_the_process(self):
        """A kill closes files and frees locks, and loses no byte."""
        fd = file_with(self.disk, "/a", b"one")
        self.disk.lock("/lock")
        with self.assertRaises(BlockingIOError):
            self.disk.lock("/lock")
        self.disk.stop_process()
        self.disk.lock("/lock")
        with self.assertRaises(OSError):
            self.disk.pread(fd, 1, 0)
        self.assertEqual(self.disk.content("/a"), b"one")

    def test_maps(self):
        """A map shows later writes, and dies behind the end of a file that was cut."""
        fd = file_with(self.disk, "/a", bytes(100))
        mapping = self.disk.map(fd, 100)
        self.disk.pwritev(fd, [b"x"], 50)
        self.assertEqual((mapping[49:52], len(mapping)), (b"\0x\0", 100))
        self.disk.truncate(fd, 60)
        self.assertEqual(mapping[40:60][10], ord("x"))
        with self.assertRaises(MappingFaultError):
            mapping[59:61]
        with self.assertRaises(ValueError):
            self.disk.map(fd, 61)

    def test_flip(self):
        """Rot changes one bit, seen and durable."""
        fd = file_with(self.disk, "/a", b"\0\0")
        self.disk.fsync(fd)
        self.disk.sync_directory("/")
        self.disk.flip("/a", 9)
        self.assertEqual(self.disk.content("/a"), b"\0\2")
        self.assertEqual(self.disk.crashed([]).content("/a"), b"\0\2")

    def test_hook_sees_operations(self):
        """The hook for latency sees each operation with its kind, path and size."""
        seen = []
        self.disk.on_operation = lambda *operation: seen.append(operation)
        fd = file_with(self.disk, "/a", b"abc")
        self.disk.fdatasync(fd)
        self.assertEqual(seen, [("create", "/a", 0), ("pwritev", "/a", 3), ("fdatasync", "/a", 0)])
        self.assertEqual(self.disk.operations, 3)

    def test_errors_of_names(self):
        """Names that are missing, taken, or of the wrong kind are errors as on a real disk."""
        self.disk.make_directory("/d")
        self.disk.create("/d/a")
        self.disk.make_directory("/e")
        for number, call in (
            (errno.ENOENT, lambda: self.disk.open("/x")),
            (errno.ENOENT, lambda: self.disk.unlink("/d/x")),
            (errno.EEXIST, lambda: self.disk.create("/d/a")),
            (errno.EEXIST, lambda: self.disk.make_directory("/d")),
            (errno.EISDIR, lambda: self.disk.open("/d")),
            (errno.ENOTDIR, lambda: self.disk.list_directory("/d/a")),
            (errno.ENOENT, lambda: self.disk.open("/d/a/b")),
            (errno.EXDEV, lambda: self.disk.rename("/d/a", "/e/a")),
        ):
            with self.assertRaises(OSError) as caught:
                call()
            self.assertEqual(caught.exception.errno, number)
        self.assertEqual(self.disk.list_directory("/"), ["d", "e"])

    def test_enumeration_is_exhaustive(self):
        """Two unsynced writes and a name give every subset, at every prefix."""
        image = self.disk.start_trace()
        fd = file_with(self.disk, "/a", b"x", b"y")
        self.disk.fsync(fd)
        self.disk.sync_directory("/")
        trace = self.disk.trace
        found = {}
        for done, disk in crash_states(image, trace, expected=lambda done: done):
            found.setdefault(done, set()).add(disk.content("/a") if disk.exists("/a") else None)
        self.assertEqual(found[0], {None})
        self.assertEqual(found[3], {None, b"", b"x", b"xy", b"\0y"})
        self.assertEqual(found[4], {None, b"xy"})
        self.assertEqual(found[5], {b"xy"})

    def test_each_state_once(self):
        """States come once where the same is expected of them; none that comes otherwise is left out."""
        image = self.disk.start_trace()
        self.disk.make_directory("/d")
        fd = file_with(self.disk, "/d/a", bytes(1000), b"x" * 1500, b"")
        self.disk.sync_directory("/")
        self.disk.fdatasync(fd)
        self.disk.rename("/d/a", "/d/b")
        self.disk.sync_directory("/d")
        trace = self.disk.trace
        everything = [disk.digest() for _, disk in crash_states(image, trace, expected=lambda done: done)]
        once = [disk.digest() for _, disk in crash_states(image, trace)]
        self.assertEqual(len(once), len(set(once)))
        self.assertEqual(set(once), set(everything))
        self.assertGreater(len(everything), len(once))

    def test_digest(self):
        """Names, bytes, sizes and empty directories make a difference; how the bytes came there does not."""
        digests = [self.disk.digest()]
        fd = file_with(self.disk, "/a", b"one")
        for change in (
            lambda: None,
            lambda: self.disk.pwritev(fd, [b"two"], 0),
            lambda: self.disk.truncate(fd, 2),
            lambda: self.disk.allocate(fd, 0, 5),
            lambda: self.disk.rename("/a", "/b"),
            lambda: self.disk.make_directory("/d"),
        ):
            change()
            digests.append(self.disk.digest())
        self.assertEqual(len(digests), len(set(digests)))
        twin = SimDisk()
        twin.make_directory("/d")
        file_with(twin, "/b", b"t", b"w", bytes(3))
        self.assertEqual(twin.digest(), digests[-1])

    def test_copy_is_independent(self):
        """A copy has the same files and numbers, and its own bytes."""
        fd = file_with(self.disk, "/a", b"one")
        twin = self.disk.copy()
        twin.pwritev(fd, [b"two"], 0)
        self.assertEqual((self.disk.content("/a"), twin.content("/a")), (b"one", b"two"))
        self.assertEqual(twin.create("/b"), self.disk.create("/b"))
