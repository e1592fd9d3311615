"""What one log writes keeps its order, and does not wait for what other logs write."""

import gc
import random
import threading

from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import DISK_THREADS_MAX
from loghouse.runtime.lanes import NODE_LANE, ROUNDS_MAX, DiskLanes, SyncedWork
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


class Write(SyncedWork):
    """Work with a sync, which notes what is done; it fails in the step that is named."""

    def __init__(self, seen, name, *, may_share=True, fails=""):
        self.seen, self.name, self.may_share, self.fails = seen, name, may_share, fails

    def step(self, what):
        self.seen.append((self.name, what))
        if what == self.fails:
            raise ValueError(self.name, what)

    def __call__(self):
        self.step("all")
        return self.name

    def begin(self):
        self.step("begin")
        return lambda: self.step("sync")

    def finish(self):
        self.step("finish")
        return self.name


class RoundTests(SynchronousTestCase):
    """Little writes of several lanes wait for the disk together."""

    def setUp(self):
        self.threads = AnyOrderQueue(random.Random(1))
        self.lanes = DiskLanes(self.threads)
        self.kept = [self.lanes.lane(group) for group in range(9)]
        self.seen, self.told = [], []

    def give(self, group, name="", **options):
        write = Write(self.seen, name or group, **options)
        self.kept[group].submit(write, self.told.append, lambda error: self.told.append(error.args))

    def test_round(self):
        """What comes before a thread begins is one round: all begin, all sync, all finish."""
        for group in (1, 2, 3):
            self.give(group)
        self.assertEqual(len(self.threads.given), 1)
        self.threads.settle()
        self.assertEqual(
            self.seen, [(group, step) for step in ("begin", "sync", "finish") for group in (1, 2, 3)]
        )
        self.assertEqual(self.told, [1, 2, 3])

    def test_alone(self):
        """One alone is done as it is."""
        self.give(1)
        self.threads.settle()
        self.assertEqual((self.seen, self.told), ([(1, "all")], [1]))

    def test_not_shared(self):
        """What others may not wait for has a thread of its own, and so has any other work."""
        self.give(1, may_share=False)
        self.give(2, may_share=False)
        self.lanes.lane(NODE_LANE).submit(lambda: "other", self.told.append, None)
        self.give(3)
        self.assertEqual(len(self.threads.given), 4)
        self.threads.settle()
        self.assertEqual(sorted(self.seen), [(1, "all"), (2, "all"), (3, "all")])
        self.assertEqual(sorted(self.told, key=str), [1, 2, 3, "other"])

    def test_errors(self):
        """What fails in any step fails alone, and does none of its later steps."""
        for group, fails in enumerate(("begin", "", "sync", "finish", "")):
            self.give(group, fails=fails)
        self.threads.settle()
        self.assertEqual(sorted(self.told, key=str), [(0, "begin"), (2, "sync"), (3, "finish"), 1, 4])
        self.assertEqual([what for name, what in self.seen if name == 0], ["begin"])
        self.assertEqual([what for name, what in self.seen if name == 2], ["begin", "sync"])

    def test_all_fail(self):
        """A round of which nothing begins is over all the same."""
        for group in (1, 2):
            self.give(group, fails="begin")
        self.threads.settle()
        self.give(3)
        self.threads.settle()
        self.assertEqual(self.told, [(1, "begin"), (2, "begin"), 3])

    def test_rounds_at_a_time(self):
        """So many rounds are with the threads at a time; what comes meanwhile is the next, behind one."""
        outcomes = []
        for group in range(ROUNDS_MAX):
            self.give(group)
            outcomes.append(do(self.threads.given.pop()))  # done, and not told yet
        for group in range(ROUNDS_MAX, ROUNDS_MAX + 3):
            self.give(group)
        self.assertEqual(self.threads.given, [])
        self.seen.clear()
        tell, outcome = outcomes.pop(0)
        tell(outcome)
        self.assertEqual(len(self.threads.given), 1)
        self.threads.outcomes += outcomes
        self.threads.settle()
        self.assertEqual(len(self.seen), 3 * 3)
        self.assertEqual(sorted(self.told), list(range(ROUNDS_MAX + 3)))

    def test_order(self):
        """Work of one lane is done and told in the order it came, shared or not, whatever fails."""
        rng = random.Random(3)
        for number in range(60):
            for group in range(4):
                fails = rng.choice(("", "", "begin", "sync", "finish"))
                self.give(group, (group, number), may_share=rng.random() < 0.8, fails=fails)
            for _ in range(rng.randrange(6)):
                if self.threads.given or self.threads.outcomes:
                    self.threads.step()
        self.threads.settle()
        for group in range(4):
            began = [name[1] for name, what in self.seen if name[0] == group and what in ("begin", "all")]
            self.assertEqual(began, list(range(60)))
            told = [one[0] if isinstance(one[0], tuple) else one for one in self.told]
            self.assertEqual([number for of, number in told if of == group], list(range(60)))

    def test_stop(self):
        """A stop does what waits for a round, then what waits behind it; all is told when there is time."""
        for group in range(ROUNDS_MAX):
            self.give(group)
            self.threads.outcomes.append(do(self.threads.given.pop()))
        self.give(5, "first")
        self.give(5, "second")
        self.give(6, "third")
        self.lanes.stop()
        of_five = [name for name, _ in self.seen if name in ("first", "second")]
        self.assertEqual(of_five, ["first"] * 3 + ["second"])
        self.assertEqual(self.told, [])
        self.threads.settle()
        self.assertEqual(sorted(self.told, key=str), [*range(ROUNDS_MAX), "first", "second", "third"])
        self.assertLess(self.told.index("first"), self.told.index("second"))


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
