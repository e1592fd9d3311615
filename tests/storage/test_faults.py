"""Errors of the disk at every operation, full disks, and a sync that fails."""

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DiskFailedError,
    DiskFullError,
    LoghouseError,
    StorageError,
)
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import OsFiles
from loghouse.storage.log import Log
from loghouse.testing.disk import CHANGING, SimDisk
from tests.processes import thorough
from tests.storage.entries import CLUSTER, Writer, frames_of, open_directory

SIZES = {"segment_size": 4096 + 1024, "reserve_size": 2048}


NAMES = {"cluster_name": "c", "node_name": "n"}


def boot(disk, **options):
    return open_directory(disk, **{**SIZES, **options})


class Work:
    """A fixed course of everything that writes; remembers what was acknowledged."""

    def __init__(self):
        self.acknowledged = []  # what must be there
        self.written = []  # what may be there
        self.term = 0
        self.log = None
        self.is_booted = False
        self.is_cutting = False

    def run(self, disk):
        directory = boot(disk)
        self.is_booted = True
        log = self.log = directory.open_log()
        log.save_hard_state(term=1, vote=1)
        self.term = 1
        self.writer = Writer(seed=log.seed)
        for _ in range(3):
            self.append(log, 4, 150)
        self.is_cutting = True
        log.truncate_suffix(7)
        self.is_cutting = False
        self.written, self.acknowledged = self.written[:7], self.acknowledged[:7]
        self.writer = Writer(log.state, seed=log.seed)
        log.save_hard_state(term=2, vote=1)
        self.term = 2
        self.append(log, 5, 200, term=2)
        log.trim_prefix(log.sealed_segments()[0].next_offset)
        self.append(log, 1, 10)
        log.close()
        directory.close()

    def append(self, log, count, size, **fields):
        entries = [self.writer.records(1, size, **fields) for _ in range(count)]
        self.written += [entry.frame for entry in entries]
        log.append(entries)
        log.sync(0)
        self.acknowledged = self.written[:]


class FaultSweepTests(SynchronousTestCase):
    """An error at any operation stops the log for good and loses nothing that was acknowledged."""

    def sweep(self, error, *, lose_power, least=0.8):
        clean, needed = SimDisk(), []
        # A full disk can do without `held`; its syncs of the directory cannot be told apart.
        clean.on_operation = lambda kind, path, _: (
            needed.append(kind) if kind in CHANGING and "/held" not in path else None
        )
        Work().run(clean)
        failures = 0
        for place in range(clean.operations):
            disk, work = SimDisk(), Work()
            fault = disk.fail(error, after=place, kinds=sorted(CHANGING))
            try:
                work.run(disk)
            except (LoghouseError, OSError) as raised:
                failures += 1
                self.assertIsInstance(raised, LoghouseError, place)
                self.check_refusal(work, raised, place)
            else:
                self.assertEqual(fault.times, 0)
            self.check_restart(disk, work, place, lose_power=lose_power)
        self.assertGreater(failures, len(needed) * least)

    def check_refusal(self, work, raised, place):
        if isinstance(raised, DiskFullError) or work.log is None:
            return
        self.assertIsInstance(raised, DiskFailedError, place)
        with self.assertRaises(DiskFailedError):
            work.log.append([Writer(work.log.state, seed=work.log.seed).records()])
        with self.assertRaises(DiskFailedError):
            work.log.sync(10**6)

    def check_restart(self, disk, work, place, *, lose_power):
        if lose_power:
            disk.crash(random.Random(place), keep=0.5)
        else:
            disk.stop_process()
        directory = boot(disk)
        log = directory.open_log()
        self.assertIn(log.hard_state.term, (work.term, work.term + 1), place)
        found, first = frames_of(log), log.first_index
        acknowledged = work.acknowledged[:7] if work.is_cutting else work.acknowledged
        self.assertGreaterEqual(first - 1 + len(found), len(acknowledged), place)
        self.assertEqual(found, work.written[first - 1 : first - 1 + len(found)], place)
        writer = Writer(log.state, seed=log.seed)
        log.append([writer.records(1, 300) for _ in range(5)])
        log.close()
        directory.close()

    def test_eio(self):
        """EIO at each operation, then a restart of the process."""
        self.sweep(errno.EIO, lose_power=False)

    @thorough
    def test_eio_and_power_loss(self):
        """EIO at each operation, then a power loss."""
        self.sweep(errno.EIO, lose_power=True)

    @thorough
    def test_enospc(self):
        """ENOSPC at each operation: done out of the reserve or without, refused, or the log stops."""
        self.sweep(errno.ENOSPC, lose_power=False, least=0.7)


class FailedSyncTests(SynchronousTestCase):
    """A sync that failed is never followed by one that lies (fsyncgate)."""

    def test_unsynced_tail_is_written_again(self):
        """What a failed sync left in the page cache is written again before it is called durable."""
        disk = SimDisk()
        log = boot(disk).open_log()
        log.save_hard_state(term=1, vote=1)
        writer = Writer(seed=log.seed)
        log.append([writer.records(), writer.records()])
        log.sync(1)
        log.append([writer.records()])
        disk.fail(errno.EIO, kinds=["fdatasync"])
        with self.assertRaises(DiskFailedError):
            log.sync(3)
        disk.stop_process()
        again = boot(disk).open_log()
        self.assertEqual((again.last_index, again.durable_index), (3, 3))
        # The machine loses power at once: what the second process called durable must be there.
        disk.crash(random.Random(0), keep=0.0)
        self.assertEqual(boot(disk).open_log().last_index, 3)

    def test_reading_errors_stop_the_opening(self):
        """A disk that cannot be read refuses the start and says so."""
        disk = SimDisk()
        boot(disk).open_log().close()
        disk.stop_process()
        directory = boot(disk)
        disk.fail(errno.EIO, kinds=["pread"], path_part=".store")
        with self.assertRaises(DiskFailedError) as caught:
            directory.open_log()
        self.assertIn("Input/output error", str(caught.exception))


class FullDiskTests(SynchronousTestCase):
    """A full disk refuses appends, keeps reads and restarts, and resumes by itself."""

    def fill(self, log, writer):
        acknowledged = []
        while True:
            before = writer.state.copy()
            entries = [writer.records(1, 200), writer.records(1, 200)]
            try:
                log.append(entries)
            except DiskFullError:
                self.assertEqual(log.last_index, before.index)
                return acknowledged, Writer(before, seed=log.seed)
            log.sync(0)
            acknowledged += [entry.frame for entry in entries]

    def test_full_and_back(self):
        """Appends are refused without a trace; cuts, votes, restarts work; room brings appends back."""
        disk = SimDisk()
        log = boot(disk).open_log()
        writer = Writer(seed=log.seed)
        log.append([writer.records()])
        disk.capacity = disk.used_size() + 20_000
        frames, writer = self.fill(log, writer)
        frames = frames_of(log)
        for _ in range(3):
            with self.assertRaises(DiskFullError) as caught:
                log.append([Writer(writer.state, seed=log.seed).records(1, 4000)])
            self.assertIn("/data/logs/1", str(caught.exception))
        self.assertEqual(log.failure, "")
        self.assertEqual(log.read(0, 100, 10**9)[1], 1)
        log.save_hard_state(term=9, vote=3)
        log.truncate_suffix(len(frames) - 3)
        frames = frames[:-3]
        self.assertEqual(frames_of(log), frames)
        disk.stop_process()
        disk.capacity = disk.used_size()
        log = boot(disk).open_log()
        self.assertEqual((frames_of(log), log.hard_state.term), (frames, 9))
        writer = Writer(log.state, seed=log.seed)
        disk.capacity += 40_000
        more = [writer.records(1, 300) for _ in range(12)]
        log.append(more)
        log.close()
        self.assertIn("/data/reserve", disk.contents())
        disk.stop_process()
        self.assertEqual(frames_of(boot(disk).open_log()), frames + [entry.frame for entry in more])

    def test_first_boot_on_a_full_disk(self):
        """A new node without room for its first segment says what it needs, and starts once it is there."""
        disk = SimDisk()
        disk.capacity = 10_000
        with self.assertRaises(DataDirectoryError) as caught:
            boot(disk)
        self.assertIn("start again", str(caught.exception))
        disk.stop_process()
        disk.capacity = None
        self.assertEqual(boot(disk).open_log().last_index, 0)

    def test_restart_with_a_torn_tail_on_a_full_disk(self):
        """A full disk does not keep a log with a torn tail from starting."""
        disk = SimDisk()
        log = boot(disk).open_log()
        log.save_hard_state(term=1, vote=1)
        writer = Writer(seed=log.seed)
        log.append([writer.records()])
        log.sync(1)
        log.append([writer.records(1, 500), writer.records(1, 100)])
        disk.stop_process()
        disk.flip(f"/data/logs/1/{1:020d}.store", (4096 + 64 + 20 + 70) * 8)
        for room in (0, 100, 10_000):
            twin = disk.copy()
            twin.capacity = twin.used_size() + room
            log = boot(twin).open_log()
            self.assertEqual(log.last_index, 1)
            self.assertIn("torn tail", log.warnings[0])

    def test_install_start_on_a_full_disk(self):
        """A snapshot that finds no room changes nothing."""
        disk = SimDisk()
        log = boot(disk).open_log()
        log.append([Writer(seed=log.seed).records()])
        disk.capacity = disk.used_size()
        with self.assertRaises(DiskFullError):
            log.install_start(LogState(index=10, term=1, next_offset=3))
        self.assertEqual((log.last_index, log.failure), (1, ""))

    def test_prepare(self):
        """Room taken ahead is used by the next segment, and given back at a clean stop."""
        disk = SimDisk()
        log = boot(disk).open_log()
        log.prepare()
        disk.capacity = disk.used_size() + 2000
        writer = Writer(seed=log.seed)
        log.append([writer.records(1, 300) for _ in range(4)])
        self.assertEqual(len(log.sealed_segments()), 1)
        with self.assertRaises(DiskFullError):
            log.prepare()
        disk.capacity = None
        log.prepare()
        log.close()
        self.assertEqual([path for path in disk.contents() if "spare" in path], [])


REAL_FULL = """
import os, sys
from loghouse.errors import DiskFullError
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import OsFiles
from tests.storage.entries import Writer, open_directory

def boot(path):
    return open_directory(OsFiles(), path, cluster_name="c", node_name="n", random_bytes=os.urandom,
                              segment_size=256 * 1024, reserve_size=64 * 1024)

path = sys.argv[1]
directory = boot(path)
log = directory.open_log()
writer = Writer(seed=log.seed)
count = 0
try:
    while count < 100000:
        log.append([writer.records(1, 5000)])
        log.sync(0)
        count += 1
except DiskFullError:
    pass
assert log.last_index == count and not log.failure
log.truncate_suffix(count - 1)
log.save_hard_state(term=4, vote=1)
log.close()
directory.close()
directory = boot(path)
log = directory.open_log()
assert log.last_index == count - 1 and log.hard_state.term == 4
offset = 0
while True:
    frames, offset_next = log.read(offset, 10**6, 10**9)
    if not frames:
        break
    offset = offset_next
assert offset == count - 1, (offset, count)
os.unlink(path + "/ballast")
log.append([Writer(log.state, seed=log.seed).records(1, 200_000)])
log.sync(0)
log.close()
print("held", count)
"""


class RealFullDiskTests(SynchronousTestCase):
    """A real small disk (a tmpfs of 4 MiB), where this may be mounted."""

    def test_tmpfs(self):
        """The disk fills up, everything acknowledged stays, and appends resume when there is room."""
        directory = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        mount = shutil.which("mount")
        mounted = mount and subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], capture_output=True, check=False
        )
        if not mounted or mounted.returncode:
            raise SkipTest("mounting a tmpfs is not allowed here")
        try:
            data = f"{directory}/data"
            os.makedirs(data)
            Path(data, "ballast").write_bytes(bytes(1024 * 1024))
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(REAL_FULL), data],
                capture_output=True,
                text=True,
                check=False,
                cwd=Path(__file__).parents[2],
            )
        finally:
            subprocess.run(["umount", directory], check=True)
        self.assertEqual(done.stderr, "")
        self.assertGreater(int(done.stdout.split()[1]), 300)

    def test_refused_allocation_leaves_nothing(self):
        """An allocation that the system refuses does not leave the file grown (a file size limit here)."""
        path = os.path.abspath(self.mktemp())
        script = f"""
            import errno, os, resource
            from loghouse.storage.files import FULL_ERRNOS, OsFiles
            files = OsFiles()
            fd = files.create({path!r})
            files.pwritev(fd, [b"abc"], 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
            try:
                files.allocate(fd, 0, 100_000)
            except OSError as error:
                assert error.errno in FULL_ERRNOS, error
            else:
                raise SystemExit("not refused")
            assert files.size(fd) == 3
            try:
                files.pwritev(fd, [bytes(8000), b"x" * 8000], 0)
            except OSError as error:
                assert error.errno in FULL_ERRNOS, error
            else:
                raise SystemExit("a short write was taken for a whole one")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class DirectoryTests(SynchronousTestCase):
    """Who may use a data directory."""

    def setUp(self):
        self.path = os.path.abspath(self.mktemp())

    def real(self, **options):
        names = {"cluster_name": "c", "node_name": "n", "random_bytes": os.urandom}
        return open_directory(
            OsFiles(), self.path, **{**names, "segment_size": 65536, "reserve_size": 4096, **options}
        )

    def test_in_use(self):
        """A second process, or a second opening, is refused while the first is there."""
        first = self.real()
        with self.assertRaises(DataDirectoryError) as caught:
            self.real()
        self.assertIn("in use", str(caught.exception))
        first.close()
        self.real().close()

    def test_of_another_cluster_or_node(self):
        """A directory of other names is refused, with both names."""
        self.real().close()
        for option, name in (("cluster_name", "d"), ("node_name", "m")):
            with self.assertRaises(DataDirectoryError) as caught:
                self.real(**{option: name})
            self.assertIn(f"not '{name}'", str(caught.exception))

    def test_no_directory(self):
        """A directory whose parent is missing, or that is a file, is refused with the reason."""
        with self.assertRaises(DataDirectoryError):
            DataDirectory.lock(OsFiles(), f"{self.path}/no/data")
        Path(self.path).write_text("")
        with self.assertRaises(DataDirectoryError):
            self.real()

    def test_hints(self):
        """What to do about a directory that cannot be used fits what is wrong with it."""
        for number, hint in (
            (errno.EROFS, "mounted read-only"),
            (errno.EACCES, "owner and mode"),
            (errno.ENOSPC, "free some space"),
            (errno.EIO, "check the disk"),
        ):
            for kind in ("make_directory", "create", "lock"):
                disk = SimDisk()
                disk.fail(number, kinds=[kind])
                error = self.assertRaises(DataDirectoryError, DataDirectory.lock, disk, "/data")
                self.assertIn(hint, str(error))
                self.assertFalse(disk.exists("/data/lock") and kind != "lock")
        error = self.assertRaises(DataDirectoryError, DataDirectory.lock, SimDisk(), "/no/data")
        self.assertIn("make the directory it is to lie in", str(error))

    def test_undone(self):
        """After a start that failed the disk is as it was, wherever it refused; the next start works."""
        identity = DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n")
        refused = 0
        for after in itertools.count():
            disk = SimDisk()
            kinds = ["create", "allocate", "pwritev", "fsync", "rename"]
            fault = disk.fail(errno.ENOSPC, after=after, kinds=kinds)
            directory = DataDirectory.claim(disk, "/data", **NAMES)
            self.assertIsNone(directory)
            try:
                directory = DataDirectory.lock(disk, "/data", **SIZES)
                directory.create(identity)
            except StorageError:
                refused += 1
                if directory is not None:
                    directory.undo()
                self.assertEqual(disk.root.seen, {}, after)
                boot(disk).close()
            else:
                directory.close()  # there is no such operation, or the reserve was enough
                if fault.times:
                    break
        self.assertGreater(refused, 10)

    def test_undo_keeps_what_was_there(self):
        """What another start made is not undone: an identity, its lock, and files of whoever else."""
        self.real().close()
        before = sorted(os.listdir(self.path))
        DataDirectory.claim(OsFiles(), self.path, **NAMES).undo()
        self.assertEqual(sorted(os.listdir(self.path)), before)
        os.unlink(f"{self.path}/lock")
        self.assertIsNone(DataDirectory.claim(OsFiles(), self.path, **NAMES))
        DataDirectory.lock(OsFiles(), self.path).undo()
        before.remove("lock")
        self.assertEqual(sorted(os.listdir(self.path)), before)

    def test_lock_without_a_name(self):
        """Who takes a lock that its holder removed meanwhile gets the new one, not the one without a name."""
        path = f"{self.path}.lock"
        first = os.open(path, os.O_RDWR | os.O_CREAT)
        real_open, opened = os.open, []

        def open_late(*arguments):
            fd = real_open(*arguments)
            if not opened:
                os.unlink(path)
            opened.append(fd)
            return fd

        self.patch(os, "open", open_late)
        fd = OsFiles().lock(path)
        self.assertEqual(len(opened), 2)
        self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(path)))
        os.close(fd)
        os.close(first)

    def test_identity_survives(self):
        """The uuids made at the first boot are those of every later one."""
        directory = self.real()
        identity = directory.identity
        directory.write_members(b"a=1")
        directory.close()
        directory = self.real()
        self.assertEqual((directory.identity, directory.read_members()), (identity, b"a=1"))
        directory.close()

    def test_lock_of_an_empty_disk(self):
        """A joiner takes an empty disk first, and makes it its cluster's later."""
        directory = DataDirectory.lock(OsFiles(), self.path, segment_size=65536, reserve_size=0)
        self.assertTrue(directory.is_empty)
        self.assertEqual(directory.read_members(), b"")
        identity = DiskIdentity(
            cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="cluster", node_name="node"
        )
        directory.create(identity)
        self.assertEqual(directory.open_log().last_index, 0)
        directory.close()

    def test_newer_or_damaged_identity(self):
        """A `node` file of a newer version, or a damaged one, is refused as what it is."""
        self.real().close()
        path = Path(self.path, "node")
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        with self.assertRaises(DamageError):
            self.real()
        fields = content[:8] + b"\0\2" + content[10:-4]
        from loghouse.protocol.entry import crc32c

        path.write_bytes(fields + crc32c(fields).to_bytes(4, "big"))
        with self.assertRaises(DataDirectoryError) as caught:
            self.real()
        self.assertIn("newer", str(caught.exception))
        for fields in (b"LOGHNODF" + content[8:-4], content[:-9]):
            path.write_bytes(fields + crc32c(fields).to_bytes(4, "big"))
            with self.assertRaises(DamageError):
                self.real()

    def test_lost_identity(self):
        """Without `node` a directory that holds entries is never taken for an empty disk."""
        directory = self.real()
        log = directory.open_log()
        log.append([Writer(seed=log.seed).records()])
        log.close()
        directory.close()
        Path(self.path, "node").unlink()
        for _ in range(2):
            with self.assertRaises(DamageError) as caught:
                self.real()
            self.assertIn("entries in", str(caught.exception))
        os.makedirs(f"{self.path}/logs/1/lost+found")
        Path(self.path, f"logs/1/{1:020d}.store").unlink()
        with self.assertRaises(DamageError):
            self.real()

    def test_disk_that_refuses(self):
        """Errors while a directory is made or its members are written stop it, named."""
        disk = SimDisk()
        disk.fail(errno.EIO, kinds=["rename"], path_part="node")
        with self.assertRaises(DiskFailedError):
            boot(disk)
        disk.stop_process()
        directory = boot(disk)
        disk.fail(errno.EIO, kinds=["fsync"])
        with self.assertRaises(DiskFailedError):
            directory.write_members(b"x")
        disk.stop_process()
        disk.fail(errno.EIO, kinds=["pread"], path_part="node")
        with self.assertRaises(DataDirectoryError):
            boot(disk)

    def test_log_of_another_group(self):
        """A log opened under another group's number is refused."""
        disk = SimDisk()
        directory = boot(disk)
        disk.rename("/data/logs/1", "/data/logs/2")
        with self.assertRaises(DamageError):
            directory.open_log(2)
        self.assertIs(type(Log), type)
