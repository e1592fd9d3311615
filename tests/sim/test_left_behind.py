"""What a process leaves in memory when it ends: nobody hears of it, in its run or in the next one."""

import gc

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.full.cluster import FullCluster
from loghouse.testing.full.swarm import FullOptions


class Changes:
    """Two changes of a catalogue as a killed node leaves them: one has the lock, the other waits for it.

    Collected as garbage, both are closed. If that is first the one that waits, it is given the lock then.
    """

    def __init__(self, *, waits_first):
        self.lock = DeferredLock()
        self.answer = Deferred()  # which the first waits for, and never gets
        self.turns = [Deferred(), Deferred()]
        for turn in self.turns:
            Deferred.fromCoroutine(self.change(turn)).addErrback(
                lambda failure: Logger().failure("changing", failure)
            )
        for turn in reversed(self.turns) if waits_first else self.turns:
            turn.callback(None)

    async def change(self, turn):
        await turn
        await self.lock.acquire()
        try:
            await self.answer
        finally:
            self.lock.release()


def leave():
    """Return changes of which some fail when they are collected, in whichever order that is done."""
    return [Changes(waits_first=True), Changes(waits_first=False)]


class LeftBehindTests(SynchronousTestCase):
    """A run finds what its own processes do, and not what is collected of dead ones."""

    def setUp(self):
        gc.disable()
        self.addCleanup(gc.enable)
        self.addCleanup(self.flushLoggedErrors)
        self.cluster = FullCluster(FullOptions(seed=1, tick_seconds=0.1, safety_seconds=45.0, faults=()))

    def collect_at(self, seconds, number):
        """Collect garbage while a node is at work."""
        node = self.cluster.nodes[number]
        self.cluster.clock.at(seconds, lambda: node.life.enter(gc.collect))

    def test_leavings(self):
        """Such changes fail when they are collected: it is the trap of the other tests."""
        leave()
        gc.collect()
        (failure,) = self.flushLoggedErrors(RuntimeError)
        self.assertIn("already awaited coroutine", str(failure.value))

    def test_earlier_run(self):
        """What an earlier run left behind fails before the next one begins."""
        leave()
        self.collect_at(2.0, 1)
        self.assertIsNone(self.cluster.run().violation)

    def test_killed(self):
        """What a killed process left behind does nothing while the others run."""
        node = self.cluster.nodes[2]

        def kill():
            node.node.left = leave()
            node.kill()
            node.restart_after(0.5)

        self.cluster.clock.at(2.0, kill)
        self.collect_at(40.0, 1)
        self.assertIsNone(self.cluster.run().violation)
