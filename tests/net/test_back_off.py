"""How long a node waits before it dials another one again: longer and longer, not too long, and then anew."""

import random
from unittest.mock import Mock

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.net.peer import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN, DialContext, PeerLink, PeerState
from loghouse.protocol.link_messages import Capability
from tests.recording import RecordingMetrics

UP = Mock(hello=Mock(capabilities=Capability(0)))  # what a link that is up says of the other node


class BackOffTests(SynchronousTestCase):
    """A peer that is dialled in vain."""

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.metrics = RecordingMetrics()
        context = DialContext(
            reactor=self.reactor,
            watch=Mock(),
            hello=Mock(),
            tls=None,
            rng=random.Random(5),
            soon=Mock(),
            metrics=self.metrics,
        )
        self.link = PeerLink(context, "h", 1, "n2")

    def lose(self) -> float:
        """Let the dial fail; return the seconds until the next one, and let them pass."""
        dials = len(self.reactor.tcpClients)
        self.link.lost("refused")
        self.assertIs(self.link.state, PeerState.WAITING)
        [timer] = self.reactor.getDelayedCalls()
        seconds = timer.getTime() - self.reactor.seconds()
        self.reactor.advance(seconds * 0.99)
        self.assertEqual(len(self.reactor.tcpClients), dials)
        self.reactor.advance(seconds * 0.02)
        self.assertEqual(len(self.reactor.tcpClients), dials + 1)
        self.assertIs(self.link.state, PeerState.DIALLING)
        return seconds

    def check(self, pauses):
        """Each is by chance in the upper half of a bound that doubles up to the largest."""
        for number, pause in enumerate(pauses):
            bound = min(BACKOFF_SECONDS_MIN * 2**number, BACKOFF_SECONDS_MAX)
            self.assertTrue(bound / 2 <= pause <= bound, (number, pause))
        self.assertEqual(len({round(pause, 6) for pause in pauses}), len(pauses))

    def test_bounds(self):
        """It doubles from the least to the most, and not all nodes come back at the same moment."""
        self.link.dial()
        self.link.dial()  # one at a time
        self.assertEqual(len(self.reactor.tcpClients), 1)
        pauses = [self.lose() for _ in range(30)]
        self.check(pauses)
        self.assertGreater(max(pauses), 0.9 * BACKOFF_SECONDS_MAX)
        self.assertLess(min(pauses[10:]), 0.6 * BACKOFF_SECONDS_MAX)

    def test_success(self):
        """A link that was up is dialled again at once, nearly."""
        self.link.dial()
        for _ in range(3):
            self.check([self.lose() for _ in range(4)])
            self.link.link_up(Mock(is_idle_closed=False), UP)
            self.assertIs(self.link.state, PeerState.UP)

    def test_idle(self):
        """One that was closed because nobody had anything to say is dialled when somebody has."""
        self.link.dial()
        self.lose()
        self.link.link_up(Mock(is_idle_closed=True), UP)
        self.link.lost("idle")
        self.assertIs(self.link.state, PeerState.IDLE)
        self.assertEqual((self.reactor.getDelayedCalls(), self.metrics.count("peer_link_failed")), ([], 1))
        self.link.dial()
        self.assertIs(self.link.state, PeerState.DIALLING)

    def test_stop(self):
        """After a stop it is not dialled any more, whatever waited."""
        self.link.dial()
        self.link.lost("refused")
        self.link.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.link.lost("again")
        self.link.dial()
        self.assertEqual((self.reactor.getDelayedCalls(), len(self.reactor.tcpClients)), ([], 1))
