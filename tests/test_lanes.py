"""What one log writes keeps its order, and does not wait for what other logs write."""

import gc
import random
import threading

from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import DISK_THREADS_MAX
from loghouse.runtime.lanes import NODE_LANE, DiskLanes
from loghouse.runtime.threads import ThreadQueue, WorkQueue, do


class AnyOrderQueue(WorkQueue):
    """Threads that end with their work in any order, when the test says so."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.given: list = []
        self.outcomes: list = []

    def submit(self, work, done, failed):
        self.given.append((work, done, failed))

    def step(self) -> None:
        """Do one piece of work, or tell the oldest outcome."""
        if self.outcomes and (not self.given or self.rng.random() < 0.5):
            tell, outcome = self.outcomes.pop(0)
            tell(outcome)
        else:
            self.outcomes.append(do(self.given.pop(self.rng.randrange(len(self.given)))))

    def settle(self) -> None:
        while self.given or self.outcomes:
            self.step()

    def stop(self) -> None:
        while self.given:
            self.outcomes.append(do(self.given.pop(0)))


class LaneTests(SynchronousTestCase):
    """Lanes over threads that a test moves."""

    def setUp(self):
        self.threads = AnyOrderQueue(random.Random(1))
        self.lanes = DiskLanes(self.threads)
        self.seen: list = []  # what was done
        self.told: list = []

    def give(self, group: int, number: int) -> None:
        """Give a lane work that fails when its number is odd."""

        def work() -> tuple:
            self.seen.append((group, number))
            if number % 2:
                raise ValueError(group, number)
            return group, number

        self.lanes.lane(group).submit(work, self.told.append, lambda error: self.told.append(error.args))

    def of(self, group: int, events: list) -> list[int]:
        return [number for of, number in events if of == group]

    def test_order(self):
        """Work of one lane is done and told in the order it came, whatever other lanes do; errors, too."""
        rng, kept = random.Random(2), [self.lanes.lane(group) for group in range(4)]
        for number in range(50):
            for group in range(len(kept)):
                self.give(group, number)
            for _ in range(rng.randrange(8)):
                if self.threads.given or self.threads.outcomes:
                    self.threads.step()
        self.threads.settle()
        for group in range(len(kept)):
            self.assertEqual(self.of(group, self.seen), list(range(50)))
            self.assertEqual(self.of(group, self.told), list(range(50)))
        self.assertNotEqual(self.seen, sorted(self.seen, key=lambda event: event[1]))

    def test_side_by_side(self):
        """The threads have one piece of work of each lane at a time, and the next when that is over."""
        for group in (NODE_LANE, 1, 2):
            self.give(group, 0)
            self.give(group, 1)
        self.assertEqual(len(self.threads.given), 3)
        self.threads.settle()
        self.assertEqual(len(self.told), 6)

    def test_next_before_answer(self):
        """The next piece is with the threads before the outcome of the last one is told."""
        waiting = []
        lane = self.lanes.lane(1)
        lane.submit(lambda: 1, lambda outcome: waiting.append(len(self.threads.given)), None)
        lane.submit(lambda: 2, self.told.append, None)
        self.threads.settle()
        self.assertEqual(waiting, [1])

    def test_work_of_an_answer(self):
        """What is given while an outcome is told comes behind what waited before."""
        lane = self.lanes.lane(1)
        lane.submit(lambda: 0, lambda outcome: self.give(1, 4), None)
        self.give(1, 2)
        self.threads.settle()
        self.assertEqual(self.of(1, self.seen), [2, 4])

    def test_one_lane_a_group(self):
        """A group has one lane while somebody holds it or it has work, and costs nothing afterwards."""
        lane = self.lanes.lane(1)
        self.assertIs(self.lanes.lane(1), lane)
        self.assertIsNot(self.lanes.lane(2), lane)
        self.give(1, 0)
        del lane
        gc.collect()
        self.give(1, 2)
        self.assertEqual(len(self.threads.given), 1)
        self.threads.settle()
        gc.collect()
        self.assertEqual(len(self.lanes._lanes), 0)

    def test_stop(self):
        """A stop does all that was given, in order, and its outcomes are told in order when there is time."""
        for number in range(4):
            self.give(1, number)
        self.give(2, 0)
        self.lanes.stop()
        self.assertEqual(self.of(1, self.seen), [0, 1, 2, 3])
        self.assertEqual((self.of(2, self.seen), self.told), ([0], []))
        self.threads.settle()
        self.assertEqual((self.of(1, self.told), self.of(2, self.told)), ([0, 1, 2, 3], [0]))

    def test_stop_between(self):
        """A stop between a piece's end and its answer finishes what waits behind it, as any other."""
        for number in range(3):
            self.give(1, number)
        self.threads.outcomes.append(do(self.threads.given.pop()))
        self.lanes.stop()
        self.assertEqual(self.of(1, self.seen), [0, 1, 2])
        self.threads.settle()
        self.assertEqual(self.of(1, self.told), [0, 1, 2])


class ThreadTests(SynchronousTestCase):
    """Lanes over real threads."""

    def test_as_many_as_there_are_threads(self):
        """As many logs as there may be threads write at the same time; one more waits for the first."""
        calls: list = []
        has_call = threading.Condition()

        def call(work):
            with has_call:
                calls.append(work)
                has_call.notify()

        threads = ThreadQueue("tried", call, DISK_THREADS_MAX)
        lanes = DiskLanes(threads)
        meeting = threading.Barrier(DISK_THREADS_MAX, timeout=20.0)
        told: list = []
        for group in range(DISK_THREADS_MAX):
            lanes.lane(group).submit(meeting.wait, told.append, told.append)
        lanes.lane(DISK_THREADS_MAX).submit(lambda: "late", told.append, told.append)
        for _ in range(DISK_THREADS_MAX + 1):
            with has_call:
                self.assertTrue(has_call.wait_for(lambda: calls, 20.0))
                work = calls.pop(0)
            work()
        lanes.stop()
        self.assertEqual(sorted(told, key=str), sorted([*range(DISK_THREADS_MAX), "late"], key=str))
        self.assertEqual(len(threads._threads), DISK_THREADS_MAX)
