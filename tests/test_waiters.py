"""Who waits at the tail: woken in order, forgotten without a trace, however many wait for something else."""

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ResourceExhaustedError, UnavailableError
from loghouse.limits import WAITERS_MAX
from loghouse.node.waiters import SPARE_MAX, Waiters
from loghouse.shares import Budget


class WaitersTests(SynchronousTestCase):
    """Those who wait at the tail."""

    def setUp(self):
        self.waiters = Waiters()

    def test_wakes_who_is_due(self):
        """An offset that became readable wakes all who waited for it, or for one below."""
        waiting = {offset: self.waiters.wait_for(offset) for offset in (7, 3, 5, 9)}
        again = self.waiters.wait_for(3)
        self.waiters.wake(6)
        self.assertEqual([offset for offset, done in waiting.items() if done.called], [3, 5])
        self.assertTrue(again.called)
        self.assertEqual(self.waiters.count, 2)
        self.waiters.wake(6)
        self.waiters.wake(100)
        self.assertEqual(self.waiters.count, 0)

    def test_waits_for_its_own_again(self):
        """Who is woken may wait for the next offset at once."""
        seen = []

        def follow(offset):
            seen.append(offset)
            if offset < 5:
                self.waiters.wait_for(offset + 1).addCallback(lambda _: follow(offset + 1))

        follow(0)
        for next_offset in range(2, 8):
            self.waiters.wake(next_offset)
        self.assertEqual(seen, [0, 1, 2, 3, 4, 5])

    def test_forgotten(self):
        """Who gave up is not woken; many who come and go leave little."""
        for offset in range(10_000):
            self.waiters.wait_for(offset).addErrback(lambda failure: None).cancel()
        self.assertEqual(self.waiters.count, 0)
        self.assertLessEqual(len(self.waiters._offsets), SPARE_MAX + 1)
        kept = self.waiters.wait_for(3)
        self.waiters.wake(4)
        self.assertTrue(kept.called)

    def test_left_behind(self):
        """What those who gave up leave is at most as much as two for each who waits, and some to spare."""
        kept = [self.waiters.wait_for(offset) for offset in range(10)]
        lengths = []
        for offset in range(100, 400):
            self.waiters.wait_for(offset).addErrback(lambda failure: None).cancel()
            lengths.append(len(self.waiters._offsets))
        self.assertEqual(max(lengths), 2 * 11 + 64 + 1)
        self.assertEqual(min(lengths[100:]), 11)
        self.waiters.wake(10)
        self.assertTrue(all(done.called for done in kept))

    def test_waking_costs_nothing_for_others(self):
        """However many wait for other offsets, a commit looks at none of them."""
        waiting = [self.waiters.wait_for(1_000_000 + number) for number in range(1000)]
        looked = []
        self.waiters._waiters = Looked(looked, self.waiters._waiters)
        self.waiters.wake(500)
        self.assertEqual(looked, [])
        self.assertFalse(any(done.called for done in waiting))

    def test_bound_and_stop(self):
        """So many may wait; when the node stops all are told, and whoever comes later."""
        waiting = [self.waiters.wait_for(1) for _ in range(WAITERS_MAX)]
        self.failureResultOf(self.waiters.wait_for(2), ResourceExhaustedError)
        told = []
        for done in waiting:
            done.addErrback(lambda failure: told.append(failure.type))
        self.waiters.close(UnavailableError("stopping"))
        self.assertEqual(set(told), {UnavailableError})
        self.assertEqual(len(told), WAITERS_MAX)
        self.failureResultOf(self.waiters.wait_for(1), UnavailableError)

    def test_bound_of_all_logs(self):
        """Logs of a node count together; who is woken, cancels or is told to go makes room on any of them."""
        waiting = Budget(3)
        first, second = Waiters(waiting), Waiters(waiting)
        held = [first.wait_for(1), first.wait_for(1), second.wait_for(5)]
        for one in (first, second):
            self.failureResultOf(one.wait_for(1), ResourceExhaustedError)
        held[0].cancel()
        self.failureResultOf(held[0], CancelledError)
        held.append(second.wait_for(7))
        self.failureResultOf(second.wait_for(1), ResourceExhaustedError)
        second.wake(6)
        self.assertEqual((waiting.held, first.count, second.count), (2, 1, 1))
        first.close(UnavailableError("stopping"))
        self.failureResultOf(held[1], UnavailableError)
        second.wake(8)
        self.assertEqual((waiting.held, waiting.share), (0, 3))


class Looked(dict):
    """Notes what is looked at."""

    def __init__(self, looked, items):
        super().__init__(items)
        self.looked = looked

    def __iter__(self):
        self.looked.append("all")
        return super().__iter__()

    def pop(self, *arguments):
        self.looked.append(arguments)
        return super().pop(*arguments)
