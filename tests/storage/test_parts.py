"""Files, data directories and lists of groups by themselves: errors, limits, and what is let go."""

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DirectoryInUseError,
    DiskFailedError,
    DiskFullError,
)
from loghouse.storage import directory as directory_module
from loghouse.storage import files as files_module
from loghouse.storage import groups as groups_module
from loghouse.storage.directory import MEMBERS_SIZE_MAX, DataDirectory, DiskIdentity
from loghouse.storage.files import (
    OpenFile,
    OsFiles,
    check_room,
    disk_work,
    end_of_nonzero,
    is_full,
    read_file,
    remove_file,
    replace_file,
    sync_written,
    write_temporary,
)
from loghouse.storage.groups import BornGroups, GroupState, read_groups
from loghouse.testing.disk import SimDisk, disk_error
from tests.storage.entries import CLUSTER, Writer, open_directory


class FilesTests(SynchronousTestCase):
    """The seam's own parts."""

    def setUp(self):
        self.disk = SimDisk()
        self.disk.make_directory("/d")

    def test_full(self):
        """What is short is told apart: the disk, what the process may have, and everything else."""
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error = self.assertRaises(DiskFullError, check_room, disk_error(number), "/d")
            self.assertNotIn(os.strerror(number), str(error))
            self.assertIs(is_full(disk_error(number)), True)
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            error = self.assertRaises(DiskFullError, check_room, disk_error(number), "/d")
            self.assertIn(f"/d ({os.strerror(number)})", str(error))
        check_room(disk_error(errno.EIO), "/d")
        self.assertIs(is_full(disk_error(errno.EIO)), False)

    def test_disk_work(self):
        """An error of the disk becomes one of ours, with what could not be done."""
        with disk_work("/d", "do it"):
            pass
        for number, kind in ((errno.ENOSPC, DiskFullError), (errno.EIO, DiskFailedError)):
            with self.assertRaises(kind) as caught, disk_work("/d", "do it"):
                raise disk_error(number)
            if kind is DiskFailedError:
                self.assertEqual(str(caught.exception), f"cannot do it: {disk_error(errno.EIO)}")

    def test_open_file(self):
        """A file is closed once, by whoever closes it or when nobody holds it; it is opened to be read."""
        self.disk.replace("/d/f", b"abcdef")
        closed, opened = [], []
        real_close, real_open = SimDisk.close, SimDisk.open
        self.patch(SimDisk, "close", lambda disk, fd: (closed.append(fd), real_close(disk, fd)))
        self.patch(
            SimDisk, "open", lambda disk, path, *, write=False: opened.append(write) or real_open(disk, path)
        )
        file = OpenFile.open(self.disk, "/d/f")
        self.assertEqual((file.path, file.size(), file.pread(3, 1)), ("/d/f", 6, b"bcd"))
        file.close()
        file.close()
        del file
        self.assertEqual(len(closed), 1)
        OpenFile.open(self.disk, "/d/f", write=True)
        self.assertEqual((len(closed), opened), (2, [False, True]))
        file = OpenFile(self.disk, 0, "zero")
        file.close()
        self.assertEqual(closed[-1], 0)

    def test_small_files(self):
        """A small file is read up to one byte more than it may have, and removed if it is there."""
        self.disk.replace("/d/f", b"abcdef")
        for size, wanted in ((10, b"abcdef"), (6, b"abcdef"), (5, b"abcdef"), (4, b"abcde"), (0, b"a")):
            self.assertEqual(read_file(self.disk, "/d/f", size), wanted)
        self.assertIs(remove_file(self.disk, "/d/f"), True)
        self.assertIs(remove_file(self.disk, "/d/f"), False)
        self.assertEqual(self.disk._open, {})

    def test_replaced(self):
        """A replaced file is whole and durable; one that failed is not there, and the old one is."""
        self.disk.replace("/d/f.tmp", b"rubbish")
        replace_file(self.disk, "/d", "f", b"new")
        self.assertEqual(self.disk.contents(), {"/d/f": b"new"})
        for kind in ("create", "pwritev", "fsync", "rename"):
            self.disk.fail(errno.EIO, kinds=(kind,))
            self.assertRaises(OSError, replace_file, self.disk, "/d", "f", b"newer")
            self.assertEqual((self.disk.contents(), self.disk._open), ({"/d/f": b"new"}, {}))
        self.assertEqual(write_temporary(self.disk, "/d", "f", b"newer"), "/d/f.tmp")
        self.assertEqual(self.disk.content("/d/f.tmp"), b"newer")

    def test_failed_sync(self):
        """A sync that fails is never one that found no room."""
        fd = self.disk.create("/d/f")
        sync_written(self.disk, fd)
        self.disk.fail(errno.ENOSPC, kinds=("fdatasync",))
        error = self.assertRaises(OSError, sync_written, self.disk, fd)
        self.assertEqual(error.errno, errno.EIO)
        self.assertIn("sync failed: ", str(error))

    def test_end_of_nonzero(self):
        """The last byte that is not zero is found in whichever piece it is."""
        self.patch(files_module, "ZEROES", bytes(10))
        for content, start, size, end in (
            (b"", 0, 0, 0),
            (bytes(35), 0, 35, 0),
            (bytes(35), 3, 35, 3),
            (b"x" + bytes(34), 0, 35, 1),
            (b"x" + bytes(34), 1, 35, 1),
            (bytes(9) + b"x" + bytes(25), 0, 35, 10),
            (bytes(10) + b"x" + bytes(24), 0, 35, 11),
            (bytes(34) + b"x", 0, 35, 35),
            (bytes(34) + b"x", 0, 34, 0),
            (b"x" * 35, 0, 35, 35),
            (b"x" * 20 + bytes(15), 5, 35, 20),
        ):
            self.disk.replace("/d/f", content)
            file = OpenFile.open(self.disk, "/d/f")
            self.assertEqual(end_of_nonzero(file, start, size), end, (content, start, size))

    def test_real_modes(self):
        """Files and directories of the real disk are their owner's alone; a file is created once."""
        path = os.path.abspath(self.mktemp())
        files = OsFiles()
        files.make_directory(path)
        fd = files.create(f"{path}/f")
        files.close(fd)
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        files.close(files.create(f"{path}/g"))
        files.make_directory(f"{path}/d")
        modes = [os.stat(f"{path}/{name}").st_mode & 0o777 for name in ("g", "d")]
        self.assertEqual(modes, [0o600, 0o700])
        self.assertRaises(FileExistsError, files.create, f"{path}/g")
        fd = files.open(f"{path}/g")
        self.assertRaises(OSError, files.pwritev, fd, [b"x"], 0)
        files.close(fd)
        fd = files.open(f"{path}/g", write=True)
        files.pwritev(fd, [b"x"] * 3000, 2)
        self.assertEqual((files.size(fd), files.pread(fd, 5000, 0)), (3002, bytes(2) + b"x" * 3000))
        files.close(fd)
        status = os.statvfs(path)
        self.assertAlmostEqual(files.free_size(path), status.f_bavail * status.f_frsize, delta=1 << 30)


class DirectoryTests(SynchronousTestCase):
    """Who has a data directory, and what a start that failed leaves."""

    identity = DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n")

    def lock(self, disk, path="/data"):
        return DataDirectory.lock(disk, path, segment_size=5120, reserve_size=0)

    def test_locked(self):
        """It is locked twice, by its file and itself; an error of either lets go of both."""
        disk = SimDisk()
        directory = self.lock(disk, "/data/")
        self.assertEqual(directory.path, "/data")
        self.assertEqual(sorted(disk._locked.values()), ["/data", "/data/lock"])
        error = self.assertRaises(DirectoryInUseError, self.lock, disk)
        self.assertEqual(str(error), "/data is in use by another process; stop that one first")
        directory.close()
        self.assertEqual(disk._locked, {})
        disk._locked[99] = "/data"  # the directory alone, by who removed the file
        self.assertRaises(DirectoryInUseError, self.lock, disk)
        self.assertEqual(disk._locked, {99: "/data"})

    def test_file_system_without_locks_of_directories(self):
        """Where directories cannot be locked the file must do; where nothing can, it is refused."""
        disk = SimDisk()
        disk.fail(errno.ENOLCK, kinds=("lock",), after=1)
        directory = self.lock(disk)
        self.assertEqual(list(disk._locked.values()), ["/data/lock"])
        directory.close()
        disk.fail(errno.ENOLCK, kinds=("lock",))
        error = self.assertRaises(DataDirectoryError, self.lock, disk)
        self.assertIn("/data cannot be used: ", str(error))
        self.assertEqual(disk._locked, {})

    def test_unreadable(self):
        """A `node` file that cannot be read, or is damaged, lets the directory go."""
        disk = SimDisk()
        directory = self.lock(disk)
        directory.create(self.identity)
        directory.close()
        disk.fail(errno.EACCES, kinds=("open",), path_part="node")
        error = self.assertRaises(DataDirectoryError, self.lock, disk)
        self.assertIn("/data cannot be read: ", str(error))
        self.assertIn("; check its owner and mode", str(error))
        self.assertEqual(disk._locked, {})
        disk.flip("/data/node", 99)
        self.assertRaises(DamageError, self.lock, disk)
        self.assertEqual(disk._locked, {})

    def test_claimed(self):
        """A claim checks the names, and lets the directory go when they are others."""
        disk = SimDisk()
        directory = self.lock(disk)
        directory.create(self.identity)
        directory.close()
        claim = {"cluster_name": "c", "node_name": "n"}
        DataDirectory.claim(disk, "/data/", **claim).close()
        for name, text in (("cluster_name", "cluster 'c', not 'x'"), ("node_name", "node 'n', not 'x'")):
            error = self.assertRaises(
                DataDirectoryError, DataDirectory.claim, disk, "/data", **{**claim, name: "x"}
            )
            self.assertIn(f"/data belongs to {text}; name another data directory", str(error))
            self.assertEqual(disk._locked, {})
        disk.replace("/data/node.new", b"")
        error = self.assertRaises(DataDirectoryError, DataDirectory.claim, disk, "/data", **claim)
        self.assertIn("/data: `loghouse recover --new-cluster` was interrupted here", str(error))
        self.assertEqual(disk._locked, {})

    def test_empty(self):
        """An empty disk belongs to nobody until it is made somebody's."""
        disk = SimDisk()
        directory = self.lock(disk)
        self.assertIs(directory.is_empty, True)
        self.assertRaises(AssertionError, lambda: directory.identity)
        directory.create(self.identity)
        self.assertEqual((directory.is_empty, directory.identity), (False, self.identity))
        self.assertRaises(AssertionError, directory.create, self.identity)
        self.assertEqual(directory.log_directory(), "/data/logs/1")
        self.assertEqual(directory.log_directory(7), "/data/logs/7")

    def test_no_room_for_a_first_segment(self):
        """A first boot without room says how much its first segment takes."""
        for size, wanted in ((5120, 5120), (1 << 30, 1 << 20)):
            for kind in ("allocate", "make_directory"):
                disk = SimDisk()
                disk.make_directory("/data")
                directory = DataDirectory.lock(disk, "/data", segment_size=size, reserve_size=0)
                disk.fail(errno.ENOSPC, kinds=(kind,), times=99)
                error = self.assertRaises(DataDirectoryError, directory.create, self.identity)
                self.assertEqual(
                    str(error),
                    f"no space left for a new log under /data: its first segment takes {wanted} bytes; "
                    "free some, and start again",
                )
                self.assertIs(directory.is_empty, True)
                directory.close()

    def test_members(self):
        """The last known addresses are kept, up to the most bytes that are ever read."""
        disk = SimDisk()
        directory = self.lock(disk)
        self.assertEqual(directory.read_members(), b"")
        for size in (0, 1, MEMBERS_SIZE_MAX):
            directory.write_members(b"x" * size)
            self.assertEqual(len(directory.read_members()), size)
        self.assertEqual(MEMBERS_SIZE_MAX, 65536)
        disk.fail(errno.ENOSPC, kinds=("create",))
        self.assertRaises(DiskFullError, directory.write_members, b"y")
        disk.fail(errno.EIO, kinds=("create",))
        error = self.assertRaises(DiskFailedError, directory.write_members, b"y")
        self.assertIn("cannot write /data/members: ", str(error))
        self.assertEqual(len(directory.read_members()), MEMBERS_SIZE_MAX)

    def test_parents(self):
        """The name of a new directory is made durable in the directory it lies in."""
        for path, parent in (("/data", "/"), ("/a/data", "/a"), ("data", "."), ("a/data", "a")):
            self.assertEqual(directory_module._parent(path), parent)

    def test_first_entry_that_fails(self):
        """A first boot whose first entry cannot be written leaves nothing."""
        disk = SimDisk()
        disk.make_directory("/data")
        directory = self.lock(disk)

        def begin(log):
            raise disk_error(errno.EIO)

        error = self.assertRaises(DiskFailedError, directory.create, self.identity, begin=begin)
        self.assertIn("cannot make /data: ", str(error))
        self.assertEqual(disk.list_directory("/data"), ["lock"])


class GroupTests(SynchronousTestCase):
    """The list of groups."""

    def setUp(self):
        self.disk = SimDisk()
        self.directory = open_directory(self.disk, segment_size=5120, reserve_size=0)
        self.groups = BornGroups(self.disk, self.directory, 5)

    def begin(self, log):
        log.save_hard_state(term=1, vote=0)
        log.append([Writer(seed=log.seed).records()])
        log.sync(1)

    def test_full_list(self):
        """A list of as many groups as there may be, and as many dead ones, is read whole."""
        self.patch(groups_module, "LOGS_MAX", 10_000)
        states = dict.fromkeys(range(1, 10001), GroupState.BORN)
        states.update(dict.fromkeys(range(20000, 30000), GroupState.DEAD))
        self.groups._states = states
        self.groups._note(1, GroupState.BORN)
        self.assertEqual(read_groups(self.disk, self.directory.path), self.groups._states)

    def test_forgotten(self):
        """Of the dead only so many are remembered: those that died last."""
        self.patch(groups_module, "TOMBSTONES_MAX", 3)
        for group in (7, 5, 9, 6):
            self.groups._note(group, GroupState.DEAD)
        self.assertEqual(list(self.groups._states), [1, 5, 9, 6])
        self.groups._note(5, GroupState.DEAD)
        self.groups._note(8, GroupState.DEAD)
        self.assertEqual(list(self.groups._states), [1, 6, 5, 8])
        self.assertEqual(self.groups.born, [1])

    def test_interrupted_death(self):
        """A death that a crash interrupted is finished by the next start, under its own second."""
        self.groups.bear(16, self.begin)
        self.groups._note(16, GroupState.DEAD)
        self.groups = BornGroups(self.disk, self.directory, 77)
        self.assertEqual(self.groups.gone(), {"gone-16-77": 77})
        self.assertFalse(self.disk.exists("/data/logs/16"))

    def test_interrupted_birth(self):
        """A log that was being made is removed by the next start."""
        self.disk.make_directory("/data/logs/16.new")
        self.disk.replace("/data/logs/16.new/start", b"x")
        BornGroups(self.disk, self.directory, 77)
        self.assertEqual(self.disk.list_directory("/data/logs"), ["1"])

    def test_failed_birth(self):
        """A birth that fails leaves nothing, whatever failed."""
        for error in (ValueError("bug"), disk_error(errno.EIO)):

            def begin(log, error=error):
                raise error

            kind = DiskFailedError if isinstance(error, OSError) else ValueError
            self.assertRaises(kind, self.groups.bear, 16, begin)
            self.assertEqual(self.disk.list_directory("/data/logs"), ["1"])
            self.assertEqual(self.groups.born, [1])

    def test_told(self):
        """What may not be born is told with its group."""
        self.groups.bear(16, self.begin)
        self.disk.rename("/data/logs/16", "/data/logs/x")
        error = self.assertRaises(DamageError, self.groups.bear, 16, self.begin)
        self.assertEqual((error.file, error.position), ("/data/logs/16", 0))
        self.assertEqual(error.problem, "the log of group 16 was born here, and is gone")
        self.groups.bury(16, 9)
        error = self.assertRaises(DataDirectoryError, self.groups.bear, 16, self.begin)
        self.assertEqual(str(error), "/data/logs/16: the log of group 16 died here, and cannot be born again")
        self.disk.fail(errno.EIO, kinds=("create",))
        error = self.assertRaises(DiskFailedError, self.groups.bury, 1, 9)
        self.assertIn("cannot put /data/logs/1 away: ", str(error))
