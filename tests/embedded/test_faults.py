"""Power losses, full disks, failing disks and damage: an embedded log is as careful as a node."""

import contextlib
import os
import random
import signal

from loghouse.errors import DamageError, DiskFailedError, DiskFullError, LoghouseError, OutcomeUnknownError
from loghouse.limits import KIB
from loghouse.testing.crash_states import crash_states
from loghouse.testing.disk import SimDisk
from tests.embedded.case import EmbeddedTestCase

STATES_MAX = int(os.environ.get("LOGHOUSE_CRASH_STATES", "250"))
STORE = "/data/logs/1/00000000000000000001.store"


class CrashStateTests(EmbeddedTestCase):
    """Every state that a power loss may leave opens again, with all that was acknowledged."""

    def check(self, story, *, prepare=lambda log: None) -> None:
        """Run a story of (log, note); each crash state has what was noted before, and perhaps more."""
        log = self.open()
        prepare(log)
        image = self.disk.start_trace()
        moments = [(0, *self.contents(log))]

        def note(attempted=()):
            moments.append((len(self.disk.trace), *self.contents(log), list(attempted)))

        story(log, note)
        trace, self.disk.trace = self.disk.trace, None
        rng = random.Random(3)

        def moment(done):
            return max(index for index, one in enumerate(moments) if one[0] <= done)

        states = list(crash_states(image, trace, rng=rng, expected=moment))
        self.assertGreater(len(states), 10)
        for done, disk in rng.sample(states, min(len(states), STATES_MAX)):
            acknowledged = moments[moment(done)]
            following = moments[min(moment(done) + 1, len(moments) - 1)]
            with self.open(disk) as again:
                lowest, values = self.contents(again)
                begin = max(lowest, acknowledged[1])
                held = values[begin - lowest :]
                self.assertIn(lowest, (acknowledged[1], following[1]), f"after {done} operations")
                wanted = acknowledged[2][begin - acknowledged[1] :]
                self.assertEqual(held[: len(wanted)], wanted, f"after {done} operations")
                possible = following[2][begin - following[1] :] if len(following[2]) else wanted
                self.assertEqual(held, possible[: len(held)], f"after {done} operations")
                again.append(b"goes on")

    def states(self, image, *marks: int):
        """Return what a power loss may leave of what was traced; it counts between which marks it struck."""
        trace, self.disk.trace = self.disk.trace, None
        found = crash_states(
            image, trace, rng=random.Random(5), expected=lambda done: [done >= mark for mark in marks]
        )
        states = list(found)
        self.assertGreater(len(states), 10)
        return random.Random(6).sample(states, min(len(states), STATES_MAX))

    def contents(self, log):
        return log.bounds().lowest, self.values(log)

    def test_appends(self):
        """Of appends and batches."""

        def story(log, note):
            for number in range(4):
                log.append(b"%d" % number)
                note()
                log.append_batch([b"%d %d" % (number, place) for place in range(3)])
                note()

        self.check(story)

    def test_roll_and_trim(self):
        """Of a new segment, and of a trim that removes the old one."""

        def story(log, note):
            log.append(bytes(30 * KIB))
            note()
            log.append(bytes(30 * KIB))
            note()
            log.trim(3)
            note()
            log.append(b"end")
            note()

        self.check(story, prepare=lambda log: log.append(bytes(40 * KIB)))

    def test_open_and_close(self):
        """Of closing and opening again."""

        log = self.open()
        log.append(b"first")
        image = self.disk.start_trace()
        log.append(b"a")
        done_a = len(self.disk.trace)
        log.close()
        log = self.open()
        log.append(b"b")
        done_b = len(self.disk.trace)
        log.close()
        for done, disk in self.states(image, done_a, done_b):
            with self.open(disk) as again:
                values = self.values(again)
            self.assertEqual(values, [b"first", b"a", b"b"][: len(values)])
            self.assertGreaterEqual(len(values), 1 + (done >= done_a) + (done >= done_b))

    def test_first_opening(self):
        """Of the first opening of all: the next one makes the log, or finds it."""
        self.disk.make_directory("/data")
        self.disk.sync_directory("/")
        image = self.disk.start_trace()
        log = self.open()
        done_open = len(self.disk.trace)
        log.append(b"a")
        done_a = len(self.disk.trace)
        for done, disk in self.states(image, done_open, done_a):
            with self.open(disk) as again:
                values = self.values(again)
                self.assertIn(values, [[b"a"]] if done >= done_a else [[], [b"a"]])
                again.append(b"goes on")


class FullDiskTests(EmbeddedTestCase):
    """A full disk is a state: appends are refused, reads go on, appends resume."""

    def fill(self, log) -> int:
        """Append until the disk is full; return how many went well."""
        self.disk.capacity = self.disk.used_size()
        for count in range(1000):
            try:
                log.append(bytes(1000))
            except DiskFullError as error:
                self.assertIs(error.was_appended, False)
                return count
        raise AssertionError("the disk is never full")

    def test_full_and_room_again(self):
        """What was acknowledged is read, nothing of the refused is there, and room lets appends go on."""
        log = self.open()
        count = self.fill(log)
        self.assertRaises(DiskFullError, log.append, bytes(1000))
        self.assertEqual(log.bounds(), (0, count))
        self.assertEqual(len(self.values(log)), count)
        self.disk.capacity = None
        self.assertEqual(log.append(b"again"), count)
        log.close()
        with self.open() as again:
            self.assertEqual(self.values(again)[count:], [b"again"])

    def test_trim_makes_room(self):
        """A trim works on a full disk, and what it removes is room."""
        log = self.open()
        for _ in range(150):
            log.append(bytes(1000))
        count = 150 + self.fill(log)
        self.assertEqual(log.trim(count), count)
        self.monotonic += 1
        self.assertEqual(log.append(b"again"), count)
        log.close()

    def test_open_on_a_full_disk(self):
        """A log opens on a full disk and is read."""
        log = self.open()
        count = self.fill(log)
        log.close()
        self.disk.capacity = self.disk.used_size()
        log = self.open()
        self.assertEqual(len(self.values(log)), count)
        self.disk.capacity = None
        self.monotonic += 1
        self.assertEqual(log.append(b"again"), count)
        log.close()

    def test_no_room_to_begin(self):
        """A directory without room for a log is refused and left empty."""
        disk = SimDisk(10 * KIB)
        self.assertRaises(LoghouseError, self.open, disk)
        self.assertFalse(disk.exists("/data/node"))

    def test_producer_waits_for_room(self):
        """A producer tries a refused batch again until there is room."""
        log = self.open()
        count = self.fill(log)
        with log.producer(linger_ms=0) as producer:
            delivery = producer.append(bytes(1000))
            self.assertRaises(TimeoutError, delivery.offset, 0.05)
            self.disk.capacity = None
            self.assertEqual(delivery.offset(10), count)
        log.close()


class FailingDiskTests(EmbeddedTestCase):
    """A write or sync that fails ends the log, as it ends a node."""

    def test_sync_fails(self):
        """The append may be there or not, nothing goes on, and another opening finds the truth."""
        log = self.open()
        log.append(b"kept")
        self.disk.fail(5, kinds=("fdatasync",))
        self.assertRaises(OutcomeUnknownError, log.append, b"unsure")
        self.assertRaises(DiskFailedError, log.append, b"x")
        self.assertRaises(DiskFailedError, log.bounds)
        log.close()
        with self.open() as again:
            self.assertIn(self.values(again), ([b"kept"], [b"kept", b"unsure"]))
            again.append(b"goes on")

    def test_interrupted(self):
        """What interrupts a write in the middle ends the log; another opening goes on."""
        log = self.open()
        log.append(b"kept")
        self.disk.fail(KeyboardInterrupt(), kinds=("fdatasync",))
        self.assertRaises(KeyboardInterrupt, log.append, b"unsure")
        error = self.assertRaises(DiskFailedError, log.append, b"x")
        self.assertIn("open the log again", str(error))
        with self.open() as again:
            self.assertIn(self.values(again), ([b"kept"], [b"kept", b"unsure"]))

    def test_held_back(self):
        """Ctrl-C during a write is seen once that is done; the log goes on, and so does its handler."""
        seen = []
        log = self.open()

        def handler(number, frame):
            seen.append((number, self.values(log)))

        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, handler))
        fdatasync = self.disk.fdatasync

        def interrupted(fd):
            signal.raise_signal(signal.SIGINT)
            fdatasync(fd)

        patched = self.patch(self.disk, "fdatasync", interrupted)
        log.append(b"one")
        patched.restore()
        self.assertEqual(seen, [(signal.SIGINT, [b"one"])])
        self.assertIs(signal.getsignal(signal.SIGINT), handler)
        log.append(b"two")
        self.assertEqual((self.values(log), len(seen)), ([b"one", b"two"], 1))

    def test_every_operation_fails_once(self):
        """Whatever operation fails: what was acknowledged is there when the log is opened again."""
        for after in range(60):
            disk = SimDisk()
            log = self.open(disk)
            done = []
            disk.fail(5, after=after)
            with contextlib.suppress(LoghouseError, OSError):
                for number in range(100):
                    log.append(b"%d" % number + bytes(1500))
                    done.append(number)
            with contextlib.suppress(LoghouseError, OSError):
                log.close()
            disk.stop_process()
            with self.open(disk) as again:
                numbers = [int(value[:-1500]) for value in self.values(again)]
            self.assertEqual(numbers[: len(done)], done, f"after {after}")
            self.assertLessEqual(len(numbers), len(done) + 1)


class DamageTests(EmbeddedTestCase):
    """Damaged bytes are never given out."""

    def test_while_open(self):
        """Damage that is met by a read is raised; other records are read, and appends go on."""
        log = self.open()
        for number in range(60):
            log.append(b"%02d" % number + bytes(2000))
        segment = log.node.log.view.segments[0]
        self.disk.flip(segment.path, 8 * (segment.frame_header(10).position + 200))
        error = self.assertRaises(DamageError, list, log.read(8))
        self.assertIn(segment.path, error.file)
        self.assertEqual(next(log.read(40)).value[:2], b"40")
        self.assertEqual(log.append(b"goes on"), 60)
        log.close()

    def test_at_the_opening(self):
        """A damaged log is refused, unchanged, with what to do; its directory is not in use then."""
        log = self.open()
        for number in range(5):
            log.append(b"%02d" % number + bytes(200))
        log.close()
        self.disk.flip(STORE, 8 * 4500)
        for _ in range(2):
            error = self.assertRaises(DamageError, self.open)
            self.assertIn("loghouse recover", str(error))
