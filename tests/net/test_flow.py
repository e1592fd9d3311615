"""A link whose client is far ahead: it is not read, and goes on when its requests are answered."""

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import READ_COST, REQUESTS_SIZE_MAX
from loghouse.net.link import Link, LinkTimes, LinkWatch
from loghouse.protocol.client_messages import Bounds, BoundsReply
from loghouse.protocol.session import Session
from tests.protocol.test_session import CERTIFIED_ROOT, CLIENT, NODE_A, wire

FITTING = REQUESTS_SIZE_MAX // READ_COST + 1


class FlowTests(SynchronousTestCase):
    """`Link` and a session that is full."""

    def test_goes_on(self):
        """Reading stops at the bound; answers let what came already be taken, and then the rest be read."""
        clock, taken = Clock(), []
        link = Link(LinkWatch(clock), LinkTimes())
        link.event_received = lambda event: taken.append(getattr(event, "stream", None))
        transport = StringTransport()
        link.makeConnection(transport)
        session = Session(NODE_A, is_dialler=False, certified=CERTIFIED_ROOT)
        link.start(session)
        streams = range(1, 2 * FITTING + 1)
        link.dataReceived(wire(CLIENT) + b"".join(wire(Bounds(), stream=stream) for stream in streams))
        self.assertEqual(taken, [None, *streams[:FITTING]])
        self.assertEqual(transport.producerState, "paused")
        for stream in streams:
            self.assertIn(stream, taken)
            session.answer(stream, BoundsReply(lowest=0, next_offset=1))
            link.flush()
            clock.advance(0)
        self.assertEqual(taken, [None, *streams])
        self.assertEqual(transport.producerState, "producing")
        link.connectionLost()
