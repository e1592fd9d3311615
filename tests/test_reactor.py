"""The reactor's loop: timers that come when they are due and not before."""

import asyncio
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from loghouse import _reactor


class TimerTests(SynchronousTestCase):
    """Timers of the loop under the reactor."""

    def setUp(self):
        self.loop = _reactor._new_event_loop()
        self.addCleanup(self.loop.close)
        if isinstance(self.loop, asyncio.SelectorEventLoop):
            raise SkipTest("no uvloop here; asyncio's own timers are exact")

    def test_never_early(self):
        """A timer is due at its time or less than a millisecond behind it, never before."""
        for delay in (0.0001, 0.0004, 0.0005, 0.001, 0.0014, 0.0209):
            for handle in (
                self.loop.call_later(delay, list),
                self.loop.call_at(self.loop.time() + delay, list),
            ):
                late = handle.when() - self.loop.time() - delay
                self.assertTrue(-1e-9 <= late < 0.001 + 1e-9, (delay, late))
                handle.cancel()

    def test_no_time(self):
        """No time at all is the next turn of the loop."""
        ran = []
        self.loop.call_later(0, ran.append, 1)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.assertEqual(ran, [1])
