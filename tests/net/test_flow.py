"""A link whose client is far ahead, which is not read until it was answered; and one with much to write."""

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import MIB, READ_COST, REQUESTS_SIZE_MAX
from loghouse.net.link import WRITE_AT_ONCE_MAX, Link, LinkTimes, LinkWatch
from loghouse.protocol.client_messages import Bounds, BoundsReply
from loghouse.protocol.session import Session
from tests.protocol.test_session import CERTIFIED_ROOT, CLIENT, NODE_A, wire

FITTING = REQUESTS_SIZE_MAX // READ_COST + 1


class FlowTests(SynchronousTestCase):
    """`Link` and a session that is full."""

    def test_goes_on(self):
        """Reading stops at the bound; answers let what came already be taken, and then the rest be read."""
        clock, taken = Clock(), []
        link = Link(LinkWatch(clock), LinkTimes(), None)
        session = Session(NODE_A, is_dialler=False, certified=CERTIFIED_ROOT)
        link.greet = lambda certified: link.start(session)
        link.event_received = lambda event: taken.append(getattr(event, "stream", None))
        transport = StringTransport()
        link.makeConnection(transport)
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


class Turns(Clock):
    """A clock whose calls of this moment run a turn at a time, as those of a reactor do."""

    def turn(self):
        """Run what is due; what that asks for is for the next turn."""
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        self.calls = [call for call in self.calls if call not in due]
        for call in due:
            call.func(*call.args, **call.kw)


class LongWriteTests(SynchronousTestCase):
    """`Link` with more to write than a turn of the reactor may take."""

    def setUp(self):
        self.clock, self.transport, self.resumed = Turns(), StringTransport(), []
        self.link = Link(LinkWatch(self.clock), LinkTimes(), None)
        session = Session(NODE_A, is_dialler=False, certified=CERTIFIED_ROOT)
        self.link.greet = lambda certified: self.link.start(session)
        self.link.write_resumed = lambda: self.resumed.append(len(self.transport.value()))
        self.link.makeConnection(self.transport)
        self.transport.clear()
        self.addCleanup(self.link.connectionLost)

    def write(self, *pieces):
        self.link._write(pieces, sum(map(len, pieces)))

    def test_in_parts(self):
        """A turn writes no more than its part; what comes meanwhile goes behind."""
        long = bytes(range(256)) * (5 * MIB // 512)
        self.write(b"head", memoryview(long))
        self.write(b"behind")
        sizes = []
        while not self.link.is_writable:
            before = len(self.transport.value())
            self.clock.turn()
            sizes.append(len(self.transport.value()) - before)
        self.assertEqual(self.transport.value(), b"head" + long + b"behind")
        self.assertEqual(
            sizes, [WRITE_AT_ONCE_MAX, WRITE_AT_ONCE_MAX, len(long) + 10 - 2 * WRITE_AT_ONCE_MAX]
        )
        self.assertEqual(self.resumed, [len(long) + 10])

    def test_short_ones_at_once(self):
        """What a turn may write is written where it is asked for."""
        self.write(bytes(WRITE_AT_ONCE_MAX))
        self.assertEqual(len(self.transport.value()), WRITE_AT_ONCE_MAX)
        self.assertTrue(self.link.is_writable)

    def test_peer_that_does_not_read(self):
        """A link is writable when all is written and the peer has taken it, in whichever order."""
        self.write(bytes(2 * MIB))
        self.link.pauseProducing()
        self.clock.turn()
        self.clock.turn()
        self.assertFalse(self.link.is_writable)
        self.link.resumeProducing()
        self.assertTrue(self.link.is_writable)
        self.write(bytes(2 * MIB))
        self.link.pauseProducing()
        self.link.resumeProducing()
        self.assertFalse(self.link.is_writable)
        self.clock.turn()
        self.clock.turn()
        self.assertTrue(self.link.is_writable)

    def test_close(self):
        """A link that is closed meanwhile ends behind the last part."""
        self.write(bytes(2 * MIB))
        self.link.close()
        self.clock.turn()
        self.assertFalse(self.transport.disconnecting)
        self.clock.turn()
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(len(self.transport.value()), 2 * MIB)

    def test_lost(self):
        """A connection that is lost meanwhile is written to no more, and does not count as writable."""
        self.write(bytes(2 * MIB))
        self.clock.turn()
        self.link.connectionLost()
        self.clock.turn()
        self.assertEqual(len(self.transport.value()), WRITE_AT_ONCE_MAX)
        self.assertFalse(self.link.is_writable)
        self.assertEqual(self.resumed, [])
