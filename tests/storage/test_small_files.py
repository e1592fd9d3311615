"""The small files of a data directory at their edges: versions, lengths, and what does not join."""

import errno

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError, DiskFailedError, MalformedMessageError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import EntryKind, make_entry, with_crc
from loghouse.protocol.log_state import LogState, decode_log_state, encode_log_state
from loghouse.storage import start
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.start import (
    FLAG_BEHIND_STORE,
    START_MAGIC,
    STATE_MAGIC,
    decode_state_file,
    encode_state_file,
    read_start,
    read_state,
    write_start,
    write_state,
)
from loghouse.testing.disk import SimDisk
from tests.storage.entries import CLUSTER, SEED, Writer, new_disk

DIRECTORY = "/data/logs/1"
IDENTITY = DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n")


class IdentityTests(SynchronousTestCase):
    """The file `node`."""

    def fields(self):
        return IDENTITY.encode()[:-4]

    def test_versions(self):
        """A version has two bytes: each other one is a newer format, told by its number."""
        self.assertEqual(DiskIdentity.decode("/data/node", IDENTITY.encode()), IDENTITY)
        for version in (0, 2, 255, 256, 257, 0x0201, 0xFF01, 0xFFFF):
            fields = self.fields()
            content = with_crc(fields[:8] + version.to_bytes(2, "big") + fields[10:])
            error = self.assertRaises(DataDirectoryError, DiskIdentity.decode, "/data/node", content)
            self.assertNotIsInstance(error, DamageError)
            self.assertEqual(
                str(error), f"/data/node: format {version}, this version reads 1; use a newer Loghouse"
            )

    def test_damaged(self):
        """Another magic, whatever version follows it, bytes too few or too many are damage."""
        fields = self.fields()
        for content in (
            with_crc(b"LOGHNODF" + fields[8:]),
            with_crc(b"LOGHNODF\0\2" + fields[10:]),
            with_crc(fields[:-1]),
            with_crc(fields + b"\0"),
            with_crc(fields[:10]),
            with_crc(fields.replace(b"\x01c", b"\x01\xff")),
        ):
            error = self.assertRaises(DamageError, DiskIdentity.decode, "/data/node", content)
            self.assertEqual((error.file, error.position), ("/data/node", 0))
            self.assertEqual(error.problem, "not a node's identity")
            self.assertIn("restore the file from a backup", str(error))
        error = self.assertRaises(DamageError, DiskIdentity.decode, "/data/node", fields + bytes(4))
        self.assertEqual(error.problem, "checksum of the node's identity does not match")


class FirstBootTests(SynchronousTestCase):
    """What is found where there is no `node`: left by a crash in the first boot, or somebody's entries."""

    def setUp(self):
        self.disk = new_disk(SimDisk, DIRECTORY)
        self.directory = DataDirectory.lock(self.disk, "/data", segment_size=8192, reserve_size=512)

    def put(self, name, content):
        path = f"{DIRECTORY}/{name}"
        self.disk.replace(path, content)
        return path

    def store(self, *frames, base=1, size=8192):
        content = bytes(STORE_HEADER_SIZE) + b"".join(frames)
        return self.put(f"{base:020d}.store", content.ljust(size, b"\0"))

    def entry(self, *, index=1, kind=EntryKind.CONFIGURATION, payload=b"x" * 100):
        return make_entry(
            SEED,
            index=index,
            term=1,
            kind=kind,
            base_offset=0,
            timestamp=1,
            payload=payload,
            record_count=int(kind == EntryKind.RECORDS),
        ).frame

    def assert_refused(self, path):
        before = self.disk.contents()
        error = self.assertRaises(DamageError, self.directory.create, IDENTITY)
        self.assertEqual(error.file, "/data/node")
        self.assertEqual(
            error.problem, f"the node's identity is gone, but there are entries in {path}, or were"
        )
        self.assertIn("nothing was modified; restore the file from a backup", str(error))
        self.assertEqual(self.disk.contents(), before)

    def assert_wiped(self):
        self.directory.create(IDENTITY)
        self.assertEqual(self.directory.open_log().last_index, 0)

    def test_files_of_a_log_that_began(self):
        """The segment that a first boot makes is wiped with all its files, empty or with its first entry."""
        configuration = self.entry()
        for frames in (
            [],
            [configuration],
            [self.entry(payload=b"x" * 600)],
            [configuration[:70]],
            [configuration, bytes(512 - len(configuration) - 1) + b"x"],
            [bytes(64), b"torn, the first sector of the header did not get there"],
            [bytes(511) + b"x"],
        ):
            self.setUp()
            self.store(*frames)
            self.put(f"{1:020d}.index", b"x" * 50)
            self.put("hard_state", b"x" * 9000)
            self.put("a.tmp", b"x" * 9000)
            self.assert_wiped()

    def test_store_without_a_header(self):
        """A store that is shorter than its header block holds nothing."""
        for size in (0, 1, STORE_HEADER_SIZE - 1, STORE_HEADER_SIZE):
            self.setUp()
            self.put(f"{1:020d}.store", b"x" * size)
            self.assert_wiped()

    def test_entries(self):
        """Records, a second entry, or more bytes than the first one has are data."""
        configuration = self.entry(payload=b"x" * 600)
        for frames in (
            [self.entry(kind=EntryKind.RECORDS)],
            [self.entry(kind=EntryKind.NOOP)],
            [self.entry(index=2)],
            [configuration, b"x"],
            [self.entry()[:70].ljust(512, b"\0"), b"x"],
            [bytes(512), b"x"],
        ):
            self.setUp()
            self.assert_refused(self.store(*frames))

    def test_stub(self):
        """A store that ends within its first header, with something in it, may have held more."""
        self.assert_refused(self.store(b"x" * 63, size=0))
        self.setUp()
        self.store(self.entry()[:64], size=0)
        self.assert_wiped()

    def test_log_that_was_trimmed(self):
        """The log of a first boot begins with entry 1: any file of another segment tells of a trim."""
        for name in (f"{2:020d}.store", f"{2:020d}.index", f"{7:020d}.state"):
            self.setUp()
            self.assert_refused(self.put(name, b""))

    def test_what_was_cut(self):
        """A log with a `lost+found` held entries once."""
        self.disk.make_directory(f"{DIRECTORY}/lost+found")
        self.assert_refused(f"{DIRECTORY}/lost+found")

    def test_disk_that_cannot_be_read(self):
        """An error of the disk is told as that, and nothing is modified."""
        self.store(self.entry())
        before = self.disk.contents()
        self.disk.fail(errno.EIO, kinds=("pread",), path_part=".store")
        error = self.assertRaises(DiskFailedError, self.directory.create, IDENTITY)
        self.assertIn("cannot read /data: ", str(error))
        self.assertEqual(self.disk.contents(), before)


class StateFileTests(SynchronousTestCase):
    """`start` and `<base>.state`."""

    def setUp(self):
        self.disk = new_disk(SimDisk, DIRECTORY)
        writer = Writer()
        for _ in range(3):
            writer.records(2)
        self.state = writer.state
        self.state.configuration = Configuration().with_member("n", bytes(16), MemberRole.VOTER)

    def assert_same(self, found):
        self.assertEqual(encode_log_state(found), encode_log_state(self.state))

    def test_largest(self):
        """A state of exactly the most bytes is read, from both files."""
        self.patch(start, "STATE_SIZE_MAX", len(encode_log_state(self.state)))
        write_start(self.disk, DIRECTORY, SEED, self.state, installing=False)
        write_state(self.disk, DIRECTORY, SEED, self.state)
        found, is_installing = read_start(self.disk, DIRECTORY, SEED, "")
        self.assert_same(found)
        self.assertFalse(is_installing)
        self.assert_same(read_state(self.disk, DIRECTORY, SEED, self.state.index + 1))

    def test_smallest(self):
        """What is too short to hold a state's length is told as damaged; what holds none, by the state."""
        head = START_MAGIC + b"\0\1\0\0"
        for fields, problem in (
            (b"", "checksum does not match"),
            (head, "checksum does not match"),
            (head + bytes(3), "checksum does not match"),
            (head + bytes(3) + b"\1", "not a state file"),
            (head + b"\0\0\0\1x", self.problem_of(b"x")),
            (head + bytes(4), self.problem_of(b"")),
        ):
            error = self.assertRaises(
                MalformedMessageError, decode_state_file, START_MAGIC, SEED, with_crc(fields, SEED)
            )
            self.assertIn(problem, str(error), fields)

    def problem_of(self, content):
        return str(self.assertRaises(MalformedMessageError, decode_log_state, content))

    def test_installing(self):
        """`start` says whether it is still being installed; a state file, that its store was there."""
        for installing in (False, True):
            write_start(self.disk, DIRECTORY, SEED, self.state, installing=installing)
            self.assertIs(read_start(self.disk, DIRECTORY, SEED, "")[1], installing)
        base = self.state.index + 1
        path = f"{DIRECTORY}/{base:020d}.state"
        for flags, is_marked in ((0, False), (1, False), (FLAG_BEHIND_STORE, True), (3, True)):
            self.disk.replace(path, encode_state_file(STATE_MAGIC, SEED, self.state, flags))
            self.assertIs(start.read_state_file(self.disk, DIRECTORY, SEED, base).is_marked, is_marked)

    def test_state_of_another_segment(self):
        """A state file counts only for the segment behind its entry, and only when it is whole."""
        base = self.state.index + 1
        content = encode_state_file(STATE_MAGIC, SEED, self.state, FLAG_BEHIND_STORE)
        for other in (base - 1, base + 1):
            self.disk.replace(f"{DIRECTORY}/{other:020d}.state", content)
            self.assertIsNone(read_state(self.disk, DIRECTORY, SEED, other))
        for wrong in (
            b"",
            content[:-1],
            encode_state_file(START_MAGIC, SEED, self.state),
            encode_state_file(STATE_MAGIC, SEED ^ 1, self.state),
        ):
            self.disk.replace(f"{DIRECTORY}/{base:020d}.state", wrong)
            self.assertIsNone(read_state(self.disk, DIRECTORY, SEED, base))
        self.assertIsNone(read_state(self.disk, DIRECTORY, SEED, 99))

    def test_start_that_cannot_be_read(self):
        """A `start` that is gone or damaged is told with the remedy that the caller knows."""
        path = f"{DIRECTORY}/start"
        error = self.assertRaises(DamageError, read_start, self.disk, DIRECTORY, SEED, "do this")
        self.assertEqual((error.file, error.position), (path, 0))
        self.assertEqual(error.problem, "the file that says where the log starts is gone")
        self.assertIn("do this", str(error))
        self.disk.replace(path, encode_state_file(STATE_MAGIC, SEED, LogState()))
        error = self.assertRaises(DamageError, read_start, self.disk, DIRECTORY, SEED, "do that")
        self.assertEqual((error.file, error.position), (path, 0))
        self.assertEqual(error.problem, "not a file of this kind")
        self.assertIn("do that", str(error))
