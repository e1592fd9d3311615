"""The scrubber: everything sealed, once a day, at its pace; and what a lone node does about what it finds."""

import errno
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from twisted.logger import globalLogPublisher

from loghouse.errors import DamageError
from loghouse.limits import KIB, MIB
from loghouse.replica.scrubber import FIRST_SECONDS, LATE_SECONDS_MAX, PASS_SECONDS, REST_FACTOR, Scrubber
from loghouse.shares import Pace
from loghouse.storage import examination
from loghouse.testing.disk import SimDisk, disk_error
from tests.driver.queue import ManualQueue
from tests.recording import RecordingMetrics
from tests.storage.test_examination import ExaminationCase
from tests.test_node import NodeTestCase

RATE = 10_000
STEP = 256


class ScrubberTests(ExaminationCase):
    """A scrubber over a real log, with a clock that the test moves."""

    def setUp(self):
        super().setUp()
        self.patch(examination, "SCRUB_STEP_SIZE", STEP)
        self.now = 1000.0
        self.step_seconds = 0.0
        self.is_ending = False
        self.committed_index = self.log.last_index
        self.told: list[DamageError] = []
        self.indexes: list[int] = []
        self.failures: list = []
        self.queue = ManualQueue()
        self.scrubber = self.scrub(RATE)

    def scrub(self, rate: int, pace: Pace | None = None) -> Scrubber:
        self.metrics = RecordingMetrics()
        return Scrubber(
            self.disk,
            self.log,
            self,
            readers=self.queue,
            rate=rate,
            monotonic=lambda: self.now,
            metrics=self.metrics,
            pace=pace,
        )

    @property
    def pass_count(self) -> int:
        return self.metrics.count("scrub_pass_ended")

    # --- MendingOwner -----------------------------------------------------------------

    def damage_found(self, error):
        self.told.append(error)

    def index_wrong(self, base_index, entries):
        self.indexes.append(base_index)
        self.log.mend_index(base_index, entries)

    def fatal(self, failure):
        self.failures.append(failure)

    # --- time -------------------------------------------------------------------------

    def pass_time(self, seconds: float, tick: float = 0.1) -> int:
        """Let time pass in ticks; return how many steps were read."""
        steps, end = 0, self.now + seconds
        while self.now < end:
            self.now += tick
            self.scrubber.look()
            while self.queue.waiting:
                steps += 1
                self.now += self.step_seconds
                self.queue.step()
        return steps

    @property
    def sealed_size(self) -> int:
        return sum(segment.size for segment in self.log.sealed_segments())

    def test_a_pass(self):
        """It begins some time after the start, reads every sealed segment, and comes again after a day."""
        self.assertEqual(self.pass_time(FIRST_SECONDS - 1), 0)
        self.assertGreater(self.pass_time(60), 2 * len(self.log.sealed_segments()))
        self.assertEqual((self.pass_count, self.told, self.indexes), (1, [], []))
        self.assertEqual(self.scrubber._segments, len(self.log.sealed_segments()))
        self.assertEqual(self.pass_time(PASS_SECONDS - 200, tick=10), 0)
        self.pass_time(300)
        self.assertEqual(self.pass_count, 2)

    def test_rate(self):
        """No more bytes a second than the rate, however often it looks; and not much less."""
        rate = RATE // 10
        self.scrubber = self.scrub(rate)
        self.now += FIRST_SECONDS
        began = self.now
        while not self.pass_count:
            self.pass_time(0.1, tick=0.01)
        took, read = self.now - began, self.scrubber._size
        self.assertGreater(took, (read - STEP) / rate - 1.1)
        self.assertGreater(took, 2.5)
        self.assertLess(took, read / rate + 0.5)

    def test_rate_of_all_logs(self):
        """Logs of a node are read in turns, together no faster than one would be alone."""

        def sizes(count: int) -> list[int]:
            """Return how many bytes each of so many scrubbers reads in ten seconds."""
            pace = Pace(1.0)
            scrubbers = [self.scrub(STEP, pace) for _ in range(count)]
            self.now += FIRST_SECONDS
            for _ in range(100):
                self.now += 0.1
                for scrubber in scrubbers:
                    scrubber.look()
                    self.queue.drain()
            return [scrubber._size for scrubber in scrubbers]

        [alone], both = sizes(1), sizes(2)
        self.assertLess(abs(sum(both) - alone), 0.3 * alone, (alone, both))
        self.assertLess(abs(both[0] - both[1]), 0.3 * alone, (alone, both))

    def test_slow_disk(self):
        """Of a slow disk's time it takes a tenth."""
        self.now += FIRST_SECONDS
        self.step_seconds = 0.5
        began = self.now
        steps = self.pass_time(60)
        self.assertGreater(steps, 3)
        self.assertGreaterEqual(self.now - began, (steps - 1) * (1 + REST_FACTOR) * self.step_seconds)

    def test_off(self):
        """With a rate of 0 nothing is read."""
        self.scrubber = self.scrub(0)
        self.assertEqual(self.pass_time(2 * PASS_SECONDS, tick=60), 0)

    def test_ending(self):
        """A node that ends is not kept from it, nor told of anything."""
        self.flip(self.position(2) + 20)
        self.now += FIRST_SECONDS
        self.scrubber.look()
        self.assertEqual(len(self.queue.waiting), 1)
        self.is_ending = True
        self.queue.drain()
        self.assertEqual(self.pass_time(60), 0)
        self.assertEqual(self.told, [])

    def test_one_step_at_a_time(self):
        """While a read is under way, no other is asked for."""
        self.now += FIRST_SECONDS
        for _ in range(5):
            self.now += 1
            self.scrubber.look()
        self.assertEqual(len(self.queue.waiting), 1)

    def test_damage(self):
        """Every damaged place is told once a pass, and what is behind it is read all the same."""
        for number in (0, 3, 5):
            self.flip(self.position(number) + 20)
        self.pass_time(120)
        self.assertEqual([error.file for error in self.told], [self.segment.path] * 3)
        self.assertEqual(len({error.position for error in self.told}), 3)
        self.assertEqual(self.scrubber._segments, len(self.log.sealed_segments()))

    def test_index(self):
        """An index that does not fit is told, with what it should hold; then it fits."""
        self.put(self.segment.index_path, 12, bytes(12))
        self.pass_time(120)
        self.assertEqual((self.indexes, self.told), ([self.segment.base_index], []))
        self.pass_time(PASS_SECONDS + 3600, tick=10)
        self.assertEqual((self.indexes, self.pass_count), ([self.segment.base_index], 2))

    def test_committed_only(self):
        """A segment with entries that may not be committed is left for a later pass."""
        segments = self.log.view.segments
        self.committed_index = segments[2].last_index - 1
        self.pass_time(120)
        self.assertEqual((self.pass_count, self.scrubber._segments), (1, 2))

    def test_trimmed_meanwhile(self):
        """Segments that are gone are passed over."""
        self.now += FIRST_SECONDS
        self.pass_time(1)
        self.log.trim_prefix(self.log.view.segments[3].base_offset, self.log.last_index)
        self.pass_time(120)
        self.assertEqual((self.pass_count, self.failures, self.told), (1, [], []))

    def test_cannot_open(self):
        """A segment that cannot be opened now is told, and tried again in the next pass."""

        def refuse(disk, path, *, write=False):
            raise disk_error(errno.EMFILE)

        with patch.object(SimDisk, "open", refuse):
            self.pass_time(120)
        self.assertEqual((self.failures, self.scrubber._segments), ([], 0))
        self.assertEqual(self.pass_count, 1)

    def test_pace(self):
        """A step is followed by a pause: by the rate, or nine times as long as it took."""
        scrubber = self.scrubber
        self.now += FIRST_SECONDS - 0.001
        scrubber.look()
        self.assertEqual(len(self.queue.waiting), 0)
        self.now = due = 1000.0 + FIRST_SECONDS
        for taken in (0.0, 0.001, 50.0):
            scrubber.look()
            self.assertEqual(len(self.queue.waiting), 1)
            read = scrubber._size
            self.now += taken
            self.queue.step()
            size = scrubber._size - read
            self.assertGreater(size, 0)
            wanted = max(due + size / RATE, self.now + REST_FACTOR * taken)
            self.assertAlmostEqual(scrubber._due, wanted)
            due = self.now = scrubber._due

    def test_late(self):
        """Who comes late catches up with a second of the rate, and no more."""
        scrubber = self.scrubber
        self.now += FIRST_SECONDS + 500
        began = self.now
        scrubber.look()
        self.queue.step()
        self.assertAlmostEqual(scrubber._due, max(began - LATE_SECONDS_MAX + scrubber._size / RATE, began))

    def test_read_that_failed(self):
        """A read that failed counts no bytes, takes nothing of the rate, and is told; a trim is not."""
        for error, is_told in ((disk_error(errno.EIO), True), (FileNotFoundError("gone"), False)):
            self.scrubber = scrubber = self.scrub(RATE)
            self.now += FIRST_SECONDS
            due = scrubber._due
            with patch.object(examination.Examination, "step", side_effect=error), self.events() as events:
                scrubber.look()
                self.queue.step()
            self.assertEqual((scrubber._size, scrubber._due, scrubber._exam), (0, due, None))
            self.assertEqual(events[1:], [f"scrub: {error}"] if is_told else [])

    def test_told(self):
        """A pass is told when it begins, with what it will read, and when it ends, with what it read."""
        count = len(self.log.sealed_segments())
        self.flip(self.position(2) + 20)
        with self.events() as events:
            self.pass_time(FIRST_SECONDS + 3600)
        self.assertEqual(
            events[0],
            f"scrub: reading {count} sealed segments, {self.sealed_size} bytes, "
            f"at {RATE} bytes a second at most",
        )
        self.assertRegex(
            events[-1], rf"^scrub: read {count} sealed segments, [0-9]+ bytes, in [0-9]+ s: 1 damaged places$"
        )
        self.assertEqual(len(events), 2)

    def test_next_pass(self):
        """The next pass begins a day after this one began, and counts anew."""
        self.now += FIRST_SECONDS
        began = self.now
        while not self.pass_count:
            self.scrubber.look()
            while self.queue.waiting:
                self.queue.step()
            self.now = max(self.now, self.scrubber._due)
        self.assertEqual(self.scrubber._due, began + PASS_SECONDS)
        self.now = began + PASS_SECONDS - 0.001
        self.scrubber.look()
        self.assertEqual(len(self.queue.waiting), 0)
        self.now = began + PASS_SECONDS
        self.scrubber.look()
        self.assertEqual(len(self.queue.waiting), 1)
        self.assertEqual((self.scrubber._segments, self.scrubber._size, self.scrubber._found), (0, 0, 0))

    def test_unknown_end(self):
        """A segment whose end only its file bounds is examined as such, the others are not."""
        bases = [segment.base_index for segment in self.log.sealed_segments()]
        self.log.unknown_ends = frozenset({bases[1]})
        self.now += FIRST_SECONDS
        exact = {}
        while not self.pass_count:
            self.scrubber.look()
            exam = self.scrubber._exam
            if exam is not None:
                exact[exam.segment.base_index] = exam.is_end_exact
            while self.queue.waiting:
                self.queue.step()
            self.now = max(self.now, self.scrubber._due)
        self.assertEqual(exact, {base: base != bases[1] for base in bases})

    def test_bug(self):
        """What is no error of the disk ends the process."""
        self.now += FIRST_SECONDS
        error = ValueError("bug")
        with patch.object(examination.Examination, "step", side_effect=error):
            self.scrubber.look()
            self.queue.step()
        self.assertEqual(self.failures, [error])

    @contextmanager
    def events(self):
        """Collect the texts that are logged meanwhile."""
        texts = []

        def note(event):
            if event.get("log_namespace", "").startswith("loghouse.replica.scrubber"):
                texts.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(note)
        try:
            yield texts
        finally:
            globalLogPublisher.removeObserver(note)

    def test_nothing_sealed(self):
        """A log of one segment is looked at now and then, without a word."""
        self.log.trim_prefix(self.log.view.segments[-1].base_offset, self.log.last_index)
        self.assertEqual(self.pass_time(5 * FIRST_SECONDS), 0)
        self.assertEqual(self.pass_count, 0)


class LoneNodeTests(NodeTestCase):
    """A node that has nobody to ask."""

    def test_tells_once(self):
        """It tells of each damaged place once, goes on, and serves the rest."""
        metrics = RecordingMetrics()
        node = self.start(segment_size=32 * KIB, scrub_rate=MIB, metrics=metrics)
        for _ in range(12):
            self.append(node, 1, 9000)
        store = Path(node.log("").replica.log.view.segments[1].path)
        position = node.log("").replica.log.view.segments[1].frame_header(1).position + 300
        content = bytearray(store.read_bytes())
        content[position] ^= 1
        store.write_bytes(content)
        for _ in range(2):
            while not self.readers.waiting:
                self.monotonic += PASS_SECONDS / 2
                self.clock.advance(node.options.tick_seconds)
            while self.readers.waiting:
                self.readers.step()
                self.monotonic += 1
                self.clock.advance(node.options.tick_seconds)
        self.assertEqual(metrics.count("scrub_pass_ended"), 2)
        self.assertEqual(len(node.log("").replica.damage_control._places), 1)
        self.assertEqual((self.fatal, node.log("").replica.damage_control.entry_repair.pending), ([], 0))
        self.assertEqual(self.append(node), 12)
