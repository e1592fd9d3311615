"""The embedded log: a program appends and reads, and the directory is a node's."""

import random
import threading
from datetime import UTC, datetime

from loghouse.embedded.asynchronous import AsyncEmbeddedLog
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    DataDirectoryError,
    DirectoryInUseError,
    ExpectOffsetError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    UnknownLogError,
)
from loghouse.limits import KIB
from loghouse.protocol.configuration import Configuration, MemberRole, Retention
from loghouse.raft.membership import bootstrap_entry
from loghouse.storage.directory import DataDirectory, DiskIdentity
from tests.driver.town import TownTestCase
from tests.embedded.case import PATH, EmbeddedTestCase


class AppendTests(EmbeddedTestCase):
    """Appending, with the client's methods."""

    def test_append_and_read(self):
        """What was appended is read with its offset, key, headers and time."""
        with self.open() as log:
            self.assertEqual(log.append(b"one"), 0)
            self.assertEqual(log.append(b"two", key=b"k", headers=[("h", b"v")], timestamp=7), 1)
            first, second = log.read()
        self.assertEqual((first.offset, first.timestamp, first.value), (0, 1_000_000_000_000, b"one"))
        self.assertEqual(second, (1, 7, b"two", b"k", (("h", b"v"),)))

    def test_batches(self):
        """Records of a batch get offsets one behind the other; compressed ones come back the same."""
        with self.open() as log:
            self.assertEqual(log.append_batch([b"a", b"b"]), range(2))
            many = [b"same" * 10] * 100
            self.assertEqual(log.append_batch(many, compression="zstd"), range(2, 102))
            self.assertEqual(log.append_batch([b"x"], compression="zstd"), range(102, 103))
            self.assertEqual(self.values(log), [b"a", b"b", *many, b"x"])
            self.assertEqual([len(batch) for batch in log.read_batches(50)], [52, 1])

    def test_name(self):
        """It is the log `default`; a directory has no other one."""
        with self.open() as log:
            for one in (log, AsyncEmbeddedLog(log)):
                for name in ("default", ""):
                    self.assertIs(one.log(name), one)
                self.assertRaises(UnknownLogError, one.log, "orders")

    def test_durable(self):
        """An append that returned survives a power loss."""
        log = self.open()
        log.append(b"kept")
        self.disk.crash(random.Random(1), keep=0.0)
        with self.open() as again:
            self.assertEqual(self.values(again), [b"kept"])

    def test_expect_offset(self):
        """An expected offset that does not hold refuses the append."""
        with self.open() as log:
            self.assertEqual(log.append(b"a", expect_offset=0), 0)
            error = self.assertRaises(ExpectOffsetError, log.append, b"b", expect_offset=0)
            self.assertEqual(error.actual, 1)
            self.assertRaises(ExpectOffsetError, log.append_batch, [b"b"], expect_offset=7)
            self.assertEqual(log.bounds(), (0, 1))

    def test_wrong_arguments(self):
        """What is no record, batch or place is refused by name, as the client does."""
        with self.open() as log:
            for call, field in (
                (lambda: log.append("text"), "value"),
                (lambda: log.append_batch([]), "values"),
                (lambda: log.append_batch([b"x"], compression="gzip"), "compression"),
                (lambda: log.append(b"x", timeout_seconds=-1), "timeout_seconds"),
                (lambda: list(log.read("first")), "from_"),
            ):
                self.assertEqual(self.assertRaises(InvalidRequestError, call).field, field)
            self.assertEqual(log.bounds(), (0, 0))

    def test_threads_share_a_sync(self):
        """Appends of other threads that come during a sync share the next one."""
        log = self.open()
        syncs, started, go = [], threading.Event(), threading.Event()
        fdatasync = self.disk.fdatasync

        def slow(fd):
            syncs.append(fd)
            started.set()
            self.assertTrue(go.wait(10))
            fdatasync(fd)

        self.disk.fdatasync = slow
        offsets = []
        threads = [threading.Thread(target=lambda: offsets.append(log.append(b"x"))) for _ in range(9)]
        threads[0].start()
        self.assertTrue(started.wait(10))
        for thread in threads[1:]:
            thread.start()
        while len(log.node.rounds._left) < 8:
            threading.Event().wait(0.001)
        go.set()
        for thread in threads:
            thread.join(10)
        self.assertEqual(sorted(offsets), list(range(9)))
        self.assertEqual(len(syncs), 2)
        log.close()

    def test_mixed_requests_of_one_round(self):
        """In one round, each of several requests gets its own outcome, in order."""
        log = self.open()
        outcomes = []

        def append(**fields):
            try:
                outcomes.append(log.append(b"x", **fields))
            except ExpectOffsetError as error:
                outcomes.append(error.actual)

        left = log.node.rounds
        left._is_busy = True
        threads = []
        for fields in ({}, {"expect_offset": 5}, {}, {"expect_offset": 2}):
            threads.append(threading.Thread(target=append, kwargs=fields))
            threads[-1].start()
            while len(left._left) < len(threads):
                threading.Event().wait(0.001)
        with left._mutex:
            left._hand_over()
        for thread in threads:
            thread.join(10)
        self.assertEqual(sorted(outcomes), [0, 1, 1, 2])
        self.assertEqual(log.bounds(), (0, 3))
        log.close()


class ReadTests(EmbeddedTestCase):
    """Reading from any place, to the end or on and on."""

    def test_places(self):
        """Reading begins at an offset, an end of the log or a moment."""
        with self.open() as log:
            log.append_batch([b"a", b"b"])
            self.wall += 10
            log.append(b"c")
            self.assertEqual(self.values(log, from_=1), [b"b", b"c"])
            self.assertEqual(self.values(log, from_="latest"), [])
            moment = datetime.fromtimestamp(self.wall - 5, UTC)
            self.assertEqual(self.values(log, from_=moment), [b"c"])
            self.assertEqual(log.find_offset(0), 0)
            self.assertEqual(log.find_offset(datetime.fromtimestamp(self.wall + 5, UTC)), 3)
            self.assertEqual(self.values(log, from_=3), [])
            self.assertRaises(OffsetOutOfRangeError, list, log.read(4))

    def test_trim(self):
        """Trimmed records are out of range; the others stay."""
        with self.open() as log:
            log.append_batch([b"a", b"b", b"c"])
            self.assertEqual(log.trim(2), 2)
            self.assertEqual(log.bounds(), (2, 3))
            self.assertEqual(self.values(log), [b"c"])
            self.assertRaises(OffsetOutOfRangeError, list, log.read(1))

    def test_retention(self):
        """A new log keeps what it is told to: whole segments beyond that go."""
        with self.open(retention=Retention(size_max=128 * KIB)) as log:
            for _ in range(60):
                log.append_batch([bytes(1000)] * 10)
                self.monotonic += 10
                self.wall += 10
            lowest, next_offset = log.bounds()
        self.assertEqual(next_offset, 600)
        self.assertGreater(lowest, 300)

    def test_segments(self):
        """A log of several segments is read from one end to the other, also after it was opened again."""
        values = [b"%d" % number + bytes(500) for number in range(400)]
        with self.open() as log:
            for value in values:
                log.append(value)
            self.assertEqual(self.values(log), values)
        with self.open() as log:
            self.assertEqual(self.values(log), values)

    def test_follow(self):
        """A reader that follows gets what is appended later, and ClosedError when the log is closed."""
        log = self.open()
        log.append(b"a")
        seen, failures, come = [], [], threading.Semaphore(0)

        def follow():
            try:
                for record in log.read(follow=True):
                    seen.append(record.value)
                    come.release()
            except ClosedError as error:
                failures.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        self.assertTrue(come.acquire(timeout=10))
        log.append(b"b")
        self.assertTrue(come.acquire(timeout=10))
        log.close()
        thread.join(10)
        self.assertEqual((seen, len(failures)), ([b"a", b"b"], 1))
        self.assertEqual(log.node._watchers, ())


class LifeTests(EmbeddedTestCase):
    """Who may open a directory, and what an open log is."""

    def test_closed(self):
        """A closed log refuses; closing twice is fine."""
        log = self.open()
        log.close()
        log.close()
        self.assertRaises(ClosedError, log.append, b"x")
        self.assertRaises(ClosedError, log.bounds)

    def test_one_at_a_time(self):
        """A directory that is open cannot be opened; the lock goes with the log."""
        log = self.open()
        self.assertRaises(DirectoryInUseError, self.open)
        log.append(b"x")
        log.close()
        self.open().close()

    def test_forked_child(self):
        """A forked child cannot use its parent's log."""
        log = self.open()
        log.node._process += 1
        self.assertRaises(ClientUseError, log.append, b"x")
        log.close()  # does nothing
        log.node._process -= 1
        log.append(b"x")
        log.close()

    def test_a_member_of_several(self):
        """The directory of a member of a cluster is refused, and nothing in it changes."""
        directory = DataDirectory.lock(self.disk, PATH, segment_size=64 * KIB, reserve_size=0)
        configuration = Configuration()
        for number in range(2):
            configuration = configuration.with_member(f"n{number}", bytes([number]) * 16, MemberRole.VOTER)

        def begin(log):
            log.save_hard_state(term=1, vote=0)
            log.append([bootstrap_entry(log.seed, configuration, 0)])
            log.sync(1)

        directory.create(
            DiskIdentity(cluster_uuid=b"c" * 16, disk_uuid=bytes(16), cluster_name="test", node_name="n0"),
            begin=begin,
        )
        directory.close()
        error = self.assertRaises(DataDirectoryError, self.open)
        self.assertIn("of a cluster of several", str(error))
        self.assertRaises(DataDirectoryError, self.open)  # and not in use

    def test_terms(self):
        """Each opening is a term, as each start of a lone node is."""
        for _ in range(3):
            log = self.open()
            log.append(b"x")
            term = log.node.driver.raft.term
            log.close()
        self.assertEqual(term, 4)


class ClusterTests(TownTestCase, EmbeddedTestCase):
    """The directory is a node's: served as it is, and others join."""

    def setUp(self):
        TownTestCase.setUp(self)
        EmbeddedTestCase.setUp(self)

    def test_grows(self):
        """A node serves an embedded log's directory, and two more join and get all of it."""
        town = self.town("abc")
        with self.open(town["a"].disk) as log:
            log.append_batch([b"x"] * 10)
            files = town["a"].disk.list_directory("/data/logs/1")
        for name in "abc":
            town[name].start()
        town.until(lambda: town.leader and all(town.shape(name) == "aV bV cV" for name in "abc"))
        self.assertEqual(self.result(town, town.leader.propose()).base_offset, 10)
        town.until(lambda: all(town[name].driver.readable_offset == 11 for name in "abc"))
        self.assertTrue(set(files) <= set(town["a"].disk.list_directory("/data/logs/1")) | {"held"})

    def test_comes_home(self):
        """The directory of a stopped lone node opens embedded, with all of it."""
        town = self.town("a")
        town["a"].start()
        town.until(lambda: town.leader)
        self.result(town, town.leader.propose(size=0))
        town["a"].stop()
        town["a"].disk.stop_process()
        with self.open(town["a"].disk) as log:
            self.assertEqual(log.bounds(), (0, 1))
            self.assertEqual(log.append(b"more"), 1)
