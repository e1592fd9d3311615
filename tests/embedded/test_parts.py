"""The parts of an embedded log: how long it is usable, when it ticks, who is told, what it is opened with."""

import os
import random
import signal
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

from loghouse.embedded import blocking, lone_node, reader
from loghouse.embedded.lone_node import _WithoutInterrupts
from loghouse.embedded.reader import EmbeddedReader
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    DamageError,
    DataDirectoryError,
    DiskFailedError,
    DiskFullError,
    ExpectOffsetError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    ResourceExhaustedError,
)
from loghouse.limits import KIB, MIB
from loghouse.protocol.configuration import Configuration, MemberRole, Retention
from loghouse.protocol.entry import Codec, decode_entries
from loghouse.raft.membership import bootstrap_entry
from loghouse.storage.directory import DataDirectory, DiskIdentity
from tests.embedded.case import PATH, EmbeddedTestCase


class UsableTests(EmbeddedTestCase):
    """A log that is closed, failed, or of another process."""

    def test_why_not(self):
        """Each says which log, and why it cannot be used; the first reason stays."""
        log = self.open()
        log.node._process += 1
        error = self.assertRaises(ClientUseError, log.bounds)
        self.assertIn("opened by the parent process", str(error))
        log.node._process -= 1
        log.close()
        error = self.assertRaises(ClosedError, log.bounds)
        self.assertEqual(str(error), f"{PATH}: the log is closed; nothing was appended")
        for failure, text in (
            (DiskFailedError("the disk is gone"), "the disk is gone"),
            (ValueError("a bug"), f"{PATH}: a write was interrupted (a bug); open the log again"),
            (KeyboardInterrupt(), f"{PATH}: a write was interrupted (KeyboardInterrupt); open the log again"),
        ):
            log = self.open()
            log.node.fatal(failure)
            log.node.fatal(ValueError("later"))
            self.assertEqual(str(self.assertRaises(DiskFailedError, log.bounds)), text)
            self.assertTrue(log.node.is_ending)
            self.open().close()  # its directory was let go

    def test_closed_while_it_waits(self):
        """What was left behind a close is refused as closed, and nothing of it is done."""
        log = self.open()
        request = blocking.record_request(b"x", None, (), None, None, None)
        log.node._close()
        log.node._close()
        log.node.rounds.settle(request)
        self.assertRaises(ClosedError, request.result)
        errand = lone_node.Errand(lambda: self.fail("done"))
        log.node.rounds.settle(errand)
        self.assertRaises(ClosedError, errand.result)

    def test_failed_meanwhile(self):
        """A request under way when the disk fails may have been appended; one behind it was not."""
        log = self.open()
        self.disk.fail(5, kinds=("fdatasync",))
        self.assertRaises(OutcomeUnknownError, log.append, b"x")
        self.assertRaises(DiskFailedError, log.append, b"x")

    def test_nothing_comes_of_it(self):
        """A request of which nothing comes found no room."""
        log = self.open()
        log.node._propose = lambda *what: None
        self.assertRaises(DiskFullError, log.append, b"x")

    def test_bug(self):
        """A bug while requests are worked on ends the log, as one of a node does; the callers are told."""
        log = self.open()

        def fail(*what):
            raise ValueError("a bug")

        log.node._propose = fail
        error = self.assertRaises(OutcomeUnknownError, log.append, b"x")
        self.assertEqual(str(error), f"{PATH}: a bug")
        self.assertRaises(DiskFailedError, log.bounds)

    def test_nobody_is_there(self):
        """Messages to other nodes go nowhere."""
        with self.open() as log:
            self.assertIsNone(log.node.send_raft(None))
            self.assertIs(log.node.send("n2", None), False)
            self.assertIsNone(log.node.role_changed(None))


class TimeTests(EmbeddedTestCase):
    """What a node does by its clock, an embedded log does with its appends."""

    def setUp(self):
        super().setUp()
        self.log = self.open()
        self.addCleanup(self.log.close)
        node = self.log.node
        self.counts = {"tick": 0, "look": 0}
        self.is_writable = True
        node.replica = SimpleNamespace(
            is_writable=True,
            tick=lambda: self.count("tick"),
            disk_room=SimpleNamespace(look=lambda: self.count("look")),
            stop=node.replica.stop,
        )
        self.pass_time = node._pass_time
        self.monotonic += 10
        self.pass_time()

    def count(self, name):
        self.counts[name] += 1

    def test_rhythm(self):
        """It ticks every 0.1 s and looks at the disk every second, however much was missed."""
        self.assertEqual(self.counts, {"tick": 1, "look": 1})
        for seconds, ticks, looks in ((0.05, 1, 1), (0.0625, 2, 1), (0.05, 2, 1), (0.85, 3, 2), (60, 4, 3)):
            self.monotonic += seconds
            self.pass_time()
            self.assertEqual(self.counts, {"tick": ticks, "look": looks}, self.monotonic)

    def test_full_disk(self):
        """While the disk is full each append looks whether there is room, and does what comes of it."""
        self.log.node.replica.is_writable = False
        done = []
        for count in (2, 3):
            self.log.node._turns.soon(lambda: done.append(1))
            self.pass_time()
            self.assertEqual((self.counts["look"], len(done)), (count, count - 1))


class WatchTests(EmbeddedTestCase):
    """Who is told when there is more to read."""

    def test_told(self):
        """Each is told of each append, until it ends that, and of the close; others go on."""
        log = self.open()
        told = []
        ends = [log.node.watch(lambda name=name: told.append(name)) for name in "ab"]
        log.append(b"x")
        self.assertEqual(told, ["a", "b"])
        ends[0]()
        ends[0]()
        log.append(b"x")
        log.close()
        self.assertEqual(told[2:], ["b", "b"])

    def test_told_of_a_failure(self):
        """They are told when nothing more will come."""
        log = self.open()
        told = []
        log.node.watch(lambda: told.append(1))
        log.node.fatal(DiskFailedError("gone"))
        log.node.fatal(DiskFailedError("again"))
        self.assertEqual(told, [1])

    def test_wait(self):
        """A wait ends when its record is readable, not for an earlier one, and leaves no watcher."""
        log = self.open()
        calls = []

        class Event:
            def set(self):
                calls.append("set")

            def clear(self):
                calls.append("clear")

            def wait(self):
                calls.append("wait")
                log.append(b"x")

        self.patch(blocking, "threading", SimpleNamespace(Event=Event))
        log.wait_for(-1)
        self.assertEqual(calls, [])
        log.wait_for(1)
        self.assertEqual(calls, ["wait", "set", "clear"] * 2)
        self.assertEqual(log.node._watchers, ())
        log.close()
        self.assertRaises(ClosedError, log.wait_for, 9)
        self.assertEqual(log.node._watchers, ())


class DirectoryTests(EmbeddedTestCase):
    """The directory that a log is opened in."""

    def member(self, *names):
        """Make the directory of a member of these, of the first one."""
        directory = DataDirectory.lock(self.disk, PATH, segment_size=64 * KIB, reserve_size=0)
        configuration = Configuration()
        for number, name in enumerate(names):
            configuration = configuration.with_member(name, bytes([number]) * 16, MemberRole.VOTER)

        def begin(log):
            log.save_hard_state(term=1, vote=0)
            if names:
                log.append([bootstrap_entry(log.seed, configuration, 0)])
                log.sync(1)

        identity = DiskIdentity(
            cluster_uuid=b"c" * 16, disk_uuid=bytes(16), cluster_name="test", node_name="n0"
        )
        directory.create(identity, begin=begin)
        directory.close()

    def test_of_several(self):
        """One of a cluster of several is refused, with what to do instead, and let go."""
        self.member("n0", "n1")
        for _ in range(2):
            error = self.assertRaises(DataDirectoryError, self.open)
        self.assertEqual(
            str(error),
            f"{PATH} is of node 'n0' of a cluster of several; start that node and connect to it, "
            "or read the directory with `loghouse.open_reader`",
        )

    def test_not_joined(self):
        """One of a node that waits to join is refused, too."""
        self.member()
        for _ in range(2):
            error = self.assertRaises(DataDirectoryError, self.open)
            self.assertIn("has not joined its cluster yet", str(error))

    def test_new(self):
        """A new one has its names, uuids of its own, what it is to keep, and the moment it was made."""
        uuids = set()
        for seed in (1, 2):
            retention = Retention(size_max=5 * MIB, age_max_seconds=60)
            disk = type(self.disk)()
            with self.open(disk, rng=random.Random(seed), retention=retention) as log:
                identity = log.node._directory.identity
                self.assertEqual((identity.cluster_name, identity.node_name), ("test", "a"))
                uuids |= {identity.cluster_uuid, identity.disk_uuid}
                configuration = log.node.replica.configuration
                self.assertEqual(configuration.retention, retention)
                [member] = configuration.members
                self.assertEqual((member.name, member.disk_uuid), ("a", identity.disk_uuid))
                log.append(b"x")
                [first] = list(log.read())
                self.assertEqual(first.timestamp, int(self.wall * 1_000_000))
        self.assertEqual(len(uuids), 4)


class OpenTests(EmbeddedTestCase):
    """`loghouse.open`, and what it has by default."""

    def opened(self, **options):
        """Return what a `LoneNode` is asked for."""
        asked = {}

        def node(files, path, **more):
            asked.update(more, path=path)
            return SimpleNamespace(seed=0)

        self.patch(blocking, "LoneNode", node)
        blocking.open_embedded("events/", **options)
        return asked

    def test_defaults(self):
        """Names, sizes, and everything is kept."""
        self.assertEqual(
            self.opened(),
            {
                "path": os.path.abspath("events"),
                "node_name": "node-1",
                "cluster_name": "loghouse",
                "segment_size": 64 * MIB,
                "reserve_size": 1 * MIB,
                "retention": Retention(),
            },
        )
        self.assertEqual(blocking.TIMEOUT_SECONDS, 30)

    def test_options(self):
        """Each option is what it says."""
        asked = self.opened(
            name="n", cluster="c", segment_size=1, reserve_size=2, retention_size=3, retention_seconds=4
        )
        self.assertEqual((asked["node_name"], asked["cluster_name"]), ("n", "c"))
        self.assertEqual((asked["segment_size"], asked["reserve_size"]), (1, 2))
        self.assertEqual(asked["retention"], Retention(size_max=3, age_max_seconds=4))

    def test_clocks(self):
        """Without a source of chance of its own a node has the system's."""
        node = self.open(rng=None).node
        self.assertIsInstance(node._rng, random.SystemRandom)
        self.assertEqual((lone_node.TICK_SECONDS, lone_node.LOOK_SECONDS), (0.1, 1))
        self.assertEqual(node.replica.options.scrub_rate, 0)
        node.close()


class AppendTests(EmbeddedTestCase):
    """What an append is made of."""

    def test_requests(self):
        """A record's expected offset and a batch's codec go along; a batch is compressed if that helps."""
        request = blocking.record_request(b"v", b"k", (), 5, 7, 1.0)
        self.assertEqual((request.record_count, request.expect_offset, request.attributes), (1, 7, 0))
        for values, compression, codec in (
            ([b"same" * 100] * 9, "zstd", Codec.ZSTD),
            ([b"same" * 100] * 9, "none", Codec.NONE),
            ([b"x"], "zstd", Codec.NONE),
        ):
            request = blocking.batch_request(values, compression, 3, 1.0)
            self.assertEqual((request.attributes, request.expect_offset), (codec, 3))
            self.assertEqual(request.record_count, len(values))
            self.assertIs(len(request.payload) < 200, codec is Codec.ZSTD or len(values) == 1)

    def test_times(self):
        """A time that is none is refused, though it bounds nothing."""
        for call in (
            lambda: blocking.record_request(b"v", None, (), None, None, 0),
            lambda: blocking.batch_request([b"v"], "none", None, 0),
        ):
            self.assertEqual(self.assertRaises(InvalidRequestError, call).field, "timeout_seconds")
        with self.open() as log:
            error = self.assertRaises(InvalidRequestError, list, log.read(timeout_seconds=0))
            self.assertEqual(error.field, "timeout_seconds")
            self.assertEqual(list(log.read(timeout_seconds=1)), [])

    def test_encoded(self):
        """Batches that are serialized already are appended as they are."""
        with self.open() as log:
            payload = blocking.batch_request([b"a", b"b"], "none", None, None).payload
            self.assertEqual(log.append_encoded(payload, 2), 0)
            self.assertEqual(log.append_encoded(payload, 2, Codec.NONE, 2), 2)
            packed = blocking.batch_request([b"same" * 100] * 9, "zstd", None, None)
            self.assertEqual(log.append_encoded(packed.payload, 9, Codec.ZSTD), 4)
            self.assertEqual(self.values(log), [*[b"a", b"b"] * 2, *[b"same" * 100] * 9])

    def test_producer(self):
        """A producer is told what it was asked for; a time of 30 s is the default."""
        asked = {}
        self.patch(blocking, "EmbeddedProducer", lambda append, **more: asked.update(more))
        with self.open() as log:
            log.producer()
            self.assertEqual(asked.pop("check_process"), log.node.check_process)
            self.assertEqual(
                asked,
                {
                    "linger_ms": 5,
                    "batch_bytes": 256 * KIB,
                    "codec": Codec.NONE,
                    "buffer_bytes": 16 * MIB,
                    "timeout_seconds": 30,
                },
            )
            log.producer(linger_ms=1, batch_bytes=2, compression="zstd", buffer_bytes=3, timeout_seconds=4)
            self.assertEqual((asked["linger_ms"], asked["batch_bytes"], asked["buffer_bytes"]), (1, 2, 3))
            self.assertEqual((asked["codec"], asked["timeout_seconds"]), (Codec.ZSTD, 4))

    def test_one_round(self):
        """What may share an entry does; what may not has its own, behind what came before it."""
        with self.open() as log:
            before = log.node.driver.readable_index
            requests = [
                blocking.record_request(value, None, (), None, expected, None)
                for value, expected in (
                    (b"a", None),
                    (b"b", None),
                    (b"c", 2),
                    (b"d", None),
                    (b"refused", 9),
                    (b"e", None),
                )
            ]
            *left, own = requests
            log.node.rounds._left = left
            log.node.rounds.settle(own)
            self.assertEqual(self.values(log), [b"a", b"b", b"c", b"d", b"e"])
            self.assertEqual(log.node.driver.readable_index - before, 4)
            self.assertRaises(ExpectOffsetError, requests[4].result)


class ReadTests(EmbeddedTestCase):
    """Reading to the byte, and what a read says that cannot be done."""

    def test_fetch(self):
        """At the end there is nothing; below the lowest offset it is an error that says what is held."""
        with self.open() as log:
            self.assertEqual(log.fetch(0), (b"", 0))
            log.append_batch([b"a", b"b"])
            log.append(b"c")
            frames, next_offset = log.fetch(1)
            self.assertEqual(next_offset, 3)
            entries = decode_entries(log.node.log.seed, frames)
            self.assertEqual([entry.base_offset for entry in entries], [0, 2])
            self.assertEqual((log.fetch(3), log.fetch(9)), ((b"", 3), (b"", 9)))
            log.trim(2)
            error = self.assertRaises(OffsetOutOfRangeError, log.fetch, 1)
            self.assertEqual((error.offset, error.lowest, error.next_offset), (1, 2, 3))
            self.assertEqual(log.fetch(2)[1], 3)

    def test_damage(self):
        """What a read cannot give is told as a node tells it, with what it came of."""
        log = self.open()
        log.append(b"x")
        control = log.node.replica.damage_control
        for error, expected in (
            (DamageError("f", 1, "bad"), DamageError),
            (MemoryError(), ResourceExhaustedError),
        ):

            def fail(*what, error=error):
                raise error

            log.node.log = SimpleNamespace(read=fail, close=log.node.log.close)
            told = control.read_failed(error)
            raised = self.assertRaises(type(told), log.fetch, 0)
            self.assertIsInstance(raised, expected)
            self.assertIs(raised.__cause__, None if told is error else error)

    def test_bounds_of_reading(self):
        """Reading begins at just the end at most; a reader that follows may begin beyond it."""
        with self.open() as log:
            log.append_batch([b"a", b"b"])
            for from_, follow, expected in (
                ("earliest", False, (0, 2)),
                ("latest", False, (2, 2)),
                ("earliest", True, (0, None)),
                (2, False, (2, 2)),
                (7, True, (7, None)),
            ):
                self.assertEqual(log.find_range(from_, follow=follow), expected)
            error = self.assertRaises(OffsetOutOfRangeError, log.find_range, 3)
            self.assertEqual((error.offset, error.lowest, error.next_offset), (3, 0, 2))
            self.assertRaises(InvalidRequestError, log.find_range, 0, follow=1)

    def test_times(self):
        """A moment before the epoch is its beginning; a moment in a trimmed part begins with what is held."""
        with self.open() as log:
            log.append_batch([b"a", b"b"])
            self.wall += 10
            log.append(b"c")
            self.assertEqual(log.find_offset(datetime(1960, 1, 1, tzinfo=UTC)), 0)
            log.trim(2)
            self.assertEqual(log.find_offset(0), 2)
            self.assertEqual(log.trim(1), 2)


class ReaderTests(EmbeddedTestCase):
    """Reading along, without the lock."""

    def setUp(self):
        super().setUp()
        self.log = self.open()
        self.addCleanup(self.log.close)
        self.reader = EmbeddedReader(self.disk, PATH)

    def test_fetch(self):
        """It looks for more only where it has no more, and refuses what was trimmed."""
        self.assertEqual(self.reader.fetch(0), (b"", 0))
        self.log.append_batch([b"a", b"b"])
        self.assertEqual(self.reader.fetch(0)[1], 2)
        self.log.append(b"c")
        self.assertEqual(self.reader.fetch(1)[1], 2)
        self.assertEqual(self.reader.fetch(2)[1], 3)
        self.assertEqual((self.reader.fetch(3), self.reader.fetch(8)), ((b"", 3), (b"", 8)))
        self.log.trim(2)
        self.reader.bounds()
        error = self.assertRaises(OffsetOutOfRangeError, self.reader.fetch, 1)
        self.assertEqual((error.offset, error.lowest, error.next_offset), (1, 2, 3))

    def test_times(self):
        """Offsets are found by time as the writer finds them."""
        self.log.append(b"a")
        self.wall += 10
        self.log.append(b"b")
        for moment, offset in ((0, 0), (datetime(1960, 1, 1, tzinfo=UTC), 0), (int(2e15), 2)):
            self.assertEqual(self.reader.find_offset(moment), offset)
        self.assertEqual(self.reader.find_offset(int((self.wall - 5) * 1e6)), 1)
        self.log.trim(1)
        self.assertEqual(self.reader.find_offset(0), 1)

    def test_wait(self):
        """It looks again and again, at a steady pace, until its record is there; a close ends that."""
        waits = []

        def wait(seconds):
            waits.append(seconds)
            self.log.append(b"x")

        self.reader._closed = SimpleNamespace(is_set=lambda: len(waits) > 3, wait=wait)
        self.reader.wait_for(1)
        self.assertEqual(waits, [reader.POLL_SECONDS] * 2)
        error = self.assertRaises(ClosedError, self.reader.wait_for, 99)
        self.assertEqual((str(error), len(waits)), (f"{PATH}: the reader is closed", 4))

    def test_closed(self):
        """A closed one refuses, also what it had read."""
        self.log.append(b"x")
        with self.reader:
            self.assertEqual(self.reader.bounds(), (0, 1))
        for call in (lambda: self.reader.fetch(0), self.reader.bounds, lambda: self.reader.find_offset(0)):
            self.assertRaises(ClosedError, call)


class InterruptTests(EmbeddedTestCase):
    """Ctrl-C while a thread writes."""

    def setUp(self):
        super().setUp()
        self.came = []
        before = signal.signal(signal.SIGINT, self.handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)

    def handler(self, number, frame):
        self.came.append((number, frame is not None))

    def test_held_back(self):
        """It comes once the write is done, once; then as before."""
        with _WithoutInterrupts():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            self.assertEqual(self.came, [])
        self.assertEqual(self.came, [(signal.SIGINT, True)])
        self.assertEqual(signal.getsignal(signal.SIGINT), self.handler)

    def test_nothing_came(self):
        """Without one nothing is called."""
        with _WithoutInterrupts():
            pass
        self.assertEqual(self.came, [])

    def test_ignored(self):
        """A program that ignores it goes on doing so."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _WithoutInterrupts():
            self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)

    def test_another_thread(self):
        """Another thread than the main one leaves it alone."""
        found = []

        def work():
            with _WithoutInterrupts():
                found.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        self.assertEqual(found, [self.handler])
