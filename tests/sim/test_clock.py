"""`SimClock` keeps time as a reactor does, only faster."""

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from loghouse.testing.clock import SimClock


class SimClockTests(SynchronousTestCase):
    """Calls run when due, in the order they were made, and can be cancelled and moved."""

    def test_interfaces(self):
        """The clock and its calls provide what Twisted asks of them."""
        clock = SimClock()
        verifyObject(IReactorTime, clock)
        verifyObject(IDelayedCall, clock.callLater(1, lambda: None))

    def test_order(self):
        """Calls run by time, and calls of the same time in the order they were made."""
        clock, ran = SimClock(), []
        for name, when in [("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)]:
            clock.at(when, ran.append, name)
        clock.run_until(2.0)
        self.assertEqual(ran, ["a", "b", "c", "d"])

    def test_time_is_that_of_the_call(self):
        """Inside a call the time is the call's own; after the run it is the time asked for."""
        clock, seen = SimClock(), []
        clock.after(0.25, lambda: seen.append(clock.seconds()))
        clock.advance(1)
        self.assertEqual((seen, clock.seconds()), ([0.25], 1.0))

    def test_cancel(self):
        """A cancelled call is never made, and cancelling twice is an error."""
        clock, ran = SimClock(), []
        call = clock.callLater(1, ran.append, 1)
        call.cancel()
        clock.advance(2)
        self.assertEqual((ran, clock.getDelayedCalls(), call.active()), ([], [], False))
        self.assertRaises(AlreadyCancelled, call.cancel)

    def test_called(self):
        """A made call cannot be cancelled or moved."""
        clock = SimClock()
        call = clock.callLater(0, lambda: None)
        clock.advance(0)
        self.assertRaises(AlreadyCalled, call.cancel)
        self.assertRaises(AlreadyCalled, call.reset, 1)

    def test_reset_and_delay(self):
        """A moved call is made once, at its last time, whether that is earlier or later."""
        clock, ran = SimClock(), []
        later = clock.callLater(1, lambda: ran.append(("later", clock.seconds())))
        sooner = clock.callLater(9, lambda: ran.append(("sooner", clock.seconds())))
        later.delay(2)
        sooner.reset(0.5)
        clock.advance(20)
        self.assertEqual(ran, [("sooner", 0.5), ("later", 3.0)])

    def test_looping_call(self):
        """Twisted's own timers run on it."""
        clock, seen = SimClock(), []
        loop = LoopingCall(lambda: seen.append(clock.seconds()))
        loop.clock = clock
        loop.start(0.5, now=False)
        clock.advance(2)
        loop.stop()
        clock.advance(2)
        self.assertEqual(seen, [0.5, 1.0, 1.5, 2.0])
