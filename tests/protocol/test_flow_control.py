"""A session takes requests while there is room for them, and what is behind them when there is room again."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import ProtocolError
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Cancel,
    Follow,
    Produce,
    ProduceReply,
)
from loghouse.protocol.codec import encode
from loghouse.protocol.link_messages import Ping, Pong
from loghouse.protocol.session import LinkState
from tests.protocol.test_session import CERTIFIED_ROOT, CLIENT, connect, wire


class FlowTests(SynchronousTestCase):
    """What one connection may have open is bytes, and who sends more is held back."""

    def test_a_dialler_ahead_is_held_back(self):
        """An acceptor takes requests until they hold too much, and the rest, in order, as it answers."""
        append = Produce(batch=bytes(limits.MIB), record_count=1)
        small = limits.REQUESTS_SIZE_MAX // limits.READ_COST + 1
        for request, reply, fitting in (
            (Bounds(), BoundsReply(lowest=0, next_offset=1), small),
            (append, ProduceReply(base_offset=0, record_count=1, timestamp=1), 16),
        ):
            _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
            count = 3 * fitting
            sent = b"".join(wire(request, stream=stream) for stream in range(1, count + 1)) + wire(
                Ping(token=5)
            )
            half = len(sent) // 2 + 7
            taken = [event.stream for event in acceptor.receive(sent[:half])]
            self.assertEqual(taken, list(range(1, fitting + 1)))
            self.assertEqual(acceptor.receive(sent[half:]), [])
            self.assertTrue(acceptor.is_held)
            self.assertEqual(acceptor.go_on(), [])
            for stream in range(1, count + 1):
                self.assertIn(stream, acceptor.served.open)
                acceptor.answer(stream, reply)
                taken += [event.stream for event in acceptor.go_on()]
            self.assertEqual(taken, list(range(1, count + 1)))
            self.assertFalse(acceptor.is_held)
            self.assertTrue(acceptor.is_idle)
            self.assertIn(b"".join(encode(Pong(token=5))), b"".join(acceptor.bytes_to_send()))

    def test_thousands_of_small_appends(self):
        """Small appends hold little: thousands of one connection may be under way."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        append = Produce(batch=b"x" * 50, record_count=1)
        sent = b"".join(wire(append, stream=stream) for stream in range(1, 10_001))
        self.assertEqual(len(acceptor.receive(sent)), 10_000)
        self.assertFalse(acceptor.is_held)

    def test_held_at_the_end(self):
        """What waits is answered before a connection closes in order; a mistake in it closes it at once."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        count = limits.REQUESTS_SIZE_MAX // limits.READ_COST + 1
        acceptor.receive(b"".join(wire(Bounds(), stream=stream) for stream in range(1, count + 3)))
        acceptor.say_goodbye()
        for stream in range(1, count + 1):
            acceptor.answer(stream, BoundsReply(lowest=0, next_offset=1))
        self.assertEqual(acceptor.state, LinkState.CLOSING)
        self.assertEqual(acceptor.go_on(), [])  # refused: it began behind the goodbye
        self.assertEqual(acceptor.state, LinkState.CLOSED)
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        acceptor.receive(b"".join(wire(Bounds(), stream=stream) for stream in [*range(1, count + 1), 1]))
        acceptor.answer(1, BoundsReply(lowest=0, next_offset=1))
        with self.assertRaises(ProtocolError):
            acceptor.go_on()
        self.assertTrue(acceptor.is_closed)

    def test_follows_are_counted(self):
        """A Follow ends when its client says so: beyond a number more are refused, and hold nobody back."""
        _, acceptor = connect(CLIENT, CERTIFIED_ROOT)
        count = limits.FOLLOWS_PER_CONNECTION_MAX
        follow = Follow(offset=0, credit=1)
        sent = b"".join(wire(follow, stream=stream) for stream in range(1, count + 2))
        self.assertEqual(len(acceptor.receive(sent)), count)
        self.assertIn(b"cancel one", b"".join(acceptor.bytes_to_send()))
        self.assertFalse(acceptor.is_held)
        acceptor.receive(wire(Cancel(), stream=1))
        self.assertEqual(len(acceptor.receive(wire(follow, stream=count + 2))), 1)
